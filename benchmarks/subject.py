"""What is being measured: asked of the object or the process at hand, at the moment of measuring.

A benchmark that only says what it measures goes on saying so when a default has changed under it. So each one
states what it means to measure, and `certain` refuses to go on with anything else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from twin.checkpoint import Checkpoint, load, numbers, path_of
from twin.errors import TwinError

NO_MODEL: Final = "none"
"""In place of a family, of what has no model in it."""


@dataclass(frozen=True)
class Subject:
    """Whose figure a figure is."""

    family: str
    """Of the model, as in `--model`, but never auto; or `NO_MODEL`."""
    backend: str
    """What runs it: a backend of `twin predict`, a rival's name, or how a network is trained."""
    threads: int
    """That may work on it."""


def certain(found: Subject, wanted: Subject) -> Subject:
    """What was found, if it is what was to be measured.

    Raises:
        TwinError: it is something else, and its figures would be void.
    """
    if found != wanted:
        raise TwinError(
            f"to be measured was {_words(wanted)}, but at work is {_words(found)}; nothing was measured"
        )
    return found


def _words(subject: Subject) -> str:
    return f"{subject.family} by {subject.backend} on {subject.threads} thread{'s' * (subject.threads != 1)}"


def of_predictor(predictor: Any, checkpoint: Checkpoint) -> Subject:
    """A predictor's own: the family of the checkpoint that it runs, its backend, and the threads it steps
    with.

    Raises:
        TwinError: it runs another checkpoint.
    """
    if predictor.number != checkpoint.number:
        raise TwinError(f"model {predictor.number} answers, not model {checkpoint.number}")
    backend = type(predictor).__module__.rpartition(".")[2].partition("_")[0]  # compiled_motor: compiled
    if backend == "eager" and predictor._model.mean.device.type != "cpu":
        backend = "eager-cuda"
    return Subject(checkpoint.family, backend, _threads(backend, predictor.rows))


def _threads(backend: str, rows: int) -> int:
    if backend == "compiled":
        import numba

        from twin.backends.compiled import MIN_PARALLEL_ROWS

        return int(numba.get_num_threads()) if rows >= MIN_PARALLEL_ROWS else 1
    import torch

    return torch.get_num_threads()


def of_twin(twin: Any, checkpoint: Checkpoint) -> Subject:
    """That of the predictor with which a twin answers.

    Raises:
        TwinError: it answers by none.
    """
    if twin.active is None:
        raise TwinError(f"no model answers: the twin is {twin.status}")
    return of_predictor(twin.active, checkpoint)


def of_process(pid: int, run_dir: Path) -> Subject:
    """That of a twin's process: the families of its checkpoints, in the order of their numbers, whether torch
    is in it, and the threads that linear algebra was given when it was started.

    Raises:
        TwinError: it has no checkpoint.
    """
    found = [load(path_of(run_dir, number)).family for number in numbers(run_dir)]
    if not found:
        raise TwinError(f"{run_dir} has no checkpoint")
    process = Path(f"/proc/{pid}")
    backend = "eager" if "/torch/" in (process / "maps").read_text() else "compiled"
    environment = dict(
        each.split("=", 1) for each in (process / "environ").read_text().split("\0") if "=" in each
    )
    family = " + ".join(dict.fromkeys(found))
    return Subject(family, backend, int(environment.get("OMP_NUM_THREADS", os.cpu_count() or 1)))


def torch_threads() -> int:
    """Of this process; 1 where torch was never imported."""
    return int(sys.modules["torch"].get_num_threads()) if "torch" in sys.modules else 1


def families(subjects: Mapping[str, Subject]) -> set[str]:
    """All that occur."""
    return {subject.family for subject in subjects.values()}
