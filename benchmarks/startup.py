"""`startup`: from exec to the first prediction, what imports cost, and how much memory a twin holds.

A plant publishes at 1 kHz all along. `twin predict` is started as a process of its own, with a model in its
run directory, and the clock runs from exec to the first prediction by that model at a subscriber. The
compiled backend is started with an empty cache of code (cold: it compiles) and with this user's, which
an earlier start has filled (warm: as after every restart); the eager one steps by torch. What the operating
system keeps of files is warm for all, by starts before the rounds that nobody counts.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import zmq
from rich.console import Console, Group
from rich.table import Table

from benchmarks.bars import bars
from benchmarks.processes import Running, give_model, running, start
from benchmarks.result import Result
from benchmarks.rounds import interleave, median_of
from benchmarks.subject import Subject, certain, of_process
from twin.errors import TwinError
from twin.messages import Prediction, unpack

SOURCE: Final = "startup"
ROUNDS: Final = 5
DT: Final = 1e-3  # s
FOLLOWED: Final = 1_000
"""Predictions after the first until the memory is looked at: what is needed once has been needed by then."""
FIRST_ANSWER_TIMEOUT_SEC: Final = 180.0
"""Of a twin that must compile first, on a busy machine."""

COLD, WARM, EAGER = "compiled, cold cache", "compiled, warm cache", "eager"
BARE: Final = "sys"
"""Importing it is starting Python and nothing else."""
IMPORTS: Final = (
    BARE,
    "numpy",
    "zmq",
    "msgspec",
    "numba",
    "torch",
    "scipy.integrate",
    "twin",
    "twin.cli",
    "twin.service.twin",
)


def resident_mb(status: str) -> float:
    """What a process holds in RAM, shared libraries included, in MB, from the text of /proc/PID/status.

    >>> resident_mb("VmHWM:   93000 kB\\nVmRSS:   91500 kB")
    91.5
    """
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1e3


def first_prediction(backend: str, place: Path, cache: Path | None, followed: int) -> dict[str, float]:
    """Start a twin beside the plant at `place`: seconds until it follows, and its memory after a while. Its
    machine code is in `cache`, or None: where this user's is.

    Raises:
        TwinError: it ends, or does not follow in time.
    """
    predict = [
        "-m",
        "twin",
        "predict",
        "--source",
        SOURCE,
        "--run-dir",
        str(place / "run"),
        "--backend",
        backend,
        "--model",
        "gru",
    ]
    with zmq.Context() as context, context.socket(zmq.SUB) as answers:
        answers.linger = 0
        answers.reconnect_ivl = 1  # ms; to connect late would be to receive late
        answers.subscribe(f"prediction/{SOURCE}".encode())
        answers.connect(f"ipc://{place}/livetwin/{SOURCE}/twin")
        own = {"NUMBA_CACHE_DIR": str(cache)} if cache else {}
        begun = time.perf_counter()
        with running("twin", predict, XDG_RUNTIME_DIR=str(place), **own) as twin:
            await_following(answers, twin)
            seconds = time.perf_counter() - begun
            for _ in range(followed):
                await_following(answers, twin)
            certain(of_process(twin.process.pid, place / "run"), Subject("gru", backend, 1))
            now = Path(f"/proc/{twin.process.pid}")
            torch = "/torch/" in (now / "maps").read_text()
            rss = resident_mb((now / "status").read_text())
            return {"s": seconds, "rss_mb": rss, "torch_loaded": float(torch)}


def await_following(answers: zmq.Socket[bytes], twin: Running) -> None:
    """Wait for a prediction by a model."""
    deadline = time.perf_counter() + FIRST_ANSWER_TIMEOUT_SEC
    while True:
        while not answers.poll(100):
            if twin.process.poll() is not None:
                raise TwinError(f"the twin ended with status {twin.process.returncode}: {twin.said()}")
            if time.perf_counter() > deadline:
                waited = f"{FIRST_ANSWER_TIMEOUT_SEC:g} s"
                raise TwinError(f"the twin gave no answer within {waited}; is the machine overloaded?")
        topic, payload = answers.recv_multipart()
        message = unpack(topic, payload)
        if isinstance(message, Prediction) and message.status == "following":
            return


def importing(module: str) -> dict[str, float]:
    """Start a Python that imports one module and ends: how long that took, and the memory it held."""
    code = f"import {module}; print(open('/proc/self/status').read())"
    with tempfile.TemporaryFile() as words:
        begun = time.perf_counter()
        status = start(["-c", code], words).wait()
        ms = (time.perf_counter() - begun) * 1e3
        words.seek(0)
        said = words.read().decode()
    if status:
        raise TwinError(f"import {module} failed: {said.strip()}")
    return {"ms": ms, "rss_mb": resident_mb(said)}


def measure(console: Console, *, quick: bool) -> Result:
    """Starts in interleaved rounds, then imports in rounds of their own."""
    rounds, followed = (1, 100) if quick else (ROUNDS, FOLLOWED)
    with tempfile.TemporaryDirectory(prefix="lt") as folder:
        place = Path(folder)

        def cold() -> dict[str, float]:
            with tempfile.TemporaryDirectory(dir=place, prefix="cold") as empty:
                return first_prediction("compiled", place, Path(empty), followed)

        starts: dict[str, Callable[[], dict[str, float]]] = {
            COLD: cold,
            WARM: partial(first_prediction, "compiled", place, None, followed),
            EAGER: partial(first_prediction, "eager", place, None, followed),
        }
        give_model(place / "run")
        plant = ["-m", "twin", "simulate", "--source", SOURCE, "--rate", f"{1 / DT:g}"]
        with running("plant", plant, XDG_RUNTIME_DIR=folder):
            console.print("a start of each backend first, which fills the cache and is not counted")
            for name in (WARM, EAGER):
                starts[name]()
            found = interleave(starts, rounds, console, "startup")
    imports = interleave(
        {module: partial(importing, module) for module in IMPORTS}, rounds, console, "imports"
    )
    middle = {name: median_of(each) for name, each in found.items()}
    subjects = {
        name: Subject("gru", backend, 1)  # of which each start was certain
        for name, backend in ((COLD, "compiled"), (WARM, "compiled"), (EAGER, "eager"))
    }
    details = {
        "followed": followed,
        "rounds": found,
        "median": middle,
        "import_rounds": imports,
        "imports": {module: median_of(each) for module, each in imports.items()},
    }
    summary = {
        "first_prediction_warm_s": middle[WARM]["s"],
        "first_prediction_cold_s": middle[COLD]["s"],
        "first_prediction_eager_s": middle[EAGER]["s"],
        "twin_rss_mb": middle[WARM]["rss_mb"],
        "twin_eager_rss_mb": middle[EAGER]["rss_mb"],
    }
    return Result(summary, subjects, details)


def table(result: dict[str, Any]) -> Group:
    """Medians over the rounds: starts of a twin, and imports."""
    starts = Table(title="a twin process, from exec to its first prediction")
    for heading in ("backend", "first prediction, s", "resident, MB", "torch in it"):
        starts.add_column(heading, justify="left" if heading == "backend" else "right")
    for name, figures in result["median"].items():
        torch = "yes" if figures["torch_loaded"] else "no"
        starts.add_row(name, f"{figures['s']:.2f}", f"{figures['rss_mb']:.0f}", torch)
    imports = Table(title=f"python -c 'import ...', Python's own start ({BARE}) included")
    for heading in ("module", "ms", "resident, MB"):
        imports.add_column(heading, justify="left" if heading == "module" else "right")
    for module, figures in result["imports"].items():
        imports.add_row(module, f"{figures['ms']:,.0f}", f"{figures['rss_mb']:.0f}")
    return Group(starts, imports)


def plot(result: dict[str, Any], folder: Path) -> list[Path]:
    """Starts and imports as bars."""
    starts = {name: figures["s"] for name, figures in result["median"].items()}
    imports = {module: figures["ms"] for module, figures in result["imports"].items()}
    return [
        bars(
            starts, "a twin process, from exec to its first prediction", "s, median", folder / "startup.svg"
        ),
        bars(imports, "python -c 'import ...'", "ms, median", folder / "imports.svg"),
    ]
