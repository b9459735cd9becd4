"""The plant's process: publish its samples when they are due."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

from twin import service
from twin.config import Config
from twin.messages import Sample, Spec
from twin.pacer import Pacer
from twin.realtime import sleep_precisely


def no_changes(after: float, until: float) -> Iterable[str]:
    """Of a plant in which nothing changes."""
    return ()


def publish(
    config: Config,
    spec: Spec,
    samples: Iterable[Sample],
    changes: Callable[[float, float], Iterable[str]] = no_changes,
) -> None:
    """Publish a plant's samples, and its Spec to whoever comes, until they end or a signal comes.

    `changes(after, until)` says in words what changes in the plant in that span of its time, in s.
    """
    stop = service.Stop()
    sleep_precisely()
    pacer = Pacer(None if config.bus.unpaced else spec.dt, stop)
    with service.publisher(config, "plant", stop) as publisher:
        publisher.wait_for(Sample, config.bus.await_subscribers, service.PATIENCE)
        publisher.send(spec)
        count, seq, t, reported = 0, -1, -math.inf, time.monotonic()
        for sample in samples:
            for _ in range(sample.seq - seq):  # a sample that a sensor drops takes its time too
                pacer.wait()
            seq = sample.seq
            if stop:
                break
            for text in changes(t, sample.t):
                publisher.event("change", text, sample.t)
            publisher.send(sample)
            count, t = count + 1, sample.t
            overdue = time.monotonic() - reported > service.REPORT_PERIOD
            if overdue or publisher.newcomers():
                publisher.send(spec)
            if overdue:
                reported = time.monotonic()
                publisher.event("plant", "", t, samples=count, overruns=pacer.overruns)
        figures = {"samples": float(count), "overruns": float(pacer.overruns)}
        publisher.event("end", f"the plant ended after {count} samples", max(t, 0.0), **figures)
