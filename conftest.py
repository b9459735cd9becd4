"""What pytest must know of the whole tree."""

# They import Triton, which some machines do not have; and whoever loads a kernel before tests/test_fused.py
# has asked for Triton's interpreter has it for a GPU.
collect_ignore = ["twin/backends/fused.py", "twin/backends/fused_kernel.py", "benchmarks/fma.py"]
