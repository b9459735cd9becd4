"""Results as JSON that every program reads: JSON knows no NaN and no infinity, so these are null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def json_text(result: Mapping[str, Any], indent: int | None = None) -> str:
    """A result of plain data as JSON.

    >>> json_text({"fit": float("-inf"), "errors": (1.5, float("nan"))})
    '{"fit": null, "errors": [1.5, null]}'
    """
    return json.dumps(_finite(result), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    """The same, with None for each number that is not finite."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
