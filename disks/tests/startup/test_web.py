"""The web server with clients that are slow on purpose, over real connections."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator

import pytest

from disks.tests.console import PROJECT

THREADS = 2
# The same worker with limits that a test can wait for, and a page that reads what is sent.
SERVER = textwrap.dedent(
    """
    import sys, time
    from gunicorn.app.base import BaseApplication
    from vdadmin.web import BoundedThreads

    class Impatient(BoundedThreads):
        head_seconds, body_seconds = 1.0, 3.0

    def application(environ, start_response):
        size = len(environ["wsgi.input"].read())
        if environ["PATH_INFO"] == "/slow":
            time.sleep(5)  # an answer may take its time
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(size).encode()]

    class Server(BaseApplication):
        def load_config(self):
            self.cfg.set("bind", f"fd://{sys.argv[1]}")
            self.cfg.set("worker_class", Impatient)
            self.cfg.set("threads", int(sys.argv[2]))
            self.cfg.set("control_socket_disable", True)
        def load(self):
            return application

    Server().run()
    """
)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.getsockname()[1]
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(listener.fileno()), str(THREADS)],
            cwd=PROJECT,
            env={"PATH": os.environ["PATH"]},
            pass_fds=[listener.fileno()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    yield number
    server.send_signal(signal.SIGINT)
    server.wait(10)


def ask(port: int, path: str = "/", body: bytes | None = None) -> tuple[str, float]:
    """The answer, and how long it took."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST" if body else "GET", path, body=body)
    answer = connection.getresponse().read().decode()
    connection.close()
    return answer, time.monotonic() - began


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        (b"POST / HTTP/1.1\r\nHost: a\r\nX-Slow: ", 1.0),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\na", 3.0),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", 3.0),
    ],
    ids=["head", "body", "chunks"],
)
def test_slow_clients_are_cut_off_and_others_are_served(
    port: int, sent: bytes, seconds: float
) -> None:
    """bad-input G107: as many as there are threads hold all of them, but not for long."""
    assert ask(port)[0] == "0"
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(THREADS)]
    for each in slow:
        each.sendall(sent)
    time.sleep(0.2)
    answer, waited = ask(port)
    assert answer == "0"
    assert 0.5 < waited < seconds + 2.5  # looked at once a second
    for each in slow:
        each.settimeout(5)
        assert each.recv(100) == b""
        each.close()


def test_a_slow_answer_and_a_large_form_are_not_cut_off(port: int) -> None:
    answer, waited = ask(port, "/slow", body=b"x" * 1_000_000)
    assert answer == "1000000"
    assert waited > 4
