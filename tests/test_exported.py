"""The compiled step of a user's torch module: it answers as torch does, or is not used."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests import own_models
from tests.models import SPEC, as_network, beginning, checkpoint_of, shaken
from twin.backends import exported
from twin.backends.eager import Eager
from twin.checkpoint import Checkpoint
from twin.kernels import disk
from twin.models import own
from twin.service.prepare import Outcome, exports, prepare
from twin.settings import load

pytestmark = [
    pytest.mark.slow,
    # Inductor is not asked here: it imports Triton, before tests/test_fused.py has asked for its interpreter
    pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="no C++ compiler"),
]
FILE = Path(own_models.__file__)
LEAKY = f"{FILE}:Leaky"
Z = np.random.default_rng(0).normal([1.0, -2.0, 90.0], [3.0, 1.0, 40.0], (50, 3)).astype(np.float32)


def prepared(model: str) -> tuple[Outcome, str]:
    """What came of preparing a class, and what was said."""
    said = io.StringIO()
    works = exports(load(None, trainer={"model": model}), SPEC)
    return prepare(works, Console(file=said)), said.getvalue()


def checkpoint(model: str = LEAKY, seed: int = 4) -> Checkpoint:
    """Some weights."""
    return checkpoint_of(shaken(beginning(own.named(model), Z), seed=seed), number=seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of its own, with the library of one class."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        outcome, said = prepared(LEAKY)
        assert not outcome.failed and len(outcome.compiled) == 1, said
        found = disk.writable()
        assert found is not None
        yield found


@pytest.fixture
def library(folder: Path) -> Iterator[Path]:
    """The library, as it was written; afterwards it is so again."""
    (found,) = folder.glob("exported-*.so")
    content = found.read_bytes()
    yield found
    found.unlink(missing_ok=True)
    found.write_bytes(content)


def in_torch(found: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Eager:
    with monkeypatch.context() as patch:
        patch.setattr(exported, "open_step", lambda network: None)
        return Eager(found, 1)


def assert_same(one: Eager, other: Eager) -> None:
    """Step both; states as well as answers are the same, also from a state that torch has made."""
    for k, row in enumerate(Z):
        if k == 25:
            one.warm(Z[None, :7])
            other.warm(Z[None, :7])
        assert np.allclose(one.step(row[None]), other.step(row[None]), rtol=1e-5, atol=1e-5)
        assert np.allclose(one.state, other.state, rtol=1e-5, atol=1e-5)


def test_it_answers_as_torch_does_whatever_the_weights(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prepared(LEAKY)[0].compiled == []  # it is there
    before, after = checkpoint(seed=4), checkpoint(seed=5)
    first, second = Eager(before, 1), Eager(after, 1)
    assert first._exported is not None and second._exported is not None
    assert_same(second, in_torch(after, monkeypatch))
    assert_same(first, in_torch(before, monkeypatch))  # the other's weights are not in its way
    first.reset()
    second.reset()
    assert not np.allclose(first.step(Z[:1]), second.step(Z[:1]))
    assert Eager(before, 2)._exported is None


@pytest.mark.parametrize("damage", ["changed", "cut", "empty"])
def test_a_damaged_library_is_not_loaded(library: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = library.read_bytes()
    half = len(content) // 2
    changed = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
    library.unlink()  # its memory may still be mapped
    library.write_bytes({"changed": changed, "cut": content[:-1_000], "empty": b""}[damage])
    predictor = Eager(checkpoint(), 1)
    assert predictor._exported is None
    assert not library.exists()  # so the next `twin prepare` makes it again
    assert_same(predictor, in_torch(checkpoint(), monkeypatch))


def test_a_directory_that_others_may_write_to_is_not_looked_at(folder: Path, library: Path) -> None:
    folder.chmod(0o777)
    try:
        assert Eager(checkpoint(), 1)._exported is None
    finally:
        folder.chmod(0o700)
    assert Eager(checkpoint(), 1)._exported is not None


def test_a_library_that_answers_otherwise_is_not_used(library: Path, tmp_path: Path) -> None:
    """As where a class calls another file, which has changed."""
    changed = tmp_path / "changed.py"
    changed.write_text(FILE.read_text().replace("torch.tanh", "torch.sin"))
    found = checkpoint(f"{changed}:Leaky")
    network = as_network(beginning(found.family, Z))
    copy = library.with_name(exported.file_name(network.family, network.sizes))
    assert copy != library
    shutil.copy(library, copy)
    assert Eager(found, 1)._exported is None
    copy.unlink()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("keep = torch.sigmoid(self.rate) if x.sum() > 0 else 0.5", "data-dependent"),
        ("keep = torch.sigmoid(self.rate.detach().add_(0.1))", "answers otherwise"),
    ],
)
def test_what_cannot_be_exported_stays_in_torch_and_why_is_said(
    line: str, reason: str, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file.py"
    file.write_text(FILE.read_text().replace("keep = torch.sigmoid(self.rate)", line))
    outcome, said = prepared(f"{file}:Leaky")
    assert len(outcome.failed) == 1 and not outcome.compiled
    (why,) = [text for text in said.splitlines() if "not compiled" in text]
    assert reason in why and "its steps stay in torch" in why
    assert Eager(checkpoint(f"{file}:Leaky"), 1)._exported is None


def test_without_a_compiler_it_says_so(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    file = tmp_path / "file.py"
    file.write_text(FILE.read_text() + "\n# another hash\n")
    _, said = prepared(f"{file}:Leaky")
    assert "not compiled: no C++ compiler (no-such-compiler); its steps stay in torch" in said


def test_nothing_is_exported_of_numpy_or_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert exports(load(None, trainer={"model": f"{FILE}:Smoothed"}), SPEC) == []
    assert exports(load(None, trainer={"model": LEAKY}, twin={"backend": "eager-cuda"}), SPEC) == []
