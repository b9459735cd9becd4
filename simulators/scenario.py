"""What changes while a simulation runs: parameters that drift, loads, sensors that fail. Written in TOML.

    title = "what it shows"

    [[drift]]                     # a parameter of the motor goes to another value
    parameter = "resistance"
    factor = 1.4                  # times its value at the start; or: to = 10.5, in SI units
    at = 30.0                     # s
    duration = 10.0               # s; without it, at once

    [[load]]                      # a torque more
    torque = 0.004                # N·m; or: factor = 0.2, times the rated torque
    at = 20.0
    until = 30.0                  # without it, for good

    [[fault]]
    kind = "offset"               # or "stuck", or "drop-out"
    channel = "speed"             # a drop-out takes whole samples
    offset = 5.0                  # in the channel's unit
    at = 15.0
    until = 20.0

A drop-out means that samples are not delivered: their `seq` is missing, and the motor goes on. Faults of
one channel act in the order in which they are written. Drifts of one parameter follow each other and may
not overlap.

>>> Scenario.load("drift").between(29.9995, 30.0005)[0].text
'resistance × 1.4'
"""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from simulators.dc_motor import UNITS, DCMotor
from twin.errors import ConfigError

PARAMETERS: Final = tuple(name for name in UNITS if not name.startswith("rated"))
"""What may drift."""
CHANNELS: Final = {"current": "A", "speed": "rad/s"}
"""What may fail, and its unit."""
KINDS: Final = ("stuck", "offset", "drop-out")
"""How it may fail."""

Suffer = Callable[[float, dict[str, float]], dict[str, float] | None]


class Change(NamedTuple):
    """Something that begins or ends at a time, for an event: `name` for programs, `text` for people."""

    at: float
    """Time, s."""
    name: str
    text: str
    figures: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Drift:
    """A parameter that goes to another value."""

    parameter: str
    factor: float | None = None
    to: float | None = None
    at: float
    duration: float = 0.0

    def __post_init__(self) -> None:
        _known("drift: parameter", self.parameter, PARAMETERS)
        _either("drift", factor=self.factor, to=self.to)
        _times("drift", self.at, math.inf, self.duration)
        target = self.factor if self.to is None else self.to
        if target is None or target < 0 or (target == 0 and not self.parameter.endswith("friction")):
            raise ConfigError(f"drift: {self.parameter} to {target}: give a positive factor or value")

    def changes(self) -> list[Change]:
        """It begins."""
        if self.to is None:
            text, figures = f"{self.parameter} × {self.factor:g}", {"factor": float(self.factor or 0)}
        else:
            text, figures = f"{self.parameter} to {self.to:g} {UNITS[self.parameter]}", {"to": self.to}
        if self.duration:
            text += f" within {self.duration:g} s"
        return [Change(self.at, "drift", text, {**figures, "duration_s": self.duration})]


@dataclass(frozen=True, kw_only=True)
class Load:
    """A torque that is added for a while."""

    torque: float | None = None
    factor: float | None = None
    at: float
    until: float = math.inf

    def __post_init__(self) -> None:
        _either("load", torque=self.torque, factor=self.factor)
        _times("load", self.at, self.until)

    def changes(self) -> list[Change]:
        """It begins, and ends."""
        if self.torque is None:
            text, figures = f"load of {self.factor:g} × rated torque", {"factor": float(self.factor or 0)}
        else:
            text, figures = f"load of {self.torque:g} N·m", {"torque": self.torque}
        return _begin_and_end("load", text, figures, self.at, self.until)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A sensor that reads wrongly for a while, or samples that do not arrive."""

    kind: str
    channel: str = ""
    offset: float = 0.0
    at: float
    until: float = math.inf

    def __post_init__(self) -> None:
        _known("fault: kind", self.kind, KINDS)
        if self.kind == "drop-out":
            if self.channel or self.offset:
                raise ConfigError("fault: a drop-out takes whole samples; leave out channel and offset")
        else:
            _known("fault: channel", self.channel, tuple(CHANNELS))
        if bool(self.offset) != (self.kind == "offset"):
            raise ConfigError(f"fault: offset = {self.offset:g} with kind {self.kind!r}: an offset fault has one")
        _times("fault", self.at, self.until)

    def changes(self) -> list[Change]:
        """It begins, and ends."""
        if self.kind == "drop-out":
            text, figures = "drop-out of samples", {}
        elif self.kind == "stuck":
            text, figures = f"{self.channel} sensor stuck", {}
        else:
            text = f"{self.channel} sensor off by {self.offset:g} {CHANNELS[self.channel]}"
            figures = {"offset": self.offset}
        return _begin_and_end("fault", text, figures, self.at, self.until)


@dataclass(frozen=True)
class Scenario:
    """All that changes in a run. An empty one changes nothing."""

    title: str = ""
    drift: tuple[Drift, ...] = ()
    load_: tuple[Load, ...] = field(default=())
    fault: tuple[Fault, ...] = ()
