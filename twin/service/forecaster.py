"""Forecasts on request, beside the twin's loop: a thread that takes requests, and runs a copy of the
present.

The loop's share is one copy of the twin's state for each request, some microseconds after an answer. The free
runs are compiled and keep no lock, and replies are packed in pieces, so that the loop does not wait for them.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import Final

import numpy as np
from numpy.typing import NDArray

from twin.errors import MessageError, SpecError, TwinError
from twin.forecast import Present
from twin.messages import Spec, pack
from twin.questions import Reply, Request, Scenario, packed, request_in
from twin.realtime import stay_ordinary
from twin.requests import Answerer
from twin.twin import Twin

LISTEN_PERIOD_SEC: Final = 0.1
"""Time between two checks whether the thread is to end."""
PRESENT_TIMEOUT_SEC: Final = 1.0
"""Time for the loop to hand over the twin's present state."""
MAX_WORK_SHARE: Final = 0.5
"""Share of the time in which forecasts are computed: a flood of requests leaves the rest to the loop."""


class Forecaster(threading.Thread):
    """Replies to requests; the loop calls `serve` once in a while and hands over what they begin with."""

    def __init__(self, answerer: Answerer, spec: Spec) -> None:
        super().__init__(name="forecaster", daemon=True)
        self.spec = spec
        self.answered = 0
        self.refused = 0
        self._answerer = answerer
        self._wanted = False
        self._presents: queue.SimpleQueue[Present | SpecError] = queue.SimpleQueue()
        self._present: Present | None = None  # the last one, done with
        self._over = threading.Event()

    def serve(self, twin: Twin) -> None:
        """Hand over the twin's present if it is wanted; by the loop, between two samples."""
        if self._wanted:
            self._wanted = False
            try:
                self._presents.put(twin.present(self._present))
            except SpecError as error:
                self._presents.put(error)

    def run(self) -> None:
        """Reply until `stop`."""
        stay_ordinary()
        while not self._over.is_set():
            asked = self._answerer.recv(LISTEN_PERIOD_SEC)
            if asked is None:
                continue
            begun = time.monotonic()
            way, payload = asked
            try:
                reply = self._reply(request_in(payload))
                self.answered += 1
            except TwinError as error:
                reply = Reply(error=str(error)[:1000])
                self.refused += 1
            except (
                Exception
            ) as error:  # a thread that dies says nothing, and nobody would get a reply any more
                reply = Reply(error=f"no forecast: {error!r}"[:1000])
                self.refused += 1
            self._answerer.send(way, pack(reply))
            self._over.wait((time.monotonic() - begun) * (1 / MAX_WORK_SHARE - 1))

    def _reply(self, request: Request) -> Reply:
        spec, count = self.spec, len(request.scenarios)
        for scenario in request.scenarios:  # before anything is asked of the loop
            check_inputs(spec, scenario, request.steps)
        present = self._await_present()
        if present.predictor is None:
            raise MessageError("the twin has no model yet: ask again when its trainer has made one")
        u = np.repeat(present.u[None, None], count, axis=0).repeat(request.steps, axis=1)
        for s, scenario in enumerate(request.scenarios):
            for name, values in scenario.items():
                u[s, :, spec.inputs.index(name)] = values
        found = present.forecast(u)
        if not np.isfinite(found.y).all():
            raise MessageError("under these inputs the model's answers are no numbers any more")
        self._present = present
        forecasts = []
        for s in range(count):
            low, high = (found.low, found.high) if found.low is not None else (None, None)
            parts = {
                key: self._packed(values[s])
                for key, values in (("y", found.y), ("low", low), ("high", high))
                if values is not None
            }
            forecasts.append(Scenario(**parts))
        return Reply(
            t=present.t + 2 * spec.dt,
            dt=spec.dt,
            model=present.predictor.number,
            u=dict(zip(spec.inputs, present.u.tolist(), strict=True)),
            scenarios=forecasts,
        )

    def _packed(self, values: NDArray[np.float64]) -> dict[str, list[float]]:
        return {name: packed(values[:, i].tolist()) for i, name in enumerate(self.spec.outputs)}

    def _await_present(self) -> Present:
        while not self._presents.empty():  # one that came too late for the request before
            self._presents.get()
        self._wanted = True
        try:
            found = self._presents.get(timeout=PRESENT_TIMEOUT_SEC)
        except queue.Empty:
            self._present = None  # the loop may still be about to renew it
            raise MessageError("the twin is busy; ask again") from None
        if isinstance(found, SpecError):
            raise found
        return found

    def stop(self) -> None:
        """End it."""
        self._over.set()
        if self.is_alive():
            self.join()


def check_inputs(spec: Spec, scenario: dict[str, list[float]], steps: int) -> None:
    """Refuse inputs that the plant does not have, or of another length.

    Raises:
        SpecError: with what there is.
    """
    unknown = [name for name in scenario if name not in spec.inputs]
    if unknown:
        raise SpecError(f"no input is called {unknown[0][:64]}; the plant has {', '.join(spec.inputs)}")
    for name, values in scenario.items():
        if len(values) not in (1, steps):
            raise SpecError(
                f"{name} has {len(values)} values; one that stays, or {steps}, one a step, are needed"
            )
