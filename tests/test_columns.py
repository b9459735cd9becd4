"""Columns in another order or unit are noticed, and nothing else is."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from simulators import motor
from simulators.quick_motor import quick
from tests.models import beginning, checkpoint_of
from twin.checkpoint import Checkpoint, save
from twin.cli import models as cli
from twin.columns import Doubt, changes, doubt
from twin.messages import Spec

Array = NDArray[np.float64]
SPEC = motor().spec(1e-3)
DATA = Path(__file__).parents[2] / "shared/data"


def linear_model(z: Array, spec: Spec, family: str = "arx") -> Checkpoint:
    model = beginning(family, z, spec)
    model.fit(z)
    return checkpoint_of(model, spec=spec)


@pytest.fixture(scope="module")
def model() -> Checkpoint:
    """Of the default motor, by least squares."""
    return linear_model(quick(motor(), 20_000).z, SPEC)


def another_day(amplitude: float = 1.0, load: float | None = None) -> Array:
    volts = quick(motor(), 6_000, seed=5).z[:, 0]
    return quick(motor(), 6_000, voltage=amplitude * volts, load=load, seed=5).z


def found(model: Checkpoint, z: Array) -> Doubt:
    odd = doubt(model, z)
    assert odd is not None
    return odd


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0), (0, 2, 1)])
def test_exchanged_columns_are_told(model: Checkpoint, order: tuple[int, ...]) -> None:
    odd = found(model, another_day()[:, order])
    names = [SPEC.features[j] for j in range(3) if order[j] != j]
    assert f"{names[0]} and {names[1]} look exchanged" in odd.text and odd.signals == tuple(names)


def test_three_columns_in_another_order_are_told(model: Checkpoint) -> None:
    odd = found(model, another_day()[:, [2, 0, 1]])
    assert "for voltage, current, speed look like speed, voltage, current" in odd.text


@pytest.mark.parametrize(
    ("column", "factor", "words"),
    [
        (1, 1000.0, "current looks 1000 times too large"),
        (1, 0.001, "current looks 1000 times too small"),
        (2, 60 / (2 * math.pi), "speed looks 9.549 times too large (rpm for rad/s?)"),
        (2, 180 / math.pi, "speed looks 57.3 times too large (degrees for radians?)"),
        (0, 1000.0, "voltage looks 1000 times too large"),
        (2, -1.0, "speed looks as if its sign were changed"),
    ],
)
def test_another_unit_is_told(model: Checkpoint, column: int, factor: float, words: str) -> None:
    z = another_day()
    z[:, column] *= factor
    assert words in found(model, z).text


def test_what_lies_far_outside_is_told_where_no_change_explains_it(model: Checkpoint) -> None:
    z = another_day() * [1.0, 1.0, 23.0]
    odd = found(model, z)
    assert "far outside" in odd.text and "speed reaches" in odd.text and odd.signals == ("speed",)


@pytest.mark.parametrize("amplitude", [0.0, 0.1, 0.3, 2.0])
def test_another_amplitude_is_nothing_odd(model: Checkpoint, amplitude: float) -> None:
    assert doubt(model, another_day(amplitude)) is None
    assert doubt(model, another_day(amplitude, load=0.0)) is None


def test_another_motor_or_a_few_wild_samples_are_nothing_odd(model: Checkpoint) -> None:
    changed = replace(motor(), resistance=2 * motor().resistance)
    assert doubt(model, quick(changed, 6_000, seed=7).z) is None
    wild = another_day()
    wild[::100, 1] = 1e6
    assert doubt(model, wild) is None
    assert doubt(model, another_day()[:40]) is None


def test_of_many_signals_only_those_far_outside_are_changed() -> None:
    names = tuple("abcdefghi")
    assert not list(changes(names, []))
    assert {change.signals for change in changes(names, [2])} == {("c",)}
    assert ("c", "e") in {change.signals for change in changes(names, [2, 4])}
    assert len(list(changes(names, range(9)))) == 36 + 9 * 17


def test_the_command_warns_in_one_line_and_in_json(
    model: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "run", model)
    header, file = ",".join(SPEC.features), tmp_path / "z.csv"
    options = {"inputs": "", "dt": None, "horizon": 0.1, "skip": None, "folder": None}
    np.savetxt(file, another_day()[:2_000], delimiter=",", header=header, comments="")
    for outputs, odd in (("current,speed", 0), ("speed,current", 1)):
        cli.evaluate(tmp_path / "run", file, outputs=outputs, as_json=True, model="auto", **options)  # type: ignore[arg-type]
        told = capsys.readouterr()
        warnings = json.loads(told.out)["warnings"]
        assert len(warnings) == odd
        assert told.err.count("warning:") == odd
    assert "current and speed look exchanged" in told.err and warnings[0]["signals"] == ["current", "speed"]


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="the recordings in ../shared/data are not here")
def test_a_recording_of_another_day_is_nothing_odd() -> None:
    from simulators.recorded import Recording

    for pattern, inputs, outputs in (
        ("undc/*.csv", ["u_V"], ["y_deg_per_s"]),
        ("qube/*.csv", ["u_V", "alpha_rad"], ["theta_rad"]),
    ):
        days = [Recording(path, inputs, outputs, None) for path in sorted(DATA.glob(pattern))]
        assert len(days) == 4
        for learned in days:
            model = linear_model(learned.data, learned.spec)
            assert all(doubt(model, day.data) is None for day in days)
        assert "look exchanged" in found(model, days[0].data[:, ::-1]).text
