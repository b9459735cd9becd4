"""Networks, and the linear model beside them: scaling, increments of y, the state as one tensor, training.

One final class for all families whose weights are found by gradients; what differs is its core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Final, NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from twin.errors import SpecError
from twin.families import Cell, Sizes, check_sizes, family_of, state_size, tensor_shapes
from twin.messages import Spec
from twin.models.arx import Arx
from twin.models.lesson import Lesson
from twin.models.linear import fit_linear
from twin.models.model import better_in_sum
from twin.models.own import known
from twin.models.own_torch import OwnCore
from twin.models.recurrent import Recurrent
from twin.models.ridge import ridge
from twin.models.scaling import Scaling
from twin.models.training import (
    COLD_SHARE,
    Course,
    free_run_likelihood,
    likelihood,
    one_step_squares,
    samples_of,
)
from twin.models.window_rnn import WindowRNN

FIRST_REFIT_SHARE: Final = 0.25
"""Part of a refit's steps that the first one takes, where least squares has done most of it: any model is
better than none."""
ONE_STEP_SHARE: Final = 0.5
"""Share of a course, its first, in which errors one step ahead alone count; then those in free run too."""
REFIT_RIDGE_SHARE: Final = 1e-6
"""Ridge penalty of a readout that moves, as a share of a unit variance."""
MAX_COLD_SAMPLES: Final = 50
"""Of a segment, its first, from which a readout does not learn, at most: as `COLD_SHARE`."""
MAX_FREE_RUN_RISE: Final = 0.5
"""Of the logarithm of the errors in free run, the outputs' together, up to which a course is gone on from."""
NEWEST_PROBED: Final = 8
"""Segments of the probe, its newest, by which the others are measured."""
FOREIGN_RATIO: Final = 3.0
"""An older segment on which a model errs so many times as much as on the newest is of another plant."""

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Core(Protocol):
    """What differs between networks, all in scaled numbers."""

    LINEAR_START: ClassVar[bool]
    """Whether it begins as the linear model that least squares finds (`twin.models.linear`)."""
    RATE_SHARE: ClassVar[float]
    """Of the learning rate that its steps take; 0 where least squares finds all of its weights."""

    @property
    def linear(self) -> bool:
        """Whether it is still as least squares made it."""

    def stepping(self) -> Step:
        """One sample x (N, F) and a state (N, S) to increments (N, P) and the state after it."""

    def compiled(self, x: Tensor) -> bool:
        """Whether sequences and free runs of such samples are one compiled call each."""


class Network(nn.Module):
    """ŷ(k+1) = y(k) + increment_scale * core(scaled sample k, state).

    A sample z(k) = [u(k), y(k)] holds F = U + P features in the signals' own units. The core of a family
    answers the increment rather than y, since at a short period y(k) is already most of y(k+1): a network
    that answered y would spend its weights on repeating it, and its rounding would drown the change.

    All that a model remembers is one tensor, the state (N, S): plain numbers that can be kept, copied,
    compared and saved. Zeros are the state of a model that has seen nothing.
    """

    HOLD_OUT_PERIODS: ClassVar[float] = 0.5
    PRESUMES_PLANT: ClassVar[bool] = False

    mean: Tensor
    scale: Tensor
    increment_scale: Tensor

    def __init__(self, family: str, sizes: Sizes, seed: int = 0, core: nn.Module | None = None) -> None:
        super().__init__()
        self.family = family
        self.sizes = sizes = check_sizes(family, sizes)
        self.state_size = state_size(family, sizes)
        self.n_inputs = sizes["inputs"]
        shapes = tensor_shapes(family, sizes)
        for name in ("mean", "scale", "increment_scale"):
            fill = torch.zeros if name == "mean" else torch.ones
            self.register_buffer(name, fill(shapes[name]))
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
            torch.manual_seed(seed)
            self.core: Any = core or _core(family, sizes)

    @property
    def scaling(self) -> Scaling:
        """The scaling inside the model, as copies."""
        return Scaling(
            *(a.detach().cpu().numpy().copy() for a in (self.mean, self.scale, self.increment_scale))
        )

    def begin(self, spec: Spec, scaling: Scaling) -> None:
        """Take the scaling of a plant's signals.

        Raises:
            SpecError: a scaling of other signals.
        """
        for buffer, values in (
            (self.mean, scaling.mean),
            (self.scale, scaling.scale),
            (self.increment_scale, scaling.increment_scale),
        ):
            if values.shape != buffer.shape:
                raise SpecError(f"a scaling of {len(values)} values for {len(buffer)} signals")
            buffer.copy_(torch.from_numpy(values))

    @property
    def resumes(self) -> bool:
        """Whether it began anywhere, so that more steps from where it stopped are better than a new start."""
        return not self.core.LINEAR_START

    def initial_state(self, rows: int) -> Tensor:
        """The state (N, S) of a model that has seen nothing."""
        return self.mean.new_zeros(rows, self.state_size)

    def forward(self, z: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Follow measured samples z (N, T, F), T > 0, from a state (N, S).

        Returns ŷ (N, T, P), where ŷ[:, k] predicts the y of the sample after z[:, k], and the state after
        all of them. In one call or sample by sample, the answers are the same.
        """
        if z.shape[1] == 1:
            y, state = self.stepping()(z[:, 0], state)
            return y[:, None], state
        dy, state = self.core((z - self.mean) / self.scale, state)
        return torch.addcmul(z[..., self.n_inputs :], dy, self.increment_scale), state

    def stepping(self) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The step as a function: sample z (N, F), state (N, S) to ŷ (N, P) of the next sample, new state.

        For whoever makes many: it looks the model's tensors up once, so it serves as long as they are only
        changed in place.
        """
        step = self.core.stepping()
        mean, scale, increment_scale, n_inputs = self.mean, self.scale, self.increment_scale, self.n_inputs

        def follow(z: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            dy, state = step((z - mean) / scale, state)
            return torch.addcmul(z[:, n_inputs:], dy, increment_scale), state

        return follow

    def free_run(self, z: Tensor, u: Tensor, state: Tensor) -> Tensor:
        """Simulate ahead: from one measured sample on, the model is fed its own predictions.

        `z` (N, F) is the sample of an instant k, which `state` (N, S) has not seen yet. `u` (N, T, U) holds
        the inputs of the instants k+1 to k+T. Returns y (N, T, P) of those same instants, so that y[:, j]
        stands beside u[:, j]:

            y[:, 0]   = ŷ(k+1)  from  z = [u(k), y(k)]
            y[:, j]   = ŷ(k+1+j)  from  [u[:, j-1], y[:, j-1]]

        The last input is therefore not used: it acts only after the last instant asked for.
        """
        x = (z - self.mean) / self.scale
        y = x[:, self.n_inputs :]  # scaled, like all in the loop: fewer operations a step
        mean, scale = self.mean[self.n_inputs :], self.scale[self.n_inputs :]
        gain = self.increment_scale / scale
        inputs = (u - self.mean[: self.n_inputs]) / self.scale[: self.n_inputs]
        if self.core.compiled(inputs):
            compiled: Tensor = self.core.free_run(x, inputs, gain, state) * scale + mean
            return compiled
        step, run = self.core.stepping(), []
        for following in inputs.unbind(dim=1):
            dy, state = step(x, state)
            y = torch.addcmul(y, dy, gain)
            run.append(y)
            x = torch.cat((following, y), dim=1)
        return torch.stack(run, dim=1) * scale + mean if run else u.new_zeros(len(z), 0, len(gain))

    def fit(self, z: npt.NDArray[Any]) -> None:
        """Start as the linear model of consecutive samples z (T, F), see `twin.models.linear`."""
        self.begin_linear([z])

    def begin_linear(self, stretches: Sequence[npt.NDArray[Any]], *, averages: bool = False) -> None:
        """The same of several stretches; with slow `averages` of the signals in some hidden units."""
        pairs = [self.scaling.pairs(z, len(self.increment_scale)) for z in stretches if len(z) > 1]
        fit_linear(self.core, pairs, averages=averages)

    def refit(self, lesson: Lesson) -> Iterator[float]:
        """A course of steps over segments of the history; yields the share done. Of the weights before,
        between and after, those stay that err least one step ahead on the history.

        A network that is still linear begins once more from least squares, as there are more data now. What
        changed in a plant is most of it linear in h and the newest samples: so after a change the readout is
        found from these alone, in no time and from little data, and the course begins there.
        """
        recent = lesson.recent() if lesson.changed else None
        if not self.core.RATE_SHARE:
            self.begin_linear(lesson.stretches() if recent is None else [recent])
            yield 1.0
            return
        if not len(lesson.starts()):
            return
        probe = samples_of(lesson.probe())
        probe = probe[_own(one_step_squares(self, probe).detach(), slice(-NEWEST_PROBED, None))]
        best = _Weights.of(self, probe, lesson.warm)
        if lesson.known and recent is not None and self.core.LINEAR_START:
            self._refit_readout(samples_of(recent[None]))
        elif lesson.known and self.core.linear:
            self.begin_linear(lesson.stretches())
        found = _Weights.of(self, probe, lesson.warm)
        best = found if found.better_than(best) else best
        quick = lesson.first and self.core.LINEAR_START
        steps = max(1, int(FIRST_REFIT_SHARE * lesson.steps)) if quick else lesson.steps
        course = Course(self, self.core.RATE_SHARE * lesson.rate)
        for step in range(steps):
            starts = lesson.starts()  # samples come meanwhile, and the oldest leave
            if not len(starts):
                break
            z, newest = lesson.segments(starts)
            share = (step + 1) / steps
            # where no compiled call does it, running free would take all the time
            runs_free = share > ONE_STEP_SHARE and self.core.compiled(probe)
            warm = lesson.warm if runs_free else z.shape[1]
            course.step(_loss(self, samples_of(z), newest, warm), share)
            yield share
        found = _Weights.of(cast(Network, course.average), probe, lesson.warm)
        self.load_state_dict((found if found.better_than(best) else best).tensors)

    @torch.no_grad()
    def _refit_readout(self, z: Tensor) -> None:
        """Move the readout to what segments z (N, T + 1, F) say, the hidden state left as it is.

        Least squares for the rest that the present weights leave, with a ridge: directions that hardly occur
        in these samples stay as they were.
        """
        x = (z[:, :-1] - self.mean) / self.scale
        y = z[:, :, self.n_inputs :]
        dy = (y[:, 1:] - y[:, :-1]) / self.increment_scale
        readout, cold = self.core.readout, min(int(COLD_SHARE * x.shape[1]), MAX_COLD_SAMPLES)
        seen = self.core.regressors(x)
        rest = (dy - readout(seen))[:, cold:].flatten(0, 1).double().numpy()
        a = seen[:, cold:].flatten(0, 1).double().numpy()
        moved = ridge(np.hstack((a, np.ones((len(a), 1)))), rest, REFIT_RIDGE_SHARE).T
        readout.weight += torch.from_numpy(moved[:, :-1]).float()
        readout.bias += torch.from_numpy(moved[:, -1]).float()

    def improves(self, one_step: float, free_run: float, swaps: bool) -> bool:
        """Better in sum, and neither one step ahead nor in free run clearly worse."""
        return better_in_sum(one_step, free_run)

    @torch.no_grad()
    def free_runs(self, z: npt.NDArray[Any], warm: int) -> npt.NDArray[Any]:
        """Of segments z (B, T, F): y (B, T - warm, P) in free run, after `warm` samples."""
        samples = torch.from_numpy(np.asarray(z, np.float32))
        state = self.initial_state(len(samples))
        if warm > 1:
            _, state = self(samples[:, : warm - 1], state)
        return self.free_run(samples[:, warm - 1], samples[:, warm:, : self.n_inputs], state).numpy()

    @classmethod
    def rehearse(cls, family: str, spec: Spec, sizes: Sizes) -> None:
        """Compile the passes through time, and import what an optimiser needs."""
        model = cls(family, sizes)
        torch.optim.Adam(model.parameters(), fused=True)
        y, _ = model(torch.zeros(1, 2, len(spec.features)), model.initial_state(1))
        y.sum().backward()

    def means(self) -> dict[str, tuple[float, float]]:
        """A network has no parameters that mean something."""
        return {}

    def tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """All weights and the scaling, as arrays of their own: what a checkpoint keeps."""
        return {name: tensor.cpu().numpy().copy() for name, tensor in self.state_dict().items()}

    def load(self, tensors: dict[str, npt.NDArray[np.float32]]) -> None:
        """Take the tensors of a checkpoint."""
        self.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in tensors.items()})


def _core(family: str, sizes: Sizes) -> nn.Module:
    cell, features, outputs = family_of(family).cell, sizes["inputs"] + sizes["outputs"], sizes["outputs"]
    match cell:
        case Cell.LINEAR:
            return Arx(features, outputs, sizes["taps"])
        case Cell.WINDOW:
            return WindowRNN(features, outputs, sizes["hidden_size"], sizes["layers"], sizes["window"])
        case Cell.GRU | Cell.LSTM | Cell.ELMAN:
            return Recurrent(cell, features, outputs, sizes["hidden_size"], sizes["layers"], sizes["taps"])
        case Cell.OWN:
            return OwnCore(known(family)(features, outputs))
    raise SpecError(f"a {family} has no network")


class _Weights(NamedTuple):
    """What a network has learned, and its errors on segments, as likelihoods."""

    tensors: dict[str, Tensor]
    one_step: float
    free_run: float

    @classmethod
    @torch.no_grad()
    def of(cls, model: Network, z: Tensor, warm: int) -> _Weights:
        """The present ones, copied."""
        tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        one_step = float(likelihood(one_step_squares(model, z[:, :warm]).mean(0)))
        return cls(tensors, one_step, float(_loss(model, z, len(z), warm)) - one_step)

    def better_than(self, other: _Weights) -> bool:
        """Whether the errors one step ahead are smaller, and those in free run not much larger. What is not
        finite is never better."""
        return self.one_step < other.one_step and self.free_run < other.free_run + MAX_FREE_RUN_RISE


def _own(squares: Tensor, newest: slice) -> Tensor:
    """Which of the segments (B,) are of the plant of the newest ones, by their mean squared errors (B, P)."""
    own = (squares <= FOREIGN_RATIO**2 * squares[newest].mean(0)).all(1)
    own[newest] = True
    return own


def _loss(model: Network, z: Tensor, newest: int, warm: int) -> Tensor:
    """What a refit lessens, on segments z (B, segment, F), of which the first so many are the newest: the
    errors one step ahead over the first `warm` samples, and those in free run over the rest, if any.

    Older segments on which the model errs `FOREIGN_RATIO` times as much as on the newest are of a plant that
    has changed since: they are left out, until it changes back.
    """
    inputs = model.n_inputs
    squares = one_step_squares(model, z[:, :warm])  # (B, P)
    kept = _own(squares.detach(), slice(newest))
    found = likelihood(squares[kept].mean(0))
    if warm == z.shape[1]:
        return found
    z = z[kept]
    _, state = model(z[:, : warm - 1], model.initial_state(len(z)))
    run = model.free_run(z[:, warm - 1], z[:, warm:, :inputs], state)
    errors = (run - z[:, warm:, inputs:]) / model.scale[inputs:]
    return found + free_run_likelihood(errors.square().mean(0))
