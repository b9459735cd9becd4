"""A linear model that learns from the first samples on, compiled: recursive least squares without a start.

The coefficients C solve the least squares of `twin.kernels.least_squares`, with

    ridge = PRIOR_SAMPLES / n² + RIDGE,

which fades as samples come, so that few of them leave the answer near persistence, and no later one is biased
by it. C is solved for after each of the first samples, and every `SOLVE_PERIOD` later. An answer moves no
further from the last sample than `MAX_STEP_RATIO` times the largest increment seen.

**Another plant** shows in errors far beyond the usual ones. Then R and B are kept twice: beside the old ones,
young ones that count what was before as no more than `PRIOR_SAMPLES` samples (a covariance reset, Ljung,
section 11.2), so that what comes now decides. Each output is answered by those that erred less of late. After
a while the young ones take the place of the old if they err less, and otherwise end: a step of a load, or dry
friction, is no other plant.
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
from twin.kernels.least_squares import INLINE, TAPS, coefficients, regress, solve, take_in
from twin.kernels.vectors import doubles, integer, pointer

MEMORY_SAMPLES: Final = 4_000.0
"""Samples in which the past fades to 1/e: λ = 1 - 1/this."""
PRIOR_SAMPLES: Final = 3.0
"""Weight of the start, persistence, in samples."""
RIDGE: Final = 1e-9
"""Smallest ridge, for signals of which one is a sum of the others."""
SOLVE_PERIOD: Final = 8
"""Samples between two solutions, later on."""
MAX_STEP_RATIO: Final = 2.0
"""Increment of an answer, over the largest one measured."""
CHANGE_RATIO: Final = 12.0
"""Smoothed square of the errors over their variance, above which young R and B begin."""
RAISE_RATIO: Final = 1.5
"""New threshold of that, over the smoothed square that turned out to be no other plant's."""
SQUARE_WEIGHT: Final = 0.25
"""Weight of the newest sample in the smoothed square."""
VARIANCE_WEIGHT: Final = 0.002
"""Weight of the newest sample in the variance of the errors, at least; soon after a change it is larger."""
RECENT_WEIGHT: Final = 0.05
"""Weight of the newest sample in the recent squared errors by which old and young are compared."""
SWITCH_RATIO: Final = 0.9
"""Recent squared error over that of those in use, below which the others answer: without a margin equal ones
would alternate."""
SETTLED: Final = 4
"""Samples until errors have a variance, and C is solved for no longer after each. Here and below: times as
many as there are coefficients."""
TRIED: Final = 16
"""Samples from which on the young may take the place of the old."""
MAX_TRIAL: Final = 32
"""Samples after which the young end."""
KEPT_RATIO: Final = 0.8
"""Recent squared error of the young over that of the old, as a geometric mean over the outputs, below which
they take their place."""


class Places(NamedTuple):
    """Places in a row's memory, in numbers of float64."""

    counts: int
    """Samples since the last break, learned from in all, since C was solved for, and since the young ones
    began, which counts on to no end where none are."""
    weight: int
    """(2,), n of the old and the young."""
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
    threshold: int
    """(2,), smoothed square above which young ones begin, less `CHANGE_RATIO`, which fades with the memory;
    and what it becomes if those that there are now end."""
    variance: int
    """(P,), of the errors."""
    square: int
    """(P,), the smoothed square of the errors, over their variance."""
    chosen: int
    """(P,), which of both answers."""
    recent: int
    """(2, P), recent squared errors of old and young."""
    expected: int
    """(2, P), what both expect of the next sample."""
    r: int
    """(2, n, n), old and young, below the diagonal and on it."""
    b: int
    """(2, n, P)."""
    c: int
    """(2, n, P)."""
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
SEEN, LEARNED, SINCE, AGE = range(4)
OLD, YOUNG = range(2)


def places(features: int, outputs: int) -> Places:
    """A row's memory."""
    n = coefficients(features)
    few = 4, 2, features, (TAPS + 1) * features, n, outputs, outputs, 2
    judged = outputs, outputs, outputs, 2 * outputs, 2 * outputs
    return Places(*accumulate((0, *few, *judged, 2 * n * n, 2 * n * outputs, 2 * n * outputs, n * n)))


@njit(**INLINE)
def _in_use(m: Any, at: Any, outputs: Any) -> Any:
    """Whether the young ones answer for most outputs."""
    votes = 0.0
    for p in range(outputs):
        votes += m[at.chosen + p]
    return 2.0 * votes > outputs


@njit(**INLINE)
def _judge(m: Any, at: Any, y: Any, n: Any) -> Any:
    """Take in the errors of what was expected of the outputs y; whether they show another plant.

    Before there are `SETTLED` n samples nothing is usual yet.
    """
    outputs = len(y)
    age, learned = m[at.counts + AGE], m[at.counts + LEARNED]
    compared, most = age <= MAX_TRIAL * n, 0.0
    m[at.threshold] *= 1.0 - 1.0 / MEMORY_SAMPLES
    for p in range(outputs):
        old = (y[p] - m[at.expected + p]) ** 2
        square = old
        if compared:
            young = (y[p] - m[at.expected + outputs + p]) ** 2
            square = min(old, young)
            m[at.recent + p] += RECENT_WEIGHT * (old - m[at.recent + p])
            m[at.recent + outputs + p] += RECENT_WEIGHT * (young - m[at.recent + outputs + p])
            used = int(m[at.chosen + p])
            mine, other = m[at.recent + used * outputs + p], m[at.recent + (1 - used) * outputs + p]
            if other < SWITCH_RATIO * mine:
                m[at.chosen + p] = 1.0 - used
        variance = m[at.variance + p]
        if learned < SETTLED * n:
            m[at.variance + p] += (square - variance) / (learned + 1.0)
            continue
        m[at.square + p] += SQUARE_WEIGHT * (square / (variance + 1e-300) - m[at.square + p])
        weight = max(VARIANCE_WEIGHT, 1.0 / (20.0 + age))
        m[at.variance + p] += weight * (min(square, 9.0 * variance) - variance)
        most = max(most, m[at.square + p])
    if age <= 2 * TAPS or most <= CHANGE_RATIO + m[at.threshold]:
        return False
    if compared and not _in_use(m, at, outputs):  # those that there are have not been of any use
        m[at.threshold] = max(m[at.threshold], m[at.threshold + 1])
    m[at.threshold + 1] = RAISE_RATIO * most - CHANGE_RATIO
    return most > CHANGE_RATIO + m[at.threshold]


@njit(**INLINE)
def _begin_young(m: Any, at: Any, r: Any, b: Any, c: Any) -> None:
    """Begin young R and B with those that answer now, old or young."""
    n, outputs = b.shape[1:]
    alive = m[at.counts + AGE] <= MAX_TRIAL * n
    first = YOUNG if alive and _in_use(m, at, outputs) else OLD
    keep = min(1.0, PRIOR_SAMPLES / m[at.weight + first])
    for i in range(n):
        for j in range(i + 1):
            r[YOUNG, i, j] = keep * r[first, i, j]
        for p in range(outputs):
            b[YOUNG, i, p] = keep * b[first, i, p]
            c[YOUNG, i, p] = c[first, i, p]
    m[at.weight + YOUNG] = keep * m[at.weight + first]
    for p in range(outputs):
        if not alive:
            m[at.recent + p] = m[at.variance + p]
        m[at.recent + outputs + p] = m[at.recent + first * outputs + p]
        m[at.square + p] = 1.0
    m[at.counts + AGE] = 0.0


@njit(**INLINE)
def _end_trial(m: Any, at: Any, r: Any, b: Any, c: Any) -> None:
    """Let the young take the place of the old where they have shown that they err less, or end in time."""
    n, outputs = b.shape[1:]
    age = m[at.counts + AGE]
    if age > MAX_TRIAL * n or age < TRIED * n:
        return
    ratio = 0.0
    for p in range(outputs):
        ratio += math.log((m[at.recent + outputs + p] + 1e-300) / (m[at.recent + p] + 1e-300)) / outputs
    if ratio < math.log(KEPT_RATIO):
        for i in range(n):
            for j in range(i + 1):
                r[OLD, i, j] = r[YOUNG, i, j]
            for p in range(outputs):
                b[OLD, i, p], c[OLD, i, p] = b[YOUNG, i, p], c[YOUNG, i, p]
        m[at.weight + OLD] = m[at.weight + YOUNG]
        m[at.counts + AGE] = MAX_TRIAL * n
    elif age == MAX_TRIAL * n:
        m[at.threshold] = max(m[at.threshold], m[at.threshold + 1])
    if m[at.counts + AGE] == MAX_TRIAL * n:
        m[at.counts + AGE] += 1.0
        for p in range(outputs):
            m[at.chosen + p] = 0.0


@lru_cache(maxsize=16)
def follower(inputs: int, outputs: int) -> Callable[[int], None]:
    """What takes in samples and answers each; called with the address of the integers that `Call` names."""
    features = inputs + outputs
    at, n = places(features, outputs), coefficients(features)
    keep = 1.0 - 1.0 / MEMORY_SAMPLES

    # inlined by force: two sizes of a closure, read from disk, would share one name for the linker
    @njit(**INLINE, forceinline=True)
    def _learn(m: Any, past: Any, phi: Any, increments: Any, r: Any, b: Any, c: Any, g: Any) -> None:
        """Take in the newest sample, which phi belongs to, and solve for C where it is time."""
        y = past[0, inputs:]
        young = m[at.counts + AGE] <= MAX_TRIAL * n
        changed = m[at.counts + SEEN] > TAPS + 1 and _judge(m, at, y, n)
        for p in range(outputs):
            increments[p] = y[p] - past[1, inputs + p]
            m[at.largest + p] = max(m[at.largest + p], abs(increments[p]))
        for which in range(2 if young else 1):
            take_in(r[which], b[which], phi, increments, keep)
            m[at.weight + which] = keep * m[at.weight + which] + 1.0
        m[at.counts + LEARNED] += 1.0
        m[at.counts + SINCE] += 1.0
        due = m[at.counts + SINCE] >= SOLVE_PERIOD
        if due or m[at.counts + LEARNED] < SETTLED * n:
            m[at.counts + SINCE] = 0.0
            solve(c[OLD], r[OLD], b[OLD], g, PRIOR_SAMPLES / m[at.weight + OLD] ** 2 + RIDGE)
        if young and (due or m[at.counts + AGE] < SETTLED * n):
            solve(c[YOUNG], r[YOUNG], b[YOUNG], g, RIDGE)
        m[at.counts + AGE] += 1.0
        _end_trial(m, at, r, b, c)
        if changed:
            _begin_young(m, at, r, b, c)

    def follow(call: Any) -> None:
        rows, steps = integer(call, CALL.n), integer(call, CALL.steps)
        learning, free = integer(call, CALL.learning), integer(call, CALL.free)
        memory = integer(call, CALL.rows)
        z = carray(pointer(integer(call, CALL.z)), (rows, steps, features))
        y = carray(pointer(integer(call, CALL.y)), (rows, steps, outputs))
        for row in range(rows):
            base = memory + 8 * row * at.size
            m = doubles(base)
            first = carray(doubles(base + 8 * at.first), (features,))
            past = carray(doubles(base + 8 * at.past), (TAPS + 1, features))
            phi = carray(doubles(base + 8 * at.phi), (n,))
            increments = carray(doubles(base + 8 * at.increments), (outputs,))
            r = carray(doubles(base + 8 * at.r), (2, n, n))
            b = carray(doubles(base + 8 * at.b), (2, n, outputs))
            c = carray(doubles(base + 8 * at.c), (2, n, outputs))
            g = carray(doubles(base + 8 * at.work), (n, n))
            for t in range(steps):
                if m[at.counts + SEEN] == 0.0:  # what was before the first sample was like it
                    for tap in range(TAPS + 1):
                        for f in range(features):
                            past[tap, f] = z[row, t, f]
                    if m[at.counts + LEARNED] == 0.0:
                        m[at.counts + AGE] = MAX_TRIAL * n + 1.0
                        for f in range(features):
                            first[f] = z[row, t, f]
                else:
                    for f in range(features):
                        for tap in range(TAPS, 0, -1):
                            past[tap, f] = past[tap - 1, f]
                        past[0, f] = z[row, t, f]
                    if learning and m[at.counts + SEEN] > TAPS:
                        _learn(m, past, phi, increments, r, b, c, g)
                m[at.counts + SEEN] = (
                    m[at.counts + SEEN] + 1.0 if learning else min(m[at.counts + SEEN] + 1.0, 1.0)
                )
                regress(phi, past, first, inputs)
                young = m[at.counts + AGE] <= MAX_TRIAL * n
                for p in range(outputs):
                    for which in range(2 if young else 1):
                        x = 0.0
                        for i in range(n):
                            x += c[which, i, p] * phi[i]
                        most = MAX_STEP_RATIO * m[at.largest + p]
                        m[at.expected + which * outputs + p] = past[0, inputs + p] + min(max(x, -most), most)
                    used = int(m[at.chosen + p])
                    y[row, t, p] = m[at.expected + used * outputs + p]
                if free and t + 1 < steps:
                    for p in range(outputs):
                        z[row, t + 1, inputs + p] = y[row, t, p]

    constants = inputs, outputs, TAPS, MEMORY_SAMPLES, PRIOR_SAMPLES, RIDGE, SOLVE_PERIOD
    judged = CHANGE_RATIO, RAISE_RATIO, SQUARE_WEIGHT, VARIANCE_WEIGHT, RECENT_WEIGHT, SWITCH_RATIO, SETTLED
    ended = TRIED, MAX_TRIAL, KEPT_RATIO, MAX_STEP_RATIO
    compiled, signature = kept(follow, *constants, *judged, *ended, **INLINE), (types.int64,)
    compiled.compile(signature)
    entry: Callable[[int], None] = compiled.overloads[signature].entry_point
    return entry


def memory(rows: int, features: int, outputs: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(N, size) of rows that have seen nothing."""
    return np.zeros((rows, places(features, outputs).size))
