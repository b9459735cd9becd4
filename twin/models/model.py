"""What all families share: scaling, increments of y, the state as one tensor, free runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from twin.checkpoint import Checkpoint, check
from twin.errors import SpecError
from twin.messages import Spec
from twin.models import PHYSICAL, Sizes, check_sizes, motor_columns, sizes_of, state_size, tensor_shapes
from twin.models.arx import Arx
from twin.models.recurrent import Recurrent
from twin.models.scaling import Scaling
from twin.models.window_rnn import WindowRNN


class Model(nn.Module):
    """ŷ(k+1) = y(k) + increment_scale * core(scaled sample k, state).

    A sample z(k) = [u(k), y(k)] holds F = U + P features in the signals' own units. The core of a family
    answers the increment rather than y, since at a short period y(k) is already most of y(k+1): a network
    that answered y would spend its weights on repeating it, and its rounding would drown the change.

    All that a model remembers is one tensor, the state (N, S): plain numbers that can be kept, copied,
    compared and saved. Zeros are the state of a model that has seen nothing.
    """

    mean: Tensor
    scale: Tensor
    increment_scale: Tensor

    def __init__(self, family: str, sizes: Sizes, seed: int = 0) -> None:
        super().__init__()
        self._measure(family, sizes)
        features, outputs = len(self.mean), len(self.increment_scale)
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
            torch.manual_seed(seed)
            self.core = _core(family, features, outputs, sizes)

    def _measure(self, family: str, sizes: Sizes) -> None:
        """What is known from the sizes alone, and room for the scaling."""
        self.family = family
        self.sizes = sizes = check_sizes(family, sizes)
        self.state_size = state_size(family, sizes)
        self.n_inputs = sizes["inputs"]
        for name in ("mean", "scale", "increment_scale"):
            fill = torch.zeros if name == "mean" else torch.ones
            self.register_buffer(name, fill(tensor_shapes(family, sizes)[name]))

    @property
    def scaling(self) -> Scaling:
        """The scaling inside the model, as copies."""
        return Scaling(
            *(a.detach().cpu().numpy().copy() for a in (self.mean, self.scale, self.increment_scale))
        )

    def begin(self, spec: Spec, scaling: Scaling) -> None:
        """Take the scaling of a plant's signals.

        Raises:
            SpecError: a scaling of other signals.
        """
        for buffer, values in (
            (self.mean, scaling.mean),
            (self.scale, scaling.scale),
            (self.increment_scale, scaling.increment_scale),
        ):
            if values.shape != buffer.shape:
                raise SpecError(f"a scaling of {len(values)} values for {len(buffer)} signals")
            buffer.copy_(torch.from_numpy(values))

    def initial_state(self, rows: int) -> Tensor:
        """The state (N, S) of a model that has seen nothing."""
        return self.mean.new_zeros(rows, self.state_size)

    def forward(self, z: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Follow measured samples z (N, T, F), T > 0, from a state (N, S).

        Returns ŷ (N, T, P), where ŷ[:, k] predicts the y of the sample after z[:, k], and the state after
        all of them. In one call or sample by sample, the answers are the same.
        """
        if z.shape[1] == 1:
            y, state = self.stepping()(z[:, 0], state)
            return y[:, None], state
        dy, state = self.core((z - self.mean) / self.scale, state)
        return torch.addcmul(z[..., self.n_inputs :], dy, self.increment_scale), state

    def stepping(self) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The step as a function: sample z (N, F), state (N, S) to ŷ (N, P) of the next sample, new state.

        For whoever makes many: it looks the model's tensors up once, so it serves as long as they are only
        changed in place.
        """
        step = self.core.stepping()
        mean, scale, increment_scale, n_inputs = self.mean, self.scale, self.increment_scale, self.n_inputs

        def follow(z: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            dy, state = step((z - mean) / scale, state)
            return torch.addcmul(z[:, n_inputs:], dy, increment_scale), state

        return follow

    def free_run(self, z: Tensor, u: Tensor, state: Tensor) -> Tensor:
        """Simulate ahead: from one measured sample on, the model is fed its own predictions.

        `z` (N, F) is the sample of an instant k, which `state` (N, S) has not seen yet. `u` (N, T, U) holds
        the inputs of the instants k+1 to k+T. Returns y (N, T, P) of those same instants, so that y[:, j]
        stands beside u[:, j]:

            y[:, 0]   = ŷ(k+1)  from  z = [u(k), y(k)]
            y[:, j]   = ŷ(k+1+j)  from  [u[:, j-1], y[:, j-1]]

        The last input is therefore not used: it acts only after the last instant asked for.
        """
        x = (z - self.mean) / self.scale
        y = x[:, self.n_inputs :]  # scaled, like all in the loop: fewer operations a step
        mean, scale = self.mean[self.n_inputs :], self.scale[self.n_inputs :]
        gain = self.increment_scale / scale
        inputs = (u - self.mean[: self.n_inputs]) / self.scale[: self.n_inputs]
        if isinstance(self.core, Recurrent) and self.core.compiled(inputs):
            return self.core.free_run(x, inputs, gain, state) * scale + mean
        step, run = self.core.stepping(), []
        for following in inputs.unbind(dim=1):
            dy, state = step(x, state)
            y = torch.addcmul(y, dy, gain)
            run.append(y)
            x = torch.cat((following, y), dim=1)
        return torch.stack(run, dim=1) * scale + mean if run else u.new_zeros(len(z), 0, len(gain))

    def refit_readout(self, z: npt.NDArray[Any]) -> None:
        """Go from the present weights to those that consecutive samples z (T, F) say, in the readout alone.

        What changed in a plant is most of it linear in h and the newest samples: so it is found in closed
        form, in no time and from little data, and training begins there. For a family without a direct term,
        nothing happens.
        """
        if isinstance(self.core, Recurrent):
            self.core.refit_readout(*self._scaled(z))

    def fit_readout(self, z: npt.NDArray[Any]) -> None:
        """Start from the linear model of consecutive samples z (T, F) that least squares finds.

        Δy = D [x(k-n+1) ... x(k)] / n + d is an ARX model of order n, the taps, fitted in closed form. The
        hidden state does not take part in it yet (C = 0). So training starts from a model that already
        follows the plant, and the network learns what the linear one cannot say, instead of both. For a
        family without a direct term, nothing happens.
        """
        if not isinstance(self.core, WindowRNN):
            self.core.fit_readout(*self._scaled(z))

    def _scaled(self, z: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Of samples z (T, F): all but the last (T - 1, F), and y's increments after each (T - 1, P)."""
        scaling, z = self.scaling, np.asarray(z, np.float64)
        x = np.asarray((z[:-1] - scaling.mean) / scaling.scale, np.float64)
        dy = np.diff(z[:, self.n_inputs :], axis=0) / scaling.increment_scale
        return x, dy

    def refit(self, stretches: Sequence[npt.NDArray[Any]], known: bool) -> Iterator[float]:
        """Find the weights in stretches of samples (T, F), where a family has a way of its own to do so.

        Raises:
            SpecError: this one has none; it is trained by its gradients.
        """
        raise SpecError(f"a {self.family} is trained by gradients")

    def physical(self) -> dict[str, tuple[float, float]]:
        """Parameters that mean something, by name: value and standard error. A network has none."""
        return {}

    def tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """All weights and the scaling, as arrays of their own: what a checkpoint keeps."""
        return {name: tensor.cpu().numpy().copy() for name, tensor in self.state_dict().items()}


def _core(family: str, features: int, outputs: int, sizes: Sizes) -> Arx | Recurrent | WindowRNN:
    if family == "arx":
        return Arx(features, outputs, sizes["taps"])
    hidden_size, layers = sizes["hidden_size"], sizes["layers"]
    if family == "window-rnn":
        return WindowRNN(features, outputs, hidden_size, layers, sizes["window"])
    return Recurrent(family, features, outputs, hidden_size, layers, sizes["taps"])


def new_model(
    family: str,
    spec: Spec,
    scaling: Scaling,
    *,
    hidden_size: int = 32,
    layers: int = 1,
    taps: int = 1,
    window: int = 1,
    seed: int = 0,
) -> Model:
    """An untrained model for a plant: a network predicts that y stays as it is, physics knows some motor.

    `window` is the L of the window-rnn family, `taps` the newest samples that the direct term of the others
    sees.

    Raises:
        SpecError: an unknown family, a size out of range, or a scaling of other signals than the spec's; for
        physics and hybrid,
            a plant that is no DC motor.
    """
    if family in PHYSICAL:
        motor_columns(spec)
    sizes = sizes_of(family, len(spec.inputs), len(spec.outputs), hidden_size, layers, taps, window)
    model = build(family, sizes, seed)
    model.begin(spec, scaling)
    return model


def build(family: str, sizes: Sizes, seed: int = 0) -> Model:
    """A model of a family, whose tensors are still to be filled in.

    Raises:
        SpecError: sizes that are no model's.
    """
    if family == "physics":
        from twin.models.physics import Physics  # which is a Model

        return Physics(sizes)
    if family == "hybrid":
        from twin.models.hybrid import Hybrid

        return Hybrid(sizes, seed)
    return Model(family, sizes, seed)


def open_model(checkpoint: Checkpoint) -> Model:
    """The model in a checkpoint, ready to be trained on or run.

    Raises:
        CheckpointError: tensors that are not those of its family and sizes, or not finite.
    """
    check(checkpoint)
    model = build(checkpoint.family, checkpoint.sizes)
    model.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in checkpoint.tensors.items()})
    return model
