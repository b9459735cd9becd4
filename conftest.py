"""What pytest must know of the whole tree: modules that only some machines can import."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [] if find_spec("triton") else ["twin/backends/fused.py", "twin/backends/fused_kernel.py"]
