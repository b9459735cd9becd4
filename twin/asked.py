"""The model that the settings ask for, for one plant."""

from __future__ import annotations

from twin.checkpoint import Checkpoint, check_plant
from twin.config import TrainerConfig
from twin.errors import CheckpointError
from twin.messages import Spec
from twin.models import PHYSICAL, Sizes, family_for, motor_columns, sizes_of
from twin.models.model import Model, new_model
from twin.models.scaling import Scaling


def asked_sizes(spec: Spec, config: TrainerConfig) -> Sizes:
    """The sizes of the model that the settings ask for.

    Raises:
        SpecError: a size out of range, or a plant that is not for that family.
    """
    if config.model in PHYSICAL:
        motor_columns(spec)
    return sizes_of(
        config.model,
        len(spec.inputs),
        len(spec.outputs),
        config.hidden_size,
        config.layers,
        config.taps,
        config.sequence_length,
    )


def asked_model(spec: Spec, config: TrainerConfig, scaling: Scaling) -> Model:
    """An untrained model, as the settings ask for it."""
    return new_model(
        config.model,
        spec,
        scaling,
        hidden_size=config.hidden_size,
        layers=config.layers,
        taps=config.taps,
        window=config.sequence_length,
        seed=config.model_seed,
    )


def decided(spec: Spec, config: TrainerConfig, incumbent: Checkpoint | None) -> TrainerConfig:
    """The settings with a family in place of `auto`: the incumbent's, or the one for such a plant.

    Raises:
        CheckpointError: the incumbent was made for other signals, or is of another family or size than the
            settings ask for.
        SpecError: settings that ask for a family which this plant is not for.
    """
    if config.model == "auto":
        family = incumbent.family if incumbent is not None else family_for(spec)
        config = config.model_copy(update={"model": family})
    asked = asked_sizes(spec, config)
    if incumbent is None:
        return config
    check_plant(incumbent, spec)
    if (config.model, asked) != (incumbent.family, incumbent.sizes):
        held, wanted = (
            f"{family} ({', '.join(f'{name} {size}' for name, size in sizes.items())})"
            for family, sizes in ((incumbent.family, incumbent.sizes), (config.model, asked))
        )
        raise CheckpointError(
            f"checkpoint {incumbent.number} is a {held}, and asked for is a {wanted}; "
            "set --model and its sizes as there, or choose another --run-dir"
        )
    return config
