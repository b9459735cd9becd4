"""Processes and models for benchmarks: started as the supervisor starts them, and gone with the block."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np

from simulators import motor
from twin.checkpoint import Checkpoint, save
from twin.config import TrainerConfig
from twin.errors import TwinError
from twin.models.opening import new_model
from twin.models.scaling import Scaling

ROOT: Final = Path(__file__).parent.parent
"""Where `python -c 'import benchmarks'` works."""


def start(
    arguments: Sequence[str], words: IO[bytes], stdin: int = subprocess.DEVNULL, **more: str
) -> subprocess.Popen[bytes]:
    """Start Python as the supervisor does, one thread for linear algebra; out of reach of Ctrl-C here.

    `words` takes what it prints, `more` are environment variables. A process of the project, and one that
    calls `die_with_supervisor`, ends when this one is killed.
    """
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    environment = os.environ | threads | {"LIVETWIN_SUPERVISOR": str(os.getpid())} | more
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=stdin,
        stdout=words,
        stderr=words,
        env=environment,
        cwd=ROOT,
        process_group=0,
    )


@dataclass(frozen=True)
class Running:
    """A process, and what it says."""

    name: str
    process: subprocess.Popen[bytes]
    words: IO[bytes]

    def said(self) -> str:
        """All that it has printed."""
        return os.pread(self.words.fileno(), 1 << 20, 0).decode(errors="replace")

    def tell(self) -> None:
        """Give it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()


@contextmanager
def running(name: str, arguments: Sequence[str], **more: str) -> Iterator[Running]:
    """A Python process for as long as the block lasts, called `name` when it fails."""
    with tempfile.TemporaryFile() as words:
        process = start(arguments, words, subprocess.PIPE, **more)
        try:
            yield Running(name, process, words)
        finally:
            process.terminate()
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdin is not None
            process.stdin.close()


def wait_until(done: Callable[[], bool], what: str, patience: float, *others: Running) -> None:
    """Wait until `done`, while `others` are expected to go on; seldom awake, to disturb no measurement.

    Raises:
        TwinError: one of them fails, or it takes longer than `patience` seconds.
    """
    deadline = time.monotonic() + patience
    while not done():
        for each in others:
            if each.process.poll():
                raise TwinError(f"the {each.name} ended with status {each.process.returncode}: {each.said()}")
        if time.monotonic() > deadline:
            raise TwinError(f"no {what} within {patience:g} s; is the machine overloaded?")
        time.sleep(0.05)


def new_checkpoint(dt: float = 1e-3, number: int = 1, family: str = "gru") -> Checkpoint:
    """A model of the default size; what its weights are makes no difference to the time."""
    spec = motor().spec(dt)
    z = np.random.default_rng(0).normal(size=(100, len(spec.features)))
    model = new_model(family, spec, Scaling.of(z, len(spec.outputs)), seed=number, **TrainerConfig().sizes)
    return Checkpoint(number, None, model.family, model.sizes, spec, model.tensors())


def give_model(run_dir: Path, dt: float = 1e-3, family: str = "gru", number: int = 1) -> None:
    """Save a checkpoint of a run."""
    save(run_dir, new_checkpoint(dt, number, family))
