"""The quick motor against `simulate`: the same truth, the same sensors, the same changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from simulators import (
    DCMotor,
    Scenario,
    SensorNoise,
    default_load,
    default_voltage,
    motor,
    signal,
    simulate,
)
from simulators.dc_motor import MOTORS
from simulators.quick_motor import measured, quick, ramp, sampled


def slow(
    plant: DCMotor,
    seconds: float,
    dt: float,
    noise: SensorNoise | None = None,
    seed: int = 1,
    scenario: Scenario | None = None,
    voltage: str = "",
    load: str = "",
) -> NDArray[np.float64]:
    """The same by `simulate`, (T, 3)."""
    samples = simulate(
        plant,
        voltage=signal(voltage or default_voltage(plant), seed),
        load=signal(load or default_load(plant), seed + 1),
        dt=dt,
        duration=seconds,
        noise=noise,
        seed=seed,
        scenario=scenario,
    )
    rows = [[sample.u["voltage"], *sample.y.values()] for sample in samples]
    return np.array(rows)


@pytest.mark.parametrize("name", list(MOTORS))
@pytest.mark.parametrize("dt", [1e-3, 1e-2])
@pytest.mark.slow
def test_the_truth_is_that_of_the_general_solver(name: str, dt: float) -> None:
    plant = motor(name)
    friction, tau = plant.coulomb_friction, plant.mechanical_time_constant
    hold = f"shortest={0.1 * tau},longest={tau}"
    voltage = f"steps:{2 * friction * plant.resistance / plant.torque_constant},{hold}"
    load = f"steps:{friction / 2},{hold}"
    expected = slow(plant, 1500 * dt, dt, voltage=voltage, load=load)
    volts, torque = expected[:, 0], sampled(load, 2, dt, len(expected))
    found = quick(plant, len(expected), dt=dt, voltage=volts, load=torque, noise=SensorNoise.none()).z
    standing = expected[:, 2] == 0.0
    assert np.count_nonzero(np.diff(standing.astype(int))) > 20  # it stopped and broke away many times
    assert np.array_equal(found[:, 2] == 0.0, standing)
    for column in (1, 2):
        assert np.abs(found - expected)[:, column].max() < 1e-6 * np.abs(expected[:, column]).max()


def test_the_default_signals_are_those_of_a_run() -> None:
    expected = slow(motor(), 2.0, 1e-3)
    found = quick(motor(), 2000, noise=SensorNoise.none()).z
    assert np.array_equal(found[:, 0], expected[:, 0])
    assert np.abs(found - expected).max() < 1e-6 * np.abs(expected).max()


def test_a_motor_that_oscillates_or_has_no_dry_friction_too() -> None:
    plant = replace(motor(), inductance=0.5, coulomb_friction=0.0)
    expected = slow(plant, 2.0, 1e-3)
    found = quick(plant, len(expected), noise=SensorNoise.none()).z
    assert np.abs(found - expected).max() < 1e-6 * np.abs(expected).max()


def test_the_sensors_read_the_same_for_the_same_seed() -> None:
    plant = motor()
    noise = SensorNoise.of(plant)
    expected, found = slow(plant, 3.0, 1e-3, noise, seed=4), quick(plant, 3000, seed=4).z
    quantum = 2 * noise.current_range / 2**noise.current_bits
    same = np.abs(found - expected)[:, 1:] < (1e-9, 1e-6)
    assert same.mean() > 0.999  # a rounding of the truth may tip a reading over to the next quantum
    assert np.abs(found - expected)[:, 1].max() < 1.01 * quantum


def test_the_noise_has_the_rms_of_its_sensors() -> None:
    noise = replace(SensorNoise.of(motor()), encoder_counts=0)
    x = np.column_stack([np.full(50_000, 0.5), np.full(50_000, 100.0)])
    error = measured(x, noise, 1e-3, 7) - x
    quantum = 2 * noise.current_range / 2**noise.current_bits
    wanted = np.sqrt(noise.current_rms**2 + quantum**2 / 12), noise.speed_rms
    assert error.std(axis=0) == pytest.approx(wanted, rel=0.02)
    assert np.abs(error.mean(axis=0) / wanted).max() < 0.03


def test_parameters_change_as_in_a_scenario() -> None:
    plant = motor()
    scenario = Scenario.parse(
        "[[drift]]\nparameter='inertia'\nfactor=1.5\nat=0.5\n"
        "[[drift]]\nparameter='resistance'\nfactor=1.4\nat=1.0\nduration=0.5\n"
    )
    expected = slow(plant, 2.0, 1e-3, scenario=scenario)
    heavy = replace(plant, inertia=1.5 * plant.inertia)
    changes = [(500, heavy), *ramp(heavy, 1000, 1500, 1, resistance=1.4 * plant.resistance)]
    found = quick(plant, 2000, noise=SensorNoise.none(), changes=changes).z
    assert np.abs(found - expected).max() < 1e-6 * np.abs(expected).max()
