"""Publishers and subscribers over real sockets."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from twin.address import endpoint, is_loopback, runtime_dir
from twin.bus import Publisher, Subscriber
from twin.errors import BusError
from twin.messages import Event, Message, Sample, Spec, pack
from twin.receipts import MAX_AHEAD_MESSAGES

SPEC = Spec(inputs=("voltage",), outputs=("speed",), dt=0.001)


@pytest.fixture(autouse=True)
def own_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def sample(seq: int) -> Sample:
    return SPEC.sample(seq, [1.0, 2.0])


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher(endpoint("motor-1", "plant"), "motor-1") as each:
        yield each


def test_samples_arrive_in_order_stamped_and_whole(publisher: Publisher) -> None:
    with Subscriber(publisher.endpoint, "sample/motor-1", Sample) as samples:
        assert publisher.wait_for(Sample, 1, 30) == 1
        for seq in range(1000):
            publisher.send(sample(seq))
        got = [samples.recv(20) for _ in range(1000)]
        assert [each.seq for each in got if each] == list(range(1000))
        first = got[0]
        assert first is not None and first.epoch == publisher.epoch
        assert 0 < time.monotonic_ns() - first.sent_ns < 10e9
        assert samples.recv(0.01) is None


def test_a_topic_is_matched_whole_and_a_slash_stands_for_all() -> None:
    address = endpoint("motor-1", "plant")
    with (
        Publisher(address, "motor-10") as publisher,
        Subscriber(address, "sample/motor-1", Sample) as one,
        Subscriber(address, "sample/", Sample) as all_,
    ):
        publisher.wait_for(Sample, 2, 30)
        publisher.send(sample(0))
        assert all_.recv(20) is not None
        deadline = time.monotonic() + 30
        while not one.rejected and time.monotonic() < deadline:
            assert one.recv(0.1) is None
        assert one.rejected == 1 and "not asked for" in one.fault


def test_latest_drains(publisher: Publisher) -> None:
    with Subscriber(publisher.endpoint, "sample/motor-1", Sample) as samples:
        publisher.wait_for(Sample, 1, 30)
        assert samples.latest() is None
        for seq in range(50):
            publisher.send(sample(seq))
        time.sleep(1.0)  # for all to come, on a machine that may be busy
        newest = samples.latest()
        assert newest is not None and newest.seq == 49
        assert samples.latest() is None


def test_iterating_gives_messages(publisher: Publisher) -> None:
    topics = ["event/motor-1", "sample/motor-1"]
    with Subscriber[Message](publisher.endpoint, topics) as messages:
        publisher.wait_for(Event, 1, 30)
        publisher.event("a", "first", 1.0, x=2)
        publisher.send(sample(0))
        publisher.event("b", "second")
        kinds = [next(iter(messages)) for _ in range(3)]
        events = [m for m in kinds if isinstance(m, Event)]
        assert [(e.name, e.seq) for e in events] == [("a", 0), ("b", 1)]
        assert events[0].figures == {"x": 2.0}


def test_foreign_frames_are_counted_and_do_not_disturb(publisher: Publisher) -> None:
    address = endpoint("motor-1", "twin")
    context = zmq.Context()
    raw = context.socket(zmq.PUB)
    raw.bind(address)
    with Subscriber(address, "sample/motor-1", Sample) as samples:
        name = b"sample/motor-1"
        bad = [[name], [name, b"junk"], [name, b"x", b"y"], [name, pack(Event(name="x", text=""))]]
        deadline = time.monotonic() + 30
        while samples.recv(0.01) is None and time.monotonic() < deadline:
            raw.send_multipart([name, pack(sample(0))])
        while samples.recv(0.5):  # the last of those may be on its way
            pass
        for frames in bad:
            raw.send_multipart(frames)
        raw.send_multipart([name, pack(sample(1))])
        got = samples.recv(20)
        assert got is not None and got.seq == 1
        assert samples.rejected == len(bad)
    raw.close()
    context.term()


def test_a_deaf_subscriber_hears_again_after_reconnect(publisher: Publisher) -> None:
    """One frame over the limit makes libzmq hang up for good (FAULTS 0.1)."""
    with Subscriber(publisher.endpoint, "sample/motor-1", Sample) as samples:
        publisher.wait_for(Sample, 1, 30)
        publisher._socket.send_multipart([b"sample/motor-1", b"\0" * (2 << 20)])
        time.sleep(0.2)
        publisher.send(sample(1))
        assert samples.recv(0.5) is None, "the trap is still there; if not, reconnect() may go"
        samples.reconnect()
        deadline, got = time.monotonic() + 30, None
        while got is None and time.monotonic() < deadline:
            publisher.send(sample(2))
            got = samples.recv(0.05)
        assert got is not None and got.seq == 2


def test_a_subscriber_outlives_its_publisher(publisher: Publisher) -> None:
    with Subscriber(publisher.endpoint, "sample/motor-1", Sample) as samples:
        publisher.wait_for(Sample, 1, 30)
        publisher.send(sample(5))
        assert samples.recv(20) is not None
        publisher.close()
        time.sleep(0.005)  # epochs are milliseconds
        with Publisher(publisher.endpoint, "motor-1") as second:
            deadline, got = time.monotonic() + 30, None
            while got is None and time.monotonic() < deadline:
                second.send(sample(0))
                got = samples.recv(0.05)
            assert got is not None and got.seq == 0 and got.epoch > publisher.epoch


def test_listeners_that_reconnect_or_leave_are_not_counted_twice(publisher: Publisher) -> None:
    with Subscriber(publisher.endpoint, "sample/motor-1", Sample) as samples:
        assert publisher.wait_for(Sample, 1, 30) == 1
        for _ in range(3):
            samples.reconnect()
            for _ in range(5):  # libzmq does its part of it while the socket is used
                samples.recv(0.02)
        assert publisher.wait_for(Sample, 2, 0.3) == 1
    deadline = time.monotonic() + 30
    while publisher.wait_for(Sample, 1, 0.05) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert publisher.wait_for(Sample, 1, 0.2) == 0


def test_a_lossless_publisher_waits_for_the_slowest(tmp_path: Path) -> None:
    address, total = endpoint("motor-1", "plant"), 2_000
    with Publisher(address, "motor-1", lossless=True) as publisher:
        fast = Subscriber(address, "sample/motor-1", Sample, lossless=True)
        slow = Subscriber(address, "sample/motor-1", Sample, lossless=True)
        assert publisher.wait_for(Sample, 2, 30) == 2
        sent, ahead = [0], [0]
        got: dict[str, list[int]] = {"fast": [], "slow": []}

        def read(name: str, samples: Subscriber[Sample]) -> None:
            while len(got[name]) < total and (message := samples.recv(20)) is not None:
                got[name].append(message.seq)
                if name == "slow":
                    ahead[0] = max(ahead[0], sent[0] - message.seq)
                    time.sleep(0.0002)

        threads = [threading.Thread(target=read, args=args) for args in (("fast", fast), ("slow", slow))]
        for thread in threads:
            thread.start()
        for seq in range(total):
            publisher.send(sample(seq))
            sent[0] = seq
        for thread in threads:
            thread.join()
        assert got["fast"] == got["slow"] == list(range(total))
        assert ahead[0] <= MAX_AHEAD_MESSAGES
        fast.close()
        slow.close()


def test_a_lossless_publisher_does_not_wait_for_ordinary_subscribers() -> None:
    address = endpoint("motor-1", "plant")
    with (
        Publisher(address, "motor-1", lossless=True) as publisher,
        Subscriber(address, "sample/motor-1", Sample) as ordinary,
    ):
        for seq in range(10 * MAX_AHEAD_MESSAGES):
            publisher.send(sample(seq))
        del ordinary


def test_a_second_publisher_is_refused_and_the_first_goes_on(publisher: Publisher) -> None:
    with pytest.raises(BusError, match=f"in use by process {os.getpid()}.*--source"):
        Publisher(publisher.endpoint, "motor-1")
    with Subscriber(publisher.endpoint, "sample/motor-1", Sample) as samples:
        publisher.wait_for(Sample, 1, 30)
        publisher.send(sample(1))
        assert samples.recv(20) is not None


def test_a_killed_publisher_s_endpoint_can_be_taken_again() -> None:
    address = endpoint("motor-1", "plant")
    code = (
        "import time; from twin.bus import Publisher\n"
        f"publisher = Publisher({address!r}, 'motor-1')\n"
        "print('up', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline()
    with pytest.raises(BusError, match=str(holder.pid)):
        Publisher(address, "motor-1")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    Publisher(address, "motor-1").close()


def test_closing_leaves_no_file(publisher: Publisher) -> None:
    place = runtime_dir("motor-1")
    assert sorted(p.name for p in place.iterdir()) == ["plant", "plant.lock"]
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    publisher.close()
    assert not place.exists()


def test_a_port_in_use_is_named() -> None:
    context = zmq.Context()
    holder = context.socket(zmq.PUB)
    port = holder.bind_to_random_port("tcp://127.0.0.1")
    with pytest.raises(BusError, match=f"{port} is in use"):
        Publisher(f"tcp://127.0.0.1:{port}", "motor-1")
    holder.close()
    context.term()


@pytest.mark.parametrize(
    "address", ["nonsense", "tcp://", "tcp://127.0.0.1", "http://x:1", "ipc:///nowhere/at/all/x"]
)
def test_an_endpoint_that_is_none_is_refused_with_advice(address: str) -> None:
    if os.getuid() == 0 and address.startswith("ipc"):
        address = "ipc:///proc/nowhere/x"
    with pytest.raises(BusError, match=r"tcp://|another endpoint"):
        Publisher(address, "motor-1")


def test_a_subscriber_refuses_such_an_endpoint_too() -> None:
    with pytest.raises(BusError, match="tcp://HOST:PORT"):
        Subscriber("nonsense", "sample/motor-1", Sample)


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BusError, match="shorten"):
        Publisher(f"ipc://{tmp_path}/{'x' * 120}", "motor-1")


def test_a_runtime_directory_open_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "livetwin").mkdir(mode=0o777)
    (tmp_path / "livetwin").chmod(0o777)
    with pytest.raises(BusError, match="yours alone"):
        endpoint("motor-1", "plant")


def test_a_slow_subscriber_costs_the_publisher_nothing(publisher: Publisher) -> None:
    with Subscriber(publisher.endpoint, "sample/motor-1", Sample) as never_reads:
        publisher.wait_for(Sample, 1, 30)
        for seq in range(80_000):  # more than the queue holds
            publisher.send(sample(seq))
        del never_reads


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("ipc:///x", True),
        ("tcp://127.0.0.1:1", True),
        ("tcp://localhost:1", True),
        ("tcp://[::1]:1", True),
        ("tcp://0.0.0.0:1", False),
        ("tcp://*:1", False),
        ("tcp://10.0.0.1:1", False),
        ("tcp://127.0.0.1.example:1", False),
        ("tcp://localhost.example:1", False),
    ],
)
def test_what_is_local(address: str, local: bool) -> None:
    assert is_loopback(address) is local


def test_kinds_are_checked(publisher: Publisher) -> None:
    with Subscriber(publisher.endpoint, ["sample/motor-1", "spec/motor-1"], Spec) as specs:
        publisher.wait_for(Spec, 1, 30)
        publisher.send(sample(0))
        publisher.send(SPEC)
        got: Message | None = specs.recv(20)
        assert isinstance(got, Spec)
        assert specs.rejected == 1


def test_a_lossless_publisher_does_not_wait_for_who_has_left() -> None:
    address = endpoint("motor-1", "plant")
    with (
        Publisher(address, "motor-1", lossless=True) as publisher,
        Subscriber(address, "sample/motor-1", Sample, lossless=True) as stays,
    ):
        leaves = Subscriber(address, "sample/motor-1", Sample, lossless=True)
        assert publisher.wait_for(Sample, 2, 30) == 2
        got: list[int] = []

        def read() -> None:
            while len(got) < 1_000 and (message := stays.recv(20)) is not None:
                got.append(message.seq)
                if message.seq == 0:
                    leaves.recv(1)
                if message.seq == 10:
                    leaves.close()

        thread = threading.Thread(target=read)
        thread.start()
        begun = time.monotonic()
        for seq in range(1_000):
            publisher.send(sample(seq))
        thread.join()
        assert got == list(range(1_000))
        assert time.monotonic() - begun < 20, "the patience for a reader that hangs is 30 s"


def test_a_lossless_publisher_that_is_told_to_stop_does_not_wait() -> None:
    address = endpoint("motor-1", "plant")
    stop: list[bool] = []
    with (
        Publisher(address, "motor-1", lossless=True, stop=stop) as publisher,
        Subscriber(address, "sample/motor-1", Sample, lossless=True) as hangs,
    ):
        assert publisher.wait_for(Sample, 1, 30) == 1
        threading.Timer(0.3, stop.append, [True]).start()
        for seq in range(10 * MAX_AHEAD_MESSAGES):
            publisher.send(sample(seq))
        assert stop
        del hangs


def test_newcomers_are_told_once_each(publisher: Publisher) -> None:
    with Subscriber(publisher.endpoint, ["spec/motor-1", "sample/motor-1"]):
        publisher.wait_for(Sample, 1, 30)
        assert sorted(publisher.newcomers()) == ["sample/motor-1", "spec/motor-1"]
        assert publisher.newcomers() == []


def test_a_lossless_subscriber_does_not_reconnect() -> None:
    """What is on its way would be lost, and the publisher would take it for one that has left."""
    address = endpoint("motor-1", "plant")
    with (
        Publisher(address, "motor-1", lossless=True) as publisher,
        Subscriber(address, "sample/motor-1", Sample, lossless=True) as samples,
    ):
        assert publisher.wait_for(Sample, 1, 30) == 1
        got: list[int] = []

        def read() -> None:
            while len(got) < 1_000 and (message := samples.recv(20)) is not None:
                got.append(message.seq)
                if message.seq % 100 == 0:
                    samples.reconnect()

        thread = threading.Thread(target=read)
        thread.start()
        for seq in range(1_000):
            publisher.send(sample(seq))
        thread.join()
        assert got == list(range(1_000))
