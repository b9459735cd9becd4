"""A DC motor's equations as a model: six parameters, and a Kalman filter for its hidden state.

All in NumPy and compiled kernels, in float64, without torch. It is not trained by gradients: it finds its
parameters by prediction errors, in seconds, with their standard errors.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from twin.errors import SpecError
from twin.families import MOTOR_UNITS, Sizes, check_sizes, motor_columns, tensor_shapes
from twin.kernels.identify import SETTLING_SAMPLES
from twin.kernels.physics import Motors
from twin.messages import Spec
from twin.models.identification import Motor, adapted, guess, identify, likelihood, settled
from twin.models.lesson import Lesson
from twin.models.scaling import Scaling

HISTORY_DIVISORS: Final = (1, 4, 16)
"""A refit is tried on the whole history and on its newest quarter and sixteenth: if the motor has changed,
older samples are those of another motor."""
MIN_PART_SAMPLES: Final = 1_500
"""Samples of the shortest part of the history that is tried."""
HELD_OUT_SHARE: Final = 0.1
"""Share of the shortest part, its newest, on which the parts are compared."""
SETTLED_PERIODS: Final = (0.1, 0.3, 1.0)
"""Mechanical time constants, in sample periods, to begin with where a motor nearly settles within a
period."""
MAX_SETTLED_PERIODS: Final = 10.0
"""Mechanical time constant found, in sample periods, below which these are tried too."""
MIN_LIKELIHOOD_GAIN: Final = 0.02
"""Gain in log-likelihood per sample that a shorter part needs over a longer one: it determines less well."""
ADAPTED_SEC: Final = 20.0
"""Newest part of the history, s, over which the filter's own adaptation is one of the candidates."""
MAX_SWAP_ERROR_RATIO: Final = 0.98
"""Limit for the product of the two error ratios, candidate over incumbent, one step ahead and in free run.
Neither ratio alone may exceed its inverse."""
_USUAL_EVALUATIONS: Final = 60  # of the likelihood in one fit, to estimate the share done

Array = npt.NDArray[Any]


class Physics:
    """ŷ(k+1) from an extended Kalman filter of current, speed and load torque.

    The state (N, 13) are the expected current, speed and load, the lower triangle of their covariance, all in
    their scales, a mark for each output whose last sample was an outlier, and two sums of the speed's
    innovations.
    """

    HOLD_OUT_PERIODS: ClassVar[float] = 1.0  # few samples tell whether six numbers are right
    PRESUMES_PLANT: ClassVar[bool] = True
    resumes: ClassVar[bool] = False

    def __init__(self, family: str, sizes: Sizes, seed: int = 0) -> None:
        self.family = family
        self.sizes = check_sizes(family, sizes)
        self._tensors = {
            name: np.zeros(shape, np.float32) for name, shape in tensor_shapes(family, sizes).items()
        }

    @property
    def scaling(self) -> Scaling:
        """That of the plant's signals."""
        return Scaling(*(self._tensors[name].copy() for name in ("mean", "scale", "increment_scale")))

    def begin(self, spec: Spec, scaling: Scaling) -> None:
        """Begin with a plausible motor for signals of this scaling.

        Raises:
            SpecError: a plant that is no DC motor, or a scaling of other signals.
        """
        columns = motor_columns(spec)
        for name in ("mean", "scale", "increment_scale"):
            values = getattr(scaling, name)
            if values.shape != self._tensors[name].shape:
                raise SpecError(f"a scaling of {len(values)} values for {len(self._tensors[name])} signals")
            self._tensors[name] = values.copy()
        volts, current, speed = (float(scaling.scale[i]) for i in (0, 1 + columns[0], 1 + columns[1]))
        r, k = volts / current, volts / speed
        j = 50 * spec.dt * k * k / r
        values = np.array([r, r * spec.dt / 2, k, j, 0.02 * k * k / r, 0.05 * k * current])
        sizes = (current, speed, k * current, k * current)
        noise = np.multiply(sizes, (0.01, 0.01, 0.1, 0.2))
        self._tensors["clock"] = np.array((spec.dt, *columns), np.float32)
        self._take(Motor(values, 0.25 * np.eye(len(values)), noise))

    def _take(self, motor: Motor) -> None:
        self._tensors |= {name: np.asarray(a, np.float32) for name, a in motor._asdict().items()}

    @property
    def motor(self) -> Motor:
        """What the tensors say."""
        return Motor(*(self._tensors[name].astype(np.float64) for name in Motor._fields))

    @property
    def clock(self) -> tuple[float, int, int]:
        """The period, s, and the columns of current and speed among the outputs."""
        dt, current, speed = self._tensors["clock"].tolist()
        return dt, int(current), int(speed)

    def means(self) -> dict[str, tuple[float, float]]:
        """R, L, K, J, b and tau_c with their standard errors, in SI units."""
        values, errors = Motors(self._tensors, 1).parameters()
        return dict(zip(MOTOR_UNITS, zip(values.tolist(), errors.tolist(), strict=True), strict=True))

    def tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """All of them, as arrays of their own."""
        return {name: a.copy() for name, a in self._tensors.items()}

    def load(self, tensors: dict[str, npt.NDArray[np.float32]]) -> None:
        """Take the tensors of a checkpoint."""
        self._tensors = {name: a.copy() for name, a in tensors.items()}

    def follow(self, z: Array) -> npt.NDArray[np.float32]:
        """What filters that have seen nothing answer to samples z (N, T, 3): v, the innovations, and the y
        expected next, (N, T, 5)."""
        return Motors(self._tensors, len(z)).follow(z)

    def free_runs(self, z: Array, warm: int) -> Array:
        """Of segments z (B, T, 3): y (B, T - warm, 2) in free run, after `warm` samples; the load stays what
        it was expected to be."""
        motors = Motors(self._tensors, len(z))
        if warm > 1:
            motors.follow(z[:, : warm - 1])
        return motors.free_run(z[:, warm - 1], z[:, warm:, :1])

    def fit(self, z: Array) -> None:
        """The motor of consecutive samples z (T, 3) that least squares finds."""
        self._take(guess([self._ordered(z)], self.clock[0]))

    def refit(self, lesson: Lesson) -> Iterator[float]:
        """Find the parameters anew; yields the share done."""
        yield from self.identify(lesson.stretches(), lesson.known)

    def identify(self, stretches: Sequence[Array], known: bool) -> Iterator[float]:
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
            yield done / (done + _USUAL_EVALUATIONS)

    def improves(self, one_step: float, free_run: float, swaps: bool) -> bool:
        """A twin's filter follows the motor by itself: a swap must be worth what it interrupts."""
        if not swaps:
            return one_step < 1 and free_run < 1
        return (
            one_step * free_run < MAX_SWAP_ERROR_RATIO and max(one_step, free_run) < 1 / MAX_SWAP_ERROR_RATIO
        )

    @classmethod
    def rehearse(cls, family: str, spec: Spec, sizes: Sizes) -> None:
        """Compile what a first refit runs, by finding a motor in noise."""
        z = np.random.default_rng(0).normal(size=(2_000, len(spec.features)))
        model = cls(family, sizes)
        model.begin(spec, Scaling.of(z, len(spec.outputs)))
        for _ in model.identify([z], known=False):
            pass

    def _ordered(self, z: Array) -> Array:
        columns = [0, *(1 + place for place in self.clock[1:])]
        return np.ascontiguousarray(np.asarray(z, np.float64)[:, columns])

    def _fit(self, stretches: Sequence[Array], known: bool) -> Generator[None, None, Motor]:
        dt, total = self.clock[0], sum(map(len, stretches))
        tail = min(
            max(round(HELD_OUT_SHARE * total / HISTORY_DIVISORS[-1]), 4 * SETTLING_SAMPLES), total // 2
        )
        best: tuple[float, Motor, list[Array]] | None = None
        if known:  # what the twin has made of it by now, adapting
            older, newer = _divided(stretches, tail)
            recent = _newest(older, round(ADAPTED_SEC / dt))
            if recent and newer:
                motor = adapted(self.motor, recent, dt)
                best = likelihood(motor, newer, dt) - MIN_LIKELIHOOD_GAIN, motor, []
        for memory in HISTORY_DIVISORS:
            length = total // memory
            if memory > 1 and length < MIN_PART_SAMPLES:
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
            if not known and r * j / (k * k) < MAX_SETTLED_PERIODS * dt:
                for periods in SETTLED_PERIODS:
                    other = yield from identify(settled(older, dt, periods), older, dt)
                    motor = min((motor, other), key=lambda motor: likelihood(motor, older, dt))
            cost = likelihood(motor, newer, dt)
            if best is None or cost < best[0] - MIN_LIKELIHOOD_GAIN:
                best = cost, motor, part
        assert best is not None
        if not best[2]:
            return adapted(self.motor, _newest(stretches, round(ADAPTED_SEC / dt)), dt)
        return (yield from identify(best[1], best[2], dt, passes=1))


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
