from __future__ import annotations

import time

from twin.pacer import Pacer


def test_deadlines_are_absolute() -> None:
    """A hundred turns of 2 ms take 198 ms, however long each takes: never less, and drift does not add up."""
    pacer, begun = Pacer(0.002), time.monotonic()
    for turn in range(100):
        pacer.wait()
        if turn % 2:
            time.sleep(0.0005)
    assert time.monotonic() - begun >= 99 * 0.002


def test_a_late_turn_is_counted_and_moves_the_schedule() -> None:
    pacer = Pacer(0.01)
    pacer.wait()
    time.sleep(0.1)
    assert pacer.wait() > 0.05e9
    assert pacer.overruns == 1
    begun = time.monotonic()
    pacer.wait()  # a loop that bursts to catch up would not wait here
    assert time.monotonic() - begun > 0.005


def test_a_stop_ends_a_wait() -> None:
    pacer = Pacer(30.0, stop=True)
    begun = time.monotonic()
    pacer.wait()
    pacer.wait()
    assert time.monotonic() - begun < 5
