"""The whole console as its users start it: web server, worker, reconciler, beat and broker."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]


class Console:
    """`python -m vdadmin.start` on a free port, with a state folder of its own.

    output grows while it runs; password is the one that the first start shows.
    """

    def __init__(self, state: Path, **environment: str) -> None:
        self.state = state
        self.output: list[str] = []
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("VDADMIN_") and name not in ("DATABASE_URL", "REDIS_URL")
        }
        self.environment = {
            **clean,
            "VDADMIN_STATE_DIR": str(state),
            "VDADMIN_PORT": "0",
            "PYTHONUNBUFFERED": "1",
            **environment,
        }
        self.process: subprocess.Popen[str] | None = None
        self._listener: threading.Thread | None = None

    def start(self, timeout_seconds: float = 90.0) -> Console:
        self.output.clear()
        if self.process is not None:
            self.process.wait(10)  # killed, perhaps, by the test
            self._close()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vdadmin.start"],
            cwd=PROJECT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        eventually(lambda: self._is_up() or self.has_ended(), timeout_seconds)
        if self.has_ended():
            self._close()
            raise AssertionError(f"The console did not start:\n{self.text()}\n{self.logs()}")
        return self

    def _listen(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)

    def _is_up(self) -> bool:
        return "vdadmin is up at" in self.text()

    def has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def text(self) -> str:
        return "".join(self.output)

    def logs(self) -> str:
        """The ends of all services' logs, for a failed test's report."""
        parts = []
        for log in sorted((self.state / "log").glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-30:]
            parts.append(f"--- {log.name}\n" + "\n".join(lines))
        return "\n".join(parts)

    @property
    def address(self) -> str:
        return str(self.running()["address"])

    @property
    def password(self) -> str:
        found = re.search(r"Password\s+(\S+)", self.text())
        assert found, self.text()
        return found[1]

    def running(self) -> dict[str, Any]:
        return dict(json.loads((self.state / "running.json").read_text()))

    def pid(self, service: str) -> int:
        return int(self.running()["services"][service])

    def kill(self, service: str) -> int:
        """kill -9 of one service; its process id."""
        pid = self.pid(service)
        os.kill(pid, signal.SIGKILL)
        return pid

    @contextlib.contextmanager
    def slowed(self, share: float = 0.1) -> Iterator[None]:
        """Gives jobs a share of the time only, so that they last while a page is looked at."""
        pids = family(self.pid("worker"))
        assert pids
        ended = threading.Event()

        def slow() -> None:
            while not ended.wait(0.1 * share):
                tell(pids, signal.SIGSTOP)
                ended.wait(0.1 * (1 - share))
                tell(pids, signal.SIGCONT)

        thread = threading.Thread(target=slow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            tell(pids, signal.SIGCONT)

    def manage(self, *arguments: str, timeout_seconds: float = 120.0) -> str:
        """`manage.py …` beside the running console; its output."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=PROJECT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
        )
        assert done.returncode == 0, f"manage.py {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def stop(self, number: int = signal.SIGINT, timeout_seconds: float = 30.0) -> int:
        """End it as Ctrl-C does; the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout_seconds)
        self._close()
        return code

    def _close(self) -> None:
        """Read what is left of the output; its pipe ends with the last process of ours."""
        if self._listener is not None:
            self._listener.join(5.0)
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()

    def __enter__(self) -> Console:
        return self.start()

    def __exit__(self, *error: object) -> None:
        if self.process is not None:  # also one that has ended by itself has a pipe to close
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                self._close()


def eventually(condition: Callable[[], Any], seconds: float = 30.0, pause: float = 0.05) -> Any:
    """The first true value of condition(); AssertionError when it stays false."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError("it did not happen in time")
        time.sleep(pause)


def family(pid: int) -> list[int]:
    """A process's descendants."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *family(int(child))]
    return found


def tell(pids: Iterable[int], number: int) -> None:
    """Send a signal to those that still run."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def is_gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return fields[0] in "ZX"
