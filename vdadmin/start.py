"""`make run`: everything that the console needs, on this machine, from one command.

The first start makes the state folder and a secret key, and has everything else prepared
(`preparing`); then the processes run under the supervisor until somebody ends them.
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vdadmin.preparing import BASE_DIR, preparations
from vdadmin.processes import services
from vdadmin.supervisor import Service, Supervisor

WEB_START_CRASHES = 3  # after so many the first start gives up instead of trying for ever


class CannotStart(Exception):
    """Why the console cannot start: one sentence for the person at the terminal."""


def main() -> int:
    try:
        return _main()
    except CannotStart as reason:
        print(reason, file=sys.stderr)
        return 1


def _main() -> int:
    began = time.monotonic()
    state = Path(os.environ.get("VDADMIN_STATE_DIR") or BASE_DIR / "var").absolute()
    host = os.environ.get("VDADMIN_HOST") or "127.0.0.1"
    port = _port(os.environ.get("VDADMIN_PORT") or "8000")
    _prepare_environment(state)
    _make_state_folder(state)
    lock = _only_one(state)
    listener = _listen(host, port)
    address = f"http://{_in_address(host)}:{listener.getsockname()[1]}"

    supervisor = Supervisor(
        log_folder=state / "log",
        state_file=state / "running.json",
        tell=lambda sentence: print(f"  {sentence}", flush=True),
        about={"address": address},
    )
    try:
        if not os.environ.get("REDIS_URL"):
            supervisor.start(_broker(state, supervisor, keep_closed=[lock, listener.fileno()]))
        for step in preparations(state, with_demo=not os.environ.get("VDADMIN_STORAGE_ROOTS")):
            if supervisor.asked_to_end():
                return 0
            step()
        for service in services(listener, lock):
            supervisor.start(service)
        ready = supervisor.wait(until=lambda: _is_up(listener, supervisor))
        if ready:
            seconds = time.monotonic() - began
            print(
                f"vdadmin is up at {address}  (after {seconds:.1f} s; Ctrl-C ends it)", flush=True
            )
            supervisor.wait(until=_make_watcher(), poll_seconds=1.0)
    finally:
        supervisor.stop()
    print("vdadmin has ended.", flush=True)
    return 0


def _port(text: str) -> int:
    if text.isdecimal() and int(text) < 65536:
        return int(text)
    raise CannotStart(f"PORT is {text!r}; it must be a number from 1 to 65535 (0: any free one).")


def _in_address(host: str) -> str:
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 - compared, not listened on
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _prepare_environment(state: Path) -> None:
    """What differs on one machine from a production set-up; what is set already stays."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vdadmin.settings")
    os.environ["VDADMIN_STATE_DIR"] = str(state)
    os.environ.setdefault("VDADMIN_INSECURE_HTTP", "1")  # no TLS on the loopback interface
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads do not survive a fork


def _make_state_folder(state: Path) -> None:
    """The folder, for its owner alone, and the key that signs sessions."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = state / "secret-key"
        if not os.environ.get("VDADMIN_SECRET_KEY") and not key.exists():
            temporary = state / f"secret-key.{os.getpid()}"
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(secrets.token_urlsafe(48) + "\n")
            temporary.replace(key)
    except OSError as error:
        raise CannotStart(
            f"vdadmin keeps its data in {state}, which cannot be written ({error.strerror}): "
            "name another folder with VDADMIN_STATE_DIR."
        ) from error


def _only_one(state: Path) -> int:
    """A lock for as long as this process lives: two supervisors would spoil one state."""
    handle = os.open(state / "running.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        running = _running(state)
        where = f" at {running['address']}" if "address" in running else ""
        who = f" (process {running['pid']})" if "pid" in running else ""
        raise CannotStart(f"vdadmin already runs here{where}{who}: end that one first.") from None
    return handle


def _running(state: Path) -> dict[str, Any]:
    try:
        known = json.loads((state / "running.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _listen(host: str, port: int) -> socket.socket:
    """The web server's socket, made here: a busy port is known before anything starts, and
    requests wait in it while a crashed web server starts again."""
    deadline = time.monotonic() + 2.0  # children of a killed supervisor may be ending
    while True:
        listener = None
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(256)
            return listener
        except OSError as error:
            if listener is not None:
                listener.close()
            if time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            raise CannotStart(_why_not_listening(host, port, error)) from error


def _why_not_listening(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} is taken by another program: choose one, make run PORT={port + 1}"
    if error.errno == errno.EACCES:
        return f"Port {port} is for root alone: choose one above 1023, make run PORT=8000"
    return f"vdadmin cannot listen on {host}, port {port}: {error.strerror or error}"


def _make_watcher() -> Callable[[], bool]:
    """Tells when the `make` that started us was interrupted.

    A terminal's Ctrl-C reaches both. A SIGINT sent to make alone does not reach us: make
    stops catching it and waits for us to end, for ever.
    """
    status = Path(f"/proc/{os.getppid()}/status")

    def catches() -> bool:
        try:
            lines = dict(line.split(":\t", 1) for line in status.read_text().splitlines())
            return lines["Name"] == "make" and bool(int(lines["SigCgt"], 16) & 0b10)
        except (OSError, KeyError, ValueError):
            return False

    did = catches()
    return lambda: did and not catches()


def _broker(state: Path, supervisor: Supervisor, *, keep_closed: list[int]) -> Service:
    from vdadmin import broker

    folder = state / "broker"

    def run() -> None:
        for handle in keep_closed:
            os.close(handle)
        if supervisor.crashes("broker") >= 2:
            broker.put_queue_aside(folder)  # nothing in it is needed: the rows are the truth
        try:
            broker.prepare(folder)
            command = broker.command(folder)
        except broker.BrokerError as error:
            raise SystemExit(str(error)) from error
        os.execv(command[0], command)  # noqa: S606 - the broker's own program and folder

    return Service("broker", run)


def _is_up(listener: socket.socket, supervisor: Supervisor) -> bool:
    """Whether the web server answers; raises CannotStart when it keeps crashing."""
    if supervisor.crashes("web") >= WEB_START_CRASHES:
        log = supervisor.log_of("web")
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        raise CannotStart(
            f"The web server does not start: {lines[-1] if lines else 'it says nothing'} "
            f"(all of it: {log})"
        )
    host, port = listener.getsockname()[:2]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    connection = http.client.HTTPConnection(reachable, port, timeout=1.0)
    try:
        connection.request("GET", "/health", headers={"Host": "localhost"})
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
