"""Power cuts in the middle of planned steps: what a file may look like afterwards.

Every step is made durable before the next. Of the one under way each 4 KiB page may be there,
not be there, be there in pieces of 512 bytes, or be garbage.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from disks.engine import faults
from disks.engine.changes import Fill, Write

PAGE = 4096
PIECE_BYTES = 64 * 1024
Steps = Sequence[Sequence[Write]]


def plain(steps: Sequence[Sequence[Write | Fill]]) -> list[list[Write]]:
    """The same steps with their zeros as bytes."""
    return [
        [Write(one.offset, bytes(one.length)) if isinstance(one, Fill) else one for one in step]
        for step in steps
    ]


def _put(data: bytearray, offset: int, piece: bytes) -> None:
    if offset + len(piece) > len(data):
        data.extend(bytes(offset + len(piece) - len(data)))
    data[offset : offset + len(piece)] = piece


def _make(path: Path, wanted: bytearray) -> None:
    """Make the file as wanted; only what differs is written."""
    with path.open("r+b", buffering=0) as file:
        file.truncate(len(wanted))
        for at in range(0, len(wanted), PIECE_BYTES):
            piece = wanted[at : at + PIECE_BYTES]
            if os.pread(file.fileno(), PIECE_BYTES, at) != piece:
                os.pwrite(file.fileno(), piece, at)


def _pages(step: Sequence[Write]) -> Iterator[tuple[int, bytes]]:
    """The writes of a step, cut at the borders of pages."""
    for write in step:
        at = write.offset
        end = at + len(write.data)
        while at < end:
            stop = min(end, (at // PAGE + 1) * PAGE)
            yield at, write.data[at - write.offset : stop - write.offset]
            at = stop


def cut_states(path: Path, steps: Steps, seed: int, each: int = 6) -> Iterator[tuple[int, str]]:
    """Put the file into every state that a cut may leave, and say which: (step, how).

    Whole steps first, then `each` random states within every step. Afterwards the file is as
    all steps leave it.
    """
    chance = random.Random(seed)
    done = bytearray(path.read_bytes())
    for number, step in enumerate(steps):
        _make(path, done)
        yield number, "not begun"
        for attempt in range(each):
            torn = bytearray(done)
            for offset, piece in _pages(step):
                fate = chance.choice(["kept", "lost", "torn", "garbage"])
                if fate == "kept":
                    _put(torn, offset, piece)
                elif fate == "garbage":
                    _put(torn, offset, chance.randbytes(len(piece)))
                elif fate == "torn":
                    for at in range(0, len(piece), 512):
                        if chance.random() < 0.5:
                            _put(torn, offset + at, piece[at : at + 512])
            _make(path, torn)
            yield number, f"cut, seed {seed}, attempt {attempt}"
        for write in step:
            _put(done, write.offset, write.data)
    _make(path, done)


class Recorder:
    """Turns what is written to one file, between its fsyncs, into steps."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.steps: list[list[Write]] = [[]]

    def __enter__(self) -> Recorder:
        faults.watch(self._see)
        return self

    def __exit__(self, *_: object) -> None:
        faults.watch(None)

    def _see(self, event: faults.Event) -> None:
        if event.path != self.path:
            return
        if event.operation == "write" and event.data is not None:
            self.steps[-1].append(Write(event.offset, event.data))
        elif event.operation == "fsync":
            self.steps.append([])
