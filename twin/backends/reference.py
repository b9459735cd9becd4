"""Steps of a motor's equations as they are written out, alone or corrected: what others are held to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from twin.backends.compiled_hybrid import parts_of
from twin.checkpoint import Checkpoint, check
from twin.errors import SpecError
from twin.families import FILTER_SIZE, MOTOR_UNITS
from twin.kernels.physics_reference import ReferenceMotors
from twin.predictor import Predictor, check_shape

Array = npt.NDArray[Any]


class ReferenceMotor:
    """The `Predictor` of a motor's equations by `twin.kernels.physics_reference`."""

    quick: ClassVar[bool] = False

    def __init__(self, checkpoint: Checkpoint, rows: int) -> None:
        if rows < 1:
            raise SpecError(f"{rows} rows: a predictor has at least one")
        check(checkpoint)
        self.rows, self.number, self.adapting = rows, checkpoint.number, False
        self._checkpoint = checkpoint
        self._motors = ReferenceMotors(checkpoint.tensors, rows)
        self.sample = np.zeros((rows, 3), np.float32)
        self.answer = np.zeros((rows, 5), np.float32)
        """v, the innovations, and the y expected next, of the newest sample."""

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

    def warm(self, z: Array) -> None:
        """Follow samples z (N, T, 3) without answering."""
        check_shape("z", z, (self.rows, z.shape[1] if z.ndim == 3 else -1, 3))
        if z.shape[1]:
            self._motors.follow(z, self.adapting)

    def step(self, z: Array) -> npt.NDArray[np.float32]:
        """Follow one sample z (N, 3), and answer the y (N, 2) expected of the next one."""
        check_shape("z", z, self.sample.shape)
        self.answer[...] = self._motors.follow(z[:, None], self.adapting)[:, 0]
        return self.answer[:, 3:]

    def free_run(self, z: Array, u: Array) -> npt.NDArray[np.float32]:
        """Simulate from z (N, 3) with inputs u (N, T, 1): y (N, T, 2) at the instants of u."""
        check_shape("z", z, self.sample.shape)
        check_shape("u", u, (self.rows, u.shape[1] if u.ndim == 3 else -1, 1))
        return self._motors.free_run(z, u)

    def fork(self, rows: int) -> Self:
        """Another one for N rows, each in the state of the first row of this one, its motor as it is now."""
        other = type(self)(self._checkpoint, rows)
        other.take_over(self)
        return other

    def take_over(self, other: Any) -> None:
        """Go on from where the first row of another predictor of the same checkpoint is."""
        self._motors.memory[...] = other._motors.memory[0]


class ReferenceHybrid:
    """The `Predictor` of a motor and the network that corrects it: one after the other."""

    quick: ClassVar[bool] = False

    def __init__(self, checkpoint: Checkpoint, rows: int) -> None:
        from twin.backends.eager import Eager  # torch

        check(checkpoint)
        of_motor, of_network = parts_of(checkpoint)
        self._checkpoint = checkpoint
        self._motor = ReferenceMotor(of_motor, rows)
        self._net: Predictor = Eager(of_network, rows)
        self.rows, self.number, self.sample = rows, checkpoint.number, self._motor.sample

    @property
    def adapting(self) -> bool:
        """Whether a step may adapt the motor's parameters."""
        return self._motor.adapting

    @adapting.setter
    def adapting(self, adapting: bool) -> None:
        self._motor.adapting = adapting

    @property
    def parameters(self) -> Mapping[str, tuple[float, float]]:
        """Those of the motor."""
        return self._motor.parameters

    @property
    def state(self) -> npt.NDArray[np.float32]:
        """All that it remembers, (N, S), as a copy: the filter's state, then the network's."""
        return np.concatenate((self._motor.state, self._net.state), axis=1)

    @state.setter
    def state(self, state: npt.NDArray[np.float32]) -> None:
        check_shape("state", state, self.state.shape)
        self._motor.state, self._net.state = state[:, :FILTER_SIZE], state[:, FILTER_SIZE:]

    def reset(self, *, learned: bool = True) -> None:
        """Forget all samples, and what they taught about the parameters."""
        self._motor.reset(learned=learned)
        self._net.reset()

    def warm(self, z: Array) -> None:
        """Follow samples z (N, T, 3) without answering."""
        check_shape("z", z, (self.rows, z.shape[1] if z.ndim == 3 else -1, 3))
        for k in range(z.shape[1]):
            self.step(z[:, k])

    def step(self, z: Array) -> npt.NDArray[np.float32]:
        """Follow one sample z (N, 3), and answer the y (N, 2) expected of the next one."""
        self._motor.step(z)
        return self._net.step(self._motor.answer)

    def free_run(self, z: Array, u: Array) -> npt.NDArray[np.float32]:
        """Simulate from z (N, 3) with inputs u (N, T, 1): y (N, T, 2) at the instants of u; the motor takes
        the corrected answers for measured."""
        check_shape("z", z, self.sample.shape)
        check_shape("u", u, (self.rows, u.shape[1] if u.ndim == 3 else -1, 1))
        other = self.fork(self.rows)
        other.state, run = self.state, np.empty((self.rows, u.shape[1], 2), np.float32)
        for k in range(u.shape[1]):
            run[:, k] = other.step(z)
            z = np.concatenate((u[:, k], run[:, k]), axis=1).astype(np.float32)
        return run

    def fork(self, rows: int) -> Self:
        """Another one for N rows, each in the state of the first row of this one, its motor as it is now."""
        other = type(self)(self._checkpoint, rows)
        other.take_over(self)
        return other

    def take_over(self, other: Any) -> None:
        """Go on from where the first row of another predictor of the same checkpoint is."""
        self._motor.take_over(other._motor)
        self._net.take_over(other._net)
