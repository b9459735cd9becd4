"""Steps of a motor's equations as they are written out, alone or corrected: what others are held to."""

from __future__ import annotations

from twin.backends.compiled_hybrid import HybridPredictor, parts_of
from twin.backends.compiled_motor import MotorPredictor
from twin.checkpoint import Checkpoint
from twin.kernels.physics_reference import ReferenceMotors


class ReferenceMotor(MotorPredictor):
    """By `twin.kernels.physics_reference`."""

    quick = False
    kind = ReferenceMotors


class ReferenceHybrid(HybridPredictor):
    """The same, and the network in torch."""

    quick = False

    def __init__(self, checkpoint: Checkpoint, rows: int) -> None:
        from twin.backends.eager import Eager  # torch

        of_motor, of_network = parts_of(checkpoint)
        super().__init__(checkpoint, ReferenceMotor(of_motor, rows), Eager(of_network, rows))

    def fork(self, rows: int) -> ReferenceHybrid:
        """Another one for N rows, each in the state of the first row of this one, its motor as it is now."""
        other = ReferenceHybrid(self._checkpoint, rows)
        other.take_over(self)
        return other
