"""A brushed DC motor with dry friction, and a few motors by name.

    L di/dt = v - R i - K_e ω
    J dω/dt = K_t i - b ω - τ_c sgn(ω) - τ_L

in the motor convention: v, i > 0 give ω > 0, and a load τ_L > 0 opposes positive rotation.

**Friction.** At ω = 0 the right-hand side jumps, so the motor is a system with three modes: forward (ω > 0),
backward (ω < 0) and stuck. It is stuck when it stands and the friction can balance the other torques,
|K_t i - τ_L| ≤ τ_c; then dω/dt = 0 *exactly* and the friction is whatever balances them. That is the sliding
mode of Filippov's solution, and Karnopp's model (D. Karnopp, "Computer simulation of stick-slip friction in
mechanical dynamic systems", ASME J. Dyn. Sys. Meas. Control 107(1), 1985, 100-103) without its band of small
speeds, which is only needed where the instant of standstill is not located. Here it is: `margin` passes
through zero at standstill and at breakaway, `simulate` finds its root, and `switch` says what follows.
So a standing motor stays where it is, nothing chatters, and sgn is never smeared by a tanh. Breakaway and
sliding friction are equal.

>>> MOTORS["qube-servo-3"].stall_torque(10.0)  # N·m
0.05626...
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulators.plant import Rhs, Vector
from twin.errors import ConfigError
from twin.messages import Spec

RPM: Final = 2 * math.pi / 60
"""One revolution per minute in rad/s."""


MIN_TIME_CONSTANT_SEC: Final = 1e-6
"""Shortest time constant of a motor: an explicit method takes some steps in each."""


class Figure(NamedTuple):
    """A figure of a data sheet which the parameters must reproduce: evidence that they fit together."""

    quantity: str
    """Name of the method or attribute of `DCMotor` that computes it."""
    voltage: float | None
    """Its argument, V; None where it has none."""
    value: float
    """What the data sheet says, in SI units."""
    tolerance: float
    """Relative difference allowed: the rounding and the contradictions of the data sheet itself."""


@dataclass(frozen=True, kw_only=True)
class DCMotor:
    """The parameters of a motor and its equations; `dataclasses.replace` makes a variant.

    Raises:
        ConfigError: a parameter that is not finite or not positive (friction may be zero).
    """

    resistance: float
    """Armature (terminal) resistance R, ohm."""
    inductance: float
    """Armature (terminal) inductance L, H."""
    torque_constant: float
    """Torque constant K_t, N·m/A."""
    back_emf: float
    """Back-EMF constant K_e, V·s/rad: 60 / (2 π k_n) of a speed constant k_n in rpm/V."""
    inertia: float
    """Moment of inertia J of rotor and whatever is fixed to it, kg·m²."""
    viscous_friction: float = 0.0
    """Viscous friction b, N·m·s/rad."""
    coulomb_friction: float = 0.0
    """Coulomb (dry) friction τ_c, N·m; the breakaway torque as well."""
    rated_voltage: float = 12.0
    """Voltage that the default excitation reaches, V."""
    rated_torque: float = 0.02
    """Torque that the motor can give for long, N·m: the measure of the default load."""
    name: str = "dc-motor"
    """What people call it."""
    source: str = ""
    """Where the values come from, and which are assumptions."""
    figures: tuple[Figure, ...] = ()
    """What the data sheet says about the motor beside its parameters."""

    def __post_init__(self) -> None:
        for parameter, unit in PARAMETER_UNITS.items():
            value, may_be_zero = getattr(self, parameter), parameter.endswith("friction")
            if not math.isfinite(value) or value < 0 or (value == 0 and not may_be_zero):
                wanted = "zero or a positive number" if may_be_zero else "a positive number"
                raise ConfigError(f"{self.name}: {parameter} = {value} {unit}: give {wanted} in {unit}")
        if self.quickest < MIN_TIME_CONSTANT_SEC:
            raise ConfigError(
                f"{self.name}: a time constant of {self.quickest:.3g} s; "
                f"below {MIN_TIME_CONSTANT_SEC:g} s a simulation takes for ever; raise inductance or inertia"
            )

    @property
    def initial(self) -> Vector:
        """State (current i in A, speed ω in rad/s) at the start: at rest."""
        return (0.0, 0.0)

    @property
    def quickest(self) -> float:
        """The electrical time constant, s, as long as it is the shorter one."""
        return min(self.electrical_time_constant, self.mechanical_time_constant)

    @property
    def half_swing(self) -> float:
        """π / |Im λ| of the poles λ, s: a speed turns once in that time; inf: real poles."""
        a, d = self.resistance / self.inductance, self.viscous_friction / self.inertia
        coupling = self.torque_constant * self.back_emf / (self.inductance * self.inertia)
        square = coupling - (a - d) ** 2 / 4
        return math.pi / math.sqrt(square) if square > 0 else math.inf

    def spec(self, dt: float) -> Spec:
        """One input, the voltage; two outputs, current and speed. The load torque is not measured."""
        return Spec(
            inputs=("voltage",),
            outputs=("current", "speed"),
            dt=dt,
            units={"voltage": "V", "current": "A", "speed": "rad/s"},
            plant=f"{self.name}, simulated",
        )

    def rhs(self, u: Vector, mode: int) -> Rhs:
        """(di/dt, dω/dt) in A/s and rad/s², for x = (i, ω) and u = (v, τ_L) in V and N·m.

        `mode` is 1 forward, -1 backward, 0 stuck.
        """
        v, load = u
        r, l, j = self.resistance, self.inductance, self.inertia  # noqa: E741
        k_t, k_e, b = self.torque_constant, self.back_emf, self.viscous_friction
        friction = mode * self.coulomb_friction

        def moving(t: float, x: NDArray[np.float64]) -> Vector:
            i, w = x.tolist()
            return (v - r * i - k_e * w) / l, (k_t * i - b * w - friction - load) / j

        def stuck(t: float, x: NDArray[np.float64]) -> Vector:
            return (v - r * float(x[0])) / l, 0.0

        return moving if mode else stuck

    def mode(self, x: Vector, u: Vector) -> int:
        """Forward, backward or stuck; a motor without dry friction has one mode only, called forward."""
        i, w = x
        if w or not self.coulomb_friction:
            return 1 if w > 0 or not self.coulomb_friction else -1
        return self._slip(self.torque_constant * i - u[1])

    def margin(self, x: Vector, u: Vector, mode: int) -> tuple[float, float]:
        """While it moves, the speed in the mode's direction; while stuck, the friction still in reserve."""
        i, w = x
        if not self.coulomb_friction:
            return 1.0, 0.0
        torque = self.torque_constant * i - u[1]
        if not mode:
            rate = self.torque_constant * (u[0] - self.resistance * i) / self.inductance
            return self.coulomb_friction - abs(torque), -rate if torque > 0 else rate
        rate = (torque - self.viscous_friction * w - mode * self.coulomb_friction) / self.inertia
        return mode * w, mode * rate

    def switch(self, x: Vector, u: Vector, mode: int) -> tuple[Vector, int]:
        """At standstill: stick, or pass through zero. At breakaway: go where the torque pulls."""
        i = x[0]
        torque = self.torque_constant * i - u[1]
        return (i, 0.0), self._slip(torque) if mode else (1 if torque > 0 else -1)

    def measure(self, x: Vector, u: Vector) -> dict[str, float]:
        """Current in A and speed in rad/s."""
        return {"current": x[0], "speed": x[1]}

    def _slip(self, torque: float) -> int:
        """The mode of a motor that stands, from the torque on its friction, N·m."""
        if abs(torque) <= self.coulomb_friction:
            return 0
        return 1 if torque > 0 else -1

    @property
    def electrical_time_constant(self) -> float:
        """L / R, s."""
        return self.inductance / self.resistance

    @property
    def mechanical_time_constant(self) -> float:
        """R J / (K_t K_e), s: of the speed, with L and b neglected, as data sheets define it."""
        return self.resistance * self.inertia / (self.torque_constant * self.back_emf)

    def stall_current(self, voltage: float) -> float:
        """Current of the blocked motor, A."""
        return voltage / self.resistance

    def stall_torque(self, voltage: float) -> float:
        """Torque of the blocked motor before friction, N·m, as data sheets define it."""
        return self.torque_constant * self.stall_current(voltage)

    def no_load_speed(self, voltage: float) -> float:
        """Steady speed without load, rad/s; zero if the friction holds the motor."""
        drive = abs(self.stall_torque(voltage)) - self.coulomb_friction
        damping = self.viscous_friction + self.torque_constant * self.back_emf / self.resistance
        return math.copysign(max(drive, 0.0) / damping, voltage)

    def no_load_current(self, voltage: float) -> float:
        """Steady current without load, A."""
        return (voltage - self.back_emf * self.no_load_speed(voltage)) / self.resistance


PARAMETER_UNITS: Final = {
    "resistance": "ohm",
    "inductance": "H",
    "torque_constant": "N·m/A",
    "back_emf": "V·s/rad",
    "inertia": "kg·m²",
    "viscous_friction": "N·m·s/rad",
    "coulomb_friction": "N·m",
    "rated_voltage": "V",
    "rated_torque": "N·m",
}
"""Every numeric parameter of a motor with its unit."""

DEFAULT_MOTOR: Final = "qube-servo-3"
"""The motor of the theory, where none is named; `twin.defaults.MOTOR` is what the commands simulate."""

MOTORS: Final = {
    "qube-servo-3": DCMotor(
        name="qube-servo-3",
        resistance=7.5,
        inductance=1.15e-3,
        torque_constant=0.0422,
        back_emf=0.0422,
        inertia=1.4e-6 + 0.6e-6 + 0.053 * 0.0248**2 / 2,  # rotor, hub, disc m r² / 2
        viscous_friction=5e-6,
        coulomb_friction=0.0422 * 0.65 / 7.5,  # K_t / R times the voltage below which nothing moves
        rated_voltage=10.0,
        rated_torque=20.4e-3,
        source=(
            "Quanser Qube-Servo 3 user manual, table 2.2 (system parameters), with the inertia disc. Dry "
            "friction from the default deadband of 0.65 V in that table, read as breakaway: an assumption. "
            "Viscous friction: an assumption, 2 % of the electrical damping K²/R."
        ),
        figures=(
            Figure("no_load_speed", 24.0, 5400 * RPM, 0.06),  # called nominal speed, is 24 V / K less 1 %
            Figure("stall_current", 15.0, 1.8, 0.12),  # the peak with its amplifier
            Figure("torque_constant", None, 20.4e-3 / 0.5, 0.04),  # nominal torque / nominal current
        ),
    ),
    "maxon-re25": DCMotor(
        name="maxon-re25",
        resistance=2.18,
        inductance=0.238e-3,
        torque_constant=23.4e-3,
        back_emf=1 / (407 * RPM),
        inertia=10.3e-7,
        coulomb_friction=6.15e-4,
        rated_voltage=12.0,
        rated_torque=28.6e-3,
        source=(
            "maxon RE 25, 10 W, order number 118743, catalogue page as tabulated in the repository "
            "mahilab/Phantom. The no-load torque K_t × 26.3 mA is taken as dry friction altogether: an "
            "assumption."
        ),
        figures=(
            Figure("no_load_speed", 12.0, 4860 * RPM, 0.005),
            Figure("no_load_current", 12.0, 26.3e-3, 0.005),
            Figure("stall_torque", 12.0, 129e-3, 0.005),
            Figure("stall_current", 12.0, 5.5, 0.005),
            # 4.25 ms does not agree with the sheet's own gradient 37.7 rpm/mN·m times J, which is 4.07 ms
            Figure("mechanical_time_constant", None, 4.25e-3, 0.05),
            Figure("electrical_time_constant", None, 0.238e-3 / 2.18, 0.005),
        ),
    ),
    "heinzmann-pmg132": DCMotor(
        name="heinzmann-pmg132",
        resistance=16e-3,
        inductance=19e-6,
        torque_constant=0.165,
        back_emf=0.165,
        inertia=0.025,
        viscous_friction=1e-3,
        coulomb_friction=0.3,
        rated_voltage=60.0,
        rated_torque=16.0,
        source=(
            "Heinzmann PMG 132, values and ratings as the default of gym-electric-motor's "
            "DcPermanentlyExcitedMotor, which refers to the maker's page. Both frictions: assumptions, dry "
            "friction 2 % of the rated torque. No current limit is simulated."
        ),
        figures=(Figure("torque_constant", None, 16.0 / 97.0, 0.005),),  # rated torque / rated current
    ),
}
"""Motors by name; `simulators.motors` has the real ones too."""
