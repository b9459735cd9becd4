import builtins
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulators.recorded import Recording
from twin.errors import RecordingError

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the recordings in ../shared/data are not here")

GOOD = "# a motor\n# on a bench\nt_s,u_V,y_deg_per_s\n0,1.5,10\n0.02,-1.5,20.5\n0.04,1e0,30\n"


def write(folder: Path, text: str, name: str = "motor.csv") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_csv(tmp_path: Path) -> None:
    recording = Recording(write(tmp_path, GOOD), ["u_V"], ["y_deg_per_s"])
    assert recording.spec.dt == 0.02
    assert recording.spec.units == {"u_V": "V", "y_deg_per_s": "deg/s"}
    assert len(recording) == 3
    samples = list(recording)
    assert samples == list(recording)  # from the beginning, again
    assert [(s.seq, s.t, s.u["u_V"], s.y["y_deg_per_s"]) for s in samples] == [
        (0, 0.0, 1.5, 10.0),
        (1, 0.02, -1.5, 20.5),
        (2, 0.04, 1.0, 30.0),
    ]


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("\n", "\r\n"),
        "\ufeff" + GOOD,
        GOOD + "\n\n",
        GOOD.replace("0.02,-1.5,20.5", '"0.02", -1.5 ,20.5'),
        GOOD.replace("u_V,y", 'u_V, "y').replace("_s\n", '_s"\n'),
        GOOD.replace("20.5", "20.5,a remark"),
    ],
)
def test_ways_to_write_the_same(tmp_path: Path, text: str) -> None:
    file = tmp_path / "motor.csv"
    file.write_bytes(text.encode())
    assert [s.y["y_deg_per_s"] for s in Recording(file, ["u_V"], ["y_deg_per_s"])] == [10, 20.5, 30]


def test_given_dt_stands_above_the_time_column(tmp_path: Path) -> None:
    uneven = write(tmp_path, GOOD.replace("0.02,", "0.035,"))
    assert [s.t for s in Recording(uneven, ["u_V"], ["y_deg_per_s"], dt=0.5)] == [0, 0.5, 1.0]
    with pytest.raises(RecordingError, match=r"not equal.*--dt"):
        Recording(uneven, ["u_V"], ["y_deg_per_s"])


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", "empty"),
        ("# only a comment\n", "empty"),
        ("1,2,3\n4,5,6\n", "line 1 has numbers; write the column names"),
        (GOOD.replace("u_V", "volts"), "no column 'u_V'; there are t_s, volts, y_deg_per_s"),
        (GOOD.replace(",", ";"), "no column 'u_V'.*comma"),
        (GOOD.replace("-1.5", "fast"), "line 5, column 'u_V': 'fast' is no finite number"),
        (GOOD.replace("20.5", "nan"), "line 5, column 'y_deg_per_s': 'nan'"),
        (GOOD.replace("20.5", "inf"), "line 5, column 'y_deg_per_s': 'inf'"),
        (GOOD.replace("20.5", ""), "line 5, column 'y_deg_per_s': the cell is missing"),
        (GOOD.replace(",20.5", ""), "line 5, column 'y_deg_per_s': the cell is missing"),
        (GOOD.replace("0.02,", "\n\n0.02,").replace("-1.5", "x"), "line 7, column 'u_V': 'x'"),
        (GOOD.replace("0.02,", "soon,"), "line 5, column 't_s': 'soon'"),
        ("t_s,u_V,y_deg_per_s\n", "0 rows"),
        ("t_s,u_V,y_deg_per_s\n0,1,2\n", "1 rows"),
        (GOOD.replace("t_s", "time"), "no column t_s; give the sample time, e.g. --dt 0.01"),
        (GOOD.replace("0.02,", "0,").replace("0.04,", "0,"), "not equal"),
        ("\0\1\2,\3\n4", "not a text file"),
    ],
)
def test_what_is_no_recording_is_refused_with_advice(tmp_path: Path, text: str, advice: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(RecordingError, match=advice) as error:
        Recording(file, ["u_V"], ["y_deg_per_s"])
    assert "motor.csv" in str(error.value)


def test_unused_columns_may_hold_anything(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD.replace("0.02,", "noon,"))
    assert len(Recording(file, ["u_V"], ["y_deg_per_s"], dt=0.02)) == 3


@pytest.mark.parametrize(
    ("kwargs", "advice"),
    [
        ({"inputs": []}, "no inputs; name"),
        ({"outputs": []}, "no outputs; name"),
        ({"outputs": ["u_V"]}, "'u_V' is named twice"),
        ({"dt": 0.0}, "dt = 0.0 s: give a positive time"),
        ({"dt": math.nan}, "give a positive time"),
    ],
)
def test_impossible_wishes_are_refused(tmp_path: Path, kwargs: dict[str, Any], advice: str) -> None:
    with pytest.raises(RecordingError, match=advice):
        Recording(write(tmp_path, GOOD), **{"inputs": ["u_V"], "outputs": ["y_deg_per_s"], **kwargs})


def test_missing_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"gone\.csv: no such file"):
        Recording(tmp_path / "gone.csv", ["u_V"], ["y"])
    file = tmp_path / "image.csv"
    file.write_bytes(bytes(range(255, 0, -1)))
    with pytest.raises(RecordingError, match="not a text file"):
        Recording(file, ["u_V"], ["y"])


def test_parquet_is_read_like_csv(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = {"t_s": [0.0, 0.1, 0.2], "u_V": [1, 2, 3], "y_rad": [0.5, 0.25, 0.0], "remark": ["a", "b", "c"]}
    file = tmp_path / "motor.parquet"
    pq.write_table(pa.table(table), file)
    recording = Recording(file, ["u_V"], ["y_rad"])
    assert recording.spec.dt == pytest.approx(0.1)
    assert recording.spec.unit("y_rad") == "rad"
    assert [(s.u["u_V"], s.y["y_rad"]) for s in recording] == [(1, 0.5), (2, 0.25), (3, 0.0)]
    for column, advice in (
        ("remark", "'remark' does not hold numbers"),
        ("x", "no column 'x'; there are t_s"),
    ):
        with pytest.raises(RecordingError, match=advice):
            Recording(file, ["u_V"], [column])
    pq.write_table(pa.table({**table, "y_rad": [0.5, None, 0.0]}), file)
    with pytest.raises(RecordingError, match="row 2, column 'y_rad': missing"):
        Recording(file, ["u_V"], ["y_rad"])
    with pytest.raises(RecordingError, match="not a Parquet file"):
        Recording(write(tmp_path, GOOD, "motor.parquet"), ["u_V"], ["y_rad"])


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(RecordingError, match=r"pip install 'livetwin\[parquet\]'"):
        Recording(write(tmp_path, "", "motor.parquet"), ["u_V"], ["y_rad"])


def test_long_recordings_stay_small(tmp_path: Path) -> None:
    rows = np.column_stack([np.arange(100_000) * 0.001, np.ones((100_000, 2))])
    file = tmp_path / "long.csv"
    np.savetxt(file, rows, "%.6g", ",", header="t_s,u_V,y_rad", comments="")
    recording = Recording(file, ["u_V"], ["y_rad"])
    assert recording.spec.dt == 0.001
    assert recording.data.nbytes == 100_000 * 2 * 8 and recording.data.base is None
    assert sum(1 for _ in recording) == 100_000


RECORDINGS = [
    *(
        (f"undc/undc_2026-08-{day}.csv", ["u_V"], ["y_deg_per_s"], None, 0.02, 4093)
        for day in (11, 14, 17, 19)
    ),
    *((f"qube/qube_ep0{k}.csv", ["u_V", "alpha_rad"], ["theta_rad"], None, 0.002, 10_000) for k in range(4)),
    ("ufsj/motor_generator.csv", ["u"], ["y"], 1.0, 1.0, 1000),
]


@needs_data
@pytest.mark.parametrize(("file", "inputs", "outputs", "given", "dt", "rows"), RECORDINGS)
def test_real_recordings(
    file: str, inputs: list[str], outputs: list[str], given: float | None, dt: float, rows: int
) -> None:
    recording = Recording(DATA / file, inputs, outputs, given)
    assert (recording.spec.dt, len(recording)) == (dt, rows)
    *_, last = recording
    assert last.seq == rows - 1 and last.t == (rows - 1) * dt
    assert set(last.u) == set(inputs) and set(last.y) == set(outputs)
