"""Steps of a NumPy class of the user's, as it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from twin.checkpoint import Checkpoint
from twin.models.opening import open_model
from twin.models.own_numpy import NumpyModel
from twin.predictor import Predictor, check_shape

Array = npt.NDArray[Any]


class Plain:
    """The `Predictor` of a `NumpyModel`. It does not adapt: `adapting` has no effect."""

    quick: ClassVar[bool] = False

    def __init__(self, checkpoint: Checkpoint, rows: int) -> None:
        model = open_model(checkpoint)
        assert isinstance(model, NumpyModel)
        self.rows, self.number, self.adapting = rows, checkpoint.number, False
        self._checkpoint, self._model = checkpoint, model
        self._inputs = len(checkpoint.spec.inputs)
        self.sample = np.zeros((rows, len(checkpoint.spec.features)), np.float32)
        self.y = np.zeros((rows, len(checkpoint.spec.outputs)), np.float32)
        self._state: npt.NDArray[np.float32] = model.initial_state(rows)

    def share(self, sample: npt.NDArray[np.float32]) -> None:
        """From now on `sample` is this memory (N, F)."""
        self.sample = sample

    @property
    def parameters(self) -> Mapping[str, tuple[float, float]]:
        """None that this program knows of."""
        return {}

    @property
    def state(self) -> npt.NDArray[np.float32]:
        """All that it remembers, (N, S), as a copy."""
        return self._state.copy()

    @state.setter
    def state(self, state: npt.NDArray[np.float32]) -> None:
        check_shape("state", state, self._state.shape)
        self._state = np.array(state, np.float32)

    def reset(self, *, learned: bool = True) -> None:
        """Forget all samples."""
        self._state = self._model.initial_state(self.rows)

    def warm(self, z: Array) -> None:
        """Follow samples z (N, T, F) without answering."""
        check_shape("z", z, (self.rows, z.shape[1] if z.ndim == 3 else -1, self.sample.shape[1]))
        for k in range(z.shape[1]):
            self.step(z[:, k])

    def step(self, z: Array) -> npt.NDArray[np.float32]:
        """Follow one sample z (N, F), and answer the y (N, P) expected of the next one."""
        check_shape("z", z, self.sample.shape)
        self.y[...], self._state = self._model.step(np.asarray(z, np.float32), self._state)
        return self.y

    def free_run(self, z: Array, u: Array) -> npt.NDArray[np.float32]:
        """Simulate from z (N, F) with inputs u (N, T, U): y (N, T, P) at the instants of u."""
        check_shape("z", z, self.sample.shape)
        check_shape("u", u, (self.rows, u.shape[1] if u.ndim == 3 else -1, self._inputs))
        return np.asarray(self._model.free_run(np.asarray(z, np.float32), u, self._state), np.float32)

    def fork(self, rows: int) -> Plain:
        """Another one for N rows, each in the state of the first row of this one."""
        other = Plain(self._checkpoint, rows)
        other.take_over(self)
        return other

    def take_over(self, other: Predictor) -> None:
        """Go on from where the first row of another predictor of the same checkpoint is."""
        self.state = np.repeat(other.state[:1], self.rows, axis=0)
