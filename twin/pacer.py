"""Absolute deadlines: the k-th of a loop's turns is due at start + k * period, however late one was."""

from __future__ import annotations

import time

_MAX_NAP_SEC = 0.1  # s; no longer, so that a stop is noticed in a slow loop too


class Pacer:
    """Waits for the deadlines of a periodic loop and counts those that were missed.

    `period` is in seconds; None does not wait at all, so that the same loop runs as fast as it can. A turn
    that comes more than one period late moves the schedule: a late loop never bursts to catch up. Whatever
    is given as `stop` ends a wait once it is true.

    >>> pacer = Pacer(None)
    >>> pacer.wait(), pacer.overruns
    (0, 0)
    """

    def __init__(self, period: float | None, stop: object = False) -> None:
        self.period_ns = 0 if period is None else round(period * 1e9)
        self.overruns = 0
        self._stop = stop
        self._due_ns = 0

    def wait(self) -> int:
        """Sleep until the next deadline; returns how late this turn is, in nanoseconds."""
        if not self.period_ns:
            return 0
        now = time.monotonic_ns()
        if not self._due_ns:  # the first turn is due now
            self._due_ns = now
        while now < self._due_ns and not self._stop:
            time.sleep(min((self._due_ns - now) * 1e-9, _MAX_NAP_SEC))
            now = time.monotonic_ns()
        late = now - self._due_ns
        if late > self.period_ns:
            self.overruns += 1
            self._due_ns = now
        self._due_ns += self.period_ns
        return max(late, 0)
