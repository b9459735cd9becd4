"""Which way a network is trained: chosen, and counted, so that no refit passes for another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from benchmarks.subject import Subject
from twin.errors import TwinError

if TYPE_CHECKING:
    import torch

COMPILED, TORCH = "compiled passes", "eager torch"
"""How a network is trained."""


@dataclass
class Passes:
    """Forward passes through time that were made since this was begun, by what made them."""

    compiled: int = 0
    torch: int = 0

    def subject(self, family: str, steps: int) -> Subject:
        """What trained a network in so many steps of its optimiser, with so many of torch's threads.

        Raises:
            TwinError: neither way made as many passes as there were steps, or both did.
        """
        import torch

        ways = {COMPILED: self.compiled >= steps, TORCH: self.torch >= steps}
        if sum(ways.values()) != 1:
            raise TwinError(
                f"{self.compiled} compiled passes and {self.torch} of torch's in {steps} steps: "
                "it is not certain what was measured"
            )
        return Subject(family, next(way for way, did in ways.items() if did), torch.get_num_threads())


@contextmanager
def counted(compiled: bool) -> Iterator[Passes]:
    """Networks in training run by the compiled passes, or all by torch; and how many passes each of them
    makes."""
    import torch

    from twin.models.recurrent import Recurrent
    from twin.models.through_time import ThroughTime

    passes = Passes()
    decide, apply, forward = Recurrent.compiled, ThroughTime.apply, torch.nn.GRU.forward

    def chosen(core: Recurrent, x: torch.Tensor) -> bool:
        return compiled and decide(core, x)

    def through_time(*arguments: Any) -> Any:
        passes.compiled += 1
        return apply(*arguments)  # type: ignore[no-untyped-call]

    def by_torch(net: torch.nn.GRU, *arguments: Any) -> Any:
        passes.torch += 1
        return forward(net, *arguments)

    with (
        patch.object(Recurrent, "compiled", chosen),
        patch.object(ThroughTime, "apply", through_time),
        patch.object(torch.nn.GRU, "forward", by_torch),
    ):
        yield passes
