"""The exact flow through every change of mode, however long the sample and however the motor swings."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from simulators import DCMotor, motor
from simulators.exact import advance, row
from simulators.plant import Vector
from simulators.simulate import Solver


def drawn(rng: np.random.Generator) -> tuple[DCMotor, Vector, Vector, float]:
    """A motor, its state and inputs, and a sample time: slow currents, and friction that matters."""
    factor = 10 ** rng.uniform(-1.5, 1.5, 6)
    qube = motor("qube-servo-3")
    plant = replace(
        qube,
        resistance=qube.resistance * factor[0],
        inductance=100 * qube.inductance * factor[1],
        inertia=qube.inertia * factor[2],
        viscous_friction=10 * qube.viscous_friction * factor[3],
        coulomb_friction=qube.coulomb_friction * factor[4],
        torque_constant=qube.torque_constant * factor[5],
        back_emf=qube.back_emf * factor[5],
    )
    friction, period = plant.coulomb_friction, 2 * plant.half_swing
    if math.isinf(period):
        period = 20 * plant.quickest
    current, speed = friction / plant.torque_constant, friction * period / plant.inertia
    x = 3 * current * rng.normal(), 0.3 * speed * rng.normal()
    u = 2 * current * plant.resistance * rng.normal(), 0.7 * friction * rng.normal()
    return plant, x, u, period * rng.uniform(0.1, 3.0)


def test_no_change_of_mode_is_missed() -> None:
    """A sample at once, by the general solver, and in three hundred parts, in which no speed turns twice."""
    rng, solver = np.random.default_rng(5), Solver()
    swinging, there_and_back = 0, 0
    for _ in range(300):
        plant, x, u, dt = drawn(rng)
        p = row(plant)
        whole, general = advance(p, *x, *u, dt), solver.advance(plant, x, u, dt)
        speeds, parts = [x[1]], (float(x[0]), float(x[1]))
        for _ in range(300):
            parts = advance(p, *parts, *u, dt / 300)
            speeds.append(parts[1])
        scale = np.abs([plant.coulomb_friction / plant.torque_constant, *speeds])
        size = scale[0], scale[1:].max()
        assert np.divide(whole, size) == pytest.approx(np.divide(parts, size), abs=1e-7)
        assert np.divide(whole, size) == pytest.approx(np.divide(general, size), abs=1e-6)
        swinging += math.isfinite(plant.half_swing)
        opposite = np.array(speeds) * np.sign(x[1] or 1.0) < 0.0
        there_and_back += whole[1] * x[1] > 0.0 and bool(opposite.any())
    assert swinging > 100 and there_and_back > 10
