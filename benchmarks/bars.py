"""A bar chart for people: what a table says, at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def bars(values: Mapping[str, float], title: str, unit: str, file: Path) -> Path:
    """One horizontal bar for each value, with its figure beside it; returns the file, for a list of them.

    The format is the file's suffix.
    """
    from matplotlib.figure import Figure  # no pyplot: it would look for a display

    figure = Figure(figsize=(8, 0.45 * len(values) + 1.2), layout="constrained")
    axes = figure.subplots()
    drawn = axes.barh(list(values), list(values.values()), color="#4878a8")
    figures = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values.values()]
    axes.bar_label(drawn, labels=figures, padding=4)
    axes.invert_yaxis()  # the first on top, as in the table
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left")
    axes.set_xlabel(unit)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)  # the same each time
    return file
