"""Where weights and states are in memory: two blocks of float32, in which every place is a constant.

    weights   for each layer bias, W_x, W_h; the readout's rows [C D]; its bias; mean; 1 / scale; scratch
    rows      for each of N twins c and h of all layers, the newest samples, 1, the last innovations, ŷ, a
              mark, and the answers of three readouts: `twin.kernels.adapt` has also a block of its own

Hidden units are padded with zeros to whole vectors; a padded unit stays zero or does not count, as long as
all samples and sums are finite. Weights are
kept input-major: the column that one input adds to all gates of a layer lies in one piece. The scaling of
the outputs' increments is folded into the readout, the division by the number of taps too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twin.families import GATES, Cell, Sizes, family_of
from twin.kernels.vectors import LANES, padded


class Layout(NamedTuple):
    """Sizes, and places in numbers of float32 from the start of the block or row; made by `layout_of`."""

    cell: int
    """A `Cell`."""
    inputs: int
    features: int
    outputs: int
    hidden: int
    layers: int
    taps: int
    """Newest samples kept; for a network of windows, its window."""
    lanes: int
    """Hidden units, padded."""
    gates: int
    """Blocks of `lanes` numbers in a column of W_x or W_h."""
    blocks: int
    """Blocks of the sums of a layer. GRU has n's part of x, then r, z and n's part of h."""
    head: int
    """Numbers of a layer's bias; for a network of windows of two, the second, bias + W_h 1, for a window's
    beginning."""
    layer: int
    """Numbers of each layer above the first."""
    second: int
    """Where it begins."""
    readout: int
    """P rows; for a network of windows of a C for each sample of the window, otherwise of C and D."""
    reach: int
    """Numbers of such a row."""
    bias: int
    mean: int
    scratch: int
    """The sums of a layer, of a tile of rows; one such place for each thread. The end of the weights."""
    h: int
    """In a row: h of all layers, after their c."""
    samples: int
    """After h of the last layer, as D after C in the readout."""
    one: int
    """1, then the P last innovations: regressors that only the fast path has. Not in a network of windows."""
    y: int
    mark: int
    """For a network of windows: 0 before the first sample, then 1. For others: measured samples in a row."""
    answers: int
    """Three ŷ: the checkpoint's, the learning readout's, that of the one before it."""
    row: int
    """Numbers of a row."""

    @property
    def windowed(self) -> bool:
        """Whether nothing is carried but the samples."""
        return self.cell == Cell.WINDOW

    @property
    def regressors(self) -> int:
        """Numbers of h of the last layer, samples, 1 and innovations, which lie side by side."""
        return self.y - self.samples + self.lanes


def layout_of(family: str, sizes: Sizes) -> Layout:
    """The layout of a model of checked sizes."""
    inputs, outputs = sizes["inputs"], sizes["outputs"]
    hidden, layers = sizes.get("hidden_size", 0), sizes.get("layers", 0)  # a linear model has none
    cell = family_of(family).cell
    assert cell is not None
    features, lanes, gates = inputs + outputs, padded(hidden), GATES[cell]
    window = cell is Cell.WINDOW
    taps = sizes["window" if window else "taps"]
    blocks = 4 if cell is Cell.GRU else gates
    head = blocks * lanes * (2 if window else 1)
    layer = head + 2 * hidden * gates * lanes
    second = head + (features + hidden) * gates * lanes
    readout = second + max(layers - 1, 0) * layer
    memory = padded(taps * features + (0 if window else 1 + outputs))
    reach = taps * lanes if window else lanes + memory
    bias = readout + outputs * reach
    mean = bias + outputs
    h = layers * lanes if cell is Cell.LSTM else 0
    samples = h + layers * lanes
    y = samples + memory
    return Layout(
        cell=int(cell),
        inputs=inputs,
        features=features,
        outputs=outputs,
        hidden=hidden,
        layers=layers,
        taps=taps,
        lanes=lanes,
        gates=gates,
        blocks=blocks,
        head=head,
        layer=layer,
        second=second,
        readout=readout,
        reach=reach,
        bias=bias,
        mean=mean,
        scratch=padded(mean + 2 * features),
        h=h,
        samples=samples,
        one=samples + taps * features,
        y=y,
        mark=y + outputs,
        answers=y + outputs + 1,
        row=padded(y + 4 * outputs + 1),
    )


def block(length: int) -> npt.NDArray[np.float32]:
    """Zeros that begin at a whole vector, so that no load touches two cache lines."""
    memory = np.zeros(length + LANES, np.float32)
    start = -memory.ctypes.data // 4 % LANES
    return memory[start : start + length]


def fill(weights: npt.NDArray[np.float32], layout: Layout, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write a model's tensors (`twin.families.tensor_shapes`) to their places.

    What is too large for float32 once the scaling is folded in becomes infinite, and so do the answers.
    """
    with np.errstate(over="ignore"):
        _fill(weights, layout, tensors)


def _fill(weights: npt.NDArray[np.float32], layout: Layout, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    place = 0
    for layer in range(layout.layers):
        parts = [
            np.asarray(tensors[f"core.net.{name}_l{layer}"], np.float64)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        for part in _layer(layout, *parts):
            weights[place : place + part.size] = part.ravel()
            place += part.size
    scale = np.asarray(tensors["scale"], np.float64)
    increments = np.asarray(tensors["increment_scale"], np.float64)
    rows = np.asarray(tensors["core.readout.weight"], np.float64) * increments[:, None]
    readout = weights[layout.readout : layout.bias].reshape(layout.outputs, -1)
    if layout.windowed:
        padded_units = readout.reshape(layout.outputs, layout.taps, layout.lanes)
        padded_units[:, :, : layout.hidden] = rows.reshape(layout.outputs, layout.taps, layout.hidden)
    else:
        direct = rows[:, layout.hidden :] / layout.taps
        readout[:, : layout.hidden] = rows[:, : layout.hidden]
        readout[:, layout.lanes : layout.lanes + direct.shape[1]] = direct
    weights[layout.bias : layout.mean] = np.asarray(tensors["core.readout.bias"], np.float64) * increments
    ends = layout.mean + layout.features, layout.mean + 2 * layout.features
    weights[layout.mean : ends[0]] = tensors["mean"]
    weights[ends[0] : ends[1]] = 1.0 / scale


def _layer(
    layout: Layout,
    w_x: npt.NDArray[np.float64],
    w_h: npt.NDArray[np.float64],
    b_x: npt.NDArray[np.float64],
    b_h: npt.NDArray[np.float64],
) -> list[npt.NDArray[np.float64]]:
    """Bias (head / lanes, lanes), W_x (K, gates, lanes) and W_h (H, gates, lanes) from torch's arrays.

    Their rows are the gates of all units: r z n for GRU, i f g o for LSTM.
    """
    hidden, gates = layout.hidden, layout.gates
    w_x, w_h = (w.reshape(gates, hidden, -1).transpose(2, 0, 1) for w in (w_x, w_h))
    b_x, b_h = b_x.reshape(gates, hidden), b_h.reshape(gates, hidden)
    bias = b_x + b_h
    if layout.cell == Cell.GRU:
        w_x = w_x[:, [2, 0, 1]]  # n first, so that r and z follow it, and n's part of h follows them
        bias = np.stack((b_x[2], bias[0], bias[1], b_h[2]))
    if layout.windowed:
        bias = np.stack((bias[0], bias[0] + w_h[:, 0].sum(axis=0)))
    spare = ((0, 0), (0, layout.lanes - hidden))
    return [np.pad(bias, spare), np.pad(w_x, ((0, 0), *spare)), np.pad(w_h, ((0, 0), *spare))]
