"""The step itself, compiled for a layout: take in samples, answer the next outputs.

`twin.kernels.cache` keeps the machine code on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit, prange, types

from twin.kernels.adapt import correct, learn, store_of
from twin.kernels.cache import kept
from twin.kernels.cells import cell
from twin.kernels.layout import Layout
from twin.kernels.vectors import accumulate, copy, dot, integer, load, pointer, store

TILE: Final = 4
"""Rows that a fleet's kernel takes together, so that a weight that was loaded serves all of them."""

_ZERO: Final = np.float32(0.0)
_ONE: Final = np.float32(1.0)
_MAX_SEEN: Final = np.float32(2**20)  # samples counted; float32 would stop counting at 2**24
_INLINE: Final[dict[str, Any]] = {"fastmath": {"contract"}, "forceinline": True}

Follow = Callable[[int], None]


class Call(NamedTuple):
    """Places among the 64-bit integers with which a follower is called: addresses and numbers."""

    weights: int
    rows: int
    z: int
    """Samples (N, T, F)."""
    n: int
    """N, at least 1, and rows for whole tiles."""
    steps: int
    """T, at least 1."""
    threads: int
    learned: int
    """What `twin.kernels.adapt` keeps for one twin, or 0 to answer as the weights say."""
    learning: int
    """Whether to learn from these samples."""


CALL: Final = Call(*range(len(Call._fields)))
_SIGNATURE: Final = (types.int64,)


@njit(**_INLINE)
def _take(p: Any, mean: Any, q: Any, samples: Any, z: Any, at: Any, features: Any, taps: Any) -> None:
    """Scale the sample at z[at], and append it to the newest samples."""
    last = samples + (taps - 1) * features
    for i in range(samples, last):
        store(q, i, load(q, i + features))
    for f in range(features):
        x = load(z, at + f) - load(p, mean + f)
        store(q, last + f, x * load(p, mean + features + f))


@njit(**_INLINE)
def _begin_window(q: Any, samples: Any, mark: Any, features: Any, taps: Any) -> None:
    """Before the first sample, which is the newest, all others were like it."""
    if load(q, mark) == 0:
        for i in range((taps - 1) * features):
            store(q, samples + i, load(q, samples + (taps - 1) * features + i % features))
        store(q, mark, _ONE)


@njit(**_INLINE)
def _begin_answer(p: Any, bias: Any, q: Any, y: Any, z: Any, at: Any, outputs: Any) -> None:
    """ŷ = y(k) + bias: what the readout adds to."""
    for i in range(outputs):
        store(q, y + i, load(z, at + i) + load(p, bias + i))


@njit(**_INLINE)
def _answer(p: Any, readout: Any, reach: Any, q: Any, h: Any, y: Any, span: Any, outputs: Any) -> None:
    """ŷ += the readout of what begins at h, of each output i at readout + i reach."""
    for i in range(outputs):
        store(q, y + i, load(q, y + i) + dot(p, readout + i * reach, q, h, span))


def follower(layout: Layout, tile: int = 1, parallel: bool = False) -> Follow:
    """What takes in samples, and leaves in each row its state and the ŷ after the last of them.

    It is called with the address of the integers that `Call` names. Nothing is checked: that is the caller's
    to do. As arguments they would cost 10 to 15 ns each.

    A single twin's step keeps Python's lock: to give it back and take it again costs as much as the step, and
    whoever took it meanwhile would be waited for. A fleet's runs without the lock.
    """
    # the dispatcher would look at the types of the arguments again at each call
    entry: Follow = compiled(layout, tile, parallel).overloads[_SIGNATURE].entry_point
    return entry


@lru_cache(maxsize=64)
def compiled(layout: Layout, tile: int = 1, parallel: bool = False) -> Any:
    """The follower as other compiled code calls it."""
    # constants, from here on: what the function below finds in its closure is part of its machine code
    kind, layers, gates = layout.cell, layout.layers, layout.gates
    features, inputs, outputs, hidden = layout.features, layout.inputs, layout.outputs, layout.hidden
    taps, lanes, wide, size = layout.taps, layout.lanes, layout.blocks * layout.lanes, layout.row
    above, second, readout, reach = layout.layer, layout.second, layout.readout, layout.reach
    bias, mean, scratch, windowed = layout.bias, layout.mean, layout.scratch, layout.windowed
    h_at, samples_at, y_at, mark_at = layout.h, layout.samples, layout.y, layout.mark
    columns, skip, head = gates * lanes, wide - gates * lanes, layout.head
    span = lanes if windowed else reach  # of the readout that one pass through the layers feeds
    kept_places, regressors = store_of(layout), layout.regressors
    one_at, answers_at = layout.one, layout.answers
    adapts = tile == 1 and not parallel and not windowed

    def follow(call: Any) -> None:
        n, steps, threads = integer(call, CALL.n), integer(call, CALL.steps), integer(call, CALL.threads)
        tiles = (n + tile - 1) // tile
        for thread in prange(threads):
            p = pointer(integer(call, CALL.weights))
            q = pointer(integer(call, CALL.rows))
            z = pointer(integer(call, CALL.z))
            g = scratch + thread * tile * wide  # the sums of a layer
            f = pointer(integer(call, CALL.learned))
            corrects = adapts and integer(call, CALL.learned) != 0
            learns = corrects and integer(call, CALL.learning) != 0
            for k in range(tiles * thread // threads, tiles * (thread + 1) // threads):
                base = k * tile * size
                for t in range(steps):
                    if learns and load(q, base + mark_at) > taps:  # all taps are measured, and this follows
                        phi = base + samples_at - lanes
                        zeros, gain, p_at = kept_places.zeros, kept_places.gain, kept_places.p
                        accumulate(f, zeros, 0, gain, 0, p_at, q, phi, 0, 1, regressors, regressors)
                        answers, past = base + answers_at, base + one_at + 1
                        learn(f, kept_places, q, phi, past, answers, z, t * features + inputs, taps)
                    for r in range(tile):
                        row = base + r * size
                        # what fills up the last tile repeats the last sample, and is of no use
                        at = (min(k * tile + r, n - 1) * steps + t) * features
                        _take(p, mean, q, row + samples_at, z, at, features, taps)
                        if windowed:
                            _begin_window(q, row + samples_at, row + mark_at, features, taps)
                        _begin_answer(p, bias, q, row + y_at, z, at + inputs, outputs)
                    first = taps - 1
                    if windowed:  # nothing is carried but the samples: only the last window counts
                        first = 0 if t == steps - 1 else taps
                    for tap in range(first, taps):
                        for layer in range(layers):
                            h = base + h_at + layer * lanes
                            w = 0 if layer == 0 else second + (layer - 1) * above
                            # a window begins at h = 1, and its share of the sums is known
                            known = windowed and tap == 0
                            b = w + wide if known else w
                            for r in range(tile):  # the block of sums that x does not feed
                                copy(p, g + r * wide + columns, w + columns, skip)
                            if layer == 0:
                                x = base + samples_at + tap * features
                                accumulate(p, b, 0, g, wide, w + head, q, x, size, tile, features, columns)
                                w += head + features * columns
                            else:
                                x = h - lanes
                                accumulate(p, b, 0, g, wide, w + head, q, x, size, tile, hidden, columns)
                                w += head + hidden * columns
                            s = g + skip
                            if not known:
                                accumulate(p, s, wide, s, wide, w, q, h, size, tile, hidden, columns)
                            for r in range(tile):
                                row = h + r * size
                                cell(kind, p, g + r * wide, q, row, row - h_at, lanes)
                        c = readout + (tap - first) * lanes
                        for r in range(tile):
                            row = base + r * size
                            last_h = row + samples_at - lanes
                            _answer(p, c, reach, q, last_h, row + y_at, span, outputs)
                    if corrects:
                        store(q, base + one_at, _ONE)
                        if not learns:
                            for i in range(outputs):  # of its own predictions
                                store(q, base + one_at + 1 + i, _ZERO)
                        last_h = base + samples_at - lanes
                        correct(f, kept_places, q, last_h, base + y_at, base + answers_at)
                        seen = load(q, base + mark_at)
                        store(q, base + mark_at, min(seen + _ONE, _MAX_SEEN) if learns else _ZERO)

    function = kept(follow, layout, tile, nogil=tile > 1, parallel=parallel, fastmath={"contract"})
    function.compile(_SIGNATURE)
    return function
