"""`step`: what one sample costs, in every family and size, beside torch and onnxruntime in the same rounds.

Who is compared, and what each of them does, is said in `rivals`. One input, two outputs, one twin, one
thread, float32. Measured are

- steps back to back, as means over many (`mean`) and one by one (`p50` to `max`), of every network;
- single steps of a GRU of 32 units, back to back and after a sleep of a millisecond, when the caches have
  gone cold: that is what a twin at 1 kHz lives with;
- the network of overlapping windows, whose step grows with the window, beside the one that carries its state;
- a whole `Twin.step`, a million steps in a row, and fleets of up to 262,144 twins (`streams`);
- the error of tanh and the logistic function in the compiled steps (`activations` tries every float32).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track

from benchmarks.result import Result
from benchmarks.rounds import interleave, median_of, median_ratio, percentiles
from benchmarks.step import activations
from benchmarks.step.plots import plot
from benchmarks.step.rivals import (
    CELL,
    COMPILED,
    COPIED,
    EAGER,
    KERNEL,
    ONE_STREAM,
    ONNX,
    SEQUENCE,
    WINDOW,
    looked,
    network,
    rivals,
)
from benchmarks.step.streams import OF_STREAMS, TAPS, measure_fleets, measure_streams
from benchmarks.step.tables import table
from benchmarks.step.timers import Rival, one_by_one, turn
from benchmarks.subject import Subject, certain
from twin.backends.opening import load_backend
from twin.checkpoint import Checkpoint
from twin.families import NETWORKS

__all__ = ["measure", "plot", "table"]

STATEFUL: Final = "gru-32"
BACKENDS: Final = {"cpu": (COMPILED, EAGER), "cuda": (COMPILED, EAGER, "eager-cuda", "graph")}
BY: Final = dict.fromkeys((COPIED, KERNEL, ONE_STREAM), COMPILED)
"""The backend behind a way that has another name."""
PAUSE: Final = 1e-3  # s
PROBABILITIES: Final = 1.0 - np.logspace(0, -3, 151)
"""At which the distribution of single steps is kept: as many points for the slowest tenth as for the rest."""

Size = dict[str, Any]
"""hidden sizes and lengths of windows; rounds; seconds and single calls of a turn; of the single steps, those
back to back and those paced."""
FULL: Final[Size] = {
    **{"hidden": (16, 32, 64, 128), "windows": (WINDOW, 50, 100)},
    **{"rounds": 7, "seconds": 0.1, "calls": 2_000, "back_to_back": 5_000, "paced": 400},
}
QUICK: Final[Size] = {
    **{"hidden": (32,), "windows": (WINDOW, 100)},
    **{"rounds": 2, "seconds": 0.01, "calls": 200, "back_to_back": 500, "paced": 50},
}

Turns = Sequence[Mapping[str, float]]


def networks(size: Size) -> dict[str, Checkpoint]:
    """Every family and size; a GRU with the default taps; longer windows."""
    grid = {f"{family}-{hidden}": network(family, hidden) for family in NETWORKS for hidden in size["hidden"]}
    windows = {of_window(length): network("window-rnn", window=length) for length in size["windows"]}
    return grid | {f"{STATEFUL}, {TAPS} taps": network("gru", taps=TAPS)} | windows


def of_window(length: int) -> str:
    """The name of the network of windows of so many samples."""
    return "window-rnn-32" if length == WINDOW else f"window-rnn-32, L {length}"


def measure(console: Console, *, quick: bool, device: str = "cpu") -> Result:
    """All of it.

    Raises:
        BackendError: no such device here.
        TwinError: onnxruntime answers otherwise than the models do.
    """
    for backend in BACKENDS[device]:
        load_backend(backend)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = on_one_thread(console, QUICK if quick else FULL, device, quick=quick)
        if device == "cuda":
            from benchmarks.step import cuda

            on_device = cuda.measure(console, quick=quick)
            found.details["cuda"] = on_device.details
            found = Result(
                found.summary | on_device.summary, {**found.subjects, **on_device.subjects}, found.details
            )
    finally:
        torch.set_num_threads(threads)
    return found


def on_one_thread(console: Console, size: Size, device: str, *, quick: bool) -> Result:
    """What does not need more than torch's one thread; the compiled fleets have threads of their own."""
    checkpoints = networks(size)
    ways = {
        name: rivals(checkpoint, BACKENDS[device])
        for name, checkpoint in track(checkpoints.items(), "compiling", console=console, transient=True)
    }
    rounds, subjects = measure_steps(console, checkpoints, ways, size)
    with torch.inference_mode():
        singles = measure_singles(ways[STATEFUL], size, console)
    streams = measure_streams(console, quick=quick)
    fleets, of_fleets = measure_fleets(console, quick=quick)
    subjects |= dict.fromkeys(streams["median"], OF_STREAMS) | {
        f"fleet of {k}": v for k, v in of_fleets.items()
    }
    errors = activations.measure(console, quick=True)
    summary = summarise(rounds, checkpoints) | of_streams(streams, fleets)
    details = {
        "device": device,
        "size": size,
        "networks": {name: {"family": c.family, **c.sizes} for name, c in checkpoints.items()},
        "rounds": rounds,
        "median": {
            name: {way: median_of(each) for way, each in ways.items()} for name, ways in rounds.items()
        },
        "windows": {str(length): of_window(length) for length in size["windows"]},
        "stateful": STATEFUL,
        "probabilities": PROBABILITIES.tolist(),
        "singles": singles,
        "streams": streams,
        "fleets": fleets,
        "activations": errors.details,
    }
    return Result(summary, subjects, details)


def measure_steps(
    console: Console, checkpoints: Mapping[str, Checkpoint], ways: Mapping[str, dict[str, Rival]], size: Size
) -> tuple[dict[str, dict[str, list[dict[str, float]]]], dict[str, Subject]]:
    """Steps of networks in each of their ways, by rounds; and whose they were, looked at when all are
    done."""
    turns = {
        f"{name}: {way}": partial(turn, timed, size["seconds"], size["calls"])
        for name, of_network in ways.items()
        for way, timed in of_network.items()
    }
    with torch.inference_mode():
        found = interleave(turns, size["rounds"], console, "step")
    rounds = {name: {way: found[f"{name}: {way}"] for way in ways[name]} for name in ways}
    subjects = {
        f"{name}: {way}": certain(looked(each), Subject(checkpoints[name].family, BY.get(way, way), 1))
        for name, of_network in ways.items()
        for way, each in of_network.items()
    }
    return rounds, subjects


def measure_singles(ways: dict[str, Rival], size: Size, console: Console) -> dict[str, Any]:
    """Single steps of the ways that answer from Python: figures, and the distribution, in µs."""

    def both(timed: Rival) -> dict[str, npt.NDArray[np.float64]]:
        return {
            "back to back": one_by_one(timed, size["back_to_back"]),
            "paced": one_by_one(timed, size["paced"], PAUSE),
        }

    compared = {
        name: partial(both, ways[name]) for name in ways if name not in (COPIED, KERNEL, ONE_STREAM, CELL)
    }
    found = interleave(compared, size["rounds"], console, "single steps")

    def told(ns: npt.NDArray[np.float64]) -> dict[str, Any]:
        quantiles = np.quantile(ns, PROBABILITIES, method="inverted_cdf") / 1e3
        return {**percentiles(ns), "quantiles": quantiles.tolist()}

    return {
        manner: {
            name: told(np.concatenate([each[manner] for each in turns])) for name, turns in found.items()
        }
        for manner in ("back to back", "paced")
    }


def summarise(
    rounds: Mapping[str, Mapping[str, Turns]], checkpoints: Mapping[str, Checkpoint]
) -> dict[str, float]:
    """Ratios of times, each formed within the rounds; less than 1 is faster."""
    gru = rounds[STATEFUL]

    def against_torch(way: str) -> float:
        return median_ratio(gru[way], gru[SEQUENCE], "mean")

    against_onnx = {name: median_ratio(ways[COMPILED], ways[ONNX], "mean") for name, ways in rounds.items()}
    smaller = [name for name in against_onnx if checkpoints[name].sizes["hidden_size"] <= 64]
    return {
        "step_vs_nn_gru": against_torch(COMPILED),
        "step_copied_vs_nn_gru": against_torch(COPIED),
        "kernel_vs_nn_gru": max(against_torch(KERNEL), against_torch(ONE_STREAM)),
        "step_vs_onnxruntime": max(against_onnx.values()),
        "step_vs_onnxruntime_64": max(against_onnx[name] for name in smaller),
        "step_vs_onnxruntime_gru_32": against_onnx[STATEFUL],
        "window_100_vs_stateful": median_ratio(rounds[of_window(100)][COMPILED], gru[COMPILED], "mean"),
    }


def of_streams(streams: dict[str, Any], fleets: dict[str, Any]) -> dict[str, float]:
    """The figures of `streams` that matter."""
    own, whole = streams["median"]["predictor.step"], streams["median"]["Twin.step"]
    return {
        "twin_step_us": whole["p50"],
        "growth": own["growth"],
        "twin_growth": whole["growth"],
        "fleet_16384_mtps": fleets["median"][COMPILED]["16384"],
    }
