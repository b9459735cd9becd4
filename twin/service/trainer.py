"""The trainer's process: keep the history and refit on it now and then, out of everybody's way."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Final

from twin import service
from twin.bus import Publisher, Subscriber
from twin.checkpoint import newest, numbers, prune, save
from twin.config import Config
from twin.errors import SpecError, TwinError
from twin.messages import Message, Sample, Spec
from twin.realtime import give_way
from twin.service.rehearsal import rehearse
from twin.trainer import Trainer
from twin.unused import refuse_unused
from twin.validation import Verdict

JUDGED: Final = ("accepted", "kept")
"""Decisions about a candidate, which tell how long its refit took."""


def train(config: Config) -> None:
    """Refit the model of a source until a signal comes.

    Raises:
        CheckpointError: the run directory holds models of another plant.
        SpecError: the plant changes its signals.
    """
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
        refuse_unused(config, trainer.config.model)
        rehearse(spec, config.trainer if incumbent is None else trainer.config, config.twin.adapts)
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
            one_torch_thread()
            try:
                turn(config, trainer, stream, publisher, directory, stop)
            except (TwinError, ArithmeticError, ValueError, RuntimeError, OSError) as error:
                text = f"refit failed, the next turn comes as usual: {error}"
                publisher.event("failed", text[:1000])
                service.say(text)


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
    """A refit with its verdicts, each an event with its figures; what is accepted becomes a checkpoint."""
    begun = time.monotonic()
    for now in trainer.turn():
        if isinstance(now, float):
            # a stream that no clock drives waits for us; another goes on, and is kept up with
            while not config.bus.unpaced and (message := stream.recv(0)) is not None:
                observe(trainer, message)
            if stop:
                return
            continue
        figures = dict(now.verdict.figures)
        if now.name in JUDGED:
            figures |= {"refit_s": time.monotonic() - begun, "model": trainer.number}
        if now.name == "accepted":
            keep(trainer, now.verdict, directory)
        publisher.event(now.name, now.verdict.text, trainer.t, **figures)


def keep(trainer: Trainer, verdict: Verdict, directory: Path) -> None:
    """Save what was accepted, and remove what is old.

    Raises:
        CheckpointError: it could not be saved; then the trainer goes on from the model before.
    """
    try:
        save(directory, trainer.checkpoint(verdict))
    except TwinError:
        trainer.take_back()  # a model that is nowhere must not be the parent of others
        raise
    prune(directory, {trainer.number, trainer.parent})


def one_torch_thread() -> None:
    """Where a network is trained: out of the others' way, and without the slow arithmetic of tiny numbers."""
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
