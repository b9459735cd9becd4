"""The monitor: one more subscriber, which measures how well and how fast the twin answers.

It sees what any other program sees: the samples, the predictions and the events. From them it makes the
figures of the live view and the report at the end of a run. Like `Twin` it knows no socket and no clock.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin.messages import Event, Message, Prediction, Sample, Spec
from twin.metrics import Latencies, fit_percent, rmse, skill

KEPT_SAMPLES = 300_000
"""Samples kept for the figures over the last quarter of a run: five minutes at 1 kHz, some 20 MB."""
RECENT_SAMPLES = 2_000
"""Samples behind the figures of the live view."""
FIRST_MINUTE_SEC = 60.0
"""Time of the stream after its first sample, whose slowest answer is reported separately: programs load and
compile while they start."""
ROUNDING_SHARE = 1e-6
"""Share of persistence's error, below which an observer's error is only the rounding of its numbers."""


class Monitor:
    """Keeps the stream's last samples beside what was predicted for them.

    A prediction with `seq` k is the prediction of sample k + 1, so both are kept in rings indexed by `seq`:
    `z` (KEPT_SAMPLES, F) the samples, `y_hat` (KEPT_SAMPLES, P) the predictions of sample k, `model`
    (KEPT_SAMPLES,) the model that made them, and `sample_seq`, `expected_seq` (KEPT_SAMPLES,) the seq that a
    row belongs to.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.samples = 0
        self.predictions = 0
        self.latencies = Latencies()
        self.first_minute_us = 0.0
        """The slowest answer of the first minute."""
        self.first_model: float | None = None
        """Time in the stream from its first sample to the first answer by a model, s."""
        self.recent_us = np.zeros(RECENT_SAMPLES)
        self.last_seq = -1
        self.last_answered = -1
        self.first_seq = 0
        self.status = "waiting"
        self.end: dict[str, float] | None = None  # the plant's own count, once it has ended
        self.plant: dict[str, float] = {}
        self._epoch = 0
        self._twins: dict[int, dict[str, float]] = {}  # the counters of each start of the twin
        inputs, outputs = len(spec.inputs), len(spec.outputs)
        self.z = np.empty((KEPT_SAMPLES, inputs + outputs))
        self.y_hat = np.empty((KEPT_SAMPLES, outputs))
        # how far the interval reaches to either side of y_hat
        self.reach = np.full((KEPT_SAMPLES, outputs), np.nan, np.float32)
        self.model = np.zeros(KEPT_SAMPLES, np.int64)
        self.sample_seq = np.full(KEPT_SAMPLES, -1, np.int64)
        self.expected_seq = np.full(KEPT_SAMPLES, -1, np.int64)

    def observe(self, message: Message, received_ns: int = 0) -> None:
        """Take in any message of the source; one with other signals than the Spec's is left out."""
        match message:
            case Sample():
                self._sample(message)
            case Prediction():
                self._prediction(message, received_ns)
            case Event(name="stale"):
                self.status = "stale"
            case Event(name="counters"):
                self._twins[message.epoch] = message.figures
            case Event(name="plant"):
                self.plant = message.figures
            case Event(name="end"):
                self.end = self.plant = message.figures

    def _sample(self, sample: Sample) -> None:
        try:
            z = [sample.u[name] for name in self.spec.inputs]
            z += [sample.y[name] for name in self.spec.outputs]
        except KeyError:
            return
        if sample.epoch != self._epoch:  # the plant began anew: what was kept belongs to another numbering
            self._epoch = sample.epoch
            self.first_seq = sample.seq
            self.sample_seq[:] = self.expected_seq[:] = -1
        self.samples += 1
        self.last_seq = sample.seq
        row = sample.seq % KEPT_SAMPLES
        self.z[row] = z
        self.sample_seq[row] = sample.seq

    def _prediction(self, prediction: Prediction, received_ns: int) -> None:
        try:
            y_hat = [prediction.y[name] for name in self.spec.outputs]
        except KeyError:
            return
        us = (received_ns - prediction.sample_sent_ns) / 1e3
        self.latencies.add(us)
        since = self.samples * self.spec.dt
        if since < FIRST_MINUTE_SEC:
            self.first_minute_us = max(self.first_minute_us, us)
        if self.first_model is None and prediction.model:
            self.first_model = since
        self.recent_us[self.predictions % RECENT_SAMPLES] = us
        self.predictions += 1
        self.last_answered = prediction.seq
        self.status = prediction.status
        row = (prediction.seq + 1) % KEPT_SAMPLES
        self.y_hat[row] = y_hat
        self.reach[row] = self._reach(prediction)
        self.model[row] = prediction.model
        self.expected_seq[row] = prediction.seq + 1

    def _reach(self, prediction: Prediction) -> float | list[float]:
        """How far the interval of each output reaches to either side; nan where there is none."""
        low, high = prediction.low, prediction.high
        if isinstance(low, dict) and isinstance(high, dict):
            with suppress(KeyError):
                return [(high[name] - low[name]) / 2 for name in self.spec.outputs]
        return math.nan

    @property
    def counters(self) -> dict[str, float]:
        """The twin's counters, summed over its starts."""
        total: dict[str, float] = {}
        for figures in self._twins.values():
            for name, value in figures.items():
                total[name] = total.get(name, 0.0) + value
        return total

    @property
    def complete(self) -> bool:
        """Whether the plant has ended, all its samples are answered, and the counters say so too."""
        counted = self.counters.get("answered", 0.0)
        return self.end is not None and self.predictions >= self.samples and counted >= self.predictions

    def _span(self, samples: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
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
        seqs, whole = self._span(samples)
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

    def beside_floor(self, samples: int, floor: str) -> dict[str, dict[str, float]]:
        """`one_step`, and where the plant publishes the error of its best observer, that and the ratio to it.

        `floor` names the figure: "floor" is over the last `RECENT_SAMPLES`, "quarter_floor" over the last
        quarter of the run, once it has ended. Without noise and load the observer's error is rounding alone,
        and there is no ratio to it.
        """
        found = self.one_step(samples)
        for name, figures in found.items():
            least = self.plant.get(f"{floor}.{name}", 0.0)
            if least > ROUNDING_SHARE * figures["persistence_rmse"]:
                figures |= {"floor": least, "ratio": figures["rmse"] / least}
        return found

    def figures(self) -> dict[str, float]:
        """What the live view shows, by flat names: plain numbers that travel in an event."""
        recent = self.recent_us[: min(self.predictions, RECENT_SAMPLES)]
        p50, p99 = np.percentile(recent, [50, 99]) if len(recent) else (0.0, 0.0)
        values = {
            "samples": float(self.samples),
            "predictions": float(self.predictions),
            "p50_us": float(p50),
            "p99_us": float(p99),
            "max_us": self.latencies.max,
            "model": float(self.model[(self.last_answered + 1) % KEPT_SAMPLES]) if self.predictions else 0.0,
        }
        if self.samples:
            row = self.last_seq % KEPT_SAMPLES
            values |= dict(
                zip((f"z.{name}" for name in self.spec.features), self.z[row].tolist(), strict=True)
            )
        for name, row_figures in self.beside_floor(RECENT_SAMPLES, "floor").items():
            values |= {f"{figure}.{name}": value for figure, value in row_figures.items()}
        return values | {f"twin.{name}": value for name, value in self.counters.items()}

    def segments(self, horizon: int, window: int) -> list[tuple[int, int]]:
        """(model, first seq) of free runs over the last quarter of the run, one after the other.

        Each is warmed by the `window` samples before `first` at least, and runs over `horizon` samples from
        it with the model that answered at its start, which had therefore seen none of them.
        """
        quarter = max((self.last_seq + 1 - self.first_seq) // 4, horizon)
        oldest = max(self.first_seq + window, self.last_seq + 1 - min(quarter, KEPT_SAMPLES - window - 1))
        found = []
        for first in range(oldest, self.last_seq + 2 - horizon, horizon):
            answered = self.expected_seq[first % KEPT_SAMPLES] == first
            if answered and self.unbroken(first - window, first + horizon):
                found.append((int(self.model[first % KEPT_SAMPLES]), first))
        return found

    def seen_from(self, number: int, first: int, window: int) -> int:
        """The `seq` from which a model has seen samples, none of which is missing until `first`: the `window`
        that warmed it, then those that it answered."""
        seqs = np.arange(max(self.first_seq, self.last_seq + 1 - KEPT_SAMPLES), first)
        missing = seqs[self.sample_seq[seqs % KEPT_SAMPLES] != seqs]
        answered = self.expected_seq[seqs % KEPT_SAMPLES] == seqs
        own = seqs[answered & (self.model[seqs % KEPT_SAMPLES] == number)]
        begin = (int(own[0]) if len(own) else first) - window
        return max(begin, int(missing[-1]) + 1 if len(missing) else int(seqs[0]))

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

    def report(self) -> dict[str, Any]:
        """The run's figures, those of the free run excepted, as plain data."""
        counters = self.counters
        quarter = max((self.last_seq + 1 - self.first_seq) // 4, 1)
        return {
            "samples": self.samples,
            "predictions": self.predictions,
            "published": int((self.end or self.plant).get("samples", self.samples)),
            "unanswered": self.samples - self.predictions,
            "lost": int(counters.get("lost", 0)),
            "gaps": int(counters.get("gaps", 0)),
            "bridged": int(counters.get("bridged", 0)),
            "rejected": int(counters.get("rejected", 0)),
            "restarts": int(counters.get("restarts", 0)),
            "invalid": int(counters.get("invalid", 0)),
            "alarms": int(counters.get("alarms", 0)),
            "forecasts": int(counters.get("forecasts", 0)),
            "overruns": int((self.end or self.plant).get("overruns", 0)),
            "swaps": int(counters.get("swaps", 0)),
            "model": int(self.model[(self.last_answered + 1) % KEPT_SAMPLES]) if self.predictions else 0,
            "first_model_s": self.first_model,
            "latency_us": self.latencies.summary(),
            "worst_answer_ms": self.latencies.max / 1e3,
            "worst_answer_first_minute_ms": self.first_minute_us / 1e3,
            "one_step": self.beside_floor(quarter, "quarter_floor"),
        }
