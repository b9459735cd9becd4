"""What must be done once in a process, or once on a machine, so that nothing waits for it in a stream.

Everything is done for real, on samples made up: then whatever it needs is imported, compiled and loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import numpy as np

from twin.config import TrainerConfig
from twin.errors import TwinError
from twin.messages import Spec

HORIZON_SAMPLES: Final = 10
"""Samples of free run in the segments of a rehearsal."""
PERIOD_SAMPLES: Final = 300
"""Samples of a refit's period in a rehearsal: with fewer no parameters of a motor are found."""


def answer(inputs: int, outputs: int, recursive: bool, several: bool) -> None:
    """Make what answers the samples of so many signals, whatever the models: whether it begins with the
    `recursive` one, and whether it may mix `several`."""
    from twin.kernels.mixture import mixer
    from twin.twin import Twin

    Twin(some_spec(False, inputs, outputs), recursive=recursive)
    if several:
        mixer(inputs, outputs)


def train(family: str, motor: bool, inputs: int, outputs: int) -> None:
    """Do what a small model's first training needs."""
    from twin.models.opening import class_of, sizes_for

    spec = some_spec(motor, inputs, outputs)
    class_of(family).rehearse(family, spec, sizes_for(family, spec, hidden_size=2))


def refit(model: str, motor: bool, inputs: int, outputs: int, adapt: bool, sizes: dict[str, int]) -> None:
    """Refit a model and validate it, as a trainer with these settings would."""
    asked = TrainerConfig.model_validate({"model": model} | sizes)
    rehearse(some_spec(motor, inputs, outputs), asked, adapt)


def rehearse(spec: Spec, asked: TrainerConfig, adapt: bool) -> None:
    """Two refits with all decisions on made-up samples, so that what real ones would wait for is there.

    Whatever fails is the real refit's to report.
    """
    from twin.trainer import Trainer

    window = max(HORIZON_SAMPLES, asked.sequence_length)
    segment, period = window + HORIZON_SAMPLES, PERIOD_SAMPLES * spec.dt
    small = {"horizon": HORIZON_SAMPLES, "steps": 2, "batch": 4, "period": period, "history": 100 * period}
    trainer = Trainer(spec, asked.model_copy(update=small), window, adapt=adapt)
    for seq, row in enumerate(movement(spec, 2 * (PERIOD_SAMPLES + 3 * segment))):
        trainer.observe(spec.sample(seq, row))
        if trainer.due:
            with suppress(TwinError, ArithmeticError, ValueError, RuntimeError, OSError):
                for _ in trainer.turn():
                    pass


def some_spec(motor: bool, inputs: int, outputs: int) -> Spec:
    """Of some plant with so many signals."""
    if motor:
        return Spec(inputs=("voltage",), outputs=("current", "speed"), dt=1e-3)
    u, y = ([f"{name}{i}" for i in range(count)] for name, count in (("u", inputs), ("y", outputs)))
    return Spec(inputs=tuple(u), outputs=tuple(y), dt=1e-3)


def movement(spec: Spec, count: int) -> Iterator[list[float]]:
    """Rows (F,) of a plant that follows random steps as a motor does: the inputs drive the first
    output, which moves the second and is held back by it; the others lag behind."""
    random = np.random.default_rng(1)
    u, y = np.zeros(len(spec.inputs)), np.zeros(len(spec.outputs))
    for k in range(count):
        if k % 20 == 0:
            u = random.normal(size=len(u))
        before = y.copy()
        y[0] += 0.3 * (u.sum() - before[:2].sum())
        y[1:2] += 0.02 * before[0]
        y[2:] += 0.1 * (before[1:-1] - before[2:])
        seen = y + 1e-3 * random.normal(size=len(y))
        yield [*u.tolist(), *seen.tolist()]
