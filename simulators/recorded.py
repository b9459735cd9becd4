"""A recording as a plant: the columns of a CSV or Parquet file, sample by sample.

A CSV file may begin with comment lines (#), then comes a header, then a row of numbers for each sample. A
unit at the end of a column's name, as in u_V or y_deg_per_s, is the signal's unit.
"""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from twin.errors import RecordingError, SpecError
from twin.messages import Sample, Spec, check_spec

TIME_COLUMN: Final = "t_s"
"""The column from which the sample time is taken where none is given."""
MAX_JITTER_SHARE: Final = 0.01
"""Largest deviation of a step of time, as a share of the step, that passes as equal: times are rounded."""
UNIT_OF_SUFFIX: Final = {
    "V": "V",
    "A": "A",
    "rad": "rad",
    "deg": "deg",
    "rpm": "rpm",
    "Nm": "N·m",
    "degC": "°C",
    "rad_per_s": "rad/s",
    "deg_per_s": "deg/s",
}
"""What may follow a column's name after "_", and the unit that it stands for."""
MIN_ROWS: Final = 2
"""Rows of the shortest recording: fewer have no sample time."""


class Recording:
    """A file of samples, read once and kept as numbers; iterating yields its Samples from the beginning.

    `inputs` and `outputs` name columns; sample k has seq = k and t = k dt, whatever the clock in the file
    said. Where `dt` is None it comes from the column t_s, if that goes in equal steps.

    Raises:
        RecordingError: a file that cannot be used; the message says where and what to do.
    """

    def __init__(
        self, path: str | Path, inputs: Sequence[str], outputs: Sequence[str], dt: float | None = None
    ) -> None:
        path, names = Path(path), (*inputs, *outputs)
        for side, given in (("inputs", inputs), ("outputs", outputs)):
            if not given:
                raise RecordingError(f"{path}: no {side}; name one or more columns")
        for name in names:
            if names.count(name) > 1:
                raise RecordingError(
                    f"{path}: column {name!r} is named twice; name it once, as in- or output"
                )
        if dt is not None and not (math.isfinite(dt) and dt > 0):
            raise RecordingError(f"{path}: dt = {dt} s: give a positive time")
        if not path.is_file():
            what = "a directory" if path.is_dir() else "no such file"
            raise RecordingError(f"{path}: {what}; name a CSV or Parquet file")
        read = _parquet if path.suffix.lower() in {".parquet", ".pq"} else _csv
        times, self.data = read(path, names, wants_time=dt is None)
        """(T, F) in the order of inputs, then outputs; owned by the recording."""
        try:
            self.spec: Spec = check_spec(
                Spec(
                    inputs=tuple(inputs),
                    outputs=tuple(outputs),
                    dt=_period(path, times) if dt is None else dt,
                    units={name: unit for name in names if (unit := _unit(name))},
                    plant=f"{path.name}, recorded",
                )
            )
        except SpecError as error:
            raise RecordingError(f"{path}: {error}") from None

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Sample]:
        for start in range(0, len(self.data), 4096):  # in blocks: lists of a million rows would be large
            for k, row in enumerate(self.data[start : start + 4096].tolist(), start):
                yield self.spec.sample(k, row)


Columns = tuple[NDArray[np.float64] | None, NDArray[np.float64]]
"""The times (T,), where asked for and there, and the columns (T, F)."""


def _unit(name: str) -> str:
    """The unit at the end of a column's name, or ""."""
    return next((unit for suffix, unit in UNIT_OF_SUFFIX.items() if name.endswith("_" + suffix)), "")


def _period(path: Path, times: NDArray[np.float64] | None) -> float:
    """The sample time, s, of equidistant times."""
    if times is None:
        raise RecordingError(
            f"{path}: there is no column {TIME_COLUMN}; give the sample time, e.g. --dt 0.01"
        )
    dt = float(times[-1] - times[0]) / (len(times) - 1)
    late = np.abs(np.diff(times) - dt)
    k = int(np.argmax(late))
    if not dt > 0 or late[k] > MAX_JITTER_SHARE * dt:
        raise RecordingError(
            f"{path}: {TIME_COLUMN} goes from {times[k]:g} to {times[k + 1]:g} s at row {k + 2}, "
            f"by {dt:g} s on average: the steps are not equal; resample it, or give the sample time to take "
            "for all of them, e.g. --dt 0.01"
        )
    return float(f"{dt:.9g}")


def _places(path: Path, known: Sequence[str], names: Sequence[str], wants_time: bool) -> list[int]:
    """Where the columns stand, the times first where wanted and there."""
    for name in names:
        if name not in known:
            advice = " (columns are separated by commas)" if len(known) == 1 else ""
            raise RecordingError(f"{path}: no column {name!r}; there are {', '.join(known)}{advice}")
    twice = [name for name in names if list(known).count(name) > 1]
    if twice:
        raise RecordingError(f"{path}: two columns are called {twice[0]!r}; give each a name of its own")
    wanted = [TIME_COLUMN, *names] if wants_time and TIME_COLUMN in known else list(names)
    return [known.index(name) for name in wanted]


def _checked(path: Path, table: NDArray[np.float64], count: int) -> Columns:
    if len(table) < MIN_ROWS:
        raise RecordingError(f"{path}: {len(table)} rows; a recording has {MIN_ROWS} or more")
    if table.shape[1] > count:
        return table[:, 0].copy(), table[:, 1:].copy()
    return None, table


def _csv(path: Path, names: Sequence[str], wants_time: bool) -> Columns:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            known = _header(path, lines)
            places = _places(path, known, names, wants_time)
            with warnings.catch_warnings():  # no rows: said below
                warnings.simplefilter("ignore", UserWarning)
                table = np.loadtxt(lines, delimiter=",", usecols=places, ndmin=2, quotechar='"')
    except (UnicodeDecodeError, OSError, csv.Error) as error:
        raise RecordingError(
            f"{path}: not a text file in UTF-8 ({error}); save it as CSV in UTF-8, or as .parquet"
        ) from None
    except ValueError:
        table = np.array([[math.nan]])
    if not np.isfinite(table).all():
        raise RecordingError(f"{path}: {_bad_cell(path, known, places)}")
    return _checked(path, table, len(names))


def _header(path: Path, lines: Iterable[str]) -> list[str]:
    """The names in the first line that is no comment."""
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            names = [name.strip() for name in next(csv.reader([line], skipinitialspace=True))]
            if "\0" in line:
                raise RecordingError(f"{path}: not a text file; give a CSV or .parquet file")
            if _number(names[0]) is not None:
                raise RecordingError(
                    f"{path}: line {number} has numbers; write the column names in a line above"
                )
            return names
    raise RecordingError(f"{path}: empty; a line of column names and a line for each sample are needed")


def _bad_cell(path: Path, known: list[str], places: list[int]) -> str:
    """Where the first cell is that is no number, and what it says."""
    with path.open(encoding="utf-8-sig") as lines:
        rows = ((number, line.partition("#")[0].strip()) for number, line in enumerate(lines, 1))
        full = (row for row in rows if row[1])
        next(full)  # the header
        for number, line in full:
            cells = next(csv.reader([line], skipinitialspace=True))
            for place in places:
                cell = cells[place].strip() if place < len(cells) else ""
                value = _number(cell)
                if value is None or not math.isfinite(value):
                    what = f"{cell!r} is no finite number" if cell else "the cell is missing"
                    return f"line {number}, column {known[place]!r}: {what}; correct it or leave the line out"
    return "not a table of numbers separated by commas"


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _parquet(path: Path, names: Sequence[str], wants_time: bool) -> Columns:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise RecordingError(f"{path}: Parquet needs pyarrow: pip install 'livetwin[parquet]'") from None
    try:
        file: Any = pq.ParquetFile(path)
        known = list(file.schema_arrow.names)
        places = _places(path, known, names, wants_time)
        table: Any = file.read(columns=[known[place] for place in places])
    except (pa.ArrowException, OSError) as error:
        raise RecordingError(f"{path}: not a Parquet file: {error}") from None
    columns = np.empty((table.num_rows, len(places)))
    for j, place in enumerate(places):
        try:
            columns[:, j] = table[known[place]].to_numpy()
        except (ValueError, TypeError):
            raise RecordingError(f"{path}: column {known[place]!r} does not hold numbers") from None
        bad = np.flatnonzero(~np.isfinite(columns[:, j]))
        if bad.size:
            raise RecordingError(f"{path}: row {bad[0] + 1}, column {known[place]!r}: missing or not finite")
    return _checked(path, columns, len(names))
