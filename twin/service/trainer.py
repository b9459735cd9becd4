"""The trainer's process: keep the history and refit on it now and then, out of everybody's way."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from twin import service
from twin.bus import Publisher, Subscriber
from twin.checkpoint import numbers, prune, save
from twin.config import Config
from twin.errors import SpecError, TwinError
from twin.messages import Message, Sample, Spec
from twin.realtime import background, be_modest, give_back_memory
from twin.service.prepare import members_of
from twin.service.rehearsal import rehearse
from twin.trainers import Trainers
from twin.unused import refuse_unused
from twin.validation import Verdict

T = TypeVar("T")

STARVED_SEC: Final = 3.0
"""Duration of a refit after which its share of a core is looked at."""
STARVED_SHARE: Final = 0.1
"""Share of a core, below which the refit goes on in a thread of ordinary priority: with two cores busy
otherwise it would have taken minutes."""
VERDICT_EVENTS: Final = ("accepted", "kept")
"""Names of the events that decide about a candidate; they carry how long its refit took."""


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
        found, refused = members_of(config, spec, directory)
        for error in refused:
            publisher.event("refused", str(error)[:1000])
        trainer = Trainers(spec, config.trainer, found, config.twin.window, config.twin.adapts)
        refuse_unused(config, [member.family for member in found])
        for each in trainer.members.values():
            rehearse(spec, each.config, config.twin.adapts)
        trainer.taken = max(numbers(directory), default=0)  # a damaged one keeps its number
        with service.subscriber(config, ["plant"], Spec, Sample) as stream:
            follow(config, trainer, stream, publisher, directory, stop)


def follow(
    config: Config,
    trainer: Trainers,
    stream: Subscriber[Message],
    publisher: Publisher,
    directory: Path,
    stop: service.Stop,
) -> None:
    """Take in samples and refit on them, until a signal comes."""
    heard, spare = time.monotonic(), None
    while not stop:
        # not before: nobody shall wait for a first model, nor a stream that waits for the trainer
        if trainer.taught and spare is None and not config.bus.unpaced:
            be_modest()
            spare = background()
        message = stream.recv(0.1)
        now = time.monotonic()
        if message is not None:
            heard = now
            observe(trainer, message)
        elif now - heard > service.reconnect_after(trainer.spec):
            heard = now
            stream.reconnect()
        if trainer.due:
            try:
                turn(config, trainer, stream, publisher, directory, stop, spare)
            except (TwinError, ArithmeticError, ValueError, RuntimeError, OSError) as error:
                text = f"refit failed, the next turn comes as usual: {error}"
                publisher.event("failed", text[:1000])
                service.say(text)
            give_back_memory()  # a refit's; it takes less than a millisecond


def observe(trainer: Trainers, message: Message) -> None:
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
    trainer: Trainers,
    stream: Subscriber[Message],
    publisher: Publisher,
    directory: Path,
    stop: service.Stop,
    spare: Executor | None,
) -> None:
    """A refit with its verdicts, each an event with its figures; what is accepted becomes a checkpoint."""
    begun = time.monotonic()
    for now in steps(trainer.turn(), spare):
        if isinstance(now, float):
            # a stream that no clock drives waits for us; another goes on, and is kept up with
            while not config.bus.unpaced and (message := stream.recv(0)) is not None:
                observe(trainer, message)
            if stop:
                return
            continue
        figures = dict(now.verdict.figures)
        if now.name in VERDICT_EVENTS:
            number = trainer.current.number if trainer.current else 0
            figures |= {"refit_s": time.monotonic() - begun, "model": number}
        if now.name == "accepted":
            keep(trainer, now.verdict, directory)
        publisher.event(now.name, now.verdict.text, trainer.t, **figures)


def steps(work: Iterator[T], spare: Executor | None) -> Iterator[T]:
    """The steps of some work, in a thread that gives way if there is one, as long as that gets its share."""
    begun, had = time.monotonic(), 0.0
    while True:
        elapsed = time.monotonic() - begun
        starved = elapsed > STARVED_SEC and had < STARVED_SHARE * elapsed
        if spare is None or starved:
            found, _ = timed(work)
        else:
            found, took = spare.submit(timed, work).result()
            had += took
        if not found:
            return
        yield found[0]


def timed(work: Iterator[T]) -> tuple[list[T], float]:
    """The next step's outcome, none at the end, and the time for which this thread had a core, s."""
    one_torch_thread()
    begun = time.thread_time()
    return list(islice(work, 1)), time.thread_time() - begun


def keep(trainer: Trainers, verdict: Verdict, directory: Path) -> None:
    """Save what was accepted, and remove what is old.

    Raises:
        CheckpointError: it could not be saved; then the trainer goes on from the model before.
    """
    assert trainer.current is not None  # whose candidate it was
    try:
        save(directory, trainer.current.checkpoint(verdict))
    except TwinError:
        trainer.current.take_back()  # a model that is nowhere must not be the parent of others
        raise
    prune(directory, trainer.numbers)


def one_torch_thread() -> None:
    """Where a network is trained: out of the others' way, and without the slow arithmetic of tiny numbers."""
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
