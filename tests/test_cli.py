"""The command line, as a user meets it: real processes, their exit status and their words."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import typer

from twin.checkpoint import Checkpoint, save
from twin.cli import app
from twin.families import sizes_of, tensor_shapes
from twin.messages import Spec

pytestmark = pytest.mark.timeout(300)  # forty processes, on a machine that may be busy

COMMANDS = ("simulate", "predict", "train", "watch", "run", "prepare", "forecast", "fit", "evaluate")
SPEC = Spec(inputs=("voltage",), outputs=("current", "speed"), dt=0.005)


class Case(NamedTuple):
    """A mistake, and what the answer must say (a regular expression)."""

    arguments: str
    words: str


RECORDED = "simulate --plant recorded --inputs u --outputs y"
CASES = [
    Case("simulate --motor nope", "no motor is called 'nope'; known are qube-servo-3"),
    Case("simulate --parameters resitance=3", "NAME one of resistance"),
    Case("simulate --parameters resistance=-1", "give a positive number in ohm"),
    Case("simulate --voltage stairs:3", "none of const, step"),
    Case("simulate --rate 0", "--rate = 0.0: input should be greater than or equal to 0.1"),
    Case("simulate --source a/b", "letters, digits"),
    Case("simulate --plant-endpoint nonsense", "use tcp://127.0.0.1:PORT or ipc:///PATH"),
    Case("simulate --plant-endpoint tcp://127.0.0.1:{port}", "{port} is in use by another program; stop"),
    Case("train --config {here}/unknown.toml", "no 'hiden'; it knows .*hidden_size"),
    Case("train --model transformer", "which is none of auto, rls, arx, gru"),
    Case(f"{RECORDED} --file {{here}}/nowhere.csv", "nowhere.csv: no such file"),
    Case(f"{RECORDED} --file {{here}}/binary.csv", "not a text file"),
    Case(f"{RECORDED} --file {{here}}/short.csv --dt 0.1", "line 4, column 'y': the cell is missing"),
    Case(f"{RECORDED} --file {{here}}/words.csv --dt 0.1", "line 3, column 'y': 'off' is no finite number"),
    Case(f"{RECORDED} --file {{here}}/good.csv", "no column t_s; give the sample time, e.g. --dt"),
    Case(f"{RECORDED},z --file {{here}}/good.csv --dt 0.1", "no column 'z'; there are u, y"),
    Case("simulate --file {here}/good.csv --inputs u --outputs y", "--file .* add --plant recorded"),
    Case(
        "run --duration 1 --model physics --hidden-size 16",
        "--hidden-size: physics has no use .* --model gru",
    ),
    Case("run --duration 1 --config {here}/unused.toml", "--layers: arx has no use for it"),
    Case("train --source live --model physics --taps 4", "--taps: physics has no use"),
    Case("prepare --model physics --taps 4", "--taps: physics has no use for it"),
    Case("run --duration 1 --free-run 2", "--free-run is for the report: add --report"),
    Case("run --duration 1 --report /nowhere/r.json", "name a file in a directory that exists"),
    Case("run --duration 1 --run-dir {here}/good.csv", "choose another --run-dir"),
    Case("watch --run-dir {here}/good.csv", "choose another --run-dir"),
    Case("forecast --input voltage", "NAME=SIGNAL is needed"),
    Case("forecast --source asleep", "no plant has begun at .*asleep.*: start one, e.g. by `twin run`"),
    Case("predict --source live --run-dir {here}/other", "is made for .* choose another --run-dir"),
    Case("train --source live --run-dir {here}/other", "is made for .* choose another --run-dir"),
    Case("forecast --source live --run-dir {here}/other", "is made for .* choose another --run-dir"),
    Case("forecast --source live --run-dir {here}/damaged", "is damaged.* Delete that folder"),
    Case("forecast --source live --run-dir {here}/own --input torque=const:1", "the plant has voltage"),
    Case("fit {here}/good.csv --inputs u --outputs z --dt 0.1", "no column 'z'; there are u, y"),
    Case("fit {here}/good.csv --inputs u --outputs y --dt 0.1", "has 3 samples.* give a longer one"),
    Case("fit {here}/still.csv --inputs u --outputs y --dt 0.1", "the output y does not move"),
    Case(
        "fit {here}/good.csv --inputs u --outputs y --budget soon", "--budget soon: give a time .* e.g. 120s"
    ),
    Case(
        "fit {here}/good.csv --inputs u --outputs y --model arma", "--model arma: it is one of auto, arx, gru"
    ),
    Case("fit {here}/still.csv --inputs u --outputs y --dt 1 --run-dir {here}/other", "another --run-dir"),
    Case("evaluate {here}/nowhere {here}/good.csv", "holds no model; name a run directory"),
    Case("evaluate {here}/other {here}/good.csv", "3 samples.*give a longer recording"),
    Case("evaluate {here}/other {here}/good.csv --inputs u,y", "name as many columns"),
    Case("evaluate {here}/own {here}/good.csv", "no column 'voltage'; there are u, y"),
    Case("simulate --source live", "in use by process \\d+; stop that one, or .* another --source"),
    Case("run --source live --duration 1", "in use by process \\d+; stop that one, or .* another --source"),
]


def checkpoint(spec: Spec) -> Checkpoint:
    sizes = sizes_of("gru", len(spec.inputs), len(spec.outputs), hidden_size=2)
    tensors = {name: np.ones(shape, np.float32) for name, shape in tensor_shapes("gru", sizes).items()}
    return Checkpoint(1, None, "gru", sizes, spec, tensors)


def materials(here: Path) -> None:
    (here / "unknown.toml").write_text("[trainer]\nhiden = 3\n")
    (here / "unused.toml").write_text('[trainer]\nmodel = "arx"\nlayers = 2\n')
    (here / "binary.csv").write_bytes(b"u,y\n\xff\xfe\0\x80\n")
    (here / "short.csv").write_text("u,y\n1,2\n3,4\n5\n")
    (here / "words.csv").write_text("u,y\n1,2\n3,off\n5,6\n")
    (here / "good.csv").write_text("u,y\n1,2\n3,4\n5,6\n")
    (here / "still.csv").write_text("u,y\n" + "".join(f"{k % 7},5\n" for k in range(100)))
    save(here / "own", checkpoint(SPEC))
    save(here / "other", checkpoint(Spec(inputs=("u",), outputs=("y",), dt=0.1)))
    path = save(here / "damaged", checkpoint(SPEC)) / "weights.safetensors"
    weights = bytearray(path.read_bytes())
    weights[-1] ^= 1
    path.write_bytes(weights)


def twin(here: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "twin", *arguments]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A short directory: the path of a Unix socket has 107 bytes."""
    found = Path(tempfile.mkdtemp(dir="/tmp"))
    yield found
    shutil.rmtree(found)


STARTS = """
import json, os, sys, traceback
import simulators, torch, twin.cli
import twin.service.fit, twin.service.run, twin.service.trainer, twin.service.twin
for line in sys.stdin:
    words, *files = json.loads(line)
    if os.fork() == 0:
        for descriptor, file in enumerate([os.devnull, *files]):
            os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), descriptor)
        sys.argv, status = ["twin", *words], 0
        try:
            twin.cli.main()
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status or 0)
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""
"""Starts `twin` again and again, each time as a process of its own, whose imports are made already: they, and
torch's end, are nearly all of the seconds that a start takes."""


@pytest.fixture(scope="module")
def answers(place: Path) -> Iterator[dict[str, subprocess.CompletedProcess[str]]]:
    """All mistakes, each made once, beside a plant that runs."""
    materials(place)
    environment = os.environ | {"XDG_RUNTIME_DIR": str(place), "COLUMNS": "200", "NO_COLOR": "1"}
    settings: dict[str, Any] = {"env": environment, "cwd": place, "stderr": subprocess.PIPE, "text": True}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    starts = subprocess.Popen([sys.executable, "-c", STARTS], process_group=0, **settings, **pipes)
    assert starts.stdin is not None and starts.stdout is not None
    live = subprocess.Popen(twin(place, "simulate", "--source", "live", "--rate", "200"), **settings)
    try:
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            held.listen()
            names = {"here": str(place), "port": held.getsockname()[1]}

            def make(number: int, case: Case) -> subprocess.CompletedProcess[str]:
                assert starts.stdin is not None and starts.stdout is not None
                said = [place / f"{number}.{stream}" for stream in ("out", "err")]
                words = case.arguments.format(**names).split()
                print(json.dumps([words, *map(str, said)]), file=starts.stdin, flush=True)
                status = int(starts.stdout.readline())
                return subprocess.CompletedProcess(
                    case.words.format(**names), status, *(file.read_text() for file in said)
                )

            while not (place / "livetwin" / "live" / "plant").exists():
                assert live.poll() is None
            yield {case.arguments: make(number, case) for number, case in enumerate(CASES)}
        assert starts.communicate(timeout=60) == ("", "") and starts.returncode == 0
        live.send_signal(signal.SIGTERM)
        assert live.communicate(timeout=60)[1] == "" and live.returncode == 0
    finally:  # where a case waits for ever, it and the plant must not outlive the tests
        live.kill()
        with suppress(ProcessLookupError):
            os.killpg(starts.pid, signal.SIGKILL)


@pytest.mark.parametrize("arguments", [case.arguments for case in CASES])
@pytest.mark.slow
def test_a_mistake_is_answered_with_advice_and_status_2(
    arguments: str, answers: dict[str, subprocess.CompletedProcess[str]]
) -> None:
    answer = answers[arguments]
    assert "Traceback" not in answer.stderr + answer.stdout
    assert answer.returncode == 2, answer.stderr
    assert re.search(str(answer.args), " ".join(answer.stderr.split())), answer.stderr


@pytest.mark.slow
def test_a_mistake_leaves_nothing_behind(
    place: Path, answers: dict[str, subprocess.CompletedProcess[str]]
) -> None:
    assert sorted(p.name for p in (place / "livetwin").iterdir()) == ["live"]
    assert sorted(p.name for p in (place / "livetwin" / "live").iterdir()) == ["plant", "plant.lock"]
    assert not (place / "runs").exists()


# -- help --------------------------------------------------------------------------------------------

UNITS = {
    "voltage": r"\bV\b|unit",
    "load": r"N·m",
    "rate": r"\bHz\b",
    "dt": r"\bs\b",
    "duration": r"\bs\b",
    "period": r"\bs\b",
    "history": r"\bs\b",
    "free_run": r"\bs\b",
    "parameters": r"SI units",
    "window": "Samples",
    "sequence_length": "Samples",
    "await_subscribers": r"\bs\b",
}
"""What the text of an option that stands for a quantity must name."""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_text_and_every_quantity_a_unit(name: str) -> None:
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    assert command.help
    for option in command.params:
        text = getattr(option, "help", None)
        assert text, f"{name} {option.name}"
        assert re.search(UNITS.get(option.name, ""), text), f"{name} --{option.name}: {text}"
        if option.name == "horizon":
            assert re.search(r"\bs\b|Samples", text)


@pytest.mark.slow
def test_help_is_printed(place: Path) -> None:
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1"}
    for arguments in (["--help"], ["run", "-h"]):
        done = subprocess.run(
            twin(place, *arguments), env=environment, capture_output=True, text=True, timeout=240, check=True
        )
        assert "Usage: twin" in done.stdout
    assert all(name in done.stdout for name in ("--report", "--scenario", "--hidden-size", "Hz"))
    assert (
        "monitor"
        not in subprocess.run(
            twin(place), env=environment, capture_output=True, text=True, timeout=240, check=False
        ).stdout
    ), "what people do not start is not offered"


INTERRUPTED = """
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests are a background job
sought = sys.argv.pop()

class CtrlC:
    def find_spec(self, name, path, target=None):
        if name == sought:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, CtrlC())
from twin.__main__ import main
sys.argv.append("forecast")
main()
"""


@pytest.mark.parametrize("imported", ["typer", "numpy", "twin.cli", "twin.service.forecast"])
def test_ctrl_c_ends_a_command_quietly_even_while_it_is_imported(imported: str) -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, imported], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
