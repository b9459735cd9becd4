"""What stands beside a checkpoint's weights: a JSON text that carries its own hash.

The seal is the SHA-256 of the very bytes of the text, taken with zeros in the seal's place. So a single
flipped bit is noticed, wherever it is, and the text stays one that people can read. It guards against
damage, not against someone who can write the file.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final

import msgspec

from twin.errors import CheckpointError
from twin.messages import Spec, check_spec

FORMAT: Final = 1
_UNSEALED: Final = "0" * 64


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of a checkpoint but its tensors."""

    format: int = FORMAT
    number: Annotated[int, msgspec.Meta(ge=1, lt=10**15)]
    parent: int | None
    created: str
    family: str
    sizes: dict[str, int]
    spec: Spec
    scaling: dict[str, list[float]]
    """For people to read; a model takes it from the tensors."""
    metrics: dict[str, float]
    config: dict[str, Any]
    weights_sha256: str
    seal: str = _UNSEALED


def encode(manifest: Manifest) -> bytes:
    """The manifest as sealed JSON.

    Raises:
        CheckpointError: something in it cannot be written as JSON and read back.
    """
    try:
        raw = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
        msgspec.json.decode(raw, type=Manifest)  # JSON knows no NaN and writes null, which is no number
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"metrics or config are not plain, finite data: {error}") from None
    return _with_seal(raw, _UNSEALED, hashlib.sha256(raw).hexdigest())


def decode(raw: bytes) -> Manifest:
    """The manifest in a sealed JSON text.

    Raises:
        CheckpointError: anything else than what `encode` wrote. Nothing else is ever raised.
    """
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
        check_spec(manifest.spec)
        unsealed = _with_seal(raw, manifest.seal, _UNSEALED)
    except Exception as error:  # whatever a decoder finds in foreign bytes, they are no manifest
        raise CheckpointError(f"it is not a manifest: {error}") from None
    if hashlib.sha256(unsealed).hexdigest() != manifest.seal:
        raise CheckpointError("it is damaged: its content does not match its seal")
    if manifest.format != FORMAT:
        raise CheckpointError(f"it has format {manifest.format}, this program reads {FORMAT}")
    return manifest


def _with_seal(raw: bytes, old: str, new: str) -> bytes:
    """The text with another seal, which is its last value."""
    before, _, after = raw.rpartition(f'"{old}"'.encode())
    return before + f'"{new}"'.encode() + after
