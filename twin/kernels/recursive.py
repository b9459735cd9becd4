"""A linear model that learns from the first samples on, compiled: recursive least squares without a start.

The increment of each output is linear in φ(k) = [u(k) - u(0), ..., differences of y, ..., y(k) - y(0), 1]
over `TAPS` samples, an ARX model of that order written in differences. With R = Σ λ^(n-k) φ φᵀ and
B = Σ λ^(n-k) φ Δyᵀ (Ljung, System Identification, 2nd ed., section 11.2, in information form), the
coefficients solve

    (R + ridge diag R) C = B,    ridge = PRIOR_SAMPLES / n² + RIDGE,

by Cholesky's method. Nothing has to be known of the signals' scales, for the ridge goes with them; it fades
as samples come, so that few of them leave the answer near persistence, and no later one is biased by it. R
changes with each sample, C is solved for after each of the first ones and every `SOLVE_PERIOD` samples later.
An answer moves no further from the last sample than `MAX_STEP_RATIO` times the largest increment seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final, NamedTuple

import numpy as np
from numba import carray, njit, types

from twin.kernels.cache import kept
from twin.kernels.vectors import doubles, integer, pointer

TAPS: Final = 6
"""Samples that φ sees."""
MEMORY_SAMPLES: Final = 4_000.0
"""Samples in which the past fades to 1/e: λ = 1 - 1/this."""
PRIOR_SAMPLES: Final = 3.0
"""Weight of the start, persistence, in samples."""
RIDGE: Final = 1e-9
"""Smallest ridge, for signals of which one is a sum of the others."""
SOLVE_PERIOD: Final = 8
"""Samples between two solutions, later on."""
YOUNG_SOLVES: Final = 4
"""Solutions after each sample until there have been so many times as many samples as coefficients."""
MAX_STEP_RATIO: Final = 2.0
"""Increment of an answer, over the largest one measured."""

_INLINE: Final[dict[str, Any]] = {"fastmath": {"contract", "reassoc"}}


class Places(NamedTuple):
    """Places in a row's memory, in numbers of float64."""

    counts: int
    """Samples since the last break, and learned from in all; their weight n; samples since C was solved
    for."""
    first: int
    """(F,), the first sample of all."""
    past: int
    """(TAPS + 1, F), the newest samples, newest first."""
    phi: int
    """(n,) of the newest sample."""
    largest: int
    """(P,), the largest increments."""
    increments: int
    """(P,), the newest."""
    r: int
    """(n, n), below the diagonal and on it."""
    b: int
    """(n, P)."""
    c: int
    """(n, P)."""
    work: int
    """(n, n), the factor."""
    size: int


class Call(NamedTuple):
    """Places among the 64-bit integers with which the follower is called: addresses and numbers."""

    rows: int
    z: int
    """Samples (N, T, F) in float32."""
    y: int
    """(N, T, P) in float32: what is answered."""
    n: int
    steps: int
    learning: int
    """Whether to learn from these samples."""
    free: int
    """Whether to run free: then the outputs of all samples after the first are filled in."""


CALL: Final = Call(*range(len(Call._fields)))
SEEN, LEARNED, WEIGHT, SINCE = range(4)


def coefficients(features: int) -> int:
    """n, those of one output."""
    return TAPS * features + 1


def places(features: int, outputs: int) -> Places:
    """A row's memory."""
    n = coefficients(features)
    sizes = 4, features, (TAPS + 1) * features, n, outputs, outputs, n * n, n * outputs, n * outputs, n * n
    return Places(*accumulate((0, *sizes)))


@njit(**_INLINE)
def _regress(phi: Any, past: Any, first: Any, inputs: Any) -> None:
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


@njit(**_INLINE)
def _take_in(r: Any, b: Any, phi: Any, increments: Any, keep: Any) -> None:
    """R and B after one more sample."""
    n = len(phi)
    for i in range(n):
        x = phi[i]
        for j in range(i + 1):
            r[i, j] = keep * r[i, j] + x * phi[j]
        for p in range(len(increments)):
            b[i, p] = keep * b[i, p] + x * increments[p]


@njit(**_INLINE)
def _solve(c: Any, r: Any, b: Any, g: Any, ridge: Any) -> None:
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


@lru_cache(maxsize=16)
def follower(inputs: int, outputs: int) -> Callable[[int], None]:
    """What takes in samples and answers each; called with the address of the integers that `Call` names."""
    features = inputs + outputs
    at, n = places(features, outputs), coefficients(features)
    count, first_at, past_at, phi_at, largest_at, increments_at, r_at, b_at, c_at, work_at, size = at
    keep = 1.0 - 1.0 / MEMORY_SAMPLES

    def follow(call: Any) -> None:
        rows, steps = integer(call, CALL.n), integer(call, CALL.steps)
        learning, free = integer(call, CALL.learning), integer(call, CALL.free)
        memory = integer(call, CALL.rows)
        z = carray(pointer(integer(call, CALL.z)), (rows, steps, features))
        y = carray(pointer(integer(call, CALL.y)), (rows, steps, outputs))
        for row in range(rows):
            base = memory + 8 * row * size
            m = doubles(base)
            first = carray(doubles(base + 8 * first_at), (features,))
            past = carray(doubles(base + 8 * past_at), (TAPS + 1, features))
            phi = carray(doubles(base + 8 * phi_at), (n,))
            largest = carray(doubles(base + 8 * largest_at), (outputs,))
            increments = carray(doubles(base + 8 * increments_at), (outputs,))
            r = carray(doubles(base + 8 * r_at), (n, n))
            b, c = (
                carray(doubles(base + 8 * b_at), (n, outputs)),
                carray(doubles(base + 8 * c_at), (n, outputs)),
            )
            g = carray(doubles(base + 8 * work_at), (n, n))
            for t in range(steps):
                if m[count + SEEN] == 0.0:  # what was before the first sample was like it
                    for tap in range(TAPS + 1):
                        for f in range(features):
                            past[tap, f] = z[row, t, f]
                    if m[count + LEARNED] == 0.0:
                        for f in range(features):
                            first[f] = z[row, t, f]
                else:
                    for f in range(features):
                        for tap in range(TAPS, 0, -1):
                            past[tap, f] = past[tap - 1, f]
                        past[0, f] = z[row, t, f]
                    if learning and m[count + SEEN] > TAPS:
                        for p in range(outputs):
                            increments[p] = past[0, inputs + p] - past[1, inputs + p]
                            largest[p] = max(largest[p], abs(increments[p]))
                        _take_in(r, b, phi, increments, keep)
                        m[count + LEARNED] += 1.0
                        m[count + WEIGHT] = keep * m[count + WEIGHT] + 1.0
                        m[count + SINCE] += 1.0
                        if m[count + LEARNED] < YOUNG_SOLVES * n or m[count + SINCE] >= SOLVE_PERIOD:
                            m[count + SINCE] = 0.0
                            _solve(c, r, b, g, PRIOR_SAMPLES / m[count + WEIGHT] ** 2 + RIDGE)
                m[count + SEEN] = m[count + SEEN] + 1.0 if learning else min(m[count + SEEN] + 1.0, 1.0)
                _regress(phi, past, first, inputs)
                for p in range(outputs):
                    x = 0.0
                    for i in range(n):
                        x += c[i, p] * phi[i]
                    most = MAX_STEP_RATIO * largest[p]
                    y[row, t, p] = past[0, inputs + p] + min(max(x, -most), most)
                if free and t + 1 < steps:
                    for p in range(outputs):
                        z[row, t + 1, inputs + p] = y[row, t, p]

    constants = inputs, outputs, TAPS, MEMORY_SAMPLES, PRIOR_SAMPLES, RIDGE, SOLVE_PERIOD
    compiled, signature = kept(follow, *constants, YOUNG_SOLVES, MAX_STEP_RATIO, **_INLINE), (types.int64,)
    compiled.compile(signature)
    entry: Callable[[int], None] = compiled.overloads[signature].entry_point
    return entry


def memory(rows: int, features: int, outputs: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(N, size) of rows that have seen nothing."""
    return np.zeros((rows, places(features, outputs).size))
