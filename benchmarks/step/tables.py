"""The figures of `step` for people."""

from __future__ import annotations

from typing import Any, Final

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from benchmarks.rounds import FIGURES, x_real_time
from benchmarks.step import activations
from benchmarks.step.rivals import CELL, COMPILED, COPIED, EAGER, KERNEL, ONE_STREAM, ONNX, SEQUENCE

PERIOD: Final = 1e-3  # s; what "x real time" refers to
COLUMNS: Final = {
    "step": COMPILED,
    "copied": COPIED,
    "kernel": KERNEL,
    "eager": EAGER,
    "e-cuda": "eager-cuda",
    "graph": "graph",
    "onnx": ONNX,
    "torch": SEQUENCE,
    "cell": CELL,
}
"""Heading of each way to run a step."""


def table(result: dict[str, Any]) -> Group:
    """Medians over the rounds."""
    return Group(
        of_networks(result),
        of_singles(result),
        of_windows(result),
        of_streams(result),
        of_fleets(result),
        activations.table(result["activations"]),
    )


def titled(title: str, view: Table, words: str = "") -> Group:
    """A table between its title and its words, neither of which has to be as narrow as the table."""
    return Group(Text(f"\n{title}", "bold"), view, *([Text(words, "dim")] if words else []))


def grid() -> Table:
    """A table that leaves room for many columns."""
    return Table(box=box.SIMPLE_HEAD, padding=0)


def us(value: float) -> str:
    """A time in µs, in three digits.

    >>> us(0.2345), us(4.567), us(123.4)
    ('0.234', '4.57', '123')
    """
    return f"{value:.{3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0}f}"


def kernel(ways: dict[str, dict[str, float]]) -> float:
    """The slower of the two ways to run the kernel in a compiled loop, µs."""
    return max(ways[name]["mean"] for name in (KERNEL, ONE_STREAM) if name in ways)


def of_networks(result: dict[str, Any]) -> Group:
    """Every network, back to back."""
    view = grid()
    shown = {title: way for title, way in COLUMNS.items() if way in result["median"][result["stateful"]]}
    view.add_column("network", no_wrap=True)
    for heading in (*shown, "onnx×", "torch×"):
        view.add_column(heading, justify="right", no_wrap=True)
    for name, ways in result["median"].items():
        step = ways[COMPILED]["mean"]
        times = {way: figures["mean"] for way, figures in ways.items()} | {KERNEL: kernel(ways)}
        view.add_row(
            name,
            *(us(times[way]) if way in times else "" for way in shown.values()),
            *(f"{times[way] / step:.1f}" for way in (ONNX, SEQUENCE)),
        )
    return titled(
        "a step back to back, µs, mean of many",
        view,
        "step: predictor.step(predictor.sample); copied: of another array. kernel: in a compiled loop, the "
        "slower of 32 twins that all answer and one twin's stream, of which the last sample is answered. "
        "onnx: onnxruntime with IO binding. torch: nn.GRU and its like on a sequence of one, for window-rnn "
        "on the window. cell: nn.GRUCell and its like. onnx×, torch×: their times over step's.",
    )


def of_singles(result: dict[str, Any]) -> Group:
    """Single steps of the GRU: back to back, and after a sleep."""
    view = grid()
    for heading in ("", "by"):
        view.add_column(heading, no_wrap=True)
    for heading in (*FIGURES, "real×"):
        view.add_column(heading, justify="right", no_wrap=True)
    for manner, ways in result["singles"].items():
        for name, figures in ways.items():
            real = f"{x_real_time(figures['p50'], PERIOD):,.0f}"
            view.add_row(f"{manner} ", name, *(us(figures[figure]) for figure in FIGURES), real)
        view.add_section()
    return titled(
        f"single steps of {result['stateful']}, µs, less what reading the clock costs",
        view,
        "paced: each after a sleep of 1 ms, with cold caches. real×: 1 ms over p50.",
    )


def of_windows(result: dict[str, Any]) -> Group:
    """The network of windows beside the one that carries its state."""
    view = grid()
    view.add_column("network", no_wrap=True)
    shown = (COMPILED, EAGER, ONNX, SEQUENCE)
    for heading in shown:
        view.add_column(heading, justify="right")
    names = {f"window-rnn-32, L = {length}": name for length, name in result["windows"].items()}
    for label, name in {**names, f"{result['stateful']}, stateful": result["stateful"]}.items():
        view.add_row(label, *(us(result["median"][name][way]["mean"]) for way in shown))
    return titled("a step that reads the last L samples, beside one that carries its state, µs", view)


def of_streams(result: dict[str, Any]) -> Group:
    """What lasts."""
    view = grid()
    for heading in ("", "µs", "real×", "growth"):
        view.add_column(heading, justify="right" if heading else "left")
    for name, figures in result["streams"]["median"].items():
        p50 = figures["p50"]
        view.add_row(name, us(p50), f"{x_real_time(p50, PERIOD):,.0f}", f"{figures['growth']:.3f}")
    return titled(
        f"a step in a long stream, {result['stateful']}, compiled; Twin.step with 16 taps",
        view,
        "growth: a step of the last tenth of the stream over one of the first.",
    )


def of_fleets(result: dict[str, Any]) -> Group:
    """Many twins in one step."""
    view = grid()
    median = result["fleets"]["median"]
    view.add_column("by", no_wrap=True)
    for rows in median[COMPILED]:
        view.add_column(f"N = {int(rows):,}", justify="right")
    for name, figures in median.items():
        view.add_row(name, *(f"{value:.3g}" for value in figures.values()))
    return titled(
        f"fleets with one {result['stateful']}, million twin-steps a second",
        view,
        "compiled: on all cores from 2,048 twins on. torch: GRUCell and a Linear readout, on one core.",
    )
