"""What pytest must know of the whole tree."""

import gc
import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Tests run on all cores already: threads of libraries would only wait for each other.
for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

# They import Triton, which some machines do not have; and whoever loads a kernel before tests/test_fused.py
# has asked for Triton's interpreter has it for a GPU.
collect_ignore = ["twin/backends/fused.py", "twin/backends/fused_kernel.py", "benchmarks/step/fma.py"]

# The same examples in every run: what fails, fails again. `make exhaustive` draws many more, and others each
# time. No deadlines: machines are busy, and compile at a first call.
settings.register_profile("default", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("exhaustive", max_examples=2_000, deadline=None, print_blob=True)
settings.load_profile("default")


def pytest_collection_finish() -> None:
    """What the tests are and what they import stays: the collector of garbage need not look through it again
    and again, which took a tenth of the time."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """At the end all may go: libraries complain of what is left."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def numbers_as_they_are() -> Iterator[None]:
    """What trains in a test may round tiny numbers to zero for speed; the next test wants them back."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
