"""The motor's parameters from recorded samples: by the filter itself, pass after pass.

Run over a recording with parameters that do not wander, the joint filter of `twin.kernels.kalman` is the
recursive Gauss-Newton method for prediction errors (Ljung, System Identification, 2nd ed., section 11.4), and
the covariance at its end is the inverse of the Fisher information. A second pass begins at the result of the
first one, so that the filter is linearised about better parameters. The first parameters come from least
squares on the equations' integrals over some samples, the intensities of the noises from the likelihood of
the innovations (section 7.4).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from twin.kernels.identify import SETTLING_SAMPLES, run, run_adapting
from twin.kernels.kalman import new_filter
from twin.kernels.kalman_reference import STATES, WALK_PER_ROOT_SEC
from twin.kernels.motor_reference import PARAMETERS

PRIOR_STD: Final = (0.3, 0.5, 0.1, 0.3, 0.05, 0.5)
"""Standard deviations of R, L, K, J (of their logarithms), b and τ_c (in their `units`) before a pass. With
wider ones the first pass may diverge."""
MAX_PASSES: Final = 4
"""Passes over a recording."""
MIN_PASS_GAIN: Final = 1e-4
"""Gain in log-likelihood per sample, below which no further pass is made."""
NOISE_SAMPLES: Final = 20_000
"""Newest samples on which the intensities of the noises are found: more would take longer and tell little."""
BLOCK_SAMPLES: Final = 8
"""Samples over which the first estimate averages the rotor's equation, so that the sensors' noise counts
less."""
MIN_NOISE_SHARE: Final = 1e-6
"""Smallest noise, as a share of a signal's largest value: ten times the rounding of float32, in which samples
and states are."""
MIN_NOISE: Final = 1e-12
"""Smallest noise in SI units, for signals that are zero."""
MIN_LOAD_SHARE: Final = 0.02
"""Smallest deviation of the load, as a share of the torque that the motor itself produces."""

Array = npt.NDArray[np.float64]


class Motor(NamedTuple):
    """What a recording says about a motor."""

    values: Array
    """(6,) R, L, K, J, b, τ_c in SI units."""
    covariance: Array
    """(6, 6) of the logarithms of the first four, and of b and τ_c in their `units`."""
    noise: Array
    """(4,) as in `twin.kernels.kalman.Filter`."""


def units(values: Array, noise: Array) -> Array:
    """(2,) the units of b, K²/R, and of τ_c, the size of the load."""
    return np.array([values[2] ** 2 / values[0], noise[3]])


def score(motor: Motor, stretches: Sequence[Array], dt: float) -> Array:
    """What `run` sums up over stretches of samples (T, 3) without learning."""
    k = new_filter(np.concatenate((motor.values, units(motor.values, motor.noise))), motor.noise)
    sums = np.zeros(8)
    for z in stretches:
        run(k, z, dt, False, sums)
    return sums


def likelihood(motor: Motor, stretches: Sequence[Array], dt: float) -> float:
    """The negative logarithm of the likelihood of one sample, on the average; infinite where it is none."""
    sums = score(motor, stretches, dt)
    cost = float(sums[0] / max(sums[1], 1.0))
    return cost if math.isfinite(cost) else math.inf


def _least(stretches: Sequence[Array]) -> Array:
    """(4,) the least noise there can be in samples (T, 3)."""
    largest = np.max([np.abs(z[:, 1:]).max(axis=0) for z in stretches], axis=0)
    return np.maximum([*(MIN_NOISE_SHARE * largest), 0.0, 0.0], MIN_NOISE)


def guess(stretches: Sequence[Array], dt: float) -> Motor:
    """A motor to begin with, by least squares: the armature over one period, the rotor over some.

    The armature's exact solution for a speed that changes evenly, i(k+1) = a i(k) + (1 - a)(v - K ω̄)/R with
    a = exp(-R dt/L), gives R, L and K; the mean current of a period follows from the voltages' integral.
    """
    z = np.concatenate([s[:-1] for s in stretches])
    after = np.concatenate([s[1:] for s in stretches])
    v, i, w, i1, w1 = z[:, 0], z[:, 1], z[:, 2], after[:, 1], after[:, 2]
    mean = 0.5 * (w + w1)
    a, b, c = _least_squares(np.stack((i, v, mean), 1), i1)
    a = min(max(a, 1e-3), 0.999)
    r = abs((1 - a) / b) if b else 1.0
    k = max(abs(c / b) if b else 0.0, 1e-9)
    inductance = -r * dt / math.log(a)
    torque = k * (v - k * mean - inductance * (i1 - i) / dt) / r
    n = len(z) // BLOCK_SAMPLES * BLOCK_SAMPLES
    rate, push, speed = (x[:n].reshape(-1, BLOCK_SAMPLES).mean(1) for x in ((w1 - w) / dt, torque, mean))
    rows = np.stack((push, speed, np.sign(speed)), 1)
    inverse, viscous, dry = _least_squares(rows, rate)
    inertia = 1 / inverse if inverse > 0 else 1e-4 * k * k / r
    b_max = 0.3 * k * k / r
    values = np.array([r, inductance, k, inertia, min(max(-viscous * inertia, 1e-3 * b_max), b_max), 0.0])
    values[5] = max(-dry * inertia, 0.0)
    load = max(
        inertia * _deviation(rate - rows @ (inverse, viscous, dry)), MIN_LOAD_SHARE * _deviation(torque)
    )
    speed_noise = _deviation(np.diff(w1 - w)) / math.sqrt(6)
    current_noise = _deviation(i1 - np.stack((i, v, mean), 1) @ (a, b, c))
    noise = np.maximum([current_noise, speed_noise, 0.3 * load, load], _least(stretches))
    return Motor(values, np.diag(np.square(PRIOR_STD)), noise)


def settled(stretches: Sequence[Array], dt: float, periods: float) -> Motor:
    """A motor to begin with, where a period is long enough for it to settle, so that samples no longer show
    the transient that `guess` looks at: then v = R i + K ω at each period's end. Its mechanical time constant
    is so many `periods`, the electrical one a tenth of that.
    """
    z = np.concatenate([s[:-1] for s in stretches])
    after = np.concatenate([s[1:] for s in stretches])
    v, i, w = z[:, 0], after[:, 1], after[:, 2]
    r, k = np.abs(_least_squares(np.stack((i, w), 1), v)) + 1e-9
    rows = np.stack((w, np.sign(w)), 1)
    b_max = 0.3 * k * k / r
    viscous, dry = np.maximum(_least_squares(rows, k * i), 0.0)
    viscous = min(max(viscous, 1e-3 * b_max), b_max)
    load = max(_deviation(k * i - rows @ (viscous, dry)), MIN_LOAD_SHARE * k * _deviation(i))
    rest = _deviation(v - r * i - k * w)
    noise = np.maximum([rest / r, rest / k, load, load], _least(stretches))
    inertia = periods * dt * k * k / r
    values = np.array([r, 0.1 * periods * dt * r, k, inertia, viscous, dry])
    return Motor(values, np.diag(np.square(PRIOR_STD)), noise)


def identify(
    motor: Motor, stretches: Sequence[Array], dt: float, passes: int = MAX_PASSES
) -> Generator[None, None, Motor]:
    """The motor that the stretches of samples (T, 3), v, i and ω, show: from one to begin with.

    A generator, so that its caller can do other work between evaluations; it returns the motor.
    """
    start, best = motor, likelihood(motor, stretches, dt)
    for _ in range(passes):
        tried = _pass(motor, stretches, dt)
        yield
        tried = yield from _with_noise(tried, stretches, dt)
        value = likelihood(tried, stretches, dt)
        if not value < best:  # diverged
            break
        gained, best, motor = best - value, value, tried
        if gained < MIN_PASS_GAIN:
            break
    if motor is start:
        return motor
    sums = score(motor, stretches, dt)
    count = max(sums[1], 1.0)
    # innovations that are too large, or correlated in time, mean larger errors of the parameters
    tempered = 1.0
    for square, product in ((sums[3], sums[5]), (sums[4], sums[6])):
        rho = min(max(product / max(square, 1e-12), 0.0), 0.9)
        tempered = max(tempered, square / count * (1 + rho) / (1 - rho))
    return motor._replace(covariance=motor.covariance * tempered)


def adapted(motor: Motor, stretches: Sequence[Array], dt: float) -> Motor:
    """What the filter makes of a motor that follows the stretches of samples (T, 3) and adapts to them."""
    unit = units(motor.values, motor.noise)
    k = new_filter(np.concatenate((motor.values, unit)), motor.noise)
    k.cov[STATES:, STATES:] = motor.covariance + np.diag(np.square(WALK_PER_ROOT_SEC))
    for z in stretches:
        run_adapting(k, z, dt)
    values, covariance = k.p[:PARAMETERS].copy(), k.cov[STATES:, STATES:].copy()
    change = np.ones(PARAMETERS)
    change[4:] = unit / units(values, motor.noise)
    return Motor(values, covariance * np.outer(change, change), motor.noise)


def _pass(motor: Motor, stretches: Sequence[Array], dt: float) -> Motor:
    unit = units(motor.values, motor.noise)
    k = new_filter(np.concatenate((motor.values, unit)), motor.noise)
    k.cov[STATES:, STATES:] = np.diag(np.square(PRIOR_STD))
    sums = np.zeros(8)
    for z in stretches:
        run(k, z, dt, True, sums)
    values, noise = k.p[:PARAMETERS].copy(), motor.noise.copy()
    driven = values[2] * math.sqrt(np.mean([np.square(z[:, 1]).mean() for z in stretches]))
    noise[3] = max(math.sqrt(sums[2] / max(sums[1], 1.0)), MIN_LOAD_SHARE * driven, MIN_NOISE)
    covariance = k.cov[STATES:, STATES:].copy()
    change = np.ones(PARAMETERS)
    change[4:] = unit / units(values, noise)
    return Motor(values, covariance * np.outer(change, change), noise)


def _with_noise(motor: Motor, stretches: Sequence[Array], dt: float) -> Generator[None, None, Motor]:
    """The same motor with the noises that make the newest samples likeliest, found one by one."""
    newest, left = [], NOISE_SAMPLES
    for z in reversed(stretches):
        newest.append(z[-left:])
        left -= len(newest[-1])
        if left < 2 * SETTLING_SAMPLES:
            break
    least = _least(newest)
    noise = np.maximum(motor.noise, least)
    best = likelihood(motor._replace(noise=noise), newest, dt)
    for step in (2.0, 1.4, 1.15):
        for j in range(3):
            for factor in (step, 1 / step):
                while True:
                    tried = noise.copy()
                    tried[j] *= factor
                    value = likelihood(motor._replace(noise=tried), newest, dt)
                    yield
                    if not value < best - 1e-5 or not least[j] < tried[j] < 1e12:
                        break
                    noise, best = tried, value
    return motor._replace(noise=noise)


def _least_squares(a: Array, b: Array) -> Array:
    scale = np.sqrt(np.square(a).mean(0)) + 1e-300
    found = np.linalg.lstsq(a / scale, b, rcond=1e-9)[0] / scale
    return np.asarray(found, np.float64)


def _deviation(a: Array) -> float:
    """A standard deviation that ignores outliers, from the median absolute deviation."""
    return float(1.4826 * np.median(np.abs(a - np.median(a)))) if len(a) else 0.0
