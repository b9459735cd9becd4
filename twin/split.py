"""Recordings of one plant, divided into what is learned from and what is judged on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twin.errors import RecordingError
from twin.messages import Spec

HELD_OUT_SHARE: Final = 0.15
"""Share of each recording, its newest, that is not trained on: models are validated on it."""
PART_SAMPLES: Final = 2_500
"""Samples, about, of the parts into which a longer recording is cut. The newest share of each part is held
out, so that models are validated on all that happens in the recording rather than on how it ends."""
MIN_RECORDING_SAMPLES: Final = 60
"""Samples of the shortest recording that can be divided into one part to train on and one to validate on."""
MAX_WARM_UP_SAMPLES: Final = 200
"""Measured samples of a training window that warm the hidden state; fewer of short recordings."""
MAX_FREE_RUN_SAMPLES: Final = 128
"""Samples of a training window over which the model then runs free; fewer of short recordings."""
MAX_JUDGED_SAMPLES: Final = 1_024
"""Samples, at most, over which a model that is judged runs free."""
RUNAWAY_WINDOWS: Final = 8
"""Long windows on which it is seen whether a model's free run stays in the range of the recordings."""
MAX_RUNAWAY_SAMPLES: Final = 2_000
"""Samples of each, at most."""
MAX_HELD_OUT_WINDOWS: Final = 128
"""Held-out windows on which a model is validated: more would take the time from training."""

Array = NDArray[np.float64]


class Split:
    """Recordings (T, F), divided into what is learned from and what is judged on.

    `stretches` are learned from; `samples` (T, F) are all of them, one after the other, and `starts` where
    whole windows of `warm` + `length` samples begin, each inside one. `held` are windows to judge on, whose
    samples after the warm-up come later than all that is learned from; `long` (B, T, F) are for runaways.
    """

    def __init__(self, records: Sequence[Array]) -> None:
        parts = [part for z in records for part in np.array_split(z, max(len(z) // PART_SAMPLES, 1))]
        ends = [round((1.0 - HELD_OUT_SHARE) * len(z)) for z in parts]
        self.stretches = [z[:end] for z, end in zip(parts, ends, strict=True)]
        self.samples = torch.from_numpy(np.concatenate(self.stretches).astype(np.float32))
        shortest = min(ends)
        self.warm = min(MAX_WARM_UP_SAMPLES, shortest // 3)
        self.length = min(MAX_FREE_RUN_SAMPLES, shortest // 3)
        self.held = held_out(parts, ends, self.warm, MAX_JUDGED_SAMPLES)
        lengths = [len(z) for z in self.stretches]
        firsts, size = np.cumsum([0, *lengths[:-1]]), self.warm + self.length
        self.starts = np.concatenate(
            [a + np.arange(n - size + 1) for a, n in zip(firsts, lengths, strict=True)]
        )
        longest = max(records, key=len)
        size = min(len(longest), self.warm + MAX_RUNAWAY_SAMPLES)
        begins = np.unique(np.linspace(0, len(longest) - size, RUNAWAY_WINDOWS).astype(int))
        self.long = torch.from_numpy(np.stack([longest[k : k + size] for k in begins]).astype(np.float32))


def held_out(records: Sequence[Array], ends: Sequence[int], warm: int, length: int) -> Tensor:
    """Windows (B, warm + length, F) whose samples after the warm-up come after the recordings' `ends`."""
    windows, each = [], max(MAX_HELD_OUT_WINDOWS // len(records), 1)
    shortest = min(len(z) - end for z, end in zip(records, ends, strict=True))
    length = min(length, -(-shortest // 2))  # so that windows begin in many places
    for z, end in zip(records, ends, strict=True):
        starts = np.unique(np.linspace(end, len(z) - length, each).astype(int))
        windows += [z[start - warm : start + length] for start in starts]
    return torch.from_numpy(np.stack(windows).astype(np.float32))


def check(records: Sequence[Array], spec: Spec) -> None:
    """Refuse recordings from which nothing can be learned.

    Raises:
        RecordingError: one that is too short, or signals that do not move.
    """
    for i, z in enumerate(records, 1):
        if len(z) < MIN_RECORDING_SAMPLES:
            raise RecordingError(
                f"recording {i} of {len(records)} has {len(z)} samples; to learn from some and judge on "
                f"others, {MIN_RECORDING_SAMPLES} are needed: give a longer one"
            )
    z = np.concatenate(records)
    for column, name in enumerate(spec.features):
        if z[:, column].std() <= 1e-6 * np.abs(z[:, column]).max():
            kind = "input" if column < len(spec.inputs) else "output"
            raise RecordingError(
                f"the {kind} {name} does not move: nothing can be learned of it; leave it out, or give a "
                "recording in which it moves"
            )
