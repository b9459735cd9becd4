"""The benchmarks run, say what they lack, and write whole figures. No test asserts a time."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks import __main__ as frame
from benchmarks import refit
from benchmarks.chain.stations import COLUMNS
from benchmarks.chain.stretch import evaluate
from benchmarks.fidelity import alarms, change, recordings, stream
from benchmarks.machine import machine
from benchmarks.passes import COMPILED, TORCH, Passes, counted
from benchmarks.result import Result
from benchmarks.rounds import FIGURES, interleave, median_of, median_ratio, percentiles, time_calls
from benchmarks.step import activations, onnx_models
from benchmarks.step.rivals import network, samples
from benchmarks.step.streams import figures as growth_figures
from benchmarks.step.timers import in_a_row, one_by_one, rival, turn
from benchmarks.subject import Subject, certain, of_predictor, of_twin
from simulators import motor
from twin.backends.opening import available_backends, open_predictor
from twin.config import TrainerConfig
from twin.errors import BackendError, TwinError
from twin.families import GATES, NETWORKS, Cell, family_of
from twin.messages import Spec
from twin.models.network import Network
from twin.models.opening import open_model
from twin.trainer import Trainer
from twin.twin import Twin

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
    try:
        said, complaint = process.communicate(timeout=540)
    finally:
        process.kill()  # what hangs ends with its test
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
    "simulate --data tests": "--data tests: simulate takes no recordings; it is for fidelity",
    "fidelity --data nowhere": "--data nowhere: no such directory",
}


@pytest.mark.parametrize("arguments", list(MISTAKES))
@pytest.mark.slow
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
    monkeypatch.setitem(frame.MODULES, "nothing", "benchmarks.nothing")
    with pytest.raises(BackendError, match=r"benchmarks/nothing\.py is missing"):
        frame.load("nothing")

    def lacking(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")

    monkeypatch.setattr("importlib.import_module", lacking)
    with pytest.raises(BackendError, match=r"step needs onnxruntime; pip install .*\[bench\]"):
        frame.load("step")


def stub(name: str) -> Any:
    """A benchmark that takes no time; `swap` fails."""

    def measure(console: Console, *, quick: bool, **options: Any) -> Result:
        if name == "swap":
            raise TwinError("out of luck")
        return Result({"answer": 42.0}, {name: Subject("gru", "eager", 3)}, {"device": "device" in options})

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
        assert figures["subjects"] == {name: {"family": "gru", "backend": "eager", "threads": 3}}


def test_a_summary_may_hold_dicts_and_what_was_never_reached() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(frame.summary_table({"a": 1234.5, "delay_s": {"R +20 %": 0.25, "stuck": None}, "b": None}))
    said = [line.split() for line in console.export_text().splitlines()]
    assert said == [["a", "1,234"], ["delay_s", *["R", "+20", "%", "0.25", "stuck", "never"]], ["b", "never"]]


def test_ctrl_c_ends_in_a_word(tmp_path: Path) -> None:
    # a shell that starts tests in the background has its programs ignore Ctrl-C
    listening = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    process = start("simulate", "--json", str(tmp_path / "figures.json"), before=listening)
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


# -- what is measured --------------------------------------------------------------------------------


def test_what_is_not_what_was_to_be_measured_is_no_figure() -> None:
    own = Subject("gru", "compiled", 1)
    assert certain(own, Subject("gru", "compiled", 1)) is own
    for what in (("physics", "compiled", 1), ("gru", "eager", 1), ("gru", "compiled", 2)):
        with pytest.raises(TwinError, match="to be measured was gru by compiled on 1 thread, but at work is"):
            certain(Subject(*what), own)


@pytest.mark.parametrize("backend", ["compiled", "eager"])
def test_a_predictor_and_a_twin_say_what_they_are(backend: str) -> None:
    checkpoint, threads = network("lstm", 5), 1 if backend == "compiled" else torch.get_num_threads()
    expected = Subject("lstm", backend, threads)
    assert of_predictor(open_predictor(checkpoint, backend), checkpoint) == expected
    twin = Twin(checkpoint.spec, window=5, backend=backend)
    with pytest.raises(TwinError, match="no model answers"):
        of_twin(twin, checkpoint)
    twin.refresh(checkpoint)
    assert twin.catch_up() and of_twin(twin, checkpoint) == expected
    with pytest.raises(TwinError, match="model 1 answers, not model 2"):
        of_twin(twin, replace(checkpoint, number=2))


@pytest.mark.parametrize("compiled", [True, False])
def test_the_passes_of_a_refit_are_counted(compiled: bool) -> None:
    model = open_model(network("gru", 4))
    assert isinstance(model, Network)
    model.train()
    z, state = torch.from_numpy(samples(14).reshape(2, 7, 3)), model.initial_state(2)
    with counted(compiled) as passes:
        for _ in range(3):
            model(z, state)
    assert (passes.compiled, passes.torch) == ((3, 0) if compiled else (0, 3))
    assert passes.subject("gru", 3).backend == (COMPILED if compiled else TORCH)
    model(z, state)
    assert passes.compiled + passes.torch == 3  # what comes later is not counted


@pytest.mark.parametrize(("compiled", "by_torch"), [(0, 0), (5, 5), (4, 4)])
def test_a_refit_by_neither_way_or_by_both_is_void(compiled: int, by_torch: int) -> None:
    with pytest.raises(TwinError, match="it is not certain what was measured"):
        Passes(compiled, by_torch).subject("gru", 5)


@pytest.mark.slow
def test_a_family_without_gradients_cannot_pass_for_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refit, "FAMILY", "arx")
    with pytest.raises(TwinError, match="it is not certain what was measured"):
        refit.trainer_refit({"seconds": 3, "steps": 4, "anchor_steps": 1})


def test_the_families_that_are_named_are_those_that_auto_takes() -> None:
    def taken(spec: Spec) -> str:
        return Trainer(spec, TrainerConfig(model="auto"), 100).config.model

    assert taken(motor().spec(1e-3)) == stream.SUBJECT.family == alarms.SUBJECT.family
    assert taken(change.SPEC) == change.DEFAULT == recordings.ONLINE.family


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


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["simulate", "startup", "refit"])
@pytest.mark.slow
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


# -- the chain and its swaps -------------------------------------------------------------------------


def test_lost_and_late_answers_are_counted() -> None:
    answers = [
        (seq, 1, 1000 * seq, 1000 * seq + 200, 1000 * seq + 300, 1000 * seq + 500) for seq in range(10)
    ]
    del answers[3], answers[5]
    answers[-1] = (*answers[-1][:-1], 9_000 + 1_001)  # ns; the period is 1000
    assert len(answers[0]) == len(COLUMNS)
    told = {"overruns": 2.0, "seconds": 1e-5}
    figures = evaluate(np.array([*answers, answers[0]], np.int64), told, 10, 1e6)
    counts = {name: figures[name] for name in ("sent", "lost", "late", "plant_overruns", "inside_p50")}
    assert counts == {"sent": 10, "lost": 2, "late": 1, "plant_overruns": 2, "inside_p50": 0.1}
    assert figures["p50"] == 0.5 and figures["max"] == 1.001 and figures["rate_hz"] == pytest.approx(1e6)


def quick_look(name: str, folder: Path, before: str = "") -> dict[str, Any]:
    file = folder / "figures.json"
    status, said, complaint = finish(
        start(name, "--quick", "--json", str(file), "--plot", str(folder / "pictures"), before=before)
    )
    assert status == 0, complaint
    figures: dict[str, Any] = json.loads(file.read_text())
    assert all(math.isfinite(value) and key in said for key, value in figures["summary"].items())
    drawn = list((folder / "pictures").iterdir())
    assert drawn and all(path.stat().st_size > 1000 and str(path) in said for path in drawn)
    return figures


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_quick_look_at_the_chain_loses_nothing(tmp_path: Path) -> None:
    figures = quick_look("chain", tmp_path)
    ratios = {"chain_p50_ratio", "chain_p99_ratio", "refit_next_door_p99_ratio", "realtime_p99_ratio"}
    ratios |= {"bank_p50_ratio"}
    times = {"chain_p50_us", "chain_p99_us", "relay_p50_us", "relay_p99_us"}
    summary = figures["summary"]
    assert set(summary) == ratios | times | {"lost_5khz", "lost_10khz"}
    assert all(summary[key] > 0 for key in ratios | times)
    assert summary["lost_5khz"] == summary["lost_10khz"] == 0
    turns = [turn for turns in figures["rounds"].values() for turn in turns]
    assert all(turn["lost"] == 0 for turn in [*turns, *figures["long"].values()])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_quick_look_at_swaps_loses_nothing_and_takes_up_every_model(tmp_path: Path) -> None:
    figures = quick_look("swap", tmp_path)
    times = {
        "swap_worst_us",
        "swap_worst_ever_us",
        "without_worst_ever_us",
        "swap_worst_step_us",
        "swap_at_once_us",
        "swap_portion_us",
        "swap_at_once_ratio",
    }
    summary = figures["summary"]
    assert set(summary) == times | {"swap_worst_over_worst_without_us", "swaps", "lost"}
    assert all(summary[key] > 0 for key in times)
    assert summary["lost"] == 0
    (turn,) = figures["rounds"]["swaps"]
    assert summary["swaps"] >= len(turn["worst_us"]) > 0
    (control,) = figures["rounds"]["saved elsewhere"]
    assert control["swaps"] == 0


def network_cell(family: str) -> Cell:
    cell = family_of(family).cell
    assert cell is not None
    return cell


@pytest.mark.parametrize("more", [{"window": 1}, {"taps": 3, "window": 7}], ids=["one sample", "several"])
@pytest.mark.parametrize("family", NETWORKS)
def test_onnxruntime_runs_the_same_network(
    family: str, more: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, z = network(family, 12, **more), samples(40)
    session = onnx_models.open_checked(checkpoint, z)
    assert np.isfinite(session.y).all() and session.y.std() > 0
    if (gates := GATES[network_cell(family)]) > 1:  # in torch's own order it would be another network
        monkeypatch.setitem(onnx_models.GATE_ORDERS, family, list(range(gates)))
        with pytest.raises(TwinError, match="onnxruntime answers otherwise than"):
            onnx_models.open_checked(checkpoint, z)


def test_short_times_are_those_of_a_step() -> None:
    calls: list[int] = []
    many = rival("calls.append(1)", 10, calls=calls)
    assert np.isfinite(in_a_row(many, 1e-4)).all() and len(calls) >= 10
    assert set(turn(many, 1e-4, 20)) == {"mean", "mean_p99"}  # a single call is not a single step
    assert set(turn(rival("pass"), 1e-4, 20)) == {"mean", "mean_p99", *FIGURES}
    before = len(calls)
    assert (one_by_one(many, 5, pause=1e-6) >= 0).all() and len(calls) == before + 5


def test_growth_compares_the_ends_of_a_stream() -> None:
    assert growth_figures(np.array([1.0] * 50 + [3.0] * 50)) == {"p50": 0.002, "growth": 3.0}
    assert growth_figures(np.array([1.0, 1.0, 9.0] * 30))["growth"] == 1.0  # a disturbance is no growth


@pytest.mark.slow
def test_the_kernels_activations_are_within_their_stated_error() -> None:
    found = activations.measure(Console(quiet=True), quick=True)
    assert found.details["patterns"] > 1_000_000
    summary = found.summary
    assert summary["nan_stays_nan"] == 1.0
    assert max(summary["tanh_max_error"], summary["logistic_max_error"]) < 2**-23
    assert 0 < summary["tanh_max_relative_error"] < 2**-22


@pytest.mark.slow
def test_a_step_on_a_device_that_is_not_there_is_refused_in_one_line() -> None:
    if "graph" in available_backends():
        pytest.skip("there is a CUDA device")
    status, _, complaint = finish(start("step", "--quick", "--device", "cuda"))
    assert status == 2 and len(complaint.splitlines()) == 1
    assert "available here: compiled, eager" in complaint


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "sizes", [(32,), pytest.param((16, 32, 64, 128), marks=pytest.mark.exhaustive)], ids=str
)
def test_a_quick_look_at_steps_compares_every_network_with_its_rivals(
    sizes: tuple[int, ...], tmp_path: Path
) -> None:
    figures = quick_look(
        "step", tmp_path, f"from benchmarks.step import benchmark as b; b.QUICK['hidden'] = {sizes}"
    )
    summary = figures["summary"]
    assert set(summary) == {
        "step_vs_nn_gru",
        "step_copied_vs_nn_gru",
        "kernel_vs_nn_gru",
        "step_vs_onnxruntime",
        "step_vs_onnxruntime_64",
        "step_vs_onnxruntime_gru_32",
        "window_100_vs_stateful",
        "twin_step_us",
        "growth",
        "twin_growth",
        "fleet_16384_mtps",
    }
    assert all(value > 0 for value in summary.values())
    grid = {f"{family}-{hidden}" for family in NETWORKS for hidden in sizes}
    assert grid < set(figures["median"])
    for ways in figures["median"].values():
        assert {"compiled", "eager", "kernel", "onnxruntime", "torch sequence"} <= set(ways)
