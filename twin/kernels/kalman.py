"""An extended Kalman filter of the motor's current, speed and load, and, while it adapts, of its parameters.

The state is x = (i, ω, τ_L, θ). θ are the deviations from a checkpoint's values: of the logarithms of R, L, K
and J, which stay positive and whose errors are relative ones, and of b and τ_c, which may be zero, in units
of K²/R and of the load's size. The load is a random walk that jumps now and then. While it does not adapt,
the filter has the first three only. That it may be trusted with parameters it owes to the joint covariance:
its gain knows what each of them does to the states (Ljung, "Asymptotic behavior of the extended Kalman filter
as a parameter estimator", IEEE Trans. Autom. Control 24(1), 1979).

Parameters wander too, by `WALK`, but never by more than a sample has taught of them: each gives back at most
the variance that it took. So nothing winds up in standstill. Dry friction may be another one after each
reversal. Where the innovations say for longer that the model fits no more, the parameters' variance is
widened at once to `WIDE`.

A jump of the load that shows in one innovation is believed at once; a smaller one, each sample of which
might be noise, is found by a two-sided CUSUM of the speed's innovations (E. S. Page, "Continuous inspection
schemes", Biometrika 41, 1954). Where such jumps come often, it is the model that does not fit.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit

from twin.kernels.motor import PARAMETERS, advance

STATES: Final = 3
JOINT: Final = STATES + PARAMETERS
GATE: Final = 5.0
"""Standard deviations beyond which a first innovation is taken for an outlier, and a second one for the
truth."""
TENDING: Final = 1.0
"""Of the speed's innovations, in standard deviations, what the CUSUM leaves out of each."""
TENDENCY: Final = 3.5
"""Where it comes to this, the load has jumped."""
SURE: Final = 8.0
"""And where it comes to this, a motor that should stand moves."""
OFTEN: Final = 4.0
"""So many jumps found in this way, within `OVER` seconds or samples, whichever is less, are the model's and
not the load's."""
OVER: Final = (0.5, 500.0)
JUMP: Final = 4.0
"""Sizes of the load that one jump of it may have; a speed that this explains is believed at once."""
WALK: Final = (0.01, 0.01, 0.005, 0.01, 0.0002, 0.02)
"""Of the parameters, 1/√s."""
TURN: Final = 0.04
"""Of τ_c, in sizes of the load, with each reversal."""
WIDE: Final = (0.2, 0.2, 0.1, 0.2, 0.01, 0.3)
"""Standard deviations of the parameters after a change."""
UNFIT: Final = (3.0, 2.5)
"""Mean squares of the normalised innovations of current and speed from which on the model fits no more."""
MEMORY: Final = (1 / 32, 1 / 256)
"""Share of the newest sample in these means. A jump of the load is no misfit: that of the speed is the
slower."""
SLOW: Final = 0.256
"""Seconds of which it is the mean at least."""
PATIENCE: Final = 0.2
"""Seconds after a widening before the next."""
CLIPPED: Final = 16.0
"""Most that one normalised innovation's square counts."""
LIMIT: Final = 3.0  # of a logarithm: nothing changes to the twentyfold
_INLINE: Final[dict[str, Any]] = {"fastmath": {"contract"}, "forceinline": True}


class Filter(NamedTuple):
    """The arrays of one filter, float64: all that it remembers, and room to work in."""

    x: Any
    """(9,) i, ω, τ_L, θ."""
    cov: Any
    """(9, 9) their covariance."""
    flags: Any
    """(4,) 1 where the last innovation, of the current or the speed, was an outlier; the CUSUM of the speed's
    innovations, upwards and downwards."""
    fit: Any
    """(6,) means of the normalised squares, less one; seconds until the next widening, of each; the last
    mode; jumps of the load that the CUSUM found lately."""
    p: Any
    """(8,) the parameters now, and the units of b and τ_c."""
    p0: Any
    """(8,) the same of the checkpoint."""
    noise: Any
    """(4,) standard deviations of current and speed as read, the load's walk in N·m/√s, the load's size in
    N·m."""
    new: Any
    f: Any
    g: Any
    c: Any
    t: Any
    """(3, 9)"""


def new_filter(p0: Any, noise: Any) -> Filter:
    """A filter of its own memory, which has seen nothing."""
    shapes = (
        (JOINT,),
        (JOINT, JOINT),
        (4,),
        (6,),
        (8,),
        (8,),
        (4,),
        (3,),
        (2, 3),
        (2, PARAMETERS),
        (3, 4),
        (3, 9),
    )
    made = Filter(*(np.zeros(shape) for shape in shapes))
    made.p[:] = p0
    made.p0[:] = p0
    made.noise[:] = noise
    return made


@njit(**_INLINE)
def begin(k: Filter, current: float, speed: float) -> None:
    """The first sample."""
    k.x[0], k.x[1], k.x[2] = current, speed, 0.0
    k.cov[:STATES, :] = 0.0
    k.cov[:, :STATES] = 0.0
    k.cov[0, 0], k.cov[1, 1] = k.noise[0] * k.noise[0], k.noise[1] * k.noise[1]
    k.cov[2, 2] = k.noise[3] * k.noise[3]
    k.flags[:] = 0.0


@njit(**_INLINE)
def _correct(k: Filter, n: int, h: int, e: float) -> None:
    """Take in the innovation e of state h."""
    x, cov, column = k.x, k.cov, k.t
    gain = 1.0 / (cov[h, h] + k.noise[h] * k.noise[h])
    for a in range(n):
        column[2, a] = cov[a, h]
    for a in range(n):
        share = column[2, a] * gain
        x[a] += share * e
        for b in range(a + 1):
            value = cov[a, b] - share * column[2, b]
            cov[a, b] = value
            cov[b, a] = value


@njit(**_INLINE)
def measure(k: Filter, n: int, dt: float, current: float, speed: float) -> tuple[float, float]:
    """Take in a sample; the squares of its normalised innovations, for the first n states.

    What a jump of the load explains, the current's innovation too, is believed at once. Of what else does not
    fit, a first sample is left out, and a second one is the truth: then neither state is known any more.
    While the motor stands, all that is known of the load is that friction holds it. Once it is sure to move,
    by one innovation or by the CUSUM, friction holds it no more, and the load is what that takes at least.
    """
    x, cov, flags, noise, p = k.x, k.cov, k.flags, k.noise, k.p
    e, d = current - x[0], speed - x[1]
    variance = cov[0, 0] + noise[0] * noise[0]
    first, second = e * e / variance, d * d / (cov[1, 1] + noise[1] * noise[1])
    out, off = first > GATE * GATE, second > GATE * GATE
    # what a load that acts for one period does to the speed, and the speed to the current, about
    push = -dt / (p[3] + 0.5 * dt * p[2] * p[2] / p[0])
    pull = -p[2] / (p[0] + 2.0 * p[1] / dt)
    periods = 1.0 + max(flags[0], flags[1])
    alike = off and (e - pull * d) ** 2 <= GATE * GATE * variance
    jump = alike and abs(d) <= JUMP * noise[3] * abs(push) * periods
    stands = x[1] == 0.0 and cov[1, 1] == 0.0
    if stands and (jump or not off):
        _sum_up(flags, d / noise[1])
        if max(flags[2], flags[3]) > SURE:
            begin(k, current, speed)
            x[2] = p[2] * current - math.copysign(p[5], speed)
            return first, second
    if (out or off) and not jump and flags[0] == 0.0 and flags[1] == 0.0:
        flags[0], flags[1] = 1.0 if out else 0.0, 1.0 if off else 0.0
        return first, second
    if alike:
        spread, push = noise[3] * noise[3], push * periods
        _widen(cov, pull * push, push, spread)
    if not jump:
        if out:
            cov[0, 0] += e * e
        if out or off:
            cov[1, 1] += d * d
    flags[0] = 1.0 if out and not jump else 0.0
    flags[1] = 1.0 if off and not jump else 0.0
    if not stands:
        _look_for_jump(k, n, d / math.sqrt(cov[1, 1] + noise[1] * noise[1]), pull, push, alike)
    _correct(k, n, 0, e)
    _correct(k, n, 1, speed - x[1])
    return first, second


@njit(**_INLINE)
def _sum_up(flags: Any, shift: float) -> None:
    flags[2] = max(flags[2] + shift - TENDING, 0.0)
    flags[3] = max(flags[3] - shift - TENDING, 0.0)


@njit(**_INLINE)
def _look_for_jump(k: Filter, n: int, shift: float, pull: float, push: float, believed: bool) -> None:
    """Take the speed's normalised innovation into the CUSUM, and widen what a jump found moves."""
    flags = k.flags
    if flags[2] > TENDENCY or flags[3] > TENDENCY:  # from a standstill that has ended
        flags[2] = flags[3] = 0.0
    _sum_up(flags, shift)
    if flags[2] <= TENDENCY and flags[3] <= TENDENCY:
        return
    flags[2] = flags[3] = 0.0
    if not believed and (n == STATES or k.fit[5] < OFTEN):  # who does not adapt cannot follow otherwise
        _widen(k.cov, pull * push, push, k.noise[3] * k.noise[3])
    if n > STATES:
        k.fit[5] = min(k.fit[5] + 1.0, 2.0 * OFTEN)


@njit(**_INLINE)
def _widen(cov: Any, pull: float, push: float, spread: float) -> None:
    """The load may have jumped, and moved current and speed with it."""
    cov[0, 0] += pull * pull * spread
    cov[1, 1] += push * push * spread
    cov[2, 2] += spread
    cov[0, 1] += pull * push * spread
    cov[0, 2] += pull * spread
    cov[1, 2] += push * spread
    cov[1, 0], cov[2, 0], cov[2, 1] = cov[0, 1], cov[0, 2], cov[1, 2]


@njit(**_INLINE)
def predict(k: Filter, n: int, dt: float, v: float) -> None:
    """One period ahead: the first n states and their covariance."""
    x, cov, new, f, g, t = k.x, k.cov, k.new, k.f, k.g, k.t
    advance(k.p, dt, v, x, new, f, g, k.c, n > STATES)
    x[0], x[1] = new[0], new[1]
    for a in range(2):
        for m in range(n):
            value = f[a, 0] * cov[0, m] + f[a, 1] * cov[1, m] + f[a, 2] * cov[2, m]
            for j in range(n - STATES):
                value += g[a, j] * cov[STATES + j, m]
            t[a, m] = value
    for a in range(2):
        for b in range(a + 1):
            value = t[a, 0] * f[b, 0] + t[a, 1] * f[b, 1] + t[a, 2] * f[b, 2]
            for j in range(n - STATES):
                value += t[a, STATES + j] * g[b, j]
            cov[a, b] = value
            cov[b, a] = value
        for m in range(2, n):
            cov[a, m] = t[a, m]
            cov[m, a] = t[a, m]
    cov[2, 2] += k.noise[2] * k.noise[2] * dt


@njit(**_INLINE)
def follow(k: Filter, dt: float, v: float, current: float, speed: float) -> None:
    """Take in a sample and look one period ahead, with the parameters as they are."""
    measure(k, STATES, dt, current, speed)
    predict(k, STATES, dt, v)


@njit(**_INLINE)
def adapt(k: Filter, dt: float, v: float, current: float, speed: float) -> None:
    """Take in a sample, learn from it about the parameters, and look one period ahead."""
    x, cov, fit, p, p0, before = k.x, k.cov, k.fit, k.p, k.p0, k.t[0]
    for j in range(PARAMETERS):
        before[j] = cov[STATES + j, STATES + j]
    first, second = measure(k, JOINT, dt, current, speed)
    for j in range(PARAMETERS):
        took = max(before[j] - cov[STATES + j, STATES + j], 0.0)
        cov[STATES + j, STATES + j] += min(WALK[j] * WALK[j] * dt, took)
    mode = 1.0 if x[1] > 0.0 else -1.0
    if mode != fit[4]:
        fit[4] = mode
        dry = cov[STATES + 5, STATES + 5]
        cov[STATES + 5, STATES + 5] = max(dry, min(dry + TURN * TURN, WIDE[5] * WIDE[5]))
    fit[5] -= fit[5] * min(max(dt / OVER[0], 1.0 / OVER[1]), 1.0)
    for h in range(2):
        share = MEMORY[0] if h == 0 else min(MEMORY[1], dt / SLOW)
        fit[h] += share * (min(first if h == 0 else second, CLIPPED) - 1.0 - fit[h])
        fit[2 + h] -= dt
        if (fit[h] > UNFIT[h] - 1.0 or (h == 1 and fit[5] > OFTEN)) and fit[2 + h] <= 0.0:
            fit[2 + h] = PATIENCE
            for j in range(3 * h, 3 * h + 3):
                cov[STATES + j, STATES + j] = max(cov[STATES + j, STATES + j], WIDE[j] * WIDE[j])
    for j in range(4):
        x[STATES + j] = min(max(x[STATES + j], -LIMIT), LIMIT)
        p[j] = p0[j] * math.exp(x[STATES + j])
    for j in range(4, 6):
        p[j] = p0[j] + p[2 + j] * x[STATES + j]
        if p[j] < 0.0:
            p[j] = 0.0
            x[STATES + j] = -p0[j] / p[2 + j]
    predict(k, JOINT, dt, v)
