"""The trainer: refits the model on the recent stream, and lets only better models through.

Like `Twin` it knows no socket, clock, thread or file. Three questions stand between samples and a new
checkpoint: is there enough excitation to learn from (`enough`), what do the data say (`refit`), and is that
better than what is in use (`accept`)? Each answer is a `Verdict` with its figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twin.asked import asked_model, decided
from twin.checkpoint import Checkpoint
from twin.config import TrainerConfig
from twin.errors import CheckpointError
from twin.history import History, excitation
from twin.messages import Sample, Spec
from twin.models import PHYSICAL
from twin.models.model import Model, build, open_model
from twin.models.scaling import Scaling
from twin.trial import Errors, errors, errors_at_work, loss

HELD_OUT = 0.1
"""Share of the history, its newest part, that a refit does not see, but half a period at most: the gate
judges on it. What changed just now is there too, and should soon be learned from."""
_FLAT = 1e-9  # smallest eigenvalue of a normalised covariance that still counts as fluctuation
AT_REST = 1e-4
"""An input whose newest fluctuations have less than this share of the power of its fluctuations in the whole
history is at rest."""
OUTGROWN = 5.0
"""An incumbent whose scale the history exceeds so many times is no place to go on from: its weights live in
the saturation of their units, and its scaling cannot be refitted."""
FIRST = 4
"""The first refit takes this fraction of the steps of a later one."""
MOST_CAUTIOUS = 1 / 16
"""Of the learning rate: the smallest part of it to which refused candidates bring the next."""
WORTH = 0.98
"""Product of both ratios of errors that a physical candidate must reach, and the inverse of the worst of
each."""
UNLIKE, TWICE = 1.25, 2
"""Where a motor's equations err so many times as much as a linear model, one step ahead, and so often in
succession, it is another plant that has a motor's signals."""
CHANGED = 1.5
"""An incumbent that errs so many times as much as is usual, one step ahead, stands before a change."""
DARING = 0.25
"""Of the learning rate, after a change."""
FORGIVEN = 1.1
"""What is usual grows by so much at most with each model that is accepted."""
_JUDGED = 64  # segments on which a gate judges
_PROBED = 8  # segments on which an incumbent is asked whether it still is one


@dataclass(frozen=True)
class Verdict:
    """The answer to one question: yes or no, in words, and the figures it rests on."""

    passed: bool
    text: str
    figures: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Keeps the recent history and refits the incumbent model on it.

    `window` is the number of samples that warm a hidden state, as in the twin. `incumbent` is the checkpoint
    to go on from, if there is one. With `adapt`, models are judged as the twin runs them: adapting.

    Raises:
        CheckpointError: the incumbent was made for other signals, or is of another family or size than the
            settings ask for.
        SpecError: settings that ask for a family which this plant is not for.
    """

    def __init__(
        self,
        spec: Spec,
        config: TrainerConfig,
        window: int,
        incumbent: Checkpoint | None = None,
        adapt: bool = False,
    ) -> None:
        self._free = config.model == "auto" and incumbent is None  # to leave equations that do not fit
        self._unlike = 0  # times that they did not
        config = decided(spec, config, incumbent)
        self.spec, self.config, self.warm, self.adapt = spec, config, window, adapt
        self.number = incumbent.number if incumbent else 0
        self.taken = self.number
        """The highest number in use, be it by a checkpoint that is damaged."""
        self.parent: int | None = None
        self.incumbent = open_model(incumbent) if incumbent else None
        self.candidate: Model | None = None
        self.caution = 1.0  # part of the learning rate
        self.segment = window + config.horizon  # samples: the warm-up, then the free run
        length = max(round(config.history / spec.dt), 4 * self.segment)
        self.history = History(length, self.segment, len(spec.features), config.model_seed)
        self._last: Sample | None = None
        self._refitted_at = 0  # `history.count` at the last refit's end
        self._trained_to = 0  # `history.count` up to which the candidate has seen the stream
        self.newest = max(round(config.period / spec.dt), self.segment)
        """Samples of the history's newest part: half of the segments come from it, because what changed is
        there; the rest, from the whole history and from the past, protects from forgetting."""
        self._usual: Errors | None = None  # of those models that were accepted
        self._anew = False  # whether the candidate has begun anew
        self._before: tuple[Model | None, int, int | None] = self.incumbent, self.number, self.parent
        self._random = np.random.default_rng(config.model_seed)

    # -- the history ---------------------------------------------------------------------------------

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
        """Whether it is time to ask `enough`: a period's worth of new samples, and three segments at all.

        The first model waits for as much: its scaling and its linear part are the ground of all later ones.
        """
        new = self.history.count - self._refitted_at
        wanted = max(self.config.period / self.spec.dt, self.segment)
        return self.history.count >= 3 * self.segment and new >= wanted

    # -- the first gate ------------------------------------------------------------------------------

    def enough(self) -> Verdict:
        """Whether the history moves enough to learn from.

        The input must be persistently exciting of order two: the covariance of (u(k), u(k-1)) must not be
        singular (Ljung, System Identification, 2nd ed., definition 13.1; a motor at rest or under constant
        voltage teaches nothing, and fitting it only unlearns), and every output must move. The newest part,
        from which half of what is fitted comes, must not be at rest after the rest of it has moved.
        """
        self._refitted_at = self.history.count
        z = self.history.view()
        inputs = len(self.spec.inputs)
        power = np.maximum(np.abs(z[:, :inputs]).max(axis=0) ** 2, np.finfo(np.float64).tiny)
        whole, newest = (excitation(part[:, :inputs]) / power for part in (z, z[-2 * self.newest :]))
        weakest, name = min(zip(whole.tolist(), self.spec.inputs, strict=True))
        still = [
            signal
            for column, signal in enumerate(self.spec.outputs, inputs)
            if z[:, column].std() <= 1e-6 * np.abs(z[:, column]).max()
        ]
        figures = {"excitation": weakest, "samples": float(len(z))}
        if weakest <= _FLAT:
            return Verdict(False, f"too little excitation: {name} hardly moves", figures)
        if (newest < AT_REST * whole).all():
            return Verdict(
                False, f"at rest: no input has moved in the newest {2 * self.newest} samples", figures
            )
        if still:
            return Verdict(False, f"nothing to learn: {', '.join(still)} does not move", figures)
        if not len(self.history.starts(0, self._train_end())):
            return Verdict(False, "no unbroken stretch is long enough for a segment", figures)
        return Verdict(True, f"{len(z)} samples, excited", figures)

    def _train_end(self) -> int:
        held = round(HELD_OUT * min(self.history.count, self.history.length))
        # few samples tell whether a motor's six numbers are right; a network is trained on the rest
        periods = 1.0 if self.config.model in PHYSICAL else 0.5
        return self.history.count - max(
            min(held, round(periods * self.config.period / self.spec.dt)), self.segment
        )

    # -- refit ---------------------------------------------------------------------------------------

    def refit(self) -> Iterator[float]:
        """Fit a candidate, from the incumbent's weights if there is one; yields the share done (0 to 1].

        A generator, so that whoever runs it can take in samples between two optimiser steps.
        """
        config, end = self.config, self._train_end()
        if config.model in PHYSICAL:
            yield from self._identify(end)
            return
        # the first refit is short: least squares has done most of it, and any model beats none
        steps = config.steps if self.incumbent is not None else max(1, config.steps // FIRST)
        starts = self.history.starts(0, end)
        model = self._begin(end)
        optimiser = torch.optim.Adam(model.parameters(), config.learning_rate * self.caution, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for step in range(steps):
            starts = starts[starts >= self.history.count - self.history.length]  # samples come meanwhile
            if not len(starts):  # all that was to be learned from has left the history
                break
            found = loss(model, self._batch(starts, end), self.warm, (config.batch + 1) // 2)
            optimiser.zero_grad(set_to_none=True)
            found.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            yield (step + 1) / steps
        self.candidate, self._trained_to = model, end

    def _identify(self, end: int) -> Iterator[float]:
        """Let a family that is no network find its own parameters."""
        model = self._begin(end)
        stretches = [self.history.between(a, b).copy() for a, b in self.history.stretches(0, end)]
        yield from model.refit(stretches, known=not self._anew)
        self.candidate, self._trained_to = model, end

    def _batch(self, starts: NDArray[np.int64], end: int) -> Tensor:
        """Segments (B, segment, F): half from the newest part of what may be learned from, which ends at
        `end`, a quarter from the past where there is one, the rest from everywhere in the history."""
        past, batch = self.history.past, self.config.batch
        recent = starts[starts >= end - self.newest]
        halves = (batch + 1) // 2, batch // 4 if len(past) else 0
        picks = ((recent if len(recent) else starts, halves[0]), (starts, batch - sum(halves)))
        z = self.history.segments(np.concatenate([self._random.choice(pool, count) for pool, count in picks]))
        if halves[1]:
            z = np.concatenate((z, past[self._random.integers(len(past), size=halves[1])]))
        return torch.from_numpy(z)

    def _spread(self, starts: NDArray[np.int64], count: int) -> Tensor:
        """So many segments (B, segment, F), evenly among those that begin at these counts."""
        places = np.linspace(0, len(starts) - 1, min(count, len(starts))).astype(int)
        return torch.from_numpy(self.history.segments(starts[places]))

    def _errors(self, model: Model | None, z: Tensor) -> Errors:
        return errors(model, z, self.warm, len(self.spec.inputs))

    def _state_of_incumbent(self, first: int, end: int) -> tuple[bool, bool]:
        """Whether it is lost, saying worse than nothing of the samples between two counts, and whether they
        have changed: it errs far more on them than is usual."""
        starts = self.history.starts(first, end)
        if not len(starts):
            return False, False
        z = self._spread(starts, _PROBED)
        own = self._errors(self.incumbent, z)
        if not own.finite or min(own.ratio(self._errors(None, z))) > 1:
            return True, True
        return False, self._usual is not None and own.ratio(self._usual)[0] > CHANGED

    def _outgrown(self, end: int) -> bool:
        """Whether the history has left what the incumbent was scaled for."""
        assert self.incumbent is not None
        scaling = self.incumbent.scaling
        spread = np.sqrt(np.square(self.history.between(0, end) - scaling.mean).mean(axis=0))
        return bool((spread > OUTGROWN * scaling.scale).any())

    def _begin(self, end: int) -> Model:
        """The model to start from: the incumbent's copy, or a new one fitted by least squares.

        A new one too where the incumbent is lost, or outgrown; then it and the incumbent's copy take turns,
        until one of them is accepted.
        """
        newest = end - self.newest
        lost, changed = (False, False) if self.incumbent is None else self._state_of_incumbent(newest, end)
        self._anew = self.incumbent is None or lost or (self._outgrown(end) and not self._anew)
        if changed:
            self.caution = max(self.caution, DARING)  # what made it cautious is over
        if not self._anew and self.incumbent is not None:
            model = build(self.incumbent.family, self.incumbent.sizes)
            model.load_state_dict(self.incumbent.state_dict())
            first, last = list(self.history.stretches(newest, end))[-1]
            enough = changed and last - first >= self.segment
            if model.family == "arx":  # which has a closed solution each time
                model.fit_readout(self.history.between(first, last) if enough else self.history.longest(end))
            elif enough and model.family not in PHYSICAL:  # these look for changes themselves
                model.refit_readout(self.history.between(first, last))
            return model
        return self._fitted(self.config.model, end)

    def _fitted(self, family: str, end: int) -> Model:
        """A new model by least squares."""
        z = self.history.longest(end)
        config = self.config.model_copy(update={"model": family})
        model = asked_model(self.spec, config, Scaling.of(z, len(self.spec.outputs)))
        model.fit_readout(z)
        return model

    # -- the second gate -----------------------------------------------------------------------------

    def accept(self) -> Verdict:
        """Whether the candidate becomes the incumbent: better on later samples, which it has not seen, both
        one step ahead and in free run. Without an incumbent it must beat persistence.

        Weights or errors that are not finite never pass.
        """
        candidate, self.candidate = self.candidate, None
        self._refitted_at = self.history.count
        if candidate is None:
            return Verdict(False, "there is no candidate; refit first")
        starts = self.history.starts(self._trained_to, self.history.count)
        if not len(starts):
            return Verdict(False, "the stream was interrupted: no later samples to judge on")
        z = self._spread(starts, _JUDGED)
        finite = all(bool(torch.isfinite(p).all()) for p in candidate.state_dict().values())
        own = self._errors(candidate, z)
        if not finite or not own.finite:
            return Verdict(False, "refused: the candidate is not finite")
        incumbent = self.incumbent
        if incumbent is not None and not (other := self._errors(incumbent, z)).finite:
            incumbent = None
        if incumbent is None:
            other = self._errors(None, z)
        if self.incumbent is None and (unfit := self._unlike_equations(own, z)) is not None:
            return unfit
        one_step, free_run = self._ratio(candidate, own, other) if incumbent is not None else own.ratio(other)
        passed = one_step < 1 and free_run < 1
        if self.config.model in PHYSICAL and self.incumbent is not None:
            # the twin adapts by itself: a swap must be worth what it interrupts
            passed = one_step * free_run < WORTH and max(one_step, free_run) < 1 / WORTH
        outputs = self.spec.outputs
        figures = {"one_step_ratio": one_step, "free_run_ratio": free_run}
        figures |= own.figures(outputs) | other.figures(outputs, "incumbent_")
        rival = f"model {self.number}" if incumbent is not None else "persistence"
        text = f"error × {one_step:.3f} one step ahead, × {free_run:.3f} in free run, against {rival}"
        # a candidate that came out worse went too far: the next one takes smaller steps from the same place
        self.caution = min(2 * self.caution, 1.0) if passed else max(self.caution / 2, MOST_CAUTIOUS)
        if passed:
            self._before = self.incumbent, self.number, self.parent
            self.incumbent = candidate
            self.parent, self.number = self.number or None, self.taken + 1
            self.taken, self._anew = self.number, False
            usual = own.one_step if self._usual is None else FORGIVEN * self._usual.one_step
            self._usual = Errors(np.minimum(own.one_step, usual), own.free_run)
            return Verdict(True, f"model {self.number} accepted: {text}", figures)
        self._usual = self._usual or other
        return Verdict(False, f"refused: {text}", figures)

    def _unlike_equations(self, own: Errors, z: Tensor) -> Verdict | None:
        """The refusal, if a linear model does better than a motor's equations on segments z, one step ahead.
        If it does so twice, the plant is none that they describe, and is given a network like every other.
        """
        if not self._free or self.config.model not in PHYSICAL:
            return None
        linear = self._fitted("arx", self._trained_to)
        times, _ = own.ratio(self._errors(linear, z))
        if times < UNLIKE:
            self._unlike = 0
            return None
        self._unlike += 1
        text = f"refused: {self.config.model} errs × {times:.3g} as much as a linear model"
        if self._unlike == TWICE:
            self.config = self.config.model_copy(update={"model": "gru"})
            text += " again, so that its equations are not this plant's; from now on a gru is fitted"
        return Verdict(False, text, {"one_step_ratio_to_linear": times})

    def take_back(self) -> None:
        """Go on from the incumbent before the last one that was accepted: nobody else has that one."""
        self.incumbent, self.number, self.parent = self._before

    def _ratio(self, candidate: Model, own: Errors, other: Errors) -> tuple[float, float]:
        """The candidate's errors over the incumbent's. Where the twin adapts, the incumbent has adapted to
        the whole history, the candidate to the window that warms it: what was learned is not given up for
        less."""
        held = self.history.view().astype(np.float32)
        oldest = self.history.count - len(held)
        begin, end = list(self.history.stretches(0, self.history.count))[-1]
        first, horizon = max(self._trained_to, begin + self.warm), self.config.horizon
        if not self.adapt or self.incumbent is None or end - first <= horizon:
            return own.ratio(other)
        starts = np.linspace(first, end - horizon - 1, _JUDGED).astype(int)
        errors = []
        for model, back, known in ((candidate, first - self.warm, own), (self.incumbent, begin, other)):
            rmse = zip(self.spec.outputs, known.one_step, strict=True)
            made = self._made(model, {f"one_step_rmse.{name}": float(e) for name, e in rmse})
            z = held[back - oldest : end - oldest]
            errors.append(Errors(*errors_at_work(made, z, first - back, starts - back, horizon)))
        return errors[0].ratio(errors[1] if errors[1].finite else other)

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
