"""The compiled passes through time against torch's own: answers, gradients, and what comes of a refit."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.models import new_network
from twin.families import sizes_of
from twin.messages import Spec
from twin.models.network import Network
from twin.models.scaling import Scaling

torch.set_num_threads(1)

FAMILIES = ("gru", "lstm", "rnn")
CASES = list(itertools.product(FAMILIES, (1, 2), (1, 3)))
SPEC = Spec(inputs=("voltage",), outputs=("current", "speed"), dt=0.001)
cases = pytest.mark.parametrize(("family", "layers", "taps"), CASES)


def model_of(family: str, layers: int, taps: int, hidden: int = 3) -> Network:
    """A model with weights and scaling that all take part."""
    model = Network(family, sizes_of(family, 1, 2, hidden, layers, taps))
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=noise) / math.sqrt(weight.shape[-1]))
        model.mean.copy_(torch.tensor([0.3, -0.2, 0.1]))
        model.scale.copy_(torch.tensor([2.0, 0.5, 3.0]))
        model.increment_scale.copy_(torch.tensor([0.02, 0.1]))
    return model


def data(model: Network, rows: int, steps: int) -> tuple[Tensor, Tensor]:
    """Samples (N, T, F) and a state (N, S) in float64."""
    noise = torch.Generator().manual_seed(3)
    z = torch.randn(rows, steps, 3, generator=noise, dtype=torch.float64)
    return z, torch.randn(rows, model.state_size, generator=noise, dtype=torch.float64)


def outcome(model: Network, z: Tensor, state: Tensor, half: int) -> list[Tensor]:
    """Answers over the first samples, a free run over the rest, the state between them; and all gradients."""
    model.zero_grad()
    z, state = z.clone().requires_grad_(), state.clone().requires_grad_()
    y, after = model(z[:, :half], state)
    run = model.free_run(z[:, half], z[:, half + 1 :, :1], after)
    weights = torch.linspace(0.5, 1.5, run.numel(), dtype=run.dtype).view(run.shape)
    (y.square().mean() + (run * weights).square().mean() + after.square().mean()).backward()
    gradients = [p.grad for p in (*model.parameters(), z, state)]
    return [y.detach(), run.detach(), after.detach(), *(g for g in gradients if g is not None)]


def assert_equal(model: Network, z: Tensor, state: Tensor, half: int, tolerance: float) -> None:
    """Compiled (in training) and by torch (in evaluation), relative to each tensor's norm."""
    found, expected = (outcome(model.train(mode), z, state, half) for mode in (True, False))
    assert len(found) == len(expected) == 5 + len(list(model.parameters()))
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm()) <= tolerance * float(other.norm()) + 1e-12


@cases
def test_gradients_are_difference_quotients(family: str, layers: int, taps: int) -> None:
    model = model_of(family, layers, taps).double()
    z, state = data(model, rows=2, steps=4)

    def sequence(z: Tensor, state: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        y, after = model(z, state)  # the weights themselves: gradcheck moves them in place
        return y, after

    inputs = [z.requires_grad_(), state.requires_grad_(), *model.parameters()]
    assert torch.autograd.gradcheck(sequence, inputs)


@cases
def test_gradients_of_a_free_run_are_difference_quotients(family: str, layers: int, taps: int) -> None:
    model = model_of(family, layers, taps).double()
    z, state = data(model, rows=2, steps=5)
    first, u = z[:, 0].clone(), z[:, 1:, :1].clone()

    def run(first: Tensor, u: Tensor, state: Tensor, *weights: Tensor) -> Tensor:
        return model.free_run(first, u, state)  # the weights themselves: gradcheck moves them in place

    inputs = [a.requires_grad_() for a in (first, u, state)]
    assert torch.autograd.gradcheck(run, [*inputs, *model.parameters()])


@cases
def test_float64_is_torch_s_own_answer(family: str, layers: int, taps: int) -> None:
    model = model_of(family, layers, taps, hidden=5).double()
    assert_equal(model, *data(model, rows=3, steps=12), half=6, tolerance=1e-12)


@cases
def test_float32_at_the_size_of_a_refit(family: str, layers: int, taps: int) -> None:
    model = model_of(family, layers, taps, hidden=32)
    z, state = data(model, rows=32, steps=200)
    assert_equal(model, z.float(), state.float(), half=100, tolerance=1e-4)


@pytest.mark.parametrize("rows", [1, 7, 17, 49])
@pytest.mark.parametrize("hidden", [1, 6, 33])
def test_any_batch_and_any_width(rows: int, hidden: int) -> None:
    model = model_of("gru", 2, 2, hidden)
    z, state = data(model, rows, steps=9)
    assert_equal(model, z.float(), state.float(), half=4, tolerance=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_sample(family: str) -> None:
    model = model_of(family, 1, 3).double()
    assert_equal(model, *data(model, rows=3, steps=3), half=1, tolerance=1e-12)
    z, state = data(model, rows=2, steps=1)
    assert model.free_run(z[:, 0], z[:, 1:, :1], state).shape == (2, 0, 2)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_spoils_its_own_row_and_the_loss(family: str, value: float) -> None:
    model = model_of(family, 1, 1)
    z, state = (a.float() for a in data(model, rows=3, steps=20))
    clean = model(z, state)[0]
    z[1, 4, 1] = value
    y, _ = model(z, state)
    assert not torch.isfinite(y[1]).all() and torch.equal(y[[0, 2]], clean[[0, 2]])
    loss = y.square().mean()
    loss.backward()
    assert not torch.isfinite(loss)
    after, _ = model(torch.zeros_like(z), state)  # and leaves nothing behind in the memory it used
    assert torch.isfinite(after).all()


def test_an_answer_stays_when_others_are_asked_for() -> None:
    """The memory of a pass is used again, that of its answers and gradients is not."""
    model = model_of("gru", 1, 2)
    z, state = (a.float() for a in data(model, rows=4, steps=10))
    found = outcome(model, z, state, half=5)
    kept = [a.clone() for a in found]
    for _ in range(5):
        outcome(model, 2 * z, state, half=5)
    assert all(torch.equal(a, b) for a, b in zip(found, kept, strict=True))


def test_a_second_way_back_gives_the_same() -> None:
    model = model_of("lstm", 2, 2)
    z, state = (a.float() for a in data(model, rows=4, steps=10))
    loss = model(z, state)[0].square().mean()
    one, other = (torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.slow
def test_training_goes_the_same_way(family: str) -> None:
    """Sixty steps of Adam from the same weights on the same samples."""
    rng = np.random.default_rng(5)
    z = np.cumsum(rng.normal(size=(16, 80, 3)), axis=1)
    z[:, 1:, 1:] = 0.1 * z[:, :-1, :1] + 0.02 * rng.normal(size=(16, 79, 2))
    scaling = Scaling.of(z.reshape(-1, 3), n_outputs=2)
    segments = torch.from_numpy(z).float()

    def losses(compiled: bool) -> list[float]:
        model = new_network(family, SPEC, scaling, hidden_size=16, taps=4, seed=1).train(compiled)
        optimiser = torch.optim.Adam(model.parameters(), 5e-3)
        found = []
        for _ in range(60):
            y, state = model(segments[:, :39], model.initial_state(16))
            run = model.free_run(segments[:, 39], segments[:, 40:, :1], state)
            loss = (y - segments[:, 1:40, 1:]).square().mean() + (run - segments[:, 40:, 1:]).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            found.append(float(loss.detach()))
        return found

    found, expected = losses(True), losses(False)
    assert found == pytest.approx(expected, rel=0.02) and found[-1] < 0.5 * found[0]
