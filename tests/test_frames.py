"""The plain case from bytes to bytes, held to the way that every other sample takes."""

from __future__ import annotations

import ctypes
import math
import mmap
import random
import struct
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.test_twin import LENGTH, broken, checkpoint, following, sample
from twin.bus import Publisher, Subscriber
from twin.config import Config
from twin.detection import MIN_RESIDUALS
from twin.errors import MessageError
from twin.frames import Frames
from twin.kernels import detection
from twin.kernels.frames import Call
from twin.messages import Message, Prediction, Sample, Spec, pack, unpack
from twin.requests import Answerer
from twin.service.forecaster import Forecaster
from twin.service.twin import Loader, Loop
from twin.twin import Twin
from twin.window import Window

TOPIC = b"sample/motor-1"
START = 2 * MIN_RESIDUALS
"""Samples after which there are intervals."""
EPOCH, RECEIVED_NS, SENT_NS = 1_700_000_000_000, 5_000_000_000, 5_000_012_345


def general(twin: Twin, frame: bytes) -> bytes | None:
    """The answer to a frame as it comes about in general."""
    try:
        message = unpack(TOPIC, frame)
    except MessageError:
        return None
    assert isinstance(message, Sample)
    answer = twin.step(message, RECEIVED_NS)
    return pack(replace(answer, epoch=EPOCH, sent_ns=SENT_NS)) if answer else None


def plain(twin: Twin, frame: bytes) -> tuple[bytes | None, bool]:
    """As a twin's loop does it, and whether it was the plain case."""
    if twin.take(frame):
        return bytes(twin.answer(EPOCH, RECEIVED_NS, SENT_NS)), True
    return general(twin, frame), False


def framed(seq: int, **changes: Any) -> bytes:
    return pack(replace(sample(seq), sent_ns=10_000_000_000 + seq, **changes))


def same(one: Twin, other: Twin) -> None:
    assert repr(one.counters) == repr(other.counters)
    assert np.array_equal(one.window.view(), other.window.view()) and one.window.count == other.window.count
    assert one.frames.last() == other.frames.last() and one.status == other.status
    kept = slice(detection.places(2).rare, None)  # what comes before is scratch
    assert np.array_equal(one.detection._memory[kept], other.detection._memory[kept])
    if one.active and other.active:
        assert np.array_equal(one.active.state, other.active.state)


# -- both ways give the same -------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gru", "physics", "window-rnn"])
@pytest.mark.parametrize("adapt", [False, True])
def test_frames_are_the_same_bit_by_bit_through_swaps_gaps_and_restarts(family: str, adapt: bool) -> None:
    twins = [Twin(plant(), window=LENGTH, adapt=adapt) for _ in range(2)]
    taken = 0
    seqs = [*range(700), *range(707, 1100), 1100, 1100, *range(1101, 1500), *range(20, 400)]
    for k, seq in enumerate(seqs):
        if k in (3, 300, 900):
            for twin in twins:
                twin.refresh(checkpoint(k, family))
        frame = framed(seq)
        one, (other, was_plain) = general(twins[0], frame), plain(twins[1], frame)
        assert one == other
        taken += was_plain
        for twin in twins:
            twin.catch_up()
    same(*twins)
    assert taken > 1_200


def plant() -> Spec:
    return Spec(inputs=("voltage",), outputs=("current", "speed"), dt=0.001)


def test_an_answer_that_is_not_finite_is_replaced_as_in_general() -> None:
    twins = [following(seqs=range(START)) for _ in range(2)]
    said = set()
    for seq in range(START, START + 200):
        if seq == START + 20:
            for twin in twins:
                twin.refresh(broken(2))
        frame = framed(seq, epoch=1)
        one, (other, _) = general(twins[0], frame), plain(twins[1], frame)
        assert one is not None and one == other
        said.add(msgpack.unpackb(one)["status"])
        for twin in twins:
            twin.catch_up()
    same(*twins)
    assert said == {"following", "invalid", "unestimated"}


def test_alarms_come_the_same_way() -> None:
    twins = [following(seqs=range(START)) for _ in range(2)]
    for seq in range(START, 30_000):
        y = dict(sample(seq).y)
        if seq >= 28_000:
            y["speed"] += 1e4
        frame = framed(seq, y=y)
        assert general(twins[0], frame) == plain(twins[1], frame)[0]
    same(*twins)
    assert twins[0].counters.alarms > 0 and list(twins[0].pending_alarms) == list(twins[1].pending_alarms)


NUMBERS = (
    st.floats(width=64)
    | st.sampled_from(
        [
            0.0,
            -0.0,
            5e-324,
            1e30,
            3.4e38,
            3.4028234663852886e38,
            3.4028235677973366e38,
            math.nan,
            math.inf,
            -1e308,
        ]
    )
    | st.integers(-(2**63), 2**64 - 1)
)
SHAPES = st.sampled_from(["plain", "reordered", "wide", "extended", "doubled", "cut", "longer", "mutated"])
STREAMS = st.lists(
    st.tuples(SHAPES, st.integers(-1, 3), NUMBERS, NUMBERS, st.integers(0, 2**63), st.integers(0, 10**9)),
    max_size=25,
)


def spoiled(fields: dict[str, Any], shape: str, seed: int) -> bytes:
    """A frame of these fields, not as the project packs it."""
    dice = random.Random(seed)
    match shape:
        case "reordered":
            keys = dice.sample(sorted(fields), len(fields))
            return bytes(msgpack.packb({key: fields[key] for key in keys}))
        case "extended":
            return bytes(msgpack.packb({**fields, "later": [1, None]}))
        case "wide":  # each integer in nine bytes
            wide = pack_plain(fields)
            for key in (b"\xa3seq", b"\xa5epoch"):
                at = wide.index(key) + len(key)
                value, length = integer_at(wide, at)
                wide = wide[:at] + b"\xcf" + value.to_bytes(8, "big") + wide[at + length :]
            return wide
        case "doubled":
            return pack_plain(fields) * 2
    frame = pack_plain(fields)
    match shape:
        case "cut":
            return frame[: dice.randrange(len(frame))]
        case "longer":
            return frame + dice.randbytes(dice.randint(1, 9))
        case "mutated":
            return mutated(frame, dice)
    return frame


def pack_plain(fields: dict[str, Any]) -> bytes:
    return bytes(msgpack.packb(fields))


def integer_at(frame: bytes, at: int) -> tuple[int, int]:
    if frame[at] < 0x80:
        return frame[at], 1
    size = 1 << (frame[at] - 0xCC)
    return int.from_bytes(frame[at + 1 : at + 1 + size], "big"), 1 + size


def mutated(frame: bytes, dice: random.Random) -> bytes:
    mutant = bytearray(frame)
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(mutant) + 1)
        match dice.randrange(3):
            case 0 if at < len(mutant):
                mutant[at] = dice.randrange(256)
            case 1:
                del mutant[at : at + dice.randint(1, 3)]
            case _:
                mutant.insert(at, dice.randrange(256))
        if not mutant:
            break
    return bytes(mutant)


@given(STREAMS)
def test_whatever_comes_both_ways_say_the_same(
    stream: list[tuple[str, int, float, float, int, int]],
) -> None:
    twins = [following(seqs=range(START)) for _ in range(2)]
    seq, taken = START, 0
    for shape, step, u, speed, sent_ns, seed in stream:
        fields = msgpack.unpackb(framed(seq))
        fields |= {"sent_ns": sent_ns, "seq": max(0, seq + step - 1)}
        fields["u"]["voltage"] = u
        fields["y"]["speed"] = speed
        try:
            frame = spoiled(fields, shape, seed)
        except OverflowError:
            continue
        one, (other, was_plain) = general(twins[0], frame), plain(twins[1], frame)
        assert one == other
        taken += was_plain
        same(*twins)
        seq = twins[0].frames.last()[1] + 1
        for twin in twins:
            twin.catch_up()
    # what a healthy stream brings is the plain case
    for k in range(3 * LENGTH):
        frame = framed(seq + k)
        one, (other, was_plain) = general(twins[0], frame), plain(twins[1], frame)
        assert one == other
        taken += was_plain
    assert taken > 0 or twins[0].model == 0, "unless huge numbers have made the model answer none"


# -- reading foreign bytes ---------------------------------------------------------------------------


class Guarded:
    """Memory that ends where no page follows: who reads one byte beyond is killed."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, 2 * mmap.PAGESIZE)
        self._buffer = (ctypes.c_char * (2 * mmap.PAGESIZE)).from_buffer(self._map)
        self.end = ctypes.addressof(self._buffer) + mmap.PAGESIZE
        assert ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(self.end), mmap.PAGESIZE, 0) == 0

    def put(self, frame: bytes) -> int:
        """Put a frame at its very end; the address."""
        ctypes.memmove(self.end - len(frame), frame, len(frame))
        return self.end - len(frame)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mprotect"), reason="no mprotect here")
@pytest.mark.parametrize("seed", range(4))
def test_what_is_taken_is_a_message_with_these_values_and_nothing_beyond_is_read(seed: int) -> None:
    spec, dice, guarded = plant(), random.Random(seed), Guarded()
    window = Window(1, LENGTH, 3)
    frames = Frames(spec, window)
    place = Call._fields.index("frame")
    taken = refused = 0
    for _ in range(40_000):
        last = Sample(
            epoch=dice.choice([0, 3, 2**52]), seq=dice.choice([0, 126, 254, 65_534, 2**52]), u={}, y={}
        )
        numbers = [
            dice.choice([0.0, dice.gauss(0, 1e3), math.nan, 3.41e38])
            if dice.random() < 0.1
            else dice.gauss(0, 9)
            for _ in range(4)
        ]
        good = Sample(
            epoch=last.epoch,
            seq=last.seq + 1,
            t=numbers[0],
            sent_ns=dice.choice([5, 2**40, 2**63 - 1]),
            u={"voltage": numbers[1]},
            y={"current": numbers[2], "speed": numbers[3]},
        )
        frame = pack(good)
        if dice.random() < 0.8:
            frame = mutated(frame, dice)
        frames.held = last, [0.0] * 3
        frames.settle()
        frames._call[place] = guarded.put(frame)
        before, count = frames.last(), window.count
        if not frames.take(frames.call, len(frame)):
            refused += 1
            assert frames.last() == before and window.count == count
            continue
        taken += 1
        message = unpack(TOPIC, frame)
        assert isinstance(message, Sample)
        row = spec.row(message)
        assert row is not None and (message.epoch, message.seq) == (last.epoch, last.seq + 1)
        assert frames.last() == (message.epoch, message.seq, message.sent_ns, message.t, row[:1])
        assert np.array_equal(frames.features[0], np.array(row, np.float32))
        assert np.array_equal(window.tail(1)[0, 0], np.array(row, np.float32)) and window.count == count + 1
    assert taken > 5_000 and refused > 5_000


def test_a_frame_that_goes_on_where_its_length_ends_is_refused() -> None:
    frames = Frames(plant(), Window(1, LENGTH, 3))
    frames.held = sample(7), [0.0] * 3
    frames.settle()
    frame = framed(8)
    frames.frame[: len(frame)] = frame
    assert not any(frames.take(frames.call, length) for length in range(len(frame)))
    assert frames.take(frames.call, len(frame)) == 1


@pytest.mark.parametrize("signals", [(1, 1), (2, 3), (20, 40)])
def test_any_number_of_signals(signals: tuple[int, int]) -> None:
    inputs, outputs = (tuple(f"{kind}{i}é" for i in range(n)) for kind, n in zip("uy", signals, strict=True))
    spec = Spec(inputs=inputs, outputs=outputs, dt=0.5)
    frames = Frames(spec, Window(1, 4, sum(signals)))
    frames.held = Sample(epoch=9, seq=254, u={}, y={}), [0.0] * sum(signals)
    frames.settle()
    new = Sample(
        epoch=9,
        seq=255,
        t=1.5,
        sent_ns=300,
        u={name: 1.0 + i for i, name in enumerate(inputs)},
        y={name: -1.0 - i for i, name in enumerate(outputs)},
    )
    frame = pack(new)
    frames.frame[: len(frame)] = frame
    assert frames.take(frames.call, len(frame)) == 1
    assert frames.features[0].tolist() == spec.row(new)
    y = np.arange(outputs_n := signals[1], dtype=np.float32)
    length = abs(frames.answer(frames.call, y.ctypes.data, 7, 70_000, 2**40))
    answer = unpack(b"prediction/x", bytes(frames.written[:length]))
    assert isinstance(answer, Prediction)
    assert (answer.epoch, answer.seq, answer.t, answer.sent_ns) == (7, 255, 2.0, 2**40)
    assert list(answer.y.values()) == list(range(outputs_n)) and tuple(answer.y) == outputs
    assert pack(answer) == bytes(frames.written[:length])


@pytest.mark.parametrize("value", [0, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63 - 1])
def test_integers_are_written_as_the_packer_writes_them(value: int) -> None:
    twin = following(seqs=range(START))
    assert twin.take(framed(START))
    answer = bytes(twin.answer(EPOCH, value, value))
    assert pack(unpack(b"prediction/x", answer)) == answer
    assert msgpack.unpackb(answer)["received_ns"] == msgpack.unpackb(answer)["sent_ns"] == value


def test_doubles_keep_their_bits() -> None:
    """-0.0, and numbers below the smallest that float32 has."""
    for value in (-0.0, 5e-324, 1e-310, struct.unpack("<d", b"\x01\xff" * 3 + b"\x00\x40")[0]):
        frames = Frames(plant(), Window(1, LENGTH, 3))
        frames.held = sample(7), [0.0] * 3
        frames.settle()
        frame = framed(8, u={"voltage": value}, t=value)
        frames.frame[: len(frame)] = frame
        assert frames.take(frames.call, len(frame))
        *_, t, u = frames.last()
        assert struct.pack("<2d", t, *u) == struct.pack("<2d", value, value)


# -- in a loop, over sockets -------------------------------------------------------------------------


def test_a_sample_passes_few_functions_and_all_else_comes_after_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    config = Config.model_validate({"bus": {"source": "motor-1"}, "twin": {"run_dir": str(tmp_path / "run")}})
    twin = following(seqs=range(START))
    answerer = Answerer(f"ipc://{tmp_path}/forecast")
    with (
        Publisher(f"ipc://{tmp_path}/plant", "motor-1") as sender,
        Publisher(f"ipc://{tmp_path}/twin", "motor-1") as publisher,
        Subscriber[Message](f"ipc://{tmp_path}/plant", "sample/motor-1") as stream,
        Subscriber(f"ipc://{tmp_path}/twin", "prediction/motor-1", Prediction) as answers,
    ):
        loader = Loader(tmp_path / "run", twin.spec, config.twin)
        loop = Loop(config, twin, stream, publisher, loader, Forecaster(answerer, twin.spec))
        sender.wait_for(Sample, 1, 5)
        publisher.wait_for(Prediction, 1, 5)
        passed: list[str] = []

        def note(frame: FrameType, event: str, argument: object) -> None:
            if event == "call":
                passed.append(frame.f_code.co_name)

        for seq in range(START, START + 50):
            sender.send(sample(seq))  # its own epoch: the first is a restart, then there are residuals again
            assert stream._socket.poll(5_000, zmq.POLLIN)
            loop.turn()
            assert answers.recv(5) is not None
        for seq in range(START + 50, START + 300):
            sender.send(sample(seq))
            loop.turn()
            assert answers.recv(5) is not None
        sender.send(sample(START + 300))
        assert stream._socket.poll(5_000, zmq.POLLIN)
        sys.setprofile(note)
        try:
            loop.turn()
        finally:
            sys.setprofile(None)
        answer = answers.recv(5)
        assert answer is not None and isinstance(answer.low, dict)
    answerer.close()
    before = passed[: passed.index("send_frame") + 1]
    assert before == ["turn", "recv_frame", "take", "step", "answer", "send_frame"]
