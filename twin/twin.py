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
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twin.backends.opening import open_predictor
from twin.bank import Bank, Swap
from twin.checkpoint import Checkpoint, check_plant
from twin.counters import Counters
from twin.defaults import ADAPT, BACKEND, WINDOW
from twin.detection import Alarm, Detection
from twin.errors import SpecError
from twin.forecast import Forecast, HorizonErrors, Present
from twin.frames import Frames
from twin.kernels.detection import ALL, NOTHING, RESIDUAL, WIDTH
from twin.kernels.mixture import MAX_MEMBERS
from twin.messages import UNSET, Prediction, Sample, Spec, UnsetType, check_spec, pack
from twin.predictor import Predictor
from twin.window import Window


class Twin:
    """A window, an expectation and two predictors: the active one answers, the spare one catches up.

    `window` is the number of samples kept to warm a new model's hidden state. `backend` names the way to run
    a step (`twin.predictor.BACKENDS`). With `adapt`, a predictor learns from each measurement it is given.

    With `recursive`, a model that is fitted in the twin itself, by recursive least squares, answers from the
    first samples on. Several models are mixed (`twin.bank`), each taken up under the name of its family.

    `step` answers any sample. In the plain case, that is most of the time, `take` and `answer` do the same
    from the bytes of a sample to the bytes of its prediction.

    Raises:
        SpecError: a Spec or a window that cannot be.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        window: int = WINDOW,
        backend: str = BACKEND,
        adapt: bool = ADAPT,
        recursive: bool = False,
    ) -> None:
        if window < 1:
            raise SpecError(f"window = {window} samples: at least 1 is needed")
        self.spec = check_spec(spec)
        self.backend = backend
        self.counters = Counters()
        self.window = Window(1, window, len(spec.features))
        self.bank = Bank(spec, self.window, adapt, recursive)
        self.frames = Frames(spec, self.window)
        self._lead()
        self.detection = Detection(spec, self.frames.memory)
        self.horizon_errors = HorizonErrors(spec)
        self.pending_alarms: deque[Alarm] = deque(
            maxlen=2 * len(spec.outputs)
        )  # newest last; the caller takes them out
        self.swaps: deque[Swap] = deque(maxlen=MAX_MEMBERS)  # newest last; the caller takes them out
        self._learn = NOTHING  # what the detection may learn from the residual of the next sample
        self._unsettled = 0  # samples to come whose residuals say more of a gap than of the plant
        self._has_intervals = False
        self._muted = False  # nothing learns while a sensor is stuck
        self._y: NDArray[np.float32] | None = None  # where the active predictor answered last, (1, P)
        self._y_at = 0  # its address

    @property
    def active(self) -> Predictor | None:
        """The predictor that answers; None for persistence."""
        return self.bank.active

    @property
    def spare(self) -> Predictor | None:
        """The predictor that catches up, if there is one."""
        return self.bank.spare

    @property
    def model(self) -> int:
        """The number of the checkpoint that answers; 0 for persistence."""
        return self.bank.active.number if self.bank.active else 0

    @property
    def status(self) -> str:
        """`waiting` for the first sample, `unestimated` without a model, `following` with one."""
        if not self.counters.answered:
            return "waiting"
        return "following" if self.bank.active else "unestimated"

    @property
    def t(self) -> float:
        """The time of the last sample answered, s; 0 before the first."""
        return self.frames.last()[3]

    # -- from bytes to bytes -------------------------------------------------------------------------

    def take(self, frame: bytes) -> bool:
        """Take in the frame of a sample, if it is the plain case: the next one of the stream, as
        `messages.pack` writes it, to a model that follows and knows its intervals. `answer` has then what
        is to be sent.

        False for all else, and then nothing has changed: decode it, and give it to `step`.
        """
        frames, length = self.frames, len(frame)
        if self._learn != ALL or length > len(frames.frame):
            return False
        if frames.held is not None:
            frames.settle()
        frames.frame[:length] = frame
        if not frames.take(frames.call, length):
            return False
        y = self.bank.active.step(frames.features)  # type: ignore[union-attr]  # ALL: there is one
        if y is not self._y:
            self._y = np.ascontiguousarray(y, np.float32)
            self._y_at = self._y.ctypes.data
        return True

    def answer(self, epoch: int, received_ns: int, sent_ns: int) -> memoryview | bytes:
        """The frame of the prediction that answers the sample just taken in, with its publisher's stamps.

        It is overwritten by the next one.
        """
        frames = self.frames
        length = frames.answer(frames.call, self._y_at, epoch, received_ns, sent_ns)
        if length <= 0:
            if length == 0:
                return self._answer_invalid(epoch, received_ns, sent_ns)
            length = -length
            self._take_alarms(frames.last()[3])
        self.counters.answered += 1
        return frames.written[:length]

    def _answer_invalid(self, epoch: int, received_ns: int, sent_ns: int) -> bytes:
        _, seq, sample_sent_ns, t, _ = self.frames.last()
        sample = Sample(seq=seq, t=t, sent_ns=sample_sent_ns, u={}, y={})  # what is told of it
        measured = self.detection.measured
        self._give_up()
        return pack(self._conclude(ALL, measured, measured, "invalid", sample, epoch, received_ns, sent_ns))

    # -- any sample ----------------------------------------------------------------------------------

    def step(self, sample: Sample, received_ns: int = 0) -> Prediction | None:
        """Answer a sample. O(1): the hidden state advances by one.

        None for a sample that is refused (counted in `rejected`): nothing changes, and the next good one
        finds a gap, which is bridged.
        """
        row, frames = self.spec.row(sample), self.frames
        last = frames.held[0] if frames.held else None
        epoch, seq = (last.epoch, last.seq) if last else frames.last()[:2]
        answered_before = self.counters.answered > 0
        if row is None or (answered_before and sample.seq == seq and sample.epoch == epoch):
            self.counters.rejected += 1
            return None
        learn = self._learn
        if not (answered_before and sample.seq == seq + 1 and sample.epoch == epoch):
            learn = NOTHING
            if answered_before:
                self._interrupt(sample, epoch, seq, frames.last()[4])
        measured = row[len(self.spec.inputs) :]
        frames.put(*row)
        frames.held = sample, row
        answered, status = self._advance(measured)
        return self._conclude(learn, measured, answered, status, sample, 0, received_ns, 0)

    def _conclude(
        self,
        learn: float,
        measured: Sequence[float],
        answered: Sequence[float],
        status: str,
        sample: Sample,
        epoch: int,
        received_ns: int,
        sent_ns: int,
    ) -> Prediction:
        """Intervals and alarms, and the prediction that answers a sample, with its publisher's stamps."""
        results = iter(self.detection.step(learn, measured, answered))
        self._learn = self._learnable(status)
        self.counters.answered += 1
        if next(results):
            self._take_alarms(sample.t)
        # each takes from the results as many as there are names, which come first for that
        names = self.spec.outputs
        low: dict[str, float] | UnsetType = UNSET
        high: dict[str, float] | UnsetType = UNSET
        residual: dict[str, float] = dict(zip(names, results))  # noqa: B905
        if self._has_intervals and status != "invalid":
            low = dict(zip(names, results))  # noqa: B905
            high = dict(zip(names, results))  # noqa: B905
        active, mixture = self.bank.active, self.bank.mixture
        return Prediction(
            epoch=epoch,
            seq=sample.seq,
            t=sample.t + self.spec.dt,
            sent_ns=sent_ns,
            y=dict(zip(names, answered)),  # noqa: B905
            residual=residual if learn else {},
            model=active.number if active else 0,
            status=status,
            sample_sent_ns=sample.sent_ns,
            received_ns=received_ns,
            low=low,
            high=high,
            weights=mixture.mean_weights if mixture is not None else UNSET,
        )

    def _learnable(self, status: str) -> float:
        """What the detection may learn from the residual that an answer of this status will have."""
        if status == "following" and not self._unsettled and self._has_intervals:
            return ALL
        if self._unsettled:
            self._unsettled -= 1
        self._has_intervals = self.detection.has_intervals
        return RESIDUAL if status == "invalid" else WIDTH

    def _take_alarms(self, t: float) -> None:
        """Hand on the alarms that began or ended; learn nothing while a sensor is stuck."""
        for alarm in self.detection.begun_or_over(t):
            self.pending_alarms.append(alarm)
            self.counters.alarms += not alarm.over
            if alarm.kind == "stuck":
                self._muted = True
            elif alarm.over and not self.detection.alarmed:
                self._muted = False
            self.bank.learn(muted=self._muted)

    def _interrupt(self, sample: Sample, epoch: int, seq: int, u: Sequence[float]) -> None:
        """Meet a sample that is not the one after `seq`: a gap is bridged with the inputs u of that one
        held; a restart or a long gap begins anew."""
        if sample.epoch != epoch or sample.seq < seq:
            self.counters.restarts += 1
            self._begin_anew()
            return
        missing = sample.seq - seq - 1
        self.counters.gaps += 1
        self.counters.lost += missing
        if missing > self.window.length:  # nothing that was known is of use any more
            self._begin_anew()
            return
        self._unsettled = self.window.length
        self.horizon_errors.abandon()
        self.bank.learn(measured=False)  # what it answered itself teaches nothing
        expected: Sequence[float] = self.detection.expected.tolist()
        for _ in range(missing):  # free run: the last input held, the twin's own outputs fed back
            self.frames.put(*u, *expected)
            expected, _ = self._advance(expected)
        self.counters.bridged += missing
        self.bank.learn(muted=self._muted)
        self.bank.bridged()

    def _begin_anew(self) -> None:
        self.window.reset()
        self._unsettled = self.window.length
        self.horizon_errors.abandon()
        self.bank.begin_anew()

    def _advance(self, y: Sequence[float]) -> tuple[Sequence[float], str]:
        """Take in the features at hand, whose outputs are y (P); the next outputs (P), and the status."""
        self.window.push_row(self.frames.features_bytes)
        if self.bank.active is None:
            return y, "unestimated"
        values: list[float] = self.bank.active.step(self.frames.features)[0].tolist()
        if not math.isfinite(sum(values)):
            self._give_up()
            return y, "invalid"
        return values, "following"

    def _give_up(self) -> None:
        """Leave what answered nonsense."""
        self.counters.invalid += 1
        self.horizon_errors.follow(None)
        self.bank.leave_unsound()
        self._lead()

    def _lead(self) -> None:
        """Let samples go where what answers wants them: nothing is copied in a step."""
        active, frames = self.bank.active, self.frames
        if active is None:
            frames.lead_to(frames.features.copy(), 0)  # the predictor's own no more
            return
        if (mixture := self.bank.mixture) is not None:
            mixture.tell(frames.told)
        frames.lead_to(active.sample, active.number, self.bank.names)

    # -- models --------------------------------------------------------------------------------------

    def refresh(self, checkpoint: Checkpoint, predictor: Predictor | None = None) -> None:
        """Begin to take up a model, as a member of its family's name; `catch_up` completes it. One that is
        still on its way makes room.

        `predictor` is the checkpoint already opened, where that was done elsewhere to save time here.

        Raises:
            CheckpointError: it was made for other signals or another period.
        """
        check_plant(checkpoint, self.spec)
        predictor = predictor or open_predictor(checkpoint, self.backend, 1)
        self.bank.begin(checkpoint.family, predictor)

    def catch_up(self) -> bool:
        """Let what is to be taken up take in a portion of the window; True when a model then changed places.
        Where none is catching up, go on with the free run that tells how far off forecasts are.

        Bounded work for between two samples; the swap is counted in samples, so that a replay swaps at the
        same `seq`.
        """
        bank, active = self.bank, self.bank.active
        if bank.mixture is not None and not bank.mixture.sound:  # the others have answered for it
            self._give_up()
            active = bank.active
        if active is not None and self.counters.answered and bank.makes_room:
            self.horizon_errors.look(self.window, active, self.detection.expected)
        if not bank.idle and (changed := bank.catch_up(self.detection.measured)):
            if any(bank.members[name].versions == 1 for name in changed):
                self.detection.relearn()
            active = bank.active
            assert active is not None
            if active.quick:
                self.horizon_errors.follow(active)
            self._lead()
            self.counters.swaps += len(changed)
            self.swaps.extend(bank.swap(name, self.t) for name in changed)
            return True
        return False

    # -- forecasts -----------------------------------------------------------------------------------

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
        if not self.counters.answered:
            raise SpecError("nothing to forecast from: no sample has been answered yet")
        fork = self.bank.fork(before.predictor if before is not None else None)
        _, _, _, t, u = self.frames.last()
        return Present(
            spec=self.spec,
            t=t,
            u=np.array(u),
            y=self.detection.expected.copy(),
            predictor=fork,
            width=self.horizon_errors.snapshot(),
        )
