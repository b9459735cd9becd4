"""Reads the settings: defaults, then a TOML file, then the command line. Environment variables change
nothing, so that a run is what its files say.

Unknown keys are refused, naming the known ones; and so are settings that would have no effect.

>>> load(None, trainer={"hiden_size": 8})
Traceback (most recent call last):
    ...
twin.errors.ConfigError: [trainer] has no 'hiden_size'; it knows model, hidden_size, ...
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from twin.config import SECTIONS, Config, PlantConfig
from twin.errors import ConfigError
from twin.messages import MAX_NAME, check_source
from twin.unused import refuse_unused


def load(path: Path | None, **sections: dict[str, Any]) -> Config:
    """Settings from a TOML (or JSON) file, overridden by `sections`; the source's name filled in.

    Raises:
        ConfigError: a file that cannot be read, an unknown key, a value out of range, or a setting that
            would have no effect.
    """
    if path is not None and not path.is_file():
        raise ConfigError(
            f"{path}: {'a directory' if path.is_dir() else 'no such file'}; --config takes a TOML file"
        )
    try:
        config = Config.model_validate(_over({} if path is None else _read(path), sections))
    except ValidationError as error:
        raise ConfigError("\n".join(_advice(fault) for fault in error.errors())) from None
    except (ValueError, TypeError) as error:  # the file's own syntax
        raise ConfigError(f"{path}: {error}") from None
    name = config.bus.source or _default_source(config.plant)
    bus = config.bus.model_copy(update={"source": check_source(name)})
    found = Config.model_construct(**{**dict(config), "bus": bus})
    refuse_unused(found)
    return found


def _read(path: Path) -> dict[str, Any]:
    """What a file sets.

    JSON is what `twin run` gives the processes that it starts. They do without what reads people's files,
    which brings asyncio and TLS along: 5 MB in each of them.
    """
    if path.suffix == ".json":
        return dict(json.loads(path.read_text()))
    from pydantic_settings import BaseSettings, TomlConfigSettingsSource

    return TomlConfigSettingsSource(BaseSettings, path)()


def _over(found: dict[str, Any], sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What a file sets, and over it some sections; what is no section there stays, to be refused."""
    both = {
        name: {**found.get(name, {}), **section}
        for name, section in sections.items()
        if isinstance(found.get(name, {}), dict)
    }
    return {**found, **both}


def _default_source(plant: PlantConfig) -> str:
    return default_source(Path(plant.file)) if plant.plant == "recorded" and plant.file else "motor-1"


def default_source(file: Path) -> str:
    """The name of a source that a recording is, from its file's.

    >>> default_source(Path("data/My motor (2).csv"))
    'My-motor-2'
    """
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", file.stem).strip("-._")[:MAX_NAME] or "recording"


def _advice(fault: Any) -> str:
    """One line about one thing that is wrong: where, what, and what would be right."""
    where, value = fault["loc"], fault.get("input")
    section = SECTIONS.get(str(where[0]))
    if fault["type"] == "extra_forbidden":
        known = SECTIONS if len(where) < 2 or section is None else section.model_fields
        place = "the settings have" if len(where) < 2 else f"[{where[0]}] has"
        return f"{place} no '{where[-1]}'; {'they know' if len(where) < 2 else 'it knows'} {', '.join(known)}"
    name = "--" + str(where[1]).replace("_", "-") if len(where) > 1 else f"[{where[0]}]"
    text = fault["msg"].removeprefix("Value error, ")
    return f"{name} = {value!r}: {text[0].lower()}{text[1:]}"
