"""What a figure was measured on, and what else the machine did meanwhile."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

PACKAGES: Final = (
    "livetwin",
    "numpy",
    "scipy",
    "torch",
    "pyzmq",
    "msgspec",
    "numba",
    "llvmlite",
    "onnxruntime",
    "gym-electric-motor",
)
"""Whose versions are told, where they are installed."""
NOISE: Final = r"\((R|TM)\)|@.*|\b(AMD|Intel|CPU|Processor|\d+-Core)\b"
"""What does not tell one CPU from another in its name."""


def machine() -> dict[str, Any]:
    """CPU, cores, clock governor, kernel, versions, load, and the ticks that a hypervisor kept for others."""
    import zmq

    fields = Path("/proc/cpuinfo").read_text().split("\n")
    ticks = [int(each) for each in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "cpu": next((line.partition(":")[2].strip() for line in fields if line.startswith("model name")), ""),
        "cores": len(os.sched_getaffinity(0)),
        "governor": governor.read_text().strip() if governor.exists() else "not shown",
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "libzmq": zmq.zmq_version(),
        "load": os.getloadavg(),
        "stolen_ticks": ticks[7],
        "ticks": sum(ticks),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def label(found: dict[str, Any]) -> str:
    """A machine's short name, for file names.

    >>> label({"cores": 2, "cpu": "AMD EPYC"})
    '2core-epyc'
    >>> label({"cores": 8, "cpu": "Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz"})
    '8core-xeon-platinum-8375c'
    """
    words = re.findall(r"[A-Za-z0-9]+", re.sub(NOISE, " ", found["cpu"]))
    return "-".join([f"{found['cores']}core", *(words or [platform.machine()])]).lower()


def in_words(found: dict[str, Any]) -> str:
    """A machine in a line.

    >>> in_words({"cpu": "AMD EPYC", "cores": 2, "governor": "not shown", "load": [0.5, 0.4, 0.3]})
    'AMD EPYC, 2 cores, governor not shown, load 0.5'
    """
    cpu = found["cpu"] or platform.machine()
    return f"{cpu}, {found['cores']} cores, governor {found['governor']}, load {found['load'][0]:.1f}"


def stolen_percent(before: dict[str, Any], after: dict[str, Any]) -> float:
    """Share of the machine's time, between two looks, that its hypervisor gave to others.

    >>> stolen_percent({"stolen_ticks": 0, "ticks": 100}, {"stolen_ticks": 5, "ticks": 200})
    5.0
    """
    passed = after["ticks"] - before["ticks"]
    return 100.0 * (after["stolen_ticks"] - before["stolen_ticks"]) / passed if passed else 0.0
