"""`python -m benchmarks.gpu.work STAGE FILE [--rehearse]`: a stage's work in its own process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks.result import Result
from benchmarks.rounds import median_of
from twin.families import NETWORKS


def latency(console: Console, rehearse: bool) -> Result:
    """A step of one motor, and the smallest graphs."""
    from benchmarks.step import cuda

    return cuda.measure_latency(console, *((4, 1) if rehearse else (3_000, 7)))


def fleet(console: Console, rehearse: bool) -> Result:
    """A step of a fleet by the fused kernel."""
    from benchmarks.step import cuda

    return cuda.measure_fleet(console, *((100, 1, 1) if rehearse else (cuda.FLEET, 30, 7)))


def refit(console: Console, rehearse: bool) -> Result:
    """Refits on the CPU and on the device."""
    from benchmarks.gpu import refit

    if rehearse:
        return refit.measure(console, seconds=3.0, steps=2, rounds=1)
    return refit.measure(console, seconds=60.0, steps=60, rounds=3)


def step(console: Console, rehearse: bool) -> Result:
    """`step --device cuda`, of one size for each family: to compile for all of them would take too long."""
    import torch

    from benchmarks.step import benchmark
    from benchmarks.step.rivals import network, rivals

    torch.set_num_threads(1)
    size = {"rounds": 1, "seconds": 1e-3, "calls": 2} if rehearse else benchmark.QUICK | {"rounds": 5}
    hidden, families = (4, ("gru", "window-rnn")) if rehearse else (32, NETWORKS)
    checkpoints = {f"{family}-{hidden}": network(family, hidden) for family in families}
    ways = {name: rivals(each, benchmark.BACKENDS["cuda"]) for name, each in checkpoints.items()}
    rounds, subjects = benchmark.measure_steps(console, checkpoints, ways, size)
    median = {name: {way: median_of(turns) for way, turns in of.items()} for name, of in rounds.items()}
    gru = median[f"gru-{hidden}"]
    summary = {f"{way}_us": gru[way]["mean"] for way in benchmark.BACKENDS["cuda"]}
    return Result(summary, subjects, {"rounds": rounds, "median": median})


WORK: Final[dict[str, Callable[[Console, bool], Result]]] = {
    "latency": latency,
    "fleet": fleet,
    "refit": refit,
    "step": step,
}


def main(name: str, file: str, *options: str) -> None:
    """Do it, and write what came of it."""
    rehearse = "--rehearse" in options
    with ExitStack() as stack:
        if rehearse:
            from benchmarks.gpu.stand_in import played

            stack.enter_context(played())
        result = WORK[name](Console(width=120), rehearse)
    Path(file).write_text(json.dumps(result.plain()))


if __name__ == "__main__":
    main(*sys.argv[1:])
