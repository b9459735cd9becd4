"""What `step` measures beyond one step of one network: a whole twin, a stream that lasts, a fleet.

A program that keeps a little of each sample becomes slower and slower, which no short measurement shows. So
the first tenth of a long stream is compared with its last, by medians: a disturbance that is shorter than
half a tenth does not count.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from benchmarks.rounds import interleave, median_of
from benchmarks.step.rivals import COMPILED, SPEC, looked, network, one_cell, rivals, samples
from benchmarks.step.timers import Rival, in_a_row, rival
from benchmarks.subject import Subject, certain, of_predictor, of_twin, torch_threads
from twin.backends.opening import open_predictor
from twin.config import TrainerConfig
from twin.messages import Sample
from twin.twin import Twin

TAPS: Final = TrainerConfig().taps  # of a twin's model, where nothing else is configured
CHUNK: Final = 1_000  # steps timed by one reading of the clock
STEPS: Final = 1_000_000
TWIN_SAMPLES: Final = 200_000
QUICK_SAMPLES: Final = 50_000  # of either
ROUNDS: Final = 3

OF_STREAMS: Final = Subject("gru", COMPILED, 1)

FLEETS: Final = (1, 64, 1_024, 16_384, 262_144)  # N
QUICK_FLEETS: Final = (1, 16_384)
CELLS: Final = "torch.gru_cell"


def chunks(length: int) -> Iterator[list[Sample]]:
    """A stream of so many samples, `CHUNK` at a time, so that none is made while the clock runs."""
    rows = samples(CHUNK, seed=4).tolist()
    for first in range(0, length, CHUNK):
        yield [SPEC.sample(seq, row) for seq, row in enumerate(rows, first)]


def twin_stream(length: int) -> dict[str, float]:
    """All samples through `Twin.step` with the compiled GRU: µs a step, and the growth."""
    twin, checkpoint = Twin(SPEC, window=200, backend=COMPILED, adapt=False), network("gru", taps=TAPS)
    twin.refresh(checkpoint)
    while not twin.catch_up():
        pass
    certain(of_twin(twin, checkpoint), OF_STREAMS)
    step, clock, times = twin.step, time.perf_counter_ns, []
    for messages in chunks(length):
        start = clock()
        for message in messages:
            step(message)
        times.append((clock() - start) / CHUNK)
    assert twin.status == "following" and twin.counters.answered == length
    return figures(np.array(times))


def predictor_stream(length: int) -> dict[str, float]:
    """So many steps of the compiled GRU: µs a step, and the growth."""
    timed = rivals(network("gru"), (COMPILED,))[COMPILED]
    return figures(np.array(timed.timer.repeat(length // CHUNK, CHUNK)) / CHUNK)


def figures(ns: npt.NDArray[np.float64]) -> dict[str, float]:
    """Of means over chunks, in turn.

    >>> figures(np.linspace(1_000.0, 2_000.0, 11))
    {'p50': 1.5, 'growth': 2.0}
    """
    tenth = max(1, len(ns) // 10)
    first, last = np.median(ns[:tenth]), np.median(ns[-tenth:])
    return {"p50": float(np.median(ns)) / 1e3, "growth": float(last / first)}


def measure_streams(console: Console, *, quick: bool) -> dict[str, Any]:
    """The predictor and the whole twin, each on streams of their own."""
    turns = {
        "predictor.step": partial(predictor_stream, QUICK_SAMPLES if quick else STEPS),
        "Twin.step": partial(twin_stream, QUICK_SAMPLES if quick else TWIN_SAMPLES),
    }
    found = interleave(turns, ROUNDS, console, "streams")
    return {"rounds": found, "median": {name: median_of(each) for name, each in found.items()}}


def fleet(rows: int) -> dict[str, Rival]:
    """N twins with one GRU, by the compiled backend on all cores, and by torch's cell on one."""
    checkpoint, z = network("gru"), samples(1, seed=5)
    predictor = open_predictor(checkpoint, COMPILED, rows)
    predictor.sample[...] = z
    x = torch.from_numpy((z - checkpoint.tensors["mean"]) / checkpoint.tensors["scale"]).repeat(rows, 1)
    cells = one_cell("gru", checkpoint.sizes, rows)
    ours = rival("step(z)", rows, step=predictor.step, z=predictor.sample)
    torchs = rival("step(x)", rows, step=cells, x=x)
    return {
        COMPILED: ours._replace(look=partial(of_predictor, predictor, checkpoint)),
        CELLS: torchs._replace(look=lambda: Subject("gru", CELLS, torch_threads())),
    }


def measure_fleets(console: Console, *, quick: bool) -> tuple[dict[str, Any], dict[str, Subject]]:
    """Million twin-steps a second, for every size of a fleet; and whose they are."""

    def million_a_second(timed: Rival, seconds: float) -> float:
        return 1e3 / float(np.median(in_a_row(timed, seconds)))

    sizes, seconds, rounds = (QUICK_FLEETS, 0.05, 2) if quick else (FLEETS, 0.3, 5)
    fleets = {f"{rows} {name}": timed for rows in sizes for name, timed in fleet(rows).items()}
    turns: dict[str, Callable[[], float]] = {
        name: partial(million_a_second, timed, seconds) for name, timed in fleets.items()
    }
    with torch.inference_mode():
        found = interleave(turns, rounds, console, "fleets")
    middle = {
        name: {str(rows): statistics.median(found[f"{rows} {name}"]) for rows in sizes}
        for name in (COMPILED, CELLS)
    }
    return {"rounds": found, "median": middle}, {name: looked(each) for name, each in fleets.items()}
