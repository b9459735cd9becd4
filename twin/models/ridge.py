"""Least squares with a small ridge: the one closed solution that all linear starts share."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

RIDGE_SHARE: Final = 1e-9
"""Ridge penalty of a linear start, as a share of a unit variance, which all features have. It only decides
between solutions that are equally good: between neighbouring samples of a position, the speed has a millionth
of the variance, and must not be shrunk."""

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


def linear_start(x: Array, dy: Array, taps: int) -> tuple[Array, Array]:
    """D (P, n F) and d (P,) by ridge least squares from x (T, F) to dy (T, P), n the taps."""
    direct = taps_of(x, taps)
    a = np.hstack((direct, np.ones((len(direct), 1))))
    solution = ridge(a, dy[taps - 1 :], RIDGE_SHARE)  # (n F + 1, P)
    return taps * solution[:-1].T, solution[-1]
