"""How good a model is on a recording: held to the same model run by torch, and to noise that is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks.fidelity.recordings import arx_online, measure, table
from tests.models import new_network, open_network
from twin.checkpoint import Checkpoint, save
from twin.cli import models as cli
from twin.errors import RecordingError
from twin.evaluation import Evaluation, evaluate, first_judged
from twin.messages import Spec
from twin.metrics import autocorrelation, leaves_range, ljung_box, nrmse, vaf_percent
from twin.models.scaling import Scaling

SPEC = Spec(inputs=("u",), outputs=("y", "v"), dt=0.1)


def lag(samples: int, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    z = np.zeros((samples, 3))
    z[:, 0] = rng.standard_normal(samples)
    for k in range(1, samples):
        z[k, 1] = 0.9 * z[k - 1, 1] + 0.1 * z[k - 1, 0]
        z[k, 2] = 0.5 * z[k - 1, 2] - 0.5 * z[k - 1, 0]
    z[:, 1:] += noise * rng.standard_normal((samples, 2))
    return z


def some_model(z: np.ndarray) -> Checkpoint:
    """A model that is neither perfect nor useless, and uses its hidden state."""
    model = new_network("gru", SPEC, Scaling.of(z, 2), hidden_size=5, taps=3, seed=2)
    model.fit(z)
    with torch.no_grad():
        model.core.readout.weight[:, :5] = 0.1
    return Checkpoint(1, None, "gru", model.sizes, SPEC, model.tensors())


def test_what_is_judged_is_what_the_model_answers() -> None:
    z = lag(200)
    checkpoint = some_model(z)
    found = evaluate(checkpoint, z, horizon=7, skip=20)
    model, x = open_network(checkpoint).eval(), torch.from_numpy(z[None].astype(np.float32))
    with torch.no_grad():
        ahead, _ = model(x, model.initial_state(1))
        _, state = model(x[:, :19], model.initial_state(1))
        run = model.free_run(x[:, 19], x[:, 20:, :1], state)
        _, state = model(x[:, :49], model.initial_state(1))
        forecast = model.free_run(x[:, 49], x[:, 50:57, :1], state)
    assert (found.first, len(found.measured), len(found.forecasts)) == (20, 180, 200 - 7 - 20 + 1)
    np.testing.assert_allclose(found.one_step, ahead[0, 19:-1].numpy(), atol=1e-5)
    np.testing.assert_allclose(found.free_run, run[0].numpy(), atol=1e-4)
    np.testing.assert_allclose(found.forecasts[30], forecast[0].numpy() - z[50:57, 1:], atol=1e-4)


def test_figures_are_told_for_each_output_in_its_own_unit() -> None:
    z = lag(300, noise=0.01)
    figures = evaluate(some_model(z), z * [1, 1, 1], horizon=10).figures()
    assert set(figures) == {"one_step", "free_run", "forecast", "whiteness"}
    for kind in figures.values():
        assert set(kind) == {"y", "v"}
    y = figures["free_run"]["y"]
    assert y["fit_percent"] == pytest.approx(100 * (1 - y["nrmse"]))
    assert figures["forecast"]["y"]["rmse"] != figures["forecast"]["v"]["rmse"]


def test_a_recording_shorter_than_the_horizon_has_no_forecast_but_all_else() -> None:
    z = lag(40)
    found = evaluate(some_model(z), z, horizon=100)
    assert len(found.forecasts) == 0 and found.figures()["forecast"] == {}
    assert found.figures()["one_step"]["y"]["rmse"] > 0


def test_free_runs_of_several_lengths_are_judged_as_far_as_the_recording_allows() -> None:
    z, dt = lag(150), SPEC.dt
    found = evaluate(some_model(z), z, horizon=10, skip=20)
    assert [runs.steps for runs in found.lengths] == [1, 10, 100, 130] and not found.unstable
    tenth, once, tenfold, whole = (runs.figures(SPEC.outputs, dt) for runs in found.lengths)
    assert [tenth["runs"], once["runs"], tenfold["runs"], whole["runs"]] == [130, 121, 31, 1]
    assert tenfold["seconds"] == pytest.approx(10.0)
    one_step, free_run, forecast = (found.figures()[kind] for kind in ("one_step", "free_run", "forecast"))
    for name in SPEC.outputs:
        assert tenth["outputs"][name]["rmse"] == pytest.approx(one_step[name]["rmse"], rel=1e-4)
        assert whole["outputs"][name]["nrmse"] == pytest.approx(free_run[name]["nrmse"])
        assert once["outputs"][name]["median_rmse"] == pytest.approx(forecast[name]["median_rmse"])
    assert [runs.steps for runs in evaluate(some_model(z), z[:60], horizon=10, skip=20).lengths] == [
        1,
        10,
        40,
    ]


def runaway(z: np.ndarray) -> Checkpoint:
    """A linear model right enough one step ahead, whose free run of y grows without end."""
    model = new_network("arx", SPEC, Scaling.of(z, 2), taps=2)
    model.fit(z)
    with torch.no_grad():
        model.core.readout.weight[0, -2] += 1.0  # of the newest y
    return Checkpoint(1, None, "arx", model.sizes, SPEC, model.tensors())


def test_a_model_whose_free_run_leaves_the_range_is_unstable() -> None:
    z = lag(400)
    found = evaluate(runaway(z), z, horizon=10)
    assert found.unstable
    *_, longer, whole = (runs.figures(SPEC.outputs, SPEC.dt) for runs in found.lengths)
    assert longer["left_range"] == longer["runs"] and whole["left_range"] == 1
    first = int(np.argmax(leaves_range(found.free_run, z[:, 1:])))
    assert 0 < first < 200 and whole["left_after_s"] == pytest.approx(first * SPEC.dt)


def test_the_command_says_unstable_and_its_json_has_null_for_what_is_not_finite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    z = lag(3_000)
    save(tmp_path / "run", runaway(z))
    header, file = ",".join(SPEC.features), tmp_path / "z.csv"
    np.savetxt(file, z, delimiter=",", header=header, comments="")
    for as_json in (True, False):
        cli.evaluate(
            tmp_path / "run", file, "", "", None, 1.0, None, folder=None, model="auto", as_json=as_json
        )
    told, _, view = capsys.readouterr().out.partition("\n}\n")
    result = json.loads(told + "}", parse_constant=pytest.fail)
    assert result["unstable"] and result["free_run"]["y"]["rmse"] is None
    assert result["free_runs"][-1]["outputs"]["y"]["nrmse"] is None
    assert [runs["steps"] for runs in result["free_runs"]] == [1, 10, 100, 2_950]
    assert "unstable: its free runs leave" in view and "free runs of 10 s" in view


@pytest.mark.parametrize(("samples", "skip", "first"), [(1000, None, 50), (200, None, 20), (200, 7, 7)])
def test_what_warms_the_model_is_not_judged(samples: int, skip: int | None, first: int) -> None:
    assert first_judged(samples, skip) == first


@pytest.mark.parametrize(("samples", "skip"), [(10, None), (100, 95), (100, 100), (100, 0)])
def test_too_few_samples_are_refused(samples: int, skip: int | None) -> None:
    with pytest.raises(RecordingError, match="another --skip"):
        first_judged(samples, skip)


def test_a_white_residual_passes_and_a_coloured_one_does_not() -> None:
    white = np.random.default_rng(0).standard_normal(5000)
    coloured = white[1:] + 0.2 * white[:-1]
    assert ljung_box(white, 20)[1] > 0.01 > 1e-9 > ljung_box(coloured, 20)[1]
    assert autocorrelation(coloured, 3)[0] == pytest.approx(0.2 / 1.04, abs=0.03)
    measured = np.zeros((5000, 1))
    judged = [
        Evaluation(("y",), 1, measured[: len(e)], -e[:, None], -e[:, None], np.empty((0, 1, 1))).whiteness(0)
        for e in (white, coloured)
    ]
    assert judged[0]["outside"] <= 4 and judged[1]["p_value"] < 1e-9 < judged[0]["p_value"]


def test_an_offset_costs_fit_but_no_variance() -> None:
    y = np.array([[0.0], [1.0], [2.0], [3.0]])
    assert vaf_percent(y, y + 5).tolist() == [100.0]
    assert nrmse(y, y + 5)[0] > 1
    assert vaf_percent(y, 0 * y).tolist() == [0.0]


# -- the benchmark on recordings ---------------------------------------------------------------------


def test_recursive_least_squares_learn_a_linear_plant() -> None:
    z = lag(600)[:, :2]
    one_step, free_run = arx_online(z, 1, horizon=20)
    assert np.nanmax(np.abs(one_step[300:])) < 1e-3 < np.nanmax(np.abs(one_step[:100]))
    assert np.nanmax(free_run[300:]) < 1e-2


def test_without_recordings_the_benchmark_says_so(tmp_path) -> None:  # type: ignore[no-untyped-def]
    result = measure(Console(), quick=True, data=tmp_path / "nowhere")
    assert result.summary == {} and "no recordings" in str(table(result.details))
