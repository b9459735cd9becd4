"""The whole chain as real processes: what `twin run` promises, and what it promises when one of them dies."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from twin.bus import Subscriber
from twin.checkpoint import load, numbers, path_of
from twin.messages import Event, Message, Prediction

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TINY = """
[twin]
window = 40
[trainer]
period = 1.0
horizon = 40
history = 5.0
"""
MAX_END_SEC = 10.0  # where two are promised, on a machine whose cores do other tests meanwhile
TINY_NETWORK = "--hidden-size 8 --steps 12 --batch 16"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass
class Place:
    """A short directory (the path of a Unix socket has 107 bytes) and the processes begun in it."""

    root: Path
    begun: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"XDG_RUNTIME_DIR": str(self.root), "COLUMNS": "200", "NO_COLOR": "1"}

    def start(self, words: str) -> subprocess.Popen[str]:
        """`twin` with these words and the tiny settings."""
        command, _, rest = words.partition(" ")
        settings = [] if command == "forecast" else ["--config", "tiny.toml"]
        process = subprocess.Popen(
            [sys.executable, "-m", "twin", command, *settings, *rest.split()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.root,
            env=self.environment,
        )
        self.begun.append(process)
        return process

    def finish(self, process: subprocess.Popen[str], timeout: float = 180) -> str:
        """What it said, once it has ended."""
        return process.communicate(timeout=timeout)[0]

    def children(self, process: subprocess.Popen[str]) -> dict[str, int]:
        """The processes that a `twin run` keeps, by their command."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                if parent == str(process.pid):
                    found[(entry / "cmdline").read_text().split("\0")[3]] = int(entry.name)
            except (OSError, IndexError):
                continue
        return found

    def endpoint(self, who: str, source: str = "motor-1") -> str:
        return f"ipc://{self.root}/livetwin/{source}/{who}"

    def listen(self, whom: list[str], *topics: str, source: str = "motor-1") -> Subscriber[Message]:
        return Subscriber([self.endpoint(who, source) for who in whom], [f"{t}/{source}" for t in topics])

    def left(self) -> list[str]:
        """The files and sockets at run time."""
        return [str(path) for path in (self.root / "livetwin").rglob("*")]


def begin() -> Place:
    place = Place(Path(tempfile.mkdtemp(dir="/tmp")))
    (place.root / "tiny.toml").write_text(TINY)
    return place


def clear(place: Place) -> None:
    for process in place.begun:
        if process.poll() is None:
            process.terminate()
            try:
                process.communicate(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
    shutil.rmtree(place.root)


@pytest.fixture(scope="module", autouse=True)
def prepared() -> None:
    """What these runs need is compiled, so that none begins later than the others."""
    subprocess.run([sys.executable, "-m", "twin", "prepare"], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def place() -> Iterator[Place]:
    found = begin()
    yield found
    clear(found)


def await_(stream: Subscriber[Message], found: Callable[[Message], object], patience: float = 120) -> Message:
    """The first message that is found good."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        message = stream.recv(0.2)
        if message is not None and found(message):
            return message
    raise AssertionError("it did not come")


def following(message: Message) -> bool:
    """Whether a model of the trainer's leads."""
    return isinstance(message, Prediction) and message.status == "following" and message.model > 0


# -- a run from beginning to end, with guests --------------------------------------------------------


@dataclass
class Run:
    """A `twin run` of eight seconds, and what others were told while it ran."""

    place: Place
    status: int
    said: str
    report: dict[str, Any]
    second: str
    second_status: int
    holder: int
    forecast: dict[str, Any]
    table: str
    several: dict[str, Any]
    children: list[int]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    place = begin()
    try:
        process = place.start("run --duration 8 --report r.json --run-dir rd")
        with place.listen(["twin"], "prediction") as stream:
            await_(stream, following)
        children = place.children(process)
        guests = [
            place.start("run --duration 1"),
            place.start("forecast --voltage step:5 --horizon 0.2 --json"),
            place.start("forecast --horizon 0.05"),
            place.start("forecast --voltage step:5 --voltage const:0 --horizon 0.05 --json"),
        ]
        second, forecast, table, several = (place.finish(guest) for guest in guests)
        said = place.finish(process)
        report = json.loads((place.root / "r.json").read_text())
        yield Run(
            place,
            process.returncode,
            said,
            report,
            second,
            guests[0].returncode,
            children["monitor"],
            json.loads(forecast),
            table,
            json.loads(several),
            list(children.values()),
        )
    finally:
        clear(place)


def test_every_sample_is_answered_and_none_is_lost(run: Run) -> None:
    assert run.status == 0, run.said
    report = run.report
    assert report["samples"] == report["predictions"] == report["published"] == 8_000
    assert report["lost"] == report["gaps"] == report["rejected"] == report["invalid"] == 0
    assert report["swaps"] >= 1 and report["model"] >= 1


def test_the_report_says_how_good_and_how_fast(run: Run) -> None:
    report = run.report
    latency = report["latency_us"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["p999"] <= latency["max"]
    assert isinstance(report["overruns"], int)
    # a model comes with the first period of samples, not with the compiler
    assert 1.0 <= report["first_model_s"] < 8.0
    assert report["worst_answer_first_minute_ms"] == pytest.approx(latency["max"] / 1e3, abs=1e-3)
    for name in ("current", "speed"):
        figures = report["one_step"][name]
        assert set(figures) >= {"rmse", "persistence_rmse", "skill", "floor", "ratio", "coverage", "width"}
        assert figures["ratio"] == pytest.approx(figures["rmse"] / figures["floor"])
        # nobody is much better than who knows the motor: 0.93 is possible, where the load jumps
        assert 0.85 < figures["ratio"] < 20
        assert report["one_step"][name]["skill"] > 0
    assert report["free_run"]["horizon_s"] == 1.0
    assert set(report["free_run"]["fit_percent"]) == {"current", "speed"}
    assert "samples 8,000" in run.said and "skill" in run.said


def test_it_leaves_checkpoints_and_logs_and_nothing_else(run: Run) -> None:
    assert run.place.left() == []
    assert len(run.children) == 4 and not any(map(alive, run.children))
    directory = run.place.root / "rd"
    assert run.report["model"] in numbers(directory)
    assert not [path for path in directory.iterdir() if path.name.startswith(".")]
    for log in (directory / "logs").iterdir():
        assert "Traceback" not in log.read_text(), log


def test_a_second_start_of_the_same_source_is_refused_and_disturbs_nobody(run: Run) -> None:
    assert run.second_status == 2 and "Traceback" not in run.second
    named = re.search(r"in use by process (\d+); stop that one, or start this one with another", run.second)
    assert named is not None and int(named[1]) in run.children


def test_a_forecast_beside_a_run_uses_its_newest_model(run: Run) -> None:
    forecast = run.forecast
    assert forecast["model"] >= 1, "found without being told the directory"
    assert len(forecast["t"]) == len(forecast["y"]["speed"]) == len(forecast["u"]["voltage"]) == 200
    assert set(forecast["u"]["voltage"]) == {5.0}
    assert all(isinstance(value, float) for value in forecast["y"]["current"])
    steps = [b - a for a, b in zip(forecast["t"], forecast["t"][1:], strict=False)]
    assert steps == pytest.approx([0.001] * 199)


def test_forecasts_of_several_scenarios_come_from_the_twin_that_runs(run: Run) -> None:
    first, second = run.several["scenarios"]
    assert set(first["u"]["voltage"]) == {5.0} and set(second["u"]["voltage"]) == {0.0}
    assert first["y"]["speed"][-1] > second["y"]["speed"][-1]
    assert run.report["forecasts"] >= 3


def test_nine_of_ten_samples_lie_within_the_intervals_of_a_run(run: Run) -> None:
    for figures in run.report["one_step"].values():
        assert 0.85 < figures["coverage"] < 0.95 and figures["width"] > 0


def test_a_forecast_for_people_is_a_table_with_units(run: Run) -> None:
    assert "forecast by model" in run.table
    assert all(heading in run.table for heading in ("in [s]", "voltage [V]", "current [A]", "speed [rad/s]"))


# -- deaths ------------------------------------------------------------------------------------------


def test_a_killed_trainer_goes_unnoticed_and_a_killed_twin_goes_on_from_the_newest_model(
    place: Place,
) -> None:
    process = place.start("run --run-dir rd --rate 500")
    with place.listen(["twin"], "prediction", "event") as stream:
        await_(stream, following)
        children = place.children(process)
        os.kill(children["train"], signal.SIGKILL)
        seqs: list[int] = []
        while len(seqs) < 1_000:
            message = await_(stream, lambda m: isinstance(m, Prediction))
            seqs.append(message.seq)
        assert seqs == list(range(seqs[0], seqs[0] + 1_000)), "predictions must not notice"
        assert place.children(process)["predict"] == children["predict"]

        families = {load(path_of(place.root / "rd", n)).family: n for n in numbers(place.root / "rd")}
        before = message.epoch  # asked after the kill, it may already be the new one's
        os.kill(children["predict"], signal.SIGKILL)
        back = await_(stream, lambda m: m.epoch > before and isinstance(m, Prediction))
        assert isinstance(back, Prediction) and isinstance(back.weights, dict)
        assert following(back), "from its first answer on"
        assert set(families) <= set(back.weights), "all of them answer"
        assert back.model >= min(families.values()), "the newest of its family"
        after = place.children(process)
        assert after["predict"] != children["predict"] and after["simulate"] == children["simulate"]
        assert after["train"] != children["train"]

    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    said = place.finish(process, timeout=60)
    assert time.monotonic() - begun < MAX_END_SEC, "two seconds are promised"
    assert process.returncode == 0 and "Traceback" not in said
    assert not any(alive(pid) for pid in [*children.values(), *after.values()])
    assert place.left() == []


def test_ctrl_c_before_the_first_sample_ends_all_at_once_even_with_a_report(place: Place) -> None:
    process = place.start("run --report r.json --run-dir rd")
    deadline = time.monotonic() + 60
    while len(place.children(process)) < 4:
        assert time.monotonic() < deadline
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    said = place.finish(process, timeout=60)
    assert time.monotonic() - begun < MAX_END_SEC, "two seconds are promised"
    assert process.returncode == 2 and "no report was written" in said and "Traceback" not in said
    assert place.left() == []


# -- processes that someone starts one by one --------------------------------------------------------


def test_processes_find_each_other_in_every_order(place: Place) -> None:
    """Each is first, second and last once, at three sources side by side; a watcher comes to one of them."""
    names = ("predict", "train", "simulate")
    orders = {f"s{turn}": names[turn:] + names[:turn] for turn in range(3)}
    for turn in range(3):
        for source, order in orders.items():
            models = "auto" if source == "s1" else "physics"  # a trainer of one that needs no torch is cheap
            model = f"--run-dir {source} --model {models}"
            more = "--rate 200" if order[turn] == "simulate" else model
            place.start(f"{order[turn]} --source {source} {more}")
        for source, order in orders.items():  # one is there before the next one is started
            who = {"predict": "twin", "train": "trainer", "simulate": "plant"}[order[turn]]
            deadline = time.monotonic() + 120
            while not (place.root / "livetwin" / source / who).exists():
                assert time.monotonic() < deadline
                time.sleep(0.02)
    watcher = place.start("watch --source s1 --run-dir s1 --report w.json")
    for source in orders:
        with place.listen(["twin", "trainer"], "prediction", "event", source=source) as stream:
            await_(stream, following, patience=120)
    deadline = time.monotonic() + 60
    with Subscriber[Event](place.endpoint("monitor", "s1"), "event/s1", Event) as events:
        while (event := events.recv(0.5)) is None or event.figures.get("samples", 0) < 100:
            assert time.monotonic() < deadline
    watcher.send_signal(signal.SIGINT)
    assert "Traceback" not in place.finish(watcher)
    assert watcher.returncode == 0
    report = json.loads((place.root / "w.json").read_text())
    assert report["samples"] >= 100 and report["predictions"] > 0
    for process in place.begun[:-1]:
        assert process.poll() is None, "a watcher takes nobody with it"
        process.terminate()
    for process in place.begun[:-1]:
        assert "Traceback" not in place.finish(process, timeout=60) and process.returncode == 0
    assert place.left() == []


# -- a recording -------------------------------------------------------------------------------------


def test_a_recording_is_run_through_unpaced_and_every_sample_answered_once(place: Place) -> None:
    rows, y = ["# written by a test", "t_s,u_V,y_deg"], 0.0
    for k in range(3_000):
        u = 1.0 if k // 37 % 3 else -1.0
        rows.append(f"{k * 0.02:.2f},{u},{y:.6f}")
        y += 0.1 * (3.0 * u - y)
    (place.root / "cart.csv").write_text("\n".join(rows) + "\n")
    recorded = "run --plant recorded --unpaced --file cart.csv --inputs u_V --outputs y_deg --model gru"
    said = place.finish(
        place.start(f"{recorded} {TINY_NETWORK} --free-run 0.4 --period 20 --report r.json --run-dir rd"),
        timeout=240,  # what it needs is compiled first
    )
    report = json.loads((place.root / "r.json").read_text())
    assert report["samples"] == report["predictions"] == report["published"] == 3_000, said
    assert report["lost"] == report["gaps"] == report["rejected"] == 0
    assert report["swaps"] >= 1 and report["one_step"]["y_deg"]["skill"] > 0
    assert report["spec"]["dt"] == 0.02 and report["config"]["bus"]["source"] == "cart"
    assert set(report["free_run"]["fit_percent"]) == {"y_deg"}
    assert place.left() == []
