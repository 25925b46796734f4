"""The block allocation table (BAT): each payload block's state and place, chunk by chunk.

After every chunk of `ratio` payload entries one entry for the chunk's sector bitmap follows, in
disks without parent, too.
"""

from __future__ import annotations

import sys
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from disks.engine.files import ImageFile
from disks.engine.units import MIB, SECTOR_BYTES

NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED = 0, 1, 2, 3
FULLY_PRESENT, PARTIALLY_PRESENT = 6, 7
BITMAP_PRESENT = 6
STATE_NAMES = {
    NOT_PRESENT: "not present",
    UNDEFINED: "undefined",
    ZERO: "zero",
    UNMAPPED: "unmapped",
    FULLY_PRESENT: "fully present",
    PARTIALLY_PRESENT: "partially present",
}
READ_AS_ZEROS = (UNDEFINED, ZERO, UNMAPPED)
ENTRY_BYTES = 8
BITMAP_BLOCK_BYTES = 1 * MIB
PIECE_ENTRIES = 8 * 1024
_PIECE_BYTES = PIECE_ENTRIES * ENTRY_BYTES
_ALL_ZERO = bytes(_PIECE_BYTES)
_CACHED_PIECES = 64  # 4 MiB
_STATE = 7
_OFFSET = ~(MIB - 1) & 0xFFFFFFFFFFFFFFFF
RESERVED = 0xFFFFF & ~_STATE
_STATE_OF_BYTE = bytes(byte & _STATE for byte in range(256))

assert array("Q").itemsize == ENTRY_BYTES  # noqa: S101 - the layout itself, at import


def chunk_sectors(logical_sector_bytes: int) -> int:
    """How much of a disk, in sectors of 512 bytes, the 1 MiB of a sector bitmap is about."""
    return (MIB * 8) * logical_sector_bytes // SECTOR_BYTES


class Geometry(NamedTuple):
    """What the sizes of a disk make of its BAT.

    ratio    payload blocks in a chunk: those whose bits fill 1 MiB of sector bitmap
    blocks   payload blocks of the disk
    entries  in the BAT, bitmap entries included
    """

    ratio: int
    blocks: int
    entries: int

    @classmethod
    def of(
        cls, virtual_bytes: int, block_bytes: int, logical_sector_bytes: int, has_parent: bool
    ) -> Geometry:
        """Source: [MS-VHDX] 2.5."""
        ratio = chunk_sectors(logical_sector_bytes) * SECTOR_BYTES // block_bytes
        blocks = -(-virtual_bytes // block_bytes)
        if has_parent:
            entries = -(-blocks // ratio) * (ratio + 1)
        else:
            entries = blocks + (blocks - 1) // ratio
        return cls(ratio, blocks, entries)

    def index_of(self, block: int) -> int:
        return block + block // self.ratio

    def bitmap_index(self, chunk: int) -> int:
        return (chunk + 1) * self.ratio + chunk

    def is_bitmap(self, index: int) -> bool:
        return index % (self.ratio + 1) == self.ratio

    def beyond(self) -> list[int]:
        """Indices of the last chunk's payload entries that belong to no block of the disk."""
        behind = range(self.index_of(self.blocks - 1) + 1, self.entries)
        return [index for index in behind if not self.is_bitmap(index)]

    def block_of(self, index: int) -> int:
        """The payload block of an entry; of a bitmap's entry, the block behind it."""
        return index - index // (self.ratio + 1)


def state_of(entry: int) -> int:
    return entry & _STATE


def offset_of(entry: int) -> int:
    """Bytes from the file's start."""
    return entry & _OFFSET


def to_entries(data: bytes) -> array[int]:
    entries = array("Q", data)
    if sys.byteorder == "big":
        entries.byteswap()
    return entries


def to_stored(entries: array[int]) -> bytes:
    if sys.byteorder == "big":
        entries = array("Q", entries)
        entries.byteswap()
    return entries.tobytes()


class BlockAllocationTable:
    """Reads the table in pieces of 64 KiB and keeps the most recent ones.

    The table is already known to lie inside the file.
    """

    def __init__(self, file: ImageFile, offset: int, geometry: Geometry) -> None:
        self.offset = offset
        self.geometry = geometry
        self._file = file
        self._cache: OrderedDict[int, array[int] | None] = OrderedDict()

    def piece(self, piece: int) -> array[int] | None:
        """One piece of the table; None when all of its entries are zero."""
        cache = self._cache
        if piece in cache:
            cache.move_to_end(piece)
            return cache[piece]
        first = piece * PIECE_ENTRIES
        count = min(PIECE_ENTRIES, self.geometry.entries - first)
        data = self._file.read_at(self.offset + first * ENTRY_BYTES, count * ENTRY_BYTES)
        entries = None if data == _ALL_ZERO[: len(data)] else to_entries(data)
        cache[piece] = entries
        if len(cache) > _CACHED_PIECES:
            cache.popitem(last=False)
        return entries

    def at(self, index: int) -> int:
        """The entry at an index of the table."""
        entries = self.piece(index // PIECE_ENTRIES)
        return 0 if entries is None else entries[index % PIECE_ENTRIES]

    def entry(self, block: int) -> int:
        """A payload block's entry."""
        return self.at(self.geometry.index_of(block))

    def entry_offset(self, index: int) -> int:
        """Where an entry lies in the file."""
        return self.offset + index * ENTRY_BYTES

    def _next_stored(self, index: int) -> int:
        """The first index from there on whose piece may hold entries: none lie in holes.

        The table of a disk of 64 TiB may have 512 MiB, nearly all of them never written.
        """
        at = self._file.next_data(self.entry_offset(index)) - self.offset
        return max(index, at // _PIECE_BYTES * PIECE_ENTRIES)

    def _pieces(self, end: int) -> Iterator[tuple[int, array[int]]]:
        """(first index, entries) of the pieces before index end that are not all zero."""
        first = self._next_stored(0)
        while first < end:
            entries = self.piece(first // PIECE_ENTRIES)
            if entries is not None:
                yield first, entries
            first = self._next_stored(first + PIECE_ENTRIES)

    def next_used(self, block: int, end: int) -> int:
        """The first block in [block, end) whose entry is not zero, or end."""
        geometry = self.geometry
        while block < end:
            index = self._next_stored(geometry.index_of(block))
            if index >= geometry.entries:
                return end
            piece = index // PIECE_ENTRIES
            entries = self.piece(piece)
            stop = min((piece + 1) * PIECE_ENTRIES, geometry.entries)
            if entries is not None:
                start = piece * PIECE_ENTRIES
                for one in range(index, stop):
                    if entries[one - start] and not geometry.is_bitmap(one):
                        return min(geometry.block_of(one), end)
            block = geometry.block_of(stop)
        return end

    def used(self) -> Iterator[tuple[int, int]]:
        """(index, entry) of every entry that is not zero, bitmaps included, ascending."""
        for first, entries in self._pieces(self.geometry.entries):
            for index, entry in enumerate(entries, first):
                if entry:
                    yield index, entry

    def count_present(self) -> int:
        """How many payload blocks have room in the file; several times faster than a loop."""
        geometry = self.geometry
        stride = geometry.ratio + 1
        end = geometry.index_of(geometry.blocks - 1) + 1  # behind it: no blocks of the disk
        total = 0
        for first, entries in self._pieces(end):
            states = to_stored(entries)[::ENTRY_BYTES].translate(_STATE_OF_BYTE)[: end - first]
            bitmaps = states[(geometry.ratio - first) % stride :: stride]
            for state in (FULLY_PRESENT, PARTIALLY_PRESENT):
                total += states.count(state) - bitmaps.count(state)
        return total
