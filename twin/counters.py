"""What a twin counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """What happened to the stream, counted since the twin was made."""

    answered: int = 0
    gaps: int = 0
    """Times that `seq` jumped."""
    lost: int = 0
    """Samples that never came."""
    bridged: int = 0
    """Lost samples over which the model ran free, so that the hidden state kept its place in time."""
    rejected: int = 0
    """Samples with other signals than the Spec's, with values that are not finite, or repeated."""
    restarts: int = 0
    """Times that the plant began anew."""
    swaps: int = 0
    """Models taken up."""
    invalid: int = 0
    """Predictions that were not finite and were replaced by persistence."""
    alarms: int = 0
    """Times that the residuals of an output became unusual."""
