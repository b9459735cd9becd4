"""Real-time measures for a loop: priority, a core of its own, locked memory, no garbage collector, one
thread.

None of this makes a step faster; it keeps other work on the machine from making one late. Each measure is
taken where the system permits it. The loop blocks while it waits: polling busily takes the core from those
who bring the samples.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

FIFO_PRIORITY: Final = 20
"""Priority of the loop under SCHED_FIFO (1 to 99): above all ordinary processes, below the kernel's threads
(50)."""
MODEST_NICE: Final = 10
"""Nice value of the trainer's loop: its weight is 110, where that of an ordinary thread is 1024."""
_LOCK_CURRENT: Final = 1  # not MCL_FUTURE too: filling each new piece of memory stopped the loop for 15 ms
_CORES: Final = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
_TIMER_SLACK: Final = 29  # PR_SET_TIMERSLACK
_ADVICE: Final = "grant it with `ulimit` or CAP_SYS_NICE and CAP_IPC_LOCK, or go without --realtime"


def become_realtime() -> list[str]:
    """Give this thread and those it starts from now on real-time priority and memory; in words, what was not
    permitted.

    Call it before sockets are made, so that their threads come along, and after all imports, so that what
    those left behind is never looked through again.
    """
    refused = [text for text in (_take_priority(), _lock_memory()) if text]
    _stay_on_a_core()
    gc.disable()
    keep_forever()
    _one_thread()
    return refused


def give_way() -> None:
    """Run this thread only when no other wants to, and leave at once when one does.

    Being nice is not enough: Linux lets even the nicest thread end its turn, of up to 3 ms, before one that
    wakes up: 1.2 to 2.2 ms in the p99 of a stream beside a refit, which was 0.3 ms without.
    """
    os.nice(19)
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def background() -> ThreadPoolExecutor:
    """A thread that gives way, for work that can wait: for ever, where a machine is busy for ever.

    Without privileges a thread cannot take that back, so what must go on goes on in another one.
    """
    return ThreadPoolExecutor(1, "background", give_way)


def be_modest() -> None:
    """Leave this thread a tenth of what others have on a busy core, so that its work ends all the same."""
    os.nice(MODEST_NICE)


def stay_ordinary() -> None:
    """Take this thread out of it again: it works beside the loop, and must not be in its way."""
    if hasattr(os, "sched_setscheduler"):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    if _CORES:
        os.sched_setaffinity(0, _CORES)


def keep_forever() -> None:
    """Never look through what exists now for garbage: it is here to stay."""
    gc.freeze()


def collect(*, everything: bool = False) -> None:
    """Collect the garbage of the loop: the newest, some microseconds' worth, or in an idle moment all."""
    gc.collect(2 if everything else 0)


def give_back_memory() -> None:
    """Give the system what was allocated and freed again: glibc keeps it, in every thread's own store."""
    libc = _libc()
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def sleep_precisely() -> None:
    """Let this thread's sleeps end when they should; Linux adds 50 µs unless asked not to."""
    libc = _libc()
    if hasattr(libc, "prctl"):
        libc.prctl(_TIMER_SLACK, 1)  # ns


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _take_priority() -> str:
    if not hasattr(os, "sched_setscheduler"):
        return "no real-time priority: this system has no SCHED_FIFO"
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(FIFO_PRIORITY))
    except OSError as error:
        return f"no real-time priority: {error.strerror}; {_ADVICE}"
    return ""


def _stay_on_a_core() -> None:
    """Keep the caches: a real-time thread is otherwise sent to whichever core is free when it wakes up."""
    if _CORES:
        os.sched_setaffinity(0, {max(_CORES)})


def _lock_memory() -> str:
    libc = _libc()
    if not hasattr(libc, "mlockall"):
        return "memory not locked: this system has no mlockall"
    if libc.mlockall(_LOCK_CURRENT):
        return f"memory not locked: {os.strerror(ctypes.get_errno())}; {_ADVICE}"
    return ""


def _one_thread() -> None:
    """A single step is too small to be shared; threads would only wait for each other."""
    if "numba" in sys.modules:
        import numba

        numba.set_num_threads(1)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)
