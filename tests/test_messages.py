"""The wire contract, checked against the reference msgpack, and decoding that nothing gets past."""

from __future__ import annotations

import math
import random

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.errors import MessageError, SpecError
from twin.messages import (
    KINDS,
    MAX_FRAME,
    MAX_SIGNALS,
    WIRE_VERSION,
    Event,
    Message,
    Prediction,
    Sample,
    Spec,
    check_source,
    check_spec,
    pack,
    topic,
    unpack,
)

SPEC = Spec(
    inputs=("voltage",), outputs=("current", "speed"), dt=0.001, units={"voltage": "V"}, plant="a motor"
)
SAMPLE = Sample(epoch=3, seq=7, t=0.007, sent_ns=9, u={"voltage": 12.0}, y={"current": 1.0, "speed": 90.0})
PREDICTION = Prediction(
    seq=7, t=0.008, y={"speed": 91.0}, residual={"speed": 0.5}, model=2, status="following"
)
EVENT = Event(name="swap", text="model 2 answers", figures={"model": 2.0})
ALL = [SPEC, SAMPLE, PREDICTION, EVENT]


def name_of(message: Message) -> bytes:
    return topic(type(message), "motor-1").encode()


@pytest.mark.parametrize("message", ALL, ids=lambda m: type(m).__name__)
def test_what_is_packed_is_unpacked(message: Message) -> None:
    assert unpack(name_of(message), pack(message)) == message


def test_the_wire_is_plain_msgpack_with_the_contract_s_keys() -> None:
    sample = msgpack.unpackb(pack(SAMPLE))
    assert sample == {
        "v": WIRE_VERSION,
        "epoch": 3,
        "seq": 7,
        "t": 0.007,
        "sent_ns": 9,
        "u": {"voltage": 12.0},
        "y": {"current": 1.0, "speed": 90.0},
    }
    prediction = msgpack.unpackb(pack(PREDICTION))
    assert {"seq", "t", "y", "residual", "model", "status", "sample_sent_ns", "received_ns"} <= set(
        prediction
    )
    assert "low" not in prediction, "an interval is there only when there is one"


def test_a_message_of_another_library_is_understood() -> None:
    frame = msgpack.packb({**msgpack.unpackb(pack(SAMPLE)), "later": [1, {"x": None}]})
    assert unpack(b"sample/motor-1", frame) == SAMPLE, "unknown keys are a later version's business"


def test_numbers_of_numpy_are_packed_as_numbers() -> None:
    sample = Sample(u={"voltage": np.float64(1.5)}, y={"speed": np.float32(2.0)})  # type: ignore[dict-item]
    assert msgpack.unpackb(pack(sample))["u"] == {"voltage": 1.5}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"v": WIRE_VERSION + 1}, "version"),
        ({"v": WIRE_VERSION - 1}, "version"),
        ({"seq": -1}, "out of range"),
        ({"epoch": 2**53}, "out of range"),
        ({"t": math.nan}, "not finite"),
        ({"u": {"voltage": math.inf}}, "inf"),
        ({"y": {"speed": math.nan}}, "nan"),
        ({"y": {"speed": "fast"}}, "Expected"),
        ({"y": [1.0, 2.0]}, "Expected"),
        ({"y": {str(i): 0.0 for i in range(MAX_SIGNALS + 1)}}, "at most"),
        ({"y": {"x" * 65: 0.0}}, "characters"),
        ({"seq": True}, "Expected"),
        ({"seq": 2**64}, "."),
        ({"y": None}, "Expected"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(change: dict[str, object], why: str) -> None:
    good = msgpack.unpackb(pack(SAMPLE))
    try:
        frame = msgpack.packb({**good, **change})
    except OverflowError:
        frame = pack(SAMPLE).replace(b"\xa3seq\x07", b"\xa3seq\xcf" + b"\xff" * 8)
    with pytest.raises(MessageError, match=why):
        unpack(b"sample/motor-1", frame)


@pytest.mark.parametrize("key", ["u", "y"])
def test_a_missing_field_is_refused(key: str) -> None:
    fields = msgpack.unpackb(pack(SAMPLE))
    del fields[key]
    with pytest.raises(MessageError, match=key):
        unpack(b"sample/motor-1", msgpack.packb(fields))


@pytest.mark.parametrize(
    "name", [b"", b"sample", b"sampl/motor-1", b"\xff\xfe/x", b"x" * 1000, b"nothing/motor-1"]
)
def test_an_unknown_topic_is_refused(name: bytes) -> None:
    if name == b"sample":  # a kind without a source is still that kind; the bus matches whole topics
        return
    with pytest.raises(MessageError):
        unpack(name, pack(SAMPLE))


BOMBS = [
    b"\x91" * 100_000,
    b"\x81\xa1a" * 5_000 + b"\xc0",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\xd7\xff" + b"\xff" * 8,
    b"\xdd\x00\x00\x0f\xff" * 800,
    pack(SAMPLE)[:-9] + b"\xc7\x00\x05",
    b"\x86\xa5later" + b"\x91" * 4_000,
    b"",
    b"\xc1",
]


@pytest.mark.parametrize("bomb", BOMBS, ids=range(len(BOMBS)))
@pytest.mark.parametrize("kind", KINDS)
def test_bombs_are_refused(kind: str, bomb: bytes) -> None:
    with pytest.raises(MessageError):
        unpack(f"{kind}/motor-1".encode(), bomb)


def test_a_long_frame_is_refused_unread() -> None:
    with pytest.raises(MessageError, match="longer"):
        unpack(b"sample/motor-1", b"\x80" * (MAX_FRAME + 1))


def test_mutated_frames_raise_message_errors_only() -> None:
    random.seed(1)
    frames = [(name_of(message), pack(message)) for message in ALL]
    accepted = 0
    for _ in range(50_000):
        name, frame = random.choice(frames)
        mutant = bytearray(frame)
        for _ in range(random.randint(1, 4)):
            match random.randrange(3):
                case 0:
                    mutant[random.randrange(len(mutant))] = random.randrange(256)
                case 1:
                    del mutant[random.randrange(len(mutant)) :]
                case _:
                    mutant.insert(random.randrange(len(mutant) + 1), random.randrange(256))
            if not mutant:
                break
        try:
            message = unpack(name, bytes(mutant))
        except MessageError:
            continue
        accepted += 1
        assert message.v == WIRE_VERSION and math.isfinite(message.t)
    assert accepted > 100, (
        "some mutants only change a value: the test does reach the checks behind the decoder"
    )


@given(name=st.binary(max_size=200), payload=st.binary(max_size=400))
@settings(max_examples=max(300, settings().max_examples))  # quick ones
def test_noise_raises_message_errors_only(name: bytes, payload: bytes) -> None:
    with pytest.raises(MessageError):
        unpack(name, payload)


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": ()},
        {"outputs": ()},
        {"inputs": ("a", "a")},
        {"inputs": ("speed",)},
        {"inputs": tuple(map(str, range(65)))},
        {"inputs": ("",)},
        {"dt": 0.0},
        {"dt": -1.0},
        {"dt": math.nan},
        {"dt": math.inf},
    ],
)
def test_a_spec_that_cannot_be_is_refused(change: dict[str, object]) -> None:
    fields = {"inputs": ("voltage",), "outputs": ("speed",), "dt": 0.001}
    with pytest.raises(SpecError):
        check_spec(Spec(**{**fields, **change}))  # type: ignore[arg-type]


@pytest.mark.parametrize("source", ["", "a/b", "../x", " ", "-a", "ä", "a" * 65, "a\n"])
def test_a_source_that_could_not_stand_in_a_path_is_refused(source: str) -> None:
    with pytest.raises(SpecError, match="name"):
        check_source(source)
