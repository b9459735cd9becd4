"""`chain`: sample sent to prediction received by a third process, beside a relay without a twin in it.

Plant and subscriber are the same in both: `twin simulate` and the monitor. In between stands either the twin
with a GRU of 32 hidden units, or a plain pyzmq program that unpacks each sample and sends as large an answer.
That relay is the floor: what two wake-ups and four copies of a message cost on this machine at this moment.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import msgpack
import numpy as np
import zmq
from rich.console import Console
from rich.progress import track
from rich.table import Table

from simulators import motor
from twin.checkpoint import Checkpoint, save
from twin.models.model import new_model
from twin.models.scaling import Scaling

SOURCE: Final = "benchmark"
KINDS: Final = ("relay", "twin", "twin, refit next door")
ROUNDS: Final = 5
SECONDS: Final = 12.0
FIGURES: Final = ("p50", "p99", "p999", "max")


def relay(listen: str, speak: str) -> None:
    """Answer each sample with a prediction of the same size, and nothing in between."""
    context = zmq.Context()
    samples, predictions = context.socket(zmq.SUB), context.socket(zmq.PUB)
    predictions.bind(speak)
    samples.connect(listen)
    samples.subscribe(f"sample/{SOURCE}".encode())
    topic = f"prediction/{SOURCE}".encode()
    while True:
        sample = msgpack.unpackb(samples.recv_multipart()[1])
        now = time.monotonic_ns()
        answer = {
            **{name: sample[name] for name in ("v", "epoch", "seq", "t", "y")},
            "sent_ns": now,
            "residual": sample["y"],
            "model": 0,
            "status": "following",
            "sample_sent_ns": sample["sent_ns"],
            "received_ns": now,
        }
        predictions.send_multipart([topic, msgpack.packb(answer)])


def one_round(kind: str, seconds: float, rate: float) -> dict[str, float]:
    """Latencies of one round, in µs, with the counts."""
    with tempfile.TemporaryDirectory(prefix="lt") as place, ExitStack() as stack:
        report = Path(place) / "report.json"
        environment = os.environ | {"XDG_RUNTIME_DIR": place, "OMP_NUM_THREADS": "1"}
        common = ["--source", SOURCE, "--run-dir", place]

        def start(*arguments: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                [sys.executable, *arguments], env=environment, stderr=subprocess.DEVNULL
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return process

        monitor = start("-m", "twin", "monitor", *common, "--report", str(report))
        if kind == "relay":
            ends = (f"ipc://{place}/livetwin/{SOURCE}/{who}" for who in ("plant", "twin"))
            start("-c", f"from benchmarks.chain import relay; relay(*{tuple(ends)!r})")
        else:
            _give_model(Path(place))
            start("-m", "twin", "predict", *common, "--await-subscribers", "1")
        listeners = 2
        if "refit" in kind:
            start("-m", "twin", "train", *common, "--period", "0.1")
            listeners = 3
        plant = ["--rate", str(rate), "--duration", str(seconds), "--await-subscribers", str(listeners)]
        start("-m", "twin", "simulate", "--source", SOURCE, *plant)
        monitor.wait(seconds + 60)
        figures = json.loads(report.read_text())
    counts = {name: float(figures[name]) for name in ("samples", "predictions", "overruns")}
    return {**figures["latency_us"], **counts}


def _give_model(place: Path) -> None:
    spec = motor().spec(0.001)
    z = np.random.default_rng(0).normal(size=(100, len(spec.features)))
    model = new_model("gru", spec, Scaling.of(z, len(spec.outputs)), hidden_size=32, taps=8)
    save(place, Checkpoint(1, None, model.family, model.sizes, spec, model.tensors()))


def measure(console: Console, *, quick: bool, rate: float = 1000.0) -> dict[str, Any]:
    """All kinds in turn, round after round, so that what the machine does meanwhile meets all of them."""
    rounds, seconds = (2, 5.0) if quick else (ROUNDS, SECONDS)
    turns = [kind for _ in range(rounds) for kind in KINDS]
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for kind in track(turns, "chain", console=console):
        found[kind].append(one_round(kind, seconds, rate))
    middle = {
        kind: {name: statistics.median(each[name] for each in results) for name in results[0]}
        for kind, results in found.items()
    }
    floor, twin, busy = (middle[kind] for kind in KINDS)
    summary = {
        "chain_p50_ratio": twin["p50"] / floor["p50"],
        "chain_p99_ratio": twin["p99"] / floor["p99"],
        "refit_next_door_p99_ratio": busy["p99"] / twin["p99"],
        "unanswered": sum(r["samples"] - r["predictions"] for k in KINDS[1:] for r in found[k]),
    }
    return {"rate_hz": rate, "seconds": seconds, "rounds": found, "median": middle, "summary": summary}


def table(result: dict[str, Any]) -> Table:
    """Medians over the rounds, µs."""
    view = Table(title=f"sample sent to prediction received, {result['rate_hz']:g} Hz, ipc, eager GRU-32, µs")
    for heading in ("in between", *FIGURES, "samples", "answered"):
        view.add_column(heading, justify="left" if heading == "in between" else "right")
    for kind, figures in result["median"].items():
        values = [*(figures[name] for name in FIGURES), figures["samples"], figures["predictions"]]
        view.add_row(kind, *(f"{value:,.0f}" for value in values))
    return view
