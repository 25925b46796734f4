"""The bytes of a batch: copied to their places, and read back from the storage.

What one batch wrote is read back while the next one is copied: the two of them keep the storage
busy. Nothing is lost by that, for until the merge ends its levels hold everything they held. A
place counts as moved when it was read back, and only then does a resumed merge go on behind it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence

import xxhash

from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.holding import Place
from disks.engine.units import KIB, MIB, SECTOR_BYTES
from disks.operations.streaming import Run
from disks.operations.windows import shown

REPORT_BYTES = 4 * MIB
"""What is copied between two reports."""

_BUFFER_BYTES = 512 * KIB
_ZEROS = bytes(_BUFFER_BYTES)
_HINT_BYTES = 8 * MIB  # of one piece in the file: the storage begins with it
_NEAR_BYTES = 256 * KIB  # places nearer to each other are one piece to the storage


def move(
    file: ImageFile, places: Sequence[Place], runs: Sequence[Run], told: Callable[[int, int], None]
) -> str:
    """Copy what the places shall hold; the digest of it. Not durable yet.

    runs  what is held, covering the places; told: called with the bytes copied since the last
          call and so far, and may raise
    """
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    digest = xxhash.xxh3_128()
    at = done = unreported = 0
    begun = end = 0  # what was written in one piece, and the storage was not told of
    for first, count, offset, zeros in places:
        length = count * SECTOR_BYTES
        while runs[at].first_sector + runs[at].count_sectors <= first:
            at += 1
        run = runs[at]
        source = run.file_offset + (first - run.first_sector) * SECTOR_BYTES
        if offset != end:
            begun = end = offset
        for start in range(0, length, _BUFFER_BYTES):
            piece = buffer[: min(_BUFFER_BYTES, length - start)]
            if zeros or run.file is None:
                piece[:] = _ZEROS[: len(piece)]
            else:
                run.file.read_into(source + start, piece)
            digest.update(piece)
            file.write_at(offset + start, piece)
            end += len(piece)
            unreported += len(piece)
            if end - begun >= _HINT_BYTES:
                file.hint(begun, end - begun, os.POSIX_FADV_DONTNEED)
                begun = end
            if unreported >= REPORT_BYTES:
                done += unreported
                told(unreported, done)
                unreported = 0
    told(unreported, done + unreported)
    return str(digest.hexdigest())


class Proof:
    """Reads a batch back from the storage, in a thread of its own."""

    def __init__(self, file: ImageFile, places: Sequence[Place], digest: str) -> None:
        """The places are durable; nothing writes to them until wait() is over."""
        self._file = file
        self._places = places
        self._digest = digest
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="proof")
        self._thread.start()

    def wait(self) -> None:
        """E_VERIFY if something else is read than was written, E_IO if it cannot be read."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._compare()
        except BaseException as error:
            self._error = error

    def _compare(self) -> None:
        file = self._file
        for start, end in _pieces(self._places):
            file.hint(start, end - start, os.POSIX_FADV_DONTNEED)
        for _, count, offset, _ in self._places:
            file.hint(offset, count * SECTOR_BYTES, os.POSIX_FADV_WILLNEED)
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        digest = xxhash.xxh3_128()
        for _, count, offset, _ in self._places:
            length = count * SECTOR_BYTES
            for start in range(0, length, _BUFFER_BYTES):
                piece = buffer[: min(_BUFFER_BYTES, length - start)]
                file.read_into(offset + start, piece)
                digest.update(piece)
        if digest.hexdigest() != self._digest:
            raise ImageError(
                "E_VERIFY",
                f"What was written into {shown(file.path)} reads otherwise. The storage may be "
                "failing.",
                file=file.path,
            )


def _pieces(places: Sequence[Place]) -> Iterator[tuple[int, int]]:
    """(start, end) in the file of places that lie near to each other."""
    begun = end = -1
    for _, count, offset, _ in places:
        if begun >= 0 and end <= offset <= end + _NEAR_BYTES:
            end = offset + count * SECTOR_BYTES
            continue
        if begun >= 0:
            yield begun, end
        begun, end = offset, offset + count * SECTOR_BYTES
    if begun >= 0:
        yield begun, end
