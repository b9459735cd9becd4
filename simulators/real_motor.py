"""A motor with what real motors have: more than the equations that a model of a motor knows.

`RealMotor` is a `DCMotor` and the effects of `simulators.effects`, each of which may be left out. Its
equations stand here, in the form that `simulators.plant` asks for; `simulators.real_flow` is the same as
machine code, by which it is simulated, and a test holds the two together.

State x: current i in A, speed ω of the rotor in rad/s, its angle θ in rad, speed ω_d of what it drives, twist
φ of the shaft in rad, winding temperature T in K above the start's, current and speed behind their filters;
then pairs of current and speed on their way to the reader, the newest first. Without a shaft ω_d and φ stay
zero, without a filter its state follows but is not read.

>>> from simulators.motors import motor
>>> real = motor("qube-servo-3-real")
>>> real.without("driver", "sensing").driver.loss
0.0
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from simulators.dc_motor import MOTORS as IDEAL
from simulators.dc_motor import DCMotor
from simulators.effects import Driver, Effect, Ripple, Sensing, Shaft, Stribeck, Winding
from simulators.exact import row
from simulators.plant import Rhs, Vector
from twin.errors import ConfigError

STATES: Final = 8
"""Of the motor itself, before what is on its way to the reader."""


EFFECTS: Final[dict[str, type[Effect]]] = {
    "ripple": Ripple,
    "stribeck": Stribeck,
    "winding": Winding,
    "shaft": Shaft,
    "driver": Driver,
    "sensing": Sensing,
}
"""Each effect by the name of its field."""


@dataclass(frozen=True, kw_only=True)
class RealMotor(DCMotor):
    """A motor with its effects. `inertia` is that of all that turns, `resistance` and constants are cold.

    Raises:
        ConfigError: as `DCMotor`, and an effect that does not fit it.
    """

    ripple: Ripple = field(default_factory=Ripple)
    stribeck: Stribeck = field(default_factory=Stribeck)
    winding: Winding = field(default_factory=Winding)
    shaft: Shaft = field(default_factory=Shaft)
    driver: Driver = field(default_factory=Driver)
    sensing: Sensing = field(default_factory=Sensing)

    def __post_init__(self) -> None:
        if self.shaft.stiffness and not self.shaft.rotor_inertia < self.inertia:
            raise ConfigError(
                f"{self.name}: rotor_inertia = {self.shaft.rotor_inertia} kg·m² of an inertia of "
                f"{self.inertia}: the rotor is a part of it; give less"
            )
        super().__post_init__()

    def without(self, *effects: str) -> Self:
        """The same motor with some effects off.

        Raises:
            ConfigError: there is none of that name; the message lists the names.
        """
        for name in effects:
            if name not in EFFECTS:
                raise ConfigError(f"no effect is called {name!r}; known are {', '.join(EFFECTS)}")
        return replace(self, **{name: EFFECTS[name]() for name in effects})  # type: ignore[arg-type]

    @property
    def initial(self) -> Vector:
        """At rest, cold, at the angle zero; nothing on its way to the reader but rest."""
        return (0.0,) * (STATES + 2)

    @property
    def quickest(self) -> float:
        """The shortest time constant, s: of the ideal motor, a filter, or the shaft's swing, 1 / ω."""
        times = [super().quickest]
        times += [time for time in (self.sensing.current_filter, self.sensing.speed_filter) if time]
        if self.shaft.stiffness:
            rotor, stiff = self.shaft.rotor_inertia, self.shaft.stiffness
            both = rotor * (self.inertia - rotor) / self.inertia
            times += [math.sqrt(both / stiff), both / self.shaft.damping if self.shaft.damping else math.inf]
            times += [self.resistance * rotor / (self.torque_constant * self.back_emf)]
        return min(times)

    @property
    def half_swing(self) -> float:
        """Half a period, s, of the quicker of shaft and ideal motor."""
        return min(super().half_swing, math.pi * self.quickest if self.shaft.stiffness else math.inf)

    def rhs(self, u: Vector, mode: int) -> Rhs:
        """dx/dt of the eight states, for u = (v, τ_L) in V and N·m; modes as those of `DCMotor`."""
        v, load = u

        def slope(t: float, x: NDArray[np.float64]) -> Vector:
            i, w, _, w_d, _, heat, i_read, w_read = x[:STATES].tolist()
            k_t, k_e, cogging = self._at(x.tolist())
            r = self.resistance * (1 + self._copper * heat)
            loss = self.driver.loss * min(max(i / self.driver.ripple, -1.0), 1.0) if self.driver.loss else 0.0
            di = (v - loss - r * i - k_e * w) / self.inductance
            torque, shaft = k_t * i - cogging, self._twisting(x.tolist(), load)
            elastic, rotor = self.shaft.stiffness > 0, self.shaft.rotor_inertia
            friction = self.viscous_friction * w + mode * self._dry(mode, w) if mode else 0.0
            dw = (torque - shaft - friction) / (rotor if elastic else self.inertia) if mode else 0.0
            return (
                di,
                dw,
                w,
                (shaft - load) / (self.inertia - rotor) if elastic else 0.0,
                w - w_d if elastic else 0.0,
                (self.winding.resistance * r * i * i - heat) / self.winding.time_constant,
                (i - i_read) / self.sensing.current_filter if self.sensing.current_filter else di,
                (w - w_read) / self.sensing.speed_filter if self.sensing.speed_filter else dw,
            )

        return slope

    def mode(self, x: Vector, u: Vector) -> int:
        """As that of `DCMotor`."""
        if x[1] or not self.coulomb_friction:
            return 1 if x[1] > 0 or not self.coulomb_friction else -1
        return self._slip(self._pull(x, u))

    def margin(self, x: Vector, u: Vector, mode: int) -> tuple[float, float]:
        """As that of `DCMotor`; the rate by a difference along the slope."""
        if not self.coulomb_friction:
            return 1.0, 0.0

        def reserve(x: Vector) -> float:
            if mode:
                return mode * x[1]
            pull = self._pull(x, u)
            return min(self._dry(1, 0.0) - pull, self._dry(-1, 0.0) + pull)

        slope, eps = self.rhs(u, mode)(0.0, np.array(x)), 1e-6 * self.quickest
        here = reserve(x)
        there = reserve(tuple(a + eps * d for a, d in zip(x[:STATES], slope, strict=True)))
        return here, (there - here) / eps

    def switch(self, x: Vector, u: Vector, mode: int) -> tuple[Vector, int]:
        """As that of `DCMotor`."""
        x = (x[0], 0.0, *x[2:])
        pull = self._pull(x, u)
        return x, self._slip(pull) if mode else (1 if pull > 0 else -1)

    def measure(self, x: Vector, u: Vector) -> dict[str, float]:
        """What the reader has by now: the oldest pair on its way, or behind the filters if there is none."""
        if len(x) > STATES:
            return {"current": x[-2], "speed": x[-1]}
        current, speed = (
            (x[6] if self.sensing.current_filter else x[0]),
            (x[7] if self.sensing.speed_filter else x[1]),
        )
        return {"current": current, "speed": speed}

    def parameters(self) -> NDArray[np.float64]:
        """(27,): all of them, in SI units, in the order of `simulators.real_flow`."""
        ripple, friction, heat, shaft, read = (
            list(asdict(effect).values())
            for effect in (self.ripple, self.stribeck, self.winding, self.shaft, self.sensing)
        )
        driver = [self.driver.loss, self.driver.ripple]
        heat[2:] = self._copper, self._magnet
        return np.array([*row(self), *ripple, *friction, *heat, *shaft, *driver, *read])

    @property
    def _copper(self) -> float:
        return self.winding.copper if self.winding.resistance else 0.0

    @property
    def _magnet(self) -> float:
        return self.winding.magnet if self.winding.resistance else 0.0

    def _at(self, x: list[float] | Vector) -> tuple[float, float, float]:
        """K_t, K_e and the cogging torque at this angle and temperature."""
        ripple, angle, heat = self.ripple, x[2], x[5]
        gain = (1 + self._magnet * heat) * (
            1 + ripple.commutation * math.cos(ripple.commutation_periods * angle)
        )
        cogging = ripple.cogging * math.sin(ripple.cogging_periods * angle)
        return gain * self.torque_constant, gain * self.back_emf, cogging

    def _twisting(self, x: list[float] | Vector, load: float) -> float:
        """Torque of the shaft on the rotor, N·m; the load itself where it is rigid."""
        shaft, twist = self.shaft, x[4]
        if not shaft.stiffness:
            return load
        half = 0.5 * shaft.backlash
        stretch = twist - min(max(twist, -half), half)
        torque = shaft.stiffness * stretch + shaft.damping * (x[1] - x[3])
        if not half:
            return torque
        return max(torque, 0.0) if stretch > 0 else min(torque, 0.0) if stretch < 0 else 0.0

    def _dry(self, mode: int, speed: float) -> float:
        """Size of the dry friction, N·m."""
        extra = self.stribeck.stiction * math.exp(-((speed / self.stribeck.speed) ** 2))
        return self.coulomb_friction * (1 + mode * self.stribeck.asymmetry) * (1 + extra)

    def _pull(self, x: Vector, u: Vector) -> float:
        """Torque on the friction of a rotor that stands, N·m."""
        k_t, _, cogging = self._at(x)
        return k_t * x[0] - cogging - self._twisting(x, u[1])

    def _slip(self, torque: float) -> int:
        if -self._dry(-1, 0.0) <= torque <= self._dry(1, 0.0):
            return 0
        return 1 if torque > 0 else -1


MOTORS: Final = {
    "qube-servo-3-real": RealMotor(
        **{
            name: value
            for name, value in vars(IDEAL["qube-servo-3"]).items()
            if name not in ("name", "source")
        },
        name="qube-servo-3-real",
        ripple=Ripple(cogging=2e-4, commutation=0.0125),
        stribeck=Stribeck(stiction=0.4, speed=5.0, asymmetry=0.1),
        winding=Winding(resistance=12.0, time_constant=40.0),
        shaft=Shaft(rotor_inertia=1.4e-6, stiffness=31.0, damping=4e-4),
        driver=Driver(dead_time=0.3e-6, drop=0.1),
        sensing=Sensing(current_filter=1.5e-4, speed_filter=1e-3, delay=5e-4),
        source=(
            "qube-servo-3, and with it what its manual does not state, so all sizes are assumptions: a "
            "commutator of 7 segments, whose ripple is ±1.25 %; cogging of 1 % of the rated torque, that of "
            "a small iron armature (the maker's motor is coreless and has hardly any); breakaway 40 % above "
            "sliding friction, 10 % asymmetry; 12 K/W and 40 s, of motors of 40 mm; a steel shaft of 3 mm "
            "by 20 mm, whose stiffness G π d⁴ / 32 l lets rotor and disc swing at 780 Hz, damped by 3 %; no "
            "backlash, as there is no gear; 0.3 µs of dead time at 20 kHz and 24 V, and 0.1 V at the "
            "brushes; filters of 1 kHz for the current and 160 Hz for the speed; readings late by half a "
            "sample period at 1 kHz."
        ),
    ),
}
"""Real motors by name."""
