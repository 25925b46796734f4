"""The block allocation table (BAT): where each block's sector bitmap starts, in sectors."""

from __future__ import annotations

import sys
from array import array
from collections import OrderedDict
from collections.abc import Iterator

from disks.engine.files import ImageFile

ABSENT = 0xFFFFFFFF
MAX_FILE_SECTORS = 0xFFFFFFFF  # entries are 32-bit sector numbers
PIECE_ENTRIES = 16 * 1024
_PIECE_BYTES = PIECE_ENTRIES * 4
_ALL_ABSENT = b"\xff" * _PIECE_BYTES
_CACHED_PIECES = 64  # 4 MiB

assert array("I").itemsize == 4  # noqa: S101 - the layout itself, at import


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


def _column(stored: bytes, index: int) -> int:
    """One byte of every entry, as a long number: & and | then work on all of them at once."""
    return int.from_bytes(stored[index::4])


def count_absent(stored: bytes) -> int:
    """How many entries of stored bytes are ABSENT; several times faster than a loop.

    An entry is absent when all of its four bytes are 0xFF.
    """
    all_set = _column(stored, 0) & _column(stored, 1) & _column(stored, 2) & _column(stored, 3)
    return all_set.to_bytes(len(stored) // 4).count(0xFF)


def positions_below_65536(stored: bytes) -> Iterator[int]:
    """Indexes of the entries below 65,536: those whose upper two bytes are zero."""
    upper = (_column(stored, 0) | _column(stored, 1)).to_bytes(len(stored) // 4)
    index = upper.find(0)
    while index >= 0:
        yield index
        index = upper.find(0, index + 1)


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

    def _stored_pieces(self) -> Iterator[tuple[int, array[int], bytes]]:
        """(first block, entries, the same as stored) of the pieces that hold anything."""
        for piece in range(-(-self.entries // PIECE_ENTRIES)):
            entries = self.piece(piece)
            if entries is not None:
                yield piece * PIECE_ENTRIES, entries, to_stored(entries)

    def count_allocated(self) -> int:
        """How many entries are in use."""
        return sum(
            len(entries) - count_absent(stored) for _, entries, stored in self._stored_pieces()
        )

    def below(self, sector: int) -> Iterator[tuple[int, int]]:
        """(block, entry) of the blocks whose bitmap starts before a sector."""
        if sector > 0x10000:
            yield from ((block, entry) for block, entry in self.allocated() if entry < sector)
            return
        for first, entries, stored in self._stored_pieces():
            for index in positions_below_65536(stored):
                if entries[index] < sector:
                    yield first + index, entries[index]

    def lowest(self) -> int | None:
        """The smallest entry in use; None without any."""
        found = min((min(entries) for _, entries, _ in self._stored_pieces()), default=ABSENT)
        return None if found == ABSENT else found
