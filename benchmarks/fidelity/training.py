"""What training a network gives on the default motor: offline in a stated CPU time, and live within a minute.

Offline, by `twin fit`: a GRU from 300 s of the stream, and the network of overlapping windows, with which
this project began, from 60 s. Live: each of the families with hidden units beside a stream of 60 s, judged
over its last quarter as the twin answered, adapting. All as ratios of the one-step error to the Kalman floor,
and fits of free runs over a second. `SEEDS` are others than those on which the training was chosen (1, 31,
41, 42, 901 and 902).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console, RenderableType
from rich.table import Table

from benchmarks.fidelity.growth import BACKEND, DT, EVERY, JUDGED, OUTPUTS, WARM, Judge, answering
from benchmarks.fidelity.kalman import floor_errors, floor_of
from benchmarks.fidelity.linear_models import ARX
from benchmarks.fidelity.live import Live
from benchmarks.fidelity.stream import rms
from benchmarks.result import Result
from benchmarks.subject import Subject
from simulators import motor
from simulators.quick_motor import quick
from twin.config import TrainerConfig, TwinConfig
from twin.families import NETWORKS
from twin.metrics import fit_percent
from twin.offline import Fit

SEEDS: Final = {"learn": 51, "judge": 951, "live": 61}
HORIZON: Final = 1_000  # samples of a free run
FULL: Final[dict[str, Any]] = {
    "offline": {"gru": (300.0, 240.0), "window-rnn": (60.0, 120.0)},  # s of data, CPU s
    "live": NETWORKS,
    "stream": 60.0,
}
QUICK: Final[dict[str, Any]] = {"offline": {"gru": (5.0, 3.0)}, "live": ("gru",), "stream": 6.0}


def measure(console: Console, *, quick: bool, data: Path | None) -> Result:
    """Offline, then live."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    size = QUICK if quick else FULL
    offline: dict[str, Any] = {}
    for family, (seconds, budget) in size["offline"].items():
        with console.status(f"fidelity: {family} offline, {budget:g} CPU s on {seconds:g} s"):
            offline[family] = fitted(family, seconds, budget)
    live: dict[str, Any] = {}
    for family in size["live"]:
        with console.status(f"fidelity: {family} live, {size['stream']:g} s"):
            live[family] = streamed(family, size["stream"])
    summary = {"gru_live_speed": live["gru"]["ratio"]["speed"]}
    summary |= {
        "gru_offline_speed": offline["gru"]["ratio"]["speed"],
        "gru_free_run_1s": min(offline["gru"]["1 s"].values()),
    }
    if "window-rnn" in offline:
        summary |= {f"window_rnn_{name}": value for name, value in offline["window-rnn"]["ratio"].items()}
    subjects = {f"{family}, offline": Subject(family, BACKEND, 1) for family in offline}
    subjects |= {f"{family}, live": Subject(family, BACKEND, 1) for family in live}
    return Result(summary, subjects, {"offline": offline, "live": live})


def judge_of(seconds: float) -> Judge:
    """A stream that nothing was learned from."""
    z = quick(motor(), round(seconds / DT), seed=SEEDS["judge"]).z
    starts = range(WARM, len(z) - HORIZON, EVERY)
    return Judge(z, starts, (0.1, 1.0), floor_errors(floor_of(motor(), DT), z))


def fitted(family: str, seconds: float, budget: float) -> dict[str, Any]:
    """What `twin fit` finds in so much CPU time, beside ARX(16) by least squares from the same samples."""
    z, judge = quick(motor(), round(seconds / DT), seed=SEEDS["learn"]).z, judge_of(min(JUDGED, seconds))
    begun = time.process_time()
    work = Fit([z], motor().spec(DT), family)
    for _ in work.run(lambda: (time.process_time() - begun) / budget):
        pass
    took = time.process_time() - begun
    checkpoint = work.checkpoint(1)
    assert checkpoint.family == family
    found = judge(*answering(checkpoint))
    linear = ARX(z, 1, 16)
    return found | {
        "of_arx_16": judge(linear.ahead, linear.free_run),
        "data_s": seconds,
        "cpu_s": took,
        "plan": dict(checkpoint.config["fit"]),
        "held_out_nrmse": dict(checkpoint.metrics),
    }


def streamed(family: str, seconds: float) -> dict[str, Any]:
    """The last quarter of a stream that a twin answered while its trainer learned."""
    z = quick(motor(), round(seconds / DT), seed=SEEDS["live"]).z
    first = 3 * len(z) // 4
    live = Live(motor().spec(DT), TrainerConfig(model=family), TwinConfig())
    horizon = min(HORIZON, len(z) // 8)
    errors = live.run(z, free_runs=range(first, len(z) - horizon, EVERY), horizon=horizon)
    floor = floor_errors(floor_of(motor(), DT), z)
    ratio = rms(errors[first:]) / rms(floor[first:])
    true = np.concatenate([z[k : k + horizon, 1:] for k in live.free_runs])
    fit = fit_percent(true, np.concatenate(list(live.free_runs.values())))
    return {
        "ratio": dict(zip(OUTPUTS, ratio.tolist(), strict=True)),
        "1 s": dict(zip(OUTPUTS, fit.tolist(), strict=True)),
        "refits": len(live.refits),
        "accepted": len(live.checkpoints),
        "cpu_s": float(sum(each["s"] for each in live.refits)),
    }


def table(result: dict[str, Any]) -> RenderableType:
    """A row for each family and way."""
    view = Table(title="networks on the default motor: one step × floor, free run over 1 s in %")
    for heading in ("", "current", "speed", "1 s free", "CPU s"):
        view.add_column(heading, justify="right" if heading else "left")

    def row(name: str, found: dict[str, Any], took: str) -> None:
        ratios = (f"{found['ratio'][output]:.3f}" for output in OUTPUTS)
        free = " ".join(f"{found['1 s'][output]:.1f}" for output in OUTPUTS)
        view.add_row(name, *ratios, free, took)

    for family, found in result["offline"].items():
        row(f"{family}, {found['data_s']:g} s offline", found, f"{found['cpu_s']:.0f}")
        row(f"ARX(16) by least squares, {found['data_s']:g} s", found["of_arx_16"], "")
    for family, found in result["live"].items():
        row(f"{family}, live", found, f"{found['cpu_s']:.0f}")
    return view
