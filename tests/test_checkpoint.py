"""A checkpoint on disk is whole or refused: damage, foreign files, and processes killed while they save."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy

from twin import checkpoint as module
from twin.checkpoint import KEPT_CHECKPOINTS, Checkpoint, load, newest, numbers, path_of, prune, save
from twin.errors import CheckpointError
from twin.families import FAMILIES, sizes_of, tensor_shapes
from twin.manifest import decode, encode
from twin.messages import Spec

SPEC = Spec(inputs=("voltage",), outputs=("current", "speed"), dt=0.001, units={"speed": "rad/s"})
FILES = ("weights.safetensors", "manifest.json")


def checkpoint(number: int = 1, family: str = "gru", **changes: Any) -> Checkpoint:
    sizes = sizes_of(family, inputs=1, outputs=2, hidden_size=2, layers=1, window=3)
    rng = np.random.default_rng(number)
    made = Checkpoint(
        number=number,
        parent=number - 1 or None,
        family=family,
        sizes=sizes,
        spec=SPEC,
        tensors={
            name: np.array([0.001, 1, 0], np.float32)  # a period, and the columns of current and speed
            if name.endswith("clock")
            else rng.uniform(0.1, 1.0, shape).astype(np.float32)
            for name, shape in tensor_shapes(family, sizes).items()
        },
        config={"learning_rate": 0.01, "segments": [1, 2]},
        metrics={"skill.speed": 0.9},
    )
    return replace(made, **changes)


def forge(path: Path, weights: dict[str, npt.NDArray[Any]] | bytes, **changes: Any) -> None:
    """Write what someone who knows the format could: other content, and all hashes right."""
    content = weights if isinstance(weights, bytes) else safetensors.numpy.save(weights)
    (path / FILES[0]).write_bytes(content)
    manifest = decode((path / FILES[1]).read_bytes())
    digest = hashlib.sha256(content).hexdigest()
    manifest = msgspec.structs.replace(manifest, **{"weights_sha256": digest, "seal": "0" * 64, **changes})
    (path / FILES[1]).write_bytes(encode(manifest))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_saved_comes_back(family: str, tmp_path: Path) -> None:
    made = checkpoint(12, family)
    path = save(tmp_path / "runs" / "motor", made)
    assert path.name == "000012"
    assert sorted(p.name for p in path.iterdir()) == sorted(FILES)
    found = load(path)
    assert (found.number, found.parent, found.family, found.sizes) == (12, 11, family, made.sizes)
    assert (found.spec, found.config, found.metrics) == (SPEC, made.config, made.metrics)
    assert found.created.endswith("+00:00")
    assert set(found.tensors) == set(made.tensors)
    assert all(np.array_equal(found.tensors[name], a) for name, a in made.tensors.items())


def test_the_manifest_is_for_people_too(tmp_path: Path) -> None:
    text = json.loads((save(tmp_path, checkpoint()) / FILES[1]).read_text())
    assert text["spec"]["outputs"] == ["current", "speed"]
    assert set(text["scaling"]) == {"mean", "scale", "increment_scale"}


def test_numbers_are_read_from_names_alone(tmp_path: Path) -> None:
    assert numbers(tmp_path / "nowhere") == []
    for name in (
        "000002",
        "000010",
        "1000000",
        "0000003",
        "12",
        "000000",
        "latest",
        ".000004.tmp-1",
        "٠٠٠٠٠٥",
    ):
        (tmp_path / name).mkdir()
    assert numbers(tmp_path) == [2, 10, 1_000_000]
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="run directory"):
        numbers(tmp_path / "file")


def test_a_number_is_never_overwritten(tmp_path: Path) -> None:
    path = save(tmp_path, checkpoint(1))
    before = {name: (path / name).read_bytes() for name in FILES}
    with pytest.raises(CheckpointError, match="never overwritten: take the next number"):
        save(tmp_path, checkpoint(1, "lstm"))
    (tmp_path / "000002").mkdir()  # an empty folder would be replaced by a rename without a word
    with pytest.raises(CheckpointError, match="never overwritten"):
        save(tmp_path, checkpoint(2))
    assert {name: (path / name).read_bytes() for name in FILES} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000001", "000002"]


def test_the_newest_stay_and_those_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_CHECKPOINTS", 3)
    for number in range(1, 8):
        save(tmp_path, checkpoint(number))
    (tmp_path / "notes").mkdir()
    assert prune(tmp_path, {2, None}) == [1, 3, 4]
    assert numbers(tmp_path) == [2, 5, 6, 7]
    assert {entry.name for entry in tmp_path.iterdir()} == {"000002", "000005", "000006", "000007", "notes"}
    assert prune(tmp_path, {2}) == [] and prune(tmp_path / "nowhere") == []
    assert KEPT_CHECKPOINTS > 24, "a run's checkpoints of a minute or so"


def test_the_newest_that_verifies_is_found_and_the_refused_are_told(tmp_path: Path) -> None:
    assert newest(tmp_path) == (None, [])
    for number in (1, 2, 3, 4):
        save(tmp_path, checkpoint(number))
    (tmp_path / "000004" / FILES[0]).write_bytes(b"")
    (tmp_path / "000003" / FILES[1]).unlink()
    found, refused = newest(tmp_path, SPEC)
    assert found is not None
    assert found.number == 2
    assert [str(error).split(":")[0][-6:] for error in refused] == ["000004", "000003"]
    assert "Delete that folder; the one before it, 000002, is used then" in str(refused[1])


def test_another_plant_s_checkpoint_names_both_and_the_remedy(tmp_path: Path) -> None:
    save(tmp_path, checkpoint(1))
    for other in (
        Spec(inputs=("voltage",), outputs=("speed", "current"), dt=0.001),
        Spec(inputs=("voltage",), outputs=("current", "speed"), dt=0.002),
    ):
        with pytest.raises(CheckpointError, match=r"voltage -> current, speed every 0\.001 s") as caught:
            newest(tmp_path, other)
        assert f"{', '.join(other.outputs)} every {other.dt} s" in str(caught.value)
        assert "--run-dir" in str(caught.value)


@pytest.mark.parametrize("file", FILES)
def test_every_truncation_and_anything_appended_is_refused(file: str, tmp_path: Path) -> None:
    path = save(tmp_path, checkpoint())
    whole = (path / file).read_bytes()
    damaged = [whole[:n] for n in range(0, len(whole), 7)] + [whole[:-1], whole + b"\0", whole + whole]
    for content in damaged:
        (path / file).write_bytes(content)
        with pytest.raises(CheckpointError, match=file):
            load(path)
    (path / file).write_bytes(whole)
    load(path)


def test_two_thousand_flipped_bits_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, checkpoint())
    contents = {file: (path / file).read_bytes() for file in FILES}
    rng = np.random.default_rng(7)
    for k in range(2_000):
        file = FILES[k % 2]
        damaged = bytearray(contents[file])
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        (path / file).write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load(path)
        (path / file).write_bytes(contents[file])
    load(path)


def test_safetensors_alone_would_have_taken_most_flipped_bits(tmp_path: Path) -> None:
    """The control of the test above: this is what the hashes are for."""
    whole = (save(tmp_path, checkpoint()) / FILES[0]).read_bytes()
    taken = 0
    for place in range(len(whole) - 100, len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        taken += len(safetensors.numpy.load(bytes(damaged))) > 0
    assert taken == 100


def headed(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + bytes(64)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04K\x01.",  # a pickle
        b"PK\x03\x04" + bytes(100),  # a zip, as torch.save writes
        headed(b"{}", length=2**63),
        headed(b"{}", length=10_000_000_000),
        headed(b"{}", length=1_000),
        headed(b"not json"),
        headed(b'{"mean":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}'),
        headed(b'{"mean":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,64]}}'),
        headed(b'{"mean":{"dtype":"BF16","shape":[32],"data_offsets":[0,64]}}'),
        headed(b"[" * 100_000),
    ],
    ids=range(11),
)
def test_weights_that_lie_are_refused_though_the_hashes_are_right(content: bytes, tmp_path: Path) -> None:
    path = save(tmp_path, checkpoint())
    forge(path, content)
    with pytest.raises(CheckpointError):
        load(path)


def with_nan(a: npt.NDArray[Any]) -> npt.NDArray[Any]:
    a = a.copy()
    a.flat[-1] = np.nan
    return a


@pytest.mark.parametrize(
    ("name", "change", "word"),
    [
        ("core.net.weight_hh_l0", with_nan, "not finite"),
        ("core.readout.bias", lambda a: a + np.float32(np.inf), "not finite"),
        ("core.net.weight_ih_l0", lambda a: a[:-1], "float32"),
        ("core.net.weight_ih_l0", np.transpose, "float32"),
        ("core.readout.bias", lambda a: a.astype(np.float64), "float64"),
        ("mean", lambda a: a.astype(np.float16), "float16"),
        ("scale", lambda a: a * 0, "not positive"),
        ("increment_scale", np.negative, "not positive"),
    ],
    ids=range(8),
)
def test_wrong_tensors_are_neither_saved_nor_loaded(
    name: str, change: Callable[[Any], Any], word: str, tmp_path: Path
) -> None:
    good = checkpoint()
    tensors = {**good.tensors, name: np.ascontiguousarray(change(good.tensors[name]))}
    with pytest.raises(CheckpointError, match=word):
        save(tmp_path, replace(good, tensors=tensors))
    assert list(tmp_path.iterdir()) == []
    path = save(tmp_path, good)
    forge(path, tensors)
    with pytest.raises(CheckpointError, match=f"{name}.*{word}"):
        load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"number": 2},
        {"number": 10**14},
        {"family": "transformer"},
        {"family": "lstm"},
        {"sizes": {}},
        {"sizes": {"inputs": 1, "outputs": 2, "hidden_size": 10**12, "layers": 1}},
        {"sizes": {"inputs": 1, "outputs": 2, "hidden_size": 2, "layers": -1}},
        {"spec": Spec(inputs=("voltage",), outputs=("speed",), dt=0.001)},
        {"spec": Spec(inputs=("voltage",), outputs=("speed", "speed"), dt=0.001)},
        {"spec": Spec(inputs=("voltage",), outputs=("current", "speed"), dt=-1.0)},
        {"format": 2},
        {"weights_sha256": ""},
        {"weights_sha256": "ä" * 64},
    ],
    ids=str,
)
def test_a_manifest_that_lies_is_refused_though_its_seal_is_right(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    path = save(tmp_path, checkpoint())
    forge(path, dict(checkpoint().tensors), **changes)
    with pytest.raises(CheckpointError):
        load(path)


def test_tensors_missing_or_unknown_are_named(tmp_path: Path) -> None:
    good = checkpoint()
    tensors = {name: a for name, a in good.tensors.items() if name != "mean"}
    with pytest.raises(CheckpointError, match=r"missing or unknown: extra, mean"):
        save(tmp_path, replace(good, tensors={**tensors, "extra": np.zeros(1, np.float32)}))


@pytest.mark.parametrize(
    "changes",
    [
        {"number": 0},
        {"metrics": {"skill": float("nan")}},
        {"metrics": {"skill": float("inf")}},
        {"config": {"plant": object()}},
    ],
    ids=range(4),  # an object's own name is another in each process
)
def test_what_could_not_be_loaded_again_is_not_saved(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        save(tmp_path, checkpoint(**changes))
    assert list(tmp_path.iterdir()) == []


def test_too_much_is_neither_saved_nor_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, checkpoint(1))
    monkeypatch.setattr(module, "MAX_WEIGHTS_BYTES", 100)
    with pytest.raises(CheckpointError, match="smaller model"):
        save(tmp_path, checkpoint(2))
    with pytest.raises(CheckpointError, match="larger than 100 bytes"):
        load(path)


@pytest.mark.parametrize("file", FILES)
def test_links_pipes_and_folders_are_not_files(file: str, tmp_path: Path) -> None:
    path = save(tmp_path, checkpoint())
    elsewhere = (path / file).rename(tmp_path / "elsewhere")
    (path / file).symlink_to(elsewhere)
    with pytest.raises(CheckpointError, match=file):
        load(path)
    (path / file).unlink()
    os.mkfifo(path / file)
    with pytest.raises(CheckpointError, match="not a regular file"):
        load(path)
    (path / file).unlink()
    (path / file).mkdir()
    with pytest.raises(CheckpointError, match=file):
        load(path)


def test_a_folder_elsewhere_is_not_followed(tmp_path: Path) -> None:
    path = save(tmp_path / "other", checkpoint())
    (tmp_path / "000001").symlink_to(path)
    with pytest.raises(CheckpointError, match="not a folder of its own"):
        load(tmp_path / "000001")
    with pytest.raises(CheckpointError, match="not a folder of its own"):
        load(tmp_path / "000002")


def test_what_dead_processes_left_is_swept_and_what_living_ones_write_is_not(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stale = tmp_path / f".000001.tmp-{dead.pid}"
    living = tmp_path / f".000001.tmp-{os.getppid()}"
    own = tmp_path / f".000009.tmp-{os.getpid()}"
    foreign = tmp_path / ".000001.tmp-x"
    for folder in (stale, living, own, foreign):
        folder.mkdir()
        (folder / FILES[0]).write_bytes(b"half")
    save(tmp_path, checkpoint(1))
    assert [folder.exists() for folder in (stale, living, own, foreign)] == [False, True, False, True]
    assert numbers(tmp_path) == [1]


def test_a_disk_that_refuses_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, checkpoint(1))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device; the checkpoints before it"):
        save(tmp_path, checkpoint(2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000001"]


def test_everything_is_forced_to_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(descriptor: int) -> None:
        done.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def noted_rename(path: Path, target: Path) -> Path:
        done.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    save(tmp_path, checkpoint(1))
    assert done == [*FILES, f".000001.tmp-{os.getpid()}", "rename", tmp_path.name]


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
from tests.test_checkpoint import FILES, checkpoint
from twin.checkpoint import load, numbers, path_of, save
from twin.errors import CheckpointError
import twin.checkpoint

run_dir, careless, kills = Path(sys.argv[1]), sys.argv[2] == "careless", int(sys.argv[3])
if careless:  # the control: no temporary name
    def carelessly(run_dir, made):
        folder = path_of(run_dir, made.number)
        folder.mkdir(parents=True)
        encoded = twin.checkpoint.safetensors.numpy.save(dict(made.tensors))
        (folder / FILES[0]).write_bytes(encoded)
        (folder / FILES[1]).write_bytes(twin.checkpoint.encode(twin.checkpoint._manifest(made, encoded)))
    save = carelessly
random.seed(1)
began = time.perf_counter()
for number in range(1, 6):
    save(run_dir, checkpoint(number))
takes = (time.perf_counter() - began) / 5
for kill in range(kills):
    told_by, told_to = os.pipe()
    child = os.fork()
    if child == 0:
        number = max(numbers(run_dir), default=0)
        while True:
            number += 1
            save(run_dir, checkpoint(number))
            os.write(told_to, b"%d\\n" % number)
    os.close(told_to)
    time.sleep(random.uniform(0.0, 5.0) * takes)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(told_by) as lines:
        acknowledged = [int(line) for line in lines]
    damaged = 0
    for number in numbers(run_dir)[-3:]:
        try:
            load(path_of(run_dir, number))
        except CheckpointError:
            damaged += 1
    lost = acknowledged and acknowledged[-1] not in numbers(run_dir)
    print(damaged + bool(lost), len(acknowledged))
save(run_dir, checkpoint(10**6))
print(len(list(run_dir.glob(".*"))), 0)
"""


@pytest.mark.parametrize("way", ["saved", "careless"])
@pytest.mark.slow
def test_processes_killed_while_they_save_leave_no_damage(way: str, tmp_path: Path) -> None:
    """Fifty kill -9 at random moments: nothing damaged, nothing acknowledged lost, nothing left behind.

    The control writes in place, and must be found out.
    """
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path), way, "50"],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    rows = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    faults = sum(row[0] for row in rows)
    assert len(rows) == 51
    assert sum(row[1] for row in rows) > 20  # it was saving when it was killed
    assert faults > 0 if way == "careless" else faults == 0


def test_the_path_of_a_number() -> None:
    assert path_of(Path("run"), 12) == Path("run/000012")
