"""A stream's last samples beside what was predicted for them, and the figures that follow from both."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Final

import numpy as np
from numpy.typing import NDArray

from twin.messages import Prediction, Sample, Spec
from twin.metrics import fit_percent, rmse, skill

KEPT_SAMPLES: Final = 300_000
"""Samples kept for the figures over the last quarter of a run: five minutes at 1 kHz, some 20 MB."""


class Comparison:
    """Samples and predictions, brought together by `seq`.

    A prediction with `seq` k is the prediction of sample k + 1, so both are kept in rings indexed by `seq`:
    `z` (KEPT_SAMPLES, F) the samples, `y_hat` (KEPT_SAMPLES, P) the predictions of sample k, `model`
    (KEPT_SAMPLES,) the model that made them, `twin` (KEPT_SAMPLES,) the epoch of the twin that did, and
    `sample_seq`, `expected_seq` (KEPT_SAMPLES,) the seq that a row belongs to. Of a plant that begins anew,
    which its `epoch` shows, everything before is left out.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.epoch = 0
        self.first_seq = 0
        self.last_seq = -1
        inputs, outputs = len(spec.inputs), len(spec.outputs)
        self.z = np.empty((KEPT_SAMPLES, inputs + outputs))
        self.y_hat = np.empty((KEPT_SAMPLES, outputs))
        # how far the interval reaches to either side of y_hat
        self.reach = np.full((KEPT_SAMPLES, outputs), np.nan, np.float32)
        self.model = np.zeros(KEPT_SAMPLES, np.int64)
        self.twin = np.zeros(KEPT_SAMPLES, np.int64)
        self.sample_seq = np.full(KEPT_SAMPLES, -1, np.int64)
        self.expected_seq = np.full(KEPT_SAMPLES, -1, np.int64)

    def add_sample(self, sample: Sample) -> bool:
        """Keep a sample; False for one with other signals than the Spec's."""
        try:
            z = [sample.u[name] for name in self.spec.inputs]
            z += [sample.y[name] for name in self.spec.outputs]
        except KeyError:
            return False
        if sample.epoch != self.epoch:  # what was kept belongs to another numbering
            self.epoch = sample.epoch
            self.first_seq = sample.seq
            self.sample_seq[:] = self.expected_seq[:] = -1
        self.last_seq = sample.seq
        row = sample.seq % KEPT_SAMPLES
        self.z[row] = z
        self.sample_seq[row] = sample.seq
        return True

    def add_prediction(self, prediction: Prediction) -> bool:
        """Keep a prediction; False for one of other outputs than the Spec's."""
        try:
            y_hat = [prediction.y[name] for name in self.spec.outputs]
        except KeyError:
            return False
        row = (prediction.seq + 1) % KEPT_SAMPLES
        self.y_hat[row] = y_hat
        self.reach[row] = self._reach(prediction)
        self.model[row] = prediction.model
        self.twin[row] = prediction.epoch
        self.expected_seq[row] = prediction.seq + 1
        return True

    def _reach(self, prediction: Prediction) -> float | list[float]:
        """How far the interval of each output reaches to either side; nan where there is none."""
        low, high = prediction.low, prediction.high
        if isinstance(low, dict) and isinstance(high, dict):
            with suppress(KeyError):
                return [(high[name] - low[name]) / 2 for name in self.spec.outputs]
        return math.nan

    @property
    def newest(self) -> dict[str, float]:
        """The last sample's values by signal; empty before the first one."""
        if self.last_seq < 0:
            return {}
        return dict(zip(self.spec.features, self.z[self.last_seq % KEPT_SAMPLES].tolist(), strict=True))

    @property
    def quarter(self) -> int:
        """Samples of the last quarter of the run."""
        return (self.last_seq + 1 - self.first_seq) // 4

    def pairs(self, samples: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The seqs of the last `samples`, and which have a sample, one before it, and an expectation."""
        first = max(self.first_seq + 1, self.last_seq + 1 - min(samples, KEPT_SAMPLES - 1))
        seqs = np.arange(first, self.last_seq + 1)
        rows = seqs % KEPT_SAMPLES
        whole = self.sample_seq[rows] == seqs
        whole &= self.sample_seq[(seqs - 1) % KEPT_SAMPLES] == seqs - 1
        whole &= self.expected_seq[rows] == seqs
        return seqs, whole

    def one_step(self, samples: int) -> dict[str, dict[str, float]]:
        """RMSE of the predictions of the last samples, beside persistence ŷ(k+1) = y(k), for each output.

        Where there were intervals, also the share of samples that lay inside, and the mean width."""
        seqs, whole = self.pairs(samples)
        rows, before = seqs[whole] % KEPT_SAMPLES, (seqs[whole] - 1) % KEPT_SAMPLES
        if not len(rows):
            return {}
        y = self.z[:, len(self.spec.inputs) :]
        error, held = y[rows] - self.y_hat[rows], y[rows] - y[before]
        columns = zip(self.spec.outputs, rmse(error), rmse(held), skill(error, held), strict=True)
        figures = {
            name: {"rmse": float(own), "persistence_rmse": float(other), "skill": float(gain)}
            for name, own, other, gain in columns
        }
        reach = self.reach[rows]
        stated = np.isfinite(reach[:, 0])
        if stated.any():
            inside = np.abs(error[stated]) <= reach[stated] * (1 + 1e-6)  # as float32 rounds it
            for name, share, width in zip(
                self.spec.outputs, inside.mean(axis=0), 2 * reach[stated].mean(axis=0), strict=True
            ):
                figures[name] |= {"coverage": float(share), "width": float(width)}
        return figures

    def segments(self, horizon: int, window: int) -> list[tuple[int, int]]:
        """(model, first seq) of free runs over the last quarter of the run, one after the other.

        Each is warmed by the `window` samples before `first` at least, which the twin has seen too, and runs
        over `horizon` samples from it with the model that answered at its start, which had therefore seen
        none of them. Where a mixture was led by a member without a checkpoint, it is the one that led before;
        0 where none has.
        """
        last = min(max(self.quarter, horizon), KEPT_SAMPLES - window - 1)
        oldest = max(self.first_seq + window, self.last_seq + 1 - last)
        found = []
        for first in range(oldest, self.last_seq + 2 - horizon, horizon):
            answered = self.expected_seq[first % KEPT_SAMPLES] == first
            seen = answered and self.begun_at(first) <= first - window
            if seen and self.unbroken(first - window, first + horizon):
                found.append((self._last_model(first), first))
        return found

    def _last_model(self, seq: int) -> int:
        """The last of the trainer's models that answered or led until then; 0 where there was none."""
        seqs = np.arange(max(self.first_seq, seq + 1 - KEPT_SAMPLES), seq + 1)
        models = np.where(self.expected_seq[seqs % KEPT_SAMPLES] == seqs, self.model[seqs % KEPT_SAMPLES], 0)
        made = np.flatnonzero(models)
        return int(models[made[-1]]) if len(made) else 0

    def begun_at(self, first: int) -> int:
        """The `seq` of the first sample that the twin has seen which answered at `first`: a twin that was
        started anew knows nothing of what came before."""
        seqs = np.arange(max(self.first_seq, self.last_seq + 1 - KEPT_SAMPLES), first + 1)
        rows = seqs % KEPT_SAMPLES
        if not len(seqs) or self.expected_seq[rows[-1]] != first:
            return first
        same = seqs[(self.expected_seq[rows] == seqs) & (self.twin[rows] == self.twin[rows[-1]])]
        return max(int(same[0]) - 1, int(seqs[0]))

    def seen_from(self, number: int, first: int, window: int) -> int:
        """The `seq` from which a model has seen samples, none of which is missing until `first`: the `window`
        that warmed it, then those that it answered, all since the twin's own start."""
        begun = self.begun_at(first)
        seqs = np.arange(begun, first)
        missing = seqs[self.sample_seq[seqs % KEPT_SAMPLES] != seqs]
        answered = self.expected_seq[seqs % KEPT_SAMPLES] == seqs
        own = seqs[answered & (self.model[seqs % KEPT_SAMPLES] == number)]
        begin = (int(own[0]) if len(own) else first) - window
        return max(begin, int(missing[-1]) + 1 if len(missing) else begun)

    def unbroken(self, first: int, last: int) -> bool:
        """Whether all samples from `first` to `last` - 1 are there."""
        seqs = np.arange(first, last)
        return bool(np.array_equal(self.sample_seq[seqs % KEPT_SAMPLES], seqs))

    def stretch(self, first: int, last: int) -> NDArray[np.float64]:
        """The samples `first` to `last` - 1 as (T, F), copied."""
        return self.z[np.arange(first, last) % KEPT_SAMPLES]

    def free_run_fit(self, runs: list[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> dict[str, float]:
        """Fit % of (measured, predicted) pairs of (T, P), joined, for each output that varied at all."""
        if not runs:
            return {}
        measured = np.concatenate([run[0] for run in runs])
        predicted = np.concatenate([run[1] for run in runs])
        fit = zip(self.spec.outputs, fit_percent(measured, predicted).tolist(), strict=True)
        return {name: percent for name, percent in fit if math.isfinite(percent)}
