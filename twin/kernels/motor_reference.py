"""The DC motor over one sample period and its derivatives, in float64 NumPy: written to be read.

    L di/dt = v - R i - K ω
    J dω/dt = K i - b ω - τ_c sgn(ω) - τ_L

`twin.kernels.motor` computes the same in closed form, and is held to this. While voltage, load and the
direction of friction hold, s = (i, ω, τ_L, 1) obeys ds/dt = M s with a constant matrix M, so that

    s(t) = exp(M t) s(0),    ∂s(t)/∂s(0) = exp(M t),

and the derivative by a parameter θ stands in the corner of a larger exponential (C. F. Van Loan, "Computing
integrals involving the matrix exponential", IEEE Trans. Autom. Control 23(3), 1978; N. J. Higham, "Functions
of Matrices", 2008, theorem 3.6):

    exp([[M, ∂M/∂θ], [0, M]] t) = [[exp(M t), ∂exp(M t)/∂θ], [0, exp(M t)]].

Parameters p (8,) are R, L, K, J, b, τ_c in SI units, then the units in which b and τ_c change.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

PARAMETERS: Final = 6
"""R, L, K, J, b, τ_c: their order everywhere."""
TAYLOR_ORDER: Final = 16
"""Of the exponential's series: for norms below 1/2 the rest is less than 1e-19."""

Array = npt.NDArray[np.float64]


class Course(NamedTuple):
    """How a period goes, as far as friction decides it."""

    stands: bool
    """The rotor does not move, at the end at least."""
    friction: float
    """Its sign, averaged over the time that the rotor moves."""
    current: float
    """A, when it begins to move."""
    seconds: float
    """For which it moves; where it stands, all that is left of the period."""


def exponential(m: Array) -> Array:
    """exp(m) of square matrices (..., n, n): a Taylor series of m / 2ˢ, squared s times (C. Moler, C. Van
    Loan, "Nineteen dubious ways", SIAM Review 45(1), 2003, method 3)."""
    norm = np.abs(m).sum(axis=-1).max()
    squarings = max(0, math.ceil(math.log2(2.0 * norm))) if norm > 0.0 else 0
    small = m / 2.0**squarings
    term = total = np.broadcast_to(np.eye(m.shape[-1]), m.shape)
    for order in range(1, TAYLOR_ORDER + 1):
        term = term @ small / order
        total = total + term
    for _ in range(squarings):
        total = total @ total
    return total


def dynamics(p: Array, v: float, friction: float, stands: bool) -> Array:
    """M (4, 4) under a voltage and a friction torque of a sign in -1...1; a rotor that stands turns no
    more, and induces no voltage."""
    r, l, k, j, b, dry = p[:6]  # noqa: E741
    m = np.zeros((4, 4))
    m[0] = -r / l, -k / l, 0.0, v / l
    m[1] = k / j, -b / j, -1.0 / j, -friction * dry / j
    return _held(m) if stands else m


def dynamics_by_parameters(p: Array, v: float, friction: float, stands: bool) -> Array:
    """∂M/∂θ (6, 4, 4) by the logarithms of R, L, K and J, and by b and τ_c in their units."""
    _, l, k, j = p[:4]  # noqa: E741
    m = dynamics(p, v, friction, False)
    d = np.zeros((PARAMETERS, 4, 4))
    d[0, 0, 0] = m[0, 0]
    d[1, 0] = -m[0]  # 1/L is a factor of the whole equation
    d[2, 0, 1], d[2, 1, 0] = -k / l, k / j
    d[3, 1] = -m[1]
    d[4, 1, 1] = -p[6] / j
    d[5, 1, 3] = -friction * p[7] / j
    return _held(d) if stands else d


def _held(m: Array) -> Array:
    m = m.copy()
    m[..., 1, :] = 0.0
    m[..., :, 1] = 0.0
    return m


def course(p: Array, dt: float, v: float, i: float, w: float, load: float) -> Course:
    """Whether the rotor stands, breaks away or passes through zero within the period.

    Friction is Karnopp's (D. Karnopp, "Computer simulation of stick-slip friction", J. Dyn. Syst. Meas.
    Control 107(1), 1985): a rotor that stands moves only where K i - τ_L is more than friction can hold. Two
    things are approximate: the instant of a passage is where a straight line passes through zero, and after
    it the friction of both directions acts as its mean does.
    """
    r, l, k, _, _, dry = p[:6]  # noqa: E741
    if w != 0.0:
        direction = math.copysign(1.0, w)
    elif abs(k * i - load) > dry:
        direction = math.copysign(1.0, k * i - load)
    else:
        wait = breakaway(p, v, i, load)
        if wait >= dt:
            return Course(True, 0.0, i, dt)
        i = v / r + (i - v / r) * math.exp(-r * wait / l)
        dt -= wait
        direction = math.copysign(1.0, k * v / r - load)
    _, end, _, _ = exponential(dynamics(p, v, direction, False) * dt) @ (i, w, load, 1.0)
    if direction * end >= 0.0:
        return Course(False, direction, i, dt)
    first = w / (w - end)  # share of the time before the passage
    slow_current = r * dt < l  # a fast one is where it settles
    passing = i + first * dt * (v - r * i - k * w) / l if slow_current else (v - k * w) / r
    if abs(k * passing - load) <= dry:
        return Course(True, 0.0, i, dt)
    return Course(False, direction * (2.0 * first - 1.0), i, dt)


def breakaway(p: Array, v: float, i: float, load: float) -> float:
    """Seconds after which the current of a rotor that stands pulls it loose; infinite if it never does.

    i(t) = v/R + (i - v/R) exp(-R t / L), and the rotor moves from K i(t) - τ_L = ± τ_c on.
    """
    r, l, k, _, _, dry = p[:6]  # noqa: E741
    final = v / r
    away = k * final - load
    if abs(away) <= dry:
        return math.inf
    at = (load + math.copysign(dry, away)) / k  # the current that is needed
    left = (at - final) / (i - final)
    return -l / r * math.log(left) if 0.0 < left < 1.0 else 0.0


def advance(p: Array, dt: float, v: float, x: Array) -> tuple[Array, Array]:
    """(i, ω) one period after x = (i, ω, τ_L), and its derivative by x (2, 3), for the course that x takes:
    the neighbours' is the same."""
    way, start = _begun(p, dt, v, x)
    transition = exponential(dynamics(p, v, way.friction, way.stands) * way.seconds)
    state, by_state = (transition @ start)[:2], transition[:2, :3]
    if way.stands:  # whatever the speed was
        state[1] = 0.0
        by_state[1] = 0.0
    return state, by_state


def sensitivity(p: Array, dt: float, v: float, x: Array) -> Array:
    """The derivative (2, 6) of that (i, ω) by the parameters: by the logarithms of R, L, K and J, and by b
    and τ_c in their units."""
    way, start = _begun(p, dt, v, x)
    larger = np.zeros((PARAMETERS, 8, 8))
    larger[:, :4, :4] = larger[:, 4:, 4:] = dynamics(p, v, way.friction, way.stands)
    larger[:, :4, 4:] = dynamics_by_parameters(p, v, way.friction, way.stands)
    corner = exponential(larger * way.seconds)[:, :4, 4:]
    return (corner @ start)[:, :2].T


def _begun(p: Array, dt: float, v: float, x: Array) -> tuple[Course, Array]:
    i, w, load = x
    way = course(p, dt, v, i, w, load)
    return way, np.array([way.current, w, load, 1.0])
