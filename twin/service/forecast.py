"""`twin forecast`: ask the running twin to look ahead; where there is none, listen for one window and do
it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from twin import service
from twin.bus import Subscriber
from twin.checkpoint import newest
from twin.config import Config
from twin.dashboard import sparkline
from twin.errors import BusError, CheckpointError, MessageError, SpecError
from twin.messages import Message, Sample, Spec
from twin.models.opening import Member
from twin.questions import MAX_STEPS, Reply, Request, Scenario
from twin.requests import ask
from twin.service.prepare import prepare, twins
from twin.twin import Twin

SILENCE_TIMEOUT_SEC: Final = 5.0
"""Time without a message after which no plant is taken to run."""
REPLY_TIMEOUT_SEC: Final = 2.0
"""Time in which a running twin must reply to a request."""
TABLE_ROWS: Final = 10
"""Rows of numbers in the table that is printed."""


Signals = Mapping[str, Callable[[float], float]]


def ahead(config: Config, signals: Sequence[Signals], horizon: float) -> dict[str, Any]:
    """What the plant would do over `horizon` s under each of the scenarios: signals, functions of the time
    from now, by input.

    An input without a signal stays as it is; "" names the only input there is. A twin that runs is asked,
    unless the directory of another model is named.

    Raises:
        BusError: no plant is heard.
        CheckpointError: there is no model yet.
        SpecError: an input that the plant does not have.
        MessageError: the twin has no forecast, and says why.
    """
    with service.subscriber(config, ["plant"], Spec, Sample) as stream:
        spec = await_spec(config, stream)
        if not horizon / spec.dt <= MAX_STEPS / len(signals):
            most = MAX_STEPS / len(signals) * spec.dt
            raise SpecError(f"--horizon {horizon:g} s: at most {most:g} s at this sample time")
        steps = max(1, round(horizon / spec.dt))
        columns = [values_of(spec, scenario, steps) for scenario in signals]
        reply = None
        if not config.twin.run_dir:
            reply = ask_running_twin(config, Request(steps=steps, scenarios=columns))
        if reply is not None:
            return as_plain(spec, reply, columns, steps)
        twin, last, model = warmed(config, spec, stream)
    u = np.array(
        [
            [held(last.u[name], columns[s].get(name), steps) for name in spec.inputs]
            for s in range(len(signals))
        ]
    )
    y = twin.forecast(u.transpose(0, 2, 1)).y
    scenarios = [Scenario(y={name: run[:, i].tolist() for i, name in enumerate(spec.outputs)}) for run in y]
    reply = Reply(t=last.t + 2 * spec.dt, dt=spec.dt, model=model, u=last.u, scenarios=scenarios)
    return as_plain(spec, reply, columns, steps) | {"by": "the model on disk, left as it is"}


def await_spec(config: Config, stream: Subscriber[Message]) -> Spec:
    """The plant's Spec.

    Raises:
        BusError: it is not heard.
    """
    deadline = time.monotonic() + SILENCE_TIMEOUT_SEC
    while time.monotonic() < deadline:
        if isinstance(message := stream.recv(SILENCE_TIMEOUT_SEC), Spec):
            return message
    raise BusError(
        f"no plant has begun at {config.bus.endpoint('plant')}: start one, e.g. by `twin run`, which begins "
        "its plant when all is compiled; or name the one that runs by --source"
    )


def ask_running_twin(config: Config, request: Request) -> Reply | None:
    """What the running twin replies; None where there is none.

    Raises:
        MessageError: it has no forecast, and says why.
    """
    endpoint = config.bus.endpoint("forecast")
    if endpoint.startswith("ipc://") and not Path(endpoint.removeprefix("ipc://")).exists():
        return None
    reply = ask(endpoint, request, REPLY_TIMEOUT_SEC)
    if reply is not None and reply.error:
        raise MessageError(f"the twin at {endpoint}: {reply.error}")
    return reply


def warmed(config: Config, spec: Spec, stream: Subscriber[Message]) -> tuple[Twin, Sample, int]:
    """A twin of the newest model that has followed one window, the last sample, and the model's number."""
    twin, model = follower(config, spec, service.running_dir(config))
    stream.latest()  # what came while the model was opened is no longer now
    last, silence, heard = None, max(SILENCE_TIMEOUT_SEC, 3 * spec.dt), time.monotonic()
    while last is None or not twin.window.full:
        message = stream.recv(silence)
        if isinstance(message, Sample):
            heard = time.monotonic()
            last = message if twin.step(message) is not None else last
        elif time.monotonic() - heard >= silence:
            where = f"the plant at {config.bus.endpoint('plant')}"
            if last is not None:
                raise BusError(f"{where} went silent; is it still running?")
            raise BusError(
                f"{where} has not begun: it sends no samples yet, and may wait for a twin that is still "
                "compiling; try again when samples come"
            )
    return twin, last, model


def as_plain(
    spec: Spec, reply: Reply, columns: Sequence[dict[str, list[float]]], steps: int
) -> dict[str, Any]:
    """A reply as plain data: one scenario flat, more of them in a list."""
    head = {
        "t": (reply.t + reply.dt * np.arange(steps)).tolist(),
        "model": reply.model,
        "units": dict(spec.units),
    }
    each = []
    for requested, scenario in zip(columns, reply.scenarios, strict=True):
        u = {name: held(reply.u[name], requested.get(name), steps) for name in spec.inputs}
        found: dict[str, Any] = {"u": u, "y": scenario.y}
        if isinstance(scenario.low, dict) and isinstance(scenario.high, dict):
            found |= {"low": scenario.low, "high": scenario.high}
        each.append(found)
    return head | (each[0] if len(each) == 1 else {"scenarios": each})


def held(value: float, values: list[float] | None, steps: int) -> list[float]:
    """The values of an input to come: as asked for, or as it is."""
    if values is None:
        return [value] * steps
    return values if len(values) == steps else values * steps


def follower(config: Config, spec: Spec, directory: Path) -> tuple[Twin, int]:
    """A twin that follows from its first sample on with the newest model, and that model's number; what must
    be compiled is said."""
    checkpoint, refused = newest(directory, spec)
    if checkpoint is None and refused:
        raise refused[0]
    if checkpoint is None:
        raise CheckpointError(
            f"{directory} holds no model yet; wait for the trainer or name another --run-dir"
        )
    member = Member(checkpoint.family, checkpoint.family, checkpoint.sizes, checkpoint)
    prepare(twins(config, spec, [member]), Console(stderr=True))
    twin = Twin(spec, window=config.twin.window, backend=config.twin.backend, adapt=False)
    twin.refresh(checkpoint)
    twin.catch_up()
    return twin, checkpoint.number


def values_of(spec: Spec, signals: Signals, steps: int) -> dict[str, list[float]]:
    """The values to come of the inputs that have a signal.

    Raises:
        SpecError: an input that the plant does not have.
    """
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
    return {name: [float(by_name[name](spec.dt * k)) for k in range(steps)] for name in by_name}


def tables(result: dict[str, Any]) -> list[Table]:
    """A forecast for people, scenario by scenario: sparklines and some rows of numbers."""
    scenarios = result.get("scenarios") or [result]
    several = len(scenarios) > 1
    return [table(result, s, f", scenario {i}" if several else "") for i, s in enumerate(scenarios, 1)]


def table(result: dict[str, Any], scenario: dict[str, Any], which: str) -> Table:
    """One scenario of it."""
    t = np.array(result["t"])
    rows = np.unique(np.linspace(0, len(t) - 1, min(TABLE_ROWS, len(t))).astype(int))
    curves = [
        sparkline(np.array(y)[np.linspace(0, len(t) - 1, min(40, len(t))).astype(int)].tolist())
        for y in scenario["y"].values()
    ]
    view = Table(
        title=f"forecast by model {result['model']}{', ' + result['by'] if 'by' in result else ''}{which}",
        caption="  ".join(map(" ".join, zip(scenario["y"], curves, strict=True))),
    )
    view.add_column(escape("in [s]"), justify="right")
    low, high = scenario.get("low", {}), scenario.get("high", {})
    for name in [*scenario["u"], *scenario["y"]]:
        unit = result["units"].get(name, "")
        view.add_column(escape(f"{name} [{unit}]" if unit else name), justify="right")
        if name in low:
            view.add_column("90 % within", justify="right")
    for row in rows:
        cells = [f"{values[row]:.4g}" for values in scenario["u"].values()]
        for name, values in scenario["y"].items():
            cells.append(f"{values[row]:.4g}")
            if name in low:
                cells.append(f"{low[name][row]:.4g} to {high[name][row]:.4g}")
        view.add_row(f"{t[row] - t[0] + (t[1] - t[0] if len(t) > 1 else 0):.3f}", *cells)
    return view
