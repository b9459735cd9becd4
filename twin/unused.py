"""Settings that would have no effect are refused, with what would give them one.

Only what was really set counts, on the command line or in a file: a default is nobody's wish.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from twin.config import Config
from twin.errors import ConfigError
from twin.families import AUTO, FAMILIES, NETWORK, Cell, Family, family_of

RECORDED: Final = ("file", "inputs", "outputs", "dt")
SIMULATED: Final = ("motor", "without", "parameters", "voltage", "load", "noise", "rate", "scenario", "seed")
SIZES: Final = {"hidden_size": "hidden_size", "layers": "layers", "taps": "taps", "sequence_length": "window"}
"""Settings of the trainer, and what a family's sizes call them."""
STEPS: Final = ("steps", "batch", "learning_rate")
"""What only a family needs that is trained by gradients from its first refit on."""


def refuse_unused(config: Config, fitted: Sequence[str] | None = None) -> None:
    """Refuse settings without effect; `fitted` are the families that the trainer fits, where the plant at
    hand has told.

    Raises:
        ConfigError: with each of them, why it has none, and what to do.
    """
    if faults := [*_plant(config), *_trainer(config, fitted), *_twin(config, fitted)]:
        raise ConfigError("\n".join(faults))


def _plant(config: Config) -> Iterator[str]:
    plant, chosen = config.plant, config.plant.model_fields_set
    if plant.plant == "recorded":
        for name in SIMULATED:
            if name in chosen:
                yield f"{_option(name)} is for a simulated motor, not for a recording: leave it out"
    else:
        for name in RECORDED:
            if name in chosen:
                yield f"{_option(name)} is for a recording: add --plant recorded, or leave it out"
    if "free_run" in config.report.model_fields_set and not config.report.report:
        yield "--free-run is for the report: add --report FILE, or leave it out"


def _trainer(config: Config, fitted: Sequence[str] | None) -> Iterator[str]:
    asked, chosen = config.trainer.model, config.trainer.model_fields_set
    families = _families(config.trainer.models, fitted)
    if not families:
        return
    names = [name for name, size in SIZES.items() if not any(size in each.needs for each in families)]
    if all(each.motor for each in families):
        names += STEPS
    for name in names:
        if name not in chosen:
            continue
        who = asked if fitted is None else ", ".join(fitted)
        if asked == AUTO:
            who = f"--model {AUTO}" + ("" if fitted is None else f", for this plant {who},")
        users = [each.name for each in FAMILIES.values() if SIZES.get(name, "") in each.needs]
        better = f"take --model {NETWORK if NETWORK in users or name in STEPS else users[0]}"
        yield f"{_option(name)}: {who} has no use for it; leave it out, or {better}"


def _families(asked: Sequence[str], fitted: Sequence[str] | None) -> list[Family]:
    """Those that may be fitted: the ones at hand, or what `auto` may come to."""
    if fitted is not None:
        return [family_of(name) for name in fitted]
    if AUTO in asked:
        return list(FAMILIES.values())
    return [FAMILIES[name] for name in asked if name in FAMILIES]


def _twin(config: Config, fitted: Sequence[str] | None) -> Iterator[str]:
    twin = config.twin
    if "adapt" not in twin.model_fields_set or not twin.adapt:
        return
    if twin.backend != "compiled":
        yield f"--adapt: the backend {twin.backend} does not adapt; leave it out, or take --backend compiled"
    families = _families(config.trainer.models, fitted)
    for each in families:
        if len(families) == 1 and each.cell in (Cell.WINDOW, Cell.OWN):
            yield f"--adapt: {each.name} does not adapt; leave it out, or take --model {NETWORK}"


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
