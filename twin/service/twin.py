"""The twin's process: answer every sample; between samples, take up new models."""

from __future__ import annotations

import queue
import sys
import threading
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Final

from twin import service
from twin.backends.opening import load_backend, open_predictor
from twin.bank import Bank
from twin.bus import Publisher, Subscriber
from twin.changes import Changes, as_message
from twin.checkpoint import Checkpoint, load, numbers, path_of
from twin.config import Config, TwinConfig
from twin.errors import CheckpointError
from twin.messages import Message, Prediction, Sample, Spec, topic
from twin.mixture import members_message
from twin.models.opening import begins_recursive
from twin.predictor import Predictor
from twin.realtime import become_realtime, collect, keep_forever, stay_ordinary
from twin.requests import Answerer
from twin.service.forecaster import Forecaster
from twin.service.prepare import Worker, get_ready, members_of, step
from twin.twin import Twin

STALE_PERIODS: Final = 10
"""Periods of silence after which a stream is stale."""
MIN_STALE_SEC: Final = 0.25
"""Shortest silence after which a stream is stale: at 1 kHz, a busy machine alone pauses for ten periods."""
LOADER_PERIOD_SEC: Final = 0.05
"""Time between two looks into the run directory."""
LOADER_PERIOD_SAMPLES: Final = 16
"""Samples between two looks into the run directory, in a stream that is not paced by a clock."""
MAX_WAITING_MODELS: Final = 4
"""Models that are opened before the loop has taken up the first of them."""
MAX_WAIT_SEC: Final = 0.1
"""For a message, before the loop looks after all else."""


class Loader(threading.Thread):
    """Watches a run directory and opens new checkpoints, in a thread, so that the loop opens no file.

    `ready` hands over checkpoints with their predictors, errors of those that were refused, and a text where
    something is being compiled.
    """

    def __init__(self, directory: Path, spec: Spec, config: TwinConfig) -> None:
        super().__init__(name="loader", daemon=True)
        self.directory, self.spec = directory, spec
        self.backend, self.realtime = config.backend, config.realtime
        self.ready: queue.SimpleQueue[tuple[Checkpoint, Predictor] | CheckpointError | str]
        self.ready = queue.SimpleQueue()
        self.seen = 0
        self._kinds: set[tuple[object, ...]] = set()  # of models opened before
        self._over = threading.Event()

    def first(self, config: Config) -> list[tuple[Checkpoint, Predictor]]:
        """The newest checkpoint at hand of each model that the run is asked for; called once, before the
        loop.

        Raises:
            CheckpointError: they were made for another plant.
        """
        self.seen = max(numbers(self.directory), default=0)  # before, so that none slips in between
        found, refused = members_of(config, self.spec, self.directory)
        for error in refused:
            self.ready.put(error)
        known = [member.incumbent for member in found if member.incumbent is not None]
        return [(checkpoint, self._open(checkpoint)) for checkpoint in known]

    def run(self) -> None:
        """Look for new models until `stop`, no farther ahead than the loop takes them up."""
        stay_ordinary()
        while not self._over.wait(LOADER_PERIOD_SEC):
            if self.ready.qsize() < MAX_WAITING_MODELS:
                self.look()

    def look(self) -> None:
        """Open what is new, if anything is."""
        try:
            newer = [number for number in numbers(self.directory) if number > self.seen]
            for number in newer[-MAX_WAITING_MODELS:]:
                self.seen = number
                checkpoint = load(path_of(self.directory, number))
                self.ready.put((checkpoint, self._open(checkpoint)))
        except CheckpointError as error:
            self.ready.put(error)
        except Exception as error:  # a thread that dies says nothing, and no model would come any more
            self.ready.put(CheckpointError(f"checkpoint {self.seen} could not be opened: {error!r}"))

    def _open(self, checkpoint: Checkpoint) -> Predictor:
        kind = checkpoint.family, *checkpoint.sizes.values()
        if self.is_alive() and kind not in self._kinds and self.backend == "compiled":
            # compiling holds Python's lock for moments in which the loop could not answer
            work = step(checkpoint.family, checkpoint.sizes)
            if not work.ready:
                self.ready.put(f"compiling the {work.text} for this CPU")
                Worker(work).wait()
        self._kinds.add(kind)
        predictor = open_predictor(checkpoint, self.backend, 1)
        if self.realtime:
            keep_forever()  # the first one brings thousands of objects along
        return predictor

    def stop(self) -> None:
        """End the watch."""
        self._over.set()
        if self.is_alive():
            self.join()


def predict(config: Config) -> None:
    """Answer the samples of a source until a signal comes."""
    sys.setswitchinterval(5e-5)  # s; the loader must not keep the loop waiting for the default 5 ms
    load_backend(config.twin.backend)  # now, and not when the first model comes
    if config.twin.realtime:
        for text in become_realtime():
            service.say(text)
    stop = service.Stop()  # a signal during the imports ends the process at once
    with (
        service.publisher(config, "twin", stop) as publisher,
        closing(Answerer(config.bus.endpoint("forecast"))) as answerer,
    ):
        publisher.wait_for(Prediction, config.bus.await_subscribers, service.START_TIMEOUT_SEC)
        spec = service.first_spec(config, stop)
        if spec is not None:
            get_ready(config, spec)
        with service.subscriber(config, ["plant"], Spec, Sample) as stream:
            while spec is not None:
                spec = follow(config, spec, stream, publisher, answerer, stop)


def follow(
    config: Config,
    spec: Spec,
    stream: Subscriber[Message],
    publisher: Publisher,
    answerer: Answerer,
    stop: service.Stop,
) -> Spec | None:
    """Answer the samples of one Spec; the next Spec when the plant changes it, None at the end."""
    twin = Twin(
        spec,
        window=config.twin.window,
        backend=config.twin.backend,
        adapt=config.twin.adapt,
        recursive=begins_recursive(config.trainer.models, config.twin.backend),
    )
    loader = Loader(service.run_dir(config), spec, config.twin)
    for found in loader.first(config):
        twin.refresh(*found)
        twin.catch_up()  # the window is empty: the model answers from the first sample on
    forecaster = Forecaster(answerer, spec)
    loop = Loop(config, twin, stream, publisher, loader, forecaster)
    if not config.bus.unpaced:
        loader.start()
    forecaster.start()
    try:
        while not stop:
            if (following := loop.turn()) is not None:
                return following
        return None
    finally:
        loop.report()
        loader.stop()
        forecaster.stop()


def errors_of(bank: Bank, name: str) -> dict[str, float]:
    """The figures of a member that has noticed something: its errors one step ahead, where they are known."""
    if bank.mixture is None:
        return {}
    outputs = bank.spec.outputs
    return {f"rmse.{each}": e for each, e in zip(outputs, bank.mixture.errors[name], strict=True)}


class Timer:
    """Due once in a period, s, of whichever clock it is asked with; one that begins anew is followed."""

    def __init__(self, period: float, now: float) -> None:
        self._period, self._last = period, now

    def due(self, now: float) -> bool:
        """Whether more than a period has passed since it was last due."""
        self._last = min(self._last, now)
        if now - self._last <= self._period:
            return False
        self._last = now
        return True


class Loop:
    """The twin's loop for one Spec: a turn waits for a sample, answers it, and then looks after all else."""

    def __init__(
        self,
        config: Config,
        twin: Twin,
        stream: Subscriber[Message],
        publisher: Publisher,
        loader: Loader,
        forecaster: Forecaster,
    ) -> None:
        self.config, self.twin, self.stream, self.publisher = config, twin, stream, publisher
        self.loader, self.forecaster = loader, forecaster
        self._samples = topic(Sample, config.bus.source).encode()
        self._predictions = topic(Prediction, config.bus.source).encode()
        self._stale_sec = max(STALE_PERIODS * twin.spec.dt, MIN_STALE_SEC)
        self._changes = Changes()
        self._stale = False
        now = time.monotonic()
        self._heard = now
        self._report_timer = Timer(service.REPORT_PERIOD_SEC, now)
        self._parameters_timer = Timer(service.REPORT_PERIOD_SEC, 0.0)

    def turn(self) -> Spec | None:
        """Wait for a message, and answer it; the Spec of a plant that now has other signals."""
        if self.config.bus.unpaced:  # the plant waits for receipts, which `recv` sends
            received: bytes | Message | None = self.stream.recv(min(self._stale_sec, MAX_WAIT_SEC))
        else:
            received = self.stream.recv_frame(self._samples, min(self._stale_sec, MAX_WAIT_SEC))
        received_ns = time.monotonic_ns()
        if type(received) is bytes:
            if self.twin.take(received):
                answer = self.twin.answer(self.publisher.epoch, received_ns, time.monotonic_ns())
                self.publisher.send_frame(self._predictions, answer)
                self._after_sample(received_ns)
                return None
            received = self.stream.read(self._samples, received)
        match received:
            case Sample():
                prediction = self.twin.step(received, received_ns)
                if prediction is not None:
                    self.publisher.send(prediction)
                if self.config.bus.unpaced and received.seq % LOADER_PERIOD_SAMPLES == 0:
                    self.loader.look()  # the stream waits: a model is taken up where it was made
                self._after_sample(received_ns)
            case Spec() if not received.same_signals(self.twin.spec):
                self.publisher.event("spec", "the plant now publishes other signals", self.twin.t)
                return received
            case None:
                self._after_silence(received_ns * 1e-9)
                self._look_after_clients(received_ns * 1e-9)
            case _:
                self._look_after_clients(received_ns * 1e-9)
        return None

    def _after_sample(self, received_ns: int) -> None:
        """All that could wait until the answer was sent."""
        now = received_ns * 1e-9
        self._heard, self._stale = now, False
        while self.twin.pending_alarms:
            alarm = self.twin.pending_alarms.popleft()
            name = "calm" if alarm.over else "alarm"
            self.publisher.event(name, alarm.text, alarm.t, **alarm.figures)
        if self.twin.bank.makes_room and not self.loader.ready.empty():
            self._take_up(self.loader.ready.get())
        if self.twin.catch_up():
            self._tell_of_swaps()
            self.report()
        self._look_after_clients(now)

    def _tell_of_swaps(self) -> None:
        while self.twin.swaps:
            swap = self.twin.swaps.popleft()
            self.publisher.event("swap", swap.text, swap.t, model=swap.number)

    def _take_up(self, found: tuple[Checkpoint, Predictor] | CheckpointError | str) -> None:
        """Begin to take up what the loader has opened."""
        try:
            if isinstance(found, CheckpointError):
                raise found
            if isinstance(found, str):
                self.publisher.event("compiling", found, self.twin.t)
            else:
                self.twin.refresh(*found)
        except CheckpointError as error:
            self.publisher.event("refused", str(error)[:1000], self.twin.t)

    def _after_silence(self, now: float) -> None:
        silence = now - self._heard
        if not self._stale and self.twin.status != "waiting" and silence > self._stale_sec:
            self._stale = True
            self.publisher.event("stale", f"no sample for {self._stale_sec:g} s", self.twin.t)
            self.report()
        elif silence > service.reconnect_after(self.twin.spec):
            self._heard = now
            self.stream.reconnect()

    def _look_after_clients(self, now: float) -> None:
        """Let forecasts begin at the present state; once a second, publish the parameters and the
        counters."""
        self.forecaster.serve(self.twin)
        # a second of the stream's time where no clock drives it, of ours otherwise
        if self._parameters_timer.due(self.twin.t if self.config.bus.unpaced else now):
            self._publish_parameters()
            self._publish_members()
        if self._report_timer.due(now):
            self.report()
            if self.config.twin.realtime:
                collect()

    def _publish_parameters(self) -> None:
        """Publish the parameters of a motor, and which of them have changed."""
        twin, changes = self.twin, self._changes
        estimates = twin.active.parameters if twin.active else {}
        if estimates:
            self.publisher.send(as_message(estimates, twin.t, changes.looks))
            for text, figures in () if twin.detection.alarmed else changes.look(estimates):
                self.publisher.event("changed", text, twin.t, **figures)

    def _publish_members(self) -> None:
        """Publish what the members of a mixture do, and those of them that have noticed another plant."""
        bank, t = self.twin.bank, self.twin.t
        if bank.mixture is not None:
            self.publisher.send(members_message(bank.mixture, self.twin.spec, t))
        for name in bank.noticed():
            text = f"{name}: its errors looked like those of another plant, and it has learned anew"
            self.publisher.event("noticed", text, t, **errors_of(bank, name))

    def report(self) -> None:
        """Publish the twin's counters."""
        counters = {name: float(value) for name, value in asdict(self.twin.counters).items()}
        counters["rejected"] += self.stream.rejected
        counters["forecasts"] = float(self.forecaster.answered)
        counters["forecasts_refused"] = float(self.forecaster.refused)
        self.publisher.event("counters", self.twin.status, self.twin.t, **counters)
