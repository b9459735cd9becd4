"""A motor's equations, and a GRU for what they leave unsaid.

    ŷ(k+1) = ŷ of the physics + increment_scale * core(v, innovations and ŷ of the physics, all scaled)

The physics follows the samples as if it were alone, and the correction only reads what it does: so the
parameters keep their meaning, and a correction that knows nothing does no harm. It begins as zero, and stays
zero where it does not help on samples that it was not trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from twin.messages import Spec
from twin.models import FILTER, Sizes
from twin.models.model import Model
from twin.models.physics import Physics
from twin.models.recurrent import Recurrent
from twin.models.scaling import Scaling

STEPS: Final = 60
"""Optimiser steps of a refit."""
BATCH: Final = 32
SEGMENT: Final = 200
"""Samples in a segment of training."""
SETTLING: Final = 25
"""Of which so many, the first, do not count: the hidden state is still cold."""
RATE: Final = 3e-3
CLIPPED: Final = 5.0
"""Standard deviations of the noise to which a residual is cut: a jump of the load cannot be foreseen."""
TAIL: Final = 0.1
"""Share of the samples, the newest, on which the correction must help."""
HELPS: Final = 0.999
"""So much of the physics' mean square it may leave at most."""

Array = npt.NDArray[Any]


class Hybrid(Model):
    """Physics, and its correction. The state (N, S) is the filter's, then the network's."""

    core: Recurrent

    def __init__(self, sizes: Sizes, seed: int = 0) -> None:
        nn.Module.__init__(self)
        self._measure("hybrid", sizes)
        outputs = sizes["outputs"]
        self.physics = Physics({"inputs": sizes["inputs"], "outputs": outputs})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            features = len(self.mean)
            self.core = Recurrent(
                "gru", features, outputs, sizes["hidden_size"], sizes["layers"], sizes["taps"]
            )
        self._seed = seed

    @property
    def scaling(self) -> Scaling:
        """That of the plant's signals."""
        return self.physics.scaling

    def begin(self, spec: Spec, scaling: Scaling) -> None:
        """As `Physics.begin`; the correction is zero."""
        self.physics.begin(spec, scaling)
        self._rescale()

    def _rescale(self) -> None:
        """Scale what the correction sees: the innovations by the noise, which is also the size of its
        answers."""
        physics = self.physics
        order = physics.clock[1:].long()
        noise = torch.empty(2)
        noise[order] = physics.noise[:2]
        self.mean.copy_(torch.cat((physics.mean[:1], torch.zeros(2), physics.mean[1:])))
        self.scale.copy_(torch.cat((physics.scale[:1], noise, physics.scale[1:])))
        self.increment_scale.copy_(noise)

    def physical(self) -> dict[str, tuple[float, float]]:
        """The physics' parameters."""
        return self.physics.physical()

    def fit_readout(self, z: Array) -> None:
        """As `Physics.fit_readout`."""
        self.physics.fit_readout(z)
        self._rescale()

    def forward(self, z: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """As `Model.forward`; a gradient reaches the correction's weights, not the physics."""
        motors = self.physics.motors(len(z), state[:, :FILTER])
        x = self._tensor(motors.follow(z.cpu().numpy()))
        dy, after = self.core((x - self.mean) / self.scale, state[:, FILTER:])
        y = torch.addcmul(x[..., 3:], dy, self.increment_scale)
        return y, torch.cat((self._tensor(motors.state), after), dim=1)

    def stepping(self) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """As `Model.stepping`."""
        step, motors = self.core.stepping(), self.physics.motors

        def follow(z: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            filters = motors(len(z), state[:, :FILTER])
            x = self._tensor(filters.follow(z.cpu().numpy()[:, None]))[:, 0]
            dy, after = step((x - self.mean) / self.scale, state[:, FILTER:])
            y = torch.addcmul(x[:, 3:], dy, self.increment_scale)
            return y, torch.cat((self._tensor(filters.state), after), dim=1)

        return follow

    def free_run(self, z: Tensor, u: Tensor, state: Tensor) -> Tensor:
        """As `Model.free_run`: the physics takes the corrected answers for measured."""
        step, run = self.stepping(), []
        for following in u.unbind(dim=1):
            y, state = step(z, state)
            run.append(y)
            z = torch.cat((following, y), dim=1)
        return torch.stack(run, dim=1) if run else u.new_zeros(len(z), 0, 2)

    def refit(self, stretches: Sequence[Array], known: bool) -> Iterator[float]:
        """As `Physics.refit`, then the correction of what it leaves; yields the share done."""
        for share in self.physics.refit(stretches, known):
            yield 0.5 * share
        if not self.core.readout.weight.any():
            self._rescale()
        for share in self._correct(stretches):
            yield 0.5 + 0.5 * share

    def _correct(self, stretches: Sequence[Array]) -> Iterator[float]:
        pieces = [piece for z in stretches for piece in self._segments(z)]
        if len(pieces) < 10:
            return
        x, left = (torch.from_numpy(np.stack(part).astype(np.float32)) for part in zip(*pieces, strict=True))
        x = (x - self.mean) / self.scale
        left = (left / self.increment_scale).clamp(-CLIPPED, CLIPPED)
        kept = len(x) - max(round(TAIL * len(x)), 1)
        random = np.random.default_rng(self._seed)
        self.core.train()  # its passes through time are compiled then
        if not self.core.readout.weight.any():
            taken = slice(max(kept - 50, 0), kept)
            self.core.fit_readout(*(a[taken].flatten(0, 1).numpy().astype(np.float64) for a in (x, left)))
        optimiser = torch.optim.Adam(self.core.parameters(), RATE)
        for step in range(STEPS):
            chosen = torch.from_numpy(random.integers(0, kept, BATCH))
            loss = 0.5 * torch.log(self._left(x[chosen], left[chosen]) + 1e-10).sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.core.parameters(), 1.0)
            optimiser.step()
            yield (step + 1) / STEPS
        with torch.no_grad():
            corrected = self._left(x[kept:], left[kept:])
            alone = left[kept:, SETTLING:].square().mean((0, 1))
            if not float((corrected / alone).log().mean().exp()) < HELPS:
                self.core.readout.weight.zero_()
                self.core.readout.bias.zero_()

    def _left(self, x: Tensor, left: Tensor) -> Tensor:
        """Mean squares (P,) of what the correction leaves of the physics' residuals."""
        dy, _ = self.core(x, x.new_zeros(len(x), self.state_size - FILTER))
        missed: Tensor = (dy - left)[:, SETTLING:]
        return missed.square().mean((0, 1))

    def _segments(self, z: Array) -> Iterator[tuple[Array, Array]]:
        """Pieces of a stretch z (T, 3): what the correction sees, and what the physics then misses."""
        answers = self.physics.motors(1).follow(z[None])[0]
        left = z[1:, 1:] - answers[:-1, 3:]
        for start in range(0, len(left) - SEGMENT + 1, SEGMENT):
            yield answers[start : start + SEGMENT], left[start : start + SEGMENT]

    def _tensor(self, a: Array) -> Tensor:
        return torch.from_numpy(np.array(a, np.float32)).to(self.mean.device)
