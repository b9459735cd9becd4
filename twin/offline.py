"""Identification offline: from recordings to a model, validated on samples that it was not trained on.

Like `Trainer` it knows no clock or file; its caller says how much of the budget is spent. Training is
`twin.models.training`: one step ahead first, then also in free run, because a model that is right one step
ahead may still run away when it is fed with its own outputs (Ljung, System Identification, section 16.5).
Models are judged in free run over held-out samples, and by whether they stay where the recordings were.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twin.checkpoint import Checkpoint
from twin.errors import RecordingError
from twin.families import AUTO, MOTOR, NETWORK, family_for, family_of
from twin.messages import Spec
from twin.metrics import leaves_range
from twin.models import own
from twin.models.model import Identifies, Model
from twin.models.network import Network
from twin.models.opening import class_of, new_model, sizes_for
from twin.models.scaling import Scaling
from twin.models.training import Course, free_run_likelihood, likelihood, one_step_squares
from twin.split import Split, check

TAPS_TRIED: Final = (2, 4, 8, 16, 32)
"""Orders of the linear part that are tried, in samples; `MIN_SAMPLES_PER_COEFFICIENT` limits them."""
MIN_SAMPLES_PER_COEFFICIENT: Final = 30
"""Samples that least squares needs for each coefficient, so that a higher order does not overfit."""
FEW_TAPS: Final = 8
"""Taps at most of the plan that leaves more to the network than to its linear part."""
WINDOW_SAMPLES: Final = 10
"""Samples that one prediction of a window-rnn sees."""
FULL_WARM_UP_SHARE: Final = 0.25
"""Share of the training steps that warm up over all samples, as a stream does; the others take fewer, so that
a model that has seen little is of use too."""
BATCH_WINDOWS: Final = 32
"""Windows in the batch of one training step."""
RUNAWAY_ERROR_RATIO: Final = 1.25
"""Error of a model whose free run leaves the range, over that of one that stays, up to which the latter is
preferred."""
TRIALS_SHARE: Final = 0.3
"""Share of the budget in which all plans are tried once; the rest is spent on the best of them."""
LATE_SHARE: Final = 0.7
"""Share of a plan's time. If its best model came later than that, it was still improving."""
BETTER_RATIO: Final = 0.97
"""Error of a trained model over that of the linear one, below which the training has led somewhere."""
RETRY_TIME_RATIO: Final = 1.5
"""Time of another training of the best plan, over the time in which that plan reached its best model."""
MIN_RETRY_SHARE: Final = 0.15
"""Share of the budget that another training of the best plan gets at least."""
MAX_VAIN_RETRIES: Final = 6
"""Trainings of the best plan in succession without a better model, after which the fit ends."""
VALIDATIONS_PER_PLAN: Final = 40
"""Times that the model of a plan is validated on the held-out samples, evenly over the plan's time."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """One way to train, as a checkpoint's config has it."""

    family: str
    hidden_size: int
    taps: int
    learning_rate: float
    averages: bool = False
    """Whether some hidden units begin as slow averages of the signals (`twin.models.linear`)."""
    free_run_from: float = 0.5
    """Share of the course from which errors in free run count too; before it, only those one step ahead."""
    one_step_weight: float = 1.0
    """Of the errors one step ahead beside those in free run."""
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
    """One training of a plan: its best model and the error of that, the share of the budget that the training
    was given (`span`), and the share that was spent when it reached that model (`reached`)."""

    plan: Plan
    span: float = 0.0
    error: float = math.inf
    reached: float = 0.0
    last: float = math.inf
    """The error of the newest model."""
    model: Model | None = None
    runs_away: bool = False
    """Whether its free run leaves the range of the recordings."""

    @property
    def rank(self) -> float:
        """By which attempts are compared: one that runs away must be clearly better."""
        return self.error * (RUNAWAY_ERROR_RATIO if self.runs_away else 1.0)


class Fit:
    """A model found for recordings (T, F) of one plant, each independent of the others.

    `model` is a family, or "auto". After each attempt of `run`, `best` is the one to keep so far, and
    `linear` the best of those that least squares found.

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
        self.split = Split(records)
        self.scaling = Scaling.of(np.concatenate(self.split.stretches), len(spec.outputs))
        self._random = np.random.default_rng(seed)
        self.best: Attempt | None = None
        self.linear: Attempt | None = None

    @property
    def held_out(self) -> float:
        """The error of the best model so far, the NRMSE in free run over held-out samples; infinite without
        one."""
        return self.best.error if self.best is not None else math.inf

    # -- the course of a fit -------------------------------------------------------------------------

    def run(self, spent: Callable[[], float]) -> Generator[Progress, None, None]:
        """Find a model, until `spent` says that all of the budget (1) is gone, or until more does not help.

        First the linear models, of which the best says how many taps there shall be; a motor's equations,
        where the signals are a motor's. Then each plan has the same short time. The best of them is trained
        again from other first weights: for somewhat longer than it went on improving, so that its learning
        rate comes to rest where more would only learn the noise.
        """
        if issubclass(class_of(self.family), Identifies):
            yield from self._identify(self.family, spent)
            return
        taps = yield from self._linear(spent)
        if self.tries_plans and family_for(self.spec) == MOTOR:
            yield from self._identify(MOTOR, spent)
        plans, attempts = self._plans(taps), []
        for i, plan in enumerate(plans):
            attempts.append((yield from self._train(plan, spent, TRIALS_SHARE * (i + 1) / len(plans))))
        vain = 0
        while (begun := spent()) < 1.0 and vain < MAX_VAIN_RETRIES:
            start = self.linear.error if self.linear is not None else math.inf
            better = [attempt for attempt in attempts if attempt.error < BETTER_RATIO * start]
            if better:
                best = min(better, key=lambda attempt: attempt.rank)
            else:  # no time was enough: free runs from the begin lead farther from a start that is linear
                best = min(attempts, key=lambda attempt: (attempt.plan.free_run_from, attempt.last))
            share = max(RETRY_TIME_RATIO * best.reached, MIN_RETRY_SHARE)
            late = best.reached > LATE_SHARE * best.span  # it was still improving
            until = 1.0 if late or not better or share > 0.7 * (1.0 - begun) else begun + share
            again = yield from self._train(replace(best.plan, seed=self.seed + len(attempts)), spent, until)
            vain = 0 if again.error < best.error else vain + 1
            attempts.append(again)

    def _plans(self, taps: int) -> list[Plan]:
        """What is tried: free runs late in the course, for a disturbance that nobody measures; and from its
        begin, with few taps, for what is not linear. Without a family also small steps with slow averages,
        for a drift; and twice as many taps, for a position with a coarse encoder."""
        few, more = min(taps, FEW_TAPS), min(2 * taps, TAPS_TRIED[-1])
        late = Plan(self.family, 32, taps, 3e-3, seed=self.seed)
        early = replace(late, free_run_from=0.0, one_step_weight=0.25)
        if not self.tries_plans:
            return [late, replace(early, taps=few)]
        return [
            late,
            replace(early, taps=few, averages=True),
            replace(early, hidden_size=16, learning_rate=1e-3, averages=True),
            *([replace(early, taps=more)] if self._affords(more) else []),
        ]

    def _affords(self, taps: int) -> bool:
        """Whether there are samples enough for the coefficients of so many taps."""
        return MIN_SAMPLES_PER_COEFFICIENT * taps * len(self.spec.features) <= len(self.split.samples)

    def _linear(self, spent: Callable[[], float]) -> Generator[Progress, None, int]:
        """Keep the best linear model, and answer its taps."""
        best = Attempt(Plan(self.family, 32, TAPS_TRIED[0], 0.0, seed=self.seed))
        more = TAPS_TRIED[1:] if "taps" in family_of(self.family).needs else ()
        for taps in (TAPS_TRIED[0], *filter(self._affords, more)):
            attempt = Attempt(replace(best.plan, taps=taps))
            self._judge(attempt, self._begin(attempt.plan))
            if attempt.error < 0.99 * best.error:  # more taps must be worth it
                best = self.linear = attempt
                self._keep(attempt)
            yield Progress(spent(), attempt.plan.name, self.held_out)
        return best.plan.taps

    def _identify(self, family: str, spent: Callable[[], float]) -> Generator[Progress, None, None]:
        """Let a family that knows the plant find its parameters, in its own way and time."""
        attempt = Attempt(Plan(family, 32, TAPS_TRIED[0], 0.0, seed=self.seed))
        model = new_model(family, self.spec, self.scaling, taps=attempt.plan.taps, seed=self.seed)
        model.fit(max(self.split.stretches, key=len))
        assert isinstance(model, Identifies)
        for _ in cast(Identifies, model).identify(self.split.stretches, known=False):
            yield Progress(spent(), family, self.held_out)
            if spent() >= 1.0:
                break
        self._judge(attempt, model)
        self._keep(attempt)
        yield Progress(spent(), family, self.held_out)

    def _begin(self, plan: Plan) -> Network:
        sizes = {"hidden_size": plan.hidden_size, "taps": plan.taps, "window": WINDOW_SAMPLES}
        model = new_model(plan.family, self.spec, self.scaling, seed=plan.seed, **sizes)
        assert isinstance(model, Network)
        model.begin_linear(self.split.stretches, averages=plan.averages)
        return model

    def _train(
        self, plan: Plan, spent: Callable[[], float], until: float
    ) -> Generator[Progress, None, Attempt]:
        """A course from new weights until so much of the budget is spent."""
        model, begun = self._begin(plan), spent()
        attempt, looks, split = Attempt(plan, max(until - begun, 1e-9)), 0, self.split
        course = Course(model, model.core.RATE_SHARE * plan.learning_rate)
        try:
            while model.core.RATE_SHARE:
                now = spent()
                share = min((now - begun) / attempt.span, 1.0)
                if share >= looks / VALIDATIONS_PER_PLAN or share >= 1.0:
                    looks += 1
                    if self._judge(attempt, cast(Network, course.average)):
                        attempt.reached = share * attempt.span
                    yield Progress(spent(), plan.name, min(attempt.error, self.held_out))
                    if share >= 1.0 or not math.isfinite(attempt.error):
                        break
                rows = self._random.choice(split.starts, BATCH_WINDOWS)[:, None]
                z = split.samples[torch.from_numpy(rows + np.arange(split.warm + split.length))]
                course.step(
                    self._loss(plan, model, z, self._warm_up(plan), share >= plan.free_run_from), share
                )
                yield Progress(now, plan.name, min(attempt.error, self.held_out))
        finally:  # also where the caller ends the fit here
            self._keep(attempt)
        return attempt

    def _warm_up(self, plan: Plan) -> int:
        """Samples that warm the hidden state."""
        warm, few = self.split.warm, min(plan.taps, self.split.warm)
        if self._random.random() < FULL_WARM_UP_SHARE:
            return warm
        return few + int((warm - few) * self._random.random() ** 3)

    # -- errors --------------------------------------------------------------------------------------

    def _loss(self, plan: Plan, model: Network, z: Tensor, warm: int, runs_free: bool) -> Tensor:
        """Of windows z (B, T, F): of the errors one step ahead, and where `runs_free` also of those in free
        run after the last `warm` of the samples that warm the state."""
        known, inputs = self.split.warm, self.inputs
        one_step = likelihood(one_step_squares(model, z[:, : known + 1]).mean(0))
        if not runs_free:
            return one_step
        state = model.initial_state(len(z))
        if warm > 1:
            _, state = model(z[:, known - warm : known - 1], state)
        run = model.free_run(z[:, known - 1], z[:, known:, :inputs], state)
        return plan.one_step_weight * one_step + self._free_run(run, z[:, known:, inputs:])

    def _judge(self, attempt: Attempt, model: Model) -> bool:
        """Whether a model is the best of an attempt so far, by its error in free run over the held-out
        windows; then it is kept there."""
        held, warm = self.split.held, self.split.warm
        with torch.no_grad():
            run = torch.from_numpy(np.asarray(model.free_runs(held.numpy(), warm), np.float32))
        mean = float(self._free_run(run, held[:, warm:, self.inputs :])) / len(self.spec.outputs)
        error = attempt.last = math.exp(mean) if math.isfinite(mean) else math.inf
        finite = all(bool(np.isfinite(a).all()) for a in model.tensors().values())
        if not (finite and error < attempt.error):
            return False
        attempt.error, attempt.model = error, copy.deepcopy(model)
        return True

    def judged(self, model: Model) -> Attempt:
        """Another model of the same signals, judged as every attempt: by its error in free run over the same
        held-out samples, and by whether it stays in the range of the recordings."""
        attempt = Attempt(Plan(model.family, 0, 0, 0.0))
        self._judge(attempt, model)
        attempt.runs_away = self._runs_away(model)
        return attempt

    def _free_run(self, run: Tensor, y: Tensor) -> Tensor:
        """`free_run_likelihood` of runs (B, T, P), in units of the outputs' spread."""
        scale = torch.from_numpy(self.scaling.scale[self.inputs :])
        return free_run_likelihood(((run - y) / scale).square().mean(0))

    def _keep(self, attempt: Attempt) -> None:
        """Keep an attempt if it is the best so far."""
        if attempt.model is None:
            return
        attempt.runs_away = self._runs_away(attempt.model)
        if self.best is None or attempt.rank < self.best.rank:
            self.best = attempt

    @torch.no_grad()
    def _runs_away(self, model: Model) -> bool:
        long = self.split.long
        run = model.free_runs(long.numpy(), self.split.warm)
        return bool(leaves_range(run, long[:, :, self.inputs :]).any())

    def checkpoint(self, number: int, parent: int | None = None) -> Checkpoint:
        """The best model so far, with how it was found.

        Raises:
            RecordingError: no model was found.
        """
        if self.best is None or self.best.model is None:
            raise RecordingError("no model was found: give a longer recording, or one that moves more")
        model, metrics = self.best.model, {"held_out_nrmse": self.held_out}
        if self.linear is not None:
            metrics["held_out_nrmse_linear"] = self.linear.error
        split = {"warm": self.split.warm, "length": self.split.length}
        return Checkpoint(
            number=number,
            parent=parent,
            family=model.family,
            sizes=model.sizes,
            spec=self.spec,
            tensors=model.tensors(),
            config={"fit": asdict(self.best.plan) | split},
            metrics=metrics,
        )
