"""Where the publishers of a source are found: directories, addresses, and the lock on an address."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import tempfile
from pathlib import Path
from typing import Final

from twin.errors import BusError
from twin.messages import check_source

PUBLISHERS: Final = ("plant", "twin", "trainer", "monitor")
ENDPOINTS: Final = (*PUBLISHERS, "forecast")
"""Those of a source: its publishers', and where its twin is asked."""

_SOCKET_PATH: Final = 107  # bytes that fit the address of a Unix socket on Linux


def runtime_dir(source: str) -> Path:
    """The directory of a source's sockets: below $XDG_RUNTIME_DIR, or below a directory of this user in /tmp.

    Raises:
        BusError: a directory of that name belongs to another user, who could listen or speak.
    """
    parent = os.environ.get("XDG_RUNTIME_DIR")
    root = Path(parent) / "livetwin" if parent else Path(tempfile.gettempdir()) / f"livetwin-{os.getuid()}"
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = root.lstat()
    except OSError as error:
        raise BusError(f"{root}: {error.strerror}; set XDG_RUNTIME_DIR to a directory of yours") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise BusError(f"{root} is not a directory of yours alone; remove it or set XDG_RUNTIME_DIR")
    return root / check_source(source)


def endpoint(source: str, publisher: str) -> str:
    """The default endpoint of one of a source's `ENDPOINTS`.

    >>> endpoint("motor-1", "twin")
    'ipc://.../motor-1/twin'
    """
    return f"ipc://{runtime_dir(source) / publisher}"


class Address:
    """Holds an endpoint for one publisher: a lock beside a Unix socket, because libzmq lets a second bind
    take such an address away from a running publisher without a word (libzmq issue 2059)."""

    def __init__(self, endpoint: str) -> None:
        self.path = Path(endpoint.removeprefix("ipc://")) if endpoint.startswith("ipc:///") else None
        self._lock = -1
        if self.path is None:
            return
        if len(os.fsencode(self.path)) > _SOCKET_PATH:
            raise BusError(
                f"{self.path}: longer than the {_SOCKET_PATH} bytes a Unix socket's path may have; "
                "shorten the source's name or set XDG_RUNTIME_DIR to a shorter directory"
            )
        try:
            self._lock = self._acquire(self.path)
        except OSError as error:
            raise BusError(f"{self.path}: {error.strerror}; choose another endpoint") from None

    @staticmethod
    def _acquire(path: Path) -> int:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = path.with_name(path.name + ".lock")
        while True:
            lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(lock, 32).decode("ascii", "replace").strip()
                os.close(lock)
                raise BusError(
                    f"ipc://{path} is in use by process {holder or 'unknown'}; "
                    "stop that one, or start this one with another --source"
                ) from None
            # the holder before may have removed the name between our open and our lock
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(lock).st_ino == name.stat().st_ino:
                    os.ftruncate(lock, 0)
                    os.write(lock, str(os.getpid()).encode())
                    return lock
            os.close(lock)

    def release(self) -> None:
        """Give the address back, and leave no file behind."""
        if self.path is None or self._lock < 0:
            return
        self.path.unlink(missing_ok=True)
        self.path.with_name(self.path.name + ".lock").unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = -1
        with contextlib.suppress(OSError):  # not empty: another publisher of this source is running
            self.path.parent.rmdir()


def check_port(endpoint: str) -> None:
    """Refuse a port that is none: libzmq takes 99999 for 34463, without a word.

    Raises:
        BusError: it is not between 1 and 65535.
    """
    port = re.match(r"tcp://.*:(\d+)$", endpoint)
    if port and not 0 < int(port[1]) < 65_536:
        raise BusError(f"{endpoint}: a port is a number from 1 to 65535")


def is_loopback(endpoint: str) -> bool:
    """Whether only this machine can reach an endpoint.

    >>> is_loopback("tcp://127.0.0.1:5555"), is_loopback("tcp://*:5555")
    (True, False)
    """
    return (
        re.match(r"(ipc|inproc)://|tcp://(127\.\d+\.\d+\.\d+|localhost|\[::1\])(:|$)", endpoint) is not None
    )
