"""The block allocation table (BAT): where each block's sector bitmap starts, in sectors."""

from __future__ import annotations

import sys
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from itertools import compress
from typing import NamedTuple

from disks.engine.files import ImageFile

ABSENT = 0xFFFFFFFF
MAX_FILE_SECTORS = 0xFFFFFFFF  # entries are 32-bit sector numbers
PIECE_ENTRIES = 16 * 1024
_PIECE_BYTES = PIECE_ENTRIES * 4
_ALL_ABSENT = b"\xff" * _PIECE_BYTES
_CACHED_PIECES = 64  # 5 MiB

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


# What the four bytes of an entry give together: only all ones mean that there is no block.
_IN_USE = bytes([1] * 0xFF + [0])


def _flags(stored: bytes) -> bytes:
    """A byte for each entry, 1 where it is in use; several times faster than a loop.

    One byte of every entry makes a long number: & then works on all of them at once.
    """
    columns = [int.from_bytes(stored[index::4]) for index in range(4)]
    all_set = columns[0] & columns[1] & columns[2] & columns[3]
    return all_set.to_bytes(len(stored) // 4).translate(_IN_USE)


class _Piece(NamedTuple):
    entries: array[int]
    in_use: bytes


def _as_piece(stored: bytes) -> _Piece | None:
    """None when all of its entries are absent."""
    if stored == _ALL_ABSENT[: len(stored)]:
        return None
    return _Piece(to_entries(stored), _flags(stored))


class BlockAllocationTable:
    """Reads the table in pieces of 64 KiB and keeps the most recent ones.

    entries is the number that the disk's size needs, already known to lie inside the file:
    the header's own number is never a reason to allocate anything.
    """

    def __init__(self, file: ImageFile, offset: int, entries: int, head: bytes = b"") -> None:
        self.offset = offset
        self.entries = entries
        self._file = file
        self._lowest: int | None = None
        self._cache: OrderedDict[int, _Piece | None] = OrderedDict()
        if offset + entries * 4 <= len(head) and entries <= PIECE_ENTRIES:
            self._cache[0] = _as_piece(head[offset : offset + entries * 4])

    def _piece(self, piece: int) -> _Piece | None:
        cache = self._cache
        if piece in cache:
            cache.move_to_end(piece)
            return cache[piece]
        first = piece * PIECE_ENTRIES
        count = min(PIECE_ENTRIES, self.entries - first)
        found = _as_piece(self._file.read_at(self.offset + first * 4, count * 4))
        cache[piece] = found
        if len(cache) > _CACHED_PIECES:
            cache.popitem(last=False)
        return found

    def entry(self, block: int) -> int:
        """Sector number of the block's bitmap, or ABSENT."""
        found = self._piece(block // PIECE_ENTRIES)
        return ABSENT if found is None else found.entries[block % PIECE_ENTRIES]

    def next_allocated(self, block: int, end: int) -> int:
        """The first allocated block in [block, end), or end."""
        while block < end:
            found = self._piece(block // PIECE_ENTRIES)
            start = block - block % PIECE_ENTRIES
            stop = min(end, start + PIECE_ENTRIES)
            if found is not None:
                index = found.in_use.find(1, block - start, stop - start)
                if index >= 0:
                    return start + index
            block = stop
        return end

    def in_use(self, piece: int) -> tuple[list[int], list[int]]:
        """Blocks and entries of what one piece of PIECE_ENTRIES has allocated, by block."""
        found = self._piece(piece)
        if found is None:
            return [], []
        first = piece * PIECE_ENTRIES
        blocks = range(first, first + len(found.entries))
        return list(compress(blocks, found.in_use)), list(compress(found.entries, found.in_use))

    def _pieces(self) -> range:
        return range(-(-self.entries // PIECE_ENTRIES))

    def allocated(self) -> Iterator[tuple[int, int]]:
        """(block, entry) of every allocated block, ascending by block."""
        for piece in self._pieces():
            yield from zip(*self.in_use(piece), strict=True)

    def count_allocated(self) -> int:
        """How many entries are in use."""
        found = [self._piece(piece) for piece in self._pieces()]
        return sum(one.in_use.count(1) for one in found if one is not None)

    def below(self, sector: int) -> Iterator[tuple[int, int]]:
        """(block, entry) of the blocks whose bitmap starts before a sector."""
        lowest = self.lowest()
        if lowest is not None and lowest < sector:
            yield from ((block, entry) for block, entry in self.allocated() if entry < sector)

    def lowest(self) -> int | None:
        """The smallest entry in use; None without any."""
        if self._lowest is None:
            self._lowest = min(
                (min(self.in_use(piece)[1], default=ABSENT) for piece in self._pieces()),
                default=ABSENT,
            )
        return None if self._lowest == ABSENT else self._lowest
