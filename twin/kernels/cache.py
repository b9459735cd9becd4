"""Machine code that stays on disk: only the first process on a machine compiles a kernel.

A file is named after its content: the kernels' sources, the constants, the types of the arguments, the
compiler's version and the CPU. So it stays valid over a reinstall, whatever the dates and paths of files; no
two kernels share one, in whatever order processes compile; and an older version's is simply never asked for
again. (Numba's own cache goes by the function's file, line and path.) What cannot be read is compiled again,
and what cannot be written is done without.
"""

from __future__ import annotations

import contextlib
import hashlib
from functools import cache
from pathlib import Path
from typing import Any, Final

from llvmlite import binding
from numba import njit
from numba.core.caching import IndexDataCacheFile, NullCache
from numba.core.compiler import CompileResult
from numba.core.runtime import _nrt_python

from twin.kernels.disk import name_of, prune, readable, touch, writable

_KEY: Final = "code"  # in an index of one entry

used: set[Path] = set()
"""The files from which, or to which, this process has had machine code."""


class _Disk(NullCache):
    """What Numba asks for a function's code; its faults cost a compilation and nothing else."""

    def __init__(self, name: str) -> None:
        self.name = name

    def load_overload(self, signature: Any, context: Any) -> Any:
        """The machine code for arguments of some types, or None where there is none that can be read."""
        _name_runtime()
        for folder in readable():
            with contextlib.suppress(Exception):  # whatever a damaged file makes of Numba's loader
                code = self._file(folder, signature).load(_KEY)
                if code is not None:
                    found = CompileResult._rebuild(context, *code)
                    self._note(folder, signature)
                    return found
        return None

    def save_overload(self, signature: Any, code: Any) -> None:
        """Keep machine code, where the disk takes it."""
        if code.library.has_dynamic_globals or not all(part.can_cache for part in code.lifted):
            return
        folder = writable()
        if folder is not None:
            with contextlib.suppress(Exception):
                self._file(folder, signature).save(_KEY, code._reduce())
                self._note(folder, signature)
                prune(folder)

    def _base(self, signature: Any) -> str:
        return f"{self.name}-{hashlib.sha256(repr(signature).encode()).hexdigest()[:8]}"

    def _file(self, folder: Path, signature: Any) -> Any:
        return IndexDataCacheFile(str(folder), self._base(signature), "")

    def _note(self, folder: Path, signature: Any) -> None:
        base = self._base(signature)
        for path in (folder / f"{base}.nbi", folder / f"{base}.1.nbc"):
            touch(path)
            used.add(path)


@cache
def _name_runtime() -> None:
    """Tell the linker where the functions of Numba's runtime are that code which was read may call.

    The first part of `rtsys.initialize`. The rest of it compiles, for what will be compiled itself, and makes
    much of LLVM resident: 29 MB; `context.refresh`, which comes before any compiling, 60 MB and a second.
    """
    for name, address in _nrt_python.c_helpers.items():
        binding.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)


def kept(function: Any, *constants: object, **options: Any) -> Any:
    """A function, compiled with Numba's options when it is called, its code kept under a name of its own.

    `constants` are all that its closure holds, or what determines that.
    """
    where = function.__module__, function.__qualname__
    name = name_of(where, constants, sorted(options.items(), key=str))
    function.__qualname__ = name = f"{function.__name__.strip('_')}-{name}"
    compiled = njit(**options)(function)
    compiled._cache = _Disk(name)
    return compiled
