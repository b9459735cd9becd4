"""The fast path of learning in compiled code: `twin.kernels.rls` says what it does and why.

It works on a block of float32 of its own, whose places a `Store` names, beside the row of the one twin that
it serves; there φ lies ready when the next measurement comes, before the step overwrites it.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from twin.kernels import rls
from twin.kernels.layout import Layout, block
from twin.kernels.vectors import blend, copy, dot, load, padded, store

_INLINE: Final[dict[str, Any]] = {"fastmath": {"contract"}, "forceinline": True}

# the constants of `rls` in float32, which the kernel takes in
_KEEP: Final = np.float32(1 - 1 / rls.MEMORY_SAMPLES)
_KEEP_2: Final = np.float32((1 - 1 / rls.MEMORY_SAMPLES) ** 2)
_FRESH: Final = np.float32(1 - (1 - 1 / rls.MEMORY_SAMPLES) ** 2)
_MAX_INNOVATION_SIGMA: Final = np.float32(rls.MAX_INNOVATION_SIGMA)
_SQUARE_WEIGHT: Final = np.float32(rls.SQUARE_WEIGHT)
_RECENT_ERROR_WEIGHT: Final = np.float32(rls.RECENT_ERROR_WEIGHT)
_MAX_SWITCH_ERROR_RATIO: Final = np.float32(rls.MAX_SWITCH_ERROR_RATIO)
_VARIANCE_WEIGHT: Final = np.float32(rls.VARIANCE_WEIGHT)
_THRESHOLD_RAISE_RATIO: Final = np.float32(rls.THRESHOLD_RAISE_RATIO)
_TRIAL_SAMPLES: Final = np.float32(rls.TRIAL_SAMPLES)
_HALF_TRIAL_SAMPLES: Final = np.float32(rls.TRIAL_SAMPLES // 2)
_OFFSET_WALK_VARIANCE: Final = np.float32(rls.OFFSET_WALK_VARIANCE)
_OFFSET_JUMP_RATIO: Final = np.float32(rls.OFFSET_JUMP_RATIO)
_MAX_TRIAL_ERROR_RATIO: Final = np.float32(rls.MAX_TRIAL_ERROR_RATIO)
_FIRST_RECENT_ERROR: Final = np.float32(rls.FIRST_RECENT_ERROR)
_ZERO, _ONE, _NINE, _TWENTY = (np.float32(a) for a in (0.0, 1.0, 9.0, 20.0))
_MAX_COUNT: Final = np.float32(2**23)  # float32 holds all whole numbers up to this
_MAX_SQUARABLE: Final = np.float32(1e15)  # the square of this is still a float32


class Store(NamedTuple):
    """Places in the block, in numbers of float32."""

    size: int
    """n, the regressors, in whole vectors."""
    outputs: int
    one: int
    """Which of them is the constant."""
    prior: int
    p: int
    p_before: int
    delta: int
    delta_before: int
    gain: int
    """P φ."""
    zeros: int
    noise: int
    """σ of each output; the following, too, have one number for each."""
    variance: int
    variance_before: int
    square: int
    chosen: int
    recent: int
    """Three for each output, one readout after the other."""
    age: int
    """Single numbers from here on."""
    threshold: int
    next_threshold: int
    trial: int
    """Two: of the readout that learns, and of the one before."""
    changes: int
    end: int


def store_of(layout: Layout) -> Store:
    """The places for a model's readout."""
    n, outputs = layout.regressors, layout.outputs
    squares = [n * n] * 3
    lines = [outputs * n, outputs * n, n, n]
    numbers = [padded(outputs)] * 5 + [padded(3 * outputs), 1, 1, 1, 2, 1]
    places = np.cumsum([0, *squares, *lines, *numbers]).tolist()
    return Store(n, outputs, layout.lanes + layout.taps * layout.features, *places)


def open_store(
    layout: Layout, readout: npt.NDArray[Any], increments: npt.NDArray[Any], noise: rls.Array
) -> npt.NDArray[np.float32]:
    """A block in which nothing has been learned yet."""
    s = store_of(layout)
    memory = block(padded(s.end))
    memory[s.prior : s.p] = rls.prior(layout, readout, increments, noise).ravel()
    memory[s.noise : s.noise + s.outputs] = noise
    forget(memory, s)
    return memory


def forget(memory: npt.NDArray[np.float32], s: Store) -> None:
    """Go back to the checkpoint's readout."""
    memory[s.p : s.p_before] = memory[s.prior : s.p]
    memory[s.delta : s.noise] = 0.0
    memory[s.variance : s.chosen] = 1.0
    memory[s.chosen : s.recent] = 0.0
    memory[s.recent : s.age] = rls.FIRST_RECENT_ERROR
    memory[s.recent : s.recent + s.outputs] = 1.0
    memory[s.age : s.end] = 0.0
    memory[s.age], memory[s.threshold] = 10 * rls.TRIAL_SAMPLES, rls.PLANT_CHANGE_RATIO


def learned_by(memory: npt.NDArray[np.float32], s: Store) -> npt.NDArray[np.float32]:
    """What the readouts that answer now add to the checkpoint's (P, n), in the outputs' units."""
    learning, before = (
        memory[place : place + s.outputs * s.size].reshape(s.outputs, s.size)
        for place in (s.delta, s.delta_before)
    )
    chosen = memory[s.chosen : s.chosen + s.outputs, None]
    delta = np.where(chosen > 1, before, np.where(chosen > 0, learning, 0.0))
    return np.asarray(delta * memory[s.noise : s.noise + s.outputs, None], np.float32)


@njit(**_INLINE)
def learn(f: Any, s: Any, q: Any, phi: Any, past: Any, answers: Any, z: Any, at: Any, taps: Any) -> None:
    """Take the y that begin at z[at] into the readout that answered φ; P φ is in `gain` already.

    The innovations are left at `past`, where the next φ wants them.
    """
    n, outputs = s.size, s.outputs
    age = min(load(f, s.age) + _ONE, _MAX_COUNT)
    spread = _ONE + dot(f, s.gain, q, phi, n)
    highest = _ZERO
    sane = spread >= np.float32(0.99) and spread < _MAX_SQUARABLE
    for o in range(outputs):
        noise = load(f, s.noise + o)
        for j in range(3):  # the answers become errors, in units of the usual one
            error = (load(z, at + o) - load(q, answers + j * outputs + o)) / noise
            store(q, answers + j * outputs + o, error)
            sane = sane and abs(error) < _MAX_SQUARABLE
    if not sane:
        _begin_anew(f, s, q, past)
        return
    for o in range(outputs):
        _score(f, s, q, answers, o, age)
        error = load(q, answers + outputs + o)
        square = load(f, s.square + o)
        square += _SQUARE_WEIGHT * (error * error / (load(f, s.variance + o) * spread) - square)
        store(f, s.square + o, square)
        highest = max(highest, square)
    if age > _TRIAL_SAMPLES and highest > load(f, s.threshold):
        _begin_trial(f, s, highest)
        age = highest = _ZERO
    store(f, s.age, age)
    weight = max(_VARIANCE_WEIGHT, _ONE / (_TWENTY + age))
    for o in range(outputs):
        variance = load(f, s.variance + o)
        limit = _MAX_INNOVATION_SIGMA * np.float32(math.sqrt(variance * spread))
        innovation = max(min(load(q, answers + outputs + o), limit), -limit) / spread
        store(q, past + o, innovation)  # this φ has been used
        variance += weight * (min(innovation * innovation * spread, _NINE * variance) - variance)
        store(f, s.variance + o, variance)
        blend(f, s.delta + o * n, _KEEP, s.gain, _KEEP * innovation, s.zeros, _ZERO, n)
    part = -_KEEP_2 / spread
    for i in range(n):
        row = i * n
        factor = part * load(f, s.gain + i)
        blend(f, s.p + row, _KEEP_2, s.gain, factor, s.prior + row, _FRESH, n)
    constant = s.one * n + s.one
    prior = load(f, s.prior + constant)
    variance = load(f, s.p + constant) + _OFFSET_WALK_VARIANCE
    if highest > _OFFSET_JUMP_RATIO:
        variance += prior
    store(f, s.p + constant, min(variance, prior + prior))
    if age < taps:  # some tap still holds a sample of the old plant
        copy(f, s.p, s.prior, n * n)
    if age == _TRIAL_SAMPLES and _MAX_TRIAL_ERROR_RATIO * load(f, s.trial + 1) < load(f, s.trial):
        _take_back(f, s)


@njit(**_INLINE)
def _score(f: Any, s: Any, q: Any, answers: Any, o: Any, age: Any) -> None:
    """Let output o be answered by the readout that had the smallest recent error."""
    outputs = s.outputs
    for j in range(3):
        error = load(q, answers + j * outputs + o)
        recent = load(f, s.recent + j * outputs + o)
        store(f, s.recent + j * outputs + o, recent + _RECENT_ERROR_WEIGHT * (error * error - recent))
    checkpoint, learning, before = (
        load(f, s.recent + o),
        load(f, s.recent + outputs + o),
        load(f, s.recent + 2 * outputs + o),
    )
    on_trial = age <= _TRIAL_SAMPLES
    if on_trial and age > _HALF_TRIAL_SAMPLES:
        for j in range(2):
            error = load(q, answers + (1 + j) * outputs + o)
            part = error * error / load(f, s.variance_before + o)
            store(f, s.trial + j, load(f, s.trial + j) + part)
    best, lowest = _ONE, learning
    if checkpoint < learning:
        best, lowest = _ZERO, checkpoint
    if on_trial and before < lowest:
        best, lowest = _ONE + _ONE, before
    answering = load(f, s.chosen + o)
    now = before if answering > _ONE else learning if answering > _ZERO else checkpoint
    if (answering > _ONE and not on_trial) or lowest < _MAX_SWITCH_ERROR_RATIO * now:
        store(f, s.chosen + o, best)


@njit(**_INLINE)
def _begin_trial(f: Any, s: Any, highest: Any) -> None:
    """Keep what was learned before, and learn anew."""
    n, outputs = s.size, s.outputs
    store(f, s.changes, min(load(f, s.changes) + _ONE, _MAX_COUNT))
    store(f, s.next_threshold, _THRESHOLD_RAISE_RATIO * highest)
    store(f, s.trial, _ZERO)
    store(f, s.trial + 1, _ZERO)
    copy(f, s.p_before, s.p, n * n)
    copy(f, s.delta_before, s.delta, outputs * n)
    for o in range(outputs):
        store(f, s.variance_before + o, load(f, s.variance + o))
        store(f, s.recent + 2 * outputs + o, load(f, s.recent + outputs + o))
        store(f, s.square + o, _ONE)
        if load(f, s.chosen + o) == _ONE:
            store(f, s.chosen + o, _ONE + _ONE)


@njit(**_INLINE)
def _take_back(f: Any, s: Any) -> None:
    """Go back to the readout before the trial: it was a disturbance, not a change of the plant."""
    n, outputs = s.size, s.outputs
    copy(f, s.p, s.p_before, n * n)
    copy(f, s.delta, s.delta_before, outputs * n)
    for o in range(outputs):
        store(f, s.variance + o, load(f, s.variance_before + o))
        store(f, s.recent + outputs + o, load(f, s.recent + 2 * outputs + o))
        if load(f, s.chosen + o) > _ONE:
            store(f, s.chosen + o, _ONE)
    store(f, s.threshold, max(load(f, s.threshold), load(f, s.next_threshold)))


@njit(**_INLINE)
def _begin_anew(f: Any, s: Any, q: Any, past: Any) -> None:
    """Drop all that was learned, after an error or a P that is no finite number."""
    n, outputs = s.size, s.outputs
    copy(f, s.p, s.prior, n * n)
    for i in range(outputs * n):
        store(f, s.delta + i, _ZERO)
        store(f, s.delta_before + i, _ZERO)
    for o in range(outputs):
        store(f, s.variance + o, _ONE)
        store(f, s.square + o, _ONE)
        store(f, s.chosen + o, _ZERO)
        store(q, past + o, _ZERO)
        for j in range(3):
            store(f, s.recent + j * outputs + o, _FIRST_RECENT_ERROR if j else _ONE)
    store(f, s.age, _TRIAL_SAMPLES + _ONE)


@njit(**_INLINE)
def correct(f: Any, s: Any, q: Any, phi: Any, y: Any, answers: Any) -> None:
    """Turn the checkpoint's answers at y into those in use, and leave all three readouts' at `answers`."""
    n, outputs = s.size, s.outputs
    for o in range(outputs):
        answer, noise = load(q, y + o), load(f, s.noise + o)
        learning = answer + noise * dot(f, s.delta + o * n, q, phi, n)
        before = learning
        if load(f, s.age) <= _TRIAL_SAMPLES:
            before = answer + noise * dot(f, s.delta_before + o * n, q, phi, n)
        store(q, answers + o, answer)
        store(q, answers + outputs + o, learning)
        store(q, answers + 2 * outputs + o, before)
        chosen = load(f, s.chosen + o)
        store(q, y + o, before if chosen > _ONE else learning if chosen > _ZERO else answer)
