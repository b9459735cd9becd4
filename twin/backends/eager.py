"""Steps by torch, operation by operation, on the CPU: the reference that other backends are held to."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from twin.checkpoint import Checkpoint
from twin.errors import SpecError
from twin.models.model import open_model

_PORTION = 1_024
"""Samples that `warm` hands to torch at once, so that a long recording does not become one huge batch."""


class Eager:
    """The `Predictor` on torch. The number of torch's threads is the process's to choose."""

    def __init__(self, checkpoint: Checkpoint, rows: int) -> None:
        if rows < 1:
            raise SpecError(f"{rows} rows: a predictor has at least one")
        self.rows = rows
        self.number = checkpoint.number
        self._model = open_model(checkpoint).requires_grad_(False)
        self._step = self._model.stepping()
        self._features = len(checkpoint.spec.features)
        self._inputs = len(checkpoint.spec.inputs)
        # the sample (N, F), one memory seen by both: NumPy writes into it, torch reads
        self._sample = np.zeros((rows, self._features), np.float32)
        self._z = torch.from_numpy(self._sample)
        self.reset()

    @property
    def state(self) -> npt.NDArray[np.float32]:
        """All that it remembers, (N, S), as a copy."""
        return self._state.numpy().copy()

    @state.setter
    def state(self, state: npt.NDArray[np.float32]) -> None:
        self._check("state", state, (self.rows, self._model.state_size))
        self._state = torch.from_numpy(np.array(state, np.float32))

    def reset(self) -> None:
        """Forget all samples."""
        self._state = self._model.initial_state(self.rows)

    def warm(self, z: npt.NDArray[Any]) -> None:
        """Follow samples z (N, T, F) without answering."""
        self._check("z", z, (self.rows, z.shape[1] if z.ndim == 3 else -1, self._features))
        with torch.inference_mode():
            for portion in torch.split(torch.from_numpy(np.array(z, np.float32)), _PORTION, dim=1):
                if portion.shape[1]:
                    _, self._state = self._model(portion, self._state)

    def step(self, z: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Follow one sample z (N, F), and answer the y (N, P) expected of the next one."""
        if z.shape != self._sample.shape:
            self._check("z", z, self._sample.shape)
        self._sample[...] = z
        with torch.inference_mode():
            y, self._state = self._step(self._z, self._state)
        return y.numpy()

    def free_run(self, z: npt.NDArray[Any], u: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Simulate from z (N, F) with inputs u (N, T, U): y (N, T, P) at the instants of u."""
        self._check("z", z, (self.rows, self._features))
        self._check("u", u, (self.rows, u.shape[1] if u.ndim == 3 else -1, self._inputs))
        with torch.inference_mode():
            start, inputs = (torch.from_numpy(np.array(a, np.float32)) for a in (z, u))
            return self._model.free_run(start, inputs, self._state).numpy()

    def _check(self, name: str, a: npt.NDArray[Any], shape: tuple[int, ...]) -> None:
        if a.shape != shape:
            raise SpecError(f"{name} has the shape {a.shape}, this predictor takes {shape}")
