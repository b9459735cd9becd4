"""Steps by machine code for this CPU (`twin.kernels`): a few hundred nanoseconds each, without torch."""

from __future__ import annotations

import threading
from typing import Any, Final, NoReturn

import numba
import numpy as np
import numpy.typing as npt
from numba.core.registry import cpu_target

from twin.checkpoint import Checkpoint, check
from twin.errors import SpecError
from twin.kernels.follow import TILE, follower
from twin.kernels.layout import block, fill, layout_of
from twin.models import Sizes, check_sizes, state_size
from twin.predictor import check_shape

PARALLEL: Final = 2_048
"""Rows from which on all cores step together; fewer are done before the others have woken up. A process that
has done so must not fork and step in the child: the threads stay behind."""

_WORK: Final = 2**25  # products of one call of `warm`, a millisecond: then other threads come to their turn
_ONE_AT_A_TIME: Final = threading.Lock()  # not every layer of Numba's threads serves two callers
cpu_target.target_context.refresh()  # as the first kernel would, and a loop wait for it: 40 ms


class Compiled:
    """The `Predictor` on Numba. Its memory is made at once; a step allocates none."""

    def __init__(self, checkpoint: Checkpoint, rows: int) -> None:
        if rows < 1:
            raise SpecError(f"{rows} rows: a predictor has at least one")
        check(checkpoint)
        self.rows = rows
        self.number = checkpoint.number
        self._layout = layout = layout_of(checkpoint.family, checkpoint.sizes)
        self._state_size = state_size(checkpoint.family, checkpoint.sizes)
        tile = TILE if rows >= TILE else 1
        self._threads = numba.get_num_threads() if rows >= PARALLEL else 1
        self._follow = follower(layout, tile, self._threads > 1)
        self._run = self._follow if self._threads == 1 else self._run_alone
        self._weights = block(layout.scratch + self._threads * tile * layout.blocks * layout.lanes)
        fill(self._weights, layout, checkpoint.tensors)
        self._block = block(-(-rows // tile) * tile * layout.row)
        self._rows = self._block.reshape(-1, layout.row)[:rows]  # (N, row)
        self._y = self._rows[:, layout.y : layout.y + layout.outputs]
        self._portion = max(1, _WORK // (layout.scratch * rows))
        self.sample = self._sample = np.zeros((rows, layout.features), np.float32)
        self._shape = self._sample.shape
        self._step = self._call(self._sample, 1)
        self._step_at = self._step.ctypes.data

    def _call(self, z: npt.NDArray[np.float32], steps: int) -> npt.NDArray[np.int64]:
        """The arguments with which the kernel follows samples z (N, T, F) in one piece of memory."""
        addresses = (a.ctypes.data for a in (self._weights, self._block, z))
        return np.array([*addresses, self.rows, steps, self._threads], np.int64)

    @property
    def state(self) -> npt.NDArray[np.float32]:
        """All that it remembers, (N, S), as a copy."""
        return np.concatenate([part.reshape(self.rows, -1) for part in self._parts()], axis=1)

    @state.setter
    def state(self, state: npt.NDArray[np.float32]) -> None:
        check_shape("state", state, (self.rows, self._state_size))
        state = np.asarray(state, np.float32)  # what is no number is refused before anything is changed
        self.reset()
        place = 0
        for part in self._parts():
            end = place + part[0].size
            part[...] = state[:, place:end].reshape(part.shape)
            place = end

    def _parts(self) -> list[npt.NDArray[np.float32]]:
        """Views of the state in memory, each (N, ...), in the order in which a state has them."""
        layout, rows = self._layout, self._rows
        samples = rows[:, layout.samples + layout.features : layout.samples + layout.taps * layout.features]
        if layout.windowed:
            return [rows[:, layout.mark : layout.mark + 1], samples]
        places = [layout.h, 0] if layout.h else [0]  # h of all layers, then c
        parts = [rows[:, place : place + layout.layers * layout.lanes] for place in places]
        units = [part.reshape(self.rows, layout.layers, -1)[:, :, : layout.hidden] for part in parts]
        return [*units, samples]

    def reset(self) -> None:
        """Forget all samples."""
        self._block[...] = 0.0

    def warm(self, z: npt.NDArray[Any]) -> None:
        """Follow samples z (N, T, F) without answering; a window is one compiled call."""
        check_shape("z", z, (self.rows, z.shape[1] if z.ndim == 3 else -1, self._layout.features))
        for start in range(0, z.shape[1], self._portion):
            portion = np.ascontiguousarray(z[:, start : start + self._portion], np.float32)
            call = self._call(portion, portion.shape[1])
            self._run(call.ctypes.data)

    def step(self, z: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Follow one sample z (N, F), and answer the y (N, P) expected of the next one."""
        if z is not self._sample:
            if z.shape != self._shape:  # asked here too, because a call costs as much as a fifth of the step
                check_shape("z", z, self._shape)
            self._sample[...] = z
        self._run(self._step_at)
        return self._y

    def _run_alone(self, call: int) -> None:
        with _ONE_AT_A_TIME:
            self._follow(call)

    def free_run(self, z: npt.NDArray[Any], u: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Simulate from z (N, F) with inputs u (N, T, U): y (N, T, P) at the instants of u."""
        layout = self._layout
        check_shape("z", z, self._shape)
        check_shape("u", u, (self.rows, u.shape[1] if u.ndim == 3 else -1, layout.inputs))
        sample, u = self._sample, np.asarray(u, np.float32)
        run = np.empty((self.rows, u.shape[1], layout.outputs), np.float32)
        sample[...] = z
        kept = self._rows.copy()
        for k in range(u.shape[1]):
            run[:, k] = self.step(sample)
            sample[:, : layout.inputs] = u[:, k]
            sample[:, layout.inputs :] = run[:, k]
        self._rows[...] = kept
        return run

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a predictor works on memory of its own and is not copied or pickled; "
            "open another one of the same checkpoint, and set its state"
        )


def prepare(family: str, sizes: Sizes) -> None:
    """Compile what a twin with such a model needs, if no process on this machine has done so before.

    Raises:
        SpecError: sizes that are no model's.
    """
    follower(layout_of(family, check_sizes(family, sizes)))
