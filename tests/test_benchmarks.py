"""The benchmarks run, say what they lack, and write whole figures. No test asserts a time."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from benchmarks import __main__ as frame
from benchmarks.machine import machine
from benchmarks.rounds import FIGURES, interleave, median_of, median_ratio, percentiles, time_calls
from twin.errors import BackendError, TwinError

ROOT = Path(__file__).parent.parent


def start(*arguments: str, before: str = "") -> subprocess.Popen[str]:
    """`python -m benchmarks ...` as a process, after some statements."""
    code = f"{before}\nimport runpy; runpy.run_module('benchmarks', run_name='__main__', alter_sys=True)"
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    said, complaint = process.communicate(timeout=280)
    assert "Traceback" not in said + complaint, complaint
    return process.returncode, said, complaint


# -- the frame ---------------------------------------------------------------------------------------

MISTAKES = {
    "simulation": r"no benchmark is called 'simulation'; there are step, .*startup, and all",
    "simulate --json Makefile/x.json": "Makefile.*name a file that can be written",
    "all --json Makefile": "Makefile.*name a directory that can be written",
    "simulate --plot Makefile": "Makefile.*name a directory that can be written",
    "simulate --device tpu": "--device tpu: it is one of cpu, cuda",
    "simulate --device cuda": "simulate has no choice; it is for step",
}


@pytest.mark.parametrize("arguments", list(MISTAKES))
def test_a_mistake_is_answered_with_one_line_before_anything_is_measured(arguments: str) -> None:
    status, said, complaint = finish(start(*arguments.split()))
    assert status == 2 and said == "" and len(complaint.splitlines()) == 1
    assert re.search(MISTAKES[arguments], complaint), complaint


def test_plots_without_matplotlib_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    before = "import sys; sys.modules['matplotlib'] = None"
    status, said, complaint = finish(start("simulate", "--plot", str(tmp_path), before=before))
    assert status == 2 and said == "" and "pip install matplotlib" in complaint
    assert len(complaint.splitlines()) == 1


def test_what_a_file_may_be_is_tried_and_leaves_nothing_behind(tmp_path: Path) -> None:
    frame.check_writable(tmp_path / "new" / "figures.json", directory=False)
    frame.check_writable(tmp_path / "folder", directory=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    (tmp_path / "old.json").write_text("kept")
    frame.check_writable(tmp_path / "old.json", directory=False)
    assert (tmp_path / "old.json").read_text() == "kept"


def test_help_imports_no_benchmark() -> None:
    code = (
        "import atexit, sys; sys.argv = ['benchmarks', '--help']\n"
        "atexit.register(lambda: print({'torch', 'numba', 'scipy'} & set(sys.modules)))\n"
        "from benchmarks.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("set()") and "simulate, startup" in done.stdout


def test_a_missing_module_or_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match=r"benchmarks/nothing\.py is missing"):
        frame.load("nothing")

    def lacking(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")

    monkeypatch.setattr("importlib.import_module", lacking)
    with pytest.raises(BackendError, match=r"step needs onnxruntime; pip install .*\[bench\]"):
        frame.load("step")


def stub(name: str) -> Any:
    """A benchmark that takes no time; `swap` fails."""

    def measure(console: Console, *, quick: bool, **device: str) -> dict[str, Any]:
        if name == "swap":
            raise TwinError("out of luck")
        return {"summary": {"answer": 42.0}, "device": device}

    return SimpleNamespace(measure=measure, table=lambda result: "a table of figures")


def test_all_goes_on_after_a_failure_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(frame, "load", stub)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "all", "--quick", "--json", str(tmp_path / "new")])
    with pytest.raises(SystemExit, match="2"):
        frame.main()
    said = capsys.readouterr()
    assert said.out.count("a table of figures") == len(frame.NAMES) - 1
    assert "not measured: swap" in " ".join(said.err.split())
    found = {
        path.name.partition("-")[0]: json.loads(path.read_text()) for path in (tmp_path / "new").iterdir()
    }
    assert set(found) == set(frame.NAMES) - {"swap"}
    assert {name for name in found if found[name]["device"]} == set(frame.ON_DEVICES)
    for name, figures in found.items():
        assert (figures["name"], figures["quick"]) == (name, True)
        assert figures["command"].startswith("python -m benchmarks all --quick")


def test_ctrl_c_ends_in_a_word(tmp_path: Path) -> None:
    process = start("simulate", "--json", str(tmp_path / "figures.json"))
    assert process.stdout is not None
    assert "simulate" in process.stdout.readline()  # it measures
    process.send_signal(signal.SIGINT)
    status, _, complaint = finish(process)
    assert status == frame.INTERRUPTED and "stopped" in complaint
    assert not list(tmp_path.iterdir())


def test_a_machine_is_plain_data() -> None:
    found = json.loads(json.dumps(machine()))
    assert found["cores"] >= 1 and found["versions"]["numpy"] == np.__version__
    assert 0 <= found["stolen_ticks"] <= found["ticks"]


# -- rounds ------------------------------------------------------------------------------------------


def test_percentiles_are_times_that_occurred() -> None:
    ns = np.arange(1, 10_001)[::-1] * 1000
    assert percentiles(ns) == {"p50": 5000.0, "p99": 9900.0, "p999": 9990.0, "max": 10_000.0}
    assert tuple(percentiles(ns)) == FIGURES
    assert percentiles(np.array([7000])) == dict.fromkeys(FIGURES, 7.0)


def test_calls_are_counted_and_the_warm_up_is_not() -> None:
    calls: list[int] = []
    times = time_calls(lambda: calls.append(1), 50, warm_up=7, pause=1e-6)
    assert times.shape == (50,) and len(calls) == 57
    assert (times >= 0).all() and times.any()


def test_rounds_go_forward_and_backward() -> None:
    order: list[str] = []

    def turn(name: str) -> int:
        order.append(name)
        return len(order)

    rivals = {name: (lambda name=name: turn(name)) for name in "abc"}
    found = interleave(rivals, 3, Console(quiet=True), "order")
    assert "".join(order) == "abccbaabc"
    assert found == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}


def test_a_ratio_is_formed_within_a_round() -> None:
    noise = [1.0, 50.0, 3.0]  # slows both sides of a round
    own, other = [{"p50": 2 * n} for n in noise], [{"p50": 4 * n} for n in noise]
    assert median_ratio(own, other, "p50") == 0.5
    assert median_of(own) == {"p50": 6.0}
    with pytest.raises(ValueError, match="shorter"):
        median_ratio(own, other[:2], "p50")


# -- the benchmarks ----------------------------------------------------------------------------------

SUMMARIES = {
    "simulate": ("simulate_us", "simulate_x_real_time", "simulate_vs_solve_ivp"),
    "startup": (
        "first_prediction_warm_s",
        "first_prediction_cold_s",
        "first_prediction_eager_s",
        "twin_rss_mb",
    ),
    "refit": (
        "refit_1_thread_s",
        "refit_2_threads_s",
        "refit_one_step_ratio",
        "refit_free_run_ratio",
        "refit_speedup_vs_torch",
        "trainer_refit_speedup_vs_torch",
        "anchor_refit_1_thread_s",
        "anchor_refit_2_threads_s",
        "anchor_refit_one_step_ratio",
    ),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name",
    [
        "simulate",
        pytest.param("startup", marks=pytest.mark.slow),
        pytest.param("refit", marks=pytest.mark.slow),
    ],
)
def test_a_quick_look_gives_whole_figures(name: str, tmp_path: Path) -> None:
    file, pictures = tmp_path / "figures.json", tmp_path / "pictures"
    status, said, complaint = finish(start(name, "--quick", "--json", str(file), "--plot", str(pictures)))
    assert status == 0, complaint
    figures = json.loads(file.read_text())
    assert (figures["name"], figures["quick"]) == (name, True)
    assert figures["machine"]["ticks"] <= figures["after"]["ticks"]
    for key in SUMMARIES[name]:
        assert math.isfinite(figures["summary"][key]) and figures["summary"][key] > 0, key
        assert key in said
    assert str(file) in said
    drawn = list(pictures.iterdir())
    assert drawn and all(path.stat().st_size > 1000 and str(path) in said for path in drawn)
