"""The recordings beside this repository: which columns, which part is learned from, what others reach.

They are described in the README.md of their directory; they are not part of this repository.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulators.recorded import Recording
from twin.messages import Spec

BESIDE: Final = Path(__file__).parents[2] / "shared" / "data"


@dataclass(frozen=True)
class Case:
    """A recording, what is learned from, what is judged, and the figure that counts.

    `learn` (T, F) each; of `test` (T, F) the first `skip` samples warm the model. `metric` is one of
    "median forecast" and "forecast", RMSE over `horizon` steps, and "free run", RMSE over the spread.
    """

    name: str
    spec: Spec
    learn: list[NDArray[np.float64]]
    test: NDArray[np.float64]
    skip: int
    metric: str
    horizon: int
    unit: str
    reach: float
    aim: float
    others: dict[str, float]


def cases(data: Path) -> list[Case]:
    """All of them, with the splits and metrics of their README.

    Raises:
        RecordingError: a file is missing or is not what it was.
    """
    return [*(_undc(data, day) for day in (11, 14, 17, 19)), _qube(data), _ufsj(data)]


def _undc(data: Path, day: int) -> Case:
    r = Recording(data / f"undc/undc_2026-08-{day}.csv", ["u_V"], ["y_deg_per_s"], 0.02)
    split = int(0.8 * len(r))
    others = {"GRU-32 in torch, 60 CPU s": 2.87, "ARX(2,2) by least squares": 3.3, "quantisation alone": 1.86}
    return Case(
        f"UNDC, 2026-08-{day}",
        r.spec,
        [r.data[:split]],
        r.data,
        split,
        "median forecast",
        50,
        "deg/s",
        2.9,
        2.6,
        others,
    )


def _qube(data: Path) -> Case:
    columns = ["u_V", "alpha_rad"], ["theta_rad"], 0.002
    r = [Recording(data / f"qube/qube_ep{i:02d}.csv", *columns) for i in range(4)]
    others = {"ARX(16)": 0.0033, "ARX(8)": 0.0058, "ARX(2)": 0.0108, "hold the last": 0.033}
    learn = [each.data for each in r[:3]]
    return Case("QUBE", r[0].spec, learn, r[3].data, 50, "forecast", 50, "rad", 0.0033, 0.0025, others)


def _ufsj(data: Path) -> Case:
    r = Recording(data / "ufsj/motor_generator.csv", ["u"], ["y"], 1.0)
    others = {"polynomial NARX by FROLS, published": 0.057, "linear ARX": 0.53}
    return Case("UFSJ", r.spec, [r.data[:500]], r.data, 500, "free run", 50, "RRSE", 0.10, 0.057, others)
