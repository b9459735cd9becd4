"""One measured stretch: plant, what stands in between, listener; started, measured and ended.

What stands in between is either `twin predict` with a GRU of 32 hidden units, or a plain pyzmq relay that
unpacks each sample and packs as large an answer (`benchmarks.chain.stations`).
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.chain.stations import COLUMNS, SOURCE, stamps_of
from benchmarks.processes import Running, give_model, running, wait_until
from benchmarks.rounds import percentiles
from benchmarks.subject import NO_MODEL, Subject, certain, of_process
from simulators import SensorNoise, default_load, default_voltage, motor, signal, simulate
from twin.checkpoint import numbers
from twin.families import RECURSIVE, families_for
from twin.messages import pack

PROCESSES_TIMEOUT_SEC: Final = 90.0
"""For all processes of a stretch to be at work, and to end, on a busy machine."""
RECORDED: Final = 10_000  # samples that a plant repeats
TICK: Final = os.sysconf("SC_CLK_TCK")  # Hz
RELAY: Final = Subject(NO_MODEL, "relay", 1)
TWIN: Final = Subject("gru", "compiled", 1)
BANK: Final = [name for name in families_for(motor().spec(1e-3)) if name != RECURSIVE]
"""Those of the models which `auto` takes for a motor that have checkpoints."""


@dataclass(frozen=True)
class Condition:
    """What stands between plant and listener, and what goes on around it."""

    middle: str
    """relay or twin."""
    rate: float = 1_000.0
    transport: str = "ipc"
    refit: bool = False
    """Whether a trainer refits without a pause, and the twin takes up what is better."""
    realtime: bool = False
    adapt: bool = True
    """Whether the twin learns at every sample; then a new model has to show first that it is better."""
    model: str = "gru"
    """What the twin runs; auto is all that it takes for a motor, mixed."""

    @property
    def place(self) -> str:
        """In words, where the same floor is under all."""
        return f"{self.rate / 1e3:g} kHz, {self.transport}"

    @property
    def who(self) -> str:
        """In words, what stands in between."""
        bank = ", bank" * (self.model == "auto")
        return self.middle + bank + ", refit" * self.refit + ", realtime" * self.realtime

    @property
    def name(self) -> str:
        """In words, the same for the same condition."""
        return f"{self.who}, {self.place}"


@dataclass(frozen=True, eq=False)
class Stretch:
    """What was measured: the listener's rows (answers, COLUMNS), figures, and what stood in between."""

    rows: NDArray[np.int64]
    figures: dict[str, float]
    subject: Subject

    def column(self, name: str) -> NDArray[np.int64]:
        """One of the listener's `COLUMNS`, for each answer."""
        return self.rows[:, COLUMNS.index(name)]

    @property
    def latency_ns(self) -> NDArray[np.int64]:
        """Sample sent to prediction received, (answers,)."""
        return self.column("arrived_ns") - self.column("sample_sent_ns")


def record(folder: Path, rates: Sequence[float]) -> None:
    """Samples of the default motor, and its Spec at each rate: what plants publish."""
    plant = motor()
    voltage, load = signal(default_voltage(plant)), signal(default_load(plant), seed=2)
    samples = simulate(plant, voltage=voltage, load=load, dt=1e-3, noise=SensorNoise.of(plant))
    spec = plant.spec(1e-3)
    np.save(folder / "samples.npy", np.array([spec.row(sample) for sample in islice(samples, RECORDED)]))
    for rate in rates:
        (folder / f"spec-{rate:g}").write_bytes(pack(plant.spec(1 / rate)))


def nothing(place: Path) -> None:
    """Done meanwhile, where nothing is."""


def measure_stretch(
    condition: Condition, seconds: float, recorded: Path, meanwhile: Callable[[Path], None] = nothing
) -> Stretch:
    """Start everybody, measure so many seconds' samples, end everybody.

    `recorded` is the folder of `record`. `meanwhile` is called some twenty times a second during the
    measurement, with the directory that has the run directory `run` in it.

    Raises:
        TwinError: one of the processes fails.
    """
    count = round(seconds * condition.rate)
    families = BANK if condition.model == "auto" else [condition.model]
    with tempfile.TemporaryDirectory(prefix="lt") as folder, ExitStack() as stack:
        place, file = Path(folder), Path(folder) / "stamps.npz"
        hear, speak = endpoints(condition.transport, place)

        def begin(name: str, arguments: Sequence[str]) -> Running:
            return stack.enter_context(running(name, arguments, XDG_RUNTIME_DIR=folder))

        def twin(command: str, *options: str) -> Running:
            common = ["--source", SOURCE, "--run-dir", str(place / "run"), "--plant-endpoint", hear]
            common += ["--twin-endpoint", speak] if command == "predict" else []
            common += ["--model", condition.model]
            return begin(command, ["-m", "twin", command, *common, *options])

        def station(name: str, *arguments: object) -> Running:
            call = ", ".join(map(repr, arguments))
            return begin(name, ["-c", f"from benchmarks.chain.stations import {name}; {name}({call})"])

        listener = station("listen", hear, speak, str(file))
        everybody = [listener]
        if condition.middle == "relay":
            everybody.append(station("relay", hear, speak))
        else:
            for number, family in enumerate(families, 1):
                give_model(place / "run", 1 / condition.rate, family, number)
            everybody.append(
                twin("predict", *["--realtime"] * condition.realtime, *["--no-adapt"] * (not condition.adapt))
            )
        if condition.refit:
            everybody.append(twin("train", "--period", "0.1"))
        spec, samples = (str(recorded / name) for name in (f"spec-{condition.rate:g}", "samples.npy"))
        plant = station("plant", hear, samples, spec, count, len(everybody) - 1)
        everybody.append(plant)
        wait_until(lambda: "following" in listener.said(), "prediction", PROCESSES_TIMEOUT_SEC, *everybody)
        if condition.refit:  # until it is at work: it imports torch, and wants some samples first
            wait_until(
                lambda: len(numbers(place / "run")) > 1, "refitted model", PROCESSES_TIMEOUT_SEC, *everybody
            )
        before = progress(place, everybody)
        subject = RELAY
        if condition.middle == "twin":
            wanted = replace(TWIN, family=" + ".join(families))
            subject = certain(of_process(everybody[1].process.pid, place / "run"), wanted)
        plant.tell()

        def ended() -> bool:
            meanwhile(place)
            return listener.process.poll() == 0

        wait_until(ended, "end", 2 * seconds + PROCESSES_TIMEOUT_SEC, *everybody)
        after = progress(place, everybody)
        rows, told = stamps_of(file)
    beside = {name: after[name] - before[name] for name in after}
    return Stretch(rows, evaluate(rows, told, count, condition.rate) | beside, subject)


def endpoints(transport: str, place: Path) -> tuple[str, str]:
    """Where plant and twin publish: Unix sockets in a directory, or free ports of this machine."""
    if transport == "ipc":
        return f"ipc://{place}/plant", f"ipc://{place}/twin"
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in (one, other)]
    return f"tcp://127.0.0.1:{ports[0]}", f"tcp://127.0.0.1:{ports[1]}"


def progress(place: Path, everybody: Sequence[Running]) -> dict[str, float]:
    """Models saved so far, and the seconds that each process has been at work on any core."""
    found = {"models": float(len(numbers(place / "run")))}
    for each in everybody:
        if (stat := Path(f"/proc/{each.process.pid}/stat")).exists():
            fields = stat.read_text().rpartition(")")[2].split()
            found[f"{each.name}_cpu_s"] = (int(fields[11]) + int(fields[12])) / TICK
    return found


def evaluate(rows: NDArray[np.int64], told: dict[str, float], count: int, rate: float) -> dict[str, float]:
    """Percentiles in µs, and counts, from the answers to `count` samples."""
    stretch = Stretch(rows, {}, RELAY)
    latency_ns = stretch.latency_ns
    inside_ns = stretch.column("sent_ns") - stretch.column("received_ns")
    return percentiles(latency_ns) | {
        "inside_p50": float(np.median(inside_ns)) / 1e3,
        "sent": float(count),
        "lost": float(count - len(np.unique(stretch.column("seq")))),
        "late": float(np.sum(latency_ns > 1e9 / rate)),
        "plant_overruns": told["overruns"],
        "rate_hz": count / told["seconds"],
    }
