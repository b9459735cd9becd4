"""Models of a user's own, in torch and in NumPy: they can what every family can."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from simulators import SensorNoise, motor, signal, simulate
from tests import own_models
from twin.backends.opening import open_predictor
from twin.checkpoint import Checkpoint, load, save
from twin.config import TrainerConfig
from twin.errors import CheckpointError, ConfigError, SpecError
from twin.messages import Sample
from twin.models import own
from twin.models.opening import open_model
from twin.trainer import Trainer
from twin.twin import Twin

FILE = Path(own_models.__file__)
DT = 0.005
MOTOR = motor()
SPEC = MOTOR.spec(DT)
WINDOW = 20
NAMES = ["Leaky", "Smoothed"]


@pytest.fixture(scope="module")
def stream() -> list[Sample]:
    run = simulate(
        MOTOR,
        voltage=signal("prbs:8,hold=0.05"),
        load=signal("const:0"),
        dt=DT,
        duration=6.0,
        noise=SensorNoise.of(MOTOR),
    )
    return list(run)


def trained(name: str, stream: list[Sample]) -> Trainer:
    config = TrainerConfig(model=f"{FILE}:{name}", horizon=30, batch=16, steps=25, period=1.0, history=6.0)
    found = Trainer(SPEC, config, WINDOW)
    for sample in stream:
        found.observe(sample)
        if found.due:
            for _ in found.turn():
                pass
    return found


@pytest.fixture(scope="module", params=[pytest.param("Leaky", marks=pytest.mark.slow), "Smoothed"])
def trainer(request: pytest.FixtureRequest, stream: list[Sample]) -> Trainer:
    return trained(request.param, stream)


@pytest.fixture
def checkpoint(trainer: Trainer) -> Checkpoint:
    assert trainer.incumbent is not None
    return trainer._made(trainer.incumbent, {})


def test_it_passes_the_gates_and_is_refitted(trainer: Trainer) -> None:
    assert trainer.incumbent is not None and trainer.number >= 1
    assert trainer.incumbent.family == trainer.config.model
    assert trainer.incumbent.family.partition("@")[0] in NAMES


def test_a_checkpoint_holds_tensors_and_comes_back(checkpoint: Checkpoint, tmp_path: Path) -> None:
    back = load(save(tmp_path, checkpoint))
    model = open_model(back)
    assert all(np.array_equal(a, back.tensors[name]) for name, a in model.tensors().items())
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {"weights.safetensors", "manifest.json"}


def test_it_steps_warms_and_runs_free_like_any_other(checkpoint: Checkpoint, stream: list[Sample]) -> None:
    z = np.array([SPEC.row(sample) for sample in stream[:60]], np.float32)
    one, two = open_predictor(checkpoint), open_predictor(checkpoint)
    answers = [one.step(row[None]).copy() for row in z]
    two.warm(z[None, :59])
    assert np.allclose(two.step(z[59:]), answers[59], atol=1e-5)
    assert np.allclose(two.state, one.state, atol=1e-6)
    kept, u = one.state, z[None, :20, :1]
    run = one.free_run(z[59:], u)
    assert np.array_equal(one.state, kept) and run.shape == (1, 20, 2)
    fork = one.fork(3)
    y = fork.step(np.repeat(z[59:], 3, axis=0)).copy()  # what a free run begins with
    assert np.allclose(y, run[:, 0], atol=1e-5)
    one.reset()
    assert not np.allclose(one.state, kept)
    one.state = kept
    assert np.allclose(one.step(z[59:]), run[:, 0], atol=1e-5)


def test_rows_are_apart_from_each_other(checkpoint: Checkpoint) -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4, 30, 3)).astype(np.float32) * checkpoint.tensors["scale"]
    together, alone = open_predictor(checkpoint, rows=4), open_predictor(checkpoint)
    together.warm(z)
    alone.warm(z[2:3])
    assert np.allclose(together.state[2:3], alone.state, atol=1e-5)


def test_a_twin_follows_swaps_and_forecasts_with_it(checkpoint: Checkpoint, stream: list[Sample]) -> None:
    twin = Twin(SPEC, window=WINDOW)
    residuals, held, last = [], [], stream[0]
    for sample in stream[:1_000]:
        if sample.seq == 100:
            twin.refresh(checkpoint)
        answer = twin.step(sample)
        twin.catch_up()
        assert answer is not None
        if sample.seq > 200:
            assert answer.status == "following" and answer.model == checkpoint.number
            residuals.append(answer.residual["speed"])
            held.append(sample.y["speed"] - last.y["speed"])
        last = sample
    assert twin.counters.swaps == 1
    assert np.std(residuals) < np.std(held)
    assert np.isfinite(twin.forecast(np.full((50, 1), 5.0)).y).all()


def test_another_process_must_name_the_file(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "_classes", {})
    name = checkpoint.family.partition("@")[0]
    for opened in (open_model, open_predictor):
        with pytest.raises(CheckpointError, match=f"--model FILE.py:{name}"):
            opened(checkpoint)
    assert own.named(f"{FILE}:{name}") == checkpoint.family
    open_model(checkpoint)


def test_a_file_that_has_changed_is_refused(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(own, "_classes", {})
    name, _, digest = checkpoint.family.partition("@")
    changed = tmp_path / "changed.py"
    changed.write_text(FILE.read_text() + "\n# another thought\n")
    assert own.named(f"{changed}:{name}") != checkpoint.family
    with pytest.raises(CheckpointError, match=f"hash {digest}, and the file named now has"):
        open_model(checkpoint)


@pytest.mark.parametrize(
    ("text", "model", "advice"),
    [
        ("", "nowhere.py:Net", "no such file"),
        ("class Net: pass", "FILE:Other", "has no class Other; it has Net"),
        ("class Net: pass", "FILE:Net", "has no step, fit, tensors, load"),
        ("raise ValueError('a slip')", "FILE:Net", "cannot be run: ValueError: a slip"),
        ("import torch\nclass Net(torch.nn.Module):\n  def forward(self, x, s): return x, s", "FILE:Net", ""),
    ],
)
def test_what_is_no_model_is_refused_with_advice(text: str, model: str, advice: str, tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text(text)
    if advice:
        with pytest.raises(ConfigError, match=advice):
            own.named(model.replace("FILE", str(file)))
    else:
        assert own.named(model.replace("FILE", str(file))).startswith("Net@")


@pytest.mark.parametrize(
    ("body", "advice"),
    [
        ("def __init__(self): pass", "cannot be made of 3 and 2"),
        ("def __init__(self, f, p): pass", "state_size is None"),
        ("state_size = 1\n  def __init__(self, f, p): pass", "fails on a sample"),
        (
            "state_size = 1\n  def __init__(self, f, p): pass\n  def step(self, x, s): return x, s",
            r"must answer increments \(N, P\) = \(2, 2\)",
        ),
    ],
)
def test_a_class_is_tried_before_a_stream_begins(body: str, advice: str, tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    rest = "step = fit = tensors = load = lambda *a: 1 / 0"
    file.write_text(f"class Net:\n  {rest}\n  {body}\n")
    with pytest.raises(SpecError, match=advice):
        Trainer(SPEC, TrainerConfig(model=f"{file}:Net"), WINDOW)


def test_a_class_needs_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    made = type("Typed", (own_models.Smoothed,), {"__module__": "nowhere"})
    with pytest.raises(ConfigError, match="stands in no file"):
        own.take(made)
    assert isinstance(sys.modules["tests.own_models"], ModuleType)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_live_like_any_other(name: str, tmp_path: Path) -> None:
    """All four processes, as a user starts them."""
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "twin", "run", "--model", f"{FILE}:{name}", "--unpaced"]
    settings = ["--rate", "200", "--duration", "6", "--horizon", "30", "--window", "20", "--period", "1"]
    settings += ["--steps", "10", "--batch", "8", "--history", "5"]
    rest = ["--source", f"own-{name}", "--run-dir", str(tmp_path / "run"), "--report", str(report)]
    done = subprocess.run(
        [*command, *settings, *rest], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=200
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(report.read_text())
    assert figures["samples"] == figures["predictions"] == 1_200 and figures["lost"] == 0
    assert figures["swaps"] >= 1
