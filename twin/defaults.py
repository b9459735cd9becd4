"""What holds where nobody has chosen: for a library's caller and on the command line alike."""

from __future__ import annotations

from typing import Final

WINDOW: Final = 100
"""Samples in the rolling window: what warms a new model's hidden state."""
ADAPT: Final = True
"""Whether a model learns from every sample, between the refits."""
BACKEND: Final = "compiled"
"""The way to run a step."""
MOTOR: Final = "qube-servo-3"
"""The motor that is simulated."""
