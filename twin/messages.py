"""The messages that programs exchange, and how they are packed: the wire contract, version 1.

A message is two frames, `[topic, msgpack map]`, with topic `<kind>/<source>`. Keys are strings and values
plain numbers, booleans, strings, lists and maps, so that any language with libzmq and msgpack, and an
unmodified PlotJuggler, can read them. Inside Python a message is a frozen `msgspec.Struct`, whose typed
decoder refuses wrong types and shapes at C speed and cannot be stalled by nested headers.

>>> sample = Sample(seq=7, t=0.007, u={"voltage": 12.0}, y={"speed": 90.0})
>>> unpack(b"sample/motor-1", pack(sample)) == sample
True
>>> unpack(b"sample/motor-1", b"nonsense")
Traceback (most recent call last):
    ...
twin.errors.MessageError: sample/motor-1: not a message: ...
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from msgspec import UNSET as UNSET
from msgspec import UnsetType as UnsetType

from twin.errors import MessageError, SpecError

WIRE_VERSION: Final = 1

MAX_FRAME: Final = 16_384
"""Bytes of the longest payload accepted. 64 inputs and 64 outputs with long names fit."""
MAX_SIGNALS: Final = 64
"""Entries of the longest map accepted, that is, signals on one side of a plant."""
MAX_NAME: Final = 64
"""Characters of the longest signal name, status or event name accepted."""
MAX_FIGURES: Final = 512
"""Figures of the largest event accepted: some for each signal."""
MAX_TEXT: Final = 1_024
"""Characters of the longest text of an event."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*\Z")
_EXACT = 2**53  # beyond this, programs that keep numbers in doubles lose digits
_FLOAT32 = 2.0**128 - 2.0**104  # the largest of its numbers


class Message(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The header of every message.

    `epoch` identifies this start of the publisher (milliseconds since 1970, so that it rises and fits a
    double), `seq` counts its messages of one kind, `t` is the time of the content in seconds, `sent_ns` is
    CLOCK_MONOTONIC at sending and comparable on one host only. A publisher sets `epoch` and `sent_ns`.
    """

    v: int = WIRE_VERSION
    epoch: int = 0
    seq: int = 0
    t: float = 0.0
    sent_ns: int = 0


class Spec(Message, frozen=True, kw_only=True, gc=False):
    """What a plant offers: the names of its inputs and outputs, their units and the sample time.

    `dt` is in seconds. `units` maps a signal to its unit. `plant` says in words what stands behind it.

    >>> Spec(inputs=("voltage",), outputs=("current", "speed"), dt=0.001).features
    ('voltage', 'current', 'speed')
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dt: float
    units: dict[str, str] = {}
    plant: str = ""

    @property
    def features(self) -> tuple[str, ...]:
        """Inputs, then outputs: the F columns of a window."""
        return self.inputs + self.outputs

    def unit(self, name: str) -> str:
        """The unit of a signal, "" where none is stated."""
        return self.units.get(name, "")

    def row(self, sample: Sample) -> list[float] | None:
        """The F values of a sample; None where one is missing or is no number in float32, models' own."""
        u, y = sample.u, sample.y
        try:
            values = [u[name] for name in self.inputs]
            for name in self.outputs:
                values.append(y[name])
        except KeyError:
            return None
        for value in values:  # all() over a generator takes three times as long
            if not -_FLOAT32 < value < _FLOAT32:
                return None
        return values

    def sample(self, seq: int, row: Iterable[float], *, epoch: int = 0) -> Sample:
        """The sample `seq` with these F values, at its time in a stream that begins at 0: `row` turned back.

        Raises:
            SpecError: more or fewer values than signals.

        >>> spec = Spec(inputs=("voltage",), outputs=("speed",), dt=0.5)
        >>> spec.sample(3, [12.0, 90.0]).y, spec.row(spec.sample(3, [12.0, 90.0]))
        ({'speed': 90.0}, [12.0, 90.0])
        """
        values, inputs = list(row), len(self.inputs)
        if len(values) != inputs + len(self.outputs):
            raise SpecError(f"{len(values)} values for the signals {', '.join(self.features)}")
        u, y = dict(zip(self.inputs, values)), dict(zip(self.outputs, values[inputs:]))  # noqa: B905
        return Sample(epoch=epoch, seq=seq, t=seq * self.dt, u=u, y=y)

    def same_signals(self, other: Spec) -> bool:
        """Whether a model made for one serves the other: same signals in the same order, same period."""
        return (
            self.inputs == other.inputs
            and self.outputs == other.outputs
            and math.isclose(self.dt, other.dt, rel_tol=1e-6)
        )


class Sample(Message, frozen=True, kw_only=True, gc=False):
    """One instant of the plant: `y` measured at time `t`, and `u` held from `t` until the next sample."""

    u: dict[str, float]
    y: dict[str, float]


class Prediction(Message, frozen=True, kw_only=True, gc=False):
    """The twin's answer to the sample `seq`: `y` expected at `t`, one period after that sample.

    `residual` = y(k) - ŷ(k|k-1) of the sample answered; empty where nothing was expected of it.
    `model` is the number of the checkpoint that answered (0: none), `status` the twin's state in a word,
    `low` and `high` the interval when there is one. Where several models answer as one, `weights` says how
    much each has to say, by member, averaged over the outputs, and `model` is the one of most weight.
    `sample_sent_ns` and `received_ns` are stamps of
    CLOCK_MONOTONIC, for latencies on one host.
    """

    y: dict[str, float]
    residual: dict[str, float]
    model: int
    status: str
    sample_sent_ns: int = 0
    received_ns: int = 0
    low: dict[str, float] | UnsetType = UNSET
    high: dict[str, float] | UnsetType = UNSET
    weights: dict[str, float] | UnsetType = UNSET


class Event(Message, frozen=True, kw_only=True, gc=False):
    """Something that happened: a `name` for programs, a `text` for people, and the `figures` behind it."""

    name: str
    text: str
    figures: dict[str, float] = {}


class Parameters(Message, frozen=True, kw_only=True, gc=False):
    """A motor's physical parameters as the twin knows them: `values` by name, each with its standard error in
    `errors`, in SI units, which `units` names. Once a second, where the model has such parameters."""

    values: dict[str, float]
    errors: dict[str, float]
    units: dict[str, str]


class Members(Message, frozen=True, kw_only=True, gc=False):
    """The models that a twin mixes, by member: the number of the checkpoint of each (0: none), its weight,
    and the RMSE of its newest answers, one step ahead, by output. Once a second, where there are several."""

    models: dict[str, int]
    weights: dict[str, float]
    errors: dict[str, dict[str, float]]


KINDS: Final[dict[str, type[Message]]] = {
    "spec": Spec,
    "sample": Sample,
    "prediction": Prediction,
    "event": Event,
    "parameters": Parameters,
    "members": Members,
}
_KIND_OF: Final = {message: kind for kind, message in KINDS.items()}


def _plain(value: object) -> float:
    """NumPy's numbers as plain ones, so that `u={"voltage": v[k]}` may be written."""
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError(f"{type(value).__name__} is not a plain value")


ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=_plain)
"""Packs messages of all kinds."""
_DECODERS: Final = {kind.encode(): msgspec.msgpack.Decoder(message) for kind, message in KINDS.items()}


def topic(message: type[Message], source: str) -> str:
    """The topic on which a kind of message of a source travels.

    >>> topic(Sample, "motor-1")
    'sample/motor-1'
    """
    return f"{_KIND_OF[message]}/{source}"


def check_source(source: str) -> str:
    """A source's name as it was given.

    Raises:
        SpecError: the name could not stand in a topic and a file name.
    """
    if not _NAME.match(source) or len(source) > MAX_NAME:
        raise SpecError(
            f"source {source!r}: a name of at most {MAX_NAME} letters, digits, '_', '-' and '.', "
            "starting with a letter or digit, is needed"
        )
    return source


def pack(message: Message) -> bytes:
    """The payload frame of a message."""
    return ENCODER.encode(message)


def unpack(topic: bytes, payload: bytes) -> Message:
    """The message in two frames.

    Raises:
        MessageError: anything else than a message of this version within the stated limits, with finite
            numbers only. Nothing else is ever raised.
    """
    if len(topic) > 2 * MAX_NAME or len(payload) > MAX_FRAME:
        raise MessageError(f"frames of {len(topic)} and {len(payload)} bytes: longer than any message")
    decoder = _DECODERS.get(topic.partition(b"/")[0])
    if decoder is None:
        raise MessageError(f"{_in_words(topic)}: not one of the kinds {', '.join(KINDS)}")
    try:
        message = decoder.decode(payload)
    except Exception as error:  # whatever a decoder finds in foreign bytes, it is no message
        raise MessageError(f"{_in_words(topic)}: not a message: {error}") from None
    if fault := fault_of(message):
        raise MessageError(f"{_in_words(topic)}: {fault}")
    return message


def _in_words(topic: bytes) -> str:
    return topic.decode("ascii", "replace")


def fault_of(message: Message) -> str:
    """What is wrong with a decoded message, or ""."""
    if message.v != WIRE_VERSION:
        return f"wire version {message.v}, this program speaks {WIRE_VERSION}"
    if not (0 <= message.seq < _EXACT and 0 <= message.epoch < _EXACT and 0 <= message.sent_ns < 2**63):
        return "epoch, seq or sent_ns out of range"
    if not math.isfinite(message.t):
        return "t is not finite"
    match message:
        case Sample():
            return _values_fault("u", message.u) or _values_fault("y", message.y)
        case Prediction():
            for key in ("y", "residual", "low", "high", "weights"):
                values = getattr(message, key)
                if isinstance(values, dict) and (fault := _values_fault(key, values)):
                    return fault
            if len(message.status) > MAX_NAME:
                return "status too long"
        case Event():
            if len(message.name) > MAX_NAME or len(message.text) > MAX_TEXT:
                return "name or text too long"
            return _values_fault("figures", message.figures, MAX_FIGURES, 2 * MAX_NAME)
        case Parameters():
            if len(message.units) > MAX_SIGNALS or any(
                len(name) > MAX_NAME or len(unit) > MAX_NAME for name, unit in message.units.items()
            ):
                return "units: too many or too long"
            return _values_fault("values", message.values) or _values_fault("errors", message.errors)
        case Spec():
            return spec_fault(message)
    return ""


def _values_fault(
    key: str, values: Mapping[str, float], most: int = MAX_SIGNALS, longest: int = MAX_NAME
) -> str:
    if len(values) > most:
        return f"{key} has {len(values)} entries, at most {most} are accepted"
    for name, value in values.items():
        if len(name) > longest:
            return f"{key} has a name of {len(name)} characters"
        if not math.isfinite(value):
            return f"{key}[{name!r}] is {value}"
    return ""


def spec_fault(spec: Spec) -> str:
    """What is wrong with a Spec, or ""."""
    for side, names in (("inputs", spec.inputs), ("outputs", spec.outputs)):
        if not 1 <= len(names) <= MAX_SIGNALS:
            return f"{side}: between 1 and {MAX_SIGNALS} names are needed, not {len(names)}"
        if any(not 0 < len(name) <= MAX_NAME for name in names):
            return f"{side}: a name has between 1 and {MAX_NAME} characters"
    if len(set(spec.features)) != len(spec.features):
        return f"a signal is named twice among {', '.join(spec.features)}"
    if not (math.isfinite(spec.dt) and spec.dt > 0):
        return f"dt = {spec.dt} s: a positive time is needed"
    if len(spec.units) > 2 * MAX_SIGNALS or any(
        len(name) > MAX_NAME or len(unit) > MAX_NAME for name, unit in spec.units.items()
    ):
        return "units: too many or too long"
    return "plant: too long a description" if len(spec.plant) > MAX_TEXT else ""


def check_spec(spec: Spec) -> Spec:
    """The Spec as it was given.

    Raises:
        SpecError: names that are missing, too many or repeated, or a period that is not positive.
    """
    if fault := spec_fault(spec):
        raise SpecError(fault)
    return spec
