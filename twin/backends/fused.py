"""A recurrent model's step as one Triton kernel, for as many rows as the device has memory for.

Written out in torch, a step of a fleet is a dozen operations, and each sends N rows through the memory of the
device: the gates alone are three or four times the state. The kernel touches memory for the sample, the state
and the answer. Importing this needs Triton; with `TRITON_INTERPRET=1` in the environment at the first import,
it runs on the CPU, without a device.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
from torch import Tensor
from torch.nn.functional import pad

from twin.backends.fused_kernel import CHUNK, follow
from twin.families import GATES
from twin.models.network import Network
from twin.models.recurrent import Recurrent

_TILE: Final = 2_048  # numbers of a gate that four warps hold: 16 a thread, in registers to the end
_MIN_FULL_TILES: Final = 256  # tiles enough for every multiprocessor, so that they need not be smaller


def serves(model: Network) -> bool:
    """Whether the kernel has this model: a recurrent family of moderate sizes.

    Beyond them a row's hidden state no longer fits into registers, or the unrolled loops over features and
    outputs grow long; torch's own operations are then the better way.
    """
    sizes = model.sizes
    features = sizes["inputs"] + sizes["outputs"]
    return (
        isinstance(model.core, Recurrent)
        and sizes["hidden_size"] <= 256
        and features <= 16
        and sizes["taps"] * features <= 64
    )


class Fused:
    """The steps of N rows of a model that the kernel `serves`, and their state, on the model's device.

    The state is kept in tiles, (tiles, S, BLOCK), so that rows lie side by side: neighbouring threads read
    neighbouring numbers, in full lines whatever S is. The weights are packed once, input-major and padded to
    a power of two of units.
    """

    def __init__(self, model: Network, rows: int) -> None:
        core, sizes = model.core, model.sizes
        assert isinstance(core, Recurrent)
        features = sizes["inputs"] + sizes["outputs"]
        width = max(CHUNK.value, triton.next_power_of_2(sizes["hidden_size"]))
        span = max(2, triton.next_power_of_2(sizes["taps"] * features))
        block = max(16, _TILE // width)
        if rows < _MIN_FULL_TILES * block:  # few rows: rather more programs than full ones
            block = 16
        self.rows = rows
        self._tiles = triton.cdiv(rows, block)
        self._state = model.mean.new_zeros(self._tiles, model.state_size, block)
        self._cells = _cells(core, width)
        self._readout = _readout(core, width, span)
        self._scaling = torch.cat((model.mean, model.scale, core.readout.bias, model.increment_scale))
        self._sizes = {
            "GATE": GATES[core.cell],
            "U": sizes["inputs"],
            "P": sizes["outputs"],
            "LAYERS": sizes["layers"],
            "TAPS": sizes["taps"],
            "H": sizes["hidden_size"],
            "S": model.state_size,
            "WIDTH": width,
            "SPAN": span,
            "SPREAD": max(2, triton.next_power_of_2(sizes["outputs"])),
            "BLOCK": block,
            "num_warps": max(4, block * width // (_TILE // 4)),
        }

    @property
    def state(self) -> Tensor:
        """What the rows remember, (N, S), as a copy."""
        return self._state.transpose(1, 2).reshape(-1, self._state.shape[1])[: self.rows].clone()

    @state.setter
    def state(self, state: Tensor) -> None:
        tiles, size, block = self._state.shape
        padded = pad(state, (0, 0, 0, tiles * block - self.rows))
        self._state.copy_(padded.view(tiles, block, size).transpose(1, 2))

    def follow(self, z: Tensor, y: Tensor) -> None:
        """Follow samples z (N, T, F), T > 0, and write the y (N, P) expected after the last one.

        One launch, whatever T is. z and y may also lie in pinned memory of the host, which the device
        reaches by itself.
        """
        tensors = (z, self._state, y, self._cells, self._readout, self._scaling)
        follow[(self._tiles,)](*tensors, self.rows, z.shape[1], **self._sizes)


def _cells(core: Recurrent, width: int) -> Tensor:
    """All layers' W_ih, W_hh as (gates, inputs, WIDTH) and their four biases, (4, WIDTH), in one row."""
    gates, hidden = GATES[core.cell], core.net.hidden_size
    packed: list[Tensor] = []
    for layer, (w_ih, w_hh, b_ih, b_hh) in enumerate(core.net.all_weights):
        for w, inputs in ((w_ih, width if layer else w_ih.shape[1]), (w_hh, width)):
            major = w.view(gates, hidden, -1).transpose(1, 2)
            packed.append(pad(major, (0, width - hidden, 0, inputs - major.shape[1])))
        one, other = b_ih.view(gates, hidden), b_hh.view(gates, hidden)
        # a GRU multiplies the state's side of n by r, and its bias with it
        biases = torch.cat((one[:2] + other[:2], one[2:], other[2:])) if gates == 3 else one + other
        packed.append(pad(biases, (0, width - hidden, 0, 4 - len(biases))))
    return torch.cat([each.flatten() for each in packed])


def _readout(core: Recurrent, width: int, span: int) -> Tensor:
    """C (P, WIDTH), then D / taps (P, SPAN), in one row."""
    hidden = core.net.hidden_size
    c, d = core.readout.weight[:, :hidden], core.readout.weight[:, hidden:] / core.taps
    return torch.cat((pad(c, (0, width - hidden)).flatten(), pad(d, (0, span - d.shape[1])).flatten()))
