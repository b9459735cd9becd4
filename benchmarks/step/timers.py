"""Times of calls that take less than a microsecond, beside a clock whose reading takes a tenth of one.

So a call is timed in two ways: many in a row by one reading, as a mean, and one by one, less what reading the
clock costs. Both by `timeit`, which puts a statement into a loop of its own without a function around it, and
which keeps the garbage collector off meanwhile, as `--realtime` does for a twin.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from timeit import Timer
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.rounds import percentiles
from benchmarks.subject import Subject

READING: Final = 400_000  # ns, about: what is timed by one reading of the clock, hardly feels that
MOST: Final = 1_000  # calls by one reading


class Rival(NamedTuple):
    """A way to do steps, how many of them a call does, and what tells whose steps they are."""

    timer: Timer
    steps: int = 1
    look: Callable[[], Subject] | None = None


def rival(statement: str, steps: int = 1, **names: Any) -> Rival:
    """What a statement does, in which the names mean these objects."""
    return Rival(Timer(statement, timer=time.perf_counter_ns, globals=names), steps)


def in_a_row(timed: Rival, seconds: float) -> NDArray[np.float64]:
    """Means over many calls in a row, (count,) in ns a step, in about so many seconds."""
    timer, steps, _ = timed
    one = max(1, round(min(timer.repeat(5, 1))))
    number = max(1, min(MOST, READING // one))
    count = max(5, round(seconds * 1e9 / (number * one)))
    return np.array(timer.repeat(count, number), np.float64) / (number * steps)


def one_by_one(timed: Rival, count: int, pause: float = 0.0) -> NDArray[np.float64]:
    """Single calls, (count,) in ns, less what the clock takes for nothing; with a sleep of so many seconds
    before each, the caches have gone cold."""
    timer, sleep = timed.timer, time.sleep
    times = np.zeros(count)
    for k in range(count):
        if pause:
            sleep(pause)
        times[k] = timer.timeit(1)
    return np.maximum(times - clock_cost(), 0.0)


def clock_cost() -> float:
    """What a single call that does nothing seems to take, ns."""
    return float(np.median(rival("pass").timer.repeat(500, 1)))


def turn(timed: Rival, seconds: float, count: int) -> dict[str, float]:
    """Figures in µs: `mean`, the median over means of calls in a row, and `mean_p99`; then those of single
    calls, where a call is a step."""
    means = in_a_row(timed, seconds)
    found = {"mean": float(np.median(means)) / 1e3, "mean_p99": float(np.quantile(means, 0.99)) / 1e3}
    if timed.steps == 1:
        found |= percentiles(one_by_one(timed, count))
    return found
