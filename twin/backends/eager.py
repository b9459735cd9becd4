"""Steps by torch, one operation after the other, on the CPU or a CUDA device: what others are held to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twin.backends import exported
from twin.checkpoint import Checkpoint
from twin.families import Cell, family_of
from twin.models.network import Network, Step
from twin.models.opening import open_model
from twin.predictor import Predictor, check_shape

_PORTION = 1_024
"""Samples that `warm` hands to torch at once, so that a long recording does not become one huge batch."""


def forbid_tf32() -> None:
    """Let CUDA multiply float32 as float32, in the whole process.

    Left to themselves, cuDNN's recurrent layers round to tf32, which is three digits short of what models are
    compared with.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


class Eager:
    """The `Predictor` on torch. The number of torch's threads is the process's to choose.

    On a CUDA device, sample and answer pass through pinned memory, which the device reads and writes by
    itself; each step waits for its answer.
    """

    quick: ClassVar[bool] = False

    def __init__(self, checkpoint: Checkpoint, rows: int, device: str = "cpu") -> None:
        self.rows = rows
        self.adapting = False  # without effect
        self.number = checkpoint.number
        self._checkpoint, self._device = checkpoint, device
        if on_device := device != "cpu":
            forbid_tf32()
        model = open_model(checkpoint)
        assert isinstance(model, Network)
        self._model = model.eval().requires_grad_(False).to(device)
        self._step = self._model.stepping()
        self._exported: Step | None = None  # of the user's own class only: the same step as machine code
        if rows == 1 and not on_device and family_of(checkpoint.family).cell is Cell.OWN:
            self._exported = exported.open_step(self._model)
        # the sample (N, F), one memory seen by both: NumPy writes into it, torch reads
        self._host = torch.zeros(rows, len(checkpoint.spec.features), pin_memory=on_device)
        self._read: npt.NDArray[np.float32] = self._host.numpy()
        self.sample = self._read
        self._z = self._host.to(device)  # on the CPU the same tensor
        self._answer = torch.zeros(rows, len(checkpoint.spec.outputs), pin_memory=on_device)
        self.y: npt.NDArray[np.float32] = self._answer.numpy()
        self.reset()

    def share(self, sample: npt.NDArray[np.float32]) -> None:
        """From now on `sample` is this memory (N, F); what is there is copied in a step."""
        self.sample = sample

    @property
    def parameters(self) -> Mapping[str, tuple[float, float]]:
        """A network has none that mean something."""
        return {}

    @property
    def state(self) -> npt.NDArray[np.float32]:
        """All that it remembers, (N, S), as a copy."""
        return self._state.cpu().numpy().copy()

    @state.setter
    def state(self, state: npt.NDArray[np.float32]) -> None:
        check_shape("state", state, (self.rows, self._model.state_size))
        self._state = self._tensor(state)

    def reset(self, *, learned: bool = True) -> None:
        """Forget all samples."""
        self._state = self._model.initial_state(self.rows)

    def warm(self, z: npt.NDArray[Any]) -> None:
        """Follow samples z (N, T, F) without answering."""
        check_shape("z", z, (self.rows, z.shape[1] if z.ndim == 3 else -1, self.sample.shape[1]))
        with torch.inference_mode():
            for start in range(0, z.shape[1], _PORTION):
                _, state = self._model(self._tensor(z[:, start : start + _PORTION]), self._state)
                self._state = state.contiguous()  # as a compiled step takes it

    def step(self, z: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Follow one sample z (N, F), and answer the y (N, P) expected of the next one."""
        if z is not self._read:
            check_shape("z", z, self._read.shape)
            self._read[...] = z
        if self._exported is not None:
            y, self._state = self._exported(self._z, self._state)
            self._answer.copy_(y)
            return self.y
        with torch.inference_mode():
            if self._z is not self._host:
                self._z.copy_(self._host, non_blocking=True)
            y, self._state = self._step(self._z, self._state)
            self._answer.copy_(y, non_blocking=True)
        if self._z is not self._host:
            torch.cuda.current_stream().synchronize()
        return self.y

    def free_run(self, z: npt.NDArray[Any], u: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Simulate from z (N, F) with inputs u (N, T, U): y (N, T, P) at the instants of u."""
        inputs = len(self._checkpoint.spec.inputs)
        check_shape("z", z, self.sample.shape)
        check_shape("u", u, (self.rows, u.shape[1] if u.ndim == 3 else -1, inputs))
        with torch.inference_mode():
            return self._model.free_run(self._tensor(z), self._tensor(u), self._state).cpu().numpy()

    def fork(self, rows: int) -> Eager:
        """Another one for N rows, each in the state of the first row of this one."""
        other = Eager(self._checkpoint, rows, self._device)
        other.take_over(self)
        return other

    def take_over(self, other: Predictor) -> None:
        """Go on from where the first row of another predictor of the same checkpoint is."""
        self.state = np.repeat(other.state[:1], self.rows, axis=0)

    def _tensor(self, a: npt.NDArray[Any]) -> Tensor:
        """A copy of its own, where the model is."""
        return torch.from_numpy(np.array(a, np.float32)).to(self._z.device)
