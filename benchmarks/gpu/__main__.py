"""`python3 -m benchmarks.gpu`: all stages in turn, each result written as soon as it is there.

A second start goes on where the first one ended: a stage that is done is left out, one that failed is tried
again. `--rehearse` runs every stage with the CPU in a device's place, in minutes, to find here what would
fail there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from benchmarks.gpu.python import ROOT, WANTED, Python, advice, find
from benchmarks.gpu.stages import STAGES, Stage

LIMIT: Final = 480.0  # s of all stages
LEAST: Final = 10.0  # s; with less left, no stage is begun
SLOWER: Final = 5.0  # times that a rehearsal may take
TAIL: Final = 6_000  # characters of what a stage said, kept where it failed
CANNOT: Final = 2


class Results:
    """The file: written anew after each stage, at once or not at all."""

    def __init__(self, file: Path, header: dict[str, Any]) -> None:
        self.file = file
        self.found: dict[str, Any] = {"stages": {}}
        if file.exists():
            try:
                self.found = json.loads(file.read_text())
            except ValueError as error:
                raise SystemExit(
                    f"{file} is not what this writes ({error}): move it away, or name another"
                ) from None
        self.found = {**header, "stages": dict(self.found.get("stages", {}))}

    def done(self, name: str) -> bool:
        """Whether a stage needs no other try."""
        return bool(self.found["stages"].get(name, {}).get("status") == "done")

    def keep(self, name: str, record: dict[str, Any]) -> None:
        """Write a stage's record with those that are there."""
        self.found["stages"][name] = record
        self.file.parent.mkdir(parents=True, exist_ok=True)
        beside = self.file.with_suffix(".new")
        beside.write_text(json.dumps(self.found, indent=2) + "\n")
        beside.replace(self.file)


def run_stage(stage: Stage, python: Python, limit: float, rehearse: bool) -> dict[str, Any]:
    """One stage in a process of its own, ended with all that it began when its time is over."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as words:
        out = Path(folder) / "out"
        arguments = [
            each.replace("{out}", str(out)) for each in (stage.rehearsal if rehearse else stage.command)
        ]
        if stage.parallel and not rehearse and python.has("xdist"):
            arguments += ["-n", str(min(8, os.cpu_count() or 1))]
        begun = time.monotonic()
        process = subprocess.Popen(
            [python.path, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=python.environment(rehearse),
            start_new_session=True,
        )
        late = False
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            _end(process)
        record: dict[str, Any] = {
            "status": "failed",
            "title": stage.title,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(time.monotonic() - begun, 1),
            "code": code(),
            "command": ["python", *arguments],
        }
        said = os.pread(words.fileno(), 1 << 24, 0).decode(errors="replace")
        try:
            result = outcome(out.read_text()) if out.exists() else None
        except (ValueError, ElementTree.ParseError):
            result = None  # it was ended while it wrote
        if result is not None:
            record["result"] = result
        if late:
            error = f"ended after {limit:.0f} s"
        elif process.returncode:
            error = f"ended with status {process.returncode}"
        elif result is None:
            error = "left no result"
        elif result.get("passed", 1) == 0:
            error = "no test ran"
        else:
            return record | {"status": "done"}
        return record | {"error": error, "said": said[-TAIL:]}


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process and whatever it has started; it leads a session of its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()


def outcome(text: str) -> dict[str, Any]:
    """What a stage wrote: a JSON object as it is, of JUnit's report the counts and the names of what
    failed."""
    if not text.lstrip().startswith("<"):
        found: dict[str, Any] = json.loads(text)
        return found
    cases = list(ElementTree.fromstring(text).iter("testcase"))
    failed = [each.get("name", "") for each in cases if {"failure", "error"} & {child.tag for child in each}]
    skipped = sum(each.find("skipped") is not None for each in cases)
    return {"passed": len(cases) - len(failed) - skipped, "skipped": skipped, "failed": failed}


def code() -> str:
    """Short for the code that was measured: of a machine without git, too."""
    digest = hashlib.sha256()
    for package in ("twin", "simulators", "benchmarks", "tests"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def drive(
    stages: Sequence[Stage], results: Results, python: Python, *, limit: float = LIMIT, rehearse: bool = False
) -> list[str]:
    """All stages that are not done, in turn, within so many seconds; the names of those that are not done
    then."""
    deadline = time.monotonic() + limit
    for stage in stages:
        if results.done(stage.name):
            say(f"{stage.name}: done before")
            continue
        left = deadline - time.monotonic()
        if left < min(LEAST, limit / 2):
            say(f"{stage.name}: not begun, {max(left, 0.0):.0f} s are left")
            continue
        own = min(stage.limit * (SLOWER if rehearse else 1.0), left)
        say(f"{stage.name}: {stage.title}, {own:.0f} s at most")
        record = run_stage(stage, python, own, rehearse)
        results.keep(stage.name, record)
        say(f"{stage.name}: {record['status']} after {record['seconds']:.0f} s  {in_words(record)}")
    return [stage.name for stage in stages if not results.done(stage.name)]


def in_words(record: dict[str, Any]) -> str:
    """What a stage found, in a line; of a failure also how it ended."""
    result = record.get("result", {})
    figures = result.get(
        "summary", {name: result[name] for name in ("passed", "skipped", "failed") if name in result}
    )
    words = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in figures.items()
    ]
    if record["status"] == "failed":
        last = [line for line in record.get("said", "").splitlines() if line.strip()][-1:]
        words += [record["error"], *last]
    return ", ".join(words)


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


def file_of(found: dict[str, Any], folder: Path) -> Path:
    """A machine's results: its CPU's label and its device's name."""
    device = "-".join(re.findall(r"[a-z0-9]+", found["device"].lower().replace("nvidia", "")))
    return folder / f"{found.get('label', 'machine')}-{device}.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Look for a Python, run the stages; 0 where all are done."""
    parser = argparse.ArgumentParser(prog="make gpu", description=__doc__)
    parser.add_argument(
        "--rehearse", action="store_true", help="let the CPU play the device; slow, and no figures"
    )
    parser.add_argument("--results", type=Path, help="folder of the results' file [benchmarks/results]")
    parser.add_argument(
        "--only", nargs="+", metavar="STAGE", help=f"of {', '.join(each.name for each in STAGES)}"
    )
    parser.add_argument("--again", action="store_true", help="also what is done")
    parser.add_argument("--limit", type=float, help=f"s for all stages [{LIMIT:g}]")
    parser.add_argument("--wheels", type=Path, help="folder of wheels for a machine without network")
    given = parser.parse_args(arguments)
    if unknown := set(given.only or ()) - {stage.name for stage in STAGES}:
        parser.error(f"no stage is called {', '.join(sorted(unknown))}")
    if given.wheels is not None and not given.wheels.is_dir():
        parser.error(f"--wheels {given.wheels}: no such folder")
    with tempfile.TemporaryDirectory() as scratch:
        python, words = find(given.rehearse, given.wheels, Path(scratch))
        if python is None:
            print(advice(words), file=sys.stderr)
            return CANNOT
        found = python.found
        say(f"{python.words()}; torch {found['torch']}, CUDA {found['cuda']}, {found['device']}")
        for module, (name, without) in WANTED.items():
            if module in python.found["missing"]:
                say(f"without {name}: {without}")
        folder = given.results or (
            Path(tempfile.mkdtemp()) if given.rehearse else ROOT / "benchmarks" / "results"
        )
        results = Results(
            file_of(python.found, folder), {"name": "gpu", "rehearsed": given.rehearse, **python.found}
        )
        stages = [stage for stage in STAGES if given.only is None or stage.name in given.only]
        if given.again:
            for stage in stages:
                results.found["stages"].pop(stage.name, None)
        try:
            left = drive(
                stages,
                results,
                python,
                limit=given.limit or LIMIT * (SLOWER if given.rehearse else 1.0),
                rehearse=given.rehearse,
            )
        except KeyboardInterrupt:
            say(f"stopped; what is done is in {results.file}")
            return 130
        say(
            f"{results.file}: "
            + (f"not done: {', '.join(left)}; start again to go on" if left else "all done")
        )
        return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
