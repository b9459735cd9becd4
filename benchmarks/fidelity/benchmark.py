"""`fidelity`: how true a twin is, against its limits and against others, in parts.

- `stream`: ratio to the Kalman floor while it streams, from scratch and after changes of the motor.
- `growth`: every family as training data grow, beside ARX and a subspace model.
- `training`: what training gives networks, offline in a stated CPU time and live within a minute.
- `real`: a motor that is more than the equations of its model.
- `recordings`: real recordings with their own splits and metrics; with `--data DIR`, where they lie.
- `bank`: what several models answer as one, beside the best of them.
- `change`: a stream of one real motor that becomes another, by the fast path alone.
- `units`: the same live, a bank and its trainer, one unit for another.
- `alarms`: coverage of the intervals, delays and false alarms.

And the speed-up of a refit over eager torch, from `refit`.
"""

from __future__ import annotations

import importlib
import statistics
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol, cast

from rich.console import Console, Group, RenderableType

from benchmarks import refit
from benchmarks.result import Result
from benchmarks.rounds import interleave
from benchmarks.subject import Subject
from twin.errors import TwinError

PARTS: Final = ("stream", "growth", "training", "bank", "real", "recordings", "change", "units", "alarms")


class Part(Protocol):
    """What a part's module offers: a `benchmarks.result.Benchmark` with recordings."""

    def measure(self, console: Console, *, quick: bool, data: Path | None) -> Result:
        """Measure, with the recordings' directory where there is one."""

    def table(self, details: dict[str, Any]) -> RenderableType:
        """A result's details, for people."""


def part(name: str) -> Part | None:
    """The module of a part, None where there is none."""
    module = f"benchmarks.fidelity.{name}"
    return cast(Part, importlib.import_module(module)) if find_spec(module) else None


def measure(console: Console, *, quick: bool, data: Path | None = None) -> Result:
    """All parts that are there, one after the other."""
    parts, summary, subjects = dict[str, Any](), dict[str, Any](), dict[str, Subject]()
    for name in PARTS:
        if (module := part(name)) is None:
            console.print(f"fidelity: {name} is not there: left out")
            continue
        try:
            found = module.measure(console, quick=quick, data=data)
        except TwinError as error:  # what the others took minutes for is not lost
            console.print(f"fidelity: {name}: {error}")
            continue
        parts[name] = found.plain()
        summary |= found.summary
        subjects |= {f"{name}: {key}": subject for key, subject in found.subjects.items()}
    summary["refit_speedup_vs_torch"] = speedup(console, quick)
    return Result(summary, subjects, {"parts": parts})


def speedup(console: Console, quick: bool) -> float:
    """How many times faster than eager torch the anchor of `refit` is."""
    rounds, size = (1, refit.QUICK) if quick else (refit.ROUNDS, refit.FULL)
    names = "anchor", "anchor" + refit.EAGER
    turns = {name: partial(refit.in_a_process, (name,), 1, size) for name in names}
    found = interleave(turns, rounds, console, "refit")
    own, eager = ([each[name]["s"] for each in found[name]] for name in names)
    return statistics.median(slow / fast for fast, slow in zip(own, eager, strict=True))


def table(result: dict[str, Any]) -> RenderableType:
    """All tables of all parts."""
    shown = [(part(name), found) for name, found in result["parts"].items()]
    return Group(*(module.table(found) for module, found in shown if module))


def plot(result: dict[str, Any], folder: Path) -> list[Path]:
    """All pictures of all parts."""
    pictures: list[Path] = []
    for name, found in result["parts"].items():
        draw = getattr(part(name), "plot", None)
        pictures += draw(found, folder) if draw else []
    return pictures
