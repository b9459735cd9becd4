"""The linear model from which training begins, in closed form, with slow averages of the signals.

The taps of a model's direct term reach back a few samples. A drift (of an offset, or of a gain that depends
on temperature) shows only in averages over hundreds of samples. So before training some hidden units are set
to exponential averages of each feature, with the time constants `AVERAGES_SAMPLES` (first-order Laguerre
filters, Wahlberg, IEEE Trans. Automatic Control 36, 1991). Least squares then fits the readout to the
averages and the taps, and the result already runs free.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from scipy.signal import lfilter

from twin.families import Cell
from twin.models.arx import Arx
from twin.models.network import Network
from twin.models.recurrent import Recurrent
from twin.models.ridge import ridge, taps_of

AVERAGES_SAMPLES: Final = (32, 128)
"""Time constants of the slow averages, in samples."""
MIN_SAMPLES_PER_MEMORY: Final = 20
"""Samples of training data for each sample of a time constant, below which that average is left out: with
less data the averages overfit."""
RIDGE_SHARE: Final = 1e-9
"""Ridge penalty, as a share of a regressor's variance. It only decides between solutions that are equally
good: between neighbouring samples of a position, the speed has a millionth of the variance, and must not be
shrunk."""
_AVERAGE_INPUT_SHARE: Final = 0.1  # of a feature's deviation that enters a unit: there tanh is linear
_UNSETTLED_SAMPLES: Final = 50  # of a stretch, its first, that are not fitted: the averages begin at zero


@torch.no_grad()
def fit_linear(model: Network, stretches: Sequence[npt.NDArray[Any]], *, averages: bool = True) -> None:
    """Set a one-layer model to the linear one that least squares finds for consecutive samples z (T, F).

    Without `averages`, only the taps are fitted. For a family without a direct term, nothing happens. A
    stretch too short for the taps is left out.
    """
    core = model.core
    if not isinstance(core, Arx | Recurrent):
        return
    hidden, memories = 0, list[int]()
    if isinstance(core, Recurrent):
        if core.net.num_layers > 1:
            return
        hidden = core.net.hidden_size
        if averages:
            memories = [
                memory
                for memory in AVERAGES_SAMPLES
                if MIN_SAMPLES_PER_MEMORY * memory <= sum(map(len, stretches))
            ]
        if hidden < 2 * len(memories) * core.net.input_size:  # at most half of the units
            memories = []
        _average(core, memories)
    scaling, taps, moment, target = model.scaling, core.taps, [], []
    for z in stretches:
        x = (np.asarray(z, np.float64) - scaling.mean) / scaling.scale
        if len(x) <= 2 * taps:
            continue
        n = np.tanh(_AVERAGE_INPUT_SHARE * x)
        slow = [lfilter([1 / memory], [1, 1 / memory - 1], n, axis=0) for memory in memories]
        columns = [*(a[taps - 1 : -1] for a in slow), taps_of(x, taps)[:-1]]
        dy = np.diff(z[taps - 1 :, model.n_inputs :], axis=0) / scaling.increment_scale
        settled = min(_UNSETTLED_SAMPLES, len(dy) // 4)
        moment.append(np.hstack([*columns, np.ones((len(dy), 1))])[settled:])
        target.append(dy[settled:])
    if not moment:
        return
    solution = _least_squares(np.vstack(moment), np.vstack(target))
    units = len(memories) * len(scaling.mean)
    weight = core.readout.weight.zero_()
    weight[:, :units] = torch.from_numpy(solution[:units].T)
    weight[:, hidden:] = torch.from_numpy(taps * solution[units:-1].T)
    core.readout.bias.copy_(torch.from_numpy(solution[-1]))


def _least_squares(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The ridge solution (K, P) of a (T, K) to b (T, P); the last column of a, ones, is not shrunk."""
    spread = a.std(axis=0)
    size = np.where(spread > 0, spread, 1.0)
    return np.asarray(ridge(a / size, b, RIDGE_SHARE) / size[:, None], np.float64)


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
