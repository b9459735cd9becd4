"""How true a twin is: the live driver, the linear rivals, and the parts of the benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.fidelity import benchmark as fidelity
from benchmarks.fidelity import growth, real, stream, units
from benchmarks.fidelity.change import HORIZON, SPEC, STRIDE
from benchmarks.fidelity.kalman import floor_errors, floor_free_runs, floor_of
from benchmarks.fidelity.linear_models import ARX, Subspace
from benchmarks.fidelity.live import Live, alone
from benchmarks.fidelity.stream import longest, rms, running, since_when
from benchmarks.subject import Subject
from simulators import motor
from simulators.quick_motor import quick
from twin.config import TrainerConfig, TwinConfig
from twin.metrics import fit_percent, rmse

DT = 1e-3
SMALL = TrainerConfig(model="gru", hidden_size=8, steps=4, horizon=20, period=0.5)


# -- the live driver ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stream_is_answered_learned_from_and_foreseen() -> None:
    plant = motor()
    z = quick(plant, 4000).z
    live = Live(plant.spec(DT), SMALL, TwinConfig(window=40, adapt=False))
    errors = np.concatenate([live.run(z[:2500]), live.run(z[2500:], free_runs=[3000, 3500], horizon=200)])
    assert np.isnan(errors[0]).all() and np.isfinite(errors[1:]).all()
    assert errors[1:100] == pytest.approx(np.diff(z[:100, 1:], axis=0))  # persistence at first
    assert live.twin.model == live.checkpoints[-1].number
    assert (rmse(errors[-1000:]) < (0.2, 0.6) * rmse(np.diff(z[-1000:, 1:], axis=0))).all()
    assert set(live.free_runs) == {3000, 3500}
    for start, run in live.free_runs.items():
        assert (rmse(z[start : start + 200, 1:] - run) < 0.5 * z[:, 1:].std(axis=0)).all()


@pytest.mark.slow
def test_a_refit_takes_the_streams_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that takes 0.1 s is answered a hundred samples later, by the model of before."""
    clock = iter(0.1 * k for k in range(10_000))
    monkeypatch.setattr("benchmarks.fidelity.live.time.thread_time", lambda: next(clock))
    plant = motor()
    live = Live(plant.spec(DT), SMALL.model_copy(update={"steps": 4}), TwinConfig(window=40, adapt=False))
    live.run(quick(plant, 1200).z)
    assert live.refits[0]["at"] == pytest.approx(0.5 + 0.1 * 2, abs=0.11)  # one step, and the gate
    assert len(live.refits) <= 3


def test_of_a_bank_it_is_noted_what_each_member_expected() -> None:
    plant, config = motor(), SMALL.model_copy(update={"model": "rls,gru"})
    live = Live(plant.spec(DT), config, TwinConfig(window=40))
    errors = live.run(quick(plant, 2500).z)
    assert len(live.members) == 2500 and set(live.members[0]) == {"persistence", "rls"}
    assert set(live.members[-1]) == {"persistence", "rls", "gru"}
    assert np.isfinite(errors[1:]).all() and live.subject.family == "gru"


@pytest.mark.slow
def test_equations_of_another_plant_get_no_weight_though_it_has_a_motors_signals() -> None:
    """The current's sign is the wrong way round: no DC motor is like that."""
    plant, config = motor(), SMALL.model_copy(update={"model": "rls,physics,gru", "steps": 20})
    z = quick(plant, 8_000).z * [1.0, -1.0, 1.0]
    live = Live(plant.spec(DT), config, TwinConfig(window=40))
    live.run(z)
    assert live.twin.bank.mixture is not None
    weights = dict(zip(live.twin.bank.names, live.twin.bank.mixture.weights[:, 0], strict=True))
    assert "gru" in weights and weights.get("physics", 0.0) < 0.01, "of the current"
    errors = live.twin.bank.mixture.errors
    others = min(errors["rls"][0], errors["gru"][0])  # the gate may have kept the equations out altogether
    assert errors.get("physics", [np.inf])[0] > 2 * others


def test_it_goes_on_from_a_checkpoint_and_what_it_recalls() -> None:
    plant = motor()
    z = quick(plant, 5000).z
    live = Live(plant.spec(DT), SMALL, TwinConfig(window=40, adapt=False))
    live.run(z[:4000])
    checkpoint = live.checkpoints[-1]
    again = Live(plant.spec(DT), SMALL, TwinConfig(window=40, adapt=False), checkpoint)
    again.recall(z[:4000])
    assert again.trainers.members["gru"].history.count == 4000
    errors = again.run(z[4000:4100])  # before its first refit
    assert errors == pytest.approx(alone(checkpoint, z)[4000:4100], rel=1e-3, abs=1e-3)


# -- the floor, and the linear rivals ------------------------------------------------------------------


def test_an_observer_that_knows_the_motor_foresees_what_its_load_lets_it() -> None:
    plant = motor()
    z = quick(plant, 20_000).z
    starts = range(2000, 19_000, 500)
    runs = floor_free_runs(floor_of(plant, DT), z, starts, 1000)
    first = np.array([z[start, 1:] - run[0] for start, run in runs.items()])
    assert first == pytest.approx(floor_errors(floor_of(plant, DT), z)[starts])
    short, long = (
        fit_percent(
            np.concatenate([z[start : start + n, 1:] for start in starts]),
            np.concatenate([run[:n] for run in runs.values()]),
        )
        for n in (100, 1000)
    )
    assert (short > 97).all() and (long > 85).all() and (long < short).all()


def linear_stream(count: int) -> NDArray[np.float64]:
    """Samples (T, 3) of a known system of second order in innovations form, with an offset."""
    rng = np.random.default_rng(5)
    a, b = np.array([[0.9, 0.2], [-0.1, 0.8]]), np.array([0.5, 1.0])
    k = np.array([[0.3, 0.1], [0.0, 0.2]])
    u, e = rng.standard_normal(count), 0.1 * rng.standard_normal((count, 2))
    x, rows = np.zeros(2), []
    for t in range(count):
        rows.append([u[t] + 3.0, *(x + e[t] + 7.0)])
        x = a @ x + b * u[t] + k @ e[t]
    return np.array(rows)


@pytest.mark.parametrize("kind", [ARX, Subspace])
def test_a_linear_system_is_found(kind: type[ARX | Subspace]) -> None:
    z = linear_stream(20_000)
    model = kind(z[:15_000], 1)
    assert rmse((z[15_000:, 1:] - model.ahead(z[15_000:]))[50:]) == pytest.approx([0.1, 0.1], rel=0.03)
    starts = range(15_100, 19_000, 100)
    warm, after = (np.stack([z[s + a : s + b] for s in starts]) for a, b in ((-100, 0), (0, 50)))
    run = model.free_run(warm, after[:, :, :1])
    assert (fit_percent(after[:, :, 1:].reshape(-1, 2), run.reshape(-1, 2)) > 75).all()
    if isinstance(model, Subspace):
        assert model.order >= 2
        poles = np.sort_complex(np.linalg.eigvals(model.a))
        assert min(abs(poles - (0.85 + 0.132j))) < 0.05


# -- the figures -----------------------------------------------------------------------------------------


def test_running_ratios_say_since_when() -> None:
    errors = np.ones((100, 2))
    errors[:50] *= 3.0
    errors[0] = np.nan
    ratio = running(errors, 10) / running(np.ones((100, 2)), 10)
    assert ratio[-1].tolist() == [1.0, 1.0]
    assert since_when(ratio, 1.5) == pytest.approx(0.049)  # a single large one among ten is within
    assert since_when(ratio[:40], 1.5) is None
    assert since_when(ratio, 4.0) == 0.0
    assert longest(ratio, 1.5) == pytest.approx(0.049)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quick looks of a few seconds."""
    monkeypatch.setattr(
        stream,
        "QUICK",
        {"stream": 6.0, "changed": 2.5, "back": 2.5, "ramp": 1.0, "settled": 1.0},
    )
    monkeypatch.setattr(growth, "FAMILIES", ("rnn",))
    monkeypatch.setattr(growth, "QUICK", {"train": (3,), "refits": 2, "horizons": (0.1, 1.0)})


@pytest.mark.slow
def test_the_frame_runs_the_parts_that_are_there(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fidelity, "speedup", lambda console, quick: 12.0)
    monkeypatch.setattr(fidelity, "PARTS", ("stream", "growth", "nothing"))
    console = Console(width=160, record=True)
    result = fidelity.measure(console, quick=True)
    json.dumps(result.plain(), allow_nan=False)
    console.print(fidelity.table(result.details))
    said = console.export_text()
    assert "fidelity: nothing is not there" in said and "subspace" in said and "R +40 %" in said
    summary: dict[str, Any] = result.summary
    assert summary["refit_speedup_vs_torch"] == 12.0
    for name in ("current", "speed"):
        assert 0.9 < summary[f"kalman_ratio_{name}"] <= summary[f"jump_ratio_{name}"] < 5.0
    assert summary["free_run_fit_1s"] < 100 and summary["free_run_limit_1s"] < 100
    change = result.details["parts"]["stream"]["changes"]["R +40 %, τ_c × 2"]["1"]
    assert change["before"]["current"] < 1.2 and change["changed"]["current"] < 1.2
    assert np.shape(change["ratio"]) == np.shape(change["incumbent"])
    by_family = result.details["parts"]["growth"]["families"]
    assert by_family["ARX"]["3"]["ratio"]["speed"] < by_family["persistence"]["3"]["ratio"]["speed"]
    assert result.subjects["stream: twin"] == Subject("physics", "compiled", 1)
    assert result.subjects["growth: rnn"] == Subject("rnn", "compiled", 1)
    pytest.importorskip("matplotlib")
    pictures = fidelity.plot(result.details, tmp_path)
    assert len(pictures) == 2 and all(picture.stat().st_size > 1000 for picture in pictures)


def test_excess_over_the_floor_of_a_real_motor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real, "QUICK", {"stream": 5.0, "seeds": (31,)})
    ways = {
        name: settings.model_copy(update={"steps": 8, "batch": 16}) for name, settings in real.WAYS.items()
    }
    monkeypatch.setattr(real, "WAYS", ways)
    console = Console(width=160, record=True)
    result = real.measure(console, quick=True, data=None)
    json.dumps(result.plain(), allow_nan=False)
    console.print(real.table(result.details))
    assert "qube-servo-3-real" in console.export_text()
    physics = result.details["ways"]["physics"]["31"]
    assert min(physics["ratio"].values()) > 1.2  # the model does not know all of it
    assert result.details["limits"]["31"]["1 s"]["speed"] > physics["1 s"]["speed"]
    assert result.summary["hybrid_excess_share"] > 0
    assert result.subjects["hybrid"] == Subject("hybrid", "compiled", 1)


def test_the_ordinary_rival_learns_and_begins_anew_with_another_motor() -> None:
    rng, y = np.random.default_rng(3), np.zeros(4_000)
    u = np.repeat(rng.normal(size=400), 10)
    for k in range(1, len(y)):
        gain = 30.0 if k < 2_000 else 60.0
        y[k] = 0.8 * y[k - 1] + gain * u[k - 1] + 1.0 * rng.normal()
    forecasts, residuals = units.ordinary(np.column_stack([u, y]))
    assert rms(residuals[1_000:2_000, None])[0] < 1.3, "as the noise"
    assert rms(residuals[2_100:3_000, None])[0] < 2.0 < rms(residuals[2_000:2_020, None])[0]
    assert len(forecasts) == len(range(0, len(y) - HORIZON, STRIDE))


def test_units_are_drawn_within_their_bounds_and_recovery_is_told_by_a_second_of_errors() -> None:
    drawn = units.units(200, 1)
    assert all(0.5 <= each.gain <= 2 and 0.5 <= each.slower <= 2 and abs(each.offset) <= 45 for each in drawn)
    assert units.units(3, 1) == drawn[:3] != units.units(3, 2)
    offline, errors = np.ones(1_000), np.ones(1_000)
    errors[:150] = 10.0
    assert units.one_step_recovery(errors, offline) == pytest.approx((150 + 49) * SPEC.dt, abs=0.03)
    assert units.one_step_recovery(offline, offline) == 0.0


def test_what_goes_astray_for_a_moment_long_after_has_settled() -> None:
    errors, bound = np.ones(1_500), np.full(1_500, 1.2)
    errors[:50] = errors[900:920] = 9.0
    assert units.settled(errors, bound) == pytest.approx((50 + 12) * STRIDE * SPEC.dt, abs=0.1)
    assert units.settled(9.0 * errors, bound) == float("inf")
