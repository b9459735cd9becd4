"""Machine code that stays on disk: only the first process on a machine compiles a kernel.

Numba keeps an index of what it has compiled for a function, and numbered files beside it, which two processes
that compile at the same time, or one that is killed between the two, can leave at odds: then a later process
runs the code of other sizes. So each kernel has a name, and so files, of its own: its content, its constants
and the CPU are in it. What cannot be read is compiled again, and what cannot be written is done without.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any

from llvmlite import binding
from numba import njit
from numba.core.caching import FunctionCache

from twin.kernels import VERSION


class _Forgiving(FunctionCache):
    """Numba's cache, whose faults cost a compilation and nothing else."""

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        """Without what the closure holds, which a function's name stands for already: another kernel in it is
        another object in each process, and would never be found again."""
        return sig, codegen.magic_tuple()

    def load_overload(self, signature: Any, context: Any) -> Any:
        """The machine code, or None where there is none that can be read."""
        try:
            return super().load_overload(signature, context)
        except Exception:  # whatever a damaged file makes of Numba's loader
            return None

    def save_overload(self, signature: Any, code: Any) -> None:
        """Keep machine code, where the disk takes it."""
        with contextlib.suppress(Exception):
            super().save_overload(signature, code)


def kept(function: Any, *constants: object, **options: Any) -> Any:
    """A function, compiled with Numba's options when it is called, its code kept under a name of its own.

    `constants` are all that its closure holds, or what determines that.
    """
    cpu = binding.get_host_cpu_name(), sorted(binding.get_host_cpu_features().items())
    key = repr((VERSION, cpu, constants, sorted(options.items(), key=str)))
    function.__qualname__ = f"{function.__name__}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    compiled = njit(**options)(function)
    with contextlib.suppress(RuntimeError):  # no folder to write to: then each process compiles
        compiled._cache = _Forgiving(function)
    return compiled
