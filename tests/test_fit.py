"""Identification offline: what is found, how it is judged, and the two commands as a user meets them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.models import new_network
from twin.checkpoint import Checkpoint, load, newest, numbers, save
from twin.cli import models as cli
from twin.errors import CheckpointError, ConfigError, RecordingError
from twin.evaluation import evaluate
from twin.messages import Spec
from twin.models.linear import AVERAGES_SAMPLES
from twin.models.scaling import Scaling
from twin.offline import Fit
from twin.service.fit import seconds
from twin.split import held_out

Array = NDArray[np.float64]
pytestmark = pytest.mark.timeout(300)  # starts of Python with torch, on a machine that may be busy
SPEC = Spec(inputs=("u",), outputs=("y",), dt=0.02)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the command does: more threads only wait for each other on operations so small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def record(samples: int, seed: int = 0, curve: float = 1.0) -> Array:
    """A first-order lag behind a saturation, with some noise: (T, 2)."""
    rng = np.random.default_rng(seed)
    u = np.repeat(rng.uniform(-3, 3, samples // 10 + 1), 10)[:samples]
    y = np.zeros(samples)
    for k in range(1, samples):
        y[k] = 0.8 * y[k - 1] + 0.2 * np.tanh(curve * u[k - 1]) / curve
    return np.stack([u, y + 1e-3 * rng.standard_normal(samples)], 1)


def counted(turns: int) -> Callable[[], float]:
    """A budget of so many questions how much of it is spent."""
    asked = iter(range(1_000_000))
    return lambda: next(asked) / turns


def found(fit: Fit, turns: int) -> Checkpoint:
    for _ in fit.run(counted(turns)):
        pass
    return fit.checkpoint(1)


@pytest.mark.slow
def test_what_is_found_runs_free_where_a_linear_model_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, samples in (
        ("MAX_WARM_UP_SAMPLES", 20),
        ("MAX_FREE_RUN_SAMPLES", 40),
    ):  # enough for this plant, and quick
        monkeypatch.setattr(f"twin.split.{name}", samples)
    fit, test = Fit([record(1000), record(500, seed=1)], SPEC, "gru"), record(1000, seed=2)
    turns = fit.run(counted(1200))
    while next(turns).spent < 0.01:  # least squares
        pass
    linear = evaluate(fit.checkpoint(1), test, 50)
    for _ in turns:
        pass
    best = evaluate(fit.checkpoint(1), test, 50)
    errors = [each.figures()["free_run"]["y"]["nrmse"] for each in (best, linear)]
    assert errors[0] < 0.6 * errors[1]
    assert best.figures()["one_step"]["y"]["nrmse"] < 0.1


def test_the_same_seed_finds_the_same_model() -> None:
    a, b = (found(Fit([record(400)], SPEC, seed=3), 60) for _ in range(2))
    assert all(np.array_equal(a.tensors[name], b.tensors[name]) for name in a.tensors)
    assert a.metrics == b.metrics and a.config == b.config


def test_the_error_told_falls_and_is_the_kept_models() -> None:
    fit = Fit([record(600)], SPEC)
    errors = [now.held_out for now in fit.run(counted(200))]
    assert errors == sorted(errors, reverse=True)
    assert fit.checkpoint(1).metrics["held_out_nrmse"] == errors[-1]


def test_a_window_never_crosses_the_border_between_recordings() -> None:
    records = [np.full((100, 2), 1.0) + record(100), np.full((130, 2), 100.0) + record(130)]
    fit = Fit(records, SPEC)
    split = fit.split
    starts, size = split.starts, split.warm + split.length
    windows = split.samples[torch.from_numpy(starts[:, None] + np.arange(size))][:, :, 1]
    assert len(starts) == 85 - size + 1 + round(0.85 * 130) - size + 1
    assert ((windows > 50).all(1) | (windows < 50).all(1)).all()
    held = held_out(records, [85, 110], 20, 30)
    assert ((held[:, :, 1] > 50).all(1) | (held[:, :, 1] < 50).all(1)).all()


def test_least_squares_never_fits_the_step_between_two_recordings() -> None:
    stretches = []
    for first in (5.0, -5.0):  # a linear lag, from far apart
        u, y = np.sin(np.arange(200) ** 1.5), np.full(200, first)
        for k in range(1, 200):
            y[k] = 0.8 * y[k - 1] + 0.2 * u[k - 1]
        stretches.append(np.stack([u, y], 1))
    model = new_network("gru", SPEC, Scaling.of(np.concatenate(stretches), 1), hidden_size=2, taps=2)
    model.begin_linear(stretches, averages=True)
    for z in stretches:
        x = torch.from_numpy(z[None].astype(np.float32))
        with torch.no_grad():
            ahead, _ = model(x[:, :-1], model.initial_state(1))
        torch.testing.assert_close(ahead[:, 2:], x[:, 3:, 1:], rtol=0, atol=1e-3)


@pytest.mark.parametrize("family", ["gru", "lstm", "rnn"])
def test_some_hidden_units_average_and_see_an_offset_that_drifts(family: str) -> None:
    """An output with white noise and a slow offset: what is left one step ahead is little but the noise."""
    rng = np.random.default_rng(0)
    u, t = np.repeat(rng.uniform(-1, 1, 500), 8), np.arange(4000)
    offset = np.sin(t / 300)
    z = np.stack([u, np.append(0.0, u[:-1]) + offset + 0.3 * rng.standard_normal(4000)], 1)
    model = new_network(family, SPEC, Scaling.of(z, 1), hidden_size=8, taps=2)
    model.begin_linear([z], averages=True)
    plain = new_network(family, SPEC, Scaling.of(z, 1), hidden_size=2, taps=2)  # too small for averages
    plain.begin_linear([z], averages=True)
    x = torch.from_numpy(z[None].astype(np.float32))
    with torch.no_grad():
        left = [
            float((m(x[:, :-1], m.initial_state(1))[0] - x[:, 1:, 1:])[0, 4 * max(AVERAGES_SAMPLES) :].std())
            for m in (model, plain)
        ]
    assert left[0] < 0.33 < 0.36 < left[1]


@pytest.mark.parametrize(
    ("z", "words"),
    [
        (record(30), "recording 1 of 1 has 30 samples"),
        (record(200) * [0.0, 1.0], "the input u does not move"),
        (record(200) * [1.0, 0.0] + 5.0, "the output y does not move"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(z: Array, words: str) -> None:
    with pytest.raises(RecordingError, match=words):
        Fit([z], SPEC)


def test_before_the_first_turn_there_is_no_model() -> None:
    with pytest.raises(RecordingError, match="no model was found"):
        Fit([record(200)], SPEC).checkpoint(1)


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90.0), ("120s", 120.0), ("5m", 300.0), ("1 h", 3600.0)]
)
def test_a_budget_has_a_unit(text: str, expected: float) -> None:
    assert seconds(text.replace(" ", "")) == expected


@pytest.mark.parametrize("text", ["", "soon", "-3s", "0", "nan", "inf", "5d", "1e9h"])
def test_a_budget_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="give a time"):
        seconds(text)


# -- the commands ------------------------------------------------------------------------------------


def csv(path: Path, z: Array) -> Path:
    rows = np.column_stack([0.02 * np.arange(len(z)), z])
    np.savetxt(path, rows, delimiter=",", header="# by a test\nt_s,u,y", comments="", fmt="%.9g")
    return path


def twin(where: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "twin", *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        command, cwd=where, env=environment, capture_output=True, text=True, timeout=250, check=False
    )


@pytest.mark.slow
def test_fit_and_evaluate_as_a_user_does(tmp_path: Path) -> None:
    learn, test = csv(tmp_path / "learn.csv", record(800)), csv(tmp_path / "test.csv", record(500, seed=2))
    signals = ("--inputs", "u", "--outputs", "y")
    done = twin(tmp_path, "fit", learn, test, *signals, "--budget", "3s")
    assert done.returncode == 0 and "saved in runs/learn/000001" in done.stdout, done.stderr
    arx = ("--budget", "2s", "--model", "arx", "--replace")  # whichever is better
    again = twin(tmp_path, "fit", learn, *signals, *arx, "--json")
    assert json.loads(again.stdout)["model"] == 2, again.stderr
    assert load(tmp_path / "runs/learn/000002").family == "arx"
    told = twin(
        tmp_path, "evaluate", "runs/learn/000001", test, "--horizon", "0.5", "--plot", "pictures", "--json"
    )
    assert told.returncode == 0, told.stderr
    figures = json.loads(told.stdout)
    assert (figures["model"], figures["judged"], figures["skipped"]) == (1, 450, 50)
    assert figures["free_run"]["y"]["fit_percent"] > 50
    assert figures["one_step"]["y"]["rmse"] < figures["free_run"]["y"]["rmse"] * 1.5
    assert {Path(p).name for p in figures["pictures"]} == {"y-free-run.png", "y-residual.png"}
    assert all((tmp_path / p).stat().st_size > 1000 for p in figures["pictures"])
    table = twin(tmp_path, "evaluate", "runs/learn", test)
    assert "model 2, arx, on 450 samples" in table.stdout and "Ljung-Box" in table.stdout


class Fits:
    """`twin fit` into one directory, in this process: a linear model, which takes no time to find."""

    def __init__(self, where: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.where, self._capsys = where, capsys

    def __call__(self, z: Array, model: str = "arx", **options: Any) -> str:
        given: dict[str, Any] = {"dt": None, "seed": 1, "budget": "1s", "as_json": False, "replace": False}
        file, run_dir = csv(self.where / "z.csv", z), str(self.where / "run")
        cli.fit([file], "u", "y", model=model, run_dir=run_dir, **given | options)
        return self._capsys.readouterr().out

    @property
    def saved(self) -> list[int]:
        return numbers(self.where / "run")


@pytest.fixture
def fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Fits]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield Fits(tmp_path, capsys)
    for number, handler in handlers.items():  # the command takes them over
        signal.signal(number, handler)


def poor() -> Array:
    """The same plant, whose sensor was loose at first: little can be learned from that."""
    z = record(200, seed=5)
    z[:110, 1] = np.random.default_rng(5).uniform(-1, 1, 110)
    return z


def test_a_worse_model_is_not_saved_over_a_better_one_unless_asked(fits: Fits) -> None:
    first = fits(record(800))
    assert "held-out samples," not in first and fits.saved == [1]
    worse = fits(poor())
    told = re.search(r"same held-out samples ([\d.]+) %, against ([\d.]+) % of model 1 \(arx\): worse", worse)
    assert told is not None and float(told[1]) > float(told[2]), worse
    assert "not saved: model 1 stays" in worse and "--replace" in worse and fits.saved == [1]
    told_json = json.loads(fits(poor(), as_json=True))
    assert (told_json["model"], told_json["path"]) == (None, None)
    assert told_json["before"]["better"] and told_json["before"]["model"] == 1
    assert ": worse" in fits(poor(), replace=True) and fits.saved == [1, 2]


def test_a_better_one_is_saved_also_from_another_recording_or_more_data(fits: Fits) -> None:
    fits(poor())
    assert "of model 1 (arx): no worse" in fits(record(800, seed=2)) and fits.saved == [1, 2]
    fits(record(800, seed=2))  # the same once more is no worse
    assert fits.saved == [1, 2, 3]
    assert "of model 3 (arx): worse" in fits(poor(), model="rnn")  # of another family too
    assert fits.saved == [1, 2, 3]


def test_a_model_that_is_damaged_or_cannot_be_run_stops_no_fit(fits: Fits, tmp_path: Path) -> None:
    fits(record(800))
    run, checkpoint = tmp_path / "run", load(tmp_path / "run/000001")
    (save(run, replace(checkpoint, number=2)) / "weights.safetensors").write_bytes(b"damaged")
    assert "of model 1 (arx): worse" in fits(poor())  # the newest that verifies is who is compared with
    assert fits.saved == [1, 2]
    scaling = {name: checkpoint.tensors[name] for name in ("mean", "scale", "increment_scale")}
    sizes = {"inputs": 1, "outputs": 1, "state": 1}
    save(run, replace(checkpoint, number=3, family="Gone@0123456789ab", sizes=sizes, tensors=scaling))
    told = fits(poor())
    assert "not compared with model 3, which cannot be run" in told and fits.saved == [1, 2, 3, 4]
    save(run, replace(checkpoint, number=5, family="Gone@0123456789ab", sizes=sizes, tensors=scaling))
    before = json.loads(fits(poor(), as_json=True), parse_constant=pytest.fail)["before"]  # no NaN in JSON
    assert (before["model"], before["held_out_nrmse"]) == (5, None)
    with pytest.raises(CheckpointError, match="choose another --run-dir"):
        fits(record(800), dt=0.5)


@pytest.mark.slow
def test_ctrl_c_saves_the_best_so_far(tmp_path: Path) -> None:
    learn = csv(tmp_path / "learn.csv", record(800))
    command = [sys.executable, "-m", "twin", "fit", str(learn), "--inputs", "u", "--outputs", "y"]
    process = subprocess.Popen(
        [*command, "--budget", "1h"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    process.stderr.readline()  # that it has begun
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=250)
    checkpoint, _ = newest(tmp_path / "runs/learn")
    assert "Traceback" not in err
    assert process.returncode == 0 and "saved in" in out and checkpoint is not None
