"""A whole console in processes of its own, driven by tests: see driver.py."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from disks.tests import servers
from vdadmin.broker import EmbeddedBroker, bundled_program

REPOSITORY = Path(__file__).resolve().parents[3]

# Everything a fifth of what it is in earnest, or less; the order of the timings is the same.
TIMINGS = {
    "VDADMIN_JOB_LEASE_SECONDS": "6",
    "VDADMIN_JOB_STOP_WRITING_SECONDS": "4",
    "VDADMIN_JOB_HEARTBEAT_SECONDS": "1",
    "VDADMIN_JOB_PROGRESS_SECONDS": "1",
    "VDADMIN_JOB_RESEND_SECONDS": "1",
    "VDADMIN_RECONCILER_SECONDS": "0.3",
    "VDADMIN_RECONCILER_ORPHANS_SECONDS": "1",
}

FINAL = ("succeeded", "failed", "cancelled", "needs-attention")


class Console:
    """The driver process, with its workers and its reconciler."""

    def __init__(self, state: Path, environment: dict[str, str], broker: Any) -> None:
        self.state = state
        self.broker = broker
        self.started: list[int] = []
        self.errors = open(state / "processes.log", "ab")  # noqa: SIM115 - closed in close()
        self.driver = subprocess.Popen(
            [sys.executable, "-m", "disks.tests.services.driver"],
            cwd=REPOSITORY,
            env=os.environ | TIMINGS | {"VDADMIN_STATE_DIR": str(state)} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        self.do("migrate")

    def do(self, what: str, /, **arguments: Any) -> Any:
        assert self.driver.stdin is not None
        assert self.driver.stdout is not None
        print(json.dumps({"do": what, "with": arguments}), file=self.driver.stdin, flush=True)
        answer = json.loads(self.driver.stdout.readline() or '{"failed": "the driver is gone"}')
        if "failed" in answer:
            raise AssertionError(answer["failed"] + self.log())
        return answer["refused"] if "refused" in answer else answer["answer"]

    def start(self, what: str) -> int:
        """A worker of that name, or the `reconciler`; the id of its process group."""
        pid = int(self.do("start", what=what))
        self.started.append(pid)
        return pid

    def kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        if pid in self.started:
            self.started.remove(pid)

    def show(self, job: int) -> dict[str, Any]:
        return dict(self.do("show", job_id=job))

    def wait_for(self, job: int, *statuses: str, seconds: float = 60.0) -> dict[str, Any]:
        """The job, once it is in one of the states."""
        return dict(
            self.wait_until(
                lambda: (shown := self.show(job))["status"] in statuses and shown,
                f"job {job} to be {statuses}",
                seconds,
                lambda: self.show(job),
            )
        )

    def wait_until(
        self,
        condition: Callable[[], Any],
        what: str,
        seconds: float = 60.0,
        otherwise: Callable[[], Any] = lambda: "",
    ) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := condition():
                return found
            time.sleep(0.05)
        raise AssertionError(f"waited for {what}: {otherwise()}\n{self.log()}")

    def log(self) -> str:
        return "\n" + (self.state / "processes.log").read_text(errors="replace")[-6000:]

    def close(self) -> None:
        for pid in list(self.started):
            self.kill(pid)
        self.driver.kill()
        self.driver.communicate()
        self.errors.close()


@contextlib.contextmanager
def on_sqlite(state: Path) -> Iterator[Console]:
    """SQLite and the embedded broker that comes with the requirements."""
    broker = EmbeddedBroker(state / "broker", bundled_program())
    broker.start()
    console = Console(state, {}, broker)
    try:
        yield console
    finally:
        console.close()
        broker.stop()


@contextlib.contextmanager
def on_postgres(state: Path) -> Iterator[Console]:
    """PostgreSQL and Redis, as Debian packages them."""
    broker = servers.Redis(state)
    with servers.postgres() as address:
        broker.start()
        console = Console(state, {"DATABASE_URL": address, "REDIS_URL": broker.url}, broker)
        try:
            yield console
        finally:
            console.close()
            broker.stop()
