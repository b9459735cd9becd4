"""The floor of a real motor: the one-step error of an observer that knows all of it, but not its load.

An extended Kalman filter as in `simulators.floor`, with all that a real motor's state holds: current, speed,
angle, the speed behind the shaft, its twist, the winding's temperature, filters, readings that are on their
way, and the load. The flow is that of the simulator; its derivative is taken by differences, through
standstill and breakaway too. At the start it knows that the motor stands, cold, at the angle zero.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulators.dc_motor import DCMotor
from simulators.floor import (
    Failed,
    Floor,
    LoadStatistics,
    full_scales,
    leave_out,
    load_variances,
    reading_variances,
)
from simulators.real_flow import advance_one, longest_step, width
from simulators.real_kalman import follow
from simulators.real_motor import RealMotor
from simulators.sensors import SensorNoise
from twin.errors import ConfigError

Array = NDArray[np.float64]

COARSER: Final = 2.0
"""Its steps over the simulator's: half the time, and an error of a hundredth of the sensors' noise."""


class RealFloor:
    """The best observer of a real motor, fed with the samples (T, 3) that the twin gets: as `Floor`."""

    def __init__(self, motor: RealMotor, dt: float, noise: SensorNoise, load: LoadStatistics) -> None:
        self.dt = dt
        self.motor = motor
        self._r = reading_variances(motor, noise)
        self._encoder = np.array([noise.encoder_counts, noise.clock])
        self._load = load_variances(motor, load, dt)[:2].copy()
        size = width(motor, dt) + 1
        self.expected = np.zeros(size)
        """The state of the next sample, as in `simulators.real_motor`, and the load in N·m."""
        self.covariance = np.zeros((size, size))
        """(S, S) of the error of that."""
        self.covariance[-1, -1] = self._load[0]
        full = full_scales(motor)
        self._elastic = motor.shaft.stiffness > 0
        twist = motor.rated_torque / motor.shaft.stiffness if motor.shaft.stiffness else 1.0
        self._small = 1e-5 * np.array([full[0], full[1], 1.0, full[1], twist, 10.0, motor.rated_torque])
        self.errors(np.empty((0, 3)))  # compiles, or loads what was compiled: not with the first sample

    @property
    def motor(self) -> DCMotor:
        """Whose parameters it knows; set another from the sample on from which that is there."""
        return self._motor

    @motor.setter
    def motor(self, motor: DCMotor) -> None:
        if not isinstance(motor, RealMotor):
            raise ConfigError(f"{motor.name} is an ideal motor: its observer is simulators.floor.Floor")
        self._motor = motor
        self._p, self._step = motor.parameters(), COARSER * longest_step(motor)

    def errors(self, z: Array, failed: Failed = (False, False)) -> Array:
        """Errors (T, 2) of what was expected of samples z (T, 3), as `Floor.errors`."""
        errors, r = np.empty((len(z), 2)), self._r
        if any(failed):
            z, r = leave_out(z, r, self.expected[-3:-1], full_scales(self.motor), failed)
        known = r, self._encoder, self._load, self._small, self.dt, self._step
        follow(self._p, *known, np.ascontiguousarray(z), self.expected, self.covariance, errors)
        return errors

    def lose_sight(self) -> None:
        """As `Floor.lose_sight`: of all that is a current or a speed, filtered and delayed readings too; and
        of the angle."""
        size = len(self.expected) - 1
        behind = [3] if self._elastic else []  # a rigid shaft has no speed of its own
        for first, others, full in zip((0, 1), ([], behind), full_scales(self.motor), strict=True):
            alike = [first, *others, *range(6 + first, size, 2)]
            self.covariance[np.ix_(alike, alike)] += full**2
        self.covariance[2, 2] += 1.0

    def foresee(self, volts: Array, load: Array) -> Array:
        """Readings (T, 2) from the next sample on, under voltages and loads (T,): what it expects of them."""
        x, run = self.expected[:-1].copy(), np.empty((len(volts), 2))
        for k in range(len(volts)):
            run[k] = x[-2:]
            advance_one(self._p, x, volts[k], load[k], self.dt, self._step)
        return run


def best_observer(
    motor: DCMotor, dt: float, noise: SensorNoise, load: LoadStatistics, *, jumps: int = 0
) -> Floor | RealFloor:
    """The floor of any simulated motor.

    Raises:
        ConfigError: hypotheses of jumps for a real motor, whose observer has none.
    """
    if not isinstance(motor, RealMotor):
        return Floor(motor, dt, noise, load, jumps=jumps)
    if jumps:
        raise ConfigError("the observer of a real motor has no hypotheses of jumps; leave them out")
    return RealFloor(motor, dt, noise, load)
