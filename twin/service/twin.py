"""The twin's process: answer every sample, then look after models."""

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
from twin.bus import Answerer, Publisher, Subscriber
from twin.changes import Changes, as_message
from twin.checkpoint import Checkpoint, load, newest, numbers, path_of
from twin.config import Config, TwinConfig
from twin.errors import CheckpointError
from twin.messages import Message, Prediction, Sample, Spec
from twin.predictor import Predictor
from twin.realtime import become_realtime, collect, keep_forever, stay_ordinary
from twin.service.forecaster import Forecaster
from twin.service.prepare import Worker, get_ready, step
from twin.twin import Twin

STALE_PERIODS: Final = 10
STALE_FLOOR: Final = 0.25  # s; at 1 kHz ten periods are shorter than a busy machine's hiccups
LOOK: Final = 0.05  # s between two looks into the run directory
AHEAD: Final = 4  # models opened and not yet taken up
LOOK_EVERY: Final = 16  # samples between them in a stream that no clock drives


class Loader(threading.Thread):
    """Watches a run directory and opens what is new there beside the loop, so that the loop opens no file.

    `ready` hands over checkpoints with their predictors, the reason why one was refused, or what takes time.
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

    def first(self) -> tuple[Checkpoint, Predictor] | None:
        """The newest checkpoint at hand; called once, before the loop.

        Raises:
            CheckpointError: it was made for another plant.
        """
        self.seen = max(numbers(self.directory), default=0)  # before, so that none slips in between
        checkpoint, refused = newest(self.directory, self.spec)
        for error in refused:
            self.ready.put(error)
        return (checkpoint, self._open(checkpoint)) if checkpoint else None

    def run(self) -> None:
        """Look until told to stop, and no farther ahead than the loop takes models up."""
        stay_ordinary()
        while not self._over.wait(LOOK):
            if self.ready.qsize() < AHEAD:
                self.look()

    def look(self) -> None:
        """Open what is new, if anything is."""
        try:
            latest = max(numbers(self.directory), default=0)
            if latest > self.seen:
                self.seen = latest
                checkpoint = load(path_of(self.directory, latest))
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
        publisher.wait_for(Prediction, config.bus.await_subscribers, service.PATIENCE)
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
    twin = Twin(spec, window=config.twin.window, backend=config.twin.backend, adapt=config.twin.adapt)
    loader = Loader(service.run_dir(config), spec, config.twin)
    if (found := loader.first()) is not None:
        twin.refresh(*found)
        twin.catch_up()  # there is nothing to catch up with: it answers from the first sample on
    if not config.bus.unpaced:
        loader.start()
    forecaster = Forecaster(answerer, spec)
    forecaster.start()
    patience = max(STALE_PERIODS * spec.dt, STALE_FLOOR)
    now = heard = reported = time.monotonic()
    t, told, stale = 0.0, 0.0, False
    changes = Changes()
    try:
        while not stop:
            message = stream.recv(min(patience, 0.1))
            received_ns = time.monotonic_ns()
            now = received_ns * 1e-9
            match message:
                case Sample():
                    prediction = twin.step(message, received_ns)
                    if prediction is not None:
                        publisher.send(prediction)
                    while twin.alarms:
                        alarm = twin.alarms.popleft()
                        publisher.event(
                            "calm" if alarm.over else "alarm", alarm.text, alarm.t, **alarm.figures
                        )
                    t, heard, stale = message.t, now, False
                    if config.bus.unpaced and message.seq % LOOK_EVERY == 0:
                        loader.look()  # the stream waits: a model is taken up where it was made
                    look_after_models(twin, loader, forecaster, stream, publisher, t)
                case Spec() if not message.same_signals(spec):
                    publisher.event("spec", "the plant now publishes other signals", t)
                    return message
                case None if not stale and twin.status != "waiting" and now - heard > patience:
                    stale = True
                    publisher.event("stale", f"no sample for {patience:g} s", t)
                    report(twin, forecaster, stream, publisher, t)
                case None if now - heard > service.deaf_after(spec):
                    heard = now
                    stream.reconnect()
            # a second of the stream's time where no clock drives it, of ours otherwise
            told = min(told, t) if config.bus.unpaced else told  # it may begin anew
            if (t if config.bus.unpaced else now) - told > service.REPORT_PERIOD:
                told = t if config.bus.unpaced else now
                tell(twin, changes, publisher, t)
            forecaster.serve(twin)
            if now - reported > service.REPORT_PERIOD:
                reported = now
                report(twin, forecaster, stream, publisher, t)
                if config.twin.realtime:
                    collect()
        return None
    finally:
        report(twin, forecaster, stream, publisher, t)
        loader.stop()
        forecaster.stop()


def look_after_models(
    twin: Twin,
    loader: Loader,
    forecaster: Forecaster,
    stream: Subscriber[Message],
    publisher: Publisher,
    t: float,
) -> None:
    """Begin to take up what the loader has opened, and go on with it by a portion."""
    if twin.spare is None and not loader.ready.empty():
        found = loader.ready.get()
        try:
            if isinstance(found, CheckpointError):
                raise found
            if isinstance(found, str):
                publisher.event("compiling", found, t)
            else:
                twin.refresh(*found)
        except CheckpointError as error:
            publisher.event("refused", str(error)[:1000], t)
    if twin.catch_up():
        publisher.event("swap", f"model {twin.model} answers", t, model=twin.model)
        report(twin, forecaster, stream, publisher, t)


def tell(twin: Twin, changes: Changes, publisher: Publisher, t: float) -> None:
    """Publish the parameters of a motor, and which of them have changed."""
    estimates = twin.active.parameters if twin.active else {}
    if estimates:
        publisher.send(as_message(estimates, t, changes.looks))
        for text, figures in () if twin.watch.ringing else changes.look(estimates):
            publisher.event("changed", text, t, **figures)


def report(
    twin: Twin, forecaster: Forecaster, stream: Subscriber[Message], publisher: Publisher, t: float
) -> None:
    """Publish the twin's counters."""
    counters = {name: float(value) for name, value in asdict(twin.counters).items()}
    counters["rejected"] += stream.rejected
    counters |= {"forecasts": float(forecaster.answered), "forecasts_refused": float(forecaster.refused)}
    publisher.event("counters", twin.status, t, **counters)
