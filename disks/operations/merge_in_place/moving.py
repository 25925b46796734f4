"""The bytes of a batch: copied to their places, and read back from the storage.

The caller has let the file pass the memory by: nothing has to wait for memory, and the proof of
a large place cannot be answered out of it. Small ones, thousands in a scattered batch, are
forgotten and asked for together, for one by one they would take long.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import xxhash

from disks.engine.errors import ImageError, unreadable
from disks.engine.files import LARGE_BYTES, PAGE_BYTES, ImageFile, in_pages, page_buffer
from disks.engine.holding import Place
from disks.engine.units import KIB, MIB, SECTOR_BYTES, round_up
from disks.operations.ahead import one_ahead
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
    digest = xxhash.xxh3_128()
    meter = _Meter(told)
    packs = _read(_wanted(places, runs), digest)
    with one_ahead(packs) if _are_large(places) else nullcontext(packs) as packs:
        for pack in packs:
            for offset, piece in pack:
                file.write_at(offset, piece)
                meter.add(len(piece))
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
    again = xxhash.xxh3_128()
    meter = _Meter(told)
    written = (
        _Piece(sector, offset, length, file, offset)
        for place in places
        for sector, offset, length in _pieces(place)
    )
    for pack in _read(written, again):
        for _, piece in pack:
            meter.add(len(piece))
    meter.tell()
    if again.hexdigest() != digest:
        raise ImageError(
            "E_VERIFY",
            f"What was written into {shown(file.path)} reads otherwise. The storage may be "
            "failing.",
            file=file.path,
        )


def _are_large(places: Sequence[Place]) -> bool:
    """Whether reading ahead is worth it: small pieces are in the kernel's memory by then."""
    return sum(place.count_sectors for place in places) * SECTOR_BYTES >= LARGE_BYTES * len(places)


class _Piece(NamedTuple):
    """What belongs at an offset of base, and where it is read; source None: zeros."""

    first_sector: int
    offset: int
    length: int
    source: ImageFile | None
    source_offset: int


def _wanted(places: Sequence[Place], runs: Sequence[Run]) -> Iterator[_Piece]:
    at = 0
    for place in places:
        while runs[at].first_sector + runs[at].count_sectors <= place.first_sector:
            at += 1
        run = runs[at]
        shift = run.file_offset + (place.first_sector - run.first_sector) * SECTOR_BYTES
        shift -= place.file_offset
        source = None if place.zeros else run.file
        for sector, offset, length in _pieces(place):
            yield _Piece(sector, offset, length, source, offset + shift)


def _read(
    pieces: Iterable[_Piece], digest: xxhash.xxh3_128
) -> Iterator[list[tuple[int, memoryview]]]:
    """[(offset, what belongs there)], as many as one of two buffers takes, in turn."""
    buffers = itertools.cycle([page_buffer(PIECE_BYTES), page_buffer(PIECE_BYTES)])
    pack: list[tuple[int, memoryview]] = []
    buffer, used = next(buffers), 0
    for sector, offset, length, source, source_offset in pieces:
        if pack and used + length > PIECE_BYTES:
            yield pack
            pack, buffer, used = [], next(buffers), 0
        piece = in_pages(buffer[used:], offset, length)
        if source is None:
            piece[:] = bytes(length)
        else:
            try:
                source.read_into(source_offset, piece)
            except ImageError as error:
                raise unreadable(error, sector, source_offset) from error
        digest.update(piece)
        pack.append((offset, piece))
        used = round_up(used + offset % PAGE_BYTES + length, PAGE_BYTES)
    if pack:
        yield pack


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


def _pieces(place: Place) -> Iterator[tuple[int, int, int]]:
    """(first sector, offset in the file, bytes)."""
    length = place.count_sectors * SECTOR_BYTES
    for start in range(0, length, PIECE_BYTES):
        sector = place.first_sector + start // SECTOR_BYTES
        yield sector, place.file_offset + start, min(PIECE_BYTES, length - start)


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
