"""A motor's equations, and a GRU that corrects what they predict.

    ŷ(k+1) = ŷ of the physics + increment_scale * core(v, innovations and ŷ of the physics, all scaled)

The physics follows the samples as if it were alone, and the correction only reads its results. So the
parameters keep their meaning. The correction begins as zero, and is set back to zero where it does not reduce
the error on samples that it was not trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from twin.families import MOTOR, NETWORK, Sizes, check_sizes, divided, motor_sizes, network_sizes
from twin.kernels.physics import Motors
from twin.messages import Spec
from twin.models.lesson import Lesson
from twin.models.linear import fit_linear
from twin.models.network import Network
from twin.models.physics import Physics
from twin.models.scaling import Scaling

REFIT_STEPS: Final = 90
"""Optimiser steps of a refit of the correction."""
DRIFTING_EVERY: Final = 15
"""Of these, after so many and again, free runs of the model as it is by then are added to what it learns
from."""
DRIFTING_SEGMENTS: Final = 32
"""Segments added each time; half a batch is of these."""
DRIFTING_SAMPLES: Final = 100
"""The last samples of each, which run free."""
BATCH_SEGMENTS: Final = 32
"""Segments in the batch of one optimiser step."""
SEGMENT_SAMPLES: Final = 200
"""Samples of a training segment."""
COLD_SAMPLES: Final = 25
"""The first samples of a segment, whose errors do not count: the hidden state begins as zeros."""
LEARNING_RATE: Final = 3e-3
"""Of Adam."""
MAX_RESIDUAL_SIGMA: Final = 50.0
"""Standard deviations of the noise to which a residual is limited: no single outlier decides. With 5 a lag or
a lost voltage, which show most after each step of the voltage, were not learned (docs/learning.md)."""
HELD_OUT_SHARE: Final = 0.1
"""Share of the segments, the newest, on which the correction is validated."""
DRIFTING_WEIGHT: Final = 0.25
"""Of their loss, beside 0.5 of the errors one step ahead."""
LONG_RUNS: Final = 32
"""Free runs over the history by which a correction is seen to stay within bounds."""
LONG_SAMPLES: Final = 1_000
"""Samples of each."""
WARM_SAMPLES: Final = 100
"""Samples before each, which are measured."""
MAX_LONG_RATIO: Final = 4.0
"""Mean squared error of these over that of the motor alone: with more, a correction runs away."""
WEAKENED: Final = 0.8
"""What is left each time of a correction that does not."""
MAX_WEAKENED: Final = 4
"""Times, before nothing is left of it."""
MAX_ERROR_RATIO: Final = 0.999
"""Mean squared error with the correction over that without, on held-out segments; above it, it becomes
zero."""

Array = npt.NDArray[Any]


class Hybrid:
    """A motor, and the network that corrects it. The state (N, S) is the filter's, then the network's."""

    HOLD_OUT_PERIODS: ClassVar[float] = Physics.HOLD_OUT_PERIODS
    PRESUMES_PLANT: ClassVar[bool] = True
    resumes: ClassVar[bool] = False

    def __init__(self, family: str, sizes: Sizes, seed: int = 0) -> None:
        self.family = family
        self.sizes = sizes = check_sizes(family, sizes)
        self.motor = Physics(MOTOR, motor_sizes(sizes))
        self.correction = Network(NETWORK, network_sizes(sizes), seed)
        self._seed = seed

    @property
    def scaling(self) -> Scaling:
        """That of the plant's signals."""
        return self.motor.scaling

    def begin(self, spec: Spec, scaling: Scaling) -> None:
        """As `Physics.begin`; the correction is zero."""
        self.motor.begin(spec, scaling)
        self._rescale()

    def _rescale(self) -> None:
        """Scale what the correction sees: the innovations by the noise, which is also the size of its
        answers."""
        signals, order = self.motor.scaling, list(self.motor.clock[1:])
        noise = np.empty(2, np.float32)
        noise[order] = self.motor.motor.noise[:2]
        zeros = np.zeros(2, np.float32)
        mean, scale = (
            np.concatenate((a[:1], between, a[1:]))
            for a, between in ((signals.mean, zeros), (signals.scale, noise))
        )
        for buffer, values in (
            (self.correction.mean, mean),
            (self.correction.scale, scale),
            (self.correction.increment_scale, noise),
        ):
            buffer.copy_(torch.from_numpy(values))

    def improves(self, one_step: float, free_run: float, swaps: bool) -> bool:
        """As `Physics.improves`."""
        return self.motor.improves(one_step, free_run, swaps)

    def means(self) -> dict[str, tuple[float, float]]:
        """The motor's parameters."""
        return self.motor.means()

    def tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """The network's, and the motor's under its name."""
        motor = {f"{MOTOR}.{name}": a for name, a in self.motor.tensors().items()}
        return {**self.correction.tensors(), **motor}

    def load(self, tensors: dict[str, npt.NDArray[np.float32]]) -> None:
        """Take the tensors of a checkpoint."""
        motor, network = divided(tensors)
        self.motor.load(motor)
        self.correction.load(network)

    def fit(self, z: Array) -> None:
        """As `Physics.fit`."""
        self.motor.fit(z)
        self._rescale()

    def refit(self, lesson: Lesson) -> Iterator[float]:
        """The motor anew, then the correction of what it leaves; yields the share done."""
        yield from self.identify(lesson.stretches(), lesson.known)

    def identify(self, stretches: Sequence[Array], known: bool) -> Iterator[float]:
        """As `Physics.identify`, then the correction of what it leaves; yields the share done."""
        for share in self.motor.identify(stretches, known):
            yield 0.5 * share
        for share in self._correct(stretches):
            yield 0.5 + 0.5 * share

    @torch.no_grad()
    def free_runs(self, z: Array, warm: int) -> Array:
        """As `Physics.free_runs`; the motor takes the corrected answers for measured."""
        motors, network = Motors(self.motor.tensors(), len(z)), self.correction
        step, state = network.stepping(), network.initial_state(len(z))
        samples, run = np.asarray(z, np.float32).copy(), []
        for k in range(z.shape[1] - 1):
            answer = motors.follow(samples[:, k : k + 1])[:, 0]
            y, state = step(torch.from_numpy(answer), state)
            if k >= warm - 1:
                samples[:, k + 1, 1:] = y.numpy()
                run.append(y.numpy())
        return np.stack(run, axis=1)

    @classmethod
    def rehearse(cls, family: str, spec: Spec, sizes: Sizes) -> None:
        """What both its parts rehearse."""
        Physics.rehearse(MOTOR, spec, motor_sizes(sizes))
        innovations = tuple(f"innovation.{i}" for i in range(len(spec.outputs)))
        wider = Spec(inputs=(*spec.inputs, *innovations), outputs=spec.outputs, dt=spec.dt)
        Network.rehearse(NETWORK, wider, network_sizes(sizes))

    def _correct(self, stretches: Sequence[Array]) -> Iterator[float]:
        pieces = [piece for z in stretches for piece in self._segments(z)]
        if len(pieces) < 10:
            return
        measured = [z[at : at + SEGMENT_SAMPLES + 1] for z in stretches for at in _starts(len(z))]
        seen, missed = (np.stack(part) for part in zip(*pieces, strict=True))
        core, kept = self.correction.core, len(pieces) - max(round(HELD_OUT_SHARE * len(pieces)), 1)
        random = np.random.default_rng(self._seed)
        core.train()  # its passes through time are compiled then
        x, left = self._scaled(seen, missed)
        before, tensors = self._share(x[kept:], left[kept:]), self.correction.tensors()
        self._rescale()
        x, left = self._scaled(seen, missed)
        taken = slice(max(kept - 50, 0), kept)
        fit_linear(core, list(zip(*(a[taken].double().numpy() for a in (x, left)), strict=True)))
        if before < self._share(x[kept:], left[kept:]):  # else it was learned for another motor
            self.correction.load(tensors)
            x, left = self._scaled(seen, missed)
        optimiser = torch.optim.Adam(core.parameters(), LEARNING_RATE)
        drifted: list[tuple[Tensor, Tensor]] = []
        for step in range(REFIT_STEPS):
            if step and step % DRIFTING_EVERY == 0:
                some = [measured[k] for k in random.integers(0, kept, DRIFTING_SEGMENTS)]
                drifted.append(self._scaled(*self._drift(np.stack(some))))
            chosen = torch.from_numpy(random.integers(0, kept, BATCH_SEGMENTS // (2 if drifted else 1)))
            loss = 0.5 * torch.log(self._left(x[chosen], left[chosen]) + 1e-10).sum()
            if drifted:
                pool = [torch.cat(part) for part in zip(*drifted, strict=True)]
                chosen = torch.from_numpy(random.integers(0, len(pool[0]), BATCH_SEGMENTS // 2))
                ahead = self._left(pool[0][chosen], pool[1][chosen])
                loss = loss + DRIFTING_WEIGHT * torch.log(ahead + 1e-10).sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(core.parameters(), 1.0)
            optimiser.step()
            yield (step + 1) / REFIT_STEPS
        self._tame(stretches)
        if not self._share(x[kept:], left[kept:]) < MAX_ERROR_RATIO:
            self._weaken(0.0)

    def _tame(self, stretches: Sequence[Array]) -> None:
        """Weaken a correction with which long free runs go far astray: there it feeds on itself."""
        long = WARM_SAMPLES + LONG_SAMPLES
        pieces = [z[at : at + long] for z in stretches for at in _starts(len(z), long)]
        if not pieces:
            return
        z = np.stack([pieces[k] for k in np.linspace(0, len(pieces) - 1, LONG_RUNS).astype(int)])
        alone = self._missed(z, self.motor.free_runs(z, WARM_SAMPLES))
        self.correction.core.eval()
        for _ in range(MAX_WEAKENED):
            if not (self._missed(z, self.free_runs(z, WARM_SAMPLES)) > MAX_LONG_RATIO * alone).any():
                return
            self._weaken(WEAKENED)
        self._weaken(0.0)

    @staticmethod
    def _missed(z: Array, run: Array) -> Array:
        """Mean squares (P,) of free runs of segments z; infinite where one ran away."""
        found = np.square(run.astype(np.float64) - z[:, WARM_SAMPLES:, 1:]).mean((0, 1))
        return np.where(np.isfinite(found), found, np.inf)

    @torch.no_grad()
    def _weaken(self, share: float) -> None:
        """Leave so much of the correction."""
        self.correction.core.readout.weight.mul_(share)
        self.correction.core.readout.bias.mul_(share)

    def _scaled(self, x: Array, left: Array) -> tuple[Tensor, Tensor]:
        """Pieces (B, T, F) and (B, T, P) as the core sees them, outliers limited."""
        network = self.correction
        inputs, missed = (torch.from_numpy(part.astype(np.float32)) for part in (x, left))
        limited = (missed / network.increment_scale).clamp(-MAX_RESIDUAL_SIGMA, MAX_RESIDUAL_SIGMA)
        return (inputs - network.mean) / network.scale, limited

    @torch.no_grad()
    def _drift(self, z: Array) -> tuple[Array, Array]:
        """Of segments z (B, T + 1, 3) whose last samples run free: what the correction sees, (B, T, 5), and
        what the physics then misses of the truth, (B, T, 2), which would lead back to it.

        A model that is trained one step ahead has not seen where its own errors lead; so it is shown
        (A. Venkatraman, M. Hebert, J. A. Bagnell, "Improving multi-step prediction of learned time series
        models", AAAI 2015: data as demonstrator). The motor need not be differentiated for that.
        """
        self.correction.core.eval()
        motors, network = Motors(self.motor.tensors(), len(z)), self.correction
        step, state = network.stepping(), network.initial_state(len(z))
        samples, seen = np.asarray(z, np.float32).copy(), []
        free = z.shape[1] - 1 - DRIFTING_SAMPLES
        most = 1.5 * np.abs(samples[:, :, 1:]).max((0, 1))
        for k in range(z.shape[1] - 1):
            answer = motors.follow(samples[:, k : k + 1])[:, 0]
            seen.append(answer)
            y, state = step(torch.from_numpy(answer), state)
            if k >= free:
                samples[:, k + 1, 1:] = np.clip(np.nan_to_num(y.numpy()), -most, most)
        self.correction.core.train()
        x = np.stack(seen, axis=1)
        return x, z[:, 1:, 1:] - x[:, :, 3:]

    @torch.no_grad()
    def _share(self, x: Tensor, left: Tensor) -> float:
        """Mean squared error with the correction over that without, on pieces that it did not learn from."""
        alone = left[:, COLD_SAMPLES:].square().mean((0, 1))
        return float((self._left(x, left) / alone).log().mean().exp())

    def _left(self, x: Tensor, left: Tensor) -> Tensor:
        """Mean squares (P,) of what the correction leaves of the motor's residuals."""
        network = self.correction
        dy, _ = network.core(x, network.initial_state(len(x)))
        missed: Tensor = (dy - left)[:, COLD_SAMPLES:]
        return missed.square().mean((0, 1))

    def _segments(self, z: Array) -> Iterator[tuple[Array, Array]]:
        """Pieces of a stretch z (T, 3): what the correction sees, and what the physics then misses."""
        answers = self.motor.follow(z[None])[0]
        left = z[1:, 1:] - answers[:-1, 3:]
        for start in _starts(len(z)):
            yield answers[start : start + SEGMENT_SAMPLES], left[start : start + SEGMENT_SAMPLES]


def _starts(samples: int, length: int = SEGMENT_SAMPLES) -> range:
    """Where segments begin in a stretch of so many samples, each with one sample more behind it."""
    return range(0, samples - length, length)
