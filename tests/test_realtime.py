"""Real-time manners, each in a process of its own: they cannot be taken off again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from twin import Prediction, Subscriber, endpoint
from twin.service import trainer

pytestmark = pytest.mark.slow


def run(program: str, *, unprivileged: bool = False) -> list[str]:
    """The lines that a program prints."""
    if unprivileged:  # as most programs run: no right to a priority, and no memory to lock
        program = (
            "import os, resource, twin.realtime;"  # another user may not be allowed to read them
            "resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0));"
            "resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0));"
            "os.geteuid() == 0 and (os.setgid(65534), os.setuid(65534))\n" + program
        )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


REPORT = """
import gc, numba, os, threading
from twin.realtime import become_realtime, collect, stay_ordinary
print(len(become_realtime()))
print(os.sched_getscheduler(0) == os.SCHED_FIFO)
print("VmLck:\\t       0 kB" not in open("/proc/self/status").read())
print(gc.isenabled(), gc.get_freeze_count() > 1000)
found = []
def beside():
    stay_ordinary()
    found.append(os.sched_getscheduler(0) == os.SCHED_OTHER)
thread = threading.Thread(target=beside); thread.start(); thread.join()
print(numba.get_num_threads())
print(found[0], os.sched_getscheduler(0) == os.SCHED_FIFO)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to a real-time priority")
def test_all_manners_where_they_are_permitted() -> None:
    refused, priority, locked, garbage, at_once, threads = run(REPORT)
    if refused != "0":
        pytest.skip("this container grants root no real-time priority or no locked memory")
    assert (priority, locked) == ("True", "True")
    assert garbage == "False True"
    assert at_once == "1"
    assert threads == "True True"  # what works beside the loop left the priority, the loop kept it


def test_what_is_not_permitted_is_said_in_a_line_each_and_left() -> None:
    program = "from twin.realtime import become_realtime\nprint(*become_realtime(), sep='\\n')"
    lines = run(program, unprivileged=True)
    assert len(lines) == 2
    assert lines[0].startswith("no real-time priority: ")
    assert lines[1].startswith("memory not locked: ")
    assert all("go without --realtime" in line for line in lines)


def test_a_cycle_in_the_loop_is_collected_when_asked() -> None:
    program = """
import gc, weakref
from twin.realtime import become_realtime, collect
become_realtime()
class Loop: pass
loop = Loop(); loop.itself = loop
seen = weakref.ref(loop); del loop
print(seen() is None); collect(); print(seen() is None)
"""
    assert run(program) == ["False", "True"]


def test_a_twin_with_these_manners_answers_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tempfile.mkdtemp(prefix="lt", dir="/tmp")
    monkeypatch.setenv("XDG_RUNTIME_DIR", place)
    commands = (["predict", "--realtime"], ["simulate", "--rate", "200"])
    processes = [
        subprocess.Popen([sys.executable, "-m", "twin", *command], cwd=tmp_path, stderr=subprocess.PIPE)
        for command in commands
    ]
    try:
        with Subscriber(endpoint("motor-1", "twin"), "prediction/motor-1", Prediction) as predictions:
            assert all(predictions.recv(60) is not None for _ in range(50))
        policy = os.sched_getscheduler(processes[0].pid)
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=60)[1].decode() for process in processes]
        shutil.rmtree(place, ignore_errors=True)
    assert [process.returncode for process in processes] == [0, 0]
    # it has the priority, or has said in a line why not
    assert policy == os.SCHED_FIFO or "no real-time priority" in said[0]


# -- work that can wait ------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="needs Linux's SCHED_IDLE")
def test_work_in_the_background_gives_way_and_the_rest_is_modest() -> None:
    program = """
import os
from twin.realtime import background, be_modest
be_modest()
def manners(): return os.sched_getscheduler(0) == os.SCHED_IDLE, os.getpriority(os.PRIO_PROCESS, 0)
print(manners(), background().submit(manners).result())
"""
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    assert run(program) == [f"(False, {min(nice + 10, 19)}) (True, 19)"]


class Starving(ThreadPoolExecutor):
    """A thread that has a core for next to no time: each step takes as long as it is patient."""

    taken = 0

    def submit(self, *arguments: Any, **more: Any) -> Any:
        self.taken += 1
        time.sleep(0.03)
        return super().submit(*arguments, **more)


def test_work_that_is_starved_goes_on_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "STARVED_SEC", 0.1)
    where: list[str] = []

    def work() -> Iterator[int]:
        for k in range(50):
            where.append(threading.current_thread().name)
            yield k

    with Starving(1, "background") as spare:
        assert list(trainer.steps(work(), spare)) == list(range(50))
    assert where[0].startswith("background") and where[-1] == "MainThread"
    assert spare.taken == sum(name.startswith("background") for name in where) < 20


def test_work_that_has_its_share_stays_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "STARVED_SEC", 0.05)
    monkeypatch.setattr(trainer, "STARVED_SHARE", 0.0)
    where: list[str] = []

    def work() -> Iterator[int]:
        for k in range(5):
            where.append(threading.current_thread().name)
            time.sleep(0.02)
            yield k

    with ThreadPoolExecutor(1, "background") as spare:
        assert list(trainer.steps(work(), spare)) == list(range(5))
    assert all(name.startswith("background") for name in where)
    assert list(trainer.steps(work(), None)) == list(range(5)) and where[-1] == "MainThread"


def test_a_failure_in_the_background_is_the_callers() -> None:
    def work() -> Iterator[int]:
        yield 0
        raise ValueError("no such motor")

    with ThreadPoolExecutor(1) as spare:
        found = trainer.steps(work(), spare)
        assert next(found) == 0
        with pytest.raises(ValueError, match="no such motor"):
            next(found)
