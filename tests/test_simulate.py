import gc
import itertools
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from simulators.dc_motor import MOTORS, DCMotor
from simulators.motors import motor
from simulators.plant import Vector
from simulators.scenario import Scenario
from simulators.sensors import SensorNoise
from simulators.signals import Signal, default_load, default_voltage, signal
from simulators.simulate import Solver, simulate
from twin.errors import ConfigError, SpecError
from twin.messages import Sample, pack, unpack

QUBE = motor("qube-servo-3")
NONE = signal("const:0")


def table(samples: Iterator[Sample]) -> NDArray[np.float64]:
    """(T, 4): t, voltage, current, speed."""
    return np.array([(s.t, s.u["voltage"], s.y["current"], s.y["speed"]) for s in samples])


def scale(m: DCMotor) -> NDArray[np.float64]:
    return np.array([m.stall_current(m.rated_voltage), m.rated_voltage / m.back_emf])


def exact(m: DCMotor, voltage: Signal, load: Signal, dt: float, count: int) -> NDArray[np.float64]:
    """(T, 2) of the linear motor by the matrix exponential."""
    a = [
        [-m.resistance / m.inductance, -m.back_emf / m.inductance],
        [m.torque_constant / m.inertia, -m.viscous_friction / m.inertia],
    ]
    b = [[1 / m.inductance, 0], [0, -1 / m.inertia]]
    step = expm(np.vstack([np.hstack([a, b]), np.zeros((2, 4))]) * dt)
    states = np.zeros((count, 2))
    for k in range(count - 1):
        states[k + 1] = step[:2] @ np.array([*states[k], voltage(k * dt), load(k * dt)])
    return states


@pytest.mark.parametrize("name", MOTORS)
@pytest.mark.parametrize("dt", [1e-4, 1e-3, 2e-2])
def test_linear_motor_agrees_with_the_matrix_exponential(name: str, dt: float) -> None:
    m = replace(motor(name), coulomb_friction=0.0)
    voltage, load = signal(default_voltage(m)), signal(default_load(m))
    states = table(simulate(m, voltage=voltage, load=load, dt=dt, duration=600 * dt))[:, 2:]
    error = abs(states - exact(m, voltage, load, dt, 600)) / abs(states).max(axis=0)
    assert error.max() < 1e-8


def reference(m: DCMotor, x: Any, u: tuple[float, float], mode: int, dt: float) -> tuple[Any, int, int]:
    """One sample by `solve_ivp` with events: an implementation of the friction of its own."""
    v, load = u
    switches = 0

    def force(x: Any) -> float:
        return float(m.torque_constant * x[0] - load)

    if mode == 0 and abs(force(x)) > m.coulomb_friction:
        mode = 1 if force(x) > 0 else -1
    while dt > 0:

        def f(t: float, x: Any, mode: int = mode) -> list[float]:
            di = (v - m.resistance * x[0] - m.back_emf * x[1]) / m.inductance
            friction = mode * m.coulomb_friction + m.viscous_friction * x[1]
            return [di, (force(x) - friction) / m.inertia if mode else 0.0]

        def end(t: float, x: Any, mode: int = mode) -> float:
            return float(x[1] * mode if mode else m.coulomb_friction - abs(force(x)))

        end.terminal, end.direction = True, -1  # type: ignore[attr-defined]
        run = solve_ivp(f, (0, dt), x, "DOP853", rtol=1e-12, atol=1e-14, events=end, max_step=1e-4)
        x, dt = run.y[:, -1], dt - run.t[-1]
        if run.status == 1:
            switches += 1
            moved, mode = mode, (1 if force(x) > 0 else -1)
            if moved and abs(force(x)) <= m.coulomb_friction:
                mode = 0
            x[1] = mode * 1e-12  # a nudge: an event at the very start would be found again and again
    return x, mode, switches


@pytest.mark.parametrize("name", MOTORS)
def test_nonlinear_motor_agrees_with_solve_ivp_and_its_events(name: str) -> None:
    m = replace(motor(name))
    m = replace(m, coulomb_friction=0.1 * m.stall_torque(m.rated_voltage))
    load = signal(default_load(m))
    voltage = signal(f"steps:{0.3 * m.rated_voltage},shortest=0.003,longest=0.02", 4)
    states = table(simulate(m, voltage=voltage, load=load, duration=0.25))[:, 2:]
    x, mode, switches = np.zeros(2), 0, 0
    for k, state in enumerate(states):
        assert abs(state - x) / scale(m) == pytest.approx([0, 0], abs=1e-8), k
        x, mode, more = reference(m, x, (voltage(k * 1e-3), load(k * 1e-3)), mode, 1e-3)
        switches += more
    assert switches >= 6


def test_breakaway_and_standstill_are_located() -> None:
    """The instant is known in closed form: i = v/R (1 - exp(-t R/L)) reaches τ_c / K_t."""
    m, v = QUBE, 0.8
    at = -m.electrical_time_constant * np.log(1 - m.coulomb_friction * m.resistance / (m.torque_constant * v))
    solver = Solver()
    assert at > 1e-4
    assert solver.advance(m, (0.0, 0.0), (v, 0.0), at * (1 - 1e-9))[1] == 0.0
    assert 0.0 < solver.advance(m, (0.0, 0.0), (v, 0.0), at * (1 + 1e-3))[1] < 1e-3
    whole = solver.advance(m, (0.0, 0.0), (v, 0.0), 1e-3)
    parts: Vector = (0.0, 0.0)
    for part in (at / 2, at / 2, (1e-3 - at) / 3, (1e-3 - at) * 2 / 3):
        parts = solver.advance(m, parts, (v, 0.0), part)
    assert parts == pytest.approx(whole, rel=1e-8)


def test_a_short_stop_within_a_sample_is_seen() -> None:
    """The speed falls to zero and rises again before the sample ends: in between the motor stuck."""
    m, u = replace(QUBE, inertia=2e-6), (6.0, 0.0)
    stops = 0
    for speed in np.linspace(0.02, 0.8, 20).tolist():
        fine: Vector = (-0.25, speed)
        whole, stopped = Solver().advance(m, fine, u, 1e-3), False
        for _ in range(200):
            fine = Solver().advance(m, fine, u, 5e-6)
            stopped |= fine[1] == 0.0
        assert whole == pytest.approx(fine, rel=1e-6)
        stops += stopped and whole[1] > 0
    assert 3 < stops < 20


def test_sample_k_is_at_k_dt_and_holds_its_input() -> None:
    voltage = signal("steps:10,shortest=0.01,longest=0.05")
    samples = list(simulate(QUBE, voltage=voltage, load=NONE, dt=0.003, duration=3.0))
    assert [s.seq for s in samples] == list(range(1000))
    assert all(s.t == s.seq * 0.003 and s.u == {"voltage": voltage(s.t)} for s in samples)
    assert samples[0].y == {"current": 0.0, "speed": 0.0}  # measured before the first voltage acts
    solver = Solver()
    for before, after in itertools.pairwise(samples[:50]):
        x = solver.advance(QUBE, tuple(before.y.values()), (before.u["voltage"], 0.0), 0.003)
        assert tuple(after.y.values()) == pytest.approx(x, rel=1e-7, abs=1e-9)
    assert unpack(b"sample/motor-1", pack(samples[7])) == samples[7]


def run(seed: int = 1, name: str = "qube-servo-3") -> Iterator[Sample]:
    m = motor(name)
    voltage, load = signal(default_voltage(m), seed), signal(default_load(m), seed)
    return simulate(m, voltage=voltage, load=load, noise=SensorNoise.of(m), seed=seed)


def test_same_seed_same_samples_and_runs_do_not_meet() -> None:
    """Two runs taken in turn give what each gives alone: the integrator keeps nothing between runs."""
    alone = [list(itertools.islice(run(1), 300)), list(itertools.islice(run(2, "maxon-re25"), 300))]
    one, other = run(1), run(2, "maxon-re25")
    in_turn = [(next(one), next(other)) for _ in range(300)]
    assert [a for a, _ in in_turn] == alone[0]
    assert [b for _, b in in_turn] == alone[1]
    assert list(itertools.islice(run(3), 300)) != alone[0]


def test_default_sensors_are_noisy_as_stated_and_quantised() -> None:
    noise = SensorNoise.of(QUBE)
    assert noise.current_range == pytest.approx(3.0)  # the range of its maker's current input
    voltage, load = signal(default_voltage(QUBE)), signal(default_load(QUBE))
    kwargs: dict[str, Any] = {"voltage": voltage, "load": load, "duration": 5.0}
    error = table(simulate(QUBE, noise=noise, **kwargs)) - table(simulate(QUBE, **kwargs))
    assert error[:, 2].std() == pytest.approx(np.hypot(3e-3, 6 / 4096 / np.sqrt(12)), rel=0.05)
    assert error[:, 3].std() == pytest.approx(noise.speed_rms, rel=0.05)
    assert abs(error[:, 2:].mean(axis=0)) == pytest.approx([0, 0], abs=0.01)
    currents = table(simulate(QUBE, noise=noise, **kwargs))[:, 2] / (6 / 4096)
    assert abs(currents - currents.round()).max() < 1e-9


def test_converter_saturates_and_encoder_stops() -> None:
    read = replace(SensorNoise.none(), current_range=1.0, current_bits=8, encoder_counts=100).reader(1e-3, 1)
    assert read({"current": 7.0, "speed": 0.5})["current"] == 1.0
    assert read({"current": -7.0, "speed": 0.5})["current"] == -1.0
    assert read({"current": 0.0, "speed": 0.5}) == {"current": 0.0, "speed": 0.0}  # no edge within 0.1 s
    assert read({"current": 0.0, "speed": -100.0})["speed"] == pytest.approx(-100.0, rel=1e-4)
    slow = replace(SensorNoise.none(), encoder_counts=100, clock=1e4).reader(1e-3, 1)
    assert slow({"current": 0.0, "speed": 100.0})["speed"] == pytest.approx(2 * np.pi * 1e4 / 100 / 6)


def test_parameters_drift_as_the_scenario_says() -> None:
    scenario = Scenario.parse('[[drift]]\nparameter = "resistance"\nfactor = 2\nat = 0.5')
    states = table(simulate(QUBE, voltage=signal("step:10"), load=NONE, duration=2.0, scenario=scenario))
    hot = replace(QUBE, resistance=15.0)
    assert states[499, 3] == pytest.approx(QUBE.no_load_speed(10), rel=0.01)
    assert states[-1, 3] == pytest.approx(hot.no_load_speed(10), rel=1e-3)
    assert states[510, 2] < states[500, 2]


def test_scenario_load_brakes_and_drop_out_leaves_a_gap() -> None:
    scenario = Scenario.parse(
        '[[load]]\ntorque = 0.01\nat = 1.0\n[[fault]]\nkind = "drop-out"\nat = 0.0995\nuntil = 0.1995'
    )
    samples = list(simulate(QUBE, voltage=signal("step:10"), load=NONE, duration=2.0, scenario=scenario))
    assert [s.seq for s in samples] == [*range(100), *range(200, 2000)]
    assert samples[-1].y["speed"] < samples[890].y["speed"] - 30


@pytest.mark.parametrize(("dt", "duration"), [(0.0, 1.0), (-1.0, 1.0), (1e-3, 0.0)])
def test_impossible_times_are_refused_at_once(dt: float, duration: float) -> None:
    with pytest.raises((ConfigError, SpecError), match="positive time"):
        simulate(QUBE, voltage=NONE, load=NONE, dt=dt, duration=duration)


def test_impossible_noise_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"speed_rms = -1.*positive"):
        SensorNoise(speed_rms=-1.0)
    with pytest.raises(ConfigError, match="current_range"):
        SensorNoise(current_bits=12)


def test_a_sample_is_several_times_cheaper_than_calling_solve_ivp() -> None:
    """A ratio, since machines differ; `benchmarks` has the microseconds."""

    def median(turn: Any) -> float:
        durations = []
        for _ in range(200):
            start = time.thread_time()
            turn()
            durations.append(time.thread_time() - start)
        return float(np.median(durations))

    samples = run()
    f = QUBE.rhs((5.0, 0.001), 1)
    anew = median(
        lambda: solve_ivp(lambda t, x: f(t, x), (0, 1e-3), (0.1, 100.0), "DOP853", rtol=1e-6, atol=1e-9)
    )
    assert median(lambda: next(samples)) < anew / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", MOTORS)
@pytest.mark.parametrize("drifting", [False, True], ids=["steady", "drifting"])
def test_a_plant_keeps_nothing_of_its_past_samples(name: str, drifting: bool) -> None:
    """An hour at 1 kHz is 3.6 million samples: one object kept of each is gigabytes."""
    m = motor(name)
    text = "[[drift]]\nparameter = 'resistance'\nfactor = 1.4\nat = 0.5\nduration = 1000.0\n"
    samples = simulate(
        m,
        voltage=signal(default_voltage(m)),
        load=signal(default_load(m)),
        noise=SensorNoise.of(m),
        scenario=Scenario.parse(text) if drifting else None,
    )

    def blocks() -> int:
        gc.collect()
        return sys.getallocatedblocks()

    deque(itertools.islice(samples, 1_000), maxlen=0)
    before = blocks()
    deque(itertools.islice(samples, 8_000), maxlen=0)
    assert blocks() - before < 8_000 / 4  # one object a sample would be 8,000; free lists fill up at first
