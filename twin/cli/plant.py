"""What the settings observe: a simulated motor or a recording, and the code that it needs."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from twin.config import Config
from twin.errors import ConfigError
from twin.service.plant import Floor, Source
from twin.settings import load

if TYPE_CHECKING:
    from simulators.recorded import Recording
    from twin.service.prepare import Work


def works(config: Config, source: Source) -> list[Work]:
    """All that a run of these settings needs compiled.

    Raises:
        SpecError: settings that ask for a family which this plant is not for.
    """
    import simulators
    from simulators.dc_motor import DEFAULT_MOTOR
    from simulators.motors import REAL
    from twin.service.prepare import Work, works

    found = works(config, source.spec)
    if source.floor is not None:
        names = ("exact.py", "kalman.py", "real_flow.py", "real_kalman.py")
        kernels = [Path(simulators.__file__).parent / name for name in names]
        sources = hashlib.sha256(b"".join(path.read_bytes() for path in kernels)).hexdigest()
        alike = next(iter(REAL)) if config.plant.motor in REAL else DEFAULT_MOTOR
        found.insert(1, Work("the plant's best observer", "twin.cli.plant:observe", (alike,), sources))
    return found


def observe(motor: str) -> None:
    """Make the best observer of a motor: that of all that are as ideal, or as real, has the same code."""
    source = open_plant(load(None, plant={"motor": motor}))
    floor = source.floor() if source.floor is not None else None
    for sample in itertools.islice(source.samples, 3):
        if floor is not None:
            floor.observe(sample)


def recording_of(path: Path, inputs: list[str], outputs: list[str], dt: float | None) -> Recording:
    """A recording in a file, of these columns; with `dt`, s, where it has no column t_s.

    Raises:
        RecordingError: a file that cannot be read as one.
    """
    from simulators.recorded import Recording

    return Recording(path, inputs, outputs, dt)


def open_plant(config: Config) -> Source:
    """The plant that the settings describe.

    Raises:
        TwinError: a motor, parameter, signal, scenario or recording that cannot be.
    """
    plant = config.plant
    if plant.plant == "recorded":
        if not plant.file:
            raise ConfigError("--plant recorded needs --file, --inputs and --outputs")
        recording = recording_of(Path(plant.file), names_of(plant.inputs), names_of(plant.outputs), plant.dt)
        steps = None if plant.duration is None else max(1, round(plant.duration / recording.spec.dt))
        return Source(recording.spec, itertools.islice(recording, steps))
    from simulators import dc_motor, motors, scenario, signals
    from simulators.real_motor import RealMotor
    from simulators.sensors import SensorNoise
    from simulators.simulate import simulate

    motor = motors.motor(plant.motor)
    if plant.without:
        if not isinstance(motor, RealMotor):
            raise ConfigError(f"--without {plant.without[0]}: {motor.name} is ideal; leave it out")
        motor = motor.without(*plant.without)
    if plant.parameters:
        motor = replace(motor, **_numbers(plant.parameters, dc_motor.PARAMETER_UNITS))  # type: ignore[arg-type]
    story = scenario.Scenario.load(plant.scenario) if plant.scenario else scenario.Scenario()
    dt = 1.0 / plant.rate
    load = signals.signal(plant.load or signals.default_load(motor), plant.seed + 1)
    noise = SensorNoise.of(motor) if plant.noise else SensorNoise.none()
    samples = simulate(
        motor,
        voltage=signals.signal(plant.voltage or signals.default_voltage(motor), plant.seed),
        load=load,
        dt=dt,
        duration=plant.duration,
        noise=noise,
        seed=plant.seed,
        scenario=story,
    )

    def floor() -> Floor:
        from simulators.floor import LoadStatistics, StreamFloor
        from simulators.real_floor import best_observer

        return StreamFloor(best_observer(motor, dt, noise, LoadStatistics.of_signal(load, dt)), story)

    return Source(
        motor.spec(dt), samples, lambda after, until: [c.text for c in story.between(after, until)], floor
    )


def names_of(text: str) -> list[str]:
    """Column names from a list separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(texts: list[str], known: Iterable[str]) -> dict[str, float]:
    """NAME=VALUE texts as a dict.

    Raises:
        ConfigError: an unknown name or a value that is no number.
    """
    found = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or name not in known:
            raise ConfigError(f"--parameters {text}: NAME=VALUE is needed, NAME one of {', '.join(known)}")
        try:
            found[name] = float(value)
        except ValueError:
            raise ConfigError(f"--parameters {text}: {value!r} is not a number") from None
    return found
