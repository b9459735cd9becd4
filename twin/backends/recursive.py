"""Steps of the linear model that begins with the stream (`twin.kernels.recursive`), without a trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn

import numpy as np
import numpy.typing as npt

from twin.kernels.recursive import CALL, SEEN, Call, follower, memory, places
from twin.messages import Spec
from twin.predictor import check_shape


class Recursive:
    """The `Predictor` of a plant of which nothing is known yet. Its `number` is 0.

    `adapting` is on from the start: what it answers is what it has learned.
    """

    quick: ClassVar[bool] = True
    number: ClassVar[int] = 0

    def __init__(self, spec: Spec, rows: int = 1) -> None:
        self.spec, self.rows = spec, rows
        self._inputs, self._outputs = len(spec.inputs), len(spec.outputs)
        self._features = self._inputs + self._outputs
        self._run = follower(self._inputs, self._outputs)
        self._at = places(self._features, self._outputs)
        self._memory = memory(rows, self._features, self._outputs)
        self.y = np.zeros((rows, self._outputs), np.float32)
        self._call = np.zeros(len(CALL), np.int64)
        self.share(np.zeros((rows, self._features), np.float32))
        self.adapting = True

    def share(self, sample: npt.NDArray[np.float32]) -> None:
        """From now on read samples in this memory (N, F), which others may read as well."""
        self.sample = sample
        adapting = self._call[CALL.learning]
        self._call[:] = self.call(sample[:, None], self.y[:, None], bool(adapting))
        self._call_at = self._call.ctypes.data

    def call(
        self, z: npt.NDArray[Any], y: npt.NDArray[Any], learning: bool, free: bool = False
    ) -> npt.NDArray[np.int64]:
        """The arguments with which the kernel follows z (N, T, F) and answers y (N, T, P), in one piece."""
        rows, samples, answers = (a.ctypes.data for a in (self._memory, z, y))
        return np.array(Call(rows, samples, answers, self.rows, z.shape[1], learning, free), np.int64)

    @property
    def adapting(self) -> bool:
        """Whether a step takes its sample for a measurement, and learns from it."""
        return bool(self._call[CALL.learning])

    @adapting.setter
    def adapting(self, adapting: bool) -> None:
        self._call[CALL.learning] = adapting

    @property
    def parameters(self) -> Mapping[str, tuple[float, float]]:
        """None that mean something."""
        return {}

    @property
    def state(self) -> npt.NDArray[np.float32]:
        """Its newest samples and all that it has learned, (N, S), as a copy; float32 rounds them."""
        return self._memory.astype(np.float32)

    @state.setter
    def state(self, state: npt.NDArray[np.float32]) -> None:
        check_shape("state", state, self._memory.shape)
        self._memory[...] = state

    def reset(self, *, learned: bool = True) -> None:
        """Forget all samples; and, unless `learned` is False, what they taught."""
        if learned:
            self._memory[...] = 0.0
        self._memory[:, self._at.counts + SEEN] = 0.0

    def warm(self, z: npt.NDArray[Any]) -> None:
        """Follow samples z (N, T, F) without answering."""
        check_shape("z", z, (self.rows, z.shape[1] if z.ndim == 3 else -1, self._features))
        z = np.ascontiguousarray(z, np.float32)
        unused = self._room(z.shape[1])
        call = self.call(z, unused, self.adapting)
        self._run(call.ctypes.data)

    def step(self, z: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Follow one sample z (N, F), and answer the y (N, P) expected of the next one."""
        if z is not self.sample:
            check_shape("z", z, self.sample.shape)
            self.sample[...] = z
        self._run(self._call_at)
        return self.y

    def free_run(self, z: npt.NDArray[Any], u: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Simulate from z (N, F) with inputs u (N, T, U): y (N, T, P) at the instants of u."""
        check_shape("z", z, self.sample.shape)
        check_shape("u", u, (self.rows, u.shape[1] if u.ndim == 3 else -1, self._inputs))
        kept, steps = self._memory.copy(), u.shape[1]
        samples, run = np.zeros((self.rows, steps, self._features), np.float32), self._room(steps)
        if steps:
            samples[:, 0], samples[:, 1:, : self._inputs] = z, u[:, :-1]
        call = self.call(samples, run, False, free=True)
        self._run(call.ctypes.data)
        self._memory[...] = kept
        return run

    def fork(self, rows: int) -> Recursive:
        """Another one for N rows, each in the state of the first row of this one, which does not learn."""
        other = Recursive(self.spec, rows)
        other.adapting = False
        other.take_over(self)
        return other

    def take_over(self, other: Recursive) -> None:
        """Go on from where the first row of another one is."""
        self._memory[...] = other._memory[0]

    def _room(self, steps: int) -> npt.NDArray[np.float32]:
        return np.empty((self.rows, steps, self._outputs), np.float32)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a predictor works on memory of its own and is not copied or pickled; fork it")
