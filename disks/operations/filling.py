"""Filling room that holds nothing, in pieces: seen, stopped between any two, and read back."""

from __future__ import annotations

import contextlib
import os

from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.images import Fill
from disks.engine.units import MIB
from disks.operations.progress import Progress

_PIECE_BYTES = 1 * MIB
_RESERVED_AT_ONCE_BYTES = 64 * MIB


def reserve(file: ImageFile, start: int, end: int, progress: Progress) -> None:
    """Room that reads as zeros, at once where the storage can reserve it.

    In steps all the same: storage without that ability (NFS before 4.2) gets its zeros
    written one by one, and that shall be seen and can be cancelled.
    """
    step = max(_RESERVED_AT_ONCE_BYTES, (end - start) // 1000)
    for at in range(start, end, step):
        done = min(end, at + step)
        file.allocate(done, from_bytes=at)
        words = f"reserving {done - start:,} of {end - start:,} bytes"
        progress.report(done - start, end - start, words)


def fill(file: ImageFile, room: Fill, grown_from: int, progress: Progress) -> None:
    """Write what the room shall hold; not durable yet.

    grown_from: where the file ended before it grew. Behind that nothing but zeros can be.
    """
    end = room.offset + room.length
    written_until = end
    if room.byte == 0 and room.copy_of is None:
        written_until = max(room.offset, min(end, grown_from))
    for at in range(room.offset, written_until, _PIECE_BYTES):
        length = min(_PIECE_BYTES, written_until - at)
        file.write_at(at, _content(file, room, at, length))
        progress.moved(length if room.copy_of is None else 2 * length)  # a copy is read again
        progress.report(at + length - room.offset, room.length)
    if written_until < end:
        reserve(file, written_until, end, progress)


def require_filled(file: ImageFile, room: Fill) -> None:
    """Read a copy again from the storage. E_VERIFY if it is not what it was copied from."""
    if room.copy_of is None:
        return
    with contextlib.suppress(OSError):  # advice only; some file systems know none
        os.posix_fadvise(file.fd, room.offset, room.length, os.POSIX_FADV_DONTNEED)
    for at in range(room.offset, room.offset + room.length, _PIECE_BYTES):
        length = min(_PIECE_BYTES, room.offset + room.length - at)
        if file.read_at(at, length) != _content(file, room, at, length):
            raise ImageError(
                "E_VERIFY",
                f"What was copied inside of {file.path} reads otherwise at byte {at:,}. The "
                "change was taken back. The storage may be failing.",
                file=file.path,
                offset=at,
            )


def _content(file: ImageFile, room: Fill, at: int, length: int) -> bytes:
    if room.copy_of is None:
        return bytes([room.byte]) * length
    return file.read_at(room.copy_of + at - room.offset, length)
