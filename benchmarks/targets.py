"""`python -m benchmarks.targets`: the committed results beside what they were meant to reach, as Markdown.

`docs/speed.md` carries these tables, and a test holds the two together: no figure outlives its measurement.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

RESULTS: Final = Path(__file__).parent / "results"
SIZES: Final = (16, 32, 64, 128)


class Target(NamedTuple):
    """A figure of a benchmark's summary, and what it should be."""

    benchmark: str
    key: str
    text: str
    reach: str
    aim: str
    shown: Callable[[float], str]


def _fraction(ratio: float) -> str:
    return f"1/{1 / ratio:.0f}" if ratio < 0.1 else f"1/{1 / ratio:.1f}"


def _ratio(value: float) -> str:
    return f"{value:.2f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _one_digit(value: float) -> str:
    return f"{value:.1f}"


TARGETS: Final = (
    Target(
        "step", "step_vs_nn_gru", "a GRU-32 step from Python / eager `nn.GRU`", "1/70", "1/120", _fraction
    ),
    Target(
        "step", "step_copied_vs_nn_gru", "the same, of an array that must be copied first", "", "", _fraction
    ),
    Target(
        "step",
        "kernel_vs_nn_gru",
        "the step in a compiled loop / eager `nn.GRU`",
        "1/220",
        "1/300",
        _fraction,
    ),
    Target(
        "step",
        "step_vs_onnxruntime",
        "the worst family and size / onnxruntime, IO binding",
        "1/3",
        "1/3.5",
        _fraction,
    ),
    Target("step", "step_vs_onnxruntime_64", "the same, up to H = 64", "1/5", "1/8", _fraction),
    Target("step", "twin_step_us", "the whole of `Twin.step`, p50, µs", "5", "", _one_digit),
    Target("step", "growth", "the last tenth of a million steps / the first", "1", "", _ratio),
    Target(
        "step", "fleet_16384_mtps", "a fleet of 16,384, two cores, million steps/s", "11", "19", _one_digit
    ),
    Target(
        "chain", "chain_p50_ratio", "sample → prediction / bare relay, p50, 1 kHz, ipc", "1.35", "1.2", _ratio
    ),
    Target("chain", "chain_p99_ratio", "the same, p99", "1.6", "1.25", _ratio),
    Target("chain", "lost_5khz", "lost in 60 s at 5 kHz", "0", "", _count),
    Target("chain", "lost_10khz", "lost at 10 kHz", "", "0", _count),
    Target(
        "chain", "refit_next_door_p99_ratio", "p99 with a refit next door / without", "1.5", "1.2", _ratio
    ),
    Target("swap", "swap_worst_us", "the worst step of a swap, µs", "1,000", "", _count),
    Target(
        "swap", "swap_worst_over_worst_without_us", "the same, over the worst step without", "", "200", _count
    ),
    Target(
        "startup", "first_prediction_warm_s", "exec → first prediction, kernels on disk, s", "1.0", "", _ratio
    ),
    Target("startup", "first_prediction_cold_s", "the same, the first time on a machine", "", "", _ratio),
    Target(
        "refit", "trainer_refit_speedup_vs_torch", "a refit, eager torch's time / ours", "", "", _one_digit
    ),
    Target("simulate", "simulate_x_real_time", "simulated motor, × real time at 1 kHz", "", "", _count),
)


def table(machine: str = "2core-epyc") -> str:
    """The table of what a machine's committed results say."""
    lines = ["| what | reach | aim at | measured |", "|---|---|---|---|"]
    for target in TARGETS:
        summary = _summary(target.benchmark, machine)
        if (value := summary.get(target.key)) is not None:
            cells = (target.text, target.reach, target.aim, target.shown(value))
            lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |"))
    return "\n".join(lines)


def steps(machine: str = "2core-epyc") -> str:
    """The table of one step from Python, of each family and size: µs, and the rivals' times over it."""
    median = _result("step", machine)["median"]
    lines = ["| µs; × onnxruntime; × torch | H = 16 | 32 | 64 | 128 |", "|---|---|---|---|---|"]
    for family in ("gru", "lstm", "rnn", "window-rnn"):
        cells = []
        for size in SIZES:
            times = {name: each["mean"] for name, each in median[f"{family}-{size}"].items()}
            own = times["compiled"]
            rivals = (times["onnxruntime"] / own, times["torch sequence"] / own)
            cells.append(f"{own:.2f}; {rivals[0]:.1f}; {rivals[1]:.0f}")
        name = f"{family}, L = 10" if family == "window-rnn" else family
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def chain(machine: str = "2core-epyc") -> str:
    """The table of sample sent to prediction received, through a bare relay and through a twin."""
    result = _result("chain", machine)
    lines = ["| at | in between | p50, µs | p99, µs | lost |", "|---|---|---|---|---|"]
    for name, condition in sorted(result["conditions"].items(), key=lambda each: each[1]["rate"]):
        who, *_, place = name.rpartition(f", {condition['rate'] / 1e3:g} kHz")
        place = f"{condition['rate']:,.0f} Hz{place}"
        each = result["median"][name]
        figures = f"{each['p50']:,.0f} | {each['p99']:,.0f} | {each['lost']:,.0f}"
        lines.append(f"| {place} | {who} | {figures} |")
    return "\n".join(lines)


def _summary(benchmark: str, machine: str) -> dict[str, Any]:
    file = RESULTS / f"{benchmark}-{machine}.json"
    return dict(_result(benchmark, machine)["summary"]) if file.exists() else {}


def _result(benchmark: str, machine: str) -> dict[str, Any]:
    return dict(json.loads((RESULTS / f"{benchmark}-{machine}.json").read_text()))


if __name__ == "__main__":
    print(table(), steps(), chain(), sep="\n\n")
