"""Plants for the twin to follow: a simulated DC motor, or a recording.

>>> from simulators import SensorNoise, motor, signal, simulate
>>> qube = motor("qube-servo-3")
>>> samples = simulate(qube, voltage=signal("steps:10"), load=signal("const:0"), noise=SensorNoise.of(qube))
>>> next(samples).y.keys()
dict_keys(['current', 'speed'])
"""

from simulators.dc_motor import DCMotor
from simulators.motors import MOTORS, motor
from simulators.plant import Plant
from simulators.real_motor import RealMotor
from simulators.recorded import Recording
from simulators.scenario import Scenario
from simulators.sensors import SensorNoise
from simulators.signals import default_load, default_voltage, signal
from simulators.simulate import simulate

__all__ = [
    "MOTORS",
    "DCMotor",
    "Plant",
    "RealMotor",
    "Recording",
    "Scenario",
    "SensorNoise",
    "default_load",
    "default_voltage",
    "motor",
    "signal",
    "simulate",
]
