"""Settings: defaults, then a file, then the command line; what is wrong is said with what would be right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from twin.backends.opening import BACKENDS
from twin.config import SECTIONS, Config
from twin.errors import ConfigError, TwinError
from twin.families import FAMILIES
from twin.settings import load
from twin.unused import SIZES, refuse_unused


def written(folder: Path, text: str, name: str = "settings.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_the_command_line_comes_before_the_file_and_the_file_before_the_defaults(tmp_path: Path) -> None:
    path = written(tmp_path, '[trainer]\nhidden_size = 8\nperiod = 2.5\n[bus]\nsource = "pump"\n')
    config = load(path, trainer={"period": 9.0})
    assert (config.trainer.hidden_size, config.trainer.period) == (8, 9.0)
    assert config.bus.source == "pump"
    assert config.trainer.horizon == Config().trainer.horizon


def test_what_was_loaded_can_be_handed_to_another_process(tmp_path: Path) -> None:
    """`twin run` gives its children what was set as JSON: a default is nobody's wish there either."""
    config = load(None, plant={"parameters": ["resistance=8"], "duration": 3.0}, trainer={"model": "lstm"})
    path = tmp_path / "config.json"
    path.write_text(config.model_dump_json(exclude_unset=True))
    assert load(path).model_dump() == config.model_dump()


def test_a_file_of_another_process_s_is_refused_with_advice_too(tmp_path: Path) -> None:
    for text in ('{"trainer": {"period": 0}}', '{"trainer": 3}', "[1]", "{"):
        path = written(tmp_path, text, "config.json")
        with pytest.raises(ConfigError, match=r"--period = 0|\[trainer\] = 3|config\.json: "):
            load(path, trainer={"steps": 3})


def test_a_process_that_is_given_its_settings_loads_nothing_that_reads_files_of_people(
    tmp_path: Path,
) -> None:
    path = written(tmp_path, '{"bus": {"source": "pump"}}', "config.json")
    code = "import pathlib, sys, twin.cli, twin.settings; load = twin.settings.load; "
    code += "print(load(pathlib.Path(sys.argv[1]), bus={'await_subscribers': 2}).bus); "
    code += "sys.exit('asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "source='pump'" in done.stdout and "await_subscribers=2" in done.stdout


def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER", '{"hidden_size": 3}')
    monkeypatch.setenv("TRAINER__HIDDEN_SIZE", "3")
    assert load(None).trainer == Config().trainer


def test_settings_are_frozen() -> None:
    config = load(None)
    with pytest.raises(ValidationError, match="frozen"):
        config.trainer.period = 1.0  # type: ignore[misc]


def test_the_source_is_named_after_the_recording() -> None:
    recorded = {"plant": "recorded", "file": "/data/pump_7.csv"}
    assert load(None).bus.source == "motor-1"
    assert load(None, plant=recorded).bus.source == "pump_7"
    assert load(None, plant=recorded, bus={"source": "mine"}).bus.source == "mine"


def test_an_endpoint_as_set_comes_before_the_default() -> None:
    bus = load(None, bus={"twin_endpoint": "tcp://127.0.0.1:7001"}).bus
    assert bus.endpoint("twin") == "tcp://127.0.0.1:7001"
    assert bus.endpoint("plant").endswith("/motor-1/plant")


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("[trainer]\nhiden_size = 3\n", r"\[trainer\] has no 'hiden_size'; it knows .*hidden_size"),
        ("[trainr]\n", "no 'trainr'; they know bus, plant, twin, trainer, report"),
        ("[trainer]\nperiod = 0\n", "--period = 0: input should be greater than 0"),
        ('[trainer]\nperiod = "soon"\n', "--period = 'soon': input should be a valid number"),
        ("[trainer]\nhidden_size = 2.5\n", "--hidden-size = 2.5"),
        ('[plant]\nplant = "pump"\n', "--plant = 'pump': input should be 'dc-motor' or 'recorded'"),
        ("trainer = 3\n", r"\[trainer\] = 3"),
        ("[trainer\n", "settings.toml: .*line 1"),
        ("[bus]\nsource = 'a/b'\n", "source 'a/b': a name of"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_advice(tmp_path: Path, text: str, advice: str) -> None:
    with pytest.raises(TwinError, match=advice):
        load(written(tmp_path, text))


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, "[trainer]\nperiod = -1\nsteps = 0\n[plant]\nrate = 0\n"))
    assert all(name in str(caught.value) for name in ("--period", "--steps", "--rate"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: no such file; --config takes a TOML file"):
        load(tmp_path / "nowhere.toml")


NUMBERS = [
    (section, name)
    for section, model in SECTIONS.items()
    for name, field in model.model_fields.items()
    if field.annotation in (int, float, float | None)
]


@pytest.mark.parametrize(("section", "name"), NUMBERS)
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_no_number_may_be_negative_or_not_finite(section: str, name: str, value: float) -> None:
    given: dict[str, Any] = {section: {name: value}}
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} = "):
        load(None, **given)


def test_the_choices_are_those_that_there_are() -> None:
    for model in FAMILIES:
        load(None, trainer={"model": model})
    for backend in BACKENDS:
        load(None, twin={"backend": backend})
    with pytest.raises(ConfigError, match="has 'transformer', which is none of auto, rls, arx, gru"):
        load(None, trainer={"model": "transformer"})
    with pytest.raises(ConfigError, match="--backend"):
        load(None, twin={"backend": "abacus"})


@pytest.mark.parametrize(("section", "model"), SECTIONS.items())
def test_every_setting_is_described(section: str, model: Any) -> None:
    for name, field in model.model_fields.items():
        assert field.description and field.description[0].isupper(), f"{section}.{name}"


# -- settings without effect -------------------------------------------------------------------------

UNUSED: list[tuple[dict[str, Any], str]] = [
    ({"plant": {"file": "m.csv"}}, "--file is for a recording: add --plant recorded"),
    ({"plant": {"dt": 0.1}}, "--dt is for a recording"),
    ({"plant": {"plant": "recorded", "file": "m.csv", "rate": 50.0}}, "--rate is for a simulated motor"),
    ({"plant": {"plant": "recorded", "file": "m.csv", "noise": False}}, "--noise is for a simulated motor"),
    ({"trainer": {"model": "physics", "hidden_size": 16}}, "--hidden-size: physics has no use .* gru"),
    ({"trainer": {"model": "physics", "learning_rate": 0.1}}, "--learning-rate: physics has no use"),
    ({"trainer": {"model": "arx", "layers": 2}}, "--layers: arx has no use"),
    ({"trainer": {"model": "gru", "sequence_length": 5}}, "--sequence-length: gru .* --model window-rnn"),
    ({"trainer": {"model": "window-rnn", "taps": 5}}, "--taps: window-rnn has no use"),
    ({"twin": {"backend": "eager", "adapt": True}}, "--adapt: the backend eager does not adapt"),
    ({"twin": {"adapt": True}, "trainer": {"model": "window-rnn"}}, "--adapt: window-rnn does not adapt"),
    ({"report": {"free_run": 2.0}}, "--free-run is for the report: add --report FILE"),
]


@pytest.mark.parametrize(("given", "advice"), UNUSED)
def test_a_setting_without_effect_is_refused_with_what_would_give_it_one(
    given: dict[str, Any], advice: str
) -> None:
    with pytest.raises(ConfigError, match=advice):
        load(None, **given)


def test_only_what_was_really_set_can_be_without_effect(tmp_path: Path) -> None:
    for model in FAMILIES:
        load(None, trainer={"model": model})  # whose defaults are for other families too
    load(None, plant={"plant": "recorded", "file": "m.csv"})
    load(None, twin={"backend": "eager", "adapt": False}, trainer={"hidden_size": 8, "layers": 2})
    with pytest.raises(ConfigError, match="--hidden-size: physics"):  # though it is the default
        load(None, trainer={"model": "physics", "hidden_size": 32})
    path = written(tmp_path, '[trainer]\nmodel = "arx"\nlayers = 1\n')
    with pytest.raises(ConfigError, match="--layers: arx"):
        load(path)


def test_what_auto_takes_for_the_plant_at_hand_decides() -> None:
    config = load(None, trainer={"hidden_size": 8})
    refuse_unused(config, ["physics", "gru"])
    with pytest.raises(ConfigError, match="--hidden-size: --model auto, for this plant physics, has no use"):
        refuse_unused(config, ["physics"])


def test_several_models_may_be_asked_for() -> None:
    assert load(None, trainer={"model": "rls, gru,lstm"}).trainer.models == ["rls", "gru", "lstm"]
    with pytest.raises(ConfigError, match="has 'transformer'"):
        load(None, trainer={"model": "gru,transformer"})


def test_each_setting_of_a_model_is_of_use_to_some_family() -> None:
    for name in SIZES:
        value = getattr(Config().trainer, name)
        used = [model for model in FAMILIES if _loads(trainer={"model": model, name: value})]
        assert 0 < len(used) < len(FAMILIES), name


def _loads(**given: dict[str, Any]) -> bool:
    try:
        load(None, **given)
    except ConfigError:
        return False
    return True
