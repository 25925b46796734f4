"""The web server's worker: gunicorn's threads, none of which waits for ever for a client."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

HEAD_SECONDS = 5.0
BODY_SECONDS = 30.0  # with the head; the longest form is 1 MiB


class BoundedThreads(ThreadWorker):
    """Cuts off a request that does not arrive in time: a few slow clients would hold all threads.

    Gunicorn leaves that to a proxy before it, which a console on one machine need not have.
    An answer may take as long as it takes.
    """

    head_seconds = HEAD_SECONDS
    body_seconds = BODY_SECONDS

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # connection: when its request began, and the request once its head is read
        self._arriving: dict[Any, tuple[float, Any]] = {}

    def handle(self, conn: Any) -> Any:
        self._arriving[conn] = (time.monotonic(), None)
        try:
            return super().handle(conn)
        finally:
            self._arriving.pop(conn, None)

    def handle_request(self, req: Any, conn: Any) -> Any:
        self._arriving[conn] = (self._arriving[conn][0], req)
        return super().handle_request(req, conn)

    def murder_pending(self) -> None:
        """Called every second by the main thread; a cut socket ends its thread's waiting."""
        super().murder_pending()
        now = time.monotonic()
        for conn, (began, request) in list(self._arriving.items()):
            limit = self.head_seconds if request is None else self.body_seconds
            if now - began > limit and not _has_arrived(request):
                self.log.warning("A request did not arrive within %.0f s; it was cut off.", limit)
                with contextlib.suppress(OSError):
                    conn.sock.shutdown(socket.SHUT_RDWR)


def _has_arrived(request: Any) -> bool:
    """Whether nothing of a request's body is still to come."""
    if request is None:
        return False
    reader = request.body.reader
    if hasattr(reader, "length"):  # Content-Length: what is left of it
        return bool(reader.length == 0)
    return getattr(reader, "parser", None) is None  # chunked: None after the last chunk
