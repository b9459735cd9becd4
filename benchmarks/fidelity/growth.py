"""How good a model becomes as its training data grow: every family, beside what it has to beat.

All learn from the same stretch of the default motor at 1 kHz, the seconds before the 30 s on which all are
judged: one step ahead, as a ratio to the Kalman floor, and in free run over 0.1, 1 and 10 s, as a fit. The
families are trained by the trainer's refits, each gated as in a stream; the limit is the free run of an
observer with the true parameters, who knows the load at its start and how such a load fades, but not what it
will do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console, RenderableType
from rich.table import Table

from benchmarks.fidelity.kalman import floor_errors, floor_free_runs, floor_of
from benchmarks.fidelity.linear_models import ARX, Subspace
from benchmarks.fidelity.live import alone
from benchmarks.result import Result
from benchmarks.subject import Subject
from simulators import motor
from simulators.quick_motor import Array, quick
from twin.backends.opening import open_predictor
from twin.checkpoint import Checkpoint
from twin.config import TrainerConfig, TwinConfig
from twin.errors import TwinError
from twin.families import FAMILIES
from twin.metrics import fit_percent, rmse
from twin.trainer import Trainer

DT: Final = 1e-3
OUTPUTS: Final = ("current", "speed")
JUDGED: Final = 30  # s
BACKEND: Final = "compiled"
WARM: Final = 200  # samples before a free run, and of a judged stretch that do not count
EVERY: Final = 250  # samples between two free runs
FULL: Final[dict[str, Any]] = {"train": (5, 15, 60, 300), "refits": 12, "horizons": (0.1, 1.0, 10.0)}
QUICK: Final[dict[str, Any]] = {"train": (5,), "refits": 2, "horizons": (0.1, 1.0)}

Ahead = Callable[[Array], Array]
"""From samples z (T, F) to what was expected of them, (T, P)."""
Run = Callable[[Array, Array], Array]
"""From samples that warm (N, L, F) and inputs (N, T, U) to outputs (N, T, P)."""


def trained(family: str, z: Array, refits: int) -> Checkpoint:
    """A model of a family after so many refits on z (T, F).

    Raises:
        TwinError: none was accepted.
    """
    spec, config = motor().spec(DT), TrainerConfig(model=family, history=len(z) * DT)
    trainer = Trainer(spec, config, TwinConfig().window)
    for k, row in enumerate(z.tolist()):
        trainer.observe(spec.sample(k, row))
    verdict = trainer.enough()
    for _ in range(refits):
        for _ in trainer.refit():
            pass
        verdict = trainer.accept()
    if trainer.number == 0:
        raise TwinError(f"{family}: {verdict.text}")
    checkpoint = trainer.checkpoint(verdict)
    assert checkpoint.family == family
    return checkpoint


def learned(family: str, z: Array, refits: int) -> tuple[Ahead, Run]:
    """What a family's model answers after so many refits."""
    return answering(trained(family, z, refits))


def answering(checkpoint: Checkpoint) -> tuple[Ahead, Run]:
    """What a model answers, as it is."""

    def ahead(z: Array) -> Array:
        return z[:, 1:] - alone(checkpoint, z)

    def run(warm: Array, u: Array) -> Array:
        predictor = open_predictor(checkpoint, BACKEND, len(warm))
        predictor.warm(warm[:, :-1].astype(np.float32))
        return np.asarray(
            predictor.free_run(warm[:, -1].astype(np.float32), u.astype(np.float32)), np.float64
        )

    return ahead, run


def persistence() -> tuple[Ahead, Run]:
    """What is now will be then."""

    def ahead(z: Array) -> Array:
        return np.concatenate([np.full((1, z.shape[1] - 1), np.nan), z[:-1, 1:]])

    return ahead, lambda warm, u: np.repeat(warm[:, -1:, 1:], u.shape[1], axis=1)


def linear(kind: Callable[[Array, int], ARX | Subspace], z: Array) -> tuple[Ahead, Run]:
    """What a linear model answers."""
    model = kind(z, 1)
    return model.ahead, model.free_run


def ways(z: Array, refits: int) -> dict[str, Callable[[], tuple[Ahead, Run]]]:
    """All ways to learn from z (T, F)."""
    found: dict[str, Callable[[], tuple[Ahead, Run]]] = {
        "persistence": persistence,
        "ARX": partial(linear, ARX, z),
        "subspace": partial(linear, Subspace, z),
    }
    return found | {family: partial(learned, family, z, refits) for family in FAMILIES}


def measure(console: Console, *, quick: bool, data: Path | None) -> Result:
    """Every way to learn, on every amount of data."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    size = QUICK if quick else FULL
    z, judged, starts = streams(size)
    judge = Judge(judged, starts, size["horizons"], floor_errors(floor_of(motor(), DT), z)[-len(judged) :])
    for family in FAMILIES:  # compiling is nobody's training
        Trainer(motor().spec(DT), TrainerConfig(model=family), TwinConfig().window).rehearse()
    found: dict[str, dict[str, Any]] = {}
    for seconds in size["train"]:
        train = z[len(z) - len(judged) - round(seconds / DT) : len(z) - len(judged)]
        for name, way in ways(train, size["refits"]).items():
            with console.status(f"fidelity: {name} on {seconds} s"):
                begun, cpu = time.perf_counter(), time.process_time()
                try:
                    ahead, run = way()
                except TwinError as error:
                    console.print(f"{name} on {seconds} s: {error}")
                    continue
                took = {"s": time.perf_counter() - begun, "cpu_s": time.process_time() - cpu}
                found.setdefault(name, {})[str(seconds)] = judge(ahead, run) | took
    runs = floor_free_runs(floor_of(motor(), DT), judged, starts, judge.longest)
    limit = judge.fits(np.stack(list(runs.values())))
    summary = {
        f"growth_{name}_{'_'.join(key.split())}": each[str(size["train"][-1])][key][OUTPUTS[1]]
        for name, each in found.items()
        for key in ("ratio", "1 s")
        if name in FAMILIES and str(size["train"][-1]) in each
    }
    subjects = {name: Subject(name, BACKEND, 1) for name in found if name in FAMILIES}
    return Result(summary, subjects, {"size": size, "families": found, "limit": limit})


def streams(size: dict[str, Any]) -> tuple[Array, Array, range]:
    """All samples, their newest part on which is judged, and where in that free runs begin."""
    seconds = JUDGED if len(size["train"]) > 1 else JUDGED // 5
    z = quick(motor(), round((max(size["train"]) + seconds) / DT)).z
    judged = z[-round(seconds / DT) :]
    return z, judged, range(WARM, len(judged) - round(max(size["horizons"]) / DT), EVERY)


class Judge:
    """The same stretch for all: samples z (T, F), free runs from `starts`, the floor's errors (T, P)."""

    def __init__(self, z: Array, starts: range, horizons: tuple[float, ...], floor: Array) -> None:
        self.z, self.horizons = z, horizons
        self.longest = round(max(horizons) / DT)
        self.floor = rmse(floor[WARM:])
        self.warm = np.stack([z[k - WARM : k] for k in starts])
        after = np.stack([z[k : k + self.longest] for k in starts])
        self.u, self.y = after[:, :, :1], after[:, :, 1:]

    def __call__(self, ahead: Ahead, run: Run) -> dict[str, Any]:
        """Its figures, by output."""
        ratio = rmse((self.z[:, 1:] - ahead(self.z))[WARM:]) / self.floor
        with np.errstate(over="ignore", invalid="ignore"):
            fits = self.fits(run(self.warm, self.u))
        return {"ratio": dict(zip(OUTPUTS, ratio.tolist(), strict=True))} | fits

    def fits(self, runs: Array) -> dict[str, dict[str, float]]:
        """Fit % of free runs (N, T, P) over each horizon."""
        found = {}
        for horizon in self.horizons:
            n = round(horizon / DT)
            fit = fit_percent(self.y[:, :n].reshape(-1, 2), np.nan_to_num(runs[:, :n].reshape(-1, 2)))
            found[f"{horizon:g} s"] = dict(zip(OUTPUTS, np.maximum(fit, -999.0).tolist(), strict=True))
        return found


def table(result: dict[str, Any]) -> RenderableType:
    """A row for each way and amount."""
    horizons = [f"{horizon:g} s" for horizon in result["size"]["horizons"]]
    view = Table(title="as training data grow: one step ahead × floor, free-run fit in %; current and speed")
    for heading in ("", "data, s", "× floor", *horizons, "took, s", "of CPU"):
        view.add_column(heading, justify="right" if heading else "left")
    for name, by_seconds in result["families"].items():
        for i, (seconds, each) in enumerate(by_seconds.items()):
            fits = (" ".join(f"{each[horizon][output]:.1f}" for output in OUTPUTS) for horizon in horizons)
            ratio = " ".join(f"{each['ratio'][output]:.3f}" for output in OUTPUTS)
            view.add_row("" if i else name, seconds, ratio, *fits, f"{each['s']:.1f}", f"{each['cpu_s']:.1f}")
        view.add_section()
    limit = (
        " ".join(f"{result['limit'][horizon][output]:.1f}" for output in OUTPUTS) for horizon in horizons
    )
    view.add_row("limit", "", "1 1", *limit, "", "")
    view.caption = "limit: an observer that knows the motor; the load changes within what it foresees"
    return view


def plot(result: dict[str, Any], folder: Path) -> list[Path]:
    """The speed's ratio to the floor, and its fit in free run over a second, against the data."""
    from matplotlib.figure import Figure  # no pyplot: it would look for a display

    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, by_seconds in result["families"].items():
        if name == "persistence":
            continue
        x = [float(seconds) for seconds in by_seconds]
        style = "--" if name in ("ARX", "subspace") else "-"
        left.plot(x, [each["ratio"]["speed"] for each in by_seconds.values()], f"o{style}", label=name)
        right.plot(x, [each["1 s"]["speed"] for each in by_seconds.values()], f"o{style}", label=name)
    left.axhline(1.0, color="black", linewidth=0.8)
    right.axhline(result["limit"]["1 s"]["speed"], color="black", linewidth=0.8)
    left.set(xscale="log", yscale="log", xlabel="s of training data", title="speed: error / floor")
    right.set(
        xscale="log", xlabel="s of training data", title="speed: fit of 1 s in free run, %", ylim=(50, 100)
    )
    left.legend(fontsize="small")
    path = folder / "fidelity_growth.svg"
    figure.savefig(path)
    return [path]
