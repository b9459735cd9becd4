"""The extended Kalman filter of a motor, in float64 NumPy: written to be read.

`twin.kernels.kalman` does the same in compiled loops, takes its constants from here, and is held to this.

The state is x = (i, ω, τ_L, θ): current in A, speed in rad/s, load torque in N·m, and six parameters. θ are
deviations from a checkpoint's values: of the logarithms of R, L, K and J, which stay positive and whose
errors are relative, and of b and τ_c, which may be zero, in units of K²/R and of the load's size. The load is
a random walk that jumps now and then. A filter that does not adapt has the first three states only. It is
the joint covariance that lets the parameters be estimated safely: the gain accounts for what each of them
does to the states (L. Ljung, "Asymptotic behavior of the extended Kalman filter as a parameter estimator",
IEEE Trans. Autom. Control 24(1), 1979).

A sample y = (i, ω) + noise comes every dt seconds. With the derivative Φ of one period's motion by x, the
filter is (B. D. O. Anderson, J. B. Moore, "Optimal Filtering", 1979, sections 3.1 and 8.2)

    S = H P Hᵀ + R,    G = P Hᵀ S⁻¹,    x ← x + G (y - H x),    P ← (I - G H) P (I - G H)ᵀ + G R Gᵀ,
    x ← f(x, v),    P ← Φ P Φᵀ + Q,

and what it does about outliers, jumps of the load, standstill and changes of the motor is a function each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from twin.kernels.motor_reference import PARAMETERS, advance, sensitivity

STATES: Final = 3
"""Current, speed and load."""
JOINT: Final = STATES + PARAMETERS
CURRENT, SPEED, LOAD = range(STATES)
DRY: Final = JOINT - 1
"""The place of τ_c's deviation in x."""

GATE_SIGMA: Final = 5.0
"""An innovation beyond so many standard deviations is an outlier the first time, and the truth the second:
noise reaches this once in a million samples, a loose contact seldom lasts for two."""
JUMP_LOADS: Final = 4.0
"""A jump of the load is at most so many times its size: a speed that this explains is believed at once."""
CUSUM_SLACK_SIGMA: Final = 1.0
"""What the CUSUM leaves out of each innovation of the speed: half the shift that it is to find, two standard
deviations, as is best for a CUSUM (Page 1954)."""
CUSUM_JUMP_SIGMA: Final = 3.5
"""A sum beyond this is a jump of the load. It is found after six samples where the gate alone took 20, and
the error of the speed fell from 0.969 to 0.947 of the Kalman floor (ten seeds, docs/learning.md)."""
CUSUM_MOTION_SIGMA: Final = 8.0
"""A sum beyond this is a motor that moves though it should stand. Higher, because a false alarm would make up
a load and wind up the friction of a motor at rest: a minute of noise must not do it (tests/test_physics)."""
FREQUENT_JUMPS: Final = 4.0
"""So many jumps found by the CUSUM within its memory are the model's fault and not the load's. Without this a
wrong J was explained by a load that jumps all the time, and J × 1.5 was never found (docs/learning.md)."""
JUMP_MEMORY_SEC: Final = 0.5
JUMP_MEMORY_SAMPLES: Final = 500.0
"""The memory of jumps found is the shorter of the two: half a second at 1 kHz."""
WALK_PER_ROOT_SEC: Final = (0.01, 0.01, 0.005, 0.01, 0.0002, 0.02)
"""How fast parameters may wander, in the units of θ. With ten times as much for b it was within 5 % of the
truth for 79 % of the time instead of 99 %."""
REVERSAL_WALK: Final = 0.04
"""How far τ_c may wander with each reversal, in sizes of the load: the friction of the other direction may
be another one. With twice as much τ_c was within 5 % of the truth for 90 % of the time instead of always."""
WIDENED_STD: Final = (0.2, 0.2, 0.1, 0.2, 0.01, 0.3)
"""Standard deviations of θ after a change: about the size of the changes that are to be found at once."""
MISFIT_SQUARE: Final = (3.0, 2.5)
"""Means of the normalised squares, of current and speed, beyond which the model no longer fits: 1 would be
right, and a model that is slightly wrong still follows."""
MISFIT_WEIGHT: Final = (1 / 32, 1 / 256)
"""Weight of the newest square in its mean: slower for the speed, as a jump of the load is no misfit."""
SPEED_MISFIT_MEMORY_SEC: Final = 0.256
"""The least time over which the mean for the speed extends, where samples come faster than at 1 kHz."""
WIDENING_PAUSE_SEC: Final = 0.2
"""From one widening to the next: what it takes to learn from the first."""
MAX_SQUARE: Final = 16.0
"""The most that one normalised square counts: no single sample may be a misfit."""
MAX_LOG_CHANGE: Final = 3.0
"""Of a parameter: nothing becomes twenty times what it was, and exp() stays finite."""

Array = npt.NDArray[np.float64]


@dataclass
class Filter:
    """All that one filter remembers."""

    p0: Array
    """(8,) the checkpoint's R, L, K, J, b, τ_c in SI units, and the units of the changes of b and τ_c."""
    noise: Array
    """(4,) standard deviations of the readings of current and speed, the load's walk in N·m/√s, and the
    load's size in N·m."""
    p: Array
    """(8,) the parameters now."""
    x: Array
    cov: Array
    rejected: Array
    """1 where the last innovation, of current or speed, was an outlier that was left out."""
    cusum: Array
    """Of the speed's normalised innovations, upwards and downwards."""
    misfit: Array
    """Means of the normalised squares of current and speed, less 1."""
    pause: Array
    """Seconds until the parameters may be widened again, for a misfit of each."""
    direction: float = 0.0
    """In which the motor turned last, 0 before the first sample."""
    jumps: float = 0.0
    """Jumps of the load that the CUSUM found lately."""


def new_filter(p0: Array, noise: Array) -> Filter:
    """A filter that has seen nothing, and knows its parameters as p0 (8,) says."""
    cov = np.zeros((JOINT, JOINT))
    return Filter(p0, noise, p0.copy(), np.zeros(JOINT), cov, *np.zeros((4, 2)))


def follow(k: Filter, dt: float, v: float, y: Array) -> None:
    """Take in a sample y (2,), and look one period ahead under a voltage, with the parameters as they are."""
    measure(k, dt, y, STATES)
    predict(k, dt, v, STATES)


def adapt(k: Filter, dt: float, v: float, y: Array) -> None:
    """Take in a sample, learn from it about the parameters, and look one period ahead."""
    before = np.diag(k.cov)[STATES:].copy()
    squares = measure(k, dt, y, JOINT)
    wander(k, dt, before - np.diag(k.cov)[STATES:])
    reverse(k)
    doubt(k, dt, squares)
    take_parameters(k)
    predict(k, dt, v, JOINT)


def begin(k: Filter, y: Array) -> None:
    """The first sample: it is all that is known of current and speed, and nothing is known of the load."""
    k.x[:STATES] = *y, 0.0
    k.cov[:STATES, :] = k.cov[:, :STATES] = 0.0
    k.cov[:STATES, :STATES] = np.diag(np.square(k.noise[[CURRENT, SPEED, 3]]))
    k.rejected[:] = k.cusum[:] = 0.0


def measure(k: Filter, dt: float, y: Array, n: int) -> Array:
    """Take in a sample, for the first n states; the squares (2,) of its normalised innovations.

    What a jump of the load explains is believed at once. Of what else does not fit, the first sample is left
    out, and the second is the truth: then no state is known any more.
    """
    innovation = y - k.x[:2]
    variance = np.diag(k.cov)[:2] + k.noise[:2] ** 2
    squares = innovation**2 / variance
    outlier = squares > GATE_SIGMA**2
    push = push_of_load(k, dt)
    periods = 1.0 + k.rejected.max()  # since the last sample that was believed
    rest = innovation[CURRENT] - push[CURRENT] / push[SPEED] * innovation[SPEED]
    explained = bool(outlier[SPEED]) and rest**2 <= GATE_SIGMA**2 * variance[CURRENT]
    jump = explained and abs(innovation[SPEED]) <= JUMP_LOADS * k.noise[3] * abs(push[SPEED]) * periods
    stands = k.x[SPEED] == 0.0 and k.cov[SPEED, SPEED] == 0.0
    if stands and (jump or not outlier[SPEED]):
        sum_up(k, innovation[SPEED] / k.noise[SPEED])
        if k.cusum.max() > CUSUM_MOTION_SIGMA:
            move(k, y)
            return squares
    if outlier.any() and not jump and not k.rejected.any():
        k.rejected[:] = outlier
        return squares
    if explained:
        widen_load(k, push * periods)
    if not jump:
        k.cov[CURRENT, CURRENT] += innovation[CURRENT] ** 2 * outlier[CURRENT]
        k.cov[SPEED, SPEED] += innovation[SPEED] ** 2 * outlier.any()
    k.rejected[:] = outlier & (not jump)
    if not stands:
        deviation = math.sqrt(k.cov[SPEED, SPEED] + k.noise[SPEED] ** 2)
        if jump_found(k, innovation[SPEED] / deviation):
            if not explained and (n == STATES or k.jumps < FREQUENT_JUMPS):  # only who adapts has another way
                widen_load(k, push)
            if n > STATES:
                k.jumps = min(k.jumps + 1.0, 2.0 * FREQUENT_JUMPS)
    correct(k, y, n)
    return squares


def push_of_load(k: Filter, dt: float) -> Array:
    """What 1 N·m that acts for one period does to current and speed (2,), about: by the trapezoidal rule."""
    r, inductance, torque_constant, j = k.p[:4]
    speed = -dt / (j + 0.5 * dt * torque_constant**2 / r)
    return np.array([-torque_constant / (r + 2.0 * inductance / dt) * speed, speed])


def widen_load(k: Filter, push: Array) -> None:
    """The load may have jumped by its size, and moved current and speed with it."""
    direction = np.append(push, 1.0)
    k.cov[:STATES, :STATES] += k.noise[3] ** 2 * np.outer(direction, direction)


def correct(k: Filter, y: Array, n: int) -> None:
    """The Kalman filter's correction, in the form that keeps P positive (Joseph's)."""
    h, r, cov = np.eye(2, n), np.diag(k.noise[:2] ** 2), k.cov[:n, :n]
    gain = cov @ h.T @ np.linalg.inv(h @ cov @ h.T + r)
    left = np.eye(n) - gain @ h
    k.x[:n] += gain @ (y - k.x[:2])
    k.cov[:n, :n] = left @ cov @ left.T + gain @ r @ gain.T


def sum_up(k: Filter, shift: float) -> None:
    """Page's two-sided CUSUM (E. S. Page, "Continuous inspection schemes", Biometrika 41, 1954)."""
    k.cusum[:] = np.maximum(k.cusum + np.array([shift, -shift]) - CUSUM_SLACK_SIGMA, 0.0)


def jump_found(k: Filter, shift: float) -> bool:
    """Whether a normalised innovation of the speed makes a jump certain, of which no single one is."""
    if k.cusum.max() > CUSUM_JUMP_SIGMA:
        k.cusum[:] = 0.0  # from a standstill that has ended: the threshold was another one
    sum_up(k, shift)
    if k.cusum.max() <= CUSUM_JUMP_SIGMA:
        return False
    k.cusum[:] = 0.0
    return True


def move(k: Filter, y: Array) -> None:
    """A motor that stood moves: friction no longer holds it, and the load is what that takes at least."""
    begin(k, y)
    k.x[LOAD] = k.p[2] * y[CURRENT] - math.copysign(k.p[5], y[SPEED])


def wander(k: Filter, dt: float, taken: Array) -> None:
    """Each parameter's random walk, of at most the variance (6,) that this sample took: what it does not
    teach is not forgotten, so that nothing winds up in standstill."""
    walk = np.square(WALK_PER_ROOT_SEC) * dt
    k.cov[STATES:, STATES:] += np.diag(np.minimum(walk, np.maximum(taken, 0.0)))


def reverse(k: Filter) -> None:
    """After a reversal dry friction may be another one."""
    direction = 1.0 if k.x[SPEED] > 0.0 else -1.0
    if direction != k.direction:
        k.direction = direction
        variance = k.cov[DRY, DRY]
        k.cov[DRY, DRY] = max(variance, min(variance + REVERSAL_WALK**2, WIDENED_STD[5] ** 2))


def doubt(k: Filter, dt: float, squares: Array) -> None:
    """Where the innovations say for longer that the model no longer fits, its parameters become uncertain:
    R, L and K for the current, J, b and τ_c for the speed, or for a load that jumps too often."""
    k.jumps *= 1.0 - min(max(dt / JUMP_MEMORY_SEC, 1.0 / JUMP_MEMORY_SAMPLES), 1.0)
    weight = np.array([MISFIT_WEIGHT[0], min(MISFIT_WEIGHT[1], dt / SPEED_MISFIT_MEMORY_SEC)])
    k.misfit += weight * (np.minimum(squares, MAX_SQUARE) - 1.0 - k.misfit)
    k.pause -= dt
    unfit = k.misfit > np.subtract(MISFIT_SQUARE, 1.0)
    unfit[SPEED] |= k.jumps > FREQUENT_JUMPS
    for output in np.flatnonzero(unfit & (k.pause <= 0.0)):
        k.pause[output] = WIDENING_PAUSE_SEC
        for j in range(3 * output, 3 * output + 3):
            k.cov[STATES + j, STATES + j] = max(k.cov[STATES + j, STATES + j], WIDENED_STD[j] ** 2)


def take_parameters(k: Filter) -> None:
    """The parameters that θ means; θ stays where they mean something."""
    theta = k.x[STATES:]
    theta[:4] = np.clip(theta[:4], -MAX_LOG_CHANGE, MAX_LOG_CHANGE)
    theta[4:] = np.maximum(theta[4:], -k.p0[4:6] / k.p0[6:])
    k.p[:4] = k.p0[:4] * np.exp(theta[:4])
    k.p[4:6] = np.maximum(k.p0[4:6] + k.p0[6:] * theta[4:], 0.0)


def predict(k: Filter, dt: float, v: float, n: int) -> None:
    """One period ahead: the first n states and their covariance."""
    x, phi = k.x[:STATES].copy(), np.eye(n)
    k.x[:2], phi[:2, :STATES] = advance(k.p, dt, v, x)
    if n > STATES:
        phi[:2, STATES:] = sensitivity(k.p, dt, v, x)
    k.cov[:n, :n] = phi @ k.cov[:n, :n] @ phi.T
    k.cov[LOAD, LOAD] += k.noise[2] ** 2 * dt
