"""Models for tests: new ones of any family, as the classes that they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from twin.checkpoint import Checkpoint
from twin.messages import Spec
from twin.models.hybrid import Hybrid
from twin.models.network import Network
from twin.models.opening import new_model, open_model
from twin.models.scaling import Scaling


def new_network(family: str, spec: Spec, scaling: Scaling, **sizes: Any) -> Network:
    """A new network; other families are refused."""
    return as_network(new_model(family, spec, scaling, **sizes))


def open_network(checkpoint: Checkpoint) -> Network:
    """The network in a checkpoint; other families are refused."""
    return as_network(open_model(checkpoint))


def as_network(model: Network | None) -> Network:
    """The model, if it is a network."""
    assert isinstance(model, Network)
    return model


def weights_of(model: Network) -> Iterator[Tensor]:
    """What noise may be added to: the weights of a network, alone or as a correction; a motor has none."""
    network = model.correction if isinstance(model, Hybrid) else model
    return iter(network.parameters()) if isinstance(network, Network) else iter(())
