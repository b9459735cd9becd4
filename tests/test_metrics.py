"""The figures that reports and gates speak in."""

from __future__ import annotations

import numpy as np
import pytest

from twin.metrics import Latencies, fit_percent, rmse, skill


def test_rmse_is_taken_column_by_column() -> None:
    error = [[1.0, -2.0], [-1.0, 2.0], [1.0, 2.0], [1.0, -2.0]]
    assert rmse(error).tolist() == [1.0, 2.0]


def test_rmse_of_float32_is_computed_in_float64() -> None:
    small = np.full((4, 1), 1e-30, np.float32)  # its square is no float32
    assert rmse(small)[0] == pytest.approx(1e-30)


def test_fit_is_100_when_perfect_0_for_the_mean_and_below_when_worse() -> None:
    y = np.array([[0.0], [1.0], [2.0], [3.0]])
    assert fit_percent(y, y).tolist() == [100.0]
    assert fit_percent(y, np.full_like(y, y.mean())).tolist() == [0.0]
    assert fit_percent(y, 10 - y)[0] < 0


def test_fit_of_a_column_that_does_not_vary_is_100_or_minus_infinity() -> None:
    y = np.ones((3, 2))
    assert fit_percent(y, np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 2.0]])).tolist() == [100.0, -np.inf]


def test_skill_is_measured_against_the_reference() -> None:
    reference = np.array([[2.0, 1.0], [-2.0, 1.0]])
    assert skill(reference / 4, reference).tolist() == [0.75, 0.75]
    assert skill(reference, reference).tolist() == [0.0, 0.0]
    assert skill(3 * reference, reference).tolist() == [-2.0, -2.0]


def test_nothing_is_gained_where_the_reference_makes_no_error_either() -> None:
    """A motor that stands still: persistence is right, and the twin without a model no better than it."""
    assert skill([[0.0], [0.0]], [[0.0], [0.0]]).tolist() == [0.0]


def test_percentiles_agree_with_a_sorted_list() -> None:
    times = np.random.default_rng(1).integers(10, 5_000, 1_001)
    latencies = Latencies()
    for us in times:
        latencies.add(float(us))
    for percent in (50, 99, 99.9):
        rank = int(np.ceil(len(times) * percent / 100)) - 1
        assert latencies.percentile(percent) == np.sort(times)[rank]
    assert latencies.summary()["max"] == times.max()


def test_no_latency_gives_zeros() -> None:
    assert Latencies().summary() == {"p50": 0.0, "p99": 0.0, "p999": 0.0, "max": 0.0}


def test_latencies_out_of_range_are_counted_at_its_ends() -> None:
    latencies = Latencies()
    latencies.add(-5.0)
    latencies.add(3e6)
    assert (latencies.percentile(50), latencies.percentile(100)) == (0.0, Latencies.LIMIT_US)
    assert latencies.max == 3e6


def test_latencies_take_no_more_memory_however_many_there_are() -> None:
    latencies = Latencies()
    size = latencies.counts.nbytes
    for us in range(10_000):
        latencies.add(us)
    assert latencies.counts.nbytes == size and latencies.counts.sum() == 10_000
