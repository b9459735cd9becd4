"""The twin: answers each sample with the prediction of the next and the residual of this one.

It knows no socket, clock, thread or file, so that the same object runs in a notebook, a test, a replay and
a process. Its state lives in two places: here (window, expectation, the active predictor and the spare) and
in the predictors (hidden state).

>>> from twin.messages import Sample, Spec
>>> twin = Twin(Spec(inputs=("voltage",), outputs=("speed",), dt=0.001))
>>> answer = twin.step(Sample(seq=0, t=0.0, u={"voltage": 12.0}, y={"speed": 90.0}))
>>> answer.y, answer.status          # no model yet: what is now will be then
({'speed': 90.0}, 'unestimated')
>>> twin.step(Sample(seq=1, t=0.001, u={"voltage": 12.0}, y={"speed": 93.0})).residual
{'speed': 3.0}
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twin.checkpoint import Checkpoint, check_plant
from twin.errors import SpecError
from twin.messages import Prediction, Sample, Spec, check_spec
from twin.predictor import Predictor, open_predictor
from twin.window import Window

PORTION = 16
"""Window samples that a spare predictor takes in one turn: a few turns warm it, none delays an answer."""


@dataclass(slots=True)
class Counters:
    """What happened to the stream, counted since the twin was made."""

    answered: int = 0
    gaps: int = 0
    """Times that `seq` jumped."""
    lost: int = 0
    """Samples that never came."""
    bridged: int = 0
    """Lost samples over which the model ran free, so that the hidden state kept its place in time."""
    rejected: int = 0
    """Samples with other signals than the Spec's, with values that are not finite, or repeated."""
    restarts: int = 0
    """Times that the plant began anew."""
    swaps: int = 0
    """Models taken up."""
    invalid: int = 0
    """Predictions that were not finite and were replaced by persistence."""


class Twin:
    """A window, an expectation and two predictors: the active one answers, the spare one catches up.

    `window` is the number of samples kept to warm a new model's hidden state. `backend` names the way to run
    a step (`twin.predictor.BACKENDS`).

    Raises:
        SpecError: a Spec or a window that cannot be.
    """

    def __init__(self, spec: Spec, *, window: int = 200, backend: str = "compiled") -> None:
        if window < 1:
            raise SpecError(f"window = {window} samples: at least 1 is needed")
        self.spec = check_spec(spec)
        self.backend = backend
        self.counters = Counters()
        self.window = Window(1, window, len(spec.features))
        self.active: Predictor | None = None
        self.spare: Predictor | None = None  # catching up
        self.previous: Predictor | None = None  # the one before, to change back to
        self._spare_seen = 0  # of `window.count`
        self._last: Sample | None = None
        self._expected: dict[str, float] | None = None  # the published ŷ of the next sample
        self._features = np.zeros((1, len(spec.features)), np.float32)  # of a sample; of the active predictor

    @property
    def model(self) -> int:
        """The number of the checkpoint that answers; 0 for persistence."""
        return self.active.number if self.active else 0

    @property
    def status(self) -> str:
        """`waiting` for the first sample, `unestimated` without a model, `following` with one."""
        if self._last is None:
            return "waiting"
        return "following" if self.active else "unestimated"

    def step(self, sample: Sample, received_ns: int = 0) -> Prediction | None:
        """Answer a sample. O(1): the hidden state advances by one.

        None for a sample that is refused (counted in `rejected`): nothing changes, and the next good one
        finds a gap, which is bridged.
        """
        if not self._accepts(sample):
            self.counters.rejected += 1
            return None
        residual = {}
        if self._continues(sample) and self._expected is not None:
            residual = {name: sample.y[name] - value for name, value in self._expected.items()}
        y, status = self._advance(sample.u, sample.y)
        self._last, self._expected = sample, y
        self.counters.answered += 1
        return Prediction(
            seq=sample.seq,
            t=sample.t + self.spec.dt,
            y=y,
            residual=residual,
            model=self.model,
            status=status,
            sample_sent_ns=sample.sent_ns,
            received_ns=received_ns,
        )

    def _accepts(self, sample: Sample) -> bool:
        """Whether a sample is new, has the Spec's signals, and finite values."""
        last = self._last
        if last is not None and sample.epoch == last.epoch and sample.seq == last.seq:
            return False
        values = self.spec.row(sample)
        if values is None:
            return False
        self._features[0] = values
        return True

    def _continues(self, sample: Sample) -> bool:
        """Whether a sample is the one expected. A gap is bridged, a restart or a long gap begins anew."""
        last = self._last
        if last is None:
            return False
        if sample.epoch != last.epoch or sample.seq < last.seq:
            self.counters.restarts += 1
            self._begin_anew()
            return False
        missing = sample.seq - last.seq - 1
        if missing == 0:
            return True
        self.counters.gaps += 1
        self.counters.lost += missing
        if missing > self.window.length:  # nothing that was known is of use any more
            self._begin_anew()
        else:
            arrived = self._features.copy()
            for _ in range(missing):  # free run: the last input held, the twin's own outputs fed back
                assert self._expected is not None
                self._features[0] = [*map(last.u.__getitem__, self.spec.inputs), *self._expected.values()]
                self._expected, _ = self._advance(last.u, self._expected)
            self.counters.bridged += missing
            self._features[:] = arrived
        return False

    def _begin_anew(self) -> None:
        self.window.reset()
        self._expected = None
        self._spare_seen = 0
        for predictor in (self.active, self.spare):
            if predictor is not None:
                predictor.reset()

    def _advance(self, u: dict[str, float], y: dict[str, float]) -> tuple[dict[str, float], str]:
        """Take in the features at hand; the prediction of the next outputs, and the status to publish."""
        self.window.push(self._features)
        outputs = self.spec.outputs
        if self.active is None:
            return {name: y[name] for name in outputs}, "unestimated"
        values = self.active.step(self._features)[0].tolist()
        if not math.isfinite(sum(values)):
            self.counters.invalid += 1
            self._change_back()
            return {name: y[name] for name in outputs}, "invalid"
        return dict(zip(outputs, values, strict=True)), "following"

    def _change_back(self) -> None:
        """Leave a model that answered nonsense for the one before it, by the walk of every swap."""
        self.active, self.previous = None, None if self.active is self.previous else self.previous
        self._features = self._features.copy()  # the predictor's own no more
        if self.spare is None and self.previous is not None:
            self._start_catching_up(self.previous)

    def refresh(self, checkpoint: Checkpoint, predictor: Predictor | None = None) -> None:
        """Begin to take up a model; `catch_up` completes it.

        `predictor` is the checkpoint already opened, where that was done elsewhere to save time here.

        Raises:
            CheckpointError: it was made for other signals or another period.
        """
        check_plant(checkpoint, self.spec)
        self._start_catching_up(predictor or open_predictor(checkpoint, self.backend, 1))

    def _start_catching_up(self, predictor: Predictor) -> None:
        predictor.reset()
        self.spare = predictor
        self._spare_seen = self.window.count - self.window.view().shape[1]

    def catch_up(self) -> bool:
        """Let the spare predictor take in a portion of the window; True when it then changed places.

        Bounded work for between two samples. The window is exactly what is needed to warm the new hidden
        state; the swap is counted in samples, so that a replay swaps at the same `seq`.
        """
        if self.spare is None:
            return False
        if self.window.count - self._spare_seen > self.window.length:
            self._start_catching_up(self.spare)  # what it has seen no longer continues in the window
        behind = self.window.count - self._spare_seen
        portion = self.window.tail(behind)[:, :PORTION]
        if portion.shape[1]:
            self.spare.warm(portion)
            self._spare_seen += portion.shape[1]
        if self._spare_seen < self.window.count:
            return False
        if self.active is not None:
            self.previous = self.active
        self.active, self.spare = self.spare, None
        self._features = self.active.sample  # where it wants it: nothing to copy in a step
        self.counters.swaps += 1
        return True

    def forecast(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Free run from now: what the outputs would be under inputs to come.

        `inputs` (T, U): row j is held from one to two periods after the last sample for j = 0, and so on.
        Returns (T, P): row j is the outputs at the end of the period in which `inputs[j]` was held. The
        stream's hidden state is left as it was.

        Raises:
            SpecError: inputs of another shape, or no sample yet to forecast from.
        """
        u = np.atleast_2d(np.asarray(inputs, np.float32))
        if u.ndim != 2 or u.shape[1] != len(self.spec.inputs) or len(u) == 0:
            raise SpecError(
                f"inputs of shape {np.shape(inputs)}: (steps, {len(self.spec.inputs)}) is needed, "
                f"a column each for {', '.join(self.spec.inputs)}"
            )
        if self._expected is None:
            raise SpecError("nothing to forecast from: no sample has been answered yet")
        start = np.array(list(self._expected.values()))
        if self.active is None:
            return np.repeat(start[None], len(u), axis=0)
        first = np.concatenate([u[0], start])[None]
        # a free run answers at the instants of its inputs, and the last of them no longer matters to it
        following = np.concatenate([u[1:], u[-1:]])[None]
        return np.asarray(self.active.free_run(first, following)[0], np.float64)
