"""`swap`: how late an answer is while a new checkpoint is taken up, and how late when none is.

In processes: a plant at 1 kHz, `twin predict`, a listener; every second a checkpoint of the same size with
other weights is saved into the twin's run directory. Counted are the answers in the `WINDOW` after each save
begins: in it the loader opens the model and the loop warms it, portion by portion, and changes over. The
control is the same in everything, but saves elsewhere, so that it has as many windows with as much writing.

The worst step of a swap is taken end to end, sample sent to prediction received. The time from receiving a
sample to sending its answer would be kinder (it is in the file, as `step`), but what a swap does after an
answer delays when the next sample is received, and the loader's work delays both. Each swap has its worst
answer; `swap_worst_us` is the median over all swaps, since the very worst of thousands of answers is mostly
what the machine did otherwise. It stands beside, with the very worst of the control.

In one process, without sockets: the longest turn of `Twin.step` and what follows it, when a model is warmed
by the whole window in one call, and when it is in portions, as `Twin.catch_up` does.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group
from rich.table import Table

from benchmarks.chain.stretch import TWIN as TO_MEASURE
from benchmarks.chain.stretch import Condition, Stretch, measure_stretch, record
from benchmarks.processes import new_checkpoint
from benchmarks.result import Result
from benchmarks.rounds import interleave, median_of, median_ratio
from benchmarks.subject import certain, of_twin
from twin.backends.opening import open_predictor
from twin.checkpoint import save
from twin.config import TwinConfig
from twin.messages import Sample
from twin.twin import Twin

TWIN: Final = Condition("twin", adapt=False)
DT: Final = 1 / TWIN.rate  # s
WINDOW: Final = 0.1  # s; the loader looks every 0.05 s, and 100 samples in portions of 16 are 7 turns
PERIOD: Final = 1.0  # s between two saves
ROUNDS: Final = 5
SECONDS: Final = 20.0  # of a turn
SWAPPING, CONTROL = "swaps", "saved elsewhere"
LENGTHS: Final = (TwinConfig().window, 10_000)
"""Of the window in one process: the default, and one that shows what portions are for."""
AROUND: Final = range(-50, 150)
"""ms around the beginning of a save, of the picture."""
TAKEN: Final = 200
"""Models taken up in a turn in one process."""


@dataclass
class Saver:
    """Saves a checkpoint every `PERIOD`, into the twin's run directory or beside it, and keeps when."""

    folder: str
    begun_ns: list[int] = field(default_factory=list)
    due: float = field(default_factory=lambda: time.monotonic() + PERIOD / 2)

    def __post_init__(self) -> None:
        self._models = [new_checkpoint(DT, number) for number in (2, 3)]

    def __call__(self, place: Path) -> None:
        """Save, when it is time to."""
        if time.monotonic() < self.due:
            return
        self.due = time.monotonic() + PERIOD
        model = self._models[len(self.begun_ns) % 2]
        self.begun_ns.append(time.monotonic_ns())
        save(place / self.folder, replace(model, number=len(self.begun_ns) + 1))


def in_processes(folder: str, seconds: float, recorded: Path) -> dict[str, Any]:
    """One stretch with saves into a folder: figures of the windows after them."""
    saver = Saver(folder)
    stretch = measure_stretch(TWIN, seconds, recorded, saver)
    sent, us = stretch.column("sample_sent_ns"), stretch.latency_ns / 1e3
    step_us = (stretch.column("sent_ns") - stretch.column("received_ns")) / 1e3
    last = sent[-1] - WINDOW * 1e9
    windows = [(sent >= begun) & (sent < begun + WINDOW * 1e9) for begun in saver.begun_ns if begun < last]
    inside = np.any(windows, axis=0)
    changed = np.flatnonzero(np.diff(stretch.column("model"))) + 1
    return {
        "worst_us": [float(us[window].max()) for window in windows],
        "worst_step_us": [float(step_us[window].max()) for window in windows],
        "others_worst_us": float(us[~inside].max()),
        "p99_us": float(np.quantile(us[inside], 0.99)),
        "others_p99_us": float(np.quantile(us[~inside], 0.99)),
        "swaps": int(inside[changed].sum()),
        "swaps_after_the_window": int((~inside[changed]).sum()),
        "lost": stretch.figures["lost"],
        "late": stretch.figures["late"],
        "course": course(stretch, saver.begun_ns),
    }


def course(stretch: Stretch, begun_ns: list[int]) -> dict[str, list[float]]:
    """What became of the samples sent in each ms around a save: median and worst latency over the saves."""
    sent, us = stretch.column("sample_sent_ns"), stretch.latency_ns / 1e3
    found: dict[str, list[float]] = {"median": [], "worst": []}
    for ms in AROUND:
        near = np.any([np.abs(sent - begun - (ms + 0.5) * 1e6) < 0.5e6 for begun in begun_ns], axis=0)
        found["median"].append(float(np.median(us[near])) if near.any() else 0.0)
        found["worst"].append(float(us[near].max()) if near.any() else 0.0)
    return found


def samples() -> Iterator[Sample]:
    """A stream without end; what the values are makes no difference to the time."""
    spec = new_checkpoint(DT).spec
    rows = np.random.default_rng(0).normal(size=(1_000, len(spec.features))).tolist()
    return (spec.sample(k, row) for k, row in enumerate(itertools.cycle(rows)))


def in_one_process(length: int, at_once: bool, swaps: int) -> dict[str, float]:
    """The longest turn of each swap, back to back: its median and its worst over the swaps, in µs."""
    checkpoint, clock = new_checkpoint(), time.perf_counter_ns
    spare, other = (open_predictor(checkpoint) for _ in range(2))
    twin = Twin(checkpoint.spec, window=length, backend="compiled", adapt=False)
    twin.refresh(checkpoint)
    twin.catch_up()
    stream = samples()
    for sample in itertools.islice(stream, length + 100):
        twin.step(sample)
    certain(of_twin(twin, checkpoint), TO_MEASURE)
    longest: NDArray[np.int64] = np.zeros(swaps, np.int64)
    plain: NDArray[np.int64] = np.zeros(swaps, np.int64)
    for k in range(swaps):
        sample = next(stream)
        begun = clock()
        twin.step(sample)
        plain[k] = clock() - begun
        if at_once:
            sample = next(stream)
            begun = clock()
            twin.step(sample)
            spare.reset()
            spare.warm(twin.window.view())
            longest[k] = clock() - begun
            continue
        swapped = False
        while not swapped:  # as the twin's process does it
            sample = next(stream)
            begun = clock()
            twin.step(sample)
            if twin.bank.spare is None:
                twin.refresh(checkpoint, spare)
            swapped = twin.catch_up()
            longest[k] = max(longest[k], clock() - begun)
        spare, other = other, spare
    figures = {"longest": np.median(longest), "worst": longest.max(), "plain": np.median(plain)}
    return {f"{name}_us": float(ns) / 1e3 for name, ns in figures.items()}


def title(length: int, at_once: bool) -> str:
    """In words."""
    return f"{length:,} samples, {'at once' if at_once else 'in portions'}"


def measure(console: Console, *, quick: bool) -> Result:
    """Processes in interleaved rounds, then one process in rounds of its own."""
    rounds, seconds, swaps = (1, 3.0, 10) if quick else (ROUNDS, SECONDS, TAKEN)
    with tempfile.TemporaryDirectory(prefix="lt") as folder:
        recorded = Path(folder)
        record(recorded, [TWIN.rate])
        turns = {
            SWAPPING: partial(in_processes, "run", seconds, recorded),
            CONTROL: partial(in_processes, "elsewhere", seconds, recorded),
        }
        found = interleave(turns, rounds, console, "swap")
    ways = {
        title(n, once): partial(in_one_process, n, once, swaps) for n in LENGTHS for once in (True, False)
    }
    alone = interleave(ways, rounds, console, "in one process")
    details = {
        "window_s": WINDOW,
        "seconds": seconds,
        "rounds": found,
        "pooled": {name: pooled(each) for name, each in found.items()},
        "in_one_process_rounds": alone,
        "in_one_process": {name: median_of(each) for name, each in alone.items()},
    }
    # of which each stretch and each turn was certain
    return Result(summary(found, alone), dict.fromkeys([*turns, *ways], TO_MEASURE), details)


def pooled(turns: list[dict[str, Any]]) -> dict[str, float]:
    """All windows of all rounds together."""
    worst, step = ([us for turn in turns for us in turn[key]] for key in ("worst_us", "worst_step_us"))
    return {
        "windows": len(worst),
        "typical_worst_us": statistics.median(worst),
        "worst_us": max(worst),
        "typical_worst_step_us": statistics.median(step),
        "worst_step_us": max(step),
        "p99_us": statistics.median(turn["p99_us"] for turn in turns),
        "swaps": sum(turn["swaps"] + turn["swaps_after_the_window"] for turn in turns),
        "lost": sum(turn["lost"] for turn in turns),
    }


def summary(
    found: dict[str, list[dict[str, Any]]], alone: dict[str, list[dict[str, float]]]
) -> dict[str, float]:
    """The figures that matter."""
    swapping, control = (pooled(found[name]) for name in (SWAPPING, CONTROL))
    over = [
        statistics.median(own["worst_us"]) - statistics.median(other["worst_us"])
        for own, other in zip(found[SWAPPING], found[CONTROL], strict=True)
    ]
    at_once, portion = (alone[title(LENGTHS[0], once)] for once in (True, False))
    return {
        "swap_worst_us": swapping["typical_worst_us"],
        "swap_worst_over_worst_without_us": statistics.median(over),
        "swap_worst_ever_us": swapping["worst_us"],
        "without_worst_ever_us": control["worst_us"],
        "swap_worst_step_us": swapping["typical_worst_step_us"],
        "swap_at_once_us": median_of(at_once)["longest_us"],
        "swap_portion_us": median_of(portion)["longest_us"],
        "swap_at_once_ratio": median_ratio(at_once, portion, "longest_us"),
        "swaps": swapping["swaps"],
        "lost": swapping["lost"] + control["lost"],
    }


def table(result: dict[str, Any]) -> Group:
    """Windows after a save, with a swap in them and without; turns in one process."""
    view = Table(title=f"the worst answer in the {1e3 * WINDOW:g} ms after a save, at 1 kHz over ipc, µs")
    view.add_column("saves are", no_wrap=True)
    for heading in ("swaps", "worst: median", "ever", "p99", "step: median", "ever", "lost"):
        view.add_column(heading, justify="right")
    for name, figures in result["pooled"].items():
        keys = ("swaps", "typical_worst_us", "worst_us", "p99_us", "typical_worst_step_us", "worst_step_us")
        view.add_row(name, *(f"{figures[key]:,.0f}" for key in (*keys, "lost")))
    view.caption = "the worst of a window from sample sent to prediction received; step: inside the twin"
    alone = Table(title="the longest turn of a swap in one process, back to back, µs")
    alone.add_column("a model is warmed by", no_wrap=True)
    for heading in ("median", "worst", "a turn without"):
        alone.add_column(heading, justify="right")
    for name, figures in result["in_one_process"].items():
        alone.add_row(name, *(f"{figures[key]:,.1f}" for key in ("longest_us", "worst_us", "plain_us")))
    return Group(view, alone)


def plot(result: dict[str, Any], folder: Path) -> list[Path]:
    """Latencies around a save, each ms the median over the rounds, with swaps and without."""
    from matplotlib.figure import Figure  # no pyplot: it would look for a display

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, colour in ((CONTROL, "#888888"), (SWAPPING, "#c04030")):
        for which, style in (("median", "--"), ("worst", "-")):
            values = np.median([turn["course"][which] for turn in result["rounds"][name]], axis=0)
            axes.plot(AROUND, values, style, color=colour, linewidth=1, label=f"{name}, {which}")
    axes.set(yscale="log", xlabel="sample sent, ms after a save began", ylabel="µs until its prediction came")
    axes.grid(alpha=0.3)
    axes.legend()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "swap.svg"
    figure.savefig(file, metadata={"Date": None})  # the same each time
    return [file]
