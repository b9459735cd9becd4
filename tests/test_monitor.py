"""What one more subscriber measures, fed by hand with messages whose figures can be worked out."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from tests.models import beginning, checkpoint_of, shaken
from twin.backends.opening import open_predictor
from twin.checkpoint import load, path_of, save
from twin.comparison import KEPT_SAMPLES, Comparison
from twin.dashboard import Dashboard
from twin.messages import Event, Prediction, Sample, Spec, pack
from twin.monitor import RECENT_SAMPLES, Monitor
from twin.service.monitor import free_run_fit

SPEC = Spec(inputs=("voltage",), outputs=("current", "speed"), dt=0.001)


def sample(seq: int, current: float = 0.0, speed: float = 0.0, epoch: int = 1) -> Sample:
    return SPEC.sample(seq, [2.0 * seq, current, speed], epoch=epoch)


def prediction(
    seq: int, current: float = 0.0, speed: float = 0.0, model: int = 1, twin: int = 2
) -> Prediction:
    return Prediction(
        epoch=twin,
        seq=seq,
        y={"current": current, "speed": speed},
        residual={},
        model=model,
        status="following",
        sample_sent_ns=1_000_000,
    )


def wave(seq: int) -> tuple[float, float]:
    return math.sin(0.1 * seq), 10.0 * math.cos(0.07 * seq)


def fed(count: int, off: float = 0.5, first: int = 0) -> Monitor:
    """A monitor that has seen `count` samples of a wave, each expected `off` too high."""
    monitor = Monitor(SPEC)
    for seq in range(first, first + count):
        monitor.observe(sample(seq, *wave(seq)))
        current, speed = wave(seq + 1)
        monitor.observe(prediction(seq, current + off, speed + off), 1_250_000)
    return monitor


def test_errors_are_those_of_what_was_expected_of_each_sample() -> None:
    figures = fed(200).comparison.one_step(100)
    y = np.array([wave(seq) for seq in range(99, 200)])
    held = np.sqrt(np.mean(np.diff(y, axis=0) ** 2, axis=0))
    for name, persistence in zip(SPEC.outputs, held, strict=True):
        assert figures[name]["rmse"] == pytest.approx(0.5)
        assert figures[name]["persistence_rmse"] == pytest.approx(persistence)
        assert figures[name]["skill"] == pytest.approx(1 - 0.5 / persistence)


def test_errors_are_taken_over_the_last_samples_only() -> None:
    monitor = fed(100, off=9.0)
    for seq in range(100, 150):
        monitor.observe(prediction(seq, *wave(seq + 1)))
        monitor.observe(sample(seq, *wave(seq)))
    assert monitor.comparison.one_step(49)["speed"]["rmse"] == pytest.approx(0.0)
    assert monitor.comparison.one_step(60)["speed"]["rmse"] > 1


def test_what_was_not_seen_has_no_error() -> None:
    monitor = Monitor(SPEC)
    assert monitor.comparison.one_step(10) == {}
    for seq in (*range(50), *range(60, 100)):
        monitor.observe(sample(seq, *wave(seq)))
        if seq != 80:  # a prediction that never came
            current, speed = wave(seq + 1)
            monitor.observe(prediction(seq, current + 0.5, speed + 0.5))
    seqs, whole = monitor.comparison.pairs(1_000)
    assert seqs[~whole].tolist() == [*range(50, 61), 81]
    assert monitor.comparison.one_step(1_000)["speed"]["rmse"] == pytest.approx(0.5)


def test_the_rings_go_round() -> None:
    first = KEPT_SAMPLES - 500
    monitor = fed(1_000, first=first)
    assert monitor.comparison.one_step(900)["current"]["rmse"] == pytest.approx(0.5)
    assert len(monitor.comparison.pairs(10 * KEPT_SAMPLES)[0]) == 999
    assert monitor.comparison.stretch(KEPT_SAMPLES - 2, KEPT_SAMPLES + 2)[:, 0].tolist() == [
        2.0 * seq for seq in range(KEPT_SAMPLES - 2, KEPT_SAMPLES + 2)
    ]


def test_a_plant_that_begins_anew_is_not_mixed_with_the_one_before() -> None:
    monitor = fed(300, off=9.0)
    for seq in range(50):
        monitor.observe(sample(seq, *wave(seq), epoch=5))
        monitor.observe(prediction(seq, *wave(seq + 1)))
    assert monitor.samples == 350 and monitor.comparison.last_seq == 49
    assert monitor.comparison.one_step(1_000)["speed"]["rmse"] == pytest.approx(0.0)


def test_counters_are_summed_over_the_starts_of_the_twin() -> None:
    monitor = Monitor(SPEC)
    for epoch, answered, swaps in ((1, 10, 0), (1, 100, 1), (2, 5, 0), (2, 50, 2)):
        monitor.observe(
            Event(epoch=epoch, name="counters", text="", figures={"answered": answered, "swaps": swaps})
        )
    assert monitor.counters == {"answered": 150.0, "swaps": 3.0}
    assert monitor.report()["swaps"] == 3


def test_it_is_complete_when_the_plant_has_ended_and_all_is_answered_and_counted() -> None:
    monitor = fed(20)
    assert not monitor.complete
    monitor.observe(Event(name="end", text="", figures={"samples": 20.0, "overruns": 3.0}))
    assert not monitor.complete, "the twin's last counters are still to come"
    monitor.observe(Event(epoch=1, name="counters", text="", figures={"answered": 20.0}))
    assert monitor.complete
    monitor.observe(sample(20))
    assert not monitor.complete
    assert monitor.report()["overruns"] == 3 and monitor.report()["published"] == 20


def test_latency_is_from_sample_sent_to_prediction_received() -> None:
    monitor = fed(10)
    assert monitor.report()["latency_us"]["p50"] == 250.0
    assert monitor.figures()["p99_us"] == 250.0


def test_free_runs_begin_warm_in_the_last_quarter_and_do_not_overlap() -> None:
    monitor = fed(1_000)
    assert monitor.comparison.segments(horizon=50, window=20) == [(1, first) for first in range(750, 951, 50)]


def test_free_runs_keep_clear_of_gaps_and_fit_into_a_short_run() -> None:
    monitor = Monitor(SPEC)
    for seq in range(200):
        if seq != 165:
            monitor.observe(sample(seq, *wave(seq)))
        monitor.observe(prediction(seq, *wave(seq + 1), model=seq // 100))
    assert monitor.comparison.segments(horizon=10, window=10) == [(1, 150), (1, 180), (1, 190)]
    # model 1 answers from sample 101 on, warmed by ten more; after the gap it has seen what came after it
    assert [monitor.comparison.seen_from(1, first, window=10) for first in (150, 180, 190)] == [91, 166, 166]
    assert monitor.comparison.seen_from(0, 101, window=10) == 0
    assert fed(30).comparison.segments(horizon=50, window=20) == []
    assert fed(100).comparison.segments(horizon=50, window=20) == [(1, 50)]


def test_free_runs_of_a_mixture_are_those_of_the_last_model_that_a_trainer_made() -> None:
    monitor = Monitor(SPEC)
    for seq in range(400):
        monitor.observe(sample(seq, *wave(seq)))
        model = 3 if 100 <= seq < 200 else 0  # at last a member leads that has no checkpoint
        monitor.observe(prediction(seq, *wave(seq + 1), model=model), 1_250_000)
    assert monitor.comparison.segments(horizon=50, window=20) == [(3, 300), (3, 350)]


def restarted(samples: int, at: int) -> Comparison:
    """Answered by model 1 throughout; from sample `at` on by another start of the twin, which missed two."""
    comparison = Comparison(SPEC)
    for seq in range(samples):
        comparison.add_sample(sample(seq, *wave(seq)))
        if seq not in (at - 1, at - 2):
            comparison.add_prediction(prediction(seq, *wave(seq + 1), twin=2 + (seq >= at)))
    return comparison


def test_a_twin_that_was_started_anew_has_seen_nothing_of_what_came_before() -> None:
    comparison = restarted(200, at=165)
    assert [comparison.begun_at(first) for first in (1, 150, 163, 166, 180)] == [0, 0, 0, 165, 165]
    assert [comparison.seen_from(1, first, window=10) for first in (150, 175, 190)] == [0, 165, 165]
    starts = [first for _, first in comparison.segments(horizon=10, window=10)]
    assert starts == [150, 160, 180, 190]  # at 170 the twin had seen five samples


def test_free_runs_of_a_restarted_twin_are_replayed_as_it_was(tmp_path: Path) -> None:
    """Compared with a predictor that has seen what each start of the twin had."""
    z = np.array([[2.0 * seq, *wave(seq)] for seq in range(200)])
    model = shaken(beginning("gru", z, SPEC))
    save(tmp_path, checkpoint_of(model, 1, SPEC))
    comparison, runs = restarted(200, at=165), []
    for begun, first in ((0, 150), (0, 160), (165, 180), (165, 190)):
        predictor = open_predictor(load(path_of(tmp_path, 1)))
        predictor.warm(z[None, begun : first - 1].astype(np.float32))
        run = predictor.free_run(z[first - 1 : first], z[None, first : first + 10, :1])[0]
        runs.append((z[first : first + 10, 1:], run))
    found = free_run_fit(comparison, tmp_path, horizon=10, window=10, adapt=False)
    assert found == pytest.approx(comparison.free_run_fit(runs), rel=1e-5)


def test_free_run_fit_joins_the_runs() -> None:
    def column(*values: float) -> NDArray[np.float64]:
        return np.repeat(np.array(values)[:, None], 2, axis=1)

    runs = [(column(0, 1), column(0, 1)), (column(2, 3), column(2, 2))]
    assert Comparison(SPEC).free_run_fit([]) == {}
    fit = Comparison(SPEC).free_run_fit(runs)
    assert fit == pytest.approx(dict.fromkeys(SPEC.outputs, 100 * (1 - 1 / math.sqrt(5))))


def test_figures_can_travel_and_the_report_can_be_written_before_and_after_the_first_sample() -> None:
    for monitor in (Monitor(SPEC), fed(1), fed(2 * RECENT_SAMPLES)):
        pack(Event(name="figures", text="", figures=monitor.figures()))
        json.dumps(monitor.report(), allow_nan=False)
    figures = fed(2 * RECENT_SAMPLES).figures()
    assert figures["samples"] == figures["predictions"] == 2 * RECENT_SAMPLES
    assert figures["z.voltage"] == 2.0 * (2 * RECENT_SAMPLES - 1) and figures["model"] == 1.0
    assert figures["rmse.speed"] == pytest.approx(0.5)


def test_the_error_stands_beside_the_floor_that_the_plant_tells() -> None:
    monitor = fed(200)
    assert "ratio.speed" not in monitor.figures()  # a recording has none
    told = {"samples": 200.0, "overruns": 0.0, "floor.current": 0.4, "floor.speed": 0.25}
    monitor.observe(Event(name="plant", text="", figures=told))
    figures = monitor.figures()
    assert figures["ratio.current"] == pytest.approx(0.5 / 0.4)
    assert figures["ratio.speed"] == pytest.approx(0.5 / 0.25) and figures["floor.speed"] == 0.25
    assert "ratio" not in monitor.report()["one_step"]["speed"]  # that of the last quarter is not yet known
    told |= {"quarter_floor.current": 0.5, "quarter_floor.speed": 1e-12}
    monitor.observe(Event(name="end", text="", figures=told))
    report = monitor.report()["one_step"]
    assert report["current"]["ratio"] == pytest.approx(1.0) and report["current"]["floor"] == 0.5
    assert "ratio" not in report["speed"]  # to mere rounding there is no ratio


def test_the_live_view_shows_the_ratio_to_the_floor_where_there_is_one() -> None:
    def shown(**figures: float) -> tuple[str, str]:
        dashboard, console = Dashboard("motor-1"), Console(width=100, record=True, file=io.StringIO())
        dashboard.observe(SPEC)
        dashboard.observe(Event(name="figures", text="following", figures=figures))
        console.print(dashboard.render())
        return console.export_text(), dashboard.line()

    errors = {"rmse.speed": 0.13, "persistence_rmse.speed": 5.0, "skill.speed": 0.97}
    view, line = shown(**errors)
    assert "floor" not in view + line and "97.0 %" in view and "skill speed 97.0 %" in line
    view, line = shown(**errors, **{"floor.speed": 0.125, "ratio.speed": 1.04})
    assert "× floor" in view and "1.040" in view and "0.125" in view
    assert "speed 1.040 × floor" in line


def test_a_plant_that_stands_still_has_finite_figures_too() -> None:
    """The error of persistence is zero there, and what is divided by it would not pass the wire."""
    monitor = Monitor(SPEC)
    for seq in range(100):
        monitor.observe(sample(seq))
        monitor.observe(prediction(seq, current=100.0, speed=100.0))
    assert all(math.isfinite(value) for value in monitor.figures().values())
    json.dumps(monitor.report(), allow_nan=False)


def test_messages_of_other_signals_are_left_out() -> None:
    """The plant was exchanged for another: that must not end the monitor."""
    monitor = fed(10)
    monitor.observe(Sample(epoch=9, seq=0, u={"u": 1.0}, y={"y": 1.0}))
    monitor.observe(Prediction(seq=0, y={"y": 1.0}, residual={}, model=0, status="unestimated"))
    assert (monitor.samples, monitor.times.count, monitor.comparison.last_seq) == (10, 10, 9)


def test_memory_is_bounded() -> None:
    def sizes(monitor: Monitor) -> dict[str, int]:
        kept = vars(monitor.comparison) | vars(monitor.times) | vars(monitor.times.all)
        return {name: value.nbytes for name, value in kept.items() if isinstance(value, np.ndarray)}

    monitor = fed(10)
    before = sizes(monitor)
    assert 10e6 < sum(before.values()) < 40e6
    for seq in range(10, 3_000):
        monitor.observe(sample(seq))
        monitor.observe(prediction(seq))
    assert sizes(monitor) == before


def test_an_output_that_does_not_vary_has_no_fit() -> None:
    """Minus infinity is no JSON."""
    still = np.zeros((5, 2))
    assert Comparison(SPEC).free_run_fit([(still, still + 1.0)]) == {}


def test_the_report_tells_when_the_first_model_answered_and_how_slow_the_first_minute_was() -> None:
    monitor = Monitor(SPEC)
    assert monitor.report()["first_model_s"] is None
    slow = {100: 40_000_000, 61_000: 90_000_000}  # ns: one in the first minute, one after it
    for seq in range(62_000):
        monitor.observe(sample(seq))
        monitor.observe(prediction(seq, model=int(seq >= 2_500)), 1_250_000 + slow.get(seq, 0))
    report = monitor.report()
    assert report["first_model_s"] == pytest.approx(2.501)
    assert report["worst_answer_first_minute_ms"] == pytest.approx(40.25)
    assert report["worst_answer_ms"] == pytest.approx(90.25)


def test_the_view_says_what_is_compiled() -> None:
    view = Dashboard("motor-1")
    view.observe(SPEC)
    view.observe(Event(name="compiling", text="compiling the step of gru 64 for this CPU", t=3.0, figures={}))
    console = Console(file=io.StringIO(), width=120)
    console.print(view.render())
    assert "compiling the step of gru 64 for this CPU" in console.file.getvalue()  # type: ignore[attr-defined]
