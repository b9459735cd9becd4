"""The linear model: the next outputs from the newest samples, and nothing hidden."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
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

    def stepping(self) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The step: one sample x (N, F) and a state (N, S) to increments (N, P) and the state after it."""
        weight, bias, taps = self.readout.weight.t(), self.readout.bias, self.taps

        def step(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            direct = torch.cat((state, x), dim=1)  # (N, n F)
            return torch.addmm(bias, direct / taps, weight), direct[:, x.shape[1] :]

        return step

    @torch.no_grad()
    def fit_readout(self, x: npt.NDArray[Any], dy: npt.NDArray[Any]) -> None:
        """Set D and d by least squares from x (T, F) to dy (T, P)."""
        direct, offset = least_squares(x, dy, self.taps)
        self.readout.weight.copy_(torch.from_numpy(direct))
        self.readout.bias.copy_(torch.from_numpy(offset))


def least_squares(
    x: npt.NDArray[Any], dy: npt.NDArray[Any], taps: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """D (P, n F) and d (P,) by ridge least squares from x (T, F) to dy (T, P).

    The ridge is small (1e-6 of a unit variance): it only chooses among equals where a feature does not vary
    or two are the same.
    """
    direct = np.lib.stride_tricks.sliding_window_view(x, taps, axis=0)  # (T - n + 1, F, n)
    a = np.hstack((direct.transpose(0, 2, 1).reshape(len(direct), -1), np.ones((len(direct), 1))))
    ridge = 1e-6 * len(a) * np.eye(a.shape[1])
    ridge[-1, -1] = 0.0  # the offset d is not shrunk
    solution = np.linalg.lstsq(a.T @ a + ridge, a.T @ dy[taps - 1 :], rcond=None)[0]  # (n F + 1, P)
    return taps * solution[:-1].T, solution[-1]
