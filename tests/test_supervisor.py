"""Real children: restarted when they die, given up when that is no use, and never left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from twin.errors import TwinError
from twin.supervisor import MAX_DEATHS, RESTART_DELAYS_SEC, Child, Supervisor

pytestmark = pytest.mark.slow


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short directory: the path of a Unix socket has 107 bytes."""
    found = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(found))
    yield found
    shutil.rmtree(found)


@pytest.fixture
def supervise(place: Path) -> Iterator[Callable[..., Supervisor]]:
    begun: list[Supervisor] = []

    def start(**arguments: str) -> Supervisor:
        children = [Child(name, words.split(), place / f"{name}.log") for name, words in arguments.items()]
        begun.append(Supervisor(children))
        begun[-1].start()
        return begun[-1]

    yield start
    for each in begun:
        each.stop()


def until(
    condition: Callable[[], object], supervisor: Supervisor | None = None, patience: float = 60
) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        if supervisor is not None:
            supervisor.poll()
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill(child: Child) -> None:
    assert child.process is not None
    child.process.kill()
    child.process.wait()


def test_a_child_that_dies_is_restarted(supervise: Callable[..., Supervisor], place: Path) -> None:
    supervisor = supervise(plant="simulate --rate 10", other="simulate --rate 10 --source other")
    plant, other = supervisor.children.values()
    socket = place / "livetwin" / "motor-1" / "plant"
    until(socket.exists, supervisor)
    untouched, first = other.process, plant.process
    kill(plant)
    supervisor.poll()
    assert plant.state == "restarting"
    until(lambda: plant.state == "running", supervisor)
    assert plant.restarts == 1 and plant.process is not first
    assert other.process is untouched and other.restarts == 0


def test_it_waits_longer_each_time_and_gives_up_after_five_deaths(
    supervise: Callable[..., Supervisor],
) -> None:
    supervisor = supervise(plant="simulate --rate 10")
    plant, waits = supervisor.children["plant"], []
    limit = MAX_DEATHS
    for death in range(limit):
        kill(plant)
        before = time.monotonic()
        supervisor.poll()
        if death < limit - 1:
            assert plant.state == "restarting"
            waits.append(plant.due - before)
            until(lambda: plant.state == "running", supervisor)
            assert time.monotonic() >= plant.due
    assert plant.state == "failed" and plant.restarts == limit - 1
    shortest, longest = RESTART_DELAYS_SEC
    for turn, wait in enumerate(waits):
        assert min(shortest * 2**turn, longest) <= wait < min(shortest * 2**turn, longest) + 1
    last = plant.process
    supervisor.poll()
    assert plant.process is last and plant.state == "failed", "it stays so"


def test_a_child_that_was_started_wrongly_is_not_restarted_and_its_words_are_shown(
    supervise: Callable[..., Supervisor],
) -> None:
    supervisor = supervise(plant="simulate --motor nope")
    plant = supervisor.children["plant"]
    with pytest.raises(TwinError, match=r"^no motor is called 'nope'; known are"):
        until(lambda: False, supervisor)
    assert (plant.state, plant.restarts) == ("failed", 0)


def test_a_child_that_ends_by_itself_is_left_in_peace(supervise: Callable[..., Supervisor]) -> None:
    supervisor = supervise(plant="simulate --unpaced --duration 0.01")
    plant = supervisor.children["plant"]
    until(lambda: plant.state == "ended", supervisor)
    supervisor.poll()
    assert plant.restarts == 0 and plant.state == "ended"
    assert supervisor.wait("plant", timeout=0)


def test_a_child_that_must_not_end_is_started_again_even_after_a_clean_end(
    supervise: Callable[..., Supervisor],
) -> None:
    supervisor = supervise(twin="simulate --duration 0.2")
    child = supervisor.children["twin"]
    child.ends = False
    until(lambda: child.restarts, supervisor)
    supervisor.terminate("twin")
    until(lambda: child.state == "ended", supervisor)


def test_all_end_when_told_to_whether_they_listen_or_not(
    supervise: Callable[..., Supervisor], place: Path
) -> None:
    supervisor = supervise(plant="simulate --rate 10", deaf="simulate --rate 10 --source deaf")
    for source in ("motor-1", "deaf"):
        until((place / "livetwin" / source / "plant").exists)
    plant, deaf = (child.process for child in supervisor.children.values())
    assert plant is not None and deaf is not None
    deaf.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    supervisor.stop()
    assert time.monotonic() - begun < 10, "two seconds are promised"
    assert plant.returncode == 0 and deaf.returncode == -signal.SIGKILL
    assert not (place / "livetwin" / "motor-1").exists()


def test_one_that_waits_for_its_restart_is_not_started_after_the_end(
    supervise: Callable[..., Supervisor],
) -> None:
    supervisor = supervise(plant="simulate --rate 10")
    plant = supervisor.children["plant"]
    kill(plant)
    supervisor.poll()
    supervisor.stop()
    last = plant.process
    time.sleep(2 * RESTART_DELAYS_SEC[0])
    supervisor.poll()
    assert plant.process is last


def test_ctrl_c_reaches_the_supervisor_alone(supervise: Callable[..., Supervisor]) -> None:
    process = supervise(plant="simulate --rate 10").children["plant"].process
    assert process is not None
    assert os.getpgid(process.pid) == process.pid != os.getpgrp()


def test_a_killed_supervisor_leaves_no_orphan(place: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from twin.supervisor import Child, Supervisor\n"
        "s = Supervisor([Child(n, ['simulate', '--rate', '10', '--source', n], Path(n)) for n in 'ab'])\n"
        "s.start()\n"
        "for c in s.children.values(): print(c.process.pid, flush=True)\n"
        "time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=place, text=True)
    assert holder.stdout is not None
    pids = [int(holder.stdout.readline()) for _ in "ab"]
    until((place / "livetwin" / "a" / "plant").exists)  # the other may be at its start still
    holder.kill()
    holder.wait()
    holder.stdout.close()
    until(lambda: not any(map(alive, pids)), patience=30)
    until(lambda: not any((place / "livetwin").iterdir()), patience=30)
