"""The trainer: refits the model on the recent stream, and lets only better models through.

Like `Twin` it knows no socket, clock, thread or file, and like it no family of models by name: how a family
begins, learns and wants to be judged, it asks the model. Three questions stand between samples and a new
checkpoint: is there enough excitation to learn from (`enough`), what do the data say (`refit`), and is that
better than what is in use (`accept`)? Each answer is a `Verdict` with its figures.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from twin.checkpoint import Checkpoint
from twin.config import TrainerConfig
from twin.errors import CheckpointError
from twin.excitation import excited
from twin.history import History
from twin.messages import Sample, Spec
from twin.models.lesson import Lesson
from twin.models.model import Model
from twin.models.opening import chosen, class_of, new_model, open_model, sizes_for
from twin.models.scaling import Scaling
from twin.validation import JUDGED_SEGMENTS, Decision, Judge, Verdict

HOLD_OUT_SHARE: Final = 0.1
"""Share of the history, its newest part, that a refit does not see, but some part of a period at most: the
gate judges on it. What changed just now is there too, and should soon be learned from."""
OUTGROWN_RATIO: Final = 5.0
"""An incumbent whose scale the history exceeds so many times is no place to go on from: its weights live in
the saturation of their units, and its scaling cannot be refitted."""
PROBED_SEGMENTS: Final = 8
"""On which an incumbent is tried before a refit begins from it."""
MIN_CAUTION: Final = 1 / 16
"""Of the learning rate: the smallest part of it to which refused candidates bring the next."""
CHANGED_CAUTION: Final = 0.25
"""Of the learning rate, at least, after a change: what made it cautious is over."""


class Incumbent(NamedTuple):
    """The model in use, the number of its checkpoint, the one it was refitted from, and the one before it."""

    model: Model | None = None
    number: int = 0
    parent: int | None = None
    before: Incumbent | None = None


class Trainer:
    """Keeps the recent history and refits the incumbent model on it.

    `window` is the number of samples that warm a hidden state, as in the twin. `incumbent` is the checkpoint
    to go on from, if there is one. With `adapt`, models are judged as the twin runs them: adapting. A
    `history` may be shared with the trainers of other families.

    Raises:
        CheckpointError: the incumbent was made for other signals, or is of another family or size than the
            settings ask for.
        ConfigError: settings that name a file without such a class.
        SpecError: settings that ask for a family which this plant is not for.
    """

    def __init__(
        self,
        spec: Spec,
        config: TrainerConfig,
        window: int,
        incumbent: Checkpoint | None = None,
        adapt: bool = False,
        history: History | None = None,
    ) -> None:
        family, _ = chosen(spec, config.model, incumbent, **config.sizes)
        self.spec, self.config = spec, config.model_copy(update={"model": family})
        self._incumbent = Incumbent(open_model(incumbent), incumbent.number) if incumbent else Incumbent()
        self.taken = self.number
        """The highest number in use, be it by a checkpoint that is damaged."""
        self.candidate: Model | None = None
        self.caution = 1.0
        """Part of the learning rate."""
        self.judge = Judge(spec, window, config.horizon, adapt)
        segment = window + config.horizon  # samples: the warm-up, then the free run
        length = max(round(config.history / spec.dt), 4 * segment)
        self.history = history or History(length, segment, len(spec.features), config.model_seed)
        self._last: Sample | None = None
        self.refitted_at = 0
        """`history.count` at the last turn's end; 0 before the first."""
        self._lesson: Lesson | None = None  # of the last candidate, until one is accepted
        self._resume: Model | None = None  # a candidate that was refused, to go on from
        self._random = np.random.default_rng(config.model_seed)

    @property
    def incumbent(self) -> Model | None:
        """The model in use."""
        return self._incumbent.model

    @property
    def number(self) -> int:
        """The number of its checkpoint; 0 without one."""
        return self._incumbent.number

    @property
    def parent(self) -> int | None:
        """The number of the checkpoint that it was refitted from."""
        return self._incumbent.parent

    @property
    def newest(self) -> int:
        """Samples of the history's newest part, where what changed is."""
        return max(round(self.config.period / self.spec.dt), self.history.segment)

    def observe(self, sample: Sample) -> bool:
        """Keep a sample; False for one that is not of this Spec. A gap or restart breaks the history."""
        row = self.spec.row(sample)
        if row is None:
            return False
        last, self._last = self._last, sample
        follows = last is None or (sample.epoch == last.epoch and sample.seq == last.seq + 1)
        self.history.push(np.array(row), follows=follows)
        return True

    @property
    def t(self) -> float:
        """Of the newest sample, s."""
        return self._last.t if self._last is not None else 0.0

    @property
    def due(self) -> bool:
        """Whether it is time for a `turn`: a period's worth of new samples, and three segments at all.

        The first model waits for as much: its scaling and its linear part are the ground of all later ones.
        """
        new = self.history.count - self.refitted_at
        wanted = max(self.config.period / self.spec.dt, self.history.segment)
        return self.history.count >= 3 * self.history.segment and new >= wanted

    def turn(self) -> Iterator[Decision | float]:
        """One refit with its decisions: of the first gate; if it passed, the shares done (0 to 1] of the
        refit; then of the second gate.

        A generator, so that whoever runs it can take in samples between two optimiser steps.
        """
        verdict = self.enough()
        yield Decision("refit" if verdict.passed else "waiting", verdict)
        if verdict.passed:
            yield from self.refit()
            verdict = self.accept()
            yield Decision("accepted" if verdict.passed else "kept", verdict)

    def rehearse(self) -> None:
        """Do what the first refit would otherwise wait seconds for: compiling, imports."""
        family = self.config.model
        sizes = sizes_for(family, self.spec, **self.config.sizes)
        class_of(family).rehearse(family, self.spec, sizes)

    # -- the first gate ------------------------------------------------------------------------------

    def enough(self) -> Verdict:
        """Whether the history moves enough to learn from."""
        self.refitted_at = self.history.count
        return excited(self.history, self.spec, self.newest, self._train_end())

    def _train_end(self) -> int:
        held = round(HOLD_OUT_SHARE * min(self.history.count, self.history.length))
        periods = class_of(self.config.model).HOLD_OUT_PERIODS
        most = round(periods * self.config.period / self.spec.dt)
        return self.history.count - max(min(held, most), self.history.segment)

    # -- refit ---------------------------------------------------------------------------------------

    def refit(self) -> Iterator[float]:
        """Fit a candidate, from the incumbent's weights if there is one; yields the share done (0 to 1]."""
        self._lesson = lesson = self._next_lesson()
        resume, self._resume = self._resume, None
        model = resume if lesson.known and not lesson.changed else None
        if model is None and lesson.known:
            model = copy.deepcopy(self.incumbent)
        model = model or resume or self._fitted(self.config.model, lesson.end)
        yield from model.refit(lesson)
        self.candidate = model

    def _next_lesson(self) -> Lesson:
        config, end = self.config, self._train_end()
        lost, changed = self._state_of_incumbent(end)
        # where it is outgrown, a new model and its copy take turns, until one of them is accepted
        again = self._lesson is not None and not self._lesson.known
        if changed:
            self.caution = max(self.caution, CHANGED_CAUTION)
        return Lesson(
            history=self.history,
            end=end,
            newest=self.newest,
            warm=self.judge.warm,
            steps=config.steps,
            batch=config.batch,
            rate=config.learning_rate * self.caution,
            random=self._random,
            known=not lost and (again or not self._outgrown(end)),
            changed=changed,
            first=self.incumbent is None,
        )

    def _fitted(self, family: str, end: int) -> Model:
        """A new model by least squares."""
        z, c = self.history.longest(end), self.config
        scaling = Scaling.of(z, len(self.spec.outputs))
        model = new_model(family, self.spec, scaling, seed=c.model_seed, **c.sizes)
        model.fit(z)
        return model

    def _state_of_incumbent(self, end: int) -> tuple[bool, bool]:
        """Whether there is none or it is lost, saying worse than nothing of the newest samples; and whether
        these have changed: it errs far more on them than is usual."""
        if self.incumbent is None:
            return True, False
        starts = self.history.starts(end - self.newest, end)
        if not len(starts):
            return False, False
        z = self.history.evenly(starts, PROBED_SEGMENTS)
        found = self.judge.errors(self._made(self.incumbent, {}), z)
        if not found.finite or min(found.ratio(self.judge.errors(None, z))) > 1:
            return True, True
        return False, self.judge.has_changed(found)

    def _outgrown(self, end: int) -> bool:
        """Whether the history has left what the incumbent was scaled for."""
        assert self.incumbent is not None
        scaling = self.incumbent.scaling
        spread = np.sqrt(np.square(self.history.between(0, end) - scaling.mean).mean(axis=0))
        return bool((spread > OUTGROWN_RATIO * scaling.scale).any())

    # -- the second gate -----------------------------------------------------------------------------

    def accept(self) -> Verdict:
        """Whether the candidate becomes the incumbent: better on later samples, which it has not seen, by the
        measure of its family (`Model.improves`). Without an incumbent it must beat persistence.

        Weights or errors that are not finite never pass.
        """
        candidate, self.candidate, lesson = self.candidate, None, self._lesson
        self.refitted_at = self.history.count
        if candidate is None or lesson is None:
            return Verdict(False, "there is no candidate; refit first")
        starts = self.history.starts(lesson.end, self.history.count)
        if not len(starts):
            return Verdict(False, "the stream was interrupted: no later samples to judge on")
        judge, made = self.judge, self._made(candidate, {})
        z = self.history.evenly(starts, JUDGED_SEGMENTS)
        found, other = judge.errors(made, z), judge.errors(None, z)
        if not found.finite:
            return Verdict(False, "refused: the candidate is not finite")
        rival, ratios = "persistence", found.ratio(other)
        if self.incumbent is not None:
            held = self._made(self.incumbent, {})
            if (known := judge.errors(held, z)).finite:
                rival, other = f"model {self.number}", known
                ratios = judge.ratio(self.history, lesson.end, (made, found), (held, other))
        passed = candidate.improves(*ratios, swaps=self.incumbent is not None)
        judge.remember(found if passed else other, accepted=passed)
        # a candidate that came out worse went too far: the next one takes smaller steps from the same place
        worse = not passed and ratios[0] >= 1
        self.caution = max(self.caution / 2, MIN_CAUTION) if worse else min(2 * self.caution, 1.0)
        figures = dict(zip(("one_step_ratio", "free_run_ratio"), ratios, strict=True))
        figures |= found.figures(self.spec.outputs) | other.figures(self.spec.outputs, "incumbent_")
        text = f"error × {ratios[0]:.3f} one step ahead, × {ratios[1]:.3f} in free run, against {rival}"
        if not passed:
            first = self.incumbent is None
            resumes = candidate.resumes if first else not (worse or candidate.PRESUMES_PLANT)
            self._resume = candidate if resumes else None
            return Verdict(False, f"refused: {text}", figures)
        self.taken, self._lesson = self.taken + 1, None
        before = self._incumbent._replace(before=None)
        self._incumbent = Incumbent(candidate, self.taken, self.number or None, before)
        return Verdict(True, f"model {self.number} accepted: {text}", figures)

    # -- checkpoints ---------------------------------------------------------------------------------

    def checkpoint(self, verdict: Verdict) -> Checkpoint:
        """The incumbent as a checkpoint, with the figures on which it was accepted.

        Raises:
            CheckpointError: there is no incumbent yet.
        """
        if self.incumbent is None:
            raise CheckpointError("no model has been accepted yet")
        return self._made(self.incumbent, verdict.figures)

    def _made(self, model: Model, metrics: dict[str, float]) -> Checkpoint:
        return Checkpoint(
            number=max(self.number, 1),
            parent=self.parent,
            family=model.family,
            sizes=model.sizes,
            spec=self.spec,
            tensors=model.tensors(),
            config=self.config.model_dump(mode="json"),
            metrics=metrics,
        )

    def take_back(self) -> None:
        """Go on from the incumbent before the last one that was accepted: nobody else has that one."""
        self._incumbent = self._incumbent.before or self._incumbent
