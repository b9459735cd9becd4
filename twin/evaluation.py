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
from twin.validation import foresee

Array = NDArray[np.float64]

SKIP: Final = 50
"""Samples that warm the hidden state before anything is judged, or a tenth of a recording shorter than ten
times that."""
STARTS: Final = 2_000
"""Forecasts at most; from every sample, or from every n-th of a longer recording."""
LAGS: Final = 20
"""Lags at which the whiteness of a residual is judged."""
LEAST: Final = 10
"""Samples to judge on, below which figures mean nothing."""


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
    last = len(z) - horizon
    every = max(1, -(-(last - first + 1) // STARTS))
    starts = np.arange(first, last + 1, every)  # the first instant of each forecast
    with np.errstate(over="ignore", invalid="ignore"):
        predictor.warm(samples[None, : first - 1])
        last_seen, ahead = samples[None, first - 1], samples[None, first:, :inputs]
        free_run = predictor.free_run(last_seen, ahead)[0].astype(np.float64)
        one_step, runs = foresee(predictor, samples[first - 1 :], inputs, (starts - first).tolist(), horizon)
    measured = [z[start : start + horizon, inputs:] for start in starts]
    forecasts = runs - np.array(measured).reshape(runs.shape)
    return Evaluation(
        checkpoint.spec.outputs, first, z[first:, inputs:], one_step.astype(np.float64), free_run, forecasts
    )
