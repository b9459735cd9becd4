"""The equations of `simulators.real_motor` as machine code, some µs a sample.

The classical Runge-Kutta method of order 4 with steps of 0.4 of the shortest time constant at most;
a test says how far that is from a solver with error control. A step across a change of the friction's mode
is shortened to end there: a dip of the margin within a step is looked for too, on the cubic through both ends
(Hermite). Backlash and driver have corners, which the steps go over: these are continuous.

A motor is a row p (27,), as `RealMotor.parameters` makes it, a state x (8 + 2 D,) as described there. Arrays
are copied number by number, as in `simulators.kalman`.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from simulators.dc_motor import DCMotor
from simulators.plant import Vector
from simulators.real_motor import STATES, RealMotor
from twin.kernels.cache import kept

Array = NDArray[np.float64]

# fmt: off
(R, L, K_T, K_E, J, B, DRY,
 COGGING, COGGING_N, COMMUTATION, COMMUTATION_N,
 STICTION, STRIBECK_SPEED, ASYMMETRY,
 HEAT_R, HEAT_SEC, COPPER, MAGNET,
 ROTOR, STIFFNESS, DAMPING, BACKLASH,
 LOSS, LOSS_RIPPLE,
 CURRENT_FILTER, SPEED_FILTER, DELAY) = range(27)
# fmt: on

STEP_TIME_CONSTANTS: Final = 0.4
"""Longest step, in shortest time constants."""
MAX_MODE_SWITCHES: Final = 32
"""Changes of mode followed within one sample; more would differ from each other by rounding only."""
FAR: Final = 40.0
"""exp(-40) is nothing beside 1, and the motor is mostly that far from its Stribeck speed."""
HALVINGS: Final = 48
"""Bisections of a step."""
SOURCES_DIGEST: Final = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


@njit(nogil=True)
def twisting(p: Array, x: Array, load: float) -> float:
    """Torque of the shaft on the rotor, N·m."""
    if p[STIFFNESS] == 0.0:
        return load
    half = 0.5 * p[BACKLASH]
    stretch = x[4] - min(max(x[4], -half), half)
    torque = p[STIFFNESS] * stretch + p[DAMPING] * (x[1] - x[3])
    if half == 0.0:
        return float(torque)
    if stretch > 0.0:
        return float(max(torque, 0.0))
    return float(min(torque, 0.0)) if stretch < 0.0 else 0.0


@njit(nogil=True)
def gain(p: Array, x: Array) -> float:
    """K at this angle and temperature, as a share of the cold mean."""
    share = 1.0 + p[MAGNET] * x[5]
    if p[COMMUTATION] != 0.0:
        share *= 1.0 + p[COMMUTATION] * math.cos(p[COMMUTATION_N] * x[2])
    return float(share)


@njit(nogil=True)
def cogging(p: Array, x: Array) -> float:
    """The torque of the iron against the rotor, N·m."""
    return float(p[COGGING] * math.sin(p[COGGING_N] * x[2])) if p[COGGING] != 0.0 else 0.0


@njit(nogil=True)
def loss(p: Array, i: float) -> float:
    """What the driver loses of its voltage, V."""
    return float(p[LOSS] * min(max(i / p[LOSS_RIPPLE], -1.0), 1.0)) if p[LOSS] != 0.0 else 0.0


@njit(nogil=True)
def drive(p: Array, x: Array, load: float) -> float:
    """Torque on the rotor but for its friction, N·m."""
    return float(p[K_T] * gain(p, x) * x[0] - cogging(p, x) - twisting(p, x, load))


@njit(nogil=True)
def dry(p: Array, mode: int, speed: float) -> float:
    """Size of the dry friction, N·m."""
    size = p[DRY] * (1.0 + mode * p[ASYMMETRY])
    share = (speed / p[STRIBECK_SPEED]) ** 2
    if p[STICTION] != 0.0 and share < FAR:
        size *= 1.0 + p[STICTION] * math.exp(-share)
    return float(size)


@njit(nogil=True)
def slope(p: Array, mode: int, v: float, load: float, x: Array, d: Array) -> None:
    """dx/dt of the eight states, into d."""
    i, w = x[0], x[1]
    share, shaft, elastic = gain(p, x), twisting(p, x, load), p[STIFFNESS] > 0.0
    r = p[R] * (1.0 + p[COPPER] * x[5])
    d[0] = (v - loss(p, i) - r * i - p[K_E] * share * w) / p[L]
    d[1] = 0.0
    if mode != 0:
        torque = p[K_T] * share * i - cogging(p, x) - shaft - p[B] * w - mode * dry(p, mode, w)
        d[1] = torque / (p[ROTOR] if elastic else p[J])
    d[2] = w
    d[3] = (shaft - load) / (p[J] - p[ROTOR]) if elastic else 0.0
    d[4] = w - x[3] if elastic else 0.0
    d[5] = (p[HEAT_R] * r * i * i - x[5]) / p[HEAT_SEC]
    d[6] = (i - x[6]) / p[CURRENT_FILTER] if p[CURRENT_FILTER] > 0.0 else d[0]
    d[7] = (w - x[7]) / p[SPEED_FILTER] if p[SPEED_FILTER] > 0.0 else d[1]


@njit(nogil=True)
def stride(p: Array, mode: int, v: float, load: float, x: Array, h: float, d: Array, room: Array) -> None:
    """One step of h seconds from x, whose slope is d; into room[0], and the slope there into room[1]."""
    y, k, total = room[0], room[1], room[2]
    for j in range(8):
        k[j] = d[j]
        total[j] = 0.0
    for stage in range(4):  # weights 1, 2, 2, 1 of sixths; the next at 1/2, 1/2, 1 of the step
        weight = 2.0 if stage == 1 or stage == 2 else 1.0
        part = h if stage == 2 else 0.5 * h
        for j in range(8):
            total[j] += weight * k[j]
            y[j] = x[j] + (h / 6.0 * total[j] if stage == 3 else part * k[j])
        if mode == 0:
            y[1] = 0.0
        slope(p, mode, v, load, y, k)


@njit(nogil=True)
def slip(p: Array, x: Array, load: float) -> int:
    """The mode in which a rotor that stands goes on."""
    torque = drive(p, x, load)
    if torque > dry(p, 1, 0.0):
        return 1
    return -1 if torque < -dry(p, -1, 0.0) else 0


@njit(nogil=True)
def margin(p: Array, mode: int, x: Array, load: float) -> float:
    """How far the end of the mode is: the speed, or the friction in reserve."""
    if mode != 0:
        return float(mode * x[1])
    torque = drive(p, x, load)
    return float(min(dry(p, 1, 0.0) - torque, dry(p, -1, 0.0) + torque))


@njit(nogil=True)
def margin_rate(p: Array, mode: int, x: Array, d: Array, load: float, h: float, y: Array) -> float:
    """Its rate, 1/s, along the slope d; y (8,) is room to work in."""
    if mode != 0:
        return float(mode * d[1])
    for j in range(8):
        y[j] = x[j] + 1e-4 * h * d[j]
    return float((margin(p, mode, y, load) - margin(p, mode, x, load)) / (1e-4 * h))


@njit(nogil=True)
def lowest(before: float, rate: float, after: float, rate_after: float, h: float) -> float:
    """When the cubic through a margin that falls at first and rises at the end is lowest, s."""
    c = 3.0 * (after - before) / h - 2.0 * rate - rate_after  # m' = rate + 2 c s + 3 e s², s in steps
    e = rate + rate_after - 2.0 * (after - before) / h
    low, high = 0.0, 1.0
    for _ in range(24):
        middle = 0.5 * (low + high)
        if rate + 2.0 * c * middle + 3.0 * e * middle * middle < 0.0:
            low = middle
        else:
            high = middle
    return h * high


@njit(nogil=True)
def travel(p: Array, x: Array, v: float, load: float, dt: float, step: float, room: Array) -> None:
    """x (8,) dt seconds later, through all changes of mode; room (5, 8) is to work in."""
    if dt <= 0.0:
        return
    rough = p[DRY] > 0.0
    mode = 1
    if rough:
        mode = slip(p, x, load) if x[1] == 0.0 else (1 if x[1] > 0.0 else -1)
    end, d, spare = room[0], room[3], room[4]
    slope(p, mode, v, load, x, d)
    switches = 0
    left = dt
    while left > 0.0:
        h = left / math.ceil(left / step * (1.0 - 1e-9))
        stride(p, mode, v, load, x, h, d, room)
        high = math.inf
        if rough and switches < MAX_MODE_SWITCHES:
            before, after = margin(p, mode, x, load), margin(p, mode, end, load)
            if after < 0.0:
                high = h
            else:
                rate = margin_rate(p, mode, x, d, load, h, spare)
                if rate < 0.0:
                    rate_after = margin_rate(p, mode, end, room[1], load, h, spare)
                    if rate_after > 0.0:
                        bottom = lowest(before, rate, after, rate_after, h)
                        stride(p, mode, v, load, x, bottom, d, room)
                        if margin(p, mode, end, load) < 0.0:
                            high = bottom
                        else:
                            stride(p, mode, v, load, x, h, d, room)
        if high < math.inf:
            low = 0.0
            if before <= 0.0:  # it has only just begun: look for the end after its beginning
                low = 1e-9 * h
                stride(p, mode, v, load, x, low, d, room)
                if margin(p, mode, end, load) <= 0.0:
                    high = low
            for _ in range(HALVINGS):
                middle = 0.5 * (low + high)
                stride(p, mode, v, load, x, middle, d, room)
                if margin(p, mode, end, load) > 0.0:
                    low = middle
                else:
                    high = middle
            stride(p, mode, v, load, x, high, d, room)
            h = high
            for j in range(8):
                x[j] = end[j]
            x[1] = 0.0
            mode = slip(p, x, load) if mode != 0 else (1 if drive(p, x, load) > 0.0 else -1)
            switches += 1
            slope(p, mode, v, load, x, d)
        else:
            for j in range(8):
                x[j], d[j] = end[j], room[1, j]
        left -= h


@njit(nogil=True)
def advance(p: Array, x: Array, v: float, load: float, dt: float, step: float, room: Array) -> None:
    """x (8 + 2 D,) dt seconds later, in place: the motor, and what is on its way to the reader."""
    late = p[DELAY] - dt * math.floor(p[DELAY] / dt * (1.0 + 1e-9))  # of the last sample, s
    late = max(late, 0.0)
    travel(p, x, v, load, dt - late, step, room)
    for j in range(len(x) - 1, 9, -1):
        x[j] = x[j - 2]
    x[8] = x[6] if p[CURRENT_FILTER] > 0.0 else x[0]
    x[9] = x[7] if p[SPEED_FILTER] > 0.0 else x[1]
    travel(p, x, v, load, late, step, room)


def _advance(p: Array, x: Array, v: float, load: float, dt: float, step: float) -> None:
    advance(p, x, v, load, dt, step, np.empty((5, 8)))


def _truth(
    plants: Array, starts: NDArray[np.int64], steps: Array, v: Array, load: Array, dt: float, x: Array
) -> None:
    """States x (T, 8 + 2 D) from rest, the plant `plants[n]` (27,) from sample `starts[n]` on."""
    room, now, n = np.empty((5, 8)), np.zeros(x.shape[1]), 0
    for k in range(len(v)):
        for j in range(len(now)):
            x[k, j] = now[j]
        while n + 1 < len(starts) and starts[n + 1] <= k:
            n += 1
        advance(plants[n], now, v[k], load[k], dt, steps[n], room)


advance_one = kept(_advance, SOURCES_DIGEST, nogil=True)
truth = kept(_truth, SOURCES_DIGEST, nogil=True)


def width(motor: RealMotor, dt: float) -> int:
    """Length of the state: eight, and a pair for each reading on its way at a sample."""
    return STATES + 2 * (math.floor(motor.sensing.delay / dt * (1 + 1e-9)) + 1)


def longest_step(motor: RealMotor) -> float:
    """The longest step of the method, s."""
    return STEP_TIME_CONSTANTS * motor.quickest


class RealSolver:
    """Takes a real motor from sample to sample, as `simulate.Solver` takes any plant."""

    def __init__(self) -> None:
        self._motor: RealMotor | None = None

    def advance(self, motor: DCMotor, x: Vector, u: Vector, dt: float) -> Vector:
        """The state `dt` seconds after `x` under the inputs `u`."""
        if motor is not self._motor:
            assert isinstance(motor, RealMotor)
            self._motor, self._p, self._step = motor, motor.parameters(), longest_step(motor)
        assert self._motor is not None
        now = np.zeros(width(self._motor, dt))  # what is on its way at the start is what is read at rest
        now[: len(x)] = x
        advance_one(self._p, now, *u, dt, self._step)
        return tuple(now.tolist())


def states(plants: list[RealMotor], starts: NDArray[np.int64], v: Array, load: Array, dt: float) -> Array:
    """(T, 8 + 2 D) under voltages and loads (T,), the plant `plants[n]` from sample `starts[n]` on."""
    x = np.empty((len(v), width(plants[0], dt)))
    rows = np.array([plant.parameters() for plant in plants])
    truth(rows, starts, np.array([longest_step(plant) for plant in plants]), v, load, dt, x)
    return x
