"""Passes of a motor's filter over a recording, compiled: what identification runs again and again."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Final

from twin.kernels.cache import kept
from twin.kernels.kalman import Filter, adapt, begin, measure, predict, take_parameters
from twin.kernels.kalman_reference import GATE_SIGMA, JOINT, STATES

SETTLING_SAMPLES: Final = 32
"""Of a stretch, which the likelihood leaves out: the filter has only begun."""


@partial(kept, fastmath={"contract"}, nogil=True)
def run(k: Filter, z: Any, dt: float, learn: bool, sums: Any) -> None:
    """Filter the samples z (T, 3) of one stretch, with parameters that are learned or not.

    `sums` (8,) gains the negative logarithm of the likelihood, the number of samples in it, the sums of the
    squares of the load, of the normalised innovations of current and speed, and of their products with those
    before.
    """
    n = JOINT if learn else STATES
    x, cov = k.x, k.cov
    last_i = last_w = 0.0
    begin(k, z[0, 1], z[0, 2])
    for t in range(len(z)):
        s0, s1 = cov[0, 0] + k.noise[0] * k.noise[0], cov[1, 1] + k.noise[1] * k.noise[1]
        e0, e1 = (z[t, 1] - x[0]) / math.sqrt(s0), (z[t, 2] - x[1]) / math.sqrt(s1)
        first, second = measure(k, n, dt, z[t, 1], z[t, 2])
        if t >= SETTLING_SAMPLES:
            first, second = min(first, GATE_SIGMA * GATE_SIGMA), min(second, GATE_SIGMA * GATE_SIGMA)
            sums[0] += 0.5 * (math.log(s0) + first + math.log(s1) + second)
            sums[1] += 1.0
            sums[2] += x[2] * x[2]
            sums[3] += first
            sums[4] += second
            e0, e1 = min(max(e0, -GATE_SIGMA), GATE_SIGMA), min(max(e1, -GATE_SIGMA), GATE_SIGMA)
            sums[5] += e0 * last_i
            sums[6] += e1 * last_w
            last_i, last_w = e0, e1
        if learn:
            take_parameters(k)
        predict(k, n, dt, z[t, 0])


@partial(kept, fastmath={"contract"}, nogil=True)
def run_adapting(k: Filter, z: Any, dt: float) -> None:
    """Filter the samples z (T, 3) of one stretch as a twin that adapts does."""
    begin(k, z[0, 1], z[0, 2])
    for t in range(len(z)):
        adapt(k, dt, z[t, 0], z[t, 1], z[t, 2])
