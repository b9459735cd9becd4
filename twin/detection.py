"""What a twin knows of its own errors: an interval for each answer, and an alarm when they are no longer
usual.

**Intervals** by adaptive conformal inference (I. Gibbs and E. Candès, "Adaptive conformal inference under
distribution shift", NeurIPS 2021) in the form of an online quantile tracker (A. Angelopoulos, E. Candès and
R. Tibshirani, "Conformal PID control for time series prediction", NeurIPS 2023, section 2.1). Around an
answer ŷ lies ŷ ± q s: s is the mean absolute residual of the last samples, and q moves with each residual r,

    q ← q + η (1[|r| > q s] - α),    s ← s + (|r| - s) / 50.

Nothing is assumed of the residuals. Summed over any n samples, the share outside differs from α by no more
than |q_end - q_start| / (η n): with η = 0.02 and a q that stays within some units, by less than 1 % over
20,000.

**Alarms** by CUSUM (E. S. Page, Biometrika 41, 1954) of two statistics of each output's residual r: r itself,
two-sided (a sensor that is off), and r² (errors in either direction, as of another resistance under voltages
of both signs). Each is standardised by its own slow mean and deviation, and cut off at a few of them, so that
no outlier makes an alarm and an adapting model hides nothing.

Below its threshold a CUSUM's excursions have an exponential tail (Lundberg's inequality), so that the largest
of each block of samples follows Gumbel's distribution. Its mean and deviation are taken from the stream
itself, and the threshold is where one block in 100,000 goes beyond: no tuning to a plant, and the first alarm
not before 24 blocks, 14,000 samples, after the first model.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from twin.kernels import detection as kernel
from twin.messages import Spec

MIN_RESIDUALS: Final = 100
"""Residuals before there is an interval."""
STUCK_REPEATS: Final = 4
"""Times that the same value has come again, bit for bit, while another was expected."""
FALSE_ALARM_BLOCKS: Final = 1e5
"""Blocks in which one alarm may be false, of all statistics together: 14 hours at 1 kHz, were the tail as
stated."""


@dataclass(frozen=True)
class Alarm:
    """The residuals of an output have become unusual, or are usual again (`over`)."""

    output: str
    kind: str
    """One of `twin.kernels.detection.STATISTICS`, or "stuck"."""
    text: str
    t: float
    figures: dict[str, float]
    over: bool = False


class Detection:
    """The memory of one twin's intervals and alarms, and what is read from it.

    A call of `step` for each answer; it is on the way of every sample, so it only hands over. `memory` is
    where it keeps its numbers, from the first on; others of the twin may follow (`twin.frames`).
    """

    def __init__(self, spec: Spec, memory: NDArray[np.float64] | None = None) -> None:
        self.spec = spec
        outputs = len(spec.outputs)
        self._at = at = kernel.places(outputs)
        self._memory = memory = (np.zeros(at.size) if memory is None else memory)[: at.size]
        memory[at.rare] = math.log(FALSE_ALARM_BLOCKS * 2 * outputs * kernel.K)
        self._own = memory[at.own :].reshape(outputs, kernel.OUTPUT_SIZE)
        self._own[:, kernel.Q] = kernel.FIRST_WIDTH
        self._table = self._own[:, kernel.TABLE :].reshape(outputs, kernel.K, kernel.FIELDS)
        self._table[:, :, kernel.THRESHOLD] = math.inf
        self._run = kernel.detector(outputs)
        self._address = memory.ctypes.data
        self._give = struct.Struct(f"={1 + 2 * outputs}d").pack_into
        self._bytes = memory.data.cast("B")
        self._results = memory[at.changed : at.own]
        self._alarmed = [False] * outputs

    def step(self, learn: float, measured: Sequence[float], answered: Sequence[float]) -> list[float]:
        """Take in y (P) of a sample and the ŷ (P) that answers it; `learn` is one of the kernel's levels.

        Returns whether an alarm began or ended, then the residuals (P) if `learn` says that there are any,
        and low (P) and high (P) of the answer.
        """
        self._give(self._bytes, 0, learn, *measured, *answered)
        self._run(self._address)
        results: list[float] = self._results.tolist()
        return results

    @property
    def measured(self) -> list[float]:
        """y (P) of the newest sample."""
        at = self._at
        values: list[float] = self._memory[at.measured : at.answered].tolist()
        return values

    @property
    def expected(self) -> NDArray[np.float64]:
        """ŷ (P) of the next sample, as it was published: a view."""
        return self._memory[self._at.expected : self._at.changed]

    @property
    def has_intervals(self) -> bool:
        """Whether there have been enough residuals for an interval."""
        return bool(self._own[0, kernel.COUNT] >= MIN_RESIDUALS)

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """Of each output's CUSUMs (P, K); infinite while there is none."""
        return self._table[:, :, kernel.THRESHOLD].copy()

    @property
    def alarmed(self) -> bool:
        """Whether there is an alarm that is not over."""
        return any(self._alarmed)

    def relearn(self) -> None:
        """The first model answers: learn anew what is usual. Later ones find it, as what it adapts to."""
        self._own[:, [kernel.ALARM, kernel.CALM, kernel.AGE, kernel.SEEN]] = 0.0
        self._table[:] = 0.0
        self._table[:, :, kernel.THRESHOLD] = math.inf
        self._alarmed = [False] * len(self._alarmed)

    def begun_or_over(self, t: float) -> list[Alarm]:
        """Those that began or ended with the last step, at the time `t`."""
        found = []
        for p, name in enumerate(self.spec.outputs):
            own = self._own[p]
            if own[kernel.ALARM] > 0.0 and not self._alarmed[p]:
                found.append(self._alarm(p, name, t))
            elif own[kernel.ALARM] == 0.0 and self._alarmed[p]:
                found.append(Alarm(name, "over", f"{name}: errors are usual again", t, {}, over=True))
            self._alarmed[p] = bool(own[kernel.ALARM])
        return found

    def _alarm(self, p: int, name: str, t: float) -> Alarm:
        own, unit = self._own[p], self.spec.unit(name)
        residual = float(self._memory[self._at.residual + p])
        usual = math.sqrt(self._table[p, 0, kernel.VAR])
        kind = kernel.STATISTICS[int(own[kernel.ALARM]) - 2]
        how = {
            "offset": "is off from what is expected",
            "spread": "is farther from what is expected than it usually is",
        }[kind]
        if own[kernel.REPEATS] >= STUCK_REPEATS:
            kind, how = "stuck", f"is stuck at {own[kernel.LAST]:.6g} {unit}"
        text = f"{name} {how}: by {residual:.3g} {unit} now, {usual:.3g} {unit} rms usually"
        figures = {"residual": residual, "usual": usual, "repeats": float(own[kernel.REPEATS])}
        return Alarm(name, kind, " ".join(text.split()), t, figures)
