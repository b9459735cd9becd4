"""The monitor's process: measure what the twin's subscribers get, and write the report at the end."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from twin import service
from twin.backends.opening import open_predictor
from twin.bus import Publisher, Subscriber
from twin.checkpoint import load, path_of
from twin.comparison import Comparison
from twin.config import Config
from twin.errors import CheckpointError
from twin.messages import Event, Members, Message, Prediction, Sample, Spec
from twin.monitor import Monitor
from twin.plain_json import json_text
from twin.supervisor import orphaned

FIGURES_PERIOD_SEC: Final = 0.2
"""Time between two messages for the live view."""
MIN_FREE_RUN_SAMPLES: Final = 10
"""Samples of the shortest free run in a report."""
LAST_ANSWERS_TIMEOUT_SEC: Final = 2.0
"""Time to wait for the last predictions and counters once the plant has ended."""


def watch(config: Config) -> None:
    """Measure a source until a signal comes or its plant ends, then write the report if one is asked for."""
    stop = service.Stop()
    kinds = (Spec, Sample, Prediction, Event, Members)
    with (
        service.publisher(config, "monitor", stop) as publisher,
        service.subscriber(config, ["plant", "twin", "trainer"], *kinds) as stream,
    ):
        spec = service.await_spec(config, stream, stop)
        if spec is None:
            return
        monitor = Monitor(spec)
        observe(monitor, stream, publisher, stop)
        if config.report.report and not orphaned():
            report = finish(config, monitor)
            Path(config.report.report).write_text(json_text(report, indent=2) + "\n")


def observe(monitor: Monitor, stream: Subscriber[Message], publisher: Publisher, stop: service.Stop) -> None:
    """Take in messages until the plant has ended and all is answered, or a signal comes."""
    shown, deadline = 0.0, float("inf")
    while not stop and time.monotonic() < deadline:
        message = stream.recv(0.1)
        received_ns = time.monotonic_ns()
        if message is not None:
            monitor.observe(message, received_ns)
        if monitor.end is not None:
            deadline = min(deadline, received_ns * 1e-9 + LAST_ANSWERS_TIMEOUT_SEC)
            if monitor.complete:
                return
        if received_ns * 1e-9 - shown > FIGURES_PERIOD_SEC:
            shown = received_ns * 1e-9
            publisher.event("figures", monitor.status, **monitor.figures())


def finish(config: Config, monitor: Monitor) -> dict[str, Any]:
    """The report, with the free run and what is needed to read it later."""
    horizon = max(round(config.report.free_run / monitor.spec.dt), MIN_FREE_RUN_SAMPLES)
    try:
        directory, twin = service.run_dir(config), config.twin
        fit = free_run_fit(monitor.comparison, directory, horizon, twin.window, twin.adapts)
    except CheckpointError as error:  # what was measured is worth writing all the same
        service.say(f"no free run in the report: {error}")
        fit = {}
    return monitor.report() | {
        "free_run": {"horizon_s": horizon * monitor.spec.dt, "fit_percent": fit},
        "spec": {
            "inputs": monitor.spec.inputs,
            "outputs": monitor.spec.outputs,
            "dt": monitor.spec.dt,
            "plant": monitor.spec.plant,
        },
        "config": config.model_dump(),
        "machine": {
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load": os.getloadavg(),
        },
    }


def free_run_fit(
    comparison: Comparison, directory: Path, horizon: int, window: int, adapt: bool
) -> dict[str, float]:
    """Fit % of free runs over the last quarter of the run, each by the model that answered at its start, with
    what it learns from all samples until then if the twin adapts. Of a twin that was started anew it learns
    from those that came since."""
    inputs = len(comparison.spec.inputs)
    by_model: dict[int, list[int]] = {}
    for number, first in comparison.segments(horizon, window):
        by_model.setdefault(number, []).append(first)
    runs = []
    for first in by_model.pop(0, ()):  # persistence
        y = comparison.stretch(first - 1, first + horizon)[:, inputs:]
        runs.append((y[1:], np.repeat(y[:1], horizon, axis=0)))
    for number, firsts in by_model.items():
        predictor = open_predictor(load(path_of(directory, number)))
        predictor.adapting = adapt
        at = -1  # the next sample that it has not seen
        for first in firsts:
            anew = at < comparison.begun_at(first)
            if anew or not comparison.unbroken(at, first):
                predictor.reset(learned=anew)
                at = comparison.seen_from(number, first, window)
            seen = comparison.stretch(at, first - 1)
            predictor.warm(seen[None].astype(np.float32))
            z = comparison.stretch(first - 1, first + horizon)
            runs.append((z[1:, inputs:], predictor.free_run(z[:1], z[None, 1:, :inputs])[0]))
            at = first - 1
    return comparison.free_run_fit(runs)
