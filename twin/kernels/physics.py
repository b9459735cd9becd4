"""Many filters of one motor at work: samples in, what is expected next out, all in memory that was there
before.

A row is a filter (`twin.kernels.kalman`), 64-bit throughout. Its state for the outside is thirteen float32
numbers, the mean and covariance of current, speed and load in the checkpoint's own scales and two marks of
outliers, and the CUSUM; a filter that does not adapt rounds to them after each sample, so that a state handed
out and put back repeats what followed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import carray, njit, types

from twin.kernels.cache import kept
from twin.kernels.kalman import JOINT, STATES, WALK, WIDE, Filter, adapt, begin, follow
from twin.kernels.motor import PARAMETERS
from twin.kernels.vectors import doubles, integer, pointer

STATE: Final = 13
"""i, ω, τ_L, the lower triangle of their covariance, two marks of outliers, the CUSUM up and down."""
ANSWER: Final = 5
"""v, the innovations of both outputs, and both outputs expected next: what a correction would like to see."""
_ROW: Final = (
    9 + 81 + 4 + 6 + 8 + 2
)  # x, covariance, flags, fit, p; whether it is joint, whether it has begun
_MODEL: Final = (
    8 + 4 + 3 + 3 + 60
)  # p0, noise, scales; dt and the columns of current and speed; room to work in
_INLINE: Final[dict[str, Any]] = {"fastmath": {"contract"}, "forceinline": True}
_GIVEN: Final = 18  # of the model's numbers, before the room

Array = npt.NDArray[Any]


@njit(**_INLINE)
def _round(k: Filter, scale: Any) -> None:
    """The filter's state as float32 in its scales holds it."""
    for a in range(STATES):
        k.x[a] = np.float64(np.float32(k.x[a] / scale[a])) * scale[a]
        for b in range(a + 1):
            unit = scale[a] * scale[b]
            k.cov[a, b] = np.float64(np.float32(k.cov[a, b] / unit)) * unit
            k.cov[b, a] = k.cov[a, b]
    for a in range(2, 4):
        k.flags[a] = np.float64(np.float32(k.flags[a]))


@njit(**_INLINE)
def _filter(row: Any, model: Any) -> Filter:
    room = model[_GIVEN:]
    return Filter(
        row[0:9],
        row[9:90].reshape(JOINT, JOINT),
        row[90:94],
        row[94:100],
        row[100:108],
        model[0:8],
        model[8:12],
        room[0:3],
        room[3:9].reshape(2, STATES),
        room[9:21].reshape(2, PARAMETERS),
        room[21:33].reshape(3, 4),
        room[33:60].reshape(3, JOINT),
    )


@lru_cache(maxsize=1)
def follower() -> Callable[[int], None]:
    """What takes in samples; called with the address of seven 64-bit integers: the addresses of the model,
    the rows, the samples z (N, T, 3) and the answers (N, T, 5), then N, T, and whether to adapt."""

    def motors(call: Any) -> None:
        n, steps, adapting = integer(call, 4), integer(call, 5), integer(call, 6)
        model = carray(doubles(integer(call, 0)), (_MODEL,))
        rows = carray(doubles(integer(call, 1)), (n, _ROW))
        z = carray(pointer(integer(call, 2)), (n, steps, 3))
        answers = carray(pointer(integer(call, 3)), (n, steps, ANSWER))
        scale, dt = model[12:15], model[15]
        at_i, at_w = int(model[16]), int(model[17])
        for r in range(n):
            row = rows[r]
            k = _filter(row, model)
            for t in range(steps):
                v, current, speed = (
                    np.float64(z[r, t, 0]),
                    np.float64(z[r, t, 1 + at_i]),
                    np.float64(z[r, t, 1 + at_w]),
                )
                if row[109] == 0.0:
                    row[109] = 1.0
                    begin(k, current, speed)
                answers[r, t, 0] = v
                answers[r, t, 1 + at_i] = current - k.x[0]
                answers[r, t, 1 + at_w] = speed - k.x[1]
                if adapting:
                    row[108] = 1.0
                    adapt(k, dt, v, current, speed)
                else:
                    if (
                        row[108] == 1.0
                    ):  # what it has learned about the parameters stays, apart from the state
                        row[108] = 0.0
                        k.cov[:STATES, STATES:] = 0.0
                        k.cov[STATES:, :STATES] = 0.0
                    follow(k, dt, v, current, speed)
                    _round(k, scale)
                answers[r, t, 3 + at_i] = k.x[0]
                answers[r, t, 3 + at_w] = k.x[1]

    compiled = kept(motors, fastmath={"contract"})
    signature = (types.int64,)
    compiled.compile(signature)
    entry: Callable[[int], None] = compiled.overloads[signature].entry_point
    return entry


class Motors:
    """N filters of one checkpoint's motor."""

    def __init__(self, tensors: Mapping[str, Array], rows: int) -> None:
        self.rows = rows
        self._follow = follower()
        self._model, self._memory = np.zeros(_MODEL), np.zeros((rows, _ROW))
        self.answer = self._answer = np.zeros((rows, 1, ANSWER), np.float32)
        self.load(tensors)

    def load(self, tensors: Mapping[str, Array]) -> None:
        """Take a checkpoint's tensors, and forget all samples."""
        values, covariance, noise, scale, (dt, at_i, at_w) = (
            np.asarray(tensors[name], np.float64)
            for name in ("values", "covariance", "noise", "scale", "clock")
        )
        unit = np.array([values[2] ** 2 / values[0], noise[3]])
        scales = np.array([*scale[1:][[int(at_i), int(at_w)]], noise[3]])
        self._model[:_GIVEN] = np.concatenate((values, unit, noise, scales, [dt, at_i, at_w]))
        covariance = 0.5 * (covariance + covariance.T) + np.diag(np.square(WALK))
        wide = np.minimum(1.0, np.array(WIDE) / np.sqrt(np.maximum(np.diag(covariance), 1e-30)))
        self._covariance = covariance * np.outer(wide, wide)
        self.units = unit
        self.reset()

    def reset(self, *, learned: bool = True) -> None:
        """Forget all samples, and, unless `learned` is False, what they taught about the parameters."""
        memory = self._memory
        keep = (memory[:, 109:110] > 0.0) & (not learned)  # before the first sample there is nothing to keep
        covariance = memory[:, 9:90].reshape(-1, JOINT, JOINT)[:, STATES:, STATES:].copy()
        values = memory[:, 100:108].copy()
        changes = memory[:, STATES:JOINT].copy()
        memory[:] = 0.0
        memory[:, STATES:JOINT] = np.where(keep, changes, 0.0)
        memory[:, 100:108] = np.where(keep, values, self._model[:8])
        memory[:, 9:90].reshape(-1, JOINT, JOINT)[:, STATES:, STATES:] = np.where(
            keep[:, :, None], covariance, self._covariance
        )

    def call(self, z: npt.NDArray[np.float32], answers: npt.NDArray[np.float32], adapting: bool) -> Array:
        """The arguments with which the kernel follows z (N, T, 3), all in one piece."""
        addresses = (a.ctypes.data for a in (self._model, self._memory, z, answers))
        return np.array([*addresses, self.rows, z.shape[1], adapting], np.int64)

    def follow(self, z: Array, adapting: bool = False) -> npt.NDArray[np.float32]:
        """Follow samples z (N, T, 3): what `ANSWER` says, (N, T, 5)."""
        z = np.ascontiguousarray(z, np.float32)
        answers = np.empty((*z.shape[:2], ANSWER), np.float32)
        self._follow(self.call(z, answers, adapting).ctypes.data)
        return answers

    def free_run(self, z: Array, u: Array) -> npt.NDArray[np.float32]:
        """Fed with its own answers, from samples z (N, 3) with inputs u (N, T, 1): y (N, T, 2); then all is
        as it was."""
        kept = self._memory.copy()
        run = np.empty((*u.shape[:2], 2), np.float32)
        sample = np.ascontiguousarray(z[:, None], np.float32).copy()
        call = self.call(sample, self._answer, False)
        for k in range(u.shape[1]):
            self._follow(call.ctypes.data)
            run[:, k] = self._answer[:, 0, 3:]
            sample[:, 0, 0] = u[:, k, 0]
            sample[:, 0, 1:] = run[:, k]
        self._memory[...] = kept
        return run

    @property
    def memory(self) -> Array:
        """All of it, to be copied and put back."""
        return self._memory

    @property
    def state(self) -> npt.NDArray[np.float32]:
        """(N, 13) as a copy."""
        parts = [self._memory[:, :STATES] / self._scale(1)]
        cov = self._memory[:, 9:90].reshape(-1, JOINT, JOINT)
        parts.append(cov[(slice(None), *_TRIANGLE)] / self._scale(2))
        return np.concatenate((*parts, self._memory[:, 90:94]), axis=1).astype(np.float32)

    @state.setter
    def state(self, state: npt.NDArray[np.float32]) -> None:
        given = np.asarray(state, np.float64)
        memory = self._memory
        memory[:, :STATES] = given[:, :STATES] * self._scale(1)
        cov = memory[:, 9:90].reshape(-1, JOINT, JOINT)
        cov[:, :STATES, :] = 0.0
        cov[:, :, :STATES] = 0.0
        lower = given[:, STATES:9] * self._scale(2)
        cov[(slice(None), *_TRIANGLE)] = lower
        cov[(slice(None), *_TRIANGLE[::-1])] = lower
        memory[:, 90:94] = given[:, 9:]
        memory[:, 108] = 0.0
        memory[:, 109] = (
            given[:, STATES + 5] > 0.0
        )  # the load's variance is zero only before the first sample

    def _scale(self, order: int) -> Array:
        scale = self._model[12:15]
        return scale if order == 1 else np.asarray(np.outer(scale, scale)[_TRIANGLE])

    def parameters(self, row: int = 0) -> tuple[Array, Array]:
        """R, L, K, J, b, τ_c (6,) now, and their standard errors (6,), in SI units."""
        memory = self._memory[row]
        values = memory[100:106].copy()
        variance = np.diag(memory[9:90].reshape(JOINT, JOINT))[STATES:]
        if not memory[109]:
            variance = np.diag(self._covariance)
        unit = np.concatenate((values[:4], self.units))
        return values, np.sqrt(np.maximum(variance, 0.0)) * unit


_TRIANGLE: Final = (np.array([0, 1, 1, 2, 2, 2]), np.array([0, 0, 1, 0, 1, 2]))
