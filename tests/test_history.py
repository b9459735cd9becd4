"""What a trainer remembers: the newest samples in full, and segments of the past, bounded and diverse."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from twin import history as module
from twin.history import History, excitation

SEGMENT = 10


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_SEGMENTS", 20)


def rows(count: int, amplitude: float) -> NDArray[np.float64]:
    """Samples whose first feature counts, from zero on, and whose second moves."""
    noise = np.random.default_rng(4)
    return np.column_stack([np.arange(count), amplitude * noise.standard_normal(count)])


def filled(z: NDArray[np.float64], breaks: tuple[int, ...] = ()) -> History:
    found = History(100, SEGMENT, 2)
    for k, row in enumerate(z):
        found.push(row, follows=k not in breaks)
    return found


def test_what_leaves_the_newest_part_is_kept_as_segments() -> None:
    found = filled(rows(250, 1.0))
    assert np.array_equal(found.view(), rows(250, 1.0)[150:])
    begins = sorted(found.past[:, 0, 0].astype(int).tolist())
    assert begins == list(range(0, 150, SEGMENT)), "all that has left"
    assert np.all(np.diff(found.past[:, :, 0], axis=1) == 1)


def test_the_past_is_bounded_and_comes_from_all_of_it() -> None:
    found = filled(rows(20_000, 1.0))
    assert found.past.shape == (20, SEGMENT, 2)
    begins = found.past[:, 0, 0]
    assert begins.min() < 5_000 and begins.max() > 15_000


def test_a_standstill_does_not_wash_out_what_moved() -> None:
    z = rows(20_000, 1.0)
    z[2_000:, 0] = 2_000
    z[2_000:, 1] *= 1e-4
    begins = filled(z).past[:, 0, 0]
    assert np.count_nonzero(begins < 2_000) >= 18, "of a tenth of the stream"


def test_no_segment_of_the_past_goes_across_a_break() -> None:
    found = filled(rows(300, 1.0), breaks=(15, 40))
    begins = set(found.past[:, 0, 0].astype(int).tolist())
    assert begins == set(range(0, 200, SEGMENT)) - {10}, "one that begins at a break is whole"


def test_excitation_is_that_of_each_input() -> None:
    noise = np.random.default_rng(1).standard_normal((5_000, 1))
    u = np.hstack([noise, np.full_like(noise, 3.0), np.cumsum(noise, axis=0)])
    white, constant, slow = excitation(u)
    assert white == pytest.approx(1.0, rel=0.1) and constant < 1e-12 and 0.1 < slow < 1.0
