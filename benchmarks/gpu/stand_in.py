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
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.gpu.on_device import DEVICE, OnDevice, captured, capturing

NAME: Final = "CPU in place of a CUDA device"
MAKERS: Final = ("zeros", "ones", "empty", "full", "randn", "arange", "tensor")
"""Of tensors, on any device, pinned or not."""

SHORT: Final = 60  # samples of a rehearsed test at most


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
    capturing.work = graph.work
    try:
        yield
    finally:
        capturing.work = None


class Stream:
    """`torch.cuda.Stream`: everything is done when it is asked for."""

    def wait_stream(self, other: object) -> None:
        """Nothing to wait for."""

    def synchronize(self) -> None:
        """Wait for what is under way.

        Raises:
            RuntimeError: a graph is captured, whose work is not under way.
        """
        if captured() is not None:
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
        if (work := captured()) is not None:
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
