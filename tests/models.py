"""Models for tests, of every family: one way to make them, and the same few sizes, so that each kernel is
compiled once for all files that use them; and models as the classes that they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from twin.checkpoint import Checkpoint
from twin.messages import Spec
from twin.models.hybrid import Hybrid
from twin.models.model import Model
from twin.models.network import Network
from twin.models.opening import new_model, open_model
from twin.models.scaling import Scaling

SPEC = Spec(inputs=("voltage",), outputs=("current", "speed"), dt=0.001)
SIZES = {"hidden_size": 6, "layers": 1, "taps": 3, "window": 7}
"""Fewer hidden units than a vector has lanes, so that what fills it up could do harm; windows beyond taps."""


def beginning(family: str, z: npt.NDArray[Any], spec: Spec = SPEC, seed: int = 3, **sizes: int) -> Model:
    """A model as it begins, scaled to samples z (T, F)."""
    scaling = Scaling.of(z, n_outputs=len(spec.outputs))
    return new_model(family, spec, scaling, seed=seed, **(SIZES | sizes))


def shaken(model: Model, by: float = 0.2, seed: int = 4) -> Model:
    """The same, with noise on every weight: a new network's readout is zero, which would hide faults."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in weights_of(model):
            weight.add_(by * torch.randn(weight.shape, generator=noise))
    return model


def shaken_network(family: str, z: npt.NDArray[Any], spec: Spec = SPEC, **more: Any) -> Network:
    """A network every weight of which takes part."""
    return as_network(shaken(beginning(family, z, spec, **more)))


def checkpoint_of(model: Model, number: int = 1, spec: Spec = SPEC, **more: Any) -> Checkpoint:
    """What would be saved of it."""
    return Checkpoint(number, None, model.family, model.sizes, spec, model.tensors(), **more)


def new_network(family: str, spec: Spec, scaling: Scaling, **sizes: Any) -> Network:
    """A new network; other families are refused."""
    return as_network(new_model(family, spec, scaling, **sizes))


def open_network(checkpoint: Checkpoint) -> Network:
    """The network in a checkpoint; other families are refused."""
    return as_network(open_model(checkpoint))


def as_network(model: Model | None) -> Network:
    """The model, if it is a network."""
    assert isinstance(model, Network)
    return model


def weights_of(model: Model) -> Iterator[Tensor]:
    """What noise may be added to: the weights of a network, alone or as a correction; a motor has none."""
    network = model.correction if isinstance(model, Hybrid) else model
    return iter(network.parameters()) if isinstance(network, Network) else iter(())
