"""What every family of models can do: begin, learn, and say what it knows; and how it wants to be judged.

A trainer knows nothing else of a model, and never the name of its family.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from twin.families import Sizes
from twin.messages import Spec
from twin.models.lesson import Lesson
from twin.models.scaling import Scaling

Array = npt.NDArray[Any]


class Model(Protocol):
    """A model that learns. `copy.deepcopy` makes another one of the same weights."""

    HOLD_OUT_PERIODS: ClassVar[float]
    """Periods of a refit, at most, that it does not learn from and is judged on."""
    PRESUMES_PLANT: ClassVar[bool]
    """Whether it presumes what the plant is: then a refit has a closed solution, and does not go on from a
    candidate that was refused."""

    family: str
    sizes: Sizes

    @property
    def resumes(self) -> bool:
        """Whether a first candidate that was refused is worth going on from: it has no closed start."""

    @property
    def scaling(self) -> Scaling:
        """Mean and scale of the signals, as it was begun with."""

    def begin(self, spec: Spec, scaling: Scaling) -> None:
        """Take the scaling of a plant's signals.

        Raises:
            SpecError: a scaling of other signals, or a plant that is not for this family.
        """

    def fit(self, z: Array) -> None:
        """Start from what least squares finds in consecutive samples z (T, F), where the family has such a
        start."""

    def refit(self, lesson: Lesson) -> Iterator[float]:
        """Learn from a history, from the present weights; yields the share done, (0, 1].

        Raises:
            SpecError: nothing to learn from.
        """

    def free_runs(self, z: Array, warm: int) -> Array:
        """Of segments z (B, T, F): y (B, T - warm, P) in free run, after the first `warm` samples have
        warmed a fresh state."""

    def means(self) -> dict[str, tuple[float, float]]:
        """What it knows of the plant that means something: value and standard error by name. A network has
        none."""

    def tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """All weights and the scaling, as arrays of their own: what a checkpoint keeps."""

    def load(self, tensors: dict[str, npt.NDArray[np.float32]]) -> None:
        """Take the tensors of a checkpoint."""

    def improves(self, one_step: float, free_run: float, swaps: bool) -> bool:
        """Whether a candidate with these ratios of errors, its own over the other's, is worth taking up;
        `swaps` says that a model of the family would be replaced."""

    @classmethod
    def rehearse(cls, family: str, spec: Spec, sizes: Sizes) -> None:
        """Do what a first refit would wait seconds for: compile, import."""


MAX_WORSE_RATIO: Final = 1.01
"""Up to which one of the two errors of a candidate may exceed the other model's, if the other falls by
more."""


def better_in_sum(one_step: float, free_run: float) -> bool:
    """`Model.improves` of what is trained: the errors one step ahead and in free run fall together, and
    neither rises by more than a hundredth."""
    return one_step * free_run < 1 and max(one_step, free_run) < MAX_WORSE_RATIO


@runtime_checkable
class Identifies(Protocol):
    """What a model has besides that finds its own weights, rather than being trained by gradients."""

    def identify(self, stretches: Sequence[Array], known: bool) -> Iterator[float]:
        """Find the weights in stretches of samples (T, F), oldest first; yields the share done. `known`
        tells whether the present ones are worth beginning with.

        Raises:
            SpecError: no stretch to learn from.
        """
