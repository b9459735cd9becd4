"""What several models answer as one, beside each of them alone: never worse than the best?

Streams are answered by what `--model auto` takes, while its trainer learns. At each sample it is noted what
each member expected, so that the regret can be told: the error of the mixture over that of the best member,
over any ten seconds of the stream, from its first sample on, changes of the plant and a restart included. A
member counts where it has answered all of them. `first` is the number of samples after which the mixture has
been better than persistence.

The mixture's constants were chosen on the default motor with the seeds 41 and 42, on the UNDC recording of
2026-08-11, alone and followed by that of 2026-08-14 with a gain of 1.5, and on the first QUBE episode. The
streams here are others.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console, RenderableType
from rich.table import Table

from benchmarks.fidelity.cases import BESIDE
from benchmarks.fidelity.change import SPEC, copy, joined, recording
from benchmarks.fidelity.growth import DT, OUTPUTS
from benchmarks.fidelity.kalman import floor_errors, floor_of
from benchmarks.fidelity.live import Live
from benchmarks.fidelity.stream import rms
from benchmarks.result import Result
from benchmarks.subject import Subject
from simulators import DCMotor, motor
from simulators.quick_motor import quick
from simulators.recorded import Recording
from twin.config import TrainerConfig, TwinConfig
from twin.families import PERSISTENCE
from twin.messages import Spec

SPAN_SEC: Final = 10.0
"""Over which the regret is taken."""
LOOKS: Final = 20
"""Spans that begin within one."""
COURSE_SEC: Final = 1.0
"""Length of the pieces in which the course of the errors is kept for a picture."""
MODEL: Final = "auto"
REAL: Final = "motor that is more than its model"
LINES: Final = {
    "persistence": ("#b0b0b0", "persistence"),
    "rls": ("#8a6bb1", "rls, a linear model by recursive least squares"),
    "window-rnn": ("#d08a35", "window-rnn, the network of overlapping windows"),
    "gru": ("#3d8f5f", "gru, which carries its state"),
    "physics": ("#4878a8", "physics, a DC motor's equations"),
    "hybrid": ("#5bb0c9", "hybrid, these corrected by a network"),
    "bank": ("#c44e52", "the bank, their mixture: what the twin answers"),
}
"""Colour and name of each line of the picture, by member."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Stream:
    """Samples z (T, F) of a plant, which begins anew before those in `restarts`."""

    name: str
    spec: Spec
    z: Array
    restarts: tuple[int, ...] = ()
    plant: DCMotor | None = None
    """The motor whose floor its errors stand beside."""


def streams(quick_look: bool, data: Path | None) -> list[Stream]:
    """Of the simulated motor: as it is, with changes, and with a restart; and recordings, where they are."""
    plant, more, second = motor(), motor("qube-servo-3-real"), round(1 / DT)
    spec = plant.spec(DT)
    if quick_look:
        return [Stream("motor", spec, quick(plant, 6 * second, seed=951).z, plant=plant)]
    heavier = replace(plant, inertia=1.5 * plant.inertia)
    hotter = replace(heavier, resistance=1.4 * plant.resistance)
    stiffer = replace(plant, coulomb_friction=2 * plant.coulomb_friction)
    changes = [(30 * second, heavier), (45 * second, hotter)]
    again = np.concatenate([quick(plant, 20 * second, seed=seed).z for seed in (953, 954)])
    found = [
        Stream("motor", spec, quick(plant, 60 * second, seed=951).z, plant=plant),
        Stream(REAL, more.spec(DT), quick(more, 60 * second, seed=957).z, plant=more),
        Stream("motor, J × 1.5, R × 1.4", spec, quick(plant, 60 * second, seed=952, changes=changes).z),
        Stream("motor, tau_c × 2", spec, quick(plant, 40 * second, seed=955, changes=[(20_000, stiffer)]).z),
        Stream("motor that begins anew", spec, again, (20 * second,)),
    ]
    directory = data or BESIDE
    if directory.is_dir():
        found += recorded(directory)
    return found


def recorded(data: Path) -> list[Stream]:
    """Of recordings: two days of one unit, one day and then another as of another unit, and QUBE."""
    days = {day: recording(data, day) for day in ("14", "17", "19")}
    swapped, _ = joined(days["17"], copy(days["19"], 0.7, 0.0, 1.0), days["19"])
    slower, _ = joined(days["14"], copy(days["17"], 0.8, 30.0, 1.3), days["17"])
    episode = Recording(data / "qube/qube_ep01.csv", ["u_V", "alpha_rad"], ["theta_rad"], 0.002)
    return [
        Stream("UNDC, 2026-08-14", SPEC, days["14"]),
        Stream("UNDC, 17, then 19 with gain × 0.7", SPEC, swapped),
        Stream("UNDC, 14, then 17 slower", SPEC, slower),
        Stream("QUBE, episode 1", episode.spec, episode.data),
    ]


def measure(console: Console, *, quick: bool, data: Path | None) -> Result:
    """Each stream once."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    found = {}
    subjects = {}
    for stream in streams(quick, data):
        with console.status(f"fidelity: bank, {stream.name}, {len(stream.z):,} samples"):
            found[stream.name], subjects[stream.name] = follow(stream)
        console.print(f"{stream.name}: regret {found[stream.name]['worst']['regret']:.3f}")
    summary = {
        "bank_worst_regret": max(each["worst"]["regret"] for each in found.values()),
        "first_prediction_samples": max(each["first"] for each in found.values()),
    }
    return Result(summary, subjects, {"streams": found})


def follow(stream: Stream) -> tuple[dict[str, Any], Subject]:
    """The figures of a stream, and what answered it."""
    live = Live(stream.spec, TrainerConfig(model=MODEL), TwinConfig())
    pieces = []
    ends = [*stream.restarts, len(stream.z)]
    for start, end in zip([0, *ends], ends, strict=False):
        if start:
            live.restart()
        pieces.append(live.run(stream.z[start:end]))
    errors, y = np.concatenate(pieces), stream.z[:, len(stream.spec.inputs) :]
    names = list(dict.fromkeys(name for expected in live.members for name in expected))
    members = np.full((len(names), *y.shape), np.nan)
    for k, expected in enumerate(live.members):
        for name, values in expected.items():
            members[names.index(name), k] = y[k] - values
    for k in (0, *stream.restarts):  # of a run's first sample nothing was expected
        members[:, k] = np.nan
        errors[k] = np.nan
    worst, spans = regrets(errors, members, names, stream.spec)
    result = {
        "samples": len(errors),
        "worst": worst,
        "regret_mean": float(np.mean(spans)),
        "first": first(errors, members[names.index(PERSISTENCE)]),
        "members": names,
        "refits": dict(Counter(each["family"] for each in live.refits)),
        "accepted": dict(Counter(each["family"] for each in live.refits if each["accepted"])),
    }
    if stream.plant is not None:
        floor = floor_errors(floor_of(stream.plant, DT), stream.z)
        last = slice(3 * len(errors) // 4, None)
        ratio = rms(errors[last]) / rms(floor[last])
        result["course"] = course(errors, members, names, stream)
        result["ratio_to_floor"] = dict(zip(OUTPUTS, ratio.tolist(), strict=True))
    return result, live.subject


def regrets(
    errors: Array, members: Array, names: list[str], spec: Spec
) -> tuple[dict[str, Any], list[list[float]]]:
    """The worst regret over a span of a stream with errors (T, P), where, and on which output; and those of
    all spans."""
    span = min(round(SPAN_SEC / spec.dt), len(errors) - 1)
    own, each = (_sums(np.square(e)) for e in (errors, members))
    gone = _sums(np.isnan(members) & np.isfinite(errors))
    worst: dict[str, Any] = {"regret": 0.0}
    found = []
    for start in range(0, len(errors) - span + 1, max(span // LOOKS, 1)):
        total = own[start + span] - own[start]
        sums = np.where(
            gone[:, start + span] > gone[:, start], np.inf, each[:, start + span] - each[:, start]
        )
        best = sums.min(axis=0)
        ratio = np.sqrt(total / best)
        found.append(ratio.tolist())
        p = int(ratio.argmax())
        if ratio[p] > worst["regret"]:
            by = names[int(sums[:, p].argmin())]
            worst = {
                "regret": float(ratio[p]),
                "at_s": start * spec.dt,
                "output": spec.outputs[p],
                "best": by,
            }
    return worst, found


def _sums(x: NDArray[Any]) -> Array:
    """Along the second axis from the end, from nothing on; NaN counts as 0."""
    return np.concatenate(
        [np.zeros_like(x[..., :1, :], np.float64), np.cumsum(np.nan_to_num(x), axis=-2)], axis=-2
    )


def first(errors: Array, still: Array) -> int:
    """The samples after which the errors so far are below persistence's, by a hundredth, as a geometric mean
    over the outputs; an output that does not move yet counts for both alike."""
    tiny = 1e-9 * np.nanmax(np.abs(still), axis=0)
    own, other = (np.sqrt(np.nancumsum(np.square(e), axis=0)) + tiny for e in (errors, still))
    better = np.log(own / other).mean(axis=1) < np.log(0.99)
    return int(better.argmax()) if better.any() else len(errors)


def course(errors: Array, members: Array, names: list[str], stream: Stream) -> dict[str, Any]:
    """RMS errors in pieces of a second, of the bank and of each member, NaN as null; and of the floor."""
    of = {"bank": errors, **dict(zip(names, members, strict=True))}
    if stream.plant is not None:
        of["floor"] = floor_errors(floor_of(stream.plant, DT), stream.z)
    piece = round(COURSE_SEC / stream.spec.dt)
    found = {}
    for name, e in of.items():
        pieces = [e[a : a + piece] for a in range(0, len(e) - piece + 1, piece)]
        values = [
            np.sqrt(np.mean(np.square(each[1:] if a == 0 else each), axis=0)) for a, each in enumerate(pieces)
        ]
        found[name] = [[float(x) if np.isfinite(x) else None for x in value] for value in values]
    return found


def table(result: dict[str, Any]) -> RenderableType:
    """A row for each stream."""
    view = Table(title="a bank of models: error over that of the best member, over any 10 s")
    for heading in ("stream", "worst", "at, s", "output", "best member", "mean", "first, samples"):
        view.add_column(
            heading, justify="left" if heading in ("stream", "output", "best member") else "right"
        )
    for name, found in result["streams"].items():
        worst = found["worst"]
        view.add_row(
            name,
            f"{worst['regret']:.3f}",
            f"{worst['at_s']:.1f}",
            worst["output"],
            worst["best"],
            f"{found['regret_mean']:.3f}",
            str(found["first"]),
        )
    return view


def plot(result: dict[str, Any], folder: Path) -> list[Path]:
    """The errors one step ahead over the floor's, second by second, while each member learns from scratch."""
    from matplotlib.figure import Figure  # no pyplot: it would look for a display

    if REAL not in result["streams"]:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    course = {
        name: np.array(values, np.float64) for name, values in result["streams"][REAL]["course"].items()
    }
    figure = Figure(figsize=(10, 7), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    for p, (axes, output) in enumerate(zip(panels, OUTPUTS, strict=True)):
        for name, (colour, label) in LINES.items():
            if name in course:
                ratio = course[name][:, p] / course["floor"][:, p]
                width = 2.5 if name == "bank" else 1.3
                axes.plot(np.arange(1, len(ratio) + 1), ratio, color=colour, linewidth=width, label=label)
        axes.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylabel(f"{output}: error / floor")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("s of stream, from scratch")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle("Errors one step ahead over those of an observer that knows the motor exactly")
    file = folder / "learning.png"
    figure.savefig(file, dpi=110)
    return [file]
