"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import zmq


def machine() -> dict[str, Any]:
    """CPU, cores, kernel, versions, load, and the share of time that a hypervisor kept for others."""
    fields = Path("/proc/cpuinfo").read_text().split("\n")
    model = next((line.partition(":")[2].strip() for line in fields if line.startswith("model name")), "")
    ticks = [int(each) for each in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "governor": governor.read_text().strip() if governor.exists() else "not shown",
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("livetwin", "numpy", "pyzmq", "scipy", "torch")},
        "libzmq": zmq.zmq_version(),
        "load": os.getloadavg(),
        "stolen_ticks": ticks[7],
        "ticks": sum(ticks),
    }
