"""Signals over time, for voltages and load torques: deterministic functions of t, written in a line.

A signal is a function of the time in seconds. What is random in it is drawn from its seed beforehand, so
that f(t) does not depend on when, how often or in which order it is called: a replay, a restart and a test
see the same. Random signals repeat after a stated period. Where a signal jumps, it has its new value at the
instant of the jump.

>>> square = signal("step:12 + step:-24,at=0.5")
>>> square(0.0), square(0.5)
(12.0, -12.0)
>>> signal("prbs:8,hold=0.1", seed=3)(2.0) == signal("prbs:8,hold=0.1", seed=3)(2.0)
True
"""

from __future__ import annotations

import inspect
import math
import re
import zlib
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from simulators.dc_motor import DCMotor
from twin.errors import ConfigError

Signal = Callable[[float], float]
"""A value at each time t ≥ 0 in seconds."""

Rng = np.random.Generator

STEPS_LEVELS: Final = 8192
"""Levels drawn for `steps` before they repeat."""
NOISE_POINTS: Final = 2**16
"""Points drawn for `noise` before it repeats."""
MAX_SIGNAL_VALUE: Final = 1e6  # V, N·m, Hz or s: whatever is larger is a slip of the keyboard
MIN_TIME_OR_FREQUENCY: Final = 1e-6  # Hz or s
MAX_SINES: Final = 1_000  # sines in a sum


def const(value: float = 0.0) -> Signal:
    """The same `value` always."""
    return lambda t: value


def step(amplitude: float, at: float = 0.0) -> Signal:
    """Zero, and `amplitude` from the time `at` on."""
    return lambda t: amplitude if t >= at else 0.0


def ramp(amplitude: float, duration: float = 1.0, at: float = 0.0) -> Signal:
    """Zero until `at`, then straight to `amplitude` within `duration`, and there it stays."""
    _positive("ramp", duration=duration)
    return lambda t: amplitude * min(max((t - at) / duration, 0.0), 1.0)


def prbs(amplitude: float, hold: float = 0.1, *, rng: Rng) -> Signal:
    """Two levels ±`amplitude` in the order of a maximum-length sequence of 1023 bits of `hold` seconds.

    Recurrence x^10 + x^3 + 1 (L. Ljung, "System Identification", 2nd ed., 13.3); the seed chooses where in
    the sequence it begins. Repeats after 1023 holds.
    """
    _positive("prbs", hold=hold)
    bits = [1] * 10
    while len(bits) < 1023:
        bits.append(bits[-10] ^ bits[-7])
    start = int(rng.integers(1023))
    levels = [amplitude if bit else -amplitude for bit in bits[start:] + bits[:start]]
    return lambda t: levels[_index(t, hold) % 1023]


def steps(amplitude: float, shortest: float = 0.05, longest: float = 0.4, *, rng: Rng) -> Signal:
    """Levels uniform within ±`amplitude`, each held between `shortest` and `longest` seconds, at random.

    Many levels and both signs: what a PRBS shows too little of is a motor's friction and its nonlinearity.
    """
    _positive("steps", shortest=shortest, longest_minus_shortest=longest - shortest or 1.0)
    ends = np.cumsum(rng.uniform(shortest, longest, STEPS_LEVELS)).tolist()
    levels: list[float] = rng.uniform(-amplitude, amplitude, STEPS_LEVELS).tolist()
    return lambda t: levels[bisect_right(ends, t % ends[-1])]


def chirp(amplitude: float, low: float = 0.1, high: float = 50.0, period: float = 20.0) -> Signal:
    """A sine whose frequency runs straight from `low` to `high` Hz within `period`, again and again."""
    _positive("chirp", low=low, high=high, period=period)
    rate = (high - low) / (2 * period)

    def value(t: float) -> float:
        t %= period
        return amplitude * math.sin(2 * math.pi * (low + rate * t) * t)

    return value


def multisine(amplitude: float, low: float = 0.2, high: float = 20.0, count: int = 12, *, rng: Rng) -> Signal:
    """`count` sines, about evenly spread in octaves between `low` and `high` Hz, phases at random.

    All are multiples of low / 2, so it repeats after 2 / low seconds. `amplitude` bounds the sum.
    """
    _positive("multisine", low=low, high=high, count=count)
    if not 1 <= count <= MAX_SINES:
        raise ConfigError(f"signal multisine: count = {count:g}: give a number from 1 to {MAX_SINES}")
    harmonics = sorted({round(2 * f / low) for f in np.geomspace(low, high, int(count))})
    lines = [
        (math.pi * low * k, phase)
        for k, phase in zip(harmonics, rng.uniform(0, 2 * math.pi, len(harmonics)).tolist(), strict=True)
    ]
    share = amplitude / len(lines)

    def value(t: float) -> float:
        return share * sum([math.sin(w * t + phase) for w, phase in lines])

    return value


def noise(amplitude: float, bandwidth: float = 1.0, *, rng: Rng) -> Signal:
    """Gaussian noise of rms `amplitude` with a flat spectrum up to `bandwidth` Hz and nothing above.

    Drawn as a Fourier series on a grid of 16 points per period of the highest frequency and interpolated by
    cubics (Catmull-Rom), whose error is below 1 % there. Repeats after 4096 / bandwidth seconds.
    """
    _positive("noise", bandwidth=bandwidth)
    lines = NOISE_POINTS // 16
    spectrum = np.zeros(NOISE_POINTS // 2 + 1, complex)
    spectrum[1 : lines + 1] = rng.standard_normal((lines, 2)) @ (1, 1j)
    points = np.fft.irfft(spectrum)
    grid: list[float] = (points * (amplitude / points.std())).tolist()
    rate = 16 * bandwidth

    def value(t: float) -> float:
        k = math.floor(t * rate)
        s = t * rate - k
        a, b, c, d = (
            grid[(k - 1) % NOISE_POINTS],
            grid[k % NOISE_POINTS],
            grid[(k + 1) % NOISE_POINTS],
            grid[(k + 2) % NOISE_POINTS],
        )
        return b + 0.5 * s * (c - a + s * (2 * a - 5 * b + 4 * c - d + s * (3 * (b - c) + d - a)))

    return value


SIGNALS: Final[dict[str, Callable[..., Signal]]] = {
    make.__name__: make for make in (const, step, ramp, prbs, steps, chirp, multisine, noise)
}
"""What may stand before the colon of a term."""


def signal(text: str, seed: int = 1) -> Signal:
    """The signal that a line describes: terms NAME:VALUE,KEY=VALUE,... joined by +.

    A value without a key is the first parameter, the amplitude. Each random term has a random stream of its
    own, made from `seed` and the term's words: other words, other numbers.

    Raises:
        ConfigError: a name, key or number that is not one; the message says what would be.
    """
    terms = [_term(part.strip(), seed) for part in re.split(r"\+(?=\s*[A-Za-z]|\s*$)", text)]
    return terms[0] if len(terms) == 1 else lambda t: sum([term(t) for term in terms])


def default_voltage(motor: DCMotor) -> str:
    """An excitation that shows everything: random levels of both signs, held 50 to 400 ms.

    The holds reach from below to well above a small motor's mechanical time constant; the changes of sign
    lead it through its dry friction several times a second.
    """
    return f"steps:{motor.rated_voltage:g},shortest=0.05,longest=0.4"


def default_load(motor: DCMotor) -> str:
    """The load that the twin does not see: steps within ±20 % of the rated torque, slow noise of 5 % rms."""
    torque = motor.rated_torque
    return f"steps:{0.2 * torque:g},shortest=0.5,longest=3 + noise:{0.05 * torque:g},bandwidth=0.5"


def _term(text: str, seed: int) -> Signal:
    name, _, rest = text.partition(":")
    name = name.strip()
    if name not in SIGNALS:
        raise ConfigError(f"signal {text!r}: {name!r} is none of {', '.join(SIGNALS)}, e.g. step:12")
    make = SIGNALS[name]
    known = [key for key in inspect.signature(make).parameters if key != "rng"]
    values: dict[str, Any] = {}
    for part in filter(None, map(str.strip, rest.split(","))):
        key, given, number = (word.strip() for word in part.partition("="))
        if not given:
            key, number = known[0], key
        if key not in known or key in values:
            fault = "stands twice" if key in values else "is unknown"
            raise ConfigError(f"signal {text!r}: {key!r} {fault}; {name} takes {', '.join(known)}")
        try:
            values[key] = float(number)
        except ValueError:
            raise ConfigError(f"signal {text!r}: {key} = {number!r}: give a number, e.g. {key}=1") from None
        if not abs(values[key]) <= MAX_SIGNAL_VALUE:
            raise ConfigError(
                f"signal {text!r}: {key} = {number}: give a finite number within ±{MAX_SIGNAL_VALUE:g}"
            )
    if known[0] not in values and name != "const":
        raise ConfigError(f"signal {text!r}: how large? Give {known[0]}, e.g. {name}:1")
    if "rng" in inspect.signature(make).parameters:
        values["rng"] = np.random.default_rng([seed, zlib.crc32(text.encode())])
    return make(**values)


def _positive(name: str, **values: float) -> None:
    for key, value in values.items():
        if not value >= MIN_TIME_OR_FREQUENCY:
            what = f"{key.replace('_', ' ')} = {value:g}"
            raise ConfigError(
                f"signal {name}: {what}: give a positive number, {MIN_TIME_OR_FREQUENCY:g} or more"
            )


def _index(t: float, hold: float) -> int:
    """How many holds have ended at t; robust where t / hold rounds down to just below a whole number."""
    return math.floor(t / hold + 1e-9)
