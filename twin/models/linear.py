"""The linear model from which training begins, in closed form and at full precision.

Δy = D [x(k-n+1) ... x(k)] / n + d is an ARX model of order n (Ljung, System Identification, section 4.2). So
training starts from a model that already follows the plant and runs free, and the network learns what the
linear one cannot say, instead of both.

The taps reach back a few samples. A drift (of an offset, or of a gain that depends on temperature) shows only
in averages over hundreds. So where it is asked for, some hidden units are set to exponential averages of each
feature before, with the time constants `AVERAGES_SAMPLES` (first-order Laguerre filters, Wahlberg, IEEE
Trans. Automatic Control 36, 1991), and take part in the least squares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from scipy.signal import lfilter
from torch import Tensor, nn

from twin.families import Cell
from twin.models.arx import Arx
from twin.models.recurrent import Recurrent
from twin.models.ridge import RIDGE_SHARE, ridge, taps_of
from twin.models.window_rnn import WindowRNN

AVERAGES_SAMPLES: Final = (32, 128)
"""Time constants of the slow averages, in samples."""
MIN_SAMPLES_PER_MEMORY: Final = 20
"""Samples of training data for each sample of a time constant, below which that average is left out: with
less data the averages overfit."""
_AVERAGE_INPUT_SHARE: Final = 0.1  # of a feature's deviation that enters a unit: there tanh is linear
_PASSED_SHARE: Final = 0.1  # of a feature that enters a unit which passes it on
_UNSETTLED_SAMPLES: Final = 50  # of a stretch, its first, that are not fitted: the averages begin at zero


@torch.no_grad()
def fit_linear(
    core: nn.Module, pairs: Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any]]], *, averages: bool = False
) -> None:
    """Set a core to the linear model that least squares finds from stretches of consecutive samples x (T, F)
    to what is to be answered after each, dy (T, P), both scaled.

    With `averages`, some hidden units of a recurrent one become slow averages of the signals; otherwise the
    hidden state does not take part in it yet. For a core of the user's, nothing happens. A stretch too short
    for the taps is left out.
    """
    match core:
        case Arx() | Recurrent():
            taps = core.taps
        case WindowRNN() if core.net.hidden_size >= core.net.input_size:
            taps = core.window
        case _:
            return
    memories = _memories(core, sum(len(x) for x, _ in pairs)) if averages else []
    moment, target = [], []
    for x, dy in pairs:
        if len(x) < 2 * taps:
            continue
        n = np.tanh(_AVERAGE_INPUT_SHARE * x)
        slow = [lfilter([1 / memory], [1, 1 / memory - 1], n, axis=0)[taps - 1 :] for memory in memories]
        settled = min(_UNSETTLED_SAMPLES, (len(x) - taps) // 4) if memories else 0
        columns = (*slow, taps_of(x, taps), np.ones((len(x) - taps + 1, 1)))
        moment.append(np.hstack(columns)[settled:])
        target.append(dy[taps - 1 :][settled:])
    if not moment:
        return
    solution = torch.from_numpy(ridge(np.vstack(moment), np.vstack(target), RIDGE_SHARE).T)  # (P, K)
    units = len(memories) * pairs[0][0].shape[1]
    of_averages, direct, offset = solution[:, :units], solution[:, units:-1], solution[:, -1]
    if isinstance(core, WindowRNN):
        _pass_on(core, direct, offset)
        return
    if isinstance(core, Recurrent) and memories:
        _average(core, memories)
    weight = core.readout.weight.zero_()
    weight[:, :units] = of_averages
    weight[:, -direct.shape[1] :] = taps * direct
    core.readout.bias.copy_(offset)


def _memories(core: nn.Module, samples: int) -> list[int]:
    """The time constants for which a core has units, and the data samples enough."""
    if not isinstance(core, Recurrent) or core.net.num_layers > 1:
        return []
    found = [memory for memory in AVERAGES_SAMPLES if MIN_SAMPLES_PER_MEMORY * memory <= samples]
    return found if 2 * len(found) * core.net.input_size <= core.net.hidden_size else []  # half of the units


def _pass_on(core: WindowRNN, direct: Tensor, offset: Tensor) -> None:
    """Let the first units of each layer pass on one feature x each, as 1 + x / 10: a ReLU is linear there for
    all that is not ten deviations low. The readout (P, L, H) of these units is then an ARX model of order
    L."""
    features, hidden = core.net.input_size, core.net.hidden_size
    first = torch.arange(features)
    for layer, (w_x, w_h, b_x, b_h) in enumerate(core.net.all_weights):
        for tensor in (w_x, w_h, b_x, b_h):
            tensor[:features] = 0.0
        w_x[first, first] = 1.0 if layer else _PASSED_SHARE
        if not layer:
            b_x[:features] = 1.0
    weight = core.readout.weight.zero_().view(len(direct), core.window, hidden)
    weight[:, :, :features] = (direct / _PASSED_SHARE).view(len(direct), core.window, features)
    core.readout.bias.copy_(offset - direct.sum(1) / _PASSED_SHARE)


def _average(core: Recurrent, memories: Sequence[int]) -> None:
    """Make the first hidden units exponential averages of each feature over each memory."""
    (w_x, w_h, b_x, b_h), hidden = core.net.all_weights[0], core.net.hidden_size
    features = core.net.input_size
    for unit in range(len(memories) * features):
        memory, feature = memories[unit // features], unit % features
        for tensor in (w_x, w_h, b_x, b_h):
            tensor[unit::hidden] = 0.0
        keep = math.log(memory - 1.0)  # its logistic is 1 - 1 / memory
        if core.cell is Cell.GRU:  # h = z h + (1 - z) tanh(x)
            b_x[hidden + unit] = keep
            w_x[2 * hidden + unit, feature] = _AVERAGE_INPUT_SHARE
        elif core.cell is Cell.LSTM:  # c = f c + i tanh(x), h = o tanh(c)
            b_x[unit], b_x[hidden + unit], b_x[3 * hidden + unit] = -keep, keep, 10.0
            w_x[2 * hidden + unit, feature] = _AVERAGE_INPUT_SHARE
        else:  # h = tanh(w h + x)
            w_h[unit, unit] = 1.0 - 1.0 / memory
            w_x[unit, feature] = _AVERAGE_INPUT_SHARE / memory
