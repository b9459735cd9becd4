"""The fast path of learning, written to be read: what `twin.kernels.adapt` does in compiled code.

A motor changes between two samples, a refit takes seconds. Meanwhile the linear readout follows: with φ = [h,
newest samples, 1, last innovations] it is ŷ = ŷ₀ + σ δ φ, where ŷ₀ is the checkpoint's own answer and δ what
has been learned since, estimated by a Kalman filter on the coefficients (Ljung, System Identification, 2nd
ed., section 11.2: recursive least squares as a Kalman filter).

**The prior.** Coefficients wander around the checkpoint's, and are drawn back to them: δ is a stationary
process of covariance P₀ (`prior`) which forgets in `MEMORY` samples. So P ≤ P₀, but for the
coefficient of 1, which every sample excites: without
excitation nothing winds up, and in the end δ fades. A direction that the samples excite well is followed
within some hundred samples, one that they hardly excite in thousands, as the balance of both asks.

**Past innovations** are regressors as in extended least squares (Ljung, section 11.3): with them the
predictor is an ARMAX model, which can come close to the Kalman filter where noise, or a load that nobody
measures, is what limits a prediction.

**What nobody measures** (a load, dry friction whose sign changes) acts like an offset that jumps. So the
coefficient of 1 wanders faster than the others, and when the squared innovations of the last few samples are
`EVENT` times what they should be, it alone is uncertain again.

**A change** is noticed when the squared innovations of the last few samples are `ALARM` times what they
should be. Then P = P₀ until no tap remembers the old plant, and what was learned before is kept for a trial:
if what came out is not clearly better, it was no change but an event of this plant (dry friction, a step of
the load), is taken back, and only a larger one is an alarm from then on.

**Never worse**: each output is answered by whichever of three readouts had the smaller recent error: the
checkpoint's, the one that learns, and during a trial the one before it. A single outlier moves the
coefficients no more than `LIMIT` standard deviations would.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from twin.kernels.layout import Layout

Array = npt.NDArray[np.float64]

COMMON: Final = 0.3
"""Standard deviation of a change that all coefficients of a signal share (its gain), as a part of them."""
OWN: Final = 0.1
"""Of a change of one coefficient by itself, as a part of the root mean square of its signal's."""
ANY: Final = 0.3
"""Of a change of any coefficient, in increments of y for a regressor of 1."""
PAST: Final = 0.3
"""Of the coefficients of past innovations, which the checkpoint does not have."""
MEMORY: Final = 1e6  # samples
DRIFT: Final = 1e-4  # σ²; what the coefficient of 1 wanders in a sample
EVENT: Final = 5.0
LIMIT: Final = 3.0
ALARM: Final = 11.0
LOOK: Final = 0.25  # weight of the newest sample in what the alarm looks at
TRIAL: Final = 128  # samples
WORTH: Final = 0.8  # what the trial learned must be so much better to be kept
SCORE: Final = 0.02  # weight of the newest sample in the recent error
DOUBT: Final = 100.0  # recent error with which a readout begins that has learned little yet
BETTER: Final = 0.9  # a readout that is to answer instead of another must be so much better
NOISE: Final = 0.002  # weight of the newest sample in the innovations' variance; after an alarm more
OFTEN: Final = 1.5  # an event that was no change must be exceeded by so much


def noise_of(increments: npt.NDArray[Any], rmse: npt.NDArray[Any]) -> Array:
    """σ (P,): the usual error one step ahead, where it is known, otherwise a tenth of the increments'
    size."""
    increments = np.asarray(increments, np.float64)
    known = np.isfinite(rmse) & (rmse > 0)
    return np.clip(np.where(known, rmse, 0.1 * increments), 1e-3 * increments, 10 * increments)


def prior(layout: Layout, readout: npt.NDArray[Any], increments: npt.NDArray[Any], noise: Array) -> Array:
    """P₀ (n, n), n = `layout.regressors`, from the checkpoint's readout [C D] (P, reach), in units of σ.

    One for all outputs: P is shared, so that a sample costs one update and not P of them.
    """
    own = np.asarray(readout, np.float64) / noise[:, None]
    size = layout.regressors
    covariance, variances = np.zeros((size, size)), np.zeros(size)
    first, one = layout.lanes, layout.lanes + layout.taps * layout.features
    signals = [np.arange(first + f, one, layout.features) for f in range(layout.features)]
    hidden = np.arange(layout.hidden)
    for group in [hidden, *signals] if layout.hidden else signals:
        variances[group] = ANY**2 / np.mean((noise / increments) ** 2)
        for row in own:
            gain = np.zeros(size)
            gain[group] = row[group]
            covariance += COMMON**2 * np.outer(gain, gain)
            variances[group] += OWN**2 * np.mean(row[group] ** 2)
    variances[one] = ANY**2 / np.mean((noise / increments) ** 2)
    variances[one + 1 : one + 1 + layout.outputs] = PAST**2
    return covariance + np.diag(variances)


class Readout:
    """What has been learned since the checkpoint: δ and P, and all that decides about them.

    In units of the usual error σ, in float64, one sample at a time: `answer` corrects the checkpoint's own
    answer, and `learn` takes the measurement that follows.
    """

    def __init__(self, prior: Array, outputs: int, taps: int, one: int) -> None:
        self.prior, self.taps, self.one = prior, taps, one
        self.p, self.p_before = prior.copy(), prior.copy()
        self.delta, self.delta_before = np.zeros((2, outputs, len(prior)))
        self.variance, self.variance_before = np.ones((2, outputs))
        self.recent = np.full((3, outputs), DOUBT)  # the checkpoint, the learning one, the one before
        self.recent[0] = 1
        self.chosen = np.zeros(outputs, int)
        self.look = np.ones(outputs)
        self.age = 10 * TRIAL  # samples since the last alarm
        self.threshold, self.seen, self.trial = (
            ALARM,
            0.0,
            np.zeros(2),
        )  # errors: the one learning, the one before
        self.innovation = np.zeros(outputs)
        """After `learn`: what the next φ has last."""
        self.alarms = 0

    def answer(self, phi: Array) -> Array:
        """The corrections (3, P) of the three readouts; `chosen` says which of them each output takes."""
        return np.stack([np.zeros(len(self.delta)), self.delta @ phi, self.delta_before @ phi])

    def learn(self, phi: Array, errors: Array) -> None:
        """Take errors (3, P), measurement - answer, of the answers to φ."""
        self.age += 1
        self._score(errors)
        gain = self.p @ phi
        spread = 1 + phi @ gain
        self.look += LOOK * (errors[1] ** 2 / (self.variance * spread) - self.look)
        if self.age > TRIAL and self.look.max() > self.threshold:
            self._alarm()
        limit = LIMIT * np.sqrt(self.variance * spread)
        self.innovation = np.clip(errors[1], -limit, limit) / spread
        keep = 1 - 1 / MEMORY
        self.delta = keep * (self.delta + np.outer(self.innovation, gain))
        self.p = keep**2 * (self.p - np.outer(gain, gain) / spread) + (1 - keep**2) * self.prior
        weight = max(NOISE, 1 / (20 + self.age))
        self.variance += weight * (np.minimum(self.innovation**2 * spread, 9 * self.variance) - self.variance)
        constant = self.p[self.one, self.one] + DRIFT
        if self.look.max() > EVENT:
            constant += self.prior[self.one, self.one]
        self.p[self.one, self.one] = min(constant, 2 * self.prior[self.one, self.one])
        if self.age < self.taps:
            self.p = self.prior.copy()
        if self.age == TRIAL and WORTH * self.trial[1] < self.trial[0]:
            self._take_back()

    def _score(self, errors: Array) -> None:
        """Let each output be answered by the readout that was the best lately."""
        self.recent += SCORE * (errors**2 - self.recent)
        on_trial = self.age <= TRIAL
        if on_trial and 2 * self.age > TRIAL:
            self.trial += (errors[1:] ** 2 / self.variance_before).sum(axis=1)
        for o, answering in enumerate(self.chosen):
            best = 1 if self.recent[1, o] <= self.recent[0, o] else 0
            if on_trial and self.recent[2, o] < self.recent[best, o]:
                best = 2
            over = answering == 2 and not on_trial
            if over or self.recent[best, o] < BETTER * self.recent[answering, o]:
                self.chosen[o] = best

    def _alarm(self) -> None:
        self.alarms += 1
        self.age, self.seen, self.trial = 0, OFTEN * self.look.max(), np.zeros(2)
        self.delta_before, self.p_before = self.delta.copy(), self.p.copy()
        self.variance_before = self.variance.copy()
        self.recent[2] = self.recent[1]
        self.chosen[self.chosen == 1] = 2
        self.look[:] = 1

    def _take_back(self) -> None:
        self.delta, self.p = self.delta_before.copy(), self.p_before.copy()
        self.variance = self.variance_before.copy()
        self.recent[1] = self.recent[2]
        self.chosen[self.chosen == 2] = 1
        self.threshold = max(self.threshold, self.seen)
