"""The monitor: one more subscriber, which measures how well and how fast the twin answers.

It sees what any other program sees: the samples, the predictions and the events. From them it makes the
figures of the live view and the report at the end of a run. Like `Twin` it knows no socket and no clock.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from twin.comparison import Comparison
from twin.messages import Event, Members, Message, Prediction, Sample, Spec
from twin.metrics import Latencies

RECENT_SAMPLES: Final = 2_000
"""Samples behind the figures of the live view."""
FIRST_MINUTE_SEC: Final = 60.0
"""Time of the stream after its first sample, whose slowest answer is reported separately: programs load and
compile while they start."""
ROUNDING_SHARE: Final = 1e-6
"""Share of persistence's error, below which an observer's error is only the rounding of its numbers."""
COUNTED: Final = (
    "lost",
    "gaps",
    "bridged",
    "rejected",
    "restarts",
    "invalid",
    "alarms",
    "forecasts",
    "swaps",
)
"""The twin's counters that a report has."""


class AnswerTimes:
    """How long answers took, µs: all of them, the newest, and the slowest of the first minute."""

    def __init__(self) -> None:
        self.count = 0
        self.all = Latencies()
        self.recent_us = np.zeros(RECENT_SAMPLES)
        self.first_minute_us = 0.0

    def add(self, us: float, since: float) -> None:
        """Count an answer that came `since` seconds after the stream's first sample."""
        self.all.add(us)
        if since < FIRST_MINUTE_SEC:
            self.first_minute_us = max(self.first_minute_us, us)
        self.recent_us[self.count % RECENT_SAMPLES] = us
        self.count += 1

    @property
    def recent(self) -> tuple[float, float]:
        """p50 and p99 of the newest answers; 0 when there is none."""
        if not self.count:
            return 0.0, 0.0
        p50, p99 = np.percentile(self.recent_us[: self.count], [50, 99])
        return float(p50), float(p99)


class Monitor:
    """Takes in all messages of one source, and makes figures of them."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.comparison = Comparison(spec)
        self.times = AnswerTimes()
        self.samples = 0
        self.model = 0
        """The number of the model that answered last; 0 is persistence."""
        self.first_model: float | None = None
        """Time in the stream from its first sample to the first answer by a model, s."""
        self.status = "waiting"
        self.end: dict[str, float] | None = None  # the plant's own count, once it has ended
        self.plant: dict[str, float] = {}
        self.members: Members | None = None
        """What the members of a mixture did last."""
        self.led: dict[str, int] = {}
        """Answers in which each of them had the largest weight."""
        self._twins: dict[int, dict[str, float]] = {}  # the counters of each start of the twin

    def observe(self, message: Message, received_ns: int = 0) -> None:
        """Take in any message of the source; one with other signals than the Spec's is left out."""
        match message:
            case Sample():
                self.samples += self.comparison.add_sample(message)
            case Prediction():
                if self.comparison.add_prediction(message):
                    self._answered(message, received_ns)
            case Members():
                self.members = message
            case Event(name="stale"):
                self.status = "stale"
            case Event(name="counters"):
                self._twins[message.epoch] = message.figures
            case Event(name="plant"):
                self.plant = message.figures
            case Event(name="end"):
                self.end = self.plant = message.figures

    def _answered(self, prediction: Prediction, received_ns: int) -> None:
        since = self.samples * self.spec.dt
        self.times.add((received_ns - prediction.sample_sent_ns) / 1e3, since)
        if self.first_model is None and prediction.model:
            self.first_model = since
        self.model, self.status = prediction.model, prediction.status
        if isinstance(prediction.weights, dict) and prediction.weights:
            leader = max(prediction.weights, key=prediction.weights.__getitem__)
            self.led[leader] = self.led.get(leader, 0) + 1

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
        return self.end is not None and self.times.count >= self.samples and counted >= self.times.count

    def beside_floor(self, samples: int, floor: str) -> dict[str, dict[str, float]]:
        """`Comparison.one_step`, and where the plant publishes the error of its best observer, that and the
        ratio to it.

        `floor` names the figure: "floor" is over the last `RECENT_SAMPLES`, "quarter_floor" over the last
        quarter of the run, once it has ended. Without noise and load the observer's error is rounding alone,
        and there is no ratio to it.
        """
        found = self.comparison.one_step(samples)
        for name, figures in found.items():
            least = self.plant.get(f"{floor}.{name}", 0.0)
            if least > ROUNDING_SHARE * figures["persistence_rmse"]:
                figures |= {"floor": least, "ratio": figures["rmse"] / least}
        return found

    def figures(self) -> dict[str, float]:
        """What the live view shows, by flat names: plain numbers that travel in an event."""
        p50, p99 = self.times.recent
        values = {
            "samples": float(self.samples),
            "predictions": float(self.times.count),
            "p50_us": p50,
            "p99_us": p99,
            "max_us": self.times.all.max,
            "model": float(self.model),
        }
        values |= {f"z.{name}": value for name, value in self.comparison.newest.items()}
        for name, row_figures in self.beside_floor(RECENT_SAMPLES, "floor").items():
            values |= {f"{figure}.{name}": value for figure, value in row_figures.items()}
        return values | {f"twin.{name}": value for name, value in self.counters.items()}

    def bank(self) -> dict[str, dict[str, Any]]:
        """Of each member of a mixture: its checkpoint, its weight and its errors at the end, and the share of
        the answers in which it led."""
        if self.members is None:
            return {}
        told, count = self.members, max(sum(self.led.values()), 1)
        return {
            name: {
                "model": told.models.get(name, 0),
                "weight": weight,
                "rmse": told.errors.get(name, {}),
                "led": self.led.get(name, 0) / count,
            }
            for name, weight in told.weights.items()
        }

    def report(self) -> dict[str, Any]:
        """The run's figures, those of the free run excepted, as plain data."""
        counters, plant, times = self.counters, self.end or self.plant, self.times
        return {
            "samples": self.samples,
            "predictions": times.count,
            "published": int(plant.get("samples", self.samples)),
            "unanswered": self.samples - times.count,
            **{name: int(counters.get(name, 0)) for name in COUNTED},
            "overruns": int(plant.get("overruns", 0)),
            "model": self.model,
            "members": self.bank(),
            "first_model_s": self.first_model,
            "latency_us": times.all.summary(),
            "worst_answer_ms": times.all.max / 1e3,
            "worst_answer_first_minute_ms": times.first_minute_us / 1e3,
            "one_step": self.beside_floor(max(self.comparison.quarter, 1), "quarter_floor"),
        }
