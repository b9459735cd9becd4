"""Families of the user's: a class in a file, named as FILE.py:CLASS.

A checkpoint never brings code with it. It holds tensors, and in its family's name the class and a hash of
the file that it was trained with: whoever opens it names the file again, and a file of another content is
refused.

The class is a `torch.nn.Module`, or plain Python on NumPy arrays (`twin.models.own_numpy.NumpyModule`). Made
from the numbers of features F and outputs P, it has a `state_size` S, and maps scaled samples (N, F) and a
state (N, S) to scaled increments of y (N, P) and the next state. Scaling, training, gates and checkpoints are
those of every family.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np

from twin.errors import ConfigError, SpecError
from twin.families import OWN

_classes: Final[dict[str, type[Any]]] = {}
"""What this process was told of, by the name of the family: a checkpoint that names another is refused."""


def named(model: str) -> str:
    """The family that is meant by a name: of this program, or FILE.py:CLASS, which is then read and run.

    Raises:
        ConfigError: a file that cannot be read or run, or that has no such class.
    """
    file, colon, name = model.rpartition(":")
    if not colon:
        return model
    module = _run(Path(file))
    made = getattr(module, name or "the class", None)
    if not inspect.isclass(made):
        own = [n for n, a in vars(module).items() if inspect.isclass(a) and a.__module__ == module.__name__]
        raise ConfigError(
            f"{file} has no class {name or 'without a name'}; it has {', '.join(own) or 'none'}"
        )
    return take(made)


def take(made: type[Any]) -> str:
    """The name of the family that a class is from now on: CLASS@HASH, the hash that of its file.

    Raises:
        ConfigError: a class without a file, such as one typed at a prompt, or without the methods needed.
    """
    wanted = ("forward",) if is_torch(made) else ("step", "fit", "tensors", "load")
    missing = [name for name in wanted if not callable(getattr(made, name, None))]
    if missing:
        raise ConfigError(
            f"{made.__name__} has no {', '.join(missing)}; make it a torch.nn.Module, or give it step, fit, "
            "tensors and load (docs/own-model.md shows both)"
        )
    try:
        source = inspect.getsourcefile(made)
    except TypeError:
        source = None
    if source is None or not Path(source).is_file():
        raise ConfigError(f"{made.__name__} stands in no file, whose hash its checkpoints could keep")
    digest = hashlib.sha256(Path(source).read_bytes()).hexdigest()[:16]
    family = f"{made.__name__}{OWN}{digest}"
    _classes[family] = made
    return family


def known(family: str) -> type[Any]:
    """The user's class of a family.

    Raises:
        SpecError: this process was not told of it, or of a file with another content.
    """
    if family in _classes:
        return _classes[family]
    name, _, digest = family.partition(OWN)
    others = [other for other in _classes if other.partition(OWN)[0] == name]
    if others:
        raise SpecError(
            f"its class {name} stood in a file with the hash {digest}, and the file named now has "
            f"{others[-1].partition(OWN)[2]}: name the file that it was trained with, or another run"
        )
    raise SpecError(
        f"it is of the class {name} in a file of your own; name that file: --model FILE.py:{name}"
    )


def is_torch(made: type[Any]) -> bool:
    """Whether a class is a torch module; asked without importing torch, which it then has done."""
    torch = sys.modules.get("torch")
    return torch is not None and issubclass(made, torch.nn.Module)


def state_size(family: str, features: int, outputs: int) -> int:
    """The S that a user's class states; a model of it is made, and tried on two rows of zeros.

    Raises:
        SpecError: it cannot be made, states no S, or does not answer increments (N, P) and a state (N, S).
    """
    made = known(family)
    name = made.__name__
    try:
        model = made(features, outputs)
    except Exception as error:
        raise SpecError(
            f"{name}(features, outputs) cannot be made of {features} and {outputs}: {error}"
        ) from None
    size = getattr(model, "state_size", None)
    if not isinstance(size, int) or size < 1:
        raise SpecError(f"{name}.state_size is {size!r}; give the S of its state, at least 1")
    x, state = np.zeros((2, features), np.float32), np.zeros((2, size), np.float32)
    try:
        if is_torch(made):
            from_numpy = sys.modules["torch"].from_numpy
            answered = model(from_numpy(x), from_numpy(state))
        else:
            answered = model.step(x, state)
        increments, after = (tuple(part.shape) for part in answered)
    except Exception as error:
        raise SpecError(
            f"{name} fails on a sample (N, F) = {x.shape} and a state (N, S) = {state.shape}: "
            f"{type(error).__name__}: {error}"
        ) from None
    if (increments, after) != ((2, outputs), state.shape):
        raise SpecError(
            f"{name} answers {increments} and {after} for N = 2; it must answer increments (N, P) = "
            f"{(2, outputs)} and the next state (N, S) = {state.shape}"
        )
    return size


def _run(file: Path) -> ModuleType:
    """The module that a file makes."""
    if not file.is_file():
        raise ConfigError(f"{file}: no such file; --model takes a family's name or FILE.py:CLASS")
    name = f"livetwin_own_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where inspect looks for a class's file
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ConfigError(f"{file} cannot be run: {type(error).__name__}: {error}") from None
    return module
