"""The command line: one door per process, all settings as options, mistakes answered with advice."""

from __future__ import annotations

import inspect
import itertools
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Optional, get_args, get_origin

import typer
from rich.console import Console
from rich.markup import escape

from twin.config import SECTIONS, Config, load
from twin.errors import ConfigError, TwinError
from twin.messages import Sample, Spec
from twin.service.plant import no_changes
from twin.supervisor import USER_ERROR, die_with_supervisor

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


def _command(*sections: str, hidden: bool = False) -> Callable[[Callable[[Config], None]], None]:
    """Make a function of a Config a command with an option for every setting of these sections.

    The options, their types, their help and their defaults come from `twin.config`, so that a setting is
    stated once.
    """

    def register(function: Callable[[Config], None]) -> None:
        owner = {name: section for section in sections for name in SECTIONS[section].model_fields}

        def command(config: Path | None = None, **given: Any) -> None:
            chosen: dict[str, dict[str, Any]] = {}
            for name, value in given.items():
                if value not in (None, []):
                    chosen.setdefault(owner[name], {})[name] = value
            function(load(config, **chosen))

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


@_command("bus", "plant")
def simulate(config: Config) -> None:
    """Publish a plant: a simulated DC motor, or a recording."""
    from twin.service.plant import publish

    publish(config, *open_plant(config))


@_command("bus", "twin")
def predict(config: Config) -> None:
    """Answer every sample of a source with a prediction of the next."""
    from twin.service import twin

    twin.predict(config)


@_command("bus", "twin", "trainer")
def train(config: Config) -> None:
    """Refit the model on what a source publishes, and save what is better."""
    from twin.service import trainer

    trainer.train(config)


@_command("bus", "twin", "report")
def watch(config: Config) -> None:
    """Show a source live, and measure how its twin does."""
    from twin.service import run

    run.watch(config)


@_command("bus", "twin", "report", hidden=True)
def monitor(config: Config) -> None:
    """Measure a source without showing it; what `twin watch` and `twin run` start beside themselves."""
    from twin.service import monitor

    monitor.watch(config)


@_command("bus", "plant", "twin", "trainer", "report")
def run(config: Config) -> None:
    """Run plant, twin and trainer together, shown live, until Ctrl-C."""
    from twin.service import run

    open_plant(config)  # a mistake shows here, before anything is started
    run.run(config)


@app.command()
def forecast(
    source: Annotated[str, typer.Option(help="Name of the motor on the bus.")] = "motor-1",
    voltage: Annotated[
        str,
        typer.Option(
            help="The input to come, of a plant with one input: a signal such as step:12, in its unit."
        ),
    ] = "",
    inputs: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--input", help="An input to come, NAME=SIGNAL (may be repeated); others stay as they are."
        ),
    ] = None,
    horizon: Annotated[float, typer.Option(help="How far to look ahead, s.", min=1e-6)] = 1.0,
    run_dir: Annotated[
        str, typer.Option(help="Directory of the checkpoints. Default: the running twin's.")
    ] = "",
    plant_endpoint: Annotated[str, typer.Option(help="Where the plant publishes.")] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
) -> None:
    """Say what a running plant would do under inputs to come, from its present state on.

    Listens for one window, warms the newest model's hidden state with it, and runs it free.
    """
    from simulators.signals import signal as parse
    from twin.service import forecast

    config = load(None, bus={"source": source, "plant_endpoint": plant_endpoint}, twin={"run_dir": run_dir})
    signals = {}
    for text in inputs or []:
        name, separator, signal = text.partition("=")
        if not separator:
            raise ConfigError(f"--input {text}: NAME=SIGNAL is needed, e.g. voltage=step:12")
        signals[name] = parse(signal)
    if voltage:
        signals[""] = parse(voltage)
    result = forecast.ahead(config, signals, horizon)
    _console.print_json(json.dumps(result)) if as_json else _console.print(forecast.table(result))


def open_plant(config: Config) -> tuple[Spec, Iterable[Sample], Callable[[float, float], Iterable[str]]]:
    """The plant that the settings describe: its Spec, its samples, and what changes in it when.

    Raises:
        TwinError: a motor, parameter, signal, scenario or recording that cannot be.
    """
    plant = config.plant
    if plant.plant == "recorded":
        from simulators.recorded import Recording

        if not plant.file:
            raise ConfigError("--plant recorded needs --file, --inputs and --outputs")
        recording = Recording(plant.file, _names(plant.inputs), _names(plant.outputs), plant.dt)
        steps = None if plant.duration is None else max(1, round(plant.duration / recording.spec.dt))
        return recording.spec, itertools.islice(recording, steps), no_changes
    from simulators import dc_motor, scenario, signals
    from simulators.sensors import SensorNoise
    from simulators.simulate import simulate

    motor = dc_motor.motor(plant.motor)
    if plant.parameters:
        motor = replace(motor, **_numbers(plant.parameters, dc_motor.UNITS))  # type: ignore[arg-type]
    story = scenario.Scenario.load(plant.scenario) if plant.scenario else scenario.Scenario()
    dt = 1.0 / plant.rate
    samples = simulate(
        motor,
        voltage=signals.signal(plant.voltage or signals.default_voltage(motor), plant.seed),
        load=signals.signal(plant.load or signals.default_load(motor), plant.seed + 1),
        dt=dt,
        duration=plant.duration,
        noise=SensorNoise.of(motor) if plant.noise else None,
        seed=plant.seed,
        scenario=story,
    )
    return motor.spec(dt), samples, lambda after, until: [c.text for c in story.between(after, until)]


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
