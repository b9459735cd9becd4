"""`python -m benchmarks.gpu.probe PACKAGES [rehearse]`: what an interpreter has, as a line of JSON."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from typing import Any


def look(names: list[str], rehearse: bool) -> dict[str, Any]:
    """Version, packages that are missing, torch and its device, machine; `error` where a step of it
    failed."""
    missing = [name for name in names if find_spec(name) is None]
    found: dict[str, Any] = {"version": list(sys.version_info[:3]), "missing": missing}
    try:
        if "torch" not in missing:
            found.update(device_of(rehearse))
        from benchmarks.machine import label, machine

        found["machine"] = machine()
        found["label"] = label(found["machine"])
    except Exception as error:  # whatever is wrong with a package is to be told, not to end this
        found["error"] = f"{type(error).__name__}: {error}"
    return found


def device_of(rehearse: bool) -> dict[str, Any]:
    """torch and the device that it finds, if it can compute there."""
    import torch

    if rehearse:
        from benchmarks.gpu.stand_in import NAME

        return {"torch": torch.__version__, "cuda": "none", "device": NAME}
    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda}
    if torch.cuda.is_available():
        torch.ones(8, device="cuda").sum().item()
        found["device"] = torch.cuda.get_device_name()
        found["memory_gb"] = round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1)
    return found


if __name__ == "__main__":
    print("found:" + json.dumps(look(sys.argv[1].split(","), "rehearse" in sys.argv)))
