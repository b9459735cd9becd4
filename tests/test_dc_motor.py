import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulators.dc_motor import MOTORS, PARAMETER_UNITS, DCMotor
from simulators.motors import motor
from simulators.plant import Plant, Vector
from simulators.simulate import Solver
from twin.errors import ConfigError

QUBE = motor("qube-servo-3")


@pytest.mark.parametrize("name", MOTORS)
def test_motor_reproduces_its_data_sheet(name: str) -> None:
    known = motor(name)
    assert known.figures, "a motor without a figure of its data sheet is not checked"
    for quantity, voltage, value, tolerance in known.figures:
        computed = getattr(known, quantity)
        if voltage is not None:
            computed = computed(voltage)
        assert computed == pytest.approx(value, rel=tolerance), quantity


@pytest.mark.parametrize("name", MOTORS)
def test_motor_says_where_its_values_come_from(name: str) -> None:
    known = motor(name)
    assert known.name == name
    assert "assumption" in known.source  # friction is in no data sheet
    assert known.electrical_time_constant < known.mechanical_time_constant / 4  # real time constants


def test_qube_no_load_speed_follows_from_its_torque_balance() -> None:
    w = QUBE.no_load_speed(10.0)
    torque = QUBE.torque_constant * QUBE.no_load_current(10.0)
    assert torque == pytest.approx(QUBE.viscous_friction * w + QUBE.coulomb_friction)
    assert QUBE.no_load_speed(-10.0) == -w
    assert QUBE.no_load_speed(0.64) == 0.0 < QUBE.no_load_speed(0.66)  # the deadband of its data sheet


def test_unknown_motor_names_the_known() -> None:
    with pytest.raises(ConfigError, match=r"'qube'.*qube-servo-3, maxon-re25, heinzmann-pmg132"):
        motor("qube")


@pytest.mark.parametrize("parameter", PARAMETER_UNITS)
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_impossible_parameter_is_refused_by_name_value_and_unit(parameter: str, value: float) -> None:
    if value == 0 and parameter.endswith("friction"):
        assert getattr(replace(QUBE, **{parameter: value}), parameter) == 0  # type: ignore[arg-type]
        return
    with pytest.raises(ConfigError) as error:
        replace(QUBE, **{parameter: value})  # type: ignore[arg-type]
    assert f"{parameter} = {value} {PARAMETER_UNITS[parameter]}" in str(error.value)
    assert "positive" in str(error.value)


def test_motor_is_a_plant() -> None:
    plant: Plant = QUBE
    assert plant.spec(0.001).features == ("voltage", "current", "speed")


def test_equations() -> None:
    m = replace(QUBE, coulomb_friction=0.002, viscous_friction=1e-4)
    di, dw = m.rhs((5.0, 0.003), -1)(0.0, np.array([0.4, -30.0]))
    assert di == pytest.approx((5 - 7.5 * 0.4 + 0.0422 * 30) / 1.15e-3)
    assert dw == pytest.approx((0.0422 * 0.4 + 1e-4 * 30 + 0.002 - 0.003) / m.inertia)
    assert m.rhs((5.0, 0.003), 0)(0.0, np.array([0.4, 0.0]))[1] == 0.0


@given(volts=st.floats(-0.999, 0.999), load=st.floats(-0.999, 0.999), start=st.floats(-1, 1))
def test_standing_motor_stays_below_breakaway(volts: float, load: float, start: float) -> None:
    """Whatever the torques: as long as K_t i - τ_L stays within ±τ_c, the speed is 0 exactly."""
    slack = 1 - abs(load)  # what the load leaves of the friction, for the current
    breakaway = QUBE.coulomb_friction / QUBE.torque_constant  # A
    x: Vector = (breakaway * slack * start, 0.0)
    u = (volts * slack * breakaway * QUBE.resistance, load * QUBE.coulomb_friction)
    solver = Solver()
    for _ in range(30):
        x = solver.advance(QUBE, x, u, 1e-3)
        assert x[1] == 0.0


@given(excess=st.floats(1e-6, 1.0), side=st.sampled_from([-1, 1]), by_load=st.booleans())
def test_standing_motor_breaks_away_above(excess: float, side: int, by_load: bool) -> None:
    torque = side * QUBE.coulomb_friction * (1 + excess)
    volts = torque / QUBE.torque_constant * QUBE.resistance
    u = (0.0, -torque) if by_load else (volts, 0.0)
    x: Vector = (0.0, 0.0)
    solver = Solver()
    for _ in range(30):
        x = solver.advance(QUBE, x, u, 1e-3)
    assert x[1] * side > 0


@given(
    speed=st.floats(-200, 200), dry=st.floats(0, 0.01), viscous=st.floats(0, 1e-4), current=st.floats(-2, 2)
)
@pytest.mark.slow
def test_friction_never_creates_energy(speed: float, dry: float, viscous: float, current: float) -> None:
    """A shorted motor without load: its energy only falls, and dry friction brings it to a stand for good."""
    m = replace(QUBE, coulomb_friction=dry, viscous_friction=viscous)
    x: Vector = (current, speed)
    solver = Solver()

    def energy(m: DCMotor, x: Vector) -> float:
        return (m.inductance * x[0] ** 2 + m.inertia * x[1] ** 2) / 2

    before = first = energy(m, x)
    for _ in range(100):
        x = solver.advance(m, x, (0.0, 0.0), 1e-3)
        after = energy(m, x)
        assert after <= before + 1e-8 * first
        before = after
    if dry > 0.005 and abs(speed) < 50:
        assert x[1] == 0.0


def test_mirrored_inputs_give_mirrored_motion() -> None:
    x: Vector = (0.0, 0.0)
    mirrored, solver = x, Solver()
    rng = np.random.default_rng(1)
    for _ in range(40):
        v, load = float(rng.uniform(-3, 3)), float(rng.uniform(-0.004, 0.004))
        for _ in range(5):
            x = solver.advance(QUBE, x, (v, load), 1e-3)
            mirrored = solver.advance(QUBE, mirrored, (-v, -load), 1e-3)
        assert mirrored == pytest.approx((-x[0], -x[1]), rel=1e-9, abs=1e-9)
