"""Steps of a motor and the network that corrects it, which reads what the motor's filters answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from twin.backends.compiled import Compiled
from twin.backends.compiled_motor import CompiledMotor, MotorPredictor
from twin.checkpoint import Checkpoint, check
from twin.families import FILTER_SIZE, MOTOR, NETWORK, divided, motor_sizes, network_sizes
from twin.messages import Spec
from twin.predictor import Predictor, check_shape

READOUT = "core.readout.weight", "core.readout.bias"
"""What is zero in a network that corrects nothing."""


class HybridPredictor:
    """The `Predictor` of both, one after the other."""

    quick: ClassVar[bool]

    def __init__(self, checkpoint: Checkpoint, motor: MotorPredictor, net: Predictor) -> None:
        self._checkpoint, self._motor, self._net = checkpoint, motor, net
        self._corrects = any(checkpoint.tensors[name].any() for name in READOUT)
        self.rows, self.number, self.sample = motor.rows, checkpoint.number, motor.sample
        self.y = self._y = np.zeros((motor.rows, len(checkpoint.spec.outputs)), np.float32)

    def share(self, sample: npt.NDArray[np.float32]) -> None:
        """From now on read samples in this memory (N, 3), which others may read as well."""
        self._motor.share(sample)
        self.sample = sample

    @property
    def adapting(self) -> bool:
        """Whether a step may adapt the motor's parameters. Those of a motor that is corrected stand still:
        the correction was learned for them, and what they cannot explain would lead them astray."""
        return self._motor.adapting

    @adapting.setter
    def adapting(self, adapting: bool) -> None:
        self._motor.adapting = adapting and not self._corrects

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

    def warm(self, z: npt.NDArray[Any]) -> None:
        """Follow samples z (N, T, 3) without answering."""
        for answers in self._motor.follow(z):
            self._net.warm(answers)

    def step(self, z: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Follow one sample z (N, 3), and answer the y (N, 2) expected of the next one."""
        self._motor.step(z)
        self._y[...] = self._net.step(self._motor.answer[:, 0])
        return self._y

    def free_run(self, z: npt.NDArray[Any], u: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Simulate from z (N, 3) with inputs u (N, T, 1): y (N, T, 2) at the instants of u; the motor takes
        the corrected answers for measured."""
        check_shape("z", z, self.sample.shape)
        check_shape("u", u, (self.rows, u.shape[1] if u.ndim == 3 else -1, 1))
        memory, state, y, adapting = self._motor.memory.copy(), self._net.state, self._y.copy(), self.adapting
        self.adapting, sample = False, np.array(z, np.float32)
        run = np.empty((self.rows, u.shape[1], 2), np.float32)
        for k in range(u.shape[1]):
            run[:, k] = self.step(sample)
            sample[:, :1], sample[:, 1:] = u[:, k], run[:, k]
        self._motor.memory[...], self._net.state, self._y[...], self.adapting = memory, state, y, adapting
        return run

    def take_over(self, other: Self) -> None:
        """Go on from where the first row of another predictor of the same checkpoint is."""
        self._motor.take_over(other._motor)
        self._net.take_over(other._net)

    __reduce__ = MotorPredictor.__reduce__


class CompiledHybrid(HybridPredictor):
    """On Numba: the network's kernel reads the answer of the motor's where it is."""

    quick = True

    def __init__(self, checkpoint: Checkpoint, rows: int, *, fork: bool = False) -> None:
        of_motor, of_network = parts_of(checkpoint)
        motor, net = CompiledMotor(of_motor, rows), Compiled(of_network, rows, fork=fork)
        super().__init__(checkpoint, motor, net)
        self.y = self._y = net.y
        self._run, self._call = net.run, net.call(motor.answer, 1)
        self._at = self._call.ctypes.data

    def step(self, z: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Follow one sample z (N, 3), and answer the y (N, 2) expected of the next one."""
        self._motor.step(z)
        self._run(self._at)
        return self._y

    def fork(self, rows: int) -> CompiledHybrid:
        """Another one for N rows, each in the state of the first row of this one, its motor as it is now."""
        other = CompiledHybrid(self._checkpoint, rows, fork=True)
        other.take_over(self)
        return other


def parts_of(checkpoint: Checkpoint) -> tuple[Checkpoint, Checkpoint]:
    """The motor of a checkpoint that corrects one, and its network, which has the innovations for inputs as
    well.

    Raises:
        CheckpointError: tensors that are not those of its family and sizes, or not finite.
    """
    check(checkpoint)
    spec, (motor, network) = checkpoint.spec, divided(checkpoint.tensors)
    innovations = tuple(f"innovation.{i}" for i in range(len(spec.outputs)))
    wider = Spec(inputs=(*spec.inputs, *innovations), outputs=spec.outputs, dt=spec.dt)
    return (
        Checkpoint(checkpoint.number, None, MOTOR, motor_sizes(checkpoint.sizes), spec, motor),
        Checkpoint(checkpoint.number, None, NETWORK, network_sizes(checkpoint.sizes), wider, network),
    )
