"""What is done on a CUDA device, the most valuable first: each a process of its own, with a limit of its
own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

STAND_IN: Final = ("-p", "benchmarks.gpu.stand_in")


@dataclass(frozen=True)
class Stage:
    """A process: Python with these arguments. It writes what came of it to the file `{out}`.

    That is a JSON object, or of tests a report in JUnit's form.
    """

    name: str
    title: str
    limit: float
    """s, after which it is ended."""
    command: tuple[str, ...]
    rehearsal: tuple[str, ...]
    """The arguments in place of `command` where the CPU plays the device."""
    parallel: bool = False
    """Whether its tests may run beside each other, where pytest-xdist is: most of their time is compiling."""


def _tests(name: str, title: str, limit: float, chosen: tuple[str, ...], rehearsed: tuple[str, ...]) -> Stage:
    pytest = (
        "-m",
        "pytest",
        "-o",
        "addopts=",
        "-q",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        "--junitxml={out}",
    )
    return Stage(name, title, limit, (*pytest, *chosen), (*pytest, *STAND_IN, *rehearsed), parallel=True)


def _work(name: str, title: str, limit: float) -> Stage:
    work = ("-m", "benchmarks.gpu.work", name, "{out}")
    return Stage(name, title, limit, work, (*work, "--rehearse"))


STAGES: Final = (
    _tests(
        "parity",
        "a GRU's steps are torch's on the CPU",
        60.0,
        ("tests/test_graph.py", "-k", "thousand and gru"),
        ("tests/test_graph.py", "-k", "thousand and (gru or arx) and (fused-graph or fused-eager or many)"),
    ),
    _work("latency", "one motor's step beside an empty graph", 60.0),
    _work("fleet", "a million motors' step beside the device's limits", 60.0),
    _work("refit", "a network's refit by cuDNN", 60.0),
    _tests(
        "kernel",
        "the fused kernel against float64",
        150.0,
        ("tests/test_fused.py",),
        (
            "tests/test_fused.py",
            "-k",
            "put_in or moderate or not_a_number or several_samples or (signals_and_taps and rnn)",
        ),
    ),
    _tests(
        "graph",
        "all families' steps, fleets, portions, threads",
        120.0,
        ("tests/test_graph.py",),
        ("tests/test_graph.py", "-k", "warming and (rnn or arx)"),
    ),
    _tests(
        "conformance",
        "what every backend promises",
        90.0,
        ("tests/test_predictor.py", "-k", "cuda or graph"),
        ("tests/test_predictor.py", "-k", "cuda and gru"),
    ),
    _work("step", "a step of every family beside torch's and onnxruntime's", 120.0),
)
