"""One step of a recurrent network as machine code, written for its sizes and for this CPU.

`vectors` and `activations` are what it is made of, `layout` says where weights and states are in memory, and
`follow` puts them together. `twin.backends.compiled` is what runs it.

`through_time` is a sequence of steps for training, and its gradient, on `matrices` and `differentiable`; one
piece of code for all sizes. `twin.models.through_time` is what runs it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

SOURCES_DIGEST: Final = int.from_bytes(
    hashlib.sha256(b"".join(p.read_bytes() for p in sorted(Path(__file__).parent.glob("*.py")))).digest()[:6],
    "big",
)
"""Of this folder's content."""
