"""The real motor: its machine code against the written-out equations, and each effect against theory."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from simulators import (
    RealMotor,
    Scenario,
    SensorNoise,
    default_load,
    default_voltage,
    motor,
    signal,
    simulate,
)
from simulators.effects import Driver, Effect, Ripple, Sensing, Shaft, Stribeck, Winding
from simulators.plant import Plant
from simulators.quick_motor import quick
from simulators.real_flow import RealSolver, states
from simulators.real_motor import EFFECTS
from simulators.simulate import Solver
from twin.cli.plant import open_plant
from twin.errors import ConfigError
from twin.settings import load

DT = 1e-3
Array = NDArray[np.float64]


def real() -> RealMotor:
    found = motor("qube-servo-3-real")
    assert isinstance(found, RealMotor)
    return found


def only(*effects: str) -> RealMotor:
    """The real motor with these effects and no other."""
    return real().without(*(name for name in EFFECTS if name not in effects))


def still(**effects: Effect) -> RealMotor:
    """The real motor with other effects only."""
    return replace(only(), **effects)  # type: ignore[arg-type]


def run(plant: RealMotor, volts: Array, load: Array, dt: float = DT) -> Array:
    """(T, 8 + 2 D)."""
    return states([plant], np.zeros(1, np.int64), volts, load, dt)


def drive(samples: int, seed: int = 3, share: float = 1.0) -> tuple[Array, Array]:
    """Voltages and loads (T,) that turn a motor round and let it stand."""
    rng = np.random.default_rng(seed)
    levels = rng.uniform(-6, 6, samples // 20 + 1) * rng.choice([1.0, 0.1], samples // 20 + 1)
    volts = share * np.repeat(levels, 20)[:samples]
    return np.ascontiguousarray(volts), 2e-3 * np.sin(np.arange(samples) * DT * 9)


def test_it_is_a_plant_whose_effects_can_be_left_out() -> None:
    plant: Plant = real()
    assert plant.spec(DT).features == ("voltage", "current", "speed")
    assert "assumptions" in real().source
    for name, off in EFFECTS.items():
        assert getattr(real(), name) != off() == getattr(real().without(name), name)
    with pytest.raises(ConfigError, match=r"'cogging'.*ripple, stribeck, winding"):
        real().without("cogging")


@pytest.mark.parametrize(
    "make",
    [
        partial(Driver, dead_time=-1.0),
        partial(Driver, drop=1.0, ripple=0.0),
        partial(Stribeck, speed=0.0),
        partial(Stribeck, asymmetry=1.0),
        partial(Winding, time_constant=0.0),
        partial(Ripple, cogging=math.nan),
        partial(Shaft, stiffness=1.0),
        partial(Sensing, delay=math.inf),
        lambda: still(shaft=Shaft(stiffness=1.0, rotor_inertia=1.0)),
    ],
)
def test_an_impossible_effect_is_refused(make: Any) -> None:
    with pytest.raises(ConfigError, match="give"):
        make()


def test_without_effects_it_is_the_ideal_motor() -> None:
    volts, load = drive(4000)
    ideal = quick(motor(), 4000, voltage=volts, load=load)
    plain = quick(only(), 4000, voltage=volts, load=load)
    assert np.abs(plain.x - ideal.x).max(axis=0) / np.abs(ideal.x).max(axis=0) == pytest.approx(
        [0, 0], abs=2e-4
    )
    assert np.array_equal(plain.x[:, 1] == 0.0, ideal.x[:, 1] == 0.0)
    assert np.count_nonzero(plain.x[:, 1] == 0.0) > 100


@pytest.mark.parametrize("effects", [*((name,) for name in EFFECTS), tuple(EFFECTS), ("backlash",)])
def test_machine_code_and_equations_agree(effects: tuple[str, ...]) -> None:
    """The written-out equations, by a method of order 8 with error control and modes located by SciPy."""
    plant = only(*effects)
    if effects == ("backlash",):
        plant = still(shaft=Shaft(rotor_inertia=1.4e-6, stiffness=1.5, damping=1.4e-4, backlash=0.01))
    plant = replace(plant, sensing=replace(plant.sensing, delay=0.0))
    volts, load = drive(300)
    x, solver, general, stood = plant.initial[:8], Solver(), [], 0
    for v, torque in zip(volts.tolist(), load.tolist(), strict=True):
        general.append(x)
        x = solver.advance(plant, x, (v, torque), DT)
        stood += x[1] == 0.0
    found, expected = run(plant, volts, load)[:, :8], np.array(general)
    size = np.abs(expected).max(axis=0)
    error = np.abs(found - expected)[:, size > 0] / size[size > 0]
    assert error.max() < 2e-3 and np.sqrt((error**2).mean()) < 1e-4
    assert stood > 5 and np.array_equal(found[:, 1] == 0.0, expected[:, 1] == 0.0)


def test_in_motion_it_agrees_with_solve_ivp() -> None:
    plant = replace(real(), coulomb_friction=0.0, sensing=replace(real().sensing, delay=0.0))
    x = np.array(plant.initial[:8])
    for v in (8.0, -3.0):
        x = solve_ivp(plant.rhs((v, 1e-3), 1), (0, 0.05), x, "DOP853", rtol=1e-11, atol=1e-13).y[:, -1]
    volts = np.repeat([8.0, -3.0, 0.0], [50, 50, 1])
    found = run(plant, volts, np.full(101, 1e-3))[-1, :8]
    assert found == pytest.approx(x, rel=1e-4, abs=1e-6)


def test_smaller_steps_change_less_than_the_sensors_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    volts, load = drive(4000)
    usual = run(real(), volts, load)
    monkeypatch.setattr("simulators.real_flow.STEP_TIME_CONSTANTS", 0.02)
    error = np.sqrt(np.mean((run(real(), volts, load) - usual)[:, -2:] ** 2, axis=0))
    noise = SensorNoise.of(real())
    assert error[0] < 0.03 * noise.current_rms and error[1] < 0.03 * noise.speed_rms


def test_cogging_holds_a_rotor_at_its_angles_and_ripple_is_seen_in_the_current() -> None:
    free = replace(still(ripple=Ripple(cogging=1e-3)), coulomb_friction=0.0, viscous_friction=1e-4)
    kick = np.zeros(3000)
    kick[:40] = 2.0
    angle = run(free, kick, np.zeros(3000))[-1, 2]
    assert angle * 14 / (2 * math.pi) == pytest.approx(round(angle * 14 / (2 * math.pi)), abs=1e-2)
    turning = still(ripple=Ripple(commutation=0.05, commutation_periods=2.0))
    x = run(turning, np.full(4000, 5.0), np.zeros(4000))[2000:]
    spectrum = np.abs(np.fft.rfft((x[:, 0] - x[:, 0].mean()) * np.hanning(2000)))
    expected = 2 * x[:, 1].mean() / (2 * math.pi) * 2000 * DT  # two periods a revolution
    assert spectrum.argmax() == pytest.approx(expected, abs=1)


def test_breakaway_is_larger_than_sliding_friction_and_than_backward() -> None:
    plant = still(stribeck=Stribeck(stiction=0.5, speed=5.0, asymmetry=0.2))
    sliding = plant.coulomb_friction * plant.resistance / plant.torque_constant
    for volts, moves in ((1.79, False), (1.81, True), (-1.19, False), (-1.21, True)):
        x = run(plant, np.full(400, volts * sliding), np.zeros(400))
        assert (x[-1, 1] != 0.0) == moves
    kicked = np.full(3000, 1.75 * sliding)
    kicked[:50] = 4 * sliding
    assert run(plant, kicked, np.zeros(3000))[-1, 1] > 5.0  # once it slides, it stays in motion


def test_a_stalled_winding_warms_as_its_losses_say() -> None:
    plant = replace(still(winding=Winding(resistance=10.0, time_constant=0.5)), coulomb_friction=1.0)
    x = run(plant, np.full(5000, 6.0), np.zeros(5000))[-1]
    resistance = plant.resistance * (1 + plant.winding.copper * x[5])
    assert x[0] == pytest.approx(6.0 / resistance, rel=1e-3)
    assert x[5] == pytest.approx(10.0 * 36.0 / resistance, rel=1e-3)
    assert x[5] > 20.0


def test_a_shaft_swings_at_its_frequency_and_backlash_opens() -> None:
    shaft = Shaft(rotor_inertia=1.4e-6, stiffness=0.5)
    plant = replace(still(shaft=shaft), coulomb_friction=0.0, viscous_friction=0.0, torque_constant=1e-6)
    x = RealSolver().advance(plant, (0, 0, 0, 0, 0.01, 0, 0, 0, 0, 0), (0.0, 0.0), DT)
    both = 1.4e-6 * (plant.inertia - 1.4e-6) / plant.inertia
    assert x[4] == pytest.approx(0.01 * math.cos(math.sqrt(0.5 / both) * DT), rel=1e-3)
    loose = replace(plant, shaft=replace(shaft, backlash=0.05))
    assert RealSolver().advance(loose, (0, 0, 0, 0, 0.02, 0, 0, 0, 0, 0), (0.0, 0.0), DT)[
        :5
    ] == pytest.approx((0, 0, 0, 0, 0.02))


def test_the_driver_loses_its_dead_time() -> None:
    plant = replace(
        still(driver=Driver(dead_time=1e-6, frequency=20e3, supply=24.0, drop=0.2)), coulomb_friction=1.0
    )
    assert plant.driver.loss == pytest.approx(2 * 1e-6 * 20e3 * 24 + 0.2)
    for sign in (1, -1):
        current = run(plant, np.full(100, sign * 6.0), np.zeros(100))[-1, 0]
        assert current == pytest.approx(sign * (6.0 - plant.driver.loss) / plant.resistance)
    small = run(plant, np.full(100, 0.2), np.zeros(100))[-1, 0]  # below the ripple: a resistance
    assert small == pytest.approx(0.2 / (plant.resistance + plant.driver.loss / plant.driver.ripple))


@pytest.mark.parametrize("delay", [0.0, 0.25, 1.0, 2.5])
def test_readings_come_late(delay: float) -> None:
    volts, load = drive(400)
    late = run(still(sensing=Sensing(delay=delay * DT, speed_filter=1e-3)), volts, load)[:, -2:]
    fine = run(still(sensing=Sensing(speed_filter=1e-3)), np.repeat(volts, 4), np.repeat(load, 4), DT / 4)[
        :, -2:
    ]
    shift = round(4 * delay)
    expected = np.concatenate([np.zeros((shift, 2)), fine])[: 4 * len(late) : 4]
    assert np.abs(late - expected).max(axis=0) / np.abs(fine).max(axis=0) == pytest.approx([0, 0], abs=3e-3)


def test_simulate_and_quick_repeat_each_other_through_a_scenario() -> None:
    plant = real()
    scenario = Scenario.parse("[[drift]]\nparameter='resistance'\nfactor=1.5\nat=0.5\n")
    samples = simulate(
        plant,
        voltage=signal(default_voltage(plant), 1),
        load=signal(default_load(plant), 2),
        duration=1.0,
        noise=None,
        scenario=scenario,
    )
    slow = np.array([[sample.u["voltage"], *sample.y.values()] for sample in samples])
    warmer = replace(plant, resistance=1.5 * plant.resistance)
    z = quick(plant, 1000, noise=SensorNoise.none(), changes=[(500, warmer)]).z
    assert z == pytest.approx(slow, rel=1e-9, abs=1e-12)
    same = quick(plant, 1000, noise=SensorNoise.none()).z
    assert np.array_equal(same[:500], z[:500]) and np.abs(same - z)[600:, 1].max() > 0.05


def test_a_real_motor_does_not_become_an_ideal_one() -> None:
    with pytest.raises(ConfigError, match="changes of one kind"):
        quick(real(), 100, changes=[(50, motor())])


def test_the_command_line_simulates_it_with_its_observer() -> None:
    settings = {
        "motor": "qube-servo-3-real",
        "without": ["driver"],
        "duration": 1.0,
        "parameters": ["resistance=9"],
    }
    source = open_plant(load(None, plant=settings))
    assert source.floor is not None
    floor, samples = source.floor(), list(source.samples)
    for sample in samples:
        floor.observe(sample)
    assert len(samples) == 1000
    assert floor.rms(800)["current"] < 1.2 * SensorNoise.of(real()).current_rms
    with pytest.raises(ConfigError, match="--without driver: maxon-re25 is ideal"):
        open_plant(load(None, plant={"motor": "maxon-re25", "without": ["driver"]}))
