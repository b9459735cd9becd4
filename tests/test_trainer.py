"""The trainer on samples of a simulated motor: its two gates, and what it may and may not learn from."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from numpy.typing import NDArray

from simulators import SensorNoise, motor, signal, simulate
from tests.models import as_network
from twin.checkpoint import load, numbers, save
from twin.config import Config, TrainerConfig
from twin.errors import CheckpointError
from twin.families import FAMILIES
from twin.messages import Sample, Spec
from twin.models.model import Model
from twin.models.network import _loss
from twin.service.trainer import turn
from twin.trainer import CHANGED_CAUTION, Trainer
from twin.trainers import Trainers
from twin.twin import Twin
from twin.validation import Verdict

torch.set_num_threads(1)

DT = 0.005
MOTOR = motor()
SPEC = MOTOR.spec(DT)
WINDOW = 20
SMALL = TrainerConfig(model="gru", hidden_size=8, horizon=30, batch=16, steps=20, period=1.0, history=6.0)
SEGMENT = WINDOW + SMALL.horizon


def samples(voltage: str, duration: float = 6.0, noise: bool = True) -> list[Sample]:
    run = simulate(
        MOTOR,
        voltage=signal(voltage),
        load=signal("const:0"),
        dt=DT,
        duration=duration,
        noise=SensorNoise.of(MOTOR) if noise else None,
    )
    return list(run)


PRBS = samples("prbs:8,hold=0.05", 9.0)
"""Half as much again as the history holds."""


def trainer(stream: Iterable[Sample] = (), config: TrainerConfig = SMALL, spec: Spec = SPEC) -> Trainer:
    found = Trainer(spec, config, WINDOW)
    for sample in stream:
        found.observe(sample)
    return found


def counted(seq: int, epoch: int = 1) -> Sample:
    """A sample whose input says which it is."""
    return SPEC.sample(seq, [1e4 * epoch + seq, 0.0, seq % 7], epoch=epoch)


def weights(model: Model | None) -> NDArray[np.float32]:
    assert model is not None
    return np.concatenate([tensor.ravel() for _, tensor in sorted(model.tensors().items())])


def refitted(stream: Iterable[Sample], config: TrainerConfig = SMALL) -> Trainer:
    found = trainer(stream, config)
    for _ in found.refit():
        pass
    return found


@pytest.fixture(scope="module")
def accepted() -> tuple[Trainer, Verdict]:
    """A trainer with one model, accepted early; tests that go on from it take a copy of their own, with more
    samples."""
    found = refitted(PRBS[:400])
    return found, found.accept()


def again(accepted: tuple[Trainer, Verdict], stream: Iterable[Sample] = PRBS[:1200]) -> Trainer:
    found = Trainer(SPEC, SMALL, WINDOW, accepted[0].checkpoint(accepted[1]))
    for sample in stream:
        found.observe(sample)
    return found


# -- the first gate ----------------------------------------------------------------------------------


@pytest.mark.parametrize("voltage", ["prbs:8,hold=0.05", "steps:8", "multisine:8"])
def test_excitation_is_enough(voltage: str) -> None:
    verdict = trainer(samples(voltage, 3.0)).enough()
    assert verdict.passed and verdict.figures["excitation"] > 1e-6
    assert verdict.figures["samples"] == 600


@pytest.mark.parametrize("voltage", ["const:6", "const:0", "const:-1e-3"])
def test_a_constant_input_teaches_nothing(voltage: str) -> None:
    verdict = trainer(samples(voltage, 3.0)).enough()
    assert not verdict.passed and "voltage" in verdict.text


def test_a_motor_that_does_not_leave_its_friction_teaches_nothing() -> None:
    verdict = trainer(samples("prbs:0.1,hold=0.05", 3.0, noise=False)).enough()
    assert not verdict.passed and "speed does not move" in verdict.text


def test_every_input_must_move() -> None:
    spec = Spec(inputs=("voltage", "brake"), outputs=("current", "speed"), dt=DT)
    stream = [replace(s, u={**s.u, "brake": 3.0}) for s in PRBS[:600]]
    verdict = trainer(stream, spec=spec).enough()
    assert not verdict.passed and "brake hardly moves" in verdict.text


def test_a_stream_broken_too_often_has_no_segment() -> None:
    verdict = trainer(s for s in PRBS if s.seq % SEGMENT).enough()
    assert not verdict.passed and "unbroken" in verdict.text


def test_it_is_due_once_a_period() -> None:
    first = round(SMALL.period / DT)  # more than the three segments that are needed at least
    found = trainer(PRBS[: first - 1])
    assert not found.due
    found.observe(PRBS[first - 1])
    assert found.due and found.enough().passed
    assert not found.due, "asked and answered"
    for _ in found.refit():
        pass
    assert found.accept().passed and found.number == 1
    waited = 0
    for sample in PRBS[first:]:
        found.observe(sample)
        waited += 1
        if found.due:
            break
    assert waited == SMALL.period / DT


def at_rest(stream: Iterable[Sample]) -> list[Sample]:
    """The same instants of a motor that stands, whose voltage is nearly zero."""
    return [replace(s, u={"voltage": 1e-4 * (s.seq % 2)}, y={"current": 0.0, "speed": 0.0}) for s in stream]


def test_at_rest_after_movement_there_is_nothing_new_to_learn() -> None:
    """The history as a whole still moves; a refit would unlearn it on what is newest."""
    assert trainer(PRBS[:1000]).enough().passed
    found = trainer([*PRBS[:600], *at_rest(PRBS[600:1000])])
    verdict = found.enough()
    assert not verdict.passed and "at rest" in verdict.text and verdict.figures["excitation"] > 1e-6
    for sample in PRBS[1000:1100]:
        found.observe(sample)
    assert found.enough().passed, "it moves again"


# -- the history -------------------------------------------------------------------------------------


def test_no_segment_straddles_a_gap_or_a_restart() -> None:
    found = trainer()
    stream = [counted(seq) for seq in range(1_000) if seq not in (130, 131, 400)]
    for sample in [
        *stream,
        *(counted(seq, 2) for seq in range(300)),
        *(counted(seq, 3) for seq in range(300, 600)),
    ]:
        found.observe(sample)
    starts = found.history.starts(0, found.history.count)
    segments = found.history.segments(starts)[:, :, 0]
    assert np.all(np.diff(segments, axis=1) == 1)
    begins = set(segments[:, 0].astype(int).tolist())
    # the history holds the last 1,200: of the first epoch, the samples from 400 on
    whole = [range(10_401, 11_000), range(20_000, 20_300), range(30_300, 30_600)]
    assert begins == {k for run in whole for k in run[: len(run) - SEGMENT + 1]}


def test_no_segment_straddles_a_gap_that_leaves_the_history_during_a_refit() -> None:
    stream = [counted(seq) for seq in range(2_000) if seq != 320]
    found = trainer(stream[:1_200])
    seen: list[NDArray[np.float32]] = []
    segments = found.history.segments

    def noted(starts: NDArray[np.int64]) -> NDArray[np.float32]:
        seen.append(segments(starts))
        return seen[-1]

    found.history.segments = noted  # type: ignore[method-assign]
    rest = iter(stream[1_200:])
    for _ in found.refit():
        for sample in islice(rest, 75):
            found.observe(sample)
    assert len(seen) > 3
    for z in seen:  # the gap stands in the oldest segment of the history when the last ones are chosen
        assert np.all(np.diff(z[:, :, 0], axis=1) == 1)


def test_a_refit_that_the_stream_overtakes_trains_on_nothing_later() -> None:
    """Its samples may leave the history before it ends; newer ones are the judge's."""
    found, end = trainer(counted(seq) for seq in range(1_200)), 1100
    segments, last = found.history.segments, 0.0

    def noted(starts: NDArray[np.int64]) -> NDArray[np.float32]:
        nonlocal last
        z = segments(starts)
        last = max(last, float(z[:, :, 0].max()))
        return z

    found.history.segments = noted  # type: ignore[method-assign]
    rest = iter(range(1_200, 20_000))
    for _ in found.refit():
        for seq in islice(rest, 400):
            found.observe(counted(seq))
    assert 0 < last < 10_000 + end


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e39, 1e308])
def test_a_sample_that_no_model_could_take_is_left_out_and_breaks_the_history(value: float) -> None:
    found = trainer(PRBS[:100])
    bad = replace(PRBS[100], y={"current": value, "speed": 0.0})
    assert not found.observe(bad) and not found.observe(replace(PRBS[100], u={}))
    assert found.history.count == 100
    assert found.observe(PRBS[101])
    assert not len(found.history.starts(100 - SEGMENT + 1, 101))


def test_the_history_is_bounded() -> None:
    found = trainer(counted(2 * seq) for seq in range(4_000))  # a gap after every sample
    assert found.history.view().shape == (1_200, 3) and len(found.history._breaks) <= 1_200


# -- refit -------------------------------------------------------------------------------------------


def test_a_refit_goes_step_by_step_and_leaves_a_candidate_at_its_end() -> None:
    found = trainer(PRBS[:1200])
    turns = found.refit()
    first = next(turns)
    assert 0 < first < 1 and found.candidate is None
    assert not found.accept().passed, "there is none yet"
    shares = [first, *turns]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert found.candidate is not None and found.incumbent is None


def test_the_first_model_beats_persistence_and_the_next_the_first(accepted: tuple[Trainer, Verdict]) -> None:
    _, verdict = accepted
    assert verdict.passed and "persistence" in verdict.text
    assert verdict.figures["one_step_ratio"] < 0.5 and verdict.figures["free_run_ratio"] < 0.5
    found = again(accepted)
    for _ in found.refit():
        pass
    second = found.accept()
    assert second.passed and "against model 1" in second.text
    assert (found.number, found.parent) == (2, 1)
    assert second.figures["free_run_rmse.speed"] < second.figures["incumbent_free_run_rmse.speed"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_refitted(family: str) -> None:
    config = SMALL.model_copy(update={"model": family, "steps": 8, "sequence_length": 5})
    found = refitted(PRBS[:600], config)
    assert found.candidate is not None and found.candidate.family == family
    assert np.isfinite(weights(found.candidate)).all()
    assert set(found.accept().figures) >= {"one_step_ratio", "free_run_rmse.speed"}


def test_the_same_seed_and_samples_give_the_same_model() -> None:
    one, two = (weights(refitted(PRBS[:600]).candidate) for _ in range(2))
    other = weights(refitted(PRBS[:600], SMALL.model_copy(update={"model_seed": 2})).candidate)
    assert np.array_equal(one, two) and not np.array_equal(one, other)


@pytest.mark.parametrize("incumbent", [False, True])
def test_a_refit_never_sees_the_held_out_part(incumbent: bool, accepted: tuple[Trainer, Verdict]) -> None:
    """Another plant in the newest part: the candidate must come out the same to the last bit."""

    def candidate(stream: list[Sample]) -> NDArray[np.float32]:
        found = again(accepted, stream) if incumbent else trainer(stream)
        for _ in found.refit():
            pass
        return weights(found.candidate)

    def another(sample: Sample) -> Sample:
        return replace(sample, u={"voltage": 99.0}, y={"current": -7.0, "speed": 1e4 * sample.t})

    stream = PRBS[:1200]
    later = [*stream[:1100], *map(another, stream[1100:])]
    earlier = [*stream[:1099], another(stream[1099]), *stream[1100:]]
    assert np.array_equal(candidate(stream), candidate(later))
    if not incumbent:  # the control: one sample earlier is seen, by the scaling at the latest
        assert not np.array_equal(candidate(stream), candidate(earlier))


def test_it_judges_on_samples_that_came_after_those_it_learned_from() -> None:
    found = refitted(PRBS[:1200])
    assert found._lesson is not None
    held_out = found.history.starts(found._lesson.end, found.history.count)
    assert held_out.min() == 1100 and held_out.max() + SEGMENT == 1200


def test_what_the_history_no_longer_holds_is_learned_from_all_the_same() -> None:
    found = trainer(PRBS[:300])
    for seq in range(300, 1_600):
        found.observe(replace(PRBS[0], seq=seq, t=seq * DT))
    assert len(found.history.past), "the first 300 have left"
    lesson = found._next_lesson()
    batch, _ = lesson.segments(lesson.starts())
    assert batch.shape == (SMALL.batch, SEGMENT, 3)
    assert sum(float(z[:, 2].std()) > 0 for z in batch) >= SMALL.batch // 8


def test_older_segments_of_another_plant_are_not_learned_from(accepted: tuple[Trainer, Verdict]) -> None:
    """What the newest say against them is decided for each segment: those of the same plant count."""
    found = again(accepted)
    model = as_network(found.incumbent)
    same = found.history.segments(np.arange(0, 1_000, SEGMENT))
    other = same.copy()
    other[:, :, 2] = other[::-1, :, 2]  # speeds that do not go with these voltages
    half = len(same) // 2

    def gradient(z: NDArray[np.float32]) -> NDArray[np.float32]:
        model.zero_grad()
        _loss(model, torch.from_numpy(z), half, WINDOW).backward()  # type: ignore[no-untyped-call]
        return np.concatenate([np.ravel(p.grad) for p in model.parameters() if p.grad is not None])

    alone, mixed = gradient(same[:half]), gradient(np.concatenate((same[:half], other[half:])))
    assert np.allclose(alone, mixed, rtol=1e-3, atol=1e-5)
    assert not np.allclose(alone, gradient(same), rtol=1e-3, atol=1e-5)


def scaled(stream: Iterable[Sample], by: float) -> list[Sample]:
    return [
        replace(s, u={"voltage": by * s.u["voltage"]}, y={name: by * y for name, y in s.y.items()})
        for s in stream
    ]


def test_a_model_of_tiny_movements_is_left_for_a_new_one() -> None:
    """Its scaling is that of the first samples: a refit cannot mend it."""
    found = refitted(scaled(PRBS[:400], 0.01))
    assert found.accept().passed and found.incumbent is not None
    small = found.incumbent.scaling.scale
    for sample in PRBS[400:]:
        found.observe(sample)
    for _ in found.refit():
        pass
    assert found.candidate is not None
    assert np.all(found.candidate.scaling.scale > 20 * small)
    verdict = found.accept()
    assert verdict.passed and "against model 1" in verdict.text and found.parent == 1
    for _ in found.refit():
        pass
    assert found.candidate is not None
    assert np.array_equal(found.candidate.scaling.scale, found.incumbent.scaling.scale), "it goes on"


def test_a_new_model_that_is_refused_leaves_the_next_turn_to_the_incumbent() -> None:
    found = refitted(scaled(PRBS[:400], 0.01))
    assert found.accept().passed and found.incumbent is not None
    for sample in PRBS[400:]:
        found.observe(sample)
    begun = []
    for _ in range(3):
        next(found.refit())
        assert found._lesson is not None
        begun.append(not found._lesson.known)
    assert begun == [True, False, True]


@pytest.mark.parametrize("value", [math.nan, 3e38])
def test_an_incumbent_that_is_not_finite_is_left_for_a_new_one(
    value: float, accepted: tuple[Trainer, Verdict]
) -> None:
    found = again(accepted)
    with torch.no_grad():
        as_network(found.incumbent).get_parameter("core.readout.bias").fill_(value)
    for _ in found.refit():
        pass
    verdict = found.accept()
    assert verdict.passed and "against persistence" in verdict.text
    assert all(math.isfinite(figure) for figure in verdict.figures.values())
    assert (found.number, found.parent) == (2, 1)


# -- the second gate ---------------------------------------------------------------------------------


def test_a_worse_candidate_is_refused_and_the_incumbent_stays(accepted: tuple[Trainer, Verdict]) -> None:
    found = again(accepted)
    for _ in found.refit():
        pass
    before = weights(found.incumbent)
    with torch.no_grad():
        as_network(found.candidate).get_parameter("core.readout.bias").add_(0.5)
    verdict = found.accept()
    assert not verdict.passed and verdict.figures["one_step_ratio"] > 1
    assert found.number == 1 and np.array_equal(weights(found.incumbent), before)
    assert found.candidate is None, "it is not offered twice"


def test_a_candidate_must_be_better_in_free_run_too(accepted: tuple[Trainer, Verdict]) -> None:
    """The incumbent itself is no better than itself."""
    found = again(accepted)
    for _ in found.refit():
        pass
    assert found.candidate is not None and found.incumbent is not None
    found.candidate.load(found.incumbent.tensors())
    verdict = found.accept()
    assert not verdict.passed
    assert verdict.figures["one_step_ratio"] == verdict.figures["free_run_ratio"] == 1.0


@pytest.mark.parametrize("model", ["auto", "physics"])
def test_a_motor_keeps_its_equations(model: str) -> None:
    found = refitted(PRBS[:1200], SMALL.model_copy(update={"model": model}))
    assert found.accept().passed and found.incumbent is not None
    assert found.incumbent.family == "physics"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("core.readout.bias", math.nan),
        ("core.readout.bias", 3e38),  # finite, but its answers are not
        ("core.net.weight_hh_l0", math.nan),
        ("core.net.weight_hh_l0", math.inf),
    ],
)
def test_a_candidate_that_is_not_finite_is_refused(
    name: str, value: float, accepted: tuple[Trainer, Verdict], tmp_path: Path
) -> None:
    found = again(accepted)
    for _ in found.refit():
        pass
    with torch.no_grad():
        as_network(found.candidate).get_parameter(name).view(-1)[0] = value
    verdict = found.accept()
    assert not verdict.passed
    assert all(math.isfinite(figure) for figure in verdict.figures.values())
    save(tmp_path, found.checkpoint(accepted[1]))  # what is in use is still sound
    assert found.number == 1


def test_an_interrupted_stream_leaves_nothing_to_judge_on() -> None:
    found = trainer(PRBS[:1200])
    turns = found.refit()
    next(turns)
    for sample in PRBS[1200:]:
        found.observe(replace(sample, seq=3 * sample.seq))
    for _ in turns:
        pass
    found.history = trainer().history
    assert not found.accept().passed


def test_an_incumbent_of_another_plant_is_refused(accepted: tuple[Trainer, Verdict]) -> None:
    checkpoint = accepted[0].checkpoint(accepted[1])
    for spec in (replace(SPEC, dt=0.01), replace(SPEC, inputs=("u",)), replace(SPEC, outputs=("speed",))):
        with pytest.raises(CheckpointError, match="--run-dir"):
            Trainer(spec, SMALL, WINDOW, checkpoint)


def test_after_a_change_a_cautious_trainer_dares_again(accepted: tuple[Trainer, Verdict]) -> None:
    """With a resistance half as high again, the incumbent errs several times as much as is usual."""
    plant = dataclasses.replace(MOTOR, resistance=1.5 * MOTOR.resistance)
    run = simulate(plant, voltage=signal("prbs:8,hold=0.05"), load=signal("const:0"), dt=DT, duration=2.0)
    found = again(accepted)
    for _ in found.refit():
        pass
    assert found.accept().passed, "what is usual is known from now on"
    found.caution = 1 / 16
    for sample in run:
        found.observe(replace(sample, epoch=sample.epoch + 1))
    lesson = found._next_lesson()
    assert lesson.known and lesson.changed
    untrained = copy.deepcopy(as_network(found.incumbent))
    for _ in untrained.refit(dataclasses.replace(lesson, steps=1, rate=0.0)):
        pass
    z = found.history.evenly(found.history.starts(lesson.end, found.history.count), 16)
    models = untrained, as_network(found.incumbent)
    errors = [found.judge.errors(found._made(model, {}), z) for model in models]
    assert errors[0].ratio(errors[1])[0] < 0.5, "before any training"
    for _ in found.refit():
        pass
    assert found.caution == CHANGED_CAUTION and found.accept().passed


# -- the way out -------------------------------------------------------------------------------------


def test_there_is_no_checkpoint_before_a_model_is_accepted() -> None:
    with pytest.raises(CheckpointError, match="no model"):
        refitted(PRBS[:600]).checkpoint(Verdict(True, ""))


def test_a_checkpoint_comes_back_from_the_disk_and_is_served(
    accepted: tuple[Trainer, Verdict], tmp_path: Path
) -> None:
    found, verdict = accepted
    checkpoint = load(save(tmp_path, found.checkpoint(verdict)))
    assert (checkpoint.number, checkpoint.parent, checkpoint.family) == (1, None, "gru")
    assert checkpoint.metrics == verdict.figures and checkpoint.config["hidden_size"] == 8
    twin = Twin(SPEC, window=WINDOW, adapt=False)
    twin.refresh(checkpoint)
    twin.catch_up()
    model = as_network(found.incumbent)
    z = np.array([[s.u["voltage"], s.y["current"], s.y["speed"]] for s in PRBS[:200]], np.float32)
    with torch.no_grad():
        whole, _ = model(torch.from_numpy(z[None]), model.initial_state(1))
    own, held = [], []
    for sample, expected in zip(PRBS[:200], whole[0], strict=True):
        answer = twin.step(sample)
        assert answer is not None and answer.model == 1
        assert list(answer.y.values()) == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-5)
        own.append(answer.residual.get("speed", 0.0))
        held.append(sample.y["speed"] - PRBS[max(sample.seq - 1, 0)].y["speed"])
    assert np.std(own[WINDOW:]) < np.std(held[WINDOW:])


def test_a_model_of_another_kind_is_not_gone_on_from(accepted: tuple[Trainer, Verdict]) -> None:
    found, verdict = accepted
    checkpoint = found.checkpoint(verdict)
    Trainer(SPEC, SMALL, WINDOW, checkpoint)
    for change in ({"model": "lstm"}, {"hidden_size": SMALL.hidden_size + 1}, {"taps": SMALL.taps + 1}):
        with pytest.raises(CheckpointError, match=r"--model.*--run-dir"):
            Trainer(SPEC, SMALL.model_copy(update=change), WINDOW, checkpoint)


def test_a_number_that_is_taken_is_not_given_again(accepted: tuple[Trainer, Verdict]) -> None:
    found = again(accepted)
    found.taken = 7  # a damaged checkpoint lies there
    for _ in found.refit():
        pass
    assert found.accept().passed
    assert (found.number, found.parent) == (8, 1)


def test_three_segments_are_needed_however_short_the_period() -> None:
    found = trainer(PRBS[: 3 * SEGMENT - 1], SMALL.model_copy(update={"period": 0.01}))
    assert not found.due
    found.observe(PRBS[3 * SEGMENT - 1])
    assert found.due


def test_the_first_model_is_scaled_on_an_unbroken_stretch() -> None:
    broken = [sample if sample.seq < 300 else replace(sample, seq=sample.seq + 5) for sample in PRBS[:900]]
    far = [replace(s, y={"current": s.y["current"], "speed": s.y["speed"] + 1e4}) for s in broken[:300]]
    found = refitted([*far, *broken[300:]])
    assert found.candidate is not None
    assert float(found.candidate.scaling.increment_scale[1]) < 20, (
        "a jump of 10,000 rad/s between two runs is no increment"
    )


class Told:
    """A publisher that nobody hears, and a stream on which nothing comes."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def event(self, name: str, text: str, t: float = 0.0, **figures: float) -> None:
        self.events.append(name)

    def recv(self, timeout: float) -> None:
        return None


def test_a_model_that_could_not_be_saved_is_not_gone_on_from(
    accepted: tuple[Trainer, Verdict], tmp_path: Path
) -> None:
    found = again(accepted)
    trainers = Trainers(found.spec, found.config, [], WINDOW)
    trainers.members[found.config.model] = found
    before = weights(found.incumbent)
    told, stop = Told(), False
    rest: Any = (told, told, tmp_path / "file", stop, None)
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(CheckpointError):
        turn(Config(), trainers, *rest)
    assert found.number == 1 and np.array_equal(weights(found.incumbent), before)
    rest = (told, told, tmp_path / "run", stop, None)
    found.refitted_at = 0  # it is due again
    turn(Config(), trainers, *rest)
    assert numbers(tmp_path / "run") == [found.number] and found.parent == 1
    assert told.events[-1] == "accepted"


def test_an_adapting_incumbent_is_judged_by_what_it_has_learned(accepted: tuple[Trainer, Verdict]) -> None:
    """The same candidate, against an incumbent that follows a changed plant and against one that does not."""
    ratios = []
    for adapt in (False, True):
        found = again(accepted, [replace(s, y={**s.y, "speed": 0.7 * s.y["speed"]}) for s in PRBS])
        found.judge.adapt = adapt
        for _ in found.refit():
            pass
        ratios.append(found.accept().figures["one_step_ratio"])
    assert ratios[1] > 1.2 * ratios[0]
