"""Opens models: a new one of a family, or the one in a checkpoint. Torch is imported for networks only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from twin.checkpoint import Checkpoint, check, check_plant
from twin.errors import CheckpointError, SpecError
from twin.families import (
    AUTO,
    RECURSIVE,
    Cell,
    Sizes,
    families_for,
    family_for,
    family_of,
    motor_columns,
    sizes_of,
)
from twin.messages import Spec
from twin.models import own
from twin.models.model import Model
from twin.models.scaling import Scaling

if TYPE_CHECKING:
    from collections.abc import Callable


def class_of(family: str) -> type[Model]:
    """The class of a family.

    Raises:
        SpecError: an unknown family, or one of the user's whose file was not named.
    """
    kind = family_of(family)
    if kind.cell is Cell.OWN:
        if own.is_torch(own.known(family)):
            from twin.models.network import Network

            return Network
        from twin.models.own_numpy import NumpyModel

        return NumpyModel
    if kind.motor and kind.network:
        from twin.models.hybrid import Hybrid

        return Hybrid
    if kind.motor:
        from twin.models.physics import Physics

        return Physics
    from twin.models.network import Network

    return Network


def sizes_for(
    family: str, spec: Spec, *, hidden_size: int = 32, layers: int = 1, taps: int = 1, window: int = 1
) -> Sizes:
    """The sizes of a family's model for a plant.

    Raises:
        SpecError: an unknown family, a size out of range, or a plant that is not for that family.
    """
    kind, state = family_of(family), 1
    if kind.motor:
        motor_columns(spec)
    if kind.cell is Cell.OWN:
        state = own.state_size(family, len(spec.features), len(spec.outputs))
    return sizes_of(family, len(spec.inputs), len(spec.outputs), hidden_size, layers, taps, window, state)


class Member(NamedTuple):
    """A model that a run has: as it is asked for, and what that means."""

    name: str
    """A family, or FILE.py:CLASS."""
    family: str
    sizes: Sizes
    incumbent: Checkpoint | None
    """What it goes on from."""


def members(
    spec: Spec,
    names: Sequence[str],
    backend: str,
    present: Mapping[str, Checkpoint] | None = None,
    **sizes: int,
) -> list[Member]:
    """The models that are meant by these names. `auto` stands for those of such a plant, and for the families
    that are `present` in the run directory. What is present is of the size that it has: only a trainer, which
    goes on from it, refuses to be asked for another.

    Only compiled steps are quick enough for several: with another backend `auto` is one model. `rls`, which
    the twin fits by itself, is none of those that are trained.

    >>> spec = Spec(inputs=("u",), outputs=("y",), dt=0.02)
    >>> [member.name for member in members(spec, ["auto"], "compiled", hidden_size=8)]
    ['gru', 'window-rnn']

    Raises:
        ConfigError: a file without such a class.
        SpecError: a family which this plant is not for, or a size out of range.
    """
    present = present or {}
    asked: list[str] = []
    for name in names:
        if name != AUTO:
            asked.append(name)
        elif backend == "compiled":
            asked += [*families_for(spec), *present]
        else:
            asked += list(present)[:1] or [family_for(spec)]
    found = {}
    for name in asked:
        if name == RECURSIVE:
            continue
        if (incumbent := present.get(own.named(name))) is not None:
            found[incumbent.family] = Member(name, incumbent.family, incumbent.sizes, incumbent)
        else:
            family, size = chosen(spec, name, None, **sizes)
            found[family] = Member(name, family, size, None)
    return list(found.values())


def begins_recursive(names: Sequence[str], backend: str) -> bool:
    """Whether a run of these models begins with the one that the twin fits by itself."""
    return RECURSIVE in names or (AUTO in names and backend == "compiled")


def chosen(spec: Spec, model: str, incumbent: Checkpoint | None, **sizes: int) -> tuple[str, Sizes]:
    """The family and the sizes that are meant by a model's name: of a family, of a file with a class, or
    `auto`, the incumbent's family or the one for such a plant.

    Raises:
        CheckpointError: the incumbent was made for other signals, or is of another family or size.
        ConfigError: a file without such a class.
        SpecError: a family which this plant is not for, or a size out of range.
    """
    family = own.named(model)
    if family == AUTO:
        family = incumbent.family if incumbent is not None else family_for(spec)
    wanted = sizes_for(family, spec, **sizes)
    if incumbent is None:
        return family, wanted
    check_plant(incumbent, spec)
    if (family, wanted) != (incumbent.family, incumbent.sizes):
        has, asked = (
            f"{name} ({', '.join(f'{size} {number}' for size, number in numbers.items())})"
            for name, numbers in ((incumbent.family, incumbent.sizes), (family, wanted))
        )
        raise CheckpointError(
            f"checkpoint {incumbent.number} is a {has}, and asked for is a {asked}; "
            "set --model and its sizes as there, or choose another --run-dir"
        )
    return family, wanted


def new_model(
    family: str,
    spec: Spec,
    scaling: Scaling,
    *,
    hidden_size: int = 32,
    layers: int = 1,
    taps: int = 1,
    window: int = 1,
    seed: int = 0,
) -> Model:
    """An untrained model for a plant: a network predicts that y stays as it is, a motor is of some size.

    `window` is the L of a network of windows, `taps` the newest samples that the direct term of the others
    sees.

    Raises:
        SpecError: an unknown family, a size out of range, a scaling of other signals than the spec's, or a
            plant that is not for that family.
    """
    sizes = sizes_for(family, spec, hidden_size=hidden_size, layers=layers, taps=taps, window=window)
    model = _build(family)(family, sizes, seed)
    model.begin(spec, scaling)
    return model


def open_model(checkpoint: Checkpoint) -> Model:
    """The model in a checkpoint, ready to be trained on or run.

    Raises:
        CheckpointError: tensors that are not those of its family and sizes, or not finite; a family of the
            user's whose file was not named, or has changed.
    """
    check(checkpoint)
    try:
        model = _build(checkpoint.family)(checkpoint.family, checkpoint.sizes, 0)
        model.load(dict(checkpoint.tensors))
    except SpecError as error:
        raise CheckpointError(f"checkpoint {checkpoint.number}: {error}") from None
    return model


def _build(family: str) -> Callable[[str, Sizes, int], Model]:
    return class_of(family)
