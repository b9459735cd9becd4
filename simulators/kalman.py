"""The extended Kalman filter behind the floor, as machine code: `simulators.floor` says what it is and why.

Its state from sample to sample: x (3,), the mean of (i, ω, τ_L) over all hypotheses; calm (3,) and cov
(3, 3), mean and covariance if the load did not jump lately; bank (M, 5), of each hypothesis of a jump its
signature (3,), the error of `calm` per unit of the jump's height, and two sums over the innovations e, whose
covariance is S: gᵀS⁻¹g, the information on the height (-1 where there is no hypothesis), and gᵀS⁻¹e, with g
the signature's measured part.

What it knows: p (7,) the motor, r (2,) variances of the readings, encoder (2,) counts per revolution and
clock in Hz, load (4,) its variance, that of the walk's step, and variance and probability of jumps.

Arrays are copied number by number: for `x[:] = calm` Numba compiles what would tell of unequal lengths, text
and all, which takes nearly as long as the filter itself.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from simulators.exact import tangent
from twin.kernels.cache import kept

Array = NDArray[np.float64]
Inverse = tuple[float, float, float]
"""Of a symmetric matrix (2, 2): its elements 11, 12 and 22."""

BREAKAWAY_SIGMA: Final = 4.0
"""Standard deviations of the speed sensor's noise, beyond which a motor that should stand still moves."""
_SOURCES_DIGEST: Final = hashlib.sha256(
    b"".join((Path(__file__).parent / name).read_bytes() for name in ("exact.py", "kalman.py"))
).hexdigest()


@njit(nogil=True)
def correct(e0: float, e1: float, r0: float, r1: float, calm: Array, cov: Array, gain: Array) -> Inverse:
    """Take the innovations in; gain (3, 2) is filled, and S⁻¹ returned."""
    s00, s01, s11 = cov[0, 0] + r0, cov[0, 1], cov[1, 1] + r1
    det = s00 * s11 - s01 * s01
    i00, i01, i11 = s11 / det, -s01 / det, s00 / det
    for a in range(3):
        gain[a, 0] = cov[a, 0] * i00 + cov[a, 1] * i01
        gain[a, 1] = cov[a, 0] * i01 + cov[a, 1] * i11
        calm[a] += gain[a, 0] * e0 + gain[a, 1] * e1
    c00, c01, c02, c11, c12 = cov[0, 0], cov[0, 1], cov[0, 2], cov[1, 1], cov[1, 2]
    cov[0, 0] -= gain[0, 0] * c00 + gain[0, 1] * c01
    cov[1, 0] -= gain[1, 0] * c00 + gain[1, 1] * c01
    cov[1, 1] -= gain[1, 0] * c01 + gain[1, 1] * c11
    cov[2, 0] -= gain[2, 0] * c00 + gain[2, 1] * c01
    cov[2, 1] -= gain[2, 0] * c01 + gain[2, 1] * c11
    cov[2, 2] -= gain[2, 0] * c02 + gain[2, 1] * c12
    cov[0, 1], cov[0, 2], cov[1, 2] = cov[1, 0], cov[2, 0], cov[2, 1]
    return i00, i01, i11


@njit(nogil=True)
def weigh(
    e0: float, e1: float, inverse: Inverse, load: Array, gain: Array, bank: Array, weight: Array
) -> float:
    """Posterior weights (M,) of the hypotheses after a correction; that of no jump is returned.

    A height a ~ N(0, σ²) explains the innovations better by √(var/σ²) exp(½ d² var), where var = 1/(J + 1/σ²)
    and J and d are the two sums.
    """
    i00, i01, i11 = inverse
    largest = 0.0  # of the logarithms, over that of no jump
    for h in range(len(bank)):
        if bank[h, 3] < 0.0:
            continue
        g0, g1 = bank[h, 0], bank[h, 1]
        a0, a1 = i00 * g0 + i01 * g1, i01 * g0 + i11 * g1
        bank[h, 3] += g0 * a0 + g1 * a1
        bank[h, 4] += e0 * a0 + e1 * a1
        for a in range(3):
            bank[h, a] -= gain[a, 0] * g0 + gain[a, 1] * g1
        variance = 1.0 / (bank[h, 3] + 1.0 / load[2])
        weight[h] = math.log(load[3] * math.sqrt(variance / load[2])) + 0.5 * bank[h, 4] ** 2 * variance
        largest = max(largest, weight[h])
    none = math.exp(-largest)
    total = none
    for h in range(len(bank)):
        weight[h] = math.exp(weight[h] - largest) if bank[h, 3] >= 0.0 else 0.0
        total += weight[h]
    for h in range(len(bank)):
        weight[h] /= total
    return none / total


@njit(nogil=True)
def average(x: Array, calm: Array, bank: Array, load: Array, weight: Array) -> None:
    """The mean over the hypotheses, into x."""
    for a in range(3):
        x[a] = calm[a]
    for h in range(len(bank)):
        if weight[h] > 0.0:
            height = weight[h] * bank[h, 4] / (bank[h, 3] + 1.0 / load[2])
            for a in range(3):
                x[a] += height * bank[h, a]


@njit(nogil=True)
def merge(x: Array, calm: Array, cov: Array, bank: Array, load: Array, weight: Array, none: float) -> None:
    """All hypotheses into one Gaussian of the same mean and covariance; then there are none."""
    d = np.empty(3)
    for a in range(3):
        d[a] = calm[a] - x[a]
    for a in range(3):
        for b in range(3):
            cov[a, b] += none * d[a] * d[b]
    for h in range(len(bank)):
        if weight[h] > 0.0:
            variance = 1.0 / (bank[h, 3] + 1.0 / load[2])
            for a in range(3):
                d[a] = calm[a] + bank[h, 4] * variance * bank[h, a] - x[a]
            for a in range(3):
                for b in range(3):
                    cov[a, b] += weight[h] * (d[a] * d[b] + variance * bank[h, a] * bank[h, b])
    for a in range(3):
        calm[a] = x[a]
    bank[:, 3] = -1.0


@njit(nogil=True)
def predict(
    p: Array,
    v: float,
    walk: float,
    dt: float,
    x: Array,
    calm: Array,
    cov: Array,
    bank: Array,
    f: Array,
    g: Array,
) -> None:
    """On to the next sample, linearised where the mean goes; f (3, 3) and g (2, 3) are room to work in."""
    d0, d1, d2 = calm[0] - x[0], calm[1] - x[1], calm[2] - x[2]
    x[0], x[1] = tangent(p, x[0], x[1], v, x[2], dt, f)
    calm[0] = x[0] + f[0, 0] * d0 + f[0, 1] * d1 + f[0, 2] * d2
    calm[1] = x[1] + f[1, 0] * d0 + f[1, 1] * d1 + f[1, 2] * d2
    cov[2, 2] += walk  # the load has its new value when the sample begins
    for a in range(2):
        for b in range(3):
            g[a, b] = f[a, 0] * cov[0, b] + f[a, 1] * cov[1, b] + f[a, 2] * cov[2, b]
    for a in range(2):
        for b in range(2):
            cov[a, b] = g[a, 0] * f[b, 0] + g[a, 1] * f[b, 1] + g[a, 2] * f[b, 2]
        cov[a, 2] = cov[2, a] = g[a, 2]
    cov[1, 0] = cov[0, 1]
    for h in range(len(bank)):
        if bank[h, 3] >= 0.0:
            a0, a1, a2 = bank[h, 0], bank[h, 1], bank[h, 2]
            bank[h, 0] = f[0, 0] * a0 + f[0, 1] * a1 + f[0, 2] * a2
            bank[h, 1] = f[1, 0] * a0 + f[1, 1] * a1 + f[1, 2] * a2


def _follow(
    p: Array,
    r: Array,
    encoder: Array,
    load: Array,
    dt: float,
    z: Array,
    x: Array,
    calm: Array,
    cov: Array,
    bank: Array,
    head: NDArray[np.int64],
    errors: Array,
) -> None:
    """Samples z (T, 3) in turn, voltage, current and speed; the errors (T, 2) of what was expected of them.

    head (1,) is the place of the oldest hypothesis. Where a reading is NaN there was none.
    """
    f, g, gain, weight = np.empty((3, 3)), np.empty((2, 3)), np.empty((3, 2)), np.zeros(len(bank))
    for k in range(len(z)):
        y0, y1 = z[k, 1], z[k, 2]
        errors[k, 0], errors[k, 1] = y0 - x[0], y1 - x[1]
        r1 = r[1]
        if encoder[0] > 0.0:  # whole edges over whole ticks of its clock
            rate = encoder[0] * abs(x[1]) / (2 * math.pi)
            r1 += (x[1] * rate / (max(math.floor(rate * dt), 1.0) * encoder[1])) ** 2 / 12
        if math.isnan(y0) or math.isnan(y1):
            pass
        elif x[1] == 0.0 and cov[1, 1] == 0.0 and y1 * y1 > BREAKAWAY_SIGMA * BREAKAWAY_SIGMA * r1:
            # it stood, so that nothing was known of the load but that friction held it; and now it moves
            x[0], x[1], x[2] = y0, y1, p[2] * y0 - math.copysign(p[6], y1)
            for a in range(3):
                calm[a] = x[a]
            cov[:] = 0.0
            cov[0, 0], cov[1, 1], cov[2, 2] = r[0], r1, load[0]
            bank[:, 3] = -1.0
        else:
            e0, e1 = y0 - calm[0], y1 - calm[1]
            inverse = correct(e0, e1, r[0], r1, calm, cov, gain)
            none = weigh(e0, e1, inverse, load, gain, bank, weight)
            average(x, calm, bank, load, weight)
            if none < 0.5 and bank[head[0], 3] >= 0.0:  # the oldest is about to go, and it was no false alarm
                merge(x, calm, cov, bank, load, weight, none)
        if len(bank) > 0 and load[3] > 0.0:
            bank[head[0]] = 0.0
            bank[head[0], 2] = 1.0
            head[0] = (head[0] + 1) % len(bank)
        predict(p, z[k, 0], load[1], dt, x, calm, cov, bank, f, g)


follow = kept(_follow, _SOURCES_DIGEST, nogil=True)
