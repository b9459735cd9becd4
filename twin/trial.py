"""How a model does on segments: one step ahead, and in free run, once it is warm.

A segment (segment, F) begins with the window that warms a hidden state; what comes after is foreseen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twin.checkpoint import Checkpoint
from twin.models.model import Model
from twin.predictor import open_predictor

FOREIGN = 3.0
"""An older segment on which a model errs so many times as much as on the newest is of another plant."""


@dataclass(frozen=True)
class Errors:
    """RMSE of each output (P,), one step ahead and in free run, in the outputs' units."""

    one_step: NDArray[np.float64]
    free_run: NDArray[np.float64]

    @property
    def finite(self) -> bool:
        """Whether all of them are numbers."""
        return bool(np.isfinite(self.one_step).all() and np.isfinite(self.free_run).all())

    def figures(self, outputs: Sequence[str], whose: str = "") -> dict[str, float]:
        """By name, as a verdict and a checkpoint have them."""
        found: dict[str, float] = {}
        for i, name in enumerate(outputs):
            found[f"{whose}one_step_rmse.{name}"] = float(self.one_step[i])
            found[f"{whose}free_run_rmse.{name}"] = float(self.free_run[i])
        return found

    def ratio(self, other: Errors) -> tuple[float, float]:
        """One step ahead and in free run: own error over the other's, the geometric mean over the outputs."""
        tiny = np.finfo(np.float32).tiny
        one, free = (
            np.log(np.maximum(own, tiny) / np.maximum(reference, tiny)).mean()
            for own, reference in ((self.one_step, other.one_step), (self.free_run, other.free_run))
        )
        return math.exp(one), math.exp(free)


@torch.no_grad()
def errors(model: Model | None, z: Tensor, warm: int, inputs: int) -> Errors:
    """The errors of a model (None: persistence) on segments z (B, segment, F), both over what comes after the
    warm-up."""
    y = z[:, :, inputs:]
    if model is None:
        one_step = y[:, warm:] - y[:, warm - 1 : -1]
        free_run = y[:, warm:] - y[:, warm - 1 : warm]
    else:
        state = model.initial_state(len(z))
        if warm > 1:
            _, state = model(z[:, : warm - 1], state)
        ahead, _ = model(z[:, warm - 1 : -1], state)
        one_step = ahead - y[:, warm:]
        free_run = model.free_run(z[:, warm - 1], z[:, warm:, :inputs], state) - y[:, warm:]
    return Errors(*(e.double().square().mean((0, 1)).sqrt().numpy() for e in (one_step, free_run)))


def errors_at_work(
    checkpoint: Checkpoint, z: NDArray[np.float32], first: int, starts: NDArray[np.int64], horizon: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """RMSE of each output (P,) one step ahead and in free run, of consecutive samples z (T, F).

    The samples before `first` only warm the predictor: all that an incumbent has seen, or as little as the
    twin has at hand for a model that it takes up. Free runs of `horizon` samples begin at `starts`, which
    rise."""
    predictor = open_predictor(checkpoint)
    predictor.adapting = True
    predictor.warm(z[None, :first])
    inputs = len(checkpoint.spec.inputs)
    one_step, free_run, begin = [], [], set(starts.tolist())
    for k in range(first, len(z) - 1):
        if k in begin:
            run = predictor.free_run(z[None, k], z[None, k + 1 : k + 1 + horizon, :inputs])[0]
            free_run.append(run - z[k + 1 : k + 1 + horizon, inputs:])
        one_step.append(predictor.step(z[None, k])[0] - z[k + 1, inputs:])
    return _rms(np.array(one_step)), _rms(np.concatenate(free_run))


def loss(model: Model, z: Tensor, warm: int, newest: int) -> Tensor:
    """What a refit lessens, on segments z (B, segment, F), of which the first so many are the newest.

    The concentrated log-likelihood of independent Gaussian errors, sum over outputs of log(mean squared
    error) / 2 (Ljung, System Identification, 2nd ed., section 7.4), once for the errors one step ahead over
    the warm-up, in the increments' scale, and once for those of the free run after it, in the outputs' scale.
    So no weights between amperes and rad/s, or between one step and many, have to be chosen.

    Older segments on which the model errs `FOREIGN` times as much as on the newest, one step ahead, are of a
    plant that has changed since: they are left out, until it changes back.
    """
    inputs = model.n_inputs
    y = z[:, :, inputs:]
    y_hat, state = model(z[:, : warm - 1], model.initial_state(len(z)))
    one_step = (y_hat - y[:, 1:warm]) / model.increment_scale
    run = model.free_run(z[:, warm - 1], z[:, warm:, :inputs], state)
    free_run = (run - y[:, warm:]) / model.scale[inputs:]
    settled = warm // 4  # the state of a cold start says little yet
    squared = [e.square().mean(1) for e in (one_step[:, settled:], free_run)]  # (B, P)
    own = squared[0].detach() <= FOREIGN**2 * squared[0][:newest].detach().mean(0)
    kept = own.all(1) | (torch.arange(len(z)) < newest)
    return 0.5 * sum((torch.log(e[kept].mean(0) + 1e-10).sum() for e in squared), torch.zeros(()))


def _rms(e: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(np.mean(np.square(e, dtype=np.float64), axis=0)))
