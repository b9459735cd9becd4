"""The fast path of learning, written to be read: what `twin.kernels.adapt` does in compiled code.

A motor changes between two samples, a refit takes seconds. Meanwhile the linear readout follows: with φ = [h,
newest samples, 1, last innovations] it is ŷ = ŷ₀ + σ δ φ, where ŷ₀ is the checkpoint's own answer and δ what
has been learned since, estimated by a Kalman filter on the coefficients (Ljung, System Identification, 2nd
ed., section 11.2: recursive least squares as a Kalman filter).

**The prior.** Coefficients wander around the checkpoint's and are drawn back to them: δ is a stationary
process of covariance P₀ (`prior`) that forgets in `MEMORY_SAMPLES`. So P ≤ P₀, and without excitation nothing
winds up: in the end δ fades. (The coefficient of 1 is the exception; every sample excites it.) A direction
that the samples excite well is followed within some hundred samples, one that they hardly excite within
thousands.

**Past innovations** are regressors as in extended least squares (Ljung, section 11.3). They make the
predictor an ARMAX model, which can come close to the Kalman filter where noise, or an unmeasured load, limits
the prediction.

**Unmeasured disturbances** (a load, dry friction whose sign changes) act like an offset that jumps. So the
coefficient of 1 wanders faster than the others. Where the smoothed square of the innovations exceeds its
expectation `OFFSET_JUMP_RATIO` times, this coefficient alone becomes uncertain again.

**A change of the plant** is detected where that ratio exceeds `PLANT_CHANGE_RATIO`. Then P = P₀ until no tap
holds samples of the old plant, and the readout learned before is kept beside the new one for `TRIAL_SAMPLES`.
If the new one is not clearly better, the plant has not changed; it was only a disturbance (dry friction, a
step of the load). Then the old readout comes back, and the threshold rises above what this disturbance
reached.

**Selection.** Each output is answered by the one of three readouts whose recent error is the smallest: the
checkpoint's, the learning one, and during a trial the one before it. An outlier moves the coefficients no
more than an innovation of `MAX_INNOVATION_SIGMA` standard deviations would.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from twin.kernels.layout import Layout

Array = npt.NDArray[np.float64]

GAIN_CHANGE_SHARE: Final = 0.3
"""Prior standard deviation of a change that all coefficients of one signal share (its gain), relative to
them."""
COEFFICIENT_CHANGE_SHARE: Final = 0.1
"""Prior standard deviation of a change of one coefficient alone, relative to the root mean square of all
coefficients of its signal."""
ANY_CHANGE_INCREMENTS: Final = 0.3
"""Prior standard deviation of a change of any coefficient, in increments of y for a regressor of 1:
coefficients that are zero in the checkpoint may change too."""
INNOVATION_COEFFICIENT_STD: Final = 0.3
"""Prior standard deviation of the coefficients of past innovations, which are zero in the checkpoint."""
MEMORY_SAMPLES: Final = 1e6
"""Samples in which what was learned fades back to the checkpoint, where nothing excites it."""
OFFSET_WALK_VARIANCE: Final = 1e-4
"""Variance, in σ², that the coefficient of 1 gains with each sample: it follows loads that nobody
measures."""
OFFSET_JUMP_RATIO: Final = 5.0
"""Smoothed square of the innovations over its expectation, above which the coefficient of 1 may have
jumped."""
MAX_INNOVATION_SIGMA: Final = 3.0
"""Standard deviations to which an innovation is limited before coefficients learn from it."""
PLANT_CHANGE_RATIO: Final = 11.0
"""Smoothed square of the innovations over its expectation, above which the plant is taken to have changed."""
SQUARE_WEIGHT: Final = 0.25
"""Weight of the newest sample in the smoothed square of the innovations."""
TRIAL_SAMPLES: Final = 128
"""Samples for which a readout that learned anew is compared with the one before it; the second half
counts."""
MAX_TRIAL_ERROR_RATIO: Final = 0.8
"""Squared error of the readout that learned anew over that of the one before, up to which the new one is
kept."""
RECENT_ERROR_WEIGHT: Final = 0.02
"""Weight of the newest sample in the recent squared error of a readout."""
FIRST_RECENT_ERROR: Final = 100.0
"""Recent squared error, in σ², with which a readout that has learned nothing begins: it must earn its
place."""
MAX_SWITCH_ERROR_RATIO: Final = 0.9
"""Recent squared error of a readout over that of the one in use, below which it takes over: without a margin
equal ones would alternate."""
VARIANCE_WEIGHT: Final = 0.002
"""Weight of the newest sample in the variance of the innovations, at least; soon after a change it is
larger."""
THRESHOLD_RAISE_RATIO: Final = 1.5
"""New threshold for a change, over the smoothed square that turned out to be none."""


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
        variances[group] = ANY_CHANGE_INCREMENTS**2 / np.mean((noise / increments) ** 2)
        for row in own:
            gain = np.zeros(size)
            gain[group] = row[group]
            covariance += GAIN_CHANGE_SHARE**2 * np.outer(gain, gain)
            variances[group] += COEFFICIENT_CHANGE_SHARE**2 * np.mean(row[group] ** 2)
    variances[one] = ANY_CHANGE_INCREMENTS**2 / np.mean((noise / increments) ** 2)
    variances[one + 1 : one + 1 + layout.outputs] = INNOVATION_COEFFICIENT_STD**2
    return covariance + np.diag(variances)


@dataclass
class Coefficients:
    """What one readout has learned."""

    delta: Array
    """δ (P, n): changes of its coefficients since the checkpoint."""
    covariance: Array
    """(n, n) of the rows of δ."""
    variance: Array
    """(P,) of its innovations."""

    def copy(self) -> Coefficients:
        """In memory of its own."""
        return Coefficients(self.delta.copy(), self.covariance.copy(), self.variance.copy())


@dataclass
class Trial:
    """The newest comparison of a readout that learns anew with the one before it."""

    count: int = 0
    """Its number: so many changes were found."""
    age: int = 10 * TRIAL_SAMPLES
    """Samples since it began."""
    threshold: float = PLANT_CHANGE_RATIO
    """Smoothed square of the innovations above which the next one begins."""
    raised: float = 0.0
    """The same, if this one shows that nothing had changed."""
    errors: Array = field(default_factory=lambda: np.zeros(2))
    """Squared errors so far: of the readout that learns anew and of the one before."""

    @property
    def on(self) -> bool:
        """Whether it is still going on."""
        return self.age <= TRIAL_SAMPLES

    @property
    def failed(self) -> bool:
        """Whether it ends with this sample, and the new readout is not clearly better."""
        new, old = self.errors
        return self.age == TRIAL_SAMPLES and bool(MAX_TRIAL_ERROR_RATIO * old < new)


class Readout:
    """What has been learned since the checkpoint: δ, P, and the state of change detection and selection.

    In units of the usual error σ, in float64, one sample at a time: `answer` corrects the checkpoint's own
    answer, and `learn` takes the measurement that follows.
    """

    def __init__(self, prior: Array, outputs: int, taps: int, one: int) -> None:
        self.prior, self.taps, self.one = prior, taps, one
        self.learning = Coefficients(np.zeros((outputs, len(prior))), prior.copy(), np.ones(outputs))
        self.before = self.learning.copy()
        """As they were when the trial began."""
        self.trial = Trial()
        # of the checkpoint's readout, the learning one and the one before the trial
        self.recent = np.full((3, outputs), FIRST_RECENT_ERROR)
        self.recent[0] = 1
        self.chosen = np.zeros(outputs, int)
        self.square = np.ones(outputs)
        self.innovation = np.zeros(outputs)
        """After `learn`, the innovations (P,) with which the next φ ends."""

    def answer(self, phi: Array) -> Array:
        """The corrections (3, P) of the three readouts; `chosen` says which of them each output takes."""
        return np.stack([np.zeros(len(self.chosen)), self.learning.delta @ phi, self.before.delta @ phi])

    def learn(self, phi: Array, errors: Array) -> None:
        """Take errors (3, P), measurement - answer, of the answers to φ."""
        self.trial.age += 1
        self._score(errors)
        new = self.learning
        gain = new.covariance @ phi
        spread = 1 + phi @ gain
        self.square += SQUARE_WEIGHT * (errors[1] ** 2 / (new.variance * spread) - self.square)
        if not self.trial.on and self.square.max() > self.trial.threshold:
            self._begin_trial()
        limit = MAX_INNOVATION_SIGMA * np.sqrt(new.variance * spread)
        self.innovation = np.clip(errors[1], -limit, limit) / spread
        keep = 1 - 1 / MEMORY_SAMPLES
        new.delta = keep * (new.delta + np.outer(self.innovation, gain))
        seen = new.covariance - np.outer(gain, gain) / spread
        new.covariance = keep**2 * seen + (1 - keep**2) * self.prior
        weight = max(VARIANCE_WEIGHT, 1 / (20 + self.trial.age))
        new.variance += weight * (np.minimum(self.innovation**2 * spread, 9 * new.variance) - new.variance)
        most = self.prior[self.one, self.one]
        constant = new.covariance[self.one, self.one] + OFFSET_WALK_VARIANCE
        if self.square.max() > OFFSET_JUMP_RATIO:
            constant += most
        new.covariance[self.one, self.one] = min(constant, 2 * most)
        if self.trial.age < self.taps:
            new.covariance = self.prior.copy()
        if self.trial.failed:
            self._take_back()

    def _score(self, errors: Array) -> None:
        """Let each output be answered by the readout that had the smallest recent error."""
        self.recent += RECENT_ERROR_WEIGHT * (errors**2 - self.recent)
        on_trial = self.trial.on
        if on_trial and 2 * self.trial.age > TRIAL_SAMPLES:
            self.trial.errors += (errors[1:] ** 2 / self.before.variance).sum(axis=1)
        for o, answering in enumerate(self.chosen):
            best = 1 if self.recent[1, o] <= self.recent[0, o] else 0
            if on_trial and self.recent[2, o] < self.recent[best, o]:
                best = 2
            over = answering == 2 and not on_trial
            if over or self.recent[best, o] < MAX_SWITCH_ERROR_RATIO * self.recent[answering, o]:
                self.chosen[o] = best

    def _begin_trial(self) -> None:
        """Keep what was learned before, and learn anew."""
        raised = THRESHOLD_RAISE_RATIO * float(self.square.max())
        self.trial = Trial(self.trial.count + 1, 0, self.trial.threshold, raised)
        self.before = self.learning.copy()
        self.recent[2] = self.recent[1]
        self.chosen[self.chosen == 1] = 2
        self.square[:] = 1

    def _take_back(self) -> None:
        """Go back to the readout before the trial."""
        self.learning = self.before.copy()
        self.recent[1] = self.recent[2]
        self.chosen[self.chosen == 2] = 1
        self.trial.threshold = max(self.trial.threshold, self.trial.raised)
