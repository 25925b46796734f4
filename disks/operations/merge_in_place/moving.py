"""The bytes of a batch: copied to their places, and read back from the storage.

The caller has let the file pass the memory by: nothing has to wait for memory, and the proof of
a large place cannot be answered out of it. Small ones, thousands in a scattered batch, are
forgotten and asked for together, for one by one they would take long.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import xxhash

from disks.engine.errors import ImageError
from disks.engine.files import LARGE_BYTES, ImageFile, in_pages, page_buffer
from disks.engine.holding import Place
from disks.engine.units import KIB, MIB, SECTOR_BYTES
from disks.operations.content import Run
from disks.operations.windows import shown

PIECE_BYTES = 512 * KIB
"""Most that is copied, or read back, in one go: it stays in the processor's cache."""

REPORT_BYTES = 4 * MIB
"""What is copied, or read back, between two reports."""

_NEAR_BYTES = 256 * KIB  # places nearer to each other are one range to the storage

Told = Callable[[int], None]
"""Told of bytes that were copied, or read back, since the last call; it may raise."""


def move(file: ImageFile, places: Sequence[Place], runs: Sequence[Run], told: Told) -> str:
    """Copy what the places shall hold; the digest of it. Not durable yet.

    runs: what is held, covering the places
    """
    buffer = page_buffer(PIECE_BYTES)
    digest = xxhash.xxh3_128()
    meter = _Meter(told)
    at = 0
    for place in places:
        while runs[at].first_sector + runs[at].count_sectors <= place.first_sector:
            at += 1
        run = runs[at]
        shift = run.file_offset + (place.first_sector - run.first_sector) * SECTOR_BYTES
        shift -= place.file_offset
        for offset, length in _pieces(place):
            piece = in_pages(buffer, offset, length)
            if place.zeros or run.file is None:
                piece[:] = bytes(length)
            else:
                run.file.read_into(offset + shift, piece)
            digest.update(piece)
            file.write_at(offset, piece)
            meter.add(length)
    meter.tell()
    return str(digest.hexdigest())


def prove(file: ImageFile, places: Sequence[Place], digest: str, told: Told) -> None:
    """Read the places, which are durable, back from the storage.

    E_VERIFY if something else is read than was written, E_IO if it cannot be read.
    """
    for start, end in _ranges(places):  # of large ones, too: their last piece may be a small one
        file.forget(start, end - start)
    for place in places:
        if (length := place.count_sectors * SECTOR_BYTES) < LARGE_BYTES:
            file.hint(place.file_offset, length, os.POSIX_FADV_WILLNEED)
    buffer = page_buffer(PIECE_BYTES)
    again = xxhash.xxh3_128()
    meter = _Meter(told)
    for place in places:
        for offset, length in _pieces(place):
            piece = in_pages(buffer, offset, length)
            file.read_into(offset, piece)
            again.update(piece)
            meter.add(length)
    meter.tell()
    if again.hexdigest() != digest:
        raise ImageError(
            "E_VERIFY",
            f"What was written into {shown(file.path)} reads otherwise. The storage may be "
            "failing.",
            file=file.path,
        )


class _Meter:
    """Adds small pieces up, so that not each is told."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._bytes = 0

    def add(self, count_bytes: int) -> None:
        self._bytes += count_bytes
        if self._bytes >= REPORT_BYTES:
            self.tell()

    def tell(self) -> None:
        count_bytes, self._bytes = self._bytes, 0
        self._told(count_bytes)


def _pieces(place: Place) -> Iterator[tuple[int, int]]:
    """(offset in the file, bytes)."""
    length = place.count_sectors * SECTOR_BYTES
    for start in range(0, length, PIECE_BYTES):
        yield place.file_offset + start, min(PIECE_BYTES, length - start)


def _ranges(places: Sequence[Place]) -> Iterator[tuple[int, int]]:
    """(start, end) in the file of places that lie near to each other."""
    begun = end = -1
    for place in places:
        offset, after = place.file_offset, place.file_offset + place.count_sectors * SECTOR_BYTES
        if begun >= 0 and end <= offset <= end + _NEAR_BYTES:
            end = after
            continue
        if begun >= 0:
            yield begun, end
        begun, end = offset, after
    if begun >= 0:
        yield begun, end
