"""Linear least squares of what changes with each sample, compiled: the regressors, the sums, the solution.

The increment of each output is linear in φ(k) = [u(k) - u(0), ..., differences of y, ..., y(k) - y(0), 1]
over `TAPS` samples, an ARX model of that order written in differences. With R = Σ λ^(n-k) φ φᵀ and
B = Σ λ^(n-k) φ Δyᵀ (Ljung, System Identification, 2nd ed., section 11.2, in information form), the
coefficients C solve (R + ridge diag R) C = B by Cholesky's method. Nothing has to be known of the signals'
scales, for the ridge goes with them.
"""

from __future__ import annotations

import math
from typing import Any, Final

from numba import njit

TAPS: Final = 6
"""Samples that φ sees."""

INLINE: Final[dict[str, Any]] = {"fastmath": {"contract", "reassoc"}}


def coefficients(features: int) -> int:
    """n, those of one output."""
    return TAPS * features + 1


@njit(**INLINE)
def regress(phi: Any, past: Any, first: Any, inputs: Any) -> None:
    """φ of the newest samples `past` (TAPS + 1, F)."""
    features = past.shape[1]
    j = 0
    for tap in range(TAPS):
        for f in range(features):
            if f < inputs:
                phi[j] = past[tap, f] - first[f]
            elif tap < TAPS - 1:
                phi[j] = past[tap, f] - past[tap + 1, f]
            else:
                phi[j] = past[0, f] - first[f]
            j += 1
    phi[j] = 1.0


@njit(**INLINE)
def take_in(r: Any, b: Any, phi: Any, increments: Any, keep: Any) -> None:
    """R and B after one more sample."""
    n = len(phi)
    for i in range(n):
        x = phi[i]
        for j in range(i + 1):
            r[i, j] = keep * r[i, j] + x * phi[j]
        for p in range(len(increments)):
            b[i, p] = keep * b[i, p] + x * increments[p]


@njit(**INLINE)
def solve(c: Any, r: Any, b: Any, g: Any, ridge: Any) -> None:
    """C from R and B, with the Cholesky factor in g."""
    n, outputs = b.shape
    for i in range(n):
        for j in range(i + 1):
            x = r[i, j]
            if i == j:
                x += ridge * x
            for k in range(j):
                x -= g[i, k] * g[j, k]
            if i == j:  # a signal that has never moved, or only with others, gets no coefficient
                least = 0.5 * ridge * r[i, i]
                g[i, i] = math.sqrt(x) if x > least else 0.0
            else:
                g[i, j] = x / g[j, j] if g[j, j] > 0.0 else 0.0
    for p in range(outputs):
        for i in range(n):
            x = b[i, p]
            for k in range(i):
                x -= g[i, k] * c[k, p]
            c[i, p] = x / g[i, i] if g[i, i] > 0.0 else 0.0
        for i in range(n - 1, -1, -1):
            x = c[i, p]
            for k in range(i + 1, n):
                x -= g[k, i] * c[k, p]
            c[i, p] = x / g[i, i] if g[i, i] > 0.0 else 0.0
