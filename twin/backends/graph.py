"""Steps replayed from a captured CUDA graph: the host says "again", and the device knows the rest.

Launched one by one, the operations of a step cost the host microseconds each, which for a single motor is all
the time there is. A graph holds them with their addresses, so a replay is one call; in return every buffer
stays where it was at capture. Sample and answer lie in pinned memory, which the device reads and writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, ClassVar, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twin.backends.eager import Eager, forbid_tf32
from twin.checkpoint import Checkpoint
from twin.errors import BackendError
from twin.families import family_of
from twin.models.network import Network
from twin.models.opening import open_model
from twin.predictor import Predictor, check_shape

_PORTION: Final = 16  # samples of a captured portion of `warm`: as many as a twin feeds its spare in a turn
_PORTION_ROWS: Final = 1 << 18  # rows times samples of it at most: a large fleet fills the device by itself
_FEW: Final = 1 << 12  # numbers of a sample that the kernel fetches itself sooner than two copies would start
_WARM_UP: Final = 3  # runs before the capture, which load code and let libraries set up what they keep


class _Rows(Protocol):
    """N rows of a model on the device; what they remember stays at its address, as a graph needs it."""

    @property
    def state(self) -> Tensor:
        """What they remember, (N, S), as a copy."""

    @state.setter
    def state(self, state: Tensor) -> None: ...

    def follow(self, z: Tensor, y: Tensor) -> None:
        """Follow samples z (N, T, F), T > 0, and write the y (N, P) expected after the last one."""


class _Operations:
    """The rows by torch's operations, for models that the fused kernel does not serve."""

    def __init__(self, model: Network, rows: int) -> None:
        self._model = model
        self._state = model.initial_state(rows)

    @property
    def state(self) -> Tensor:
        return self._state.clone()

    @state.setter
    def state(self, state: Tensor) -> None:
        self._state.copy_(state)

    def follow(self, z: Tensor, y: Tensor) -> None:
        answers, state = self._model(z, self._state)
        y.copy_(answers[:, -1])
        self._state.copy_(state)


class _Captured:
    """A graph that follows T samples: from pinned memory to the device, T steps, and the answer back.

    With `direct`, the steps themselves read and write the pinned memory, and nothing is copied.
    """

    def __init__(self, rows: _Rows, shape: tuple[int, int, int], answer: Tensor, direct: bool) -> None:
        self._rows, self._answer = rows, answer
        self._samples = torch.zeros(shape, pin_memory=True)
        self.samples: npt.NDArray[np.float32] = self._samples.numpy()  # (N, T, F), for NumPy to write into
        self._z, self._y = self._samples, answer
        if not direct:
            self._z, self._y = self._samples.cuda(), answer.cuda()
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode():
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP):
                    self._work()
            stream.synchronize()
            # thread_local: a twin opens a newer model in a thread, while its loop goes on with the old one
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                self._work()

    def _work(self) -> None:
        if self._z is not self._samples:
            self._z.copy_(self._samples, non_blocking=True)
        self._rows.follow(self._z, self._y)
        if self._y is not self._answer:
            self._answer.copy_(self._y, non_blocking=True)

    def run(self) -> None:
        """Follow what `samples` holds, and wait until it is done."""
        self._graph.replay()
        torch.cuda.current_stream().synchronize()


class Graph:
    """The `Predictor` on a captured CUDA graph.

    A recurrent family's step is one fused kernel where Triton is installed and `twin.backends.fused.serves`
    the model: up to 256 hidden units, 16 features, 64 samples' features in the direct term. All others run
    torch's operations inside the graph.
    """

    quick: ClassVar[bool] = False

    def __init__(self, checkpoint: Checkpoint, rows: int) -> None:
        if family_of(checkpoint.family).motor:
            raise BackendError(
                f"a {checkpoint.family} model's filter runs on the CPU only; take --backend compiled"
            )
        forbid_tf32()
        self.rows = rows
        self.adapting = False  # without effect
        self.number = checkpoint.number
        self._checkpoint = checkpoint
        self._inputs, self._features = len(checkpoint.spec.inputs), len(checkpoint.spec.features)
        model = open_model(checkpoint)
        if not isinstance(model, Network):
            raise BackendError("a model on NumPy arrays runs on the CPU only; take --backend compiled")
        self._model = model.requires_grad_(False).cuda()
        self._rows, fused = _open_rows(self._model, rows)
        answer = torch.zeros(rows, len(checkpoint.spec.outputs), pin_memory=True)
        self.y: npt.NDArray[np.float32] = answer.numpy()
        direct = fused and rows * self._features <= _FEW
        self._one = self._portion = _Captured(self._rows, (rows, 1, self._features), answer, direct)
        self.sample = self._read = self._one.samples[:, 0]
        if (steps := min(_PORTION, _PORTION_ROWS // rows)) > 1:
            self._portion = _Captured(self._rows, (rows, steps, self._features), answer, direct=False)
        self.reset()

    def share(self, sample: npt.NDArray[np.float32]) -> None:
        """From now on `sample` is this memory (N, F); what is there is copied in a step."""
        self.sample = sample

    @property
    def parameters(self) -> Mapping[str, tuple[float, float]]:
        """A network has none that mean something."""
        return {}

    @property
    def state(self) -> npt.NDArray[np.float32]:
        """All that it remembers, (N, S), as a copy."""
        return self._rows.state.cpu().numpy()

    @state.setter
    def state(self, state: npt.NDArray[np.float32]) -> None:
        check_shape("state", state, (self.rows, self._model.state_size))
        self._rows.state = _on_device(state)

    def reset(self, *, learned: bool = True) -> None:
        """Forget all samples."""
        self._rows.state = self._model.initial_state(self.rows)

    def warm(self, z: npt.NDArray[Any]) -> None:
        """Follow samples z (N, T, F) without answering: whole portions by one replay each, then the rest."""
        check_shape("z", z, (self.rows, z.shape[1] if z.ndim == 3 else -1, self._features))
        steps = self._portion.samples.shape[1]
        whole = z.shape[1] - z.shape[1] % steps
        for start in range(0, whole, steps):
            self._portion.samples[...] = z[:, start : start + steps]
            self._portion.run()
        for k in range(whole, z.shape[1]):
            self._read[...] = z[:, k]
            self._one.run()

    def step(self, z: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Follow one sample z (N, F), and answer the y (N, P) expected of the next one."""
        if z is not self._read:
            check_shape("z", z, self._read.shape)
            self._read[...] = z
        self._one.run()
        return self.y

    def free_run(self, z: npt.NDArray[Any], u: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Simulate from z (N, F) with inputs u (N, T, U): y (N, T, P) at the instants of u.

        By torch's operations, for its length is the caller's and a capture would cost more than it saves.
        """
        check_shape("z", z, (self.rows, self._features))
        check_shape("u", u, (self.rows, u.shape[1] if u.ndim == 3 else -1, self._inputs))
        with torch.inference_mode():
            return self._model.free_run(_on_device(z), _on_device(u), self._rows.state).cpu().numpy()

    def fork(self, rows: int) -> Eager:
        """One for N rows, each in the state of the first row of this one, without a graph: a capture takes
        longer than what a fork is made for."""
        other = Eager(self._checkpoint, rows, "cuda")
        other.take_over(self)
        return other

    def take_over(self, other: Predictor) -> None:
        """Go on from where the first row of another predictor of the same checkpoint is."""
        self.state = np.repeat(other.state[:1], self.rows, axis=0)


def _open_rows(model: Network, rows: int) -> tuple[_Rows, bool]:
    """The rows by the best way there is, and whether that is the fused kernel."""
    if find_spec("triton"):
        from twin.backends import fused

        if fused.serves(model):
            return fused.Fused(model, rows), True
    return _Operations(model, rows), False


def _on_device(a: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(a, np.float32)).cuda()
