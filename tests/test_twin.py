"""The twin with real models, against what exactly those models say when one runs them by hand."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.typing import NDArray

from tests.models import SPEC as SPEC  # others take it from here
from tests.models import as_network, beginning, checkpoint_of, shaken
from twin.backends.opening import open_predictor
from twin.checkpoint import Checkpoint
from twin.errors import CheckpointError, SpecError
from twin.families import FAMILIES
from twin.handover import CATCH_UP_SAMPLES
from twin.messages import Prediction, Sample, Spec, pack
from twin.predictor import Predictor
from twin.twin import Twin

torch.set_num_threads(1)

LENGTH = 40
Z = np.random.default_rng(0).normal(size=(400, 3)).cumsum(axis=0) * [0.5, 0.1, 10.0] + [0.0, 1.0, 200.0]
"""Wandering signals of very different size, (T, F)."""
SIZE = np.abs(Z[:, 1:]).max(axis=0)


def checkpoint(number: int = 1, family: str = "gru", spec: Spec = SPEC) -> Checkpoint:
    """A model with weights of its own."""
    model = shaken(beginning(family, Z[:100], spec, seed=number), seed=number)
    if family == "gru":  # the gate that keeps the state: a long memory forgives no fault
        with torch.no_grad():
            as_network(model).get_parameter("core.net.bias_ih_l0")[6:12] += 3.0
    return checkpoint_of(model, number, spec)


def broken(number: int) -> Checkpoint:
    """A model whose weights are finite and whose answers are not."""
    good = checkpoint(number)
    huge = np.full_like(good.tensors["core.readout.bias"], 3e38)
    wide = np.full_like(good.tensors["increment_scale"], 1e3)
    return Checkpoint(
        number,
        None,
        good.family,
        good.sizes,
        SPEC,
        {**good.tensors, "core.readout.bias": huge, "increment_scale": wide},
    )


def sample(seq: int, epoch: int = 1) -> Sample:
    return SPEC.sample(seq, Z[seq % len(Z)].tolist(), epoch=epoch)


def follow(
    twin: Twin, seqs: Iterable[int], then: Callable[[int], None] = lambda seq: None
) -> list[Prediction]:
    """Answer these samples, with the housekeeping after each; all must be answered."""
    answers = []
    for seq in seqs:
        answer = twin.step(sample(seq))
        assert answer is not None
        answers.append(answer)
        then(seq)
        twin.catch_up()
    return answers


def following(family: str = "gru", seqs: Iterable[int] = range(60)) -> Twin:
    """A twin that has answered samples with model 1 from the first on."""
    twin = Twin(SPEC, window=LENGTH, adapt=False)
    twin.refresh(checkpoint(1, family))
    twin.catch_up()
    follow(twin, seqs)
    return twin


def values(y: dict[str, float]) -> NDArray[np.float64]:
    return np.array([y[name] for name in SPEC.outputs])


def warmed(model: Checkpoint, seqs: range) -> Predictor:
    predictor = open_predictor(model)
    predictor.warm(Z[None, seqs.start : seqs.stop])
    return predictor


def assert_close(one: Any, other: Any) -> None:
    assert np.abs((np.asarray(one) - np.asarray(other)) / SIZE).max() < 1e-6


# -- answers -----------------------------------------------------------------------------------------


def test_without_a_model_it_answers_by_persistence() -> None:
    twin = Twin(SPEC, window=LENGTH, adapt=False)
    assert twin.status == "waiting" and twin.model == 0
    answers = follow(twin, range(10))
    assert all(a.status == "unestimated" and a.model == 0 for a in answers)
    assert all(a.y == sample(a.seq).y for a in answers)
    assert twin.status == "unestimated" and twin.counters.answered == 10


@pytest.mark.parametrize("family", FAMILIES)
def test_it_answers_every_sample_with_what_the_model_says(family: str) -> None:
    twin, by_hand = Twin(SPEC, window=LENGTH, adapt=False), open_predictor(checkpoint(1, family))
    twin.refresh(checkpoint(1, family))
    assert twin.catch_up() and twin.model == 1
    answers = follow(twin, range(100))
    assert [a.seq for a in answers] == list(range(100))
    for answer in answers:
        assert np.array_equal(values(answer.y), by_hand.step(Z[None, answer.seq])[0])
        assert (answer.model, answer.status) == (1, "following")
        assert answer.t == pytest.approx((answer.seq + 1) * SPEC.dt)


def test_the_residual_is_what_was_measured_less_what_was_published() -> None:
    answers = follow(following(seqs=()), range(100))
    assert answers[0].residual == {}
    for before, answer in pairwise(answers):
        measured = sample(answer.seq).y
        assert answer.residual == {name: measured[name] - before.y[name] for name in SPEC.outputs}


def test_stamps_are_handed_on() -> None:
    twin = Twin(SPEC)
    answer = twin.step(replace(sample(0), sent_ns=123), received_ns=456)
    assert answer is not None and (answer.sample_sent_ns, answer.received_ns) == (123, 456)


# -- the swap ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_swap_skips_no_sample_and_each_answer_is_exactly_one_model_s(family: str) -> None:
    twin = Twin(SPEC, window=LENGTH, adapt=False)
    models = {number: checkpoint(number, family) for number in (1, 2)}
    twin.refresh(models[1])
    twin.catch_up()
    answers = follow(twin, range(100), lambda seq: twin.refresh(models[2]) if seq == 50 else None)
    assert [a.seq for a in answers] == list(range(100))
    swapped = next(a.seq for a in answers if a.model == 2)
    assert [a.model for a in answers] == [1] * swapped + [2] * (100 - swapped)
    # 40 samples and those that come meanwhile, 16 at a time, the first portion after sample 50
    assert CATCH_UP_SAMPLES == 16 and swapped == 53

    old, new = warmed(models[1], range(0)), warmed(models[2], range(50 - LENGTH + 1, swapped))
    for answer in answers:
        if answer.seq < swapped:
            assert np.array_equal(values(answer.y), old.step(Z[None, answer.seq])[0])
        else:
            assert_close(values(answer.y), new.step(Z[None, answer.seq])[0])
    other = warmed(models[1], range(swapped)).step(Z[None, swapped])[0]
    assert np.abs(values(answers[swapped].y) - other).max() > 1e-3, "the models must differ to tell"
    assert twin.counters.swaps == 2


def test_a_replay_swaps_at_the_same_sample_with_the_same_numbers() -> None:
    runs = []
    for _ in range(2):
        twin = Twin(SPEC, window=LENGTH, adapt=False)

        def news(seq: int, twin: Twin = twin) -> None:
            if seq in (7, 70):
                twin.refresh(checkpoint(seq))

        runs.append(follow(twin, range(120), news))
    assert [pack(a) for a in runs[0]] == [pack(a) for a in runs[1]]
    assert {a.model for a in runs[0]} == {0, 7, 70}


def test_a_newer_model_takes_the_place_of_one_that_is_still_catching_up() -> None:
    twin = following()
    twin.refresh(checkpoint(2))
    assert not twin.catch_up()
    twin.refresh(checkpoint(3))
    answers = follow(twin, range(60, 80))
    assert {a.model for a in answers} == {1, 3} and twin.counters.swaps == 2
    swapped = next(a.seq for a in answers if a.model == 3)
    by_hand = warmed(checkpoint(3), range(61 - LENGTH, swapped))  # the window once 60 had come
    assert_close(values(answers[swapped - 60].y), by_hand.step(Z[None, swapped])[0])


def test_a_model_taken_up_before_a_full_window_is_warmed_by_what_there_is() -> None:
    twin = Twin(SPEC, window=LENGTH, adapt=False)
    follow(twin, range(5))
    twin.refresh(checkpoint())
    assert twin.catch_up()
    by_hand = warmed(checkpoint(), range(5))
    assert_close(values(follow(twin, [5])[0].y), by_hand.step(Z[None, 5])[0])


def test_without_news_catching_up_does_nothing() -> None:
    twin = following()
    assert not twin.catch_up() and twin.counters.swaps == 1


@pytest.mark.parametrize("away", [1, LENGTH // 2, LENGTH, 3 * LENGTH])
def test_whoever_catches_up_seldom_gets_a_hidden_state_of_consecutive_samples(away: int) -> None:
    """The window may roll on beyond what the spare has taken in; no hole and no repetition may stay."""
    twin, end = following(), 60 + away
    twin.refresh(checkpoint(2))
    twin.catch_up()
    for seq in range(60, end):
        twin.step(sample(seq))
    while not twin.catch_up():
        pass
    assert twin.active is not None and twin.model == 2
    first = 60 - LENGTH if away == 1 else end - LENGTH
    assert np.abs(twin.active.state - warmed(checkpoint(2), range(first, end)).state).max() < 1e-6


def test_a_gap_while_catching_up_leaves_no_hole_in_the_hidden_state() -> None:
    twin, other = following(), following()
    twin.refresh(checkpoint(2))
    twin.catch_up()
    follow(twin, range(60 + LENGTH, 70 + LENGTH))  # the samples between are bridged
    assert twin.model == 2
    follow(other, range(60 + LENGTH, 60 + LENGTH + 1))
    z = other.window.view().copy()  # as bridged by model 1, and the sample that arrived
    by_hand = open_predictor(checkpoint(2))
    by_hand.warm(z)
    for seq in range(61 + LENGTH, 70 + LENGTH):
        by_hand.step(Z[None, seq])
    assert twin.active is not None
    assert np.abs(twin.active.state - by_hand.state).max() < 1e-6


def test_a_model_of_another_plant_is_refused_and_the_one_at_work_stays() -> None:
    twin = following()
    for spec in (
        replace(SPEC, inputs=("u",)),
        replace(SPEC, dt=0.002),
        replace(SPEC, outputs=("speed", "current")),
    ):
        with pytest.raises(CheckpointError, match="--run-dir"):
            twin.refresh(checkpoint(2, spec=spec))
    assert follow(twin, [60])[0].model == 1 and twin.bank.spare is None


# -- gaps and restarts -------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [1, 7, LENGTH])
def test_a_gap_is_bridged_by_a_free_run_with_the_last_input_held(missing: int) -> None:
    twin, by_hand = following(), warmed(checkpoint(), range(0))
    for seq in range(60):
        y = by_hand.step(Z[None, seq])[0]
    for _ in range(missing):
        y = by_hand.step(np.array([[Z[59, 0], *y.tolist()]]))[0]
    arrival = 60 + missing
    answer, following_one = follow(twin, [arrival, arrival + 1])
    assert answer.residual == {}, "nothing is said of a sample that a free run expected"
    assert np.array_equal(values(answer.y), by_hand.step(Z[None, arrival])[0])
    assert following_one.residual.keys() == set(SPEC.outputs)
    counters = twin.counters
    assert (counters.gaps, counters.lost, counters.bridged) == (1, missing, missing)


def test_a_gap_longer_than_the_window_begins_anew() -> None:
    twin = following()
    seq = 60 + LENGTH + 1
    answers = follow(twin, range(seq, seq + 5))
    by_hand = open_predictor(checkpoint())
    for answer in answers:
        assert np.array_equal(values(answer.y), by_hand.step(Z[None, answer.seq])[0])
    counters = twin.counters
    assert (counters.gaps, counters.lost, counters.bridged, counters.restarts) == (1, LENGTH + 1, 0, 0)
    assert twin.window.count == 5


@pytest.mark.parametrize("missing", [3, LENGTH + 1])
def test_a_gap_without_a_model_is_counted_too(missing: int) -> None:
    twin = Twin(SPEC, window=LENGTH, adapt=False)
    answers = follow(twin, [0, 1, 2 + missing])
    assert answers[-1].residual == {} and answers[-1].y == sample(2 + missing).y
    assert (twin.counters.gaps, twin.counters.lost) == (1, missing)


@pytest.mark.parametrize(("seq", "epoch"), [(0, 1), (59, 2), (60, 2), (500, 2), (58, 1)])
def test_a_plant_that_begins_anew_is_met_afresh(seq: int, epoch: int) -> None:
    twin, fresh = following(), following(seqs=())
    for k in range(seq, seq + 5):
        one, other = twin.step(sample(k, epoch)), fresh.step(sample(k, epoch))
        assert one is not None and other is not None and pack(one) == pack(other)
    assert twin.counters.restarts == 1 and twin.counters.gaps == 0
    assert twin.window.count == 5


def test_a_plant_that_begins_anew_while_a_model_catches_up() -> None:
    twin = following()
    twin.refresh(checkpoint(2))
    twin.catch_up()
    answers = follow(twin, range(5))
    assert [a.model for a in answers] == [1, 2, 2, 2, 2]
    by_hand = warmed(checkpoint(2), range(1))
    for answer in answers[1:]:
        assert_close(values(answer.y), by_hand.step(Z[None, answer.seq])[0])


# -- what is refused ---------------------------------------------------------------------------------

BAD = [math.nan, math.inf, -math.inf, 1e39, -1e308]
"""No numbers, or none in float32, in which models work."""


def test_a_repeated_sample_is_rejected_and_changes_nothing() -> None:
    twin, reference = following(), following()
    for seq in range(60, 70):
        one, other = twin.step(sample(seq)), reference.step(sample(seq))
        assert one is not None and other is not None and pack(one) == pack(other)
        assert twin.step(sample(seq)) is None
    assert twin.counters.rejected == 10 and twin.counters.gaps == twin.counters.restarts == 0


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("name", SPEC.features)
def test_a_value_that_is_not_finite_is_rejected_and_the_next_sample_bridges(name: str, value: float) -> None:
    twin, gap = following(), following()
    good = sample(60)
    side = "u" if name in good.u else "y"
    assert twin.step(replace(good, **{side: {**getattr(good, side), name: value}})) is None
    one, other = twin.step(sample(61)), gap.step(sample(61))
    assert one is not None and other is not None and pack(one) == pack(other)
    assert np.isfinite(twin.window.view()).all()
    assert (twin.counters.rejected, twin.counters.lost, twin.counters.bridged) == (1, 1, 1)


@pytest.mark.parametrize(
    "y", [{}, {"current": 1.0}, {"current": math.inf, "speed": -math.inf}, {"current": 1e308, "speed": 1e308}]
)
def test_other_signals_are_rejected(y: dict[str, float]) -> None:
    twin = following()
    assert twin.step(replace(sample(60), y=y)) is None
    assert twin.counters.rejected == 1 and twin.counters.answered == 60


def test_signals_that_the_spec_does_not_name_do_no_harm() -> None:
    twin, reference = following(), following()
    more = replace(sample(60), y={"torque": math.nan, **sample(60).y})
    one, other = twin.step(more), reference.step(sample(60))
    assert one is not None and other is not None and one.y == other.y


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_that_cannot_be_is_refused(window: int) -> None:
    with pytest.raises(SpecError, match="at least 1"):
        Twin(SPEC, window=window)


# -- a model that answers nonsense -------------------------------------------------------------------


def test_an_invalid_answer_is_replaced_and_the_model_before_comes_back() -> None:
    twin = following()
    answers = follow(twin, range(60, 100), lambda seq: twin.refresh(broken(2)) if seq == 70 else None)
    said = [(a.model, a.status) for a in answers]
    bad = said.index((0, "invalid"))
    assert said.count((0, "invalid")) == 1 == twin.counters.invalid
    assert answers[bad].y == sample(answers[bad].seq).y
    # by the walk of every swap: persistence until the model has taken in the window
    back = said.index((1, "following"), bad)
    assert said[bad + 1 : back] == [(0, "unestimated")] * (back - bad - 1)
    assert {number for number, _ in said[back:]} == {1}
    assert all(math.isfinite(value) for a in answers for value in (*a.y.values(), *a.residual.values()))
    seq = answers[back].seq
    by_hand = warmed(checkpoint(), range(answers[bad].seq - LENGTH + 1, seq))
    assert_close(values(answers[back].y), by_hand.step(Z[None, seq])[0])


def test_a_broken_first_model_leaves_persistence_and_a_good_one_ends_it() -> None:
    twin = Twin(SPEC, window=LENGTH, adapt=False)
    twin.refresh(broken(1))
    twin.catch_up()
    said = [(a.model, a.status) for a in follow(twin, range(10))]
    assert said == [(0, "invalid")] + 9 * [(0, "unestimated")]
    twin.refresh(checkpoint(2))
    assert follow(twin, range(10, 20))[-1].model == 2


def test_a_model_that_fails_while_the_next_is_on_its_way_makes_room_for_it() -> None:
    twin = Twin(SPEC, window=LENGTH, adapt=False)
    follow(twin, range(60))
    twin.refresh(broken(1))
    while not twin.catch_up():
        pass
    twin.refresh(checkpoint(2))
    answers = follow(twin, range(60, 80))
    assert answers[0].status == "invalid" and answers[-1].model == 2
    assert twin.counters.invalid == 1


# -- forecast ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_forecast_equals_stepping_by_hand(family: str) -> None:
    twin, inputs = following(family), np.linspace(-12, 12, 25)[:, None]
    by_hand = warmed(checkpoint(1, family), range(0))
    for seq in range(60):
        y = by_hand.step(Z[None, seq])[0]
    expected = []
    for u in inputs[:, 0]:  # what is held from the instant after the last sample on acts on the one after
        y = by_hand.step(np.array([[u, *y.tolist()]]))[0].copy()
        expected.append(y)
    ahead = twin.forecast(inputs).y
    assert ahead.shape == (25, 2) and ahead.dtype == np.float64
    assert np.abs((ahead - expected) / SIZE).max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_forecast_leaves_the_stream_bitwise_as_it_was(family: str) -> None:
    twin, reference = following(family), following(family)
    assert twin.active is not None
    before, counters = twin.active.state, counted(twin)
    twin.forecast(np.full((50, 1), 12.0))
    assert np.array_equal(twin.active.state, before) and counted(twin) == counters
    one, other = follow(twin, range(60, 70)), follow(reference, range(60, 70))
    assert [pack(a) for a in one] == [pack(a) for a in other]


def counted(twin: Twin) -> str:
    return repr(twin.counters)


def test_a_forecast_without_a_model_stays_where_it_is() -> None:
    twin = Twin(SPEC)
    follow(twin, range(3))
    assert twin.forecast(np.zeros((4, 1))).y.tolist() == [list(sample(2).y.values())] * 4


@pytest.mark.parametrize("shape", [(5, 2), (0, 1), (5,), (1, 1, 5, 1), (3, 5, 2), (0,)])
def test_a_forecast_of_other_inputs_is_refused_with_advice(shape: tuple[int, ...]) -> None:
    with pytest.raises(SpecError, match="a column each for voltage"):
        following().forecast(np.zeros(shape))


def test_there_is_no_forecast_from_nothing() -> None:
    with pytest.raises(SpecError, match="no sample"):
        Twin(SPEC).forecast(np.zeros((5, 1)))


# -- cost --------------------------------------------------------------------------------------------


def calls(action: Callable[[], object]) -> int:
    """How many functions an action calls, Python's and C's: a cost that no busy machine changes."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


def footprint(thing: Any, seen: set[int] | None = None) -> int:
    """Entries and bytes reachable from a thing."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, (str, bytes, int, float, type)) or callable(thing):
        return 1
    seen.add(id(thing))
    if isinstance(thing, np.ndarray):
        return thing.nbytes
    if isinstance(thing, torch.Tensor):
        return thing.nbytes
    if isinstance(thing, dict):
        return sum(1 + footprint(value, seen) for value in thing.values())
    if isinstance(thing, (list, tuple, set)):
        return sum(1 + footprint(value, seen) for value in thing)
    names = [*getattr(thing, "__dict__", ()), *getattr(thing, "__slots__", ())]
    return sum(1 + footprint(getattr(thing, name, None), seen) for name in names)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_costs_the_same_however_long_the_stream_was(family: str) -> None:
    twin = following(family, range(4 * LENGTH))  # by then there are intervals
    early, size = calls(lambda: twin.step(sample(4 * LENGTH))), footprint(twin)
    follow(twin, range(4 * LENGTH + 1, 3_000))
    assert calls(lambda: twin.step(sample(3_000))) == early > 0
    assert footprint(twin) == size > 1_000


def test_catching_up_takes_bounded_portions_of_a_long_window() -> None:
    turns = {}
    for window in (20 * CATCH_UP_SAMPLES, 10 * CATCH_UP_SAMPLES):
        twin = Twin(SPEC, window=window)
        follow(twin, range(window))
        twin.refresh(checkpoint())
        turns[window] = 1
        while not twin.catch_up():
            turns[window] += 1
    assert turns == {20 * CATCH_UP_SAMPLES: 20, 10 * CATCH_UP_SAMPLES: 10}


# -- anything at all ---------------------------------------------------------------------------------

NUMBERS = st.floats(width=64) | st.sampled_from([0.0, -0.0, 1e-310, 1e30, 3.4e38, *BAD])
STREAMS = st.lists(st.tuples(st.integers(1, 2), st.integers(0, 60), NUMBERS, NUMBERS, NUMBERS), max_size=40)


@given(STREAMS)
def test_whatever_comes_is_answered_by_finite_numbers_or_rejected(
    stream: list[tuple[int, int, float, float, float]],
) -> None:
    twin = following(seqs=())
    for epoch, seq, *row in stream:
        answer = twin.step(SPEC.sample(seq, row, epoch=epoch))
        twin.catch_up()
        assert answer is None or all(math.isfinite(value) for value in answer.y.values())
        assert np.isfinite(twin.window.view()).all()
        assert twin.active is None or np.isfinite(twin.active.state).all()
    assert twin.counters.answered + twin.counters.rejected == len(stream)
