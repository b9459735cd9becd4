"""What all families share: scaling, increments of y, the state as one tensor, free runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from twin.checkpoint import Checkpoint, check
from twin.errors import SpecError
from twin.messages import Spec
from twin.models import Sizes, check_sizes, sizes_of, state_size
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
        self.family = family
        self.sizes = sizes = check_sizes(family, sizes)
        self.state_size = state_size(family, sizes)
        self.n_inputs, outputs = sizes["inputs"], sizes["outputs"]
        features, hidden_size, layers = self.n_inputs + outputs, sizes["hidden_size"], sizes["layers"]
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.register_buffer("increment_scale", torch.ones(outputs))
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
            torch.manual_seed(seed)
            self.core = (
                WindowRNN(features, outputs, hidden_size, layers, sizes["window"])
                if family == "window-rnn"
                else Recurrent(family, features, outputs, hidden_size, layers, sizes["taps"])
            )

    @property
    def scaling(self) -> Scaling:
        """The scaling inside the model, as copies."""
        return Scaling(
            *(a.detach().cpu().numpy().copy() for a in (self.mean, self.scale, self.increment_scale))
        )

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

    def fit_readout(self, z: npt.NDArray[Any]) -> None:
        """Start from the linear model of consecutive samples z (T, F) that least squares finds.

        Δy = D [x(k-n+1) ... x(k)] / n + d is an ARX model of order n, the taps, fitted in closed form. The
        hidden state does not take part in it yet (C = 0). So training starts from a model that already
        follows the plant, and the network learns what the linear one cannot say, instead of both. For a
        family without a direct term, nothing happens.
        """
        if not isinstance(self.core, Recurrent):
            return
        scaling, z = self.scaling, np.asarray(z, np.float64)
        dy = np.diff(z[:, self.n_inputs :], axis=0) / scaling.increment_scale
        self.core.fit_readout((z[:-1] - scaling.mean) / scaling.scale, dy)

    def tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """All weights and the scaling, as arrays of their own: what a checkpoint keeps."""
        return {name: tensor.cpu().numpy().copy() for name, tensor in self.state_dict().items()}


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
    """An untrained model for a plant: it predicts that y stays as it is.

    `window` is the L of the window-rnn family, `taps` the newest samples that the direct term of the others
    sees.

    Raises:
        SpecError: an unknown family, a size out of range, or a scaling of other signals than the spec's.
    """
    sizes = sizes_of(family, len(spec.inputs), len(spec.outputs), hidden_size, layers, taps, window)
    model = Model(family, sizes, seed)
    for buffer, values in (
        (model.mean, scaling.mean),
        (model.scale, scaling.scale),
        (model.increment_scale, scaling.increment_scale),
    ):
        if values.shape != buffer.shape:
            raise SpecError(f"a scaling of {len(values)} values for {len(buffer)} signals")
        buffer.copy_(torch.from_numpy(values))
    return model


def open_model(checkpoint: Checkpoint) -> Model:
    """The model in a checkpoint, ready to be trained on or run.

    Raises:
        CheckpointError: tensors that are not those of its family and sizes, or not finite.
    """
    check(checkpoint)
    model = Model(checkpoint.family, checkpoint.sizes)
    model.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in checkpoint.tensors.items()})
    return model
