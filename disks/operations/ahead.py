"""Reads one piece ahead, so that the storage reads and writes at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def one_ahead(pieces: Iterator[T]) -> Iterator[Iterator[T]]:
    """The same pieces; each is made, in a thread of its own, while the one before it is used.

    pieces  may use one piece's memory again for the one after the next; what it raises comes in
            the place of the piece that it could not make

    At the end of the block nothing is read any more, however it ends.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        yield _following(thread, pieces)


def _following(thread: ThreadPoolExecutor, pieces: Iterator[T]) -> Iterator[T]:
    coming = thread.submit(next, pieces, None)
    while (piece := coming.result()) is not None:
        coming = thread.submit(next, pieces, None)
        yield piece
