"""The CUDA backends, beyond what every backend promises; and what is said where there is no device."""

from __future__ import annotations

import threading
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.models import new_network
from twin.backends.eager import Eager
from twin.backends.graph import Graph
from twin.backends.opening import open_predictor
from twin.checkpoint import Checkpoint
from twin.errors import BackendError
from twin.families import GENERAL, NETWORKS
from twin.messages import Spec
from twin.models.scaling import Scaling

SPEC = Spec(inputs=("voltage",), outputs=("current", "speed"), dt=0.001)
TOLERANCE = 2e-6
"""Of a signal's largest value, and of a state."""

needs_device = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def samples(rows: int, steps: int) -> npt.NDArray[np.float32]:
    """Signals of very different size that come back from where they go, (N, T, F)."""
    rng, t = np.random.default_rng(rows), np.arange(steps)[:, None]
    rates, phases = rng.uniform(0.01, 0.3, (rows, 1, 3)), rng.uniform(0, 6.28, (rows, 1, 3))
    return np.asarray(np.sin(rates * t + phases) * [2.0, 0.3, 40.0] + [0.0, 1.0, 200.0], np.float32)


def checkpoint_of(family: str, layers: int = 1, hidden_size: int = 32, taps: int = 3) -> Checkpoint:
    """A model whose every weight takes part: a new one has a readout of zeros, which would hide faults."""
    scaling = Scaling.of(samples(8, 500).reshape(-1, 3), n_outputs=2)
    model = new_network(
        family, SPEC, scaling, hidden_size=hidden_size, layers=layers, taps=taps, window=20, seed=3
    )
    noise = torch.Generator().manual_seed(4)
    with torch.no_grad():
        model.core.readout.weight.add_(0.1 * torch.randn(model.core.readout.weight.shape, generator=noise))
    return Checkpoint(7, None, family, model.sizes, SPEC, model.tensors())


def assert_same(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> None:
    assert (np.abs(one - other) / np.array([1.3, 240.0])).max() < TOLERANCE


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("backend", ["graph", "eager-cuda"])
def test_without_a_device_the_error_names_what_there_is(backend: str) -> None:
    with pytest.raises(BackendError, match=f"'{backend}' needs a CUDA .*available here: compiled, eager$"):
        open_predictor(checkpoint_of("gru"), backend)


@needs_device
@pytest.mark.parametrize("backend", ["graph", "eager-cuda"])
@pytest.mark.parametrize(
    ("layers", "hidden_size", "taps"),
    [(1, 32, 1), (2, 33, 3), (1, 128, 3), (1, 300, 3), (1, 16, 40)],
    ids=["fused", "fused, padded", "fused, in chunks", "too many units", "too many taps"],
)
@pytest.mark.parametrize("family", GENERAL)
def test_a_thousand_steps_are_those_of_torch_on_the_cpu(
    family: str, layers: int, hidden_size: int, taps: int, backend: str
) -> None:
    checkpoint, z = checkpoint_of(family, layers, hidden_size, taps), samples(3, 1_000)
    here, there = Eager(checkpoint, 3), open_predictor(checkpoint, backend, 3)
    for k in range(z.shape[1]):
        assert_same(there.step(z[:, k]), here.step(z[:, k]))
    assert np.abs(there.state - here.state).max(initial=0.0) < 2 * TOLERANCE


@needs_device
@pytest.mark.parametrize("family", GENERAL)
def test_warming_by_captured_portions_is_stepping(family: str) -> None:
    """Portions of sixteen samples, and a remainder of five."""
    checkpoint, z = checkpoint_of(family, 2), samples(3, 37)
    one, other = Graph(checkpoint, 3), Graph(checkpoint, 3)
    one.warm(z)
    for k in range(37):
        other.step(z[:, k])
    assert np.abs(one.state - other.state).max() < TOLERANCE


@needs_device
@pytest.mark.parametrize("rows", [1_365, 1_366, 20_000, 300_000])
def test_a_fleet_is_as_many_single_twins(rows: int) -> None:
    """Of sizes at which samples begin to be copied, tiles to be large, and portions to be single samples."""
    checkpoint, z = checkpoint_of("gru"), samples(rows, 4)
    fleet = Graph(checkpoint, rows)
    fleet.warm(z[:, :3])
    answer = fleet.step(z[:, 3])
    for row in (0, 1, rows // 2, rows - 1):
        single = Eager(checkpoint, 1)
        single.warm(z[row : row + 1, :3])
        assert_same(answer[row : row + 1], single.step(z[row : row + 1, 3]))
        assert np.abs(fleet.state[row] - single.state[0]).max() < TOLERANCE


@needs_device
@pytest.mark.skipif(not find_spec("triton"), reason="Triton is not installed")
@pytest.mark.parametrize("family", [family for family in NETWORKS if family != "window-rnn"])
def test_the_kernel_and_torchs_operations_are_interchangeable(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, z = checkpoint_of(family, 2), samples(5, 60)
    kernel = Graph(checkpoint, 5)
    monkeypatch.setattr("twin.backends.graph.find_spec", lambda name: None)
    operations = Graph(checkpoint, 5)
    for k in range(60):
        assert_same(kernel.step(z[:, k]), operations.step(z[:, k]))
    operations.state = kernel.state
    assert_same(kernel.step(z[:, 0]), operations.step(z[:, 0]))


@needs_device
def test_a_model_is_opened_in_a_thread_while_another_steps() -> None:
    """As a twin does with a newer checkpoint: a capture must not end the loop, nor be ended by it."""
    checkpoint, z = checkpoint_of("gru"), samples(1, 500)
    alone, active = Graph(checkpoint, 1), Graph(checkpoint, 1)
    opened: list[Graph] = []
    thread = threading.Thread(target=lambda: opened.append(Graph(checkpoint_of("lstm"), 1)))
    thread.start()
    answers = [active.step(z[:, k]).copy() for k in range(500)]
    thread.join()
    assert np.array_equal(answers, [alone.step(z[:, k]).copy() for k in range(500)])
    assert np.isfinite(opened[0].step(z[:, 0])).all()
