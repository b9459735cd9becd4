"""Numbered models on disk: weights, scaling and all that is needed to trust them, or to refuse them.

A run directory holds one folder per checkpoint:

    000012/weights.safetensors      the tensors, and nothing that could be executed
    000012/manifest.json            family, sizes, Spec, config, metrics, parent, and two hashes

safetensors has no checksum and accepts NaN, so the manifest carries the SHA-256 of the weights, and one of
itself. A folder appears by renaming a finished one: who reads finds a whole checkpoint or none. What does
not verify is refused by `CheckpointError` and nothing else. Importing this loads no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from twin.errors import CheckpointError, SpecError
from twin.families import Sizes, check_tensors
from twin.manifest import Manifest, decode, encode
from twin.messages import Spec, check_spec

MAX_WEIGHTS_BYTES: Final = 64 * 2**20
"""Bytes of the largest weights file accepted."""
MAX_MANIFEST_BYTES: Final = 2**20
"""Bytes of the largest manifest accepted."""
MAX_HEADER_BYTES: Final = 2**18
"""Bytes of the longest safetensors header accepted: it is JSON, and would be parsed as a whole."""
KEPT_CHECKPOINTS: Final = 48
"""Newest checkpoints that stay when older ones are removed; the events of a run tell of all."""

_WEIGHTS, _MANIFEST = "weights.safetensors", "manifest.json"
_FOLDER = re.compile(r"[0-9]{6,15}\Z")
_TEMPORARY = re.compile(r"\.[0-9]{6,15}\.tmp-([0-9]{1,9})\Z")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained model as plain data, with where it comes from.

    `number` counts from 1 in a run directory (0 is persistence, no model), `parent` is the number it was
    refitted from. `tensors` holds the weights and the scaling by name, float32. `config` is whatever plain
    data explains how it was made, `metrics` what it reached, `created` when it was saved (ISO 8601, UTC).
    """

    number: int
    parent: int | None
    family: str
    sizes: Sizes
    spec: Spec
    tensors: Mapping[str, npt.NDArray[np.float32]]
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    created: str = ""


def path_of(run_dir: Path, number: int) -> Path:
    """The folder of a checkpoint."""
    return run_dir / f"{number:06d}"


def numbers(run_dir: Path) -> list[int]:
    """The numbers present, rising. Only names are looked at; a missing directory has none.

    Raises:
        CheckpointError: the directory cannot be read.
    """
    try:
        names = {entry.name for entry in os.scandir(run_dir)}
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(
            f"{run_dir}: cannot be read as a run directory: {error.strerror}; choose another --run-dir"
        ) from None
    found = {int(name) for name in names if _FOLDER.match(name)}
    return sorted(n for n in found if n > 0 and path_of(run_dir, n).name in names)


def newest(run_dir: Path, spec: Spec | None = None) -> tuple[Checkpoint | None, list[CheckpointError]]:
    """The newest checkpoint that verifies, and why those newer than it were refused.

    Raises:
        CheckpointError: it is made for another plant than `spec`: this is the wrong run directory, and an
            older checkpoint in it would be no better.
    """
    refused = []
    for number in reversed(numbers(run_dir)):
        try:
            checkpoint = load(path_of(run_dir, number))
        except CheckpointError as error:
            refused.append(error)
            continue
        if spec is not None:
            check_plant(checkpoint, spec)
        return checkpoint, refused
    return None, refused


def newest_by_family(run_dir: Path, spec: Spec) -> tuple[dict[str, Checkpoint], list[CheckpointError]]:
    """The newest checkpoint of each family that verifies, the newest of all first, and why those newer than
    it were refused.

    Raises:
        CheckpointError: the newest of all is made for another plant than `spec`.
    """
    first, refused = newest(run_dir, spec)
    if first is None:
        return {}, refused
    found = {first.family: first}
    for number in reversed([number for number in numbers(run_dir) if number < first.number]):
        with contextlib.suppress(CheckpointError):
            checkpoint = check_plant(load(path_of(run_dir, number)), spec)
            found.setdefault(checkpoint.family, checkpoint)
    return found, refused


def check_plant(checkpoint: Checkpoint, spec: Spec) -> Checkpoint:
    """The checkpoint as it was given.

    Raises:
        CheckpointError: it is made for other signals or another period than the spec's.
    """
    if not checkpoint.spec.same_signals(spec):
        raise CheckpointError(
            f"checkpoint {checkpoint.number} is made for {_words(checkpoint.spec)}, "
            f"the plant offers {_words(spec)}: choose another --run-dir for this plant"
        )
    return checkpoint


def check(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint as it was given.

    Raises:
        CheckpointError: tensors that are missing, unknown, of another shape or type, not finite, or of other
            signals than the Spec's.
    """
    spec, sizes = checkpoint.spec, checkpoint.sizes
    try:
        if checkpoint.number < 1:
            raise SpecError(f"number {checkpoint.number}: they count from 1")
        check_spec(spec)
        check_tensors(checkpoint.family, sizes, checkpoint.tensors)
        if (sizes["inputs"], sizes["outputs"]) != (len(spec.inputs), len(spec.outputs)):
            raise SpecError(f"the sizes {sizes} are not those of {_words(spec)}")
    except SpecError as error:
        raise CheckpointError(f"checkpoint {checkpoint.number}: {error}") from None
    return checkpoint


def save(run_dir: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint so that it is there as a whole, power cut or not, and return its folder.

    Files and folder are written under a temporary name, forced to the disk, and renamed. Temporary folders
    that dead processes left behind are removed first.

    Raises:
        CheckpointError: the number exists, the tensors are not what `check` asks for, metrics or config
            cannot be written as JSON, or the disk refuses.
    """
    check(checkpoint)
    target = path_of(run_dir, checkpoint.number)
    weights = safetensors.numpy.save({n: np.ascontiguousarray(a) for n, a in checkpoint.tensors.items()})
    manifest = encode(_manifest(checkpoint, weights))
    if len(weights) > MAX_WEIGHTS_BYTES or len(manifest) > MAX_MANIFEST_BYTES:
        raise CheckpointError(
            f"{target}: {len(weights)} bytes of weights and {len(manifest)} of manifest; "
            f"at most {MAX_WEIGHTS_BYTES} and {MAX_MANIFEST_BYTES} can be loaded: choose a smaller model"
        )
    temporary = run_dir / f".{target.name}.tmp-{os.getpid()}"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        _sweep(run_dir)
        if os.path.lexists(target):
            raise CheckpointError(f"{target} exists; a checkpoint is never overwritten: take the next number")
        temporary.mkdir()
        for name, content in ((_WEIGHTS, weights), (_MANIFEST, manifest)):
            with (temporary / name).open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        _fsync_folder(temporary)
        temporary.rename(target)
        _fsync_folder(run_dir)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"{target}: could not be written: {error.strerror}; the checkpoints before it are untouched"
        ) from None
    return target


def prune(run_dir: Path, keep: Collection[int | None] = ()) -> list[int]:
    """Remove all but the `KEPT_CHECKPOINTS` newest checkpoints and those to keep; the numbers that are gone.

    A folder is renamed before it is emptied: who reads finds a whole checkpoint or none. What cannot be
    removed stays.

    Raises:
        CheckpointError: the directory cannot be read.
    """
    gone = []
    for number in numbers(run_dir)[:-KEPT_CHECKPOINTS]:
        folder = path_of(run_dir, number)
        temporary = run_dir / f".{folder.name}.tmp-{os.getpid()}"
        if number not in keep:
            with contextlib.suppress(OSError):
                folder.rename(temporary)
                shutil.rmtree(temporary)
                gone.append(number)
    return gone


def load(path: Path) -> Checkpoint:
    """The checkpoint in a folder, verified: hashes, sizes, types, shapes, finiteness.

    Raises:
        CheckpointError: anything else than what `save` wrote. Nothing else is ever raised.
    """
    try:
        weights, manifest = _read(path)
        return _opened(path, weights, manifest)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}. Delete that folder{_instead_of(path)}") from None


def _manifest(checkpoint: Checkpoint, weights: bytes) -> Manifest:
    scaling = {
        n: a.astype(float).tolist() for n, a in checkpoint.tensors.items() if "scale" in n or n == "mean"
    }
    return Manifest(
        number=checkpoint.number,
        parent=checkpoint.parent,
        created=checkpoint.created or datetime.now(UTC).isoformat(timespec="milliseconds"),
        family=checkpoint.family,
        sizes=dict(checkpoint.sizes),
        spec=checkpoint.spec,
        scaling=scaling,
        metrics={name: float(value) for name, value in checkpoint.metrics.items()},
        config=dict(checkpoint.config),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
    )


def _opened(path: Path, weights: bytes, raw: bytes) -> Checkpoint:
    try:
        manifest = decode(raw)
    except CheckpointError as error:
        raise CheckpointError(f"{_MANIFEST}: {error}") from None
    if hashlib.sha256(weights).hexdigest() != manifest.weights_sha256:
        raise CheckpointError(f"{_WEIGHTS} is damaged: its content does not match the hash in {_MANIFEST}")
    if path_of(path.parent, manifest.number).name != path.name:
        raise CheckpointError(f"{_MANIFEST} says number {manifest.number}, the folder's name another")
    if int.from_bytes(weights[:8], "little") > MAX_HEADER_BYTES:
        raise CheckpointError(f"{_WEIGHTS} has a header of more than {MAX_HEADER_BYTES} bytes")
    try:
        tensors = safetensors.numpy.load(weights)
    except Exception as error:  # whatever the parser finds in foreign bytes, they are no weights
        raise CheckpointError(f"{_WEIGHTS} is not a safetensors file: {error}") from None
    stated = {f.name: getattr(manifest, f.name) for f in fields(Checkpoint) if f.name != "tensors"}
    return check(Checkpoint(tensors=tensors, **stated))


def _read(path: Path) -> tuple[bytes, bytes]:
    """Both files of a folder, the weights first."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise CheckpointError(f"not a folder of its own: {error.strerror}") from None
    try:
        return _content(folder, _WEIGHTS, MAX_WEIGHTS_BYTES), _content(folder, _MANIFEST, MAX_MANIFEST_BYTES)
    finally:
        os.close(folder)


def _content(folder: int, name: str, limit: int) -> bytes:
    """A regular file's bytes. A link is not followed, and a pipe is not waited for."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, dir_fd=folder), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CheckpointError(f"{name} is not a regular file")
            content = file.read(limit + 1)
    except OSError as error:
        raise CheckpointError(f"{name} cannot be read: {error.strerror}") from None
    if len(content) > limit:
        raise CheckpointError(f"{name} is larger than {limit} bytes")
    return content


def _instead_of(path: Path) -> str:
    """In words, which checkpoint will be used where this one is not."""
    try:
        older = [n for n in numbers(path.parent) if n < int(path.name)]
    except (CheckpointError, ValueError):  # nothing to offer, and a fault to report already
        return ""
    return f"; the one before it, {older[-1]:06d}, is used then" if older else ""


def _sweep(run_dir: Path) -> None:
    """Remove temporary folders whose process is gone, and this one's own."""
    for entry in os.scandir(run_dir):
        match = _TEMPORARY.match(entry.name)
        if match and (int(match[1]) == os.getpid() or not _alive(int(match[1]))):
            shutil.rmtree(entry.path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _words(spec: Spec) -> str:
    return f"{', '.join(spec.inputs)} -> {', '.join(spec.outputs)} every {spec.dt:g} s"
