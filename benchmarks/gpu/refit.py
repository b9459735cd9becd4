"""A network's refit by cuDNN: the same segments, the same first weights and the same steps as on the CPU.

Three ways: the compiled passes, as the trainer runs them; eager torch on the CPU; torch on the device, where
the warm-up is one call of cuDNN and the free run a loop of cells. What is learned must be the same: the first
step's gradients are compared, and the errors of what came out, on later samples.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from benchmarks.passes import COMPILED, TORCH, counted
from benchmarks.result import Result
from benchmarks.rounds import interleave, median_of, median_ratio
from benchmarks.subject import Subject
from simulators import motor
from simulators.quick_motor import quick
from twin.backends.eager import forbid_tf32
from twin.errors import TwinError
from twin.models.network import Network
from twin.models.opening import new_model
from twin.models.scaling import Scaling

FAMILY: Final = "gru"
DEVICE: Final = "torch on the device"
HIDDEN: Final = 32
TAPS: Final = 8
DT: Final = 1e-3  # s
WARM: Final = 100  # samples of a segment that warm the state, each foreseen from the one before
HORIZON: Final = 100  # samples of the free run after them
BATCH: Final = 32  # segments
RATE: Final = 1e-3  # of Adam
SAME_GRADIENTS: Final = 1e-3
"""Of the largest: how far the device's gradients may be from the CPU's, by float32 sums in another
order."""
SAME_ERRORS: Final = 0.01
"""How far, as a part, errors on later samples may be: small differences grow over the steps."""


@dataclass(frozen=True)
class Work:
    """What all ways are given."""

    model: Network
    batches: list[Tensor]
    """Segments (B, WARM + HORIZON, F), one batch for each step."""
    later: Tensor
    """Those on which is judged."""


def prepared(seconds: float, steps: int) -> Work:
    """Segments of the default motor, and a model of which every weight takes part: a new one's readout does
    not look at the hidden state, which then has no gradients to compare."""
    z, spec = quick(motor(), round(seconds / DT)).z, motor().spec(DT)
    model = new_model(FAMILY, spec, Scaling.of(z, len(spec.outputs)), hidden_size=HIDDEN, taps=TAPS)
    assert isinstance(model, Network)
    model.fit(z)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)))
    length, random = WARM + HORIZON, np.random.default_rng(1)
    seen = len(z) * 3 // 4

    def segments(starts: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(np.stack([z[k : k + length] for k in starts]).astype(np.float32))

    batches = [segments(random.integers(0, seen - length, BATCH)) for _ in range(steps)]
    return Work(model, batches, segments(np.linspace(seen, len(z) - length, BATCH).astype(int)))


def errors(model: Network, z: Tensor) -> tuple[Tensor, Tensor]:
    """One step ahead over the warm-up, in the increments' scale, and of the free run, in the outputs'
    scale."""
    inputs = model.n_inputs
    ahead, state = model(z[:, : WARM - 1], model.initial_state(len(z)))
    run = model.free_run(z[:, WARM - 1], z[:, WARM:, :inputs], state)
    one_step = (ahead - z[:, 1:WARM, inputs:]) / model.increment_scale
    return one_step, (run - z[:, WARM:, inputs:]) / model.scale[inputs:]


def loss(model: Network, z: Tensor) -> Tensor:
    """The sum over outputs of the logarithms of both mean squares, as in a refit."""
    one_step, free_run = errors(model, z)
    return torch.log(one_step.square().mean((0, 1))).sum() + torch.log(free_run.square().mean((0, 1))).sum()


def train(work: Work, way: str) -> dict[str, Any]:
    """All steps by one way: seconds, the first gradients, and errors on later samples.

    Raises:
        TwinError: another way was at work.
    """
    device = "cuda" if way == DEVICE else "cpu"
    model = new_copy(work.model).to(device).train()
    batches = [z.to(device) for z in work.batches]
    optimiser = torch.optim.Adam(model.parameters(), RATE, fused=True)
    first: list[np.ndarray[Any, Any]] = []
    with nullcontext() if way == DEVICE else counted(way == COMPILED) as passes:
        loss(model, batches[0]).backward()  # type: ignore[no-untyped-call]  # compiles, the first time
        finish(device)
        begun = time.perf_counter()
        for z in batches:
            optimiser.zero_grad(set_to_none=True)
            loss(model, z).backward()  # type: ignore[no-untyped-call]
            first = first or [p.grad.cpu().numpy().copy() for p in model.parameters() if p.grad is not None]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
        finish(device)
        seconds = time.perf_counter() - begun
        if passes is not None and passes.subject(FAMILY, len(batches)).backend != way:
            raise TwinError(f"{way} was to train, and did not")
    if {p.device.type for p in model.parameters()} != {device}:
        raise TwinError(f"the model is not on {device}")
    with torch.no_grad():
        found = [e.square().mean().sqrt().item() for e in errors(model, work.later.to(device))]
    return {"s": seconds, "gradients": first, "one_step": found[0], "free_run": found[1]}


def new_copy(model: Network) -> Network:
    """One of its own."""
    other = Network(model.family, model.sizes)
    other.load_state_dict(model.state_dict())
    return other


def finish(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def compare(own: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """How far two ways are apart, as parts.

    Raises:
        TwinError: further than rounding explains.
    """
    pairs = zip(own["gradients"], other["gradients"], strict=True)
    largest = max(float(np.abs(b).max()) for b in other["gradients"])
    gradients = max(float(np.abs(a - b).max()) for a, b in pairs) / largest
    apart = max(abs(own[name] / other[name] - 1) for name in ("one_step", "free_run"))
    if not gradients <= SAME_GRADIENTS:
        raise TwinError(f"the device's gradients are off by {gradients:.1e} of the largest")
    if not apart <= SAME_ERRORS:
        raise TwinError(f"the device's candidate errs otherwise than the CPU's, by {100 * apart:.1f} %")
    return {"gradients_apart": gradients, "errors_apart": apart}


def measure(console: Console, *, seconds: float, steps: int, rounds: int) -> Result:
    """All ways in interleaved rounds, torch on one thread.

    Raises:
        TwinError: the device learns something else than the CPU.
    """
    forbid_tf32()
    torch.set_num_threads(1)
    work, ways = prepared(seconds, steps), (COMPILED, TORCH, DEVICE)
    found = interleave({way: partial(train, work, way) for way in ways}, rounds, console, "refit")
    apart = {way: compare(found[DEVICE][0], found[way][0]) for way in (COMPILED, TORCH)}
    times = {way: [{"s": turn["s"]} for turn in turns] for way, turns in found.items()}
    middle = {way: median_of(turns)["s"] for way, turns in times.items()}
    summary = {
        "device_refit_s": middle[DEVICE],
        "device_refit_vs_compiled": median_ratio(times[DEVICE], times[COMPILED], "s"),
        "device_refit_vs_torch": median_ratio(times[DEVICE], times[TORCH], "s"),
        **apart[COMPILED],
    }
    details = {
        "steps": steps,
        "batch": BATCH,
        "segment": WARM + HORIZON,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "median_s": middle,
        "apart": apart,
        "errors": {way: {n: turns[0][n] for n in ("one_step", "free_run")} for way, turns in found.items()},
    }
    return Result(summary, {way: Subject(FAMILY, way, torch.get_num_threads()) for way in ways}, details)
