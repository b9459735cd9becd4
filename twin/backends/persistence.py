"""Who says that the outputs stay as they are: what every model is measured against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from twin.messages import Spec


class Persistence:
    """The `Predictor` that needs no model. Its `y` are the outputs in its `sample`."""

    quick: ClassVar[bool] = True
    number: ClassVar[int] = 0
    parameters: ClassVar[Mapping[str, tuple[float, float]]] = {}

    def __init__(self, spec: Spec, rows: int = 1) -> None:
        self.spec, self.rows = spec, rows
        self.adapting = False  # without effect
        self.share(np.zeros((rows, len(spec.features)), np.float32))

    def share(self, sample: npt.NDArray[np.float32]) -> None:
        """From now on read samples in this memory (N, F), which others may read as well."""
        self.sample, self.y = sample, sample[:, len(self.spec.inputs) :]

    @property
    def state(self) -> npt.NDArray[np.float32]:
        """(N, 0): it remembers nothing."""
        return np.zeros((self.rows, 0), np.float32)

    @state.setter
    def state(self, state: npt.NDArray[np.float32]) -> None:
        pass

    def reset(self, *, learned: bool = True) -> None:
        """Nothing is to be forgotten."""

    def warm(self, z: npt.NDArray[Any]) -> None:
        """Samples (N, T, F) leave no trace."""

    def step(self, z: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """The outputs (N, P) of the sample z (N, F)."""
        if z is not self.sample:
            self.sample[...] = z
        return self.y

    def free_run(self, z: npt.NDArray[Any], u: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """The outputs of z (N, F), all along (N, T, P)."""
        y = np.asarray(z, np.float32)[:, None, len(self.spec.inputs) :]
        return np.repeat(y, u.shape[1], axis=1)

    def fork(self, rows: int) -> Persistence:
        """Another one for N rows."""
        return Persistence(self.spec, rows)

    def take_over(self, other: Persistence) -> None:
        """There is nothing to take over."""
