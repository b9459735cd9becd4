"""What real motors have and `simulators.dc_motor` leaves out: each effect with its parameters and its source.

An effect made without arguments is off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Final

from twin.errors import ConfigError

COPPER: Final = 3.93e-3
"""Temperature coefficient of copper's resistance at 20 °C, 1/K."""


class Effect:
    """What the effects share: they check themselves."""

    def __post_init__(self) -> None:
        for entry in fields(self):  # type: ignore[arg-type]
            value = getattr(self, entry.name)
            if not math.isfinite(value) or (value < 0 and entry.name not in _SIGNED):
                raise ConfigError(
                    f"{type(self).__name__.lower()}: {entry.name} = {value}: give zero (off) or a positive "
                    "number, in the SI unit of its description"
                )


_SIGNED: Final = ("magnet", "asymmetry")  # parameters that may be negative


@dataclass(frozen=True, kw_only=True)
class Ripple(Effect):
    """Torque that depends on the rotor's angle θ: iron that prefers some angles, and a coarse commutator.

        cogging torque  -cogging sin(n θ);      K(θ) = K (1 + commutation cos(m θ))

    n is the least common multiple of slots and poles (D. C. Hanselman, "Brushless Permanent Magnet Motor
    Design", 2nd ed., 2006, on cogging; it holds for a slotted armature that turns as well). A commutator of N
    segments, N odd, gives m = 2 N ripples a revolution of ±(1 - cos(π / 2N)) / 2, in the torque and in the
    back-EMF alike, as the power that is converted is the same.
    """

    cogging: float = 0.0
    """Amplitude of the cogging torque, N·m."""
    cogging_periods: float = 14.0
    """Its periods in a revolution, n."""
    commutation: float = 0.0
    """Amplitude of the ripple of K, as a share of it."""
    commutation_periods: float = 14.0
    """Its periods in a revolution, m."""


@dataclass(frozen=True, kw_only=True)
class Stribeck(Effect):
    """Dry friction that is larger at rest than in motion, and not the same in both directions.

        τ(ω) = τ_c (1 ± asymmetry) (1 + stiction exp(-(ω / speed)²))

    (B. Armstrong-Hélouvry, P. Dupont, C. Canudas de Wit, "A survey of models, analysis tools and
    compensation methods for the control of machines with friction", Automatica 30(7), 1994, 1083-1138.)
    """

    stiction: float = 0.0
    """By how much breakaway exceeds sliding friction, as a share of that."""
    speed: float = 1.0
    """Speed over which it falls, rad/s."""
    asymmetry: float = 0.0
    """Share by which friction is larger forward and smaller backward."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.speed > 0 or not abs(self.asymmetry) < 1:
            raise ConfigError(
                f"stribeck: speed = {self.speed}, asymmetry = {self.asymmetry}: "
                "give a positive speed in rad/s and an asymmetry within ±1"
            )


@dataclass(frozen=True, kw_only=True)
class Winding(Effect):
    """A winding that its losses warm, with one thermal mass: T above the temperature at the start.

        τ dT/dt = R_th R(T) i² - T;     R(T) = R (1 + copper T);     K(T) = K (1 + magnet T)

    (maxon, "Key information on maxon DC motors", on thermal behaviour. It has two masses, winding and
    housing; here the magnet is as warm as the winding, which is the worst case for K.)
    """

    resistance: float = 0.0
    """Thermal resistance R_th from the winding to the surroundings, K/W."""
    time_constant: float = 30.0
    """Thermal time constant τ, s."""
    copper: float = COPPER
    """Temperature coefficient of R, 1/K."""
    magnet: float = -1.1e-3
    """Temperature coefficient of K, 1/K: -1.1e-3 for NdFeB, -2e-3 for ferrite, -2e-4 for AlNiCo."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.time_constant > 0:
            raise ConfigError(f"winding: time_constant = {self.time_constant}: give a positive time in s")


@dataclass(frozen=True, kw_only=True)
class Shaft(Effect):
    """An elastic shaft, or a gear with backlash, between the rotor and what it drives.

        J_r dω/dt = … - τ_s;    (J - J_r) dω_d/dt = τ_s - τ_L;    dφ/dt = ω - ω_d
        τ_s = stiffness (φ less ±backlash / 2) + damping (ω - ω_d), nothing within the backlash

    A tooth pushes and never pulls (M. Nordin, P.-O. Gutman, "Controlling mechanical systems with backlash - a
    survey", Automatica 38(10), 2002, 1633-1649). What is measured is the rotor's speed.
    """

    rotor_inertia: float = 0.0
    """The rotor's share J_r of the inertia J, kg·m²."""
    stiffness: float = 0.0
    """Of the shaft, N·m/rad; zero stands for a rigid one."""
    damping: float = 0.0
    """Of the shaft, N·m·s/rad."""
    backlash: float = 0.0
    """The whole gap, rad."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stiffness and not self.rotor_inertia:
            raise ConfigError("shaft: stiffness without a rotor_inertia; give that, in kg·m²")


@dataclass(frozen=True, kw_only=True)
class Driver(Effect):
    """A PWM bridge, averaged over its period: it gives less than it is told, by the current's direction.

        v = v_set - (2 dead_time frequency supply + drop) sat(i / ripple)

    In the dead time the current flows on through a diode, whatever is commanded, in both legs of the bridge
    (S.-G. Jeong, M.-H. Park, "The analysis and compensation of dead-time effects in PWM inverters", IEEE
    Trans. Ind. Electron. 38(2), 1991, 108-114). A current smaller than its own ripple changes its direction
    within the period, so that the loss grows in proportion until there.
    """

    dead_time: float = 0.0
    """Time in which both switches of a leg are open, s."""
    frequency: float = 20e3
    """Of the PWM, Hz."""
    supply: float = 24.0
    """Voltage of the bridge's supply, V."""
    drop: float = 0.0
    """Voltage lost in brushes and diodes, V."""
    ripple: float = 0.05
    """Amplitude of the current's ripple, A."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss and not self.ripple > 0:
            raise ConfigError(f"driver: ripple = {self.ripple}: give a positive current in A")

    @property
    def loss(self) -> float:
        """What it loses of a voltage, V."""
        return 2 * self.dead_time * self.frequency * self.supply + self.drop


@dataclass(frozen=True, kw_only=True)
class Sensing(Effect):
    """Readings that pass a low-pass of first order each, and come late.

    An encoder that times its edges reads the mean speed of its period: half a period late (`sensors`).
    """

    current_filter: float = 0.0
    """Time constant of the current's, s."""
    speed_filter: float = 0.0
    """Time constant of the speed's, s."""
    delay: float = 0.0
    """By which both come late, s."""
