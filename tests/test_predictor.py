"""Conformance: what every family, with one layer and with two, promises on every backend.

A new backend joins by its name in `twin.predictor.BACKENDS`, where its device is at hand, a new family by its
name in `FAMILIES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.models import SPEC, beginning, checkpoint_of, shaken
from twin.backends.opening import available_backends, open_predictor
from twin.checkpoint import Checkpoint, load, save
from twin.errors import BackendError, CheckpointError, SpecError
from twin.families import FAMILIES, PHYSICAL, state_size
from twin.models.model import Model
from twin.models.network import Network
from twin.models.opening import open_model
from twin.predictor import Predictor

torch.set_num_threads(1)

STEPS = 40
TOLERANCE = 1e-6
"""Of a signal's largest value: float32 itself rounds at a sixteenth of that."""


def samples(rows: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Wandering signals of very different size, (N, STEPS, F)."""
    walk = np.random.default_rng(seed).normal(size=(rows, STEPS, 3)).cumsum(axis=1)
    return np.asarray(walk * [2.0, 0.3, 40.0] + [0.0, 1.0, 200.0])


def motor_samples(rows: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """A motor's signals with noise, as those who know motors expect them, (N, STEPS, F)."""
    rng, quick = np.random.default_rng(seed), np.exp(-np.arange(STEPS) / 4.0)
    volts = np.repeat(rng.uniform(-10, 10, (rows, STEPS // 8)), 8, axis=1)
    speed = np.zeros((rows, STEPS))
    current = np.zeros((rows, STEPS))
    for k in range(1, STEPS):
        current[:, k] = 0.3 * current[:, k - 1] + 0.1 * (volts[:, k - 1] - 0.04 * speed[:, k - 1])
        speed[:, k] = speed[:, k - 1] + 2.0 * current[:, k] - 0.01 * speed[:, k - 1] + 0.1 * quick[k]
    noise = rng.normal(size=(rows, STEPS, 2)) * [0.003, 0.1]
    return np.stack((volts, current + noise[..., 0], speed + noise[..., 1] + 30.0), axis=2)


@dataclass
class Case:
    model: Model
    checkpoint: Checkpoint
    backend: str

    def open(self, rows: int = 1) -> Predictor:
        return open_predictor(self.checkpoint, self.backend, rows)

    def samples(self, rows: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        make = motor_samples if self.model.family in PHYSICAL else samples
        return make(rows, seed)

    def assert_close(self, one: object, other: object) -> None:
        size = np.abs(self.samples(1)[0, :, 1:]).max(axis=0)
        difference = np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)) / size
        assert difference.max() < TOLERANCE


def case_of(family: str, layers: int, backend: str) -> Case:
    known = motor_samples(1)[0] if family in PHYSICAL else samples(1)[0]
    model = beginning(family, known, layers=layers)
    if family in PHYSICAL:
        model.fit(known)
    return Case(shaken(model), checkpoint_of(model), backend)


@pytest.fixture(
    params=[
        (f, n, b)
        for f in FAMILIES
        for n in (1, 2)
        for b in available_backends()
        if not (f in PHYSICAL and b == "graph")  # refused
    ],
    ids=str,
)
def case(request: pytest.FixtureRequest) -> Case:
    return case_of(*request.param)


def stepped(
    predictor: Predictor, z: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.stack([predictor.step(z[:, k]).copy() for k in range(z.shape[1])], axis=1)


Samples = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def sequence(case: Case, z: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> tuple[Samples, Samples]:
    """The answers and the last state of the whole sequence: of a network by torch at once, of a motor by the
    reference that is written out."""
    if isinstance(case.model, Network):
        with torch.no_grad():
            y, state = case.model(torch.from_numpy(z).float(), case.model.initial_state(len(z)))
        return y.numpy(), state.numpy()
    reference = open_predictor(case.checkpoint, "eager", len(z))
    return stepped(reference, z), reference.state


def test_stepping_equals_the_whole_sequence_at_once(case: Case) -> None:
    z = case.samples(2)
    predictor = case.open(rows=2)
    at_once, state = sequence(case, z)
    case.assert_close(stepped(predictor, z), at_once)
    assert np.abs(predictor.state - state).max() < TOLERANCE


def test_the_answers_depend_on_what_came_before(case: Case) -> None:
    """The control of the test above: it would pass for a model that carries nothing."""
    z = case.samples(1)
    predictor = case.open()
    carried = stepped(predictor, z)
    predictor.reset()
    afresh = predictor.step(z[:, -1])
    assert np.abs((carried[:, -1] - afresh) / case.model.scaling.scale[1:]).max() > 1e-4


@pytest.mark.parametrize("portion", [1, 2, 16, STEPS])
def test_warming_in_portions_equals_stepping(case: Case, portion: int) -> None:
    z = case.samples(2)
    one, other = case.open(rows=2), case.open(rows=2)
    stepped(one, z)
    for start in range(0, STEPS, portion):
        other.warm(z[:, start : start + portion])
    assert np.abs(one.state - other.state).max() < TOLERANCE
    case.assert_close(one.step(z[:, 0]), other.step(z[:, 0]))


def test_warming_with_nothing_changes_nothing(case: Case) -> None:
    predictor = case.open()
    predictor.warm(case.samples(1))
    before = predictor.state
    predictor.warm(np.zeros((1, 0, 3)))
    assert np.array_equal(predictor.state, before)


def test_a_free_run_equals_stepping_with_its_own_answers_and_leaves_the_state(case: Case) -> None:
    z = case.samples(2)
    u = z[:, 11:21, :1]
    one, other = case.open(rows=2), case.open(rows=2)
    one.warm(z[:, :10])
    other.warm(z[:, :10])
    before = one.state
    ahead = one.free_run(z[:, 10], u)
    assert np.array_equal(one.state, before)
    assert ahead.shape == (2, 10, 2)
    y = other.step(z[:, 10])
    for k in range(10):  # row k stands beside u[:, k]
        case.assert_close(ahead[:, k], y)
        y = other.step(np.concatenate([u[:, k], y], axis=1))
    assert one.free_run(z[:, 10], u[:, :0]).shape == (2, 0, 2)


@pytest.mark.slow
def test_a_long_free_run_and_a_portion_longer_than_a_batch_agree(case: Case) -> None:
    """`warm` divides what is long: the joints must not show."""
    z = np.tile(case.samples(1), (1, 40, 1))[:, :1_100]
    one, other = case.open(), case.open()
    one.warm(z)
    other.warm(z[:, :1_024])
    other.warm(z[:, 1_024:])
    assert np.abs(one.state - other.state).max() < TOLERANCE


def test_many_rows_equal_as_many_single_runs(case: Case) -> None:
    z = case.samples(5)
    together = stepped(case.open(rows=5), z)
    for row in range(5):
        case.assert_close(together[row], stepped(case.open(), z[row : row + 1])[0])


def test_a_state_put_back_repeats_what_followed_bit_for_bit(case: Case) -> None:
    z = case.samples(1)
    predictor = case.open()
    predictor.warm(z[:, :20])
    state = predictor.state
    first = stepped(predictor, z[:, 20:])
    predictor.state = state
    assert np.array_equal(stepped(predictor, z[:, 20:]), first)
    other = case.open()
    other.state = state
    assert np.array_equal(stepped(other, z[:, 20:]), first)


def test_the_state_handed_out_is_a_copy(case: Case) -> None:
    predictor = case.open()
    predictor.warm(case.samples(1))
    state = predictor.state
    state += 1.0
    assert not np.array_equal(predictor.state, state)
    predictor.state = state
    state += 1.0
    assert not np.array_equal(predictor.state, state)


def test_reset_forgets_everything(case: Case) -> None:
    z = case.samples(1)
    predictor = case.open()
    first = stepped(predictor, z)
    predictor.reset()
    assert not predictor.state.any()
    assert np.array_equal(stepped(predictor, z), first)


def test_saved_and_loaded_it_answers_the_same_bit_for_bit(case: Case, tmp_path: Path) -> None:
    z = case.samples(1)
    again = open_predictor(load(save(tmp_path, case.checkpoint)), case.backend)
    one = case.open()
    assert np.array_equal(stepped(one, z), stepped(again, z))
    assert np.array_equal(one.state, again.state)


def test_single_and_double_precision_samples_are_the_same_sample(case: Case) -> None:
    z = case.samples(1).astype(np.float32)
    one, other = stepped(case.open(), z), stepped(case.open(), z.astype(np.float64))  # type: ignore[arg-type]
    assert np.array_equal(one, other)


def test_what_it_was_given_and_what_it_answered_stay_apart(case: Case) -> None:
    z = case.samples(1)[:, 0]
    kept = z.copy()
    predictor = case.open()
    predictor.step(z)[...] = np.nan
    assert np.array_equal(z, kept)
    assert np.isfinite(predictor.step(z)).all()


def test_a_sample_in_its_own_buffer_is_as_good_as_any(case: Case) -> None:
    z = case.samples(2)
    one, other = case.open(rows=2), case.open(rows=2)
    assert one.sample.shape == (2, 3)
    assert one.sample.dtype == np.float32
    for k in range(STEPS):
        one.sample[...] = z[:, k]
        assert np.array_equal(one.step(one.sample), other.step(z[:, k]))


def test_it_says_which_model_it_runs(case: Case) -> None:
    predictor = case.open(rows=3)
    assert (predictor.rows, predictor.number) == (3, 1)
    assert predictor.state.shape == (3, state_size(case.model.family, case.model.sizes))
    assert predictor.state.dtype == np.float32


def test_other_shapes_are_refused(case: Case) -> None:
    predictor = case.open(rows=2)
    z = case.samples(2)
    for shape in [(3,), (1, 3), (2, 2), (2, 1, 3)]:
        with pytest.raises(SpecError, match="shape"):
            predictor.step(np.zeros(shape))
        with pytest.raises(SpecError, match="shape"):
            predictor.free_run(np.zeros(shape), np.zeros((2, 4, 1)))
    for shape in [(2, 3), (1, 4, 3), (2, 4, 2), (3,)]:
        with pytest.raises(SpecError, match="shape"):
            predictor.warm(np.zeros(shape))
        with pytest.raises(SpecError, match="shape"):
            predictor.free_run(z[:, 0], np.zeros(shape))
    with pytest.raises(SpecError, match="shape"):
        predictor.state = np.zeros((1, state_size(case.model.family, case.model.sizes)), np.float32)


def test_an_unknown_backend_names_those_there_are() -> None:
    checkpoint = case_of("gru", 1, "eager").checkpoint
    with pytest.raises(BackendError, match="'abacus' is not one of compiled, eager"):
        open_predictor(checkpoint, "abacus")
    with pytest.raises(SpecError, match="0 rows"):
        open_predictor(checkpoint, rows=0)


def test_a_checkpoint_of_other_tensors_is_refused() -> None:
    checkpoint = case_of("gru", 1, "eager").checkpoint
    tensors = {**checkpoint.tensors, "mean": np.zeros(2, np.float32)}
    with pytest.raises(CheckpointError, match="mean"):
        open_model(Checkpoint(1, None, "gru", checkpoint.sizes, SPEC, tensors))
