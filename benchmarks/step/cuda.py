"""The CUDA part of `step`: a captured step beside a graph of nothing, a fleet's step beside what bounds it.

A single motor's step is all latency: it is compared with replaying an empty graph and waiting for it. A
fleet's step is all throughput: it is compared with the larger of two times that no kernel can undercut, its
bytes at the rate of a copy and its multiply-adds at the rate of a loop that does nothing else. All of it is
measured in the same rounds.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Final

import numpy as np
import torch
from rich.console import Console

from benchmarks.result import Result
from benchmarks.rounds import interleave, median_of, median_ratio, percentiles, time_calls
from benchmarks.subject import Subject, certain, of_predictor, torch_threads
from twin.backends.opening import open_predictor
from twin.checkpoint import Checkpoint
from twin.families import GATES
from twin.messages import Spec
from twin.models.network import Network
from twin.models.opening import new_model, open_model
from twin.models.scaling import Scaling

SPEC: Final = Spec(inputs=("voltage",), outputs=("current", "speed"), dt=0.001)
FAMILY: Final = "gru"
HIDDEN: Final = 32
FLEET: Final = 1_000_000
COPIED: Final = 1 << 30  # bytes, far more than the device's caches hold


def measure(console: Console, *, quick: bool) -> Result:
    """Figures of this machine's CUDA device, times in µs.

    In the summary, `cuda_graph_ratio` is the p50 of a step of one motor over that of an empty graph, both
    with the wait for the device; `cuda_graph_ratio_to_one_kernel` has a graph of one kernel that does next to
    nothing in its place. `cuda_fleet_ratio` is the device's time for a step of a million motors over its
    bound; it is missing where Triton is.
    """
    device = {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    one = measure_latency(console, 500 if quick else 5_000, 3 if quick else 9)
    if not find_spec("triton"):
        return Result(one.summary, one.subjects, device | one.details | {"fleet": None})
    many = measure_fleet(console, FLEET, 10 if quick else 50, 3 if quick else 9)
    details = device | one.details | {"fleet": many.details}
    return Result(one.summary | many.summary, {**one.subjects, **many.subjects}, details)


def _checkpoint() -> Checkpoint:
    z = np.random.default_rng(0).normal(size=(1_000, 3)) * [2.0, 0.3, 40.0]
    model = new_model(FAMILY, SPEC, Scaling.of(z, n_outputs=2), hidden_size=HIDDEN)
    return Checkpoint(1, None, FAMILY, model.sizes, SPEC, model.tensors())


def measure_latency(console: Console, count: int, rounds: int) -> Result:
    """A step of one motor, called so many times from Python in each round, and what any replay costs."""
    checkpoint = _checkpoint()
    graph, eager = open_predictor(checkpoint, "graph"), open_predictor(checkpoint, "eager-cuda")
    z, number = np.zeros((1, 3)), torch.zeros(1, device="cuda")
    nothing, kernel = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The CUDA Graph is empty")
        with torch.cuda.graph(nothing):
            pass
    with torch.cuda.graph(kernel):
        number.add_(1.0)

    def replay(captured: torch.cuda.CUDAGraph) -> Callable[[], None]:
        def call() -> None:
            captured.replay()
            torch.cuda.current_stream().synchronize()

        return call

    def turn(call: Callable[[], object]) -> Callable[[], dict[str, float]]:
        return lambda: percentiles(time_calls(call, count, warm_up=200))

    rivals = {
        "graph": turn(lambda: graph.step(z)),
        "empty graph": turn(replay(nothing)),
        "one kernel": turn(replay(kernel)),
        "eager-cuda": turn(lambda: eager.step(z)),
    }
    found = interleave(rivals, rounds, console, "cuda, one motor")
    subjects = {
        f"cuda: {name}": certain(of_predictor(each, checkpoint), Subject(FAMILY, name, torch_threads()))
        for name, each in (("graph", graph), ("eager-cuda", eager))
    }
    summary = {
        "cuda_graph_ratio": median_ratio(found["graph"], found["empty graph"], "p50"),
        "cuda_graph_ratio_to_one_kernel": median_ratio(found["graph"], found["one kernel"], "p50"),
        "cuda_eager_p50_us": median_of(found["eager-cuda"])["p50"],
    }
    return Result(summary, subjects, {"latency": {name: median_of(turns) for name, turns in found.items()}})


def measure_fleet(console: Console, rows: int, repeats: int, rounds: int) -> Result:
    """A step of so many motors on the device alone, without the way of samples and answers to it."""
    from benchmarks.step.fma import PROGRAMS, Chains
    from twin.backends.fused import Fused

    model = open_model(_checkpoint())
    assert isinstance(model, Network)
    model = model.requires_grad_(False).cuda()
    fleet, chains, copied = (
        Fused(model, rows),
        Chains(max(1, PROGRAMS * rows // FLEET)),
        COPIED * rows // FLEET,
    )
    z, y = torch.randn(rows, 1, 3, device="cuda"), torch.empty(rows, 2, device="cuda")
    source = torch.ones(copied // 4, device="cuda")
    target = torch.empty_like(source)
    rivals = {
        "step": _timed(lambda: fleet.follow(z, y), repeats),
        "copy": _timed(lambda: target.copy_(source), repeats),
        "multiply-add": _timed(chains.run, repeats),
    }
    times = interleave(rivals, rounds, console, f"cuda, {rows:,} motors")
    moved, flops = (rows * each for each in _work(model))
    ratios, bounds = [], []
    for step, copy, chain in zip(times["step"], times["copy"], times["multiply-add"], strict=True):
        by_bytes = moved * copy["us"] / (2 * copied)  # a copy reads and writes
        by_flops = flops * chain["us"] / chains.flops
        bounds.append({"bytes_us": by_bytes, "flops_us": by_flops})
        ratios.append(step["us"] / max(by_bytes, by_flops))
    middle = {name: median_of(turns)["us"] for name, turns in times.items()}
    details = {
        "rows": rows,
        "hidden_size": HIDDEN,
        "step_us": middle["step"],
        **median_of(bounds),
        "copy_tb_per_s": 2 * copied / middle["copy"] / 1e6,
        "tflop_per_s": chains.flops / middle["multiply-add"] / 1e6,
        "million_steps_per_s": rows / middle["step"],
        "ratio": statistics.median(ratios),
    }
    summary = {
        "cuda_fleet_ratio": details["ratio"],
        "cuda_fleet_million_steps_per_s": details["million_steps_per_s"],
    }
    return Result(summary, {"cuda: fleet": Subject(model.family, "fused", 1)}, details)


def _work(model: Network) -> tuple[int, int]:
    """Bytes that a row's step must move, its state in and out, and its floating-point operations."""
    sizes = model.sizes
    hidden, outputs = sizes["hidden_size"], sizes["outputs"]
    features = sizes["inputs"] + outputs
    moved = 4 * (2 * model.state_size + features + outputs)
    gates = GATES[model.core.cell] * hidden * (hidden + features)
    return moved, 2 * (gates + outputs * (hidden + sizes["taps"] * features))


def _timed(work: Callable[[], object], repeats: int) -> Callable[[], dict[str, float]]:
    """A turn that has the device do the work again and again, and returns its time for one, in µs."""

    def turn() -> dict[str, float]:
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for k in range(repeats + 3):
            if k == 3:  # the first ones compile, and raise the clock
                start.record()
            work()
        end.record()
        end.synchronize()
        return {"us": 1e3 * start.elapsed_time(end) / repeats}

    return turn
