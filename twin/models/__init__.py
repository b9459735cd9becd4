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
from twin.messages import Spec

FAMILIES: Final = ("arx", "gru", "hybrid", "lstm", "physics", "rnn", "window-rnn")
"""The linear model; GRU, LSTM and Elman (tanh) with a persistent hidden state; the network of overlapping
windows; the equations of a DC motor; and these with a GRU that corrects them."""
PHYSICAL: Final = ("hybrid", "physics")
"""The families that know what a motor is, and have its parameters."""
GENERAL: Final = tuple(family for family in FAMILIES if family not in PHYSICAL)
"""The others, which serve any signals."""
NETWORKS: Final = tuple(family for family in GENERAL if family != "arx")
"""Those of them that have hidden units."""

GATES: Final = {"gru": 3, "hybrid": 3, "lstm": 4, "rnn": 1, "window-rnn": 1}
"""Blocks of H rows in a layer's weights: r z n for GRU, i f g o for LSTM. The linear model has no units."""

PARAMETERS: Final = {
    "R": "ohm",
    "L": "H",
    "K": "N·m/A",
    "J": "kg·m²",
    "b": "N·m·s/rad",
    "tau_c": "N·m",
}
"""A motor's parameters and their units: K is both N·m/A and V·s/rad. In this order they stand in tensors."""
FILTER: Final = 13
"""Numbers that the physics' filter carries from one sample to the next."""

_LIMITS: Final = {
    "inputs": 64,
    "outputs": 64,
    "hidden_size": 4_096,
    "layers": 16,
    "taps": 256,
    "window": 65_536,
}
_NEEDED: Final = {
    "arx": ("inputs", "outputs", "taps"),
    "physics": ("inputs", "outputs"),
    "window-rnn": ("inputs", "outputs", "hidden_size", "layers", "window"),
}
_USUAL: Final = ("inputs", "outputs", "hidden_size", "layers", "taps")

Sizes = dict[str, int]
"""inputs U, outputs P, hidden_size H and layers; for window-rnn also window, the L samples it sees; for the
others taps, the newest samples that their direct term sees. arx has no hidden units and layers, physics has
inputs and outputs only."""


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
    sizes = {
        "inputs": inputs,
        "outputs": outputs,
        "hidden_size": hidden_size,
        "layers": layers,
        "taps": taps,
        "window": window,
    }
    return check_sizes(family, {name: sizes[name] for name in _NEEDED.get(family, _USUAL)})


def check_sizes(family: str, sizes: Mapping[str, int]) -> Sizes:
    """The sizes as they were given, as a dict of their own.

    Raises:
        SpecError: an unknown family, a size that is missing, unknown or out of range.
    """
    if family not in FAMILIES:
        raise SpecError(f"model {family!r} is not one of {', '.join(FAMILIES)}")
    needed = _NEEDED.get(family, _USUAL)
    if set(sizes) != set(needed):
        raise SpecError(f"a {family} model has the sizes {', '.join(needed)}, not {', '.join(sizes)}")
    for name in needed:
        if not 1 <= sizes[name] <= _LIMITS[name]:
            raise SpecError(f"{name} = {sizes[name]}: between 1 and {_LIMITS[name]} is possible")
    if family in PHYSICAL and (sizes["inputs"], sizes["outputs"]) != (1, 2):
        raise SpecError(
            f"{family} has one input and two outputs, not {sizes['inputs']} and {sizes['outputs']}; "
            "take --model gru"
        )
    return dict(sizes)


def motor_columns(spec: Spec) -> tuple[int, int]:
    """Where among a DC motor's outputs its current and its speed are, known by their names or by their units.

    Raises:
        SpecError: other signals than a motor's.
    """
    if len(spec.inputs) == 1 and len(spec.outputs) == 2 and _is(spec, spec.inputs[0], "voltage", "V"):
        for current, speed in ((0, 1), (1, 0)):
            if _is(spec, spec.outputs[current], "current", "A") and _is(
                spec, spec.outputs[speed], "speed", "rad/s"
            ):
                return current, speed
    signals = [f"{name} {spec.unit(name)}".strip() for name in spec.features]
    raise SpecError(
        "physics needs a motor's voltage in V, current in A and speed in rad/s; this plant publishes "
        f"{', '.join(signals)}: take --model gru"
    )


def family_for(spec: Spec) -> str:
    """The family that a plant is given where none is asked for: physics for a DC motor, otherwise gru.

    >>> family_for(Spec(inputs=("voltage",), outputs=("current", "speed"), dt=0.001))
    'physics'
    >>> family_for(Spec(inputs=("u",), outputs=("y",), dt=0.02))
    'gru'
    """
    try:
        motor_columns(spec)
    except SpecError:
        return "gru"
    return "physics"


def _is(spec: Spec, signal: str, name: str, unit: str) -> bool:
    """Whether a signal is of a quantity: by its unit, and where none is stated by its name."""
    return spec.unit(signal) == unit if spec.unit(signal) else signal == name


def tensor_shapes(family: str, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a model, scaling included.

    >>> shapes = tensor_shapes("gru", sizes_of("gru", inputs=1, outputs=2, hidden_size=32))
    >>> shapes["core.net.weight_ih_l0"], shapes["core.readout.weight"]
    ((96, 3), (2, 35))

    Raises:
        SpecError: sizes that are no model's.
    """
    sizes = check_sizes(family, sizes)
    outputs = sizes["outputs"]
    features = sizes["inputs"] + outputs
    if family == "physics":
        return {**_scaling(features, outputs), **_MOTOR}
    if family == "hybrid":
        features += outputs  # the correction sees what the physics expects as well
    hidden = sizes.get("hidden_size", 0)
    rows = GATES.get(family, 0) * hidden
    shapes: dict[str, tuple[int, ...]] = {
        **_scaling(features, outputs),
        "core.readout.weight": (
            outputs,
            hidden * sizes["window"] if family == "window-rnn" else hidden + sizes["taps"] * features,
        ),
        "core.readout.bias": (outputs,),
    }
    if family == "hybrid":
        motor = tensor_shapes("physics", {name: sizes[name] for name in ("inputs", "outputs")})
        shapes |= {f"physics.{name}": shape for name, shape in motor.items()}
    for layer in range(sizes.get("layers", 0)):
        shapes[f"core.net.weight_ih_l{layer}"] = (rows, hidden if layer else features)
        shapes[f"core.net.weight_hh_l{layer}"] = (rows, hidden)
        shapes[f"core.net.bias_ih_l{layer}"] = (rows,)
        shapes[f"core.net.bias_hh_l{layer}"] = (rows,)
    return shapes


_MOTOR: Final[dict[str, tuple[int, ...]]] = {
    "values": (len(PARAMETERS),),
    "covariance": (len(PARAMETERS), len(PARAMETERS)),
    "noise": (4,),
    "clock": (3,),
}


def _scaling(features: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {"mean": (features,), "scale": (features,), "increment_scale": (outputs,)}


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
    if family in PHYSICAL:
        prefix = "physics." if family == "hybrid" else ""
        _check_motor(*(tensors[prefix + name] for name in _MOTOR))


def _check_motor(
    values: npt.NDArray[np.float32],
    covariance: npt.NDArray[np.float32],
    noise: npt.NDArray[np.float32],
    clock: npt.NDArray[np.float32],
) -> None:
    if not ((values[:4] > 0).all() and (values[4:] >= 0).all() and (noise > 0).all()):
        raise SpecError(
            "values or noise: a motor's R, L, K, J and noises are positive, its frictions not negative"
        )
    if not (np.diag(covariance) >= 0).all():
        raise SpecError("covariance has a negative variance")
    if not clock[0] > 0 or sorted(clock[1:].tolist()) != [0.0, 1.0]:
        raise SpecError("clock is no period with the columns of current and speed")


def state_size(family: str, sizes: Mapping[str, int]) -> int:
    """S, the numbers that a model carries from one sample to the next.

    >>> state_size("lstm", sizes_of("lstm", inputs=1, outputs=2, hidden_size=32, layers=2))
    128

    Raises:
        SpecError: sizes that are no model's.
    """
    sizes = check_sizes(family, sizes)
    if family == "physics":
        return FILTER
    if family == "window-rnn":  # a mark, and the L - 1 samples that stand before the next one
        return 1 + (sizes["window"] - 1) * (sizes["inputs"] + sizes["outputs"])
    hidden = (2 if family == "lstm" else 1) * sizes.get("layers", 0) * sizes.get("hidden_size", 0)
    features = sizes["inputs"] + sizes["outputs"]
    if family == "hybrid":
        return FILTER + hidden + (sizes["taps"] - 1) * (features + sizes["outputs"])
    return hidden + (sizes["taps"] - 1) * features
