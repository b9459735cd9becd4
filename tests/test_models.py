"""The models against the same equations written out plainly, and against plants whose answer is known."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.models import SIZES, SPEC, as_network, beginning, shaken
from twin.errors import SpecError
from twin.families import GENERAL, check_sizes, sizes_of, state_size, tensor_shapes
from twin.models.network import Network
from twin.models.opening import new_model
from twin.models.scaling import Scaling

torch.set_num_threads(1)

Array = npt.NDArray[Any]
WINDOW, TAPS = SIZES["window"], SIZES["taps"]


def motor(steps: int, seed: int = 0) -> Array:
    """Samples (T, F) of a linear plant in discrete time: y(k+1) = A y(k) + B u(k) + c, no noise."""
    rng = np.random.default_rng(seed)
    a, b, c = np.array([[0.6, -0.004], [2.0, 0.97]]), np.array([0.15, 0.02]), np.array([0.1, 0.3])
    u, y = 0.0, np.zeros(2)
    z = np.empty((steps, 3))
    for k in range(steps):
        u = u if rng.random() > 0.1 else rng.uniform(-12, 12)
        z[k] = u, *y
        y = a @ y + b * u + c
    return z


def model_of(family: str, layers: int = 1, randomised: bool = True) -> Network:
    model = as_network(beginning(family, motor(300), seed=1, layers=layers))
    if randomised:
        shaken(model, seed=2)
    return model


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def gru(x: Array, h: Array, c: Array, w: Array, v: Array, b: Array, d: Array) -> tuple[Array, Array]:
    """Cho et al. 2014, with the reset gate after the product, as torch has it."""
    (wr, wz, wn), (vr, vz, vn) = np.split(w @ x + b, 3), np.split(v @ h + d, 3)
    r, z = sigmoid(wr + vr), sigmoid(wz + vz)
    return (1 - z) * np.tanh(wn + r * vn) + z * h, c


def lstm(x: Array, h: Array, c: Array, w: Array, v: Array, b: Array, d: Array) -> tuple[Array, Array]:
    """Hochreiter and Schmidhuber 1997, with a forget gate."""
    i, f, g, o = np.split(w @ x + b + v @ h + d, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def elman(activation: Callable[[Array], Array]) -> Callable[..., tuple[Array, Array]]:
    return lambda x, h, c, w, v, b, d: (activation(w @ x + b + v @ h + d), c)


CELLS: dict[str, Callable[..., tuple[Array, Array]]] = {
    "gru": gru,
    "lstm": lstm,
    "rnn": elman(np.tanh),
    "window-rnn": elman(lambda x: np.maximum(x, 0)),
}


def plainly(model: Network, z: Array) -> Array:
    """What a model should answer to samples (T, F): one row, one sample, one layer at a time, in float64."""
    tensors = {name: a.astype(np.float64) for name, a in model.tensors().items()}
    x = (z - tensors["mean"]) / tensors["scale"]
    layers, size = model.sizes.get("layers", 0), model.sizes.get("hidden_size", 0)

    def run(sequence: Array, h: Array, c: Array) -> Array:
        outputs = []
        for sample in sequence:
            below = sample
            for n in range(layers):
                names = (f"core.net.{kind}_l{n}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
                h[n], c[n] = CELLS[model.family](below, h[n], c[n], *(tensors[name] for name in names))
                below = h[n]
            outputs.append(below.copy())
        return np.stack(outputs)

    zeros = np.zeros((layers, size))
    if model.family == "window-rnn":
        padded = np.concatenate([np.repeat(x[:1], WINDOW - 1, axis=0), x])
        read = np.stack([run(padded[k : k + WINDOW], zeros + 1, zeros.copy()).ravel() for k in range(len(x))])
    else:
        padded = np.concatenate([np.zeros((TAPS - 1, x.shape[1])), x])
        direct = np.stack([padded[k : k + TAPS].ravel() for k in range(len(x))])
        hidden = run(x, zeros.copy(), zeros.copy()) if layers else np.empty((len(x), 0))
        read = np.hstack([hidden, direct / TAPS])
    dy = read @ tensors["core.readout.weight"].T + tensors["core.readout.bias"]
    return np.asarray(z[:, 1:] + dy * tensors["increment_scale"])


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("family", GENERAL)
def test_a_model_is_its_equations(family: str, layers: int) -> None:
    model, z = model_of(family, layers), motor(30)
    with torch.no_grad():
        y, _ = model(torch.from_numpy(z[None]).float(), model.initial_state(1))
    scaling = model.scaling
    assert np.abs((y[0].numpy() - plainly(model, z)) / scaling.scale[1:]).max() < 2e-6
    assert np.abs((y[0].numpy() - z[:, 1:]) / scaling.increment_scale).max() > 0.1  # not just persistence


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("family", GENERAL)
def test_tensors_and_state_measure_what_is_said_without_torch(family: str, layers: int) -> None:
    model = model_of(family, layers)
    shapes = tensor_shapes(family, model.sizes)
    assert {name: a.shape for name, a in model.tensors().items()} == shapes
    assert all(a.dtype == np.float32 for a in model.tensors().values())
    _, state = model(torch.zeros(3, 4, 3), model.initial_state(3))
    assert state.shape == (3, state_size(family, model.sizes))


@pytest.mark.parametrize("family", GENERAL)
def test_a_new_model_predicts_that_y_stays(family: str) -> None:
    z = torch.from_numpy(motor(20)[None]).float()
    model = model_of(family, randomised=False)
    y, _ = model(z, model.initial_state(1))
    assert torch.equal(y, z[..., 1:])


@pytest.mark.parametrize("family", GENERAL)
def test_the_seed_decides_and_leaves_torch_s_own_random_numbers_alone(family: str) -> None:
    scaling = Scaling.of(motor(300), n_outputs=2)
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    one, same, other = (
        new_model(family, SPEC, scaling, hidden_size=4, window=WINDOW, seed=seed).tensors()
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.rand(3), expected)
    if family == "arx":  # which begins with zeros
        return
    name = "core.net.weight_ih_l0"
    assert np.array_equal(one[name], same[name])
    assert not np.array_equal(one[name], other[name])


@pytest.mark.parametrize("family", GENERAL)
def test_a_free_run_can_be_learned_through(family: str) -> None:
    """The gradient reaches every weight, and agrees with a difference quotient."""
    model = model_of(family, layers=2).double()
    z = torch.from_numpy(motor(20)[None])

    def loss() -> torch.Tensor:
        _, state = model(z[:, :8], model.initial_state(1).double())
        run = model.free_run(z[:, 8], z[:, 9:, :1], state)
        return ((run - z[:, 9:, 1:]) / model.scale[1:]).square().mean()

    loss().backward()  # type: ignore[no-untyped-call]
    step = 1e-6
    for name, weight in model.named_parameters():
        assert weight.grad is not None
        assert weight.grad.abs().max() > 0, name
        place = int(weight.grad.abs().argmax())
        with torch.no_grad():
            flat = weight.view(-1)
            flat[place] += step
            above = loss()
            flat[place] -= 2 * step
            below = loss()
            flat[place] += step
        quotient = float(above - below) / (2 * step)
        assert float(weight.grad.view(-1)[place]) == pytest.approx(quotient, rel=1e-4, abs=1e-9), name


@pytest.mark.parametrize("family", GENERAL)
def test_training_beats_persistence_on_a_known_plant(family: str) -> None:
    recording = torch.from_numpy(motor(400)).float()
    pieces, z = recording[:300].view(6, 50, 3), recording[None, 300:]
    model = model_of(family, randomised=False)
    # a linear model's few weights have farther to go
    optimiser = torch.optim.Adam(model.parameters(), 0.1 if family == "arx" else 0.01)
    for _ in range(80):
        y, _ = model(pieces[:, :-1], model.initial_state(6))
        loss = ((y - pieces[:, 1:, 1:]) / model.increment_scale).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        y, _ = model(z[:, :-1], model.initial_state(1))
        persistence = (z[:, :-1, 1:] - z[:, 1:, 1:]).square().mean((0, 1))
        assert ((y - z[:, 1:, 1:]).square().mean((0, 1)) < 0.5 * persistence).all()


@pytest.mark.parametrize("family", ["arx", "gru", "lstm", "rnn"])
def test_the_readout_s_start_finds_a_linear_plant(family: str) -> None:
    model = model_of(family)
    model.fit(motor(300))
    z = torch.from_numpy(motor(200, seed=5)[None]).float()
    with torch.no_grad():
        _, state = model(z[:, : TAPS - 1], model.initial_state(1))  # fills the taps
        z = z[:, TAPS - 1 :]
        run = model.free_run(z[:, 0], z[:, 1:, :1], state)
        y, state = model(z[:, :-1], state)
    assert (((y - z[:, 1:, 1:]) / model.increment_scale).abs().max() < 1e-3).all()
    assert (((run - z[:, 1:, 1:]) / model.scale[1:]).abs().max() < 1e-2).all()
    hidden = model.sizes.get("hidden_size", 0)
    assert not model.tensors()["core.readout.weight"][:, :hidden].any()  # C: the hidden state is not read yet
    assert state.any()  # though it is there


def test_the_readout_s_start_survives_a_signal_that_does_not_vary() -> None:
    z = motor(300)
    z[:, 0] = 12.0
    model = model_of("gru")
    model.fit(z)
    assert all(np.isfinite(a).all() for a in model.tensors().values())


@pytest.mark.parametrize("layers", [1, 2])
def test_the_start_of_a_network_of_windows_is_the_linear_model_of_as_many_taps(layers: int) -> None:
    z = motor(400)
    of_windows, linear = model_of("window-rnn", layers), as_network(beginning("arx", z, taps=WINDOW))
    for model in (of_windows, linear):
        model.begin(SPEC, Scaling.of(z, 2))
        model.fit(z)
    samples = torch.from_numpy(motor(200, seed=5)[None]).float()
    with torch.no_grad():
        one, other = (
            model(samples, model.initial_state(1))[0][:, WINDOW:] / model.increment_scale
            for model in (of_windows, linear)
        )
    assert (one - other).abs().max() < 1e-3
    assert of_windows.core.linear and not model_of("window-rnn").core.linear


def test_windows_forget_what_is_older_than_they_are_long_and_a_carried_state_does_not() -> None:
    z = torch.from_numpy(motor(40)[None]).float()
    changed = z.clone()
    changed[:, : 40 - WINDOW] += torch.tensor([3.0, 1.0, 20.0])
    for family in GENERAL:
        model = model_of(family)
        with torch.no_grad():
            one, other = (model(samples, model.initial_state(1))[0][:, -1] for samples in (z, changed))
        assert torch.equal(one, other) == (family in ("arx", "window-rnn")), family


def test_scaling_is_mean_and_deviation_and_the_size_of_increments() -> None:
    z = motor(500)
    scaling = Scaling.of(z, n_outputs=2)
    assert scaling.mean == pytest.approx(z.mean(axis=0), rel=1e-6)
    assert scaling.scale == pytest.approx(z.std(axis=0), rel=1e-6)
    assert scaling.increment_scale == pytest.approx(np.sqrt((np.diff(z[:, 1:], axis=0) ** 2).mean(axis=0)))
    assert scaling.scale.dtype == np.float32


def test_scaling_keeps_small_variations_on_a_large_offset() -> None:
    """In float32 the sum of a million such values would drown them."""
    y = 1_000.0 + np.tile([-1.0, 1.0], 500_000)
    scaling = Scaling.of(np.stack([y, y], axis=1), n_outputs=1)
    assert scaling.mean[0] == pytest.approx(1_000.0, abs=1e-4)
    assert scaling.scale[0] == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, 12.0, 1e6, 1e-42])
def test_a_signal_that_does_not_vary_gets_the_scale_one(value: float) -> None:
    scaling = Scaling.of(np.full((1_001, 2), value), n_outputs=1)
    assert scaling.scale.tolist() == [1.0, 1.0]
    assert scaling.increment_scale.tolist() == [1.0]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300, 1e39])
def test_scaling_refuses_what_float32_cannot_hold(value: float) -> None:
    z = motor(20)
    z[3, 1] = value
    with pytest.raises(SpecError, match="finite"):
        Scaling.of(z, n_outputs=2)


@pytest.mark.parametrize(("shape", "outputs"), [((1, 3), 2), ((5,), 1), ((5, 2), 2), ((5, 2), 0)])
def test_scaling_refuses_other_shapes(shape: tuple[int, ...], outputs: int) -> None:
    with pytest.raises(SpecError, match=r"\(T, F\)"):
        Scaling.of(np.zeros(shape), outputs)


def test_sizes_that_cannot_be_are_refused_with_the_remedy() -> None:
    with pytest.raises(SpecError, match="'transformer' is not one of arx, gru"):
        sizes_of("transformer", 1, 2, 32)
    with pytest.raises(SpecError, match="hidden_size = 0: between 1 and"):
        sizes_of("gru", 1, 2, 0)
    with pytest.raises(SpecError, match="has the sizes"):
        check_sizes("window-rnn", sizes_of("gru", 1, 2, 8))
    with pytest.raises(SpecError, match="2 values"):
        new_model("gru", SPEC, Scaling.of(motor(9)[:, 1:], n_outputs=1))


def test_checkpoints_and_predictors_are_named_without_loading_torch() -> None:
    code = "import sys, twin.models, twin.predictor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
