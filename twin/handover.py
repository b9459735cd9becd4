"""The hand-over from one version of a model to the next, without a cold start and between two samples.

A new version's hidden state is warmed by the window, which is exactly what is needed for that: some samples a
turn, until it has seen all. Then it changes places with the one that answers; but where models learn at every
sample, that one has learned since it began, and the new one begins to. So there the new one first runs in its
shadow, and takes its place when it has answered better for a while. In any case the version before runs in
the shadow of the new one for a second, and takes its place again if it does better on the stream.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Final

from twin.predictor import Predictor
from twin.window import Window

CATCH_UP_SAMPLES: Final = 16
"""Of the window, that a spare predictor takes in one turn: a few turns warm it, none delays an answer."""

MIN_SHADOW_SAMPLES: Final = 64
"""For which a model runs in the shadow at least."""
SHADOW_ERROR_WEIGHT: Final = 1 / 200
"""Weight of the newest sample in the mean squared errors that are compared then: errors from before it had
learned are forgotten soon."""
MAX_BACK_RATIO: Final = 0.8
"""Mean squared errors of the version before over the new one's, as a geometric mean over the outputs, up to
which it takes its place again."""


class Shadow:
    """A comparison of two models on the stream, by the errors of what each expected of the next sample.

    `trial` is its length, where the one in the shadow was there before and is dropped at the end.
    """

    def __init__(self, outputs: int, trial: int | None = None) -> None:
        self.samples = 0
        self.trial = trial
        self._squares = [(0.0, 0.0)] * outputs  # mean squared errors: of the one in the shadow, and in use
        self._expected: tuple[int, Sequence[float], Sequence[float]] | None = None

    def compare(self, count: int, measured: Sequence[float]) -> None:
        """Take in the outputs of the sample of this count."""
        if self._expected is not None and self._expected[0] == count:
            self.samples += 1
            weight = max(SHADOW_ERROR_WEIGHT, 1.0 / self.samples)
            _, *expected = self._expected
            self._squares = [  # a few outputs: NumPy would take ten times as long
                (a + weight * ((x - y) ** 2 - a), b + weight * ((x - z) ** 2 - b))
                for (a, b), x, y, z in zip(self._squares, measured, *expected, strict=True)
            ]

    def expect(self, count: int, shadow: Sequence[float], used: Sequence[float]) -> None:
        """Take in what both expect of the sample of this count."""
        self._expected = count, shadow, used

    @property
    def better(self) -> bool:
        """Whether the one in the shadow has shown that it answers better."""
        if self.samples < MIN_SHADOW_SAMPLES:
            return False
        if not all(math.isfinite(shadow) for shadow, _ in self._squares):
            return False
        tiny = sys.float_info.min
        ratios = [math.log((shadow + tiny) / (used + tiny)) for shadow, used in self._squares]
        return not sum(ratios) / len(ratios) > (math.log(MAX_BACK_RATIO) if self.trial else 0.0)

    @property
    def over(self) -> bool:
        """Whether its trial has ended."""
        return self.trial is not None and self.samples >= self.trial


class HandOver:
    """The version of a model that answers (`active`), and another beside it (`spare`): a new one that catches
    up or has still to show that it is better, or for `trial` samples the one before.

    `adapt` is whether what answers learns from each measurement.
    """

    def __init__(self, window: Window, adapt: bool, trial: int) -> None:
        self.adapt = adapt
        self.active: Predictor | None = None
        self.spare: Predictor | None = None
        self.shadow: Shadow | None = None
        """Where the spare has caught up."""
        self.versions = 0
        """That have answered."""
        self.back = False
        """Whether the one that answers took its place again."""
        self._window, self._trial = window, trial
        self._learns = True
        self._spare_seen = 0  # of `window.count`
        self._bridged = -window.length  # `window.count` after the last gap that was bridged

    @property
    def makes_room(self) -> bool:
        """Whether a newer version may begin: none is catching up."""
        return self.spare is None or self.shadow is not None

    def learn(self, learns: bool) -> None:
        """Whether the active predictor learns from what it is fed from now on, where members do."""
        self._learns = learns
        if self.active is not None:
            self.active.adapting = learns and self.adapt

    def bridged(self) -> None:
        """The newest samples of the window are answers: a spare begins again with them, and learns
        nothing."""
        self._bridged = self._window.count
        self._begin_again()

    def begin_anew(self) -> None:
        """The window is empty: forget what was before, but nothing that was learned of the plant."""
        self._end_trial()
        self._spare_seen, self.shadow = 0, None
        for predictor in (self.active, self.spare):
            if predictor is not None:
                predictor.reset(learned=False)  # a pause says nothing about the plant

    def begin(self, predictor: Predictor) -> None:
        """Begin to take up a predictor; one that is still beside the active one makes room for it."""
        predictor.reset()
        window = self._window
        # from a window with answers of its own it would learn what nobody has measured
        predictor.adapting = self.adapt and window.count - self._bridged >= window.length
        self.spare, self.shadow = predictor, None
        self._spare_seen = window.count - min(window.count, window.length)

    def leave(self) -> None:
        """Leave a model that answered nonsense; the version before it takes its place, if it still runs."""
        self.active = None
        if self.spare is not None:
            self.begin(self.spare)

    def catch_up(self, measured: Sequence[float]) -> bool:
        """Let the spare take in a portion of the window; True when it then answers.

        `measured` are the outputs (P) of the newest sample, which the active predictor has answered.
        """
        window, spare = self._window, self.spare
        if spare is None:
            return False
        if window.count - self._spare_seen > window.length:
            self._begin_again()  # what it has seen no longer continues in the window
            if self.spare is None:
                return False
        portion = window.tail(window.count - self._spare_seen)[:, :CATCH_UP_SAMPLES]
        self._spare_seen += portion.shape[1]
        if portion.shape[1] == 1 and self.shadow is not None and self.active is not None:
            self.shadow.compare(window.count, measured)
            used: Sequence[float] = self.active.y[0].tolist()
            self.shadow.expect(window.count + 1, spare.step(portion[:, 0])[0].tolist(), used)
        elif portion.shape[1]:
            spare.warm(portion)
        if self._spare_seen < window.count:
            return False
        if self.shadow is not None and self.shadow.over:
            self._end_trial()
            return False
        if self.active is not None and self.active.adapting and self.shadow is None:
            self.shadow = Shadow(len(measured))
        if self.shadow is not None and not self.shadow.better:
            return False
        self._change_places(len(measured))
        return True

    def _begin_again(self) -> None:
        """Let a new version begin again with the window; one on trial would come back as if it were new."""
        self._end_trial()
        if self.spare is not None:
            self.begin(self.spare)

    def _end_trial(self) -> None:
        """Drop the version before."""
        if self.shadow is not None and self.shadow.trial is not None:
            self.spare, self.shadow = None, None

    def _change_places(self, outputs: int) -> None:
        self.versions += 1
        was, self.back = self.active, self.shadow is not None and self.shadow.trial is not None
        self.active, self.spare, self.shadow = self.spare, None, None
        if was is not None and not self.back:  # both have seen the newest sample
            self.spare, self.shadow = was, Shadow(outputs, self._trial)
            was.share(was.sample.copy())
        self.learn(self._learns)
