"""What a run must have compiled, and compiling it: before a stream begins, by processes beside this one.

A piece of work names the function that needs machine code rather than the code: a process of its own calls
it, and the files that this took are noted on disk. Where the note and all its files are there, nothing is to
be done; and to find that out takes no compiler.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from twin import service
from twin.checkpoint import newest_by_family
from twin.config import Config
from twin.errors import CheckpointError
from twin.families import Cell, Sizes, family_of
from twin.kernels import disk
from twin.messages import Spec
from twin.models import own
from twin.models.opening import Member, begins_recursive, members
from twin.service.rehearsal import answer
from twin.supervisor import environment
from twin.unused import refuse_unused

MAX_COMPILERS: Final = 2
"""Processes that compile at the same time: each takes a core and a quarter of a gigabyte."""
POLL_SEC: Final = 0.05
"""Time between two looks at the processes that compile."""
SIZE_SETTINGS: Final = ("hidden_size", "layers", "taps", "sequence_length")
"""Settings of the trainer that decide how large a model is."""


@dataclass(frozen=True)
class Work:
    """Something that needs machine code."""

    text: str
    """What it is, for people."""
    call: str
    """The function that does it, module:name."""
    arguments: tuple[Any, ...] = ()
    """Of the function: plain data, as it travels to another process."""
    sources: str = ""
    """A hash of those kernels' sources that are not in `twin.kernels`."""

    @property
    def note(self) -> str:
        """The name of the note on disk about the files that it needs."""
        return disk.name_of(self.call, json.dumps(self.arguments), self.sources)

    @property
    def ready(self) -> bool:
        """Whether all that it needs is there."""
        return disk.noted(self.note) is not None


@dataclass
class Outcome:
    """What came of preparing some works."""

    compiled: list[str] = field(default_factory=list)
    """In words, what was not there before."""
    failed: dict[str, str] = field(default_factory=dict)
    """What could not be compiled, and why."""
    seconds: float = 0.0
    folder: Path | None = None
    """Where it is kept; None where no directory is this user's alone."""


# -- what there is to do -----------------------------------------------------------------------------


def works(config: Config, spec: Spec) -> list[Work]:
    """All that the twin and the trainer of a plant need, the longest first.

    Raises:
        ConfigError: settings of which that family makes no use.
        SpecError: settings that ask for a family which this plant is not for.
    """
    chosen = config.twin.run_dir  # without one, a run has a new directory
    found, _ = members_of(config, spec, Path(chosen) if chosen else None)
    refuse_unused(config, [member.family for member in found])
    return [
        *twins(config, spec, found),
        *(refits(config, spec, member) for member in found if trains(member.family)),
    ]


def trains(family: str) -> bool:
    """Whether a family's refits need machine code."""
    return family_of(family).motor or family_of(family).hidden


def twins(config: Config, spec: Spec, found: Sequence[Member]) -> list[Work]:
    """What answering the samples of a plant needs."""
    arguments = (
        *signals_of(spec),
        begins_recursive(config.trainer.models, config.twin.backend),
        len(found) > 1,
    )
    read = Work("reading and answering samples", "twin.service.rehearsal:answer", arguments)
    steps = [predictors(config.twin.backend, member.family, member.sizes) for member in found]
    return [*(work for works in steps for work in works), read]


def predictors(backend: str, family: str, sizes: Sizes) -> list[Work]:
    """What opening a model needs; nothing where its steps are not compiled."""
    compiled = backend == "compiled" and family_of(family).cell is not Cell.OWN
    return [step(family, sizes)] if compiled else []


def step(family: str, sizes: Sizes) -> Work:
    """What the compiled step of a model needs."""
    text = " ".join(["step of", family, str(sizes.get("hidden_size", ""))]).strip()
    return Work(text, "twin.backends.opening:prepare", ("compiled", family, sizes))


def refits(config: Config, spec: Spec, member: Member) -> Work:
    """What a trainer needs: refits, and the validation of their candidates."""
    asked = {name: getattr(config.trainer, name) for name in SIZE_SETTINGS}
    motor = family_of(member.family).motor
    arguments = (member.name, motor, *signals_of(spec), config.twin.adapts, asked)
    return Work(f"refits of {member.name}", "twin.service.rehearsal:refit", arguments)


def training(family: str, spec: Spec) -> Work:
    """What learning from recordings needs; these kernels serve models of any size."""
    arguments = family, family_of(family).motor, *signals_of(spec)
    return Work(f"training of {family}", "twin.service.rehearsal:train", arguments)


def exports(config: Config, spec: Spec) -> list[Work]:
    """What makes a torch module of the user's step by machine code on the CPU: never needed, only quicker.

    Raises:
        SpecError: the run's model is of a class whose file was not named, or has changed.
    """
    chosen, works = config.twin.run_dir, []
    for member in members_of(config, spec, Path(chosen) if chosen else None)[0]:
        family, on_cpu = member.family, config.twin.backend in ("compiled", "eager")
        if family_of(family).cell is not Cell.OWN or not on_cpu or not own.is_torch(own.known(family)):
            continue
        from twin.backends.exported import file_name, prepare

        call = f"{prepare.__module__}:{prepare.__name__}"
        arguments = member.name, member.sizes
        works.append(Work(f"step of {family}", call, arguments, file_name(family, member.sizes)))
    return works


def signals_of(spec: Spec) -> tuple[int, int]:
    """How many inputs and outputs."""
    return len(spec.inputs), len(spec.outputs)


def members_of(
    config: Config, spec: Spec, directory: Path | None
) -> tuple[list[Member], list[CheckpointError]]:
    """The models that a run is asked for, each with the newest checkpoint of its family in the directory that
    it goes on from, and why newer ones were refused.

    Raises:
        CheckpointError: the directory holds models of another plant.
        SpecError: a family that such a plant cannot have.
    """
    present, refused = newest_by_family(directory, spec) if directory else ({}, [])
    asked = config.trainer
    return members(spec, asked.models, config.twin.backend, present, **asked.sizes), refused


# -- doing it ----------------------------------------------------------------------------------------


def prepare(found: Sequence[Work], console: Console) -> Outcome:
    """Compile what is not there yet, and say so: a line, then a bar where there is a terminal."""
    outcome, begun = Outcome(), time.monotonic()
    missing = [work for work in found if not work.ready]
    outcome.folder = disk.writable() if missing else next(iter(disk.readable()), None)
    if not missing:
        return outcome
    if outcome.folder is None:
        console.print(
            f"machine code cannot be kept, each process compiles its own: {advice()}", style="yellow"
        )
        return outcome
    console.print(f"compiling for this CPU, once: {', '.join(work.text for work in missing)}", soft_wrap=True)
    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(missing))
        waiting, under_way = list(missing), list[Worker]()
        try:
            while waiting or under_way:
                while waiting and len(under_way) < MAX_COMPILERS:
                    under_way.append(Worker(waiting.pop(0)))
                progress.update(task, description=", ".join(worker.work.text for worker in under_way))
                time.sleep(POLL_SEC)
                for worker in [worker for worker in under_way if worker.ended]:
                    under_way.remove(worker)
                    progress.advance(task)
                    if reason := worker.failure:
                        outcome.failed[worker.work.text] = reason
                    else:
                        outcome.compiled.append(worker.work.text)
        finally:
            for worker in under_way:
                worker.stop()
    outcome.seconds = time.monotonic() - begun
    for text, reason in outcome.failed.items():
        line = f"{text}: not compiled: {reason}"
        console.print(line, style="yellow", highlight=False, soft_wrap=True, markup=False)
    if outcome.compiled:
        console.print(f"compiled in {outcome.seconds:.0f} s, kept in {outcome.folder}", soft_wrap=True)
    return outcome


def get_ready(config: Config, spec: Spec) -> None:
    """Load what answers a plant's samples before the first of them comes; what must be compiled is said."""
    found, _ = members_of(config, spec, service.run_dir(config))
    prepare(twins(config, spec, found), Console(stderr=True))
    answer(*signals_of(spec), begins_recursive(config.trainer.models, config.twin.backend), len(found) > 1)
    from twin.backends.opening import prepare as load

    for member in found:
        load(config.twin.backend, member.family, member.sizes)


def advice() -> str:
    """Why there is no place for machine code, and what to do."""
    tried = " and ".join(map(str, disk.folders()))
    return f"{tried} cannot be made, or others may write to it; set NUMBA_CACHE_DIR to a directory of yours"


class Worker:
    """A process that does one piece of work."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115, it lives as long as the process
        plain = json.dumps([work.text, work.call, work.arguments, work.sources])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "twin", "compile", plain],
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=self._said,
            env=environment(),
            process_group=0,  # Ctrl-C is ours to answer
        )

    @property
    def ended(self) -> bool:
        """Whether it has."""
        return self._process.poll() is not None

    @property
    def failure(self) -> str:
        """The last that it said, if it has not done its work."""
        if self._process.returncode == 0:
            return ""
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"its process ended with status {self._process.returncode}"

    def wait(self) -> None:
        """Wait until it has ended."""
        self._process.wait()

    def stop(self) -> None:
        """End it at once: what is half compiled is nothing."""
        self._process.kill()
        self._process.wait()
        self._said.close()


def do(plain: str) -> None:
    """What a worker does: the work, then the note about the files that it took."""
    text, call, arguments, sources = json.loads(plain)
    work = Work(text, call, tuple(arguments), sources)
    module, _, name = call.partition(":")
    getattr(importlib.import_module(module), name)(*arguments)
    from twin.kernels.cache import used

    disk.note(work.note, used)
