"""Models for tests, of every family: one way to make them, and the same few sizes, so that each kernel is
compiled once for all files that use them."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch

from twin.checkpoint import Checkpoint
from twin.messages import Spec
from twin.models.model import Model, new_model
from twin.models.scaling import Scaling

SPEC = Spec(inputs=("voltage",), outputs=("current", "speed"), dt=0.001)
SIZES = {"hidden_size": 6, "layers": 1, "taps": 3, "window": 7}
"""Fewer hidden units than a vector has lanes, so that what fills it up could do harm; windows beyond taps."""


def beginning(family: str, z: npt.NDArray[Any], spec: Spec = SPEC, seed: int = 3, **sizes: int) -> Model:
    """A model as it begins, scaled to samples z (T, F)."""
    scaling = Scaling.of(z, n_outputs=len(spec.outputs))
    return new_model(family, spec, scaling, seed=seed, **(SIZES | sizes))


def shaken(model: Model, by: float = 0.2, seed: int = 4) -> Model:
    """The same, with noise on every weight: a new model's readout is zero, which would hide faults."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(by * torch.randn(weight.shape, generator=noise))
    return model


def checkpoint_of(model: Model, number: int = 1, spec: Spec = SPEC, **more: Any) -> Checkpoint:
    """What would be saved of it."""
    return Checkpoint(number, None, model.family, model.sizes, spec, model.tensors(), **more)
