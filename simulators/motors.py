"""All motors by name: the ideal ones of the theory, and real ones."""

from __future__ import annotations

from typing import Final

from simulators.dc_motor import DEFAULT_MOTOR, DCMotor
from simulators.dc_motor import MOTORS as IDEAL
from simulators.real_motor import MOTORS as REAL
from twin.errors import ConfigError

__all__ = ["IDEAL", "MOTORS", "REAL", "motor"]

MOTORS: Final[dict[str, DCMotor]] = {**IDEAL, **REAL}
"""Motors by name."""


def motor(name: str = DEFAULT_MOTOR) -> DCMotor:
    """A motor by its name.

    Raises:
        ConfigError: there is none of that name; the message lists the names.
    """
    if name not in MOTORS:
        raise ConfigError(f"no motor is called {name!r}; known are {', '.join(MOTORS)}")
    return MOTORS[name]
