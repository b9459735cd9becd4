"""The processes: sockets, pacing and signals around `Twin`, `Trainer`, `Monitor` and a plant.

One file per process. They start in any order and survive each other; what they know of each other is
messages and checkpoint files.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Final

from twin.address import is_loopback, runtime_dir
from twin.bus import Publisher, Subscriber
from twin.config import Config
from twin.messages import Message, Spec, topic

REPORT_PERIOD_SEC: Final = 1.0
"""Time between two reports of a process's counters."""
RECONNECT_SEC: Final = 1.0
"""Silence, after which a connection to a plant that was never heard is made anew."""
SILENT_RECONNECT_SEC: Final = 5.0
"""The same of a plant that was heard, or ten of its periods if they are longer. A busy machine may stop one
for a second or two, and what is on its way when a connection is made anew is lost."""
START_TIMEOUT_SEC: Final = 30.0
"""Time for which a process waits at its start for the subscribers that it was asked to await."""


class Stop:
    """True once SIGTERM or SIGINT has come."""

    def __init__(self) -> None:
        self._set = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._set = True

    def __bool__(self) -> bool:
        return self._set


def reconnect_after(spec: Spec) -> float:
    """Silence of a plant, s, after which a subscriber connects to it anew."""
    return max(SILENT_RECONNECT_SEC, 10 * spec.dt)


def say(text: str) -> None:
    """One line for people, beside the stream."""
    print(text, file=sys.stderr, flush=True)


def run_dir(config: Config) -> Path:
    """The directory of the checkpoints."""
    return Path(config.twin.run_dir or f"runs/{config.bus.source}")


def running_dir(config: Config) -> Path:
    """As `run_dir`, but where none is named that of a `twin run` of this source."""
    link = runtime_dir(config.bus.source) / "run"
    return link.resolve() if link.exists() and not config.twin.run_dir else run_dir(config)


def publisher(config: Config, who: str, stop: object = False) -> Publisher:
    """The publisher of one of `twin.bus.PUBLISHERS`."""
    endpoint = config.bus.endpoint(who)
    if not is_loopback(endpoint):
        say(f"warning: anyone who reaches {endpoint} can listen to it")
    return Publisher(endpoint, config.bus.source, lossless=config.bus.unpaced, stop=stop)


def subscriber(config: Config, whom: list[str], *kinds: type[Message]) -> Subscriber[Message]:
    """A subscriber to kinds of messages of some of `twin.bus.PUBLISHERS`."""
    endpoints = [config.bus.endpoint(who) for who in whom]
    topics = [topic(kind, config.bus.source) for kind in kinds]
    return Subscriber(endpoints, topics, lossless=config.bus.unpaced)


def first_spec(config: Config, stop: Stop) -> Spec | None:
    """The Spec of the plant, by a subscription of its own, so that one can get ready for samples before they
    come; None when a signal to stop comes first."""
    topics = [topic(Spec, config.bus.source)]
    with Subscriber[Message]([config.bus.endpoint("plant")], topics) as stream:
        return await_spec(config, stream, stop)


def await_spec(config: Config, stream: Subscriber[Message], stop: Stop) -> Spec | None:
    """The Spec of the plant, once it is heard; None when a signal to stop comes first."""
    begun = heard = time.monotonic()
    said = False
    while not stop:
        message = stream.recv(0.1)
        if isinstance(message, Spec):
            return message
        now = time.monotonic()
        if now - begun > 3.0 and not said:
            said = True
            say(f"waiting for a plant at {config.bus.endpoint('plant')}; `twin simulate` starts one")
        if message is not None:
            heard = now
        elif now - heard > RECONNECT_SEC:
            heard = now
            stream.reconnect()
    return None
