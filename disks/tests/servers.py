"""Servers that tests start for themselves: PostgreSQL and Redis from Debian's packages.

Each lives in a temporary folder, on a free port of this machine alone, and is gone
afterwards. Where a package is missing the test is skipped with the line that installs it
(and CI fails on skipped tests).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

_POSTGRES_PLACES = "/usr/lib/postgresql/*/bin/initdb"


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL server; yields the address of an empty database, for DATABASE_URL."""
    programs = _postgres_programs()
    folder = Path(tempfile.mkdtemp(prefix="vdadmin-postgres-"))
    as_user: list[str] = []
    if os.getuid() == 0:  # the server refuses to run as root
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        as_user = ["runuser", "-u", "postgres", "--"]
    data = folder / "data"
    log = folder / "log"
    try:
        _run(
            *as_user,
            programs / "initdb",
            *("-D", data, "-U", "vdadmin", "-A", "trust", "-E", "UTF8", "--no-sync"),
            "--locale=C.UTF-8",
            cwd=folder,
        )
        port = _started(
            lambda port: _run(
                *as_user,
                programs / "pg_ctl",
                *("-D", data, "-l", log, "-w", "-t", "30"),
                *("-o", f"-p {port} -c listen_addresses=127.0.0.1 -k {folder} -c fsync=off"),
                "start",
                cwd=folder,
            )
        )
        try:
            yield f"postgres://vdadmin@127.0.0.1:{port}/postgres"
        finally:
            _run(
                *as_user,
                programs / "pg_ctl",
                *("-D", data, "-m", "immediate", "-w", "stop"),
                cwd=folder,
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Redis:
    """A Redis server from Debian on a free TCP port; can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("no redis-server: apt-get install redis-server")
        self.program = program
        self.folder = folder
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                self.program,
                *("--port", str(self.port), "--bind", "127.0.0.1"),
                *("--dir", str(self.folder), "--appendonly", "yes", "--save", ""),
            ],
            stdout=subprocess.DEVNULL,
        )
        client = redis.Redis(port=self.port)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(redis.RedisError):
                client.ping()
                client.close()
                return
            time.sleep(0.02)
        raise TimeoutError("redis-server did not start")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def _postgres_programs() -> Path:
    found = sorted(Path("/").glob(_POSTGRES_PLACES.lstrip("/")))
    if not found:
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    return found[-1].parent


def _started(start) -> int:
    """Start on a free port; another process may take it first, then on another."""
    for attempt in range(5):
        port = _free_port()
        try:
            start(port)
        except subprocess.CalledProcessError:
            if attempt == 4:
                raise
        else:
            return port
    raise AssertionError


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(*command: object, cwd: Path) -> None:
    # files, not pipes: the server inherits them, and a pipe would never end
    subprocess.run(
        [str(part) for part in command],
        check=True,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=60,
    )
