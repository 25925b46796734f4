"""The blocks of a VHDX that is being built: what is written where, and what the disk reads as."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from disks.tests.builders.common import MIB, SECTOR, Content, Model, runs
from disks.tests.builders.vhdx_parts import FULLY_PRESENT, NOT_PRESENT, PARTIALLY_PRESENT

STALE = b"\xee" * SECTOR
"""What lies in sectors of a partial block that its bitmap does not claim: never to be seen."""

Pieces = list[tuple[int, bytes]]


@dataclass
class Blocks:
    """written: payload block to a byte for each of its sectors; states: of blocks that have one.

    offsets and bitmaps (chunk to the place of its sector bitmap) come from place().
    """

    model: Model
    size: int
    block_size: int
    logical_sector: int
    differencing: bool
    written: dict[int, bytearray] = field(default_factory=dict)
    states: dict[int, int] = field(default_factory=dict)
    offsets: dict[int, int] = field(default_factory=dict)
    bitmaps: dict[int, int] = field(default_factory=dict)

    @property
    def per_block(self) -> int:
        return self.block_size // self.logical_sector

    @property
    def per_chunk(self) -> int:
        """Payload blocks whose bits fill the 1 MiB of a sector bitmap."""
        return 2**23 * self.logical_sector // self.block_size

    @property
    def total(self) -> int:
        return -(-self.size // self.block_size)

    @property
    def entries(self) -> int:
        """Of the BAT: only a differencing disk has one for the last chunk's bitmap, too."""
        if self.differencing:
            return -(-self.total // self.per_chunk) * (self.per_chunk + 1)
        return self.total + (self.total - 1) // self.per_chunk

    def fill(
        self,
        content: Content,
        allocate: Iterable[int],
        states: Mapping[int, int],
        bitmaps: str,
    ) -> None:
        """Write content; what the states say of a block decides over what was written to it."""
        absent = {}
        for block, state in states.items():
            if state < FULLY_PRESENT:
                place = self._range(block)
                length = place.stop - place.start
                absent[block] = self.model[place] if state == NOT_PRESENT else bytes(length)
        for block in allocate:
            self.written[block] = bytearray(self.per_block)
        for sector, data in content:
            start, stop = sector * SECTOR, sector * SECTOR + len(data)
            self.model[start:stop] = data
            for one in range(start // self.logical_sector, -(-stop // self.logical_sector)):
                block, inside = divmod(one, self.per_block)
                self.written.setdefault(block, bytearray(self.per_block))[inside] = 1
        for block, data in absent.items():
            self.model[self._range(block)] = data
            self.written.pop(block, None)
        here = PARTIALLY_PRESENT if self.differencing and bitmaps != "none" else FULLY_PRESENT
        self.states = dict.fromkeys(self.written, here) | dict(states)
        for block, state in self.states.items():
            if state >= FULLY_PRESENT:
                sectors = self.written.setdefault(block, bytearray(self.per_block))
                if self.differencing and (state == FULLY_PRESENT or bitmaps == "full"):
                    place = self._range(block)
                    inside = (place.stop - place.start) // self.logical_sector
                    sectors[:inside] = b"\1" * inside

    def _range(self, block: int) -> slice:
        return slice(block * self.block_size, min((block + 1) * self.block_size, self.size))

    def place(self, at: int, order: str) -> int:
        """Give every block that is there a place from `at` on, a bitmap before its first block.

        Returns the end. order: ascending or descending.
        """
        here = [block for block, state in self.states.items() if state >= FULLY_PRESENT]
        for block in sorted(here, reverse=order == "descending"):
            chunk = block // self.per_chunk
            if self._is_partial(block) and chunk not in self.bitmaps:
                self.bitmaps[chunk] = at
                at += MIB
            self.offsets[block] = at
            at += self.block_size
        return at

    def _is_partial(self, block: int) -> bool:
        return self.differencing and self.states[block] == PARTIALLY_PRESENT

    def table(self) -> dict[int, int]:
        """BAT index to entry, of those that are not zero."""
        found = {}
        for block, state in self.states.items():
            index = block + block // self.per_chunk
            found[index] = state | self.offsets.get(block, 0)
        for chunk, offset in self.bitmaps.items():
            found[(chunk + 1) * self.per_chunk + chunk] = FULLY_PRESENT | offset
        return found

    def pieces(self, bitmap_of: Mapping[int, bytes]) -> Pieces:
        """(file offset, bytes) of blocks and sector bitmaps."""
        found: Pieces = []
        bits = {chunk: bytearray(MIB) for chunk in self.bitmaps}
        for block, offset in self.offsets.items():
            sectors = self.written[block]
            for first, last in runs(sectors):
                start = block * self.block_size + first * self.logical_sector
                stop = min(start + (last - first) * self.logical_sector, self.size)
                found.append((offset + first * self.logical_sector, bytes(self.model[start:stop])))
                if self._is_partial(block):
                    chunk, inside = divmod(block, self.per_chunk)
                    _set_bits(bits[chunk], inside * self.per_block + first, last - first)
                    found += self._stale(offset, sectors, first, last)
        for chunk, offset in self.bitmaps.items():
            raw = bitmap_of.get(chunk, b"")
            bits[chunk][: len(raw)] = raw
            found.append((offset, bytes(bits[chunk])))
        return found

    def _stale(self, offset: int, sectors: bytearray, first: int, last: int) -> Pieces:
        """Stale bytes in the unwritten sectors around a run."""
        logical = self.logical_sector
        around = [one for one in (first - 1, last) if 0 <= one < len(sectors) and not sectors[one]]
        return [(offset + one * logical, STALE * (logical // SECTOR)) for one in around]


def entry_pieces(table_offset: int, table: Mapping[int, int]) -> Pieces:
    """The BAT's bytes, entry by entry."""
    return [(table_offset + 8 * index, struct.pack("<Q", value)) for index, value in table.items()]


def _set_bits(bitmap: bytearray, first: int, count: int) -> None:
    """Sector s of a chunk is bit s & 7 of byte s >> 3, the lowest bit first."""
    position, end = first, first + count
    while position < end:
        if position % 8 == 0 and end - position >= 8:
            whole = (end - position) // 8
            bitmap[position >> 3 : (position >> 3) + whole] = b"\xff" * whole
            position += whole * 8
        else:
            bitmap[position >> 3] |= 1 << (position & 7)
            position += 1
