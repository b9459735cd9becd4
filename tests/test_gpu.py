"""`make gpu` before there is a device: its driver, the CPU that plays one, and what each stage does there."""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks.gpu import __main__ as driver
from benchmarks.gpu import python as interpreters
from benchmarks.gpu import refit, stand_in
from benchmarks.gpu.__main__ import Results, drive, file_of, outcome
from benchmarks.gpu.probe import look
from benchmarks.gpu.python import NEEDED, ROOT, Python, advice, find
from benchmarks.gpu.stages import STAGES, Stage
from benchmarks.step.rivals import network, samples
from twin.backends.eager import Eager
from twin.backends.opening import open_predictor

PYTHON = Python(sys.executable, "", {"version": [3, 11, 0], "missing": [], "device": "none"})

# -- the driver --------------------------------------------------------------------------------------


def stage(name: str, code: str, limit: float = 60.0) -> Stage:
    """A stage of one statement; `out` is where its result belongs."""
    arguments = ("-c", f"import sys; out = sys.argv[1]; {code}", "{out}")
    return Stage(name, f"the {name} one", limit, arguments, arguments)


def good(log: Path) -> str:
    """Leave a result, and a line that says so."""
    return f"open({str(log)!r}, 'a').write('ran\\n'); open(out, 'w').write('{{\"summary\": {{\"x\": 1.5}}}}')"


def records(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text())["stages"])


def test_a_stage_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    file, log = tmp_path / "new" / "gpu.json", tmp_path / "log"
    stages = [
        stage("broken", "print('about to'); 1 / 0"),
        stage("silent", "pass"),
        stage("good", good(log)),
        stage("refused", "open(out, 'w').write('{}'); sys.exit(3)"),
    ]
    results = Results(file, {"name": "gpu"})
    assert drive(stages, results, PYTHON) == ["broken", "silent", "refused"]
    found = records(file)
    assert found["good"]["status"] == "done" and found["good"]["result"] == {"summary": {"x": 1.5}}
    assert {found[name]["status"] for name in ("broken", "silent", "refused")} == {"failed"}
    assert found["broken"]["error"] == "ended with status 1"
    assert "about to" in found["broken"]["said"] and "ZeroDivisionError" in found["broken"]["said"]
    assert found["silent"]["error"] == "left no result"
    assert found["refused"]["error"] == "ended with status 3"
    assert all(record["code"] == driver.code() and record["seconds"] >= 0 for record in found.values())


def test_a_second_start_goes_on_where_the_first_one_ended(tmp_path: Path) -> None:
    file, log, mended = tmp_path / "gpu.json", tmp_path / "log", tmp_path / "mended"
    late = f"import os; assert os.path.exists({str(mended)!r}); {good(log)}"
    stages = [stage("first", good(log)), stage("second", late)]
    assert drive(stages, Results(file, {}), PYTHON) == ["second"]
    before = records(file)["first"]
    mended.touch()
    assert drive(stages, Results(file, {}), PYTHON) == []
    assert log.read_text().count("ran") == 2  # each once
    assert records(file)["first"] == before and records(file)["second"]["status"] == "done"


def test_each_result_is_in_the_file_before_the_next_stage_begins(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    look = f"import json; seen = json.load(open({str(file)!r})); open(out, 'w').write(json.dumps(seen))"
    drive([stage("first", good(tmp_path / "log")), stage("second", look)], Results(file, {}), PYTHON)
    assert records(file)["second"]["result"]["stages"]["first"]["status"] == "done"


@pytest.mark.slow
def test_a_stage_ends_at_its_limit_with_all_that_it_began(tmp_path: Path) -> None:
    child = "import time; time.sleep(600)"
    code = (
        f"import subprocess; p = subprocess.Popen([sys.executable, '-c', {child!r}]); "
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid)); print('waiting', flush=True); p.wait()"
    )
    file = tmp_path / "gpu.json"
    stages = [stage("slow", code, limit=4.0), stage("next", good(tmp_path / "log"))]
    assert drive(stages, Results(file, {}), PYTHON) == ["slow"]
    found = records(file)
    assert found["slow"]["error"] == "ended after 4 s" and "waiting" in found["slow"]["said"]
    assert found["next"]["status"] == "done"
    for _ in range(100):  # whoever inherits it takes a moment to bury it
        if not alive(int((tmp_path / "pid").read_text())):
            break
        time.sleep(0.05)
    else:
        pytest.fail("a stage's child goes on")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_the_whole_ends_at_its_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gpu.json"
    stages = [stage("slow", "import time; time.sleep(600)"), stage("next", good(tmp_path / "log"))]
    assert drive(stages, Results(file, {}), PYTHON, limit=3.0) == ["slow", "next"]
    assert set(records(file)) == {"slow"}  # what was not begun is no failure
    assert "next: not begun" in capsys.readouterr().out


def test_a_file_that_is_not_its_own_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    file.write_text("{")
    with pytest.raises(SystemExit, match="move it away"):
        Results(file, {})
    assert file.read_text() == "{"


def test_of_tests_the_counts_and_the_names_of_the_failed_are_kept() -> None:
    report = (
        '<testsuites><testsuite><testcase name="a"/><testcase name="b"><failure/></testcase>'
        '<testcase name="c"><skipped/></testcase></testsuite></testsuites>'
    )
    assert outcome(report) == {"passed": 1, "skipped": 1, "failed": ["b"]}


def test_tests_that_were_all_skipped_show_nothing(tmp_path: Path) -> None:
    report = '<testsuite><testcase name="c"><skipped/></testcase></testsuite>'
    file = tmp_path / "gpu.json"
    assert drive([stage("tests", f"open(out, 'w').write({report!r})")], Results(file, {}), PYTHON) == [
        "tests"
    ]
    assert records(file)["tests"]["error"] == "no test ran"


def test_a_machines_file_is_named_by_its_cpu_and_its_device() -> None:
    found = {"label": "8core-xeon", "device": "NVIDIA GeForce RTX 5070"}
    assert file_of(found, Path("results")) == Path("results/8core-xeon-geforce-rtx-5070.json")


# -- its Python --------------------------------------------------------------------------------------


def test_the_driver_needs_nothing_but_python() -> None:
    code = "import sys; sys.path.insert(0, '.'); import benchmarks.gpu.__main__ as d; print(d.STAGES[0].name)"
    command = f"{sys.executable} -I -S -c {code!r}".replace("-c '", '-c "').replace("name)'", 'name)"')
    with os.popen(f"cd {ROOT} && {command}") as process:
        assert process.read().strip() == STAGES[0].name


def test_what_is_missing_is_said_and_what_to_do() -> None:
    bare = Python("/usr/bin/python3", "", {"version": [3, 12, 3], "missing": [*NEEDED]})
    assert not bare.fits and "Python 3.12.3, lacks torch, numpy" in bare.words()
    for_cpu = {"version": [3, 12, 3], "missing": [], "torch": "2.11.0+cpu", "cuda": None}
    assert "built for the CPU only" in Python("python3", "", for_cpu).words()
    assert "finds no device" in Python("python3", "", for_cpu | {"cuda": "13.0"}).words()
    assert "3.11 is the oldest" in Python("python3", "", {"version": [3, 8, 1], "missing": []}).words()
    said = advice([bare.words()])
    assert "lacks torch" in said and "--wheels" in said


@pytest.mark.slow
def test_a_python_without_a_device_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(interpreters, "candidates", lambda: ["/nowhere/python", sys.executable])
    python, words = find(True, None, tmp_path)
    assert "/nowhere/python: does not start" in words[0]
    assert python is not None and python.path == sys.executable and python.fits
    if not torch.cuda.is_available():  # outside a rehearsal it does not serve
        assert not Python(sys.executable, "", look(["torch"], rehearse=False)).fits
    assert python.found["machine"]["cores"] >= 1


@pytest.mark.slow
def test_what_is_missing_can_be_brought_as_wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if find_spec("pip") is None:
        pytest.skip("this Python has no pip")
    monkeypatch.setattr(interpreters, "candidates", lambda: [sys.executable])
    monkeypatch.setitem(NEEDED, "brought_along", "brought-along")
    python, words = find(True, None, tmp_path)
    assert python is None and "lacks brought-along" in words[0]
    wheels, info = tmp_path / "wheels", "brought_along-1.0.dist-info"
    wheels.mkdir()
    with ZipFile(wheels / "brought_along-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("brought_along.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: brought-along\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    python, _ = find(True, wheels, tmp_path / "scratch")
    assert python is not None and python.fits
    assert (tmp_path / "scratch" / "brought_along.py").exists()
    assert python.environment(True)["PYTHONPATH"].split(os.pathsep)[1] == str(tmp_path / "scratch")


# -- the device that is played -----------------------------------------------------------------------


def test_host_and_device_are_kept_apart() -> None:
    with stand_in.played():
        here, there = torch.ones(3), torch.ones(3, device="cuda")
        assert there.device.type == "cuda" and there.is_cuda
        with pytest.raises(RuntimeError, match="same device"):
            here + there
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()
        assert (there + there).cpu().tolist() == [2.0, 2.0, 2.0]
        assert (here.cuda() + there).sum().item() == 6.0
        here.copy_(there * 5)
        assert here.tolist() == [5.0, 5.0, 5.0]
    assert not torch.ones(1).is_cuda


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_replay_does_again_what_was_captured_in_the_same_memory(mode: Any) -> None:
    with stand_in.played(), mode():
        z, y = torch.zeros(2, 3, pin_memory=True), torch.zeros(3, 2, pin_memory=True)
        x, state = torch.zeros(2, 3, device="cuda"), torch.zeros(2, 3, device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            x.copy_(z, non_blocking=True)
            state.add_(x.reshape(6).view(2, 3))
            y.copy_((2 * state).t().contiguous())
        for _ in range(2):
            z += 1.0
            graph.replay()
        assert (y == 2.0 * (1.0 + 2.0)).all() and (state.cpu() == 3.0).all()
        with pytest.raises(RuntimeError, match="capturing"), torch.cuda.graph(torch.cuda.CUDAGraph()):
            x.sum().item()


@pytest.mark.parametrize("backend", ["graph", "eager-cuda"])
@pytest.mark.parametrize("family", ["window-rnn", "arx"])
def test_a_model_steps_there_as_on_the_cpu(family: str, backend: str) -> None:
    checkpoint, z = network(family, 6, taps=3), samples(40)[:, None, :]
    with stand_in.played():
        here, there = Eager(checkpoint, 1), open_predictor(checkpoint, backend)
        there.warm(z[None, :20, 0])
        here.warm(z[None, :20, 0])
        for sample in z[20:]:
            assert np.abs(there.step(sample) - here.step(sample)).max() < 1e-4
        assert np.abs(there.state - here.state).max() < 1e-6


@pytest.mark.slow
def test_a_network_learns_there_what_it_learns_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WARM", 12), ("HORIZON", 6), ("BATCH", 4), ("HIDDEN", 5)):
        monkeypatch.setattr(refit, name, value)
    with stand_in.played():
        found = refit.measure(Console(quiet=True), seconds=0.5, steps=2, rounds=1)
    assert found.summary["gradients_apart"] < 1e-4 and found.summary["errors_apart"] < 1e-4
    assert {subject.backend for subject in found.subjects.values()} == set(found.details["median_s"])
    work = {"gradients": [np.ones(3)], "one_step": 1.0, "free_run": 1.0}
    with pytest.raises(Exception, match="gradients are off"):
        refit.compare(work | {"gradients": [np.array([1.0, 1.0, 1.1])]}, work)
    with pytest.raises(Exception, match="errs otherwise"):
        refit.compare(work | {"free_run": 1.1}, work)


@pytest.mark.slow
@pytest.mark.exhaustive  # minutes; the driver's tests above, and the device that the CPU plays, always run
@pytest.mark.timeout(1200)
def test_every_stage_can_be_rehearsed(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    assert driver.main(["--rehearse", "--results", str(tmp_path)]) == 0
    (file,) = tmp_path.iterdir()
    found = json.loads(file.read_text())
    assert found["rehearsed"] and set(found["stages"]) == {each.name for each in STAGES}
    for record in found["stages"].values():
        assert record["status"] == "done" and not record["result"].get("failed")
