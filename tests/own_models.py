"""Two models of a user's own, as docs/own-model.md shows them: one in torch, one in NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Array = npt.NDArray[Any]


class Leaky(nn.Module):
    """A layer of leaky units, each with a time constant of its own, and a linear readout of them and of x."""

    def __init__(self, features: int, outputs: int, units: int = 8) -> None:
        super().__init__()
        self.state_size = units
        self.enter = nn.Linear(features, units)
        self.rate = nn.Parameter(torch.linspace(-3.0, 3.0, units))
        self.readout = nn.Linear(units + features, outputs)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Samples x (N, F) and a state (N, S) to increments (N, P) and the next state."""
        keep = torch.sigmoid(self.rate)
        state = keep * state + (1 - keep) * torch.tanh(self.enter(x))
        return self.readout(torch.cat((state, x), dim=1)), state


class Smoothed:
    """Least squares from a sample and its slow average, which is the state."""

    def __init__(self, features: int, outputs: int) -> None:
        self.state_size = features
        self.weight = np.zeros((2 * features + 1, outputs), np.float32)

    def step(self, x: Array, state: Array) -> tuple[Array, Array]:
        """Samples x (N, F) and a state (N, S) to increments (N, P) and the next state."""
        state = 0.9 * state + 0.1 * x
        return np.hstack((x, state, np.ones((len(x), 1)))) @ self.weight, state

    def fit(self, x: list[Array], dy: list[Array]) -> None:
        """Learn from stretches of samples (T, F) and of the increments after each (T, P)."""
        rows = []
        for stretch in x:
            state = np.zeros((1, stretch.shape[1]))
            for sample in stretch:
                state = 0.9 * state + 0.1 * sample
                rows.append(np.hstack((sample, state[0], 1.0)))
        a, b = np.array(rows), np.concatenate(dy)
        ridge = 1e-6 * len(a) * np.eye(a.shape[1])
        self.weight = np.linalg.solve(a.T @ a + ridge, a.T @ b).astype(np.float32)

    def tensors(self) -> dict[str, Array]:
        """What it has learned."""
        return {"weight": self.weight}

    def load(self, tensors: dict[str, Array]) -> None:
        """Take it back."""
        self.weight = tensors["weight"]
