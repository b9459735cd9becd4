"""A twin of a motor that is more than its model: what each family loses on `qube-servo-3-real`.

The motor has what the equations of `physics` leave out (`simulators.real_motor`), and the floor is an
observer that knows all of it (`simulators.real_floor`): a ratio to it is what the model does not know. Each
family streams for a minute, from scratch, with its trainer beside it (`benchmarks.fidelity.live`), and is
judged over the last quarter as the twin answered, adapting: one step as a ratio to the floor, and the fit of
free runs over a second, beside that of the observer itself.

`hybrid_excess_share` is how much of the excess over the floor the hybrid leaves of that of `physics`, whose
correction it learns, on the output where that is more; the worst of the seeds. `SEEDS` are others than those
on which constants were chosen (31 and 41).
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console, RenderableType
from rich.table import Table

from benchmarks.fidelity.kalman import floor_errors, floor_free_runs, floor_of
from benchmarks.fidelity.live import Live
from benchmarks.fidelity.stream import rms
from benchmarks.result import Result
from benchmarks.subject import Subject
from simulators import motor
from simulators.quick_motor import Array, quick
from twin.config import TrainerConfig, TwinConfig
from twin.metrics import fit_percent

DT: Final = 1e-3
OUTPUTS: Final = ("current", "speed")
MOTOR: Final = "qube-servo-3-real"
SEEDS: Final = (51, 951)
HORIZON: Final = 1_000  # samples of a free run
EVERY: Final = 250  # samples between two
WAYS: Final = {family: TrainerConfig(model=family) for family in ("physics", "gru", "hybrid")} | {
    "bank": TrainerConfig(model="auto")
}
"""By name, the settings of each trainer that is compared; the bank is what `auto` takes for a motor."""
FULL: Final[dict[str, Any]] = {"stream": 60.0, "seeds": SEEDS}
QUICK: Final[dict[str, Any]] = {"stream": 8.0, "seeds": SEEDS[:1]}


def measure(console: Console, *, quick: bool, data: Path | None) -> Result:
    """Every way on every seed."""
    size = QUICK if quick else FULL
    ways: dict[str, dict[str, Any]] = {}
    limits: dict[str, Any] = {}
    for seed in size["seeds"]:
        z, floor, limits[str(seed)] = stream(size["stream"], seed)
        for name, settings in WAYS.items():
            with console.status(f"fidelity: {name} on a real motor, seed {seed}"):
                ways.setdefault(name, {})[str(seed)] = streamed(settings, z, floor)
    summary: dict[str, Any] = {
        f"real_{name}_{output}": max(each["ratio"][output] for each in by_seed.values())
        for name, by_seed in ways.items()
        for output in OUTPUTS
    }
    shares = {seed: excess_share(ways["hybrid"][seed], ways["physics"][seed]) for seed in limits}
    summary |= {"hybrid_excess_share": max(shares.values())}
    summary |= {"bank_ratio_real_plant": max(summary[f"real_bank_{output}"] for output in OUTPUTS)}
    summary |= {
        f"real_{name}_free_run_1s": min(statistics.fmean(each["1 s"].values()) for each in by_seed.values())
        for name, by_seed in ways.items()
    }
    subjects = {
        name: Subject(next(iter(by_seed.values()))["family"], "compiled", 1) for name, by_seed in ways.items()
    }
    return Result(summary, subjects, {"size": size, "ways": ways, "limits": limits, "shares": shares})


def stream(seconds: float, seed: int) -> tuple[Array, Array, dict[str, Any]]:
    """Samples z (T, 3) of the real motor, the floor's errors (T, 2), and what its observer reaches."""
    plant = motor(MOTOR)
    z = quick(plant, round(seconds / DT), seed=seed).z
    errors = floor_errors(floor_of(plant, DT), z)
    starts, horizon = judged(len(z))
    runs = floor_free_runs(floor_of(plant, DT), z, starts, horizon)
    found = {"floor_rms": by_output(rms(errors[3 * len(z) // 4 :])), "1 s": by_output(fit(runs, z, horizon))}
    return z, errors, found


def judged(samples: int) -> tuple[range, int]:
    """Where free runs begin in a stream of so many samples, and how long they are."""
    horizon = min(HORIZON, samples // 8)
    return range(3 * samples // 4, samples - horizon, EVERY), horizon


def streamed(settings: TrainerConfig, z: Array, floor: Array) -> dict[str, Any]:
    """The last quarter of a stream z (T, 3) that a twin answered while its trainer learned.

    Raises:
        TwinError: another model answered than the one asked for.
    """
    starts, horizon = judged(len(z))
    live = Live(motor(MOTOR).spec(DT), settings, TwinConfig())
    errors = live.run(z, free_runs=starts, horizon=horizon)
    ratio = rms(errors[starts[0] :]) / rms(floor[starts[0] :])
    with np.errstate(over="ignore", invalid="ignore"):
        fits = np.maximum(np.nan_to_num(fit(live.free_runs, z, horizon), nan=-999.0), -999.0)
    return {
        "ratio": by_output(ratio),
        "1 s": by_output(fits),
        "family": live.subject.family,
        "refits": len(live.refits),
        "accepted": len(live.checkpoints),
        "cpu_s": float(sum(each["s"] for each in live.refits)),
    }


def fit(runs: dict[int, Array], z: Array, horizon: int) -> Array:
    """Fit % (2,) of free runs (H, 2) by the sample at which each began; NaN where there are none."""
    if not runs:
        return np.full(len(OUTPUTS), np.nan)
    true = np.concatenate([z[start : start + horizon, 1:] for start in runs])
    found: Array = fit_percent(true, np.concatenate(list(runs.values())))
    return found


def by_output(values: Array) -> dict[str, float]:
    """Values (2,) by the name of the output."""
    return dict(zip(OUTPUTS, values.tolist(), strict=True))


def excess_share(corrected: dict[str, Any], alone: dict[str, Any]) -> float:
    """How much of the excess over the floor of a model alone is left of it when it is corrected.

    >>> excess_share({"ratio": {"current": 2.0, "speed": 1.125}}, {"ratio": {"current": 5.0, "speed": 1.5}})
    0.25
    """
    shares = ((corrected["ratio"][name] - 1) / (alone["ratio"][name] - 1) for name in OUTPUTS)
    return float(max(shares))


def table(result: dict[str, Any]) -> RenderableType:
    """A row for each way and seed."""
    view = Table(title=f"{MOTOR}, {result['size']['stream']:g} s from scratch at 1 kHz")
    for heading in ("", "seed", "× floor", "1 s free run, fit %", "refits", "accepted", "CPU s"):
        view.add_column(heading, justify="right" if heading else "left")
    for name, by_seed in result["ways"].items():
        for seed, each in by_seed.items():
            ratio = " ".join(f"{each['ratio'][output]:.2f}" for output in OUTPUTS)
            fits = " ".join(f"{each['1 s'][output]:.1f}" for output in OUTPUTS)
            counts = str(each["refits"]), str(each["accepted"]), f"{each['cpu_s']:.0f}"
            view.add_row(name, seed, ratio, fits, *counts)
    for seed, each in result["limits"].items():
        fits = " ".join(f"{each['1 s'][output]:.1f}" for output in OUTPUTS)
        view.add_row("limit", seed, "1 1", fits, "", "", "")
    shares = ", ".join(f"{share:.2f}" for share in result["shares"].values())
    view.caption = f"current and speed; of the excess of physics the hybrid leaves {shares}"
    return view
