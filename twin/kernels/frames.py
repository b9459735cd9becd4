"""From the bytes of a sample to the bytes of its prediction, compiled: two calls, with the model's step
between.

`take` reads the frame of the sample that comes next in its stream, and puts its values where the model wants
them; `answer` takes what the model says of it, states interval and residual (`twin.kernels.detection`), and
writes the frame of the prediction. Both go by templates: literal bytes with holes between for numbers, made
from a message that the ordinary encoder has packed (`twin.frames`). So `take` accepts what
that encoder writes, and the same with wider integers; all else it refuses, and has then changed nothing but
its scratch. No byte beyond the length of the frame is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from twin.kernels import detection
from twin.kernels.cache import kept
from twin.kernels.mixture import MAX_MEMBERS
from twin.kernels.vectors import doubles, integers, load, pointer, store

INTEGER, DOUBLE = 0, 1
"""What stands in a hole: an integer in any of msgpack's unsigned forms, written in the shortest; the eight
bytes of a double."""
FLOAT32_LIMIT: Final = 2.0**128 - 2.0**104  # as `twin.messages.Spec.row` has it
MAX_SEQ: Final = 2**53  # as `twin.messages.unpack` has it

Take = Callable[[int, int], int]
Answer = Callable[[int, int, int, int, int], int]


class Places(NamedTuple):
    """Where a twin's numbers are, eight bytes each, behind those of `twin.kernels.detection`.

    `arrived` and `u` are scratch: epoch, seq, sent_ns and t of the frame being read, and its inputs.
    `last` and `held` are the same of the sample that was answered last. `t` is the time that a prediction
    is for, the stamps are its own: epoch, received_ns, sent_ns. `model` and the members' weights are what a
    mixture tells (`twin.kernels.mixture`).
    """

    arrived: int
    u: int
    last: int
    held: int
    t: int
    dt: int
    model: int
    weights: int
    stamps: int
    size: int


EPOCH, SEQ, SENT_NS, T = range(4)
"""Of `arrived` and `last`; the last one a double."""


def places(inputs: int, outputs: int) -> Places:
    """The memory of a twin with so many signals."""
    start = detection.places(outputs).size
    return Places(*accumulate((start, 4, inputs, 4, inputs, 1, 1, 1, MAX_MEMBERS, 3)))


class Call(NamedTuple):
    """Addresses and lengths that `take` and `answer` work with, in the order of their table."""

    memory: int
    reading: int  # the template of samples
    read_bytes: int
    frame: int
    features: int
    ring: int
    window: int
    pushed: int
    writing: int  # the template of predictions
    written_bytes: int
    answer: int


class Template(NamedTuple):
    """Literal bytes and the holes behind them."""

    table: npt.NDArray[np.int64]
    """Number of pieces, then of each the number of its literal bytes, and its hole's kind and place in
    memory."""
    literals: npt.NDArray[np.uint8]
    longest: int
    """Bytes of the longest frame."""


def template(packed: bytes, holes: Iterable[tuple[bytes, int, int]]) -> Template:
    """A template made from an example: each hole is marked by nine bytes in it, and has a kind and a place.

    The example ends with a hole.
    """
    table: list[int] = []
    literals = b""
    for mark, kind, place in holes:
        literal, found, packed = packed.partition(mark)
        assert found, "a mark that the example does not have"
        literal += mark[:1] if kind == DOUBLE else b""
        table += [len(literal), kind, place]
        literals += literal
    assert not packed, "an example that goes on behind its last hole"
    pieces = len(table) // 3
    return Template(
        np.array([pieces, *table], np.int64), np.frombuffer(literals, np.uint8), len(literals) + 9 * pieces
    )


@intrinsic
def _octets(typing: Any, address: Any) -> Any:
    """The bytes at an address."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return b.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.CPointer(types.uint8)(types.int64), generate


@njit
def _big_endian(frame: Any, at: Any, size: Any) -> Any:
    """The number in so many bytes."""
    value: Any = 0
    for i in range(size):
        value = (value << 8) | np.int64(frame[at + i])
    return value


@njit
def read(table: Any, literals: Any, frame: Any, length: Any, memory: Any) -> Any:
    """Read a frame by a template: whether it is like it. Holes read before that was clear have been
    filled."""
    at: Any = 0
    literal: Any = 0
    for piece in range(table[0]):
        n, kind, place = table[1 + 3 * piece], table[2 + 3 * piece], table[3 + 3 * piece]
        if n >= length - at:  # a hole follows, of one byte at least
            return False
        for i in range(n):
            if frame[at + i] != literals[literal + i]:
                return False
        at += n
        literal += n
        size = 8
        if kind == INTEGER:
            first = np.int64(frame[at])
            at += 1
            if first < 0x80:
                memory[place] = first
                continue
            if not 0xCC <= first <= 0xCF:
                return False
            size = 1 << int(first - 0xCC)
        if size > length - at:
            return False
        value = _big_endian(frame, at, size)
        if kind == INTEGER and value < 0:  # 2**63 and more
            return False
        memory[place] = value
        at += size
    return at == length


@njit
def write(table: Any, literals: Any, frame: Any, memory: Any) -> Any:
    """Write a frame by a template, its integers not negative; its length."""
    at: Any = 0
    literal: Any = 0
    for piece in range(table[0]):
        n, kind, place = table[1 + 3 * piece], table[2 + 3 * piece], table[3 + 3 * piece]
        for i in range(n):
            frame[at + i] = literals[literal + i]
        at += n
        literal += n
        value, size = memory[place], 8
        if kind == INTEGER:
            if value < 0x80:
                size = 0
                frame[at] = value
            else:
                exponent = (value > 0xFF) + (value > 0xFFFF) + (value > 0xFFFFFFFF)
                size = 1 << exponent
                frame[at] = 0xCC + exponent
            at += 1
        for i in range(size):
            frame[at + i] = (value >> (8 * (size - 1 - i))) & 0xFF
        at += size
    return at


@lru_cache(maxsize=16)
def taker(inputs: int, outputs: int) -> Take:
    """What takes in the frame at hand, of so many bytes: 1 if it is the next sample, else 0.

    It is called with the address of a `Call`. The sample's values are then in `features`, in the window's
    ring, and in the memory. Nothing is checked of the addresses: that is the caller's to do.
    """
    arrived, u, last = places(inputs, outputs)[:3]
    measured, features = detection.places(outputs).measured, inputs + outputs

    def take(call: Any, length: Any) -> Any:
        c = integers(call)
        s, m = integers(c[0]), doubles(c[0])
        if not read(integers(c[1]), _octets(c[2]), _octets(c[3]), length, s):
            return 0
        seq = s[arrived + SEQ]
        if s[arrived + EPOCH] != s[last + EPOCH] or seq != s[last + SEQ] + 1 or seq >= MAX_SEQ:
            return 0
        if not np.isfinite(m[arrived + T]):
            return 0
        for i in range(features):
            x = m[u + i] if i < inputs else m[measured + i - inputs]
            if not -FLOAT32_LIMIT < x < FLOAT32_LIMIT:
                return 0
        z, ring, window, count = pointer(c[4]), pointer(c[5]), c[6], integers(c[7])
        place = count[0] % window
        for i in range(features):
            x = np.float32(m[u + i] if i < inputs else m[measured + i - inputs])
            store(z, i, x)
            store(ring, place * features + i, x)
            store(ring, (place + window) * features + i, x)
        count[0] += 1
        for i in range(4 + inputs):
            s[last + i] = s[arrived + i]
        return 1

    compiled = kept(take, inputs, outputs)
    signature = (types.int64, types.int64)
    compiled.compile(signature)
    entry: Take = compiled.overloads[signature].entry_point
    return entry


@lru_cache(maxsize=16)
def answerer(inputs: int, outputs: int) -> Answer:
    """What answers the sample taken in: it writes the frame of the prediction, and returns its length.

    It is called with the address of a `Call`, that of the model's y (P) in float32, and the prediction's
    stamps: epoch, received_ns, sent_ns. The length comes with a minus where an alarm has begun or ended; 0
    where y is not finite, and then nothing has been done.
    """
    at, own = detection.places(outputs), places(inputs, outputs)
    answered, given, changed = at.answered, at.given, at.changed
    last_t, t, dt, stamps = own.last + T, own.t, own.dt, own.stamps
    detect = detection.compiled(outputs)

    def answer(call: Any, y_at: Any, epoch: Any, received_ns: Any, sent_ns: Any) -> Any:
        c = integers(call)
        s, m, y = integers(c[0]), doubles(c[0]), pointer(y_at)
        for p in range(outputs):
            if not np.isfinite(load(y, p)):
                return 0
        for p in range(outputs):
            m[answered + p] = load(y, p)
        m[given] = detection.ALL
        detect(c[0])
        m[t] = m[last_t] + m[dt]
        s[stamps], s[stamps + 1], s[stamps + 2] = epoch, received_ns, sent_ns
        length = write(integers(c[8]), _octets(c[9]), _octets(c[10]), s)
        return -length if m[changed] > 0.0 else length

    compiled = kept(answer, inputs, outputs)
    signature = (types.int64,) * 5
    compiled.compile(signature)
    entry: Answer = compiled.overloads[signature].entry_point
    return entry
