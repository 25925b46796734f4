"""Filling room that holds nothing, in pieces: seen, stopped between any two, and read back."""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

from disks.engine.changes import Fill
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile, in_pages, page_buffer
from disks.engine.units import MIB, size_text
from disks.operations.progress import Progress

_PIECE_BYTES = 2 * MIB
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
        words = f"reserving {size_text(done - start)} of {size_text(end - start)}"
        progress.report(done - start, end - start, words)


def fill(file: ImageFile, rooms: Sequence[Fill], progress: Progress) -> None:
    """Write what the rooms shall hold; not durable yet."""
    if not rooms:
        return
    file.pass_memory_by()
    buffer = page_buffer(_PIECE_BYTES)
    for room in rooms:
        end = room.offset + room.length
        for at in range(room.offset, end, _PIECE_BYTES):
            piece = in_pages(buffer, at, min(_PIECE_BYTES, end - at))
            if room.copy_of is None:
                piece[:] = bytes([room.byte]) * len(piece)
            else:
                file.read_remembered(room.copy_of + at - room.offset, piece)
            file.write_at(at, piece)
            times = 1 if room.copy_of is None else 2  # a copy is read again
            progress.moved(times * len(piece))
            progress.report(at + len(piece) - room.offset, room.length)


def require_filled(file: ImageFile, rooms: Sequence[Fill]) -> None:
    """Read copies, which are durable, again from the storage.

    E_VERIFY if one is not what it was copied from.
    """
    buffer = page_buffer(_PIECE_BYTES)
    for room in rooms:
        if room.copy_of is None:
            continue
        file.forget(room.offset, room.length)  # small pieces do not pass the memory by
        for at in range(0, room.length, _PIECE_BYTES):
            piece = in_pages(buffer, room.offset + at, min(_PIECE_BYTES, room.length - at))
            file.read_into(room.offset + at, piece)
            found = xxhash.xxh3_128_digest(piece)
            file.read_remembered(room.copy_of + at, piece)
            if found != xxhash.xxh3_128_digest(piece):
                raise _otherwise(file, room.offset + at)


def _otherwise(file: ImageFile, offset: int) -> ImageError:
    return ImageError(
        "E_VERIFY",
        f"What was copied inside of {file.path} reads otherwise at byte {offset:,}. The change "
        "was taken back. The storage may be failing.",
        file=file.path,
        offset=offset,
    )
