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
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console

from benchmarks.rounds import interleave, median_of, median_ratio, percentiles, time_calls
from twin.backends.graph import Graph
from twin.checkpoint import Checkpoint
from twin.messages import Spec
from twin.models import GATES
from twin.models.model import Model, new_model, open_model
from twin.models.scaling import Scaling
from twin.predictor import open_predictor

SPEC: Final = Spec(inputs=("voltage",), outputs=("current", "speed"), dt=0.001)
HIDDEN: Final = 32
FLEET: Final = 1_000_000
COPIED: Final = 1 << 30  # bytes, far more than the device's caches hold


def measure(quick: bool) -> dict[str, Any] | None:
    """Figures of this machine's CUDA device, times in µs, or None where there is none.

    In the summary, `cuda_graph_ratio` is the p50 of a step of one motor over that of an empty graph, both
    with the wait for the device; `cuda_graph_ratio_to_one_kernel` has a graph of one kernel that does next to
    nothing in its place. `cuda_fleet_ratio` is the device's time for a step of a million motors over its
    bound; it is missing where Triton is.
    """
    if not torch.cuda.is_available():
        return None
    console = Console(stderr=True)
    checkpoint = _checkpoint()
    latency = _latency(checkpoint, console, quick)
    fleet = _fleet(checkpoint, console, quick) if find_spec("triton") else None
    summary = {
        "cuda_graph_ratio": median_ratio(latency["graph"], latency["empty graph"], "p50"),
        "cuda_graph_ratio_to_one_kernel": median_ratio(latency["graph"], latency["one kernel"], "p50"),
        "cuda_eager_p50_us": median_of(latency["eager-cuda"])["p50"],
    }
    return {
        "device": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "latency": {name: median_of(turns) for name, turns in latency.items()},
        "fleet": fleet,
        "summary": summary | ({"cuda_fleet_ratio": fleet["ratio"]} if fleet else {}),
    }


def _checkpoint() -> Checkpoint:
    z = np.random.default_rng(0).normal(size=(1_000, 3)) * [2.0, 0.3, 40.0]
    model = new_model("gru", SPEC, Scaling.of(z, n_outputs=2), hidden_size=HIDDEN)
    return Checkpoint(1, None, "gru", model.sizes, SPEC, model.tensors())


def _latency(checkpoint: Checkpoint, console: Console, quick: bool) -> dict[str, list[dict[str, float]]]:
    """A step of one motor, called from Python, and what any replay costs."""
    count, rounds = (500, 3) if quick else (5_000, 9)
    graph, eager = Graph(checkpoint, 1), open_predictor(checkpoint, "eager-cuda")
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
    return interleave(rivals, rounds, console, "cuda, one motor")


def _fleet(checkpoint: Checkpoint, console: Console, quick: bool) -> dict[str, Any]:
    """A step of a million motors on the device alone, without the way of samples and answers to it."""
    from benchmarks.fma import Chains
    from twin.backends.fused import Fused

    repeats, rounds = (10, 3) if quick else (50, 9)
    model = open_model(checkpoint).requires_grad_(False).cuda()
    fleet, chains = Fused(model, FLEET), Chains()
    z, y = torch.randn(FLEET, 1, 3, device="cuda"), torch.empty(FLEET, 2, device="cuda")
    source = torch.ones(COPIED // 4, device="cuda")
    target = torch.empty_like(source)
    rivals = {
        "step": _timed(lambda: fleet.follow(z, y), repeats),
        "copy": _timed(lambda: target.copy_(source), repeats),
        "multiply-add": _timed(chains.run, repeats),
    }
    times = interleave(rivals, rounds, console, "cuda, a million motors")
    moved, flops = (FLEET * each for each in _work(model))
    ratios, bounds = [], []
    for step, copy, chain in zip(times["step"], times["copy"], times["multiply-add"], strict=True):
        by_bytes = moved * copy["us"] / (2 * COPIED)  # a copy reads and writes
        by_flops = flops * chain["us"] / chains.flops
        bounds.append({"bytes_us": by_bytes, "flops_us": by_flops})
        ratios.append(step["us"] / max(by_bytes, by_flops))
    middle = {name: median_of(turns)["us"] for name, turns in times.items()}
    return {
        "rows": FLEET,
        "hidden_size": HIDDEN,
        "step_us": middle["step"],
        **median_of(bounds),
        "copy_tb_per_s": 2 * COPIED / middle["copy"] / 1e6,
        "tflop_per_s": chains.flops / middle["multiply-add"] / 1e6,
        "million_steps_per_s": FLEET / middle["step"],
        "ratio": statistics.median(ratios),
    }


def _work(model: Model) -> tuple[int, int]:
    """Bytes that a row's step must move, its state in and out, and its floating-point operations."""
    sizes = model.sizes
    hidden, outputs = sizes["hidden_size"], sizes["outputs"]
    features = sizes["inputs"] + outputs
    moved = 4 * (2 * model.state_size + features + outputs)
    gates = GATES[model.family] * hidden * (hidden + features)
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
