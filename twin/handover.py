"""The hand-over from one model to the next, without a cold start and between two samples.

A new model's hidden state is warmed by the window, which is exactly what is needed for that: some samples a
turn, until it has seen all. Then it changes places with the one that answers.
"""

from __future__ import annotations

from typing import Final

from twin.predictor import Predictor
from twin.window import Window

CATCH_UP_SAMPLES: Final = 16
"""Of the window, that a spare predictor takes in one turn: a few turns warm it, none delays an answer."""


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
        self._spare_seen = 0  # of `window.count`
        self._bridged = -window.length  # `window.count` after the last gap that was bridged

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
        self._spare_seen = 0
        for predictor in (self.active, self.spare):
            if predictor is not None:
                predictor.reset(learned=False)  # a pause says nothing about the plant

    def begin(self, predictor: Predictor) -> None:
        """Begin to take up a predictor; one that is still catching up makes room for it."""
        predictor.reset()
        window = self._window
        # from a window with answers of its own it would learn what nobody has measured
        predictor.adapting = self.adapt and window.count - self._bridged >= window.length
        self.spare = predictor
        self._spare_seen = window.count - min(window.count, window.length)

    def change_back(self) -> None:
        """Leave a model that answered nonsense for the one before it, by the walk of every hand-over."""
        self.active, self.previous = None, None if self.active is self.previous else self.previous
        if self.spare is None and self.previous is not None:
            self.begin(self.previous)

    def catch_up(self) -> bool:
        """Let the spare take in a portion of the window; True when it has seen all, and now answers."""
        window, spare = self._window, self.spare
        if spare is None:
            return False
        if window.count - self._spare_seen > window.length:
            self.begin(spare)  # what it has seen no longer continues in the window
        portion = window.tail(window.count - self._spare_seen)[:, :CATCH_UP_SAMPLES]
        if portion.shape[1]:
            spare.warm(portion)
            self._spare_seen += portion.shape[1]
        if self._spare_seen < window.count:
            return False
        if self.active is not None:
            self.previous = self.active
        self.active, self.spare = spare, None
        self.learn()
        return True
