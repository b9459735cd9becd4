"""The Triton kernel of `twin.backends.fused`: a recurrent model's steps, from samples to answer.

A program takes a tile of rows and keeps all that lies between sample and answer in registers. What then
limits it is arithmetic, some 7 kFLOP a row for a GRU of 32 units. It is float32 throughout, in fused
multiply-adds: the tf32 of the matrix units would cost three digits.

Shapes that a kernel is compiled for are written in capitals: F features of U inputs and P outputs, H hidden
units padded to WIDTH, BLOCK rows a tile, and the `taps` samples' features of the direct term padded to SPAN.
"""

from __future__ import annotations

import triton
import triton.language as tl

CHUNK = tl.constexpr(16)
"""Columns of a product that are multiplied at once; the least that a dot takes."""


@triton.jit  # type: ignore[untyped-decorator]
def _sigmoid(x: tl.tensor) -> tl.tensor:
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit  # type: ignore[untyped-decorator]
def _tanh(x: tl.tensor) -> tl.tensor:
    e = tl.exp(-2.0 * tl.abs(x))  # at most 1: it cannot overflow, and 1 - e is exact where it matters
    t = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0, -t, t)


@triton.jit  # type: ignore[untyped-decorator]
def _biases(at: tl.tensor, WIDTH: tl.constexpr, BLOCK: tl.constexpr) -> tl.tuple:
    """What the gates start from, four times (BLOCK, WIDTH); for a GRU r, z, and both sides of n."""
    at += tl.arange(0, WIDTH)[None, :]
    g0 = tl.broadcast_to(tl.load(at), (BLOCK, WIDTH))
    g1 = tl.broadcast_to(tl.load(at + WIDTH), (BLOCK, WIDTH))
    g2 = tl.broadcast_to(tl.load(at + 2 * WIDTH), (BLOCK, WIDTH))
    g3 = tl.broadcast_to(tl.load(at + 3 * WIDTH), (BLOCK, WIDTH))
    return g0, g1, g2, g3


@triton.jit  # type: ignore[untyped-decorator]
def _from_sample(
    g: tl.tuple,
    z: tl.tensor,
    inside: tl.tensor,
    scaling: tl.tensor,
    weights: tl.tensor,
    GATE: tl.constexpr,
    F: tl.constexpr,
    WIDTH: tl.constexpr,
) -> tl.tuple:
    """Add W x to each gate, feature by feature: a dot would pad the few that there are to 16."""
    g0, g1, g2, g3 = g
    unit = tl.arange(0, WIDTH)
    for f in tl.static_range(F):
        x = tl.load(z + f, mask=inside, other=0.0) - tl.load(scaling + f)
        x = (x * (1.0 / tl.load(scaling + F + f)))[:, None]  # one division for all rows
        w = weights + f * WIDTH + unit
        g0 += x * tl.load(w)[None, :]
        if GATE > 1:
            g1 += x * tl.load(w + F * WIDTH)[None, :]
            g2 += x * tl.load(w + 2 * F * WIDTH)[None, :]
        if GATE > 3:
            g3 += x * tl.load(w + 3 * F * WIDTH)[None, :]
    return g0, g1, g2, g3


@triton.jit  # type: ignore[untyped-decorator]
def _from_hidden(
    g: tl.tuple,
    h: tl.tensor,
    weights: tl.tensor,
    GATE: tl.constexpr,
    H: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tuple:
    """Add W h to each gate, for the H columns of BLOCK rows at `h`.

    A few columns at a time, and all gates in one pass: so the operands of the dots fit into registers, and a
    column is read once. Pipelined, for the next chunk is on its way while this one is multiplied.
    """
    g0, g1, g2, g3 = g
    unit, row = tl.arange(0, WIDTH)[None, :], tl.arange(0, BLOCK)[:, None]
    for start in tl.range(0, WIDTH, CHUNK, num_stages=2):
        column = start + tl.arange(0, CHUNK)
        a = tl.load(h + column[None, :] * BLOCK + row, mask=column[None, :] < H, other=0.0)
        w = weights + column[:, None] * WIDTH + unit
        g0 = tl.dot(a, tl.load(w), g0, input_precision="ieee")
        if GATE > 1:
            g1 = tl.dot(a, tl.load(w + WIDTH * WIDTH), g1, input_precision="ieee")
            g2 = tl.dot(a, tl.load(w + 2 * WIDTH * WIDTH), g2, input_precision="ieee")
        if GATE > 3:
            g3 = tl.dot(a, tl.load(w + 3 * WIDTH * WIDTH), g3, input_precision="ieee")
    return g0, g1, g2, g3


@triton.jit  # type: ignore[untyped-decorator]
def _advance(
    g: tl.tuple,
    own: tl.tensor,
    weights: tl.tensor,
    GATE: tl.constexpr,
    LAYERS: tl.constexpr,
    H: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """A layer's new h (BLOCK, WIDTH) from its gates' biases and inputs; it replaces the old one at `own`.

    Between two barriers, because the threads that read a number are not the one that writes it. Units beyond
    H have weights and biases of zero, and are not stored.
    """
    g0, g1, g2, g3 = g
    column = tl.arange(0, WIDTH)[None, :]
    at = own + column * BLOCK + tl.arange(0, BLOCK)[:, None]
    real = column < H
    if GATE == 3:  # GRU
        r, z, n, _ = _from_hidden((g0, g1, g3, g2), own, weights, GATE, H, WIDTH, BLOCK)
        n = _tanh(g2 + _sigmoid(r) * n)
        h = n + _sigmoid(z) * (tl.load(at, mask=real, other=0.0) - n)
        tl.debug_barrier()
    elif GATE == 4:  # LSTM
        i, f, n, o = _from_hidden(g, own, weights, GATE, H, WIDTH, BLOCK)
        c = tl.load(at + LAYERS * H * BLOCK, mask=real, other=0.0)
        c = _sigmoid(f) * c + _sigmoid(i) * _tanh(n)
        h = _sigmoid(o) * _tanh(c)
        tl.debug_barrier()
        tl.store(at + LAYERS * H * BLOCK, c, mask=real)
    else:
        n, _, _, _ = _from_hidden(g, own, weights, GATE, H, WIDTH, BLOCK)
        h = _tanh(n)
        tl.debug_barrier()
    tl.store(at, h, mask=real)
    tl.debug_barrier()
    return h


@triton.jit  # type: ignore[untyped-decorator]
def _cells(
    z: tl.tensor,
    inside: tl.tensor,
    state: tl.tensor,
    weights: tl.tensor,
    scaling: tl.tensor,
    GATE: tl.constexpr,
    LAYERS: tl.constexpr,
    F: tl.constexpr,
    H: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Take one sample through all layers; the last one's new h (BLOCK, WIDTH).

    A layer's weights are W_ih, W_hh, (gates, inputs, WIDTH) each, and four biases, (4, WIDTH).
    """
    matrix: tl.constexpr = GATE * WIDTH * WIDTH
    biases: tl.constexpr = 4 * WIDTH
    weights += GATE * F * WIDTH
    g = _biases(weights + matrix, WIDTH, BLOCK)
    g = _from_sample(g, z, inside, scaling, weights - GATE * F * WIDTH, GATE, F, WIDTH)
    h = _advance(g, state, weights, GATE, LAYERS, H, WIDTH, BLOCK)
    for layer in tl.range(1, LAYERS, num_stages=1):
        own = state + layer * H * BLOCK
        w = weights + matrix + biases + (layer - 1) * (2 * matrix + biases)
        g = _from_hidden(
            _biases(w + 2 * matrix, WIDTH, BLOCK), own - H * BLOCK, w, GATE, H, WIDTH, BLOCK
        )  # fmt: skip
        h = _advance(g, own, w + matrix, GATE, LAYERS, H, WIDTH, BLOCK)
    return h


@triton.jit  # type: ignore[untyped-decorator]
def _increments(
    h: tl.tensor,
    window: tl.tensor,
    readout: tl.tensor,
    offset: tl.tensor,
    P: tl.constexpr,
    WIDTH: tl.constexpr,
    SPAN: tl.constexpr,
    SPREAD: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Δy = C h + D window / n + d, (BLOCK, SPREAD): P columns, and what pads them."""
    output = tl.arange(0, SPREAD)[None, :]
    unit, column = tl.arange(0, WIDTH)[None, :], tl.arange(0, SPAN)[None, :]
    dy = tl.broadcast_to(tl.load(offset + output, mask=output < P, other=0.0), (BLOCK, SPREAD))
    for p in tl.static_range(P):
        own = tl.sum(h * tl.load(readout + p * WIDTH + unit), axis=1)
        own += tl.sum(window * tl.load(readout + P * WIDTH + p * SPAN + column), axis=1)
        dy = tl.where(output == p, dy + own[:, None], dy)
    return dy


@triton.jit  # type: ignore[untyped-decorator]
def follow(
    samples: tl.tensor,
    state: tl.tensor,
    answer: tl.tensor,
    cells: tl.tensor,
    readout: tl.tensor,
    scaling: tl.tensor,
    rows: int,
    STEPS: tl.constexpr,
    GATE: tl.constexpr,
    LAYERS: tl.constexpr,
    U: tl.constexpr,
    P: tl.constexpr,
    TAPS: tl.constexpr,
    H: tl.constexpr,
    S: tl.constexpr,
    WIDTH: tl.constexpr,
    SPAN: tl.constexpr,
    SPREAD: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Samples (N, T, F) in order; state (tiles, S, BLOCK), in place; y (N, P) expected after the last one.

    Each program follows the rows of one tile to the end: T steps need no launch of their own.
    """
    F: tl.constexpr = U + P
    older: tl.constexpr = (TAPS - 1) * F
    tile = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, BLOCK)
    inside = tile * BLOCK + row < rows
    z = samples + tile * BLOCK * STEPS * F + row * (STEPS * F)
    state += tile * (S * BLOCK)
    column = tl.arange(0, SPAN)[None, :]
    taps = state + (S - older + column) * BLOCK + row[:, None]
    feature = column - older
    newest = (feature >= 0) & (feature < F)
    mean = tl.load(scaling + feature, mask=newest, other=0.0)
    inverse = 1.0 / tl.load(scaling + F + feature, mask=newest, other=1.0)
    output = tl.arange(0, SPREAD)[None, :]
    asked = inside[:, None] & (output < P)
    for step in tl.range(STEPS, num_stages=1):
        # all of a sample is asked for at once: from the host's memory, each wait costs a microsecond
        y = tl.load(z[:, None] + U + output, mask=asked, other=0.0)
        window = tl.load(z[:, None] + feature, mask=inside[:, None] & newest, other=0.0)
        window = (window - mean) * inverse
        if TAPS > 1:
            window = tl.where(column < older, tl.load(taps, mask=column < older, other=0.0), window)
        h = _cells(z, inside, state, cells, scaling, GATE, LAYERS, F, H, WIDTH, BLOCK)
        if TAPS > 1:  # the barriers of the cells stand between this and the reading above
            tl.store(taps - F * BLOCK, window, mask=(column >= F) & (column < older + F))
            tl.debug_barrier()
        if step + 1 == STEPS:
            offset = scaling + 2 * F
            dy = _increments(h, window, readout, offset, P, WIDTH, SPAN, SPREAD, BLOCK)
            gain = tl.load(offset + P + output, mask=output < P, other=0.0)
            tl.store(answer + (tile * BLOCK + row)[:, None] * P + output, y + gain * dy, mask=asked)
        z += F
