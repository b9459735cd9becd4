"""The command line: one door per process, all settings as options, mistakes answered with advice."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Optional, get_args, get_origin

import typer
from rich.console import Console
from rich.markup import escape

from twin.config import SECTIONS, Config, load
from twin.errors import ConfigError, RecordingError, TwinError
from twin.families import AUTO, FAMILIES
from twin.models import own
from twin.service.plant import Floor, Source
from twin.supervisor import USER_ERROR, die_with_supervisor

if TYPE_CHECKING:
    from simulators.recorded import Recording
    from twin.service.prepare import Work

OFFLINE: Final = (AUTO, *FAMILIES)
"""What `twin fit` can find."""

COMPILED_FOR: Final = frozenset(
    {"plant", "file", "inputs", "outputs", "dt", "backend"}
    | {"model", "hidden_size", "layers", "taps", "sequence_length"}
)
"""The settings on which machine code depends."""

app = typer.Typer(
    help="A real-time digital twin that streams: it answers every sample of a motor with the prediction of "
    "the next, and learns while it runs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_console = Console()
_errors = Console(stderr=True, soft_wrap=True, highlight=False)


def _command(
    *sections: str,
    only: Collection[str] = (),
    without: Collection[str] = (),
    opens: bool = False,
    hidden: bool = False,
) -> Callable[[Callable[[Config], None]], None]:
    """Make a function of a Config a command with an option for every setting of these sections.

    `only` leaves some of them, `without` all others. A command that `opens` models takes the file of one of
    the user's own, by --model. The options, their types, their help and their defaults
    come from `twin.config`, so that a setting is stated once.
    """

    def register(function: Callable[[Config], None]) -> None:
        owner = {
            name: section
            for section in sections
            for name in SECTIONS[section].model_fields
            if name not in without and (not only or name in only)
        }

        if opens:
            owner["model"] = "trainer"

        def command(config: Path | None = None, **given: Any) -> None:
            chosen: dict[str, dict[str, Any]] = {}
            for name, value in given.items():
                if value not in (None, []):
                    chosen.setdefault(owner[name], {})[name] = value
            settings = load(config, **chosen)
            if "model" in owner:
                own.named(settings.trainer.model)  # a file with a class is read here, and a mistake shows
            function(settings)

        help_of_config = "Settings from this TOML file; options given here come before it."
        parameters = [_parameter("config", Optional[Path], help_of_config, None, "Settings")]  # noqa: UP045
        for name, section in owner.items():
            field = SECTIONS[section].model_fields[name]
            kind = field.annotation
            default = field.get_default()
            text = " ".join((field.description or "").split())
            parameters.append(_parameter(name, kind, text, default, section.capitalize()))
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        command.__doc__ = function.__doc__
        name = function.__name__.strip("_").replace("_", "-")
        app.command(name, hidden=hidden)(command)

    return register


def _parameter(name: str, kind: Any, text: str, default: Any, panel: str) -> inspect.Parameter:
    """An option that is None when it is not given, so that the file's setting stands."""
    if default not in (None, "", []):
        shown = ("yes" if default else "no") if kind is bool else default
        text += f" Default: {shown}."
    optional = kind if get_origin(kind) is list or type(None) in get_args(kind) else Optional[kind]  # noqa: UP045
    option = typer.Option(help=text, show_default=False, rich_help_panel=panel)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[optional, option]
    )


@_command("bus", "plant", without=("twin_endpoint", "trainer_endpoint", "forecast_endpoint"))
def simulate(config: Config) -> None:
    """Publish a plant: a simulated DC motor, or a recording."""
    from twin.service.plant import publish

    publish(config, open_plant(config))


@_command("bus", "twin", without=("trainer_endpoint",), opens=True)
def predict(config: Config) -> None:
    """Answer every sample of a source with a prediction of the next."""
    from twin.service import twin

    twin.predict(config)


@_command(
    "bus", "twin", "trainer", without=("twin_endpoint", "forecast_endpoint", "await_subscribers", "realtime")
)
def train(config: Config) -> None:
    """Refit the model on what a source publishes, and save what is better."""
    from twin.service import trainer

    trainer.train(config)


@_command("bus", "twin", "report", without=("forecast_endpoint", "await_subscribers", "realtime"), opens=True)
def watch(config: Config) -> None:
    """Show a source live, and measure how its twin does."""
    from twin.service import run

    run.watch(config)


@_command("bus", "twin", "report", opens=True, hidden=True)
def monitor(config: Config) -> None:
    """Measure a source without showing it; what `twin watch` and `twin run` start beside themselves."""
    from twin.service import monitor

    monitor.watch(config)


@_command("bus", "plant", "twin", "trainer", "report")
def run(config: Config) -> None:
    """Run plant, twin and trainer together, shown live, until Ctrl-C."""
    from twin.service import run

    source = open_plant(config)  # a mistake shows here, before anything is started
    run.run(config, works(config, source))


@_command("plant", "twin", "trainer", only=COMPILED_FOR)
def prepare(config: Config) -> None:
    """Compile for this CPU, once, what `twin run` with the same settings needs.

    The code is kept in your cache directory. What is there already is not compiled again.
    """
    from twin.service import prepare as service

    begun = time.monotonic()
    source = open_plant(config)
    found = works(config, source)
    outcome = service.prepare(found, _console)
    if outcome.folder is None:
        raise ConfigError(f"machine code cannot be kept: {service.advice()}")
    if outcome.failed:
        raise TwinError("; ".join(f"{text}: {reason}" for text, reason in outcome.failed.items()))
    names, seconds = ", ".join(work.text for work in found), time.monotonic() - begun
    _console.print(f"ready for this CPU: {names} ({seconds:.1f} s; {outcome.folder})", soft_wrap=True)


@app.command(hidden=True)
def compile(work: str) -> None:
    """Do a piece of work, so that what it needs is compiled; what `twin prepare` starts beside itself."""
    from twin.service.prepare import do

    do(work)


def works(config: Config, source: Source) -> list[Work]:
    """All that a run of these settings needs compiled.

    Raises:
        SpecError: settings that ask for a family which this plant is not for.
    """
    from twin.service.prepare import Work, works

    found = works(config, source.spec)
    if source.floor is not None:
        kernels = [Path(__file__).parent.parent / "simulators" / name for name in ("exact.py", "kalman.py")]
        sources = hashlib.sha256(b"".join(path.read_bytes() for path in kernels)).hexdigest()
        found.insert(1, Work("the plant's best observer", "twin.cli:observe", sources=sources))
    return found


def observe() -> None:
    """Make the best observer of the default motor: that of every motor has the same code."""
    source = open_plant(load(None))
    floor = source.floor() if source.floor is not None else None
    for sample in itertools.islice(source.samples, 3):
        if floor is not None:
            floor.observe(sample)


@app.command()
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
    _console.print_json(json.dumps(result)) if as_json else _console.print(*forecast.tables(result))


@app.command()
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
        str, typer.Option(help="Family of the model, or auto: several are tried, the best is kept.")
    ] = "auto",
    budget: Annotated[str, typer.Option(help="Time that it may take, e.g. 120s or 5m.")] = "120s",
    run_dir: Annotated[
        str, typer.Option(help="Directory of the checkpoints. Default: runs/ and the first file's name.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Seed of first weights and of the choice of windows.", min=0)] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of two lines.")
    ] = False,
) -> None:
    """Identify a plant from recordings: learn from most of them, and keep what runs free best on the rest.

    Ctrl-C ends it early; the best model so far is saved.
    """
    from twin.config import default_source
    from twin.service import fit as service

    seconds = service.seconds(budget)
    if model not in OFFLINE and ":" not in model:
        raise ConfigError(f"--model {model}: it is one of {', '.join(OFFLINE)}, or FILE.py:CLASS")
    own.named(model)
    recordings = [_recording(file, _names(inputs), _names(outputs), dt) for file in files]
    spec = recordings[0].spec
    for file, other in zip(files, recordings, strict=True):
        if other.spec.dt != spec.dt:
            raise ConfigError(
                f"{file} has a sample every {other.spec.dt:g} s, {files[0]} every {spec.dt:g} s: "
                "fit them apart, or say by --dt what holds for all"
            )
    directory = Path(run_dir or f"runs/{default_source(files[0])}")
    records = [recording.data for recording in recordings]
    result = service.fit_and_save(_errors, records, spec, directory, model=model, budget=seconds, seed=seed)
    if as_json:
        _console.print_json(json.dumps(result))
        return
    how = ", ".join(f"{name} {size}" for name, size in result["sizes"].items())
    _console.print(
        f"model {result['model']}: {result['family']} ({how}), error in free run over held-out samples "
        f"{100 * result['held_out_nrmse']:.3g} % of their spread, after {result['seconds']:.0f} s",
        soft_wrap=True,
    )
    _console.print(f"saved in {result['path']}", soft_wrap=True)


@app.command()
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
    """Judge a model on a recording: one step ahead, in free run, in forecasts, and by its residual."""
    from twin.evaluation import evaluate
    from twin.service import evaluate as service

    own.named(model)
    checkpoint = service.open_run(run)
    spec = checkpoint.spec
    columns = _names(inputs) or list(spec.inputs), _names(outputs) or list(spec.outputs)
    if tuple(map(len, columns)) != (len(spec.inputs), len(spec.outputs)):
        raise ConfigError(
            f"the model has the inputs {', '.join(spec.inputs)} and the outputs {', '.join(spec.outputs)}; "
            "name as many columns"
        )
    try:  # by its own column t_s, if it has one
        recording = _recording(file, *columns, dt)
    except RecordingError:
        recording = _recording(file, *columns, spec.dt)
    if not math.isclose(recording.spec.dt, spec.dt, rel_tol=1e-6):
        raise ConfigError(
            f"the model has a sample every {spec.dt:g} s, the recording every {recording.spec.dt:g} s: "
            "resample the recording, or fit a model of its own"
        )
    steps = max(1, round(min(horizon / spec.dt, len(recording.data))))
    found = evaluate(checkpoint, recording.data, steps, skip)
    result = service.plain(checkpoint, found, steps)
    pictures = service.draw(checkpoint, found, folder) if folder is not None else []
    if as_json:
        _console.print_json(json.dumps(result | {"pictures": [str(path) for path in pictures]}))
        return
    _console.print(service.table(result))
    for path in pictures:
        _console.print(f"picture: {path}", soft_wrap=True)


def _recording(path: Path, inputs: list[str], outputs: list[str], dt: float | None) -> Recording:
    from simulators.recorded import Recording

    return Recording(path, inputs, outputs, dt)


def open_plant(config: Config) -> Source:
    """The plant that the settings describe.

    Raises:
        TwinError: a motor, parameter, signal, scenario or recording that cannot be.
    """
    plant = config.plant
    if plant.plant == "recorded":
        if not plant.file:
            raise ConfigError("--plant recorded needs --file, --inputs and --outputs")
        recording = _recording(Path(plant.file), _names(plant.inputs), _names(plant.outputs), plant.dt)
        steps = None if plant.duration is None else max(1, round(plant.duration / recording.spec.dt))
        return Source(recording.spec, itertools.islice(recording, steps))
    from simulators import dc_motor, scenario, signals
    from simulators.sensors import SensorNoise
    from simulators.simulate import simulate

    motor = dc_motor.motor(plant.motor)
    if plant.parameters:
        motor = replace(motor, **_numbers(plant.parameters, dc_motor.UNITS))  # type: ignore[arg-type]
    story = scenario.Scenario.load(plant.scenario) if plant.scenario else scenario.Scenario()
    dt = 1.0 / plant.rate
    load = signals.signal(plant.load or signals.default_load(motor), plant.seed + 1)
    noise = SensorNoise.of(motor) if plant.noise else SensorNoise.none()
    samples = simulate(
        motor,
        voltage=signals.signal(plant.voltage or signals.default_voltage(motor), plant.seed),
        load=load,
        dt=dt,
        duration=plant.duration,
        noise=noise,
        seed=plant.seed,
        scenario=story,
    )

    def floor() -> Floor:
        from simulators.floor import Floor, LoadStatistics

        return Floor(motor, dt, noise, LoadStatistics.of_signal(load, dt), scenario=story)

    return Source(
        motor.spec(dt), samples, lambda after, until: [c.text for c in story.between(after, until)], floor
    )


def _names(text: str) -> list[str]:
    """Column names from a list separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(texts: list[str], known: Iterable[str]) -> dict[str, float]:
    """NAME=VALUE texts as a dict.

    Raises:
        ConfigError: an unknown name or a value that is no number.
    """
    found = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or name not in known:
            raise ConfigError(f"--parameters {text}: NAME=VALUE is needed, NAME one of {', '.join(known)}")
        try:
            found[name] = float(value)
        except ValueError:
            raise ConfigError(f"--parameters {text}: {value!r} is not a number") from None
    return found


def main() -> None:
    """Run a command; a user's mistake ends in one message and status 2, never in a traceback."""
    die_with_supervisor()
    try:
        app(prog_name="twin")
    except TwinError as error:
        _errors.print(f"[bold red]error:[/] {escape(str(error))}")
        sys.exit(USER_ERROR)
