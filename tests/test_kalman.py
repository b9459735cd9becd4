"""The motor's Kalman filter: its reference against SciPy, and the compiled filter against the reference."""

from __future__ import annotations

import dis
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.linalg

from simulators import DCMotor, motor
from simulators.exact import advance as exact_advance
from simulators.exact import row
from twin.kernels import kalman, kalman_reference, motor_reference
from twin.kernels.identify import run as identification_pass
from twin.kernels.kalman_reference import JOINT, LOAD, SPEED, STATES
from twin.kernels.motor import advance as compiled_advance
from twin.kernels.motor import room
from twin.kernels.motor_reference import PARAMETERS, Course, course
from twin.kernels.physics import ROW, Motors
from twin.kernels.physics_reference import ReferenceMotors

Array = npt.NDArray[Any]
QUBE = motor("qube-servo-3")
DT = 1e-3
LOAD_SIZE = 0.2 * QUBE.rated_torque
TOLERANCE = 1e-6
"""Of a standard deviation: float64 leaves 1e-8 after some thousand samples."""
NOISE = np.array([0.003, 0.1, 0.3 * LOAD_SIZE, LOAD_SIZE])


def values_of(plant: DCMotor) -> Array:
    """R, L, K, J, b, τ_c, and the units of b and τ_c."""
    k = 0.5 * (plant.torque_constant + plant.back_emf)
    units = k * k / plant.resistance, LOAD_SIZE
    friction = plant.viscous_friction, plant.coulomb_friction
    return np.array([plant.resistance, plant.inductance, k, plant.inertia, *friction, *units])


# -- the motion of one period --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
def test_the_exponential_is_scipy_s(size: float) -> None:
    m = np.random.default_rng(0).normal(size=(5, 4, 4)) * size
    assert motor_reference.exponential(m) == pytest.approx(scipy.linalg.expm(m), rel=1e-10)
    assert np.array_equal(motor_reference.exponential(np.zeros((2, 2))), np.eye(2))


STARTS: dict[str, tuple[float, tuple[float, float, float]]] = {
    "forward": (4.0, (0.3, 60.0, 0.001)),
    "backward": (-4.0, (-0.3, -60.0, 0.001)),
    "stands": (0.2, (0.01, 0.0, 0.0001)),
    "held off by its load": (0.0, (0.3, 0.0, -0.02)),
    "breaks away": (8.0, (0.05, 0.0, 0.0)),
    "breaks away backwards": (-8.0, (-0.05, 0.0, 0.0)),
    "comes to a stand": (0.0, (0.02, 0.05, 0.0)),
    "reverses": (-8.0, (-0.9, 0.5, 0.0)),
}


@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("dt", [1e-4, 1e-3, 5e-3])
def test_derivatives_of_a_period_are_difference_quotients(name: str, dt: float) -> None:
    """On the course that the state takes: the course itself has corners."""
    v, x = STARTS[name][0], np.array(STARTS[name][1])
    p = values_of(QUBE)
    way = course(p, dt, v, *x)

    def flow(p: Array, x: Array) -> Array:
        m = motor_reference.dynamics(p, v, way.friction, way.stands)
        i = way.current + x[0] - STARTS[name][1][0]
        end = scipy.linalg.expm(m * way.seconds) @ [i, x[1], x[2], 1.0]
        return np.array([end[0], 0.0 if way.stands else end[1]])

    state, by_state = motor_reference.advance(p, dt, v, x)
    assert state == pytest.approx(flow(p, x), rel=1e-9, abs=1e-12)
    for n in range(STATES):
        h = np.eye(STATES)[n] * 1e-3 * max(abs(x[n]), 1e-3)
        quotient = (flow(p, x + h) - flow(p, x - h)) / (2 * h[n])
        assert by_state[:, n] == pytest.approx(quotient, rel=1e-6, abs=1e-9)
    by_parameters = motor_reference.sensitivity(p, dt, v, x)
    for n in range(PARAMETERS):
        ends = []
        for h in (1e-4, -1e-4):
            q = p.copy()
            q[n] = q[n] * math.exp(h) if n < 4 else q[n] + h * p[2 + n]
            ends.append(flow(q, x))
        quotient = (ends[0] - ends[1]) / 2e-4
        assert by_parameters[:, n] == pytest.approx(quotient, rel=1e-5, abs=1e-7), n


def test_the_starts_take_every_course() -> None:
    p = values_of(QUBE)
    ways = {name: course(p, 5e-3, v, *x) for name, (v, x) in STARTS.items()}
    assert ways["stands"] == Course(True, 0.0, 0.01, 5e-3)
    assert ways["held off by its load"].friction == 1.0
    for name, sign in (("breaks away", 1.0), ("breaks away backwards", -1.0)):
        assert 0.0 < ways[name].seconds < 5e-3 and ways[name].friction == sign
    assert ways["comes to a stand"].stands
    assert -1.0 < ways["reverses"].friction < 1.0


@pytest.mark.parametrize("dt", [1e-4, 1e-3, 5e-3, 2e-2])
def test_the_compiled_period_is_the_reference_s(dt: float) -> None:
    rng, p = np.random.default_rng(1), values_of(QUBE)
    new, f, g, c = room()
    ways = set()
    for _ in range(300):
        x = np.array([rng.normal() * 0.2, rng.choice([0.0, rng.normal() * 0.3, rng.normal() * 50]), 0.0])
        x[LOAD] = rng.normal() * 1e-3
        v = rng.normal() * 3.0
        q = p * np.exp(rng.normal(size=8) * 0.2)
        compiled_advance(q, dt, v, x, new, f, g, c, True)
        state, by_state = motor_reference.advance(q, dt, v, x)
        assert new[:2] == pytest.approx(state, rel=1e-8, abs=1e-10)
        assert f == pytest.approx(by_state, rel=1e-7, abs=1e-9)
        by_parameters = motor_reference.sensitivity(q, dt, v, x)
        assert np.abs(g - by_parameters).max() < 1e-7 * (1 + np.abs(by_parameters).max())
        way = course(q, dt, v, *x)
        ways.add((way.stands, abs(way.friction) == 1.0, way.seconds < dt, x[SPEED] == 0.0))
    assert len(ways) >= 6, "not every course was taken"


# -- without friction: the steady state ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["qube-servo-3", "maxon-re25"])
@pytest.mark.parametrize("dt", [1e-3, 5e-3])
@pytest.mark.slow
def test_without_friction_it_ends_in_the_steady_state_of_the_riccati_equation(name: str, dt: float) -> None:
    """In a steady motion whose samples are what is expected of them, but for the last."""
    p = values_of(replace(motor(name), coulomb_friction=0.0))
    r, inductance, k, j, b = p[:5]
    a = np.array([[-r / inductance, -k / inductance, 0.0], [k / j, -b / j, -1.0 / j], [0.0, 0.0, 0.0]])
    f, h = scipy.linalg.expm(a * dt), np.eye(2, 3)
    readings, walk = np.diag(NOISE[:2] ** 2), np.diag([0.0, 0.0, NOISE[2] ** 2 * dt])
    wanted = scipy.linalg.solve_discrete_are(f.T, h.T, walk, readings)
    gain = wanted @ h.T @ np.linalg.inv(h @ wanted @ h.T + readings)

    z = np.full((3_000, 3), 3.0)
    z[:, 1:] = scipy.linalg.solve(a[:2, :2], [-3.0 / inductance, 0.0])
    reference = kalman_reference.new_filter(p, NOISE)
    kalman_reference.begin(reference, z[0, 1:])
    for v, *y in z[:-1]:
        kalman_reference.follow(reference, dt, v, np.array(y))
    compiled = [kalman.new_filter(p, NOISE) for _ in range(2)]
    innovation = np.array([0.002, 0.05])
    for k in compiled:
        identification_pass(k, z, dt, False, np.zeros(8))
        z[-1, 1:] += innovation
    scale = np.sqrt(np.outer(np.diag(wanted), np.diag(wanted)))
    for cov in (reference.cov, compiled[0].cov):
        assert (np.abs(cov[:STATES, :STATES] - wanted) < 1e-6 * scale).all()
    before = reference.x[:STATES].copy()
    kalman_reference.measure(reference, dt, before[:2] + innovation, STATES)
    assert reference.x[:STATES] - before == pytest.approx(gain @ innovation, rel=1e-6)
    moved = (compiled[1].x - compiled[0].x)[:STATES]
    assert moved == pytest.approx(f @ gain @ innovation, rel=1e-6)


# -- the compiled filter is the reference, sample by sample --------------------------------------------


def stream(v: Array, load: Array, seed: int, plants: tuple[tuple[int, DCMotor], ...] = ((0, QUBE),)) -> Array:
    """Samples (T, 3) of a motor from rest, v, i and ω with noise; another motor from some samples on."""
    z, i, w = np.zeros((len(v), 3)), 0.0, 0.0
    rows = dict(plants)
    for t in range(len(v)):
        plant = row(rows[max(start for start in rows if start <= t)])
        z[t] = v[t], i, w
        i, w = exact_advance(plant, i, w, v[t], load[t], DT)
    z[:, 1:] += np.random.default_rng(seed).normal(size=(len(v), 2)) * NOISE[:2]
    return z


def steps(samples: int, every: int, size: float, seed: int) -> Array:
    drawn = np.random.default_rng(seed).uniform(-size, size, -(-samples // every))
    return np.repeat(drawn, every)[:samples]


def driving() -> Array:
    """Voltages of both signs, and loads of several sizes that jump."""
    return stream(steps(900, 60, 8.0, 1), steps(900, 45, 2 * LOAD_SIZE, 2), 3)


def loaded() -> Array:
    """Jumps of the load that the gate sees, beyond what a load may be, and such that only a sum shows."""
    load = np.zeros(900)
    load[200:400], load[400:600], load[700:750], load[750:] = 0.4, 0.6, -1.0, 15.0
    return stream(np.full(900, 8.0), load * LOAD_SIZE, 4)


def standing() -> Array:
    """It comes to a stand, creeps on, stands and is thrown off."""
    v = np.concatenate([np.full(150, 5.0), np.zeros(350), np.full(100, 0.4), np.zeros(200), np.full(50, 9.0)])
    z = stream(v, np.zeros(len(v)), 5)
    noise = np.random.default_rng(6).normal(size=(100, 2)) * NOISE[:2]
    z[500:600, 1:] = noise + np.array([0.06, 0.25])
    z[760, 2] += 1.2  # an outlier while it stands, then a current that would move it, and no speed at all
    z[780:783, 1:] = 0.4, 0.0
    return z


def outliers() -> Array:
    """Of current, speed and both; single ones, two and three in a row."""
    z = driving()[:800].copy()
    for at, last, current, speed in (
        (105, 106, 2.0, 0.0),
        (205, 206, 0.0, 100.0),
        (305, 306, 2.0, 100.0),
        (405, 407, 0.0, 80.0),
        (455, 457, 3.0, 0.0),
        (505, 508, -3.0, -70.0),
        (605, 606, 0.0, -2.0),
    ):
        z[at:last, 1:] += current, speed
    return z


def changed() -> Array:
    """Another motor from one sample to the next, and a third one."""
    second = replace(QUBE, resistance=1.5 * QUBE.resistance, inertia=1.6 * QUBE.inertia)
    plants = (0, QUBE), (300, second), (700, replace(second, coulomb_friction=4 * QUBE.coulomb_friction))
    return stream(steps(1_100, 40, 9.0, 7), steps(1_100, 150, 0.5 * LOAD_SIZE, 8), 9, plants)


def frictionless() -> Array:
    """A load that drives the motor on, as less friction than none would."""
    plant = replace(QUBE, coulomb_friction=0.0, viscous_friction=0.0)
    v = 5.0 * np.repeat((-1.0) ** np.arange(15), 40)
    return stream(v, -0.3 * LOAD_SIZE * np.sign(v), 11, ((0, plant),))


STREAMS: dict[str, Callable[[], Array]] = {
    made.__name__: made for made in (driving, loaded, standing, outliers, changed, frictionless)
}
MODES = ("following", "adapting", "both in turn")


def tensors() -> dict[str, Array]:
    """A checkpoint's, of a motor that is known to some per cent."""
    wrong = values_of(QUBE)[:PARAMETERS] * (1.02, 1.1, 0.99, 0.97, 1.2, 1.1)
    errors = np.array([0.02, 0.1, 0.01, 0.03, 0.002, 0.05])
    covariance = np.diag(errors**2) + 0.1 * np.outer(errors, errors)
    scale, clock = np.array([5.0, 0.3, 60.0]), np.array([DT, 0, 1])
    made = {"values": wrong, "covariance": covariance, "noise": NOISE, "scale": scale, "clock": clock}
    return {name: np.asarray(tensor, np.float32) for name, tensor in made.items()}


def lines_of(*modules: ModuleType) -> dict[CodeType, set[int]]:
    """The lines of the functions of modules."""
    codes = [
        function.__code__
        for module in modules
        for function in vars(module).values()
        if isinstance(function, FunctionType) and function.__module__ == module.__name__
    ]
    return {
        code: {line for _, line in dis.findlinestarts(code) if line and line != code.co_firstlineno}
        for code in codes
    }


NOT_CROSSED = lines_of(kalman_reference, motor_reference)


@contextmanager
def traced() -> Iterator[None]:
    """Take the lines that run out of those that are not crossed yet."""

    def look(frame: FrameType, event: str, _: object) -> Any:
        left = NOT_CROSSED.get(frame.f_code)
        if not left:
            return None
        left.discard(frame.f_lineno)
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        yield
    finally:
        sys.settrace(before)


@cache
def followed(name: str, mode: str) -> tuple[Array, Array, Array, Array]:
    """After each sample what both remember, (T, memory), and their answers (T, 5)."""
    z = STREAMS[name]()
    compiled, reference = Motors(tensors(), 1), ReferenceMotors(tensors(), 1)
    memories: tuple[list[Array], list[Array]] = [], []
    answers: tuple[list[Array], list[Array]] = [], []
    for t in range(len(z)):
        adapting = mode == "adapting" or (mode == "both in turn" and t // 130 % 2 == 0)
        answers[0].append(compiled.follow(z[None, t : t + 1], adapting)[0, 0])
        with traced():
            answers[1].append(reference.follow(z[None, t : t + 1], adapting)[0, 0])
        for motors, memory in zip((compiled, reference), memories, strict=True):
            memory.append(motors.memory[0].copy())
    one, other, answer, wanted = (np.array(a) for a in (*memories, *answers))
    return one, other, answer, wanted


@pytest.mark.parametrize(
    "mode", [pytest.param(m, marks=() if m == "adapting" else pytest.mark.slow) for m in MODES]
)
@pytest.mark.parametrize("name", STREAMS)
def test_the_compiled_filter_is_the_reference(name: str, mode: str) -> None:
    one, other, answer, wanted = followed(name, mode)
    x, cov, rest = (slice(ROW.x, ROW.cov), slice(ROW.cov, ROW.rejected), slice(ROW.rejected, ROW.p))
    deviation = np.sqrt(np.diagonal(other[:, cov].reshape(-1, JOINT, JOINT), axis1=1, axis2=2))
    deviation += np.array([*NOISE[:2], 0.01 * LOAD_SIZE, *[1e-4] * PARAMETERS])  # where nothing is uncertain
    assert (np.abs(one[:, x] - other[:, x]) < TOLERANCE * deviation).all()
    size = (deviation[:, :, None] * deviation[:, None]).reshape(len(one), -1)
    assert (np.abs(one[:, cov] - other[:, cov]) < TOLERANCE * size).all()
    assert (np.abs(one[:, rest] - other[:, rest]) < TOLERANCE).all(), "marks, sums, misfits and pauses"
    p = slice(ROW.p, ROW.joint)
    assert one[:, p] == pytest.approx(other[:, p], rel=TOLERANCE, abs=1e-12)
    assert np.array_equal(one[:, ROW.joint :], other[:, ROW.joint :])
    assert answer == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def test_everything_else_of_the_reference_is_as_of_the_compiled_filters() -> None:
    """Two rows, the speed before the current: state, parameters, free run, and what a reset leaves."""
    swapped = {**tensors(), "clock": np.array([DT, 1, 0]), "scale": np.array([5.0, 60.0, 0.3])}
    z = np.stack((driving(), standing()[:900].repeat(2, 0)[:900]))[:, :600, [0, 2, 1]]
    compiled, reference = Motors(swapped, 2), ReferenceMotors(swapped, 2)
    unseen = reference.state
    assert not unseen.any() and np.array_equal(unseen, compiled.state)

    def assert_alike(z: Array, adapting: bool) -> None:
        one, other = (motors.follow(z, adapting) for motors in (compiled, reference))
        assert one == pytest.approx(other, rel=1e-6, abs=1e-6)
        assert compiled.state == pytest.approx(reference.state, rel=1e-5, abs=1e-9)
        for r in range(2):
            for found, wanted in zip(compiled.parameters(r), reference.parameters(r), strict=True):
                assert found == pytest.approx(wanted, rel=1e-6, abs=1e-12)

    assert_alike(z[:, :200], True)
    runs = [motors.free_run(z[:, 200], z[:, 200:300, :1]) for motors in (compiled, reference)]
    assert runs[0] == pytest.approx(runs[1], rel=1e-5, abs=1e-5) and runs[0].shape == (2, 100, 2)
    assert_alike(z[:, 200:300], False)
    state = reference.state
    first = reference.follow(z[:, 300:350])
    reference.state = state
    assert np.array_equal(reference.follow(z[:, 300:350]), first), "a state put back"
    learned = reference.parameters()[0]
    assert (learned != swapped["values"]).all()
    for keep in (True, False):
        for motors in (compiled, reference):
            motors.reset(learned=not keep)
        assert_alike(z[:, 350:400], keep)
        assert np.array_equal(reference.parameters()[0], swapped["values"].astype(np.float64)) != keep


@pytest.mark.parametrize("learn", [False, True])
def test_a_pass_of_the_identification_is_the_reference_without_wandering(learn: bool) -> None:
    z, p0, n = driving(), values_of(QUBE) * 1.05, JOINT if learn else STATES
    compiled, reference = kalman.new_filter(p0, NOISE), kalman_reference.new_filter(p0, NOISE)
    for k in (compiled, reference):
        k.cov[STATES:, STATES:] = 0.04 * np.eye(PARAMETERS)
    identification_pass(compiled, z, DT, learn, np.zeros(8))
    kalman_reference.begin(reference, z[0, 1:])
    for v, *y in z:
        kalman_reference.measure(reference, DT, np.array(y), n)
        if learn:
            kalman_reference.take_parameters(reference)
        kalman_reference.predict(reference, DT, v, n)
    deviation = np.sqrt(np.diag(reference.cov))
    assert (np.abs(compiled.x - reference.x) <= TOLERANCE * deviation).all()
    assert (np.abs(compiled.cov - reference.cov) <= TOLERANCE * np.outer(deviation, deviation)).all()
    assert compiled.p == pytest.approx(reference.p, rel=TOLERANCE)
    assert bool((compiled.p != p0).any()) == learn


@pytest.mark.slow
def test_the_streams_cross_every_line_of_the_reference() -> None:
    for name in STREAMS:
        for mode in MODES:
            followed(name, mode)
    missed = {code.co_name: sorted(lines) for code, lines in NOT_CROSSED.items() if lines}
    missed.pop("new_filter", None)  # of another use
    assert not missed


def history(name: str, mode: str) -> dict[str, Array]:
    """What the reference remembers after each sample of a stream, by its names."""
    memory = followed(name, mode)[1]
    places = [*ROW, 0][:-1]
    return {
        name: memory[:, start:end] for name, start, end in zip(ROW._fields, places, places[1:], strict=False)
    }


@pytest.mark.slow
def test_the_streams_hold_what_a_motor_may_meet() -> None:
    """The control of the tests above: what no line of its own says."""
    found = {name: history(name, "adapting") for name in STREAMS}
    stands = found["standing"]["x"][:, SPEED] == 0.0
    assert stands.sum() > 200 and (np.diff(stands.astype(int)) == -1).sum() >= 2, "it stands and moves again"
    assert (found["standing"]["rejected"][stands, 1] == 1).any(), "an outlier in standstill"
    assert (np.diff(found["driving"]["direction"][:, 0]) != 0).sum() >= 6, "it reverses"
    rejected = found["outliers"]["rejected"]
    assert {tuple(marks) for marks in rejected.tolist()} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert (rejected[1:].any(axis=1) & rejected[:-1].any(axis=1)).any(), "two in a row"
    assert (np.diff(found["loaded"]["jumps"][:, 0]) > 0.5).any(), "a jump found by the sum"
    variance = found["loaded"]["cov"][:, LOAD * (JOINT + 1)] / LOAD_SIZE**2
    assert (np.diff(variance) > 0.5).any(), "the load is unknown again"
    assert found["changed"]["jumps"].max() > kalman_reference.FREQUENT_JUMPS, "jumps too often"
    widened = np.diff(found["changed"]["pause"], axis=0) > 0.1
    assert widened.any(axis=0).all(), "parameters of both equations are widened"
    assert (found["frictionless"]["p"][:, 4:6] == 0.0).any(axis=0).all(), "no friction"
    alternating = history("driving", "both in turn")
    assert set(np.diff(alternating["joint"][:, 0]).tolist()) == {-1.0, 0.0, 1.0}
