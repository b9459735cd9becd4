"""Training: it leads from least squares to something better, and never to something worse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from simulators import motor
from simulators.quick_motor import quick
from tests.models import as_network
from twin.config import TrainerConfig
from twin.models.network import Network, _Weights
from twin.models.opening import new_model
from twin.models.scaling import Scaling
from twin.models.training import Course, likelihood, octave_lengths, one_step_squares, samples_of
from twin.trainer import Trainer

Array = NDArray[np.float64]
MOTOR = motor()
SPEC = MOTOR.spec(1e-3)
WINDOW = 10
"""Samples that the network of windows sees."""
torch.set_num_threads(1)


def learner(family: str, rate: float = 3e-3, steps: int = 30) -> Trainer:
    """A trainer with its first model, from two seconds of the motor, and four to learn from."""
    config = TrainerConfig(model=family, hidden_size=8, steps=steps, learning_rate=rate)
    found, z = Trainer(SPEC, config, window=100), quick(MOTOR, 4_000, seed=3).z
    for k in range(len(z)):
        found.observe(SPEC.sample(k, z[k].tolist()))
        if k == 2_000:
            for _ in found.refit():
                pass
            assert found.accept().passed
    return found


@pytest.mark.parametrize("rate", [3e-3, 1.0])
@pytest.mark.parametrize("family", ["gru", "window-rnn"])
def test_a_refit_never_ends_with_larger_errors_than_it_began_with(family: str, rate: float) -> None:
    """With steps that are much too large, it ends where least squares led."""
    found = learner(family, rate)
    lesson = found._next_lesson()
    probe = samples_of(lesson.probe())
    before = as_network(found.incumbent)
    error = _Weights.of(before, probe, lesson.warm).one_step
    for _ in found.refit():
        pass
    assert found.candidate is not None
    after = _Weights.of(as_network(found.candidate), probe, lesson.warm).one_step
    assert math.isfinite(after) and after <= error + 1e-3  # the probe moves on with the history
    if rate == 1.0:
        assert as_network(found.candidate).core.linear


def test_what_is_kept_is_the_average_of_the_weights_that_a_course_comes_by() -> None:
    model = nn.Linear(1, 1, bias=False)
    course, path = Course(model, 0.1), []
    for step in range(40):
        course.step((model.weight - 1.0).square().sum() * (1.0 + step % 3), (step + 1) / 40)
        path.append(float(model.weight.detach()))
    (average,) = course.average.parameters()
    assert min(path) < float(average.detach()) < max(path)
    assert path[-1] == pytest.approx(path[-2], abs=1e-3), "the last steps are small"


def test_octaves() -> None:
    assert octave_lengths(1) == [1] and octave_lengths(2) == [1, 1] and sum(octave_lengths(100)) == 100


class Seed(nn.Module):
    """The network of overlapping windows as docs/shapes.md tells it: torch's own first weights, a hidden
    state of ones for each window, a readout of all its hidden states."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.rnn = nn.RNN(3, hidden, nonlinearity="relu", batch_first=True)
        self.readout = nn.Linear(WINDOW * hidden, 2)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.rnn(windows, torch.ones(1, len(windows), self.rnn.hidden_size))
        answers: torch.Tensor = self.readout(hidden.flatten(1))
        return answers


@pytest.mark.slow
def test_the_network_of_windows_learns_the_motor_and_more_than_its_plain_training() -> None:
    """The same network, the same data and as many steps: plain torch, minibatches of windows and the mean
    squared error on scaled increments; and a course from the linear start. Judged on later samples."""
    z, steps, hidden = quick(MOTOR, 12_000, seed=5).z, 120, 16
    learned, judged = z[:9_000], z[9_000:]
    scaling = Scaling.of(learned, 2)
    x, dy = (torch.from_numpy(a.astype(np.float32)) for a in scaling.pairs(learned, 2))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        seed = Seed(hidden)
    optimiser, dice = torch.optim.Adam(seed.parameters(), 0.01), np.random.default_rng(1)
    for _ in range(steps):
        ends = torch.from_numpy(dice.integers(WINDOW - 1, len(x), 256))
        windows = x[ends[:, None] + torch.arange(1 - WINDOW, 1)]
        loss = nn.functional.mse_loss(seed(windows), dy[ends])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    model = as_network(new_model("window-rnn", SPEC, scaling, hidden_size=hidden, window=WINDOW, seed=1))
    model.fit(learned)
    start = one_step(model, judged)
    course = Course(model, 0.07 * 3e-3)
    for step in range(steps):
        rows = dice.integers(0, len(learned) - 200, 8)[:, None] + np.arange(200)
        course.step(
            likelihood(one_step_squares(model, samples_of(learned[rows])).mean(0)), (step + 1) / steps
        )
    model.load_state_dict(course.average.state_dict())
    x, dy = (torch.from_numpy(a.astype(np.float32)) for a in scaling.pairs(judged, 2))
    with torch.no_grad():
        windows = x.unfold(0, WINDOW, 1).transpose(1, 2)
        plain = (seed(windows) - dy[WINDOW - 1 :]).square().mean(0).sqrt().numpy()
    persistence = dy.square().mean(0).sqrt().numpy()
    own = one_step(model, judged)
    assert (plain < 0.9 * persistence).all(), "it learns, too"
    assert (own < np.array([0.2, 0.8]) * plain).all() and (own < 1.01 * start).all()


def one_step(model: Network, z: Array) -> Array:
    """RMSE (P,) in units of the increments, once the window is full."""
    samples = samples_of(z)[None]
    with torch.no_grad():
        y, _ = model(samples[:, :-1], model.initial_state(1))
    errors = (y - samples[:, 1:, 1:]) / model.increment_scale
    return np.asarray(errors[0, WINDOW:].square().mean(0).sqrt().double().numpy())
