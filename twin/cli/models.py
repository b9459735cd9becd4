"""The commands about models rather than processes: forecast, fit, evaluate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final, Optional

import typer
from rich.console import Console
from rich.markup import escape

from twin.cli.plant import names_of, recording_of
from twin.errors import ConfigError, RecordingError
from twin.families import AUTO, FAMILIES
from twin.models import own
from twin.plain_json import json_text
from twin.settings import load

FITTED: Final = (AUTO, *FAMILIES)
"""What `twin fit` can find, beside a class of the user's."""
console: Final = Console()
errors: Final = Console(stderr=True, soft_wrap=True, highlight=False)


def forecast(
    source: Annotated[str, typer.Option(help="Name of the motor on the bus.")] = "motor-1",
    voltage: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="The input to come, of a plant with one input: a signal such as step:12, in its unit. "
            "Repeated, each is a scenario."
        ),
    ] = None,
    inputs: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--input",
            help="An input to come, NAME=SIGNAL (may be repeated); others stay as they are. "
            "The same name once more begins another scenario.",
        ),
    ] = None,
    horizon: Annotated[float, typer.Option(help="How far to look ahead, s.", min=1e-6)] = 1.0,
    run_dir: Annotated[
        str, typer.Option(help="Directory of the checkpoints. Default: the running twin's.")
    ] = "",
    plant_endpoint: Annotated[str, typer.Option(help="Where the plant publishes.")] = "",
    forecast_endpoint: Annotated[str, typer.Option(help="Where the twin is asked.")] = "",
    model: Annotated[str, typer.Option(help="FILE.py:CLASS of a model of your own.")] = AUTO,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
) -> None:
    """Say what a running plant would do under inputs to come, from its present state on.

    Asks the twin that runs. Where none does, or --run-dir names another model, it listens for one window,
    warms the newest model's hidden state with it, and runs it free.
    """
    own.named(model)
    from simulators.signals import signal as parse
    from twin.service import forecast

    bus = {"source": source, "plant_endpoint": plant_endpoint, "forecast_endpoint": forecast_endpoint}
    config = load(None, bus=bus, twin={"run_dir": run_dir})
    scenarios: list[dict[str, Callable[[float], float]]] = [{}]
    for text in [*(inputs or []), *("=" + each for each in voltage or [])]:
        name, separator, signal = text.partition("=")
        if not separator:
            raise ConfigError(f"--input {text}: NAME=SIGNAL is needed, e.g. voltage=step:12")
        fresh = next((each for each in scenarios if name not in each), None)
        if fresh is None:
            scenarios.append(fresh := {})
        fresh[name] = parse(signal)
    result = forecast.ahead(config, scenarios, horizon)
    console.print_json(json_text(result)) if as_json else console.print(*forecast.tables(result))


def fit(
    files: Annotated[
        list[Path], typer.Argument(help="Recordings of one plant, CSV or Parquet, each on its own.")
    ],
    inputs: Annotated[str, typer.Option(help="Columns that drive the plant, separated by commas.")],
    outputs: Annotated[str, typer.Option(help="Columns that are measured, separated by commas.")],
    dt: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Sample time, s. Default: from the column t_s."),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="Family of the model, FILE.py:CLASS of yours, or auto: several are tried, the best is kept."
        ),
    ] = "auto",
    budget: Annotated[str, typer.Option(help="CPU time that it may take, e.g. 120s or 5m.")] = "120s",
    run_dir: Annotated[
        str, typer.Option(help="Directory of the checkpoints. Default: runs/ and the first file's name.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Seed of first weights and of the choice of windows.", min=0)] = 1,
    replace: Annotated[
        bool, typer.Option("--replace", help="Save the model even where the one that is there is better.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of two lines.")
    ] = False,
) -> None:
    """Identify a plant from recordings: learn from most of them, and keep what runs free best on the rest.

    Where the directory holds a model already, a worse one is not saved over it. Ctrl-C ends it early, with
    the best model so far.
    """
    from twin.service import fit as service
    from twin.settings import default_source

    seconds = service.seconds(budget)
    if model not in FITTED and ":" not in model:
        raise ConfigError(f"--model {model}: it is one of {', '.join(FITTED)}, or FILE.py:CLASS")
    own.named(model)
    recordings = [recording_of(file, names_of(inputs), names_of(outputs), dt) for file in files]
    spec = recordings[0].spec
    for file, other in zip(files, recordings, strict=True):
        if other.spec.dt != spec.dt:
            raise ConfigError(
                f"{file} has a sample every {other.spec.dt:g} s, {files[0]} every {spec.dt:g} s: "
                "fit them apart, or say by --dt what holds for all"
            )
    directory = Path(run_dir or f"runs/{default_source(files[0])}")
    records = [recording.data for recording in recordings]
    result = service.fit_and_save(
        errors, records, spec, directory, model=model, budget=seconds, seed=seed, replace=replace
    )
    if as_json:
        console.print_json(json_text(result))
        return
    how = ", ".join(f"{name} {size}" for name, size in result["sizes"].items())
    name = f"model {result['model']}" if result["path"] else "found"
    console.print(
        f"{name}: {result['family']} ({how}), error in free run over held-out samples "
        f"{100 * result['held_out_nrmse']:.3g} % of their spread, after {result['seconds']:.0f} s",
        soft_wrap=True,
    )
    if linear := result.get("held_out_nrmse_linear"):
        ratio = result["held_out_nrmse"] / linear
        console.print(
            f"in {result['cpu_seconds']:.0f} s of CPU, training made the linear model's error × {ratio:.3g}"
            if ratio < 1
            else f"in {result['cpu_seconds']:.0f} s of CPU, no training beat the linear model: it is kept",
            soft_wrap=True,
        )
    if result["runs_away"]:
        console.print(
            "its free run leaves the range of the recordings: trust it some samples ahead only, or give "
            "longer recordings",
            soft_wrap=True,
        )
    for line in service.verdict(result, directory):
        console.print(line, soft_wrap=True)


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run directory, or one checkpoint's folder in it.")],
    file: Annotated[Path, typer.Argument(help="The recording to judge on, CSV or Parquet.")],
    inputs: Annotated[str, typer.Option(help="Columns of the inputs. Default: the model's.")] = "",
    outputs: Annotated[str, typer.Option(help="Columns of the outputs. Default: the model's.")] = "",
    dt: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Sample time, s. Default: the model's."),
    ] = None,
    horizon: Annotated[float, typer.Option(help="How far forecasts look ahead, s.", min=1e-6)] = 1.0,
    skip: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            help="Samples at the beginning that warm the model and are not judged. Default: 50, or a tenth "
            "of a short recording.",
            min=1,
        ),
    ] = None,
    folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--plot", help="Draw into this directory."),
    ] = None,
    model: Annotated[str, typer.Option(help="FILE.py:CLASS of a model of your own.")] = AUTO,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
) -> None:
    """Judge a model on a recording: one step ahead, in free runs of several lengths, and by its residual."""
    from twin.columns import doubt
    from twin.evaluation import evaluate, first_judged
    from twin.service import evaluate as service
    from twin.service.prepare import predictors, prepare

    own.named(model)
    checkpoint = service.open_run(run)
    spec = checkpoint.spec
    columns = names_of(inputs) or list(spec.inputs), names_of(outputs) or list(spec.outputs)
    if tuple(map(len, columns)) != (len(spec.inputs), len(spec.outputs)):
        raise ConfigError(
            f"the model has the inputs {', '.join(spec.inputs)} and the outputs {', '.join(spec.outputs)}; "
            "name as many columns"
        )
    try:  # by its own column t_s, if it has one
        recording = recording_of(file, *columns, dt)
    except RecordingError:
        recording = recording_of(file, *columns, spec.dt)
    if not math.isclose(recording.spec.dt, spec.dt, rel_tol=1e-6):
        raise ConfigError(
            f"the model has a sample every {spec.dt:g} s, the recording every {recording.spec.dt:g} s: "
            "resample the recording, or fit a model of its own"
        )
    steps = max(1, round(min(horizon / spec.dt, len(recording.data))))
    first_judged(len(recording.data), skip)  # a recording too short shows here, before anything is compiled
    prepare(predictors("compiled", checkpoint.family, checkpoint.sizes), errors)
    found = evaluate(checkpoint, recording.data, steps, skip)
    result = service.plain(checkpoint, found, steps)
    pictures = service.draw(checkpoint, found, folder) if folder is not None else []
    odd = doubt(checkpoint, recording.data)
    if odd is not None:
        errors.print(f"[yellow]warning:[/] {escape(f'{file}: {odd.text}')}")
    if as_json:
        told = [asdict(odd)] if odd is not None else []
        console.print_json(
            json_text(result | {"warnings": told, "pictures": [str(path) for path in pictures]})
        )
        return
    console.print(service.table(result))
    if result["unstable"]:
        console.print(service.unstable(result), soft_wrap=True)
    for path in pictures:
        console.print(f"picture: {path}", soft_wrap=True)
