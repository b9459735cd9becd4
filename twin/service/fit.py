"""`twin fit`: identify a plant from recordings, shown as it goes, within a budget of time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from twin import service
from twin.checkpoint import Checkpoint, newest, numbers, save
from twin.errors import CheckpointError, ConfigError, RecordingError, SpecError
from twin.families import AUTO, NETWORK
from twin.messages import Spec
from twin.service.prepare import prepare, training, trains

if TYPE_CHECKING:
    from twin.offline import Fit

SECONDS_PER_UNIT: Final = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
MIN_BUDGET_SEC: Final = 1.0  # s
MAX_BUDGET_SEC: Final = 86_400.0


def seconds(text: str) -> float:
    """A time such as 120s, 5m or 1h.

    Raises:
        ConfigError: it is no time, or one that cannot be a budget.

    >>> seconds("120s"), seconds("5m"), seconds("90")
    (120.0, 300.0, 90.0)
    """
    number = text.strip().rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text.strip()[len(number) :] or "s"
    try:
        found = float(number) * SECONDS_PER_UNIT[unit]
    except (ValueError, KeyError):
        found = -1.0
    if not MIN_BUDGET_SEC <= found <= MAX_BUDGET_SEC:
        raise ConfigError(
            f"--budget {text}: give a time from {MIN_BUDGET_SEC:g} s to {MAX_BUDGET_SEC / 3600:g} h, "
            "e.g. 120s, 5m or 1h"
        )
    return found


def fit(
    records: Sequence[NDArray[np.float64]],
    spec: Spec,
    model: str = AUTO,
    *,
    budget: float = 120.0,
    seed: int = 1,
) -> Checkpoint:
    """The model that `budget` s of this process's CPU time find for recordings (T, F) of one plant, inputs
    first, each on its own.

    Raises:
        RecordingError: samples from which nothing can be learned, or no model was found.
        SpecError: a family that this plant is not for.
    """
    from twin.offline import Fit

    begun = time.process_time()
    work = Fit(records, spec, model, seed)
    for _ in work.run(lambda: (time.process_time() - begun) / budget):
        pass
    return work.checkpoint(1)


def fit_and_save(
    console: Console,
    records: Sequence[NDArray[np.float64]],
    spec: Spec,
    directory: Path,
    *,
    model: str,
    budget: float,
    seed: int,
    replace: bool = False,
) -> dict[str, Any]:
    """Find a model within `budget` s of CPU time, save it, and answer its number, place and figures.

    Where the directory holds a model already, both are judged on the same held-out samples, and one that is
    worse is saved only to `replace` a better one. A signal ends it early, with the best so far.

    Raises:
        RecordingError: samples from which nothing can be learned, or no model was found before the end.
        CheckpointError: the run directory holds models of another plant, or cannot be written.
    """
    newest(directory, spec)  # a wrong run directory shows here, before minutes of work
    family = NETWORK if model == AUTO else model
    prepare([training(family, spec)] if trains(family) else [], console)
    begun, cpu = time.monotonic(), time.process_time()
    stop = service.Stop()

    import torch  # a second, of the budget

    from twin.offline import Fit

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    work = Fit(records, spec, model, seed)
    try:  # what cannot be written shows here, before minutes of work
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise CheckpointError(f"{fault.filename}: {fault.strerror}; choose another --run-dir") from None
    samples = sum(map(len, records))
    console.print(f"{samples:,} samples; Ctrl-C ends it early, and keeps the best model so far")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("held out: {task.fields[error]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("least squares", total=budget, error="-")
        turns = work.run(lambda: (time.process_time() - cpu) / budget)
        for now in turns:
            error = f"{100 * now.held_out:.3g} %" if np.isfinite(now.held_out) else "-"
            progress.update(task, completed=min(now.spent, 1.0) * budget, description=now.trying, error=error)
            if stop:
                turns.close()  # which keeps the best that it was working on
                break
    if stop and work.best is None:
        raise RecordingError("stopped before there was a model: nothing was saved")
    checkpoint = work.checkpoint(max(numbers(directory), default=0) + 1)
    before = model_before(work, directory)
    saved = before is None or replace or not before["better"]
    path = save(directory, checkpoint) if saved else None
    return {
        "model": checkpoint.number if saved else None,
        "path": str(path) if saved else None,
        "before": before,
        "family": checkpoint.family,
        "sizes": dict(checkpoint.sizes),
        "samples": samples,
        "seconds": time.monotonic() - begun,
        "cpu_seconds": time.process_time() - cpu,
        "runs_away": work.best is not None and work.best.runs_away,
        "stopped": bool(stop),
        **checkpoint.metrics,
    }


def model_before(work: Fit, directory: Path) -> dict[str, Any] | None:
    """The model that a directory holds, judged on the held-out samples of a fit, and whether it is `better`
    than what the fit found; None where there is none.

    It is the newest that verifies, of whatever family: what everyone takes who names the directory. Where it
    cannot be run, because its class or file is another now, its error is NaN and why is said.
    """
    from twin.models.opening import open_model

    checkpoint, _ = newest(directory)
    if checkpoint is None or work.best is None:
        return None
    told: dict[str, Any] = {"model": checkpoint.number, "family": checkpoint.family}
    try:
        attempt = work.judged(open_model(checkpoint))
    except (CheckpointError, SpecError) as error:
        return told | {"held_out_nrmse": math.nan, "runs_away": False, "better": False, "fault": str(error)}
    better = attempt.rank < work.best.rank
    return told | {"held_out_nrmse": attempt.error, "runs_away": attempt.runs_away, "better": better}


def verdict(result: Mapping[str, Any], directory: Path) -> Iterator[str]:
    """In words: the model beside the one that was there, and where it is saved or why not."""
    before = result["before"]
    if before is not None and "fault" in before:
        yield f"not compared with model {before['model']}, which cannot be run: {before['fault']}"
    elif before is not None:
        yield (
            f"on the same held-out samples {_error(result)}, against {_error(before)} of model "
            f"{before['model']} ({before['family']}): {'worse' if before['better'] else 'no worse'}"
        )
    if result["path"]:
        yield f"saved in {result['path']}"
    else:
        yield (
            f"not saved: model {before['model']} stays the newest in {directory}; "
            "--replace saves a worse one all the same, --run-dir another place"
        )


def _error(figures: Mapping[str, Any]) -> str:
    away = " (leaving the range of the recordings)" if figures["runs_away"] else ""
    return f"{100 * figures['held_out_nrmse']:.3g} %{away}"
