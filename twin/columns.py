"""Whether the columns of a recording are those that a model was made for: in their order, in their units.

Two things tell. A checkpoint knows mean and spread of its signals; and a model runs free far better on its
own signals than on any others. So a recording is suspicious where a signal lies far outside what the model
has seen; and it is told what a recording looks like, where the model does far better with columns exchanged,
or one of them in another unit.

Recordings of other days, other seeds, a tenth to twice the amplitude, no load, a motor at rest or one with
twice the resistance: there no change makes the error less than 0.63 times as large. Exchanged columns and
other units, set right, make it 0.17 times as large or less (docs/learning.md).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from twin.backends.opening import open_predictor
from twin.checkpoint import Checkpoint
from twin.families import divided
from twin.predictor import Predictor

FAR_SPREADS: Final = 8.0
"""Spreads from its mean beyond which a signal is far outside what a model has seen. Twice the amplitude is
2 to 4; a speed in rpm for one in rad/s is 14, another signal tens to thousands."""
FAR_SHARE: Final = 0.1
"""Share of the samples that must be far outside: a few may be faults of a sensor."""
FIT_ERROR: Final = 0.8
"""Error of short free runs, over that of holding the outputs, above which a model fits no way."""
FIT_RATIO: Final = 1 / 3
"""Error with the columns set right over that without, below which it is told how they look."""
RUNS: Final = 24
"""Short free runs on which a model is tried."""
WARM: Final = 100
"""Samples, at most, that warm each of them."""
AHEAD: Final = 100
"""Samples, at most, of each."""
MAX_SIGNALS: Final = 8
"""Signals up to which all changes are tried; of more only those far outside."""
FACTORS: Final = {
    1e3: ("thousandths", "whole units"),
    60 / (2 * math.pi): ("rpm", "rad/s"),
    180 / math.pi: ("degrees", "radians"),
    6.0: ("deg/s", "rpm"),
    2 * math.pi: ("radians", "turns"),
    360.0: ("degrees", "turns"),
    60.0: ("rpm", "turns per second"),
    100.0: ("percent or cm", "whole units"),
}
"""By how much numbers are larger in a unit than in another, by which it is often replaced."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Doubt:
    """What is odd about a recording, in words, and the signals that are."""

    text: str
    signals: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """A way to set columns right: in which order to take them, by what to multiply them, and what the
    recording looks like then, in words."""

    order: tuple[int, ...]
    factors: tuple[float, ...]
    text: str
    signals: tuple[str, ...]

    def apply(self, z: Array) -> Array:
        """Samples (T, F), set right."""
        return z[:, self.order] * self.factors


def doubt(checkpoint: Checkpoint, z: Array) -> Doubt | None:
    """What is odd about the columns of consecutive samples z (T, F) in a model's eyes; None where nothing
    is."""
    outside, signals = far_outside(checkpoint, z), checkpoint.spec.features
    trial = Trial(checkpoint, z)
    error = trial.error(z)
    few = len(signals) <= MAX_SIGNALS
    among = [j for j, name in enumerate(signals) if few or name in outside]
    tried = [(trial.error(change.apply(z)), change) for change in changes(signals, among)]
    best, change = min(tried, key=lambda each: each[0], default=(math.inf, None))
    if change is not None and best < min(FIT_ERROR, FIT_RATIO * error):
        return Doubt(
            f"{change.text}: as it is, the model's short free runs err {error:.2g} times as much as holding "
            f"the outputs, set right {best:.2g} times",
            change.signals,
        )
    if outside:
        return Doubt(
            f"far outside what the model has seen: {'; '.join(outside.values())} "
            "(another column, unit or plant?)",
            tuple(outside),
        )
    return None


def far_outside(checkpoint: Checkpoint, z: Array) -> dict[str, str]:
    """The signals of samples z (T, F) that are far outside what a model has seen, with where they are and
    where they would be expected, in words."""
    motor, network = divided(checkpoint.tensors)
    known = motor or network  # a network that corrects a motor sees other signals beside
    mean, scale = (known[name].astype(np.float64) for name in ("mean", "scale"))
    found, spec = {}, checkpoint.spec
    usual = np.quantile(np.abs(z - mean) / scale, 1 - FAR_SHARE, axis=0)
    for j in np.flatnonzero(usual > FAR_SPREADS):
        name = spec.features[j]
        unit = f" {spec.units[name]}" if name in spec.units else ""
        size = np.quantile(np.abs(z[:, j]), 1 - FAR_SHARE)
        found[name] = f"{name} reaches {size:.3g}, the model knows {mean[j]:.3g} ± {scale[j]:.3g}{unit}"
    return found


def changes(signals: tuple[str, ...], among: Sequence[int]) -> Iterator[Change]:
    """Columns in another order; and each in another unit, or of the other sign. Only those `among` change,
    and of many no more than two at a time."""
    same, ones = tuple(range(len(signals))), (1.0,) * len(signals)
    for moved in itertools.permutations(among) if len(among) <= 4 else _exchanges(among):
        order = list(same)
        for place, source in zip(among, moved, strict=True):
            order[place] = source
        places = [j for j in same if order[j] != j]
        names = [signals[j] for j in places]
        if len(places) == 2:
            yield Change(tuple(order), ones, f"{' and '.join(names)} look exchanged", tuple(names))
        elif places:
            like = [signals[order.index(j)] for j in places]
            text = f"the columns for {', '.join(names)} look like {', '.join(like)}"
            yield Change(tuple(order), ones, text, tuple(names))
    for j in among:
        for factor, (large, small) in FACTORS.items():
            for by, taken, own in ((1 / factor, large, small), (factor, small, large)):
                text = f"{signals[j]} looks {factor:.4g} times too {'large' if by < 1 else 'small'}"
                yield Change(same, _at(ones, j, by), f"{text} ({taken} for {own}?)", (signals[j],))
        yield Change(
            same, _at(ones, j, -1.0), f"{signals[j]} looks as if its sign were changed", (signals[j],)
        )


def _exchanges(among: Sequence[int]) -> Iterator[list[int]]:
    for a, b in itertools.combinations(among, 2):
        yield [{a: b, b: a}.get(j, j) for j in among]


def _at(values: tuple[float, ...], j: int, value: float) -> tuple[float, ...]:
    return *values[:j], value, *values[j + 1 :]


class Trial:
    """Short free runs of a model over a recording of T samples."""

    def __init__(self, checkpoint: Checkpoint, z: Array) -> None:
        self.inputs = len(checkpoint.spec.inputs)
        self.warm = min(WARM, len(z) // 3)
        self.ahead = min(AHEAD, len(z) // 3)
        self.starts = np.unique(np.linspace(0, len(z) - self.warm - self.ahead, RUNS).astype(int))
        self.predictor: Predictor = open_predictor(checkpoint, rows=len(self.starts))

    def error(self, z: Array) -> float:
        """The error of the free runs on samples z (T, F) over that of holding the outputs: the geometric
        mean over the outputs of medians over the runs; infinite where it is no number."""
        warm, places = self.warm, self.starts[:, None] + np.arange(self.warm + self.ahead)
        runs = z[places]
        samples = np.ascontiguousarray(runs, np.float32)
        self.predictor.reset()
        with np.errstate(over="ignore", invalid="ignore"):
            self.predictor.warm(samples[:, : warm - 1])
            free = self.predictor.free_run(samples[:, warm - 1], samples[:, warm:, : self.inputs])
            y, held = runs[:, warm:, self.inputs :], runs[:, warm - 1 : warm, self.inputs :]
            tiny = 1e-9 * np.abs(y).max((0, 1)) + np.finfo(np.float64).tiny
            own, other = (np.sqrt(np.square(y - a).mean(1)) for a in (free.astype(np.float64), held))
            ratio = float(np.exp(np.median(np.log((own + tiny) / (other + tiny)), axis=0).mean()))
        return ratio if math.isfinite(ratio) else math.inf
