"""`chain`: sample sent to prediction received by a third process, beside a relay without a twin in it.

Plant and listener are the same in both (`benchmarks.chain.stations`). In between stands either `twin predict`
with a GRU of 32 hidden units, or a plain pyzmq program that unpacks each sample and packs as large an answer.
That relay is the floor: what two wake-ups and four copies of a message cost on this machine at this moment.

At 1 kHz over Unix sockets the twin is measured as it is, with a trainer next door that refits without a
pause, and with `--realtime`. The other rates and TCP follow in shorter turns, and last two long stretches, to
see whether anything is lost. Every sample of a stretch is counted: lost is one whose prediction has not come
when all have had time to, late one whose prediction came after more than a period. Before each stretch,
samples go through slowly until all are connected and the twin follows; those are not counted. A quick look
leaves the other rates out, except for what the long stretches say of them.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.chain.stretch import Condition, Stretch, measure_stretch, record
from benchmarks.result import Result
from benchmarks.rounds import FIGURES, interleave, median_of, median_ratio
from twin.config import TwinConfig

RATES: Final = (100.0, 1_000.0, 5_000.0, 10_000.0)  # Hz
RELAY: Final = Condition("relay")
TWIN: Final = Condition("twin")
BUSY: Final = Condition("twin", refit=True)
REALTIME: Final = Condition("twin", realtime=True)
SEVERAL: Final = Condition("twin", model="auto")
OTHERS: Final = [
    Condition(middle, rate, transport)
    for rate in RATES
    for transport in ("ipc", "tcp")
    for middle in ("relay", "twin")
    if (rate, transport) != (TWIN.rate, TWIN.transport)
]
"""The other rates and the other transport."""
LONG: Final = {Condition("twin", 5_000.0): 60.0, Condition("twin", 10_000.0): 30.0}
"""The long stretches, s."""
ROUNDS: Final = (5, 3)
"""At 1 kHz over Unix sockets; of the others."""
SECONDS: Final = (10.0, 3.0)
"""Of a turn, likewise."""
QUANTILES: Final = np.unique(np.concatenate([np.linspace(0, 0.99, 100), 1 - np.logspace(-2, -4, 41)]))
"""At which distributions are kept for their picture."""

Stretches = dict[str, list[Stretch]]
"""Of each condition, by its name, in every round."""


def measure(console: Console, *, quick: bool) -> Result:
    """All conditions in interleaved rounds, those that are compared with each other in the same."""
    rounds, seconds = ((1, 1), (1.0, 1.0)) if quick else (ROUNDS, SECONDS)
    conditions = [RELAY, TWIN, SEVERAL, BUSY]
    if "realtime" in TwinConfig.model_fields:
        conditions.append(REALTIME)
    else:
        console.print("--realtime is not measured: this twin does not have it")
    others = [c for c in OTHERS if not quick or c.rate == TWIN.rate]
    with tempfile.TemporaryDirectory(prefix="lt") as folder:
        recorded = Path(folder)
        record(recorded, RATES)

        def turns(chosen: dict[Condition, float], rounds: int, title: str) -> Stretches:
            each = {c.name: partial(measure_stretch, c, length, recorded) for c, length in chosen.items()}
            return interleave(each, rounds, console, title)

        found = turns(dict.fromkeys(conditions, seconds[0]), rounds[0], f"chain, {TWIN.place}")
        found |= turns(dict.fromkeys(others, seconds[1]), rounds[1], "other rates, tcp")
        lengths = dict.fromkeys(LONG, seconds[1]) if quick else LONG
        long = turns(lengths, 1, "long stretches")
    figures = {name: [each.figures for each in turns] for name, turns in found.items()}
    subjects = {name: stretches[0].subject for name, stretches in (found | long).items()}
    details = {
        "conditions": {c.name: asdict(c) for c in conditions + others},
        "rounds": figures,
        "median": {name: median_of(each) for name, each in figures.items()},
        "long_s": list(lengths.values()),
        "long": {name: stretch.figures for name, (stretch,) in long.items()},
        "quantiles": QUANTILES.tolist(),
        "distributions": {c.name: distribution(found[c.name]) for c in conditions},
    }
    return Result(summary(found, long), subjects, details)


def distribution(stretches: list[Stretch]) -> list[float]:
    """Latencies of all rounds, µs, at `QUANTILES`."""
    together = np.concatenate([each.latency_ns for each in stretches])
    quantiles: list[float] = (np.quantile(together, QUANTILES) / 1e3).tolist()
    return quantiles


def summary(found: Stretches, long: Stretches) -> dict[str, float]:
    """The figures that matter."""
    of = {name: [each.figures for each in stretches] for name, stretches in found.items()}
    relay, twin, busy = (of[condition.name] for condition in (RELAY, TWIN, BUSY))
    figures = {
        "chain_p50_ratio": median_ratio(twin, relay, "p50"),
        "chain_p99_ratio": median_ratio(twin, relay, "p99"),
        "refit_next_door_p99_ratio": median_ratio(busy, twin, "p99"),
        "bank_p50_ratio": median_ratio(of[SEVERAL.name], twin, "p50"),
    }
    for condition in LONG:
        each = found.get(condition.name, []) + long[condition.name]
        figures[f"lost_{condition.rate / 1e3:g}khz"] = sum(stretch.figures["lost"] for stretch in each)
    if REALTIME.name in of:
        figures["realtime_p99_ratio"] = median_ratio(of[REALTIME.name], twin, "p99")
    for name, turns in (("chain", twin), ("relay", relay)):
        for figure in ("p50", "p99"):
            figures[f"{name}_{figure}_us"] = statistics.median(each[figure] for each in turns)
    return figures


def table(result: dict[str, Any]) -> Table:
    """Medians over the rounds, one section for each rate and transport."""
    title = "sample sent to prediction received by a third process, µs; GRU-32, compiled"
    view = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("at", "in between"):
        view.add_column(heading, no_wrap=True)
    for heading in (*FIGURES, "inside", "lost", "late %"):
        view.add_column(heading, justify="right")
    conditions = [Condition(**told) for told in result["conditions"].values()]
    before = ""
    for condition in sorted(conditions, key=lambda each: (each.rate, each.transport)):
        if condition.place != before:
            view.add_section()
        shown, before = condition.place if condition.place != before else "", condition.place
        view.add_row(shown, condition.who, *cells(result["median"][condition.name]))
    view.add_section()
    for condition, seconds in zip(LONG, result["long_s"], strict=True):
        figures = result["long"][condition.name]
        view.add_row(condition.place, f"{condition.who}, {seconds:g} s", *cells(figures))
    view.caption = "medians over the rounds; inside: p50 from receiving the sample to sending the prediction"
    return view


def cells(figures: dict[str, float]) -> list[str]:
    """A condition's figures, as the table has them."""
    values = [figures[name] for name in (*FIGURES, "inside_p50", "lost")]
    return [*(f"{value:,.0f}" for value in values), f"{100 * figures['late'] / figures['sent']:.1f}"]


def plot(result: dict[str, Any], folder: Path) -> list[Path]:
    """How the latencies are distributed at 1 kHz, and what the rate does to them."""
    from matplotlib.figure import Figure  # no pyplot: it would look for a display

    share, by_rate = (Figure(figsize=(8, 4.5), layout="constrained") for _ in range(2))
    axes = share.subplots()
    for name, values in result["distributions"].items():
        axes.plot(values, 100 * np.array(result["quantiles"]), label=name)
    axes.set(xscale="log", xlabel="sample sent to prediction received, µs", ylabel="received by then, %")
    axes, medians = by_rate.subplots(), result["median"]
    rates = [rate for rate in RATES if Condition("twin", rate).name in medians]
    for middle, colour in (("relay", "#888888"), ("twin", "#4878a8")):
        for figure, style in (("p50", "o-"), ("p99", "s--")):
            values = [medians[Condition(middle, rate).name][figure] for rate in rates]
            axes.plot(rates, values, style, color=colour, label=f"{middle}, {figure}")
    axes.set(xscale="log", yscale="log", xlabel="samples per second, over Unix sockets", ylabel="µs")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for picture, name in ((share, "chain-distribution.svg"), (by_rate, "chain-rates.svg")):
        for drawn in picture.axes:
            drawn.grid(alpha=0.3)
            drawn.legend()
        files.append(folder / name)
        picture.savefig(files[-1], metadata={"Date": None})  # the same each time
    return files
