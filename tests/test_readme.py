"""The README's programs, run as they stand there against a running chain."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import targets
from twin import Sample, Subscriber, endpoint

ROOT = Path(__file__).parent.parent
NODE = Path(__file__).parent / "node"


def programs(language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )


def lines_of(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(count)]
    process.kill()
    process.wait()
    process.stdout.close()
    return lines


@pytest.fixture(scope="module")
def runtime() -> Iterator[str]:
    place = tempfile.mkdtemp(prefix="lt", dir="/tmp")
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = place
    yield place
    shutil.rmtree(place, ignore_errors=True)
    if before is None:
        del os.environ["XDG_RUNTIME_DIR"]
    else:
        os.environ["XDG_RUNTIME_DIR"] = before


@pytest.fixture(scope="module")
def chain(runtime: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A plant and a twin; the address of its predictions."""
    place = tmp_path_factory.mktemp("run")
    processes = [
        subprocess.Popen([sys.executable, "-m", "twin", *command], cwd=place, stderr=subprocess.DEVNULL)
        for command in (["predict"], ["simulate", "--rate", "200"])
    ]
    yield endpoint("motor-1", "twin")
    for process in processes:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(60) for process in processes] == [0, 0]


@pytest.mark.slow
def test_the_python_subscriber_prints_predictions(chain: str) -> None:
    program = programs("python")[0]
    process = subprocess.Popen([sys.executable, "-uc", program], stdout=subprocess.PIPE, text=True)
    for line in lines_of(process, 5):
        assert re.match(r"\d+\.\d{3} s  expect -?\d+\.\d rad/s  residual [+-]\d+\.\d\d$", line), line


@pytest.mark.skipif(shutil.which("node") is None, reason="no node on this machine")
@pytest.mark.skipif(
    not (NODE / "node_modules").exists(), reason="tests/node is not installed: make setup-dev"
)
@pytest.mark.slow
def test_the_node_subscriber_prints_predictions(chain: str) -> None:
    (program,) = programs("js")
    file = NODE / f"readme-{os.getpid()}.mjs"
    file.write_text(program)
    try:
        process = subprocess.Popen(["node", str(file), chain], stdout=subprocess.PIPE, text=True)
        for line in lines_of(process, 5):
            assert re.match(r"\d+\.?\d* -?[\d.e-]+ -?[\d.e-]+$", line), line
    finally:
        file.unlink()


@pytest.mark.slow
def test_the_motor_of_one_s_own_is_heard(runtime: str) -> None:
    program = "drive, read = (lambda: 6.0), (lambda: 90.0)\n" + programs("python")[1]
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        with Subscriber(endpoint("bench", "plant"), "sample/bench", Sample) as samples:
            got = [samples.recv(60) for _ in range(10)]
    finally:
        process.kill()
        process.wait()
    assert all(sample is not None and sample.y == {"speed": 90.0} for sample in got)


@pytest.mark.slow
def test_every_command_and_file_the_readme_names_is_there() -> None:
    text = (ROOT / "README.md").read_text()
    for name in re.findall(r"\]\(([\w/.-]+)[#)]", text):
        assert (ROOT / name).exists(), name
    named = set(re.findall(r"^\| `twin (\w+)`", text, re.MULTILINE))
    assert named == {"run", "simulate", "predict", "train", "watch", "forecast", "fit", "evaluate", "prepare"}
    for command in sorted(named):
        done = subprocess.run(
            [sys.executable, "-m", "twin", command, "--help"], capture_output=True, text=True, check=True
        )
        assert "--help" in done.stdout


@pytest.mark.parametrize("table", [targets.table, targets.steps, targets.chain])
def test_its_tables_say_what_the_committed_results_say(table: Callable[[], str]) -> None:
    assert table() in (ROOT / "docs" / "speed.md").read_text(), "write it anew: python -m benchmarks.targets"
