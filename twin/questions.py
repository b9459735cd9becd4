"""A question to a twin, and its answer: the messages on the socket for forecasts."""

from __future__ import annotations

from typing import Final, cast

import msgspec
from msgspec import UNSET, UnsetType

from twin.errors import MessageError
from twin.messages import ENCODER, Message, fault_of

MAX_REQUEST: Final = 262_144
"""Bytes of the longest request accepted: some 29,000 values."""
MAX_SCENARIOS: Final = 256
"""Scenarios of one request."""
MAX_STEPS: Final = 20_000
"""Of all scenarios of a request together."""


class Request(Message, frozen=True, kw_only=True, gc=False):
    """A question to a twin: what would the outputs be under these inputs to come?

    Each scenario maps inputs to their values, one for each of `steps` periods or one that stays; inputs that
    it does not name stay as they are.
    """

    steps: int
    scenarios: list[dict[str, list[float]]]


class Scenario(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a twin expects under one scenario: values of each output, one for each step."""

    y: dict[str, list[float]]
    low: dict[str, list[float]] | UnsetType = UNSET
    high: dict[str, list[float]] | UnsetType = UNSET


class Reply(Message, frozen=True, kw_only=True, gc=False):
    """The answer to a `Request`: scenarios in its order, or an `error` in words.

    Values are at `t`, `t` + `dt`, ...; `u` are the inputs of the last sample, which stay where a scenario
    does not say otherwise, and `model` is the number of the checkpoint that answered.
    """

    dt: float = 0.0
    model: int = 0
    u: dict[str, float] = msgspec.field(default_factory=dict)
    scenarios: list[Scenario] = msgspec.field(default_factory=list)
    error: str = ""


_REQUESTS: Final = msgspec.msgpack.Decoder(Request)
_REPLIES: Final = msgspec.msgpack.Decoder(Reply)


def request_in(payload: bytes) -> Request:
    """The request in a frame.

    Raises:
        MessageError: anything else than a request of this version within the stated limits.
    """
    if len(payload) > MAX_REQUEST:
        raise MessageError(f"a request of {len(payload)} bytes: at most {MAX_REQUEST} are taken")
    try:
        request = _REQUESTS.decode(payload)
    except Exception as error:  # whatever a decoder finds in foreign bytes, it is no request
        raise MessageError(f"not a request: {error}") from None
    if fault := fault_of(request):
        raise MessageError(fault)
    count = len(request.scenarios)
    if request.steps < 1 or not 1 <= count <= MAX_SCENARIOS or request.steps * count > MAX_STEPS:
        raise MessageError(
            f"{request.steps} steps of {count} scenarios: at least 1 each, at most {MAX_SCENARIOS} "
            f"scenarios, and together at most {MAX_STEPS} steps"
        )
    return request


def reply_in(payload: bytes) -> Reply:
    """The reply in a frame.

    Raises:
        MessageError: anything else than a reply of this version.
    """
    try:
        reply = _REPLIES.decode(payload)
    except Exception as error:
        raise MessageError(f"not a reply: {error}") from None
    if fault := fault_of(reply):
        raise MessageError(fault)
    return reply


def packed(values: list[float]) -> list[float]:
    """Values, packed for a message to come, which is then packed in no time. Only `pack` can read them."""
    return cast(list[float], msgspec.Raw(ENCODER.encode(values)))
