"""The step of a user's torch module as machine code: a tenth of the time that torch takes for it.

torch exports the step to a graph, and a C++ compiler makes a shared library of that, once, in `twin prepare`,
which takes most of a minute. All weights are arguments of the compiled step, so that one library serves every
checkpoint, and a swap compiles nothing. Where there is no library, or one that is damaged or answers
otherwise than torch does, the step stays in torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

import twin.models.network
from twin.errors import BackendError
from twin.families import Sizes
from twin.kernels import disk
from twin.models import own
from twin.models.network import Network, Step

TOLERANCE: Final = 1e-5
"""Part of a signal's size by which a compiled step may differ from torch's: rounding is a tenth of it."""
TRIALS: Final = 3
"""Consecutive steps that are compared before a library is used."""
_DIGEST_BYTES: Final = 32  # SHA-256 of all before it; whoever loads a library ignores what follows it


def file_name(family: str, sizes: Sizes) -> str:
    """The name of a library, for what determines it: the class and its file's hash, sizes, one row, torch's
    version, the CPU, and the code around the class."""
    code = [Path(str(file)).read_bytes() for file in (__file__, twin.models.network.__file__)]
    layout = hashlib.sha256(b"".join(code)).hexdigest()
    name = disk.name_of("exported", family, sorted(sizes.items()), 1, str(torch.__version__), layout)
    return f"exported-{name}.so"


# -- compiling ---------------------------------------------------------------------------------------


def prepare(model: str, sizes: Sizes) -> None:
    """Compile the step of a class, named as FILE.py:CLASS, and keep it in the user's cache directory.

    Raises:
        BackendError: no C++ compiler, a step that cannot be exported, or no place to keep it; in one line.
        ConfigError: a file without such a class.
    """
    from torch._inductor import config

    from twin.kernels.cache import used

    family = own.named(model)
    wanted = [name for name in config.cpp.cxx if name]
    if not any(map(shutil.which, wanted)):
        raise BackendError(f"no C++ compiler ({' or '.join(wanted)}); its steps stay in torch")
    folder = disk.writable()
    if folder is None:
        raise BackendError("no directory is this user's alone; its steps stay in torch")
    network = Network(family, sizes).eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as made:
        # what is compiled in between must not come from where others may write; this process ends with it
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = made
        try:
            code = _compiled(network, Path(made) / "step.so")
        except BackendError:
            raise
        except Exception as error:  # of torch's many, whatever the user's code makes of it
            text = (str(error).strip().splitlines() or [""])[0]
            raise BackendError(f"{type(error).__name__}: {text[:200]}; its steps stay in torch") from None
    path = folder / file_name(family, sizes)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_bytes(code + hashlib.sha256(code).digest())
    part.replace(path)
    if open_step(network) is None:
        path.unlink(missing_ok=True)
        raise BackendError("compiled, it answers otherwise than in torch; its steps stay in torch")
    used.add(path)
    disk.prune(folder)


def _compiled(network: Network, path: Path) -> bytes:
    """The library of a network's step.

    Raises:
        BackendError: torch's graph of it answers otherwise than the step itself.
        Exception: whatever torch or the compiler has to say.
    """
    arguments = _sample(network), network.initial_state(1), *_weights(network).values()
    options = {
        "aot_inductor.output_path": str(path),
        "compile_threads": 1,
        "cpp.threads": 1,  # for one row, threads only wait for each other
    }
    with torch.no_grad():
        program = torch.export.export(_Step(network), arguments)
        graph = program.module()
        if not _agree(_step(lambda tensors: graph(*tensors), list(_weights(network).values())), network):
            # the compiler, which takes most of a minute, need not be asked
            raise BackendError("exported, it answers otherwise than in torch; its steps stay in torch")
        made = torch._inductor.aot_compile(graph, arguments, options=options)
    return Path(str(made)).read_bytes()


class _Step(nn.Module):
    """The step of a network with all its tensors as arguments: z (1, F), state (1, S) and the tensors to
    ŷ (1, P) and the next state."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.__dict__["network"] = network  # no part of this one: its tensors are handed in
        self.names = list(_weights(network))

    def forward(self, z: Tensor, state: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        by_name = dict(zip(self.names, tensors, strict=True))
        y, state = torch.func.functional_call(self.__dict__["network"], by_name, (z[:, None], state))
        return y[:, 0].contiguous(), state.contiguous()


def _weights(network: Network) -> dict[str, Tensor]:
    """All that may differ between checkpoints, in an order that the class decides."""
    return dict(network.named_parameters()) | dict(network.named_buffers())


# -- using it ----------------------------------------------------------------------------------------


def open_step(network: Network) -> Step | None:
    """The compiled step of a network of the user's on the CPU, for one row; None where torch must do it.

    It serves as long as the network's tensors are only changed in place.
    """
    name = file_name(network.family, network.sizes)
    for folder in disk.readable():
        with contextlib.suppress(Exception):  # whatever keeps it from being used: torch does the same
            found = (folder / name).stat()
            run = _library(folder / name, found.st_ino, found.st_mtime_ns)
            if run is None:
                (folder / name).unlink(missing_ok=True)  # the next `twin prepare` makes it again
                continue
            disk.touch(folder / name)
            step = _step(run, list(_weights(network).values()))
            if _agree(step, network):
                return step
    return None


@lru_cache(maxsize=2)
def _library(path: Path, inode: int, changed_ns: int) -> Callable[[list[Tensor]], list[Tensor]] | None:
    """The function in a library, loaded once for all models of this process so that a swap does not wait for
    it; None where it is not as it was written: a damaged library would end the process that loads it.

    `torch._inductor.aoti_load_package` loads such a library likewise, but imports 140 MB of compiler first.
    """
    content = path.read_bytes()
    if hashlib.sha256(content[:-_DIGEST_BYTES]).digest() != content[-_DIGEST_BYTES:]:
        return None
    run: Callable[[list[Tensor]], list[Tensor]] = torch._C._aoti.AOTIModelContainerRunnerCpu(str(path), 1).run
    return run


def _step(run: Callable[[list[Tensor]], list[Tensor]], weights: list[Tensor]) -> Step:
    """What a library does with some weights."""

    def step(z: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, state = run([z, state, *weights])
        return y, state

    return step


@torch.inference_mode()
def _agree(step: Step, network: Network) -> bool:
    """Whether a compiled step answers as torch does: not so if what the class calls in other files has
    changed, which is no part of the name."""
    sizes = network.mean.abs() + network.scale
    random = torch.Generator().manual_seed(1)
    state = network.initial_state(1)
    for _ in range(TRIALS):
        z = _sample(network, random)
        (y, after), (y_torch, after_torch) = step(z, state), network.stepping()(z, state)
        if not ((y - y_torch).abs() <= TOLERANCE * (sizes[network.n_inputs :] + y_torch.abs())).all():
            return False
        if not torch.allclose(after, after_torch, rtol=TOLERANCE, atol=TOLERANCE):
            return False
        state = after_torch.contiguous()
    return True


def _sample(network: Network, random: torch.Generator | None = None) -> Tensor:
    """A sample (1, F) as the network sees them in a stream."""
    spread = torch.randn(1, len(network.mean), generator=random or torch.Generator().manual_seed(0))
    return network.mean + network.scale * spread
