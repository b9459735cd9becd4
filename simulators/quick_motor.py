"""Hours of the simulated motor in seconds: arrays instead of samples, about 1 µs each.

The truth is `simulators.exact`, of a real motor `simulators.real_flow`, which takes 15 µs; the sensors are
those of `simulators.sensors` with the same noise for the same seed, so that a quick run repeats what
`simulate` yields, but for rounding. Signals are Python functions of the time, three quarters of the work of
an ideal motor: they are evaluated once and kept.

>>> from simulators import motor
>>> quick(motor(), 1000).z.shape
(1000, 3)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulators import DCMotor, RealMotor, SensorNoise, default_load, default_voltage, signal
from simulators.exact import advance, row
from simulators.real_flow import states
from simulators.sensors import STANDSTILL_SEC
from twin.errors import ConfigError
from twin.kernels.cache import kept

Array = NDArray[np.float64]

Changes = Sequence[tuple[int, DCMotor]]
"""The motor that is there from a sample on, in the order of the samples."""

NOISE_BLOCK_SAMPLES: Final = 512
"""Samples of noise drawn at a time, as in `simulators.sensors`: the same seed gives the same noise."""
_SOURCES_DIGEST: Final = hashlib.sha256(
    b"".join((Path(__file__).parent / name).read_bytes() for name in ("exact.py", "quick_motor.py"))
).hexdigest()


@dataclass(frozen=True)
class Stream:
    """A run of T samples: what is measured, and what nobody measures."""

    z: Array
    """(T, 3): voltage in V, measured current in A, measured speed in rad/s."""
    load: Array
    """(T,) load torque in N·m, held like the voltage."""
    x: Array
    """(T, 2) true current in A and speed in rad/s, before filters and delays."""


def quick(
    motor: DCMotor,
    samples: int,
    *,
    dt: float = 1e-3,
    voltage: ArrayLike | None = None,
    load: ArrayLike | None = None,
    noise: SensorNoise | None = None,
    seed: int = 1,
    changes: Changes = (),
) -> Stream:
    """A run from rest: sample k is measured at k dt, before its voltage and load act.

    `voltage` and `load` are numbers or (T,); None means the motor's default signals, drawn from `seed` as
    `twin run` draws them. `noise` None means the motor's usual sensors, `SensorNoise.none()` ideal ones.
    """
    v, torque = (
        np.ascontiguousarray(np.broadcast_to(np.asarray(given, np.float64), samples))
        if given is not None
        else sampled(text, drawn, dt, samples)
        for given, text, drawn in (
            (voltage, default_voltage(motor), seed),
            (load, default_load(motor), seed + 1),
        )
    )
    plants = [motor, *(plant for _, plant in changes)]
    starts = np.array([0, *(start for start, _ in changes)], np.int64)
    real = [plant for plant in plants if isinstance(plant, RealMotor)]
    if not real:
        x = shown = _truth(np.array([row(plant) for plant in plants]), starts, v, torque, dt)
    elif len(real) == len(plants):
        every = states(real, starts, v, torque, dt)
        x, shown = every[:, :2], every[:, -2:]
    else:
        raise ConfigError("a motor becomes a real one, or the other way round: give changes of one kind")
    return Stream(np.column_stack([v, measured(shown, noise or SensorNoise.of(motor), dt, seed)]), torque, x)


@lru_cache(maxsize=16)
def sampled(text: str, seed: int, dt: float, samples: int) -> Array:
    """A signal's values (T,) at 0, dt, ...; read-only, since they are kept for the next who asks."""
    value = signal(text, seed)
    values = np.fromiter((value(k * dt) for k in range(samples)), np.float64, samples)
    values.flags.writeable = False
    return values


def ramp(
    motor: DCMotor, first: int, last: int, every: int = 5, **targets: float
) -> list[tuple[int, DCMotor]]:
    """Changes by which parameters go straight to their targets between two samples, in steps of `every`.

    >>> from simulators import motor
    >>> [round(plant.resistance, 2) for _, plant in ramp(motor(), 0, 10, 5, resistance=10.5)]
    [7.5, 9.0, 10.5]
    """
    found = []
    for k in [*range(first, last, every), last]:
        share = (k - first) / (last - first)
        values = {
            name: (1 - share) * getattr(motor, name) + share * target for name, target in targets.items()
        }
        found.append((k, replace(motor, **values)))
    return found


def measured(x: Array, noise: SensorNoise, dt: float, seed: int) -> Array:
    """What the sensors read (T, 2) of what they are shown, x (T, 2), as `SensorNoise.reader` would."""
    rng = np.random.default_rng([seed, 0x5E45])
    blocks = rng.standard_normal((math.ceil(len(x) / NOISE_BLOCK_SAMPLES), NOISE_BLOCK_SAMPLES, 2))
    draws = blocks[:, ::-1].reshape(-1, 2)[: len(x)]  # the reader takes each block from its end
    y = x + draws * (noise.current_rms, noise.speed_rms)
    if noise.current_range:
        np.clip(y[:, 0], -noise.current_range, noise.current_range, out=y[:, 0])
    if noise.current_bits:
        quantum = 2 * noise.current_range / 2**noise.current_bits
        y[:, 0] = quantum * np.rint(y[:, 0] / quantum)
    if noise.encoder_counts:
        y[:, 1] = _timed(y[:, 1], float(noise.encoder_counts), noise.clock, dt)
    return y


def _read_by_encoder(speed: Array, counts: float, clock: float, dt: float) -> Array:
    """Speeds (T,), rad/s, as whole edges of an encoder over whole ticks of a clock."""
    read = np.zeros(len(speed))
    for k in range(len(speed)):
        rate = counts * abs(speed[k]) / (2 * math.pi)
        if rate * STANDSTILL_SEC < 1.0:
            continue
        edges = max(math.floor(rate * dt), 1.0)
        ticks = max(np.rint(edges * clock / rate), 1.0)
        read[k] = math.copysign(2 * math.pi * clock * edges / (counts * ticks), speed[k])
    return read


def _follow(plants: Array, starts: NDArray[np.int64], v: Array, load: Array, dt: float) -> Array:
    """States (T, 2) under voltages and loads (T,), the plant `plants[n]` (7,) from sample `starts[n]` on."""
    x = np.zeros((len(v), 2))
    i, w, n = 0.0, 0.0, 0
    for k in range(len(v)):
        x[k, 0], x[k, 1] = i, w
        while n + 1 < len(starts) and starts[n + 1] <= k:
            n += 1
        i, w = advance(plants[n], i, w, v[k], load[k], dt)
    return x


_timed = kept(_read_by_encoder, _SOURCES_DIGEST, STANDSTILL_SEC, nogil=True)
_truth = kept(_follow, _SOURCES_DIGEST, nogil=True)
