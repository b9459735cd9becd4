"""What pytest must know of the whole tree."""

import sys
from collections.abc import Iterator

import pytest

# They import Triton, which some machines do not have; and whoever loads a kernel before tests/test_fused.py
# has asked for Triton's interpreter has it for a GPU.
collect_ignore = ["twin/backends/fused.py", "twin/backends/fused_kernel.py", "benchmarks/step/fma.py"]


@pytest.fixture(autouse=True)
def numbers_as_they_are() -> Iterator[None]:
    """What trains in a test may round tiny numbers to zero for speed; the next test wants them back."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
