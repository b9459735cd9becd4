"""`activations`: how far the kernels' tanh and logistic function are from the true ones, for every float32.

The true values come from the C library in float64, whose own error is a billionth of what is looked for. With
`--quick`, every 4,097th of the 2^32 patterns of bits is tried: all exponents, and mantissas of all kinds.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numba import get_num_threads, njit, prange
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.result import Result
from benchmarks.subject import NO_MODEL, Subject
from twin.kernels import activations

PATTERNS: Final = 2**32
STRIDE: Final = 4_097  # of a quick look; odd, so that it does not keep to a kind of mantissa
PORTION: Final = 2**26  # patterns between two movements of the progress bar
BLOCK: Final = 2**14  # patterns that one thread takes in a row

FUNCTIONS: Final = ("tanh", "logistic")
COLUMNS: Final = ("error", "error_at", "relative", "relative_at", "faults")
_ERROR, _ERROR_AT, _RELATIVE, _RELATIVE_AT, _FAULTS = range(len(COLUMNS))
_NORMAL = 2.0**-126  # below, float32 itself has fewer digits, and a relative error says nothing of a function


@njit
def _note(found: Any, x: Any, value: Any, true: Any, least: Any) -> None:
    """Compare a value of f(x) with the true one; a NaN, or beyond the limits least and 1, is a fault."""
    if not least <= value <= 1.0:
        found[_FAULTS] += 1.0
        return
    error = abs(value - true)
    if error > found[_ERROR]:
        found[_ERROR], found[_ERROR_AT] = error, x
    if abs(true) >= _NORMAL and error > found[_RELATIVE] * abs(true):
        found[_RELATIVE], found[_RELATIVE_AT] = error / abs(true), x


@njit(parallel=True)  # not cached: Numba would not see that the functions have changed
def _compare(start: Any, stop: Any, stride: Any) -> Any:
    """Each block's `COLUMNS` of the functions over patterns of bits, (blocks, functions, columns)."""
    blocks = (stop - start + BLOCK * stride - 1) // (BLOCK * stride)
    found = np.zeros((blocks, 2, 5))
    for b in prange(blocks):
        first = start + b * BLOCK * stride
        bits = np.arange(first, min(first + BLOCK * stride, stop), stride).astype(np.uint32)
        for x in bits.view(np.float32):
            tanh, logistic = np.float64(activations.tanh(x)), np.float64(activations.logistic(x))
            if x != x:
                found[b, 0, _FAULTS] += tanh == tanh
                found[b, 1, _FAULTS] += logistic == logistic
            else:
                wide = np.float64(x)
                _note(found[b, 0], wide, tanh, math.tanh(wide), -1.0)
                _note(found[b, 1], wide, logistic, 1.0 / (1.0 + math.exp(-wide)), 0.0)
    return found


def measure(console: Console, *, quick: bool) -> Result:
    """The worst of every function, and where."""
    stride = STRIDE if quick else 1
    starts = range(0, PATTERNS, PORTION * stride)
    portions = [
        _compare(start, min(start + PORTION * stride, PATTERNS), stride)
        for start in track(starts, "activations", console=console, transient=True)
    ]
    found = {name: worst(np.concatenate(portions)[:, f]) for f, name in enumerate(FUNCTIONS)}
    tanh, logistic = (found[name] for name in FUNCTIONS)
    summary = {
        "tanh_max_error": tanh["error"],
        "tanh_max_relative_error": tanh["relative"],
        "logistic_max_error": logistic["error"],
        "nan_stays_nan": float(not any(each["faults"] for each in found.values())),
    }
    subjects = {name: Subject(NO_MODEL, "compiled", get_num_threads()) for name in FUNCTIONS}
    details = {"patterns": len(range(0, PATTERNS, stride)), "functions": found}
    return Result(summary, subjects, details)


def worst(blocks: Any) -> dict[str, float]:
    """One function's `COLUMNS` over all blocks (blocks, columns).

    >>> worst(np.array([[1e-8, 0.5, 1e-7, 0.1, 0.0], [2e-8, 0.7, 3e-8, 0.2, 1.0]]))
    {'error': 2e-08, 'error_at': 0.7, 'relative': 1e-07, 'relative_at': 0.1, 'faults': 1.0}
    """
    found: dict[str, float] = {}
    for column in (_ERROR, _RELATIVE):
        row = blocks[blocks[:, column].argmax()]
        found |= {COLUMNS[k]: float(row[k]) for k in (column, column + 1)}
    return found | {"faults": float(blocks[:, _FAULTS].sum())}


def table(result: dict[str, Any]) -> Table:
    """Errors, and the x of which they are."""
    view = Table(
        title=f"over {result['patterns']:,} float32 numbers",
        caption="fault: a NaN that does not stay, or a value beyond the function's limits. "
        "relative: where the value is a normal float32.",
        caption_justify="left",
    )
    view.add_column("function")
    for heading in ("max error", "at x", "max relative", "at x", "faults"):
        view.add_column(heading, justify="right")
    for name, found in result["functions"].items():
        view.add_row(
            name,
            f"{found['error']:.3g}",
            f"{found['error_at']:.6g}",
            f"{found['relative']:.3g}",
            f"{found['relative_at']:.6g}",
            f"{found['faults']:.0f}",
        )
    return view
