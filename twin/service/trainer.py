"""The trainer's process: keep the history and refit on it now and then, out of everybody's way."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from twin import service
from twin.asked import asked_sizes
from twin.bus import Publisher, Subscriber
from twin.checkpoint import newest, numbers, prune, save
from twin.config import Config
from twin.errors import SpecError, TwinError
from twin.messages import Message, Sample, Spec
from twin.models import PHYSICAL
from twin.models.model import Model, new_model
from twin.models.scaling import Scaling
from twin.realtime import give_way
from twin.trainer import Trainer


def train(config: Config) -> None:
    """Refit the model of a source until a signal comes.

    Raises:
        CheckpointError: the run directory holds models of another plant.
        SpecError: the plant changes its signals.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    stop = service.Stop()
    directory = service.run_dir(config)
    with service.publisher(config, "trainer", stop) as publisher:
        spec = service.first_spec(config, stop)
        if spec is None:
            return
        incumbent, refused = newest(directory, spec)
        for error in refused:
            publisher.event("refused", str(error)[:1000])
        trainer = Trainer(spec, config.trainer, config.twin.window, incumbent, config.twin.adapts)
        rehearse(trainer)
        trainer.taken = max(numbers(directory), default=0)  # a damaged one keeps its number
        with service.subscriber(config, ["plant"], Spec, Sample) as stream:
            follow(config, trainer, stream, publisher, directory, stop)


def follow(
    config: Config,
    trainer: Trainer,
    stream: Subscriber[Message],
    publisher: Publisher,
    directory: Path,
    stop: service.Stop,
) -> None:
    """Take in samples and refit on them, until a signal comes."""
    heard = time.monotonic()
    gives_way = config.bus.unpaced  # a stream that waits for the trainer would only wait longer
    while not stop:
        if trainer.incumbent is not None and not gives_way:
            give_way()  # not before: a machine that is busy would never let it have a first model
            gives_way = True
        message = stream.recv(0.1)
        now = time.monotonic()
        if message is not None:
            heard = now
            observe(trainer, message)
        elif now - heard > service.deaf_after(trainer.spec):
            heard = now
            stream.reconnect()
        if trainer.due:
            try:
                turn(config, trainer, stream, publisher, directory, stop)
            except (TwinError, ArithmeticError, ValueError, RuntimeError, OSError) as error:
                text = f"refit failed, the next turn comes as usual: {error}"
                publisher.event("failed", text[:1000])
                service.say(text)


def rehearse(trainer: Trainer) -> None:
    """What the first refit would wait seconds for: compiling its passes, torch's import of an optimiser."""
    if trainer.config.model in PHYSICAL:
        z = np.random.default_rng(0).normal(size=(2_000, len(trainer.spec.features)))
        model = new_model(trainer.config.model, trainer.spec, Scaling.of(z, len(trainer.spec.outputs)))
        for _ in model.refit([z], known=False):
            pass
        return
    model = Model(trainer.config.model, asked_sizes(trainer.spec, trainer.config))
    torch.optim.Adam(model.parameters(), fused=True)
    y, _ = model(torch.zeros(1, 2, len(trainer.spec.features)), model.initial_state(1))
    y.sum().backward()


def observe(trainer: Trainer, message: Message) -> None:
    """Keep a sample; a plant with other signals ends it."""
    if isinstance(message, Sample):
        trainer.observe(message)
    elif isinstance(message, Spec) and not message.same_signals(trainer.spec):
        raise SpecError(
            f"the plant now publishes {', '.join(message.features)} every {message.dt:g} s instead of "
            f"{', '.join(trainer.spec.features)} every {trainer.spec.dt:g} s; start the trainer anew"
        )


def turn(
    config: Config,
    trainer: Trainer,
    stream: Subscriber[Message],
    publisher: Publisher,
    directory: Path,
    stop: service.Stop,
) -> None:
    """Gate, refit, gate, checkpoint; each decision an event with its figures."""
    verdict = trainer.enough()
    if not verdict.passed:
        publisher.event("waiting", verdict.text, trainer.t, **verdict.figures)
        return
    publisher.event("refit", verdict.text, trainer.t, **verdict.figures)
    begun = time.monotonic()
    for _ in trainer.refit():
        # a stream that no clock drives waits for us; another goes on, and is kept up with
        while not config.bus.unpaced and (message := stream.recv(0)) is not None:
            observe(trainer, message)
        if stop:
            return
    took = time.monotonic() - begun
    verdict = trainer.accept()
    if verdict.passed:
        try:
            save(directory, trainer.checkpoint(verdict))
        except TwinError:
            trainer.take_back()  # a model that is nowhere must not be the parent of others
            raise
        prune(directory, {trainer.number, trainer.parent})
    name = "accepted" if verdict.passed else "kept"
    publisher.event(name, verdict.text, trainer.t, refit_s=took, model=trainer.number, **verdict.figures)
