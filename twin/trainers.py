"""The trainers of a bank's members: one history, one refit at a time, each member in its turn.

Like `Trainer` it knows no socket, clock, thread or file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from twin.config import TrainerConfig
from twin.messages import Sample, Spec
from twin.models.opening import Member
from twin.trainer import Trainer
from twin.validation import Decision


class Trainers:
    """Refits `members` on what they all have observed. The numbers of checkpoints rise over all of them."""

    def __init__(
        self,
        spec: Spec,
        config: TrainerConfig,
        members: Sequence[Member],
        window: int,
        adapt: bool = False,
    ) -> None:
        self.spec = spec
        self.members: dict[str, Trainer] = {}
        """By family, in the order in which they begin."""
        self.taken = 0
        """The highest number in use, be it by a checkpoint that is damaged."""
        self.current: Trainer | None = None
        """Whose turn it is, or was last."""
        history = None
        for member in members:
            asked = config.model_copy(update={"model": member.name})
            trainer = Trainer(spec, asked, window, member.incumbent, adapt, history)
            history, self.members[member.family] = trainer.history, trainer
            self.taken = max(self.taken, trainer.taken)
        self._ended = 0  # the history's count at the last turn's end

    def observe(self, sample: Sample) -> bool:
        """Keep a sample; False for one that is not of this Spec."""
        found = False
        for trainer in list(self.members.values())[:1]:  # all look into the same history
            found = trainer.observe(sample)
        return found

    @property
    def t(self) -> float:
        """Of the newest sample, s."""
        return next((trainer.t for trainer in self.members.values()), 0.0)

    @property
    def taught(self) -> bool:
        """Whether any member has a model."""
        return any(trainer.incumbent for trainer in self.members.values())

    @property
    def numbers(self) -> set[int | None]:
        """Of all checkpoints in use, and of those that they were refitted from."""
        return {number for each in self.members.values() for number in (each.number, each.parent)}

    @property
    def due(self) -> bool:
        """Whether it is somebody's turn: there is one after each period, and at first, until each member has
        had one, at once."""
        return self._next() is not None

    def _next(self) -> Trainer | None:
        waiting = [trainer for trainer in self.members.values() if trainer.due]
        if not waiting:
            return None
        first = min(waiting, key=lambda trainer: trainer.refitted_at)
        new = first.history.count - self._ended
        return first if not first.refitted_at or new >= first.config.period / self.spec.dt else None

    def turn(self) -> Iterator[Decision | float]:
        """A turn of the member that has waited longest: see `Trainer.turn`."""
        self.current = trainer = self._next()
        if trainer is None:
            return
        trainer.taken = self.taken
        for now in trainer.turn():
            if isinstance(now, Decision) and len(self.members) > 1:
                name = trainer.config.model.partition("@")[0]
                verdict = replace(now.verdict, text=f"{name}: {now.verdict.text}")
                now = Decision(now.name, verdict)
            self.taken = max(self.taken, trainer.taken)
            yield now
        self._ended = trainer.history.count
