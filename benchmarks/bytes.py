"""`bytes`: from the bytes of a sample to the bytes of its prediction, paced, inside a twin's loop.

A program of its own, `python -m benchmarks.bytes`. A plant sends samples at 1 kHz over a Unix socket; the
loop sleeps in between, so caches are as cold as they are at work. What is timed begins when the socket says
that a sample is there and ends when its prediction is handed to the socket that sends it: two receiving and
two sending calls, decoding, the step, intervals and alarms, encoding. The wake-up itself is the system's.

With `--against PATH` another checkout runs the same probe beside this one; both live all the time, and the
plant sends to one and the other in turn, so that what else the machine does meets both.
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
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from simulators import SensorNoise, default_load, default_voltage, motor, signal, simulate

SOURCE: Final = "bytes"
RATE_HZ: Final = 1_000.0
WARM_SAMPLES: Final = 400
"""Answered before the first one that counts: a window, and enough residuals for an interval."""
FAMILIES: Final = ("gru", "physics")


# -- the probe: a twin's loop, with a clock ----------------------------------------------------------


def probe(folder: Path, family: str, count: int) -> None:
    """Answer `count` samples, and write what each took, ns, beside the sockets."""
    import zmq

    from twin.bus import Publisher, Subscriber
    from twin.checkpoint import load, path_of
    from twin.messages import Sample
    from twin.twin import Twin

    checkpoint = load(path_of(folder.parent / family, 1))
    twin = Twin(checkpoint.spec, window=100, adapt=True)
    twin.refresh(checkpoint)
    twin.catch_up()
    took = np.zeros(count, np.int64)
    clock = time.perf_counter_ns
    with (
        Publisher(f"ipc://{folder}/twin", SOURCE) as publisher,
        Subscriber(f"ipc://{folder}/plant", f"sample/{SOURCE}", Sample) as stream,
    ):
        turn = turn_of(twin, stream, publisher)
        gc.freeze()
        for k in range(count):
            if not stream._socket.poll(300_000, zmq.POLLIN):
                raise SystemExit("no sample came")
            begun = clock()
            turn()
            took[k] = clock() - begun
            twin.catch_up()
        np.save(folder / "took.npy", took)
    assert twin.counters.answered == count and twin.status == "following", twin.counters


def turn_of(twin: Any, stream: Any, publisher: Any) -> Callable[[], None]:
    """What a twin's loop does from a sample's bytes to its prediction's, as this checkout does it."""

    def general() -> None:
        message = stream.recv(0.1)
        received_ns = time.monotonic_ns()
        publisher.send(twin.step(message, received_ns))

    if not hasattr(twin, "take"):
        return general
    samples, predictions = f"sample/{SOURCE}".encode(), f"prediction/{SOURCE}".encode()

    def plain() -> None:
        frame = stream.recv_frame(samples, 0.1)
        received_ns = time.monotonic_ns()
        if twin.take(frame):
            publisher.send_frame(predictions, twin.answer(publisher.epoch, received_ns, time.monotonic_ns()))
        else:
            publisher.send(twin.step(stream.read(samples, frame), received_ns))

    return plain


# -- the plant, and the comparison -------------------------------------------------------------------


def save_models(folder: Path) -> None:
    """A model of each family with weights that answer finite numbers."""
    from benchmarks.processes import new_checkpoint
    from twin.checkpoint import Checkpoint, save
    from twin.models.opening import new_model
    from twin.models.scaling import Scaling

    save(folder / "gru", new_checkpoint())
    spec = new_checkpoint().spec
    z = np.random.default_rng(0).normal(size=(100, len(spec.features)))
    model = new_model("physics", spec, Scaling.of(z, len(spec.outputs)), seed=1)
    save(folder / "physics", Checkpoint(1, None, model.family, model.sizes, spec, model.tensors()))


def measure(trees: list[Path], family: str, rounds: int, seconds: float) -> list[list[dict[str, float]]]:
    """Percentiles in µs of each round, of each tree: [tree][round]."""
    import zmq

    from twin.bus import Publisher
    from twin.messages import Sample
    from twin.pacer import Pacer

    each = round(seconds * RATE_HZ)
    count = WARM_SAMPLES + rounds * each
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lt")))
        save_models(root)
        places, probes, plants, sockets = [], [], [], []
        context = stack.enter_context(zmq.Context())
        for i, tree in enumerate(trees):
            place = root / str(i)
            place.mkdir()
            code = f"import runpy; runpy.run_path({str(Path(__file__).resolve())!r}, run_name='__main__')"
            arguments = ["--probe", str(place), "--family", family, "--count", str(count)]
            threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
            probes.append(
                subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=tree, env=os.environ | threads)
            )
            stack.callback(probes[-1].kill)
            plants.append(stack.enter_context(Publisher(f"ipc://{place}/plant", SOURCE)))
            socket = stack.enter_context(context.socket(zmq.SUB))
            socket.linger = 0
            socket.connect(f"ipc://{place}/twin")
            socket.subscribe(b"")
            sockets.append(socket)
            places.append(place)
        streams = [iter(samples()) for _ in trees]

        def send(i: int, n: int) -> None:
            pacer = Pacer(1 / RATE_HZ)
            for _ in range(n):
                pacer.wait()
                seq, u, y = next(streams[i])
                plants[i].send(Sample(seq=seq, t=seq / RATE_HZ, u=u, y=y))
                while sockets[i].poll(0):
                    sockets[i].recv_multipart()

        for i in range(len(trees)):
            if plants[i].wait_for(Sample, 1, 300.0) < 1:
                raise SystemExit(f"the probe in {trees[i]} does not listen")
            time.sleep(0.5)
            send(i, WARM_SAMPLES)
        for k in range(rounds):
            for i in range(len(trees)) if k % 2 == 0 else reversed(range(len(trees))):
                send(i, each)
        found = []
        for place, process in zip(places, probes, strict=True):
            if process.wait(60.0):
                raise SystemExit("a probe failed")
            took = np.load(place / "took.npy")[WARM_SAMPLES:].reshape(rounds, each) / 1e3
            found.append(
                [
                    dict(zip(("p50", "p90", "p99"), np.percentile(row, (50, 90, 99)).tolist(), strict=True))
                    for row in took
                ]
            )
        return found


def samples() -> Iterator[tuple[int, dict[str, float], dict[str, float]]]:
    """seq, u and y of the default motor's samples, over and over."""
    plant = motor()
    voltage, load = signal(default_voltage(plant), 1), signal(default_load(plant), 2)
    noise = SensorNoise.of(plant)
    recorded = [(s.u, s.y) for s in islice(simulate(plant, voltage=voltage, load=load, noise=noise), 2_000)]
    for seq, (u, y) in enumerate(cycle(recorded)):
        yield seq, u, y


def main() -> None:
    """Measure, and print a line for each family."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="another checkout, measured in turn with this one")
    parser.add_argument("--family", choices=FAMILIES, help="only this one")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a round")
    parser.add_argument("--probe", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.probe:
        probe(asked.probe, asked.family, asked.count)
        return
    trees = [Path.cwd()] + ([asked.against.resolve()] if asked.against else [])
    for family in [asked.family] if asked.family else FAMILIES:
        found = measure(trees, family, asked.rounds, asked.seconds)
        for tree, rounds in zip(trees, found, strict=True):
            print(
                family,
                tree,
                {q: round(statistics.median(r[q] for r in rounds), 2) for q in ("p50", "p90", "p99")},
                flush=True,
            )
        if len(found) > 1:
            ratios = [a["p50"] / b["p50"] for a, b in zip(*found, strict=True)]
            print(family, "ratio of p50:", round(statistics.median(ratios), 3), flush=True)


if __name__ == "__main__":
    main()
