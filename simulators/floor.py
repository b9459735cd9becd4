"""The Kalman floor: the one-step error that is left to an observer that knows the motor, but not its load.

An extended Kalman filter (B. D. O. Anderson, J. B. Moore, "Optimal Filtering", 1979, 8.2) with the true
parameters, the sensors' true noise and the load's statistics, state x = (i, ω, τ_L). Its flow from sample to
sample is exact, standstill and breakaway included (`simulators.exact`), so it is extended at those instants
only: for a motor without dry friction it is the Kalman filter itself.

**The load** is a random walk to it, with the variance of all that the load does in a sample. On the default
motor that leaves the speed an error of 1.134 × the sensor's noise, and no other intensity is lower; cubature
points instead of derivatives give the same where the motor turns, and far more where it stands, since
nothing is known of a load that friction holds. There this filter begins anew once the speed sensor shows
motion beyond its noise.

**Jumps.** The default load wanders slowly and jumps every two seconds, and a walk that must serve both is too
quick between the jumps and too slow after one. So it can be had lower: with the slow part's intensity, and
hypotheses beside it that the load jumped n samples ago, for the last n. Given when, a jump of unknown height
is one more linear unknown, so each hypothesis is two sums over the innovations and a signature, the error of
the state per unit of height (A. S. Willsky, H. L. Jones, "A generalized likelihood ratio approach to the
detection and estimation of jumps in linear systems", IEEE Trans. Automat. Contr. 21(1), 1976, 108-112). What
is expected of the next sample is the mean over all hypotheses by their posterior weights; once the oldest
goes and a jump is more likely than none, they are merged into one Gaussian with the same mean and covariance.
Eight of them leave 1.051 × the noise, 32 the same, an interacting multiple model of a calm and a jumping load
1.076. The floor that a twin is measured by is the plain filter: what stands against it is the model, not when
the load happened to jump.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from simulators.dc_motor import DCMotor
from simulators.exact import advance, row
from simulators.kalman import follow
from simulators.scenario import Scenario
from simulators.sensors import SensorNoise
from simulators.signals import Signal
from twin.messages import Sample

Array = NDArray[np.float64]

LOAD_WALK_SEC: Final = 0.05
"""Time over which the load's random walk is measured: over less, it disappears in the sensors' noise."""
LOAD_STATISTICS_SEC: Final = 60.0
"""Length of the load's signal from which its statistics are taken."""
KEPT_SAMPLES: Final = 300_000
"""Newest samples whose errors are kept: five minutes at 1 kHz."""
_IDEAL_NOISE_SHARE: Final = 1e-6  # of a full scale, where sensors are ideal or the load never changes
_FAILED_FULL_SCALES: Final = 100.0  # of noise, which leave a sensor no weight


@dataclass(frozen=True, kw_only=True)
class LoadStatistics:
    """What a filter may know of a load beforehand."""

    rms: float
    """Of the load itself, N·m."""
    walk: float
    """Rms change in one sample of a random walk as quick as the slow part, N·m."""
    jump_rms: float = 0.0
    """Of its jumps, N·m."""
    jumps: float = 0.0
    """Probability of a jump in one sample."""

    @classmethod
    def of(cls, load: Array, dt: float) -> LoadStatistics:
        """From a stretch of the load (T,), `dt` seconds apart. A jump is an increment far beyond the rest."""
        step = np.diff(load)
        usual = np.median(np.abs(step)) / 0.6745
        jumped = np.abs(step) > max(8 * usual, 1e-9 * np.abs(load).max())
        if jumped.mean() > 0.1:  # it jumps all the time: that is noise
            jumped[:] = False
        heights = step[jumped]
        calm = np.concatenate([[0.0], np.cumsum(np.where(jumped, 0.0, step))])
        lag = min(max(round(LOAD_WALK_SEC / dt), 1), len(step))
        wandered = np.mean((calm[lag:] - calm[:-lag]) ** 2) / lag
        return cls(
            rms=float(np.sqrt(np.mean(load**2))),
            walk=float(np.sqrt(wandered)),
            jump_rms=float(np.sqrt(np.mean(heights**2))) if len(heights) else 0.0,
            jumps=float(jumped.mean()),
        )

    @classmethod
    def of_signal(cls, load: Signal, dt: float) -> LoadStatistics:
        """From the first minute of a signal, or a thousand samples of it."""
        count = min(max(round(LOAD_STATISTICS_SEC / dt), 1_000), 100_000)
        return cls.of(np.array([load(k * dt) for k in range(count)]), dt)


def reading_variances(motor: DCMotor, noise: SensorNoise) -> Array:
    """(2,): of current and speed, the encoder's whole edges apart. Never quite zero."""
    quantum = 2 * noise.current_range / 2**noise.current_bits if noise.current_bits else 0.0
    uniform = quantum**2 / 12  # variance of rounding
    read = np.array([noise.current_rms**2 + uniform, noise.speed_rms**2])
    found: Array = np.maximum(read, (_IDEAL_NOISE_SHARE * full_scales(motor)) ** 2)
    return found


def load_variances(motor: DCMotor, load: LoadStatistics, dt: float, jumping: bool = False) -> Array:
    """(4,): of the load, of its step, jumps included unless they are `jumping` by themselves; of a jump; and
    its probability."""
    least = _IDEAL_NOISE_SHARE * motor.rated_torque
    walk = load.walk if jumping else math.hypot(load.walk, math.sqrt(load.jumps) * load.jump_rms)
    return np.array([max(load.rms, least) ** 2, max(walk, least * dt) ** 2, load.jump_rms**2, load.jumps])


Failed = tuple[bool, bool]
"""Whether the sensors of current and speed have failed."""


def leave_out(z: Array, r: Array, expected: Array, full: Array, failed: Failed) -> tuple[Array, Array]:
    """One sample z (1, 3) and variances of readings (2,) such that a filter takes nothing from a sensor that
    has `failed`: it is said to read what is `expected` (2,), in noise far beyond its `full` scale (2,)."""
    read = z.copy()
    read[0, 1:] = np.where(failed, expected, z[0, 1:])
    return read, np.where(failed, np.square(_FAILED_FULL_SCALES * full), r)


def full_scales(motor: DCMotor) -> Array:
    """Of current and speed (2,), A and rad/s."""
    return np.array([motor.stall_current(motor.rated_voltage), motor.rated_voltage / motor.back_emf])


class Observer(Protocol):
    """What observes a motor whose parameters it knows: `Floor`, and that of a real motor."""

    motor: DCMotor

    def errors(self, z: Array, failed: Failed = ...) -> Array:
        """As `Floor.errors`."""

    def lose_sight(self) -> None:
        """As `Floor.lose_sight`."""


class Floor:
    """The best observer of a motor, fed with the samples (T, 3) that the twin gets.

    `jumps` is the number of hypotheses of a jump of the load; 8 samples show any that matters.

    >>> from simulators import SensorNoise, motor
    >>> floor = Floor(motor(), 1e-3, SensorNoise.of(motor()), LoadStatistics(rms=0.0, walk=1e-5))
    >>> floor.errors(np.array([[10.0, 0.0, 0.0], [10.0, 1.33, 2.0]])).round(2).tolist()
    [[0.0, 0.0], [0.01, -0.4]]
    """

    def __init__(
        self,
        motor: DCMotor,
        dt: float,
        noise: SensorNoise,
        load: LoadStatistics,
        *,
        jumps: int = 0,
    ) -> None:
        self.dt = dt
        self._motor, self._p = motor, row(motor)
        self._r = reading_variances(motor, noise)
        self._encoder = np.array([noise.encoder_counts, noise.clock])
        self._load = load_variances(motor, load, dt, jumps > 0)
        self.expected = np.zeros(3)
        """(i, ω, τ_L) of the next sample: A, rad/s, N·m."""
        self._calm = np.zeros(3)  # the same if the load never jumped
        self.covariance = np.diag([*(1e-6 * self._r), self._load[0]])
        """(3, 3) of the error of that, no jump assumed."""
        self._bank = np.zeros((jumps, 5))  # of each hypothesis: f (3), information, projection
        self._bank[:, 3] = -1.0  # no hypothesis yet
        self._head = np.zeros(1, np.int64)
        self.errors(np.empty((0, 3)))  # compiles, or loads what was compiled: not with the first sample

    @property
    def motor(self) -> DCMotor:
        """Whose parameters it knows; set another from the sample on from which that is there."""
        return self._motor

    @motor.setter
    def motor(self, motor: DCMotor) -> None:
        self._motor = motor
        self._p = row(motor)

    def errors(self, z: Array, failed: Failed = (False, False)) -> Array:
        """Errors (T, 2) of what was expected of samples z (T, 3), voltage, current and speed, in turn.

        A sample whose outputs are NaN was not measured: the filter goes on without it. Of one sample z (1, 3)
        a sensor may have `failed`: then nothing is taken from it, and its error is zero.
        """
        errors, r = np.empty((len(z), 2)), self._r
        if any(failed):
            z, r = leave_out(z, r, self.expected[:2], full_scales(self.motor), failed)
        state = self.expected, self._calm, self.covariance, self._bank, self._head
        follow(self._p, r, self._encoder, self._load, self.dt, np.ascontiguousarray(z), *state, errors)
        return errors

    def lose_sight(self) -> None:
        """From now on know nothing of current and speed: nobody told under which voltage the motor was."""
        self.covariance[[0, 1], [0, 1]] += np.square(full_scales(self.motor))

    def foresee(self, volts: Array, load: Array) -> Array:
        """Outputs (T, 2) from the next sample on, under voltages and loads (T,): what it expects of them."""
        (i, w), run = self.expected[:2].tolist(), np.empty((len(volts), 2))
        for k in range(len(volts)):
            run[k] = i, w
            i, w = advance(self._p, i, w, volts[k], load[k], self.dt)
        return run


class StreamFloor:
    """The errors of an observer over the last samples of a stream; it is told what the scenario changes.

    It knows of the drifts of the motor, and of each fault of a sensor while it lasts:

    - **offset**: the reading is corrected by it, so that the observer loses nothing;
    - **stuck**: the reading tells nothing and is left out. The observer goes on by the other sensor, or by
      the voltage alone where both are stuck;
    - **drop-out**: there is no sample, so that the voltage is unknown too. It goes on by the one that was
      last, as a twin does, and then believes the first sample that comes.

    It is not judged while a sensor has failed, nor on the first sample afterwards, which was expected by an
    observer that saw less than usual: such errors are NaN, and do not count. So what a fault does to a twin
    is measured by what the observer does without it.
    """

    def __init__(self, floor: Observer, scenario: Scenario | None = None) -> None:
        self.floor = floor
        self.scenario = scenario or Scenario()
        self._motor, self._drifted = floor.motor, dict[str, float]()
        self._last: Sample | None = None
        self._healthy = False  # whether the last sample was there, and read rightly
        self._z = np.empty((1, 3))
        self._squares = np.full((KEPT_SAMPLES, 2), np.nan)

    def observe(self, sample: Sample) -> None:
        """Take in a sample of the stream; over samples that are missing the last voltage is held."""
        last, motor = self._last, self._motor
        if (now := self.scenario.parameters(motor, sample.t)) != self._drifted:
            self.floor.motor, self._drifted = replace(motor, **now), now  # type: ignore[arg-type]
        if last is not None and sample.seq != last.seq + 1:
            self._healthy = False
            for seq in range(last.seq + 1, sample.seq):
                self._z[0] = last.u["voltage"], math.nan, math.nan
                self._squares[seq % KEPT_SAMPLES] = self.floor.errors(self._z)[0]
            self.floor.lose_sight()
        wrong = self.scenario.wrong(sample.t)
        current, speed = (wrong.get(name, 0.0) for name in ("current", "speed"))
        self._z[0] = sample.u["voltage"], sample.y["current"] - current, sample.y["speed"] - speed
        failed = math.isnan(current), math.isnan(speed)
        error = self.floor.errors(self._z, failed)[0]
        judged = self._healthy and not wrong
        self._squares[sample.seq % KEPT_SAMPLES] = error**2 if judged else math.nan
        self._last, self._healthy = sample, not wrong

    def rms(self, samples: int) -> dict[str, float]:
        """Root mean square of its errors over the last samples of the stream, for each output."""
        newest = self._last.seq if self._last else -1
        rows = np.arange(max(newest + 1 - min(samples, KEPT_SAMPLES), 0), newest + 1) % KEPT_SAMPLES
        squares = self._squares[rows]
        squares = squares[np.isfinite(squares[:, 0])]
        if not len(squares):
            return {}
        return dict(zip(("current", "speed"), np.sqrt(squares.mean(axis=0)).tolist(), strict=True))
