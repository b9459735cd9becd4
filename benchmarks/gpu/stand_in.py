"""A CUDA device played by the CPU, to rehearse what is to run on one where there is none.

It is strict where a device is, since what it lets pass would fail there: numbers live on the device or on the
host, and an operation that mixes the two is refused; so is waiting for a result while a graph is captured. A
graph holds the operations of its capture with their memory, and a replay does them again, in the same memory.
Kernels run in Triton's interpreter, which must be asked for before it is imported (`TRITON_INTERPRET=1`), and
read the host's memory only where it is pinned. Unlike a device it does the work of a capture, and it measures
nothing: its times are the CPU's.

`python -m pytest -p benchmarks.gpu.stand_in ...` runs tests on it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils import _python_dispatch
from torch.utils._pytree import tree_leaves, tree_map_only

NAME: Final = "CPU in place of a CUDA device"
DEVICE: Final = torch.device("cuda", 0)
MAKERS: Final = ("zeros", "ones", "empty", "full", "randn", "arange", "tensor")
"""Of tensors, on any device, pinned or not."""
MIXES: Final = ("aten::copy_", "aten::_to_copy", "aten::index.", "aten::index_put")
"""Operations that take tensors of host and device."""

WAITS: Final = ("aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal")
"""Operations that answer with a number of Python's."""
SHORT: Final = 60  # samples of a rehearsed test at most

_capturing = threading.local()
as_a_view: Callable[..., Any] = _python_dispatch.return_and_correct_aliasing


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
                return as_a_view(func, args, kwargs, args[0])
            if func._schema.is_mutable:
                return (args or next(iter(kwargs.values())))[0] if func._schema.returns else None
            if to_host:
                return out
            shells = tree_map_only(Tensor, OnDevice, out)
        return as_a_view(func, args, kwargs, shells) if _is_view(there, out) else shells


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
    if (to_host or name.startswith(WAITS)) and _captured() is not None:
        raise RuntimeError(f"{name}: operation not permitted when stream is capturing")


def _captured() -> list[Callable[[], object]] | None:
    """What the graph that this thread captures has noted so far."""
    found: list[Callable[[], object]] | None = getattr(_capturing, "work", None)
    return found


def _note(func: Any, args: Any, kwargs: Any, out: Any) -> None:
    work = _captured()
    if work is None or (_is_view((args, kwargs), out) and not func._schema.is_mutable):
        return  # a view's memory is filled by the replay of what it is a view of

    def again() -> None:
        with torch.inference_mode():
            found = func(*args, **kwargs)
            if not func._schema.is_mutable:
                for old, new in zip(_tensors(out), _tensors(found), strict=True):
                    old.copy_(new)

    work.append(again)


class Graph:
    """`torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self.work: list[Callable[[], object]] = []

    def replay(self) -> None:
        """Do again what was captured."""
        for again in self.work:
            again()


@contextlib.contextmanager
def capture(graph: Graph, stream: object = None, capture_error_mode: str = "") -> Iterator[None]:
    """`torch.cuda.graph`."""
    _capturing.work = graph.work
    try:
        yield
    finally:
        _capturing.work = None


class Stream:
    """`torch.cuda.Stream`: everything is done when it is asked for."""

    def wait_stream(self, other: object) -> None:
        """Nothing to wait for."""

    def synchronize(self) -> None:
        """Wait for what is under way.

        Raises:
            RuntimeError: a graph is captured, whose work is not under way.
        """
        if _captured() is not None:
            raise RuntimeError("operation not permitted when stream is capturing")


class Event:
    """`torch.cuda.Event`."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self) -> None:
        """Note the time."""
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def elapsed_time(self, end: Event) -> float:
        """Until another, ms."""
        return 1e3 * (end.at - self.at)


def on_device(place: object) -> bool:
    """Whether a device that is asked for is the one that is played."""
    return isinstance(place, str | torch.device) and torch.device(place).type == "cuda"


def _maker(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def made(*args: Any, device: Any = None, pin_memory: bool = False, **kwargs: Any) -> Tensor:
        if not on_device(device):
            found = make(*args, device=device, **kwargs)
            found.pinned = pin_memory  # type: ignore[attr-defined]
            return found
        requires_grad = kwargs.pop("requires_grad", False)
        with torch.inference_mode(False):
            return OnDevice(make(*args, **kwargs)).requires_grad_(requires_grad)

    return made


def _to(to: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def moved(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        place = kwargs.get("device", args[0] if args else None)
        if not on_device(place):
            return to(tensor, *args, **kwargs)
        types = [each for each in (*args[1:2], kwargs.get("dtype")) if isinstance(each, torch.dtype)]
        if not isinstance(tensor, OnDevice):
            with torch.inference_mode(False):
                tensor = OnDevice(tensor.detach().clone())
        return to(tensor, *types)

    return moved


def _launched(launch: Callable[..., None]) -> Callable[..., None]:
    """A kernel's launch by Triton's interpreter, which wants the CPU's tensors."""

    def launched(executor: Any, *args: Any, **kwargs: Any) -> None:
        for each in args:
            if (
                isinstance(each, Tensor)
                and not isinstance(each, OnDevice)
                and not getattr(each, "pinned", False)
            ):
                raise RuntimeError("a kernel was given memory of the host that is not pinned")
        there = [each.host if isinstance(each, OnDevice) else each for each in args]
        with torch.inference_mode(False):
            launch(executor, *there, **kwargs)
        if (work := _captured()) is not None:
            work.append(lambda: launch(executor, *there, **kwargs))

    return launched


def patches() -> Sequence[Any]:
    """All that makes the CPU look like a device."""
    to, cuda = Tensor.to, torch.cuda
    moved = _to(to)
    found: list[Any] = [patch.object(torch, name, _maker(getattr(torch, name))) for name in MAKERS]
    found += [
        patch.object(Tensor, "to", moved),
        patch.object(Tensor, "cuda", lambda tensor, *_, **__: moved(tensor, DEVICE)),
        patch.object(Tensor, "is_pinned", lambda tensor, *_: getattr(tensor, "pinned", False)),
        patch.object(cuda, "is_available", lambda: True),
        patch.object(cuda, "get_device_name", lambda *_: NAME),
        patch.object(cuda, "current_stream", lambda *_: Stream()),
        patch.object(cuda, "stream", lambda _: contextlib.nullcontext()),
        patch.object(cuda, "synchronize", lambda *_: Stream().synchronize()),
        patch.object(cuda, "Stream", Stream),
        patch.object(cuda, "Event", Event),
        patch.object(cuda, "CUDAGraph", Graph),
        patch.object(cuda, "graph", capture),
        patch.object(torch.version, "cuda", "none"),
    ]
    if find_spec("triton"):
        from triton.runtime.interpreter import GridExecutor

        found.append(patch.object(GridExecutor, "__call__", _launched(GridExecutor.__call__)))
    return found


@contextlib.contextmanager
def played() -> Iterator[None]:
    """A device for as long as the block lasts."""
    with contextlib.ExitStack() as stack:
        for each in patches():
            stack.enter_context(each)
        yield


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Streams of tests are made shorter: what an interpreter takes minutes for, a few samples show as
    well."""
    for module in {item.module for item in items}:
        if module.__name__.endswith("test_graph"):
            whole = module.samples
            module.samples = lambda rows, steps, whole=whole: whole(rows, min(steps, SHORT))


def pytest_configure() -> None:
    """As a plugin: a device for all tests of this process."""
    for each in patches():
        each.start()
