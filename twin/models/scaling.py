"""What makes volts, amperes and rad/s comparable before a network sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from twin.errors import SpecError


@dataclass(frozen=True, eq=False)
class Scaling:
    """Mean and scale of the F features, scale of the P increments of y: float32, in the signals' units.

    The increments have a scale of their own because at a short period they are far smaller than the signals
    themselves: a motor's speed of 500 rad/s changes by 0.5 in a millisecond. A network asked for increments
    in units of their own size learns them; asked for y itself, it would learn to repeat its input.

    >>> scaling = Scaling.of(np.array([[1.0, 0.0], [3.0, 4.0], [1.0, 0.0]]), n_outputs=1)
    >>> scaling.increment_scale.tolist()
    [4.0]
    """

    mean: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]
    increment_scale: npt.NDArray[np.float32]

    @classmethod
    def of(cls, z: npt.NDArray[Any], n_outputs: int) -> Scaling:
        """The scaling of samples z (T, F), whose last n_outputs columns are y.

        Mean and standard deviation of the features, root mean square of y's increments. Computed in float64:
        in float32 the sum over a long recording loses the digits that a small variation consists of. A
        channel that does not vary gets the scale 1, so that it stays a zero rather than becoming a NaN.

        Raises:
            SpecError: fewer than two samples, fewer columns than outputs, or values that are not finite.
        """
        z = np.asarray(z, np.float64)
        if z.ndim != 2 or len(z) < 2 or not 1 <= n_outputs < z.shape[1]:
            raise SpecError(
                f"scaling from samples of shape {z.shape}, {n_outputs} of the columns outputs: "
                "(T, F) with T > 1 and both inputs and outputs is needed"
            )
        size = np.abs(z).max(axis=0)
        if not (size < np.finfo(np.float32).max).all():  # a NaN is not smaller than anything
            raise SpecError("scaling from samples that are not finite, or too large for float32")
        mean, scale = z.mean(axis=0), z.std(axis=0)
        increments = np.sqrt(np.mean(np.diff(z[:, -n_outputs:], axis=0) ** 2, axis=0))
        invisible = 1e-7 * size  # less than this, float32 samples do not show
        return cls(
            mean.astype(np.float32),
            _positive(scale, invisible),
            _positive(increments, invisible[-n_outputs:]),
        )

    def pairs(
        self, z: npt.NDArray[Any], n_outputs: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Of samples z (T, F): all but the last (T - 1, F), and the outputs' increments after each
        (T - 1, P), both scaled."""
        z = np.asarray(z, np.float64)
        x = np.asarray((z[:-1] - self.mean) / self.scale, np.float64)
        return x, np.diff(z[:, -n_outputs:], axis=0) / self.increment_scale


def _positive(scale: npt.NDArray[np.float64], invisible: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    smallest = np.maximum(invisible, np.finfo(np.float32).tiny)
    return np.where(scale <= smallest, 1.0, scale).astype(np.float32)
