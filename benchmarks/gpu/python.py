"""A Python for the stages: one whose torch finds a device, with all packages, or in words what is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
NEEDED: Final = {
    "torch": "torch",
    "numpy": "numpy",
    "scipy": "scipy",
    "numba": "numba",
    "zmq": "pyzmq",
    "msgspec": "msgspec",
    "msgpack": "msgpack",
    "safetensors": "safetensors",
    "typer": "typer",
    "rich": "rich",
    "pydantic": "pydantic",
    "pydantic_settings": "pydantic-settings",
    "pytest": "pytest",
}
"""What is imported, and how it is called where packages are had."""
WANTED: Final = {
    "triton": ("triton", "no fused kernel: fleets run by torch's operations, and `fleet` and `kernel` fail"),
    "onnx": ("onnx", "`step` fails"),
    "onnxruntime": ("onnxruntime", "`step` fails"),
    "xdist": ("pytest-xdist", "tests run one after the other, and may not all come to their turn"),
    "pytest_timeout": ("pytest-timeout", "tests have no limits of their own"),
}
"""What single stages need, and what becomes of them without."""
PROBE_TIMEOUT_SEC: Final = 90.0
"""For torch's import and the device's start, the first time on a machine."""


@dataclass(frozen=True)
class Python:
    """An interpreter, where it looks for packages besides its own, and what it says of itself."""

    path: str
    packages: str = ""
    found: dict[str, Any] = field(default_factory=dict)
    complaint: str = ""

    @property
    def fits(self) -> bool:
        """Whether stages can run with it."""
        return "device" in self.found and not self.lacks

    @property
    def lacks(self) -> list[str]:
        """Of what no stage can do without, by the names under which packages are had."""
        return [name for module, name in NEEDED.items() if module in self.found.get("missing", NEEDED)]

    def has(self, module: str) -> bool:
        """Whether a package that only some stages need is there."""
        return module not in self.found.get("missing", [module])

    def environment(self, rehearse: bool) -> dict[str, str]:
        """Of its processes: they find the project, and a rehearsal's kernels are interpreted."""
        paths = [str(ROOT), *([self.packages] if self.packages else []), os.environ.get("PYTHONPATH", "")]
        more = {"TRITON_INTERPRET": "1"} if rehearse else {}
        kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        return kept | more | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}

    def words(self) -> str:
        """What it is, and why it does not serve."""
        version = ".".join(str(part) for part in self.found.get("version", "?"))
        if not self.found:
            return f"{self.path}: does not start: {self.complaint}"
        if self.found["version"] < [3, 11]:
            return f"{self.path}: Python {version}, and 3.11 is the oldest that serves"
        reasons = [f"lacks {', '.join(self.lacks)}"] if self.lacks else []
        if "torch" in self.found and "device" not in self.found:
            built = self.found.get("cuda")
            reasons.append(
                f"torch {self.found['torch']} "
                + (
                    f"for CUDA {built} finds no device (nvidia-smi?)"
                    if built
                    else "is built for the CPU only"
                )
            )
        if "error" in self.found and not self.lacks:
            reasons.append(self.found["error"])
        return f"{self.path}: Python {version}, " + ("; ".join(reasons) or "serves")


def look_at(path: str, rehearse: bool, packages: str = "") -> Python:
    """Ask an interpreter what it has."""
    names = ",".join([*NEEDED, *WANTED])
    try:
        done = subprocess.run(
            [path, "-m", "benchmarks.gpu.probe", names, *(["rehearse"] if rehearse else [])],
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_SEC,
            cwd=ROOT,
            env=Python(path, packages).environment(rehearse),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Python(path, packages, {}, str(error))
    said = [line[len("found:") :] for line in done.stdout.splitlines() if line.startswith("found:")]
    found = json.loads(said[-1]) if said else {}
    return Python(path, packages, found, (done.stderr.strip().splitlines() or [""])[-1])


def candidates() -> list[str]:
    """Interpreters that may serve, the likeliest first: the one that runs this, the project's, the
    system's."""
    named = [
        sys.executable,
        str(ROOT / ".venv" / "bin" / "python"),
        shutil.which("python3"),
        shutil.which("python"),
    ]
    return list(dict.fromkeys(each for each in named if each and Path(each).exists()))


def find(rehearse: bool, wheels: Path | None, scratch: Path) -> tuple[Python | None, list[str]]:
    """The first interpreter that serves, if need be with packages from a folder of wheels; and words on the
    others.

    The wheels go into `scratch`, and only there.
    """
    words: list[str] = []
    near: Python | None = None
    for path in candidates():
        python = look_at(path, rehearse)
        if python.fits:
            return python, words
        words.append(python.words())
        if near is None and "device" in python.found:
            near = python
    if near is None or wheels is None:
        return None, words
    files = sorted(str(wheel) for wheel in wheels.glob("*.whl"))
    install = [
        near.path,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--target",
        str(scratch),
    ]
    done = subprocess.run([*install, *files], capture_output=True, text=True, check=False)
    if done.returncode:
        return None, [*words, f"the wheels in {wheels} cannot be installed: {done.stderr.strip()[-500:]}"]
    python = look_at(near.path, rehearse, str(scratch))
    return (python, words) if python.fits else (None, [*words, f"with {wheels}: {python.words()}"])


def advice(words: list[str]) -> str:
    """What to do where none serves."""
    return "\n".join(
        [
            "No Python here can run the stages:",
            *(f"  {each}" for each in words),
            "A torch that is missing or built for the CPU: take one for CUDA, as pytorch.org says.",
            "Other packages, with network: python3 -m venv --system-site-packages .venv, then",
            "  .venv/bin/pip install --editable '.[dev]'",
            "Without network: on another machine, with the Python version named above,",
            "  pip download --only-binary=:all: --no-deps --python-version 3.NN --dest wheels PACKAGES",
            "  of what is lacking and of what that needs; bring the folder; make gpu ARGS='--wheels wheels'",
        ]
    )
