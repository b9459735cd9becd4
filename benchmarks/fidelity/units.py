"""One unit for another: a real motor's stream goes on as another motor's, and the twin learns while it runs.

Joined are recordings of UNDC as in `change`; the second is scaled to be another unit's, its gain and its time
constant by 0.5 to 2, its offset by up to a tenth of the range, drawn by a seed. What answers is a bank as
`--model auto` takes it, with its trainer beside it (`benchmarks.fidelity.live`), from a cold start before the
change on. Beside it runs what an engineer would write in an hour: recursive least squares of an ARX(2) with
forgetting, whose covariance is reset where residuals are far beyond the usual.

Recovery is that of `change`: seconds from the change until the running median (one second) of the error of
1-s forecasts stays within 1.2 times that of a model fitted offline to the new unit, to the end of the stream.
`settled`: from when on it does so for ten seconds; half a second that goes astray long after does not count.
The same for errors one step ahead, by their running root mean square over a second.

Constants were chosen on streams of 2026-08-11 and 14; those reported (`REPORTED`) are of 2026-08-17 and 19.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, RenderableType
from rich.table import Table

from benchmarks.fidelity.cases import BESIDE
from benchmarks.fidelity.change import (
    HORIZON,
    SPEC,
    STRIDE,
    WITHIN,
    copy,
    fitted,
    followed,
    joined,
    recording,
    recovery,
    running_median,
)
from benchmarks.fidelity.live import Live
from benchmarks.fidelity.stream import rms
from benchmarks.result import Result
from benchmarks.subject import Subject
from twin.config import TrainerConfig, TwinConfig

CHOSEN: Final = ("11", "14")
REPORTED: Final = ("17", "19")
SWAPS: Final = 6
SEED: Final = 5
RANGE: Final = 450.0
"""Of the speed, deg/s."""
MODEL: Final = "auto"
OFFLINE: Final = "gru"
SETTLED_SEC: Final = 10.0

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Unit:
    """Another motor, relative to the one that was recorded."""

    gain: float
    offset: float
    """In deg/s."""
    slower: float
    """Its time constant, relative."""

    def __str__(self) -> str:
        return f"gain × {self.gain:.2f}, offset {self.offset:+.0f}, time constant × {self.slower:.2f}"


def units(count: int, seed: int) -> list[Unit]:
    """Drawn at random."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        gain, slower = np.exp(rng.uniform(-np.log(2), np.log(2), 2)).tolist()
        found.append(Unit(gain, float(rng.uniform(-0.1, 0.1) * RANGE), slower))
    return found


class Ordinary:
    """ARX(2) with a constant, by recursive least squares with forgetting and a reset (Ljung, System
    Identification, 2nd ed., section 11.2)."""

    FORGETTING: Final = 0.995
    RESET: Final = 1e3
    """Covariance, in the scale of the regressors, from which it begins anew."""
    BEYOND: Final = 6.0
    """Residual over the usual one that is taken for another plant."""

    def __init__(self) -> None:
        self.theta, self.p = np.array([1.0, 0.0, 0.0, 0.0, 0.0]), self.RESET * np.eye(5)
        self.usual, self.since = QUANTUM_SPREAD, 0

    @staticmethod
    def phi(y1: float, y2: float, u1: float, u2: float) -> Array:
        """Regressors of the same size."""
        return np.array([y1 / 100, y2 / 100, u1, u2, 1.0])

    def expected(self, y1: float, y2: float, u1: float, u2: float) -> float:
        """The next output, deg/s."""
        return float(100 * self.theta @ self.phi(y1, y2, u1, u2))

    def learn(self, y: float, y1: float, y2: float, u1: float, u2: float) -> float:
        """Take in a measurement; what it was from its expectation, deg/s."""
        phi = self.phi(y1, y2, u1, u2)
        error = y / 100 - float(self.theta @ phi)
        self.since += 1
        if self.since > 10 and abs(error) > self.BEYOND * self.usual:
            self.p, self.since = self.RESET * np.eye(5), 0
        gain = self.p @ phi / (self.FORGETTING + phi @ self.p @ phi)
        self.theta = self.theta + gain * error
        self.p = (self.p - np.outer(gain, phi @ self.p)) / self.FORGETTING
        if self.since > 10:
            self.usual += 0.02 * (min(abs(error), 3 * self.usual) * 1.25 - self.usual)
        return 100 * error


QUANTUM_SPREAD: Final = 0.03
"""Of the residuals at first, in hundreds of deg/s."""


def ordinary(z: Array) -> tuple[Array, Array]:
    """Of a stream z (T, 2): RMSE of the 1-s forecasts (starts,), residuals (T,), by `Ordinary`."""
    model, residuals, forecasts = Ordinary(), np.zeros(len(z)), []
    u, y = z.T.tolist()
    for k in range(2, len(z)):
        residuals[k] = model.learn(y[k], y[k - 1], y[k - 2], u[k - 1], u[k - 2])
        if k % STRIDE == 0 and k + HORIZON < len(z):
            run = [y[k - 1], y[k]]
            for j in range(k, k + HORIZON):
                run.append(model.expected(run[-1], run[-2], u[j], u[j - 1]))
            forecasts.append(np.sqrt(np.mean((np.array(run[2:]) - z[k + 1 : k + 1 + HORIZON, 1]) ** 2)))
    return np.concatenate([np.zeros(1), forecasts]), residuals


def streamed(z: Array) -> tuple[Array, Array, Live]:
    """The same by the bank, which learns while it runs; NaN before the first forecast."""
    live = Live(SPEC, TrainerConfig(model=MODEL), TwinConfig())
    starts = range(1, len(z) - HORIZON, STRIDE)
    residuals = live.run(z, free_runs=starts, horizon=HORIZON)[:, 0]
    forecasts = np.full(len(range(0, len(z) - HORIZON, STRIDE)), np.nan)
    for start, run in live.free_runs.items():
        forecasts[(start - 1) // STRIDE] = np.sqrt(np.mean((run[:, 0] - z[start : start + HORIZON, 1]) ** 2))
    return forecasts, residuals, live


def one_step_recovery(errors: Array, offline: Array) -> float:
    """Seconds until the RMSE of the last second stays within bounds of the offline model's; 0 where it is
    from the first whole second on."""
    width = round(1 / SPEC.dt)

    def running(e: Array) -> Array:
        return np.sqrt(np.convolve(e**2, np.ones(width) / width)[: len(e)])

    outside = np.flatnonzero(~(running(errors)[width:] <= WITHIN * running(offline)[width:]))
    return (width + int(outside[-1]) + 1) * SPEC.dt if len(outside) else 0.0


def settled(errors: Array, bound: Array) -> float:
    """Seconds until the running median stays below a bound for `SETTLED_SEC`; infinite where it never is."""
    outside, span = running_median(errors) > bound, round(SETTLED_SEC / (STRIDE * SPEC.dt))
    held = [k for k in range(len(outside) - span + 1) if not outside[k : k + span].any()]
    return held[0] * STRIDE * SPEC.dt if held else float("inf")


def case(a: Array, b: Array, alike: Array) -> tuple[dict[str, Any], Subject]:
    """The figures of one stream, which goes from unit a to unit b."""
    z, end = joined(a, b, alike)
    offline, offline_residuals, _ = followed(fitted(b, OFFLINE), z, adapting=False)
    start = -(-end // STRIDE)
    offline = offline[start:]
    bound = WITHIN * running_median(offline)
    half = slice(len(offline) // 2, None)
    bank, bank_residuals, live = streamed(z)
    found: dict[str, Any] = {"offline_deg_s": float(np.median(offline[half]))}
    for name, (forecasts, residuals) in {
        "bank": (bank, bank_residuals),
        "ordinary": ordinary(z),
    }.items():
        after = np.nan_to_num(forecasts[start:], nan=np.inf)[: len(offline)]
        found[name] = {
            "recovery_s": recovery(after, bound),
            "settled_s": settled(after, bound),
            "one_step_recovery_s": one_step_recovery(residuals[end:], offline_residuals[end:]),
            "forecast_deg_s": float(np.median(after[half])),
            "one_step_deg_s": float(rms(residuals[end + (len(z) - end) // 2 :, None])[0]),
        }
    found["offline_one_step_deg_s"] = float(rms(offline_residuals[end + (len(z) - end) // 2 :, None])[0])
    return found, live.subject


def plans(data: Path, days: tuple[str, str], count: int) -> dict[str, tuple[Array, Array, Array]]:
    """Streams by name: the old unit, the new one, and that as it was recorded."""
    found = {}
    for k, unit in enumerate(units(count, SEED + int(days[0]))):
        old, new = days if k % 2 == 0 else days[::-1]
        recorded = recording(data, new)
        scaled = copy(recorded, unit.gain, unit.offset, unit.slower)
        found[f"{old} → {new}: {unit}"] = recording(data, old), scaled, recorded
    return found


def measure(console: Console, *, quick: bool, data: Path | None) -> Result:
    """Each swap once; without recordings, nothing."""
    directory = data or BESIDE
    if not (directory / "undc").is_dir():
        return Result({}, {}, {"streams": {}})
    streams, subjects = {}, {}
    for name, plan in plans(directory, REPORTED, 1 if quick else SWAPS).items():
        with console.status(f"fidelity: {name}"):
            streams[name], subjects[name] = case(*plan)
    back = [each["bank"]["recovery_s"] for each in streams.values()]
    quiet = [each["bank"]["settled_s"] for each in streams.values()]
    summary = {
        "unit_swap_s": max(back),
        "unit_swap_median_s": float(np.median(back)),
        "unit_swap_settled_s": max(quiet),
        "unit_swap_settled_median_s": float(np.median(quiet)),
        "unit_swap_ordinary_s": max(each["ordinary"]["recovery_s"] for each in streams.values()),
        "unit_swap_one_step_s": max(each["bank"]["one_step_recovery_s"] for each in streams.values()),
    }
    return Result(summary, subjects, {"streams": streams})


def table(result: dict[str, Any]) -> RenderableType:
    """A row for each stream."""
    view = Table(title="one unit for another: seconds to within 1.2 × of a model fitted to the new one")
    for name in (
        "stream",
        "bank",
        "ARX(2)",
        "settled",
        "ARX(2)",
        "one step",
        "ARX(2)",
        "1 s, deg/s",
        "ARX(2)",
        "offline",
    ):
        view.add_column(name, justify="left" if name == "stream" else "right")
    for name, found in result["streams"].items():
        rows = [found["bank"], found["ordinary"]]
        times = [
            f"{each[key]:.2f}" for key in ("recovery_s", "settled_s", "one_step_recovery_s") for each in rows
        ]
        errors = [f"{each['forecast_deg_s']:.2f}" for each in rows]
        view.add_row(name, *times, *errors, f"{found['offline_deg_s']:.2f}")
    return view
