"""The import rules of the architecture: downwards only, and torch only where it belongs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from twin.families import FAMILIES

ROOT = Path(__file__).parent.parent

LAYERS: list[set[str]] = [
    {"twin.errors", "twin.messages", "twin.metrics", "twin.defaults", "twin.plain_json"},
    {
        "twin.window",
        "twin.history",
        "twin.pacer",
        "twin.address",
        "twin.bus",
        "twin.receipts",
        "twin.requests",
        "twin.questions",
        "twin.recording",
    },
    {"twin.families"},
    {"twin.kernels"},
    {"twin.manifest", "twin.checkpoint"},
    {"twin.models"},
    {"twin.predictor", "twin.backends"},
    {
        "twin.detection",
        "twin.frames",
        "twin.bank",
        "twin.counters",
        "twin.mixture",
        "twin.horizons",
        "twin.handover",
        "twin.forecast",
        "twin.twin",
        "twin.trainer",
        "twin.trainers",
        "twin.validation",
        "twin.excitation",
        "twin.offline",
        "twin.split",
        "twin.evaluation",
        "twin.columns",
        "twin.changes",
        "twin.comparison",
        "twin.monitor",
        "twin.config",
        "twin.unused",
        "twin.settings",
    },
    {"twin.service", "twin.supervisor", "twin.dashboard", "twin.realtime"},
    {"twin.cli", "twin.__main__", "twin"},
]
"""From the vocabulary up to the entry points. Inside a layer the order is free, as long as no two files know
each other in a circle; `twin.twin` and `twin.trainer` meet in a checkpoint only."""
NAMES_FAMILIES = ("twin.families", "twin.models.", "twin.cli", "twin.config", "twin.unused")
"""Where a family may be called by its name: in `families`, its own file, and on the command line."""

TORCH = (
    "twin.models.arx",
    "twin.models.hybrid",
    "twin.models.linear",
    "twin.models.network",
    "twin.models.own_torch",
    "twin.models.recurrent",
    "twin.models.through_time",
    "twin.models.training",
    "twin.models.window_rnn",
    "twin.backends.eager",
    "twin.backends.exported",
    "twin.backends.fused",
    "twin.backends.graph",
    "twin.backends.opening",  # to ask for a CUDA device
    "twin.realtime",
    "twin.service.trainer",
    "twin.offline",
    "twin.split",
    "twin.service.fit",
)
"""Torch belongs to networks."""
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
    "twin.bank",
    "twin.mixture",
    "twin.handover",
    "twin.forecast",
    "twin.trainer",
    "twin.trainers",
    "twin.validation",
    "twin.excitation",
    "twin.history",
    "twin.offline",
    "twin.split",
    "twin.evaluation",
    "twin.columns",
    "twin.changes",
    "twin.comparison",
    "twin.monitor",
    "twin.window",
    "twin.metrics",
    "twin.messages",
    "twin.plain_json",
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


def test_no_two_files_know_each_other_in_a_circle() -> None:
    known = {name: {other for other in imports(path) if other in MODULES} for name, path in MODULES.items()}
    while leaves := {name for name, others in known.items() if not others}:
        known = {name: others - leaves for name, others in known.items() if name not in leaves}
    assert not known, f"a circle in {', '.join(sorted(known))}"


@pytest.mark.parametrize("module", list(MODULES))
def test_a_family_is_named_in_its_own_file_only(module: str) -> None:
    """Everything else asks what a family can do, so that a new one needs no line of it."""
    if module.startswith(NAMES_FAMILIES):
        return
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert node.value not in FAMILIES, f"{module}:{node.lineno} names {node.value}"


@pytest.mark.parametrize("module", list(MODULES))
def test_torch_is_imported_only_where_networks_are_trained_or_run_by_it(module: str) -> None:
    if any(name.split(".")[0] == "torch" for name in imports(MODULES[module])):
        assert module.startswith(TORCH)


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("simulators")])
def test_simulators_know_messages_and_transport_only(module: str) -> None:
    for other in imports(MODULES[module]):
        if other.split(".")[0] == "twin":
            assert other in SIMULATORS_MAY_KNOW, f"{module} must not know {other}"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("twin")])
def test_only_the_entry_points_import_simulators(module: str) -> None:
    if any(name.split(".")[0] == "simulators" for name in imports(MODULES[module])):
        assert module.startswith("twin.cli")


def test_twin_and_trainer_do_not_know_each_other() -> None:
    assert "twin.trainer" not in imports(MODULES["twin.twin"])
    assert "twin.twin" not in imports(MODULES["twin.trainer"])


@pytest.mark.parametrize("module", sorted(PURE))
def test_twin_and_trainer_know_no_socket_clock_thread_or_file(module: str) -> None:
    assert not {name.split(".")[0] for name in imports(MODULES[module])} & WORLD


@pytest.mark.parametrize(("library", "owner"), [("zmq", "twin.bus"), ("msgspec", "twin.messages")])
def test_a_library_has_one_owner(library: str, owner: str) -> None:
    others = {
        "msgspec": {"twin.bus", "twin.checkpoint", "twin.manifest", "twin.questions"},
        "zmq": {"twin.requests"},
    }
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
    "statement",
    [
        "import twin",
        "import twin.trainer, twin.validation",
        "import twin.models.opening, twin.models.physics",
        "import twin.service.twin",
        "import twin.cli",
        "import simulators",
    ],
)
def test_importing_loads_no_torch(statement: str) -> None:
    code = f"{statement}; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("module", list(MODULES))
def test_files_stay_readable(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) <= 400
