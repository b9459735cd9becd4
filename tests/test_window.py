"""The window against the plainest memory there is: a list of all samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.errors import SpecError
from twin.window import Window


@given(
    rows=st.integers(1, 3),
    length=st.integers(1, 7),
    features=st.integers(1, 3),
    pushes=st.integers(0, 25),
    n=st.integers(-1, 30),
)
def test_it_holds_the_newest_samples_in_time_order(
    rows: int, length: int, features: int, pushes: int, n: int
) -> None:
    window = Window(rows, length, features)
    samples = np.random.default_rng(0).normal(size=(rows, pushes, features)).astype(np.float32)
    for k in range(pushes):
        window.push(samples[:, k])
    held = min(pushes, length)
    assert window.count == pushes
    assert window.full == (pushes >= length)
    assert np.array_equal(window.view(), samples[:, pushes - held :])
    asked = max(0, min(n, held))
    assert np.array_equal(window.tail(n), samples[:, pushes - asked :])


def test_a_view_is_contiguous_and_neither_copies_nor_allocates() -> None:
    window = Window(1, 4, 2)
    memory = window.view().base
    for k in range(11):
        window.push(np.full((1, 2), k, np.float32))
        assert window.view().flags.c_contiguous
        assert window.view().base is memory
    before = window.view()
    kept = before.copy()
    for k in range(4):
        window.push(np.full((1, 2), -k, np.float32))
    assert not np.array_equal(before, kept)  # a look at the ring, as documented


def test_after_a_reset_nothing_of_the_past_is_seen() -> None:
    window = Window(2, 3, 1)
    for k in range(5):
        window.push(np.full((2, 1), k, np.float32))
    window.reset()
    assert window.count == 0
    assert window.view().shape == (2, 0, 1)
    window.push(np.full((2, 1), 9.0))
    assert window.view().tolist() == [[[9.0]], [[9.0]]]


@pytest.mark.parametrize("shape", [(3,), (1, 3), (2, 1), (2, 3, 1)])
def test_a_sample_of_another_shape_is_refused_not_spread(shape: tuple[int, ...]) -> None:
    window = Window(2, 4, 3)
    with pytest.raises(SpecError, match=r"\(2, 3\)"):
        window.push(np.zeros(shape))
    assert window.count == 0


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, -1)])
def test_sizes_that_cannot_be_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(SpecError, match="at least 1"):
        Window(*sizes)
