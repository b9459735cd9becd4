"""Steps of the families that know a motor: its filters as machine code, which may adapt while they follow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final, NoReturn, Self

import numpy as np
import numpy.typing as npt

from twin.checkpoint import Checkpoint, check
from twin.families import FILTER_SIZE, MOTOR_UNITS
from twin.kernels.physics import Motors, follower
from twin.predictor import check_shape

_PORTION: Final = 1_024  # samples of one call of `warm`: then other threads come to their turn


class MotorPredictor:
    """The `Predictor` of a motor's equations, on filters of some kind."""

    quick: ClassVar[bool]
    kind: ClassVar[type[Motors]]

    def __init__(self, checkpoint: Checkpoint, rows: int) -> None:
        check(checkpoint)
        self.rows = rows
        self.number = checkpoint.number
        self.adapting = False
        self._checkpoint = checkpoint
        self._motors = self.kind(checkpoint.tensors, rows)
        self.y = self._y = self._motors.y
        self.share(np.zeros((rows, 3), np.float32))

    def share(self, sample: npt.NDArray[np.float32]) -> None:
        """From now on read samples in this memory (N, 3), which others may read as well."""
        self.sample = self._sample = sample
        self._turns = self._motors.turns(sample)

    @property
    def parameters(self) -> Mapping[str, tuple[float, float]]:
        """R, L, K, J, b and tau_c as they are now, each with its standard error, in SI units."""
        values, errors = self._motors.parameters()
        return dict(zip(MOTOR_UNITS, zip(values.tolist(), errors.tolist(), strict=True), strict=True))

    @property
    def state(self) -> npt.NDArray[np.float32]:
        """All that it remembers, (N, S), as a copy."""
        return self._motors.state

    @state.setter
    def state(self, state: npt.NDArray[np.float32]) -> None:
        check_shape("state", state, (self.rows, FILTER_SIZE))
        self._motors.state = state

    def reset(self, *, learned: bool = True) -> None:
        """Forget all samples, and what they taught about the parameters."""
        self._motors.reset(learned=learned)

    def warm(self, z: npt.NDArray[Any]) -> None:
        """Follow samples z (N, T, 3) without answering."""
        for _ in self.follow(z):
            pass

    def step(self, z: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Follow one sample z (N, 3), and answer the y (N, 2) expected of the next one."""
        if z is not self._sample:
            check_shape("z", z, self._sample.shape)
            self._sample[...] = z
        self._turns[self.adapting]()
        return self._y

    def free_run(self, z: npt.NDArray[Any], u: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Simulate from z (N, 3) with inputs u (N, T, 1): y (N, T, 2) at the instants of u; the load is
        held."""
        check_shape("z", z, self._sample.shape)
        check_shape("u", u, (self.rows, u.shape[1] if u.ndim == 3 else -1, 1))
        return self._motors.free_run(z, u)

    @property
    def memory(self) -> npt.NDArray[np.float64]:
        """All rows, to be copied and put back."""
        return self._motors.memory

    @property
    def answer(self) -> npt.NDArray[np.float32]:
        """Where the answers of a step are, (N, 1, 5): v, the innovations, and y."""
        return self._motors.answer

    def follow(self, z: npt.NDArray[Any]) -> Iterator[npt.NDArray[np.float32]]:
        """Follow samples z (N, T, 3), some at a time: what `answer` says of each."""
        check_shape("z", z, (self.rows, z.shape[1] if z.ndim == 3 else -1, 3))
        for start in range(0, z.shape[1], _PORTION):
            yield self._motors.follow(z[:, start : start + _PORTION], self.adapting)

    def fork(self, rows: int) -> Self:
        """Another one for N rows, each in the state of the first row of this one, its motor as it is now."""
        other = type(self)(self._checkpoint, rows)
        other.take_over(self)
        return other

    def take_over(self, other: MotorPredictor) -> None:
        """Go on from where the first row of another predictor of the same checkpoint is."""
        self.memory[...] = other.memory[0]

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a predictor works on memory of its own and is not copied or pickled; "
            "open another one of the same checkpoint, and set its state"
        )


class CompiledMotor(MotorPredictor):
    """On Numba."""

    quick = True
    kind = Motors


def prepare() -> None:
    """Compile the filters, if no process on this machine has done so before."""
    follower()
