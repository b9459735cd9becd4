"""Machine code on disk: where it lies, how long it is valid, and that nothing is compiled beside a stream."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from twin.checkpoint import Checkpoint, save
from twin.kernels import disk
from twin.messages import Spec
from twin.models.opening import new_model
from twin.models.scaling import Scaling
from twin.service.prepare import Work, members_of, step, works
from twin.settings import load

ROOT = Path(__file__).parent.parent
SMALL = """
import sys
from twin.backends.opening import prepare
prepare('compiled', 'arx', {sizes})
print('torch' in sys.modules)
"""
SIZES = {"inputs": 1, "outputs": 1, "taps": 1}
MACHINE = dict(os.environ)
"""Who starts with this finds what other tests have compiled."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own."""
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    return tmp_path


# -- where it lies -----------------------------------------------------------------------------------


def test_it_lies_in_the_users_cache_and_nobody_else_may_write_there(place: Path) -> None:
    assert disk.readable() == []
    assert disk.writable() == place / ".cache" / "livetwin"
    assert stat.S_IMODE((place / ".cache" / "livetwin").stat().st_mode) == 0o700
    assert disk.readable() == [place / ".cache" / "livetwin"]


def test_what_the_user_chose_comes_first(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "xdg"))
    assert disk.writable() == place / "xdg" / "livetwin"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification says: ignore it
    assert disk.writable() == place / ".cache" / "livetwin"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(place / "numba"))
    assert disk.writable() == place / "numba" / "livetwin"
    assert disk.readable() == [place / "numba" / "livetwin"]  # nothing else is looked at


def test_a_directory_that_others_may_write_to_is_never_used(place: Path) -> None:
    """Machine code is run: who can write it is this user."""
    usual = place / ".cache" / "livetwin"
    usual.mkdir(parents=True, mode=0o700)
    for mode in (0o777, 0o720, 0o702):
        usual.chmod(mode)
        assert disk.readable() == []
        temporary = disk.writable()
        assert temporary is not None and temporary.parent == place / "tmp"
        temporary.rmdir()
    usual.chmod(0o755)  # others may read it
    assert disk.writable() == usual


def test_a_link_to_a_directory_is_not_followed(place: Path) -> None:
    (place / "elsewhere").mkdir(mode=0o700)
    (place / ".cache").mkdir()
    (place / ".cache" / "livetwin").symlink_to(place / "elsewhere")
    assert disk.readable() == []
    found = disk.writable()
    assert found is not None and found.parent == place / "tmp"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_another_users_directory_is_not_used(place: Path) -> None:
    for folder in disk.folders():
        folder.mkdir(parents=True, mode=0o700)
        os.chown(folder, 65534, 65534)
    assert disk.readable() == [] and disk.writable() is None


# -- how much ----------------------------------------------------------------------------------------


def test_what_was_used_longest_ago_goes_first_and_what_is_old_goes_anyway(tmp_path: Path) -> None:
    now = time.time()
    for days, name in enumerate("abcd"):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (now - days * 86_400, now - 1_000_000))
    disk.prune(tmp_path, limit=350)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}
    os.utime(tmp_path / "b", (now - disk.UNUSED_SEC - 60, now - disk.UNUSED_SEC - 60))
    disk.prune(tmp_path, limit=350)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "c"}


def test_a_use_is_noted_without_a_change(tmp_path: Path) -> None:
    path = tmp_path / "code"
    path.write_bytes(b"1")
    os.utime(path, (1_000, 2_000))
    disk.touch(path)
    assert path.stat().st_mtime == 2_000 and path.stat().st_atime > time.time() - 60


# -- notes -------------------------------------------------------------------------------------------


def test_a_note_holds_as_long_as_its_files_do(place: Path) -> None:
    folder = disk.writable()
    assert folder is not None
    (folder / "one").write_text("code")
    disk.note("some", [folder / "one"])
    assert disk.noted("some") == [folder / "one"]
    assert disk.noted("other") is None
    (folder / "one").unlink()
    assert disk.noted("some") is None


@pytest.mark.parametrize("content", ["", "7", "[1]", "nonsense", '["../../etc/passwd"]'])
def test_a_note_that_is_none_is_no_note(place: Path, content: str) -> None:
    folder = disk.writable()
    assert folder is not None
    (folder / "some.json").write_text(content)
    assert disk.noted("some") is None


def test_another_cpu_compiler_or_source_is_another_note(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = step("arx", dict(SIZES))
    names = {work.note, Work(work.text, work.call, ("compiled", "arx", {**SIZES, "taps": 2})).note}
    monkeypatch.setattr(disk, "SOURCES_DIGEST", 1)
    names.add(work.note)
    monkeypatch.setattr(disk, "machine", lambda: "another CPU")
    names.add(work.note)
    assert len(names) == 4


# -- what a run needs --------------------------------------------------------------------------------

MOTOR = Spec(inputs=("voltage",), outputs=("current", "speed"), dt=1e-3)
OTHER = Spec(inputs=("u",), outputs=("y",), dt=0.02)


def test_what_a_run_needs_follows_from_its_settings_and_its_plant() -> None:
    one = load(None, trainer={"model": "physics"})
    assert [work.text for work in works(one, MOTOR)] == [
        "step of physics",
        "reading and answering samples",
        "refits of physics",
    ]
    assert {work.text for work in works(load(None), MOTOR)} == {
        "reading and answering samples",
        *("step of physics", "step of gru 32", "step of hybrid 32", "step of window-rnn 32"),
        *("refits of physics", "refits of gru", "refits of hybrid", "refits of window-rnn"),
    }
    small = load(None, trainer={"hidden_size": 7})
    assert [work.text for work in works(small, OTHER)] == [
        *("step of gru 7", "step of window-rnn 7", "reading and answering samples"),
        *("refits of gru", "refits of window-rnn"),
    ]
    eager = load(None, twin={"backend": "eager"}, trainer={"model": "arx"})
    assert [work.text for work in works(eager, OTHER)] == ["reading and answering samples"]
    assert [member.sizes["hidden_size"] for member in members_of(small, OTHER, None)[0]] == [7, 7]


# -- as a user meets it ------------------------------------------------------------------------------


def twin(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "twin", *arguments]
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"} | settings
    return subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_second_time_all_is_there_and_a_run_compiles_nothing(tmp_path: Path) -> None:
    """The promise of `twin prepare`: after it no process of a run writes any code."""
    settings = {"NUMBA_CACHE_DIR": str(tmp_path / "code"), "XDG_RUNTIME_DIR": str(tmp_path / "s")}
    model = ("--model", "rnn", "--hidden-size", "4")
    first = twin("prepare", *model, **settings)
    assert first.returncode == 0, first.stderr
    assert "compiling for this CPU, once: step of rnn 4, the plant's best observer" in first.stdout
    assert f"kept in {tmp_path}/code/livetwin" in first.stdout
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "code" / "livetwin").iterdir()}
    second = twin("prepare", *model, **settings)
    assert "compiling" not in second.stdout and "ready for this CPU: step of rnn 4" in second.stdout
    run = twin(
        *("run", *model, "--duration", "5", "--unpaced", "--run-dir", str(tmp_path / "rd")),
        *("--report", str(tmp_path / "r.json"), "--period", "1"),
        **settings,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "compiling" not in run.stdout
    assert json.loads((tmp_path / "r.json").read_text())["model"] >= 1
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "code" / "livetwin").iterdir()} == files


@pytest.mark.slow
def test_without_a_place_it_is_said_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = twin("prepare", "--model", "arx", NUMBA_CACHE_DIR=str(tmp_path / "file"))
    assert done.returncode == 2
    assert "set NUMBA_CACHE_DIR to a directory of yours" in " ".join(done.stderr.split())


@pytest.mark.slow
def test_ctrl_c_ends_it_and_its_workers(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "twin", "prepare"],
        env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background jobs ignore Ctrl-C, and so would all that they start
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert re.match("compiling for this CPU", process.stdout.readline())
    deadline = time.monotonic() + 60
    while not (workers := children(process.pid)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=30)[1]
    assert (process.returncode, said) == (130, "")
    # one that was just being started ends by itself, as soon as it sees that nobody waits for it
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if (entry / "stat").read_text().rpartition(")")[2].split()[1] == str(parent):
                found.append(int(entry.name))
        except (OSError, IndexError):
            continue
    return found


@pytest.mark.slow
def test_a_copy_at_another_place_and_time_finds_the_same_code(tmp_path: Path) -> None:
    """What a reinstall is: the same sources, other dates and another path. And no torch is loaded for it."""
    program = SMALL.format(sizes=SIZES)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "code")}

    def run(tree: Path) -> dict[Path, int]:
        command = [sys.executable, "-B", "-c", program]
        environ = environment | {"PYTHONPATH": str(tree)}
        assert subprocess.check_output(command, env=environ, cwd=tmp_path, text=True) == "False\n"
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "code").rglob("*.nb*")}

    first = run(ROOT)
    assert len(first) == 4  # an index and the code, of a step and of a free run
    copy = tmp_path / "copy" / "twin"
    for path in (ROOT / "twin").rglob("*.py"):
        to = copy / path.relative_to(ROOT / "twin")
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(path.read_bytes())
    where = subprocess.run(
        [sys.executable, "-B", "-c", "import twin; print(twin.__file__)"],
        env=environment | {"PYTHONPATH": str(copy.parent)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(copy))
    assert run(copy.parent) == first


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_who_asks_a_model_on_disk_is_told_what_is_compiled(place: Path) -> None:
    """And nothing more: standard output is the answer alone."""
    spec, said = MOTOR, "compiling for this CPU, once: step of arx"
    begun = new_model("arx", spec, Scaling.of(np.random.default_rng(0).normal(size=(100, 3)), 2))
    save(place / "rd", Checkpoint(1, None, "arx", begun.sizes, spec, begun.tensors()))
    rows = np.random.default_rng(0).normal(size=(200, 3))
    np.savetxt(place / "r.csv", rows, delimiter=",", header="voltage,current,speed", comments="")
    settings = {"NUMBA_CACHE_DIR": str(place / "code"), "XDG_RUNTIME_DIR": str(place / "s")}
    code = place / "code" / "livetwin"
    judge = ("evaluate", str(place / "rd"), str(place / "r.csv"), "--json")
    for told in (True, False):  # the second time it is there
        done = twin(*judge, **settings)
        assert done.returncode == 0 and json.loads(done.stdout)["family"] == "arx", done.stderr
        assert (said in done.stderr) == told
    for note in code.glob("*.json"):
        note.unlink()  # then nobody knows that the code is there
    command = [sys.executable, "-m", "twin", "simulate", "--rate", str(1 / spec.dt)]
    plant = subprocess.Popen(command, env=MACHINE | {"XDG_RUNTIME_DIR": settings["XDG_RUNTIME_DIR"]})
    try:
        deadline = time.monotonic() + 120
        while not (place / "s/livetwin/motor-1/plant").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        done = twin("forecast", "--run-dir", str(place / "rd"), "--json", **settings)
        assert done.returncode == 0 and json.loads(done.stdout)["model"] == 1, done.stderr
        assert said in done.stderr
    finally:
        plant.kill()
        plant.wait()
