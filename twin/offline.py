"""Identification offline: from recordings to a model, validated on samples that it was not trained on.

Like `Trainer` it knows no clock or file; its caller says how much of the budget is spent. Models are trained
to run free, because one that is right one step ahead may still run away when it is fed with its own outputs
(Ljung, System Identification, section 16.5). Training windows begin anywhere in the recordings; a random
number of measured samples warms the hidden state, then the model runs free and its errors count.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twin.checkpoint import Checkpoint
from twin.errors import RecordingError
from twin.families import AUTO, NETWORK
from twin.messages import Spec
from twin.models import own
from twin.models.linear import fit_linear
from twin.models.model import Identifies, Model
from twin.models.network import Network
from twin.models.opening import class_of, new_model, sizes_for
from twin.models.scaling import Scaling

HELD_OUT_SHARE: Final = 0.15
"""Share of each recording, its newest, that is not trained on: models are validated on it."""
PART_SAMPLES: Final = 2_500
"""Samples, about, of the parts into which a longer recording is cut. The newest share of each part is held
out, so that models are validated on all that happens in the recording rather than on how it ends."""
MIN_RECORDING_SAMPLES: Final = 60
"""Samples of the shortest recording that can be divided into one part to train on and one to validate on."""
TAPS_TRIED: Final = (2, 4, 8, 16, 32)
"""Orders of the linear part that are tried, in samples; `MIN_SAMPLES_PER_COEFFICIENT` limits them."""
MIN_SAMPLES_PER_COEFFICIENT: Final = 30
"""Samples that least squares needs for each coefficient, so that a higher order does not overfit."""
FEW_TAPS: Final = 8
"""Taps at most of the plan that leaves more to the network than to its linear part."""
WINDOW_SAMPLES: Final = 10
"""Samples that one prediction of a window-rnn sees."""
MAX_WARM_UP_SAMPLES: Final = 300
"""Measured samples of a training window that warm the hidden state; fewer of short recordings."""
MAX_FREE_RUN_SAMPLES: Final = 128
"""Samples of a training window over which the model then runs free; fewer of short recordings."""
FULL_WARM_UP_SHARE: Final = 0.25
"""Share of the training steps that warm up over all samples, as a stream does; the others take fewer."""
BATCH_WINDOWS: Final = 32
"""Windows in the batch of one training step."""
ONE_STEP_WEIGHT: Final = 0.25
"""Weight of the errors one step ahead beside those in free run (1), so that the model also serves a
stream."""
TRIALS_SHARE: Final = 0.3
"""Share of the budget in which all plans are tried once; the rest is spent on the best of them."""
LATE_SHARE: Final = 0.7
"""Share of a plan's time. If its best model came later than that, it was still improving."""
RETRY_TIME_RATIO: Final = 1.5
"""Time of another training of the best plan, over the time in which that plan reached its best model."""
MIN_RETRY_SHARE: Final = 0.15
"""Share of the budget that another training of the best plan gets at least."""
MAX_VAIN_RETRIES: Final = 6
"""Trainings of the best plan in succession without a better model, after which the fit ends."""
VALIDATIONS_PER_PLAN: Final = 40
"""Times that the model of a plan is validated on the held-out samples, evenly over the plan's time."""
MIN_MEAN_SQUARE: Final = 1e-12
"""Added to mean squared errors, in squares of the outputs' spread, so that their logarithm stays finite."""
MAX_HELD_OUT_WINDOWS: Final = 128
"""Held-out windows on which a model is validated: more would take the time from training."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """One way to train, as a checkpoint's config has it."""

    family: str
    hidden_size: int
    taps: int
    learning_rate: float
    averages: bool = True
    """Whether some hidden units begin as slow averages of the signals (`twin.models.linear`)."""
    seed: int = 1

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.family} {self.hidden_size}, {self.taps} taps"


@dataclass(frozen=True)
class Progress:
    """Where a fit stands: the share of the budget spent, the plan being tried, and the best error so far.

    The error is the NRMSE in free run over held-out samples: in units of the outputs' spread."""

    spent: float
    trying: str
    held_out: float


@dataclass
class Attempt:
    """One training of a plan: the error of its best model, the share of the budget that the training was
    given (`span`), and the share that was spent when it reached that model (`reached`)."""

    plan: Plan
    span: float
    error: float = math.inf
    reached: float = 0.0


class Fit:
    """A model found for recordings (T, F) of one plant, each independent of the others.

    `model` is a family, or "auto". After each turn of `run`, `best` is the model to keep so far.

    Raises:
        RecordingError: a recording that is too short, or signals that do not move.
        SpecError: a family that knows a motor, and signals that are none's.
    """

    def __init__(self, records: Sequence[Array], spec: Spec, model: str = AUTO, seed: int = 1) -> None:
        check(records, spec)
        family = own.named(model)
        self.spec, self.family, self.seed = spec, NETWORK if family == AUTO else family, seed
        self.tries_plans = family == AUTO
        sizes_for(self.family, spec)  # refuses a plant that is not for the family
        self.inputs = len(spec.inputs)
        parts = [part for z in records for part in np.array_split(z, max(len(z) // PART_SAMPLES, 1))]
        ends = [round((1.0 - HELD_OUT_SHARE) * len(z)) for z in parts]
        self._stretches = [z[:end] for z, end in zip(parts, ends, strict=True)]
        self._samples = torch.from_numpy(np.concatenate(self._stretches).astype(np.float32))
        self._scaling = Scaling.of(np.concatenate(self._stretches), len(spec.outputs))
        self._scale = torch.from_numpy(self._scaling.scale[self.inputs :])
        shortest = min(ends)
        self.warm = min(MAX_WARM_UP_SAMPLES, shortest // 3)
        self.length = min(MAX_FREE_RUN_SAMPLES, shortest // 3)
        self._held = held_out(parts, ends, self.warm, self.length)
        self._random = np.random.default_rng(seed)
        self.best: Model | None = None
        self.plan: Plan | None = None
        self.held_out = math.inf

    # -- the course of a fit -------------------------------------------------------------------------

    def run(self, spent: Callable[[], float]) -> Iterator[Progress]:
        """Find a model, until `spent` says that all of the budget (1) is gone, or until more does not help.

        First the linear models, of which the best says how many taps there shall be. Then each plan has the
        same short time. The best of them is trained again from other first weights: for somewhat longer than
        it went on improving, so that its learning rate comes to rest where more would only learn the noise.
        """
        if issubclass(class_of(self.family), Identifies):
            yield from self._identify(spent)
            return
        taps = yield from self._linear(spent)
        plans, attempts = self._plans(taps), []
        for i, plan in enumerate(plans):
            attempts.append((yield from self._train(plan, spent, TRIALS_SHARE * (i + 1) / len(plans))))
        vain = 0
        while (begun := spent()) < 1.0 and vain < MAX_VAIN_RETRIES:
            best = min(attempts, key=lambda attempt: attempt.error)
            share = max(RETRY_TIME_RATIO * best.reached, MIN_RETRY_SHARE)
            late = best.reached > LATE_SHARE * best.span  # it was still improving
            until = 1.0 if late or share > 0.7 * (1.0 - begun) else begun + share
            again = yield from self._train(replace(best.plan, seed=self.seed + len(attempts)), spent, until)
            vain = 0 if again.error < best.error else vain + 1
            attempts.append(again)

    def _plans(self, taps: int) -> list[Plan]:
        """What is tried: a small network with small steps; a larger one with larger steps and few taps; and
        twice as many taps, but no slow averages, which a position with a coarse encoder wants."""
        if not self.tries_plans:
            return [Plan(self.family, 32, taps, 3e-3)]
        more = min(2 * taps, TAPS_TRIED[-1])
        return [
            Plan(NETWORK, 16, taps, 1e-3),
            Plan(NETWORK, 32, min(taps, FEW_TAPS), 3e-3),
            *([Plan(NETWORK, 32, more, 3e-3, averages=False)] if self._affords(more) else []),
        ]

    def _affords(self, taps: int) -> bool:
        """Whether there are samples enough for the coefficients of so many taps."""
        return MIN_SAMPLES_PER_COEFFICIENT * taps * len(self.spec.features) <= len(self._samples)

    def _linear(self, spent: Callable[[], float]) -> Generator[Progress, None, int]:
        """Keep the best linear model, and answer its taps."""
        best = (math.inf, TAPS_TRIED[0])
        for taps in (TAPS_TRIED[0], *filter(self._affords, TAPS_TRIED[1:])):
            plan = Plan(self.family, 32, taps, 0.0)
            error = self._validate(self._begin(plan), plan)
            if error < 0.99 * best[0]:  # more taps must be worth it
                best = (error, taps)
            yield Progress(spent(), plan.name, self.held_out)
        return best[1]

    def _identify(self, spent: Callable[[], float]) -> Generator[Progress, None, None]:
        """Let a family that knows the plant find its parameters, in its own way and time."""
        plan = Plan(self.family, 32, TAPS_TRIED[0], 0.0, averages=False)
        model = new_model(self.family, self.spec, self._scaling, taps=plan.taps, seed=plan.seed)
        model.fit(max(self._stretches, key=len))
        assert isinstance(model, Identifies)
        for _ in cast(Identifies, model).identify(self._stretches, known=False):
            yield Progress(spent(), self.family, self.held_out)
            if spent() >= 1.0:
                break
        self._validate(model, plan)
        yield Progress(spent(), self.family, self.held_out)

    def _begin(self, plan: Plan) -> Network:
        sizes = {"hidden_size": plan.hidden_size, "taps": plan.taps, "window": WINDOW_SAMPLES}
        model = new_model(plan.family, self.spec, self._scaling, seed=plan.seed, **sizes)
        assert isinstance(model, Network)
        fit_linear(model, self._stretches, averages=plan.averages)
        return model.train()

    def _train(
        self, plan: Plan, spent: Callable[[], float], until: float
    ) -> Generator[Progress, None, Attempt]:
        """Adam from new weights (Kingma & Ba 2015), its rate falling as a cosine to nothing at `until`."""
        model, begun = self._begin(plan), spent()
        optimiser = torch.optim.Adam(model.parameters(), plan.learning_rate, fused=True)
        attempt, look = Attempt(plan, max(until - begun, 1e-9)), 0
        starts = self._starts()
        while True:
            now = spent()
            share = min((now - begun) / attempt.span, 1.0)
            if share >= look / VALIDATIONS_PER_PLAN or share >= 1.0:
                look += 1
                error = self._validate(model, plan)
                if error < attempt.error:
                    attempt.error, attempt.reached = error, share * attempt.span
                yield Progress(spent(), plan.name, self.held_out)
                if share >= 1.0 or not math.isfinite(error):
                    return attempt
            for group in optimiser.param_groups:
                group["lr"] = plan.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))
            rows = self._random.choice(starts, BATCH_WINDOWS)[:, None] + np.arange(self.warm + self.length)
            warm = self._warm_up(plan)
            z = self._samples[torch.from_numpy(rows[:, self.warm - warm :])]
            one_step, free_run = self._losses(model, z, warm)
            loss = free_run + ONE_STEP_WEIGHT * one_step
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            yield Progress(now, plan.name, self.held_out)  # so that the caller can end the fit here

    def _warm_up(self, plan: Plan) -> int:
        """Samples that warm the hidden state: now and then all, as in a stream; mostly few, so that a model
        that has seen little is of use too, and because they take less time."""
        few = min(plan.taps, self.warm)
        if self._random.random() < FULL_WARM_UP_SHARE:
            return self.warm
        return few + int((self.warm - few) * self._random.random() ** 3)

    # -- errors --------------------------------------------------------------------------------------

    def _starts(self) -> NDArray[np.int64]:
        """Where whole windows begin, each inside one recording."""
        lengths = [len(z) for z in self._stretches]
        firsts = np.cumsum([0, *lengths[:-1]])
        size = self.warm + self.length
        return np.concatenate([a + np.arange(n - size + 1) for a, n in zip(firsts, lengths, strict=True)])

    def _losses(self, model: Network, z: Tensor, warm: int) -> tuple[Tensor, Tensor]:
        """Of windows z (B, warm + T, F), one step ahead over the warm-up and in free run after it: the
        concentrated log-likelihood of the errors, for each sample, without its factor -1/2.

        Errors grow with the time that a model runs free, without end where the plant integrates. So they
        have a variance for each output and each octave of that time (1, 2, 3-4, 5-8, ... samples), and the
        likelihood is the sum of the logarithms of their mean squares (Ljung, section 7.4).
        """
        y, state = z[:, :, self.inputs :], model.initial_state(len(z))
        one_step = y.new_zeros(())
        if warm > 1:
            ahead, state = model(z[:, : warm - 1], state)
            settled = (warm - 1) // 4  # the state of a cold start says little yet
            errors = ((ahead - y[:, 1:warm]) / model.increment_scale)[:, settled:]
            one_step = torch.log(errors.square().mean((0, 1)) + MIN_MEAN_SQUARE).mean()
        run = model.free_run(z[:, warm - 1], z[:, warm:, : self.inputs], state)
        return one_step, self._likelihood(run, y[:, warm:])

    def _likelihood(self, run: Tensor, y: Tensor) -> Tensor:
        squares = ((run - y) / self._scale).square().mean(0)  # (T, P)
        octaves = torch.split(squares, octave_lengths(len(squares)))
        logs = [len(part) * torch.log(part.mean(0) + MIN_MEAN_SQUARE) for part in octaves]
        return torch.stack(logs).sum(0).mean() / len(squares)

    def _validate(self, model: Model, plan: Plan) -> float:
        """The error in free run over the held-out windows, a NRMSE; the best model so far is kept."""
        run = torch.from_numpy(model.free_runs(self._held.numpy(), self.warm))
        error = math.exp(0.5 * float(self._likelihood(run, self._held[:, self.warm :, self.inputs :])))
        finite = all(bool(np.isfinite(a).all()) for a in model.tensors().values())
        if not finite or not math.isfinite(error):
            return math.inf
        if error < self.held_out:
            self.held_out, self.plan, self.best = error, plan, copy.deepcopy(model)
        return error

    def checkpoint(self, number: int, parent: int | None = None) -> Checkpoint:
        """The best model so far, with how it was found.

        Raises:
            RecordingError: no model was found.
        """
        if self.best is None or self.plan is None:
            raise RecordingError("no model was found: give a longer recording, or one that moves more")
        return Checkpoint(
            number=number,
            parent=parent,
            family=self.best.family,
            sizes=self.best.sizes,
            spec=self.spec,
            tensors=self.best.tensors(),
            config={"fit": asdict(self.plan) | {"warm": self.warm, "length": self.length, "seed": self.seed}},
            metrics={"held_out_nrmse": self.held_out},
        )


def octave_lengths(steps: int) -> list[int]:
    """How many samples each octave of a free run has.

    >>> octave_lengths(10)
    [1, 1, 2, 4, 2]
    """
    ends = [1]
    while ends[-1] < steps:
        ends.append(min(2 * ends[-1], steps))
    return [1, *np.diff(ends).tolist()]


def held_out(records: Sequence[Array], ends: Sequence[int], warm: int, length: int) -> Tensor:
    """Windows (B, warm + length, F) whose samples after the warm-up come after the recordings' `ends`."""
    windows, each = [], max(MAX_HELD_OUT_WINDOWS // len(records), 1)
    length = min(length, *(len(z) - end for z, end in zip(records, ends, strict=True)))
    for z, end in zip(records, ends, strict=True):
        starts = np.unique(np.linspace(end, len(z) - length, each).astype(int))
        windows += [z[start - warm : start + length] for start in starts]
    return torch.from_numpy(np.stack(windows).astype(np.float32))


def check(records: Sequence[Array], spec: Spec) -> None:
    """Refuse recordings from which nothing can be learned.

    Raises:
        RecordingError: one that is too short, or signals that do not move.
    """
    for i, z in enumerate(records, 1):
        if len(z) < MIN_RECORDING_SAMPLES:
            raise RecordingError(
                f"recording {i} of {len(records)} has {len(z)} samples; to learn from some and judge on "
                f"others, {MIN_RECORDING_SAMPLES} are needed: give a longer one"
            )
    z = np.concatenate(records)
    for column, name in enumerate(spec.features):
        if z[:, column].std() <= 1e-6 * np.abs(z[:, column]).max():
            kind = "input" if column < len(spec.inputs) else "output"
            raise RecordingError(
                f"the {kind} {name} does not move: nothing can be learned of it; leave it out, or give a "
                "recording in which it moves"
            )
