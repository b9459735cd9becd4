"""Training by gradients, the same for the live trainer and for `twin fit`.

From a start by least squares, which is already as good as a linear model can be, on many short segments, one
step ahead. The weights to keep are the average over the course (Polyak and Juditsky 1992): each step is a
little off, their mean hardly. So a course does not end below its own start, however short it is.
docs/learning.md tells what else was tried, and what each gave.
"""

from __future__ import annotations

import math
from typing import Any, Final, Protocol

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

COLD_SHARE: Final = 0.25
"""Share of a segment, its first samples, whose errors do not count: a state that begins as zeros says little
yet."""
AVERAGE_KEEP: Final = 0.98
"""Weight of the average so far beside the newest weights: it goes back some fifty steps."""
WARM_UP_SHARE: Final = 0.1
"""Share of a course in which the steps grow to their full size: Adam knows nothing of the gradients yet."""
MAX_GRADIENT_NORM: Final = 1.0
"""To which a gradient is shortened."""
MIN_MEAN_SQUARE: Final = 1e-12
"""Added to mean squared errors, in squares of their scale, so that their logarithm stays finite."""


class Trained(Protocol):
    """What is trained: see `twin.models.network.Network`."""

    n_inputs: int
    scale: Tensor
    increment_scale: Tensor

    def __call__(self, z: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Follow samples."""

    def initial_state(self, rows: int) -> Tensor:
        """Of a model that has seen nothing."""

    def free_run(self, z: Tensor, u: Tensor, state: Tensor) -> Tensor:
        """Go on without measurements."""


class Course:
    """One course of Adam (Kingma and Ba 2015), and the average of the weights it comes by."""

    def __init__(self, model: nn.Module, rate: float) -> None:
        self.model, self.rate = model.train(), rate
        self._average = AveragedModel(model, avg_fn=_lean)
        self._optimiser = torch.optim.Adam(model.parameters(), rate, fused=True)

    def step(self, loss: Tensor, share: float) -> None:
        """Follow the gradient of a loss; `share` of the course is done, (0, 1]. Steps grow, then shrink to
        nothing as a cosine."""
        size = min(share / WARM_UP_SHARE, 1.0) * 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))
        for group in self._optimiser.param_groups:
            group["lr"] = self.rate * size
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        self._optimiser.step()
        self._average.update_parameters(self.model)

    @property
    def average(self) -> nn.Module:
        """The model with the average of its weights, a view."""
        return self._average.module


def _lean(average: Tensor, newest: Tensor, count: Any) -> Tensor:
    """The average of so many weights moved towards the newest: further, while there are few."""
    return average.lerp(newest, 1.0 - min(AVERAGE_KEEP, float(count) / (float(count) + 10.0)))


def one_step_squares(model: Trained, z: Tensor) -> Tensor:
    """Mean squared errors (B, P) one step ahead over segments z (B, T + 1, F), in squares of the increments'
    scale."""
    y, _ = model(z[:, :-1], model.initial_state(len(z)))
    errors = (y - z[:, 1:, model.n_inputs :]) / model.increment_scale
    return errors[:, int(COLD_SHARE * errors.shape[1]) :].square().mean(1)


def likelihood(squares: Tensor) -> Tensor:
    """The concentrated log-likelihood, per sample and with its sign turned, of independent Gaussian errors of
    these mean squares (..., P): half the sum of logarithms over the outputs (Ljung, System Identification,
    2nd ed., section 7.4). So no weight between amperes and rad/s has to be chosen."""
    return 0.5 * torch.log(squares + MIN_MEAN_SQUARE).sum(-1)


def free_run_likelihood(squares: Tensor) -> Tensor:
    """The same per sample of free runs, from the mean squares (T, P) at each of their samples.

    Errors grow with the time that a model runs free, without end where the plant integrates. So each octave
    of that time, 1, 2, 3-4, 5-8, ... samples, has a variance of its own.
    """
    lengths = octave_lengths(len(squares))
    of_octaves = [
        n * likelihood(part.mean(0)) for n, part in zip(lengths, torch.split(squares, lengths), strict=True)
    ]
    return torch.stack(of_octaves).sum() / len(squares)


def octave_lengths(steps: int) -> list[int]:
    """How many samples each octave of a free run has.

    >>> octave_lengths(10)
    [1, 1, 2, 4, 2]
    """
    lengths, end = [1], 1
    while end < steps:
        lengths.append(min(end, steps - end))
        end += lengths[-1]
    return lengths


def samples_of(z: npt.NDArray[Any]) -> Tensor:
    """Samples as a tensor of float32."""
    return torch.from_numpy(z.astype("float32", copy=False))
