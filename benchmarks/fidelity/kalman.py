"""The Kalman floor of a whole stream, and the free runs of whoever knows the motor."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from simulators import DCMotor, SensorNoise, default_load, signal
from simulators.floor import Floor, LoadStatistics, Observer
from simulators.quick_motor import Array, Changes, sampled
from simulators.real_floor import RealFloor, best_observer

HYPOTHESES = 8
"""Of a jump of the load, for the floor of those who know that it jumps."""


LOOK = 300_000
"""Samples of the load from which its autocorrelation is taken."""


def autocorrelation(load: Array) -> Array:
    """Of a load (T,) around zero, by lag (T,): 1 at first.

    >>> autocorrelation(np.array([1.0, -1.0, 1.0, -1.0])).round(2).tolist()
    [1.0, -0.75, 0.5, -0.25]
    """
    spectrum = np.fft.rfft(load, 2 * len(load))
    products = np.fft.irfft(np.abs(spectrum) ** 2)[: len(load)]
    found: Array = products / products[0]
    return found


def floor_of(motor: DCMotor, dt: float, *, jumps: int = 0) -> Floor | RealFloor:
    """The best observer of a motor with its usual sensors under its default load."""
    load = LoadStatistics.of_signal(signal(default_load(motor), seed=2), dt)
    return best_observer(motor, dt, SensorNoise.of(motor), load, jumps=jumps)


def floor_errors(floor: Observer, z: Array, changes: Changes = ()) -> Array:
    """Errors (T, 2) of an observer to whom every change of the motor is told."""
    errors = []
    for (start, motor), (end, _) in zip(
        [(0, floor.motor), *changes], [*changes, (len(z), floor.motor)], strict=True
    ):
        floor.motor = motor
        errors.append(floor.errors(z[start:end]))
    return np.concatenate(errors)


def floor_free_runs(
    floor: Floor | RealFloor, z: Array, starts: Iterable[int], horizon: int
) -> dict[int, Array]:
    """By sample: the outputs (H, 2) foreseen from it on, with the inputs known.

    The load is believed to fade from its estimate as its autocorrelation says, which beats holding it: by 1
    to 2 % of fit over 1 s, and over 10 s, where nothing of it is left, by more.
    """
    runs, seen = {}, 0
    fading = autocorrelation(sampled(default_load(floor.motor), 2, floor.dt, LOOK))[:horizon]
    for start in starts:
        floor.errors(z[seen:start])
        seen = start
        volts = np.ascontiguousarray(z[start : start + horizon, 0])
        runs[start] = floor.foresee(volts, fading * floor.expected[-1])
    return runs
