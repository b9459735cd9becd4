"""Starts processes, restarts those that die, and ends them all, leaving none behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from twin.errors import TwinError

USER_ERROR: Final = 2
"""Exit status of a process that was started wrongly: starting it again would not help."""
RESTART_DELAYS_SEC: Final = (0.1, 5.0)
"""Delay before the first restart of a process, and the longest one: it doubles with each restart."""
MAX_DEATHS: Final = 5
"""Deaths within `DEATHS_SPAN_SEC` after which a process is not started again."""
DEATHS_SPAN_SEC: Final = 60.0
"""Time in which deaths count together; one start may take two seconds."""
_PARENT: Final = "LIVETWIN_SUPERVISOR"
_PR_SET_PDEATHSIG: Final = 1


def die_with_supervisor() -> None:
    """In a supervised process, first thing: ask the kernel for SIGTERM when the supervisor is gone.

    A supervisor that is killed cannot end its children, and they would hold sockets and cores for ever.
    Linux only; elsewhere nothing happens.
    """
    parent = os.environ.get(_PARENT)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if orphaned():  # it went before we asked
        sys.exit(1)


def orphaned() -> bool:
    """Whether this process had a supervisor that is gone: nobody waits for what it does any more."""
    parent = os.environ.get(_PARENT)
    return parent is not None and os.getppid() != int(parent)


def environment() -> dict[str, str]:
    """The environment of a process that shall not outlive this one."""
    found = os.environ | {_PARENT: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
    for library in ("OMP", "OPENBLAS", "MKL"):  # their threads only wait for each other in steps this small
        found.setdefault(f"{library}_NUM_THREADS", "1")
    return found


@dataclass
class Child:
    """One process: how it is started, and what became of it."""

    name: str
    arguments: list[str]
    """Of the command `twin`."""
    log: Path
    """Where what it prints is kept."""
    ends: bool = True
    """Whether it may end by itself; one that must not is started again even after a clean end."""
    asked: bool = False
    """Whether it was asked to end."""
    process: subprocess.Popen[bytes] | None = None
    state: str = "new"
    """new, running, restarting, ended (by itself, status 0) or failed."""
    restarts: int = 0
    deaths: list[float] = field(default_factory=list)
    due: float = 0.0

    def start(self) -> None:
        """Start it, in a process group of its own, so that Ctrl-C reaches the supervisor alone."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "twin", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
                process_group=0,
            )
        self.state = "running"

    def last_words(self) -> str:
        """The last lines it printed."""
        try:
            return "\n".join(self.log.read_text(errors="replace").strip().splitlines()[-12:])
        except OSError:
            return ""


class Supervisor:
    """Keeps children running: restarts those that die, with growing delays, until they have died too often.

    Raises:
        TwinError: from `poll`, when a child was started wrongly, with the last that it printed.
    """

    def __init__(self, children: list[Child]) -> None:
        self.children = {child.name: child for child in children}

    def start(self) -> None:
        """Start all, in order."""
        for child in self.children.values():
            child.start()

    def poll(self) -> None:
        """Notice who has ended, and restart who is due."""
        now = time.monotonic()
        for child in self.children.values():
            if child.state == "running" and child.process is not None:
                status = child.process.poll()
                if status is not None:
                    self._ended(child, status, now)
            elif child.state == "restarting" and now >= child.due:
                child.restarts += 1
                child.start()

    def _ended(self, child: Child, status: int, now: float) -> None:
        if status == 0 and (child.ends or child.asked):
            child.state = "ended"
            return
        if status == USER_ERROR:
            child.state = "failed"
            words = child.last_words().removeprefix("error: ")
            raise TwinError(words or f"the {child.name} could not start")
        child.deaths = [*(death for death in child.deaths if now - death < DEATHS_SPAN_SEC), now]
        if len(child.deaths) >= MAX_DEATHS:
            child.state = "failed"
            return
        wait, longest = RESTART_DELAYS_SEC
        child.due = now + min(wait * 2 ** (len(child.deaths) - 1), longest)
        child.state = "restarting"

    def terminate(self, *names: str) -> None:
        """Ask children to end; they are not restarted."""
        for name in names:
            child = self.children[name]
            child.asked = True
            if child.state == "restarting":
                child.state = "ended"
            if child.process is not None and child.process.poll() is None:
                child.process.terminate()

    def wait(self, *names: str, timeout: float) -> bool:
        """Wait until children have ended; False when some have not."""
        deadline = time.monotonic() + timeout
        for name in names:
            process = self.children[name].process
            if process is None:
                continue
            try:
                process.wait(max(deadline - time.monotonic(), 0.001))
            except subprocess.TimeoutExpired:
                return False
            self.children[name].state = "ended"
        return True

    def stop(self, timeout: float = 1.5) -> None:
        """End all: ask, wait, then kill whoever has not gone."""
        names = list(self.children)
        self.terminate(*names)
        if not self.wait(*names, timeout=timeout):
            for child in self.children.values():
                if child.process is not None and child.process.poll() is None:
                    child.process.kill()
                    child.process.wait()
