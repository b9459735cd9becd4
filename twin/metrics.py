"""How good, and how fast: the figures that reports and gates speak in."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

RUNAWAY_RANGES: Final = 1.5
"""Ranges of an output, from the middle of its range, beyond which a free run has left it."""


def rmse(error: ArrayLike) -> NDArray[np.float64]:
    """Root mean square of an error (T, P) for each of its P columns.

    >>> rmse([[3.0, 0.0], [4.0, 0.0]]).round(3).tolist()
    [3.536, 0.0]
    """
    squares = np.square(np.asarray(error, np.float64))
    return np.asarray(np.sqrt(squares.mean(axis=0)))


def fit_percent(measured: ArrayLike, predicted: ArrayLike) -> NDArray[np.float64]:
    """100 (1 - ‖y - ŷ‖ / ‖y - mean y‖) for each column of (T, P): Ljung, System Identification, 2nd ed.,
    section 16.4 gives it as `compare`'s measure. 100 is perfect, 0 as good as the mean, below 0 worse.

    A column that does not vary is 100 where it is met exactly and -inf elsewhere.

    >>> fit_percent([[0.0], [1.0], [2.0]], [[0.0], [1.0], [1.0]]).round(1).tolist()
    [29.3]
    """
    y, y_hat = np.asarray(measured, np.float64), np.asarray(predicted, np.float64)
    miss = np.linalg.norm(y - y_hat, axis=0)
    spread = np.linalg.norm(y - y.mean(axis=0), axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(miss == 0, 0.0, miss / spread)
    return 100.0 * (1.0 - ratio)


def nrmse(measured: ArrayLike, predicted: ArrayLike) -> NDArray[np.float64]:
    """RMSE over the standard deviation of what was measured, for each column of (T, P): 0 is perfect, 1 as
    good as the mean. Also called RRSE. Infinite where a column does not vary and is not met exactly.

    >>> nrmse([[0.0], [2.0]], [[0.0], [1.0]]).round(3).tolist()
    [0.707]
    """
    return np.asarray(1.0 - fit_percent(measured, predicted) / 100.0)


def vaf_percent(measured: ArrayLike, predicted: ArrayLike) -> NDArray[np.float64]:
    """Variance accounted for, 100 (1 - var(y - ŷ) / var(y)), for each column of (T, P): a constant offset
    does not count (Verhaegen & Verdult, Filtering and System Identification, section 10.3).

    >>> vaf_percent([[0.0], [1.0], [2.0]], [[1.0], [2.0], [3.0]]).tolist()
    [100.0]
    """
    y, y_hat = np.asarray(measured, np.float64), np.asarray(predicted, np.float64)
    left, spread = (y - y_hat).var(axis=0), y.var(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(100.0 * (1.0 - np.where(left == 0, 0.0, left / spread)))


def leaves_range(run: ArrayLike, measured: ArrayLike, least: ArrayLike = 0.0) -> NDArray[np.bool_]:
    """Where free runs (..., P) are farther from the middle of what was measured (..., P) than 1.5 times its
    range, for any output, or are no number: (...). Such a model is unstable, as its plant was not.

    `least` (P,) is the least range of each output, for one that hardly moves.

    >>> leaves_range([[0.0], [2.1], [float("nan")]], [[0.0], [1.0]]).tolist()
    [False, True, True]
    """
    y = np.asarray(measured, np.float64)
    y = y.reshape(-1, y.shape[-1])
    low, high = y.min(axis=0), y.max(axis=0)
    away = np.abs(np.asarray(run, np.float64) - (low + high) / 2)
    inside = away <= RUNAWAY_RANGES * np.maximum(high - low, least)
    return np.asarray(~inside.all(axis=-1))


def autocorrelation(residual: ArrayLike, lags: int) -> NDArray[np.float64]:
    """Of one residual (T,) with itself, at the lags 1 to `lags`; zeros where it does not vary.

    >>> autocorrelation([1.0, -1.0, 1.0, -1.0], 2).tolist()
    [-0.75, 0.5]
    """
    e = np.asarray(residual, np.float64)
    e = e - e.mean()
    power = float(e @ e)
    if power == 0:
        return np.zeros(lags)
    return np.array([float(e[lag:] @ e[:-lag]) / power for lag in range(1, lags + 1)])


def ljung_box(residual: ArrayLike, lags: int) -> tuple[float, float]:
    """Q = T (T + 2) sum of r(k)^2 / (T - k) over the lags k, and the probability that a white residual (T,)
    has a larger one (Ljung & Box, Biometrika 65, 1978): near 0, something is left that a model could say.
    """
    from scipy.special import chdtrc

    count = np.size(residual)
    r = autocorrelation(residual, lags)
    q = float(count * (count + 2) * np.sum(r**2 / (count - np.arange(1, lags + 1))))
    return q, float(chdtrc(lags, q))


def skill(error: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """1 - rmse(error) / rmse(reference): 1 is perfect, 0 no better than the reference.

    Finite and 0 where neither errs: an rmse below float32's smallest number counts as that number.

    >>> skill([[1.0], [1.0]], [[2.0], [2.0]]).tolist()
    [0.5]
    """
    tiny = np.finfo(np.float32).tiny
    return np.asarray(1.0 - np.maximum(rmse(error), tiny) / np.maximum(rmse(reference), tiny))


class Latencies:
    """A histogram of times in whole µs up to 0.1 s: percentiles of an endless run in bounded memory.

    >>> latencies = Latencies()
    >>> for us in (100, 200, 300): latencies.add(us)
    >>> latencies.percentile(50), latencies.max
    (200.0, 300.0)
    """

    LIMIT_US = 100_000

    def __init__(self) -> None:
        self.counts = np.zeros(self.LIMIT_US + 1, np.int64)
        self.max = 0.0

    def add(self, us: float) -> None:
        """Count one time."""
        self.counts[min(max(int(us), 0), self.LIMIT_US)] += 1
        self.max = max(self.max, float(us))

    def percentile(self, percent: float) -> float:
        """The time below which this share of all lies, in µs; 0 when there is none."""
        below = np.cumsum(self.counts)
        if not below[-1]:
            return 0.0
        return float(np.searchsorted(below, max(1, np.ceil(below[-1] * percent / 100))))

    def summary(self) -> dict[str, float]:
        """p50, p99, p999 and max in µs."""
        return {
            "p50": self.percentile(50),
            "p99": self.percentile(99),
            "p999": self.percentile(99.9),
            "max": round(self.max, 1),
        }
