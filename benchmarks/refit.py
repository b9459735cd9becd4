"""`refit`: time and result of one refit, with 1 and 2 threads, each in a process of its own.

- `Trainer`: one `twin.trainer.Trainer.refit` of a GRU, all else by default, on 60 s of the default motor with
  noise and load, from an incumbent that the same data made; judged, as always, on samples that come later. A
  network is asked for by name: the family that `auto` takes for a motor has no gradients, and nothing here to
  compare.
- `anchor`: a fixed amount of plain work for comparison with other ways to do it: 200 steps of Adam on 32
  windows of 200 samples, a GRU of 32 units and a linear readout that learn the next increment.

Both as the trainer does it, through the compiled passes, and by eager torch: for the anchor a plain
`nn.GRU(3, 32)` and `nn.Linear`, of which the compiled one has the first weights. While the clock runs, the
passes of either kind are counted, and a refit that ran by others than it should is an error, not a figure.

Speed-ups over eager torch are ratios of the CPU's time with one thread: what the clock shows on a machine
that has nothing else to do, and nearly that on one that has.

Each time stands beside what came out, so that faster cannot hide worse. Errors are those on later samples,
over those of a reference: for `Trainer` the incumbent, one step ahead and in free run; for the anchor
persistence, one step ahead.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.bars import bars
from benchmarks.passes import COMPILED, TORCH, Passes, counted
from benchmarks.result import Result
from benchmarks.rounds import interleave, median_of, median_ratio
from benchmarks.subject import Subject, certain
from simulators import SensorNoise, default_load, default_voltage, motor, signal, simulate
from twin.errors import TwinError
from twin.messages import Sample

if TYPE_CHECKING:
    import torch

DT: Final = 1e-3  # s
THREADS: Final = (1, 2)
ROUNDS: Final = 3
WINDOWS: Final = 32  # of the anchor's work
LENGTH: Final = 200  # samples of each

FAMILY: Final = "gru"
BUSY: Final = 1.1
"""CPU time over time, for each thread, beyond which more threads were at work than were allowed."""

Size = dict[str, int]
"""seconds of data, steps of a refit, steps of the anchor's work."""
FULL: Final[Size] = {"seconds": 60, "steps": 60, "anchor_steps": 200}
QUICK: Final[Size] = {"seconds": 4, "steps": 4, "anchor_steps": 4}


def stream(seconds: float) -> list[Sample]:
    """The default motor under its default voltage and load, with noise."""
    plant = motor()
    voltage, load = signal(default_voltage(plant)), signal(default_load(plant), seed=2)
    noise = SensorNoise.of(plant)
    return list(simulate(plant, voltage=voltage, load=load, dt=DT, duration=seconds, noise=noise))


def trainer_refit(size: Size, *, compiled: bool = True) -> tuple[dict[str, float], Subject]:
    """One refit from an incumbent: seconds, and errors over the incumbent's on later samples."""
    with counted(compiled) as passes:
        return _trainer_refit(size, passes)


def _trainer_refit(size: Size, passes: Passes) -> tuple[dict[str, float], Subject]:
    from twin.config import TrainerConfig, TwinConfig
    from twin.trainer import Trainer

    config = TrainerConfig(model=FAMILY, steps=size["steps"], history=size["seconds"])
    trainer = Trainer(motor().spec(DT), config, TwinConfig().window)
    samples = stream(size["seconds"] + config.period)
    later = len(samples) - round(config.period / DT)
    for sample in samples[:later]:
        trainer.observe(sample)
    for _ in trainer.refit():
        pass
    if not (verdict := trainer.accept()).passed:
        raise TwinError(f"there is no incumbent to refit: {verdict.text}")
    for sample in samples[later:]:
        trainer.observe(sample)
    passes.compiled = passes.torch = 0
    start, begun = time.perf_counter(), time.process_time()
    for _ in trainer.refit():
        pass
    seconds, cpu = time.perf_counter() - start, time.process_time() - begun
    assert trainer.candidate is not None
    subject = passes.subject(trainer.candidate.family, size["steps"])
    verdict = trainer.accept()
    ratios = {name: verdict.figures[name] for name in ("one_step_ratio", "free_run_ratio")}
    return {"s": seconds, "cpu_s": cpu, "ms_per_step": 1e3 * seconds / size["steps"], **ratios}, subject


def anchor_refit(size: Size, *, compiled: bool = True) -> tuple[dict[str, float], Subject]:
    """The fixed work: seconds, and errors over those of persistence on later samples."""
    with counted(compiled) as passes:
        return _anchor_refit(size, compiled, passes)


def _anchor_refit(size: Size, compiled: bool, passes: Passes) -> tuple[dict[str, float], Subject]:
    import torch
    from torch import nn

    from twin.families import Cell
    from twin.models.recurrent import Recurrent

    spec, steps = motor().spec(DT), size["anchor_steps"]
    z = np.array([spec.row(sample) for sample in stream(size["seconds"])])
    y = z[:, len(spec.inputs) :]
    change = np.diff(y, axis=0)
    scaled, target = (z - z.mean(0)) / z.std(0), change / change.std(0)

    def windows(first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        starts = np.linspace(first, last - LENGTH - 1, WINDOWS).astype(int)
        rows = starts[:, None] + np.arange(LENGTH)
        x, wanted = (torch.from_numpy(a[rows].astype(np.float32)) for a in (scaled, target))
        return x, wanted

    seen = len(z) * 9 // 10
    (x, wanted), (x_later, wanted_later) = windows(0, seen), windows(seen, len(z))
    torch.manual_seed(1)
    net, readout = nn.GRU(3, 32, batch_first=True), nn.Linear(32, 2)
    ours, state = Recurrent(Cell.GRU, 3, 2, 32, layers=1, taps=1), torch.zeros(WINDOWS, 32)
    ours.net.load_state_dict(net.state_dict())
    with torch.no_grad():
        ours.readout.weight[:, :32], ours.readout.bias[:] = readout.weight, readout.bias
    ours.readout.weight.register_hook(_without_direct_term)  # type: ignore[no-untyped-call]
    parameters = ours.parameters() if compiled else [*net.parameters(), *readout.parameters()]
    optimiser = torch.optim.Adam(parameters, 1e-2, fused=compiled)

    def answers(x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = ours(x, state)[0] if compiled else readout(net(x)[0])
        return found

    answers(x).sum().backward()  # type: ignore[no-untyped-call]  # compiles, or loads what was compiled
    passes.compiled = passes.torch = 0
    start, begun = time.perf_counter(), time.process_time()
    for _ in range(steps):
        optimiser.zero_grad(set_to_none=True)
        loss = nn.functional.mse_loss(answers(x), wanted)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    seconds, cpu = time.perf_counter() - start, time.process_time() - begun
    subject = passes.subject("gru", steps)
    with torch.no_grad():  # persistence answers no change
        error = (answers(x_later) - wanted_later).square().mean() / wanted_later.square().mean()
    figures = {"s": seconds, "cpu_s": cpu, "ms_per_step": 1e3 * seconds / steps}
    return figures | {"one_step_ratio": float(error.sqrt())}, subject


def _without_direct_term(gradient: torch.Tensor) -> torch.Tensor:
    """The plain network has none: here it stays zero."""
    gradient = gradient.clone()
    gradient[:, 32:] = 0.0
    return gradient


EAGER: Final = f", {TORCH}"
WORK: Final[dict[str, Callable[[Size], tuple[dict[str, float], Subject]]]] = {
    "Trainer": trainer_refit,
    "Trainer" + EAGER: partial(trainer_refit, compiled=False),
    "anchor": anchor_refit,
    "anchor" + EAGER: partial(anchor_refit, compiled=False),
}


def wanted(work: str, threads: int) -> Subject:
    """What a work is meant to measure."""
    return Subject(FAMILY, TORCH if work.endswith(EAGER) else COMPILED, threads)


def in_a_process(work: str, threads: int, size: Size) -> dict[str, float]:
    """Do it in a new process: how many threads torch has is settled once in each.

    Raises:
        TwinError: it failed, or measured something else.
    """
    code = f"from benchmarks.refit import answer; answer({work!r}, {threads}, {size})"
    names = (f"{library}_NUM_THREADS" for library in ("OMP", "OPENBLAS", "MKL"))
    environment = os.environ | {name: str(threads) for name in names}
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=words,
            env=environment,
            cwd=Path(__file__).parent.parent,
            process_group=0,  # Ctrl-C reaches this process, which then ends the other
        )
        try:
            figures, _ = process.communicate()
        finally:
            process.kill()
        words.seek(0)
        if process.returncode:
            raise TwinError(f"{work} with {threads} threads failed: {words.read().decode().strip()}")
    told = json.loads(figures)
    certain(Subject(**told["subject"]), wanted(work, threads))
    found = {name: float(value) for name, value in told["figures"].items()}
    if found["cpu_s"] > BUSY * threads * found["s"]:
        raise TwinError(f"{work} kept {found['cpu_s'] / found['s']:.1f} cores busy, with {threads} allowed")
    return found


def answer(name: str, threads: int, size: Size) -> None:
    """What that process does: print the figures, and whose they are."""
    import torch

    torch.set_num_threads(threads)
    figures, subject = WORK[name](size)
    print(json.dumps({"figures": figures, "subject": asdict(subject)}))


def measure(console: Console, *, quick: bool) -> Result:
    """Every work with every number of threads, in interleaved rounds."""
    rounds, size = (1, QUICK) if quick else (ROUNDS, FULL)
    # torch's loops on two threads are nobody's choice, and take minutes where others want a core, too
    works = [(name, n) for name in WORK for n in THREADS if n == 1 or not name.endswith(EAGER)]
    turns = {_title(name, n): partial(in_a_process, name, n, size) for name, n in works}
    found = interleave(turns, rounds, console, "refit")
    middle = {name: median_of(each) for name, each in found.items()}
    summary: dict[str, float] = {}
    for name, prefix in (("Trainer", "refit"), ("anchor", "anchor_refit")):
        one, two = (_title(name, n) for n in THREADS)
        summary |= {
            f"{prefix}_1_thread_s": middle[one]["s"],
            f"{prefix}_2_threads_s": middle[two]["s"],
            f"{prefix}_2_threads_vs_1": median_ratio(found[two], found[one], "s"),
            f"{prefix}_one_step_ratio": middle[one]["one_step_ratio"],
        }
    for name, prefix in (("Trainer", "trainer_refit"), ("anchor", "refit")):
        ours, eager = (_title(work, 1) for work in (name, name + EAGER))
        summary[f"{prefix}_speedup_vs_torch"] = median_ratio(found[eager], found[ours], "cpu_s")
        error = median_ratio(found[ours], found[eager], "one_step_ratio")
        summary[f"{prefix}_error_vs_torch"] = error
    summary["refit_free_run_ratio"] = middle[_title("Trainer", 1)]["free_run_ratio"]
    subjects = {_title(name, n): wanted(name, n) for name, n in works}  # of which each was certain
    return Result(summary, subjects, {"size": size, "rounds": found, "median": middle})


def _title(name: str, threads: int) -> str:
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def table(result: dict[str, Any]) -> Table:
    """Medians over the rounds."""
    size = result["size"]
    view = Table(
        title=f"Trainer: {size['steps']} steps on {size['seconds']} s of samples; anchor: "
        f"{size['anchor_steps']} steps on {WINDOWS} × {LENGTH} samples"
    )
    view.add_column("refit", no_wrap=True)
    for heading in ("s", "ms a step", "one step ahead", "free run"):
        view.add_column(heading, justify="right")
    for name, figures in result["median"].items():
        free_run = figures.get("free_run_ratio")
        view.add_row(
            name,
            f"{figures['s']:.2f}",
            f"{figures['ms_per_step']:.1f}",
            f"× {figures['one_step_ratio']:.3f}",
            "" if free_run is None else f"× {free_run:.3f}",
        )
    view.caption = "errors on later samples: Trainer's over the incumbent's, the anchor's over persistence's"
    return view


def plot(result: dict[str, Any], folder: Path) -> list[Path]:
    """The times as bars."""
    values = {name: figures["s"] for name, figures in result["median"].items()}
    return [bars(values, "one refit", "s, median", folder / "refit.svg")]
