"""The block allocation table (BAT): where each block's sector bitmap starts, in sectors."""

from __future__ import annotations

import sys
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from disks.engine.files import ImageFile

ABSENT = 0xFFFFFFFF
PIECE_ENTRIES = 16 * 1024
_PIECE_BYTES = PIECE_ENTRIES * 4
_ALL_ABSENT = b"\xff" * _PIECE_BYTES
_CACHED_PIECES = 64  # 4 MiB

assert array("I").itemsize == 4  # noqa: S101 - the layout itself, at import


class Usage(NamedTuple):
    """allocated: entries in use; lowest: the smallest of those, a sector number (or None)."""

    allocated: int
    lowest: int | None


def to_entries(data: bytes) -> array[int]:
    """Stored bytes to entries."""
    entries = array("I", data)
    if sys.byteorder == "little":
        entries.byteswap()
    return entries


def to_stored(entries: array[int]) -> bytes:
    """Entries to stored bytes, not padded."""
    if sys.byteorder == "little":
        entries = array("I", entries)
        entries.byteswap()
    return entries.tobytes()


class BlockAllocationTable:
    """Reads the table in pieces of 64 KiB and keeps the most recent ones.

    entries is the number that the disk's size needs, already known to lie inside the file:
    the header's own number is never a reason to allocate anything.
    """

    def __init__(self, file: ImageFile, offset: int, entries: int, head: bytes = b"") -> None:
        self.offset = offset
        self.entries = entries
        self._file = file
        self._cache: OrderedDict[int, array[int] | None] = OrderedDict()
        if offset + entries * 4 <= len(head) and entries <= PIECE_ENTRIES:
            self._cache[0] = to_entries(head[offset : offset + entries * 4])

    def _read(self, piece: int) -> array[int] | None:
        first = piece * PIECE_ENTRIES
        count = min(PIECE_ENTRIES, self.entries - first)
        data = self._file.read_at(self.offset + first * 4, count * 4)
        if data == _ALL_ABSENT[: count * 4]:
            return None
        return to_entries(data)

    def piece(self, piece: int) -> array[int] | None:
        """One piece of the table; None when all of its entries are absent."""
        cache = self._cache
        if piece in cache:
            cache.move_to_end(piece)
            return cache[piece]
        entries = self._read(piece)
        cache[piece] = entries
        if len(cache) > _CACHED_PIECES:
            cache.popitem(last=False)
        return entries

    def entry(self, block: int) -> int:
        """Sector number of the block's bitmap, or ABSENT."""
        entries = self.piece(block // PIECE_ENTRIES)
        return ABSENT if entries is None else entries[block % PIECE_ENTRIES]

    def next_allocated(self, block: int, end: int) -> int:
        """The first allocated block in [block, end), or end."""
        while block < end:
            entries = self.piece(block // PIECE_ENTRIES)
            start = block - block % PIECE_ENTRIES
            stop = min(end, start + PIECE_ENTRIES)
            if entries is not None:
                for index in range(block - start, stop - start):
                    if entries[index] != ABSENT:
                        return start + index
            block = stop
        return end

    def allocated(self) -> Iterator[tuple[int, int]]:
        """(block, entry) of every allocated block, ascending by block."""
        for piece in range(-(-self.entries // PIECE_ENTRIES)):
            entries = self.piece(piece)
            if entries is not None:
                first = piece * PIECE_ENTRIES
                for index, entry in enumerate(entries):
                    if entry != ABSENT:
                        yield first + index, entry

    def usage(self) -> Usage:
        """Count the entries in use, and find the lowest of them."""
        used = 0
        lowest: int | None = None
        for piece in range(-(-self.entries // PIECE_ENTRIES)):
            entries = self.piece(piece)
            if entries is None:
                continue
            absent = entries.count(ABSENT)
            if absent == len(entries):
                continue
            used += len(entries) - absent
            low = min(entries)
            lowest = low if lowest is None else min(low, lowest)
        return Usage(used, lowest)
