"""The models of one twin: each follows every sample, and is handed over by itself; what is published is
their mixture.

A single one answers by itself. With `recursive`, the bank begins with persistence and a recursive linear
model, so that there is an answer that learns from the first samples on, long before a trainer's first model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from twin.backends.persistence import Persistence
from twin.families import PERSISTENCE, RECURSIVE
from twin.handover import MIN_SHADOW_SAMPLES, HandOver
from twin.messages import Spec
from twin.mixture import Blend, Mixture
from twin.predictor import Predictor
from twin.window import Window

TRIAL_SEC: Final = 1.0
"""Time for which a version that was replaced still runs beside the new one, to take its place again."""
MAX_TRIAL_SAMPLES: Final = 2_000


class Swap(NamedTuple):
    """A version of a member that answers from now on."""

    member: str
    number: int
    """Of its checkpoint."""
    back: bool
    """Whether it takes its place again, because it does better than the one after it."""
    t: float

    @property
    def text(self) -> str:
        """In words."""
        again = " again: it does better than the one after it" if self.back else ""
        return f"model {self.number} ({self.member}) answers{again}"


class Bank:
    """The members by name, a `HandOver` each, and what answers for them.

    `adapt` is whether members learn from each measurement.
    """

    def __init__(self, spec: Spec, window: Window, adapt: bool, recursive: bool = False) -> None:
        self.spec, self.adapt = spec, adapt
        self.members: dict[str, HandOver] = {}
        self.active: Predictor | None = None
        """What answers: the only member, or the mixture of several."""
        self._window = window
        self._trials: dict[str, tuple[int, float]] = {}
        self._trial = min(max(round(TRIAL_SEC / spec.dt), 2 * MIN_SHADOW_SAMPLES), MAX_TRIAL_SAMPLES)
        if recursive:
            from twin.backends.recursive import Recursive  # compiled

            self.active = Mixture(spec, {PERSISTENCE: Persistence(spec), RECURSIVE: Recursive(spec)})

    @property
    def mixture(self) -> Mixture | None:
        """Where several answer."""
        return self.active if isinstance(self.active, Mixture) else None

    @property
    def makes_room(self) -> bool:
        """Whether a newer version of any member may begin."""
        return all(member.makes_room for member in self.members.values())

    @property
    def spare(self) -> Predictor | None:
        """The predictor that catches up, if there is one."""
        return next((each.spare for each in self.members.values() if not each.makes_room), None)

    @property
    def idle(self) -> bool:
        """Whether no version is beside another."""
        return all(each.spare is None for each in self.members.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Of the mixture's members; none where there is none."""
        return tuple(self.active.members) if isinstance(self.active, Mixture) else ()

    # -- what the stream tells -----------------------------------------------------------------------

    def learn(self, measured: bool = True, muted: bool = False) -> None:
        """What the members are fed from now on was `measured`, and is to be learned from; or not, and neither
        while a sensor has failed (`muted`)."""
        learns = measured and not muted
        for member in self.members.values():
            member.learn(learns)
        if (mixture := self.mixture) is not None:
            mixture.adapting = learns
            if RECURSIVE in mixture.members:
                mixture.members[RECURSIVE].adapting = learns

    def bridged(self) -> None:
        """The newest samples of the window are answers: what catches up begins again with them."""
        for member in self.members.values():
            member.bridged()

    def begin_anew(self) -> None:
        """The window is empty: forget what was before, but nothing that was learned of the plant."""
        for member in self.members.values():
            member.begin_anew()
        if (mixture := self.mixture) is not None:
            mixture.reset(learned=False)

    def noticed(self) -> list[str]:
        """The members that have found another plant since they were asked last, by their own errors: what
        they learned anew has done better than what they knew (`twin.kernels.rls`)."""
        found = []
        for name, member in self.members.items():
            count, threshold, on_trial = getattr(member.active, "trial", (0, 0.0, False))
            if on_trial:
                continue
            before, least = self._trials.get(name, (0, threshold))
            if count > before and threshold <= least:
                found.append(name)
            self._trials[name] = count, threshold
        return found

    def fork(self, before: Predictor | None = None) -> Predictor | None:
        """A copy of what makes forecasts now, in its present state; None where no trainer's model answers.
        One made `before`, no longer needed, may serve again."""
        active = self.active
        if active is None or not any(member.active for member in self.members.values()):
            return None
        blended = isinstance(before, Blend) and isinstance(active, Mixture)
        if before is None or not (
            blended or (type(before) is type(active) and before.number == active.number)
        ):
            return active.fork(1)
        before.take_over(active)
        return before

    # -- versions ------------------------------------------------------------------------------------

    def swap(self, name: str, t: float) -> Swap:
        """What is to be told of a member of which another version answers since t."""
        member = self.members[name]
        return Swap(name, member.active.number if member.active else 0, member.back, t)

    def begin(self, name: str, predictor: Predictor) -> None:
        """Begin to take up a member, or a new version of it."""
        if name not in self.members:
            self.members[name] = HandOver(self._window, self.adapt, self._trial)
        self.members[name].begin(predictor)

    def catch_up(self, measured: Sequence[float]) -> list[str]:
        """Let those that are not done take in a portion of the window; the members of which another version
        answers from now on. `measured` are the outputs (P) of the newest sample."""
        changed = [name for name, each in self.members.items() if each.spare and each.catch_up(measured)]
        for name in changed:
            predictor = self.members[name].active
            assert predictor is not None
            if isinstance(self.active, Mixture):
                self.active.put(name, predictor)
                continue
            answering = {each: member.active for each, member in self.members.items() if member.active}
            several = len(answering) > 1
            self.active = Mixture(self.spec, answering) if several else predictor
        return changed

    def leave_unsound(self) -> None:
        """Leave the members whose last answer was not finite; without any other, nothing answers."""
        if not isinstance(self.active, Mixture):
            for member in self.members.values():
                member.leave()
            self.active = None
            return
        for name in self.active.unsound:
            if name == RECURSIVE:
                self.active.members[name].reset()
                continue
            self.members[name].leave()
            self.active.drop(name)
        if not self.active.members:
            self.active = None
