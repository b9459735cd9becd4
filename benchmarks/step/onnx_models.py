"""A checkpoint's model for onnxruntime, as fast as onnxruntime has it.

The graph is built by hand from the same weights, because what an exporter writes is slower. All that is
linear is folded: the scaling into the weights of the recurrent operator; the increments, their scale and y
itself into one matrix, which reads [h, sample], and whose offset is carried by a one behind the sample's
values. So a step of a recurrent family is three operators: GRU, LSTM or RNN, then Concat, then MatMul.

Of what else was tried (onnxruntime 1.32, GRU-32): without the folding a step takes 40 % longer, with Gemm in
place of MatMul 5 %, with the cell written out in plain operators 60 %; the memory arena, of no use where all
memory is bound, costs 0.8 µs. Below the documented `run_with_iobinding` is a private method that would save
0.3 µs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnxruntime import ExecutionMode, GraphOptimizationLevel, InferenceSession, OrtValue, SessionOptions

from twin.backends.opening import open_predictor
from twin.checkpoint import Checkpoint
from twin.errors import TwinError

OPERATORS: Final = {"gru": "GRU", "lstm": "LSTM", "rnn": "RNN", "window-rnn": "RNN"}
GATE_ORDERS: Final = {"gru": [1, 0, 2], "lstm": [0, 3, 1, 2], "rnn": [0], "window-rnn": [0]}
"""Where ONNX's gates are among torch's: z r n from r z n, i o f g from i f g o."""
OPSET: Final = 17
IR_VERSION: Final = 8  # both old enough for every onnxruntime that could be here
TOLERANCE: Final = 1e-5
"""How far answers may be from the eager model's, in parts of the largest."""

Shape = tuple[int, ...]


def export(checkpoint: Checkpoint) -> ModelProto:
    """The graph of one step, from `z`, the sample and a one, (1, 1, F + 1), to `y`, ŷ (1, 1, P).

    What it carries (`carried`) goes in under its name and comes out under its name with a prime; of K samples
    kept, the K - 1 newest go in. Models of one layer only.
    """
    sizes, states = checkpoint.sizes, carried(checkpoint)
    assert sizes["layers"] == 1
    inputs: dict[str, Shape] = {"z": (1, 1, sizes["inputs"] + sizes["outputs"] + 1), **states}
    outputs: dict[str, Shape] = {"y": (1, 1, sizes["outputs"])}
    outputs |= {f"{name}'": shape for name, shape in states.items()}
    if "samples" in states:
        kept, *shape = states["samples"]
        inputs["samples"] = (kept - 1, *shape)
    graph = helper.make_graph(
        _nodes(checkpoint.family, sizes["hidden_size"], list(states)),
        checkpoint.family,
        _declared(inputs),
        _declared(outputs),
        [numpy_helper.from_array(array, name) for name, array in _constants(checkpoint).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def carried(checkpoint: Checkpoint) -> dict[str, Shape]:
    """What a model carries from step to step: `h`, `c`, and the newest `samples`, each with its one."""
    family, sizes = checkpoint.family, checkpoint.sizes
    units = (1, 1, sizes["hidden_size"])
    kept = sizes["window" if family == "window-rnn" else "taps"]
    states: dict[str, Shape] = {} if family == "window-rnn" else {"h": units}
    if family == "lstm":
        states["c"] = units
    if kept > 1:
        states["samples"] = (kept, 1, sizes["inputs"] + sizes["outputs"] + 1)
    return states


def _declared(shapes: Mapping[str, Shape]) -> list[ValueInfoProto]:
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]


def _nodes(family: str, hidden: int, states: list[str]) -> list[NodeProto]:
    """The operators in turn; what the readout sees is [h, the samples that it reads]."""
    nodes, samples = [], "z"
    if "samples" in states:
        nodes.append(helper.make_node("Concat", ["samples", "z"], ["samples'"], axis=0))
        samples = "samples'"
    options: dict[str, Any] = {"linear_before_reset": 1} if family == "gru" else {}
    if family == "window-rnn":  # all h of the window, from a first one of ones
        options["activations"] = ["Relu"]
        came, left = [samples, "W", "R", "B", "", "ones"], ["all"]
        long, seen = "all", ["row", "z"]
    else:
        own = [name for name in states if name != "samples"]
        came, left = ["z", "W", "R", "B", "", *own], ["", *(f"{name}'" for name in own)]
        long, seen = samples, ["h'", "z" if samples == "z" else "row"]
    nodes.append(helper.make_node(OPERATORS[family], came, left, hidden_size=hidden, **options))
    if "row" in seen:
        nodes.append(helper.make_node("Reshape", [long, "as a row"], ["row"]))
    nodes.append(helper.make_node("Concat", seen, ["seen"], axis=2))
    nodes.append(helper.make_node("MatMul", ["seen", "readout"], ["y"]))
    return nodes


def _constants(checkpoint: Checkpoint) -> dict[str, npt.NDArray[Any]]:
    """All weights, folded in float64 before they are rounded."""
    family, sizes = checkpoint.family, checkpoint.sizes
    hidden = sizes["hidden_size"]
    tensors = {name: np.asarray(a, np.float64) for name, a in checkpoint.tensors.items()}
    order = GATE_ORDERS[family]
    w_x, w_h, b_x, b_h = (
        tensors[f"core.net.{name}_l0"].reshape(len(order), hidden, -1)[order].reshape(len(order) * hidden, -1)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    mean, scale = tensors["mean"], tensors["scale"]
    b_x = b_x[:, 0] - w_x @ (mean / scale)
    constants = {
        "W": np.pad(w_x / scale, ((0, 0), (0, 1)))[None],  # nothing for the one: its place is the bias
        "R": w_h[None],
        "B": np.concatenate((b_x, b_h[:, 0]))[None],
        "readout": _readout(tensors, sizes, family),
    }
    if family == "window-rnn":
        constants["ones"] = np.ones((1, 1, hidden))
    floats = {name: array.astype(np.float32) for name, array in constants.items()}
    rowed = family == "window-rnn" or sizes["taps"] > 1
    return {**floats, "as a row": np.array([1, 1, -1])} if rowed else floats


def _readout(
    tensors: Mapping[str, npt.NDArray[np.float64]], sizes: Mapping[str, int], family: str
) -> npt.NDArray[np.float64]:
    """What makes ŷ of [h, samples with their ones], (rows, P)."""
    features, outputs = sizes["inputs"] + sizes["outputs"], sizes["outputs"]
    gain = tensors["increment_scale"][:, None]
    weight, offset = gain * tensors["core.readout.weight"], gain[:, 0] * tensors["core.readout.bias"]
    taps = 0 if family == "window-rnn" else sizes["taps"]
    units = weight.shape[1] - taps * features
    direct = np.zeros((outputs, max(taps, 1), features + 1))
    if taps:
        direct[:, :, :-1] = weight[:, units:].reshape(outputs, taps, features) / taps / tensors["scale"]
        offset = offset - (direct[:, :, :-1] @ tensors["mean"]).sum(axis=1)
    direct[:, -1, -1] = offset
    direct[:, -1, sizes["inputs"] : -1] += np.eye(outputs)  # y itself
    return np.concatenate((weight[:, :units], direct.reshape(outputs, -1)), axis=1).T


class OnnxStep:
    """A session with all its memory bound: nothing is copied or allocated in Python at a step.

    The state lies in two places. Two bindings take turns: what one writes, the other reads. A step is
    `run(next(turns))`; it takes the sample from `sample` (F,) and leaves its answer in `y` (P,).
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        options = SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_ALL
        options.enable_cpu_mem_arena = False
        model = export(checkpoint).SerializeToString()
        self._session = InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.run = self._session.run_with_iobinding
        self.threads = int(self._session.get_session_options().intra_op_num_threads)
        sizes = checkpoint.sizes
        self._z = np.ones((1, 1, sizes["inputs"] + sizes["outputs"] + 1), np.float32)
        self._y = np.zeros((1, 1, sizes["outputs"]), np.float32)
        self.sample, self.y = self._z[0, 0, :-1], self._y[0, 0]
        self._states: list[dict[str, npt.NDArray[np.float32]]] = [
            {name: np.zeros(shape, np.float32) for name, shape in carried(checkpoint).items()} for _ in "ab"
        ]
        self.reset(checkpoint.tensors["mean"])
        here, there = self._states
        self.turns = itertools.cycle((self._binding(here, there), self._binding(there, here)))

    def reset(self, sample: npt.NDArray[np.float32]) -> None:
        """Forget all samples, and see this one (F,) before the first: the mean, which is a zero to a network,
        or for window-rnn the first itself."""
        for states in self._states:
            for name, state in states.items():
                state[...] = np.append(sample, 1.0) if name == "samples" else 0.0

    def _binding(self, here: Mapping[str, Any], there: Mapping[str, Any]) -> Any:
        binding = self._session.io_binding()
        inputs = {"z": self._z, **here}
        if "samples" in here:
            inputs["samples"] = here["samples"][1:]  # without the oldest, in the same memory
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array))
        for name, array in {"y": self._y, **{f"{name}'": a for name, a in there.items()}}.items():
            binding.bind_ortvalue_output(name, OrtValue.ortvalue_from_numpy(array))
        return binding


def open_checked(checkpoint: Checkpoint, z: npt.NDArray[np.float32]) -> OnnxStep:
    """A session that has answered samples z (T, F) as the eager model does.

    Raises:
        TwinError: it has not.
    """
    session, eager = OnnxStep(checkpoint), open_predictor(checkpoint, "eager")
    if checkpoint.family == "window-rnn":
        session.reset(z[0])
    answers = np.empty((2, len(z), checkpoint.sizes["outputs"]))
    for k, sample in enumerate(z):
        session.sample[:] = sample
        session.run(next(session.turns))
        answers[:, k] = session.y, eager.step(sample[None])[0]
    worst = np.abs(answers[0] - answers[1]).max() / np.abs(answers[1]).max()
    if not worst <= TOLERANCE:
        raise TwinError(
            f"onnxruntime answers otherwise than {checkpoint.family} {checkpoint.sizes} in torch: "
            f"{worst:.1e} of the largest answer"
        )
    return session
