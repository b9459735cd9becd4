"""When a parameter has changed, and when it has only moved."""

from __future__ import annotations

import numpy as np

from twin.changes import Changes, as_message
from twin.messages import pack, topic, unpack


def told(values: list[float], error: float = 0.02) -> list[str]:
    changes, texts = Changes(), []
    for value in values:
        texts += [text for text, _ in changes.look({"R": (value, error)})]
    return texts


def test_a_change_is_told_once_with_its_figures() -> None:
    (text,) = told([7.5] * 5 + [10.5] * 20)
    assert text == "R +40 % ± 0.4 %"


def test_what_is_back_again_is_told_again() -> None:
    assert [text.split()[1] for text in told([7.5] * 5 + [10.5] * 9 + [7.5] * 9)] == ["+40", "-29"]


def test_noise_and_drops_are_not_changes() -> None:
    rng = np.random.default_rng(0)
    assert told((7.5 + 0.02 * rng.normal(size=1_000)).tolist()) == []
    assert told([7.5] * 5 + [10.5] * 2 + [7.5] * 5) == []
    assert told([7.5] * 5 + [10.5] * 20, error=2.0) == []
    assert told([7.5] * 5 + [7.7] * 20, error=1e-6) == []


def test_a_parameter_that_was_zero_is_told_in_its_unit() -> None:
    changes = Changes()
    changes.look({"tau_c": (0.0, 1e-5)})
    texts = [text for _ in range(5) for text, _ in changes.look({"tau_c": (0.004, 1e-5)})]
    assert texts == ["tau_c +0.004 N·m"]


def test_the_message_carries_units_and_errors() -> None:
    sent = as_message({"R": (7.5, 0.01), "L": (1e-3, 1e-5)}, t=2.0)
    assert unpack(topic(type(sent), "motor-1").encode(), pack(sent)) == sent
    assert (sent.values["R"], sent.errors["L"], sent.units) == (7.5, 1e-5, {"R": "ohm", "L": "H"})
