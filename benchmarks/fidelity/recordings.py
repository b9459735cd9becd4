"""`fidelity`, on recordings: `twin fit` with its defaults beside published figures, and the twin online.

Offline: each recording is identified within two minutes of CPU time, and judged on the samples and by the
figure that its README names. Online: each is streamed once from a cold start through `Twin` and `Trainer`,
in the stream's order and as if a refit took no time; errors one step ahead and of forecasts over a second,
beside a recursive ARX model that is fed the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group, RenderableType
from rich.table import Table

from benchmarks.fidelity.cases import BESIDE, Case, cases
from benchmarks.result import Result
from benchmarks.subject import Subject, certain, of_twin
from twin.evaluation import evaluate
from twin.messages import Sample, Spec

BUDGET: Final = 120.0  # s of CPU time for each recording, the default of `twin fit`
QUICK: Final = 20.0
MARKS: Final = (10.0, 20.0, 40.0, 80.0)  # s of the stream, at which the errors of the last quarter are told
ORDER: Final = 8  # of the recursive ARX model
FORGET: Final = 0.998
ONLINE: Final = Subject("gru", "compiled", 1)
"""What `auto` takes for these plants, of which none has a motor's signals."""

Array = NDArray[np.float64]


def measure(console: Console, *, quick: bool, data: Path | None) -> Result:
    """Plain data: each recording's figure beside others', and the errors online over time."""
    directory = data or BESIDE
    if not directory.is_dir():
        return Result({}, {}, {"skipped": f"no recordings: there is no {directory}; name their directory"})
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    found = cases(directory)
    offline = []
    for case in found:
        offline.append(fit(case, QUICK if quick else BUDGET))
        console.print(f"{case.name}: {offline[-1]['figure']:.4g} {case.unit}, {offline[-1]['seconds']:.0f} s")
    streamed = [case for case in found if case.spec.dt < 1.0]
    online = [stream(case) for case in (streamed[:1] if quick else streamed)]
    figures = {result["name"]: result["figure"] for result in offline}
    summary = {
        "undc_1s_deg_s": max(figure for name, figure in figures.items() if name.startswith("UNDC")),
        "qube_0_1s_rad": figures["QUBE"],
        "ufsj_rrse": figures["UFSJ"],
    }
    subjects = {
        f"{each['name']}, offline": Subject(each["plan"]["family"], ONLINE.backend, 1) for each in offline
    }
    subjects |= {f"{each['name']}, online": ONLINE for each in online}  # of which each stream was certain
    return Result(summary, subjects, {"offline": offline, "online": online})


def fit(case: Case, budget: float) -> dict[str, Any]:
    """Identify, and judge by the figure that counts."""
    from twin.offline import Fit

    begun, work = time.process_time(), Fit(case.learn, case.spec)
    for _ in work.run(lambda: (time.process_time() - begun) / budget):
        pass
    seconds = time.process_time() - begun
    checkpoint = work.checkpoint(1)
    found = evaluate(checkpoint, case.test, case.horizon, case.skip)
    output = case.spec.outputs[0]
    figures = found.figures()
    by_start = found.forecasts[::5] if case.metric == "median forecast" else found.forecasts
    figure = {
        "median forecast": float(np.median(np.sqrt(np.square(by_start).mean((1, 2))))),
        "forecast": figures["forecast"][output]["rmse"],
        "free run": figures["free_run"][output]["nrmse"],
    }[case.metric]
    return {
        "name": case.name,
        "figure": figure,
        "unit": case.unit,
        "reach": case.reach,
        "aim": case.aim,
        "others": case.others,
        "seconds": seconds,
        "budget": budget,
        "plan": dict(checkpoint.config["fit"]),
        "held_out_nrmse": work.held_out,
        **figures,
    }


def stream(case: Case) -> dict[str, Any]:
    """One recording from a cold start: RMSE over the quarter of the stream before each mark."""
    z, spec = case.test, case.spec
    horizon = round(1.0 / spec.dt)
    ours, rival = twin_online(z, spec, horizon), arx_online(z, len(spec.inputs), horizon)
    rows = []
    for mark in MARKS:
        end = min(round(mark / spec.dt), len(z) - horizon)
        last = np.arange(end - end // 4, end)
        errors = {
            f"{who}_{kind}": float(np.sqrt(np.nanmean(np.square(error[last]))))
            for who, pair in (("twin", ours), ("arx", rival))
            for kind, error in zip(("one_step", "free_run"), pair, strict=True)
        }
        rows.append({"t": end * spec.dt, **errors})
        if end < round(mark / spec.dt):
            break
    return {"name": case.name, "unit": spec.units.get(spec.outputs[0], ""), "rows": rows}


def samples(z: Array, spec: Spec) -> Iterator[Sample]:
    """The rows as a stream."""
    return (spec.sample(k, row) for k, row in enumerate(z.tolist()))


def twin_online(z: Array, spec: Spec, horizon: int) -> tuple[Array, Array]:
    """Errors one step ahead (T,), and RMSE of the forecast that begins there (T,), every tenth, else NaN."""
    from twin.config import TrainerConfig, TwinConfig
    from twin.trainer import Trainer
    from twin.twin import Twin

    config = TwinConfig()
    twin = Twin(spec, window=config.window, backend=ONLINE.backend, adapt=True)
    trainer = Trainer(spec, TrainerConfig(model=ONLINE.family), config.window, adapt=True)
    one_step, free_run, inputs = np.full(len(z), np.nan), np.full(len(z), np.nan), len(spec.inputs)
    for k, sample in enumerate(samples(z, spec)):
        answer = twin.step(sample)
        if answer is not None and answer.residual:
            one_step[k] = answer.residual[spec.outputs[0]]
        if answer is not None and k % 10 == 0 and k + horizon < len(z):
            first = np.array([[answer.y[name] for name in spec.outputs]])
            ahead = np.concatenate([first, twin.forecast(z[k + 1 : k + horizon, :inputs]).y])
            free_run[k] = np.sqrt(np.mean(np.square(ahead[:, 0] - z[k + 1 : k + 1 + horizon, inputs])))
        trainer.observe(sample)
        if trainer.due and trainer.enough().passed:
            for _ in trainer.refit():
                pass
            verdict = trainer.accept()
            if verdict.passed:
                newest = trainer.checkpoint(verdict)
                twin.refresh(newest)
        if twin.catch_up():
            certain(of_twin(twin, newest), ONLINE)
    return one_step, free_run


def arx_online(z: Array, inputs: int, horizon: int) -> tuple[Array, Array]:
    """The same of an ARX model of one output by recursive least squares (Ljung, section 11.2)."""
    features = z.shape[1]
    scale = np.tile(np.maximum(z[: 2 * ORDER].std(0), 1e-3 * np.abs(z).max(0)), ORDER)
    theta, covariance = np.zeros(ORDER * features + 1), 1e4 * np.eye(ORDER * features + 1)
    one_step, free_run = np.full(len(z), np.nan), np.full(len(z), np.nan)
    for k in range(ORDER, len(z)):
        x = np.append(z[k - ORDER : k].ravel() / scale, 1.0)
        before = z[k - 1, inputs]
        one_step[k] = z[k, inputs] - before - theta @ x
        gain = covariance @ x / (FORGET + x @ covariance @ x)
        theta = theta + gain * one_step[k]
        covariance = (covariance - np.outer(gain, x @ covariance)) / FORGET
        covariance = np.minimum(1.0, 1e6 / np.trace(covariance)) * 0.5 * (covariance + covariance.T)
        if k % 10 == 0 and k + horizon < len(z):
            run = z[k + 1 - ORDER : k + 1 + horizon].copy()
            with np.errstate(over="ignore", invalid="ignore"):
                for j in range(ORDER, len(run)):
                    past = np.append(run[j - ORDER : j].ravel() / scale, 1.0)
                    run[j, inputs] = run[j - 1, inputs] + theta @ past
                miss = np.square(run[ORDER:, inputs] - z[k + 1 : k + 1 + horizon, inputs])
                free_run[k] = np.sqrt(min(float(miss.mean()), 1e12)) if np.isfinite(miss).all() else 1e6
    return one_step, free_run


def table(result: dict[str, Any]) -> RenderableType:
    """Ours beside others', then the errors online."""
    if "skipped" in result:
        return str(result["skipped"])
    offline = Table(title="recordings, identified offline with default settings")
    for heading in ("recording", "figure", "reach", "aim at", "others", "s"):
        offline.add_column(heading, justify="left" if heading in ("recording", "others") else "right")
    for each in result["offline"]:
        others = "; ".join(f"{name} {figure:g}" for name, figure in each["others"].items())
        figures = (f"{each['figure']:.4g} {each['unit']}", f"{each['reach']:g}", f"{each['aim']:g}")
        offline.add_row(each["name"], *figures, others, f"{each['seconds']:.0f}")
    online = Table(title=f"streamed once from a cold start: twin / recursive ARX({ORDER}), RMSE")
    for heading in ("recording", "after, s", "one step ahead", "forecasts of 1 s"):
        online.add_column(heading, justify="left" if heading == "recording" else "right")
    for each in result["online"]:
        for row in each["rows"]:
            pairs = (
                f"{row[f'twin_{kind}']:.3g} / {row[f'arx_{kind}']:.3g}" for kind in ("one_step", "free_run")
            )
            online.add_row(f"{each['name']}, {each['unit']}", f"{row['t']:g}", *pairs)
    return Group(offline, online)
