"""The extended Kalman filter of a motor, compiled: current, speed and load, and, while it adapts, parameters.

`twin.kernels.kalman_reference` says in the textbook's form what is done here and why, and what the constants
are; this is held to it. Loops and memory of its own take a sample in a fraction of a microsecond.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit

from twin.kernels.kalman_reference import (
    CURRENT,
    CUSUM_JUMP_SIGMA,
    CUSUM_MOTION_SIGMA,
    CUSUM_SLACK_SIGMA,
    DRY,
    FREQUENT_JUMPS,
    GATE_SIGMA,
    JOINT,
    JUMP_LOADS,
    JUMP_MEMORY_SAMPLES,
    JUMP_MEMORY_SEC,
    LOAD,
    MAX_LOG_CHANGE,
    MAX_SQUARE,
    MISFIT_SQUARE,
    MISFIT_WEIGHT,
    REVERSAL_WALK,
    SPEED,
    SPEED_MISFIT_MEMORY_SEC,
    STATES,
    WALK_PER_ROOT_SEC,
    WIDENED_STD,
    WIDENING_PAUSE_SEC,
)
from twin.kernels.motor import advance
from twin.kernels.motor_reference import PARAMETERS

REJECTED, UP, DOWN = 0, 2, 3  # places in `Filter.gates`; an array for each would cost a tenth of the time
MISFIT, PAUSE, DIRECTION, JUMPS = 0, 2, 4, 5  # and in `Filter.fit`
_INLINE: Final[dict[str, Any]] = {"fastmath": {"contract"}, "forceinline": True}


class Filter(NamedTuple):
    """The arrays of one filter, float64: all that it remembers, and room to work in."""

    x: Any
    """(9,) i, ω, τ_L, θ."""
    cov: Any
    """(9, 9) their covariance."""
    gates: Any
    """(4,) at `REJECTED` 1 where the last innovation, of current or speed, was an outlier that was left out;
    at `UP` and `DOWN` the CUSUM of the speed's normalised innovations."""
    fit: Any
    """(6,) at `MISFIT` the means of the normalised squares of current and speed, less 1; at `PAUSE` seconds
    until the parameters may be widened again, for a misfit of each; `DIRECTION` in which the motor turned
    last, 0 before the first sample; `JUMPS` of the load that the CUSUM found lately."""
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
    """Room for `advance`."""
    t: Any
    """(3, 9) more of it."""


SHAPES: Final = Filter(
    x=(JOINT,),
    cov=(JOINT, JOINT),
    gates=(4,),
    fit=(6,),
    p=(PARAMETERS + 2,),
    p0=(PARAMETERS + 2,),
    noise=(4,),
    new=(STATES,),
    f=(2, STATES),
    g=(2, PARAMETERS),
    c=(3, 4),
    t=(3, JOINT),
)


def new_filter(p0: Any, noise: Any) -> Filter:
    """A filter of its own memory, which has seen nothing."""
    made = Filter(*(np.zeros(shape) for shape in SHAPES))
    made.p[:] = p0
    made.p0[:] = p0
    made.noise[:] = noise
    return made


@njit(**_INLINE)
def begin(k: Filter, current: float, speed: float) -> None:
    """The first sample."""
    k.x[CURRENT], k.x[SPEED], k.x[LOAD] = current, speed, 0.0
    k.cov[:STATES, :] = 0.0
    k.cov[:, :STATES] = 0.0
    k.cov[CURRENT, CURRENT], k.cov[SPEED, SPEED] = k.noise[0] * k.noise[0], k.noise[1] * k.noise[1]
    k.cov[LOAD, LOAD] = k.noise[3] * k.noise[3]
    k.gates[:] = 0.0


@njit(**_INLINE)
def _correct(k: Filter, n: int, h: int, e: float) -> None:
    """Take in the innovation e of state h: one output after the other needs no inverse."""
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
    """Take in a sample, for the first n states; the squares of its normalised innovations."""
    x, cov, gates, noise, p = k.x, k.cov, k.gates, k.noise, k.p
    e, d = current - x[CURRENT], speed - x[SPEED]
    variance = cov[CURRENT, CURRENT] + noise[0] * noise[0]
    first, second = e * e / variance, d * d / (cov[SPEED, SPEED] + noise[1] * noise[1])
    out, off = first > GATE_SIGMA * GATE_SIGMA, second > GATE_SIGMA * GATE_SIGMA
    # what a load that acts for one period does to the speed, and the speed to the current, about
    push = -dt / (p[3] + 0.5 * dt * p[2] * p[2] / p[0])
    pull = -p[2] / (p[0] + 2.0 * p[1] / dt)
    periods = 1.0 + max(gates[REJECTED], gates[REJECTED + 1])
    explained = off and (e - pull * d) ** 2 <= GATE_SIGMA * GATE_SIGMA * variance
    jump = explained and abs(d) <= JUMP_LOADS * noise[3] * abs(push) * periods
    stands = x[SPEED] == 0.0 and cov[SPEED, SPEED] == 0.0
    if stands and (jump or not off):
        _sum_up(gates, d / noise[1])
        if max(gates[UP], gates[DOWN]) > CUSUM_MOTION_SIGMA:
            begin(k, current, speed)
            x[LOAD] = p[2] * current - math.copysign(p[5], speed)
            return first, second
    if (out or off) and not (jump or gates[REJECTED] != 0.0 or gates[REJECTED + 1] != 0.0):
        gates[REJECTED], gates[REJECTED + 1] = 1.0 if out else 0.0, 1.0 if off else 0.0
        return first, second
    if explained:
        spread, push = noise[3] * noise[3], push * periods
        _widen_load(cov, pull * push, push, spread)
    if not jump:
        if out:
            cov[CURRENT, CURRENT] += e * e
        if out or off:
            cov[SPEED, SPEED] += d * d
    gates[REJECTED] = 1.0 if out and not jump else 0.0
    gates[REJECTED + 1] = 1.0 if off and not jump else 0.0
    if not stands:
        _look_for_jump(k, n, d / math.sqrt(cov[SPEED, SPEED] + noise[1] * noise[1]), pull, push, explained)
    _correct(k, n, CURRENT, e)
    _correct(k, n, SPEED, speed - x[SPEED])
    return first, second


@njit(**_INLINE)
def _sum_up(gates: Any, shift: float) -> None:
    gates[UP] = max(gates[UP] + shift - CUSUM_SLACK_SIGMA, 0.0)
    gates[DOWN] = max(gates[DOWN] - shift - CUSUM_SLACK_SIGMA, 0.0)


@njit(**_INLINE)
def _look_for_jump(k: Filter, n: int, shift: float, pull: float, push: float, explained: bool) -> None:
    """Take the speed's normalised innovation into the CUSUM, and widen what a jump found moves."""
    gates = k.gates
    if gates[UP] > CUSUM_JUMP_SIGMA or gates[DOWN] > CUSUM_JUMP_SIGMA:  # from a standstill that has ended
        gates[UP] = gates[DOWN] = 0.0
    _sum_up(gates, shift)
    if gates[UP] <= CUSUM_JUMP_SIGMA and gates[DOWN] <= CUSUM_JUMP_SIGMA:
        return
    gates[UP] = gates[DOWN] = 0.0
    if not explained and (n == STATES or k.fit[JUMPS] < FREQUENT_JUMPS):  # only who adapts has another way
        _widen_load(k.cov, pull * push, push, k.noise[3] * k.noise[3])
    if n > STATES:
        k.fit[JUMPS] = min(k.fit[JUMPS] + 1.0, 2.0 * FREQUENT_JUMPS)


@njit(**_INLINE)
def _widen_load(cov: Any, pull: float, push: float, spread: float) -> None:
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
    x[CURRENT], x[SPEED] = new[CURRENT], new[SPEED]
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
    cov[LOAD, LOAD] += k.noise[2] * k.noise[2] * dt


@njit(**_INLINE)
def follow(k: Filter, dt: float, v: float, current: float, speed: float) -> None:
    """Take in a sample and look one period ahead, with the parameters as they are."""
    measure(k, STATES, dt, current, speed)
    predict(k, STATES, dt, v)


@njit(**_INLINE)
def adapt(k: Filter, dt: float, v: float, current: float, speed: float) -> None:
    """Take in a sample, learn from it about the parameters, and look one period ahead."""
    cov, before = k.cov, k.t[0]
    for j in range(PARAMETERS):
        before[j] = cov[STATES + j, STATES + j]
    first, second = measure(k, JOINT, dt, current, speed)
    for j in range(PARAMETERS):
        taken = max(before[j] - cov[STATES + j, STATES + j], 0.0)
        cov[STATES + j, STATES + j] += min(WALK_PER_ROOT_SEC[j] * WALK_PER_ROOT_SEC[j] * dt, taken)
    direction = 1.0 if k.x[SPEED] > 0.0 else -1.0
    if direction != k.fit[DIRECTION]:
        k.fit[DIRECTION] = direction
        wider = min(cov[DRY, DRY] + REVERSAL_WALK * REVERSAL_WALK, WIDENED_STD[5] * WIDENED_STD[5])
        cov[DRY, DRY] = max(cov[DRY, DRY], wider)
    _doubt(k, dt, first, second)
    take_parameters(k)
    predict(k, JOINT, dt, v)


@njit(**_INLINE)
def _doubt(k: Filter, dt: float, first: float, second: float) -> None:
    """Widen the parameters where the squares of innovations say for longer that the model no longer fits."""
    cov, fit = k.cov, k.fit
    fit[JUMPS] -= fit[JUMPS] * min(max(dt / JUMP_MEMORY_SEC, 1.0 / JUMP_MEMORY_SAMPLES), 1.0)
    for h in range(2):
        weight = MISFIT_WEIGHT[0] if h == 0 else min(MISFIT_WEIGHT[1], dt / SPEED_MISFIT_MEMORY_SEC)
        fit[MISFIT + h] += weight * (min(first if h == 0 else second, MAX_SQUARE) - 1.0 - fit[MISFIT + h])
        fit[PAUSE + h] -= dt
        unfit = fit[MISFIT + h] > MISFIT_SQUARE[h] - 1.0 or (h == SPEED and fit[JUMPS] > FREQUENT_JUMPS)
        if unfit and fit[PAUSE + h] <= 0.0:
            fit[PAUSE + h] = WIDENING_PAUSE_SEC
            for j in range(3 * h, 3 * h + 3):
                wide = WIDENED_STD[j] * WIDENED_STD[j]
                cov[STATES + j, STATES + j] = max(cov[STATES + j, STATES + j], wide)


@njit(**_INLINE)
def take_parameters(k: Filter) -> None:
    """The parameters that θ means; θ stays where they mean something."""
    x, p, p0 = k.x, k.p, k.p0
    for j in range(4):
        x[STATES + j] = min(max(x[STATES + j], -MAX_LOG_CHANGE), MAX_LOG_CHANGE)
        p[j] = p0[j] * math.exp(x[STATES + j])
    for j in range(4, PARAMETERS):
        p[j] = p0[j] + p[2 + j] * x[STATES + j]
        if p[j] < 0.0:
            p[j] = 0.0
            x[STATES + j] = -p0[j] / p[2 + j]
