"""The plant's process: publish its samples when they are due."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from twin import service
from twin.bus import Publisher
from twin.config import Config
from twin.messages import Sample, Spec
from twin.pacer import Pacer
from twin.realtime import sleep_precisely

RECENT_SAMPLES: Final = 2_000
"""Samples behind the floor's running error, as behind the live view's figures."""


class Floor(Protocol):
    """The best observer of a plant, whose one-step error is what a twin's is measured by."""

    def observe(self, sample: Sample) -> None:
        """Take in the next sample."""

    def rms(self, samples: int) -> dict[str, float]:
        """Its error over the last samples, for each output."""


def _no_changes(after: float, until: float) -> Iterable[str]:
    return ()


@dataclass(frozen=True)
class Source:
    """What a plant's process publishes, and what it knows beside it."""

    spec: Spec
    samples: Iterable[Sample]
    changes: Callable[[float, float], Iterable[str]] = _no_changes
    """In words, what changes in the plant in a span of its time (after, until], s."""
    floor: Callable[[], Floor] | None = None
    """Makes the best observer, where the plant is known well enough for one: a simulated one is."""


def publish(config: Config, source: Source) -> None:
    """Publish a plant's samples, and its Spec to whoever comes, until they end or a signal comes."""
    stop = service.Stop()
    sleep_precisely()
    spec, floor = source.spec, source.floor() if source.floor else None
    pacer = Pacer(None if config.bus.unpaced else spec.dt, stop)
    with service.publisher(config, "plant", stop) as publisher:
        gather(publisher, spec, config.bus.await_subscribers, stop)
        publisher.send(spec)
        count, seq, t, reported = 0, -1, -math.inf, time.monotonic()
        for sample in source.samples:
            for _ in range(sample.seq - seq):  # a sample that a sensor drops takes its time too
                pacer.wait()
            seq = sample.seq
            if stop:
                break
            for text in source.changes(t, sample.t):
                publisher.event("change", text, sample.t)
            publisher.send(sample)
            if floor is not None:  # after the sample: nobody waits for it
                floor.observe(sample)
            count, t = count + 1, sample.t
            overdue = time.monotonic() - reported > service.REPORT_PERIOD_SEC
            if overdue or publisher.newcomers():
                publisher.send(spec)
            if overdue:
                reported = time.monotonic()
                figures = _errors("floor", floor, RECENT_SAMPLES)
                publisher.event("plant", "", t, samples=count, overruns=pacer.overruns, **figures)
        figures = {"samples": float(count), "overruns": float(pacer.overruns)}
        figures |= _errors("floor", floor, RECENT_SAMPLES)
        figures |= _errors("quarter_floor", floor, max(count // 4, 1))
        publisher.event("end", f"the plant ended after {count} samples", max(t, 0.0), **figures)


def gather(publisher: Publisher, spec: Spec, listeners: int, stop: service.Stop) -> None:
    """Wait for so many listeners to samples, `START_TIMEOUT_SEC` at most.

    A newcomer gets the Spec at once: it prepares itself by that, and subscribes to samples when it is ready.
    """
    deadline = time.monotonic() + service.START_TIMEOUT_SEC
    while publisher.wait_for(Sample, listeners, 0.0) < listeners:
        if stop or time.monotonic() > deadline:
            return
        if publisher.newcomers():
            publisher.send(spec)


def _errors(name: str, floor: Floor | None, samples: int) -> dict[str, float]:
    """The floor's error over the last samples, as figures of an event."""
    found = floor.rms(samples) if floor is not None else {}
    return {f"{name}.{output}": rms for output, rms in found.items()}
