"""What a trainer learns from: the newest samples in full, and segments of all that came before them.

The newest samples show a change. The segments keep what must not be forgotten meanwhile: other operating
ranges and other states of the plant. They are a random sample of the whole past, of bounded size. Segments
that moved much are more likely to be kept than those at rest, so that a night's standstill does not displace
a day's work.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from twin.window import Window

KEPT_SEGMENTS: Final = 256
"""Segments kept of the samples that are no longer among the newest."""
EXCITATION_ORDER: Final = 2
"""Order to which the input must be persistently exciting: an order of 1 would accept a constant offset."""


class History:
    """The newest `length` samples of F features, and up to `KEPT_SEGMENTS` segments of those before.

    Counts number all samples ever pushed. A break is where the stream does not go on from the sample before:
    no segment goes across one.
    """

    def __init__(self, length: int, segment: int, features: int, seed: int = 0) -> None:
        self.length, self.segment = length, segment
        self._window = Window(1, length, features, np.float64)
        self._breaks: deque[int] = deque()  # counts at which the stream does not go on
        self._past = np.empty((KEPT_SEGMENTS, segment, features), np.float32)
        self._keys = np.full(KEPT_SEGMENTS, -math.inf)
        self._largest = np.full(features, np.finfo(np.float64).tiny)  # spread of a segment so far
        self._random = np.random.default_rng(seed)

    @property
    def count(self) -> int:
        """Samples pushed."""
        return self._window.count

    @property
    def past(self) -> NDArray[np.float32]:
        """The segments kept (K, segment, F), in no order; a view."""
        return self._past[: np.count_nonzero(self._keys > -math.inf)]

    def view(self) -> NDArray[np.float64]:
        """The newest samples (T, F), oldest first; a view."""
        newest: NDArray[np.float64] = self._window.view()[0]
        return newest

    def push(self, row: NDArray[Any], *, follows: bool) -> None:
        """Append a sample (F,), which follows the one before it or stands after a break."""
        if not follows:
            self._breaks.append(self.count)
        if self._window.full and self.count % self.segment == 0:
            self._retire()
        self._window.push(row[None])
        while self._breaks and self._breaks[0] <= self.count - self.length:
            self._breaks.popleft()

    def stretches(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The unbroken parts of the newest samples between two counts, as pairs of counts."""
        start = max(first, self.count - self.length, 0)
        for end in [*(count for count in self._breaks if start < count < last), last]:
            yield start, end
            start = end

    def between(self, first: int, last: int) -> NDArray[np.float64]:
        """The samples (T, F) between two counts, of those that are among the newest."""
        held = self.view()
        oldest = self.count - len(held)
        return held[max(first - oldest, 0) : last - oldest]

    def longest(self, last: int) -> NDArray[np.float64]:
        """The samples (T, F) of the longest unbroken part until a count: scaling and least squares look at
        differences."""
        return self.between(*max(self.stretches(0, last), key=lambda part: part[1] - part[0]))

    def starts(self, first: int, last: int) -> NDArray[np.int64]:
        """Every count between two at which a whole segment begins."""
        runs = [np.arange(a, b - self.segment + 1) for a, b in self.stretches(first, last)]
        return np.concatenate(runs) if runs else np.empty(0, np.int64)

    def segments(self, starts: NDArray[np.int64]) -> NDArray[np.float32]:
        """The segments (B, segment, F) that begin at these counts, all among the newest samples."""
        held = self.view()
        rows = (starts - (self.count - len(held)))[:, None] + np.arange(self.segment)
        found: NDArray[np.float32] = held[rows].astype(np.float32)
        return found

    def evenly(self, starts: NDArray[np.int64], count: int) -> NDArray[np.float32]:
        """So many segments (B, segment, F) at most, evenly among those that begin at these counts."""
        return self.segments(starts[np.linspace(0, len(starts) - 1, min(count, len(starts))).astype(int)])

    def _retire(self) -> None:
        """Offer the oldest segment to the past, before it leaves.

        A random sample weighted by movement, drawn in one pass: each segment draws log(U) / weight, and the
        largest are kept (Efraimidis and Spirakis 2006, algorithm A-Res). The weight is the spread, over the
        largest so far, averaged over the signals.
        """
        oldest = self.count - self.length
        if not len(self.starts(oldest, oldest + self.segment)):
            return
        z = self.view()[: self.segment]
        spread = z.std(axis=0)
        self._largest = np.maximum(self._largest, spread)
        weight = float((spread / self._largest).mean())
        key, place = math.log(1.0 - self._random.random()) / max(weight, 1e-9), int(self._keys.argmin())
        if key > self._keys[place]:
            self._keys[place], self._past[place] = key, z


def excitation(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of inputs u (T, U): the smallest eigenvalue of the covariance of (u(k), u(k-1)), (U,).

    It is zero where an input is not persistently exciting of order two (Ljung, System Identification, 2nd
    ed., definition 13.1).
    """
    order = EXCITATION_ORDER
    lagged = (np.stack([c[lag : len(c) - order + lag] for lag in range(order)]) for c in (u - u.mean(0)).T)
    return np.array([np.linalg.eigvalsh(np.cov(lags))[0] for lags in lagged])
