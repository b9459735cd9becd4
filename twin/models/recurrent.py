"""Elman, GRU and LSTM networks with a hidden state that lasts as long as the stream does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from twin.families import Cell
from twin.models.through_time import ThroughTime, serves

_NETS: Final[dict[Cell, type[nn.RNN | nn.GRU | nn.LSTM]]] = {
    Cell.ELMAN: nn.RNN,
    Cell.GRU: nn.GRU,
    Cell.LSTM: nn.LSTM,
}
_CELLS: Final[dict[Cell, Callable[..., Tensor]]] = {
    Cell.ELMAN: torch.rnn_tanh_cell,
    Cell.GRU: torch.gru_cell,
}

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Recurrent(nn.Module):
    """Scaled samples in, scaled increments of y out: Δy = C h + D [x(k-n+1) ... x(k)] / n + d.

    The readout sees the hidden state h of the last layer and the newest n samples themselves, its `taps`. The
    direct term D is a linear ARX model of order n (Ljung, System Identification, section 4.2): what follows
    linearly from the newest samples need not pass through the network, which is left with the rest, and D has
    a closed solution (`twin.models.linear`). One tap sees a motor whose speed is measured; where only a
    position is, or where the encoder is coarse, the speed must be made out from several.

    Neighbouring samples are almost the same, so an optimiser moves all n coefficients of a signal together:
    the division by n makes their sum move no faster than the other weights.

    C, D and d start at zero: a new model predicts that y stays as it is.

    The state (N, S) holds the h of all layers, one after the other, for LSTM then the c of all layers, then
    the n - 1 samples before the next one, oldest first. It starts at zero.
    """

    LINEAR_START: ClassVar[bool] = True
    RATE_SHARE: ClassVar[float] = 1.0

    def __init__(
        self, cell: Cell, features: int, outputs: int, hidden_size: int, layers: int, taps: int
    ) -> None:
        super().__init__()
        self.cell = cell
        self.taps = taps
        self.net = _NETS[cell](features, hidden_size, layers, batch_first=True)
        self.memory = (2 if cell is Cell.LSTM else 1) * layers * hidden_size  # numbers of h and c
        self.readout = nn.Linear(hidden_size + taps * features, outputs)  # its weight is [C D]
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Over a sequence x (N, T, F) from a state (N, S): increments (N, T, P) and the state after it."""
        if self.compiled(x):
            return self._through_time(x, state, None)
        rows, steps, features = x.shape
        layers, hidden_size = self.net.num_layers, self.net.hidden_size
        # torch wants every part as (layers, N, H)
        parts = (
            state[:, : self.memory].reshape(rows, -1, layers, hidden_size).permute(1, 2, 0, 3).contiguous()
        )
        if self.cell is Cell.LSTM:
            hidden, (h, c) = self.net(x, (parts[0], parts[1]))
            parts = torch.stack((h, c))
        else:
            hidden, h = self.net(x, parts[0])
            parts = h[None]
        before = state[:, self.memory :].view(rows, self.taps - 1, features)
        samples = torch.cat((before, x), dim=1)  # (N, n - 1 + T, F)
        direct = samples.unfold(1, self.taps, 1).transpose(2, 3).reshape(rows, steps, -1)  # (N, T, n F)
        state = torch.cat((parts.permute(2, 0, 1, 3).reshape(rows, -1), samples[:, steps:].flatten(1)), dim=1)
        return self.readout(torch.cat((hidden, direct / self.taps), dim=2)), state

    def compiled(self, x: Tensor) -> bool:
        """Whether a sequence runs as machine code: in training on a CPU. In evaluation, and on other devices,
        it is left to torch."""
        return self.training and serves(x)

    def _through_time(self, x: Tensor, state: Tensor, gain: Tensor | None) -> tuple[Tensor, Tensor]:
        weights = (w for layer in self.net.all_weights for w in layer)
        readout = self.readout.weight, self.readout.bias
        arguments = (self.cell, self.taps, x, state, gain, *readout, *weights)
        answers, state = ThroughTime.apply(*arguments)  # type: ignore[no-untyped-call]
        return answers, state

    def free_run(self, x: Tensor, inputs: Tensor, gain: Tensor, state: Tensor) -> Tensor:
        """Compiled: from a sample x (N, F), with inputs (N, T, U) of the instants after it, y (N, T, P) of
        those instants, of which each is the one before + gain (P,) * the increment; all of them scaled."""
        following = nn.functional.pad(inputs[:, :-1], (0, len(gain)))  # y to be filled in
        return self._through_time(torch.cat((x[:, None], following), dim=1), state, gain)[0]

    @property
    def linear(self) -> bool:
        """Whether it is still as least squares made it."""
        return not bool(self.readout.weight[:, : self.net.hidden_size].any())

    def stepping(self) -> Step:
        """The step: one sample x (N, F) and a state (N, S) to increments (N, P) and the state after it.

        The same arithmetic as a sequence of one, through the cells alone: the sequence call prepares for a
        length that is not there, and takes three times as long. The tensors are looked up here, once for
        all steps, because a module's attributes cost microseconds each time.
        """
        cells: Sequence[Sequence[Tensor]] = self.net.all_weights
        size, layers, memory, taps = self.net.hidden_size, self.net.num_layers, self.memory, self.taps
        weight, bias = self.readout.weight.t(), self.readout.bias
        cell = _CELLS.get(self.cell)

        def step(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            parts = torch.split(state[:, :memory], size, dim=1) if memory > size else (state[:, :memory],)
            direct = torch.cat((state[:, memory:], x), dim=1) if taps > 1 else x  # (N, n F)
            h, hidden, carried = x, [], []
            for layer, weights in enumerate(cells):
                if cell is None:
                    h, c = torch.lstm_cell(h, (parts[layer], parts[layers + layer]), *weights)
                    carried.append(c)
                else:
                    h = cell(h, parts[layer], *weights)
                hidden.append(h)
            increments = torch.addmm(bias, torch.cat((h, direct / taps), dim=1), weight)
            return increments, torch.cat((*hidden, *carried, direct[:, x.shape[1] :]), dim=1)

        return step

    def regressors(self, x: Tensor) -> Tensor:
        """What the readout sees of sequences x (N, T, F), from a state of zeros: (N, T, H + n F)."""
        before = x.new_zeros(len(x), self.taps - 1, x.shape[2])
        direct = torch.cat((before, x), dim=1).unfold(1, self.taps, 1).transpose(2, 3).flatten(2)
        return torch.cat((self.net(x)[0], direct / self.taps), dim=2)
