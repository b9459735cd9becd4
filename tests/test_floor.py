"""The Kalman floor: exact where the motor is linear, and as low as such a filter gets where it is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import solve_discrete_are

from simulators import Scenario, SensorNoise, default_load, motor, signal
from simulators.dc_motor import MOTORS
from simulators.exact import advance, row, tangent, transition
from simulators.floor import Floor, LoadStatistics, StreamFloor
from simulators.quick_motor import quick
from simulators.real_floor import best_observer
from twin.messages import Sample

DT = 1e-3
Array = NDArray[np.float64]


def rms(errors: Array) -> Array:
    """Of the errors (T, 2), without the start."""
    found: Array = np.sqrt(np.mean(errors[1000:] ** 2, axis=0))
    return found


def samples(z: Array) -> list[Sample]:
    return [motor().spec(DT).sample(k, row) for k, row in enumerate(z.tolist())]


def test_of_a_linear_motor_it_is_the_exact_filter() -> None:
    """Its covariance is that of the Riccati equation, the innovations as large and white as it says."""
    plant = replace(motor(), coulomb_friction=0.0)
    noise = replace(SensorNoise.of(plant), current_bits=0, encoder_counts=0)
    walk = 4e-3 * plant.rated_torque
    load = walk * np.cumsum(np.random.default_rng(3).standard_normal(100_000))
    floor = Floor(plant, DT, noise, LoadStatistics(rms=10 * walk, walk=walk))
    errors = floor.errors(quick(plant, len(load), load=load, noise=noise).z)[1000:]

    p = row(plant)
    f = np.eye(3)
    f[:2, :2] = np.reshape(transition(p, DT), (2, 2))
    zero = np.array(advance(p, 0.0, 0.0, 0.0, 0.0, DT))
    f[:2, 2] = np.array(advance(p, 0.0, 0.0, 0.0, 1.0, DT)) - zero
    h = np.eye(3)[:2]
    r = np.diag([noise.current_rms**2, noise.speed_rms**2])
    covariance = solve_discrete_are(f.T, h.T, walk**2 * np.outer(f[:, 2], f[:, 2]), r)
    assert floor.covariance == pytest.approx(covariance, rel=1e-6)
    s = h @ covariance @ h.T + r
    assert np.cov(errors.T) == pytest.approx(s, rel=0.02, abs=0.02 * np.sqrt(s[0, 0] * s[1, 1]))
    scaled = errors / np.sqrt(np.diag(s))
    for lag in (1, 2, 5, 50):
        assert np.abs(scaled[lag:].T @ scaled[:-lag] / len(scaled)).max() < 0.02


def test_it_may_know_that_the_load_jumps() -> None:
    plant = motor()
    stream = quick(plant, 60_000)
    noise = SensorNoise.of(plant)
    known = LoadStatistics.of(stream.load, DT)
    errors = rms(stream.z[:, 1:] - stream.x)
    floor, jumping = (rms(Floor(plant, DT, noise, known, jumps=n).errors(stream.z)) for n in (0, 8))
    assert floor == pytest.approx(errors * (1.006, 1.134), rel=0.01)
    assert jumping == pytest.approx(errors * (1.002, 1.051), rel=0.01)


@pytest.mark.parametrize("name", list(MOTORS))
@pytest.mark.parametrize("share", [1.0, 0.15])
@pytest.mark.parametrize("jumps", [0, 8])
def test_no_other_statistics_are_lower(name: str, share: float, jumps: int) -> None:
    """Neither where the motor turns nor where it mostly stands."""
    plant = motor(name)
    volts = share * quick(plant, 40_000).z[:, 0]
    stream = quick(plant, 40_000, voltage=volts)
    known = LoadStatistics.of(stream.load, DT)

    def of(statistics: LoadStatistics) -> float:
        return float(
            rms(Floor(plant, DT, SensorNoise.of(plant), statistics, jumps=jumps).errors(stream.z))[1]
        )

    floor = of(known)
    for factor in (0.5, 2.0):
        for field in ("walk", "jumps", "jump_rms"):
            assert of(replace(known, **{field: factor * getattr(known, field)})) > 0.99 * floor


def test_the_statistics_are_those_of_the_signal() -> None:
    plant = motor()
    known = LoadStatistics.of_signal(signal(default_load(plant), 2), DT)
    assert known.jumps == pytest.approx(DT / 1.75, rel=0.3)  # a hold lasts 1.75 s in the mean
    # the difference of two levels uniform within ±a has the rms a √(2/3)
    assert known.jump_rms == pytest.approx(0.2 * plant.rated_torque * np.sqrt(2 / 3), rel=0.2)
    # noise flat up to B Hz changes with 2πB/√3 of its rms a second; over 50 ms that is a straight line
    slope = 0.05 * plant.rated_torque * 2 * np.pi * 0.5 / np.sqrt(3)
    assert known.walk == pytest.approx(slope * np.sqrt(0.05 * DT), rel=0.2)
    assert LoadStatistics.of(np.full(1000, 0.01), DT).jumps == 0.0
    assert LoadStatistics.of(np.random.default_rng(1).standard_normal(1000), DT).jumps == 0.0


@pytest.mark.parametrize(("w", "v"), [(100.0, 5.0), (0.3, -6.0), (-0.2, 0.0), (0.0, 5.0), (0.0, 0.1)])
def test_its_derivative_is_that_of_the_flow(w: float, v: float) -> None:
    """In motion, through zero, to standstill, from standstill and in it."""
    p, f = row(motor()), np.empty((3, 3))
    x = np.array([0.02, w, 1e-3])
    assert tangent(p, *x[:2], v, x[2], DT, f) == pytest.approx(advance(p, *x[:2], v, x[2], DT))
    for c, small in enumerate((1e-7, 1e-6, 1e-8)):
        if c == 1 and w == 0.0:
            continue  # a standing motor that moves a little is another one
        step = small * np.eye(3)[c]
        up, down = (np.array(advance(p, *y[:2], v, y[2], DT)) for y in (x + step, x - step))
        assert f[:2, c] == pytest.approx((up - down) / (2 * small), rel=1e-4, abs=1e-6 * np.abs(f[:2]).max())


def test_it_takes_a_stream_sample_by_sample_and_over_gaps() -> None:
    plant = motor()
    z = quick(plant, 4000).z
    known = LoadStatistics.of_signal(signal(default_load(plant), 2), DT)
    at_once = Floor(plant, DT, SensorNoise.of(plant), known).errors(z)
    floor = StreamFloor(Floor(plant, DT, SensorNoise.of(plant), known))
    stream = samples(z)
    for sample in stream[:3000]:
        floor.observe(sample)
    assert list(floor.rms(2000).values()) == pytest.approx(np.sqrt(np.mean(at_once[1000:3000] ** 2, axis=0)))
    for sample in stream[3100:]:
        floor.observe(sample)
    whole = np.sqrt(np.mean(at_once[3101:] ** 2, axis=0))
    assert list(floor.rms(1000).values()) == pytest.approx(whole, rel=0.05)  # neither the gap nor its end


def test_it_knows_what_changes() -> None:
    plant = motor()
    scenario = Scenario.parse("[[drift]]\nparameter='resistance'\nfactor=1.4\nat=2.0\n")
    z = quick(plant, 6000, changes=[(2000, replace(plant, resistance=1.4 * plant.resistance))]).z
    known = LoadStatistics.of_signal(signal(default_load(plant), 2), DT)
    knowing, ignorant = (
        StreamFloor(Floor(plant, DT, SensorNoise.of(plant), known), story) for story in (scenario, None)
    )
    for sample in samples(z):
        knowing.observe(sample)
        ignorant.observe(sample)
    floor, other = knowing.rms(3000), ignorant.rms(3000)
    assert floor["speed"] < 1.2 * SensorNoise.of(plant).speed_rms
    assert other["speed"] > 1.5 * floor["speed"]


BOTH = "kind='stuck'\nchannel='speed'\nat=1.0\nuntil=1.3\n[[fault]]\nkind='stuck'\nchannel='current'"
FAULTS = {
    "offset": ("kind='offset'\nchannel='current'\noffset=0.3", 1e-6),
    "stuck current": ("kind='stuck'\nchannel='current'", 0.005),
    "stuck speed": ("kind='stuck'\nchannel='speed'", 0.005),
    "both": (BOTH, 0.02),
    "drop-out": ("kind='drop-out'", 0.05),
}
"""Each kind, and by how much the observer's error may be larger after it."""


@pytest.mark.parametrize("fault", list(FAULTS))
@pytest.mark.parametrize("name", ["qube-servo-3", pytest.param("qube-servo-3-real", marks=pytest.mark.slow)])
def test_a_sensor_that_fails_does_not_mislead_it(fault: str, name: str) -> None:
    """Afterwards it is at once as one that met no fault, and meanwhile it is not judged."""
    plant, (text, worse) = motor(name), FAULTS[fault]
    story = Scenario.parse(f"[[fault]]\n{text}\nat=1.0\nuntil=1.3\n")
    known = LoadStatistics.of_signal(signal(default_load(plant), 2), DT)
    suffer, noise = story.suffer(), SensorNoise.of(plant)
    healthy, other = (StreamFloor(best_observer(plant, DT, noise, known), told) for told in (None, story))
    for k, values in enumerate(quick(plant, 1_700).z.tolist()):
        sample = plant.spec(DT).sample(k, values)
        healthy.observe(sample)
        y = suffer(sample.t, dict(sample.y))
        if y is not None:
            other.observe(Sample(seq=k, t=sample.t, u=sample.u, y=y))
        if k == 1_300:
            assert fault == "drop-out" or other.rms(301) == {}
    for output, least in healthy.rms(399).items():
        assert other.rms(399)[output] == pytest.approx(least, rel=worse)
    assert other.rms(1_700)["speed"] < 1.2 * healthy.rms(1_700)["speed"]


def test_a_stuck_sensor_is_left_out_and_the_other_still_used() -> None:
    """By the current alone it knows the speed far better than by the voltage alone."""
    plant = motor()
    known = LoadStatistics.of_signal(signal(default_load(plant), 2), DT)
    stream = quick(plant, 3_000)
    floors = {
        failed: Floor(plant, DT, SensorNoise.of(plant), known)
        for failed in ((False, False), (False, True), (True, False), (True, True))
    }
    errors: dict[tuple[bool, bool], list[float]] = {failed: [] for failed in floors}
    for k in range(len(stream.z)):
        for failed, floor in floors.items():
            errors[failed].append(floor.expected[1] - stream.x[k, 1])
            stuck = np.where(failed, stream.z[1_000, 1:], stream.z[k, 1:])  # what it would read
            floor.errors(np.array([[stream.z[k, 0], *stuck]]), failed if k > 1_000 else (False, False))
    both, current, speed, none = (float(np.std(each[1_000:])) for each in errors.values())
    assert both <= speed < current < 0.3 * none


def test_a_motor_that_stood_and_was_turned_by_its_load_is_found_again() -> None:
    plant = motor()
    load = np.zeros(3000)
    load[1000:2000] = -3 * plant.coulomb_friction  # no voltage: only the load moves it
    z = quick(plant, len(load), voltage=0.0, load=load).z
    known = LoadStatistics(rms=2e-3, walk=0.0, jump_rms=4e-3, jumps=1e-3)
    floor = Floor(plant, DT, SensorNoise.of(plant), known)
    errors = floor.errors(z)
    assert z[1500, 2] > 25.0
    assert rms(errors[50:])[1] < 1.3 * SensorNoise.of(plant).speed_rms
    assert floor.expected[1] == 0.0  # stuck at the end, and known to be
