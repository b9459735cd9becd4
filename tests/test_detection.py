"""Intervals and alarms, against the same recursions written out in plain Python."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.test_twin import broken, checkpoint, follow, following
from twin.detection import MIN_RESIDUALS, Alarm, Detection
from twin.kernels import detection as kernel
from twin.kernels.detection import ALL, NOTHING, RESIDUAL, WIDTH
from twin.messages import Spec
from twin.twin import Twin

SPEC = Spec(inputs=("voltage",), outputs=("current", "speed"), dt=0.001, units={"speed": "rad/s"})
Array = NDArray[np.float64]


@dataclass
class Cusum:
    """One statistic of one output, as the equations have it."""

    cap: float
    both: bool
    rare: float
    n: float = 0
    mean: float = 0.0
    variance: float = 0.0
    up: float = 0.0
    down: float = 0.0
    largest: float = 0.0
    maxima: float = 0
    max_mean: float = 0.0
    max_variance: float = 0.0
    threshold: float = math.inf

    def take(self, x: float) -> bool:
        self.n += 1
        a = 1 / min(self.n, kernel.MEAN_SAMPLES)
        d = x - self.mean
        if self.n <= kernel.SETTLE_SAMPLES:
            self.mean += a * d
            self.variance += a * ((1 - a) * d * d - self.variance)
            return False
        sd = math.sqrt(self.variance) + 1e-300
        t = min(max(d / sd, -self.cap), self.cap)
        self.mean += a * t * sd
        self.variance += a * (t * t * sd * sd - self.variance)
        ceiling = kernel.CEILING_THRESHOLDS * self.threshold
        self.up = min(max(self.up + t - kernel.ALLOWANCE_SD, 0.0), ceiling)
        if self.both:
            self.down = min(max(self.down - t - kernel.ALLOWANCE_SD, 0.0), ceiling)
        g = max(self.up, self.down)
        self.largest = max(self.largest, g)
        if self.n % kernel.BLOCK_SAMPLES == 0:
            self.block()
        return g > self.threshold

    def block(self) -> None:
        self.maxima = n = min(self.maxima + 1, kernel.MAXIMA_KEPT)
        most = kernel.REACH_SD * math.sqrt(self.max_variance) + kernel.REACH_FLOOR
        d = min(self.largest - self.max_mean, most)
        self.max_mean += d / n
        self.max_variance += ((1 - 1 / n) * d * d - self.max_variance) / n
        self.largest = 0.0
        if n >= kernel.MIN_MAXIMA:
            scale = math.sqrt(6) / math.pi * math.sqrt(self.max_variance) * (1 + kernel.MARGIN_MAXIMA / n)
            self.threshold = self.max_mean + kernel.CAUTION * scale * (self.rare - kernel.MEAN) + 1


@dataclass
class Reference:
    """One output's interval and statistics."""

    rare: float
    q: float = kernel.FIRST_WIDTH
    scale: float = 0.0
    count: int = 0
    cusums: list[Cusum] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, cap in zip(kernel.STATISTICS, kernel.CAP_SD, strict=True):
            self.cusums.append(Cusum(cap, name == "offset", self.rare))

    def interval(self, r: float) -> None:
        if self.count:
            self.q = max(
                self.q + kernel.WIDTH_STEP * ((abs(r) > self.q * self.scale) - kernel.MISS_SHARE), 0.0
            )
        self.count += 1
        self.scale += (abs(r) - self.scale) / min(self.count, kernel.SCALE_SAMPLES)

    def statistics(self, r: float) -> None:
        offset, spread = self.cusums
        if offset.n >= 10:
            reach = kernel.WINSOR_SD * math.sqrt(offset.variance)
            r = min(max(r, -reach), reach)
        offset.take(r)
        spread.take(r * r)


def stream(length: int, seed: int = 1) -> tuple[Array, Array]:
    """Outputs that move and change their signs, and what was expected of them: (T, 2) each."""
    rng = np.random.default_rng(seed)
    t = np.arange(length)[:, None]
    y = np.array([1.0, 100.0]) * np.sin(2 * np.pi * t / np.array([171.0, 303.0]))
    return y, y - rng.normal(size=y.shape) * [0.003, 0.15]


def detected(y: Array, expected: Array, detection: Detection | None = None) -> tuple[list[Alarm], Array]:
    """The alarms of a stream, and the intervals (T, 2 low and high, P) given for each sample before it
    came."""
    detection = detection or Detection(SPEC)
    detection.step(NOTHING, [0.0, 0.0], expected[0].tolist())
    alarms, intervals = [], np.empty((len(y), 2, 2))
    for k, (now, after) in enumerate(zip(y.tolist(), np.roll(expected, -1, axis=0).tolist(), strict=True)):
        intervals[k] = detection._memory[detection._at.low : detection._at.own].reshape(2, 2)
        if detection.step(ALL, now, after)[0]:
            alarms += detection.begun_or_over(k * SPEC.dt)
    return alarms, intervals


def test_the_compiled_recursion_is_the_written_one() -> None:
    y, expected = stream(35_000)
    detection = Detection(SPEC)
    detected(y, expected, detection)
    rare = detection._memory[detection._at.rare]
    for p in range(2):
        reference = Reference(rare)
        for now, before in zip(y[:, p].tolist(), expected[:, p].tolist(), strict=True):
            reference.interval(now - before)
            reference.statistics(now - before)
        own, table = detection._own[p], detection._table[p]
        assert own[[kernel.Q, kernel.SCALE]].tolist() == pytest.approx([reference.q, reference.scale])
        for j, cusum in enumerate(reference.cusums):
            kept = [cusum.mean, cusum.variance, cusum.up, cusum.down, cusum.threshold]
            places = [kernel.MU, kernel.VAR, kernel.UP, kernel.DOWN, kernel.THRESHOLD]
            assert table[j, places].tolist() == pytest.approx(kept, rel=1e-6), kernel.STATISTICS[j]
        assert np.isfinite(detection.thresholds[p]).all()


# -- intervals ---------------------------------------------------------------------------------------


def worst(y: Array, intervals: Array, span: int = 20_000) -> Array:
    """Least and most of the share inside over any `span` samples."""
    inside = (intervals[MIN_RESIDUALS:, 0] <= y[MIN_RESIDUALS:]) & (
        y[MIN_RESIDUALS:] <= intervals[MIN_RESIDUALS:, 1]
    )
    sums: Array = np.cumsum(inside, axis=0)
    share: Array = (sums[span:] - sums[:-span]) / span
    return np.array([share.min(), share.max()])


@pytest.mark.parametrize("kind", ["steady", "grows", "jumps", "heavy", "correlated"])
def test_nine_of_ten_samples_lie_within_whatever_the_residuals_do(kind: str) -> None:
    y, expected = stream(60_000)
    r = y - expected
    match kind:
        case "grows":
            r *= np.geomspace(1, 100, len(r))[:, None]
        case "jumps":
            r[20_000:40_000] *= 50
        case "heavy":
            r = np.random.default_rng(2).standard_t(1.5, size=r.shape)
        case "correlated":
            r = np.cumsum(r, axis=0)
            r -= np.linspace(0, 1, len(r))[:, None] * r[-1]
    low, high = worst(y, detected(y, y - r)[1])
    assert 0.88 <= low <= high <= 0.92


def test_the_width_is_that_of_the_residuals() -> None:
    y, expected = stream(20_000)
    intervals = detected(y, expected)[1]
    width = np.diff(intervals[5_000:], axis=1)[:, 0].mean(axis=0)
    assert width == pytest.approx([2 * 1.645 * 0.003, 2 * 1.645 * 0.15], rel=0.05)


def test_residuals_that_are_none_of_the_model_s_leave_the_width_alone() -> None:
    detection = Detection(SPEC)
    for told in (NOTHING, RESIDUAL):
        before = detection._own.copy()
        said = detection.step(told, [5.0, 5.0], [1.0, 2.0])
        assert np.array_equal(detection._own, before)
    assert said[1:3] == [4.0, 3.0]
    detection.step(WIDTH, [5.0, 5.0], [1.0, 2.0])
    assert detection._own[:, kernel.COUNT].tolist() == [1.0, 1.0]
    assert detection._own[:, kernel.SEEN].tolist() == [0.0, 0.0]


# -- alarms ------------------------------------------------------------------------------------------

AT = 40_000


def faulty(kind: str, length: int = 50_000) -> tuple[Array, Array]:
    y, expected = stream(length)
    r = y - expected
    match kind:
        case "offset":
            r[AT:, 1] += 0.1
        case "spread":
            r[AT:, 1] *= 1.5
        case "hum":  # r², though no sample by itself is unusual
            r[AT:, 1] += 0.12 * np.sign(np.sin(np.arange(length - AT) / 15))
        case "stuck":
            y[AT:, 1] = y[AT, 1]
            return y, expected
    return y, y - r


@pytest.mark.parametrize("kind", ["offset", "spread", "hum", "stuck"])
def test_a_fault_makes_an_alarm_of_its_output_and_no_other(kind: str) -> None:
    y, expected = faulty(kind)
    alarms = [alarm for alarm in detected(y, expected)[0] if not alarm.over]
    assert alarms and {alarm.output for alarm in alarms} == {"speed"}
    first = alarms[0]
    assert AT * SPEC.dt <= first.t < AT * SPEC.dt + 4
    assert first.kind == kind or {kind, first.kind} <= {"offset", "spread", "hum"}
    assert "speed" in first.text and "rad/s" in first.text


def test_the_same_motor_makes_no_alarm() -> None:
    assert detected(*stream(200_000, seed=3))[0] == []


def test_before_there_is_a_threshold_there_is_no_alarm() -> None:
    y, expected = stream(3_000)
    y[2_500:, 0] += 1.0
    assert detected(y, expected)[0] == []


def test_an_episode_is_one_alarm_and_one_end() -> None:
    y, expected = stream(70_000)
    y[AT : AT + 2_000, 0] += 0.1
    y[60_000:60_100, 0] -= 0.1
    alarms = detected(y, expected)[0]
    assert [(alarm.output, alarm.over) for alarm in alarms] == [("current", False), ("current", True)] * 2
    assert alarms[1].t == pytest.approx(AT * SPEC.dt + 3, abs=2.0)


def test_a_fault_that_stays_is_taken_for_usual_after_a_while() -> None:
    y, expected = faulty("offset", 100_000)
    alarms = detected(y, expected)[0]
    assert [alarm.over for alarm in alarms] == [False, True]
    assert alarms[1].t - alarms[0].t == pytest.approx(kernel.MAX_ALARM_SAMPLES * SPEC.dt)


def test_the_first_model_is_given_time_even_during_an_alarm() -> None:
    y, expected = stream(50_000)
    detection = Detection(SPEC)
    detected(y, expected, detection)
    assert np.isfinite(detection.thresholds).any()
    assert detected(y[:500] + 50.0, expected[:500], detection)[0]  # it rings
    detection.relearn()
    assert np.isinf(detection.thresholds).all()
    other = y - 3 * (y - expected)  # three times as far off: usual, for this model
    assert detected(y, other, detection)[0] == []
    assert detected(y[:500] + 50.0, other[:500], detection)[0], "and what is not usual rings again"


def test_a_rest_without_any_error_does_not_blind_it() -> None:
    y, expected = stream(50_000)
    detection = Detection(SPEC)
    detected(np.zeros_like(y[:3_000]), np.zeros_like(expected[:3_000]), detection)
    detected(y, expected, detection)
    assert detected(y[:500] + 50.0, expected[:500], detection)[0]


@pytest.mark.parametrize("outputs", [1, 3])
def test_any_number_of_outputs(outputs: int) -> None:
    names = tuple(f"y{i}" for i in range(outputs))
    detection = Detection(Spec(inputs=("u",), outputs=names, dt=10.0))
    rng: Any = np.random.default_rng(0)
    for _ in range(300):
        said = detection.step(ALL, rng.normal(size=outputs).tolist(), [0.0] * outputs)
    assert len(said) == 1 + 3 * outputs and detection.has_intervals
    assert all(
        low < 0 < high for low, high in zip(said[1 + outputs :], said[1 + 2 * outputs :], strict=False)
    )


# -- in a twin ---------------------------------------------------------------------------------------


def test_a_twin_states_intervals_once_it_can_and_none_for_what_is_invalid() -> None:
    answers = follow(twin := following(seqs=()), range(MIN_RESIDUALS + 20))
    stated = [isinstance(answer.low, dict) and isinstance(answer.high, dict) for answer in answers]
    assert stated == [False] * MIN_RESIDUALS + [True] * 20, "the first answer has no residual"
    last = answers[-1]
    assert isinstance(last.low, dict) and isinstance(last.high, dict)
    assert all(last.low[name] < last.y[name] < last.high[name] for name in SPEC.outputs)
    twin.refresh(broken(2))
    later = follow(twin, range(MIN_RESIDUALS + 20, MIN_RESIDUALS + 60))
    (invalid,) = [answer for answer in later if answer.status == "invalid"]
    assert not isinstance(invalid.low, dict) and not isinstance(invalid.high, dict)


class Still:
    """A predictor that expects zeros."""

    rows, number, quick = 1, 1, True

    def __init__(self) -> None:
        self.sample = np.zeros((1, 3), np.float32)

    def reset(self) -> None: ...

    def warm(self, z: Any) -> None: ...

    def take_over(self, other: Any) -> None: ...

    def fork(self, rows: int) -> Still:
        return self

    def step(self, z: Any) -> Any:
        return np.zeros((1, 2), np.float32)

    def free_run(self, z: Any, u: Any) -> Any:
        return np.zeros((1, u.shape[1], 2), np.float32)


def test_a_twin_counts_its_alarms_and_hands_them_over() -> None:
    twin, still = Twin(SPEC, window=40), Still()
    twin.refresh(checkpoint(1), still)  # type: ignore[arg-type]
    twin.catch_up()
    y = np.random.default_rng(0).normal(size=(30_000, 2)) * [0.01, 1.0]
    y[20_000:21_000, 1] += 5.0
    for k, measured in enumerate(y.tolist()):
        if not 18_000 <= k < 18_020:  # a gap is no reason for an alarm
            twin.step(SPEC.sample(k, [1.0, *measured]))
    begun, over = twin.pending_alarms
    assert twin.counters.alarms == 1
    assert begun.output == "speed" and begun.kind in ("offset", "spread")
    assert (begun.over, over.over) == (False, True)
    assert 20.0 <= begun.t < 20.1 and 22.0 <= over.t < 30.0
