"""Recurrent networks in training on a CPU: `twin.kernels.through_time` as one operation of torch.

Eager torch spends a refit on launching some fifty operations a step, forward and backward, each on a few
thousand numbers. Here both passes are one compiled call each. What is left is the way there and back: arrays
with the batch last, whole vectors of it, and weights in the order in which the passes read them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from twin.families import Cell
from twin.kernels.differentiable import CELLS
from twin.kernels.through_time import backward_pass, forward_pass
from twin.kernels.vectors import LANES, padded

Array = npt.NDArray[Any]


def serves(x: Tensor) -> bool:
    """Whether the compiled passes can take such a tensor."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and x.numel() > 0


class Block:
    """Memory for the arrays of one pass, taken from what earlier ones have left.

    A pass writes some megabytes, and new pages from the system would cost as much as all that is computed.
    """

    _spare: ClassVar[list[Array]] = []
    _KEPT: Final = 4  # blocks; a refit has three passes under way at once

    def __init__(self, dtype: Any, *shapes: tuple[int, ...], zeros: bool = False) -> None:
        sizes = [math.prod(shape) for shape in shapes]
        self._memory, place = self._take(sum(sizes), dtype), 0
        if zeros:
            self._memory[: sum(sizes)] = 0.0
        self.arrays: list[Array] = []
        for shape, size in zip(shapes, sizes, strict=True):
            self.arrays.append(self._memory[place : place + size].reshape(shape))
            place += size

    def _take(self, size: int, dtype: Any) -> Array:
        for _ in range(len(self._spare)):
            with contextlib.suppress(IndexError):  # another thread was faster
                memory = self._spare.pop(0)
                if memory.dtype == dtype and len(memory) >= size:
                    return memory
                self._spare.append(memory)
        return np.empty(size, dtype)

    def __del__(self) -> None:
        self._spare.append(self._memory)
        del self._spare[: -self._KEPT]


class ThroughTime(torch.autograd.Function):
    """A sequence or a free run, from scaled samples x (N, T, F) and a state (N, S), and the gradient back.

    The answers (N, T, P) are the increments Δy, with `gain` (P,) y itself: then it runs free, and the y of
    all samples after the first are filled in. It also returns the state (N, S) after the last sample.
    `weights` are the readout's [C D] and d, then W_x, W_h, b_x and b_h of each layer, as torch keeps them.
    """

    @staticmethod
    def forward(
        ctx: Any, cell: Cell, taps: int, x: Tensor, state: Tensor, gain: Tensor | None, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The answers and the last state; what the way back needs stays in a block of memory."""
        sizes = _Sizes(cell, taps, x, weights)
        packed = _packed(sizes, weights)
        block = Block(packed[0].dtype, *sizes.kept())
        out, samples, gates, *states = block.arrays
        rows, columns = sizes.rows, state.detach().numpy().T
        samples[..., rows:] = 0.0
        samples[taps - 1 :, :, :rows] = x.detach().numpy().transpose(1, 2, 0)
        firsts = [a[:, 0] for a in states]
        for first in firsts:
            first[..., rows:] = 0.0
        _scatter(columns, rows, *firsts, samples[: taps - 1])
        run_gain = _gain(gain, out)
        forward_pass(cell)(gain is not None, samples, states[0], states[-1], gates, out, *packed, run_gain)
        ctx.save_for_backward(*weights)
        ctx.sizes, ctx.gain, ctx.block, ctx.packed = sizes, gain, block, packed
        answers = torch.from_numpy(np.ascontiguousarray(out[..., :rows].transpose(2, 0, 1)))
        return answers, _gather(rows, *(a[:, -1] for a in states), samples[sizes.steps :])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_answers: Tensor, d_state: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, the state and all weights."""
        sizes, taps, rows = ctx.sizes, ctx.sizes.taps, ctx.sizes.rows
        _, samples, gates, *states = ctx.block.arrays
        block = Block(samples.dtype, *sizes.gradients(), zeros=True)
        out, dh, dc, dx, *others = block.arrays
        out[..., :rows] = d_answers.numpy().transpose(1, 2, 0)
        carried = [dh, dc][: len(states)]
        _scatter(d_state.numpy().T, rows, *carried, dx[sizes.steps :])
        _ = ctx.saved_tensors  # where weights were changed meanwhile, torch says so
        first, above, w_h, _, readout, direct, _ = ctx.packed
        transposed = (np.ascontiguousarray(w.swapaxes(-1, -2)) for w in (first, above, w_h, readout, direct))
        arrays = (*block.arrays, samples, states[0], states[-1], gates, *transposed, _gain(ctx.gain, out))
        others[-1][:] = 1.0
        free = ctx.gain is not None
        backward_pass(sizes.cell)(free, free or any(ctx.needs_input_grad[2:4]), *arrays)
        d_x = None
        if ctx.needs_input_grad[2]:
            d_x = torch.from_numpy(np.ascontiguousarray(dx[taps - 1 :, :, :rows].transpose(2, 0, 1)))
        gradients = (torch.from_numpy(a) for a in _unpacked(sizes, others))
        return None, None, d_x, _gather(rows, *carried, dx[: taps - 1]), None, *gradients


class _Sizes:
    """How large everything is."""

    def __init__(self, cell: Cell, taps: int, x: Tensor, weights: Sequence[Tensor]) -> None:
        self.cell, self.taps = cell, taps
        self.rows, self.steps, self.features = x.shape
        self.outputs, self.hidden, self.layers = len(weights[1]), weights[3].shape[1], len(weights) // 4
        self.columns, self.length = padded(self.rows), taps - 1 + self.steps
        self.lanes = 4 * LANES // x.element_size()
        self.blocks, self.feeds = CELLS[cell].blocks * self.hidden, CELLS[cell].gates * self.hidden

    def kept(self) -> list[tuple[int, ...]]:
        """Answers, samples, gates, h, and c if there is one, of the pass forward."""
        layers, columns = self.layers, self.columns
        states = [(layers, self.steps + 1, self.hidden, columns)] * (2 if self.cell is Cell.LSTM else 1)
        samples = (self.length, self.features, columns)
        return [
            (self.steps, self.outputs, columns),
            samples,
            (layers, self.steps, self.blocks, columns),
            *states,
        ]

    def gradients(self) -> list[tuple[int, ...]]:
        """All that the pass back writes, in its order."""
        layers, hidden, columns, feeds = self.layers, self.hidden, self.columns, self.feeds
        wide, lanes = padded(hidden), self.lanes
        return [
            (self.steps, self.outputs, columns),
            (layers, hidden, columns),
            (layers, hidden, columns),
            (self.length, self.features, columns),
            (feeds, self.features * lanes),
            (layers - 1, feeds, wide),
            (layers, feeds, wide),
            (layers, self.blocks, lanes),
            (self.outputs, wide),
            (self.outputs, self.taps * self.features * lanes),
            (self.outputs, lanes),
            (self.blocks, columns),
            (layers, columns, wide),
            (1, columns),
        ]


def _gain(gain: Tensor | None, out: Array) -> Array:
    found: Array = np.ones(out.shape[1], out.dtype) if gain is None else gain.detach().numpy()
    return found


def _scatter(state: Array, rows: int, *parts: Array) -> None:
    """Write a state (S, N) to its parts (..., columns)."""
    place = 0
    for part in parts:
        end = place + math.prod(part.shape[:-1])
        part[..., :rows] = state[place:end].reshape(*part.shape[:-1], rows)
        place = end


def _gather(rows: int, *parts: Array) -> Tensor:
    """The state (N, S) of its parts (..., columns)."""
    return torch.from_numpy(np.concatenate([a[..., :rows].reshape(-1, rows) for a in parts]).T)


def _packed(sizes: _Sizes, weights: Sequence[Tensor]) -> list[Array]:
    """Weights as `forward_pass` takes them: torch has GRU's gates in the order r z n, and not divided D."""
    readout, offset, *layers = (w.detach().numpy() for w in weights)
    hidden = sizes.hidden
    w_x, w_h, b_x, b_h = (layers[i::4] for i in range(4))
    if sizes.cell is Cell.GRU:
        w_x = [_n_first(w, hidden) for w in w_x]
        biases = [
            np.concatenate((b[-hidden:], (b + d)[:-hidden], d[-hidden:]))
            for b, d in zip(b_x, b_h, strict=True)
        ]
    else:
        biases = [b + d for b, d in zip(b_x, b_h, strict=True)]
    above = np.stack(w_x[1:]) if len(w_x) > 1 else np.empty((0, sizes.feeds, hidden), w_x[0].dtype)
    direct = readout[:, hidden:] / readout.dtype.type(sizes.taps)
    of_h = np.ascontiguousarray(readout[:, :hidden])
    return [np.ascontiguousarray(w_x[0]), above, np.stack(w_h), np.stack(biases), of_h, direct, offset]


def _unpacked(sizes: _Sizes, packed: Sequence[Array]) -> list[Array]:
    """The gradients of torch's weights from those of the packed ones, whose memory is not theirs to keep."""
    first, above, of_h, bias, readout, direct, offset = packed[:7]
    hidden, ones = sizes.hidden, np.ones(sizes.lanes, first.dtype)
    # a product with ones is a sum, and several times as fast
    of_first, of_bias, of_taps, of_offset = (
        a.reshape(*a.shape[:-1], -1, sizes.lanes) @ ones for a in (first, bias, direct, offset)
    )
    of_taps /= direct.dtype.type(sizes.taps)
    gradients = [np.concatenate((readout[:, :hidden], of_taps), 1), of_offset[:, 0]]
    for layer, b in enumerate(of_bias[..., 0]):
        w_x = above[layer - 1, :, :hidden] if layer else of_first
        b_x = b_h = b
        if sizes.cell is Cell.GRU:
            w_x, b_x, b_h = _n_last(w_x, hidden), _n_last(b[:-hidden], hidden), b[hidden:]
        gradients += [w_x.copy(), of_h[layer, :, :hidden].copy(), b_x, b_h.copy()]
    return gradients


def _n_first(a: Array, hidden: int) -> Array:
    return np.concatenate((a[-hidden:], a[:-hidden]))


def _n_last(a: Array, hidden: int) -> Array:
    return np.concatenate((a[hidden:], a[:hidden]))
