"""The families of models: their names, and what the tensors and the state of each measure.

One file per family, and `model.py` for what all share. Nothing here imports torch, so that a process which
only reads checkpoints, or runs them without torch, knows the shapes to expect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from twin.errors import SpecError

FAMILIES: Final = ("gru", "lstm", "rnn", "window-rnn")
"""GRU, LSTM and Elman (tanh) with a persistent hidden state; the network of overlapping windows."""

GATES: Final = {"gru": 3, "lstm": 4, "rnn": 1, "window-rnn": 1}
"""Blocks of H rows in a layer's weights: r z n for GRU, i f g o for LSTM."""

_LIMITS: Final = {
    "inputs": 64,
    "outputs": 64,
    "hidden_size": 4_096,
    "layers": 16,
    "taps": 256,
    "window": 65_536,
}
_OWN: Final = {"window-rnn": "window"}  # the size that a family has for itself; the others have taps

Sizes = dict[str, int]
"""inputs U, outputs P, hidden_size H and layers; for window-rnn also window, the L samples it sees; for the
others taps, the newest samples that their direct term sees."""


def sizes_of(
    family: str,
    inputs: int,
    outputs: int,
    hidden_size: int,
    layers: int = 1,
    taps: int = 1,
    window: int = 1,
) -> Sizes:
    """The sizes from which a model of a family can be rebuilt.

    Raises:
        SpecError: an unknown family, or a size out of range.
    """
    sizes = {"inputs": inputs, "outputs": outputs, "hidden_size": hidden_size, "layers": layers}
    own = _OWN.get(family, "taps")
    sizes[own] = window if own == "window" else taps
    return check_sizes(family, sizes)


def check_sizes(family: str, sizes: Mapping[str, int]) -> Sizes:
    """The sizes as they were given, as a dict of their own.

    Raises:
        SpecError: an unknown family, a size that is missing, unknown or out of range.
    """
    if family not in FAMILIES:
        raise SpecError(f"model {family!r} is not one of {', '.join(FAMILIES)}")
    other = "taps" if family in _OWN else "window"
    needed = [name for name in _LIMITS if name != other]
    if set(sizes) != set(needed):
        raise SpecError(f"a {family} model has the sizes {', '.join(needed)}, not {', '.join(sizes)}")
    for name in needed:
        if not 1 <= sizes[name] <= _LIMITS[name]:
            raise SpecError(f"{name} = {sizes[name]}: between 1 and {_LIMITS[name]} is possible")
    return dict(sizes)


def tensor_shapes(family: str, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a model, scaling included.

    >>> shapes = tensor_shapes("gru", sizes_of("gru", inputs=1, outputs=2, hidden_size=32))
    >>> shapes["core.net.weight_ih_l0"], shapes["core.readout.weight"]
    ((96, 3), (2, 35))

    Raises:
        SpecError: sizes that are no model's.
    """
    sizes = check_sizes(family, sizes)
    outputs, hidden = sizes["outputs"], sizes["hidden_size"]
    features, rows = sizes["inputs"] + outputs, GATES[family] * hidden
    shapes: dict[str, tuple[int, ...]] = {
        "mean": (features,),
        "scale": (features,),
        "increment_scale": (outputs,),
        "core.readout.weight": (
            outputs,
            hidden * sizes["window"] if family == "window-rnn" else hidden + sizes["taps"] * features,
        ),
        "core.readout.bias": (outputs,),
    }
    for layer in range(sizes["layers"]):
        shapes[f"core.net.weight_ih_l{layer}"] = (rows, hidden if layer else features)
        shapes[f"core.net.weight_hh_l{layer}"] = (rows, hidden)
        shapes[f"core.net.bias_ih_l{layer}"] = (rows,)
        shapes[f"core.net.bias_hh_l{layer}"] = (rows,)
    return shapes


def check_tensors(
    family: str, sizes: Mapping[str, int], tensors: Mapping[str, npt.NDArray[np.float32]]
) -> None:
    """Whether these are a model's tensors.

    Raises:
        SpecError: one that is missing, unknown, of another shape or type, or not finite; a scale that is not
            positive; sizes that are no model's.
    """
    shapes = tensor_shapes(family, sizes)
    if set(tensors) != set(shapes):
        raise SpecError(f"tensors missing or unknown: {', '.join(sorted(set(tensors) ^ set(shapes)))}")
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tensor.shape != shape or tensor.dtype != np.float32:
            raise SpecError(f"{name} is {tensor.dtype} {tensor.shape}; a {family} needs float32 {shape}")
        if not np.isfinite(tensor).all():
            raise SpecError(f"{name} is not finite")
        if name.endswith("scale") and not (tensor > 0).all():
            raise SpecError(f"{name} is not positive")


def state_size(family: str, sizes: Mapping[str, int]) -> int:
    """S, the numbers that a model carries from one sample to the next.

    >>> state_size("lstm", sizes_of("lstm", inputs=1, outputs=2, hidden_size=32, layers=2))
    128

    Raises:
        SpecError: sizes that are no model's.
    """
    sizes = check_sizes(family, sizes)
    if family == "window-rnn":  # a mark, and the L - 1 samples that stand before the next one
        return 1 + (sizes["window"] - 1) * (sizes["inputs"] + sizes["outputs"])
    hidden = (2 if family == "lstm" else 1) * sizes["layers"] * sizes["hidden_size"]
    return hidden + (sizes["taps"] - 1) * (sizes["inputs"] + sizes["outputs"])
