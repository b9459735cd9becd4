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
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from simulators.dc_motor import PARAMETER_UNITS, DCMotor
from twin.errors import ConfigError

DRIFTING_PARAMETERS: Final = tuple(name for name in PARAMETER_UNITS if not name.startswith("rated"))
"""Parameters of the motor that may drift."""
CHANNEL_UNITS: Final = {"current": "A", "speed": "rad/s"}
"""Sensors that may fail, with their units."""
MAX_SCENARIO_VALUE: Final = 1e9  # s, N·m or a unit of a channel: whatever is larger is a slip of the keyboard
FAULT_KINDS: Final = ("stuck", "offset", "drop-out")
"""Ways in which a sensor, or the delivery of samples, may fail."""

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
        _known("drift: parameter", self.parameter, DRIFTING_PARAMETERS)
        _either("drift", factor=self.factor, to=self.to)
        _times("drift", self.at, math.inf, self.duration)
        target = self.factor if self.to is None else self.to
        least = 0.0 if self.parameter.endswith("friction") else 5e-324
        if target is None or not least <= target < math.inf:
            raise ConfigError(f"drift: {self.parameter} to {target}: give a positive, finite factor or value")

    def changes(self) -> list[Change]:
        """It begins."""
        if self.to is None:
            text, figures = f"{self.parameter} × {self.factor:g}", {"factor": float(self.factor or 0)}
        else:
            text, figures = (
                f"{self.parameter} to {self.to:g} {PARAMETER_UNITS[self.parameter]}",
                {"to": self.to},
            )
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
        _known("fault: kind", self.kind, FAULT_KINDS)
        if self.kind == "drop-out":
            if self.channel or self.offset:
                raise ConfigError("fault: a drop-out takes whole samples; leave out channel and offset")
        else:
            _known("fault: channel", self.channel, tuple(CHANNEL_UNITS))
        if bool(self.offset) != (self.kind == "offset"):
            raise ConfigError(
                f"fault: offset = {self.offset:g} with kind {self.kind!r}: an offset fault has one"
            )
        _times("fault", self.at, self.until)

    def changes(self) -> list[Change]:
        """It begins, and ends."""
        if self.kind == "drop-out":
            text = "drop-out of samples"
        elif self.kind == "stuck":
            text = f"{self.channel} sensor stuck"
        else:
            text = f"{self.channel} sensor off by {self.offset:g} {CHANNEL_UNITS[self.channel]}"
        figures = {"offset": self.offset} if self.offset else {}
        return _begin_and_end("fault", text, figures, self.at, self.until)


@dataclass(frozen=True)
class Scenario:
    """All that changes in a run. An empty one changes nothing."""

    title: str = ""
    drifts: tuple[Drift, ...] = ()
    loads: tuple[Load, ...] = ()
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "drifts", tuple(sorted(self.drifts, key=lambda drift: drift.at)))
        for first, second in itertools.combinations(self.drifts, 2):
            if first.parameter == second.parameter and second.at < first.at + max(first.duration, 1e-9):
                raise ConfigError(
                    f"drift: {first.parameter} drifts twice at {second.at:g} s; let the second begin at "
                    f"{first.at + first.duration:g} s or later, after the first"
                )

    @classmethod
    def load(cls, path_or_name: str | Path) -> Scenario:
        """A scenario from a TOML file, or one that comes with the package by its name.

        Raises:
            ConfigError: no such file or name, or a table that is not one; the message says what would be.
        """
        built_in = {Path(file.name).stem: file for file in files(__package__).joinpath("scenarios").iterdir()}
        source = built_in.get(str(path_or_name), Path(path_or_name))
        if not source.is_file():
            raise ConfigError(
                f"scenario {str(path_or_name)!r}: no such file, nor one of {', '.join(sorted(built_in))}"
            )
        try:
            return cls.parse(source.read_text(encoding="utf-8"))
        except (ConfigError, OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"scenario {path_or_name}: {error}") from None

    @classmethod
    def parse(cls, text: str) -> Scenario:
        """A scenario from TOML text.

        Raises:
            ConfigError: as `load`.
        """
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"not TOML: {error}") from None
        for key in tables:
            _known("key", key, ("title", "drift", "load", "fault"))
        title = tables.get("title", "")
        if not isinstance(title, str):
            raise ConfigError(f"title = {title!r}: give a text in quotes")
        return cls(
            title,
            drifts=_rows(Drift, tables.get("drift", [])),
            loads=_rows(Load, tables.get("load", [])),
            faults=_rows(Fault, tables.get("fault", [])),
        )

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """What begins and ends, in the order of time."""
        rows: tuple[Drift | Load | Fault, ...] = (*self.drifts, *self.loads, *self.faults)
        return tuple(
            sorted((change for row in rows for change in row.changes()), key=lambda change: change.at)
        )

    def between(self, after: float, until: float) -> tuple[Change, ...]:
        """The changes at times in (after, until], s. Begin with -inf, so that those at 0 are among them."""
        return tuple(change for change in self.changes if after < change.at <= until)

    def parameters(self, motor: DCMotor, t: float) -> dict[str, float]:
        """The parameters of `motor` that have drifted at time t, s, in SI units: as `replace` takes them."""
        values: dict[str, float] = {}
        for drift in self.drifts:
            if t < drift.at:
                break
            start: float = getattr(motor, drift.parameter)
            target = start * (drift.factor or 0.0) if drift.to is None else drift.to
            start = values.get(drift.parameter, start)
            done = t >= drift.at + drift.duration
            values[drift.parameter] = (
                target if done else start + (target - start) * (t - drift.at) / drift.duration
            )
        return values

    def torque(self, motor: DCMotor, t: float) -> float:
        """The load torque that is added at time t, N·m."""
        torque = 0.0
        for load in self.loads:
            if load.at <= t < load.until:
                torque += (load.factor or 0.0) * motor.rated_torque if load.torque is None else load.torque
        return torque

    def wrong(self, t: float) -> dict[str, float]:
        """The sensors that read wrongly at time t, s, each with what is added to the truth, in its unit: NaN
        where that is not known, because it is stuck."""
        found: dict[str, float] = {}
        for fault in self.faults:
            if fault.kind != "drop-out" and fault.at <= t < fault.until:
                added = math.nan if fault.kind == "stuck" else fault.offset
                found[fault.channel] = found.get(fault.channel, 0.0) + added
        return found

    def suffer(self) -> Suffer:
        """A function of the time, s, and the reading that gives the faulty reading; None: not delivered.

        It is called for every sample in turn, since a stuck sensor stays at what it read when it stuck.
        """
        held: dict[int, float] = {}

        def suffer(t: float, y: dict[str, float]) -> dict[str, float] | None:
            delivered = True
            for k, fault in enumerate(self.faults):
                if not fault.at <= t < fault.until:
                    continue
                if fault.kind == "drop-out":
                    delivered = False
                elif fault.kind == "stuck":
                    y[fault.channel] = held.setdefault(k, y[fault.channel])
                else:
                    y[fault.channel] += fault.offset
            return y if delivered else None

        return suffer


_Row = TypeVar("_Row", Drift, Load, Fault)


def _rows(kind: type[_Row], tables: Any) -> tuple[_Row, ...]:
    """The rows of one kind, from a list of TOML tables."""
    name = kind.__name__.lower()
    if not (isinstance(tables, list) and all(isinstance(table, dict) for table in tables)):
        raise ConfigError(f"{name}: write each in a table of its own, under [[{name}]]")
    return tuple(_row(kind, name, table) for table in tables)


def _row(kind: type[_Row], name: str, table: Mapping[str, Any]) -> _Row:
    known = {entry.name: entry for entry in fields(kind)}
    for key, value in table.items():
        _known(f"{name}: key", key, tuple(known))
        if "str" in str(known[key].type):
            if not isinstance(value, str):
                raise ConfigError(f"{name}: {key} = {value!r}: give a text in quotes")
        elif (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not abs(value) <= MAX_SCENARIO_VALUE
        ):
            raise ConfigError(
                f"{name}: {key} = {repr(value)[:20]}: "
                f"give a number, finite and within ±{MAX_SCENARIO_VALUE:g}"
            )
    for entry in known.values():
        if entry.default is MISSING and entry.name not in table:
            raise ConfigError(f"{name}: {entry.name} is missing; it takes {', '.join(known)}")
    values: dict[str, Any] = {k: v if isinstance(v, str) else float(v) for k, v in table.items()}
    return kind(**values)


def _known(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{what} {value!r} is unknown; known are {', '.join(known)}")


def _either(what: str, **values: float | None) -> None:
    if sum(value is not None for value in values.values()) != 1:
        raise ConfigError(f"{what}: give one of {' and '.join(values)}")


def _times(what: str, at: float, until: float, duration: float = 0.0) -> None:
    if not (0 <= at < until and math.isfinite(at) and 0 <= duration < math.inf):
        raise ConfigError(
            f"{what}: at = {at:g}, until = {until:g}, duration = {duration:g}: give 0 ≤ at < until"
        )


def _begin_and_end(name: str, text: str, figures: dict[str, float], at: float, until: float) -> list[Change]:
    begin, end = Change(at, name, text, figures), Change(until, f"{name} over", f"{text}: over", figures)
    return [begin, end] if math.isfinite(until) else [begin]
