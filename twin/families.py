"""The families of models by name: what each is made of, and what its tensors and its state measure.

It stands below the kernels and imports no torch, so that a process which only reads checkpoints, or runs
them without torch, knows the shapes to expect. What a family is capable of is asked of `Family`, never of its
name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from twin.errors import SpecError
from twin.messages import Spec


class Cell(IntEnum):
    """What a network's hidden units are. The numbers are constants of compiled code."""

    LINEAR = 0
    """No hidden units: a linear model of the newest samples."""
    GRU = 1
    LSTM = 2
    ELMAN = 3
    """tanh, with a hidden state that lasts."""
    WINDOW = 4
    """ReLU, from a fresh hidden state over each window of samples."""
    OWN = 5
    """A module of the user's."""


GATES: Final = {Cell.LINEAR: 0, Cell.GRU: 3, Cell.LSTM: 4, Cell.ELMAN: 1, Cell.WINDOW: 1}
"""Blocks of H rows in a layer's weights: r z n for GRU, i f g o for LSTM."""


@dataclass(frozen=True)
class Family:
    """What a family is made of: a network, a motor's equations, or both."""

    name: str
    cell: Cell | None
    """What its network is made of; None where it has no network."""
    motor: bool = False
    """Whether it knows what a DC motor is, and has its parameters."""

    @property
    def network(self) -> bool:
        """Whether it has weights that are trained by gradients."""
        return self.cell is not None

    @property
    def hidden(self) -> bool:
        """Whether its network has hidden units."""
        return self.cell not in (None, Cell.LINEAR, Cell.OWN)

    @property
    def needs(self) -> tuple[str, ...]:
        """The names of its sizes."""
        if self.cell is None:
            return "inputs", "outputs"
        own = {
            Cell.LINEAR: ("taps",),
            Cell.WINDOW: ("hidden_size", "layers", "window"),
            Cell.OWN: ("state",),
        }
        return "inputs", "outputs", *own.get(self.cell, ("hidden_size", "layers", "taps"))


AUTO: Final = "auto"
"""In place of a family's name: the one for the plant at hand."""
MOTOR: Final = "physics"
"""The motor's equations alone: what a DC motor is given where no family is asked for."""
NETWORK: Final = "gru"
"""What any other plant is given, and what corrects a motor's equations."""
LINEAR: Final = "arx"
"""The linear model, which others are compared with."""

RECURSIVE: Final = "rls"
"""The linear model that the twin begins with and fits by itself, by recursive least squares: no family, for
it has no checkpoints."""
PERSISTENCE: Final = "persistence"
"""Who says that the outputs stay as they are: beside it in a bank."""

FAMILIES: Final = {
    family.name: family
    for family in (
        Family(LINEAR, Cell.LINEAR),
        Family(NETWORK, Cell.GRU),
        Family("hybrid", Cell.GRU, motor=True),
        Family("lstm", Cell.LSTM),
        Family(MOTOR, None, motor=True),
        Family("rnn", Cell.ELMAN),
        Family("window-rnn", Cell.WINDOW),
    )
}
"""The linear model; GRU, LSTM and Elman (tanh) with a persistent hidden state; the network of overlapping
windows; the equations of a DC motor; and these with a GRU that corrects them."""
PHYSICAL: Final = tuple(name for name, family in FAMILIES.items() if family.motor)
"""The names of those that know what a motor is."""
GENERAL: Final = tuple(name for name, family in FAMILIES.items() if not family.motor)
"""Of the others, which serve any signals."""
NETWORKS: Final = tuple(name for name in GENERAL if FAMILIES[name].hidden)
"""Of those of them that have hidden units."""

OWN: Final = "@"
"""Stands in the name of a family of the user's, between its class and the hash of its file."""


def family_of(name: str) -> Family:
    """The family of this name.

    Raises:
        SpecError: there is none.
    """
    if OWN in name:
        return Family(name, Cell.OWN)
    if name not in FAMILIES:
        raise SpecError(f"model {name!r} is not one of {', '.join(FAMILIES)}, nor FILE.py:CLASS")
    return FAMILIES[name]


MOTOR_UNITS: Final = {
    "R": "ohm",
    "L": "H",
    "K": "N·m/A",
    "J": "kg·m²",
    "b": "N·m·s/rad",
    "tau_c": "N·m",
}
"""A motor's parameters and their units: K is both N·m/A and V·s/rad. In this order they stand in tensors."""
FILTER_SIZE: Final = 13
"""Numbers that a motor's filter carries from one sample to the next."""

_LIMITS: Final = {
    "inputs": 64,
    "outputs": 64,
    "hidden_size": 4_096,
    "layers": 16,
    "taps": 256,
    "window": 65_536,
    "state": 65_536,
}

Sizes = dict[str, int]
"""inputs U, outputs P, hidden_size H and layers; for a network of windows also window, the L samples it sees;
for the others taps, the newest samples that their direct term sees. The linear model has no hidden units and
layers, a motor alone has inputs and outputs only, a family of the user's also state, the S of its state."""


def sizes_of(
    family: str,
    inputs: int,
    outputs: int,
    hidden_size: int,
    layers: int = 1,
    taps: int = 1,
    window: int = 1,
    state: int = 1,
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
        "state": state,
    }
    return check_sizes(family, {name: sizes[name] for name in family_of(family).needs})


def check_sizes(family: str, sizes: Mapping[str, int]) -> Sizes:
    """The sizes as they were given, as a dict of their own.

    Raises:
        SpecError: an unknown family, a size that is missing, unknown or out of range.
    """
    needed = family_of(family).needs
    if set(sizes) != set(needed):
        raise SpecError(f"a {family} model has the sizes {', '.join(needed)}, not {', '.join(sizes)}")
    for name in needed:
        if not 1 <= sizes[name] <= _LIMITS[name]:
            raise SpecError(f"{name} = {sizes[name]}: between 1 and {_LIMITS[name]} is possible")
    if family_of(family).motor and (sizes["inputs"], sizes["outputs"]) != (1, 2):
        raise SpecError(
            f"{family} has one input and two outputs, not {sizes['inputs']} and {sizes['outputs']}; "
            f"take --model {NETWORK}"
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
        f"{MOTOR} needs a motor's voltage in V, current in A and speed in rad/s; this plant publishes "
        f"{', '.join(signals)}: take --model {NETWORK}"
    )


def family_for(spec: Spec) -> str:
    """The family that a plant is given where none is asked for: the equations of a DC motor if it is one.

    >>> family_for(Spec(inputs=("voltage",), outputs=("current", "speed"), dt=0.001))
    'physics'
    >>> family_for(Spec(inputs=("u",), outputs=("y",), dt=0.02))
    'gru'
    """
    try:
        motor_columns(spec)
    except SpecError:
        return NETWORK
    return MOTOR


def families_for(spec: Spec) -> tuple[str, ...]:
    """The members of a bank for a plant, in the order in which they are fitted: what the twin begins with, a
    motor's equations alone if it is one, a network with a state that lasts, both together, and a network of
    windows."""
    if family_for(spec) == MOTOR:
        return RECURSIVE, MOTOR, NETWORK, "hybrid", "window-rnn"
    return RECURSIVE, NETWORK, "window-rnn"


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
    sizes, kind = check_sizes(family, sizes), family_of(family)
    outputs = sizes["outputs"]
    features = sizes["inputs"] + outputs
    if kind.motor and not kind.network:
        return {**_scaling(features, outputs), **_MOTOR}
    if kind.motor:
        features += outputs  # the correction sees what the equations expect as well
    shapes: dict[str, tuple[int, ...]] = _scaling(features, outputs)
    if kind.cell is Cell.OWN:
        return shapes  # beside them whatever its class asks for, which only its file knows
    assert kind.cell is not None
    hidden = sizes.get("hidden_size", 0)
    rows, taps = GATES[kind.cell] * hidden, sizes.get("taps", 0)
    columns = hidden * sizes["window"] if kind.cell is Cell.WINDOW else hidden + taps * features
    shapes |= {"core.readout.weight": (outputs, columns), "core.readout.bias": (outputs,)}
    if kind.motor:
        motor = tensor_shapes(MOTOR, motor_sizes(sizes))
        shapes |= {f"{MOTOR}.{name}": shape for name, shape in motor.items()}
    for layer in range(sizes.get("layers", 0)):
        shapes[f"core.net.weight_ih_l{layer}"] = (rows, hidden if layer else features)
        shapes[f"core.net.weight_hh_l{layer}"] = (rows, hidden)
        shapes[f"core.net.bias_ih_l{layer}"] = (rows,)
        shapes[f"core.net.bias_hh_l{layer}"] = (rows,)
    return shapes


def motor_sizes(sizes: Mapping[str, int]) -> Sizes:
    """The sizes of the motor in a model that corrects one."""
    return {name: sizes[name] for name in ("inputs", "outputs")}


def network_sizes(sizes: Mapping[str, int]) -> Sizes:
    """The sizes of the network in such a model: the motor's innovations are inputs of it as well."""
    return {**sizes, "inputs": sizes["inputs"] + sizes["outputs"]}


def divided(
    tensors: Mapping[str, npt.NDArray[np.float32]],
) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, npt.NDArray[np.float32]]]:
    """Of a model that corrects a motor: the motor's tensors, and the network's."""
    prefix = f"{MOTOR}."
    motor = {name.removeprefix(prefix): a for name, a in tensors.items() if name.startswith(prefix)}
    return motor, {name: a for name, a in tensors.items() if not name.startswith(prefix)}


_MOTOR: Final[dict[str, tuple[int, ...]]] = {
    "values": (len(MOTOR_UNITS),),
    "covariance": (len(MOTOR_UNITS), len(MOTOR_UNITS)),
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
    shapes, kind = tensor_shapes(family, sizes), family_of(family)
    others = set(tensors) - set(shapes) if kind.cell is Cell.OWN else set[str]()
    if set(tensors) - others != set(shapes):
        raise SpecError(f"tensors missing or unknown: {', '.join(sorted(set(tensors) ^ set(shapes)))}")
    for name, tensor in tensors.items():
        shape = shapes.get(name, tensor.shape)
        if tensor.shape != shape or tensor.dtype != np.float32:
            raise SpecError(f"{name} is {tensor.dtype} {tensor.shape}; a {family} needs float32 {shape}")
        if not np.isfinite(tensor).all():
            raise SpecError(f"{name} is not finite")
        if name not in others and name.endswith("scale") and not (tensor > 0).all():
            raise SpecError(f"{name} is not positive")
    if kind.motor:
        prefix = f"{MOTOR}." if kind.network else ""
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
    sizes, kind = check_sizes(family, sizes), family_of(family)
    if kind.cell is Cell.OWN:
        return sizes["state"]
    features = sizes["inputs"] + sizes["outputs"]
    if kind.cell is Cell.WINDOW:  # a mark, and the L - 1 samples that stand before the next one
        return 1 + (sizes["window"] - 1) * features
    size = FILTER_SIZE if kind.motor else 0
    if kind.network:
        seen = features + sizes["outputs"] if kind.motor else features
        memory = (2 if kind.cell is Cell.LSTM else 1) * sizes.get("layers", 0) * sizes.get("hidden_size", 0)
        size += memory + (sizes["taps"] - 1) * seen
    return size
