"""Kalman filters of one motor, N at once: samples in, predictions out, without new memory.

A row is the memory of one filter (`twin.kernels.kalman`) in float64. Its state for the outside is thirteen
float32 numbers: mean and covariance of current, speed and load, in the checkpoint's scales, two marks of
outliers, and the CUSUM up and down. A filter that does not adapt rounds to them after each sample: so a state
handed out and put back repeats what followed, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from itertools import accumulate
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import carray, njit, types

from twin.kernels.cache import kept
from twin.kernels.kalman import DOWN, SHAPES, UP, Filter, adapt, begin, follow
from twin.kernels.kalman_reference import CURRENT, JOINT, SPEED, STATES, WALK_PER_ROOT_SEC, WIDENED_STD
from twin.kernels.motor_reference import PARAMETERS
from twin.kernels.vectors import doubles, integer, pointer

ANSWER: Final = 5
"""Numbers of one answer: v, the innovations of both outputs, and both outputs expected next; a network that
corrects the motor reads all of them."""
EXPECTED: Final = ANSWER - 2
"""Place of the outputs expected next in an answer."""
_INLINE: Final[dict[str, Any]] = {"fastmath": {"contract"}, "forceinline": True}

Array = npt.NDArray[Any]
Turn = Callable[[], None]


class Row(NamedTuple):
    """Places in a filter's memory, in numbers of float64: what it has learned from samples."""

    x: int
    cov: int
    rejected: int
    cusum: int
    misfit: int
    pause: int
    direction: int
    jumps: int
    p: int
    joint: int
    """1 if it adapted to the last sample: then states and parameters have a joint covariance."""
    begun: int
    """1 if it has seen a sample."""
    end: int


class Known(NamedTuple):
    """Places in the memory that all filters share, in numbers of float64: what a checkpoint says, and room to
    work in."""

    p0: int
    noise: int
    scale: int
    """Three: of current, speed and load."""
    dt: int
    current: int
    """Which output is the current."""
    speed: int
    new: int
    f: int
    g: int
    c: int
    t: int
    end: int


class MotorCall(NamedTuple):
    """Places among the 64-bit integers with which the follower is called: addresses, numbers and choices."""

    known: int
    """What `Known` names."""
    rows: int
    """(N, row), each as `Row` names it."""
    z: int
    """Samples (N, T, 3)."""
    answers: int
    """(N, T, 5)."""
    n: int
    steps: int
    """T."""
    adapting: int
    """Whether to adapt."""
    free: int
    """Whether to run free: then the outputs of all samples after the first are filled in."""


def _places(shapes: Iterable[tuple[int, ...]]) -> list[int]:
    """Where what has these shapes begins, one behind the other, and where the last ends."""
    return [0, *accumulate(math.prod(shape) for shape in shapes)]


ROW: Final = Row(*_places([SHAPES.x, SHAPES.cov, *[(2,)] * 4, (), (), SHAPES.p, (), ()]))
KNOWN: Final = Known(
    *_places([SHAPES.p0, SHAPES.noise, (STATES,), (), (), (), *SHAPES[SHAPES._fields.index("new") :]])
)
CALL: Final = MotorCall(*range(len(MotorCall._fields)))


@njit(**_INLINE)
def _round(k: Filter, scale: Any) -> None:
    """The filter's state as float32 in its scales holds it."""
    for a in range(STATES):
        k.x[a] = np.float64(np.float32(k.x[a] / scale[a])) * scale[a]
        for b in range(a + 1):
            unit = scale[a] * scale[b]
            k.cov[a, b] = np.float64(np.float32(k.cov[a, b] / unit)) * unit
            k.cov[b, a] = k.cov[a, b]
    k.gates[UP] = np.float64(np.float32(k.gates[UP]))
    k.gates[DOWN] = np.float64(np.float32(k.gates[DOWN]))


@njit(**_INLINE)
def _filter(row: Any, known: Any) -> Filter:
    return Filter(
        row[ROW.x : ROW.cov],
        row[ROW.cov : ROW.rejected].reshape(JOINT, JOINT),
        row[ROW.rejected : ROW.misfit],
        row[ROW.misfit : ROW.p],
        row[ROW.p : ROW.joint],
        known[KNOWN.p0 : KNOWN.noise],
        known[KNOWN.noise : KNOWN.scale],
        known[KNOWN.new : KNOWN.f],
        known[KNOWN.f : KNOWN.g].reshape(2, STATES),
        known[KNOWN.g : KNOWN.c].reshape(2, PARAMETERS),
        known[KNOWN.c : KNOWN.t].reshape(3, 4),
        known[KNOWN.t : KNOWN.end].reshape(3, JOINT),
    )


@lru_cache(maxsize=1)
def follower() -> Callable[[int], None]:
    """What takes in samples; called with the address of the integers that `MotorCall` names."""

    def motors(call: Any) -> None:
        n, steps = integer(call, CALL.n), integer(call, CALL.steps)
        adapting, free = integer(call, CALL.adapting), integer(call, CALL.free)
        known = carray(doubles(integer(call, CALL.known)), (KNOWN.end,))
        rows = carray(doubles(integer(call, CALL.rows)), (n, ROW.end))
        z = carray(pointer(integer(call, CALL.z)), (n, steps, 3))
        answers = carray(pointer(integer(call, CALL.answers)), (n, steps, ANSWER))
        scale, dt = known[KNOWN.scale : KNOWN.dt], known[KNOWN.dt]
        at_i, at_w = int(known[KNOWN.current]), int(known[KNOWN.speed])
        for r in range(n):
            row = rows[r]
            k = _filter(row, known)
            for t in range(steps):
                v = np.float64(z[r, t, 0])
                current, speed = np.float64(z[r, t, 1 + at_i]), np.float64(z[r, t, 1 + at_w])
                if row[ROW.begun] == 0.0:
                    row[ROW.begun] = 1.0
                    begin(k, current, speed)
                answers[r, t, 0] = v
                answers[r, t, 1 + at_i] = current - k.x[CURRENT]
                answers[r, t, 1 + at_w] = speed - k.x[SPEED]
                if adapting:
                    row[ROW.joint] = 1.0
                    adapt(k, dt, v, current, speed)
                else:
                    if row[ROW.joint] == 1.0:  # what it has learned about the parameters stays
                        row[ROW.joint] = 0.0
                        k.cov[:STATES, STATES:] = 0.0
                        k.cov[STATES:, :STATES] = 0.0
                    follow(k, dt, v, current, speed)
                    _round(k, scale)
                answers[r, t, EXPECTED + at_i] = k.x[CURRENT]
                answers[r, t, EXPECTED + at_w] = k.x[SPEED]
                if free and t + 1 < steps:
                    z[r, t + 1, 1] = answers[r, t, EXPECTED]
                    z[r, t + 1, 2] = answers[r, t, EXPECTED + 1]

    compiled, signature = kept(motors, fastmath={"contract"}), (types.int64,)
    compiled.compile(signature)
    entry: Callable[[int], None] = compiled.overloads[signature].entry_point
    return entry


class Motors:
    """N filters of one checkpoint's motor."""

    def __init__(self, tensors: Mapping[str, Array], rows: int) -> None:
        self.rows = rows
        self._known, self._memory = np.zeros(KNOWN.end), np.zeros((rows, ROW.end))
        memory = self._memory
        self._x = memory[:, ROW.x : ROW.cov]
        self._cov = memory[:, ROW.cov : ROW.rejected].reshape(rows, JOINT, JOINT)
        self._marks = memory[:, ROW.rejected : ROW.misfit]  # of outliers, and the CUSUM
        self._p = memory[:, ROW.p : ROW.joint]
        self._begun = memory[:, ROW.begun]
        self.answer = np.zeros((rows, 1, ANSWER), np.float32)
        self.y = self.answer[:, 0, EXPECTED:]
        self.load(tensors)

    def load(self, tensors: Mapping[str, Array]) -> None:
        """Take a checkpoint's tensors, and forget all samples."""
        values, covariance, noise, scale, (dt, at_i, at_w) = (
            np.asarray(tensors[name], np.float64)
            for name in ("values", "covariance", "noise", "scale", "clock")
        )
        unit = np.array([values[2] ** 2 / values[0], noise[3]])
        scales = np.array([*scale[1:][[int(at_i), int(at_w)]], noise[3]])
        self._known[: KNOWN.new] = np.concatenate((values, unit, noise, scales, [dt, at_i, at_w]))
        covariance = 0.5 * (covariance + covariance.T) + np.diag(np.square(WALK_PER_ROOT_SEC))
        wide = np.minimum(1.0, np.array(WIDENED_STD) / np.sqrt(np.maximum(np.diag(covariance), 1e-30)))
        self._covariance = covariance * np.outer(wide, wide)
        self.units = unit
        self.reset()

    def reset(self, *, learned: bool = True) -> None:
        """Forget all samples, and, unless `learned` is False, what they taught about the parameters."""
        # before the first sample there is nothing to keep
        keep = (self._begun[:, None] > 0.0) & (not learned)
        changes = np.where(keep, self._x[:, STATES:], 0.0)
        covariance = np.where(keep[:, :, None], self._cov[:, STATES:, STATES:], self._covariance)
        values = np.where(keep, self._p, self._known[KNOWN.p0 : KNOWN.noise])
        self._memory[:] = 0.0
        self._x[:, STATES:], self._cov[:, STATES:, STATES:], self._p[:] = changes, covariance, values

    def turns(self, sample: npt.NDArray[np.float32]) -> tuple[Turn, Turn]:
        """What follows the sample (N, 3) in this memory and fills in `answer`: as it is, and adapting."""
        self._calls = [self.call(sample[:, None], self.answer, adapting) for adapting in (False, True)]
        plain, adapting = (partial(follower(), call.ctypes.data) for call in self._calls)
        return plain, adapting

    def call(self, z: Array, answers: Array, adapting: bool, free: bool = False) -> Array:
        """The arguments with which the kernel follows z (N, T, 3), float32 and in one piece."""
        known, memory, samples, out = (a.ctypes.data for a in (self._known, self._memory, z, answers))
        sizes = self.rows, z.shape[1]
        return np.array(MotorCall(known, memory, samples, out, *sizes, adapting, free), np.int64)

    def follow(self, z: Array, adapting: bool = False) -> npt.NDArray[np.float32]:
        """Follow samples z (N, T, 3): what `ANSWER` says, (N, T, 5)."""
        z = np.ascontiguousarray(z, np.float32)
        answers = np.empty((*z.shape[:2], ANSWER), np.float32)
        follower()(self.call(z, answers, adapting).ctypes.data)
        return answers

    def free_run(self, z: Array, u: Array) -> npt.NDArray[np.float32]:
        """Fed with its own answers, from samples z (N, 3) with inputs u (N, T, 1): y (N, T, 2); then all is
        as it was."""
        kept = self._memory.copy()
        samples = np.zeros((*u.shape[:2], 3), np.float32)
        if u.shape[1]:
            samples[:, 0], samples[:, 1:, :1] = z, u[:, :-1]
        answers = np.empty((*u.shape[:2], ANSWER), np.float32)
        follower()(self.call(samples, answers, False, free=True).ctypes.data)
        self._memory[...] = kept
        return answers[..., EXPECTED:].copy()

    @property
    def memory(self) -> Array:
        """All of it, to be copied and put back."""
        return self._memory

    @property
    def state(self) -> npt.NDArray[np.float32]:
        """(N, 13) as a copy."""
        mean = self._x[:, :STATES] / self._scale(1)
        cov = self._cov[(slice(None), *_TRIANGLE)] / self._scale(2)
        return np.concatenate((mean, cov, self._marks), axis=1).astype(np.float32)

    @state.setter
    def state(self, state: npt.NDArray[np.float32]) -> None:
        given = np.asarray(state, np.float64)
        mean, cov, self._marks[:] = np.split(given, [STATES, STATES + len(_TRIANGLE[0])], axis=1)
        self._x[:, :STATES] = mean * self._scale(1)
        self._cov[:, :STATES, :] = 0.0
        self._cov[:, :, :STATES] = 0.0
        lower = cov * self._scale(2)
        self._cov[(slice(None), *_TRIANGLE)] = lower
        self._cov[(slice(None), *_TRIANGLE[::-1])] = lower
        self._memory[:, ROW.joint] = 0.0
        self._begun[:] = cov[:, -1] > 0.0  # the load's variance is zero only before the first sample

    def _scale(self, order: int) -> Array:
        scale = self._known[KNOWN.scale : KNOWN.dt]
        return scale if order == 1 else np.asarray(np.outer(scale, scale)[_TRIANGLE])

    def parameters(self, row: int = 0) -> tuple[Array, Array]:
        """R, L, K, J, b, τ_c (6,) now, and their standard errors (6,), in SI units."""
        values = self._p[row, :PARAMETERS].copy()
        covariance = self._cov[row, STATES:, STATES:] if self._begun[row] else self._covariance
        unit = np.concatenate((values[:4], self.units))
        return values, np.sqrt(np.maximum(np.diag(covariance), 0.0)) * unit


_TRIANGLE: Final = (np.array([0, 1, 1, 2, 2, 2]), np.array([0, 0, 1, 0, 1, 2]))
