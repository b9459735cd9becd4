"""Forecasts: many scenarios at once, and intervals that are measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.test_twin import LENGTH, SPEC, Z, checkpoint, follow, following, sample
from twin import forecast
from twin.backends.opening import open_predictor
from twin.errors import SpecError
from twin.families import FAMILIES
from twin.forecast import MIN_RUNS, HorizonErrors
from twin.predictor import Predictor
from twin.twin import Twin
from twin.window import Window


@pytest.mark.parametrize("family", FAMILIES)
def test_scenarios_together_are_what_each_is_alone(family: str) -> None:
    twin = following(family)
    u = np.random.default_rng(0).normal(size=(5, 30, 1)) * 8
    together = twin.forecast(u).y
    assert together.shape == (5, 30, 2)
    for s in range(5):
        assert np.allclose(together[s], twin.forecast(u[s]).y, rtol=1e-4, atol=1e-4)
    assert not np.allclose(together[0], together[1])


def test_inputs_that_stay_need_a_horizon() -> None:
    twin = following()
    held = twin.forecast(np.full((20, 1), 3.0)).y
    assert np.array_equal(twin.forecast([3.0], 20).y, held)
    assert np.array_equal(twin.forecast([[3.0], [-3.0]], 20).y[0], held)
    with pytest.raises(SpecError, match="at least 1"):
        twin.forecast([3.0], 0)
    with pytest.raises(SpecError, match="not finite"):
        twin.forecast([np.nan], 5)


@pytest.mark.parametrize("backend", ["compiled", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_fork_goes_on_from_where_the_first_row_is(family: str, backend: str) -> None:
    predictor = open_predictor(checkpoint(1, family), backend, 2)
    predictor.warm(np.stack([Z[:50], Z[100:150]]))
    before = predictor.state
    fork = predictor.fork(3)
    fork.step(np.repeat(Z[50:51], 3, axis=0))
    assert np.array_equal(predictor.state, before), "nothing of the first one changes"
    predictor.step(Z[[50, 150]])
    assert np.allclose(fork.state, predictor.state[:1], atol=1e-5)
    fork.take_over(predictor)
    assert np.allclose(fork.state, predictor.state[:1])


def test_without_runs_to_compare_there_is_no_interval() -> None:
    ahead = following().forecast(np.zeros((5, 1)))
    assert ahead.low is None and ahead.high is None


class Persistent:
    """A predictor by persistence, whose errors in free run on a random walk grow with the root of the
    time."""

    rows, number, quick = 1, 1, True

    def fork(self, rows: int) -> Persistent:
        return self

    def take_over(self, other: Any) -> None: ...

    def warm(self, z: Any) -> None: ...

    def free_run(self, z: Any, u: Any) -> Any:
        return np.repeat(np.asarray(z)[:, None, 1:], u.shape[1], axis=1)


@pytest.mark.slow
def test_the_interval_is_that_of_the_errors_of_free_runs() -> None:
    rng = np.random.default_rng(1)
    y = np.cumsum(rng.normal(size=(300_000, 2)) * [1.0, 10.0], axis=0)
    window, errors = Window(1, LENGTH, 3), HorizonErrors(SPEC)
    predictor: Predictor = Persistent()  # type: ignore[assignment]
    errors.follow(predictor)
    for row in y:
        window.push(np.array([[0.0, *row]]))
        errors.look(window, predictor, row)  # what it expects of the next is what is now
    reach = forecast.reaches(*errors.snapshot(), 8_000)
    assert reach is not None and errors.runs.min() >= MIN_RUNS
    # row j is j + 2 samples after the last one
    for steps in (10, 100, 1_000, 8_000):
        expected = 1.645 * np.sqrt(steps + 1) * np.array([1.0, 10.0])
        assert reach[steps - 1] == pytest.approx(expected, rel=0.45)
    assert (np.diff(reach, axis=0) >= 0).all(), "the farther, the wider"


def test_intervals_come_while_the_stream_goes_and_a_gap_spoils_none() -> None:
    twin = Twin(SPEC, window=LENGTH)
    twin.refresh(checkpoint(1))
    twin.catch_up()
    follow(twin, range(2_500))
    follow(twin, range(2_510, 4_000))
    assert twin.counters.bridged == 10
    ahead = twin.forecast(np.zeros((50, 1)))
    assert ahead.low is not None and ahead.high is not None
    assert (ahead.low < ahead.y).all() and (ahead.y < ahead.high).all()
    wide = ahead.high - ahead.low
    assert (np.diff(wide, axis=0) >= -1e-9).all()


def test_looking_back_changes_nothing_of_the_answers() -> None:
    one, other = following(), following()
    other.horizon_errors.follow(None)
    for seq in range(60, 400):
        a, b = one.step(sample(seq)), other.step(sample(seq))
        assert a is not None and b is not None and (a.y, a.low) == (b.y, b.low)
        one.catch_up(), other.catch_up()
    assert one.horizon_errors.runs.max() > 0 and other.horizon_errors.runs.max() == 0
