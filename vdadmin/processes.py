"""What each process does once it is forked: web, worker, reconciler and beat."""

from __future__ import annotations

import os
import socket
from typing import Any

from vdadmin.supervisor import Service

WEB_THREADS = 8


def services(listener: socket.socket, lock: int) -> list[Service]:
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
