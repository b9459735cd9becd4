"""`twin run`: all processes of one source, shown live, ended together."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.live import Live

from twin import service
from twin.address import ENDPOINTS, runtime_dir
from twin.bus import Publisher, Subscriber
from twin.config import Config
from twin.dashboard import Dashboard
from twin.errors import BusError, ConfigError, TwinError
from twin.messages import Event, Members, Message, Spec
from twin.service.prepare import Work, prepare
from twin.supervisor import Child, Supervisor

FRAMES_PER_SEC: Final = 5
"""Drawings of the live view per second."""
REPORT_TIMEOUT_SEC: Final = 60.0
"""Time for the monitor to write the report."""
MONITOR_END_TIMEOUT_SEC: Final = 3.0
"""Time after the plant's end for the monitor to see all answers and end by itself; then it is asked to
end."""
PLAIN_PERIOD_SEC: Final = 5.0
"""Time between two lines where the output is no terminal."""


def new_run_dir(config: Config) -> Path:
    """The directory of this run: as asked for, or a new one, so that runs do not mix."""
    chosen = config.twin.run_dir
    return _with_logs(Path(chosen or f"runs/{config.bus.source}/{datetime.now():%Y%m%d-%H%M%S}"))


def _with_logs(directory: Path) -> Path:
    directory = directory.absolute()
    try:
        (directory / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TwinError(f"{directory}: {error.strerror}; choose another --run-dir") from None
    return directory


def _clear_report(config: Config) -> None:
    """Refuse a report that could not be written, now and not at the end, and remove one of an earlier run."""
    report = Path(config.report.report).absolute()
    if config.report.report and (report.is_dir() or not report.parent.is_dir()):
        raise ConfigError(f"--report {report}: name a file in a directory that exists")
    if config.report.report:
        report.unlink(missing_ok=True)


def children(config: Config, directory: Path, *, everything: bool) -> list[Child]:
    """The processes of a source; without `everything` the monitor alone."""
    # only what was set: a default must not look like a setting to the children
    settings = config.model_dump(mode="json", exclude_unset=True)
    settings.setdefault("twin", {})["run_dir"] = str(directory)
    name = f"config-{config.bus.source}" if everything else f"watch-{os.getpid()}"
    file = directory / f"{name}.json"
    file.write_text(json.dumps(settings, indent=2) + "\n")

    def child(name: str, command: str, listeners: int | None = None) -> Child:
        arguments = [command, "--config", str(file)]
        arguments += [] if listeners is None else ["--await-subscribers", str(listeners)]
        log = directory / "logs" / f"{name}.log"
        return Child(name, arguments, log, ends=name in ("plant", "monitor"))

    monitor = child("monitor", "monitor")
    if not everything:
        return [monitor]
    # the plant waits for twin, trainer and monitor, the twin for the monitor: all see the first sample
    guests = config.bus.await_subscribers
    return [
        monitor,
        child("trainer", "train"),
        child("twin", "predict", 1 + guests),
        child("plant", "simulate", 3 + guests),
    ]


def run(config: Config, works: Sequence[Work] = ()) -> None:
    """Run plant, twin, trainer and monitor until the plant ends, Ctrl-C or SIGTERM.

    What the works need is compiled first: no sample waits for a compiler.

    Raises:
        TwinError: a process could not start, or died again and again.
    """
    for who in ENDPOINTS:  # what another run of this source holds shows before it is disturbed
        _vacate(config, who)
    _clear_report(config)
    console = Console()
    prepare(works, console)
    directory = new_run_dir(config)
    link = runtime_dir(config.bus.source) / "run"
    with ExitStack() as stack:
        supervisor = Supervisor(children(config, directory, everything=True))
        stack.callback(_sweep, config, *ENDPOINTS)
        stack.callback(supervisor.stop)
        link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(directory)
        stack.callback(_remove_link, link)
        stop = service.Stop()
        supervisor.start()
        console.print(f"checkpoints and logs in {os.path.relpath(directory)}", soft_wrap=True)
        console.print(f"predictions at {config.bus.endpoint('twin')}", highlight=False, soft_wrap=True)
        _show(config, supervisor, stop, console, until="plant")
        _end(config, supervisor, stop, console)


def _vacate(config: Config, who: str) -> None:
    """Take an endpoint and release it, which removes the socket that a killed process left.

    Raises:
        BusError: a running process holds it.
    """
    Publisher(config.bus.endpoint(who), config.bus.source).close()


def _sweep(config: Config, *whom: str) -> None:
    for who in whom:
        with suppress(BusError):  # someone else's
            _vacate(config, who)


def _remove_link(link: Path) -> None:
    link.unlink(missing_ok=True)
    with suppress(OSError):  # not empty: another process of this source has its socket there
        link.parent.rmdir()


def watch(config: Config) -> None:
    """Show a source that runs elsewhere, until its plant ends, Ctrl-C or SIGTERM."""
    _clear_report(config)
    directory = _with_logs(service.running_dir(config))
    supervisor = Supervisor(children(config, directory, everything=False))
    file = Path(supervisor.children["monitor"].arguments[2])
    stop = service.Stop()
    try:
        supervisor.start()
        _show(config, supervisor, stop, Console(), until="monitor")
        supervisor.terminate("monitor")
        supervisor.wait("monitor", timeout=REPORT_TIMEOUT_SEC if config.report.report else 1.0)
        _report(config, supervisor)
    finally:
        supervisor.stop()
        _sweep(config, "monitor")
        file.unlink(missing_ok=True)


def _show(config: Config, supervisor: Supervisor, stop: service.Stop, console: Console, until: str) -> None:
    """Draw the source until the child `until` has ended or a signal comes."""
    dashboard = Dashboard(config.bus.source)
    whom = ["plant", "twin", "trainer", "monitor"]
    with ExitStack() as stack:
        stream = stack.enter_context(_listener(config, whom))
        live = None
        if console.is_terminal:
            live = stack.enter_context(Live(console=console, auto_refresh=False, transient=False))
        period = 1 / FRAMES_PER_SEC if live else PLAIN_PERIOD_SEC
        drawn = time.monotonic()
        while not stop and supervisor.children[until].state != "ended":
            message = stream.recv(0.1)
            if message is not None:
                dashboard.observe(message)
            supervisor.poll()
            _check(supervisor)
            if time.monotonic() - drawn < period:
                continue
            drawn = time.monotonic()
            dashboard.states = {name: (c.state, c.restarts) for name, c in supervisor.children.items()}
            if live is not None:
                # the terminal writes ^C where the view ends: room for it, or the next frame is a line off
                live.update(dashboard.render(console.width - 3), refresh=True)
            else:
                console.print(dashboard.line(), highlight=False, soft_wrap=True)


def _listener(config: Config, whom: list[str]) -> Subscriber[Message]:
    return service.subscriber(config, whom, Spec, Event, Members)


def _check(supervisor: Supervisor) -> None:
    for child in supervisor.children.values():
        if child.state == "failed":
            raise TwinError(f"the {child.name} died again and again; it said last:\n{child.last_words()}")


def _end(config: Config, supervisor: Supervisor, stop: service.Stop, console: Console) -> None:
    """End the plant, then the trainer; give the monitor time for the last answers and the report."""
    supervisor.terminate("plant")
    supervisor.wait("plant", timeout=0.5)  # an unpaced plant still waits for the trainer to read
    supervisor.terminate("trainer")
    if config.report.report:
        console.print("computing the report ...")
        if not supervisor.wait("monitor", timeout=1.0 if stop else MONITOR_END_TIMEOUT_SEC):
            supervisor.terminate("monitor")
            supervisor.wait("monitor", timeout=REPORT_TIMEOUT_SEC)
    else:
        supervisor.wait("monitor", timeout=0.5)
    supervisor.stop()
    if (report := _report(config, supervisor)) is not None:
        console.print(summary(report), highlight=False, soft_wrap=True)


def _report(config: Config, supervisor: Supervisor) -> dict[str, Any] | None:
    """The report that the monitor has written, None where none was asked for.

    Raises:
        TwinError: it has written none.
    """
    if not config.report.report:
        return None
    try:
        report: dict[str, Any] = json.loads(Path(config.report.report).read_text())
    except (OSError, ValueError):
        words = supervisor.children["monitor"].last_words() or "it ended before the first sample"
        raise TwinError(f"no report was written; {words}") from None
    return report


def summary(report: dict[str, Any]) -> str:
    """The report in a few lines for people."""
    latency, first = report["latency_us"], report["first_model_s"]
    lines = [
        f"samples {report['samples']:,}  predictions {report['predictions']:,}  lost {report['lost']}  "
        f"unanswered {report['unanswered']}  "
        f"gaps {report['gaps']}  overruns {report['overruns']}  swaps {report['swaps']}  "
        f"alarms {report['alarms']}",
        f"latency p50 {latency['p50']:.0f} µs  p99 {latency['p99']:.0f} µs  worst {latency['max']:.0f} µs  "
        + ("no model yet" if first is None else f"first model after {first:.1f} s"),
    ]
    if members := report["members"]:
        led = ", ".join(f"{name} {100 * each['led']:.0f} %" for name, each in members.items() if each["led"])
        lines.append(f"answers led by {led}")
    for name, figures in report["one_step"].items():
        fit = report["free_run"]["fit_percent"].get(name)
        ahead = (
            f"free run over {report['free_run']['horizon_s']:g} s: fit {fit:.1f} %" if fit is not None else ""
        )
        ratio = f"{figures['ratio']:.3f} × the floor, " if "ratio" in figures else ""
        inside = (
            f", {100 * figures['coverage']:.1f} % within intervals {figures['width']:.3g} wide"
            if "coverage" in figures
            else ""
        )
        lines.append(
            f"{name}: {ratio}error {figures['rmse']:.4g}, persistence {figures['persistence_rmse']:.4g}, "
            f"skill {100 * figures['skill']:.1f} %{inside}  {ahead}"
        )
    return "\n".join(lines)
