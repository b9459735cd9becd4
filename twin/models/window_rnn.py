"""The network of overlapping windows: each prediction reads the last L samples afresh."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn


class WindowRNN(nn.Module):
    """Scaled samples in, scaled increments of y out, through a window of L samples for each of them.

    An Elman network with ReLU runs over the window from a hidden state of ones, and one linear layer reads
    all its L hidden states side by side, (H * L) -> P. Nothing is carried between windows but the samples
    themselves, so a step costs O(L) and what is older than L samples is forgotten: the families that carry
    their hidden state do neither. It is here because it is how many people begin, and to compare with.

    The state (N, S) is a mark, 0 before the first sample and 1 after it, then the L - 1 scaled samples that
    the next one completes to a window, oldest first. Where there are fewer, the first sample is repeated,
    as if the plant had stood still before it.
    """

    LINEAR_START: ClassVar[bool] = True
    RATE_SHARE: ClassVar[float] = 0.07  # its readout sees what hardly varies: larger steps lose the start

    def __init__(self, features: int, outputs: int, hidden_size: int, layers: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.net = nn.RNN(features, hidden_size, layers, nonlinearity="relu", batch_first=True)
        self.readout = nn.Linear(hidden_size * window, outputs)
        nn.init.zeros_(self.readout.weight)  # as for the other families: a new model predicts that y stays
        nn.init.zeros_(self.readout.bias)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Over a sequence x (N, T, F) from a state (N, S): increments (N, T, P) and the state after it.

        All T windows go through the network as one batch of N * T.
        """
        rows, steps, features = x.shape
        begun = state[:, :1, None] > 0  # (N, 1, 1)
        before = state[:, 1:].reshape(rows, self.window - 1, features)
        samples = torch.cat((torch.where(begun, before, x[:, :1]), x), dim=1)  # (N, L - 1 + T, F)
        windows = samples.unfold(1, self.window, 1)  # (N, T, F, L)
        windows = windows.transpose(2, 3).reshape(rows * steps, self.window, features)
        ones = x.new_ones(self.net.num_layers, rows * steps, self.net.hidden_size)
        hidden, _ = self.net(windows, ones)  # (N * T, L, H)
        increments = self.readout(hidden.flatten(1)).view(rows, steps, -1)
        state = torch.cat((x.new_ones(rows, 1), samples[:, steps:].flatten(1)), dim=1)
        return increments, state

    @property
    def linear(self) -> bool:
        """Whether it is still as least squares made it."""
        units = self.readout.weight.view(-1, self.window, self.net.hidden_size)
        return not bool(units[:, :, self.net.input_size :].any())

    def stepping(self) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The step: one sample x (N, F) and a state (N, S) to increments (N, P) and the state after it.

        It runs a whole window all the same: this family has no cheaper way.
        """

        def step(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            increments, state = self(x[:, None], state)
            return increments[:, 0], state

        return step

    def compiled(self, x: Tensor) -> bool:
        """Never: all windows are one batch for torch."""
        return False

    def regressors(self, x: Tensor) -> Tensor:
        """What the readout sees of sequences x (N, T, F), from a state of zeros: (N, T, L H)."""
        rows, steps, features = x.shape
        samples = torch.cat((x[:, :1].expand(-1, self.window - 1, -1), x), dim=1)
        windows = samples.unfold(1, self.window, 1).transpose(2, 3).reshape(-1, self.window, features)
        hidden, _ = self.net(windows, x.new_ones(self.net.num_layers, len(windows), self.net.hidden_size))
        return hidden.reshape(rows, steps, -1)  # type: ignore[no-any-return]
