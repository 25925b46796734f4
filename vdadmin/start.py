"""`make run`: everything that the console needs, on this machine, from one command.

The first start makes the database, a secret key, an administrator and a demo storage root.
Stamps remember the inputs of the slow steps, so that a later start skips them and is up as
fast as Python can import. What a person sees at the terminal is said here and nowhere else.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.client
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vdadmin.supervisor import Service, Supervisor

BASE_DIR = Path(__file__).resolve().parent.parent
ADMINISTRATOR = "admin"
WEB_THREADS = 8
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
        for step in _preparations(state):
            if supervisor.asked_to_end():
                return 0
            step()
        for service in _services(listener, lock):
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


# --- before anything is started ------------------------------------------------------------


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


# --- data ------------------------------------------------------------------------------------


def _preparations(state: Path) -> list[Callable[[], None]]:
    """What must be true before anything is served, in order; each does only what is missing."""
    return [
        _load_django,
        lambda: _migrate(state),
        lambda: _collect_static(state),
        _make_administrator,
        lambda: _make_demo(state),
        _import_everything,
    ]


def _load_django() -> None:
    import django

    django.setup()


def _migrate(state: Path) -> None:
    from django.conf import settings
    from django.core.management import call_command

    wanted = _digest(BASE_DIR.glob("disks/migrations/*.py"), [BASE_DIR / "requirements.txt"])
    database = settings.DATABASES["default"]
    # A database elsewhere may have been replaced meanwhile: it is always asked itself.
    is_known = "sqlite3" in database["ENGINE"] and Path(str(database["NAME"])).exists()
    if is_known and _stamp(state, "migrated") == wanted:
        return
    _say("Preparing the database …")
    call_command("migrate", interactive=False, verbosity=0)
    _set_stamp(state, "migrated", wanted)


def _collect_static(state: Path) -> None:
    from django.conf import settings
    from django.core.management import call_command

    wanted = _digest(
        (path for path in BASE_DIR.glob("static/**/*") if path.is_file()),
        [BASE_DIR / "requirements.txt"],
    )
    collected = Path(settings.STATIC_ROOT) / "staticfiles.json"
    if collected.exists() and _stamp(state, "collected") == wanted:
        return
    _say("Collecting style sheets and scripts …")
    call_command("collectstatic", interactive=False, verbosity=0)
    _set_stamp(state, "collected", wanted)


def _make_demo(state: Path) -> None:
    """Once: what somebody changed in it, or removed, stays as it is."""
    from django.core.management import call_command

    if _stamp(state, "demo") or os.environ.get("VDADMIN_STORAGE_ROOTS"):
        return
    _say("Making a demo storage root …")
    call_command("demo", verbosity=0)
    _set_stamp(state, "demo", "made")


def _make_administrator() -> None:
    """An administrator with a password that nobody else knows, shown once."""
    from django.contrib.auth import get_user_model

    users = get_user_model()._default_manager
    if users.exists():
        return
    password = secrets.token_urlsafe(12)
    users.create_superuser(username=ADMINISTRATOR, email="", password=password)
    _say("")
    _say(f"Sign in as    {ADMINISTRATOR}")
    _say(f"Password      {password}")
    _say("It is shown this once. To set another: .venv/bin/python manage.py changepassword admin")
    _say("")


def _import_everything() -> None:
    """What the children need, imported once here: they fork with it instead of each reading it."""
    from django.db import connections
    from django.urls import get_resolver

    import vdadmin.celery
    import vdadmin.wsgi

    vdadmin.celery.app.loader.import_default_modules()
    _ = get_resolver().url_patterns
    connections.close_all()  # a connection must not be shared by forked processes


def _digest(*groups: Iterable[Path]) -> str:
    """Changes when a file's name, size or time of change does."""
    digest = hashlib.sha256()
    for path in sorted(path for group in groups for path in group):
        seen = path.stat()
        digest.update(f"{path}\0{seen.st_size}\0{seen.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _stamp(state: Path, name: str) -> str:
    try:
        return (state / "stamps" / name).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""


def _set_stamp(state: Path, name: str, value: str) -> None:
    (state / "stamps").mkdir(exist_ok=True)
    (state / "stamps" / name).write_text(value + "\n", encoding="ascii")


def _say(line: str) -> None:
    print(f"  {line}" if line else "", flush=True)


# --- the processes -----------------------------------------------------------------------------


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


def _services(listener: socket.socket, lock: int) -> list[Service]:
    """Web first: it is what somebody waits for."""

    def web() -> None:
        os.close(lock)
        _serve(listener)

    def worker() -> None:
        _leave(listener, lock)
        from django.conf import settings

        from vdadmin.celery import WORKER_ARGUMENTS, app

        processes = f"--concurrency={settings.WORKER_PROCESSES}"
        app.worker_main(["worker", *WORKER_ARGUMENTS, processes, "--loglevel=INFO"])

    def reconciler() -> None:
        _leave(listener, lock)
        from django.core.management import call_command

        call_command("reconciler")

    def beat() -> None:
        _leave(listener, lock)
        from vdadmin.celery import app

        app.start(["beat", "--pidfile=", "--loglevel=INFO"])

    return [
        Service("web", web),
        Service("worker", worker, grace_seconds=15.0),  # its jobs are put back at a safe place
        Service("reconciler", reconciler),
        Service("beat", beat),
    ]


def _leave(listener: socket.socket, lock: int) -> None:
    """What only the web server and the supervisor may hold."""
    listener.close()
    os.close(lock)


def _serve(listener: socket.socket) -> None:
    """Gunicorn with threads, on the socket that the supervisor holds."""
    from gunicorn.app.base import BaseApplication

    class Console(BaseApplication):
        def load_config(self) -> None:
            options = {
                "bind": f"fd://{listener.fileno()}",
                "worker_class": "vdadmin.web.BoundedThreads",
                "workers": 1,
                "threads": WEB_THREADS,
                "timeout": 60,
                "graceful_timeout": 3,
                "control_socket_disable": True,
                "proc_name": "vdadmin web",
            }
            for name, value in options.items():
                self.cfg.set(name, value)

        def load(self) -> Any:
            from vdadmin.wsgi import application

            return application

    Console().run()


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
