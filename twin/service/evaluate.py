"""`twin evaluate`: the errors of a checkpoint on a recording, as a table, as plain data, and in pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from twin import metrics
from twin.checkpoint import Checkpoint, load, newest
from twin.errors import CheckpointError, ConfigError
from twin.evaluation import LAGS, Evaluation

MAX_PLOTTED_SAMPLES: Final = 20_000  # in a picture: it has no more dots than that

Array = NDArray[np.float64]


def open_run(run: Path) -> Checkpoint:
    """The newest checkpoint of a run directory, or the one whose own folder this is.

    Raises:
        CheckpointError: there is none that verifies.
    """
    if (run / "manifest.json").exists():
        return load(run)
    checkpoint, refused = newest(run)
    if checkpoint is None and refused:
        raise refused[0]
    if checkpoint is None:
        raise CheckpointError(f"{run} holds no model; name a run directory, e.g. one that `twin fit` printed")
    return checkpoint


def plain(checkpoint: Checkpoint, evaluation: Evaluation, horizon: int) -> dict[str, Any]:
    """All figures, with what they are figures of."""
    return {
        "model": checkpoint.number,
        "family": checkpoint.family,
        "sizes": dict(checkpoint.sizes),
        "units": dict(checkpoint.spec.units),
        "skipped": evaluation.first,
        "judged": len(evaluation.measured),
        "horizon_s": horizon * checkpoint.spec.dt,
        "forecasts": len(evaluation.forecasts),
        **evaluation.figures(),
        "free_runs": [
            runs.figures(checkpoint.spec.outputs, checkpoint.spec.dt) for runs in evaluation.lengths
        ],
        "unstable": evaluation.unstable,
    }


def table(result: dict[str, Any]) -> Table:
    """The figures for people, a block of rows for each output."""
    view = Table(
        title=f"model {result['model']}, {result['family']}, on {result['judged']:,} samples "
        f"after {result['skipped']} to warm it"
    )
    view.add_column("", no_wrap=True)
    for heading in ("RMSE", "NRMSE", "fit, %", "VAF, %"):
        view.add_column(heading, justify="right")
    for name in result["one_step"]:
        unit = result["units"].get(name, "")
        view.add_row(f"[bold]{escape(f'{name} [{unit}]' if unit else name)}[/]")
        for words, kind in (("one step ahead", "one_step"), ("free run, all of it", "free_run")):
            f = result[kind][name]
            view.add_row(words, *(f"{f[key]:.4g}" for key in ("rmse", "nrmse", "fit_percent", "vaf_percent")))
        for runs in result["free_runs"][:-1]:
            f = runs["outputs"][name]
            words = f"{runs['runs']:,} free runs of {runs['seconds']:g} s"
            view.add_row(words, *(f"{f[key]:.4g}" for key in ("rmse", "nrmse", "fit_percent")), "")
            view.add_row("  the median one", f"{f['median_rmse']:.4g}", "", "", "")
        w = result["whiteness"][name]
        words = f"{w['outside']} of {w['lags']} lags outside ±1.96/√T, Ljung-Box p = {w['p_value']:.2g}"
        view.add_row("residual", words, end_section=True)
    if not result["forecasts"]:
        view.caption = "The recording is too short for a forecast of this horizon."
    return view


def unstable(result: dict[str, Any]) -> str:
    """In words, how soon and how often free runs left the range of the recording."""
    gone = [runs for runs in result["free_runs"] if runs["left_range"]]
    soonest = min(runs["left_after_s"] for runs in gone)
    often = ", ".join(f"{runs['left_range']} of {runs['runs']} over {runs['seconds']:g} s" for runs in gone)
    return (
        f"unstable: its free runs leave the range of the recording, the first after {soonest:.3g} s "
        f"({often}); trust it no farther ahead"
    )


def draw(checkpoint: Checkpoint, evaluation: Evaluation, folder: Path) -> list[Path]:
    """Measured against free run, and the residual with its autocorrelation: two pictures for each output.

    Raises:
        ConfigError: matplotlib is missing, or the folder cannot be written.
    """
    try:
        from matplotlib.figure import Figure  # no pyplot: it would look for a display
    except ModuleNotFoundError:
        raise ConfigError("--plot needs matplotlib: pip install 'livetwin[bench]', or leave it out") from None
    spec, pictures = checkpoint.spec, []
    t: Array = np.arange(min(len(evaluation.measured), MAX_PLOTTED_SAMPLES), dtype=np.float64)
    t = (t + evaluation.first) * spec.dt
    for i, name in enumerate(spec.outputs):
        unit = spec.units.get(name, "")
        label = f"{name} [{unit}]" if unit else name
        measured, one_step, free_run = (
            a[: len(t), i] for a in (evaluation.measured, evaluation.one_step, evaluation.free_run)
        )
        for kind, plot, arrays in (
            ("free-run", _free_run, (measured, free_run)),
            ("residual", _residual, (measured - one_step,)),
        ):
            figure = Figure(figsize=(10, 6), layout="constrained")
            plot(figure, label, t, *arrays)
            figure.suptitle(f"model {checkpoint.number}, {checkpoint.family}")
            path = folder / re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{name}-{kind}.png")
            try:
                folder.mkdir(parents=True, exist_ok=True)
                figure.savefig(path, dpi=120)
            except OSError as error:
                raise ConfigError(
                    f"{path}: {error.strerror}; name a directory for --plot that can be written"
                ) from None
            pictures.append(path)
    return pictures


def _free_run(figure: Any, label: str, t: Array, measured: Array, free_run: Array) -> None:
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot(t, measured, color="0.55", linewidth=1.2, label="measured")
    above.plot(t, free_run, color="tab:blue", linewidth=1.0, label="free run")
    above.set_ylabel(label)
    above.legend(loc="upper right")
    below.plot(t, measured - free_run, color="tab:red", linewidth=0.8)
    below.set_ylabel("error")
    below.set_xlabel("t [s]")


def _residual(figure: Any, label: str, t: Array, residual: Array) -> None:
    above, below = figure.subplots(2, 1)
    above.plot(t, residual, color="tab:red", linewidth=0.8)
    above.set_ylabel(f"residual of {label}")
    above.set_xlabel("t [s]")
    lags = min(2 * LAGS, len(residual) // 4)
    bound = 1.96 / np.sqrt(len(residual))
    below.axhspan(-bound, bound, color="0.85", zorder=0, label="where 95 % of a white residual's are")
    below.bar(range(1, lags + 1), metrics.autocorrelation(residual, lags), width=0.5, color="tab:blue")
    below.set_ylabel("autocorrelation")
    below.set_xlabel("lag [samples]")
    below.legend(loc="upper right")
