"""The trainer: refits the model on the recent stream, and lets only better models through.

Like `Twin` it knows no socket, clock, thread or file. Three questions stand between samples and a new
checkpoint: is there enough excitation to learn from (`enough`), what do the data say (`refit`), and is that
better than what is in use (`accept`)? Each answer is a `Verdict` with its figures.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twin.checkpoint import Checkpoint, check_plant
from twin.config import TrainerConfig
from twin.errors import CheckpointError
from twin.messages import Sample, Spec
from twin.models import Sizes, sizes_of
from twin.models.model import Model, new_model, open_model
from twin.models.scaling import Scaling
from twin.window import Window

HELD_OUT = 0.1
"""Share of the history, its newest part, that a refit does not see: the gate judges on it."""
EXCITATION_ORDER = 2
"""Of the input's fluctuations: 1 would let a constant offset pass for movement."""
_FLAT = 1e-9  # smallest eigenvalue of a normalised covariance that still counts as fluctuation
RECENT = 16
"""Half of the segments come from the newest part of the history, this fraction of it: what changed is there,
and the rest protects from forgetting."""
FIRST = 4
"""The first refit takes this fraction of the steps of a later one."""
MOST_CAUTIOUS = 1 / 16
"""Of the learning rate: the smallest part of it to which refused candidates bring the next."""
_JUDGED = 64  # segments on which a gate judges


@dataclass(frozen=True)
class Verdict:
    """The answer to one question: yes or no, in words, and the figures it rests on."""

    passed: bool
    text: str
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Errors:
    """RMSE of each output (P,), one step ahead and in free run, in the outputs' units."""

    one_step: NDArray[np.float64]
    free_run: NDArray[np.float64]

    def ratio(self, other: Errors) -> tuple[float, float]:
        """One step ahead and in free run: own error over the other's, the geometric mean over the outputs."""
        tiny = np.finfo(np.float32).tiny
        one, free = (
            np.log(np.maximum(own, tiny) / np.maximum(reference, tiny)).mean()
            for own, reference in ((self.one_step, other.one_step), (self.free_run, other.free_run))
        )
        return math.exp(one), math.exp(free)


def asked_sizes(spec: Spec, config: TrainerConfig) -> Sizes:
    """The sizes of the model that the settings ask for.

    Raises:
        SpecError: a size out of range.
    """
    return sizes_of(
        config.model,
        len(spec.inputs),
        len(spec.outputs),
        config.hidden_size,
        config.layers,
        config.taps,
        config.sequence_length,
    )


def _check_family(incumbent: Checkpoint, spec: Spec, config: TrainerConfig) -> None:
    """Refuse to go on from a model of another kind than the settings ask for."""
    asked = asked_sizes(spec, config)
    if (config.model, asked) != (incumbent.family, incumbent.sizes):
        held, wanted = (
            f"{family} ({', '.join(f'{name} {size}' for name, size in sizes.items())})"
            for family, sizes in ((incumbent.family, incumbent.sizes), (config.model, asked))
        )
        raise CheckpointError(
            f"checkpoint {incumbent.number} is a {held}, and asked for is a {wanted}; "
            "set --model and its sizes as there, or choose another --run-dir"
        )


class Trainer:
    """Keeps the recent history and refits the incumbent model on it.

    `window` is the number of samples that warm a hidden state, as in the twin. `incumbent` is the checkpoint
    to go on from, if there is one.

    Raises:
        CheckpointError: the incumbent was made for other signals, or is of another family or size than the
            settings ask for.
    """

    def __init__(
        self, spec: Spec, config: TrainerConfig, window: int, incumbent: Checkpoint | None = None
    ) -> None:
        if incumbent is not None:
            check_plant(incumbent, spec)
            _check_family(incumbent, spec, config)
        self.spec, self.config, self.warm = spec, config, window
        self.number = incumbent.number if incumbent else 0
        self.taken = self.number
        """The highest number in use, be it by a checkpoint that is damaged."""
        self.parent: int | None = None
        self.incumbent = open_model(incumbent) if incumbent else None
        self.candidate: Model | None = None
        self.caution = 1.0  # part of the learning rate
        self.segment = window + config.horizon  # samples: the warm-up, then the free run
        length = max(round(config.history / spec.dt), 4 * self.segment)
        self.history = Window(1, length, len(spec.features), np.float64)
        self._breaks: deque[int] = deque()  # counts at which the history does not continue what was before
        self._last: Sample | None = None
        self._refitted_at = 0  # `history.count` at the last refit's end
        self._trained_to = 0  # `history.count` up to which the candidate has seen the stream
        self._random = np.random.default_rng(config.model_seed)

    # -- the history ---------------------------------------------------------------------------------

    def observe(self, sample: Sample) -> bool:
        """Keep a sample; False for one that is not of this Spec. A gap or restart breaks the history."""
        row = self.spec.row(sample)
        if row is None:
            return False
        last = self._last
        if last is not None and (sample.epoch != last.epoch or sample.seq != last.seq + 1):
            self._breaks.append(self.history.count)
        while self._breaks and self._breaks[0] <= self.history.count - self.history.length:
            self._breaks.popleft()
        self._last = sample
        self.history.push(np.array([row]))
        return True

    @property
    def due(self) -> bool:
        """Whether it is time to ask `enough`: a period's worth of new samples, and three segments at all.

        The first model waits for as much: its scaling and its linear part are the ground of all later ones.
        """
        new = self.history.count - self._refitted_at
        wanted = max(self.config.period / self.spec.dt, self.segment)
        return self.history.count >= 3 * self.segment and new >= wanted

    def _stretches(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The unbroken parts of the history between two counts, as pairs of counts."""
        start = max(first, self.history.count - self.history.length, 0)
        for end in [*(count for count in self._breaks if start < count < last), last]:
            yield start, end
            start = end

    def _starts(self, first: int, last: int) -> NDArray[np.int64]:
        """Every count between two at which a whole segment begins."""
        runs = [np.arange(a, b - self.segment + 1) for a, b in self._stretches(first, last)]
        return np.concatenate(runs) if runs else np.empty(0, np.int64)

    def _segments(self, starts: NDArray[np.int64]) -> Tensor:
        """The segments that begin at these counts, which the history holds: (B, segment, F) float32."""
        held = self.history.view()[0]
        oldest = self.history.count - len(held)
        rows = (starts - oldest)[:, None] + np.arange(self.segment)
        return torch.from_numpy(held[rows].astype(np.float32))

    # -- the first gate ------------------------------------------------------------------------------

    def enough(self) -> Verdict:
        """Whether the history moves enough to learn from.

        The input must be persistently exciting of order two: the covariance of (u(k), u(k-1)) must not be
        singular (Ljung, System Identification, 2nd ed., definition 13.1; a motor at rest or under constant
        voltage teaches nothing, and fitting it only unlearns), and every output must move.
        """
        self._refitted_at = self.history.count
        z = self.history.view()[0]
        inputs = len(self.spec.inputs)
        weakest, name = math.inf, ""
        for column, signal in enumerate(self.spec.inputs):
            u = z[:, column] - z[:, column].mean()
            lags = np.stack([u[lag : len(u) - EXCITATION_ORDER + lag] for lag in range(EXCITATION_ORDER)])
            power = max(float(np.abs(z[:, column]).max()) ** 2, np.finfo(np.float64).tiny)
            lowest = float(np.linalg.eigvalsh(np.cov(lags))[0]) / power
            if lowest < weakest:
                weakest, name = lowest, signal
        still = [
            signal
            for column, signal in enumerate(self.spec.outputs, inputs)
            if z[:, column].std() <= 1e-6 * np.abs(z[:, column]).max()
        ]
        figures = {"excitation": weakest, "samples": float(len(z))}
        if weakest <= _FLAT:
            return Verdict(False, f"too little excitation: {name} hardly moves", figures)
        if still:
            return Verdict(False, f"nothing to learn: {', '.join(still)} does not move", figures)
        if not len(self._starts(0, self._train_end())):
            return Verdict(False, "no unbroken stretch is long enough for a segment", figures)
        return Verdict(True, f"{len(z)} samples, excited", figures)

    def _train_end(self) -> int:
        held = min(self.history.count, self.history.length)
        return self.history.count - max(round(HELD_OUT * held), self.segment)

    # -- refit ---------------------------------------------------------------------------------------

    def refit(self) -> Iterator[float]:
        """Fit a candidate, from the incumbent's weights if there is one; yields the share done (0 to 1].

        A generator, so that whoever runs it can take in samples between two optimiser steps.

        The loss is the concentrated log-likelihood of independent Gaussian errors, sum over outputs of
        log(mean squared error) / 2 (Ljung, section 7.4), once for the errors one step ahead over the
        warm-up and once for those of the free run after it. So no weights between amperes and rad/s, or
        between one step and many, have to be chosen.
        """
        config, end = self.config, self._train_end()
        # the first refit is short: least squares has done most of it, and any model beats none
        steps = config.steps if self.incumbent is not None else max(1, config.steps // FIRST)
        starts = self._starts(0, end)
        model = self._begin(end)
        optimiser = torch.optim.Adam(model.parameters(), config.learning_rate * self.caution, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for step in range(steps):
            starts = starts[starts >= self.history.count - self.history.length]  # samples come meanwhile
            if not len(starts):  # all that was to be learned from has left the history
                break
            recent = starts[-max(len(starts) // RECENT, 1) :]
            half = config.batch // 2
            picks = ((starts, config.batch - half), (recent, half))
            chosen = np.concatenate([self._random.choice(pool, count) for pool, count in picks])
            one_step, free_run = self._squared_errors(model, self._segments(chosen))
            loss = 0.5 * (torch.log(one_step + 1e-10).sum() + torch.log(free_run + 1e-10).sum())
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            yield (step + 1) / steps
        self.candidate, self._trained_to = model, end

    def _begin(self, end: int) -> Model:
        """The model to start from: the incumbent's copy, or a new one fitted by least squares."""
        if self.incumbent is not None:
            model = Model(self.incumbent.family, self.incumbent.sizes)
            model.load_state_dict(self.incumbent.state_dict())
            return model
        config = self.config
        held = self.history.view()[0]
        oldest = self.history.count - len(held)
        # scaling and least squares look at differences: of the longest stretch, across no break
        first, last = max(self._stretches(0, end), key=lambda stretch: stretch[1] - stretch[0])
        z = held[first - oldest : last - oldest]
        model = new_model(
            config.model,
            self.spec,
            Scaling.of(z, len(self.spec.outputs)),
            hidden_size=config.hidden_size,
            layers=config.layers,
            taps=config.taps,
            window=config.sequence_length,
            seed=config.model_seed,
        )
        model.fit_readout(z)
        return model

    def _squared_errors(self, model: Model, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared errors (P,) of segments z (B, segment, F): one step ahead over the warm-up, in the
        increments' scale, and of the free run after it, in the outputs' scale."""
        inputs, warm = len(self.spec.inputs), self.warm
        y = z[:, :, inputs:]
        y_hat, state = model(z[:, : warm - 1], model.initial_state(len(z)))
        one_step = (y_hat - y[:, 1:warm]) / model.increment_scale
        run = model.free_run(z[:, warm - 1], z[:, warm:, :inputs], state)
        free_run = (run - y[:, warm:]) / model.scale[inputs:]
        settled = warm // 4  # the state of a cold start says little yet
        return one_step[:, settled:].square().mean((0, 1)), free_run.square().mean((0, 1))

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
        starts = self._starts(self._trained_to, self.history.count)
        if not len(starts):
            return Verdict(False, "the stream was interrupted: no later samples to judge on")
        z = self._segments(starts[np.linspace(0, len(starts) - 1, min(_JUDGED, len(starts))).astype(int)])
        finite = all(bool(torch.isfinite(p).all()) for p in candidate.state_dict().values())
        own = self.errors(candidate, z)
        if not finite or not (np.isfinite(own.one_step).all() and np.isfinite(own.free_run).all()):
            return Verdict(False, "refused: the candidate is not finite")
        other = self.errors(self.incumbent, z)
        one_step, free_run = own.ratio(other)
        passed = one_step < 1 and free_run < 1
        figures = {"one_step_ratio": one_step, "free_run_ratio": free_run}
        for i, name in enumerate(self.spec.outputs):
            figures |= {
                f"one_step_rmse.{name}": float(own.one_step[i]),
                f"free_run_rmse.{name}": float(own.free_run[i]),
                f"incumbent_one_step_rmse.{name}": float(other.one_step[i]),
                f"incumbent_free_run_rmse.{name}": float(other.free_run[i]),
            }
        rival = f"model {self.number}" if self.incumbent is not None else "persistence"
        text = f"error × {one_step:.3f} one step ahead, × {free_run:.3f} in free run, against {rival}"
        # a candidate that came out worse went too far: the next one takes smaller steps from the same place
        self.caution = min(2 * self.caution, 1.0) if passed else max(self.caution / 2, MOST_CAUTIOUS)
        if passed:
            self.incumbent = candidate
            self.parent, self.number = self.number or None, self.taken + 1
            self.taken = self.number
            return Verdict(True, f"model {self.number} accepted: {text}", figures)
        return Verdict(False, f"refused: {text}", figures)

    @torch.no_grad()
    def errors(self, model: Model | None, z: Tensor) -> Errors:
        """The errors of a model (None: persistence) on segments z (B, segment, F)."""
        inputs, warm = len(self.spec.inputs), self.warm
        y = z[:, :, inputs:]
        if model is None:
            one_step = y[:, warm:] - y[:, warm - 1 : -1]
            free_run = y[:, warm:] - y[:, warm - 1 : warm]
        else:
            state = model.initial_state(len(z))
            if warm > 1:
                _, state = model(z[:, : warm - 1], state)
            ahead, _ = model(z[:, warm - 1 : -1], state)
            one_step = ahead - y[:, warm:]
            free_run = model.free_run(z[:, warm - 1], z[:, warm:, :inputs], state) - y[:, warm:]
        return Errors(*(e.double().square().mean((0, 1)).sqrt().numpy() for e in (one_step, free_run)))

    def checkpoint(self, verdict: Verdict) -> Checkpoint:
        """The incumbent as a checkpoint, with the figures on which it was accepted.

        Raises:
            CheckpointError: there is no incumbent yet.
        """
        if self.incumbent is None:
            raise CheckpointError("no model has been accepted yet")
        return Checkpoint(
            number=self.number,
            parent=self.parent,
            family=self.incumbent.family,
            sizes=self.incumbent.sizes,
            spec=self.spec,
            tensors=self.incumbent.tensors(),
            config=self.config.model_dump(mode="json"),
            metrics=verdict.figures,
        )
