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

REFIT_STEPS: Final = 60
"""Optimiser steps of a refit of the correction."""
BATCH_SEGMENTS: Final = 32
"""Segments in the batch of one optimiser step."""
SEGMENT_SAMPLES: Final = 200
"""Samples of a training segment."""
COLD_SAMPLES: Final = 25
"""The first samples of a segment, whose errors do not count: the hidden state begins as zeros."""
LEARNING_RATE: Final = 3e-3
"""Of Adam."""
MAX_RESIDUAL_SIGMA: Final = 5.0
"""Standard deviations of the noise to which a residual is limited: a jump of the load cannot be predicted."""
HELD_OUT_SHARE: Final = 0.1
"""Share of the segments, the newest, on which the correction is validated."""
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
        if not self.correction.core.readout.weight.any():
            self._rescale()
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
        x, left = (torch.from_numpy(np.stack(part).astype(np.float32)) for part in zip(*pieces, strict=True))
        network = self.correction
        core = network.core
        x = (x - network.mean) / network.scale
        left = (left / network.increment_scale).clamp(-MAX_RESIDUAL_SIGMA, MAX_RESIDUAL_SIGMA)
        kept = len(x) - max(round(HELD_OUT_SHARE * len(x)), 1)
        random = np.random.default_rng(self._seed)
        core.train()  # its passes through time are compiled then
        if not core.readout.weight.any():
            taken = slice(max(kept - 50, 0), kept)
            fit_linear(core, list(zip(*(a[taken].double().numpy() for a in (x, left)), strict=True)))
        optimiser = torch.optim.Adam(core.parameters(), LEARNING_RATE)
        for step in range(REFIT_STEPS):
            chosen = torch.from_numpy(random.integers(0, kept, BATCH_SEGMENTS))
            loss = 0.5 * torch.log(self._left(x[chosen], left[chosen]) + 1e-10).sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(core.parameters(), 1.0)
            optimiser.step()
            yield (step + 1) / REFIT_STEPS
        with torch.no_grad():
            corrected = self._left(x[kept:], left[kept:])
            alone = left[kept:, COLD_SAMPLES:].square().mean((0, 1))
            if not float((corrected / alone).log().mean().exp()) < MAX_ERROR_RATIO:
                core.readout.weight.zero_()
                core.readout.bias.zero_()

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
        for start in range(0, len(left) - SEGMENT_SAMPLES + 1, SEGMENT_SAMPLES):
            yield answers[start : start + SEGMENT_SAMPLES], left[start : start + SEGMENT_SAMPLES]
