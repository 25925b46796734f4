"""Writing a planned change: step by step, each durable before the next begins."""

from __future__ import annotations

import time
from collections.abc import Sequence

from disks.engine.changes import Fill, HeaderRewrite, Write
from disks.engine.files import ImageFile
from disks.operations import filling
from disks.operations.pages import changed_writes
from disks.operations.progress import Progress


def write_steps(
    file: ImageFile,
    steps: Sequence[Sequence[Write | Fill]],
    size_after_bytes: int,
    progress: Progress,
) -> None:
    """Each step is durable before the next begins, each copy read again.

    All room that the file grows by is durable with the first step, after whose writes it is
    reserved: a VHD's begin with a footer at the new end, so that every prefix ends with one.
    Until the last room is there and filled it can be cancelled; then it only takes a moment.
    """
    grown_from = file.size_bytes
    last_room = 0 if size_after_bytes > grown_from else -1
    for number, step in enumerate(steps):
        if any(isinstance(piece, Fill) for piece in step):
            last_room = number
    for number, step in enumerate(steps):
        if number == last_room + 1:
            progress.commit_starts()
        rooms = [piece for piece in step if isinstance(piece, Fill)]
        filling.fill(file, rooms, progress)
        for piece in step:
            if isinstance(piece, Write):
                file.write_at(piece.offset, piece.data)
        if number == 0 and size_after_bytes > grown_from:
            filling.reserve(file, grown_from, size_after_bytes, progress)
        file.sync()
        began = time.monotonic()
        filling.require_filled(file, rooms)
        progress.proved(time.monotonic() - began)


def write_straight(file: ImageFile, planned: HeaderRewrite) -> None:
    """All of a change, of a file that needs no old bytes kept: nobody knows it yet, say."""
    write_steps(file, changed_writes(file, planned)[0], planned.size_after_bytes, Progress())
