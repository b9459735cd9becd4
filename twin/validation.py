"""How a model does on samples that it has not learned from: one step ahead and in free run, as in a twin.

All errors are taken through a `Predictor`, so what is judged is what will answer; torch is not needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from twin.backends.opening import open_predictor
from twin.checkpoint import Checkpoint
from twin.errors import CheckpointError
from twin.history import History
from twin.messages import Spec
from twin.predictor import Predictor

JUDGED_SEGMENTS: Final = 64
"""On which a candidate is judged; and so many free runs, where it adapts."""
CHANGED_RATIO: Final = 1.5
"""A model that errs so many times as much as is usual, one step ahead, stands before a change."""
USUAL_GROWTH: Final = 1.1
"""The error that is usual grows by so much at most with each model that is accepted."""
Segments = NDArray[np.float32]


@dataclass(frozen=True)
class Verdict:
    """The answer to one question: yes or no, in words, and the figures it rests on."""

    passed: bool
    text: str
    figures: dict[str, float] = field(default_factory=dict)


class Decision(NamedTuple):
    """What a trainer does, as its event is named, and why."""

    name: str
    verdict: Verdict


@dataclass(frozen=True)
class Errors:
    """RMSE of each output (P,), one step ahead and in free run, in the outputs' units."""

    one_step: NDArray[np.float64]
    free_run: NDArray[np.float64]

    @property
    def finite(self) -> bool:
        """Whether all of them are numbers."""
        return bool(np.isfinite(self.one_step).all() and np.isfinite(self.free_run).all())

    def figures(self, outputs: Sequence[str], whose: str = "") -> dict[str, float]:
        """By name, as a verdict and a checkpoint have them."""
        found: dict[str, float] = {}
        for i, name in enumerate(outputs):
            found[f"{whose}one_step_rmse.{name}"] = float(self.one_step[i])
            found[f"{whose}free_run_rmse.{name}"] = float(self.free_run[i])
        return found

    def ratio(self, other: Errors) -> tuple[float, float]:
        """One step ahead and in free run: own error over the other's, the geometric mean over the outputs."""
        tiny = np.finfo(np.float32).tiny
        one, free = (
            np.log(np.maximum(own, tiny) / np.maximum(reference, tiny)).mean()
            for own, reference in ((self.one_step, other.one_step), (self.free_run, other.free_run))
        )
        return math.exp(one), math.exp(free)


def foresee(
    predictor: Predictor, z: NDArray[np.float32], inputs: int, starts: Sequence[int], horizon: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What a predictor of one row, warm up to z[0], foresees of consecutive samples z (T + 1, inputs + P).

    Returns y one step ahead (T, P) of z[1:]; and in free run (M, horizon, P), of the samples after each of M
    `starts`, which rise.
    """
    one_step = np.empty((len(z) - 1, z.shape[1] - inputs), np.float32)
    runs, begin = np.empty((len(starts), horizon, z.shape[1] - inputs), np.float32), iter([*starts, -1])
    start, m = next(begin), 0
    for k in range(len(z) - 1):
        while k == start:
            runs[m] = predictor.free_run(z[None, k], z[None, k + 1 : k + 1 + horizon, :inputs])[0]
            start, m = next(begin), m + 1
        one_step[k] = predictor.step(z[None, k])[0]
    return one_step, runs


def errors_of_segments(predictor: Predictor, z: NDArray[np.float32], inputs: int, warm: int) -> Errors:
    """The errors on segments z (B, T, F), each from a fresh state, over what comes after `warm` samples."""
    horizon = z.shape[1] - warm
    one_step, free_run = [], []
    for segment in z:
        predictor.reset()
        predictor.warm(segment[None, : warm - 1])
        ahead, (run,) = foresee(predictor, segment[warm - 1 :], inputs, [0], horizon)
        one_step.append(ahead - segment[warm:, inputs:])
        free_run.append(run - segment[warm:, inputs:])
    return Errors(_rms(np.stack(one_step)), _rms(np.stack(free_run)))


def errors_of_persistence(z: NDArray[np.float32], inputs: int, warm: int) -> Errors:
    """The same, of who says that the outputs stay as they are."""
    y = z[:, :, inputs:]
    return Errors(_rms(y[:, warm:] - y[:, warm - 1 : -1]), _rms(y[:, warm:] - y[:, warm - 1 : warm]))


def errors_adapting(
    predictor: Predictor,
    z: NDArray[np.float32],
    inputs: int,
    first: int,
    starts: NDArray[np.int64],
    horizon: int,
) -> Errors:
    """The errors of a predictor that adapts as it follows consecutive samples z (T, F).

    The samples before `first` only warm it: all that an incumbent has seen, or as little as the twin has at
    hand for a model that it takes up. Free runs of `horizon` samples begin at `starts`, which rise.
    """
    predictor.adapting = True
    predictor.warm(z[None, :first])
    ahead, runs = foresee(predictor, z[first:], inputs, (starts - first).tolist(), horizon)
    measured = np.stack([z[k + 1 : k + 1 + horizon, inputs:] for k in starts])
    return Errors(_rms(ahead - z[first + 1 :, inputs:]), _rms(runs - measured))


class Judge:
    """Compares models on a history's newest samples, as the twin runs them: with `adapt`, adapting.

    `warm` samples warm a hidden state, `horizon` samples run free.
    """

    def __init__(self, spec: Spec, warm: int, horizon: int, adapt: bool) -> None:
        self.outputs, self.inputs = spec.outputs, len(spec.inputs)
        self.warm, self.horizon, self.adapt = warm, horizon, adapt
        self.usual: Errors | None = None
        """Of those models that were accepted."""

    def errors(self, model: Checkpoint | None, z: NDArray[np.float32]) -> Errors:
        """Of a model, or None for persistence, on segments z (B, warm + horizon, F); NaN where its weights
        are not finite."""
        if model is None:
            return errors_of_persistence(z, self.inputs, self.warm)
        try:
            predictor = open_predictor(model)
        except CheckpointError:
            return Errors(*np.full((2, len(self.outputs)), np.nan))
        return errors_of_segments(predictor, z, self.inputs, self.warm)

    def ratio(
        self,
        history: History,
        trained_to: int,
        candidate: tuple[Checkpoint, Errors],
        incumbent: tuple[Checkpoint, Errors],
    ) -> tuple[float, float]:
        """The candidate's errors over the incumbent's. Where the twin adapts, both have adapted to the whole
        history: the twin itself waits until the candidate has learned what the incumbent knows. Otherwise,
        and where too few samples came later, it is that of the errors found."""
        held = history.view().astype(np.float32)
        oldest = history.count - len(held)
        begin, end = list(history.stretches(0, history.count))[-1]
        first = max(trained_to, begin + self.warm)
        if not self.adapt or end - first <= self.horizon:
            return candidate[1].ratio(incumbent[1])
        starts = np.linspace(first, end - self.horizon - 1, JUDGED_SEGMENTS).astype(int)
        errors = []
        z = held[begin - oldest : end - oldest]
        for model, known in (candidate, incumbent):
            # a predictor takes the noise that it adapts by from these figures
            told = replace(model, metrics=known.figures(self.outputs))
            place = first - begin, starts - begin, self.horizon
            errors.append(errors_adapting(open_predictor(told), z, self.inputs, *place))
        return errors[0].ratio(errors[1] if errors[1].finite else incumbent[1])

    def has_changed(self, errors: Errors) -> bool:
        """Whether errors are so large that the plant has changed."""
        return self.usual is not None and errors.ratio(self.usual)[0] > CHANGED_RATIO

    def remember(self, errors: Errors, *, accepted: bool) -> None:
        """Take what is usual from a model that was accepted, and before the first from what there was."""
        if not accepted:
            self.usual = self.usual or errors
            return
        most = errors.one_step if self.usual is None else USUAL_GROWTH * self.usual.one_step
        self.usual = Errors(np.minimum(errors.one_step, most), errors.free_run)


def _rms(e: NDArray[np.float32]) -> NDArray[np.float64]:
    """Over all but the last axis."""
    axes = tuple(range(e.ndim - 1))
    return np.asarray(np.sqrt(np.mean(np.square(e, dtype=np.float64), axis=axes)))
