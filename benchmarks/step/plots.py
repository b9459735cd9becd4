"""The pictures of `step`: how latencies are distributed, and what a window costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.step.rivals import COMPILED, EAGER, ONNX, SEQUENCE
from benchmarks.step.tables import us

COLOURS: Final = {
    COMPILED: "#c44e52",
    ONNX: "#4878a8",
    EAGER: "#8c8c8c",
    SEQUENCE: "#3d8f5f",
    "eager-cuda": "#8a6bb1",
    "graph": "#d08a35",
}
NAMES: Final = {COMPILED: "livetwin, compiled", EAGER: "livetwin, eager", SEQUENCE: "torch nn.GRU"}
SHARES: Final = (0.5, 0.9, 0.99, 0.999)
PLAIN: Final = "{x:g}"  # a number rather than a power of ten


def plot(result: dict[str, Any], folder: Path) -> list[Path]:
    """Both."""
    folder.mkdir(parents=True, exist_ok=True)
    return [latencies(result, folder / "step-latency.png"), windows(result, folder / "step-window.png")]


def latencies(result: dict[str, Any], file: Path) -> Path:
    """The share of steps that are done within a time, back to back and paced; the slowest are spread out."""
    from matplotlib.figure import Figure  # no pyplot: it would look for a display

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    heights = -np.log10(1.0 - np.array(result["probabilities"]))
    titles = ("back to back", "after a sleep of 1 ms, with cold caches")
    for axes, title, ways in zip(panels, titles, result["singles"].values(), strict=True):
        for way, found in sorted(ways.items(), key=lambda each: float(each[1]["p50"])):
            label = f"{NAMES.get(way, way)}:  {us(found['p50'])} / {us(found['p99'])}"
            axes.plot(found["quantiles"], heights, color=COLOURS[way], label=label, linewidth=2)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(PLAIN)
        axes.set_yticks(-np.log10(1.0 - np.array(SHARES)), [f"{100 * share:g} %" for share in SHARES])
        axes.set_ylim(0.0, heights[-1])
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(title, loc="left", fontsize="medium")
        axes.legend(
            frameon=False,
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
            title="p50 / p99, µs",
            alignment="left",
        )
    panels[-1].set_xlabel("µs")
    figure.suptitle(f"Single steps of a {result['stateful'].upper()}: the share done within a time")
    figure.savefig(file, dpi=150)
    return file


def windows(result: dict[str, Any], file: Path) -> Path:
    """Time of a step over the length of the window, beside the step that carries its state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    lengths = [int(length) for length in result["windows"]]
    for way in (SEQUENCE, ONNX, COMPILED):
        name = NAMES.get(way, way).removesuffix(" nn.GRU")
        growing = [result["median"][network][way]["mean"] for network in result["windows"].values()]
        flat = result["median"][result["stateful"]][way]["mean"]
        look: dict[str, Any] = {"color": COLOURS[way], "fontsize": "medium"}
        axes.plot(lengths, growing, "o-", color=COLOURS[way], linewidth=2)
        axes.plot(lengths, [flat] * len(lengths), "--", color=COLOURS[way], linewidth=2)
        axes.text(lengths[-1] * 1.04, growing[-1], f"{name}, {us(growing[-1])}", va="center", **look)
        axes.text(lengths[0], 0.9 * flat, f"{name}, {us(flat)}", va="top", **look)
    axes.plot([], [], "o-", color="#555555", label="the last L samples read afresh at each step")
    axes.plot([], [], "--", color="#555555", label=f"{result['stateful'].upper()}, its state carried on")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.0, 1.02))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(PLAIN)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("L, samples in the window")
    axes.set_ylabel("µs a step")
    axes.set_ylim(0.1, 3e3)  # room for the legend and for words below the lines
    axes.set_title("What a step costs: O(L) with a window, O(1) with a state", loc="left")
    figure.savefig(file, dpi=150)
    return file
