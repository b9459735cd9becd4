"""Least squares with a small ridge: the one closed solution that all linear starts share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def ridge(a: Array, b: Array, share: float) -> Array:
    """The x (K, P) that minimises |a x - b|² + `share` T |x|², of a (T, K) and b (T, P).

    The last column of a are ones, and the offset it stands for is not shrunk. A ridge so small only chooses
    among equals: where a column does not vary, or two are the same.
    """
    damping = share * len(a) * np.eye(a.shape[1])
    damping[-1, -1] = 0.0
    solution: Array = np.linalg.lstsq(a.T @ a + damping, a.T @ b, rcond=None)[0]
    return solution


def taps_of(x: Array, taps: int) -> Array:
    """Of samples x (T, F): each with those before it side by side, oldest first, (T - taps + 1, taps F)."""
    windows = np.lib.stride_tricks.sliding_window_view(x, taps, axis=0)  # (T - taps + 1, F, taps)
    return windows.transpose(0, 2, 1).reshape(len(windows), -1)
