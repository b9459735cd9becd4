"""A bank of models: the mixture against its equations, the recursive model against least squares, and the
twin that begins with them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from simulators import motor
from simulators.quick_motor import quick
from tests.models import SPEC, beginning, checkpoint_of, shaken
from tests.test_twin import broken
from twin.backends.opening import open_predictor
from twin.backends.persistence import Persistence
from twin.backends.recursive import Recursive
from twin.checkpoint import Checkpoint
from twin.config import TrainerConfig
from twin.errors import CheckpointError, SpecError
from twin.families import PERSISTENCE, RECURSIVE, families_for
from twin.handover import MIN_SHADOW_SAMPLES
from twin.horizons import Foresight
from twin.kernels import least_squares, recursive
from twin.kernels import mixture as kernel
from twin.messages import UNSET, Members, Prediction, Sample, Spec, pack, topic, unpack
from twin.metrics import rmse
from twin.mixture import Blend, Mixture, mean_of, members_message
from twin.models.opening import members
from twin.trainers import Trainers
from twin.twin import Twin
from twin.validation import Decision

Array = NDArray[Any]
Z: Array = quick(motor(), 3_000, seed=5).z
INPUTS, OUTPUTS = len(SPEC.inputs), len(SPEC.outputs)


class Guess(Recursive):
    """Answers what it is told."""

    def __init__(self, number: int = 0) -> None:
        super().__init__(SPEC)
        self.number = number  # type: ignore[misc]
        self.told: Iterator[Array] = iter(())

    def step(self, z: Array) -> NDArray[np.float32]:
        self.y[0] = next(self.told)
        return self.y


def guessing(answers: Array) -> tuple[Mixture, Array]:
    """A mixture of members that answer as told, (T, M, P), after each of `Z`; and what it answered (T, P)."""
    guesses = {f"g{i}": Guess(i + 1) for i in range(answers.shape[1])}
    for i, guess in enumerate(guesses.values()):
        guess.told = iter(answers[:, i])
    mixture = Mixture(SPEC, guesses)
    return mixture, np.array([mixture.step(z)[0].copy() for z in Z[: len(answers), None].astype(np.float32)])


def by_the_book(answers: Array, measured: Array) -> Array:
    """What a mixture of members answers (T, P), by the equations in the kernel's docstring."""
    steps, count, outputs = answers.shape
    weight, square, lasting = np.full((count, outputs), 1 / count), *np.zeros((2, count, outputs))
    usual, found = np.zeros(outputs), []
    for k in range(steps):
        if k:
            usual += ((measured[k] - measured[k - 1]) ** 2 - usual) / k
            e2 = (measured[k] - answers[k - 1]) ** 2
            v = square.min(axis=0) + kernel.NEGLIGIBLE * usual
            taken = e2
            if k > kernel.SETTLE_SAMPLES:
                taken = np.minimum(e2, kernel.MAX_SQUARES * square + kernel.NEGLIGIBLE * usual)
            square += (taken - square) * max(1 / k, 1 / kernel.ERROR_SAMPLES)
            most = np.inf if k <= kernel.SETTLE_SAMPLES else kernel.MAX_LASTING_SQUARES * (v + e2.min(axis=0))
            lasts, since = kernel.LASTING_SEC / SPEC.dt, float(k)
            if k > kernel.SETTLE_SAMPLES:
                since = min(kernel.NEWCOMER_SHARE * lasts + k - kernel.SETTLE_SAMPLES, lasts)
            lasting += (np.minimum(e2, most) - lasting) / since
            if k > kernel.SETTLE_SAMPLES:
                score = -0.5 * e2 / (v + e2.min(axis=0))
                weight *= np.exp(np.maximum(score - score.max(axis=0), -kernel.MAX_NATS))
                weight *= (1 - kernel.SHARE) / weight.sum(axis=0)
                weight += kernel.SHARE / count
        say = weight.copy()
        if k >= kernel.SETTLE_SAMPLES:
            tiny = kernel.NEGLIGIBLE * usual
            say *= ((lasting.min(axis=0) + tiny) / (lasting + tiny)) ** kernel.LASTING_POWER
        say = np.where(say >= kernel.MIN_SAY * say.max(axis=0), say, 0.0)
        found.append((say * answers[k]).sum(axis=0) / say.sum(axis=0))
    return np.array(found)


# -- the mixture -------------------------------------------------------------------------------------


def test_it_answers_as_its_equations_say() -> None:
    random = np.random.default_rng(2)
    following = np.roll(Z[:400, INPUTS:], -1, axis=0)[:, None]
    sizes = np.array([[0.1, 0.3], [0.02, 1.0], [0.05, 0.2]])
    answers = (following + sizes * random.normal(size=(400, 3, 2))).astype(np.float32)
    answers[200:, 1] += 0.5  # the best one becomes a bad one
    mixture, mixed = guessing(answers)
    measured = Z[:400, INPUTS:].astype(np.float32).astype(np.float64)
    assert np.allclose(mixed, by_the_book(answers.astype(np.float64), measured), rtol=1e-5, atol=1e-6)
    errors = measured[1:, None] - answers[:-1]
    assert np.allclose(list(mixture.errors.values()), np.sqrt((errors**2).mean(axis=0)), rtol=1e-5)


def test_each_output_has_its_own_best_and_a_member_that_gets_worse_is_left_within_samples() -> None:
    random = np.random.default_rng(3)
    following = np.roll(Z[:600, INPUTS:], -1, axis=0)[:, None]
    sizes = np.array([[0.01, 3.0], [1.0, 0.1]])
    answers = following + sizes * random.normal(size=(600, 2, 2))
    mixture, mixed = guessing(answers[:500])
    assert mixture.weights[0, 0] > 0.95 and mixture.weights[1, 1] > 0.95
    best = np.array([answers[300:500, 0, 0], answers[300:500, 1, 1]]).T - following[300:500, 0]
    errors = mixed[300:500] - following[300:500, 0]
    assert (np.sqrt((errors**2).mean(axis=0)) < 1.02 * np.sqrt((best**2).mean(axis=0))).all()
    answers[500:, 1, 1] += 30.0
    mixture, mixed = guessing(answers)
    assert mixture.weights[0, 1] > 0.9
    assert np.abs(mixed[503:, 1] - following[503:, 0, 1]).max() < 20


def test_an_error_that_all_share_does_not_decide() -> None:
    random = np.random.default_rng(4)
    following = np.roll(Z[:600, INPUTS:], -1, axis=0)[:, None]
    answers = following + 0.1 * random.normal(size=(600, 2, 2))
    before = guessing(answers[:501])[0].weights.copy()
    answers[500:502] += 50.0
    after = guessing(answers[:502])[0].weights
    assert np.abs(after - before).max() < 0.2


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_member_that_is_no_number_has_no_say_in_the_same_step(value: float) -> None:
    answers = np.repeat(Z[:60, None, INPUTS:], 2, axis=1)
    answers[59, 0] = value
    mixture, mixed = guessing(answers)
    assert np.isfinite(mixed).all()
    assert not mixture.sound and mixture.unsound == ["g0"]
    assert np.allclose(mixed[59], answers[59, 1], rtol=1e-6)
    mixture.drop("g0")
    assert list(mixture.members) == ["g1"] and mixture.sound
    assert np.allclose(mixture.weights, 1.0)


def test_a_new_member_is_weighed_after_some_samples_and_a_new_version_keeps_its_weight() -> None:
    mixture = Mixture(SPEC, {PERSISTENCE: Persistence(SPEC)})
    late = Guess(7)
    late.told = iter(Z[1:, INPUTS:])  # it knows what comes
    samples = Z[:, None].astype(np.float32)
    for z in samples[:50]:
        next(late.told)
        mixture.step(z)
    mixture.put("late", late)
    for z in samples[50 : 50 + int(kernel.SETTLE_SAMPLES)]:
        mixture.step(z)
        assert mixture.mean_weights["late"] == 0.0 and mixture.number == 0
    for z in samples[50 + int(kernel.SETTLE_SAMPLES) : 1_500]:
        mixture.step(z)
    assert mixture.mean_weights["late"] > 0.8 and mixture.number == 7
    version = Guess(8)
    version.told = late.told
    mixture.put("late", version)
    mixture.step(samples[1_500])
    assert mixture.mean_weights["late"] > 0.8 and mixture.number == 8


def test_there_is_room_for_so_many_and_the_advice_says_what_to_do() -> None:
    mixture = Mixture(SPEC, {f"g{i}": Guess() for i in range(kernel.MAX_MEMBERS)})
    with pytest.raises(SpecError, match="leave some out of --model"):
        mixture.put("one more", Guess())


def test_forecasts_are_made_by_the_models_that_were_judged() -> None:
    """Persistence and the recursive model have never been tried in free run."""
    model = checkpoint_of(shaken(beginning("gru", Z)), 4)
    mixture = Mixture(SPEC, {PERSISTENCE: Persistence(SPEC), RECURSIVE: Recursive(SPEC)})
    alone = open_predictor(model)
    mixture.put("gru", open_predictor(model))
    for z in Z[:100, None].astype(np.float32):
        mixture.step(z)
        alone.step(z)
    now, u = Z[None, 100].astype(np.float32), np.full((1, 20, 1), 2.0, np.float32)
    assert np.allclose(mixture.free_run(now, u), alone.free_run(now, u), rtol=1e-5)
    fleet = mixture.fork(3)
    assert list(fleet.members) == ["gru"] and fleet.number == 4
    runs = fleet.free_run(np.repeat(now, 3, axis=0), np.repeat(u, 3, axis=0))
    assert np.allclose(runs, alone.free_run(now, u), rtol=1e-5)
    mixture.step(now)
    fleet.take_over(mixture)
    assert np.allclose(fleet.state[0], mixture.members["gru"].state[0])


def judged(runs: dict[str, float], known: tuple[str, ...], y: float, portions: int) -> Foresight:
    """After so many portions in which each member's run was at a value, and the output went from 0 to y."""
    foresight = Foresight(1, 0.02, 16)
    came = np.linspace(0.0, y, 16)[:, None]
    for _ in range(portions):
        foresight.judge({name: np.full((16, 1), value) for name, value in runs.items()}, came, known)
    return foresight


def test_in_a_forecast_each_has_the_say_that_its_free_runs_earned() -> None:
    weights = judged({"good": 0.5, "bad": 3.0, "recursive": 0.5}, ("good", "bad"), 1.0, 3).weights
    assert weights["good"] > 0.95 and weights["bad"] == 0.0
    weights = judged({"good": 0.5, "bad": 3.0, "recursive": 0.5}, ("good", "bad"), 1.0, 60).weights
    assert weights["recursive"] == pytest.approx(weights["good"], rel=0.05), "it has shown what it can"
    weights = judged({"old": 30.0, "recursive": 0.5}, ("old",), 1.0, 20).weights
    assert weights["recursive"] == pytest.approx(1.0), "where the plant has become another"
    weights = judged({"one": 0.5, "other": 0.5, "still": 0.5}, ("one", "other"), 1.0, 20).weights
    assert weights["one"] == weights["other"] == pytest.approx(0.5), "those that know how it will start"


def test_what_was_bad_long_ago_is_forgotten_and_what_runs_away_has_no_say() -> None:
    foresight = judged({"one": 0.5, "other": 9.0}, ("one", "other"), 1.0, 30)
    came = np.linspace(0.0, 1.0, 16)[:, None]
    for _ in range(60):
        foresight.judge({"one": np.full((16, 1), 9.0), "other": came}, came, ("one", "other"))
    assert foresight.weights["other"] == pytest.approx(1.0)
    runs = np.array([[0.5, 0.6], [5.0, 1e6], [0.5, np.nan]])[:, :, None]
    mean = mean_of(runs, np.ones((3, 1, 1)), foresight.limits)
    assert mean[:, 0].tolist() == pytest.approx([0.5, 0.6])
    assert mean_of(runs[:2] + 1e3, np.ones((2, 1, 1)), foresight.limits)[0] == pytest.approx(1002.75), (
        "all do"
    )


def test_a_twins_forecasts_are_mixed_by_free_runs_on_its_stream() -> None:
    twin = Twin(SPEC, window=50, recursive=True)
    twin.refresh(checkpoint_of(shaken(beginning("gru", Z), 1.0), 4))
    followed(twin, range(1_500))
    mixture = twin.bank.mixture
    assert mixture is not None and mixture.foresight is twin.horizon_errors.foresight
    members, weights, limits = mixture.tried()
    assert weights.sum(axis=0).tolist() == pytest.approx([1.0, 1.0]) and limits is not None
    assert weights[list(members).index(RECURSIVE)].max() > 0.1, "weights at random are worse in free run"
    fork = twin.present().predictor
    assert isinstance(fork, Blend) and set(fork.members) == set(members)
    now, u = np.array([[2.0, *twin.detection.expected]], np.float32), np.full((1, 20, 1), 2.0, np.float32)
    each = np.stack(
        [member.free_run(now, u) for member in mixture.members.values() if member in members.values()]
    )
    assert np.allclose(fork.free_run(now, u), (weights[:, None, None] * each).sum(axis=0), rtol=1e-4)


def test_a_blend_leaves_out_what_is_no_number() -> None:
    good, bad = Persistence(SPEC), Guess()
    bad.told = iter(np.full((1, OUTPUTS), np.nan))
    blend = Blend({"good": good, "bad": bad}, np.full((2, OUTPUTS), 0.5))
    z = Z[None, 50].astype(np.float32)
    assert np.array_equal(blend.step(z), z[:, INPUTS:])


def test_a_newcomer_does_not_lead_before_anything_has_happened() -> None:
    random = np.random.default_rng(3)
    following = np.roll(Z[:700, INPUTS:], -1, axis=0)[:, None]
    answers = following + 0.02 * random.normal(size=(700, 2, 2))
    answers[650, 1] += 2.0  # the first step of the voltage that it sees
    first, late = Guess(), Guess(7)
    first.told = iter(answers[:, 0].astype(np.float32))
    late.told = iter(answers[500:, 1].astype(np.float32))
    mixture = Mixture(SPEC, {"first": first})
    for k, z in enumerate(Z[:651, None].astype(np.float32)):
        if k == 500:
            mixture.put("late", late)
        mixed = mixture.step(z)[0].copy()
    assert (np.abs(mixed - following[650, 0]) < 0.5 * 2.0).all()


def test_who_is_far_off_whenever_something_happens_does_not_lead_while_nothing_does() -> None:
    """Equations with a wrong inductance: the better ones at rest, and far off at each step of the voltage."""
    random = np.random.default_rng(3)
    following = np.roll(Z[:3_000, INPUTS:], -1, axis=0)[:, None]
    answers = following + np.array([[[0.02], [0.03]]]) * random.normal(size=(3_000, 2, 2))
    answers[300::300, 0] += 2.0
    _, mixed = guessing(answers.astype(np.float32))
    errors, single = mixed[1_000:] - following[1_000:, 0], answers[1_000:, 0] - following[1_000:, 0]
    assert (rmse(errors) < 0.7 * rmse(single)).all(), (
        "by the weights alone it is as the one that leads at rest"
    )


# -- the recursive model -----------------------------------------------------------------------------


def test_it_becomes_the_least_squares_model_of_all_samples() -> None:
    spec = Spec(inputs=("u",), outputs=("y",), dt=0.1)
    random = np.random.default_rng(5)
    u, y = random.normal(size=2_000), np.zeros(2_001)
    for k in range(2_000):
        y[k + 1] = 1.5 * y[k] - 0.6 * y[k - 1] + 0.3 * u[k] + 0.1 + 0.01 * random.normal()
    z = np.column_stack([u, y[:-1]])
    model = Recursive(spec)
    model.warm(z[None, :-1])
    n, lag = len(z), least_squares.TAPS + 1
    rows = np.arange(lag, n - 1)
    phi = np.column_stack([z[rows - i] for i in range(lag)])[:, : 2 * lag - 1]
    phi = np.delete(phi, 2 * least_squares.TAPS, axis=1)  # TAPS inputs, TAPS + 1 outputs
    phi = np.column_stack([phi, z[rows - least_squares.TAPS, 1], np.ones(len(rows))])
    forget = (1 - 1 / recursive.MEMORY_SAMPLES) ** (rows[-1] - rows)
    root = np.sqrt(forget)[:, None]
    solution = np.linalg.lstsq(phi * root, (z[rows + 1, 1] * root[:, 0]), rcond=None)[0]
    now = np.concatenate([[z[n - 1 - i, 0], z[n - 1 - i, 1]] for i in range(least_squares.TAPS)])
    wanted = np.concatenate([now, [z[n - 1 - least_squares.TAPS, 1], 1.0]]) @ solution
    assert model.step(z[None, -1])[0, 0] == pytest.approx(wanted, abs=3e-4)


def noisy(samples: int, gain: float, y: float = 0.0, seed: int = 5, push: int = -1) -> Array:
    """(T, 2) of a plant of the second order with noise of 0.01, from a y on; something pushes it once."""
    random, found = np.random.default_rng(seed), np.full((samples, 2), y)
    found[:, 0] = np.repeat(random.normal(size=-(-samples // 10)), 10)[:samples]
    for k in range(1, samples):
        before = found[max(k - 2, 0), 1]
        found[k, 1] = 1.5 * found[k - 1, 1] - 0.6 * before + gain * found[k - 1, 0] + 0.01 * random.normal()
        found[k, 1] += float(k == push)
    return found


def rms_over(z: Array, start: int, end: int) -> float:
    """RMS error of what the recursive model expects of some samples of such a plant."""
    model = Recursive(Spec(inputs=("u",), outputs=("y",), dt=0.1))
    ahead = [model.step(row)[0, 0] for row in z[:end, None].astype(np.float32)]
    return float(np.sqrt(np.mean((z[start:end, 1] - ahead[start - 1 : end - 1]) ** 2)))


def test_another_plant_is_learned_in_dozens_of_samples_whatever_was_before() -> None:
    old = noisy(3_000, 0.3)
    z = np.concatenate([old, noisy(1_000, 0.9, old[-1, 1], seed=7)])
    assert rms_over(z, 3_150, 3_400) < 1.3 * 0.01
    assert rms_over(z, 3_600, 4_000) < 1.1 * 0.01, "the new memory has taken the old one's place"


def test_a_push_is_no_other_plant_and_costs_nothing_that_was_learned() -> None:
    pushed = rms_over(noisy(4_000, 0.3, push=3_000), 3_001, 4_000)
    assert pushed < 1.03 * rms_over(noisy(4_000, 0.3), 3_001, 4_000)


def test_it_is_better_than_persistence_after_dozens_of_samples_whatever_the_units() -> None:
    for unit in (1e-6, 1.0, 1e6):
        z = (Z[:1_000] * unit).astype(np.float32)
        model = Recursive(SPEC)
        ahead = np.array([model.step(row)[0].copy() for row in z[:, None]])
        errors, still = z[1:, INPUTS:] - ahead[:-1], np.diff(z[:, INPUTS:], axis=0)
        late = slice(-500, None)
        ratio = np.sqrt((errors[late] ** 2).mean(axis=0) / (still[late] ** 2).mean(axis=0))
        assert (ratio < 0.5).all()


def test_it_learns_from_no_answer_of_its_own_and_a_restart_keeps_what_it_learned() -> None:
    model, z = Recursive(SPEC), Z[None].astype(np.float32)
    model.warm(z[:, :1_000])
    at = recursive.places(3, OUTPUTS)
    known = model.state[0, at.c : at.work].copy()
    model.adapting = False
    model.warm(z[:, 1_000:1_200])
    assert np.array_equal(model.state[0, at.c : at.work], known)
    model.adapting = True
    model.reset(learned=False)
    model.warm(z[:, :5])
    assert np.array_equal(model.state[0, at.c : at.work], known), "the taps are not full yet"
    model.reset()
    assert not model.state.any()


def test_its_free_run_is_its_steps_and_leaves_no_trace() -> None:
    model, z = Recursive(SPEC), Z[:, None].astype(np.float32)
    model.warm(z[None, :500, 0])
    before = model.state
    u = Z[None, 501:531, :INPUTS].astype(np.float32)
    run = model.free_run(z[500], u)
    assert np.array_equal(model.state, before)
    other, sample = model.fork(1), z[500].copy()
    for k in range(30):
        answer = other.step(sample)[0]
        assert np.array_equal(answer, run[0, k])
        sample = np.concatenate([u[0, k], answer])[None].astype(np.float32)


# -- the twin ----------------------------------------------------------------------------------------


def sample(k: int, epoch: int = 1) -> Sample:
    return SPEC.sample(k, Z[k % len(Z)].tolist(), epoch=epoch)


def followed(twin: Twin, seqs: range, epoch: int = 1) -> list[Prediction]:
    """Answers by the way that a twin's loop takes: from bytes to bytes where it can."""
    found = []
    for k in seqs:
        frame = pack(sample(k, epoch))
        if twin.take(frame):
            message = unpack(topic(Prediction, "m").encode(), bytes(twin.answer(1, 2, 3)))
            assert isinstance(message, Prediction)
            found.append(message)
        else:
            answer = twin.step(sample(k, epoch))
            assert answer is not None
            found.append(answer)
        twin.catch_up()
    return found


def trained(family: str, number: int) -> Checkpoint:
    return checkpoint_of(shaken(beginning(family, Z), 0.01), number)


def test_it_answers_from_the_first_sample_on_and_says_by_whom() -> None:
    twin = Twin(SPEC, window=50, recursive=True)
    answers = followed(twin, range(600))
    assert answers[0].y == pytest.approx(sample(0).y), "of one sample nothing can be learned"
    assert all(set(answer.weights) == {PERSISTENCE, RECURSIVE} for answer in answers if answer.weights)
    assert all(answer.model == 0 for answer in answers)
    twin.refresh(trained("gru", 3))
    answers = followed(twin, range(600, 1_000))
    assert twin.counters.swaps == 1 and twin.swaps[0].text == "model 3 (gru) answers"
    assert twin.take(pack(sample(1_000))), "the plain case is that of several models too"
    twin.answer(1, 2, 3)
    weights = followed(twin, range(1_001, 1_002))[0].weights
    assert isinstance(weights, dict) and set(weights) == {PERSISTENCE, RECURSIVE, "gru"}
    assert sum(weights.values()) == pytest.approx(1.0)


def test_from_bytes_and_from_messages_come_the_same_answers() -> None:
    one, other = (Twin(SPEC, window=50, recursive=True) for _ in range(2))
    for k in range(1_200):
        if k == 300:
            for twin in (one, other):
                twin.refresh(trained("gru", 1))
        if k == 500:
            for twin in (one, other):
                twin.refresh(trained("window-rnn", 2))
        (quickly,) = followed(one, range(k, k + 1))
        slowly = other.step(sample(k))
        other.catch_up()
        assert slowly is not None
        assert quickly.y == slowly.y and quickly.weights == slowly.weights
        assert quickly.model == slowly.model and quickly.low == slowly.low
    assert one.counters.swaps == 2


def test_alone_a_model_is_what_it_was() -> None:
    twin = Twin(SPEC, window=50)
    twin.refresh(trained("gru", 1))
    answers = followed(twin, range(300))
    assert twin.bank.mixture is None and answers[-1].weights is UNSET


def test_a_broken_member_is_left_out_and_the_others_answer() -> None:
    twin = Twin(SPEC, window=50, recursive=True, adapt=False)
    followed(twin, range(200))
    twin.refresh(broken(5))
    answers = followed(twin, range(200, 400))
    assert all(np.isfinite(list(answer.y.values())).all() for answer in answers)
    assert all(answer.status == "following" for answer in answers)
    assert twin.counters.invalid == 1 and twin.bank.names == (PERSISTENCE, RECURSIVE)


def test_a_gap_teaches_nothing_and_a_restart_keeps_the_weights() -> None:
    twin = Twin(SPEC, window=50, recursive=True)
    twin.refresh(trained("gru", 1))
    followed(twin, range(800))
    assert twin.bank.mixture is not None
    followed(twin, range(820, 821))
    assert twin.counters.bridged == 20
    before = twin.bank.mixture.mean_weights
    followed(twin, range(1), epoch=2)
    after = twin.bank.mixture.mean_weights
    assert twin.counters.restarts == 1
    assert after == pytest.approx(before), "what was expected belongs to another run"


def test_the_version_before_takes_its_place_again_if_the_new_one_is_worse() -> None:
    good = trained("gru", 1)
    worse = checkpoint_of(shaken(beginning("gru", Z), 0.01), 2)
    bias = worse.tensors["core.readout.bias"]
    bias += 5.0
    twin = Twin(SPEC, window=50, adapt=False)
    twin.refresh(good)
    followed(twin, range(100))
    twin.refresh(worse)
    numbers = [answer.model for answer in followed(twin, range(100, 100 + 3 * MIN_SHADOW_SAMPLES))]
    assert 2 in numbers and numbers[-1] == 1
    assert numbers.count(2) <= MIN_SHADOW_SAMPLES + 10
    assert twin.swaps[-1].back and "does better" in twin.swaps[-1].text
    followed(twin, range(300, 1_500))
    assert twin.model == 1 and twin.bank.idle, "the trial is over"


@pytest.mark.parametrize("adapt", [False, True])
def test_a_version_on_trial_does_not_come_back_over_a_gap(adapt: bool) -> None:
    """It would be a version that has just been replaced, taken for a new one."""
    twin = Twin(SPEC, window=50, adapt=adapt)
    twin.refresh(trained("gru", 1))
    followed(twin, range(100))
    twin.refresh(trained("gru", 2))
    k = 100
    while twin.model == 1:
        followed(twin, range(k, k + 1))
        k += 1
        assert k < 2_000
    assert not twin.bank.idle
    followed(twin, range(k + 10, k + 11))
    assert twin.counters.bridged == 10 and twin.bank.idle
    assert all(answer.model == 2 for answer in followed(twin, range(k + 11, k + 500)))


def test_parameters_are_those_of_one_member_whoever_leads() -> None:
    """Two members may know a motor, each in its way: between them nothing has changed."""
    mixture = Mixture(SPEC, {"physics": open_predictor(trained("physics", 1))})
    mixture.put("hybrid", open_predictor(checkpoint_of(beginning("hybrid", Z * [1.0, 2.0, 1.0]), 2)))
    of_physics = mixture.members["physics"].parameters
    assert of_physics != mixture.members["hybrid"].parameters
    for weights in ((0.9, 0.1), (0.1, 0.9)):
        mixture.weights[:] = np.array(weights)[:, None]
        assert mixture.parameters == of_physics


def test_what_its_members_do_travels_as_a_message() -> None:
    twin = Twin(SPEC, window=50, recursive=True)
    twin.refresh(trained("gru", 9))
    followed(twin, range(400))
    assert twin.bank.mixture is not None
    told = members_message(twin.bank.mixture, SPEC, twin.t)
    found = unpack(topic(Members, "m").encode(), pack(told))
    assert isinstance(found, Members)
    assert found.models == {PERSISTENCE: 0, RECURSIVE: 0, "gru": 9}
    assert found.errors[RECURSIVE].keys() == set(SPEC.outputs)


def test_a_change_is_told_of_once_and_a_disturbance_never() -> None:
    """A step of the load looks like another plant for a while, but what is learned from it is no better."""
    z = Z.copy()
    z[2_000:, 1] *= 3.0
    z[2_000:, 2] *= 0.4
    twin = Twin(SPEC, window=50, recursive=True)
    twin.refresh(trained("gru", 1))
    found: list[tuple[int, str]] = []
    for k, row in enumerate(z.tolist()):
        twin.step(SPEC.sample(k, row))
        twin.catch_up()
        if k % 100 == 99:
            found += [(k, name) for name in twin.bank.noticed()]
    assert found and all(name == "gru" for _, name in found)
    assert min(k for k, _ in found if k >= 2_000) < 2_400
    assert len([k for k, _ in found if k >= 2_000]) <= 2
    assert twin.bank.noticed() == []


# -- the trainers ------------------------------------------------------------------------------------


def test_all_members_begin_and_then_take_turns() -> None:
    config = TrainerConfig(model="auto", hidden_size=8, steps=2, batch=4, horizon=20, period=0.3, history=5)
    found = members(SPEC, ["arx", "physics", "gru"], "compiled", None, **config.sizes)
    trainers = Trainers(SPEC, config, found, 20)
    turns: list[tuple[str, float]] = []
    for k in range(3_000):
        trainers.observe(sample(k))
        while trainers.due:
            decisions = [now for now in trainers.turn() if isinstance(now, Decision)]
            assert trainers.current is not None
            turns.append((trainers.current.config.model, trainers.t))
            if decisions[-1].name == "accepted":
                assert decisions[-1].verdict.text.startswith(f"{turns[-1][0]}: model ")
    names = [name for name, _ in turns]
    assert names[:6] == ["arx", "physics", "gru"] * 2
    first, later = turns[:3], turns[3:]
    assert len({t for _, t in first}) == 1, "each has its first turn at once"
    assert all(b - a >= 0.3 - 1e-9 for (_, a), (_, b) in pairwise(later))
    numbers = [each.number for each in trainers.members.values() if each.number]
    assert len(set(numbers)) == len(numbers) and trainers.taken >= max(numbers)
    assert len({id(each.history) for each in trainers.members.values()}) == 1


def test_a_plant_is_given_what_serves_it() -> None:
    other = Spec(inputs=("u",), outputs=("y",), dt=0.02)
    assert families_for(SPEC) == (RECURSIVE, "physics", "gru", "hybrid", "window-rnn")
    assert families_for(other) == (RECURSIVE, "gru", "window-rnn")
    present = {"lstm": checkpoint_of(beginning("lstm", Z), 2)}
    sizes = TrainerConfig().sizes
    found = members(SPEC, ["auto"], "compiled", present, **sizes)
    assert [each.family for each in found] == ["physics", "gru", "hybrid", "window-rnn", "lstm"]
    assert found[1].sizes["hidden_size"] == 32 and found[-1].sizes == present["lstm"].sizes
    with pytest.raises(CheckpointError, match="asked for is a lstm"):  # who would go on from it
        Trainers(SPEC, TrainerConfig(), found, 20)
    assert [each.family for each in members(SPEC, ["auto"], "eager", None, **sizes)] == ["physics"]
    with pytest.raises(SpecError, match="physics needs a motor's voltage"):
        members(other, ["physics"], "compiled", None, **sizes)
