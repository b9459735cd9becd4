"""What a benchmark finds, and how that is written: one form for all, `NAME-MACHINE.json`.

A figure is worth no more than the certainty of what it is a figure of. So each result names its subjects, as
they were found when they were measured (`benchmarks.subject`), beside the machine, the versions and the
command.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console, RenderableType

from benchmarks.subject import Subject


@dataclass(frozen=True)
class Result:
    """The figures that matter, whose figures they are, and all else as plain data."""

    summary: dict[str, Any]
    """By name: a number, None for what was never reached, or a dict of such."""
    subjects: Mapping[str, Subject]
    """By the name that a rival, a stream or a process has in `details`."""
    details: dict[str, Any] = field(default_factory=dict)
    """What tables and pictures are made of."""

    def plain(self) -> dict[str, Any]:
        """As it stands in the file."""
        subjects = {name: asdict(subject) for name, subject in self.subjects.items()}
        return {"subjects": subjects} | self.details | {"summary": self.summary}


class Benchmark(Protocol):
    """What a benchmark's module offers; it may also have `plot(details, folder) -> list[Path]`, which
    draws."""

    def measure(self, console: Console, *, quick: bool) -> Result:
        """Measure; a benchmark with a choice of the device takes `device` too, one with recordings `data`."""

    def table(self, details: dict[str, Any]) -> RenderableType:
        """A result's details, for people."""


def write(file: Path, header: Mapping[str, Any], result: Result) -> None:
    """Write a result and what is to be known of its making."""
    file.write_text(json.dumps(dict(header) | result.plain(), indent=2) + "\n")
