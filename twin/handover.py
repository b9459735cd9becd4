"""The hand-over from one model to the next, without a cold start and between two samples.

A new model's hidden state is warmed by the window, which is exactly what is needed for that: some samples a
turn, until it has seen all. Then it changes places with the one that answers; but where models learn at every
sample, that one has learned since it began, and the new one begins to. So there the new one first runs in its
shadow, and takes its place when it has answered better for a while.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from twin.predictor import Predictor
from twin.window import Window

CATCH_UP_SAMPLES: Final = 16
"""Of the window, that a spare predictor takes in one turn: a few turns warm it, none delays an answer."""

MIN_SHADOW_SAMPLES: Final = 64
"""For which a new model runs in the shadow at least."""
SHADOW_ERROR_WEIGHT: Final = 1 / 200
"""Weight of the newest sample in the mean squared errors that are compared then: errors from before it had
learned are forgotten soon."""


class Shadow:
    """A comparison of two models on the stream, by the errors of what each expected of the next sample."""

    def __init__(self, outputs: int) -> None:
        self.samples = 0
        self._squares = np.zeros((2, outputs))  # mean squared errors: of the new one, and of the one in use
        self._expected: tuple[int, Sequence[float], Sequence[float]] | None = None

    def compare(self, count: int, measured: Sequence[float]) -> None:
        """Take in the outputs of the sample of this count."""
        if self._expected is not None and self._expected[0] == count:
            self.samples += 1
            errors = np.subtract(self._expected[1:], [measured, measured])
            weight = max(SHADOW_ERROR_WEIGHT, 1.0 / self.samples)
            self._squares += weight * (np.square(errors) - self._squares)

    def expect(self, count: int, new: Sequence[float], old: Sequence[float]) -> None:
        """Take in what both expect of the sample of this count."""
        self._expected = count, new, old

    @property
    def better(self) -> bool:
        """Whether the new one has shown that it answers better."""
        if self.samples < MIN_SHADOW_SAMPLES:
            return False
        new, old = np.log(self._squares + np.finfo(np.float64).tiny).sum(axis=1)
        return math.isfinite(new) and bool(new <= old)


class HandOver:
    """The predictor that answers (`active`), the one that catches up (`spare`), and the one before
    (`previous`), to change back to.

    `adapt` is whether what answers learns from each measurement; `muted` stops that while a sensor has
    failed.
    """

    def __init__(self, window: Window, adapt: bool) -> None:
        self.adapt = adapt
        self.muted = False
        self.active: Predictor | None = None
        self.spare: Predictor | None = None
        self.previous: Predictor | None = None
        self._window = window
        self.shadow: Shadow | None = None
        """Where the spare has caught up, and has still to show that it is better."""
        self._spare_seen = 0  # of `window.count`
        self._bridged = -window.length  # `window.count` after the last gap that was bridged

    @property
    def makes_room(self) -> bool:
        """Whether a newer model may begin: none is catching up, or one that was not better so far."""
        return self.spare is None or self.shadow is not None

    def learn(self, measured: bool = True) -> None:
        """What the active predictor is fed from now on was `measured`, and is to be learned from; or not."""
        if self.active is not None:
            self.active.adapting = measured and self.adapt and not self.muted

    def bridged(self) -> None:
        """The newest samples of the window are answers: a spare begins again with them, and learns
        nothing."""
        self._bridged = self._window.count
        if self.spare is not None:
            self.begin(self.spare)

    def begin_anew(self) -> None:
        """The window is empty: forget what was before, but nothing that was learned of the plant."""
        self._spare_seen, self.shadow = 0, None
        for predictor in (self.active, self.spare):
            if predictor is not None:
                predictor.reset(learned=False)  # a pause says nothing about the plant

    def begin(self, predictor: Predictor) -> None:
        """Begin to take up a predictor; one that is still catching up makes room for it."""
        predictor.reset()
        window = self._window
        # from a window with answers of its own it would learn what nobody has measured
        predictor.adapting = self.adapt and window.count - self._bridged >= window.length
        self.spare, self.shadow = predictor, None
        self._spare_seen = window.count - min(window.count, window.length)

    def change_back(self) -> None:
        """Leave a model that answered nonsense for the one before it, by the walk of every hand-over."""
        self.active, self.previous = None, None if self.active is self.previous else self.previous
        if self.spare is None and self.previous is not None:
            self.begin(self.previous)

    def catch_up(self, measured: Sequence[float], expected: Sequence[float]) -> bool:
        """Let the spare take in a portion of the window; True when it has seen all, and now answers.

        `measured` are the outputs (P) of the newest sample, `expected` those of the next one, as they were
        published.
        """
        window, spare = self._window, self.spare
        if spare is None:
            return False
        if window.count - self._spare_seen > window.length:
            self.begin(spare)  # what it has seen no longer continues in the window
        portion = window.tail(window.count - self._spare_seen)[:, :CATCH_UP_SAMPLES]
        self._spare_seen += portion.shape[1]
        if portion.shape[1] == 1 and self.shadow is not None:
            self.shadow.compare(window.count, measured)
            self.shadow.expect(window.count + 1, spare.step(portion[:, 0])[0].tolist(), expected)
        elif portion.shape[1]:
            spare.warm(portion)
        if self._spare_seen < window.count or not self._may_answer(len(measured)):
            return False
        if self.active is not None:
            self.previous = self.active
        self.active, self.spare, self.shadow = spare, None, None
        self.learn()
        return True

    def _may_answer(self, outputs: int) -> bool:
        """Whether a spare that has caught up takes the place of the one that answers."""
        if self.active is None or not self.active.adapting:
            return True
        self.shadow = self.shadow or Shadow(outputs)
        return self.shadow.better
