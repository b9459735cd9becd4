"""The floor of a real motor: that of an ideal one where it has no effects, white and not to be lowered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from simulators import DCMotor, RealMotor, Scenario, SensorNoise, default_load, motor, signal
from simulators.floor import Floor, LoadStatistics, StreamFloor
from simulators.quick_motor import quick
from simulators.real_floor import RealFloor, best_observer
from simulators.real_motor import EFFECTS
from twin.errors import ConfigError

DT = 1e-3
Array = NDArray[np.float64]
KNOWN = LoadStatistics.of_signal(signal(default_load(motor()), 2), DT)


def real(*without: str) -> RealMotor:
    found = motor("qube-servo-3-real")
    assert isinstance(found, RealMotor)
    return found.without(*without)


def rms(errors: Array) -> Array:
    """Of the errors (T, 2), without the start."""
    found: Array = np.sqrt(np.nanmean(errors[1000:] ** 2, axis=0))
    return found


def floor(plant: DCMotor, known: LoadStatistics = KNOWN) -> Floor | RealFloor:
    return best_observer(plant, DT, SensorNoise.of(plant), known)


def test_without_effects_it_is_the_floor_of_the_ideal_motor() -> None:
    z = quick(motor(), 20_000).z
    assert rms(floor(real(*EFFECTS)).errors(z)) == pytest.approx(rms(floor(motor()).errors(z)), rel=1e-3)


def test_its_innovations_are_white_and_nearly_the_sensors_noise() -> None:
    plant = real()
    errors = floor(plant).errors(quick(plant, 30_000, seed=31).z)[1000:]
    noise = SensorNoise.of(plant)
    assert np.sqrt((errors**2).mean(axis=0)) / (noise.current_rms, noise.speed_rms) == pytest.approx(
        [1.02, 1.13], rel=0.02
    )
    scaled = errors / errors.std(axis=0)
    for lag in (1, 2, 5, 50):
        assert np.abs(scaled[lag:].T @ scaled[:-lag] / len(scaled)).max() < 0.03


def test_no_other_filter_is_lower() -> None:
    """Neither with other statistics of the load, nor one that leaves out an effect."""
    plant = real()
    z = quick(plant, 8_000, seed=31).z
    least = rms(floor(plant).errors(z))
    for factor in (0.7, 1.4):
        other = replace(KNOWN, walk=factor * KNOWN.walk, jump_rms=factor * KNOWN.jump_rms)
        assert np.all(rms(floor(plant, other).errors(z)) > 0.99 * least)
    for effect in EFFECTS:
        others = rms(floor(real(effect)).errors(z))
        assert np.all(others > 0.99 * least) and np.any(others > 1.005 * least)
    assert np.all(rms(floor(motor()).errors(z)) > 3 * least)


def test_it_knows_what_changes_and_bridges_gaps() -> None:
    plant = real()
    scenario = Scenario.parse("[[drift]]\nparameter='resistance'\nfactor=1.5\nat=3.0\n")
    changed = replace(plant, resistance=1.5 * plant.resistance)
    z = quick(plant, 8000, changes=[(3000, changed)]).z
    stream = StreamFloor(floor(plant), scenario)
    for k, row in enumerate(z.tolist()):
        if not 5000 <= k < 5100:
            stream.observe(plant.spec(DT).sample(k, row))
    found = stream.rms(2500)
    assert found["speed"] < 1.2 * SensorNoise.of(plant).speed_rms
    assert found["current"] < 1.1 * SensorNoise.of(plant).current_rms


def test_a_motor_that_stood_and_was_turned_by_its_load_is_found_again() -> None:
    plant = real()
    load = np.zeros(3000)
    load[1000:2000] = -4 * plant.coulomb_friction  # no voltage: only the load moves it
    z = quick(plant, len(load), voltage=0.0, load=load).z
    known = LoadStatistics(rms=2e-3, walk=0.0, jump_rms=4e-3, jumps=1e-3)
    observer = floor(plant, known)
    errors = observer.errors(z)
    assert z[1500, 2] > 25.0
    assert rms(errors[50:])[1] < 1.5 * SensorNoise.of(plant).speed_rms
    assert observer.expected[1] == 0.0  # stuck at the end, and known to be


def test_what_it_foresees_begins_with_what_it_expects() -> None:
    plant = real()
    stream = quick(plant, 3000, noise=SensorNoise.none())
    observer = floor(plant)
    observer.errors(stream.z[:2000])
    run = observer.foresee(np.ascontiguousarray(stream.z[2000:2050, 0]), stream.load[2000:2050])
    assert np.abs(run - stream.z[2000:2050, 1:]).max(axis=0) == pytest.approx([0, 0], abs=0.5)


def test_each_motor_has_its_observer() -> None:
    with pytest.raises(ConfigError, match="ideal motor"):
        RealFloor(real(), DT, SensorNoise.none(), KNOWN).motor = motor()
    with pytest.raises(ConfigError, match="no hypotheses"):
        best_observer(real(), DT, SensorNoise.none(), KNOWN, jumps=8)
