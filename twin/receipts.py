"""Receipts: how a publisher that must lose nothing knows what has been read.

A lossless subscriber sends a receipt upstream, on the socket of its subscriptions, for the first message of a
publisher and then four times in `MAX_AHEAD_MESSAGES`; a farewell when it leaves. The first byte tells them
from subscriptions, whose 0 and 1 are libzmq's own.
"""

from __future__ import annotations

import secrets
import struct
from dataclasses import dataclass, field
from typing import Final

MAX_AHEAD_MESSAGES: Final = 64
"""Samples or predictions that a lossless publisher may be ahead of its slowest lossless subscriber."""
_READ: Final = b"\x02"  # then a receipt
_FAREWELL: Final = b"\x03"  # then the name of the reader that leaves
_RECEIPT: Final = struct.Struct("<8sQQ")  # who read, the publisher's epoch, the seq read last


@dataclass
class Readers:
    """A publisher's lossless subscribers, as their receipts tell.

    >>> readers, receipts = Readers(expected=1), Receipts(b"reader-1")
    >>> readers.behind(0)
    True
    >>> readers.hear(receipts.receipt(epoch=7, seq=0), epoch=7)
    >>> readers.behind(MAX_AHEAD_MESSAGES - 1), readers.behind(MAX_AHEAD_MESSAGES)
    (False, True)
    """

    expected: int = 0
    """How many there are."""
    read: dict[bytes, int] = field(default_factory=dict)
    """The seq that each has read, by its name."""

    def hear(self, frame: bytes, epoch: int) -> None:
        """Take in what one sends upstream; a receipt for another publisher than that of `epoch` counts for
        nothing."""
        if frame[:1] == _FAREWELL:
            self.read.pop(frame[1:], None)
            self.expected = max(0, self.expected - 1)
        elif frame[:1] == _READ and len(frame) == 1 + _RECEIPT.size:
            who, of, seq = _RECEIPT.unpack_from(frame, 1)
            if of == epoch:
                self.read[who] = seq

    def behind(self, seq: int) -> bool:
        """Whether one of them has still to read what was sent `MAX_AHEAD_MESSAGES` before `seq`."""
        return len(self.read) < self.expected or any(
            seq - read >= MAX_AHEAD_MESSAGES for read in self.read.values()
        )

    def give_up(self, seq: int) -> None:
        """Wait no longer for those who are behind."""
        self.read = {who: read for who, read in self.read.items() if seq - read < MAX_AHEAD_MESSAGES}
        self.expected = len(self.read)


@dataclass
class Receipts:
    """What a lossless subscriber has sent receipts for."""

    name: bytes = field(default_factory=lambda: secrets.token_bytes(8))
    """By which publishers tell readers apart: eight bytes."""
    sent: dict[int, int] = field(default_factory=dict)
    """The seq of the last receipt, by the publisher's epoch."""

    def due(self, epoch: int, seq: int) -> bool:
        """Whether a receipt is to be sent now that this message was read."""
        last = self.sent.get(epoch)
        return last is None or seq - last >= MAX_AHEAD_MESSAGES // 4

    def receipt(self, epoch: int, seq: int) -> bytes:
        """The receipt for a message, to send at once."""
        self.sent[epoch] = seq
        return _READ + _RECEIPT.pack(self.name, epoch, seq)

    @property
    def farewell(self) -> bytes:
        """What to send last."""
        return _FAREWELL + self.name
