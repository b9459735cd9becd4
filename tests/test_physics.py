"""The motor's equations against SciPy and the simulator, and what the family makes of a motor's samples."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.linalg
import torch

from simulators import DCMotor, Scenario, SensorNoise, default_load, default_voltage, motor, signal
from simulators.dc_motor import MOTORS
from simulators.quick_motor import quick
from simulators.scenario import Drift
from simulators.simulate import Solver, simulate
from twin.backends.opening import open_predictor
from twin.checkpoint import Checkpoint
from twin.config import TrainerConfig
from twin.errors import SpecError
from twin.families import PHYSICAL, motor_columns
from twin.kernels.motor import PARAMETERS, advance, room
from twin.messages import Spec
from twin.models.identification import guess, identify
from twin.models.model import Identifies, Model
from twin.models.opening import new_model
from twin.models.physics import Physics
from twin.models.scaling import Scaling
from twin.predictor import Predictor
from twin.trainer import Trainer

torch.set_num_threads(1)

Array = npt.NDArray[Any]
QUBE = motor("qube-servo-3")
DT = 1e-3


def values_of(plant: DCMotor) -> Array:
    """R, L, K, J, b, τ_c, and the units of b and τ_c."""
    k = 0.5 * (plant.torque_constant + plant.back_emf)
    friction = (
        plant.viscous_friction,
        plant.coulomb_friction,
        k * k / plant.resistance,
        0.2 * plant.rated_torque,
    )
    return np.array([plant.resistance, plant.inductance, k, plant.inertia, *friction])


@cache
def stream(
    seconds: float, drifts: tuple[Drift, ...] = (), name: str = "qube-servo-3", dt: float = DT
) -> Array:
    """Samples (T, 3) of a motor: v, i, ω."""
    plant = motor(name)
    samples = simulate(
        plant,
        voltage=signal(default_voltage(plant), 3),
        load=signal(default_load(plant), 4),
        dt=dt,
        duration=seconds,
        noise=SensorNoise.of(plant),
        scenario=Scenario(drifts=drifts),
    )
    return np.array([[s.u["voltage"], s.y["current"], s.y["speed"]] for s in samples])


def fitted(z: Array, family: str = "physics", spec: Spec | None = None, **sizes: int) -> Model:
    model = new_model(family, spec or QUBE.spec(DT), Scaling.of(z, 2), **sizes)
    assert isinstance(model, Identifies)
    for _ in model.identify([z], known=False):
        pass
    return model


@cache
def found() -> Model:
    return fitted(stream(6.0))


def opened(model: Model, spec: Spec | None = None, backend: str = "compiled") -> Predictor:
    made = Checkpoint(1, None, model.family, model.sizes, spec or QUBE.spec(DT), model.tensors())
    return open_predictor(made, backend)


def answers(predictor: Predictor, z: Array) -> Array:
    return np.stack([predictor.step(row[None])[0].copy() for row in z])


def rms(e: Array) -> Array:
    return np.asarray(np.sqrt(np.square(e).mean(axis=0)))


# -- the equations -----------------------------------------------------------------------------------


def exact(p: Array, dt: float, v: float, x: Array) -> Array:
    """A motor that turns forward, by the exponential of a matrix."""
    r, inductance, k, j, b, dry = p[:PARAMETERS]
    a = np.zeros((3, 3))
    a[0] = -r / inductance, -k / inductance, v / inductance
    a[1] = k / j, -b / j, -(dry + x[2]) / j
    return np.asarray((scipy.linalg.expm(a * dt) @ [x[0], x[1], 1.0])[:2])


@pytest.mark.parametrize("dt", [1e-4, 1e-3, 5e-3])
@pytest.mark.parametrize("name", MOTORS)
@pytest.mark.slow
def test_a_period_is_the_exponential_and_its_derivatives_are_difference_quotients(
    name: str, dt: float
) -> None:
    plant = motor(name)
    p, v = values_of(plant), 0.4 * plant.rated_voltage
    x = np.array([1.5 * plant.no_load_current(v) + 0.1, plant.no_load_speed(v), 0.1 * plant.rated_torque])
    new, f, g, c = room()
    advance(p, dt, v, x, new, f, g, c, True)
    assert new[:2] == pytest.approx(exact(p, dt, v, x), rel=1e-9)
    for n in range(3):
        h = np.eye(3)[n] * 1e-3 * max(abs(x[n]), 1e-3)
        quotient = (exact(p, dt, v, x + h) - exact(p, dt, v, x - h)) / (2 * h[n])
        assert f[:, n] == pytest.approx(quotient, rel=1e-5, abs=1e-9)
    for n in range(PARAMETERS):
        other = []
        for h in (1e-4, -1e-4):
            q = p.copy()
            q[n] = q[n] * np.exp(h) if n < 4 else q[n] + h * p[2 + n]
            other.append(exact(q, dt, v, x))
        scale = np.abs(x[:2]) * 1e-5 + 1e-9
        assert (np.abs(g[:, n] - (other[0] - other[1]) / 2e-4) < scale).all(), n


def test_equal_eigenvalues_and_oscillations_are_no_special_cases() -> None:
    new, f, g, c = room()
    for inductance in (2e-3, 0.2737, 0.27371, 2.0):  # real, nearly equal, complex
        p = values_of(replace(QUBE, inductance=inductance, coulomb_friction=0.0))
        x = np.array([0.4, 60.0, 0.001])
        advance(p, DT, 6.0, x, new, f, g, c, False)
        assert new[:2] == pytest.approx(exact(p, DT, 6.0, x), rel=1e-9)


def test_standstill_breakaway_and_reversal_are_the_simulator_s() -> None:
    """From rest, and through it: the simulator locates the instants, this is one formula."""
    rng, solver = np.random.default_rng(0), Solver()
    p, (new, f, g, c) = values_of(QUBE), room()
    modes = set()
    for _ in range(400):
        speed = rng.choice([0.0, rng.uniform(-0.5, 0.5), rng.uniform(-20, 20)])
        v, load, i = rng.uniform(-3, 3), rng.uniform(-2e-3, 2e-3), rng.uniform(-0.2, 0.2)
        wanted = solver.advance(QUBE, (i, speed), (v, load), DT)
        advance(p, DT, v, np.array([i, speed, load]), new, f, g, c, False)
        modes.add((np.sign(speed), np.sign(wanted[1])))
        assert new[0] == pytest.approx(wanted[0], abs=1e-3)  # a third of the sensor's noise
        assert new[1] == pytest.approx(wanted[1], abs=0.1)  # the sensor's noise is 0.12
        if speed == 0.0:
            assert (new[1] == 0.0) == (wanted[1] == 0.0)
    assert len(modes) >= 7


# -- identification ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dt"), [("qube-servo-3", 1e-3), ("maxon-re25", 1e-3), ("qube-servo-3", 5e-3)]
)
def test_a_motor_is_found_in_seconds_of_its_stream(name: str, dt: float) -> None:
    z, work = stream(6.0, (), name, dt), None
    work = identify(guess([z], dt), [z], dt)
    while True:
        try:
            next(work)
        except StopIteration as end:
            made = end.value
            break
    p = values_of(motor(name))
    assert made.values[[0, 2, 3]] == pytest.approx(p[[0, 2, 3]], rel=0.01)
    assert made.values[5] == pytest.approx(p[5], rel=0.1)
    errors = np.sqrt(np.diag(made.covariance))
    assert (errors[:4] < (0.005, 0.2, 0.005, 0.01)).all()
    off = np.log(made.values[:4] / p[:4]) / errors[:4]
    off = off[[0, 1, 3]] if name.startswith("maxon") else off  # whose K_t and K_e differ by 0.3 %
    assert np.abs(off).max() < 8


def test_it_answers_almost_as_well_as_noise_allows() -> None:
    z = stream(6.0, (), "qube-servo-3", DT)
    missed = z[1:, 1:] - answers(opened(found()), z)[:-1]
    noise = SensorNoise.of(QUBE)
    assert (rms(missed[100:]) < np.array([1.1, 1.25]) * (noise.current_rms, noise.speed_rms)).all()


def test_signals_are_known_by_their_units_in_any_order() -> None:
    spec = Spec(inputs=("u",), outputs=("w", "i"), dt=DT, units={"u": "V", "w": "rad/s", "i": "A"})
    assert motor_columns(spec) == (1, 0)
    z = stream(6.0)
    other = fitted(z[:, [0, 2, 1]], spec=spec)
    one, two = answers(opened(found()), z[:300]), answers(opened(other, spec), z[:300, [0, 2, 1]])
    assert np.allclose(one, two[:, ::-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", PHYSICAL)
@pytest.mark.parametrize(
    "spec",
    [
        Spec(inputs=("pwm",), outputs=("position",), dt=0.02),
        Spec(inputs=("voltage",), outputs=("current", "position"), dt=0.02),
        Spec(inputs=("voltage",), outputs=("current", "speed"), dt=0.02, units={"speed": "rpm"}),
        Spec(inputs=("voltage", "brake"), outputs=("current", "speed"), dt=0.02),
    ],
)
def test_another_plant_is_refused_with_the_remedy(family: str, spec: Spec) -> None:
    with pytest.raises(SpecError, match=r"physics needs .* this plant publishes .* take --model gru"):
        Trainer(spec, TrainerConfig(model=family), 100)


# -- adapting ----------------------------------------------------------------------------------------

CHANGE = (
    Drift(parameter="resistance", factor=1.4, at=1.0),
    Drift(parameter="coulomb_friction", factor=2.0, at=1.0),
)


def test_it_follows_a_change_only_while_it_adapts() -> None:
    z, errors = stream(3.0, CHANGE), {}
    for adapting in (False, True):
        predictor = opened(found())
        predictor.adapting = adapting
        errors[adapting] = rms(z[2001:, 1:] - answers(predictor, z)[2000:-1])
        r, _ = predictor.parameters["R"]
        assert r == pytest.approx(7.5 * (1.4 if adapting else 1.0), rel=0.01)
    noise = SensorNoise.of(QUBE)
    assert (errors[True] < 1.2 * np.array([noise.current_rms, 1.15 * noise.speed_rms])).all()
    assert errors[False][0] > 10 * errors[True][0]


def test_reset_brings_back_the_checkpoint_s_parameters() -> None:
    predictor = opened(found())
    before = predictor.parameters
    predictor.adapting = True
    answers(predictor, stream(3.0, CHANGE))
    assert predictor.parameters["R"][0] > 1.2 * before["R"][0]
    predictor.reset()
    assert predictor.parameters == before


def test_what_was_learned_stays_while_it_does_not_adapt() -> None:
    z = stream(3.0, CHANGE)
    predictor = opened(found())
    predictor.adapting = True
    answers(predictor, z)
    known = {name: value for name, (value, _) in predictor.parameters.items()}
    predictor.adapting = False
    answers(predictor, z[:500])
    assert {name: value for name, (value, _) in predictor.parameters.items()} == known


def test_a_motor_that_stands_teaches_nothing_and_forgets_nothing() -> None:
    predictor = opened(found())
    predictor.adapting = True
    answers(predictor, stream(6.0))
    before = predictor.parameters
    noise = np.random.default_rng(0).normal(size=(60_000, 3)) * [0.0, 0.003, 0.1]
    answers(predictor, noise)
    after = predictor.parameters
    for name in ("R", "K", "J", "tau_c"):
        assert after[name][0] == pytest.approx(before[name][0], rel=0.05)
        assert after[name][1] < 0.06 * after[name][0]


@pytest.mark.parametrize(("column", "size"), [(1, 2.0), (2, 100.0)])
def test_one_outlier_is_not_believed(column: int, size: float) -> None:
    z = stream(6.0)[:1_000].copy()
    clean = opened(found())
    clean.adapting = True
    wanted = answers(clean, z)
    z[700, column] += size
    predictor = opened(found())
    predictor.adapting = True
    got = answers(predictor, z)
    assert (np.abs(got - wanted)[700] < (0.02, 0.5)).all()
    assert (np.abs(got - wanted)[705:] < (0.005, 0.2)).all()
    for name, (value, _) in predictor.parameters.items():
        if name in "RKJ":
            assert value == pytest.approx(clean.parameters[name][0], rel=2e-3)


@pytest.mark.slow
def test_a_motor_without_noise_and_load_is_followed_to_the_rounding_of_its_samples() -> None:
    z = quick(QUBE, 12_000, load=0.0, noise=SensorNoise.none()).z
    model = fitted(z[:6_000])
    assert isinstance(model, Physics)
    assert (model.motor.noise[:2] >= 0.5e-6 * np.abs(z[:6_000, 1:]).max(axis=0)).all(), (
        "less than float32 has"
    )
    predictor = opened(model)
    error = z[1:, 1:] - answers(predictor, z)[:-1]
    assert (rms(error[6_000:]) < (1e-4, 1e-3)).all()


@pytest.mark.parametrize("adapting", [False, True])
def test_a_small_jump_of_the_load_is_found(adapting: bool) -> None:
    load = np.zeros(3_000)
    load[2_000:] = 0.05 * QUBE.rated_torque  # within its first ten samples lost in the sensor's noise
    run = quick(QUBE, 3_000, load=load)
    predictor = opened(found())
    predictor.adapting = adapting
    error = run.x[1:, 1] - answers(predictor, run.z)[:-1, 1]
    assert np.abs(error[1_000:1_990]).mean() < 0.04
    assert np.abs(error[2_010:2_030]).mean() < 0.15


@pytest.mark.parametrize("adapting", [False, True])
def test_a_motor_that_creeps_out_of_standstill_is_believed(adapting: bool) -> None:
    """Slower than one sample would be believed: 0.4 rad/s beside noise of 0.1."""
    predictor = opened(found())
    predictor.adapting = adapting
    v = np.concatenate([np.tile(np.repeat([5.0, -5.0], 250), 4), np.zeros(500)])
    before = quick(QUBE, len(v), voltage=v, load=0.0).z
    noise = np.random.default_rng(4).normal(size=(200, 2)) * (0.003, 0.1)
    creeping = np.column_stack([np.full(200, 0.4), np.full(200, 0.06), np.full(200, 0.4)])
    creeping[:, 1:] += noise
    got = answers(predictor, np.concatenate([before, creeping]))[-100:, 1]
    assert got.mean() == pytest.approx(0.4, abs=0.1)


def test_a_motor_that_settles_within_a_period_is_found() -> None:
    """A mechanical time constant of 4 ms, sampled every 20 ms."""
    plant, dt = motor("maxon-re25"), 0.02
    model = fitted(quick(plant, 900, dt=dt, seed=4).z, spec=plant.spec(dt))
    values = {name: value for name, (value, _) in model.means().items()}
    assert values["R"] == pytest.approx(plant.resistance, rel=0.03)
    assert values["K"] == pytest.approx(plant.torque_constant, rel=0.01)
    assert values["J"] == pytest.approx(plant.inertia, rel=0.3)


def test_after_a_pause_it_goes_on_with_what_it_has_learned() -> None:
    predictor = opened(found())
    predictor.adapting = True
    answers(predictor, stream(3.0, CHANGE))
    learned = predictor.parameters["R"][0]
    predictor.reset(learned=False)
    answers(predictor, stream(3.0, CHANGE)[-200:])
    assert predictor.parameters["R"][0] == pytest.approx(learned, rel=0.05)


def test_a_state_of_standstill_put_back_repeats_what_followed() -> None:
    noise = np.random.default_rng(5).normal(size=(1_000, 3)) * [0.0, 0.003, 0.1]
    predictor, other = opened(found()), opened(found())
    answers(predictor, np.concatenate([stream(6.0)[:1_000], noise[:500]]))
    other.state = predictor.state
    assert np.array_equal(answers(other, noise[500:]), answers(predictor, noise[500:]))


@pytest.mark.parametrize(
    "z",
    [
        np.zeros((400, 3)),
        np.tile([5.0, 0.1, 80.0], (400, 1)),
        np.column_stack([np.tile(np.repeat([5.0, -5.0], 20), 10), np.zeros((400, 2))]),
        np.column_stack([np.tile(np.repeat([5.0, -5.0], 20), 10), np.tile([0.3, -0.3], 200), np.zeros(400)]),
    ],
    ids=["nothing", "nothing moves", "only the voltage", "no speed"],
)
def test_where_there_is_no_motor_none_is_made_up(z: Array) -> None:
    model = new_model("physics", QUBE.spec(DT), Scaling.of(stream(1.0), 2))
    assert isinstance(model, Physics)
    try:
        for _ in model.identify([z], known=False):
            pass
    except SpecError:
        return
    assert all(np.isfinite(tensor).all() for tensor in model.tensors().values())


def test_what_no_pass_improves_stays_as_sure_as_it_was() -> None:
    drift = (Drift(parameter="resistance", factor=1.4, at=0.5, duration=3.0),)
    model = found()
    assert isinstance(model, Physics)
    found_motor, errors = model.motor, []
    for _ in range(4):
        work = identify(found_motor, [stream(4.0, drift)], DT, passes=1)
        try:
            while True:
                next(work)
        except StopIteration as end:
            found_motor = end.value
        errors.append(float(np.sqrt(found_motor.covariance[0, 0])))
    assert errors[3] == errors[2], "no pass was better than the second"


def test_a_free_run_does_not_adapt() -> None:
    predictor = opened(found())
    predictor.adapting = True
    z = stream(6.0)
    answers(predictor, z[:500])
    before, state = predictor.parameters, predictor.state
    predictor.free_run(z[500:501], z[None, 501:600, :1])
    assert predictor.parameters == before and np.array_equal(predictor.state, state)


# -- the trainer -------------------------------------------------------------------------------------


def trained(z: Array, family: str, at: Sequence[int]) -> tuple[Trainer, list[bool]]:
    spec = QUBE.spec(DT)
    trainer = Trainer(spec, TrainerConfig(model=family), 100)
    passed = []
    for seq, row in enumerate(z.tolist()):
        trainer.observe(spec.sample(seq, row))
        if seq in at:
            assert trainer.enough().passed
            for share in trainer.refit():
                assert 0 < share <= 1
            passed.append(trainer.accept().passed)
    return trainer, passed


def test_the_trainer_takes_the_first_model_and_no_other_that_is_not_worth_it() -> None:
    trainer, passed = trained(stream(6.0), "physics", (2_500, 5_900))
    assert passed == [True, False] and trainer.number == 1


def test_after_a_change_the_refit_forgets_the_old_motor() -> None:
    drift = (Drift(parameter="resistance", factor=1.4, at=4.0),)
    trainer, passed = trained(stream(10.0, drift), "physics", (3_900, 9_900))
    assert passed == [True, True] and trainer.incumbent is not None
    assert trainer.incumbent.means()["R"][0] == pytest.approx(1.4 * 7.5, rel=0.01)


@pytest.mark.slow
def test_a_twin_with_a_motor_needs_no_torch() -> None:
    code = (
        "import sys; from twin.backends.opening import prepare; from twin.families import sizes_of; "
        "prepare('compiled', 'hybrid', sizes_of('hybrid', 1, 2, 8)); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- the correction ----------------------------------------------------------------------------------


def test_a_new_hybrid_is_its_physics() -> None:
    z = stream(6.0)
    scaling = Scaling.of(z, 2)
    hybrid, physics = (
        new_model(f, QUBE.spec(DT), scaling, hidden_size=8, taps=3) for f in ("hybrid", "physics")
    )
    for model in (hybrid, physics):
        model.fit(z)
    assert np.array_equal(answers(opened(hybrid), z[:300]), answers(opened(physics), z[:300]))


@pytest.mark.slow
def test_the_hybrid_learns_what_the_physics_cannot_say() -> None:
    """An amplifier that loses half a volt, of either sign."""
    z = stream(10.0).copy()
    z[:, 0] += 0.5 * np.sign(z[:, 0])
    missed = {}
    for family in PHYSICAL:
        model = fitted(z[:8_000], family, hidden_size=8, taps=8)
        missed[family] = rms((z[1:, 1:] - answers(opened(model), z)[:-1])[8_000:])
    assert missed["hybrid"][0] < 0.8 * missed["physics"][0]
    assert missed["hybrid"][1] < 1.05 * missed["physics"][1]
