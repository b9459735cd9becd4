"""A DC motor's equations as a model: six parameters, and a Kalman filter for its hidden state.

All arithmetic is `twin.kernels`' own, in float64: torch only carries the tensors here, so that a trainer, a
checkpoint and every backend take this family for one like the others. It is not trained by gradients: `refit`
finds the parameters in seconds, with their standard errors.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from twin.errors import SpecError
from twin.kernels.identify import SETTLING, Motor, adapted, guess, identify, likelihood, settled
from twin.kernels.physics import Motors
from twin.messages import Spec
from twin.models import PARAMETERS, Sizes, motor_columns, tensor_shapes
from twin.models.model import Model
from twin.models.scaling import Scaling

MEMORIES: Final = (1, 4, 16)
"""A refit tries the whole history and these fractions of it, the newest: after a change the rest is another
motor's."""
SHORTEST: Final = 1_500
"""Samples of the shortest part that is tried."""
TAIL: Final = 0.1
"""Share of each part, its newest, on which the parts are compared."""
SETTLED: Final = (0.1, 0.3, 1.0)
"""Periods that a motor's time constant may be, where it has nearly settled at each period's end."""
QUICK: Final = 10.0
"""Periods of a time constant below which that may be so."""
BETTER: Final = 0.02
"""By so much, for one sample, a shorter part must be likelier than a longer one: it knows less."""
ADAPTED: Final = 20.0
"""Seconds in which the filter adapts to what is new, to be one of the candidates."""
_ESTIMATES: Final = 60  # evaluations that a fit usually takes, for the share done

Array = npt.NDArray[Any]


class Physics(Model):
    """ŷ(k+1) from an extended Kalman filter of current, speed and load torque.

    The state (N, 13) are the expected current, speed and load, the lower triangle of their covariance, all in
    their scales, a mark for each output whose last sample was an outlier, and two sums of the speed's
    innovations.
    """

    values: Tensor
    covariance: Tensor
    noise: Tensor
    clock: Tensor

    def __init__(self, sizes: Sizes) -> None:
        nn.Module.__init__(self)
        self._measure("physics", sizes)
        for name in ("values", "covariance", "noise", "clock"):
            self.register_buffer(name, torch.zeros(tensor_shapes("physics", sizes)[name]))

    def begin(self, spec: Spec, scaling: Scaling) -> None:
        """Some motor of the size that the scaling shows.

        Raises:
            SpecError: a plant that is no DC motor, or a scaling of other signals.
        """
        super().begin(spec, scaling)
        columns = motor_columns(spec)
        volts, current, speed = (float(scaling.scale[i]) for i in (0, 1 + columns[0], 1 + columns[1]))
        r, k = volts / current, volts / speed
        j = 50 * spec.dt * k * k / r
        values = np.array([r, r * spec.dt / 2, k, j, 0.02 * k * k / r, 0.05 * k * current])
        sizes = (current, speed, k * current, k * current)
        noise = np.multiply(sizes, (0.01, 0.01, 0.1, 0.2))
        self._take(Motor(values, 0.25 * np.eye(len(values)), noise), (spec.dt, *columns))

    def _take(self, motor: Motor, clock: Sequence[float] | None = None) -> None:
        for buffer, values in (
            (self.values, motor.values),
            (self.covariance, motor.covariance),
            (self.noise, motor.noise),
            (self.clock, self.clock.numpy() if clock is None else clock),
        ):
            buffer.copy_(torch.from_numpy(np.asarray(values, np.float32).copy()))

    @property
    def motor(self) -> Motor:
        """What the tensors say."""
        return Motor(
            *(t.cpu().numpy().astype(np.float64) for t in (self.values, self.covariance, self.noise))
        )

    def physical(self) -> dict[str, tuple[float, float]]:
        """R, L, K, J, b and tau_c with their standard errors, in SI units."""
        values, errors = self.motors(1).parameters()
        return dict(zip(PARAMETERS, zip(values.tolist(), errors.tolist(), strict=True), strict=True))

    def motors(self, rows: int, state: Tensor | None = None) -> Motors:
        """The filters that do the work."""
        motors = Motors(self.tensors(), rows)
        if state is not None:
            motors.state = state.cpu().numpy()
        return motors

    def forward(self, z: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """As `Model.forward`; no gradient passes through it."""
        motors = self.motors(len(z), state)
        answers = motors.follow(z.cpu().numpy())
        return self._tensor(answers[..., 3:]), self._tensor(motors.state)

    def stepping(self) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """As `Model.stepping`."""
        found: dict[int, Motors] = {}

        def follow(z: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            motors = found.setdefault(len(z), self.motors(len(z)))
            motors.state = state.cpu().numpy()
            answers = motors.follow(z.cpu().numpy()[:, None])
            return self._tensor(answers[:, 0, 3:]), self._tensor(motors.state)

        return follow

    def free_run(self, z: Tensor, u: Tensor, state: Tensor) -> Tensor:
        """As `Model.free_run`: the load stays what it was expected to be."""
        return self._tensor(self.motors(len(z), state).free_run(z.cpu().numpy(), u.cpu().numpy()))

    def fit_readout(self, z: Array) -> None:
        """The motor of consecutive samples z (T, 3) that least squares finds."""
        self._take(guess([self._ordered(z)], float(self.clock[0])))

    def refit(self, stretches: Sequence[Array], known: bool) -> Iterator[float]:
        """Find the parameters in stretches of samples (T, 3), oldest first; yields the share done.

        `known` tells whether the tensors are those of a motor worth beginning with.

        Raises:
            SpecError: no stretch to learn from.
        """
        work, done = self._fit([self._ordered(z) for z in stretches], known), 0
        while True:
            try:
                next(work)
            except StopIteration as end:
                motor: Motor = end.value
                if not all(np.isfinite(part).all() for part in motor):
                    raise SpecError("no motor is to be found in these samples: do they move?") from None
                self._take(motor)
                yield 1.0
                return
            done += 1
            yield done / (done + _ESTIMATES)

    def _ordered(self, z: Array) -> Array:
        columns = [0, 1 + int(self.clock[1]), 1 + int(self.clock[2])]
        return np.ascontiguousarray(np.asarray(z, np.float64)[:, columns])

    def _fit(self, stretches: Sequence[Array], known: bool) -> Generator[None, None, Motor]:
        dt, total = float(self.clock[0]), sum(map(len, stretches))
        tail = min(max(round(TAIL * total / MEMORIES[-1]), 4 * SETTLING), total // 2)
        best: tuple[float, Motor, list[Array]] | None = None
        if known:  # what the twin has made of it by now, adapting
            older, newer = _divided(stretches, tail)
            recent = _newest(older, round(ADAPTED / dt))
            if recent and newer:
                motor = adapted(self.motor, recent, dt)
                best = likelihood(motor, newer, dt) - BETTER, motor, []
        for memory in MEMORIES:
            length = total // memory
            if memory > 1 and length < SHORTEST:
                break
            part = _newest(stretches, length)
            older, newer = _divided(part, tail)
            if not older or not newer:
                raise SpecError(f"{total} samples in {len(stretches)} stretches: too few to find a motor in")
            start = guess(older, dt)
            if known:
                start = min((start, self.motor), key=lambda motor: likelihood(motor, older, dt))
            motor = yield from identify(start, older, dt)
            r, _, k, j = start.values[:4]
            if not known and r * j / (k * k) < QUICK * dt:
                for periods in SETTLED:
                    other = yield from identify(settled(older, dt, periods), older, dt)
                    motor = min((motor, other), key=lambda motor: likelihood(motor, older, dt))
            cost = likelihood(motor, newer, dt)
            if best is None or cost < best[0] - BETTER:
                best = cost, motor, part
        assert best is not None
        if not best[2]:
            return adapted(self.motor, _newest(stretches, round(ADAPTED / dt)), dt)
        return (yield from identify(best[1], best[2], dt, passes=1))

    def _tensor(self, a: Array) -> Tensor:
        return torch.from_numpy(np.array(a, np.float32)).to(self.mean.device)


def _newest(stretches: Sequence[Array], length: int) -> list[Array]:
    """The last so many samples, oldest first."""
    found: list[Array] = []
    for z in reversed(stretches):
        if length > 0:
            found.insert(0, z[-length:])
        length -= len(z)
    return [z for z in found if len(z) > 1]


def _divided(stretches: Sequence[Array], tail: int) -> tuple[list[Array], list[Array]]:
    """All but the last so many samples, and these."""
    newer = _newest(stretches, tail)
    older, left = [], sum(map(len, stretches)) - tail
    for z in stretches:
        if left > 1:
            older.append(z[:left])
        left -= len(z)
    return older, newer
