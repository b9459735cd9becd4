"""How good a model is on a recording: one step ahead, in free run, in forecasts, and what its residual holds.

It works through `Predictor`, so what is judged is what a twin would do, and torch is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from twin import metrics
from twin.backends.opening import open_predictor
from twin.checkpoint import Checkpoint
from twin.errors import RecordingError
from twin.families import divided
from twin.validation import foresee

Array = NDArray[np.float64]

SKIP: Final = 50
"""Samples that warm the hidden state before anything is judged, or a tenth of a recording shorter than ten
times that."""
STARTS: Final = 2_000
"""Free runs of one length at most; from every sample, or from every n-th of a longer recording."""
STEPS: Final = 2_000_000
"""Steps of all free runs of one length, about, at most."""
LENGTHS: Final = (0.1, 1.0, 10.0)
"""Lengths of the free runs that are judged, in horizons; the whole recording is another."""
LAGS: Final = 20
"""Lags at which the whiteness of a residual is judged."""
LEAST: Final = 10
"""Samples to judge on, below which figures mean nothing."""


@dataclass(frozen=True)
class FreeRuns:
    """How N free runs of one length went, each from another sample of a recording on."""

    steps: int
    rmse: Array
    """(N, P), in the outputs' units."""
    spread: Array
    """(P,) standard deviation of what was measured meanwhile."""
    left: Array
    """(N,) the step at which each left the range of the recording; -1 where it did not."""

    @classmethod
    def of(cls, runs: Array, measured: Array, outside: NDArray[np.bool_]) -> FreeRuns:
        """Runs (N, H, P) beside what was measured, and where they were `outside` (N, H) the range."""
        with np.errstate(over="ignore", invalid="ignore"):
            rmse = np.sqrt(np.square(runs - measured).mean(axis=1))
        left = np.where(outside.any(axis=1), outside.argmax(axis=1), -1)
        return cls(runs.shape[1], rmse, measured.reshape(-1, measured.shape[2]).std(axis=0), left)

    def figures(self, outputs: tuple[str, ...], dt: float) -> dict[str, Any]:
        """As plain data: over all runs, of the median one, and how many left the range."""
        with np.errstate(over="ignore", invalid="ignore"):
            overall = np.sqrt(np.square(self.rmse).mean(axis=0))
            median = np.median(self.rmse, axis=0)
            nrmse = np.where(self.spread > 0, overall / self.spread, np.where(overall > 0, np.inf, 0.0))
        of_each = {
            name: {
                "rmse": float(overall[i]),
                "median_rmse": float(median[i]),
                "nrmse": float(nrmse[i]),
                "fit_percent": 100.0 * (1.0 - float(nrmse[i])),
            }
            for i, name in enumerate(outputs)
        }
        gone = self.left[self.left >= 0]
        return {
            "steps": self.steps,
            "seconds": self.steps * dt,
            "runs": len(self.rmse),
            "outputs": of_each,
            "left_range": len(gone),
            "left_after_s": float(gone.min() * dt) if len(gone) else None,
        }


@dataclass(frozen=True)
class Evaluation:
    """What a model answered to a recording, beside what was measured. T samples are judged, from the
    `first` of the recording on; all in the outputs' units.
    """

    outputs: tuple[str, ...]
    first: int
    measured: Array
    """(T, P)"""
    one_step: Array
    """(T, P): each from all samples before it."""
    free_run: Array
    """(T, P): from the samples before `first` and the inputs."""
    forecasts: Array
    """(N, H, P): the errors of forecasts of H steps."""
    lengths: tuple[FreeRuns, ...] = ()
    """Free runs of several lengths, rising, as far as the recording is long enough; the last is over all of
    it."""

    @property
    def unstable(self) -> bool:
        """Whether any free run left the range of the recording."""
        return any(bool((runs.left >= 0).any()) for runs in self.lengths)

    def figures(self) -> dict[str, Any]:
        """By kind and output, as plain data."""
        kinds: dict[str, Any] = {
            "one_step": self._of_each(self.one_step),
            "free_run": self._of_each(self.free_run),
            "forecast": {},
            "whiteness": {},
        }
        spread = self.measured.std(axis=0)
        for i, name in enumerate(self.outputs):
            if len(self.forecasts):
                by_start = metrics.rmse(self.forecasts[:, :, i].T)
                overall = float(metrics.rmse(self.forecasts[:, :, i].ravel()))
                kinds["forecast"][name] = {
                    "rmse": overall,
                    "median_rmse": float(np.median(by_start)),
                    "nrmse": overall / float(spread[i]) if spread[i] > 0 else float(overall > 0),
                }
            kinds["whiteness"][name] = self.whiteness(i)
        return kinds

    def _of_each(self, predicted: Array) -> dict[str, dict[str, float]]:
        """RMSE, NRMSE, fit and VAF of each output."""
        columns = {
            "rmse": metrics.rmse(self.measured - predicted),
            "nrmse": metrics.nrmse(self.measured, predicted),
            "fit_percent": metrics.fit_percent(self.measured, predicted),
            "vaf_percent": metrics.vaf_percent(self.measured, predicted),
        }
        return {
            name: {figure: float(values[i]) for figure, values in columns.items()}
            for i, name in enumerate(self.outputs)
        }

    def whiteness(self, output: int) -> dict[str, float]:
        """Of the residual one step ahead: the lags outside ±1.96 / sqrt(T), of which a white one has 5 %,
        and the test of Ljung and Box."""
        residual = (self.measured - self.one_step)[:, output]
        lags = min(LAGS, len(residual) // 4)
        outside = np.abs(metrics.autocorrelation(residual, lags)) > 1.96 / np.sqrt(len(residual))
        q, p = metrics.ljung_box(residual, lags)
        return {"lags": lags, "outside": int(outside.sum()), "ljung_box": q, "p_value": p}


def first_judged(samples: int, skip: int | None = None) -> int:
    """Samples that come before the judged ones.

    Raises:
        RecordingError: too few are left.
    """
    first = min(SKIP, max(samples // 10, 1)) if skip is None else skip
    if first < 1 or samples - first < LEAST:
        raise RecordingError(
            f"{samples} samples, of which the first {first} warm the model: at least 1 of them and "
            f"{LEAST} to judge on are needed; give a longer recording or another --skip"
        )
    return first


def evaluate(checkpoint: Checkpoint, z: Array, horizon: int, skip: int | None = None) -> Evaluation:
    """Judge a model on consecutive samples z (T, F), with forecasts of `horizon` steps.

    Raises:
        RecordingError: too few samples.
        CheckpointError: tensors that are no model's.
    """
    inputs = len(checkpoint.spec.inputs)
    first = first_judged(len(z), skip)
    z = np.asarray(z, np.float64)
    samples = np.ascontiguousarray(z, np.float32)
    predictor = open_predictor(checkpoint)
    measured = z[first:, inputs:]
    motor, network = divided(checkpoint.tensors)
    spread = (motor or network)["scale"][inputs : inputs + measured.shape[1]]
    with np.errstate(over="ignore", invalid="ignore"):
        predictor.warm(samples[None, : first - 1])
        last_seen, ahead = samples[None, first - 1], samples[None, first:, :inputs]
        whole = predictor.free_run(last_seen, ahead)[0].astype(np.float64)
    lengths, begun = [], predictor.state
    one_step, forecasts = np.empty_like(measured), np.empty((0, horizon, measured.shape[1]))
    for steps in sorted({horizon, *(max(round(share * horizon), 1) for share in LENGTHS)}):
        if steps > len(measured) and steps != horizon:
            continue
        predictor.state, starts = begun, starts_of(len(measured), steps)
        with np.errstate(over="ignore", invalid="ignore"):
            found = foresee(predictor, samples[first - 1 :], inputs, starts.tolist(), steps)
        one_step, runs = (a.astype(np.float64) for a in found)
        true = measured[starts[:, None] + np.arange(steps)].reshape(runs.shape)
        if steps == horizon:
            forecasts = runs - true
        if len(starts):
            lengths.append(FreeRuns.of(runs, true, metrics.leaves_range(runs, z[:, inputs:], spread)))
    outside = metrics.leaves_range(whole, z[:, inputs:], spread)
    lengths.append(FreeRuns.of(whole[None], measured[None], outside[None]))
    outputs = checkpoint.spec.outputs
    return Evaluation(outputs, first, measured, one_step, whole, forecasts, tuple(lengths))


def starts_of(samples: int, steps: int) -> NDArray[np.int64]:
    """Where free runs of so many steps begin among so many samples: their first instants."""
    last, most = samples - steps, max(min(STARTS, STEPS // steps), 1)
    every = max(1, -(-(last + 1) // most))
    return np.arange(0, last + 1, every)
