"""The gate before a refit: does a history move enough to learn from?"""

from __future__ import annotations

from typing import Final

import numpy as np

from twin.history import History, excitation
from twin.messages import Spec
from twin.validation import Verdict

MIN_EIGENVALUE: Final = 1e-9
"""Of the covariance of an input's neighbouring samples, over its largest square: less is rounding."""
MIN_OUTPUT_SPREAD: Final = 1e-6
"""Of an output's largest value: less is rounding of float32 samples."""
REST_POWER_SHARE: Final = 1e-4
"""An input whose newest fluctuations have less than this share of the power of its fluctuations in the whole
history is at rest."""


def excited(history: History, spec: Spec, newest: int, end: int) -> Verdict:
    """Whether a history, up to a count `end` and with so many `newest` samples, moves enough to learn from.

    The input must be persistently exciting of order two: the covariance of (u(k), u(k-1)) must not be
    singular (Ljung, System Identification, 2nd ed., definition 13.1; a motor at rest or under constant
    voltage teaches nothing, and fitting it only unlearns), and every output must move. The newest part, from
    which half of what is fitted comes, must not be at rest after the rest of it has moved.
    """
    z, inputs = history.view(), len(spec.inputs)
    power = np.maximum(np.abs(z[:, :inputs]).max(axis=0) ** 2, np.finfo(np.float64).tiny)
    whole, recent = (excitation(part[:, :inputs]) / power for part in (z, z[-2 * newest :]))
    weakest, name = min(zip(whole.tolist(), spec.inputs, strict=True))
    still = [
        signal
        for column, signal in enumerate(spec.outputs, inputs)
        if z[:, column].std() <= MIN_OUTPUT_SPREAD * np.abs(z[:, column]).max()
    ]
    figures = {"excitation": weakest, "samples": float(len(z))}
    if weakest <= MIN_EIGENVALUE:
        return Verdict(False, f"too little excitation: {name} hardly moves", figures)
    if (recent < REST_POWER_SHARE * whole).all():
        return Verdict(False, f"at rest: no input has moved in the newest {2 * newest} samples", figures)
    if still:
        return Verdict(False, f"nothing to learn: {', '.join(still)} does not move", figures)
    if not len(history.starts(0, end)):
        return Verdict(False, "no unbroken stretch is long enough for a segment", figures)
    return Verdict(True, f"{len(z)} samples, excited", figures)
