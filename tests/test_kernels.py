"""The machine code: activations against float64, every step against a float64 reference, its cache."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from numba import njit

from tests.models import as_network, beginning, checkpoint_of, open_network, shaken
from twin.backends import compiled
from twin.backends.compiled import Compiled
from twin.backends.opening import prepare
from twin.families import GENERAL, family_of, sizes_of
from twin.kernels.activations import logistic, tanh
from twin.kernels.layout import layout_of
from twin.messages import Spec
from twin.models.network import Network

PARITY = 2e-6
"""Largest error of a state, whose numbers are at most about one, and of an output in its own scale."""

Floats = npt.NDArray[np.float32]


# -- activations -------------------------------------------------------------------------------------


@njit
def apply_tanh(x: Floats, y: Floats) -> None:
    for i in range(len(x)):
        y[i] = tanh(x[i])


@njit
def apply_logistic(x: Floats, y: Floats) -> None:
    for i in range(len(x)):
        y[i] = logistic(x[i])


def inputs_of_all_sizes() -> Floats:
    """Every 997th float32 there is, of both signs, and a dense grid where the functions bend."""
    bits = np.arange(0, 0x7F800000, 997, dtype=np.uint32).view(np.float32)
    grid = np.linspace(-12, 12, 2_000_001, dtype=np.float32)
    return np.concatenate([bits, -bits, grid])


def test_tanh_is_within_a_unit_in_the_last_place_of_one() -> None:
    x = inputs_of_all_sizes()
    y = np.empty_like(x)
    apply_tanh(x, y)
    exact = np.tanh(x.astype(np.float64))
    error = np.abs(y - exact)
    assert error.max() <= 1e-7
    normal = np.abs(x) > 1e-37  # below, a float32 itself has fewer digits
    assert (error[normal] / np.abs(exact[normal])).max() <= 1.8e-7
    assert np.abs(y).max() <= 1.0


def test_logistic_is_within_a_unit_in_the_last_place_of_one() -> None:
    x = inputs_of_all_sizes()
    y = np.empty_like(x)
    apply_logistic(x, y)
    with np.errstate(over="ignore"):
        exact = 1 / (1 + np.exp(-x.astype(np.float64)))
    assert np.abs(y - exact).max() <= 1e-7
    assert y.min() >= 0.0
    assert y.max() <= 1.0


def test_activations_at_the_ends_of_float32() -> None:
    largest, smallest = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
    x = np.array([np.nan, np.inf, -np.inf, largest, -largest, 0.0, -0.0, smallest, -smallest], np.float32)
    y = np.empty_like(x)
    apply_tanh(x, y)
    assert np.isnan(y[0])
    assert y[1:5].tolist() == [1.0, -1.0, 1.0, -1.0]
    assert np.array_equal(np.signbit(y[5:]), np.signbit(x[5:]))
    assert np.abs(y[5:]).max() <= 2 * smallest
    apply_logistic(x, y)
    assert np.isnan(y[0])
    assert y[[1, 3]].tolist() == [1.0, 1.0]
    assert np.abs(y[[2, 4]]).max() < 1e-37
    assert y[5:].tolist() == [0.5] * 4


# -- parity ------------------------------------------------------------------------------------------


def model_of(family: str, hidden_size: int, layers: int, taps: int = 8, window: int = 10) -> Network:
    """A model whose every weight takes part, of signals that are far from zero."""
    wander = np.random.default_rng(5).normal(size=(500, 3)).cumsum(axis=0) * [2.0, 0.3, 40.0] + [0, 1, 200]
    by = 1 / (2 * hidden_size**0.5)
    model = as_network(
        beginning(family, wander, hidden_size=hidden_size, layers=layers, taps=taps, window=window)
    )
    shaken(model, by)
    with torch.no_grad():
        readout, noise = model.core.readout.weight, torch.Generator().manual_seed(5)
        readout.copy_(torch.randn(readout.shape, generator=noise) / readout.shape[1] ** 0.5)
    return model


def assert_parity(model: Network, steps: int, rows: int = 1) -> None:
    """Every step against float64 torch, from the state that the compiled one stepped from."""
    predictor = Compiled(checkpoint_of(model), rows)
    scale, mean = model.scale.numpy(), model.mean.numpy()
    z = (np.random.default_rng(6).normal(size=(steps, rows, 3)) * scale + mean).astype(np.float32)
    states = np.empty((steps + 1, rows, model.state_size), np.float32)
    answers = np.empty((steps, rows, 2), np.float32)
    states[0] = predictor.state
    for k in range(steps):
        answers[k] = predictor.step(z[k])
        states[k + 1] = predictor.state
    exact = open_network(checkpoint_of(model)).double()
    step = exact.stepping()
    for first in range(0, steps, 10_000):
        part = slice(first, min(first + 10_000, steps))
        with torch.no_grad():
            y, after = step(
                torch.from_numpy(z[part]).double().flatten(0, 1),
                torch.from_numpy(states[part]).double().flatten(0, 1),
            )
        found, wanted = states[1:][part].reshape(after.shape), after.numpy()
        # what is larger than one, a cell's c, may be off by as much more
        assert (np.abs(found - wanted) / np.maximum(np.abs(wanted), 1)).max() <= PARITY
        error = np.abs(answers[part].reshape(y.shape) - y.numpy()) / scale[1:]
        size = np.maximum(np.abs(y.numpy() - mean[1:]) / scale[1:], 1)
        assert (error / size).max() <= PARITY


def sweep(sizes: list[tuple[int, int]], telling: list[tuple[int, int]]) -> list[Any]:
    """(family, hidden size, layers), those that are not telling for `make exhaustive` only.

    The linear model has neither hidden units nor layers: one case is all there is of it.
    """
    cases = [(family, *size) for family in GENERAL for size in (sizes if family != "arx" else telling[:1])]
    return [
        pytest.param(*case, marks=() if case[1:] in telling else pytest.mark.exhaustive) for case in cases
    ]


@pytest.mark.parametrize(
    ("family", "hidden_size", "layers"),
    # one unit; less than a vector, in several layers; vectors and one unit more. Whole vectors follow below
    sweep(list(product((1, 7, 16, 33), (1, 2, 3))), telling=[(1, 1), (7, 2), (33, 1)]),
)
def test_every_step_is_that_of_float64(family: str, hidden_size: int, layers: int) -> None:
    assert_parity(model_of(family, hidden_size, layers), steps=1_000)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("family", "hidden_size", "layers"),
    sweep(list(product((16, 32, 64, 128), (1, 2))), telling=[(32, 1)]),  # the default model
)
def test_every_one_of_100_000_steps_is_that_of_float64(family: str, hidden_size: int, layers: int) -> None:
    assert_parity(model_of(family, hidden_size, layers), steps=100_000)


@pytest.mark.parametrize("family", GENERAL)
@pytest.mark.parametrize("rows", [2, 3, 4, 5, 9])
def test_every_step_of_a_fleet_is_that_of_float64(family: str, rows: int) -> None:
    """Whole tiles of rows, and tiles that are not full."""
    assert_parity(model_of(family, hidden_size=20, layers=2), steps=50, rows=rows)


@pytest.mark.parametrize(
    "family",  # cells differ in what all cores share as little as they do on one: one family, and windows
    [pytest.param(f, marks=() if f in ("gru", "window-rnn") else pytest.mark.exhaustive) for f in GENERAL],
)
def test_all_cores_together_step_as_one(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(family, hidden_size=16, layers=1)
    z = np.random.default_rng(1).normal(size=(20, 301, 3)).astype(np.float32)
    alone = Compiled(checkpoint_of(model), 301)
    monkeypatch.setattr(compiled, "MIN_PARALLEL_ROWS", 301)
    together = Compiled(checkpoint_of(model), 301)
    for each in z:
        assert np.array_equal(alone.step(each), together.step(each))
    assert np.array_equal(alone.state, together.state)


@pytest.mark.parametrize(
    "sizes",
    [(1, 1, 5, 1), (3, 5, 16, 2), pytest.param((64, 64, 8, 1), marks=pytest.mark.exhaustive)],
    ids=str,
)
def test_any_number_of_inputs_and_outputs(sizes: tuple[int, int, int, int]) -> None:
    inputs, outputs, hidden_size, taps = sizes
    spec = Spec(
        inputs=tuple(f"u{i}" for i in range(inputs)), outputs=tuple(f"y{i}" for i in range(outputs)), dt=0.1
    )
    z = np.random.default_rng(2).normal(size=(30, 1, inputs + outputs)).astype(np.float32)
    model = as_network(shaken(beginning("gru", z[:, 0], spec, hidden_size=hidden_size, taps=taps), by=0.1))
    predictor = Compiled(checkpoint_of(model, spec=spec), 1)
    with torch.no_grad():
        wanted, _ = model(torch.from_numpy(z).transpose(0, 1), model.initial_state(1))
    found = np.stack([predictor.step(each)[0].copy() for each in z])
    assert np.abs(found - wanted[0].numpy()).max() < 2e-5


# -- behaviour ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", GENERAL)
def test_a_sample_that_is_not_finite_shows_in_the_answer(family: str) -> None:
    predictor = Compiled(checkpoint_of(model_of(family, 16, 1)), 1)
    predictor.sample[...] = [1.0, np.nan, 2.0]
    assert np.isnan(predictor.step(predictor.sample)).all()
    predictor.reset()
    predictor.sample[...] = 1.0
    assert np.isfinite(predictor.step(predictor.sample)).all()


def test_a_step_allocates_nothing() -> None:
    import tracemalloc

    predictor = Compiled(checkpoint_of(model_of("gru", 16, 1)), 1)
    predictor.step(predictor.sample)
    tracemalloc.start()
    try:
        for _ in range(1_000):
            predictor.step(predictor.sample)
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(1_000):
            predictor.step(predictor.sample)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 200  # bytes: a loop's own number, and no array


def test_a_predictor_is_not_copied_with_its_memory_shared() -> None:
    predictor = Compiled(checkpoint_of(model_of("gru", 16, 1)), 1)
    for copy_it in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="open another one"):
            copy_it(predictor)


def test_another_array_in_place_of_its_sample_is_read_all_the_same() -> None:
    one, other = (Compiled(checkpoint_of(model_of("gru", 16, 1)), 1) for _ in range(2))
    one.sample = np.array([[1.0, 2.0, 3.0]], np.float32)
    gc.collect()
    assert np.array_equal(one.step(one.sample), other.step(np.array([[1.0, 2.0, 3.0]])))


def test_what_is_refused_leaves_the_state_as_it_was() -> None:
    predictor = Compiled(checkpoint_of(model_of("gru", 16, 1)), 1)
    predictor.warm(np.ones((1, 5, 3)))
    before = predictor.state
    with pytest.raises(ValueError, match="could not convert"):
        predictor.state = np.full(before.shape, "x", object)
    with pytest.raises(ValueError, match="could not convert"):
        predictor.free_run(np.ones((1, 3)), np.full((1, 4, 1), "x", object))
    assert np.array_equal(predictor.state, before)


SMALL = """
from twin.kernels.cache import kept
def twice(x):
    return 2 * x
print(kept(twice)(3.0))
"""


def in_a_process(place: Path, program: str) -> str:
    """What a program says that keeps its code at a place; it makes no complaint."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"NUMBA_CACHE_DIR": str(place)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("damage", [b"", b"nonsense"], ids=["emptied", "overwritten"])
@pytest.mark.slow
def test_a_damaged_cache_costs_a_compilation_and_no_more(tmp_path: Path, damage: bytes) -> None:
    assert in_a_process(tmp_path, SMALL) == "6.0\n"
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.nb*")}
    assert {path.suffix for path in files} == {".nbi", ".nbc"}
    for path, content in files.items():
        path.write_bytes(damage)
        assert in_a_process(tmp_path, SMALL) == "6.0\n"
        path.write_bytes(content)


def test_without_a_compiler_there_is_advice() -> None:
    program = "from twin.backends.opening import load_backend; load_backend('compiled')"
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert "NUMBA_DISABLE_JIT is set" in done.stderr


def test_every_family_has_its_kernel() -> None:
    for family in GENERAL:
        layout = layout_of(family, sizes_of(family, 1, 2, 8))
        assert family_of(family).cell == layout.cell


@pytest.mark.slow
def test_other_sizes_and_other_sources_are_other_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the cache's key must hold: a kernel of other sizes, or of another version, is never taken."""
    from twin.kernels import disk, follow, free_run

    def forget() -> None:
        follow.compiled.cache_clear()
        free_run.free_runner.cache_clear()

    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    forget()

    def codes() -> int:
        return len(list(tmp_path.rglob("*.nbc")))

    prepare("compiled", "rnn", sizes_of("rnn", 1, 2, 8))
    prepare("compiled", "rnn", sizes_of("rnn", 1, 2, 9))
    assert codes() == 4  # a step and a free run of each
    assert len(list(tmp_path.rglob("*.nbi"))) == 4  # each has an index of its own
    monkeypatch.setattr(disk, "SOURCES_DIGEST", 1)
    forget()
    prepare("compiled", "rnn", sizes_of("rnn", 1, 2, 8))
    assert codes() == 6
    forget()


@pytest.mark.slow
def test_without_a_place_for_the_cache_it_compiles_all_the_same(tmp_path: Path) -> None:
    """A read-only installation and a home that is none: no error, only the time of a compilation."""
    (tmp_path / "file").write_text("where a directory cannot be made")
    assert in_a_process(tmp_path / "file", SMALL) == "6.0\n"
