"""The motor's exact way from sample to sample, as machine code: fast enough for hours of simulation.

While its inputs are held and its mode lasts, the motor is linear, and the solution is a matrix exponential
(T. Kailath, "Linear Systems", 1980, 1.2). So nothing is integrated: the flow of a mode is evaluated at any
time within the sample, the end of the mode is found on it, and the next mode goes on from there, as
`simulate` does it with a general solver (which needs a hundred times as long, and serves any plant).

A motor is a row p (7,): R, L, K_t, K_e, J, b, τ_c in SI units, as `row` makes it.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from simulators.dc_motor import DCMotor

Array = NDArray[np.float64]

MAX_MODE_SWITCHES: Final = 16
"""Changes of mode followed within one sample, as in `simulate`."""
MAX_HALVINGS: Final = 60
"""Bisections of an interval, after which a double can hardly divide it further."""


def row(motor: DCMotor) -> Array:
    """The parameters p (7,) of a motor."""
    return np.array(
        [
            motor.resistance,
            motor.inductance,
            motor.torque_constant,
            motor.back_emf,
            motor.inertia,
            motor.viscous_friction,
            motor.coulomb_friction,
        ]
    )


@njit(nogil=True)
def transition(p: Array, t: float) -> tuple[float, float, float, float]:
    """exp(A t) row by row, for the moving motor's dx/dt = A x + B u with x = (i, ω).

    exp(A t) = e^{st} (cosh(qt) I + sinh(qt)/q (A - s I)), s half the trace and q² = s² - det A, which may be
    negative (C. Moler, C. Van Loan, "Nineteen dubious ways", SIAM Review 45(1), 2003, method 13 for n = 2).
    """
    a, b, c, d = -p[0] / p[1], -p[3] / p[1], p[2] / p[4], -p[5] / p[4]
    s, det = 0.5 * (a + d), a * d - b * c
    square = s * s - det
    if square > 0.0:
        q = math.sqrt(square)
        fast = s - q
        slow = det / fast  # s + q would lose digits
        rise = math.exp(slow * t)
        even = 0.5 * (rise + math.exp(fast * t))
        odd = -0.5 * rise * math.expm1(-2.0 * q * t) / q
    elif square < 0.0:
        q = math.sqrt(-square)
        rise = math.exp(s * t)
        even, odd = rise * math.cos(q * t), rise * math.sin(q * t) / q
    else:
        even = math.exp(s * t)
        odd = even * t
    return even + odd * (a - s), odd * b, odd * c, even + odd * (d - s)


@njit(nogil=True)
def rest(p: Array, v: float, torque: float) -> tuple[float, float]:
    """Where the moving motor goes, (i, ω), under a voltage and an opposing torque (load and friction)."""
    w = (p[2] * v / p[0] - torque) / (p[5] + p[2] * p[3] / p[0])
    return (v - p[3] * w) / p[0], w


@njit(nogil=True)
def flow(p: Array, i: float, w: float, v: float, torque: float, t: float) -> tuple[float, float]:
    """(i, ω) of the moving motor t seconds later."""
    i_rest, w_rest = rest(p, v, torque)
    e11, e12, e21, e22 = transition(p, t)
    return (
        i_rest + e11 * (i - i_rest) + e12 * (w - w_rest),
        w_rest + e21 * (i - i_rest) + e22 * (w - w_rest),
    )


@njit(nogil=True)
def slip(p: Array, i: float, load: float) -> int:
    """The mode in which a motor that stands goes on: forward 1, backward -1, stuck 0."""
    torque = p[2] * i - load
    if abs(torque) <= p[6]:
        return 0
    return 1 if torque > 0.0 else -1


@njit(nogil=True)
def breakaway(p: Array, i: float, v: float, load: float) -> float:
    """When a stuck motor breaks away, s; inf: never. Closed form: the current is a single exponential."""
    final = p[2] * v / p[0] - load
    if abs(final) <= p[6]:
        return math.inf
    left = final - math.copysign(p[6], final)  # torque still to come at that instant
    whole = final - (p[2] * i - load)
    at = p[1] / p[0] * math.log(whole / left)
    return float(max(at, 0.0))


@njit(nogil=True)
def turn(p: Array, rate: float, jerk: float) -> float:
    """When a moving motor's speed has its first minimum, s after now; inf: never.

    `rate` and `jerk` are dω/dt and d²ω/dt² now. The rate is
    e^{st} (rate cosh qt + (jerk - s rate)/q sinh qt) with s and q of `transition`, with cos and sin where
    the poles are complex: then it has a zero in every half period, and the first minimum is the deepest,
    since the swing dies away.
    """
    a, b, c, d = -p[0] / p[1], -p[3] / p[1], p[2] / p[4], -p[5] / p[4]
    s = 0.5 * (a + d)
    square = s * s - (a * d - b * c)
    lean = jerk - s * rate
    if square < 0.0:
        q = math.sqrt(-square)
        phase = math.atan2(-rate * q, lean)  # the rate is a sine of q t less this
        if phase < 0.0:  # it rises now, to a maximum, and has a minimum one period after that zero
            phase += 2 * math.pi
        return float(phase / q)
    if rate >= 0.0:
        return math.inf
    if square == 0.0:
        return -rate / lean if lean > 0.0 else math.inf
    q = math.sqrt(square)
    if lean <= -rate * q:
        return math.inf
    return 0.5 / q * math.log((lean - rate * q) / (lean + rate * q))


@njit(nogil=True)
def standstill(p: Array, i: float, w: float, v: float, load: float, mode: int, dt: float) -> float:
    """When a motor that moves in the direction `mode` stops within dt seconds, s; inf: it does not.

    The speed may also dip through zero and come back within that time: it does so before its first minimum,
    or never. Up to there it turns from rising to falling at most, so that zero is crossed once.
    """
    torque = load + mode * p[6]
    rate = mode * (p[2] * i - p[5] * w - torque) / p[4]
    slope = (v - p[0] * i - p[3] * w) / p[1]
    low, high = 0.0, min(turn(p, rate, (mode * p[2] * slope - p[5] * rate) / p[4]), dt)
    if mode * flow(p, i, w, v, torque, high)[1] >= 0.0:
        return math.inf
    if mode * w <= 0.0:  # it has only just begun: look for the end after its beginning
        low = 1e-9 * dt
        if mode * flow(p, i, w, v, torque, low)[1] <= 0.0:
            return low
    for _ in range(MAX_HALVINGS):
        middle = 0.5 * (low + high)
        if mode * flow(p, i, w, v, torque, middle)[1] > 0.0:
            low = middle
        else:
            high = middle
    return float(high)


@njit(nogil=True)
def advance(p: Array, i: float, w: float, v: float, load: float, dt: float) -> tuple[float, float]:
    """(i, ω) dt seconds later under a held voltage, V, and load, N·m, through all changes of mode."""
    if p[6] == 0.0:
        i, w = flow(p, i, w, v, load, dt)
        return float(i), float(w)
    mode = slip(p, i, load) if w == 0.0 else (1 if w > 0.0 else -1)
    for _ in range(MAX_MODE_SWITCHES):
        if mode == 0:
            at = breakaway(p, i, v, load)
            i = v / p[0] + (i - v / p[0]) * math.exp(-min(at, dt) * p[0] / p[1])
            if at >= dt:
                return i, 0.0
            mode = 1 if p[2] * v / p[0] > load else -1
        else:
            torque = load + mode * p[6]
            at = standstill(p, i, w, v, load, mode, dt)
            i, w = flow(p, i, w, v, torque, min(at, dt))
            if at >= dt:
                return float(i), float(w)
            w = 0.0
            mode = slip(p, i, load)
        dt -= at
    return float(i), float(w)


@njit(nogil=True)
def tangent(p: Array, i: float, w: float, v: float, load: float, dt: float, f: Array) -> tuple[float, float]:
    """`advance`, and into f (3, 3) the derivative of (i, ω, τ_L) dt seconds later by (i, ω, τ_L) now.

    Where a mode ends, the derivative jumps: a speed that comes a little later to zero goes on for that
    little with the old acceleration instead of the new one, which scales it by new over old, and by nothing
    where the motor sticks (M. A. Aizerman, F. R. Gantmakher, "On the stability of periodic motions", PMM
    22(6), 1958: the saltation matrix). Breakaway begins with no acceleration, so nothing jumps there.
    """
    f[:] = 0.0
    f[0, 0] = f[1, 1] = f[2, 2] = 1.0
    mode = 1
    if p[6] != 0.0:
        mode = slip(p, i, load) if w == 0.0 else (1 if w > 0.0 else -1)
    w_by_load = -1.0 / (p[5] + p[2] * p[3] / p[0])  # of `rest`
    i_by_load = -p[3] / p[0] * w_by_load
    for _ in range(MAX_MODE_SWITCHES):
        if mode == 0:
            at = min(breakaway(p, i, v, load), dt)
            decay = math.exp(-at * p[0] / p[1])
            i, w = v / p[0] + (i - v / p[0]) * decay, 0.0
            for c in range(3):
                f[0, c] *= decay
                f[1, c] = 0.0
            if at >= dt:
                break
            mode = 1 if p[2] * v / p[0] > load else -1
        else:
            torque = load + mode * p[6]
            at = dt if p[6] == 0.0 else min(standstill(p, i, w, v, load, mode, dt), dt)
            i_rest, w_rest = rest(p, v, torque)
            e11, e12, e21, e22 = transition(p, at)
            di, dw = i - i_rest, w - w_rest
            i, w = i_rest + e11 * di + e12 * dw, w_rest + e21 * di + e22 * dw
            for c in range(3):
                i_c, w_c = f[0, c] - i_by_load * f[2, c], f[1, c] - w_by_load * f[2, c]
                f[0, c] = i_by_load * f[2, c] + e11 * i_c + e12 * w_c
                f[1, c] = w_by_load * f[2, c] + e21 * i_c + e22 * w_c
            if at >= dt:
                break
            w = 0.0
            old, mode = p[2] * i - torque, slip(p, i, load)
            new = p[2] * i - load - mode * p[6] if mode else 0.0
            for c in range(3):
                f[1, c] *= new / old if old else 1.0
        dt -= at
    return i, w
