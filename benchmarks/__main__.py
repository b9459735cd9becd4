"""`python -m benchmarks NAME`: one benchmark, or `all`; each beside its limit or its rival in the same run.

A benchmark is a module, imported only when it is asked for. It offers `measure`, `table`, and `plot` where a
picture says more, as `benchmarks.result.Benchmark` states.
"""

from __future__ import annotations

import importlib
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from twin.errors import BackendError, ConfigError, TwinError

if TYPE_CHECKING:
    from benchmarks.result import Benchmark

MODULES: Final = {
    "step": "benchmarks.step.benchmark",
    "activations": "benchmarks.step.activations",
    "chain": "benchmarks.chain.benchmark",
    "swap": "benchmarks.chain.swap",
    "refit": "benchmarks.refit",
    "fidelity": "benchmarks.fidelity.benchmark",
    "simulate": "benchmarks.simulate",
    "startup": "benchmarks.startup",
}
NAMES: Final = tuple(MODULES)
"""In the order of `all`."""
DEVICES: Final = ("cpu", "cuda")
ON_DEVICES: Final = ("step",)
"""Benchmarks that have a choice of the device."""
WITH_DATA: Final = ("fidelity",)
"""Benchmarks that take recordings."""
STOLEN: Final = 1.0  # percent of the machine's time, from which on the figures come with a warning
USER_ERROR: Final = 2
INTERRUPTED: Final = 130  # as a shell counts Ctrl-C

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_errors = Console(stderr=True, soft_wrap=True, highlight=False)


@app.command(no_args_is_help=True)
def benchmark(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(NAMES)}; or all, in turn.")],
    file: Annotated[
        Path | None,
        typer.Option("--json", help="Write all figures here; a directory gets NAME-MACHINE.json."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A look, not a measurement.")] = False,
    folder: Annotated[Path | None, typer.Option("--plot", help="Draw into this directory.")] = None,
    device: Annotated[str, typer.Option(help="Where `step` runs its models: cpu or cuda.")] = "cpu",
    data: Annotated[
        Path | None, typer.Option(help="Recordings for `fidelity`: a directory such as ../shared/data.")
    ] = None,
) -> None:
    """Measure, show a table, and write the figures with the machine they were measured on."""
    if name != "all" and name not in NAMES:
        raise ConfigError(f"no benchmark is called {name!r}; there are {', '.join(NAMES)}, and all")
    if device not in DEVICES:
        raise ConfigError(f"--device {device}: it is one of {', '.join(DEVICES)}")
    many = name == "all"
    if device != DEVICES[0] and not many and name not in ON_DEVICES:
        raise ConfigError(f"--device {device}: {name} has no choice; it is for {', '.join(ON_DEVICES)}")
    if data is not None and not many and name not in WITH_DATA:
        raise ConfigError(f"--data {data}: {name} takes no recordings; it is for {', '.join(WITH_DATA)}")
    if data is not None and not data.is_dir():
        raise ConfigError(f"--data {data}: no such directory")
    if file is not None:
        check_writable(file, directory=many)
    if folder is not None:
        check_writable(folder, directory=True)
        if find_spec("matplotlib") is None:
            raise ConfigError("--plot needs matplotlib: pip install matplotlib, or leave it out")
    failed = []
    for each in NAMES if many else (name,):
        try:
            run(each, file, quick, folder, device, data)
        except TwinError as error:
            if not many:
                raise
            failed.append(each)
            complain(error)
        except KeyboardInterrupt:
            _errors.print(f"stopped: nothing was written of {each}")
            raise typer.Exit(INTERRUPTED) from None
    if failed:
        raise ConfigError(f"not measured: {', '.join(failed)}")


def check_writable(path: Path, *, directory: bool) -> None:
    """Make sure, before minutes of measuring, that something can be written there.

    Raises:
        ConfigError: it cannot.
    """
    try:
        if directory or path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            path = path / ".writable"
        path.parent.mkdir(parents=True, exist_ok=True)
        existed = path.exists()
        path.open("a").close()
        if not existed:
            path.unlink()
    except OSError as error:
        wanted = "directory" if directory else "file"
        raise ConfigError(
            f"{error.filename}: {error.strerror}; name a {wanted} that can be written"
        ) from None


def run(
    name: str, file: Path | None, quick: bool, folder: Path | None, device: str, data: Path | None = None
) -> None:
    """One benchmark from its import to its file.

    Raises:
        TwinError: it is not there, or lacks something.
    """
    from benchmarks.machine import in_words, label, machine, stolen_percent
    from benchmarks.result import write

    module = load(name)
    console = Console()
    before = machine()
    console.rule(f"{name}{', quick' if quick else ''}: {in_words(before)}")
    options: dict[str, Any] = {"device": device} if name in ON_DEVICES else {}
    options |= {"data": data} if name in WITH_DATA else {}
    result = module.measure(console, quick=quick, **options)
    after = machine()
    console.print(module.table(result.details))
    console.print(summary_table(result.summary))
    if (stolen := stolen_percent(before, after)) > STOLEN:
        console.print(f"[yellow]{stolen:.0f} % of the machine's time went to others: repeat on a quiet one")
    if file is not None:
        target = file / f"{name}-{label(before)}.json" if file.is_dir() else file
        command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
        header = {"name": name, "quick": quick, "command": command, "machine": before, "after": after}
        write(target, header, result)
        console.print(f"figures: {target}", soft_wrap=True)
    if folder is not None and (plot := getattr(module, "plot", None)) is not None:
        for picture in plot(result.details, folder):
            console.print(f"picture: {picture}", soft_wrap=True)


def load(name: str) -> Benchmark:
    """The module of a benchmark.

    Raises:
        BackendError: it is not there, or needs a package that is not installed.
    """
    module = MODULES[name]
    try:
        return cast("Benchmark", importlib.import_module(module))
    except ModuleNotFoundError as error:
        if error.name == module:
            raise BackendError(f"{module.replace('.', '/')}.py is missing") from None
        advice = "pip install --editable '.[bench]' brings all that benchmarks need"
        raise BackendError(f"{name} needs {error.name}; {advice}") from None


def summary_table(summary: dict[str, Any]) -> Table:
    """The figures that matter, by the names under which they stand in the file.

    A value is a number, None for what was never reached, or a dict of such by name.
    """
    grid = Table.grid(padding=(0, 2))
    for key, value in summary.items():
        if isinstance(value, dict):
            grid.add_row(key, "  ".join(f"{name} {_in_digits(each)}" for name, each in value.items()))
        else:
            grid.add_row(key, _in_digits(value))
    return grid


def _in_digits(value: float | None) -> str:
    if value is None:
        return "never"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def complain(error: TwinError) -> None:
    """One line about what went wrong."""
    _errors.print(f"[bold red]error:[/] {escape(str(error))}")


def main() -> None:
    """Run; a mistake ends in one line and status 2, never in a traceback."""
    try:
        app(prog_name="python -m benchmarks")
    except TwinError as error:
        complain(error)
        sys.exit(USER_ERROR)


if __name__ == "__main__":
    main()
