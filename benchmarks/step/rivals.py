"""Who is compared by `step`: the same network, run in each of the ways there are.

All carry their state, take a sample that lies ready where they want it, and leave the answer where it arises.

- `compiled`: `predictor.step(predictor.sample)`; `compiled, copied` hands over another array;
- `kernel`: the same machine code in a compiled loop: 32 twins one after the other, each takes a sample and
  answers; `kernel, one stream`: one twin follows 4,096 samples by `warm`, and answers the last of them only;
- `eager`, `eager-cuda`, `graph`: the other backends;
- `onnxruntime`: see `onnx_models`;
- `torch sequence`: nn.GRU, nn.LSTM or nn.RNN on a sequence of one, and nn.Linear; for window-rnn, on the
  window;
- `torch cell`: nn.GRUCell, nn.LSTMCell or nn.RNNCell, and nn.Linear.

The rivals of torch do less than the others: they neither scale the sample nor add the direct term and y.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmarks.step.onnx_models import open_checked
from benchmarks.step.timers import Rival, rival
from benchmarks.subject import Subject, certain, of_predictor, torch_threads
from twin.backends.opening import open_predictor
from twin.checkpoint import Checkpoint
from twin.kernels.follow import follower
from twin.kernels.layout import block, fill, layout_of
from twin.messages import Spec
from twin.models.opening import new_model
from twin.models.scaling import Scaling

SPEC: Final = Spec(inputs=("voltage",), outputs=("current", "speed"), dt=1e-3)
HIDDEN: Final = 32
WINDOW: Final = 10  # of window-rnn, where nothing else is said
CHECKED: Final = 50  # samples over which onnxruntime's answers must be those of the eager model
TWINS: Final = 32  # in the compiled loop: the call is spread over them, and their states stay in L1
STREAM: Final = 4_096  # samples of one twin in a compiled loop

COMPILED, COPIED, EAGER, ONNX = "compiled", "compiled, copied", "eager", "onnxruntime"
KERNEL, ONE_STREAM = "kernel", "kernel, one stream"
SEQUENCE, CELL = "torch sequence", "torch cell"
SEQUENCES: Final[dict[str, Callable[..., nn.Module]]] = {
    "gru": nn.GRU,
    "lstm": nn.LSTM,
    "rnn": nn.RNN,
}
CELLS: Final[dict[str, Callable[..., nn.Module]]] = {
    "gru": nn.GRUCell,
    "lstm": nn.LSTMCell,
    "rnn": nn.RNNCell,
}


def samples(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Signals that wander, (T, F)."""
    noise = np.random.default_rng(seed).normal(size=(count, len(SPEC.features)))
    smooth = np.lib.stride_tricks.sliding_window_view(np.pad(noise, ((19, 0), (0, 0))), 20, axis=0).mean(2)
    return np.asarray(smooth * [6.0, 1.0, 100.0] + [12.0, 1.0, 300.0], np.float32)


def network(family: str, hidden: int = HIDDEN, *, taps: int = 1, window: int = WINDOW) -> Checkpoint:
    """A network with random weights, all of which take part; a new model's readout would be zero."""
    scaling = Scaling.of(samples(1_000), len(SPEC.outputs))
    model = new_model(family, SPEC, scaling, hidden_size=hidden, taps=taps, window=window)
    tensors, random = model.tensors(), np.random.default_rng(1)
    for name in ("core.readout.weight", "core.readout.bias"):
        size = tensors[name].shape
        tensors[name] = (random.normal(size=size) / np.sqrt(size[-1])).astype(np.float32)
    return Checkpoint(1, None, family, model.sizes, SPEC, tensors)


def rivals(checkpoint: Checkpoint, backends: Iterable[str]) -> dict[str, Rival]:
    """All ways to run a network's step, by name."""
    z = samples(CHECKED, seed=2)
    found: dict[str, Rival] = {}
    for backend in backends:
        predictor = open_predictor(checkpoint, backend)
        predictor.sample[...] = z[-1:]
        look = partial(of_predictor, predictor, checkpoint)
        certain(look(), Subject(checkpoint.family, backend, 1))
        found[backend] = rival("step(z)", step=predictor.step, z=predictor.sample)._replace(look=look)
        if backend == COMPILED:
            found[COPIED] = rival("step(z)", step=predictor.step, z=z[-1:].copy())._replace(look=look)
            found[KERNEL] = in_a_loop(checkpoint, z[-1])
            if checkpoint.family != "window-rnn":  # which does nothing for samples that it does not answer
                found[ONE_STREAM] = one_stream(checkpoint)
    session = open_checked(checkpoint, z)
    run = rival("run(next(turns))", run=session.run, turns=session.turns)
    found[ONNX] = run._replace(look=lambda: Subject(checkpoint.family, ONNX, session.threads))
    return found | of_torch(checkpoint, z[-1:])


def of_torch(checkpoint: Checkpoint, z: npt.NDArray[np.float32]) -> dict[str, Rival]:
    """torch's own layers for a sample z (1, F)."""
    x = torch.from_numpy((z - checkpoint.tensors["mean"]) / checkpoint.tensors["scale"])
    sizes = checkpoint.sizes
    if checkpoint.family == "window-rnn":
        found = {SEQUENCE: rival("step(x)", step=over_the_window(sizes), x=x[None])}
    else:
        found = {
            SEQUENCE: rival("step(x)", step=sequence_of_one(checkpoint.family, sizes), x=x[None]),
            CELL: rival("step(x)", step=one_cell(checkpoint.family, sizes), x=x),
        }

    def look(name: str) -> Subject:
        return Subject(checkpoint.family, name, torch_threads())

    return {name: each._replace(look=partial(look, name)) for name, each in found.items()}


def looked(timed: Rival) -> Subject:
    """Whose steps they are, now."""
    assert timed.look is not None, "what is compared tells what it is"
    return timed.look()


def in_a_loop(checkpoint: Checkpoint, sample: npt.NDArray[np.float32]) -> Rival:
    """The kernel of a single twin, called once for many twins: what it costs without Python."""
    layout = layout_of(checkpoint.family, checkpoint.sizes)
    weights = block(layout.scratch + layout.blocks * layout.lanes)
    fill(weights, layout, checkpoint.tensors)
    states = block(TWINS * layout.row)
    z = np.tile(sample, (TWINS, 1, 1))
    addresses = (a.ctypes.data for a in (weights, states, z))
    call = np.array([*addresses, TWINS, 1, 1, 0, 0], np.int64)  # and nothing adapts
    kept = (weights, states, z, call)  # as long as there are addresses of them
    timed = rival("follow(call)", TWINS, follow=follower(layout), call=call.ctypes.data, kept=kept)
    return timed._replace(look=lambda: Subject(checkpoint.family, COMPILED, int(call[5])))


def one_stream(checkpoint: Checkpoint) -> Rival:
    """One twin and many samples, each of which needs the state that the last one left."""
    predictor = open_predictor(checkpoint, COMPILED)
    timed = rival("warm(z)", STREAM, warm=predictor.warm, z=samples(STREAM, seed=3)[None])
    return timed._replace(look=partial(of_predictor, predictor, checkpoint))


def sequence_of_one(family: str, sizes: dict[str, int], rows: int = 1) -> Callable[[Tensor], Tensor]:
    """torch's layer, called for one sample x (1, N, F) at a time."""
    hidden = sizes["hidden_size"]
    net, readout = SEQUENCES[family](len(SPEC.features), hidden), nn.Linear(hidden, sizes["outputs"])
    state: Any = torch.zeros(1, rows, hidden)
    if family == "lstm":
        state = (state, torch.zeros(1, rows, hidden))

    def step(x: Tensor) -> Tensor:
        nonlocal state
        h, state = net(x, state)
        return readout(h)  # type: ignore[no-any-return]

    return step


def one_cell(family: str, sizes: dict[str, int], rows: int = 1) -> Callable[[Tensor], Tensor]:
    """torch's cell, which needs no sequence: x (N, F)."""
    hidden = sizes["hidden_size"]
    cell, readout = CELLS[family](len(SPEC.features), hidden), nn.Linear(hidden, sizes["outputs"])
    lstm = family == "lstm"
    state: Any = torch.zeros(rows, hidden)
    if lstm:
        state = (state, torch.zeros(rows, hidden))

    def step(x: Tensor) -> Tensor:
        nonlocal state
        state = cell(x, state)
        return readout(state[0] if lstm else state)  # type: ignore[no-any-return]

    return step


def over_the_window(sizes: dict[str, int]) -> Callable[[Tensor], Tensor]:
    """torch's layer over the newest samples, (L, 1, F), each time from the beginning."""
    hidden, length = sizes["hidden_size"], sizes["window"]
    net = nn.RNN(len(SPEC.features), hidden, nonlinearity="relu")
    readout = nn.Linear(hidden * length, sizes["outputs"])
    window, ones = torch.zeros(length, 1, len(SPEC.features)), torch.ones(1, 1, hidden)

    def step(x: Tensor) -> Tensor:
        nonlocal window
        window = torch.cat((window[1:], x))
        h, _ = net(window, ones)
        return readout(h.flatten())  # type: ignore[no-any-return]

    return step
