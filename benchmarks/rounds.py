"""Rivals in turn, round after round: times, their percentiles, and ratios that hold on a noisy machine.

Other programs slow a machine down for seconds at a time. So rivals are compared in rounds: in each, every
rival has one turn, and the next round takes them in the opposite order. A ratio is formed within a round,
where both sides met the same machine, and only then is the median taken over the rounds.

    rounds = interleave({"eager": eager, "compiled": compiled}, 5, console, "step")
    middle = {name: median_of(turns) for name, turns in rounds.items()}
    speedup = median_ratio(rounds["eager"], rounds["compiled"], "p50")

where a turn is a function without arguments that returns figures, for example

    def eager() -> dict[str, float]:
        return percentiles(time_calls(lambda: predictor.step(z), 10_000, warm_up=100))
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

FIGURES: Final = ("p50", "p99", "p999", "max")
"""What `percentiles` tells, in the order in which tables show it."""


def time_calls(
    call: Callable[[], object], count: int, *, warm_up: int = 0, pause: float = 0.0
) -> NDArray[np.int64]:
    """How long each of `count` calls took, (count,) in ns, after `warm_up` calls that nobody counts.

    With `pause`, seconds, it sleeps before each call: a twin's step comes after a pause too, with cold
    caches. Each time includes one reading of the clock, some tens of ns. The garbage collector stays on.
    """
    clock, sleep = time.perf_counter_ns, time.sleep
    times = np.full(count, 0, np.int64)  # written, not only reserved: no page faults among the times
    for _ in range(warm_up):
        call()
    for k in range(count):
        if pause:
            sleep(pause)
        start = clock()
        call()
        times[k] = clock() - start
    return times


def percentiles(ns: NDArray[Any]) -> dict[str, float]:
    """The `FIGURES` of times in ns, in µs: p50, p99, p99.9 and the longest.

    >>> percentiles(np.arange(1, 1001) * 1000)["p99"]
    990.0
    """
    # times that occurred, not means between two of them: of 100 calls, p99.9 is the longest
    p50, p99, p999 = np.quantile(ns, (0.5, 0.99, 0.999), method="inverted_cdf") / 1e3
    return {"p50": float(p50), "p99": float(p99), "p999": float(p999), "max": float(np.max(ns)) / 1e3}


def x_real_time(p50_us: float, period: float = 1e-3) -> float:
    """How many times faster than needed: the period, s, over the median time, µs.

    >>> x_real_time(4.0)
    250.0
    """
    return period * 1e6 / p50_us


def interleave(
    rivals: Mapping[str, Callable[[], T]], rounds: int, console: Console, title: str
) -> dict[str, list[T]]:
    """What each rival's turn returned, in every round, behind a progress bar.

    Forward and backward alternately, so that neither a drift of the machine nor the neighbour who warms or
    empties the caches always falls to the same one.
    """
    names = list(rivals)
    found: dict[str, list[T]] = {name: [] for name in names}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[turn]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(title, total=rounds * len(names), turn="")
        for k in range(rounds):
            for name in reversed(names) if k % 2 else names:
                progress.update(bar, turn=name, refresh=True)
                found[name].append(rivals[name]())
                progress.advance(bar)
    return found


def median_of(turns: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure over a rival's rounds.

    >>> median_of([{"p50": 1.0}, {"p50": 9.0}, {"p50": 2.0}])
    {'p50': 2.0}
    """
    return {figure: statistics.median(turn[figure] for turn in turns) for figure in turns[0]}


def median_ratio(
    own: Sequence[Mapping[str, float]], other: Sequence[Mapping[str, float]], figure: str
) -> float:
    """One figure of a rival over that of another: formed in each round, then the median over the rounds.

    >>> median_ratio([{"p50": 2.0}, {"p50": 40.0}], [{"p50": 1.0}, {"p50": 20.0}], "p50")
    2.0
    """
    return statistics.median(mine[figure] / yours[figure] for mine, yours in zip(own, other, strict=True))
