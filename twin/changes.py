"""A motor's parameters: messages about them, and when one of them has changed.

Like the twin, it knows no socket and no clock; its caller passes it the estimates, once a second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from twin.families import MOTOR_UNITS
from twin.messages import Parameters

MIN_CHANGE_ERRORS: Final = 5.0
"""Standard errors by which a parameter must differ from its reference to have changed."""
MIN_CHANGE_SHARE: Final = 0.05
"""Share of the reference by which it must differ."""
MAX_ERROR_SHARE: Final = 0.25
"""Largest standard error, and largest difference from the estimate before, as shares of a change that is
reported: right after a change the estimates still move."""
MIN_CONFIRMATIONS: Final = 3
"""Estimates in succession that must agree before a change is reported."""

Estimates = Mapping[str, tuple[float, float]]


def as_message(estimates: Estimates, t: float, seq: int = 0) -> Parameters:
    """The parameters, each with its standard error, as they are published."""
    return Parameters(
        seq=seq,
        t=t,
        values={name: value for name, (value, _) in estimates.items()},
        errors={name: error for name, (_, error) in estimates.items()},
        units={name: MOTOR_UNITS.get(name, "") for name in estimates},
    )


@dataclass(slots=True)
class Changes:
    """Compares parameters with a reference: the first estimates, and after each reported change the new
    ones."""

    reference: dict[str, tuple[float, float]] = field(default_factory=dict)
    looks: int = 0
    _seen: dict[str, tuple[int, float]] = field(default_factory=dict)  # estimates in succession, the last

    def look(self, estimates: Estimates) -> list[tuple[str, dict[str, float]]]:
        """What has changed, in words and figures; each change once."""
        found = []
        self.looks += 1
        for name, (value, error) in estimates.items():
            if name not in self.reference:
                self.reference[name] = value, error
                continue
            before, before_error = self.reference[name]
            if not (math.isfinite(value) and math.isfinite(error)):
                continue
            change, spread = value - before, math.hypot(error, before_error)
            significant = abs(change) > MIN_CHANGE_ERRORS * spread and abs(change) > MIN_CHANGE_SHARE * abs(
                before
            )
            times, last = self._seen.get(name, (0, value))
            settled = abs(value - last) <= MAX_ERROR_SHARE * abs(change) and error <= MAX_ERROR_SHARE * abs(
                change
            )
            times = times + 1 if significant and settled else 0
            self._seen[name] = times, value
            if times >= MIN_CONFIRMATIONS:
                self.reference[name] = value, error
                self._seen[name] = 0, value
                found.append(_in_words(name, before, change, spread))
        return found


def _in_words(name: str, before: float, change: float, spread: float) -> tuple[str, dict[str, float]]:
    figures = {"before": before, "after": before + change}
    if abs(before) > 1e-12:
        figures |= {"change": change / abs(before), "error": spread / abs(before)}
        return f"{name} {100 * change / abs(before):+.0f} % ± {100 * spread / abs(before):.1g} %", figures
    return f"{name} {change:+.3g} {MOTOR_UNITS.get(name, '')}", figures
