"""A recurrent network over a whole sequence, and the gradient back through all of it, compiled.

    h(k) = cell(W_x x(k) + W_h h(k-1) + b, h(k-1));  Δy(k) = C h(k) + D [x(k-n+1) ... x(k)] + d

The backward pass is backpropagation through time (Werbos 1990): what the loss says of h(k) and of the samples
is carried from the last step to the first; the sums of each step add to it by the transposed weights. Run
free, y(k+1) = y(k) + gain Δy(k) is part of the next samples, and so of the way back. No step is cut off.

Everything is a matrix whose N columns are the rows of the batch, padded to whole vectors. A step's newest n
samples are then one piece of memory, and so are the gates that x and h feed: GRU has the sums n_x, r, z, n_h,
of which x feeds the first three and h the last three; in the other cells both feed all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from twin.kernels.cache import kept
from twin.kernels.differentiable import CELLS, cell, cell_back
from twin.kernels.matrices import add_dots, add_product, set_product, transpose

Pass = Callable[..., None]


@lru_cache
def forward_pass(kind: int) -> Pass:
    """The pass over a sequence: fills in h, c, gates and the answers, and run free also y in the samples.

    Its arguments are `free`, whether it runs free and answers y rather than Δy, and arrays. With n taps, L
    layers and `blocks` and `gates` of a cell: samples x (n-1+T, F, N), scaled; h, c (L, T+1, H, N), whose
    first step is given (c is h's own memory where a cell has none); gates (L, T, blocks H, N); answers
    (T, P, N); W_x (gates H, F) of the first layer and (L-1, gates H, H) of those above, W_h (L, gates H, H),
    bias (L, blocks H), the readout's C (P, H), D (P, n F) and d (P,); gain (P,).
    """
    kind = int(kind)  # a literal for the compiler
    gates_, blocks = CELLS[kind].gates, CELLS[kind].blocks

    def forward(free: Any, *arrays: Any) -> None:
        x, h, c, gates, out = arrays[0:5]
        w_first, w_above, w_h, bias, readout, direct, offset, gain = arrays[5:13]
        steps, outputs, columns = out.shape
        features, hidden = x.shape[1], w_h.shape[2]
        reach, feeds = direct.shape[1], gates_ * hidden
        first, skip = reach // features - 1, (blocks - gates_) * hidden
        rows = x.reshape(-1, columns)
        for t in range(steps):
            for layer in range(len(w_h)):
                sums, start, w, before = gates[layer, t], bias[layer], w_h[layer], h[layer, t]
                if layer == 0:
                    set_product(sums[:feeds], start, w_first, x[first + t])
                else:
                    set_product(sums[:feeds], start, w_above[layer - 1], h[layer - 1, t + 1])
                add_product(sums[skip:feeds], w, before)
                set_product(sums[feeds:], start[feeds:], w[feeds - skip :], before)
                cell(kind, sums, before, c[layer, t], c[layer, t + 1], h[layer, t + 1])
            set_product(out[t], offset, readout, h[-1, t + 1])
            add_product(out[t], direct, rows[t * features : t * features + reach])
            if free:
                now, last = x[first + t], t + 1 == steps
                for i in range(outputs):
                    f = features - outputs + i
                    for k in range(columns):
                        y = now[f, k] + gain[i] * out[t, i, k]
                        out[t, i, k] = y
                        if not last:
                            x[first + t + 1, f, k] = y

    compiled: Pass = kept(forward, kind, nogil=True, fastmath={"contract"})
    return compiled


@lru_cache
def backward_pass(kind: int) -> Pass:
    """The pass back, from the gradients of the answers to those of samples, first state and weights.

    `out` (T, P, N) is the gradient of Δy or, run free, of y; it becomes that of Δy. `dh`, `dc` (L, H, N) are
    those of the last state and become those of the first. To `dx` (n-1+T, F, N), unless it is not wanted, and
    to the gradients of the weights is added: of W_x (L-1, gates H, H) above the first layer, of W_h (L, gates
    H, H) and of C (P, H), the last axis of each filled up to whole vectors; and in partial sums, `lanes` for
    each number, of W_x (gates H, F), the biases (L, blocks H), D (P, n F) and d (P,). `scratch` (blocks H, N)
    is overwritten; `h_t` (L, N, H), filled up likewise, is zeros at first, `ones` (1, N) says it. The weights
    are transposed; the rest is what the pass forward left.
    """
    kind = int(kind)  # a literal for the compiler
    gates_, blocks = CELLS[kind].gates, CELLS[kind].blocks

    def backward(free: Any, wanted: Any, *arrays: Any) -> None:
        out, dh, dc, dx = arrays[0:4]
        d_first, d_above, d_w_h, d_bias, d_readout, d_direct, d_offset = arrays[4:11]
        scratch, h_t, ones, x, h, c, gates = arrays[11:18]
        w_first, w_above, w_h, readout, direct, gain = arrays[18:24]
        steps, outputs, columns = out.shape
        features, hidden = x.shape[1], dh.shape[1]
        reach, feeds = len(direct), gates_ * hidden
        first, skip = reach // features - 1, (blocks - gates_) * hidden
        rows, d_rows = x.reshape(-1, columns), dx.reshape(-1, columns)
        for layer in range(len(dh)):
            transpose(h_t[layer], h[layer, steps])
        for t in range(steps - 1, -1, -1):
            if free:
                now = dx[first + t]
                for i in range(outputs):
                    f = features - outputs + i
                    for k in range(columns):
                        later = dx[first + t + 1, f, k] if t + 1 < steps else out[t, i, k] * 0
                        now[f, k] += out[t, i, k] + later
                        out[t, i, k] = gain[i] * (out[t, i, k] + later)
            begin, end = t * features, t * features + reach
            add_dots(d_direct, out[t], rows[begin:end])
            add_dots(d_offset, out[t], ones)
            if wanted:
                add_product(d_rows[begin:end], direct, out[t])
            add_product(dh[-1], readout, out[t])
            add_product(d_readout, out[t], h_t[-1])
            for layer in range(len(dh) - 1, -1, -1):
                kept, before, after = gates[layer, t], c[layer, t], c[layer, t + 1]
                cell_back(kind, scratch, kept, h[layer, t], before, after, dc[layer], dh[layer])
                of_x, of_h = scratch[:feeds], scratch[skip:]
                add_product(dh[layer], w_h[layer], of_h)
                transpose(h_t[layer], h[layer, t])
                add_product(d_w_h[layer], of_h, h_t[layer])
                add_dots(d_bias[layer], scratch, ones)
                if layer > 0:
                    add_product(dh[layer - 1], w_above[layer - 1], of_x)
                    add_product(d_above[layer - 1], of_x, h_t[layer - 1])
                else:
                    add_dots(d_first, of_x, x[first + t])
                    if wanted:
                        add_product(dx[first + t], w_first, of_x)

    compiled: Pass = kept(backward, kind, nogil=True, fastmath={"contract"})
    return compiled
