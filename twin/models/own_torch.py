"""A torch module of the user's as the core of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn


class OwnCore(nn.Module):
    """A module that maps x (N, F) and a state (N, S) to increments (N, P) and the next state, over sequences.

    It is stepped sample by sample: what it does inside a step is its own affair.
    """

    LINEAR_START: ClassVar[bool] = False
    RATE_SHARE: ClassVar[float] = 1.0

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.net = module

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Over a sequence x (N, T, F) from a state (N, S): increments (N, T, P) and the state after it."""
        answers = []
        for sample in x.unbind(dim=1):
            increments, state = self.net(sample, state)
            answers.append(increments)
        return torch.stack(answers, dim=1), state

    @property
    def linear(self) -> bool:
        """Whether it is still as least squares made it."""
        return False

    def stepping(self) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The module itself."""
        step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = self.net
        return step

    def compiled(self, x: Tensor) -> bool:
        """Never."""
        return False
