"""How many float32 operations a second the device can do: nothing but multiply-adds, in registers."""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl

PROGRAMS: Final = 16_384
_BLOCK: Final = 2_048  # 16 chains a thread, more than the latency of a multiply-add
_UNROLLED: Final = 32


@triton.jit  # type: ignore[untyped-decorator]
def _chains(out: tl.tensor, loops: int, BLOCK: tl.constexpr, UNROLLED: tl.constexpr) -> None:
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = at.to(tl.float32)
    gain = 1.0 / (2.0 + loops)  # no constant, which a compiler could make use of
    for _loop in range(loops):
        for _link in tl.static_range(UNROLLED):
            x = x * gain + gain
    tl.store(out + at, x)


class Chains:
    """Independent chains of multiply-adds; `flops` of them in each `run`.

    A device is full of them with the usual `programs`; fewer are for a look at whether it runs.
    """

    def __init__(self, programs: int = PROGRAMS, loops: int = 64) -> None:
        self._out = torch.empty(programs * _BLOCK, device="cuda")
        self._programs, self._loops = programs, loops
        self.flops = 2 * programs * _BLOCK * _UNROLLED * loops

    def run(self) -> None:
        """Start them; the device is done with them later."""
        _chains[(self._programs,)](self._out, self._loops, BLOCK=_BLOCK, UNROLLED=_UNROLLED, num_warps=4)
