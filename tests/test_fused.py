"""The fused kernel against the model in float64: on a CUDA device, or else in Triton's interpreter."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tests.models import shaken_network
from twin.families import NETWORKS
from twin.messages import Spec
from twin.models.network import Network

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
with pytest.MonkeyPatch.context() as environment:
    if DEVICE == "cpu":  # read where a kernel is declared, its library's functions included, and at a call
        environment.setenv("TRITON_INTERPRET", "1")
    pytest.importorskip("triton", reason="Triton is not installed: the graph backend has torch's operations")
    from twin.backends import fused

RECURRENT = [family for family in NETWORKS if family != "window-rnn"]
QUICK = (1, 33), (2, 6)
"""Layers and hidden units that `make quick` runs: units that fill no tile, and several layers."""
TELLING = (1, 1), (3, 16)
"""Those that `make test` adds: a single unit, and whole tiles in three layers."""
TOLERANCE = 1e-6
"""Of a step fed with the same sample and state; answers in units of a signal's largest value."""


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    if DEVICE == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")


def model_of(
    family: str,
    layers: int = 1,
    hidden_size: int = 6,
    *,
    taps: int = 3,
    inputs: int = 1,
    outputs: int = 2,
) -> Network:
    names = [f"s{k}" for k in range(inputs + outputs)]
    spec = Spec(inputs=tuple(names[:inputs]), outputs=tuple(names[inputs:]), dt=0.001)
    z = samples(1, 200, inputs + outputs)[0]
    model = shaken_network(family, z, spec, hidden_size=hidden_size, layers=layers, taps=taps)
    return model.requires_grad_(False).to(DEVICE)


def samples(rows: int, steps: int, features: int = 3) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Wandering signals of very different size, (N, T, F)."""
    walk = np.random.default_rng(rows).normal(size=(rows, steps, features)).cumsum(axis=1)
    size = np.resize([2.0, 0.3, 40.0], features)
    return np.asarray(walk * size + np.resize([0.0, 1.0, 200.0], features), np.float32)


def assert_follows(model: Network, rows: int, steps: int = 4) -> None:
    """Step by step, each from the state that the kernel itself has come to."""
    z = torch.from_numpy(samples(rows, steps, model.sizes["inputs"] + model.sizes["outputs"])).to(DEVICE)
    size = z[..., model.n_inputs :].abs().amax(dim=(0, 1)).double()
    kernel, answer = fused.Fused(model, rows), z.new_zeros(rows, model.sizes["outputs"])
    states = []
    for k in range(steps):
        states.append(kernel.state)
        kernel.follow(z[:, k : k + 1].contiguous(), answer)
        states.append(kernel.state)
    model.double()
    for k, (before, after) in enumerate(zip(states[::2], states[1::2], strict=True)):
        y, state = model(z[:, k : k + 1].double(), before.double())
        assert (after - state).abs().max() < TOLERANCE
    assert ((answer - y[:, -1]).abs() / size).max() < TOLERANCE


@pytest.mark.parametrize("rows", [1, 18])
@pytest.mark.parametrize(
    ("layers", "hidden_size"),
    [
        pytest.param(
            *case,
            marks=() if case in QUICK else pytest.mark.slow if case in TELLING else pytest.mark.exhaustive,
        )
        for case in itertools.product([1, 2, 3], [1, 6, 16, 33])
    ],
)
@pytest.mark.parametrize("family", RECURRENT)
def test_every_step_is_the_models(family: str, layers: int, hidden_size: int, rows: int) -> None:
    assert_follows(model_of(family, layers, hidden_size), rows)


@pytest.mark.parametrize("hidden_size", [64, 100, 128, 256])
@pytest.mark.parametrize("family", RECURRENT)
@pytest.mark.slow
def test_large_hidden_states_are_multiplied_in_chunks(family: str, hidden_size: int) -> None:
    assert_follows(model_of(family, 2, hidden_size), rows=2, steps=2)


@pytest.mark.parametrize(("taps", "inputs", "outputs"), [(1, 1, 1), (1, 2, 3), (8, 1, 1), (4, 11, 5)])
@pytest.mark.parametrize("family", RECURRENT)
@pytest.mark.slow
def test_signals_and_taps_of_any_number(family: str, taps: int, inputs: int, outputs: int) -> None:
    """More steps than taps, so that the oldest samples have left."""
    assert_follows(model_of(family, taps=taps, inputs=inputs, outputs=outputs), rows=3, steps=taps + 2)


@pytest.mark.parametrize("hidden_size", [6, 32])
def test_the_tiles_of_a_fleet_are_larger(hidden_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here as few as two of them, the last one not full."""
    monkeypatch.setattr(fused, "_MIN_FULL_TILES", 1)
    assert_follows(model_of("gru", hidden_size=hidden_size), rows=130, steps=2)


@pytest.mark.parametrize("family", RECURRENT)
@pytest.mark.slow
def test_several_samples_in_one_launch_are_as_many_steps(family: str) -> None:
    model, z = model_of(family, layers=2), torch.from_numpy(samples(17, 7)).to(DEVICE)
    one, other = fused.Fused(model, 17), fused.Fused(model, 17)
    stepped, at_once = z.new_zeros(17, 2), z.new_zeros(17, 2)
    for k in range(7):
        one.follow(z[:, k : k + 1].contiguous(), stepped)
    other.follow(z, at_once)
    assert torch.equal(one.state, other.state)
    assert torch.equal(stepped, at_once)


def test_a_state_put_in_comes_out_unchanged() -> None:
    model = model_of("lstm", layers=2)
    kernel = fused.Fused(model, 17)
    assert not kernel.state.any()
    state = torch.randn(17, model.state_size, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    kernel.state = state
    assert torch.equal(kernel.state, state)
    assert kernel.state.data_ptr() != state.data_ptr()


@pytest.mark.filterwarnings("ignore:overflow")  # the interpreter's: it says so, and is right
@pytest.mark.parametrize("family", RECURRENT)
def test_a_saturated_cell_stays_finite(family: str) -> None:
    """exp overflows for what lies far outside the scaling; gate and activation then are at their limits."""
    model, z = model_of(family), torch.from_numpy(samples(2, 1)).to(DEVICE)
    z[0], z[1] = z[0] + 1e6, z[1] - 1e6
    kernel, answer = fused.Fused(model, 2), z.new_zeros(2, 2)
    kernel.follow(z, answer)
    y, state = model(z, model.initial_state(2))
    memory = model.core.memory
    assert isinstance(memory, int)
    assert (kernel.state - state)[:, :memory].abs().max() < TOLERANCE
    assert ((answer - y[:, 0]) / y[:, 0]).abs().max() < TOLERANCE


@pytest.mark.parametrize("family", RECURRENT)
def test_what_is_not_a_number_shows_and_stays_in_its_row(family: str) -> None:
    model, z = model_of(family), torch.from_numpy(samples(3, 2)).to(DEVICE)
    clean, spoilt = z.new_zeros(3, 2), z.new_zeros(3, 2)
    fused.Fused(model, 3).follow(z, clean)
    z[1, 0, 0] = torch.nan
    fused.Fused(model, 3).follow(z, spoilt)
    assert spoilt[1].isnan().all()
    assert torch.equal(spoilt[[0, 2]], clean[[0, 2]])


def test_it_serves_moderate_sizes_of_the_recurrent_families() -> None:
    assert fused.serves(model_of("gru", 3, 256))
    assert not fused.serves(model_of("gru", 1, 257))
    assert not fused.serves(model_of("gru", taps=33, inputs=1, outputs=1))
    assert not fused.serves(model_of("gru", taps=1, inputs=10, outputs=7))
    assert not fused.serves(model_of("window-rnn"))
