"""A twin and its trainer over arrays, as live as with sockets, and the same at every run but for the times.

Samples come every `dt` of the stream's time. The trainer works beside them, as its process does: each of its
steps takes the stream's time that it took the CPU, during which samples go on to come in, so that a slow
refit is a late checkpoint. The twin takes it up as its process does, between two samples, in portions.

>>> from simulators.quick_motor import quick
>>> from simulators import motor
>>> plant = motor()
>>> trainer = TrainerConfig(model="gru", steps=1, hidden_size=4)
>>> live = Live(plant.spec(1e-3), trainer, TwinConfig(window=20))
>>> errors = live.run(quick(plant, 3000).z)     # the first model comes after two seconds
>>> errors.shape, live.twin.status, live.refits[0]["accepted"]
((3000, 2), 'following', True)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterator
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.subject import Subject, certain, of_twin
from twin.backends.opening import open_predictor
from twin.checkpoint import Checkpoint
from twin.config import TrainerConfig, TwinConfig
from twin.messages import Sample, Spec
from twin.models.opening import begins_recursive, members
from twin.service.twin import LOADER_PERIOD_SEC
from twin.trainers import Trainers
from twin.twin import Twin
from twin.validation import Decision

Array = NDArray[np.float64]
DECIDED: Final = ("accepted", "kept")
"""Names of the decisions with which a turn ends."""


class Live:
    """One stream, answered and learned from; `run` goes on where the last one ended.

    `incumbent` is a checkpoint to go on from, with `recall` of what was streamed before. The family is asked
    for by name, and each model that answers is looked at, so that figures are those of `subject`.

    A list of families, or `auto`, is a bank: then `members` has what each of its members expected.

    Raises:
        TwinError: another family answers.
    """

    def __init__(
        self, spec: Spec, trainer: TrainerConfig, twin: TwinConfig, incumbent: Checkpoint | None = None
    ) -> None:
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        self.spec, self.config = spec, trainer
        names, backend = trainer.models, twin.backend
        present = {incumbent.family: incumbent} if incumbent else {}
        found = members(spec, names, backend, present, **trainer.sizes)
        self.subject = Subject(" + ".join(member.family for member in found), backend, 1)
        recursive = begins_recursive(names, backend)
        self.twin = Twin(spec, window=twin.window, backend=backend, adapt=twin.adapt, recursive=recursive)
        self.trainers = Trainers(spec, trainer, found, twin.window, twin.adapt)
        for each in self.trainers.members.values():
            each.rehearse()
        self.members: list[dict[str, list[float]]] = []
        """What each member of a bank expected (P) of each sample."""
        if incumbent is not None:
            self._next = incumbent
            self.twin.refresh(incumbent)
            self.twin.catch_up()
            certain(of_twin(self.twin, incumbent), self.subject)
        self.epoch = 1
        self.k = 0
        """Samples so far."""
        self.refits: list[dict[str, Any]] = []
        """Each with `at`, s of the stream when it ended, `s` of CPU, `accepted` and its figures."""
        self.checkpoints: list[Checkpoint] = [incumbent] if incumbent else []
        """Those accepted, the newest last."""
        self.free_runs: dict[int, Array] = {}
        """By the sample at which each begins: the outputs (H, P) foreseen from there on."""
        self._expected: dict[str, float] | None = None
        self._arriving: deque[tuple[float, Checkpoint]] = deque()
        self._work = self._trainers_work()
        self._busy = 0.0  # the sample at which the trainer's present step ends

    def recall(self, z: Array) -> None:
        """Samples z (T, F) that the trainer has in its history, and of which the twin has seen the newest."""
        for sample in self._samples(z):
            self.trainers.observe(sample)
        for sample in self._samples(z)[-10 * self.twin.window.length :]:
            self._answer(sample)
        self.k += len(z)
        self._busy = self.k + self.config.period / self.spec.dt

    def run(self, z: Array, *, free_runs: Collection[int] = (), horizon: int = 1) -> Array:
        """Errors (T, P) of what was expected of samples z (T, F), NaN where nothing was.

        Where a sample's number, counted from the stream's start, is among `free_runs`, the model that answers
        just before it foresees `horizon` samples from it on, the inputs known.
        """
        u = len(self.spec.inputs)
        errors = np.full((len(z), len(self.spec.outputs)), np.nan)
        for j, sample in enumerate(self._samples(z)):
            if self._expected is not None:
                errors[j] = [sample.y[name] - value for name, value in self._expected.items()]
            if self.k + 1 in free_runs and j + horizon < len(z) and self.twin.active is not None:
                now, ahead = z[None, j].astype(np.float32), z[None, j + 1 : j + 1 + horizon, :u]
                run = self.twin.active.free_run(now, ahead.astype(np.float32))
                self.free_runs[self.k + 1] = np.array(run[0], np.float64)
            self._answer(sample)
            self.trainers.observe(sample)
            self._train()
            self._look_after_models()
            self.k += 1
        return errors

    def restart(self) -> None:
        """The plant begins anew with the next sample."""
        self.epoch += 1
        self._expected = None

    def _samples(self, z: Array) -> list[Sample]:
        return [self.spec.sample(k, row, epoch=self.epoch) for k, row in enumerate(z.tolist(), self.k)]

    def _answer(self, sample: Sample) -> None:
        if (mixture := self.twin.bank.mixture) is not None:
            self.members.append({name: each.y[0].tolist() for name, each in mixture.members.items()})
        prediction = self.twin.step(sample)
        if prediction is not None:
            self._expected = prediction.y

    def _look_after_models(self) -> None:
        if self.twin.bank.makes_room and self._arriving and self._arriving[0][0] <= self.k:
            self._next = self._arriving.popleft()[1]
            self.twin.refresh(self._next)
        if self.twin.catch_up():
            while self.twin.swaps:
                swap = self.twin.swaps.popleft()
                if self.twin.bank.mixture is None and not swap.back:
                    certain(of_twin(self.twin, self._next), self.subject)

    def _train(self) -> None:
        """Let the trainer work until it is busy beyond this sample."""
        while self._busy <= self.k:
            start = time.thread_time()
            idle = next(self._work)
            took = (time.thread_time() - start) / self.spec.dt
            self._busy = self.k + 1.0 if idle else max(self._busy, self.k) + took

    def _trainers_work(self) -> Iterator[bool]:
        """What the trainer's process does, step by step; True where it only waits."""
        while True:
            while not self.trainers.due:
                yield True
            start = time.thread_time()
            for now in self.trainers.turn():
                if isinstance(now, Decision):
                    self._decided(now, start)
                    if now.name not in DECIDED:
                        continue
                yield False

    def _decided(self, decision: Decision, start: float) -> None:
        trainer = self.trainers.current
        if trainer is None or decision.name not in DECIDED:
            return
        if decision.verdict.passed:
            self.checkpoints.append(trainer.checkpoint(decision.verdict))
            self._arriving.append((self._busy + LOADER_PERIOD_SEC / self.spec.dt, self.checkpoints[-1]))
        self.refits.append(
            {
                "at": self.k * self.spec.dt,
                "s": time.thread_time() - start,
                "accepted": decision.verdict.passed,
                "family": trainer.config.model,
                "figures": decision.verdict.figures,
            }
        )


def alone(checkpoint: Checkpoint, z: Array, backend: str = "compiled") -> Array:
    """Errors (T, P) over samples z (T, F) of a model left alone, from a cold start."""
    predictor = open_predictor(checkpoint, backend, 1)
    u = len(checkpoint.spec.inputs)
    errors = np.full((len(z), z.shape[1] - u), np.nan)
    samples = z.astype(np.float32)
    for k in range(len(z) - 1):
        errors[k + 1] = z[k + 1, u:] - predictor.step(samples[k : k + 1])[0]
    return errors
