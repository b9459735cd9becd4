"""The horizons at which free runs are judged, and what several models are worth in them.

What is best one step ahead need not be so over a second. So each model runs free by itself, and its weight
in a forecast is, for each output, the power -`SHARPNESS` of its mean squared error over portions of these
runs, relative to the best one's, averaged as a logarithm over the last `JUDGED_SEC`. Portions in which all
are alike, as while a motor stands, do not count; and members without a checkpoint, persistence and the
recursive model, begin far behind: a forecast of how a motor starts is for those that know. One whose run
leaves the range of what was measured by several times that range has no say.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

MAX_RUN_SAMPLES: Final = 2_000
"""Samples of the longest free run that is judged."""
ROWS: Final = np.unique(np.geomspace(1, MAX_RUN_SAMPLES, 28).round().astype(int)) - 1
"""(H,), the rows of a forecast at which its errors are taken."""
JUDGED_SEC: Final = 2.5
"""Time over which members are compared."""
MIN_JUDGED_PORTIONS: Final = 8.0
"""Portions over which they are compared at least."""
SHARPNESS: Final = 2.0
"""By how much those that did better are preferred."""
MAX_NATS: Final = 10.0
"""Logarithm of a member's mean squared error over the best one's, that one portion can bring at most."""
ALIKE_NATS: Final = 1.4
"""Such a logarithm of the worst member's, up to which all are alike."""
HANDICAP_NATS: Final = 2.5
"""Such a logarithm with which a member begins that has no checkpoint."""
LIMITS_RANGES: Final = 3.0
"""Ranges of what was measured, beyond that range, that a free run must not leave: it has run away."""
MIN_SAY: Final = 0.01
"""Weight, over the largest, below which a member has no say."""

Array = NDArray[np.float64]


def beyond(runs: Array, limits: Array) -> NDArray[np.bool_]:
    """(M,), which of the runs (M, ..., P) leave the limits (2, P)."""
    with np.errstate(invalid="ignore"):
        outside = (runs < limits[0]) | (runs > limits[1])
    return np.asarray(outside.reshape(len(runs), -1).any(axis=1))


class Foresight:
    """What members are worth in free runs, of outputs that come every `dt` s, so many in a portion."""

    def __init__(self, outputs: int, dt: float, portion: int) -> None:
        self.weights: dict[str, Array] = {}
        """(P,) by name, of those whose runs were judged."""
        self.limits: Array = np.array([[-np.inf], [np.inf]]) * np.ones(outputs)
        """(2, P), what free runs must not leave."""
        self._low, self._high = np.full((2, outputs), np.nan)
        self._scores: dict[str, tuple[int, Array]] = {}  # portions, and the mean logarithm (P,)
        self._judged = max(JUDGED_SEC / (dt * portion), MIN_JUDGED_PORTIONS)

    def judge(self, runs: Mapping[str, Array], came: Array, known: Collection[str]) -> None:
        """Take in a portion of the members' free runs and of what came, (n, P). Those `known` have a
        checkpoint."""
        self._low, self._high = np.fmin(self._low, came.min(axis=0)), np.fmax(self._high, came.max(axis=0))
        span = self._high - self._low
        self.limits = np.stack([self._low - LIMITS_RANGES * span, self._high + LIMITS_RANGES * span])
        with np.errstate(over="ignore", invalid="ignore"):
            squares = np.mean(np.square(came - np.stack(list(runs.values()))), axis=1)
        squares = np.where(np.isfinite(squares), squares, np.inf)
        squares += (1e-6 * span) ** 2 + np.finfo(np.float64).tiny  # what is as good as nothing
        best = squares.min(axis=0)
        if not np.isfinite(best).all():
            return
        with np.errstate(over="ignore"):
            ratios = np.minimum(np.log(squares / best), MAX_NATS)
        tells = ratios.max(axis=0) > ALIKE_NATS
        for name, ratio in zip(runs, ratios, strict=True):
            first = (0, 0.0 * ratio) if name in known else (int(self._judged), 0.0 * ratio + HANDICAP_NATS)
            portions, score = self._scores.get(name, first)
            share = tells / min(portions + 1, self._judged)
            self._scores[name] = portions + 1, score + share * (ratio - score)
        scores = np.stack([self._scores[name][1] for name in runs])
        weights = np.exp(-SHARPNESS * (scores - scores.min(axis=0)))
        weights[weights < MIN_SAY * weights.max(axis=0)] = 0.0
        self.weights = dict(zip(runs, weights / weights.sum(axis=0), strict=True))
