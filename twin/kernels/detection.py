"""Intervals and alarms, compiled: what one call per sample makes of the residual and the answer of a twin.

For all outputs, in one piece of memory that the caller keeps: the residual, the interval of the next answer,
and the statistics behind an alarm (`twin.detection` says how they work and why). O(1) per sample and output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final, NamedTuple

from numba import njit, types

from twin.kernels.cache import kept
from twin.kernels.vectors import doubles

# -- prediction intervals: adaptive conformal inference ---------------------------------------------

MISS_SHARE: Final = 0.1
"""Share of samples that may lie outside: 90 % nominal."""
WIDTH_STEP: Final = 0.02
"""How far one sample moves the width, in local scales. Over n samples the share outside differs from
`MISS_SHARE` by (last width - first width) / (n WIDTH_STEP), whatever the residuals are."""
SCALE_SAMPLES: Final = 50.0
"""Samples over which the local scale, a mean absolute residual, is taken."""
FIRST_WIDTH: Final = 2.06
"""In local scales: of a Gaussian residual, 1.645 / sqrt(2 / pi)."""

# -- alarms: CUSUM of standardised statistics, thresholds from their own maxima -----------

STATISTICS: Final = ("offset", "spread")
"""r, of which a shift either way is a reason for an alarm; r², of which only a rise is."""
K: Final = len(STATISTICS)
ALLOWANCE_SD: Final = 0.25
"""Shift of a statistic, in its standard deviations, up to which its CUSUM does not grow."""
CAP_SD: Final = (5.0, 8.0)
"""Standard deviations that one sample can count for at most, so that no outlier makes an alarm."""
MEAN_SAMPLES, SETTLE_SAMPLES, BLOCK_SAMPLES = 20_000.0, 2_000.0, 500.0
"""Samples: over which mean and standard deviation are taken (a long memory, so that a model that is adapted
does not hide the change it is adapted to), before the CUSUM begins, and of a block, whose largest CUSUM is
one maximum."""
MIN_MAXIMA: Final = 24.0
"""Maxima before there is a threshold; `MAXIMA_KEPT` is the number of them that it follows."""
MAXIMA_KEPT: Final = 200.0
WINSOR_SD: Final = 5.0  # standard deviations of the residual that go into the statistics
CEILING_THRESHOLDS: Final = 1.5  # thresholds up to which a CUSUM grows, so that it is soon back
MARGIN_MAXIMA: Final = 50.0  # maxima: with so many, a threshold is twice as far off as their deviation says
REACH_SD, REACH_FLOOR = (
    2.5,
    2.0,
)  # deviations, and units, above the mean maximum that one counts for: what leads to an
# alarm must not raise the threshold meanwhile
CAUTION: Final = 1.4
"""Times that a threshold is as far above the mean maximum as Gumbel's distribution says: residuals of a model
close to the best have rarer and larger excursions (a load that jumps) than exponential tails."""
GUMBEL: Final = math.sqrt(6.0) / math.pi  # scale of a Gumbel distribution per standard deviation
MEAN: Final = 0.5772156649  # its mean, in scales
CALM_SAMPLES: Final = 1_000.0  # samples below half of each threshold that end an alarm
MAX_ALARM_SAMPLES: Final = 10_000.0
"""Samples after which an alarm ends in any case: what is, is then taken for usual. Until then nothing of it
is, so that all is as before when a fault has passed."""

# -- memory, float64 -------------------------------------------------------------------------------

NOTHING, RESIDUAL, WIDTH, ALL = 0.0, 1.0, 2.0, 3.0
"""What the caller gives at the head of the memory: whether there is a residual, whether the width learns from
it, whether the alarms do."""
Q, SCALE, COUNT, LAST, REPEATS, ALARM, CALM, AGE, SEEN, TABLE = range(10)
"""Of an output: width, in scales, and local scale; residuals taken in; the last y, and how often it came
again; 2 + the statistic that gave alarm (0: none), samples since it has been calm, and its age; samples that
the statistics know."""
MU, VAR, UP, DOWN, MAX, MAXIMA, MAX_MEAN, MAX_VAR, THRESHOLD, FIELDS = range(10)
"""Of a statistic: mean and variance, both CUSUMs, the largest in this block; number, mean and variance of
such maxima, and the threshold, infinite at first."""
OUTPUT_SIZE: Final = TABLE + K * FIELDS
"""Numbers that an output has of its own."""

Detector = Callable[[int], None]
_SIGNATURE: Final = (types.int64,)


class Places(NamedTuple):
    """Where in the memory is what, for P outputs."""

    given: int
    measured: int
    answered: int
    rare: int
    expected: int
    changed: int
    residual: int
    low: int
    high: int
    own: int
    size: int


def places(outputs: int) -> Places:
    """The memory of so many outputs: what the caller gives; what is kept; what is said; what each has of its
    own.

    `rare` is the caller's too, once: see `_maximum`. `changed` is 1 where an alarm has begun or ended.
    """
    sizes = (1, outputs, outputs, 1, outputs, 1, outputs, outputs, outputs, outputs * OUTPUT_SIZE)
    return Places(*accumulate((0, *sizes)))


@njit(inline="always")
def _interval(m: Any, own: Any, r: Any) -> None:
    """Take in a residual: the width follows the share of residuals outside it, the scale their size."""
    outside = abs(r) > m[own + Q] * m[own + SCALE]
    if m[own + COUNT] > 0.0:
        m[own + Q] = max(m[own + Q] + WIDTH_STEP * (1.0 - MISS_SHARE if outside else -MISS_SHARE), 0.0)
    m[own + COUNT] += 1.0
    m[own + SCALE] += (abs(r) - m[own + SCALE]) / min(m[own + COUNT], SCALE_SAMPLES)


@njit(inline="always")
def _cusum(m: Any, s: Any, x: Any, n: Any, cap: Any, both: Any, rare: Any, calm: Any) -> Any:
    """Take in the n-th value of a statistic; 2 where its CUSUM is beyond the threshold, 1 beyond half of it.

    `both`: whether a fall is a reason for an alarm, as a rise is.
    """
    a = 1.0 / min(n, MEAN_SAMPLES) if calm else 0.0
    variance = m[s + VAR]
    d = x - m[s + MU]
    if n <= SETTLE_SAMPLES or variance == 0.0:  # what never varied has no deviation to be measured in
        m[s + MU] += a * d
        m[s + VAR] += a * ((1.0 - a) * d * d - variance)
        return 0.0
    sd = math.sqrt(variance) + 1e-300
    t = min(max(d / sd, -cap), cap)
    d = t * sd
    m[s + MU] += a * d
    m[s + VAR] += a * (d * d - variance)
    limit = m[s + THRESHOLD]
    up = min(max(m[s + UP] + t - ALLOWANCE_SD, 0.0), CEILING_THRESHOLDS * limit)
    m[s + UP] = up
    if both:
        down = min(max(m[s + DOWN] - t - ALLOWANCE_SD, 0.0), CEILING_THRESHOLDS * limit)
        m[s + DOWN] = down
        up = max(up, down)
    m[s + MAX] = max(m[s + MAX], up)
    if int(n) % int(BLOCK_SAMPLES) == 0:
        _maximum(m, s, rare)  # during an alarm too, or one that is false would be learned nothing from
        m[s + MAX] = 0.0
    if up > limit:
        return 2.0
    return 1.0 if 2.0 * up > limit else 0.0


@njit
def _maximum(m: Any, s: Any, rare: Any) -> None:
    """Take in a block's maximum: the threshold is where so many go beyond as are rare."""
    n = min(m[s + MAXIMA] + 1.0, MAXIMA_KEPT)
    m[s + MAXIMA] = n
    d = min(m[s + MAX] - m[s + MAX_MEAN], REACH_SD * math.sqrt(m[s + MAX_VAR]) + REACH_FLOOR)
    m[s + MAX_MEAN] += d / n
    m[s + MAX_VAR] += ((1.0 - 1.0 / n) * d * d - m[s + MAX_VAR]) / n
    if n >= MIN_MAXIMA:
        scale = GUMBEL * math.sqrt(m[s + MAX_VAR]) * (1.0 + MARGIN_MAXIMA / n)
        m[s + THRESHOLD] = m[s + MAX_MEAN] + CAUTION * scale * (rare - MEAN) + 1.0


@njit(inline="always")
def _statistics(m: Any, own: Any, y: Any, r: Any, rare: Any) -> Any:
    """Take in a residual and the output it belongs to; 2 + the first statistic that is beyond its threshold,
    else 1 where one is beyond half of it."""
    n = m[own + SEEN] + 1.0
    m[own + SEEN] = n
    table = own + TABLE
    calm = m[own + ALARM] == 0.0
    reach = WINSOR_SD * math.sqrt(m[table + VAR])
    e = min(max(r, -reach), reach) if n > 10.0 and reach > 0.0 else r
    m[own + REPEATS] = m[own + REPEATS] + 1.0 if y == m[own + LAST] else 0.0
    m[own + LAST] = y
    found = _cusum(m, table, e, n, CAP_SD[0], True, rare, calm)
    spread = _cusum(m, table + FIELDS, e * e, n, CAP_SD[1], False, rare, calm)
    if spread > found:
        return spread + 1.0 if spread > 1.5 else spread
    return found


@njit
def _changes(m: Any, own: Any, found: Any) -> Any:
    """Whether an alarm begins or ends with what the statistics found."""
    if m[own + ALARM] == 0.0:
        if found <= 1.0:
            return False
        m[own + ALARM], m[own + CALM], m[own + AGE] = found, 0.0, 0.0
        return True
    m[own + AGE] += 1.0
    m[own + CALM] = m[own + CALM] + 1.0 if found == 0.0 else 0.0
    if m[own + AGE] >= MAX_ALARM_SAMPLES:  # begin anew, with the thresholds
        m[own + SEEN] = 0.0
        for j in range(K):
            for i in range(MAXIMA):
                m[own + TABLE + j * FIELDS + i] = 0.0
    elif m[own + CALM] < CALM_SAMPLES:
        return False
    m[own + ALARM] = 0.0
    return True


@lru_cache(maxsize=64)
def compiled(outputs: int) -> Any:
    """Detection for so many outputs, as other compiled code calls it."""
    at = places(outputs)
    given_at, measured, answered, rare_at, expected, changed, residual, low, high, first, _ = at

    def detect(memory: Any) -> None:
        m = doubles(memory)
        given, rare = m[given_at], m[rare_at]
        m[changed] = 0.0
        for p in range(outputs):
            own = first + p * OUTPUT_SIZE
            if given > NOTHING:
                r = m[measured + p] - m[expected + p]
                m[residual + p] = r
                if given > RESIDUAL:
                    _interval(m, own, r)
                if given > WIDTH:
                    found = _statistics(m, own, m[measured + p], r, rare)
                    if _changes(m, own, found):
                        m[changed] = 1.0
            y = m[answered + p]
            m[expected + p] = y
            width = m[own + Q] * m[own + SCALE]
            m[low + p], m[high + p] = y - width, y + width

    function = kept(detect, at)
    function.compile(_SIGNATURE)
    return function


def detector(outputs: int) -> Detector:
    """Detection for so many outputs; it is called with the address of its memory (`places`).

    Nothing is checked: that is the caller's to do.
    """
    entry: Detector = compiled(outputs).overloads[_SIGNATURE].entry_point
    return entry
