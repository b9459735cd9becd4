"""The command line: a command for each process, all settings as options, mistakes answered with advice."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, Final, Optional, get_args, get_origin

import typer
from rich.markup import escape

from twin.cli.models import console as _console
from twin.cli.models import errors as _errors
from twin.cli.models import evaluate, fit, forecast
from twin.cli.plant import open_plant, works
from twin.config import SECTIONS, Config
from twin.errors import ConfigError, TwinError
from twin.models import own
from twin.settings import load
from twin.supervisor import USER_ERROR, die_with_supervisor

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
                for name in settings.trainer.models:
                    own.named(name)  # a file with a class is read here, and a mistake shows
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
    exports = service.exports(config, source.spec)
    outcome = service.prepare(found, _console)
    if outcome.folder is None:
        raise ConfigError(f"machine code cannot be kept: {service.advice()}")
    if outcome.failed:
        raise TwinError("; ".join(f"{text}: {reason}" for text, reason in outcome.failed.items()))
    unmade = service.prepare(exports, _console).failed  # why is said, and a run does without
    found += [work for work in exports if work.text not in unmade]
    names, seconds = ", ".join(work.text for work in found), time.monotonic() - begun
    _console.print(f"ready for this CPU: {names} ({seconds:.1f} s; {outcome.folder})", soft_wrap=True)


@app.command(hidden=True)
def compile(work: str) -> None:
    """Do a piece of work, so that what it needs is compiled; what `twin prepare` starts beside itself."""
    from twin.service.prepare import do

    try:
        do(work)
    except TwinError as error:
        sys.exit(str(error))  # a line, which is handed on


for _function in (forecast, fit, evaluate):
    app.command()(_function)


def main() -> None:
    """Run a command; a user's mistake ends in one message and status 2, never in a traceback."""
    die_with_supervisor()
    try:
        app(prog_name="twin")
    except TwinError as error:
        _errors.print(f"[bold red]error:[/] {escape(str(error))}")
        sys.exit(USER_ERROR)
