"""The linear model: the next outputs from the newest samples, and nothing hidden."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn


class Arx(nn.Module):
    """Scaled samples in, scaled increments of y out: Δy = D [x(k-n+1) ... x(k)] / n + d, n the taps.

    ARX: autoregressive with exogenous input (Ljung, System Identification, section 4.2). It is the baseline,
    fitted in closed form, and recursive where the twin adapts: then past innovations join the regressors,
    which makes it ARMAX. The recurrent families have the same linear part beside their hidden state; the
    division by n is explained there.

    The state (N, S) holds the n - 1 samples before the next one, oldest first.
    """

    LINEAR_START: ClassVar[bool] = True
    RATE_SHARE: ClassVar[float] = 0.0  # least squares finds all of it

    def __init__(self, features: int, outputs: int, taps: int) -> None:
        super().__init__()
        self.taps = taps
        self.readout = nn.Linear(taps * features, outputs)  # its weight is D
        nn.init.zeros_(self.readout.weight)  # a new model predicts that y stays
        nn.init.zeros_(self.readout.bias)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Over a sequence x (N, T, F) from a state (N, S): increments (N, T, P) and the state after it."""
        rows, steps, features = x.shape
        samples = torch.cat((state.view(rows, self.taps - 1, features), x), dim=1)  # (N, n - 1 + T, F)
        direct = samples.unfold(1, self.taps, 1).transpose(2, 3).reshape(rows, steps, -1)  # (N, T, n F)
        return self.readout(direct / self.taps), samples[:, steps:].flatten(1)

    @property
    def linear(self) -> bool:
        """Whether it is still as least squares made it."""
        return True

    def stepping(self) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The step: one sample x (N, F) and a state (N, S) to increments (N, P) and the state after it."""
        weight, bias, taps = self.readout.weight.t(), self.readout.bias, self.taps

        def step(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            direct = torch.cat((state, x), dim=1)  # (N, n F)
            return torch.addmm(bias, direct / taps, weight), direct[:, x.shape[1] :]

        return step

    def compiled(self, x: Tensor) -> bool:
        """Never: torch runs a linear model's sequence at once."""
        return False
