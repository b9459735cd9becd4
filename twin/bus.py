"""Topics on sockets: who publishes binds, who listens connects, and nothing is lost without being counted.

Each source has publishers with an endpoint of their own: the plant (spec, samples, events), the twin
(predictions, events), the trainer and the monitor (events). The default endpoints are Unix sockets in a
directory that only this user can enter. This module and `requests` alone know ZeroMQ.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

import zmq
from msgspec.structs import replace

from twin.address import Address, check_port
from twin.errors import BusError, MessageError
from twin.messages import (
    MAX_FRAME,
    Event,
    Message,
    Prediction,
    Sample,
    check_source,
    pack,
    topic,
    unpack,
)
from twin.receipts import Readers, Receipts

QUEUE_MESSAGES: Final = 60_000
"""Messages kept for a subscriber that does not read: a minute at 1 kHz, about 20 MB at the most."""
_READER_TIMEOUT_SEC: Final = 30.0  # without a receipt; then such a subscriber is no longer waited for
_MAX_INBOUND: Final = 64 * MAX_FRAME  # libzmq hangs up on longer frames; shorter ones are refused by unpack
_STREAMS: Final = (Sample, Prediction)

M = TypeVar("M", bound=Message)


class Publisher:
    """Binds an endpoint and sends messages of one source.

    A slow subscriber costs nobody else anything: its queue holds `QUEUE_MESSAGES`; more are lost to it. With
    `lossless` the publisher instead waits for its slowest lossless subscriber, so that it is never more than
    `MAX_AHEAD_MESSAGES` ahead: for streams that are not paced by a clock. Those subscribers send receipts
    upstream, beside the subscriptions. All waiting ends once `stop` is true.

    Raises:
        BusError: the endpoint is in use or cannot be bound.
    """

    def __init__(self, endpoint: str, source: str, *, lossless: bool = False, stop: object = False) -> None:
        self.endpoint = endpoint
        self.source = check_source(source)
        self.epoch = time.time_ns() // 1_000_000
        self._events = 0
        self._topics: dict[type[Message], bytes] = {}
        self._listeners: Counter[str] = Counter()  # by topic
        self._newcomers: list[str] = []  # topics
        self._stop = stop
        self._readers = Readers() if lossless else None
        check_port(endpoint)
        self._address = Address(endpoint)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._send = super(zmq.Socket, self._socket).send  # pyzmq's own adds a Python function to each call
        self._socket.linger = 500  # a moment for the last messages, never for ever
        self._socket.sndhwm = QUEUE_MESSAGES
        self._socket.setsockopt(zmq.XPUB_VERBOSER, 1)  # every subscriber counts, not only the first and last
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise BusError(bind_advice(endpoint, error)) from None

    def send(self, message: Message) -> None:
        """Stamp a message with this publisher's epoch and the time, and send it."""
        kind = type(message)
        name = self._topics.get(kind) or self._topics.setdefault(kind, topic(kind, self.source).encode())
        if kind is Event:
            message = replace(message, seq=self._events)
            self._events += 1
        message = replace(message, epoch=self.epoch, sent_ns=time.monotonic_ns())
        self._socket.send(name, zmq.SNDMORE)
        self._socket.send(pack(message))
        if self._readers and kind in _STREAMS:
            self._hold(message.seq, self._readers)

    def send_frame(self, topic: bytes, payload: bytes | memoryview) -> None:
        """Send what is packed and stamped already; a lossless publisher does not wait for it."""
        self._send(topic, zmq.SNDMORE)
        self._send(payload)

    def _hold(self, seq: int, readers: Readers) -> None:
        """Wait until every lossless subscriber has read what was sent `MAX_AHEAD_MESSAGES` ago."""
        deadline = time.monotonic() + _READER_TIMEOUT_SEC
        while not self._stop and readers.behind(seq):
            self._socket.poll(100)
            self._hear()
            if time.monotonic() > deadline:
                readers.give_up(seq)

    def event(self, name: str, text: str, t: float = 0.0, **figures: float) -> None:
        """Send an event."""
        self.send(Event(name=name, text=text, t=t, figures=figures))

    def newcomers(self) -> list[str]:
        """The topics subscribed to since this was last asked, one entry for each subscription."""
        self._hear()
        topics, self._newcomers = self._newcomers, []
        return topics

    def _hear(self) -> None:
        """Take in what subscribers send upstream: subscriptions, their end, and receipts."""
        while int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            frame = self._socket.recv()
            name = frame[1:].decode("utf-8", "replace")
            if frame[:1] == b"\x01":
                self._listeners[name] += 1
                self._newcomers.append(name)
            elif frame[:1] == b"\x00":
                self._listeners[name] -= 1
            elif self._readers:
                self._readers.hear(frame, self.epoch)

    def wait_for(self, kind: type[Message], count: int, timeout: float) -> int:
        """Wait until `count` programs listen to a kind, or `timeout` seconds; returns how many do."""
        name = topic(kind, self.source)
        deadline, before = time.monotonic() + timeout, -1
        while True:
            self._hear()
            found = sum(n for prefix, n in self._listeners.items() if name.startswith(prefix))
            # a subscriber that connects anew is for a moment there twice: ask again before believing it
            if found == before and (found >= count or self._stop or time.monotonic() > deadline):
                if self._readers:
                    self._readers.expected = found
                return found
            before = found
            time.sleep(0.02)

    def close(self) -> None:
        """Send what is queued, release the endpoint and leave no file behind."""
        self._socket.close()
        self._context.term()
        self._address.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def bind_advice(endpoint: str, error: zmq.ZMQError) -> str:
    """Why an endpoint cannot be bound, and what to do."""
    if error.errno == zmq.EADDRINUSE:
        return f"{endpoint} is in use by another program; stop that one or choose another endpoint"
    return f"{endpoint}: {error.strerror}; use tcp://127.0.0.1:PORT or ipc:///PATH"


class Subscriber(Generic[M]):
    """Connects to one or more endpoints and iterates over the messages of one or more topics.

    A topic ending in "/" stands for all sources of a kind. Publishers may come, go and return. Frames that
    are no message are dropped and counted in `rejected`, the last reason kept in `fault`.

    At most `QUEUE_MESSAGES` are kept while the caller does something else. With `lossless` it sends receipts
    to lossless publishers, and they wait for it.

    Raises:
        BusError: an endpoint that is none.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str],
        topics: str | Sequence[str],
        kind: type[M] = Message,  # type: ignore[assignment]
        *,
        lossless: bool = False,
    ) -> None:
        self.rejected = 0
        self.fault = ""
        self._kind = kind
        self._endpoints = [endpoints] if isinstance(endpoints, str) else list(endpoints)
        names = [topics] if isinstance(topics, str) else list(topics)
        self._exact = {name.encode() for name in names if not name.endswith("/")}
        self._prefixes = tuple(name.encode() for name in names if name.endswith("/"))
        self._timeout_ms = -1
        self._receipts = Receipts() if lossless else None
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XSUB)  # a SUB that can also send
        self._socket.linger = 0
        self._recv = self._socket.recv
        self._socket.rcvhwm = QUEUE_MESSAGES
        self._socket.setsockopt(zmq.MAXMSGSIZE, _MAX_INBOUND)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 10)  # ms; a publisher that restarts is heard at once
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 200)
        for name in names:
            self._socket.send(b"\x01" + name.encode())
        for address in self._endpoints:
            try:
                check_port(address)
                self._socket.connect(address)
            except zmq.ZMQError as error:
                self.close()
                raise BusError(f"{address}: {error.strerror}; use tcp://HOST:PORT or ipc:///PATH") from None

    def recv(self, timeout: float | None = None) -> M | None:
        """The next message, or None when none came within `timeout` seconds (None: wait for ever)."""
        self._set_timeout(-1 if timeout is None else max(0, int(timeout * 1000)))
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            try:
                frames = [self._socket.recv(copy=False)]
                while frames[-1].more:  # recv_multipart would ask the socket, and take twice as long
                    frames.append(self._socket.recv(copy=False))
            except zmq.Again:
                return None
            try:
                if len(frames) != 2:
                    raise MessageError(f"{len(frames)} frames where a message has two")
                return self._decode(frames[0].bytes, frames[1].bytes)
            except MessageError as error:
                self._refuse(error)
            if time.monotonic() > deadline:  # a flood of foreign frames must not hold the caller
                return None

    def recv_frame(self, topic: bytes, timeout: float) -> bytes | M | None:
        """As `recv`, but a message of this topic comes as its payload, not decoded, for callers that decode
        it faster.

        Of a message whose first frame is its last it takes the next one for the rest, and refuses both.
        """
        if timeout * 1000 != self._timeout_ms:
            self._set_timeout(int(timeout * 1000))
        try:
            name = self._recv()
            # a Frame, which knows whether it is the last; it costs twice as much
            frame = self._recv(0, False)
            if not frame.more and name == topic:
                return frame.bytes
            if not frame.more:
                return self.read(name, frame.bytes)
            while self._recv(0, False).more:
                pass
            self._refuse(MessageError("more or fewer frames than the two of a message"))
        except zmq.Again:
            pass
        return None

    def read(self, name: bytes, payload: bytes) -> M | None:
        """The message in two frames; None for what is none, which is counted."""
        try:
            return self._decode(name, payload)
        except MessageError as error:
            self._refuse(error)
            return None

    def _decode(self, name: bytes, payload: bytes) -> M:
        # a subscription is a prefix for libzmq: motor-1 would hear motor-10 too
        if name not in self._exact and not name.startswith(self._prefixes or b"\0"):
            raise MessageError(f"{name[:64].decode('ascii', 'replace')}: a topic not asked for")
        message = unpack(name, payload)
        if not isinstance(message, self._kind):
            raise MessageError(f"a {type(message).__name__} where a {self._kind.__name__} was asked for")
        if self._receipts and type(message) in _STREAMS and self._receipts.due(message.epoch, message.seq):
            self._socket.send(self._receipts.receipt(message.epoch, message.seq))
        return message

    def _refuse(self, error: MessageError) -> None:
        self.rejected += 1
        self.fault = str(error)

    def _set_timeout(self, milliseconds: int) -> None:
        if milliseconds != self._timeout_ms:
            self._socket.rcvtimeo = self._timeout_ms = milliseconds

    def latest(self) -> M | None:
        """The newest message at hand, older ones skipped; None when there is none. Never waits."""
        newest = None
        for _ in range(QUEUE_MESSAGES):
            if (message := self.recv(0)) is None:
                break
            newest = message
        return newest

    def __iter__(self) -> Iterator[M]:
        while True:
            if (message := self.recv()) is not None:
                yield message

    def reconnect(self) -> None:
        """Connect anew. After a protocol error libzmq receives nothing more from an endpoint, and reports no
        error. A caller that has heard nothing for much too long mends it with this.

        Messages on their way at that moment are lost. So a lossless subscriber, for which silence is usual,
        does not reconnect.
        """
        if self._receipts:
            return
        for address in self._endpoints:
            with contextlib.suppress(zmq.ZMQError):
                self._socket.disconnect(address)
            self._socket.connect(address)

    def close(self) -> None:
        """Stop listening, and let lossless publishers know."""
        if self._receipts:
            self._socket.send(self._receipts.farewell)
        self._socket.close(linger=200 if self._receipts else 0)  # ms
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
