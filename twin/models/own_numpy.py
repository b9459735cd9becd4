"""A class of the user's on NumPy arrays as a model, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from twin.errors import SpecError
from twin.families import Sizes, check_sizes
from twin.messages import Spec
from twin.models.lesson import Lesson
from twin.models.model import better_in_sum
from twin.models.own import known
from twin.models.scaling import Scaling

Array = npt.NDArray[Any]


class NumpyModule(Protocol):
    """What such a class offers. All samples are scaled, with the inputs before the outputs."""

    state_size: int
    """S."""

    def __init__(self, features: int, outputs: int) -> None: ...

    def step(self, x: Array, state: Array) -> tuple[Array, Array]:
        """Samples x (N, F) and a state (N, S) to increments of y (N, P) and the next state."""

    def fit(self, x: list[Array], dy: list[Array]) -> None:
        """Learn from unbroken stretches of samples (T, F) and of the increments of y after each (T, P)."""

    def tensors(self) -> dict[str, Array]:
        """All that it has learned."""

    def load(self, tensors: dict[str, Array]) -> None:
        """Take it back."""


class NumpyModel:
    """ŷ(k+1) = y(k) + increment_scale * step(scaled sample k, state), as `twin.models.network.Network`."""

    HOLD_OUT_PERIODS: ClassVar[float] = 0.5
    PRESUMES_PLANT: ClassVar[bool] = False
    resumes: ClassVar[bool] = False

    def __init__(self, family: str, sizes: Sizes, seed: int = 0) -> None:
        self.family = family
        self.sizes = check_sizes(family, sizes)
        features, outputs = sizes["inputs"] + sizes["outputs"], sizes["outputs"]
        self.module: NumpyModule = known(family)(features, outputs)
        self._scaling = Scaling(*(np.ones(n, np.float32) for n in (features, features, outputs)))

    @property
    def scaling(self) -> Scaling:
        """That of the plant's signals."""
        return self._scaling

    def begin(self, spec: Spec, scaling: Scaling) -> None:
        """Take the scaling of a plant's signals.

        Raises:
            SpecError: a scaling of other signals.
        """
        if len(scaling.mean) != len(self._scaling.mean):
            raise SpecError(f"a scaling of {len(scaling.mean)} values for {len(self._scaling.mean)} signals")
        self._scaling = scaling

    def initial_state(self, rows: int) -> Array:
        """Zeros (N, S)."""
        return np.zeros((rows, self.sizes["state"]), np.float32)

    def step(self, z: Array, state: Array) -> tuple[Array, Array]:
        """Samples z (N, F) and a state (N, S) to the y (N, P) expected next and the next state."""
        scaling = self._scaling
        dy, state = self.module.step((z - scaling.mean) / scaling.scale, state)
        y = z[:, self.sizes["inputs"] :] + dy * scaling.increment_scale
        return np.asarray(y, np.float32), np.asarray(state, np.float32)

    def free_run(self, z: Array, u: Array, state: Array) -> Array:
        """As `twin.models.network.Network.free_run`."""
        run = np.empty((*u.shape[:2], self.sizes["outputs"]), np.float32)
        for k in range(u.shape[1]):
            run[:, k], state = self.step(z, state)
            z = np.concatenate((u[:, k], run[:, k]), axis=1).astype(np.float32)
        return run

    def free_runs(self, z: Array, warm: int) -> Array:
        """Of segments z (B, T, F): y (B, T - warm, P) in free run, after `warm` samples."""
        z, state = np.asarray(z, np.float32), self.initial_state(len(z))
        for k in range(warm - 1):
            _, state = self.step(z[:, k], state)
        return self.free_run(z[:, warm - 1], z[:, warm:, : self.sizes["inputs"]], state)

    def improves(self, one_step: float, free_run: float, swaps: bool) -> bool:
        """As `Network.improves`."""
        return better_in_sum(one_step, free_run)

    def fit(self, z: Array) -> None:
        """What its own `fit` finds in consecutive samples z (T, F)."""
        self._learn([z])

    def refit(self, lesson: Lesson) -> Iterator[float]:
        """Its own `fit`, on the whole history; or after a change on the newest part of it."""
        recent = lesson.recent() if lesson.changed else None
        yield from self.identify(lesson.stretches() if recent is None else [recent], lesson.known)

    def identify(self, stretches: Sequence[Array], known: bool) -> Iterator[float]:
        """Its own `fit`, which decides by itself where it begins."""
        self._learn(stretches)
        yield 1.0

    def _learn(self, stretches: Sequence[Array]) -> None:
        scaling, inputs = self._scaling, self.sizes["inputs"]
        pairs = [
            (
                ((z[:-1] - scaling.mean) / scaling.scale).astype(np.float32),
                (np.diff(z[:, inputs:], axis=0) / scaling.increment_scale).astype(np.float32),
            )
            for z in stretches
            if len(z) > 1
        ]
        self.module.fit([x for x, _ in pairs], [dy for _, dy in pairs])

    def means(self) -> dict[str, tuple[float, float]]:
        """None that this program knows of."""
        return {}

    def tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """Its own, and the scaling."""
        scaling = self._scaling
        own = {f"core.{name}": np.array(a, np.float32) for name, a in self.module.tensors().items()}
        return {
            "mean": scaling.mean.copy(),
            "scale": scaling.scale.copy(),
            "increment_scale": scaling.increment_scale.copy(),
            **own,
        }

    def load(self, tensors: dict[str, npt.NDArray[np.float32]]) -> None:
        """Take the tensors of a checkpoint."""
        self._scaling = Scaling(*(tensors[name].copy() for name in ("mean", "scale", "increment_scale")))
        own = {n.removeprefix("core."): a.copy() for n, a in tensors.items() if n.startswith("core.")}
        self.module.load(own)

    @classmethod
    def rehearse(cls, family: str, spec: Spec, sizes: Sizes) -> None:
        """There is nothing to compile."""
