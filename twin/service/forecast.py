"""`twin forecast`: listen for one window, then look ahead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.markup import escape
from rich.table import Table

from twin import service
from twin.checkpoint import newest
from twin.config import Config
from twin.dashboard import sparkline
from twin.errors import BusError, CheckpointError, SpecError
from twin.messages import Sample, Spec
from twin.twin import Twin

SILENCE: Final = 5.0  # s without a sample after which there is nothing to forecast
ROWS: Final = 10  # of the table


def ahead(config: Config, signals: Mapping[str, Callable[[float], float]], horizon: float) -> dict[str, Any]:
    """What the plant would do over `horizon` s under `signals`, functions of the time from now, by input.

    An input without a signal stays as it is; "" names the only input there is.

    Raises:
        BusError: no plant is heard.
        CheckpointError: there is no model yet.
        SpecError: an input that the plant does not have.
    """
    directory = service.running_dir(config)
    twin, last, model = None, None, 0
    silence = SILENCE
    with service.subscriber(config, ["plant"], Spec, Sample) as stream:
        while twin is None or last is None or not twin.window.full:
            message = stream.recv(silence)
            if message is None:
                raise BusError(
                    f"no samples at {config.bus.endpoint('plant')}; is a plant running, is --source right?"
                )
            if isinstance(message, Spec) and twin is None:
                silence = max(SILENCE, 3 * message.dt)
                twin, model = follower(config, message, directory)
            elif isinstance(message, Sample) and twin is not None and twin.step(message) is not None:
                last = message
    spec = twin.spec
    u = future(spec, last, signals, max(1, round(horizon / spec.dt)))
    y = twin.forecast(u)
    return {
        "t": (last.t + spec.dt * np.arange(2, len(u) + 2)).tolist(),
        "y": {name: y[:, i].tolist() for i, name in enumerate(spec.outputs)},
        "u": {name: u[:, i].tolist() for i, name in enumerate(spec.inputs)},
        "model": model,
        "units": dict(spec.units),
    }


def follower(config: Config, spec: Spec, directory: Path) -> tuple[Twin, int]:
    """A twin that follows from its first sample on with the newest model, and that model's number."""
    checkpoint, refused = newest(directory, spec)
    if checkpoint is None and refused:
        raise refused[0]
    if checkpoint is None:
        raise CheckpointError(
            f"{directory} holds no model yet; wait for the trainer or name another --run-dir"
        )
    twin = Twin(spec, window=config.twin.window, backend=config.twin.backend)
    twin.refresh(checkpoint)
    twin.catch_up()
    return twin, checkpoint.number


def future(
    spec: Spec, last: Sample, signals: Mapping[str, Callable[[float], float]], steps: int
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The inputs to come, (T, U)."""
    by_name = dict(signals)
    if "" in by_name:
        if len(spec.inputs) != 1:
            raise SpecError(
                f"the plant has the inputs {', '.join(spec.inputs)}; name each by --input NAME=SIGNAL"
            )
        by_name[spec.inputs[0]] = by_name.pop("")
    unknown = [name for name in by_name if name not in spec.inputs]
    if unknown:
        raise SpecError(f"no input is called {', '.join(unknown)}; the plant has {', '.join(spec.inputs)}")
    t = spec.dt * np.arange(steps)
    columns = [
        [by_name[name](float(instant)) for instant in t] if name in by_name else np.full(steps, last.u[name])
        for name in spec.inputs
    ]
    return np.array(columns, np.float64).T


def table(result: dict[str, Any]) -> Table:
    """A forecast for people: a sparkline and some rows of numbers."""
    t = np.array(result["t"])
    rows = np.unique(np.linspace(0, len(t) - 1, min(ROWS, len(t))).astype(int))
    curves = [
        sparkline(np.array(y)[np.linspace(0, len(t) - 1, min(40, len(t))).astype(int)].tolist())
        for y in result["y"].values()
    ]
    view = Table(
        title=f"forecast by model {result['model']}",
        caption="  ".join(map(" ".join, zip(result["y"], curves, strict=True))),
    )
    view.add_column(escape("in [s]"), justify="right")
    for name in [*result["u"], *result["y"]]:
        unit = result["units"].get(name, "")
        view.add_column(escape(f"{name} [{unit}]" if unit else name), justify="right")
    for row in rows:
        cells = [f"{values[row]:.4g}" for values in [*result["u"].values(), *result["y"].values()]]
        view.add_row(f"{t[row] - t[0] + (t[1] - t[0] if len(t) > 1 else 0):.3f}", *cells)
    return view
