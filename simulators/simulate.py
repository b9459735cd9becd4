"""Runs a plant: from sample to sample, with its inputs held in between.

The integrator is SciPy's `ode` with `dop853`, the explicit Runge-Kutta method of order 8(5,3) of Hairer,
Nørsett and Wanner (I, II.5). It is a one-step method, so beginning anew at every jump of the inputs costs
nothing. The size of its first step is given, which saves evaluations, and one solver object serves a whole
run, which makes a sample several times cheaper than calling `solve_ivp`. Between samples everything is
smooth except where a mode ends; that instant is located (II.6) and the integration goes on from there. A real
motor has twelve states, for which this is too slow: `simulators.real_flow` is its solver.

>>> from simulators.motors import motor
>>> from simulators.signals import signal
>>> samples = simulate(motor(), voltage=signal("step:10"), load=signal("const:0"), duration=1.0, noise=None)
>>> last = list(samples)[-1]
>>> last.seq, last.t, round(last.y["speed"], 2)
(999, 0.999, 216.99)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import ode
from scipy.optimize import brentq

from simulators.dc_motor import DCMotor
from simulators.plant import Plant, Rhs, Vector
from simulators.real_flow import RealSolver
from simulators.real_motor import RealMotor
from simulators.scenario import Scenario
from simulators.sensors import SensorNoise
from simulators.signals import Signal
from twin.errors import ConfigError
from twin.messages import Sample, check_spec

RTOL: Final = 1e-8
"""Relative tolerance of a step. At 1 ms the states then agree with the matrix exponential to 1e-9."""
ATOL: Final = 1e-12
"""Absolute tolerance of a step, in A and rad/s."""
MAX_STEP_TIME_CONSTANTS: Final = 4.0
"""Longest step of the solver, in shortest time constants of the plant. At about 6 the method becomes
unstable, and well before that its error estimate is too small: without this bound the error at 10 ms was
5e-7, with it 1e-12."""
MAX_MODE_SWITCHES: Final = 16
"""Changes of mode followed within one sample. More would differ from each other by rounding only."""


def simulate(
    motor: DCMotor,
    *,
    voltage: Signal,
    load: Signal,
    dt: float = 1e-3,
    duration: float | None = None,
    noise: SensorNoise | None = None,
    seed: int = 1,
    scenario: Scenario | None = None,
) -> Iterator[Sample]:
    """The samples of a motor, as fast as they are asked for; without `duration`, seconds, they never end.

    Sample k has t = k dt. Its y is measured at t, before its u acts; `voltage`, V, and `load`, N·m, are read
    at t and held until the next sample. The load is in no sample: the twin does not measure it. `noise` None
    means ideal sensors, `seed` is that of the sensors. Pacing is the caller's: wait, then take the next.

    Raises:
        ConfigError, SpecError: a dt or duration that is not positive; at once, not with the first sample.
    """
    check_spec(motor.spec(dt))
    if duration is not None and not duration > 0:
        raise ConfigError(f"duration = {duration} s: give a positive time, or none to run on")
    turns = itertools.count() if duration is None else range(max(round(duration / dt), 1))
    read = (noise or SensorNoise.none()).reader(dt, seed)
    return _samples(motor, voltage, load, dt, turns, read, scenario or Scenario())


def _samples(
    motor: DCMotor,
    voltage: Signal,
    load: Signal,
    dt: float,
    turns: Iterator[int] | range,
    read: Callable[[dict[str, float]], dict[str, float]],
    scenario: Scenario,
) -> Iterator[Sample]:
    solver = RealSolver() if isinstance(motor, RealMotor) else Solver()
    suffer = scenario.suffer()
    plant, drifted = motor, dict[str, float]()
    x = motor.initial
    for k in turns:
        t = k * dt
        if (now := scenario.parameters(motor, t)) != drifted:
            plant, drifted = replace(motor, **now), now  # type: ignore[arg-type]
        u = (voltage(t), load(t) + scenario.torque(motor, t))
        y = suffer(t, read(plant.measure(x, u)))
        if y is not None:
            yield Sample(seq=k, t=t, u={"voltage": u[0]}, y=y)
        x = solver.advance(plant, x, u, dt)


class Solver:
    """Takes a plant over a stretch of time in which its inputs are constant. Holds no state of the plant."""

    def __init__(self) -> None:
        self._ode = ode(self._slope).set_integrator("dop853", rtol=RTOL, atol=ATOL, nsteps=100_000)
        # each start hands over this callback as well: a new bound method, were it not replaced
        self._ode._integrator._solout = _go_on
        self._rhs: Rhs = _standstill
        self._plant: Plant | None = None
        self._reached: Vector = ()

    def advance(self, plant: Plant, x: Vector, u: Vector, dt: float) -> Vector:
        """The state `dt` seconds after `x` under the inputs `u`, through all changes of mode in between.

        Raises:
            ConfigError: the equations are too stiff for an explicit method.
        """
        mode, switches = plant.mode(x, u), 0
        while True:
            part = min(dt, plant.half_swing)
            flow = self._flow(plant, x, u, mode)
            end = flow(part)
            at = _mode_end(plant, u, mode, flow, part, end) if switches < MAX_MODE_SWITCHES else None
            if at is not None:
                x, mode = plant.switch(flow(at), u, mode)
                dt, switches = dt - at, switches + 1
            elif part < dt:
                x, dt = end, dt - part
            else:
                return end

    def _slope(self, t: float, x: NDArray[np.float64]) -> Vector:
        """The one right-hand side that SciPy is given: dop853 of SciPy 1.17 never lets go of a function that
        it was handed, so one for each sample would fill the memory (0.7 kB a sample)."""
        return self._rhs(t, x)

    def _flow(self, plant: Plant, x: Vector, u: Vector, mode: int) -> Callable[[float], Vector]:
        """The solution from `x` as a function of the time since, as if the mode never ended."""
        solver = self._ode
        if plant is not self._plant:  # measured: of all first steps, this needs the fewest evaluations
            steps = solver._integrator
            steps.first_step, steps.max_step = plant.quickest, MAX_STEP_TIME_CONSTANTS * plant.quickest
            self._plant, self._reached = plant, ()  # to begin anew is what makes these bounds count
        self._rhs = plant.rhs(u, mode)

        def flow(t: float) -> Vector:
            if not t:
                return x
            if x is not self._reached or solver.t > 1.0:  # a second, so that its clock rounds nothing off
                solver.set_initial_value(x, 0.0)
            end = solver.integrate(solver.t + t)
            if not solver.successful():
                raise ConfigError(
                    f"the motor's equations are too stiff to simulate: its shortest time constant is "
                    f"{plant.quickest:.3g} s; raise the inductance or the inertia"
                )
            self._reached = tuple(end.tolist())
            return self._reached

        return flow


def _standstill(t: float, x: NDArray[np.float64]) -> Vector:
    return (0.0,) * len(x)


def _go_on(t: float, x: NDArray[np.float64]) -> int:
    return 1


def _mode_end(
    plant: Plant, u: Vector, mode: int, flow: Callable[[float], Vector], dt: float, end: Vector
) -> float | None:
    """When the mode ends within `dt` seconds, or None.

    The margin falls below zero and stays there, or dips below zero and comes back: within half a swing of the
    plant it turns once at most, so a dip is where it falls at the start and rises at the end.
    """
    before, rate = plant.margin(flow(0.0), u, mode)
    after, rate_after = plant.margin(end, u, mode)
    low, high = 0.0, dt
    if after >= 0:
        if rate >= 0 or rate_after <= 0:
            return None
        if plant.margin(flow(dt), u, mode)[1] <= 0:  # the solver's steps are others from the start anew
            return None
        high = brentq(lambda t: plant.margin(flow(t), u, mode)[1], 0.0, dt, xtol=1e-15)
        if plant.margin(flow(high), u, mode)[0] > -ATOL:
            return None
    if before <= 0:  # it has only just begun: look for the end after its beginning
        low = 1e-9 * dt
        if plant.margin(flow(low), u, mode)[0] <= 0:
            return low
    return float(brentq(lambda t: plant.margin(flow(t), u, mode)[0], low, high, xtol=1e-15))
