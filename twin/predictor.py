"""A model at work: fed one sample, it answers the next; what it remembers, it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from twin.errors import SpecError


class Predictor(Protocol):
    """One model for N rows, which share its weights and have a hidden state each.

    It is sequential: every `step` and `warm` continues where the last one ended. Samples z hold the inputs,
    then the outputs, in the signals' own units. Other shapes than the ones stated raise `SpecError`.
    """

    adapting: bool
    """Whether a step takes its sample for a measurement, and may adapt this predictor's own copy of the
    weights to it; False when opened. Where that is not possible, it has no effect. `free_run` never adapts,
    and `reset` brings back the checkpoint's weights. What was learned stays in use when it becomes False."""

    @property
    def quick(self) -> bool:
        """Whether a free run of some samples fits between two samples of a stream."""

    @property
    def rows(self) -> int:
        """N."""

    @property
    def number(self) -> int:
        """The number of the checkpoint that it runs."""

    @property
    def parameters(self) -> Mapping[str, tuple[float, float]]:
        """The physical parameters by name, as they are now: value and standard error, in the units of
        `twin.families.MOTOR_UNITS`. Empty for a family without."""

    @property
    def sample(self) -> npt.NDArray[np.float32]:
        """Where `step` wants its sample: an array (N, F) of the predictor's own. What is written there, and
        handed to `step` as this very array, is not copied once more."""

    @property
    def y(self) -> npt.NDArray[np.float32]:
        """Where `step` leaves its answer: always the same array (N, P)."""

    def share(self, sample: npt.NDArray[np.float32]) -> None:
        """From now on `sample` is this array (N, F), which other predictors may read as well."""

    @property
    def state(self) -> npt.NDArray[np.float32]:
        """All that it remembers, (N, S), as a copy. Setting it, and then stepping, repeats what followed."""

    @state.setter
    def state(self, state: npt.NDArray[np.float32]) -> None: ...

    def reset(self, *, learned: bool = True) -> None:
        """Forget all samples; and, unless `learned` is False, what adapting has learned from them."""

    def warm(self, z: npt.NDArray[Any]) -> None:
        """Follow samples z (N, T, F) without answering; in one call or in portions, the state is the same."""

    def step(self, z: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Follow one sample z (N, F), and answer the y (N, P) expected of the next one.

        The array belongs to the predictor, which may overwrite it at the next step: copy what you keep.
        """

    def free_run(self, z: npt.NDArray[Any], u: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Simulate ahead, fed with its own predictions; the state stays as it is.

        `z` (N, F) is a sample that has not been stepped yet, `u` (N, T, U) the inputs of the T instants
        after it. Returns y (N, T, P) at the instants of u; the last input is not used, for it acts only
        after them. To look ahead after `step(z)` has answered ŷ, go on from the sample [u(k+1), ŷ].
        """

    def fork(self, rows: int) -> Predictor:
        """Another one for N rows, each in the state of the first row of this one, its weights as they are
        now.

        Only what is read of this one must not change meanwhile: another thread may then run the other."""

    def take_over(self, other: Any) -> None:
        """Go on from where the first row of another predictor of the same checkpoint is, as `fork` does."""


def check_shape(name: str, a: npt.NDArray[Any], shape: tuple[int, ...]) -> None:
    """Refuse an array of another shape.

    Raises:
        SpecError: with its name, its shape and the one that is taken.
    """
    if a.shape != shape:
        raise SpecError(f"{name} has the shape {a.shape}, this predictor takes {shape}")
