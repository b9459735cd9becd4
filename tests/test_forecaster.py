"""Requests to a running twin, over real sockets, good ones and others."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq

from tests.test_twin import SPEC, checkpoint, sample
from twin.errors import BusError, MessageError
from twin.messages import Message, Sample, pack
from twin.questions import MAX_REQUEST, MAX_STEPS, Reply, Request, reply_in, request_in
from twin.requests import Answerer, ask
from twin.service import forecast
from twin.service.forecaster import Forecaster
from twin.settings import load
from twin.twin import Twin


class Place:
    """A twin that is stepped in a thread, as in its process, and asked from here."""

    def __init__(self, root: Path, model: bool) -> None:
        self.endpoint = f"ipc://{root}/forecast"
        self.answerer = Answerer(self.endpoint)
        self.twin = Twin(SPEC)
        if model:
            self.twin.refresh(checkpoint(1))
            self.twin.catch_up()
        self.forecaster = Forecaster(self.answerer, SPEC)
        self.forecaster.start()
        self._over = False
        self._loop = threading.Thread(target=self._stream)
        self._loop.start()

    def _stream(self) -> None:
        seq = 0
        while not self._over:
            self.twin.step(sample(seq))
            self.twin.catch_up()
            self.forecaster.serve(self.twin)
            seq += 1
            time.sleep(1e-4)

    def ask(self, **request: object) -> Reply:
        reply = ask(self.endpoint, Request(**request), 10.0)  # type: ignore[arg-type]
        assert reply is not None
        return reply

    def close(self) -> None:
        self._over = True
        self._loop.join()
        self.forecaster.stop()
        self.answerer.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path, model=True)
    yield found
    found.close()


def test_scenarios_are_answered_in_their_order(place: Place) -> None:
    reply = place.ask(steps=50, scenarios=[{"voltage": [5.0]}, {}, {"voltage": [-5.0] * 50}])
    assert (reply.error, reply.model, reply.dt) == ("", 1, SPEC.dt)
    assert reply.u.keys() == {"voltage"}
    up, same, down = reply.scenarios
    assert all(len(each.y[name]) == 50 for each in reply.scenarios for name in SPEC.outputs)
    assert up.y["speed"][-1] != same.y["speed"][-1] != down.y["speed"][-1]


def test_intervals_come_with_it_once_there_are_any(place: Place) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        scenario = place.ask(steps=20, scenarios=[{}]).scenarios[0]
        if isinstance(scenario.low, dict) and isinstance(scenario.high, dict):
            assert np.less(scenario.low["speed"], scenario.y["speed"]).all()
            assert np.greater(scenario.high["speed"], scenario.y["speed"]).all()
            return
        time.sleep(0.05)
    raise AssertionError("no interval came")


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"steps": 5, "scenarios": [{"torque": [1.0]}]}, "no input is called torque; the plant has voltage"),
        ({"steps": 5, "scenarios": [{"voltage": [1.0, 2.0]}]}, "2 values"),
        ({"steps": 5, "scenarios": [{"voltage": [float("nan")]}]}, "not finite"),
        ({"steps": 0, "scenarios": [{}]}, "at least 1"),
        ({"steps": 5, "scenarios": []}, "at least 1"),
        ({"steps": MAX_STEPS, "scenarios": [{}, {}]}, f"at most {MAX_STEPS}"),
        ({"steps": 5, "scenarios": [{}], "v": 2}, "wire version 2"),
    ],
)
def test_what_cannot_be_is_answered_with_why(place: Place, request_: dict[str, object], said: str) -> None:
    assert said in place.ask(**request_).error
    assert place.forecaster.refused == 1
    assert place.ask(steps=3, scenarios=[{}]).error == "", "the next one is served"


def test_garbage_is_counted_and_hurts_nobody(place: Place) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(place.endpoint)
        rng = np.random.default_rng(0)
        frames = [b"", b"\xc1", b"\xdd\xff\xff\xff\xff", rng.bytes(1_000), b"\x91" * 5_000, b"\x91\x01"]
        for frame in frames:
            socket.send_multipart([b"", frame])
            assert socket.poll(10_000)
            assert reply_in(socket.recv_multipart()[-1]).error
        for frames_ in ([b"a"], [b""] * 5, [b"x" * (MAX_REQUEST + 1)]):
            socket.send_multipart(frames_)
    assert place.ask(steps=3, scenarios=[{}]).error == ""
    assert place.forecaster.refused >= 6


def test_a_client_that_vanishes_is_not_waited_for(place: Place) -> None:
    for _ in range(5):
        with zmq.Context() as context, context.socket(zmq.REQ) as socket:
            socket.linger = 200
            socket.connect(place.endpoint)
            socket.send(pack(Request(steps=100, scenarios=[{}])))
    assert place.ask(steps=3, scenarios=[{}]).error == ""


def test_without_a_model_it_says_so(tmp_path: Path) -> None:
    place = Place(tmp_path, model=False)
    try:
        assert "no model yet" in place.ask(steps=3, scenarios=[{}]).error
    finally:
        place.close()


def test_a_second_twin_is_told_who_answers_already(place: Place) -> None:
    with pytest.raises(BusError, match="in use by process"):
        Answerer(place.endpoint)


def test_nobody_there_is_not_an_answer(tmp_path: Path) -> None:
    assert ask(f"ipc://{tmp_path}/nobody", Request(steps=1, scenarios=[{}]), 0.1) is None
    with pytest.raises(BusError, match="port"):
        ask("tcp://127.0.0.1:99999", Request(steps=1, scenarios=[{}]), 0.1)


def test_a_request_travels_unchanged() -> None:
    request = Request(steps=3, scenarios=[{"voltage": [1.0, 2.0, 3.0]}, {}])
    assert request_in(pack(request)) == request
    with pytest.raises(MessageError, match="bytes"):
        request_in(b"\0" * (MAX_REQUEST + 1))


# -- where no twin runs ------------------------------------------------------------------------------


class Heard:
    """A subscriber that has heard these messages already, and goes on to hear those."""

    def __init__(self, already: list[Message], coming: Iterable[Message]) -> None:
        self.already, self.coming = already, iter(coming)

    def latest(self) -> Message | None:
        self.already, found = [], self.already
        return found[-1] if found else None

    def recv(self, timeout: float) -> Message | None:
        time.sleep(1e-3)
        return self.already.pop(0) if self.already else next(self.coming, None)


def warmed(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> Sample:
    monkeypatch.setattr(forecast, "SILENCE_TIMEOUT_SEC", 0.1)
    monkeypatch.setattr(forecast, "follower", lambda *_: (Twin(SPEC, window=10), 1))
    return forecast.warmed(load(None), SPEC, heard)[1]  # type: ignore[arg-type]


def test_what_was_heard_while_the_model_was_opened_is_not_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = [sample(seq) for seq in range(100)]
    assert warmed(Heard([*stream[:50]], [SPEC, *stream[50:]]), monkeypatch).seq == 59


def test_a_plant_that_waits_and_one_that_ended_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BusError, match="has not begun: it sends no samples yet"):
        warmed(Heard([], itertools.repeat(SPEC)), monkeypatch)
    with pytest.raises(BusError, match="went silent; is it"):
        warmed(Heard([], [sample(seq) for seq in range(5)]), monkeypatch)
