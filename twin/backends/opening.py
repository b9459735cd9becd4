"""Opens a checkpoint's model as a predictor, by the backend asked for; only what that needs is imported."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from twin.checkpoint import Checkpoint
from twin.errors import BackendError, CheckpointError, SpecError
from twin.families import Cell, Sizes, check_sizes, family_of
from twin.models import own
from twin.predictor import Predictor

BACKENDS: Final = ("compiled", "eager", "eager-cuda", "graph")
"""The ways to run a step: compiled for this CPU by Numba; as it is written out, operation by operation, in
torch or NumPy, on the CPU or on a CUDA device; a captured CUDA graph."""

Opener = Callable[[Checkpoint, int], Predictor]


def open_predictor(checkpoint: Checkpoint, backend: str = "compiled", rows: int = 1) -> Predictor:
    """A predictor of a checkpoint's model, for N rows, that has seen nothing yet.

    Raises:
        BackendError: a backend that this program or this machine does not have.
        CheckpointError: tensors that are not those of its family and sizes, or not finite; a family of the
            user's whose file was not named.
        SpecError: fewer than one row.
    """
    if rows < 1:
        raise SpecError(f"{rows} rows: a predictor has at least one")
    return load_backend(backend)(checkpoint, rows)


def load_backend(backend: str) -> Opener:
    """What opens a checkpoint for N rows; loading may take seconds.

    Raises:
        BackendError: a backend that this program or this machine does not have.
    """
    match backend:
        case "compiled":
            import numba

            import twin.backends.compiled
            import twin.backends.compiled_motor  # noqa: F401

            if numba.config.DISABLE_JIT:
                raise BackendError(
                    "NUMBA_DISABLE_JIT is set, and nothing can be compiled; unset it, or take --backend eager"
                )
            return _open_compiled
        case "eager":
            return _open_eager
        case "eager-cuda" | "graph":
            return _cuda_backend(backend)
    raise BackendError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")


def _open_compiled(checkpoint: Checkpoint, rows: int) -> Predictor:
    kind = family_of(checkpoint.family)
    if kind.cell is Cell.OWN:
        return _open_own(checkpoint, rows)
    if kind.motor and kind.network:
        from twin.backends.compiled_hybrid import CompiledHybrid

        return CompiledHybrid(checkpoint, rows)
    if kind.motor:
        from twin.backends.compiled_motor import CompiledMotor

        return CompiledMotor(checkpoint, rows)
    from twin.backends.compiled import Compiled

    return Compiled(checkpoint, rows)


def _open_eager(checkpoint: Checkpoint, rows: int) -> Predictor:
    kind = family_of(checkpoint.family)
    if kind.cell is Cell.OWN:
        return _open_own(checkpoint, rows)
    if kind.motor and kind.network:
        from twin.backends.reference import ReferenceHybrid

        return ReferenceHybrid(checkpoint, rows)
    if kind.motor:
        from twin.backends.reference import ReferenceMotor

        return ReferenceMotor(checkpoint, rows)
    from twin.backends.eager import Eager

    return Eager(checkpoint, rows)


def _open_own(checkpoint: Checkpoint, rows: int) -> Predictor:
    """The user's code runs as it is written, or as `twin prepare` has exported it."""
    try:
        made = own.known(checkpoint.family)
    except SpecError as error:
        raise CheckpointError(f"checkpoint {checkpoint.number}: {error}") from None
    if own.is_torch(made):
        from twin.backends.eager import Eager

        return Eager(checkpoint, rows)
    from twin.backends.plain import Plain

    return Plain(checkpoint, rows)


def prepare(backend: str, family: str, sizes: Sizes) -> None:
    """Do once for this machine what such a model needs to be opened quickly: compile its step.

    Raises:
        SpecError: sizes that are no model's.
    """
    kind, sizes = family_of(family), check_sizes(family, sizes)
    if backend != "compiled" or kind.cell is Cell.OWN:
        return
    load_backend(backend)
    if kind.motor:
        from twin.backends import compiled_motor

        compiled_motor.prepare()
    if kind.network:
        from twin.backends import compiled

        compiled.prepare(family, sizes)


def _cuda_backend(backend: str) -> Opener:
    import torch

    if not torch.cuda.is_available():
        raise BackendError(
            f"backend {backend!r} needs a CUDA device, and torch {torch.__version__} finds none; "
            f"available here: {', '.join(available_backends())}"
        )
    if backend == "graph":
        from twin.backends.graph import Graph

        return Graph
    from twin.backends.eager import Eager

    return partial(Eager, device="cuda")


def available_backends() -> tuple[str, ...]:
    """Those of `BACKENDS` that this machine can run. Asking imports torch."""
    import torch

    return BACKENDS if torch.cuda.is_available() else ("compiled", "eager")
