"""What `simulate` asks of a plant: a differential equation with modes, and what its sensors see.

A plant with dry friction has different equations in different modes (forward, backward, stuck), and the
instant at which one gives way to the next belongs to the solution: a step across it would smear it. So a
plant states, beside the right-hand side of each mode, a margin that is positive while the mode lasts. This
is the usual form of a differential equation with a discontinuous right-hand side (A. F. Filippov,
"Differential Equations with Discontinuous Righthand Sides", Kluwer 1988; E. Hairer, S. P. Nørsett,
G. Wanner, "Solving Ordinary Differential Equations I", II.6). A smooth plant has one mode, margin (1, 0).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from twin.messages import Spec

Vector = tuple[float, ...]
"""State or inputs of one plant, in the order that the plant states."""

Rhs = Callable[[float, NDArray[np.float64]], Vector]
"""dx/dt at a time and a state. A closure over parameters and inputs: it is called thirty times a sample."""


class Plant(Protocol):
    """A system dx/dt = f(t, x) with an f = rhs(u, mode) for inputs u held over a sample.

    All methods are pure functions; the caller keeps the state.
    """

    @property
    def initial(self) -> Vector:
        """State at t = 0."""
        ...

    @property
    def quickest(self) -> float:
        """Shortest time constant, s: where an integrator begins to look for its step."""
        ...

    @property
    def half_swing(self) -> float:
        """Time, s, in which a margin turns at most once: half a period of the quickest oscillation, inf where
        there is none."""
        ...

    def spec(self, dt: float) -> Spec:
        """Names and units of the measured signals at a sample time of `dt` seconds."""
        ...

    def rhs(self, u: Vector, mode: int) -> Rhs:
        """dx/dt as a function of t and x, for inputs that are held."""
        ...

    def mode(self, x: Vector, u: Vector) -> int:
        """The mode in which the plant goes on from `x` under the inputs `u`."""
        ...

    def margin(self, x: Vector, u: Vector, mode: int) -> tuple[float, float]:
        """How far `x` is from the end of the mode, positive while it lasts, and the rate of that, 1/s."""
        ...

    def switch(self, x: Vector, u: Vector, mode: int) -> tuple[Vector, int]:
        """State and mode just after `mode` has ended at `x`."""
        ...

    def measure(self, x: Vector, u: Vector) -> dict[str, float]:
        """What ideal sensors read."""
        ...
