"""The wheel as a user has it: types that a checker sees, and nothing written where it is installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import twin

ROOT = Path(__file__).parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROGRAM = """
from twin import Checkpoint, Prediction, Sample, Spec, Trainer, TrainerConfig, Twin, evaluate, fit
plant = Spec(inputs=("u",), outputs=("y",), dt=0.01)
answer = Twin(plant).step(Sample(seq=0, t=0.0, u={"u": 1.0}, y={"y": 0.0}))
status: str = answer.status if answer is not None else "refused"
"""
MISTAKES = {
    "Twin(3)": 'Argument 1 to "Twin" has incompatible type "int"; expected "Spec"',
    "status = answer": 'Incompatible types in assignment (expression has type "Prediction | None"',
    "evaluate()": 'Missing positional arguments "checkpoint", "z", "horizon" in call to "evaluate"',
    "fit([], 0.1)": 'Argument 2 to "fit" has incompatible type "float"; expected "Spec"',
}


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel is installed, and nobody may write."""
    place = tmp_path_factory.mktemp("wheel")
    at_hand = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    pip("wheel", "--no-deps", *at_hand, "--wheel-dir", str(place / "wheels"), str(ROOT))
    (wheel,) = (place / "wheels").glob("livetwin-*.whl")
    assert twin.__version__ in wheel.name
    pip("install", "--no-deps", "--no-compile", "--target", str(place / "site"), str(wheel))
    for path in [place / "site", *(place / "site").rglob("*")]:
        path.chmod(path.stat().st_mode & 0o555)
    return place / "site"


def run(*command: str, installed: Path, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """A program of a user's, for whom `installed` comes before this source tree."""
    environment = os.environ | {"PYTHONPATH": str(installed), "COLUMNS": "200", "NO_COLOR": "1"} | settings
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_types_travel_with_it(installed: Path, tmp_path: Path) -> None:
    assert (installed / "twin" / "py.typed").exists() and (installed / "simulators" / "py.typed").exists()
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "mistakes.py").write_text(PROGRAM + "\n".join(MISTAKES) + "\n")

    options = ["--strict", "--no-incremental", "--verbose", "--config-file", os.devnull]
    files = ("program.py", "mistakes.py")
    done = run("-m", "mypy", *options, *files, installed=installed, cwd=tmp_path, MYPYPATH="")
    assert f"{installed}/twin/__init__.py" in done.stderr  # and not this source tree's
    for line, words in MISTAKES.items():
        assert words in done.stdout, f"{line}: {done.stdout}"
    assert done.stdout.count("error:") == done.stdout.count("mistakes.py:") == len(MISTAKES), done.stdout


def test_it_works_where_nothing_can_be_written(installed: Path, tmp_path: Path) -> None:
    before = sorted(installed.rglob("*"))
    settings = {"NUMBA_CACHE_DIR": str(tmp_path / "code"), "PYTHONDONTWRITEBYTECODE": "1"}
    where = run("-c", "import twin; print(twin.__file__)", installed=installed, cwd=tmp_path, **settings)
    assert where.stdout.startswith(str(installed))
    shown = run("-m", "twin", "prepare", "--help", installed=installed, cwd=tmp_path, **settings)
    assert shown.returncode == 0 and "--hidden-size" in shown.stdout, shown.stderr
    compiled = run(
        *("-m", "twin", "prepare", "--model", "arx", "--backend", "eager"),
        installed=installed,
        cwd=tmp_path,
        **settings,
    )
    assert compiled.returncode == 0, compiled.stdout + compiled.stderr
    assert list((tmp_path / "code" / "livetwin").glob("*.nbc"))
    assert sorted(installed.rglob("*")) == before
