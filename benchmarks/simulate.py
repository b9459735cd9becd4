"""`simulate`: what a sample of the simulated motor costs, beside what else could simulate it.

All get the default motor, the default voltage and load, and samples 1 ms apart, and are asked for one sample
after the other:

- `simulate`, with the sensors' noise, as `twin simulate` runs it, and with ideal sensors;
- `solve_ivp` of SciPy called anew for each sample, by RK45 and LSODA. It is given the motor's equations as
  they are at the sample's beginning, and does not look for the instant at which the motor comes to a
  standstill: less work than `simulate` does, which shows in the errors;
- gym-electric-motor's permanently excited DC motor under continuous control, when it is installed, without
  its checks and pictures. It has the same friction, but no load that changes.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.integrate import solve_ivp

from benchmarks.bars import bars
from benchmarks.result import Result
from benchmarks.rounds import (
    FIGURES,
    interleave,
    median_of,
    median_ratio,
    percentiles,
    time_calls,
    x_real_time,
)
from benchmarks.subject import NO_MODEL, Subject, torch_threads
from simulators import DCMotor, SensorNoise, default_load, default_voltage, motor, signal, simulate
from simulators.signals import Signal
from twin.messages import Sample

DT: Final = 1e-3  # s
ROUNDS: Final = 9
SAMPLES: Final = 4_000  # in a turn
WARM_UP: Final = 200  # samples of each turn that nobody counts
RTOL: Final = 1e-6
"""Of `solve_ivp`; `simulate` keeps to 1e-8."""
COMPARED: Final = 1_000  # samples over which the errors are taken

SIMULATE: Final = "simulate"
IDEAL: Final = "simulate, no noise"
SOLVE_IVP: Final = ("RK45", "LSODA")
GYM: Final = "gym-electric-motor"


def by_simulate(plant: DCMotor, voltage: Signal, load: Signal, *, noise: bool) -> Iterator[Sample]:
    """The project's own simulator."""
    sensors = SensorNoise.of(plant) if noise else None
    return simulate(plant, voltage=voltage, load=load, dt=DT, noise=sensors)


def by_solve_ivp(plant: DCMotor, voltage: Signal, load: Signal, *, method: str) -> Iterator[Sample]:
    """The same samples, each by a call of `solve_ivp`."""
    x = plant.initial
    for k in itertools.count():
        u = (voltage(k * DT), load(k * DT))
        yield Sample(seq=k, t=k * DT, u={"voltage": u[0]}, y=plant.measure(x, u))
        flow = solve_ivp(plant.rhs(u, plant.mode(x, u)), (0.0, DT), x, method=method, rtol=RTOL, atol=1e-9)
        x = tuple(flow.y[:, -1].tolist())


def by_gym(plant: DCMotor, voltage: Signal, load: Signal) -> Iterator[Sample]:
    """The same motor as an environment of gym-electric-motor: a duty cycle in, a scaled state out."""
    import gym_electric_motor as gem

    spec, full = plant.spec(DT), plant.rated_voltage
    limits = {
        "u": full,
        "i": 4 * plant.stall_current(full),
        "omega": 4 * full / plant.back_emf,
        "torque": 1.0,
    }
    environment = gem.make(
        "Cont-SC-PermExDc-v0",
        tau=DT,
        supply={"u_nominal": full},
        motor={
            "motor_parameter": {
                "r_a": plant.resistance,
                "l_a": plant.inductance,
                "psi_e": plant.torque_constant,
                "j_rotor": plant.inertia,
            },
            "limit_values": limits,
            "nominal_values": limits,
        },
        load={
            "load_parameter": {
                "a": plant.coulomb_friction,
                "b": plant.viscous_friction,
                "c": 0.0,
                "j_load": 1e-12,  # kg·m²; it refuses none
            }
        },
        constraints=(),  # no end of an episode
        visualization=(),
    ).unwrapped
    (state, _), _ = environment.reset()
    for k in itertools.count():
        v = voltage(k * DT)
        current, speed = float(state[2]) * limits["i"], float(state[0]) * limits["omega"]
        yield spec.sample(k, (v, current, speed))
        (state, _), *_ = environment.step(np.array([v / full]))


def rivals() -> dict[str, Callable[[], Iterator[Sample]]]:
    """What begins each rival's stream."""
    plant = motor()
    stream = (plant, signal(default_voltage(plant)), signal(default_load(plant), seed=2))
    found: dict[str, Callable[[], Iterator[Sample]]] = {
        SIMULATE: partial(by_simulate, *stream, noise=True),
        IDEAL: partial(by_simulate, *stream, noise=False),
    }
    for method in SOLVE_IVP:
        found[f"solve_ivp, {method}"] = partial(by_solve_ivp, *stream, method=method)
    if find_spec("gym_electric_motor"):
        found[GYM] = partial(by_gym, *stream)
    return found


def one_turn(begin: Callable[[], Iterator[Sample]], samples: int) -> dict[str, float]:
    """Times of the samples of a stream, in µs."""
    stream = begin()
    ns = time_calls(lambda: next(stream), samples, warm_up=WARM_UP)
    return {**percentiles(ns), "mean": float(ns.mean()) / 1e3}


def error_percent(begin: Callable[[], Iterator[Sample]], true: Callable[[], Iterator[Sample]]) -> float:
    """Largest difference of the speed from the true one, in percent of the largest speed."""
    found, reference = (
        np.array([sample.y["speed"] for sample in itertools.islice(stream(), COMPARED)])
        for stream in (begin, true)
    )
    return 100.0 * float(np.abs(found - reference).max() / np.abs(reference).max())


def measure(console: Console, *, quick: bool) -> Result:
    """All rivals in interleaved rounds, each turn a new stream."""
    begin = rivals()
    if GYM not in begin:
        console.print(f"{GYM} is not installed, so it is left out; pip install {GYM} adds it")
    rounds, samples = (2, 500) if quick else (ROUNDS, SAMPLES)
    turns = {name: partial(one_turn, start, samples) for name, start in begin.items()}
    found = interleave(turns, rounds, console, "simulate")
    middle = {name: median_of(each) for name, each in found.items()}
    exact = [name for name in begin if name.startswith("solve_ivp")]  # what has the same load and no noise
    best = min(exact, key=lambda name: middle[name]["p50"])
    summary = {
        "simulate_us": middle[SIMULATE]["p50"],
        "simulate_x_real_time": x_real_time(middle[SIMULATE]["p50"], DT),
        "simulate_steps_per_s": statistics.median(1e6 / turn["mean"] for turn in found[SIMULATE]),
        "simulate_vs_solve_ivp": median_ratio(found[IDEAL], found[best], "p50"),
    }
    details = {
        "motor": motor().name,
        "dt_s": DT,
        "samples": samples,
        "warm_up": WARM_UP,
        "rounds": found,
        "median": middle,
        "error_percent": {name: error_percent(begin[name], begin[IDEAL]) for name in exact},
    }
    return Result(summary, {name: Subject(NO_MODEL, name, torch_threads()) for name in begin}, details)


def table(result: dict[str, Any]) -> Table:
    """Medians over the rounds; the error is that of the speed."""
    view = Table(title=f"one sample of {result['motor']}, {result['dt_s'] * 1e3:g} ms, in µs")
    view.add_column("by", no_wrap=True)
    for heading in (*FIGURES, "per s", "× real", "err. %"):
        view.add_column(heading, justify="right")
    for name, figures in result["median"].items():
        error = result["error_percent"].get(name)
        view.add_row(
            name,
            *(f"{figures[figure]:,.{0 if figures[figure] >= 200 else 1}f}" for figure in FIGURES),
            f"{1e6 / figures['mean']:,.0f}",
            f"{x_real_time(figures['p50'], result['dt_s']):,.0f}",
            "" if error is None else f"{error:.2g}",
        )
    return view


def plot(result: dict[str, Any], folder: Path) -> list[Path]:
    """The median times as bars."""
    values = {name: figures["p50"] for name, figures in result["median"].items()}
    return [bars(values, "one sample of a simulated motor", "µs, median", folder / "simulate.svg")]
