import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.motors import motor
from simulators.signals import SIGNALS, default_load, default_voltage, signal
from twin.errors import ConfigError

TEXTS = [f"{name}:2" for name in SIGNALS] + [
    default_voltage(motor()),
    default_load(motor()),
    "step:12,at=0.25 + prbs:amplitude=1e+0,hold=0.05 + const:-1",
]


@pytest.mark.parametrize("text", TEXTS)
@given(seed=st.integers(0, 5), times=st.lists(st.floats(0, 1e5), min_size=1, max_size=20))
@settings(max_examples=settings().max_examples // 20)  # of each text
def test_value_depends_on_time_and_seed_only(text: str, seed: int, times: list[float]) -> None:
    one, other = signal(text, seed), signal(text, seed)
    forth = [one(t) for t in times]
    back = [other(t) for t in reversed(times)][::-1]
    assert forth == back
    assert all(math.isfinite(value) for value in forth)


@pytest.mark.parametrize("name", ["prbs", "steps", "multisine", "noise"])
def test_seed_and_words_make_the_random_stream(name: str) -> None:
    times = np.arange(200) * 0.037

    def values(text: str, seed: int) -> list[float]:
        one = signal(text, seed)
        return [one(t) for t in times.tolist()]

    assert values(f"{name}:2", 1) != values(f"{name}:2", 2)
    assert np.corrcoef(values(f"{name}:2", 1), values(f"{name}:3", 1))[0, 1] < 0.99


def test_step_and_ramp() -> None:
    step, ramp = signal("step:12,at=0.5"), signal("ramp:amplitude=4,duration=2,at=1")
    assert [step(t) for t in (0.0, 0.499, 0.5, 9.0)] == [0, 0, 12, 12]
    assert [ramp(t) for t in (0.0, 1.0, 1.5, 3.0, 9.0)] == [0, 0, 1, 4, 4]


def test_prbs_is_a_maximum_length_sequence() -> None:
    """Its autocorrelation is flat: the sum over a period of the product with any shift is -1."""
    prbs = signal("prbs:1,hold=0.1")
    bits = np.array([prbs(k * 0.1) for k in range(1023)])
    assert set(bits.tolist()) == {-1.0, 1.0}
    assert bits.sum() in (-1, 1)
    for shift in (1, 2, 10, 500):
        assert bits @ np.roll(bits, shift) == -1
    assert prbs(0.1 * 1023) == prbs(0.0)


def test_steps_hold_between_their_bounds_and_change_sign() -> None:
    steps = signal("steps:10,shortest=0.05,longest=0.4")
    values = np.array([steps(k * 1e-3) for k in range(100_000)])
    holds = np.diff(np.flatnonzero(np.diff(values))) * 1e-3
    assert 0.048 < holds.min() < 0.06 and 0.39 < holds.max() < 0.402
    assert abs(values).max() <= 10 and values.min() < -9 < 9 < values.max()


def test_chirp_passes_its_frequencies() -> None:
    chirp = signal("chirp:1,low=1,high=10,period=10")
    values = np.array([chirp(k * 1e-3) for k in range(10_000)])
    crossings = np.flatnonzero(np.diff(np.signbit(values)))
    assert np.sum(crossings < 1000) == pytest.approx(2 * 1.45, abs=1.1)  # mean frequency of the first second
    assert np.sum(crossings >= 9000) == pytest.approx(2 * 9.55, abs=1.1)


def test_multisine_stays_in_its_band_and_bound() -> None:
    sines = signal("multisine:3,low=0.5,high=8,count=6")
    values = np.array([sines(k * 0.01) for k in range(400)])  # one period of 4 s
    spectrum = abs(np.fft.rfft(values)) / 200
    lines = np.flatnonzero(spectrum > 1e-9) / 4
    assert len(lines) == 6 and lines.min() == 0.5 and lines.max() == 8
    assert abs(values).max() <= 3
    assert sines(4.5) == pytest.approx(sines(0.5), abs=1e-12)


def test_noise_has_its_rms_and_band() -> None:
    noise = signal("noise:0.5,bandwidth=5")
    values = np.array([noise(k * 0.01) for k in range(80_000)])
    assert values.std() == pytest.approx(0.5, rel=0.02)
    power = abs(np.fft.rfft(values * np.hanning(values.size))) ** 2
    frequencies = np.fft.rfftfreq(values.size, 0.01)
    assert power[frequencies > 5.2].sum() < 1e-3 * power.sum()
    assert power[frequencies < 2.5].sum() == pytest.approx(power.sum() / 2, rel=0.1)  # flat


def test_sum_adds() -> None:
    assert signal("const:1 + step:2,at=1+const:-0.5")(1.0) == 2.5


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", "'' is none of const, step"),
        ("sine:3", "'sine' is none of const, step"),
        ("step:12 +", "'' is none of"),
        ("step", "how large"),
        ("prbs:8,hld=0.1", "'hld' is unknown; prbs takes amplitude, hold"),
        ("prbs:8,amplitude=9", "'amplitude' stands twice"),
        ("prbs:8,hold=fast", "hold = 'fast': give a number"),
        ("step:nan", "finite"),
        ("prbs:8,hold=0", "hold = 0: give a positive number"),
        ("steps:8,shortest=2,longest=1", "positive number"),
    ],
)
def test_what_is_no_signal_is_refused_with_advice(text: str, advice: str) -> None:
    with pytest.raises(ConfigError) as error:
        signal(text)
    assert advice in str(error.value)


def test_defaults_suit_the_motor() -> None:
    voltage, load = signal(default_voltage(motor())), signal(default_load(motor()))
    times = np.arange(60_000) * 1e-3
    volts = np.array([voltage(t) for t in times.tolist()])
    torques = np.array([load(t) for t in times.tolist()])
    assert abs(volts).max() <= 10
    assert np.sum(np.diff(np.signbit(volts))) > 20  # through standstill again and again
    assert 0.1 < torques.std() / motor().rated_torque < 0.2
    assert abs(np.corrcoef(volts, torques)[0, 1]) < 0.3
