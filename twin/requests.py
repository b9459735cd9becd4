"""Requests and replies: a question to a twin on a socket of its own, and the answer to whoever asked."""

from __future__ import annotations

import contextlib

import zmq

from twin.address import Address, check_port
from twin.bus import bind_advice
from twin.errors import BusError
from twin.messages import pack
from twin.questions import MAX_REQUEST, Reply, Request, reply_in


class Answerer:
    """Binds an endpoint at which others ask; each request gets one reply, and nobody waits for a client.

    A ROUTER, because a REP socket locks up for good when a client vanishes between question and answer.

    Raises:
        BusError: the endpoint is in use or cannot be bound.
    """

    def __init__(self, endpoint: str) -> None:
        check_port(endpoint)
        self._address = Address(endpoint)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 100
        self._socket.rcvhwm = self._socket.sndhwm = 16  # of each client; what is more waits with it, or goes
        self._socket.setsockopt(zmq.MAXMSGSIZE, 4 * MAX_REQUEST)  # longer hangs up; shorter is answered
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise BusError(bind_advice(endpoint, error)) from None

    def recv(self, timeout: float) -> tuple[list[bytes], bytes] | None:
        """Whom to reply to, and what was asked; None when nobody asked for `timeout` seconds."""
        if not self._socket.poll(int(timeout * 1000)):
            return None
        *way, payload = self._socket.recv_multipart()
        return way[:8], payload

    def send(self, way: list[bytes], payload: bytes) -> None:
        """Reply; to someone who is no longer there it is lost."""
        with contextlib.suppress(zmq.ZMQError):
            self._socket.send_multipart([*way, payload], zmq.DONTWAIT)

    def close(self) -> None:
        """Release the endpoint and leave no file behind."""
        self._socket.close()
        self._context.term()
        self._address.release()


def ask(endpoint: str, request: Request, timeout: float) -> Reply | None:
    """What the twin at an endpoint replies, None when nothing came within `timeout` seconds.

    Raises:
        BusError: an endpoint that is none.
        MessageError: what came is no reply.
    """
    check_port(endpoint)
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.linger = 0
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise BusError(f"{endpoint}: {error.strerror}; use tcp://HOST:PORT or ipc:///PATH") from None
        socket.send(pack(request))
        return reply_in(socket.recv()) if socket.poll(int(timeout * 1000)) else None
