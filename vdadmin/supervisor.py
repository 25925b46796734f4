"""One parent for the console's processes: starts them, starts them again, ends them all.

The parent imports everything once and forks; a child therefore runs within milliseconds,
and a crashed one is back as fast. Each child leads a process group of its own, so that
Ctrl-C reaches only the parent, which then ends the others in order. The kernel ends every
child when the parent dies, however it dies (PR_SET_PDEATHSIG).

Nothing here knows Django: a service is a name and a function.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

WAKING = {signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
IMPATIENT_SECONDS = 0.25  # a second signal after this long is a second wish, not an echo
STEADY_SECONDS = 60.0  # a child that lived this long starts again without a grown pause
LARGEST_LOG_BYTES = 10 * 1024 * 1024

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15


@dataclass(frozen=True)
class Service:
    """One supervised process.

    run            what the child does; returning is an unwanted end, as an error is
    grace_seconds  how long it may take to end by itself after SIGTERM
    """

    name: str
    run: Callable[[], None]
    grace_seconds: float = 5.0


@dataclass
class _Child:
    service: Service
    pid: int = 0
    started: float = 0.0
    pause_seconds: float = FIRST_PAUSE_SECONDS
    due: float | None = None  # monotonic time of the next start, while it is down
    crashes: int = 0


@dataclass
class Supervisor:
    """Keeps services alive until a signal asks for the end.

    log_folder  each service's output goes to NAME.log in it
    tell        shows one sentence to the person at the terminal
    state_file  JSON with the process ids, for `make run` in another terminal
    """

    log_folder: Path
    state_file: Path
    tell: Callable[[str], None]
    about: dict[str, str] = field(default_factory=dict)
    _children: list[_Child] = field(default_factory=list)
    _ending: bool = False
    _asked: float = 0.0

    def __post_init__(self) -> None:
        # Signals are waited for, not handled: nothing is interrupted half way. A shell starts
        # background jobs with SIGINT ignored, and ignored signals cannot be waited for.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, WAKING)
        self.log_folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    # --- starting ---

    def start(self, service: Service) -> None:
        """Start a service now and keep it alive from here on."""
        child = _Child(service)
        self._children.append(child)
        self._start(child)

    def _start(self, child: _Child) -> None:
        log = self.log_folder / f"{child.service.name}.log"
        _rotate(log)
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _be(child.service, log, parent)
        child.pid, child.started, child.due = pid, time.monotonic(), None
        self._write_state()

    def log_of(self, name: str) -> Path:
        return self.log_folder / f"{name}.log"

    # --- watching ---

    def asked_to_end(self) -> bool:
        """Whether a signal to end has come; looks, without waiting."""
        if not self._ending:
            self._sleep(0.0)
        return self._ending

    def wait(self, until: Callable[[], bool] | None = None, *, poll_seconds: float = 0.05) -> bool:
        """Keep the services alive until a signal to end (False) or until() holds (True)."""
        while not self._ending:
            if until is not None and until():
                return True
            self._sleep(poll_seconds if until is not None else None)
            self._reap()
            self._start_due()
        return False

    def crashes(self, name: str) -> int:
        """How often a service has ended by itself, in a row."""
        return max((c.crashes for c in self._children if c.service.name == name), default=0)

    def _sleep(self, seconds: float | None) -> None:
        """Until a signal comes, a child is due to start, or the time is over."""
        waits = [child.due - time.monotonic() for child in self._children if child.due is not None]
        if seconds is not None:
            waits.append(seconds)
        if waits:
            got = signal.sigtimedwait(WAKING, max(0.0, min(waits)))
        else:
            got = signal.sigwaitinfo(WAKING)
        if got is not None and got.si_signo in ENDING:
            self._ending, self._asked = True, time.monotonic()

    def _reap(self) -> None:
        for pid, status in _ended_children():
            for child in self._children:
                if child.pid == pid:
                    self._ended(child, status)

    def _ended(self, child: _Child, status: int) -> None:
        _kill_group(child.pid)  # what it started goes with it
        child.pid = 0
        if self._ending:
            return
        if time.monotonic() - child.started >= STEADY_SECONDS:
            child.pause_seconds, child.crashes = FIRST_PAUSE_SECONDS, 0
        child.crashes += 1
        child.due = time.monotonic() + child.pause_seconds
        self.tell(
            f"{child.service.name} {_how(status)}; it starts again in "
            f"{child.pause_seconds:g} s (its output: {self.log_of(child.service.name)})."
        )
        child.pause_seconds = min(child.pause_seconds * 2, LONGEST_PAUSE_SECONDS)
        self._write_state()

    def _start_due(self) -> None:
        for child in self._children:
            if child.due is not None and child.due <= time.monotonic() and not self._ending:
                self._start(child)

    # --- ending ---

    def stop(self) -> None:
        """End all services, the last started first; a second signal ends them at once."""
        self._ending = True
        for child in reversed(self._children):
            child.due = None
        # The first started (the broker) outlives those that talk to it.
        self._stop([child for child in self._children[1:] if child.pid])
        self._stop([child for child in self._children[:1] if child.pid])
        self.state_file.unlink(missing_ok=True)

    def _stop(self, children: list[_Child]) -> None:
        now = time.monotonic()
        deadlines = {child.pid: now + child.service.grace_seconds for child in children}
        for pid in deadlines:
            _signal(pid, signal.SIGTERM)
        while waiting := [child for child in children if child.pid]:
            first = min(deadlines[child.pid] for child in waiting)
            got = signal.sigtimedwait(WAKING, max(0.0, first - time.monotonic()))
            again = got is not None and got.si_signo in ENDING
            impatient = again and time.monotonic() - self._asked >= IMPATIENT_SECONDS
            for child in waiting:
                if impatient or deadlines[child.pid] <= time.monotonic():
                    _kill_group(child.pid)
                    deadlines[child.pid] = time.monotonic() + 1.0
            self._reap()

    def _write_state(self) -> None:
        services = {child.service.name: child.pid for child in self._children if child.pid}
        state = {"pid": os.getpid(), **self.about, "services": services}
        temporary = self.state_file.with_suffix(".new")
        temporary.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.state_file)


def _be(service: Service, log: Path, parent: int) -> NoReturn:
    """The child's whole life; never returns into the parent's code."""
    code = 1
    try:
        os.setpgid(0, 0)
        die_with_parent(parent)
        _name_process(f"vdadmin {service.name}")
        for number in WAKING:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WAKING)
        _redirect(log)
        service.run()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends (Linux).

    parent is the expected parent's id: one that died before the request was heard is
    noticed too. SIGKILL, for whoever is without its supervisor shall not linger; every
    service is built to lose nothing by it.
    """
    _prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)


def _name_process(name: str) -> None:
    _prctl(PR_SET_NAME, name.encode()[:15])


def _prctl(option: int, value: int | bytes) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _redirect(log: Path) -> None:
    """Input from nowhere, output to the log, for Python and for what it starts."""
    nowhere = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(nowhere, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(nowhere)
    os.close(output)


def _rotate(log: Path) -> None:
    """One older log is kept; a running service's log is turned at its next start."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LARGEST_LOG_BYTES:
            log.replace(log.with_suffix(".log.old"))


def _ended_children() -> list[tuple[int, int]]:
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append((pid, status))


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"was ended by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"ended with exit code {os.WEXITSTATUS(status)}"


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _kill_group(pid: int) -> None:
    """SIGKILL to a child's whole process group, which bears the child's id."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.EPERM):
            raise
