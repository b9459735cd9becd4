"""Numbers of the device that the CPU plays, and what it does with them.

A shell around a tensor of the CPU passes each operation on to what is in it. Whatever mixes shells with the
host's own tensors is refused, and what is done while a graph is captured is noted with its memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils import _python_dispatch
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE: Final = torch.device("cuda", 0)
MIXES: Final = ("aten::copy_", "aten::_to_copy", "aten::index.", "aten::index_put")
"""Operations that take tensors of host and device."""
WAITS: Final = ("aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal")
"""Operations that answer with a number of Python's."""

capturing = threading.local()
"""`work`: what the graph that a thread captures has noted so far, None where it captures none."""
_as_a_view: Callable[..., Any] = _python_dispatch.return_and_correct_aliasing


class OnDevice(Tensor):
    """Numbers on the device: a tensor that is itself a shell around one of the CPU's, its `host`.

    To torch's own code the shell has no memory (`meta`), to Python's it is on the device.
    """

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> OnDevice:  # noqa: D102
        shell = Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=torch.device("meta"),
        )
        shell.host = host
        return shell

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where it is said to be."""
        return DEVICE

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        """As the device's tensors say it."""
        return True

    @property
    def data(self) -> Tensor:
        """The same without a history; set by a module that goes to another type."""
        return Tensor.data.__get__(self)  # type: ignore[attr-defined, no-any-return]

    @data.setter
    def data(self, other: Any) -> None:
        Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        self.host = other.host

    def data_ptr(self) -> int:
        """Where its numbers are."""
        return self.host.data_ptr()

    def __getitem__(self, index: Any) -> Tensor:
        """A part: of an index that is a list, torch would make a tensor without memory."""
        return super().__getitem__(OnDevice(torch.tensor(index)) if isinstance(index, list) else index)

    def __setitem__(self, index: Any, value: Any) -> None:
        """Write a part: a plain number would be made a tensor without memory on its way."""
        part = self[index]
        if isinstance(value, Tensor):
            part.copy_(value)
        else:
            part.fill_(value)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Any operation with numbers of the device in it: done on the CPU, noted if a graph is captured."""
        kwargs = dict(kwargs or {})
        to_host = "device" in kwargs and torch.device(kwargs.pop("device") or DEVICE).type == "cpu"
        _refuse(func, args, kwargs, to_host)
        there = tree_map_only(OnDevice, lambda shell: shell.host, (args, kwargs))
        # whatever is made here serves in either mode; what is changed may have been made in either
        with torch.inference_mode(func._schema.is_mutable):
            out = func(*there[0], **there[1])
            _note(func, there[0], there[1], out)
            if torch.Tag.inplace_view in func.tags:  # the shell takes the other shape, too
                return _as_a_view(func, args, kwargs, args[0])
            if func._schema.is_mutable:
                return (args or next(iter(kwargs.values())))[0] if func._schema.returns else None
            if to_host:
                return out
            shells = tree_map_only(Tensor, OnDevice, out)
        return _as_a_view(func, args, kwargs, shells) if _is_view(there, out) else shells


def _tensors(tree: Any) -> list[Tensor]:
    return [each for each in tree_leaves(tree) if isinstance(each, Tensor)]


def _is_view(arguments: Any, out: Any) -> bool:
    """Whether what came out lies in memory that went in: `reshape`, for one, does so or does not."""
    places, found = (
        {each.untyped_storage().data_ptr() for each in _tensors(tree)} for tree in (arguments, out)
    )
    return bool(found) and found <= places


def _refuse(func: Any, args: Any, kwargs: Any, to_host: bool) -> None:
    """What a device would not do."""
    name = func._schema.name + "." + func._schema.overload_name
    mixed = any(not isinstance(each, OnDevice) and each.dim() for each in _tensors((args, kwargs)))
    if mixed and not name.startswith(MIXES):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but some are on the host")
    if (to_host or name.startswith(WAITS)) and captured() is not None:
        raise RuntimeError(f"{name}: operation not permitted when stream is capturing")


def captured() -> list[Callable[[], object]] | None:
    """What the graph that this thread captures has noted so far."""
    found: list[Callable[[], object]] | None = getattr(capturing, "work", None)
    return found


def _note(func: Any, args: Any, kwargs: Any, out: Any) -> None:
    work = captured()
    if work is None or (_is_view((args, kwargs), out) and not func._schema.is_mutable):
        return  # a view's memory is filled by the replay of what it is a view of

    def again() -> None:
        with torch.inference_mode():
            found = func(*args, **kwargs)
            if not func._schema.is_mutable:
                for old, new in zip(_tensors(out), _tensors(found), strict=True):
                    old.copy_(new)

    work.append(again)
