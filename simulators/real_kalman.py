"""The extended Kalman filter of a real motor, as machine code: `simulators.real_floor` says what it is.

Its state s (8 + 2 D + 1,) is that of `simulators.real_flow` and the load; cov is the covariance of its error.
What it knows: p (27,) the motor, r (2,) variances of the readings, encoder (2,) counts per revolution and
clock in Hz, load (2,) variance of the load and of its step, small (8,) a difference in each state by which
the flow's derivative is taken. Arrays are copied number by number, as in `simulators.kalman`.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from simulators.kalman import BREAKAWAY_SIGMA
from simulators.real_flow import (
    COGGING,
    COMMUTATION,
    CURRENT_FILTER,
    DELAY,
    HEAT_R,
    K_T,
    STIFFNESS,
    advance,
    dry,
    gain,
)
from twin.kernels.cache import kept

Array = NDArray[np.float64]

_SOURCES_DIGEST: Final = hashlib.sha256(
    b"".join((Path(__file__).parent / name).read_bytes() for name in ("real_flow.py", "real_kalman.py"))
).hexdigest()


@njit(nogil=True)
def derivative(
    p: Array, s: Array, v: float, dt: float, step: float, small: Array, f: Array, room: Array
) -> None:
    """s one sample later, in place, and into f (S, S) its derivative by s before, by differences.

    The filters and what is on its way act on nothing else, so their part is known.
    """
    size = len(s) - 1
    load = s[size]
    before, after, moved = s[:size].copy(), s[:size].copy(), np.empty(size)
    advance(p, after, v, load, dt, step, room)
    f[:] = 0.0
    f[size, size] = 1.0
    late = max(p[DELAY] - dt * math.floor(p[DELAY] / dt * (1.0 + 1e-9)), 0.0)
    for c in range(2):
        filtering = p[CURRENT_FILTER + c]
        if filtering > 0.0:
            f[6 + c, 6 + c] = math.exp(-dt / filtering)
            f[8 + c, 6 + c] = math.exp(-(dt - late) / filtering)
    for c in range(10, size):
        f[c, c - 2] = 1.0
    for c in range(7):  # 0 to 5 the states, 6 the load
        if (
            (c == 2 and p[COGGING] == 0.0 and p[COMMUTATION] == 0.0)
            or ((c == 3 or c == 4) and p[STIFFNESS] == 0.0)
            or (c == 5 and p[HEAT_R] == 0.0)
        ):
            f[c, c] = 1.0
            continue
        column = size if c == 6 else c
        if c == 1 and before[1] == 0.0 and after[1] == 0.0:
            continue  # a rotor that stands is not in motion by a little
        for a in range(size):
            moved[a] = before[a]
        if c < 6:
            moved[c] += small[c]
        advance(p, moved, v, load + (small[6] if c == 6 else 0.0), dt, step, room)
        for a in range(10):
            f[a, column] = (moved[a] - after[a]) / small[c]
    for a in range(size):
        s[a] = after[a]


@njit(nogil=True)
def begin_anew(
    p: Array, s: Array, cov: Array, y0: float, y1: float, r0: float, r1: float, load: Array
) -> None:
    """It stood, so that nothing was known of the load but that friction held it; and now it moves."""
    size = len(s) - 1
    k_t = p[K_T] * gain(p, s)
    s[0], s[1], s[3] = y0, y1, y1
    s[size] = k_t * y0 - math.copysign(dry(p, 1 if y1 > 0.0 else -1, 0.0), y1)
    cov[:] = 0.0
    cov[2, 2] = 1e-2
    for c in range(6, size):
        s[c] = y0 if c % 2 == 0 else y1
    for a in (0, 6, 8):
        for b in (0, 6, 8):
            cov[a, b] = r0
    for a in (1, 3, 7, 9):
        for b in (1, 3, 7, 9):
            cov[a, b] = r1
    cov[size, size] = load[0]
    if p[STIFFNESS] > 0.0:
        s[4] = s[size] / p[STIFFNESS]
        cov[4, 4] = load[0] / p[STIFFNESS] ** 2
        cov[4, size] = cov[size, 4] = load[0] / p[STIFFNESS]
    if p[STIFFNESS] == 0.0:
        cov[3, :] = 0.0
        cov[:, 3] = 0.0
        s[3] = 0.0


@njit(nogil=True)
def correct(s: Array, cov: Array, e0: float, e1: float, r0: float, r1: float) -> None:
    """Take in the innovations of the last two but the load: what comes out of the delay."""
    size = len(s)
    a, b = size - 3, size - 2
    s00, s01, s11 = cov[a, a] + r0, cov[a, b], cov[b, b] + r1
    det = s00 * s11 - s01 * s01
    g0, g1 = cov[:, a].copy(), cov[:, b].copy()
    for j in range(size):
        k0 = (g0[j] * s11 - g1[j] * s01) / det
        k1 = (g1[j] * s00 - g0[j] * s01) / det
        s[j] += k0 * e0 + k1 * e1
        for c in range(size):
            cov[j, c] -= k0 * g0[c] + k1 * g1[c]
    for j in range(size):
        for c in range(j):
            cov[j, c] = cov[c, j] = 0.5 * (cov[j, c] + cov[c, j])


def _follow(
    p: Array,
    r: Array,
    encoder: Array,
    load: Array,
    small: Array,
    dt: float,
    step: float,
    z: Array,
    s: Array,
    cov: Array,
    errors: Array,
) -> None:
    """Samples z (T, 3) in turn, voltage, current and speed; the errors (T, 2) of what was expected of them.

    Where a reading is NaN there was none.
    """
    size = len(s)
    f, g, room = np.empty((size, size)), np.empty((size, size)), np.empty((5, 8))
    for k in range(len(z)):
        y0, y1 = z[k, 1], z[k, 2]
        e0, e1 = y0 - s[size - 3], y1 - s[size - 2]
        errors[k, 0], errors[k, 1] = e0, e1
        r1 = r[1]
        if encoder[0] > 0.0:  # whole edges over whole ticks of its clock
            w = s[size - 2]
            rate = encoder[0] * abs(w) / (2 * math.pi)
            r1 += (w * rate / (max(math.floor(rate * dt), 1.0) * encoder[1])) ** 2 / 12
        if math.isnan(y0) or math.isnan(y1):
            pass
        elif (
            s[1] == 0.0 and cov[1, 1] == 0.0 and e1 * e1 > BREAKAWAY_SIGMA**2 * (r1 + cov[size - 2, size - 2])
        ):
            begin_anew(p, s, cov, y0, y1, r[0], r1, load)
        else:
            stands = s[1] == 0.0 and cov[1, 1] == 0.0
            correct(s, cov, e0, e1, r[0], r1)
            if stands:
                s[1] = 0.0
        cov[size - 1, size - 1] += load[1]
        derivative(p, s, z[k, 0], dt, step, small, f, room)
        for a in range(size):
            for b in range(size):
                total = 0.0
                for c in range(size):
                    total += f[a, c] * cov[c, b]
                g[a, b] = total
        for a in range(size):
            for b in range(a + 1):
                total = 0.0
                for c in range(size):
                    total += g[a, c] * f[b, c]
                cov[a, b] = cov[b, a] = total
        if s[1] == 0.0:  # it stands, whatever it would do after a little more of anything
            cov[1, :] = 0.0
            cov[:, 1] = 0.0


follow = kept(_follow, _SOURCES_DIGEST, nogil=True)
