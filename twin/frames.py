"""The plain case of a twin's stream, from bytes to bytes: the next sample comes, and the model answers it.

`Frames` is the memory that a twin shares with its kernels (`twin.kernels.frames`), and the templates by
which they read a sample's frame and write its prediction's. Both templates are made from messages that
`twin.messages` has packed, so that the wire has one definition.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from twin.kernels import detection, frames
from twin.kernels.frames import DOUBLE, EPOCH, INTEGER, SENT_NS, SEQ, Call, T, Template
from twin.messages import UNSET, Prediction, Sample, Spec, pack
from twin.window import Window

_MARK: Final = 0x7FEF_FFFF_FFFF_FF00
"""And what follows it: large integers, and as the bits of doubles finite ones. 0xff stands in no name's
UTF-8."""


class Frames:
    """The memory of one twin, and the kernels that work on it.

    After `take` has returned 1, the sample's values stand in the window and in `features` (1, F), memory of
    the active predictor if there is one; the model's step follows, then `answer`. A sample that comes as a
    message is put there by `put`, and `held` as it is: the kernels' memory has it only after `settle`, which
    is due before `take`.
    """

    def __init__(self, spec: Spec, window: Window) -> None:
        inputs, outputs = len(spec.inputs), len(spec.outputs)
        self._at = at = frames.places(inputs, outputs)
        self.memory = np.zeros(at.size)
        self.memory[at.dt] = spec.dt
        reading, writing = _reading(spec), _writing(spec, ())
        self.frame = memoryview(bytearray(reading.longest))
        self.written = memoryview(bytearray(writing.longest))
        ring, count = window.addresses
        self._spec, self._names = spec, tuple[str, ...]()
        self._kept = reading, writing, window  # whose addresses are in the call
        call = Call(
            memory=self.memory.ctypes.data,
            reading=reading.table.ctypes.data,
            read_bytes=reading.literals.ctypes.data,
            frame=_address(self.frame),
            features=0,
            ring=ring,
            window=window.length,
            pushed=count,
            writing=writing.table.ctypes.data,
            written_bytes=writing.literals.ctypes.data,
            answer=_address(self.written),
        )
        self._call = np.array(call, np.int64)
        self.call = self._call.ctypes.data
        self.take, self.answer = frames.taker(inputs, outputs), frames.answerer(inputs, outputs)
        self._last = struct.Struct(f"=qqqd{inputs}d")
        self.held: tuple[Sample, Sequence[float]] | None = None
        """The last sample answered, where it came as a message, with its values (F)."""
        self.lead_to(np.zeros((1, inputs + outputs), np.float32), 0)

    @property
    def told(self) -> npt.NDArray[np.float64]:
        """Where a mixture is to leave the number of the model that leads, and its members' weights."""
        return self.memory[self._at.model : self._at.stamps]

    def lead_to(self, features: npt.NDArray[np.float32], model: int, members: tuple[str, ...] = ()) -> None:
        """From now on the values of samples are put into `features`, (1, F), for the model of this number, or
        for a mixture of these members."""
        self.features = features
        self.features_bytes = features.reshape(-1).data.cast("B")
        self.put = partial(struct.Struct(f"={features.size}f").pack_into, self.features_bytes, 0)
        """Puts the values of a sample, F arguments, into `features`."""
        self._set(features=features.ctypes.data)
        self.memory.view(np.int64)[self._at.model] = model
        if members != self._names:
            self._names = members
            reading, _, window = self._kept
            writing = _writing(self._spec, members)
            self._kept = reading, writing, window
            self.written = memoryview(bytearray(writing.longest))
            self._set(
                writing=writing.table.ctypes.data,
                written_bytes=writing.literals.ctypes.data,
                answer=_address(self.written),
            )

    def _set(self, **addresses: int) -> None:
        for name, address in addresses.items():
            self._call[Call._fields.index(name)] = address

    def settle(self) -> None:
        """Write the sample held where `take` would have."""
        if self.held is not None:
            epoch, seq, sent_ns, t, u = self.last()
            self._last.pack_into(self.memory.data, 8 * self._at.last, epoch, seq, sent_ns, t, *u)
            self.held = None

    def last(self) -> tuple[int, int, int, float, Sequence[float]]:
        """Epoch, seq, sent_ns, t and u of the last sample answered."""
        if self.held is not None:
            sample, row = self.held
            return sample.epoch, sample.seq, sample.sent_ns, sample.t, row[: self._at.last - self._at.u]
        epoch, seq, sent_ns, t, *u = self._last.unpack_from(self.memory.data, 8 * self._at.last)
        return epoch, seq, sent_ns, t, u


def _address(buffer: memoryview) -> int:
    address: int = np.frombuffer(buffer, np.uint8).ctypes.data
    return address


def _integer_mark(k: int) -> bytes:
    return b"\xcf" + (_MARK + k).to_bytes(8, "big")


def _double_mark(k: int) -> tuple[bytes, float]:
    bits = (_MARK + k).to_bytes(8, "big")
    return b"\xcb" + bits, struct.unpack(">d", bits)[0]


class _Example:
    """Marks for the holes of a message, in their order in the frame."""

    def __init__(self) -> None:
        self.holes: list[tuple[bytes, int, int]] = []

    def integer(self, place: int) -> int:
        k = len(self.holes)
        self.holes.append((_integer_mark(k), INTEGER, place))
        return _MARK + k

    def double(self, place: int) -> float:
        mark, value = _double_mark(len(self.holes))
        self.holes.append((mark, DOUBLE, place))
        return value

    def doubles(self, names: tuple[str, ...], place: int) -> dict[str, float]:
        return {name: self.double(place + i) for i, name in enumerate(names)}


def _reading(spec: Spec) -> Template:
    """Of samples: the header, u and y, in this order."""
    inputs, outputs = len(spec.inputs), len(spec.outputs)
    at, example = frames.places(inputs, outputs), _Example()
    sample = Sample(
        epoch=example.integer(at.arrived + EPOCH),
        seq=example.integer(at.arrived + SEQ),
        t=example.double(at.arrived + T),
        sent_ns=example.integer(at.arrived + SENT_NS),
        u=example.doubles(spec.inputs, at.u),
        y=example.doubles(spec.outputs, detection.places(outputs).measured),
    )
    return frames.template(pack(sample), example.holes)


def _writing(spec: Spec, members: tuple[str, ...]) -> Template:
    """Of predictions by a model that follows, or by a mixture of members, with a residual and an interval."""
    inputs, outputs = len(spec.inputs), len(spec.outputs)
    at, of_outputs, example = frames.places(inputs, outputs), detection.places(outputs), _Example()
    prediction = Prediction(
        epoch=example.integer(at.stamps),
        seq=example.integer(at.last + SEQ),
        t=example.double(at.t),
        sent_ns=example.integer(at.stamps + 2),
        y=example.doubles(spec.outputs, of_outputs.answered),
        residual=example.doubles(spec.outputs, of_outputs.residual),
        model=example.integer(at.model),
        status="following",
        sample_sent_ns=example.integer(at.last + SENT_NS),
        received_ns=example.integer(at.stamps + 1),
        low=example.doubles(spec.outputs, of_outputs.low),
        high=example.doubles(spec.outputs, of_outputs.high),
        weights=example.doubles(members, at.weights) if members else UNSET,
    )
    return frames.template(pack(prediction), example.holes)
