import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulators.motors import motor
from simulators.scenario import DRIFTING_PARAMETERS, Scenario
from twin.errors import ConfigError

QUBE = motor("qube-servo-3")


def test_built_in_drift_raises_resistance_and_dry_friction_at_30_s() -> None:
    drift = Scenario.load("drift")
    assert drift.parameters(QUBE, 29.999) == {}
    after = drift.parameters(QUBE, 30.0)
    assert after == pytest.approx({"resistance": 1.4 * 7.5, "coulomb_friction": 2 * QUBE.coulomb_friction})
    assert [change.text for change in drift.changes] == ["resistance × 1.4", "coulomb_friction × 2"]


@pytest.mark.parametrize("name", ["drift", "ramp", "load", "faults"])
def test_built_in_scenarios_load_and_change_something(name: str) -> None:
    scenario = Scenario.load(name)
    assert scenario.title
    assert scenario.changes
    for change in scenario.changes:
        replace(QUBE, **scenario.parameters(QUBE, change.at + 100))  # type: ignore[arg-type]


def test_an_empty_scenario_changes_nothing() -> None:
    nothing = Scenario()
    reading = {"current": 1.0, "speed": 2.0}
    assert nothing.changes == () and nothing.parameters(QUBE, 9.0) == {} and nothing.torque(QUBE, 9.0) == 0
    assert nothing.suffer()(9.0, reading) == {"current": 1.0, "speed": 2.0}


@given(t=st.floats(0, 100))
def test_ramp_goes_straight_between_its_ends(t: float) -> None:
    ramp = Scenario.parse('[[drift]]\nparameter = "inertia"\nto = 4e-5\nat = 10\nduration = 60')
    share = min(max((t - 10) / 60, 0), 1)
    value = ramp.parameters(QUBE, t).get("inertia", QUBE.inertia)
    assert value == pytest.approx(QUBE.inertia + share * (4e-5 - QUBE.inertia))


def test_drifts_of_one_parameter_follow_each_other() -> None:
    text = """
        [[drift]]
        parameter = "resistance"
        factor = 1.0
        at = 20
        duration = 10
        [[drift]]
        parameter = "resistance"
        factor = 2.0
        at = 5
    """
    there_and_back = Scenario.parse(text)
    values = [there_and_back.parameters(QUBE, t).get("resistance", 7.5) for t in (0, 5, 19, 25, 30, 90)]
    assert values == pytest.approx([7.5, 15, 15, 11.25, 7.5, 7.5])
    with pytest.raises(ConfigError, match=r"resistance drifts twice at 25 s.*begin at 30 s"):
        Scenario.parse(text.replace("at = 5", "at = 25"))


def test_every_parameter_may_drift() -> None:
    for parameter in DRIFTING_PARAMETERS:
        scenario = Scenario.parse(f'[[drift]]\nparameter = "{parameter}"\nfactor = 1.5\nat = 0')
        assert scenario.parameters(QUBE, 0.0) == {parameter: pytest.approx(1.5 * getattr(QUBE, parameter))}


def test_loads_add_while_they_last() -> None:
    scenario = Scenario.parse("[[load]]\ntorque = 0.004\nat = 1\nuntil = 3\n[[load]]\nfactor = 0.5\nat = 2")
    assert [scenario.torque(QUBE, t) for t in (0.5, 1.0, 2.0, 3.0)] == pytest.approx(
        [0, 0.004, 0.004 + 0.0102, 0.0102]
    )


def test_faults_act_and_end() -> None:
    text = """
        [[fault]]
        kind = "offset"
        channel = "current"
        offset = 0.5
        at = 1
        until = 2
        [[fault]]
        kind = "stuck"
        channel = "speed"
        at = 1
        until = 3
        [[fault]]
        kind = "drop-out"
        at = 4
        until = 5
    """
    suffer = Scenario.parse(text).suffer()
    read = [suffer(t, {"current": 1.0, "speed": 10.0 + t}) for t in (0.9, 1.0, 1.5, 2.5, 3.0, 4.0, 4.9, 5.0)]
    assert [None if y is None else (y["current"], y["speed"]) for y in read] == [
        (1.0, 10.9),
        (1.5, 11.0),
        (1.5, 11.0),
        (1.0, 11.0),
        (1.0, 13.0),
        None,
        None,
        (1.0, 15.0),
    ]


def test_each_change_is_announced_once_in_order() -> None:
    """Whatever the sample times: intervals that join hand out every change exactly once."""
    faults = Scenario.load("faults")
    times = [-math.inf, *(k * 0.3 for k in range(200))]
    announced = [c for before, now in itertools.pairwise(times) for c in faults.between(before, now)]
    assert tuple(announced) == faults.changes
    assert [change.at for change in announced] == [15, 20, 25, 26, 30, 30.2]
    assert [change.name for change in announced] == ["fault", "fault over"] * 3
    assert announced[0].text == "current sensor off by 0.1 A"


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("[[drfit]]", "'drfit' is unknown; known are title, drift, load, fault"),
        ("drift = 3", r"under \[\[drift\]\]"),
        ("[drift]\nat = 3", r"under \[\[drift\]\]"),
        ("= 3", "not TOML"),
        ("title = 3", "in quotes"),
        ('[[drift]]\nparameter = "R"\nfactor = 2\nat = 1', "'R' is unknown; known are resistance, induct"),
        (
            '[[drift]]\nparameter = "resistance"\nfactr = 2\nat = 1',
            "'factr' is unknown; known are parameter, fac",
        ),
        ('[[drift]]\nparameter = "resistance"\nfactor = 2', "at is missing"),
        ('[[drift]]\nparameter = "resistance"\nat = 2', "give one of factor and to"),
        ('[[drift]]\nparameter = "resistance"\nfactor = 2\nto = 3\nat = 2', "give one of factor and to"),
        ('[[drift]]\nparameter = "resistance"\nfactor = 0\nat = 2', "resistance to 0.*positive"),
        ('[[drift]]\nparameter = "resistance"\nfactor = -1\nat = 2', "positive"),
        ('[[drift]]\nparameter = "resistance"\nfactor = "2"\nat = 2', "factor = '2': give a number"),
        ('[[drift]]\nparameter = "resistance"\nfactor = nan\nat = 2', "give a number"),
        ('[[drift]]\nparameter = "resistance"\nfactor = inf\nat = 2', "finite"),
        ('[[drift]]\nparameter = "resistance"\nfactor = 2\nat = true', "give a number"),
        ("[[load]]\ntorque = 1\nat = 3\nuntil = 2", "at = 3, until = 2"),
        ("[[load]]\ntorque = 1\nat = -3", "at = -3"),
        ('[[fault]]\nkind = "stuk"\nat = 1', "'stuk' is unknown; known are stuck, offset, drop-out"),
        ('[[fault]]\nkind = "stuck"\nchannel = "voltage"\nat = 1', "known are current, speed"),
        ('[[fault]]\nkind = "stuck"\nchannel = "speed"\noffset = 2\nat = 1', "an offset fault has one"),
        ('[[fault]]\nkind = "drop-out"\nchannel = "speed"\nat = 1', "takes whole samples"),
    ],
)
def test_what_is_no_scenario_is_refused_with_advice(text: str, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        Scenario.parse(text)


def test_unknown_name_lists_the_built_in() -> None:
    with pytest.raises(ConfigError, match="'drft': no such file, nor one of drift, faults, load, ramp"):
        Scenario.load("drft")


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[[load]]\ntorque = 1\nat = 3\n", encoding="utf-8")
    assert Scenario.load(file).torque(QUBE, 3.0) == 1.0
    file.write_text("[[load]]\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.toml: load: at is missing"):
        Scenario.load(str(file))
