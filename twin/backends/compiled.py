"""Steps by machine code for this CPU (`twin.kernels`): a few hundred nanoseconds each, without torch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Final, NoReturn

import numba
import numpy as np
import numpy.typing as npt

from twin.checkpoint import Checkpoint, check
from twin.families import NETWORK, Sizes, family_of, network_sizes, state_size
from twin.kernels.adapt import forget, learned_by, open_store, store_of
from twin.kernels.follow import CALL, TILE, Call, follower
from twin.kernels.free_run import Run, free_runner
from twin.kernels.layout import Layout, block, fill, layout_of
from twin.kernels.rls import TRIAL_SAMPLES, noise_of
from twin.predictor import check_shape

MIN_PARALLEL_ROWS: Final = 2_048
"""Rows from which on all cores step together: fewer are done before other threads have woken up. A process
that has done so must not fork and step in the child, which has no such threads."""

_MAX_WARM_PRODUCTS: Final = 2**25  # in one call of `warm`, a millisecond: then other threads can run
_ONE_AT_A_TIME: Final = threading.Lock()  # not every layer of Numba's threads serves two callers


class Compiled:
    """The `Predictor` on Numba. Its memory is made at once; a step allocates none.

    It adapts where it serves one twin (`twin.kernels.rls`); a fleet's rows share their weights, and the
    window network has no hidden state to learn from: there `adapting` has no effect.
    """

    quick: ClassVar[bool] = True

    def __init__(self, checkpoint: Checkpoint, rows: int, *, fork: bool = False) -> None:
        check(checkpoint)
        self._layout = layout = layout_of(checkpoint.family, checkpoint.sizes)
        # a fork takes the code that is at hand: a twin would wait for other code to be compiled
        tile = TILE if rows >= TILE and not fork else 1
        self._threads = numba.get_num_threads() if rows >= MIN_PARALLEL_ROWS and not fork else 1
        run = follower(layout, tile, self._threads > 1)
        self.run = run if self._threads == 1 else partial(_run_alone, run)
        self._weights = block(layout.scratch + self._threads * tile * layout.blocks * layout.lanes)
        fill(self._weights, layout, checkpoint.tensors)
        self._block = block(-(-rows // tile) * tile * layout.row)
        self._rows = self._block.reshape(-1, layout.row)[:rows]  # (N, row)
        self._y = self._rows[:, layout.y : layout.y + layout.outputs]
        learns = rows == 1 and not fork
        self._learned = _learned(layout, checkpoint, self._weights) if learns else None
        self.sample = self._sample = np.zeros((rows, layout.features), np.float32)
        self._shape = self.sample.shape
        self._checkpoint = checkpoint
        free_runner(layout)  # so that the first free run waits for no compiler
        self._step = self.call(self.sample, 1)
        self._step_at = self._step.ctypes.data

    def call(self, z: npt.NDArray[np.float32], steps: int) -> npt.NDArray[np.int64]:
        """The arguments with which the kernel follows samples z (N, T, F) in one piece of memory."""
        weights, rows, samples = (a.ctypes.data for a in (self._weights, self._block, z))
        learned, learning = self._step[CALL.learned :] if hasattr(self, "_step") else (0, 0)
        return np.array(
            Call(weights, rows, samples, self.rows, steps, self._threads, learned, learning), np.int64
        )

    def share(self, sample: npt.NDArray[np.float32]) -> None:
        """From now on read samples in this memory (N, F), which others may read as well."""
        self.sample = self._sample = sample
        self._step[CALL.z] = sample.ctypes.data

    @property
    def adapting(self) -> bool:
        """Whether a step takes its sample for a measurement, and learns from it."""
        return bool(self._step[CALL.learning])

    @adapting.setter
    def adapting(self, adapting: bool) -> None:
        if adapting and self._learned is not None:  # what was learned stays in use when it ends
            self._step[CALL.learned] = self._learned.ctypes.data
        self._step[CALL.learning] = adapting

    @property
    def rows(self) -> int:
        """N."""
        return len(self._rows)

    @property
    def number(self) -> int:
        """The number of the checkpoint that it runs."""
        return self._checkpoint.number

    @property
    def changes_found(self) -> int:
        """How often a change of the plant was detected since the last reset (`twin.kernels.rls`)."""
        return 0 if self._learned is None else int(self._learned[store_of(self._layout).changes])

    @property
    def trial(self) -> tuple[int, float, bool]:
        """How often a change of the plant was suspected since the last reset, the threshold, which rises when
        that was none, and whether a suspicion is still on trial (`twin.kernels.rls`)."""
        if self._learned is None:
            return 0, 0.0, False
        store = store_of(self._layout)
        count, threshold, age = (float(self._learned[i]) for i in (store.changes, store.threshold, store.age))
        return int(count), threshold, age <= TRIAL_SAMPLES

    @property
    def y(self) -> npt.NDArray[np.float32]:
        """Where the answers are, (N, P)."""
        return self._y

    @property
    def memory(self) -> npt.NDArray[np.float32]:
        """All rows, to be copied and put back."""
        return self._rows

    @property
    def parameters(self) -> Mapping[str, tuple[float, float]]:
        """A network has none that mean something."""
        return {}

    @property
    def state(self) -> npt.NDArray[np.float32]:
        """All that it remembers, (N, S), as a copy."""
        return np.concatenate([part.reshape(self.rows, -1) for part in self._parts()], axis=1)

    @state.setter
    def state(self, state: npt.NDArray[np.float32]) -> None:
        check_shape("state", state, (self.rows, state_size(self._checkpoint.family, self._checkpoint.sizes)))
        state = np.asarray(state, np.float32)  # what is no number is refused before anything is changed
        self.reset(learned=False)
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
        if not layout.layers:
            return [samples]
        places = [layout.h, 0] if layout.h else [0]  # h of all layers, then c
        parts = [rows[:, place : place + layout.layers * layout.lanes] for place in places]
        units = [part.reshape(self.rows, layout.layers, -1)[:, :, : layout.hidden] for part in parts]
        return [*units, samples]

    def reset(self, *, learned: bool = True) -> None:
        """Forget all samples, and what was learned from them."""
        self._block[...] = 0.0
        if learned and self._learned is not None and self._step[CALL.learned]:
            forget(self._learned, store_of(self._layout))

    def warm(self, z: npt.NDArray[Any]) -> None:
        """Follow samples z (N, T, F) without answering; a window is one compiled call."""
        check_shape("z", z, (self.rows, z.shape[1] if z.ndim == 3 else -1, self._layout.features))
        steps = max(1, _MAX_WARM_PRODUCTS // (self._layout.scratch * self.rows))
        for start in range(0, z.shape[1], steps):
            portion = np.ascontiguousarray(z[:, start : start + steps], np.float32)
            call = self.call(portion, portion.shape[1])
            self.run(call.ctypes.data)

    def step(self, z: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Follow one sample z (N, F), and answer the y (N, P) expected of the next one."""
        if z is not self._sample:
            if z.shape != self._shape:  # asked here too, because a call costs as much as a fifth of the step
                check_shape("z", z, self._shape)
            self._sample[...] = z
        self.run(self._step_at)
        return self._y

    def free_run(self, z: npt.NDArray[Any], u: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Simulate from z (N, F) with inputs u (N, T, U): y (N, T, P) at the instants of u."""
        layout = self._layout
        check_shape("z", z, self.sample.shape)
        check_shape("u", u, (self.rows, u.shape[1] if u.ndim == 3 else -1, layout.inputs))
        u = np.ascontiguousarray(u, np.float32)
        run = np.empty((self.rows, u.shape[1], layout.outputs), np.float32)
        sample, kept = np.array(z, np.float32), self._block.copy()
        call = self.call(sample, 1)
        call[CALL.threads], call[CALL.learning] = 1, 0  # its own answers teach it nothing
        more = np.array(Run(u.ctypes.data, run.ctypes.data, u.shape[1]), np.int64)
        free_runner(layout)(call.ctypes.data, more.ctypes.data)
        self._block[...] = kept
        return run

    def fork(self, rows: int) -> Compiled:
        """Another one for N rows, each in the state of the first row of this one, its weights as they are
        now."""
        other = Compiled(self._checkpoint, rows, fork=True)
        other.take_over(self)
        return other

    def take_over(self, other: Compiled) -> None:
        """Go on from where the first row of another predictor of the same checkpoint is, with what it
        learned."""
        layout = self._layout
        self._weights[: layout.scratch] = other._weights[: layout.scratch]
        self._rows[...] = other._rows[0]
        if other._learned is not None and other._step[CALL.learned]:
            readout = self._weights[layout.readout : layout.bias].reshape(layout.outputs, -1)
            readout += learned_by(other._learned, store_of(layout))
            one = layout.one - layout.samples + layout.lanes  # what only adapting twins have in their rows
            self._weights[layout.bias : layout.mean] += readout[:, one]
            readout[:, one:] = 0.0

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a predictor works on memory of its own and is not copied or pickled; "
            "open another one of the same checkpoint, and set its state"
        )


def _run_alone(run: Callable[[int], None], call: int) -> None:
    with _ONE_AT_A_TIME:
        run(call)


def _learned(
    layout: Layout, checkpoint: Checkpoint, weights: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32] | None:
    """Memory for what a model learns while it runs; None for a family that does not."""
    if layout.windowed:
        return None
    metrics, tensors = checkpoint.metrics, checkpoint.tensors
    rmse = np.array([metrics.get(f"one_step_rmse.{name}", np.nan) for name in checkpoint.spec.outputs])
    readout = weights[layout.readout : layout.bias].reshape(layout.outputs, -1)
    return open_store(layout, readout, tensors["increment_scale"], noise_of(tensors["increment_scale"], rmse))


def prepare(family: str, sizes: Sizes) -> None:
    """Compile what a twin with such a network needs, if no process on this machine has done so before."""
    if family_of(family).motor:
        family, sizes = NETWORK, network_sizes(sizes)
    layout = layout_of(family, sizes)
    follower(layout)
    free_runner(layout)
