"""Forecasts: free runs from the present, and how far off they will probably be.

How far off free runs are is measured, not modelled: while the stream goes, a second predictor starts again
and again from where the first one is, runs free under the inputs that come, and is compared with what comes.
Its errors, by horizon, feed the same quantile tracker as the intervals of the answers (`twin.detection`).
So a forecast's interval holds for inputs like those of late; where none of late were like them, nobody
knows. Where several models answer as one, each runs free by itself, and they are mixed by how well they did
(`twin.horizons`).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twin.errors import SpecError
from twin.horizons import MAX_RUN_SAMPLES, ROWS, Foresight
from twin.kernels.detection import FIRST_WIDTH, MISS_SHARE
from twin.messages import Spec
from twin.mixture import Blend, Mixture, mean_of, taken_over
from twin.predictor import Predictor
from twin.window import Window

RUN_SAMPLES: Final = (MAX_RUN_SAMPLES // 32, MAX_RUN_SAMPLES // 8) * 4 + (MAX_RUN_SAMPLES,)
"""Of the free runs, in turn: the near horizons, which matter more, are measured more often. Beyond the
longest one, widths go on as they grew before."""
TURN_SAMPLES: Final = 16
"""Samples of such a run in one turn."""
MIN_RUNS: Final = 8
"""Runs before there is an interval at a horizon."""
_SCALE_RUNS: Final = 12.0  # runs over which the scale is taken: models become better
_WIDTH_STEP: Final = 0.1  # of the width, in scales, by one run

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Forecast:
    """What the outputs would be: `y` (T, P), or (S, T, P) of S scenarios.

    Row j is at the end of the period in which the inputs' row j was held. `low` and `high` of the same shape
    are the interval of 90 %, row by row; None until enough free runs have been compared.
    """

    y: Array
    low: Array | None = None
    high: Array | None = None


class HorizonErrors:
    """The errors of free runs over the recent past, by horizon."""

    def __init__(self, spec: Spec) -> None:
        shape = len(ROWS), len(spec.outputs)
        self._inputs = len(spec.inputs)
        self.width = np.full(shape, FIRST_WIDTH)  # in scales
        self.scale = np.zeros(shape)
        self.runs = np.zeros(len(ROWS), np.int64)
        self.foresight = Foresight(shape[1], spec.dt, TURN_SAMPLES)
        self._errors = np.zeros(shape)
        self._lengths = itertools.cycle(RUN_SAMPLES)
        self._measures = False
        self._runners: dict[str, Predictor] = {}
        self._row, self._length = 0, 0  # of the run under way: rows done, rows to do (0: none under way)
        self._seen = 0  # of the window's count
        self._runs: list[Array] = []  # the portion under way (n, P), of those that have taken it
        self._y: Array = np.zeros((1, shape[1]))  # what each runner expects of the next sample
        self._say: Array = np.ones((1, shape[1]))  # their weights, as for a forecast that began with them

    def follow(self, predictor: Predictor | None) -> None:
        """From now on this predictor is what is measured; None: none."""
        self._measures, self._length = predictor is not None, 0
        self._runners = taken_over(self._runners, members_of(predictor), 1) if predictor is not None else {}

    def abandon(self) -> None:
        """Give up the run under way: what came is not what was measured."""
        self._length = 0

    def look(self, window: Window, active: Predictor, expected: ArrayLike) -> None:
        """Go on by a portion of the samples that have come, when there are so many, by one member a turn;
        begin a run where none is.

        `expected` (P) is what the active predictor answered to the newest sample of the window.
        """
        portion = min(TURN_SAMPLES, window.length - 1)
        if not self._measures or portion < 1:
            return
        behind = window.count - self._seen
        if not self._length or behind > window.length:  # the window has rolled on without the run
            self._begin(window.count, active, expected)
            return
        n = min(portion, self._length - self._row)
        if behind <= n:  # the y of the last row come one sample later than its u
            return
        z = window.tail(behind)[:, : n + 1]
        u, came = z[:, :n, : self._inputs], z[0, 1:, self._inputs :]
        while len(self._runs) < len(self._y):
            self._runs.append(self._go_on(len(self._runs), u, z[:, 1:, : self._inputs]))
            if len(self._runs) < len(self._y) and behind + len(self._y) < window.length:
                return  # the others with the next samples: none of them waits for all
        runs, self._runs = np.stack(self._runs), []
        self._row += n
        self._seen += n
        self._compare(runs, came)
        if self._row >= self._length:
            self._take_in(int(np.searchsorted(ROWS, self._length)))
            self._length = 0

    def _begin(self, count: int, active: Predictor, expected: ArrayLike) -> None:
        """Begin a run where the active predictor is, the window's count being so much."""
        self._runners = taken_over(self._runners, members_of(active), 1)
        self._seen, self._row, self._length, self._runs = count, 0, next(self._lengths), []
        self._y = np.tile(np.asarray(expected, np.float64), (len(self._runners), 1))
        if isinstance(active, Mixture):
            named, weights, _ = active.tried()
            said = dict(zip(named, weights, strict=True))
            self._say = np.stack([said.get(name, np.zeros(weights.shape[1])) for name in self._runners])
            active.foresight = self.foresight

    def _go_on(self, which: int, u: Array, ahead: Array) -> Array:
        """A portion (n, P) of a runner's free run under inputs u (1, n, U), those `ahead` (1, n, U) a sample
        later."""
        runner, y = list(self._runners.values())[which], self._y[which]
        run = np.asarray(runner.free_run(np.concatenate([u[0, 0], y])[None], ahead)[0], np.float64)
        fed = np.concatenate([y[None], run[:-1]])
        runner.warm(np.concatenate([u, fed[None]], axis=2))
        self._y[which] = run[-1]
        return run

    def _compare(self, runs: Array, came: Array) -> None:
        """Take in the newest portion (M, n, P) of all runs, and the outputs (n, P) that came."""
        first = self._row - len(came)
        run = runs[0] if len(runs) == 1 else mean_of(runs, self._say[:, None], self.foresight.limits)
        rows = np.flatnonzero((first <= ROWS) & (self._row > ROWS))
        self._errors[rows] = np.abs(came - run)[ROWS[rows] - first]
        if len(runs) > 1:
            known = [name for name, each in self._runners.items() if each.number]
            self.foresight.judge(dict(zip(self._runners, runs, strict=True)), came, known)

    def _take_in(self, reached: int) -> None:
        """Take in a run's errors at so many of the horizons."""
        errors, width, scale = self._errors[:reached], self.width[:reached], self.scale[:reached]
        if not np.isfinite(errors).all():
            return
        runs = self.runs[:reached]
        outside = errors > width * scale
        known = (runs > 0)[:, None]
        width += np.where(known, _WIDTH_STEP * (outside - MISS_SHARE), 0.0)
        np.maximum(width, 0.0, out=width)
        runs += 1
        scale += (errors - scale) / np.minimum(runs, _SCALE_RUNS)[:, None]

    def snapshot(self) -> tuple[NDArray[np.int64], Array, Array]:
        """Runs, widths and scales by horizon, copied: what `reaches` takes."""
        return self.runs.copy(), self.width.copy(), self.scale.copy()


def members_of(predictor: Predictor) -> dict[str, Predictor]:
    """Those that run free by themselves."""
    return predictor.members if isinstance(predictor, Blend) else {"": predictor}


def rising(values: Array) -> Array:
    """The values that never fall and come nearest: neighbours that do are replaced by their mean (isotonic
    regression). The largest so far would add up what is chance in each.

    >>> rising(np.array([1.0, 3.0, 2.0, 4.0])).tolist()
    [1.0, 2.5, 2.5, 4.0]
    """
    levels: list[tuple[float, int]] = []
    for value in values.tolist():
        count = 1
        while levels and levels[-1][0] > value:
            before, n = levels.pop()
            value, count = (before * n + value * count) / (n + count), n + count
        levels.append((value, count))
    return np.repeat([level for level, _ in levels], [count for _, count in levels])


def reaches(runs: NDArray[np.int64], width: Array, scale: Array, steps: int) -> Array | None:
    """How far an interval reaches to either side, (T, P): never less at a farther horizon."""
    known = int(np.count_nonzero(runs >= MIN_RUNS))  # the near ones first
    if known < 2:
        return None
    grid, reach = (
        np.log(ROWS[:known] + 1.0),
        np.stack([rising(w) for w in (width * scale)[:known].T], axis=1),
    )
    at = np.log(np.arange(1.0, steps + 1.0))
    found = np.stack([np.interp(at, grid, column) for column in reach.T], axis=1)
    # beyond, by the power of the time with which it grew over the last factor of four or so
    before = max(0, known - 6)
    tiny = np.finfo(np.float64).tiny
    power = np.log(np.maximum(reach[-1], tiny) / np.maximum(reach[before], tiny)) / (grid[-1] - grid[before])
    beyond = np.maximum(at - grid[-1], 0.0)[:, None] * np.clip(power, 0.0, 1.0)
    return np.asarray(found * np.exp(beyond))


@dataclass(frozen=True)
class Present:
    """A twin at one instant: all that a forecast begins with. Another thread may run it."""

    spec: Spec
    t: float
    """Of the last sample, s."""
    u: Array
    """(U,), its inputs, as they were held from then on."""
    y: Array
    """(P,), expected of the next one."""
    predictor: Predictor | None
    """In the state after the last sample; a fork of the twin's own."""
    width: tuple[NDArray[np.int64], Array, Array]
    """Of the interval: free runs compared, widths and scales, by horizon (`HorizonErrors`)."""

    def forecast(self, inputs: ArrayLike, horizon: int | None = None) -> Forecast:
        """As `Twin.forecast`."""
        u, alone = scenarios(self.spec, inputs, horizon)
        count, steps = u.shape[:2]
        if self.predictor is None:
            y = np.broadcast_to(self.y, (count, steps, len(self.y))).copy()
        else:
            fleet = self.predictor.fork(count)
            first = np.concatenate([u[:, 0], np.repeat(self.y[None], count, axis=0)], axis=1)
            # a free run answers at the instants of its inputs, and the last of them no longer matters to it
            following = np.concatenate([u[:, 1:], u[:, -1:]], axis=1)
            y = np.asarray(fleet.free_run(first, following), np.float64)
        reach = reaches(*self.width, steps)
        if alone:
            y = y[0]
        return Forecast(y) if reach is None else Forecast(y, y - reach, y + reach)


def scenarios(spec: Spec, inputs: ArrayLike, horizon: int | None) -> tuple[NDArray[np.float32], bool]:
    """The inputs to come as (S, T, U), and whether it is one scenario that stands alone.

    Raises:
        SpecError: inputs of another shape, or not finite.
    """
    u = np.asarray(inputs, np.float32)
    columns = len(spec.inputs)
    wanted = f"a column each for {', '.join(spec.inputs)}"
    if horizon is not None:
        if horizon < 1:
            raise SpecError(f"a horizon of {horizon} steps: at least 1 is needed")
        if u.ndim not in (1, 2) or u.shape[-1] != columns or u.size == 0:
            raise SpecError(
                f"inputs to hold of shape {u.shape}: ({columns},) or (scenarios, {columns}), {wanted}"
            )
        alone = u.ndim == 1
        u = np.repeat(np.atleast_2d(u)[:, None], horizon, axis=1)
    else:
        alone = u.ndim == 2
        if u.ndim not in (2, 3) or u.shape[-1] != columns or u.size == 0:
            raise SpecError(
                f"inputs of shape {u.shape}: (steps, {columns}) or (scenarios, steps, {columns}) is needed, "
                + wanted
            )
        u = u[None] if alone else u
    if not np.isfinite(u).all():
        raise SpecError("inputs to come that are not finite")
    return u, alone
