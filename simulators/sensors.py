"""What the sensors make of the truth: noise, quantisation and saturation, all from one seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from simulators.dc_motor import DCMotor
from twin.errors import ConfigError

STANDSTILL_SEC: Final = 0.1
"""Time without an edge of the encoder, after which it reports standstill."""

Reader = Callable[[dict[str, float]], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class SensorNoise:
    """The errors of a current sensor with an analogue-to-digital converter and of a speed from an encoder.

    The speed comes from timing the encoder's edges, the M/T method (T. Ohmae et al., "A
    microprocessor-controlled high-accuracy wide-range speed regulator for motor drives", IEEE Trans. Ind.
    Electron. IE-29(3), 1982, 207-211): the edges of a sample period are counted, at least one, and the time
    they took is counted in ticks of a clock. Counting edges alone would leave steps of 3 rad/s at 2048
    counts and 1 kHz, which no one would regulate with. The reading is the speed at the sample's instant;
    the half period of delay that a real one has is left out. Zero turns an error off.
    """

    current_rms: float = 0.0
    """Gaussian noise of the current, A rms."""
    current_range: float = 0.0
    """Largest current that the converter reads, A; beyond ± this it saturates."""
    current_bits: int = 0
    """Bits of the converter over that range."""
    speed_rms: float = 0.0
    """Gaussian noise of the speed (unequal encoder lines, vibration), rad/s rms."""
    encoder_counts: int = 0
    """Edges of the encoder per revolution."""
    clock: float = 10e6
    """Frequency of the clock that times them, Hz."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"sensor noise: {name} = {value}: give zero (off) or a positive number")
        if self.current_bits and not self.current_range:
            raise ConfigError("sensor noise: current_bits without a current_range; give the range in A")

    @classmethod
    def none(cls) -> SensorNoise:
        """Ideal sensors."""
        return cls()

    @classmethod
    def of(cls, motor: DCMotor) -> SensorNoise:
        """Usual sensors for this motor: 12 bits, noise of two quanta; 2048 counts, noise of 0.05 %.

        The range holds the current of a full reversal, twice that of the stalled motor, with an eighth to
        spare: for the Qube-Servo 3 that is the ±3 A which its maker states for the current input. The
        noise figures are assumptions.
        """
        full = 2.25 * motor.stall_current(motor.rated_voltage)
        return cls(
            current_rms=1e-3 * full,
            current_range=full,
            current_bits=12,
            speed_rms=5e-4 * motor.rated_voltage / motor.back_emf,
            encoder_counts=2048,
        )

    def reader(self, dt: float, seed: int) -> Reader:
        """A function from the true y of a sample to the y that is read, for samples in turn, `dt` s apart."""
        quantum = 2 * self.current_range / 2**self.current_bits if self.current_bits else 0.0
        limit = self.current_range or math.inf
        rng = np.random.default_rng([seed, 0x5E45])
        drawn: list[list[float]] = []

        def read(y: dict[str, float]) -> dict[str, float]:
            if not drawn:  # in blocks: a draw for each sample would cost as much as the rest
                drawn.extend(rng.standard_normal((512, 2)).tolist())
            current_error, speed_error = drawn.pop()
            current = y["current"] + self.current_rms * current_error
            current = min(max(current, -limit), limit)
            if quantum:
                current = quantum * round(current / quantum)
            speed = y["speed"] + self.speed_rms * speed_error
            if self.encoder_counts:
                speed = self._timed(speed, dt)
            return {"current": current, "speed": speed}

        return read

    def _timed(self, speed: float, dt: float) -> float:
        """The speed, rad/s, as whole edges over whole ticks."""
        rate = self.encoder_counts * abs(speed) / (2 * math.pi)  # edges per second
        if rate * STANDSTILL_SEC < 1:
            return 0.0
        edges = max(int(rate * dt), 1)
        ticks = max(round(edges * self.clock / rate), 1)
        return math.copysign(2 * math.pi * self.clock * edges / (self.encoder_counts * ticks), speed)
