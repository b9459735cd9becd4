"""The processes along the measured chain: a plant, a relay in the twin's place, a listener.

Plant and listener are the same whatever stands between them, and do as little as they can, so that what is
measured is what stands between. The plant publishes samples computed beforehand, with the project's own
`Publisher` and `Pacer`. The listener is plain pyzmq: it looks at the clock the moment a prediction is there,
and decodes no more of it than its stamps.

A stretch is measured between two events of the plant, `begin` and `end`. Before `begin` it sends samples
slowly until told to go on, so that everybody is there, connected and warm.
"""

from __future__ import annotations

import gc
import itertools
import select
import sys
import time
from array import array
from pathlib import Path
from typing import Any, Final

import msgpack
import msgspec
import numpy as np
import zmq
from numpy.typing import NDArray

from twin.bus import QUEUE_MESSAGES, Publisher
from twin.errors import TwinError
from twin.messages import Event, Sample, Spec, unpack
from twin.pacer import Pacer
from twin.realtime import sleep_precisely
from twin.supervisor import die_with_supervisor

SOURCE: Final = "chain"
SLOWLY: Final = 5e-3  # s between samples before `begin`
STATION_TIMEOUT_SEC: Final = 60.0
"""Without a listener to come, or a prediction, after which a station gives up."""
DRAIN: Final = 3.0  # s without a prediction after `end`, then the rest is lost


class Answer(msgspec.Struct):
    """What the listener reads of a prediction; the other fields are skipped."""

    seq: int
    model: int
    sample_sent_ns: int
    received_ns: int
    sent_ns: int


COLUMNS: Final = (*Answer.__struct_fields__, "arrived_ns")
"""Of what the listener writes, a row for each prediction."""


def plant(endpoint: str, samples: str, spec: str, count: int, listeners: int) -> None:
    """Publish `count` samples between `begin` and `end`, once `listeners` programs listen and a line comes.

    `samples` is a file (T, F), repeated without end, `spec` one with the packed Spec.
    """
    die_with_supervisor()
    what = unpack(b"spec/" + SOURCE.encode(), Path(spec).read_bytes())
    assert isinstance(what, Spec)
    rows = itertools.cycle(np.load(samples).tolist())
    stream = (what.sample(k, row) for k, row in enumerate(rows))
    gc.freeze()
    gc.disable()
    sleep_precisely()
    with Publisher(endpoint, SOURCE) as publisher:
        deadline = time.monotonic() + STATION_TIMEOUT_SEC
        while publisher.wait_for(Sample, listeners, 0.0) < listeners:
            if time.monotonic() > deadline:
                raise TwinError(f"fewer than {listeners} programs listen to the plant")
            if publisher.newcomers():  # a twin that knows the plant makes ready first, and then listens
                publisher.send(what)
        publisher.send(what)
        while not select.select([sys.stdin], [], [], SLOWLY)[0]:
            if publisher.newcomers():
                publisher.send(what)
            publisher.send(next(stream))
        sys.stdin.readline()
        first = next(stream)
        pacer = Pacer(what.dt)
        publisher.event("begin", "", first=first.seq)
        begun = time.monotonic()
        for sample in itertools.islice(itertools.chain([first], stream), count):
            pacer.wait()
            publisher.send(sample)
        figures = {"overruns": pacer.overruns, "seconds": time.monotonic() - begun}
        publisher.event("end", "", last=first.seq + count - 1, **figures)
        sys.stdin.readline()  # the listener has all that will come


def relay(hear: str, speak: str) -> None:
    """Answer each sample with a prediction of the same size, and do nothing in between."""
    die_with_supervisor()
    context = zmq.Context()
    samples, predictions = context.socket(zmq.SUB), context.socket(zmq.PUB)
    samples.rcvhwm = predictions.sndhwm = QUEUE_MESSAGES  # what it loses must not be for want of room
    predictions.bind(speak)
    samples.connect(hear)
    samples.subscribe(f"sample/{SOURCE}")
    topic = f"prediction/{SOURCE}".encode()
    while True:
        sample = msgpack.unpackb(samples.recv_multipart()[1])
        now = time.monotonic_ns()
        answer = {
            **{name: sample[name] for name in ("v", "epoch", "seq", "t", "y")},
            "sent_ns": now,
            "residual": sample["y"],
            "model": 1,
            "status": "following",
            "sample_sent_ns": sample["sent_ns"],
            "received_ns": now,
        }
        predictions.send_multipart([topic, msgpack.packb(answer)])


def listen(plant: str, twin: str, file: str) -> None:
    """Keep the stamps of every prediction between the plant's `begin` and `end`, and write them to a file.

    Says a word once predictions by a model come.
    """
    die_with_supervisor()
    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.rcvhwm = QUEUE_MESSAGES
    socket.reconnect_ivl = 10  # ms
    socket.subscribe(f"prediction/{SOURCE}")
    socket.subscribe(f"event/{SOURCE}")
    socket.connect(plant)
    socket.connect(twin)
    gc.disable()
    begin, end, stamps = _receive(socket)
    rows = np.array(stamps, np.int64).reshape(-1, len(COLUMNS))
    measured = (rows[:, 0] >= begin["first"]) & (rows[:, 0] <= end["last"])
    told = {name: np.array(value) for name, value in (begin | end).items()}
    np.savez(file, allow_pickle=False, rows=rows[measured], **told)


def _receive(socket: zmq.Socket[bytes]) -> tuple[dict[str, float], dict[str, float], array[int]]:
    """The figures of `begin` and `end`, and the rows of `COLUMNS`, one after the other."""
    clock, read, name = time.monotonic_ns, msgspec.msgpack.Decoder(Answer).decode, f"prediction/{SOURCE}"
    topic_of_answers, stamps = name.encode(), array("q")
    begin: dict[str, float] = {}
    end: dict[str, float] = {}
    seen, heard = False, 0
    socket.rcvtimeo = round(STATION_TIMEOUT_SEC * 1e3)
    while not end or (stamps[-len(COLUMNS)] < end["last"] and clock() - heard < DRAIN * 1e9):
        try:
            topic = socket.recv()
            payload = socket.recv()
        except zmq.Again:
            if end:
                break
            raise TwinError(f"nothing was heard for {STATION_TIMEOUT_SEC:g} s") from None
        now = clock()
        if topic == topic_of_answers:
            answer = read(payload)
            stamps.extend(
                (
                    answer.seq,
                    answer.model,
                    answer.sample_sent_ns,
                    answer.received_ns,
                    answer.sent_ns,
                    now,
                )
            )
            heard = now
            if not seen and answer.model:
                seen = True
                print("following", flush=True)
            continue
        match unpack(topic, payload):
            case Event(name="begin", figures=figures):
                begin = figures
            case Event(name="end", figures=figures):
                end, heard = figures, now
                socket.rcvtimeo = round(DRAIN * 1e3)
    return begin, end, stamps


def stamps_of(file: Path) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """What a listener wrote: the rows of `COLUMNS`, and the figures of `begin` and `end`."""
    with np.load(file) as found:
        return found["rows"], {name: found[name].item() for name in found.files if name != "rows"}
