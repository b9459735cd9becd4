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
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twin.backends.opening import open_predictor
from twin.checkpoint import Checkpoint, check_plant
from twin.errors import SpecError
from twin.forecast import Errors, Forecast, Present
from twin.kernels.watch import ALL, NOTHING, RESIDUAL, WIDTH
from twin.messages import UNSET, Prediction, Sample, Spec, UnsetType, check_spec
from twin.predictor import Predictor
from twin.watch import Alarm, Watch
from twin.window import Window

PORTION = 16
"""Window samples that a spare predictor takes in one turn: a few turns warm it, none delays an answer."""


def _values_of(names: tuple[str, ...]) -> Callable[[dict[str, float]], tuple[float, ...]]:
    """What takes the values of these names out of a map, as fast as Python can."""
    if len(names) == 1:
        (name,) = names
        return lambda values: (values[name],)
    return itemgetter(*names)


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
    alarms: int = 0
    """Times that the residuals of an output became unusual."""


class Twin:
    """A window, an expectation and two predictors: the active one answers, the spare one catches up.

    `window` is the number of samples kept to warm a new model's hidden state. `backend` names the way to run
    a step (`twin.predictor.BACKENDS`). With `adapt`, a predictor learns from each measurement it is given.

    Raises:
        SpecError: a Spec or a window that cannot be.
    """

    def __init__(
        self, spec: Spec, *, window: int = 200, backend: str = "compiled", adapt: bool = False
    ) -> None:
        if window < 1:
            raise SpecError(f"window = {window} samples: at least 1 is needed")
        self.spec = check_spec(spec)
        self.backend = backend
        self.adapt = adapt
        self.counters = Counters()
        self.window = Window(1, window, len(spec.features))
        self.active: Predictor | None = None
        self.spare: Predictor | None = None  # catching up
        self.previous: Predictor | None = None  # the one before, to change back to
        self._spare_seen = 0  # of `window.count`
        self._hushed = False  # whether a sensor has failed, from which nothing is to be learned
        self._bridged = -window  # `window.count` after the last gap that was bridged
        self.watch = Watch(spec)
        self.errors = Errors(spec)
        self.alarms: deque[Alarm] = deque(
            maxlen=2 * len(spec.outputs)
        )  # newest last; the caller takes them out
        self._last: Sample | None = None
        self._expected: Sequence[float] | None = None  # the published ŷ of the next sample
        self._told = NOTHING  # what the watch may learn from the residual of the next sample
        self._unsettled = 0  # samples to come whose residuals say more of a gap than of the plant
        self._sure = False  # whether there are intervals
        self._inputs, self._outputs = _values_of(spec.inputs), _values_of(spec.outputs)
        self._pack = struct.Struct(f"={len(spec.features)}f").pack_into
        self._hold(np.zeros((1, len(spec.features)), np.float32))

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
        row = self._accepts(sample)
        if row is None:
            self.counters.rejected += 1
            return None
        measured = row[len(self.spec.inputs) :]
        told = self._told if self._continues(sample) else NOTHING
        answered, status = self._advance(measured)
        said = iter(self.watch.step(told, measured, answered))
        self._last, self._expected = sample, answered
        self._told = self._learnable(status)
        self.counters.answered += 1
        if next(said):
            self._sound(sample.t)
        # each takes from what is said as many as there are names, which come first for that
        names = self.spec.outputs
        low: dict[str, float] | UnsetType = UNSET
        high: dict[str, float] | UnsetType = UNSET
        residual: dict[str, float] = dict(zip(names, said))  # noqa: B905
        if self._sure and status != "invalid":
            low = dict(zip(names, said))  # noqa: B905
            high = dict(zip(names, said))  # noqa: B905
        return Prediction(
            seq=sample.seq,
            t=sample.t + self.spec.dt,
            y=dict(zip(names, answered)),  # noqa: B905
            residual=residual if told else {},
            model=self.active.number if self.active else 0,
            status=status,
            sample_sent_ns=sample.sent_ns,
            received_ns=received_ns,
            low=low,
            high=high,
        )

    def _accepts(self, sample: Sample) -> tuple[float, ...] | None:
        """The values of a sample that is new, has the Spec's signals, and numbers that float32, the models'
        own, can hold; else None. They then stand in `_features`."""
        last = self._last
        if last is not None and sample.seq == last.seq and sample.epoch == last.epoch:
            return None
        try:
            values = self._inputs(sample.u) + self._outputs(sample.y)
            self._pack(self._bytes, 0, *values)
        except (KeyError, OverflowError):
            return None
        return values if math.isfinite(sum(values)) else None

    def _learnable(self, status: str) -> float:
        """What the watch may learn from the residual that an answer of this status will have."""
        if status == "following" and not self._unsettled and self._sure:
            return ALL
        if self._unsettled:
            self._unsettled -= 1
        self._sure = self.watch.sure
        return RESIDUAL if status == "invalid" else WIDTH

    def _sound(self, t: float) -> None:
        """Take over alarms from the watch."""
        for alarm in self.watch.alarms(t):
            self.alarms.append(alarm)
            self.counters.alarms += not alarm.over
            if alarm.kind == "stuck":
                self._hushed = True
            elif alarm.over and not self.watch.ringing:
                self._hushed = False
            self._adapt(self.adapt and not self._hushed)

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
        self._unsettled = self.window.length
        self.errors.abandon()
        if missing > self.window.length:  # nothing that was known is of use any more
            self._begin_anew()
        else:
            arrived = self._features.copy()
            self._adapt(False)  # what it answered itself teaches nothing
            for _ in range(missing):  # free run: the last input held, the twin's own outputs fed back
                assert self._expected is not None
                self._pack(self._bytes, 0, *self._inputs(last.u), *self._expected)
                self._expected, _ = self._advance(self._expected)
            self.counters.bridged += missing
            self._features[:] = arrived
            self._adapt(self.adapt and not self._hushed)
            self._bridged = self.window.count
            if self.spare is not None:
                self._start_catching_up(self.spare)
        return False

    def _adapt(self, adapting: bool) -> None:
        if self.active is not None:
            self.active.adapting = adapting

    def _begin_anew(self) -> None:
        self.window.reset()
        self._expected, self._told = None, NOTHING
        self._unsettled = self.window.length
        self.errors.abandon()
        self._spare_seen = 0
        for predictor in (self.active, self.spare):
            if predictor is not None:
                predictor.reset(learned=False)  # a pause says nothing about the plant

    def _hold(self, features: NDArray[np.float32]) -> None:
        """Where a sample's values are put, (1, F): memory of the active predictor if there is one."""
        self._features = features
        self._bytes = features.reshape(-1).data.cast("B")

    def _advance(self, y: Sequence[float]) -> tuple[Sequence[float], str]:
        """Take in the features at hand, whose outputs are y (P); the next outputs (P), and the status."""
        self.window.push_row(self._bytes)
        if self.active is None:
            return y, "unestimated"
        values: list[float] = self.active.step(self._features)[0].tolist()
        if not math.isfinite(sum(values)):
            self.counters.invalid += 1
            self._change_back()
            return y, "invalid"
        return values, "following"

    def _change_back(self) -> None:
        """Leave a model that answered nonsense for the one before it, by the walk of every swap."""
        self.errors.follow(None)
        self.active, self.previous = None, None if self.active is self.previous else self.previous
        self._hold(self._features.copy())  # the predictor's own no more
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
        # from a window with answers of its own it would learn what nobody has measured
        predictor.adapting = self.adapt and self.window.count - self._bridged >= self.window.length
        self.spare = predictor
        self._spare_seen = self.window.count - self.window.view().shape[1]

    def catch_up(self) -> bool:
        """Let the spare predictor take in a portion of the window; True when it then changed places. Where
        there is none, go on with the free run that tells how far off forecasts are.

        Bounded work for between two samples. The window is exactly what is needed to warm the new hidden
        state; the swap is counted in samples, so that a replay swaps at the same `seq`.
        """
        if self.spare is None:
            if self.active is not None and self._expected is not None:
                self.errors.look(self.window, self.active, self._expected)
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
        if self.active is None:
            self.watch.renew()
        else:
            self.previous = self.active
        self.active, self.spare = self.spare, None
        self._adapt(self.adapt and not self._hushed)
        if self.backend == "compiled":  # others take too long for between two samples
            self.errors.follow(self.active)
        self._hold(self.active.sample)  # where it wants it: nothing to copy in a step
        self.counters.swaps += 1
        return True

    def forecast(self, inputs: ArrayLike, horizon: int | None = None) -> Forecast:
        """Free run from now: what the outputs would be under inputs to come.

        `inputs` (T, U): row j is held from one to two periods after the last sample for j = 0, and so on; or
        (S, T, U), S scenarios at once. With a `horizon` of T steps, (U,) or (S, U) are inputs that stay. The
        stream's hidden state is left as it was.

        Raises:
            SpecError: inputs of another shape or not finite, or no sample yet to forecast from.
        """
        return self.present().forecast(inputs, horizon)

    def present(self, before: Present | None = None) -> Present:
        """All that a forecast begins with, so that another thread can make it. One from `before` that is no
        longer needed spares opening a predictor.

        Raises:
            SpecError: no sample has been answered yet.
        """
        if self._expected is None or self._last is None:
            raise SpecError("nothing to forecast from: no sample has been answered yet")
        fork = None
        if self.active is not None:
            fork = before.predictor if before is not None else None
            if fork is None or fork.number != self.active.number:
                fork = self.active.fork(1)
            else:
                fork.take_over(self.active)
        return Present(
            spec=self.spec,
            t=self._last.t,
            u=np.array(self._inputs(self._last.u)),
            y=np.array(self._expected),
            predictor=fork,
            width=self.errors.snapshot(),
        )
