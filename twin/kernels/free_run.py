"""A model fed with its own answers, compiled: the steps of a free run, in one call that lets other threads
run."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple

from numba import types

from twin.kernels.cache import kept
from twin.kernels.follow import CALL, compiled
from twin.kernels.layout import Layout
from twin.kernels.vectors import integer, load, pointer, store

FreeRun = Callable[[int, int], None]


class Run(NamedTuple):
    """Places among the 64-bit integers of a free run: two addresses, and a number."""

    u: int
    """Inputs (N, T, U), at the instants of the answers."""
    answers: int
    """(N, T, P)."""
    steps: int
    """T."""


RUN: Final = Run(*range(len(Run._fields)))


@lru_cache(maxsize=64)
def free_runner(layout: Layout) -> FreeRun:
    """What simulates N rows over T samples from the samples z (N, F), and leaves the answers in a run (N, T,
    P).

    It is called with two addresses: that of a call of the `follower`, of one step on one thread, whose z it
    overwrites; and that of the integers that `Run` names.
    """
    follow = compiled(layout)
    features, inputs, outputs = layout.features, layout.inputs, layout.outputs
    size, y_at = layout.row, layout.y

    def run(call: Any, more: Any) -> None:
        n, steps = integer(call, CALL.n), integer(more, RUN.steps)
        q, z = pointer(integer(call, CALL.rows)), pointer(integer(call, CALL.z))
        u, answers = pointer(integer(more, RUN.u)), pointer(integer(more, RUN.answers))
        for k in range(steps):
            follow(call)
            for r in range(n):
                for i in range(inputs):
                    store(z, r * features + i, load(u, (r * steps + k) * inputs + i))
                for i in range(outputs):
                    y = load(q, r * size + y_at + i)
                    store(z, r * features + inputs + i, y)
                    store(answers, (r * steps + k) * outputs + i, y)

    function = kept(run, layout, nogil=True)
    signature = (types.int64, types.int64)
    function.compile(signature)
    entry: FreeRun = function.overloads[signature].entry_point
    return entry
