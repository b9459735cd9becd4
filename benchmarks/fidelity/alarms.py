"""What the twin knows of its own errors: coverage of its intervals, false alarms, and how soon it finds a
fault.

The motor is `quick_motor`'s, the model a physics one, which is what `auto` takes for a motor, trained in this
process on the motor as it was, and every sample goes through a `Twin`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.progress import track
from rich.table import Table

from benchmarks.result import Result
from benchmarks.subject import Subject, certain, of_twin
from simulators import motor
from simulators.dc_motor import DCMotor
from simulators.quick_motor import quick as simulated
from simulators.sensors import SensorNoise
from twin.changes import Changes
from twin.checkpoint import Checkpoint
from twin.config import TrainerConfig
from twin.messages import Sample
from twin.trainer import Trainer
from twin.twin import Twin

DT: Final = 1e-3  # s
WINDOW: Final = 100  # of twin and trainer, samples
SUBJECT: Final = Subject("physics", "compiled", 1)
ANY: Final = 20_000
"""Samples over which coverage is counted, wherever they begin."""
HORIZONS: Final = (0.1, 1.0, 2.0)  # s
LOOK: Final = 1_000  # samples between two looks at the parameters
FORECAST_EVERY: Final = 0.5  # s
FIRST: Final = 400
"""First seed of the trials; those of the hours begin at twice this. Constants were chosen on others."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Size:
    """How much is measured; times in s of the stream."""

    learned: float
    refits: int
    coverage: float
    forecasts: float
    hours: float
    trials: int
    before: float
    after: float = 30.0


FULL: Final = Size(
    learned=60.0, refits=12, coverage=180.0, forecasts=1500.0, hours=10.0, trials=20, before=120.0
)
QUICK: Final = Size(
    learned=30.0, refits=4, coverage=60.0, forecasts=60.0, hours=0.05, trials=2, before=60.0, after=10.0
)


def models(size: Size) -> list[Checkpoint]:
    """The first model of a trainer, and the one it has come to."""
    plant = motor()
    spec = plant.spec(DT)
    trainer, found = Trainer(spec, TrainerConfig(model="physics"), WINDOW), []
    for sample in samples(simulated(plant, round(size.learned / DT), seed=1).z):
        trainer.observe(sample)
    for _ in range(size.refits):
        for _ in trainer.refit():
            pass
        if (verdict := trainer.accept()).passed:
            found.append(trainer.checkpoint(verdict))
    return [found[0], found[-1]]


def samples(z: Array) -> Iterator[Sample]:
    """The rows (T, 3) as messages."""
    spec = motor().spec(DT)
    return (spec.sample(k, row) for k, row in enumerate(z.tolist()))


def following(checkpoint: Checkpoint) -> Twin:
    """A twin that answers with a model from the first sample on."""
    twin = Twin(checkpoint.spec, window=WINDOW, backend="compiled", adapt=True)
    twin.refresh(checkpoint)
    twin.catch_up()
    certain(of_twin(twin, checkpoint), SUBJECT)
    return twin


# -- coverage ----------------------------------------------------------------------------------------


def covered(first: Checkpoint, last: Checkpoint, seconds: float) -> dict[str, Any]:
    """A stream with everything in it: no model, the first, the last one, another motor, the old one again."""
    plant, length = motor(), round(seconds / DT)
    other = replace(plant, resistance=1.4 * plant.resistance, coulomb_friction=2 * plant.coulomb_friction)
    light = replace(plant, torque_constant=0.9 * plant.torque_constant, back_emf=0.9 * plant.back_emf)
    changes = [(length // 2, other), (2 * length // 3, light), (5 * length // 6, plant)]
    z = simulated(plant, length, seed=2, changes=changes).z
    twin = Twin(first.spec, window=WINDOW, backend="compiled", adapt=True)
    news = {length // 20: first, length // 5: last}
    inside = np.full((length, 2), np.nan)
    width = np.full((length, 2), np.nan)
    names, stated = first.spec.outputs, None
    for k, sample in enumerate(samples(z)):
        if stated is not None:
            low, high = stated
            inside[k] = [low[name] <= sample.y[name] <= high[name] for name in names]
            width[k] = [high[name] - low[name] for name in names]
        answer = twin.step(sample)
        assert answer is not None
        stated = None
        if isinstance(answer.low, dict) and isinstance(answer.high, dict):
            stated = answer.low, answer.high
        if k in news:
            twin.refresh(news[k])
        twin.catch_up()
    certain(of_twin(twin, last), SUBJECT)
    begun = int(np.flatnonzero(np.isfinite(inside[:, 0]))[0])
    sums = np.cumsum(np.vstack([np.zeros((1, 2)), inside[begun:]]), axis=0)
    span = min(ANY, len(sums) - 1)
    share = 100 * (sums[span:] - sums[:-span]) / span
    calm, changed = slice(length // 4, length // 2), slice(length // 2, 2 * length // 3)
    return {
        "lowest": dict(zip(names, share.min(axis=0).tolist(), strict=True)),
        "highest": dict(zip(names, share.max(axis=0).tolist(), strict=True)),
        "worst": float(share.ravel()[np.abs(share - 90).argmax()]),
        "width": dict(zip(names, width[calm].mean(axis=0).tolist(), strict=True)),
        "width_after": dict(zip(names, width[changed].mean(axis=0).tolist(), strict=True)),
    }


def forecasts(checkpoint: Checkpoint, seconds: float) -> dict[str, Any]:
    """The share of samples within the interval of a forecast that was made under the inputs that came."""
    length, far = round(seconds / DT), round(max(HORIZONS) / DT)
    z = simulated(motor(), length, seed=3).z
    twin, rows = following(checkpoint), [round(horizon / DT) - 1 for horizon in HORIZONS]
    inside, widths = [], []
    for k, sample in enumerate(samples(z)):
        twin.step(sample)
        twin.catch_up()
        if k % round(FORECAST_EVERY / DT) or k + far + 2 > length:
            continue
        ahead = twin.forecast(z[k + 1 : k + 1 + far, :1])
        if ahead.low is not None and ahead.high is not None:
            y = z[k + 2 : k + 2 + far, 1:]
            inside.append(((ahead.low <= y) & (y <= ahead.high))[rows])
            widths.append((ahead.high - ahead.low)[rows])
    names = checkpoint.spec.outputs

    def by_horizon(values: Array) -> dict[str, dict[str, float]]:
        rows = [dict(zip(names, row, strict=True)) for row in values.tolist()]
        return {f"{horizon:g}": row for horizon, row in zip(HORIZONS, rows, strict=True)}

    return {
        "count": len(inside),
        "coverage": by_horizon(100 * np.mean(inside, axis=0)),
        "width": by_horizon(np.mean(widths, axis=0)),
    }


# -- alarms ------------------------------------------------------------------------------------------


def alarms_in(checkpoint: Checkpoint, z: Array) -> list[tuple[float, str, str]]:
    """When, of which output and of which kind the alarms of a stream were; and what the event `changed` told
    of a motor's parameters, which are looked at once a second, as the twin's process does."""
    twin, changes, found = following(checkpoint), Changes(), []
    for sample in samples(z):
        twin.step(sample)
        if sample.seq % LOOK == 0 and twin.active is not None and not twin.detection.alarmed:
            found += [
                (sample.t, "motor", text.split()[0]) for text, _ in changes.look(twin.active.parameters)
            ]
        while twin.pending_alarms:
            alarm = twin.pending_alarms.popleft()
            if not alarm.over:
                found.append((alarm.t, alarm.output, alarm.kind))
    return found


def changed(**factors: float) -> Callable[[int, int, int], Array]:
    """A stream of the motor, of whose parameters some are other from sample k on, times these factors."""

    def stream(length: int, k: int, seed: int) -> Array:
        plant = motor()
        values = {name: factor * getattr(plant, name) for name, factor in factors.items()}
        other: DCMotor = replace(plant, **values)
        return simulated(plant, length, seed=seed, changes=[(k, other)]).z

    return stream


def current_off(length: int, k: int, seed: int) -> Array:
    """A stream whose current reads 5 % of the range too much from sample k on."""
    z = simulated(motor(), length, seed=seed).z.copy()
    full = SensorNoise.of(motor()).current_range
    z[k:, 1] = np.minimum(z[k:, 1] + 0.05 * full, full)
    return z


def speed_stuck(length: int, k: int, seed: int) -> Array:
    """A stream whose speed reads the same from sample k on."""
    z = simulated(motor(), length, seed=seed).z.copy()
    z[k:, 2] = z[k, 2]
    return z


FAULTS: Final[dict[str, Callable[[int, int, int], Array]]] = {
    "resistance_20": changed(resistance=1.2),
    "friction_2": changed(coulomb_friction=2.0),
    "current_offset_5": current_off,
    "speed_stuck": speed_stuck,
}
IN_WORDS: Final = {
    "resistance_20": "R + 20 %",
    "friction_2": "τ_c × 2",
    "current_offset_5": "current + 5 % of range",
    "speed_stuck": "speed stuck",
}


def delays(checkpoint: Checkpoint, size: Size, console: Console) -> dict[str, Any]:
    """From the fault to the first alarm, s, for each fault and seed; `after` where none came."""
    k, length = round(size.before / DT), round((size.before + size.after) / DT)
    found: dict[str, Any] = {}
    for name, stream in track(FAULTS.items(), "faults", console=console, transient=True):
        times, missed, early = [], 0, 0
        outputs: dict[str, int] = {}
        for seed in range(FIRST, FIRST + size.trials):
            alarms = alarms_in(checkpoint, stream(length, k, seed))
            early += sum(t < size.before for t, _, _ in alarms)
            late = [(t - size.before, output, kind) for t, output, kind in alarms if t >= size.before]
            missed += not late
            times.append(late[0][0] if late else size.after)
            if late:
                label = f"{late[0][1]} {late[0][2]}"
                outputs[label] = outputs.get(label, 0) + 1
        found[name] = {
            "median": statistics.median(times),
            "worst": max(times),
            "missed": missed,
            "trials": size.trials,
            "early": early,
            "first": outputs,
        }
    return found


def false_alarms(checkpoint: Checkpoint, hours: float, console: Console) -> dict[str, Any]:
    """Alarms of an unchanged motor, in streams of half an hour at most, each with the wait for thresholds."""
    stretch = min(0.5, hours)
    turns = round(hours / stretch)
    found: list[tuple[float, str, str]] = []
    for turn in track(range(turns), "unchanged", console=console, transient=True):
        z = simulated(motor(), round(3600 * stretch / DT), seed=2 * FIRST + turn).z
        found += alarms_in(checkpoint, z)
    return {"hours": stretch * turns, "count": len(found), "alarms": found}


def measure(console: Console, *, quick: bool, data: Path | None = None) -> Result:
    """All of it; `data` is for other parts of `fidelity`."""
    size = QUICK if quick else FULL
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        first, last = models(size)
    finally:
        torch.set_num_threads(threads)
    intervals = covered(first, last, size.coverage)
    ahead = forecasts(last, size.forecasts)
    found = delays(last, size, console)
    quiet = false_alarms(last, size.hours, console)
    count = quiet["count"] + sum(each["early"] for each in found.values()) / len(found)
    hours = quiet["hours"] + size.trials * size.before / 3600  # the four faults share what comes before them
    summary = {
        "coverage_worst": intervals["worst"],
        "false_alarms_per_hour": count / hours,
        "detection_delay_s": {name: each["median"] for name, each in found.items()},
    }
    details = {"intervals": intervals, "forecasts": ahead, "faults": found, "unchanged": quiet}
    return Result(summary, {"twin": SUBJECT}, details)  # as each of its twins was when it began


def table(result: dict[str, Any]) -> RenderableType:
    """Coverage, forecasts, alarms."""
    intervals, ahead = result["intervals"], result["forecasts"]
    coverage = Table(title=f"90 % intervals: share inside, % of any {ANY:,} samples", box=SIMPLE)
    for heading in ("output", "lowest", "highest", "mean width", "on another motor"):
        coverage.add_column(heading, justify="left" if heading == "output" else "right")
    for name, low in intervals["lowest"].items():
        high, width, after = (intervals[key][name] for key in ("highest", "width", "width_after"))
        coverage.add_row(name, f"{low:.2f}", f"{high:.2f}", f"{width:.4g}", f"{after:.4g}")
    far = Table(title=f"90 % intervals of {ahead['count']} forecasts", box=SIMPLE)
    for heading in ("horizon, s", "output", "inside, %", "mean width"):
        far.add_column(heading, justify="right")
    for horizon, shares in ahead["coverage"].items():
        for name, share in shares.items():
            far.add_row(horizon, name, f"{share:.1f}", f"{ahead['width'][horizon][name]:.4g}")
    quiet = result["unchanged"]
    alarms = Table(title="from a fault to its alarm, s", box=SIMPLE)
    for heading in ("fault", "median", "worst", "missed", "first alarm"):
        alarms.add_column(heading, justify="left" if heading in ("fault", "first alarm") else "right")
    for name, each in result["faults"].items():
        first = ", ".join(f"{label} {count}" for label, count in each["first"].items())
        missed = f"{each['missed']} of {each['trials']}"
        alarms.add_row(IN_WORDS[name], f"{each['median']:.3f}", f"{each['worst']:.3f}", missed, first)
    alarms.caption = f"{quiet['count']} alarms in {quiet['hours']:g} h of an unchanged motor"
    return Group(coverage, far, alarms)
