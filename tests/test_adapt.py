"""The fast path: compiled against the recursion written to be read, and what it promises on motors."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from simulators import motor
from simulators.dc_motor import DCMotor
from simulators.quick_motor import quick
from tests.models import new_network
from twin.backends.compiled import Compiled
from twin.checkpoint import Checkpoint
from twin.handover import MIN_SHADOW_SAMPLES
from twin.kernels import rls
from twin.messages import Spec
from twin.models.network import Network
from twin.models.scaling import Scaling
from twin.twin import Twin

Array = npt.NDArray[np.float64]
SPEC = Spec(inputs=("voltage",), outputs=("current", "speed"), dt=0.001)
MOTOR = motor()
CHANGED = 6_000
LENGTH = 12_000


@lru_cache
def stream(changed: DCMotor = MOTOR, length: int = LENGTH) -> Array:
    """(T, 3) of the default motor, which becomes another."""
    return quick(MOTOR, length, seed=3, changes=[(CHANGED, changed)]).z


def other() -> DCMotor:
    return replace(MOTOR, resistance=1.4 * MOTOR.resistance, coulomb_friction=2 * MOTOR.coulomb_friction)


@lru_cache
def checkpoint(family: str = "gru", layers: int = 1) -> Checkpoint:
    """A model whose linear part is fitted to the motor, and whose hidden units say something small."""
    z = quick(MOTOR, 20_000, seed=11).z
    model = new_network(
        family, SPEC, Scaling.of(z, 2), hidden_size=12, layers=layers, taps=8, window=8, seed=3
    )
    model.fit(z)
    return of(model, one_step_rmse=(0.0031, 0.16))


def of(model: Network, one_step_rmse: tuple[float, float]) -> Checkpoint:
    metrics = {f"one_step_rmse.{name}": e for name, e in zip(SPEC.outputs, one_step_rmse, strict=True)}
    return Checkpoint(1, None, model.family, model.sizes, SPEC, model.tensors(), metrics=metrics)


def answers(predictor: Compiled, z: Array) -> Array:
    """ŷ (T, P) of the sample after each of z (T, F)."""
    return np.array([predictor.step(sample[None])[0].copy() for sample in z], np.float64)


def errors(predictor: Compiled, z: Array) -> Array:
    """y - ŷ (T - 1, P)."""
    return np.asarray(z[1:, 1:] - answers(predictor, z)[:-1])


def rms(e: Array) -> Array:
    return np.asarray(np.sqrt(np.mean(e**2, axis=0)))


def opened(family: str = "gru", adapting: bool = True, **sizes: Any) -> Compiled:
    predictor = Compiled(checkpoint(family, **sizes), 1)
    predictor.adapting = adapting
    return predictor


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gru", "lstm", "rnn"])
def test_compiled_it_does_what_is_written_to_be_read(family: str) -> None:
    predictor, z = opened(family), stream(other())[CHANGED - 3_000 : CHANGED + 3_000]
    layout, row = predictor._layout, predictor._rows[0]
    readout = predictor._weights[layout.readout : layout.bias].reshape(2, -1)
    increments = checkpoint(family).tensors["increment_scale"]
    noise = rls.noise_of(increments, np.array([0.0031, 0.16]))
    read = rls.Readout(
        rls.prior(layout, readout, increments, noise), 2, layout.taps, layout.lanes + layout.taps * 3
    )
    apart, phi = [], np.zeros(layout.regressors)
    ours = np.zeros((3, 2))
    for k, sample in enumerate(z):
        if k > layout.taps:
            read.learn(phi, (sample[1:] - ours) / noise)
        predictor.step(sample[None])
        phi = row[layout.samples - layout.lanes : layout.y].astype(np.float64)
        past = layout.one - layout.samples + layout.lanes + 1
        apart.append(np.abs(phi[past : past + 2] - read.innovation).max())
        phi[past : past + 2] = read.innovation
        ours = row[layout.answers : layout.answers + 2] + noise * read.answer(phi)
        theirs = row[layout.answers : layout.answers + 6].reshape(3, 2)
        apart.append(np.abs((ours[1] - theirs[1]) / noise).max())
    assert read.trial.count == predictor.changes_found > 0
    assert np.abs(read.learning.delta).max() > 0.1
    # float32 against float64: parts of σ; most where the change makes everything large
    assert np.median(apart) < 1e-3
    assert np.quantile(apart, 0.99) < 0.01
    assert max(apart) < 0.5


def test_a_changed_motor_is_followed_and_the_old_one_not_forgotten() -> None:
    """A second after the change the error is near what it was, where the checkpoint's is ten times as large;
    back on the old motor, too."""
    z = quick(MOTOR, 4 * CHANGED, seed=3, changes=[(CHANGED, other()), (3 * CHANGED, MOTOR)]).z
    adapted, left = errors(opened(), z), errors(opened(adapting=False), z)
    before = rms(adapted[1_000:CHANGED])
    after = slice(CHANGED + 2_000, 3 * CHANGED)
    assert (rms(left[after]) > [10, 3] * before).all()
    assert (rms(adapted[after]) < 1.6 * before).all()
    back = slice(3 * CHANGED + 2_000, None)
    assert (rms(adapted[back]) < 1.2 * rms(left[back])).all()


def test_on_an_unchanged_motor_it_is_not_worse_than_the_checkpoint() -> None:
    """Which is the best linear model of the motor; as good as that, it costs some percent to be ready for
    another one."""
    z = stream(length=20_000)
    assert (rms(errors(opened(), z)[500:]) < 1.04 * rms(errors(opened(adapting=False), z)[500:])).all()


def test_nothing_drifts_at_rest() -> None:
    """Half a minute without voltage or load, and the motor is known as before."""
    voltage = quick(MOTOR, 44_000, seed=3).z[:, 0].copy()
    voltage[6_000:36_000] = 0.0
    z = quick(MOTOR, 44_000, seed=3, voltage=voltage, load=0.0).z
    adapted, left = errors(opened(), z), errors(opened(adapting=False), z)
    assert (rms(adapted[36_000:]) < 1.1 * rms(left[36_000:])).all()
    predictor = opened()
    predictor.warm(z[None, :36_000])
    learned = predictor._learned
    assert learned is not None and np.isfinite(learned).all()


def test_one_outlier_does_no_harm() -> None:
    z = stream().copy()
    clean = errors(opened(), z)[3_100:CHANGED]
    z[3_000, 1:] += [1.0, 300.0]
    assert (rms(errors(opened(), z)[3_100:CHANGED]) < 1.1 * rms(clean)).all()


def test_until_it_adapts_it_answers_as_the_weights_say_and_after_reset_too() -> None:
    z = stream()[:2_000]
    plain, adapted = opened(adapting=False), opened()
    expected = answers(plain, z)
    assert not np.array_equal(answers(adapted, z), expected)
    adapted.reset()
    adapted.adapting = False
    assert np.array_equal(answers(adapted, z), expected)


def test_a_free_run_uses_what_was_learned_and_leaves_everything_as_it_was() -> None:
    z = stream(other())
    one, two = opened(), opened()
    for predictor in (one, two):
        answers(predictor, z[: CHANGED + 3_000])
    begin, ahead = z[None, CHANGED + 3_000], z[None, CHANGED + 3_001 : CHANGED + 3_051, :1]
    run = one.free_run(begin, ahead)
    plain = opened(adapting=False)
    answers(plain, z[: CHANGED + 3_000])
    truth = z[CHANGED + 3_001 : CHANGED + 3_051, 1:]
    assert (rms(run[0] - truth) < 0.5 * rms(plain.free_run(begin, ahead)[0] - truth)).all()
    rest = z[CHANGED + 3_000 : CHANGED + 3_500]
    assert np.array_equal(answers(one, rest), answers(two, rest))


def test_warming_adapts_like_stepping() -> None:
    z = stream()[:1_000]
    stepped, warmed = opened(), opened()
    answers(stepped, z[:900])
    warmed.warm(z[None, :500])
    warmed.warm(z[None, 500:900])
    assert np.array_equal(answers(stepped, z[900:]), answers(warmed, z[900:]))


def test_bridged_samples_teach_nothing() -> None:
    predictor, z = opened(), stream()[:2_000]
    answers(predictor, z)
    learned = predictor._learned
    assert learned is not None
    before = learned.copy()
    predictor.adapting = False
    answers(predictor, z[:50])
    predictor.adapting = True
    answers(predictor, z[60:69])  # until all taps are measured again
    assert np.array_equal(learned, before)
    predictor.step(z[69:70])
    assert not np.array_equal(learned, before)


@pytest.mark.parametrize(("family", "rows"), [("window-rnn", 1), ("gru", 3)])
def test_who_cannot_adapt_takes_the_wish_without_effect(family: str, rows: int) -> None:
    z = np.repeat(stream()[:300, None], rows, axis=1)
    wished, plain = (Compiled(checkpoint(family), rows) for _ in range(2))
    wished.adapting = True
    for sample in z:
        assert np.array_equal(wished.step(sample), plain.step(sample))


def test_a_twin_tells_its_predictors_to_adapt_but_not_in_a_gap() -> None:
    twin = Twin(SPEC, window=50, adapt=True)
    twin.refresh(checkpoint())
    assert twin.bank.spare is not None and twin.bank.spare.adapting
    twin.catch_up()
    wishes: list[bool] = []
    active = twin.active
    assert isinstance(active, Compiled)
    step = active.step
    active.step = lambda z: wishes.append(active.adapting) or step(z)  # type: ignore[method-assign, func-returns-value]
    for k in (0, 1, 2, 5, 6):
        twin.step(SPEC.sample(k, stream()[k].tolist()))
    assert wishes == [True, True, True, False, False, True, True]


def test_a_new_model_answers_when_it_has_shown_on_the_stream_that_it_is_better() -> None:
    """Until then it runs in the shadow of the one in use, which has learned from all samples, and a newer one
    may take its place there."""
    good, bad = checkpoint(), noisy(checkpoint())
    twin, samples = Twin(SPEC, window=50), iter(enumerate(stream(length=6_000)))

    def follow(count: int) -> None:
        for seq, row in islice(samples, count):
            twin.step(SPEC.sample(seq, row.tolist()))
            twin.catch_up()

    twin.refresh(replace(bad, number=1))
    follow(500)
    assert twin.model == 1, "the first one answers at once"
    twin.refresh(replace(good, number=2))
    follow(MIN_SHADOW_SAMPLES)
    assert twin.model == 1 and twin.bank.makes_room
    follow(2_000)
    assert twin.model == 2
    twin.refresh(replace(bad, number=3))
    assert not twin.bank.makes_room
    follow(MIN_SHADOW_SAMPLES)
    with pytest.MonkeyPatch.context() as patch:
        looks: list[int] = []
        patch.setattr(twin.horizon_errors, "look", lambda *_: looks.append(1))
        follow(MIN_SHADOW_SAMPLES)
    assert len(looks) == MIN_SHADOW_SAMPLES, "forecasts are looked after meanwhile"
    assert twin.model == 2 and twin.bank.makes_room
    twin.refresh(replace(good, number=4))
    assert twin.spare is not None and twin.spare.number == 4
    assert twin.counters.swaps == 2


def noisy(model: Checkpoint) -> Checkpoint:
    """The same, its readout off by a lot more than a readout learns within a second."""
    weight = model.tensors["core.readout.weight"]
    off = np.random.default_rng(0).normal(0, 3.0, weight.shape).astype(np.float32)
    return replace(model, tensors={**model.tensors, "core.readout.weight": weight + off})
