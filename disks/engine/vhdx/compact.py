"""Making a VHDX dense where it lies: blocks dropped, the highest ones moved down, the end cut off.

Every change of the block allocation table goes through the disk's own log. What has a place in
the file without being read loses it: sector bitmaps of chunks without a partly held block, and
places that entries name whose state has none. The regions and the log stay where they are.

Source: [MS-VHDX] 2.3, 2.5; formats/vhdx.md §9 "Compact".
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from disks.engine.changes import Compaction, Drop, Fill, HeaderRewrite, Move, Round, Write
from disks.engine.compaction import (
    Range,
    changed_table,
    free_ranges,
    rounds_of_drops,
    rounds_of_moves,
)
from disks.engine.images import DiskType
from disks.engine.units import MIB, round_up
from disks.engine.vhdx import bat, headers
from disks.engine.vhdx.bat import offset_of, state_of
from disks.engine.vhdx.guid import new_guid
from disks.engine.vhdx.logged import PAGE_BYTES, plan_logged

if TYPE_CHECKING:
    from disks.engine.vhdx.image import VhdxImage

_BITMAP_BYTES = MIB
_IN_PLACE = MIB - 1  # the bits of an entry that are no offset
_INDEX = 0xFFFFFFFF  # the lower half of a packed place and index


def plan_compaction(
    image: VhdxImage, absent: Collection[int], zeros: Collection[int]
) -> Compaction:
    """See `Image`. Raises the write refusal."""
    _require_blocks(image)
    drops, used = _sorted_out(image, absent, zeros)
    holes = list(free_ranges(_taken(image, used), MIB))
    moves = list(_moves(image, used, holes))
    targets = [(move.target, move.room_bytes) for move in moves]
    left = used[: len(used) - len(moves)]
    left_ends = [_place(image, packed)[1] for packed in left[-1:]]
    end = max([start + length for start, length in targets] + left_ends, default=0)
    rounds = (
        *rounds_of_drops(drops, lambda drop: _pages_of(image, drop)),
        *rounds_of_moves(moves, lambda move: image.bat.entry_offset(move.number) // PAGE_BYTES),
    )
    return Compaction(rounds, _end(image, end))


def plan_round(image: VhdxImage, round: Round) -> HeaderRewrite:
    """See `Image`. Raises the write refusal, `E_CHANGED`, `E_VHDX_LOG`."""
    _require_blocks(image)
    entries = {drop.number: drop.entry for drop in round.drops}
    copies: list[Fill] = []
    for move in round.moves:
        entry = image.bat.at(move.number)
        if offset_of(entry) != move.source:
            raise changed_table(image.file.path, move.number)
        entries[move.number] = move.target | entry & _IN_PLACE
        copies.append(Fill(move.target, move.length, copy_of=move.source))
        if move.room_bytes > move.length:
            rest = move.room_bytes - move.length
            copies.append(Fill(move.target + move.length, rest))
    pages = _Pages(image)
    for index, entry in entries.items():
        pages.put(image.bat.entry_offset(index), entry.to_bytes(bat.ENTRY_BYTES, "little"))
    for drop in round.drops:
        for start, end in _bits_of(image, drop, entries):
            pages.put(start, bytes(end - start))
    return plan_logged(image, pages.changed(), (), before=copies)


def plan_end(image: VhdxImage) -> HeaderRewrite | None:
    """See `Image`. The header says that the file was written. Raises the write refusal."""
    _require_blocks(image)
    ends = [0]
    for index, entry in image.bat.used():
        if offset_of(entry):
            ends[0] = max(ends[0], offset_of(entry) + _length(image, index))
    end = _end(image, ends[0])
    if end >= image.stored_file.size_bytes:
        return None
    offset, data = headers.next_headers(image.headers, {"file_write_guid": new_guid()})[0]
    return HeaderRewrite(((Write(offset, data),),), end, ())


def _require_blocks(image: VhdxImage) -> None:
    if image.write_refusal is not None:
        raise image.write_refusal
    if image.disk_type is DiskType.FIXED:
        raise ValueError("a fixed disk keeps all of its blocks")


def _sorted_out(
    image: VhdxImage, absent: Collection[int], zeros: Collection[int]
) -> tuple[list[Drop], list[int]]:
    """(entries that lose their place, packs of MiB << 32 | index of those that keep one)."""
    gone, stated = frozenset(absent), frozenset(zeros)
    geometry = image.geometry
    differencing = image.disk_type is DiskType.DIFFERENCING
    last = geometry.index_of(geometry.blocks - 1)
    drops: list[Drop] = []
    used: list[int] = []
    bitmaps: list[tuple[int, int]] = []
    partly: set[int] = set()  # chunks that need their sector bitmap
    for index, entry in image.bat.used():
        if geometry.is_bitmap(index):
            bitmaps.append((index, entry))
            continue
        state, block = state_of(entry), geometry.block_of(index)
        if index > last:
            drops.append(Drop(index, 0))
        elif state < bat.FULLY_PRESENT:
            if offset_of(entry):  # Hyper-V cannot read zeros that have a place
                drops.append(Drop(index, state))
        elif block in gone:
            drops.append(Drop(index, bat.NOT_PRESENT))
        elif block in stated:
            drops.append(Drop(index, bat.ZERO))
        else:
            used.append(offset_of(entry) // MIB << 32 | index)
            if state == bat.PARTIALLY_PRESENT:
                partly.add(block // geometry.ratio)
    for index, entry in bitmaps:
        if differencing and index // (geometry.ratio + 1) in partly:
            used.append(offset_of(entry) // MIB << 32 | index)
        else:
            drops.append(Drop(index, bat.NOT_PRESENT))
    return sorted(drops), sorted(used)


def _length(image: VhdxImage, index: int) -> int:
    return _BITMAP_BYTES if image.geometry.is_bitmap(index) else image.block_size_bytes


def _place(image: VhdxImage, packed: int) -> Range:
    start = (packed >> 32) * MIB
    return start, start + _length(image, packed & _INDEX)


def _taken(image: VhdxImage, used: list[int]) -> Iterator[Range]:
    fixed = [(0, headers.HEADER_SECTION_BYTES), *image.taken]
    return heapq.merge(sorted(fixed), (_place(image, packed) for packed in used))


def _end(image: VhdxImage, end_of_blocks: int) -> int:
    """Where the file may end. QEMU once wrote the last block only as far as the disk goes."""
    ends = [headers.HEADER_SECTION_BYTES, end_of_blocks, *(end for _, end in image.taken)]
    return min(image.stored_file.size_bytes, round_up(max(ends), MIB))


def _moves(image: VhdxImage, used: list[int], holes: list[Range]) -> Iterator[Move]:
    """The highest first, each into the lowest room that it fits into; used: packed, ascending."""
    rooms = _Rooms(holes, image.block_size_bytes)
    for packed in reversed(used):
        index = packed & _INDEX
        source, end = _place(image, packed)
        is_bitmap = image.geometry.is_bitmap(index)
        target = rooms.for_bitmap(source) if is_bitmap else rooms.for_block(source)
        if target is None:
            return  # nothing below it makes the file shorter any more
        length = min(end, image.stored_file.size_bytes) - source
        yield Move(index, source, target, length, end - source)


class _Rooms:
    """The holes of a file, as begin and end, ascending. Blocks take them from their begin on.

    A sector bitmap takes the end of one that is no whole number of blocks long, if there is one:
    so it does not cost the room of a block.
    """

    def __init__(self, holes: list[Range], block_bytes: int) -> None:
        self._holes = [list(hole) for hole in holes]
        self._block = block_bytes
        self._first = 0  # no hole before it has room for a block
        self._odd = 0  # no hole before it has an odd rest

    def for_block(self, below: int) -> int | None:
        """Room for a block that begins below an offset."""
        while self._first < len(self._holes):
            hole = self._holes[self._first]
            if hole[0] >= below:
                return None
            if hole[0] + self._block <= hole[1]:
                hole[0] += self._block
                return hole[0] - self._block
            self._first += 1
        return None

    def for_bitmap(self, below: int) -> int | None:
        """Room for a sector bitmap that begins below an offset."""
        while self._odd < len(self._holes):
            hole = self._holes[self._odd]
            if hole[0] >= below:
                break
            if (hole[1] - hole[0]) % self._block >= _BITMAP_BYTES:
                return self._take_end(hole)
            self._odd += 1
        for number in range(self._first, len(self._holes)):
            hole = self._holes[number]
            if hole[0] >= below:
                return None
            if hole[1] - hole[0] >= _BITMAP_BYTES:
                self._odd = min(self._odd, number)  # its rest is odd now
                return self._take_end(hole)
        return None

    def _take_end(self, hole: list[int]) -> int:
        hole[1] -= _BITMAP_BYTES
        return hole[1]


def _bits_of(
    image: VhdxImage, drop: Drop, entries: dict[int, int] | None = None
) -> Iterator[Range]:
    """Where a dropped block's bits lie that must not be there when it comes back.

    entries: what else changes; with the sector bitmap itself its bits go.
    """
    geometry = image.geometry
    if geometry.is_bitmap(drop.number) or image.disk_type is not DiskType.DIFFERENCING:
        return
    block = geometry.block_of(drop.number)
    if block >= geometry.blocks:
        return
    at = geometry.bitmap_index(block // geometry.ratio)
    entry = (entries or {}).get(at, image.bat.at(at))
    if state_of(entry) != bat.BITMAP_PRESENT:
        return
    length = _BITMAP_BYTES // geometry.ratio
    start = offset_of(entry) + block % geometry.ratio * length
    for first in range(start, start + length, PAGE_BYTES):
        end = min(start + length, first + PAGE_BYTES)
        if any(image.file.read_at(first, end - first)):
            yield first, end


def _pages_of(image: VhdxImage, drop: Drop) -> Iterator[int]:
    yield image.bat.entry_offset(drop.number) // PAGE_BYTES
    for start, _end in _bits_of(image, drop):
        yield start // PAGE_BYTES


class _Pages:
    """Pages of metadata as they are to become."""

    def __init__(self, image: VhdxImage) -> None:
        self._file = image.file
        self._pages: dict[int, bytearray] = {}

    def put(self, offset: int, data: bytes) -> None:
        """data lies within one page."""
        start = offset - offset % PAGE_BYTES
        if start not in self._pages:
            self._pages[start] = bytearray(self._file.read_at(start, PAGE_BYTES))
        self._pages[start][offset - start : offset - start + len(data)] = data

    def changed(self) -> list[tuple[int, bytes]]:
        """(offset, 4 KiB), ascending."""
        return [(offset, bytes(self._pages[offset])) for offset in sorted(self._pages)]
