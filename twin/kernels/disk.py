"""Where machine code lies on disk, and which of it some work needs: known without importing the compiler.

Code that is read there is run, so it lies in a directory that nobody but this user may write to, or nowhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Final

from llvmlite import binding

from twin.kernels import SOURCES_DIGEST

LIMIT_BYTES: Final = 256 * 2**20
"""What all code may take on disk: a run needs 2 MB, the whole test suite some 30 MB."""
UNUSED_SEC: Final = 90 * 86_400.0
"""Code that no process has read for so long belongs to a version or a size that is gone."""
_MARK_SEC: Final = 86_400.0  # a use is noted once a day, so that reading is not writing


def folders() -> list[Path]:
    """Where machine code may lie, the most wanted first: below $NUMBA_CACHE_DIR where that is set, otherwise
    in this user's cache directory or, if there is none, a temporary one."""
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        return [Path(chosen) / "livetwin"]
    found = []
    with contextlib.suppress(RuntimeError):  # a user without a home
        cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
        found.append((cache if cache.is_absolute() else Path("~/.cache").expanduser()) / "livetwin")
    return [*found, Path(tempfile.gettempdir()) / f"livetwin-cache-{os.geteuid()}"]


def is_ours(folder: Path) -> bool:
    """Whether a directory is one, belongs to this user, and nobody else may write to it."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def readable() -> list[Path]:
    """The directories from which code may be run."""
    return [folder for folder in folders() if is_ours(folder)]


def writable() -> Path | None:
    """The directory that takes what is compiled from now on, made if need be; None where there is none."""
    for folder in folders():
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if is_ours(folder) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    return None


def touch(path: Path) -> None:
    """Note a use, in the time of access; a disk that is read-only does without."""
    found, now = path.stat(), time.time()
    if now - found.st_atime > _MARK_SEC:
        with contextlib.suppress(OSError):
            os.utime(path, ns=(int(now * 1e9), found.st_mtime_ns))


def prune(folder: Path, limit: int = LIMIT_BYTES) -> None:
    """Remove what has not been used for long, and, beyond the limit in bytes, what was used longest ago."""
    files = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process was faster
            found = path.lstat()
            files.append((max(found.st_atime, found.st_mtime), found.st_size, path))
    total, now = 0, time.time()
    for last, size, path in sorted(files, reverse=True):
        total += size
        if total > limit or now - last > UNUSED_SEC:
            with contextlib.suppress(OSError):
                path.unlink()


@lru_cache(maxsize=1)
def machine() -> str:
    """What compiles here, and for which CPU."""
    cpu = binding.get_host_cpu_name(), sorted(binding.get_host_cpu_features().items())
    return repr((version("numba"), version("llvmlite"), sys.version_info[:2], cpu))


def name_of(*content: object) -> str:
    """A name for what these values and the kernels' sources determine on this machine."""
    return hashlib.sha256(repr((SOURCES_DIGEST, machine(), content)).encode()).hexdigest()[:24]


# -- receipts ----------------------------------------------------------------------------------------


def note(name: str, files: Iterable[Path]) -> None:
    """Leave a receipt on disk: the files that some piece of work needed."""
    folder = writable()
    if folder is None:
        return
    part = folder / f"{name}.{os.getpid()}.part"
    with contextlib.suppress(OSError):
        part.write_text(json.dumps(sorted(path.name for path in files)))
        part.replace(folder / f"{name}.json")


def noted(name: str) -> list[Path] | None:
    """The files of a receipt, if there is one and all of them are still there."""
    for folder in readable():
        with contextlib.suppress(OSError, ValueError, TypeError):
            receipt = folder / f"{name}.json"
            files = [folder / Path(each).name for each in json.loads(receipt.read_text())]
            if all(path.is_file() for path in files):
                touch(receipt)
                return files
    return None
