"""How good a model is on a recording: held to the same model run by torch, and to noise that is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks.fidelity.recordings import arx_online, measure, table
from tests.models import new_network, open_network
from twin.checkpoint import Checkpoint
from twin.errors import RecordingError
from twin.evaluation import Evaluation, evaluate, first_judged
from twin.messages import Spec
from twin.metrics import autocorrelation, ljung_box, nrmse, vaf_percent
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
