"""Measurements, each beside its limit or its rival in the same run: `python -m benchmarks NAME`."""
