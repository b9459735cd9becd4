"""The DC motor over one sample period and its derivatives in closed form: compiled, in float64.

`twin.kernels.motor_reference` has the same by exponentials of matrices, to be read; this is held to it.

    L di/dt = v - R i - K ω
    J dω/dt = K i - b ω - τ_c sgn(ω) - τ_L

With the voltage, the load τ_L and the friction held, this is linear: ẋ = A x + w. For a 2x2 matrix Cayley and
Hamilton's theorem leaves two numbers of the exponential and two of its integral,

    exp(A t) = c0 + c1 A,    ∫ exp(A s) ds = d0 + d1 A,

functions of A's trace and determinant alone (Moler & Van Loan, "Nineteen dubious ways", SIAM Review 45(1),
2003, method 10). So the exact discretisation is a dozen operations, and its derivatives by the parameters are
those of four functions of two numbers.

Friction is a torque of the mode: forward, backward, or stuck where the motor stands and the friction balances
the other torques (Karnopp 1985). A speed that passes through zero within a period sticks there, or goes on
against the friction of the other direction for the rest of it.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numba import njit

from twin.kernels.motor_reference import PARAMETERS as PARAMETERS

_SERIES_BELOW: Final = 1e-4  # (q t)²: there the series of sinh(q t) / q is exact to 1e-13
_INLINE: Final[dict[str, Any]] = {"fastmath": {"contract"}, "inline": "never", "nogil": True}


@njit(**_INLINE)
def coefficients(trace: float, det: float, t: float, c: Any) -> None:
    """c0, c1, d0, d1 and then their derivatives by the trace and by the determinant: c (3, 4)."""
    s = 0.5 * trace
    square = s * s - det  # q²
    z = square * t * t
    if abs(z) < _SERIES_BELOW:  # nearly equal eigenvalues
        e = math.exp(s * t)
        even = e * (1.0 + z / 2.0 + z * z / 24.0)
        odd = e * t * (1.0 + z / 6.0 + z * z / 120.0)
        d_odd = e * t**3 * (1.0 / 6.0 + z / 60.0 + z * z / 1680.0)
    else:
        q = math.sqrt(abs(square))
        if square > 0:  # both exponents are negative: nothing overflows
            up, down = math.exp((s + q) * t), math.exp((s - q) * t)
            even, odd = 0.5 * (up + down), 0.5 * (up - down) / q
        else:
            e = math.exp(s * t)
            even, odd = e * math.cos(q * t), e * math.sin(q * t) / q
        d_odd = (t * even - odd) / (2.0 * square)
    d_even = 0.5 * t * odd
    c0, c1 = even - s * odd, odd
    d1 = (1.0 - c0) / det
    c[0, 0], c[0, 1], c[0, 2], c[0, 3] = c0, c1, c1 - d1 * trace, d1
    # by the trace: s' = 1/2, (q²)' = s; by the determinant: s' = 0, (q²)' = -1
    for row in range(1, 3):
        ds, dq = (0.5, s) if row == 1 else (0.0, -1.0)
        de, do = ds * t * even + dq * d_even, ds * t * odd + dq * d_odd
        dc0 = de - ds * odd - s * do
        dd1 = -dc0 / det
        dt = 1.0
        if row == 2:
            dd1 -= d1 / det
            dt = 0.0
        c[row, 0], c[row, 1], c[row, 2], c[row, 3] = dc0, do, do - dd1 * trace - d1 * dt, dd1


@njit(**_INLINE)
def advance(p: Any, dt: float, v: float, x: Any, new: Any, f: Any, g: Any, c: Any, sensitive: bool) -> None:
    """The state one period after x = (i, ω, τ_L), into `new`.

    `p` holds the six parameters, then the units in which b and τ_c change. f (2, 3) becomes the derivative by
    x, and, where asked for, g (2, 6) that by the logarithms of R, L, K and J, and by b and τ_c in their
    units: they may be zero, and have no logarithm then. c (3, 4) is room for the coefficients.
    """
    r, l, k, j, b, dry = p[0], p[1], p[2], p[3], p[4], p[5]  # noqa: E741
    i, w, load = x[0], x[1], x[2]
    new[2] = load
    mode = 1.0 if w > 0.0 else -1.0
    if w == 0.0:
        mode = 1.0 if k * i > load else -1.0
        if abs(k * i - load) <= dry:
            wait = _breakaway(p, dt, v, i, load)
            if wait >= dt:
                mode = 0.0
            else:
                i = v / r + (i - v / r) * math.exp(-r * wait / l)
                mode = 1.0 if k * v / r > load else -1.0
                dt -= wait
    share = (
        1.0  # of the period, in which the friction has the sign of the mode, less that in which it has not
    )
    trace, det = -r / l - b / j, (r * b + k * k) / (l * j)
    coefficients(trace, det, dt, c)
    a00, a01, a10, a11 = -r / l, -k / l, k / j, -b / j
    if mode != 0.0:
        w0 = v / l
        w1 = -(mode * dry + load) / j
        flow1 = a10 * i + a11 * w
        end = (c[0, 0] * w + c[0, 1] * flow1) + (c[0, 2] * w1 + c[0, 3] * (a10 * w0 + a11 * w1))
        if mode * end < 0.0 and mode * w >= 0.0:  # it passes through zero
            first = w / (w - end)
            middle = i + first * ((v - r * i - k * w) / l) * dt if r * dt < l else (v - k * w) / r
            if abs(k * middle - load) <= dry:
                mode = 0.0
            else:
                share = 2.0 * first - 1.0
    if mode == 0.0:
        _stuck(p, dt, v, i, new, f, g, sensitive)
        return
    torque = mode * share * dry
    w0, w1 = v / l, -(torque + load) / j
    ax0, ax1 = a00 * i + a01 * w, a10 * i + a11 * w
    aw0, aw1 = a00 * w0 + a01 * w1, a10 * w0 + a11 * w1
    new[0] = c[0, 0] * i + c[0, 1] * ax0 + c[0, 2] * w0 + c[0, 3] * aw0
    new[1] = c[0, 0] * w + c[0, 1] * ax1 + c[0, 2] * w1 + c[0, 3] * aw1
    f[0, 0], f[0, 1] = c[0, 0] + c[0, 1] * a00, c[0, 1] * a01
    f[1, 0], f[1, 1] = c[0, 1] * a10, c[0, 0] + c[0, 1] * a11
    f[0, 2], f[1, 2] = -c[0, 3] * a01 / j, -(c[0, 2] + c[0, 3] * a11) / j
    if not sensitive:
        return
    for n in range(PARAMETERS):
        # derivatives of A, w, trace and determinant by coordinate n
        d00 = d01 = d10 = d11 = e0 = e1 = d_trace = d_det = 0.0
        if n == 0:
            d00, d_trace, d_det = a00, a00, r * b / (l * j)
        elif n == 1:
            d00, d01, e0, d_trace, d_det = -a00, -a01, -w0, -a00, -det
        elif n == 2:
            d01, d10, d_det = a01, a10, 2.0 * k * k / (l * j)
        elif n == 3:
            d10, d11, e1, d_trace, d_det = -a10, -a11, -w1, -a11, -det
        elif n == 4:
            d11 = -p[6] / j
            d_trace, d_det = d11, r * p[6] / (l * j)
        else:
            e1 = -mode * share * p[7] / j
        c0 = c[1, 0] * d_trace + c[2, 0] * d_det
        c1 = c[1, 1] * d_trace + c[2, 1] * d_det
        d0 = c[1, 2] * d_trace + c[2, 2] * d_det
        d1 = c[1, 3] * d_trace + c[2, 3] * d_det
        g[0, n] = c0 * i + c1 * ax0 + d0 * w0 + d1 * aw0 + c[0, 1] * (d00 * i + d01 * w)
        g[0, n] += c[0, 3] * (d00 * w0 + d01 * w1 + a00 * e0 + a01 * e1) + c[0, 2] * e0
        g[1, n] = c0 * w + c1 * ax1 + d0 * w1 + d1 * aw1 + c[0, 1] * (d10 * i + d11 * w)
        g[1, n] += c[0, 3] * (d10 * w0 + d11 * w1 + a10 * e0 + a11 * e1) + c[0, 2] * e1


@njit(**_INLINE)
def _breakaway(p: Any, dt: float, v: float, i: float, load: float) -> float:
    """When, within the period, the current of a rotor that stands pulls it loose; dt if it does not."""
    r, l, k, dry = p[0], p[1], p[2], p[5]  # noqa: E741
    final = v / r
    away = k * final - load
    if abs(away) <= dry:
        return dt
    # K i(t) - τ_L = ± τ_c, where i(t) = v/R + (i - v/R) exp(-R t / L)
    limit = ((dry if away > 0.0 else -dry) + load) / k
    rest = (limit - final) / (i - final)
    return min(dt, -l / r * math.log(rest)) if 0.0 < rest < 1.0 else 0.0


@njit(**_INLINE)
def _stuck(p: Any, dt: float, v: float, i: float, new: Any, f: Any, g: Any, sensitive: bool) -> None:
    """The rotor stands: the speed is zero, and the current a first-order lag."""
    r, l = p[0], p[1]  # noqa: E741
    e = math.exp(-r * dt / l)
    new[0], new[1] = e * i + (1.0 - e) * v / r, 0.0
    f[:, :] = 0.0
    f[0, 0] = e
    if sensitive:
        g[:, :] = 0.0
        de = -e * r * dt / l  # by the logarithm of R, and less that by that of L
        g[0, 0] = de * (i - v / r) - (1.0 - e) * v / r
        g[0, 1] = -de * (i - v / r)


def room() -> tuple[np.ndarray[Any, Any], ...]:
    """Arrays for `advance`: new (3,), f (2, 3), g (2, 6), c (3, 4)."""
    return np.zeros(3), np.zeros((2, 3)), np.zeros((2, PARAMETERS)), np.zeros((3, 4))
