"""The import rules of the architecture: downwards only, and torch only where it belongs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LAYERS: list[set[str]] = [
    {"twin.errors", "twin.messages", "twin.metrics"},
    {
        "twin.window",
        "twin.history",
        "twin.pacer",
        "twin.address",
        "twin.bus",
        "twin.requests",
        "twin.recording",
    },
    {"twin.models", "twin.manifest", "twin.checkpoint", "twin.predictor", "twin.backends", "twin.kernels"},
    {
        "twin.detection",
        "twin.frames",
        "twin.handover",
        "twin.forecast",
        "twin.twin",
        "twin.trainer",
        "twin.trial",
        "twin.asked",
        "twin.fit",
        "twin.evaluation",
        "twin.changes",
        "twin.monitor",
        "twin.config",
    },
    {"twin.service", "twin.supervisor", "twin.dashboard", "twin.realtime"},
    {"twin.cli", "twin.__main__", "twin"},
]
"""From the vocabulary up to the doors. Inside a layer, and inside a family's folder, the order is free, but
`twin.twin` and `twin.trainer` do not know each other: they meet in a checkpoint."""

TORCH = (
    "twin.models.",
    "twin.predictor",
    "twin.realtime",
    "twin.backends.eager",
    "twin.backends.fused",
    "twin.backends.graph",
    "twin.trainer",
    "twin.trial",
    "twin.asked",
    "twin.service.trainer",
    "twin.fit",
    "twin.service.fit",
)
SIMULATORS_MAY_KNOW = {
    "twin.errors",
    "twin.messages",
    "twin.bus",
    "twin.pacer",
    "twin.recording",
    "twin.kernels.cache",  # how compiled code stays on disk; it knows nothing of models
}
PURE = {
    "twin.twin",
    "twin.detection",
    "twin.frames",
    "twin.handover",
    "twin.forecast",
    "twin.trainer",
    "twin.trial",
    "twin.history",
    "twin.fit",
    "twin.evaluation",
    "twin.changes",
    "twin.monitor",
    "twin.window",
    "twin.metrics",
    "twin.messages",
}
WORLD = {"socket", "threading", "time", "zmq", "subprocess", "os", "pathlib", "queue", "signal", "asyncio"}


def modules() -> dict[str, Path]:
    found = {}
    for package in ("twin", "simulators"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path, *, at_import_only: bool = False) -> set[str]:
    """The modules that a file imports; optionally only those that importing it imports."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if at_import_only else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {
                full if (full := f"{node.module}.{alias.name}") in MODULES else node.module
                for alias in node.names
            }
    return names


def layer(module: str) -> int:
    best = max(
        (name for names in LAYERS for name in names if module == name or module.startswith(name + ".")),
        key=len,
        default="",
    )
    if best == "twin" and module != "twin":
        pytest.fail(f"{module} stands in no layer: add it to tests/test_layout.py, and to the right one")
    return next(i for i, names in enumerate(LAYERS) if best in names)


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("twin")])
def test_imports_go_downwards(module: str) -> None:
    for other in imports(MODULES[module]):
        if other.partition(".")[0] != "twin" or other == "twin":
            continue
        assert layer(other) <= layer(module), f"{module} must not know {other}"


@pytest.mark.parametrize("module", list(MODULES))
def test_torch_is_imported_only_where_models_are_trained_or_run_by_it(module: str) -> None:
    if any(name.split(".")[0] == "torch" for name in imports(MODULES[module])):
        assert module.startswith(TORCH)


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("simulators")])
def test_simulators_know_messages_and_transport_only(module: str) -> None:
    for other in imports(MODULES[module]):
        if other.split(".")[0] == "twin":
            assert other in SIMULATORS_MAY_KNOW, f"{module} must not know {other}"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("twin")])
def test_only_the_doors_import_simulators(module: str) -> None:
    if any(name.split(".")[0] == "simulators" for name in imports(MODULES[module])):
        assert module == "twin.cli"


def test_the_two_minds_do_not_know_each_other() -> None:
    assert "twin.trainer" not in imports(MODULES["twin.twin"])
    assert "twin.twin" not in imports(MODULES["twin.trainer"])


@pytest.mark.parametrize("module", sorted(PURE))
def test_the_minds_know_no_socket_clock_thread_or_file(module: str) -> None:
    assert not {name.split(".")[0] for name in imports(MODULES[module])} & WORLD


@pytest.mark.parametrize(("library", "owner"), [("zmq", "twin.bus"), ("msgspec", "twin.messages")])
def test_a_library_has_one_owner(library: str, owner: str) -> None:
    others = {"msgspec": {"twin.bus", "twin.checkpoint", "twin.manifest"}, "zmq": {"twin.requests"}}
    allowed = {owner, *others[library]}
    for module, path in MODULES.items():
        if any(name.split(".")[0] == library for name in imports(path)):
            assert module in allowed, f"{library} belongs to {owner}"


@pytest.mark.parametrize("module", list(MODULES))
def test_nothing_that_could_run_foreign_code_reads_files(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text())
    assert not {"pickle", "shelve", "marshal", "yaml", "dill"} & {
        name.split(".")[0] for name in imports(MODULES[module])
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "torch.load", "np.load", "numpy.load"}, (
                f"{module}: {called}"
            )
            assert not called.endswith(("recv_pyobj", "send_pyobj")), f"{module}: {called}"


@pytest.mark.parametrize(
    "statement", ["import twin", "import twin.service.twin", "import twin.cli", "import simulators"]
)
def test_importing_loads_no_torch(statement: str) -> None:
    code = f"{statement}; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("module", list(MODULES))
def test_files_stay_readable(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) <= 400
