"""Elman, GRU and LSTM networks with a hidden state that lasts as long as the stream does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

_NETS: Final[dict[str, type[nn.RNN | nn.GRU | nn.LSTM]]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
_CELLS: Final[dict[str, Callable[..., Tensor]]] = {"rnn": torch.rnn_tanh_cell, "gru": torch.gru_cell}

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Recurrent(nn.Module):
    """Scaled samples in, scaled increments of y out: Δy = C h + D x + d.

    The readout sees the hidden state h of the last layer and the sample x itself. The direct term D is the
    feed-through of a state-space model (Ljung, System Identification, section 4.3): what follows linearly
    from u(k) and y(k) need not pass through the network, which is left with the rest, and D has a closed
    solution (`fit_readout`). C, D and d start at zero: a new model predicts that y stays as it is.

    The state (N, S) holds the h of all layers, one after the other, for LSTM then the c of all layers. It
    starts at zero.
    """

    def __init__(self, family: str, features: int, outputs: int, hidden_size: int, layers: int) -> None:
        super().__init__()
        self.family = family
        self.net = _NETS[family](features, hidden_size, layers, batch_first=True)
        self.readout = nn.Linear(hidden_size + features, outputs)  # its weight is [C D], (P, H + F)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Over a sequence x (N, T, F) from a state (N, S): increments (N, T, P) and the state after it."""
        rows, layers, hidden_size = len(x), self.net.num_layers, self.net.hidden_size
        # torch wants every part as (layers, N, H)
        parts = state.reshape(rows, -1, layers, hidden_size).permute(1, 2, 0, 3).contiguous()
        if self.family == "lstm":
            hidden, (h, c) = self.net(x, (parts[0], parts[1]))
            parts = torch.stack((h, c))
        else:
            hidden, h = self.net(x, parts[0])
            parts = h[None]
        state = parts.permute(2, 0, 1, 3).reshape(rows, -1)
        return self.readout(torch.cat((hidden, x), dim=2)), state

    def stepping(self) -> Step:
        """The step: one sample x (N, F) and a state (N, S) to increments (N, P) and the state after it.

        The same arithmetic as a sequence of one, through the cells alone: the sequence call prepares for a
        length that is not there, and takes three times as long. The tensors are looked up here, once for
        all steps, because a module's attributes cost microseconds each time.
        """
        cells: Sequence[Sequence[Tensor]] = self.net.all_weights
        size, layers = self.net.hidden_size, self.net.num_layers
        weight, bias = self.readout.weight.t(), self.readout.bias

        def read(h: Tensor, x: Tensor) -> Tensor:
            return torch.addmm(bias, torch.cat((h, x), dim=1), weight)

        if self.family == "lstm":

            def lstm_step(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
                parts = torch.split(state, size, dim=1)
                h, hidden, carried = x, [], []
                for layer, weights in enumerate(cells):
                    h, c = torch.lstm_cell(h, (parts[layer], parts[layers + layer]), *weights)
                    hidden.append(h)
                    carried.append(c)
                return read(h, x), torch.cat(hidden + carried, dim=1)

            return lstm_step

        cell = _CELLS[self.family]

        def step(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            if layers == 1:
                state = cell(x, state, *cells[0])
                return read(state, x), state
            h, hidden = x, []
            for part, weights in zip(torch.split(state, size, dim=1), cells, strict=True):
                h = cell(h, part, *weights)
                hidden.append(h)
            return read(h, x), torch.cat(hidden, dim=1)

        return step

    @torch.no_grad()
    def fit_readout(self, x: npt.NDArray[Any], dy: npt.NDArray[Any]) -> None:
        """Set D and d by ridge least squares from x (T, F) to dy (T, P), and C to zero.

        The ridge is tiny (1e-6 of a unit variance): it only chooses among equals where a feature does not
        vary or two are the same.
        """
        ones = np.ones((len(x), 1))
        a = np.hstack((x, ones))
        ridge = 1e-6 * len(x) * np.eye(a.shape[1])
        ridge[-1, -1] = 0.0  # the offset d is not shrunk
        solution: npt.NDArray[Any] = np.linalg.lstsq(a.T @ a + ridge, a.T @ dy, rcond=None)[0]  # (F + 1, P)
        self.readout.weight.zero_()
        self.readout.weight[:, self.net.hidden_size :] = torch.from_numpy(solution[:-1].T)
        self.readout.bias.copy_(torch.from_numpy(solution[-1]))
