"""`python -m benchmarks NAME [--json FILE] [--quick]`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import chain
from benchmarks.machine import machine

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
NAMES = {"chain": chain}


@app.command()
def main(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(NAMES)}.")],
    file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Shorter rounds: a look, not a measurement.")
    ] = False,
) -> None:
    """Measure, show a table, and write the figures with the machine they were measured on."""
    if name not in NAMES:
        raise typer.BadParameter(f"{name} is none of {', '.join(NAMES)}")
    console = Console()
    before = machine()
    result = NAMES[name].measure(console, quick=quick)
    console.print(NAMES[name].table(result))
    if file is not None:
        whole = {"name": name, "quick": quick, "machine": before, "after": machine(), **result}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(whole, indent=2) + "\n")


app()
