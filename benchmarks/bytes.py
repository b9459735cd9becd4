"""From the bytes of a sample to the bytes of its prediction, paced, inside a twin's loop.

A program of its own, `python -m benchmarks.bytes`. A plant sends samples at 1 kHz over a Unix socket; the
loop sleeps in between, so caches are as cold as they are at work. What is timed begins when the socket says
that a sample is there and ends when its prediction is handed to the socket that sends it: two receiving and
two sending calls, decoding, the step, intervals and alarms, encoding. The floor is the four calls alone, with
frames as large: what the system and libzmq cost at this moment. The wake-up itself is nobody's.

With `--against PATH` another checkout runs the same probe beside this one. All probes live all the time, and
the plant sends to one after the other in turn, so that what else the machine does meets all of them.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import zmq

from simulators import SensorNoise, default_load, default_voltage, motor, signal, simulate
from twin.bus import Publisher, Subscriber
from twin.checkpoint import Checkpoint, load, path_of, save
from twin.messages import Sample
from twin.pacer import Pacer
from twin.twin import Twin

SOURCE: Final = "bytes"
RATE_HZ: Final = 1_000.0
WARM_SAMPLES: Final = 400
"""Answered before the first one that counts: a window, and enough residuals for an interval."""
PREDICTION_BYTES: Final = 270
"""Of what the floor sends: as large as a prediction of two outputs with intervals."""
START_SEC: Final = 300
"""For a probe to be there: it may have to compile."""
FAMILIES: Final = ("gru", "physics")
BACKEND: Final = "compiled"
PERCENTILES: Final = (50, 90, 99)

Turn = Callable[[], None]


# -- a probe: a twin's loop, with a clock ------------------------------------------------------------


def probe(place: Path, family: str, count: int, *, floor: bool) -> None:
    """Answer `count` samples, and write what each took, ns, beside the sockets."""
    checkpoint = load(path_of(place.parent / family, 1))
    twin = Twin(checkpoint.spec, window=100, backend=BACKEND, adapt=True)
    twin.refresh(checkpoint)
    twin.catch_up()
    took, clock = np.zeros(count, np.int64), time.perf_counter_ns
    with (
        Publisher(f"ipc://{place}/twin", SOURCE) as publisher,
        Subscriber(f"ipc://{place}/plant", f"sample/{SOURCE}", Sample) as stream,
    ):
        turn = calls_alone(stream, publisher) if floor else answering(twin, stream, publisher)
        gc.freeze()
        for k in range(count):
            if not stream._socket.poll(1_000 * START_SEC):
                raise SystemExit("no sample came")
            begun = clock()
            turn()
            took[k] = clock() - begun
            twin.catch_up()
        np.save(place / "took.npy", took)
    assert floor or (twin.counters.answered == count and twin.status == "following"), twin.counters


def answering(twin: Any, stream: Any, publisher: Any) -> Turn:
    """What a twin's loop does from a sample's bytes to its prediction's, as this checkout does it."""

    def decoded() -> None:
        message = stream.recv(0.1)
        received_ns = time.monotonic_ns()
        publisher.send(twin.step(message, received_ns))

    if not hasattr(twin, "take"):  # an older checkout
        return decoded
    samples, predictions = f"sample/{SOURCE}".encode(), f"prediction/{SOURCE}".encode()

    def from_bytes() -> None:
        frame = stream.recv_frame(samples, 0.1)
        received_ns = time.monotonic_ns()
        if twin.take(frame):
            answer = twin.answer(publisher.epoch, received_ns, time.monotonic_ns())
            publisher.send_frame(predictions, answer)
        else:
            publisher.send(twin.step(stream.read(samples, frame), received_ns))

    return from_bytes


def calls_alone(stream: Any, publisher: Any) -> Turn:
    """Two receiving and two sending calls, by the shortest way that pyzmq has."""
    receive, send = stream._socket.recv, super(zmq.Socket, publisher._socket).send
    name, payload = f"prediction/{SOURCE}".encode(), bytes(PREDICTION_BYTES)

    def turn() -> None:
        receive()
        receive()
        send(name, zmq.SNDMORE)
        send(payload)

    return turn


# -- the plant, and the comparison -------------------------------------------------------------------


@dataclass
class Side:
    """One of those that are compared: a probe in a checkout, and the plant and the listener it
    talks to."""

    name: str
    process: subprocess.Popen[bytes]
    plant: Publisher
    listener: zmq.Socket[bytes]
    place: Path
    samples: Iterator[Sample] = field(default_factory=lambda: endless(recorded()))

    def send(self, count: int) -> None:
        """Send so many samples at their times, and take in what comes."""
        pacer = Pacer(1 / RATE_HZ)
        for sample in islice(self.samples, count):
            pacer.wait()
            self.plant.send(sample)
            while int(self.listener.get(zmq.EVENTS)) & zmq.POLLIN:
                self.listener.recv_multipart()


def recorded() -> list[list[float]]:
    """Rows (F,) of some samples of the default motor."""
    plant = motor()
    voltage, load = signal(default_voltage(plant)), signal(default_load(plant), seed=2)
    stream = simulate(plant, voltage=voltage, load=load, noise=SensorNoise.of(plant), dt=1 / RATE_HZ)
    spec = plant.spec(1 / RATE_HZ)
    return [row for sample in islice(stream, 2_000) if (row := spec.row(sample)) is not None]


def endless(rows: list[list[float]]) -> Iterator[Sample]:
    """Samples with these rows over and over, numbered on."""
    spec = motor().spec(1 / RATE_HZ)
    return (spec.sample(seq, row) for seq, row in enumerate(cycle(rows)))


def save_models(folder: Path) -> None:
    """A model of each family as it begins; what its weights are makes no difference to the time."""
    from twin.models.opening import new_model  # which other checkouts may have elsewhere
    from twin.models.scaling import Scaling

    spec = motor().spec(1 / RATE_HZ)
    z = np.array(recorded())
    for family in FAMILIES:
        sizes = {"hidden_size": 32, "taps": 8} if family == "gru" else {}
        model = new_model(family, spec, Scaling.of(z, len(spec.outputs)), seed=1, **sizes)
        save(folder / family, Checkpoint(1, None, family, model.sizes, spec, model.tensors()))


def measure(
    trees: Sequence[Path], family: str, rounds: int, seconds: float
) -> dict[str, list[dict[str, float]]]:
    """Percentiles in µs, of each round, of each checkout, and of the floor."""
    each = round(seconds * RATE_HZ)
    count = WARM_SAMPLES + rounds * each
    code = f"import runpy; runpy.run_path({str(Path(__file__).resolve())!r}, run_name='__main__')"
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lt")))
        save_models(root)
        context = stack.enter_context(zmq.Context())
        sides: list[Side] = []
        for name, tree in [(str(tree), tree) for tree in trees] + [("floor", trees[0])]:
            place = root / str(len(sides))
            place.mkdir()
            plain = ["--probe", place, "--family", family, "--count", count, *["--floor"] * (name == "floor")]
            process = subprocess.Popen(
                [sys.executable, "-c", code, *map(str, plain)], cwd=tree, env=os.environ | threads
            )
            stack.callback(process.kill)
            plant = stack.enter_context(Publisher(f"ipc://{place}/plant", SOURCE))
            listener = stack.enter_context(context.socket(zmq.SUB))
            listener.linger = 0
            listener.connect(f"ipc://{place}/twin")
            listener.subscribe(b"")
            sides.append(Side(name, process, plant, listener, place))
        for side in sides:
            if side.plant.wait_for(Sample, 1, START_SEC) < 1:
                raise SystemExit(f"the probe in {side.name} does not listen")
            side.send(WARM_SAMPLES)
        for k in range(rounds):
            for side in sides if k % 2 == 0 else reversed(sides):
                side.send(each)
        found = {}
        for side in sides:
            if side.process.wait(60.0):
                raise SystemExit(f"the probe in {side.name} failed")
            took = np.load(side.place / "took.npy")[WARM_SAMPLES:].reshape(rounds, each) / 1e3
            found[side.name] = [
                {f"p{q}": float(value) for q, value in zip(PERCENTILES, row, strict=True)}
                for row in np.percentile(took, PERCENTILES, axis=1).T
            ]
        return found


def median(rounds: list[dict[str, float]], name: str) -> float:
    """Of a percentile over the rounds."""
    return statistics.median(each[name] for each in rounds)


def show(family: str, found: dict[str, list[dict[str, float]]]) -> None:
    """A line for each side, and how the first compares with the others."""
    print(f"{family}, {BACKEND}, {RATE_HZ:g} Hz, {len(os.sched_getaffinity(0))} cores; µs")
    for name, rounds in found.items():
        print("  ", *(f"p{q} {median(rounds, f'p{q}'):7.1f} " for q in PERCENTILES), name)
    here, *others = found.values()
    for name, rounds in zip(list(found)[1:], others, strict=True):
        ratios = [
            statistics.median(a[f"p{q}"] / b[f"p{q}"] for a, b in zip(here, rounds, strict=True))
            for q in PERCENTILES
        ]
        print("   here over", name, *(f"p{q} {r:.2f}" for q, r in zip(PERCENTILES, ratios, strict=True)))
    sys.stdout.flush()


def main() -> None:
    """Measure, and print a paragraph for each family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout, measured in turn with this one")
    parser.add_argument("--family", choices=FAMILIES, help="only this one")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a round")
    parser.add_argument("--probe", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--floor", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.probe:
        probe(asked.probe, asked.family, asked.count, floor=asked.floor)
        return
    trees = [Path(__file__).parent.parent, *([asked.against.resolve()] if asked.against else [])]
    for family in [asked.family] if asked.family else FAMILIES:
        show(family, measure(trees, family, asked.rounds, asked.seconds))


if __name__ == "__main__":
    main()
