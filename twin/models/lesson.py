"""What a refit may learn from, and how long: handed by a trainer to a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from twin.history import History

PROBED_SEGMENTS: Final = 64
"""On which it is seen whether a course led anywhere."""


@dataclass(frozen=True)
class Lesson:
    """The history up to a count of samples, `end`, and the settings of one refit."""

    history: History
    end: int
    newest: int
    """Samples of the newest part: what changed is there."""
    warm: int
    """Samples of a segment that warm the hidden state, where the rest runs free."""
    steps: int
    """Optimiser steps of a whole refit."""
    batch: int
    """Segments in one step."""
    rate: float
    """Step size."""
    random: np.random.Generator
    known: bool
    """Whether the model's weights are those of an incumbent worth going on from."""
    changed: bool
    """Whether the incumbent stands before a change: it errs far more than is usual on the newest part."""
    first: bool
    """Whether there is no incumbent yet."""

    def stretches(self) -> list[NDArray[np.float64]]:
        """The unbroken parts (T, F), oldest first, as copies."""
        history = self.history
        return [history.between(a, b).copy() for a, b in history.stretches(0, self.end)]

    def longest(self) -> NDArray[np.float64]:
        """The longest unbroken part (T, F)."""
        return self.history.longest(self.end)

    def recent(self) -> NDArray[np.float64] | None:
        """The last unbroken part (T, F) of the newest samples; None where it is shorter than a segment."""
        first, last = list(self.history.stretches(self.end - self.newest, self.end))[-1]
        return self.history.between(first, last) if last - first >= self.history.segment else None

    def starts(self) -> NDArray[np.int64]:
        """Every count at which a whole segment begins that is still in the history."""
        starts = self.history.starts(0, self.end)
        return starts[starts >= self.history.count - self.history.length]

    def probe(self) -> NDArray[np.float32]:
        """Segments (B, segment, F) by which a course is judged: evenly from the history, after a change from
        its newest part."""
        starts = self.starts()
        recent = starts[starts >= self.end - self.newest]
        return self.history.evenly(recent if self.changed and len(recent) else starts, PROBED_SEGMENTS)

    def segments(self, starts: NDArray[np.int64]) -> tuple[NDArray[np.float32], int]:
        """A batch of segments (B, segment, F), and how many of them, its first, are of the newest part.

        After a change half are of the newest part, otherwise an eighth, by which the others are measured. A
        quarter is of the past, where there is one, the rest from everywhere in the history: what is seldom
        seen is not forgotten for what happened just now.
        """
        past, count = self.history.past, self.batch
        recent = starts[starts >= self.end - self.newest]
        newest = -(-count // (2 if self.changed else 8))
        quarter = count // 4 if len(past) else 0
        picks = ((recent if len(recent) else starts, newest), (starts, count - newest - quarter))
        z = self.history.segments(np.concatenate([self.random.choice(pool, size) for pool, size in picks]))
        if quarter:
            z = np.concatenate((z, past[self.random.integers(len(past), size=quarter)]))
        return z, newest
