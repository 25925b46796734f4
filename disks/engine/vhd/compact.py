"""Making a VHD dense where it lies: blocks dropped, the highest ones moved down, the end cut off.

An entry of the block allocation table is the old one or the new one, and either is right:
the copy of a block is complete before its entry leads to it, and its old place is left alone
until the change is through. The last thing is a second footer at the new end; then the file
is cut off behind it.

Source: VHD specification 1.0; formats/vhd.md §10 "Compact", §11.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from disks.engine.changes import Compaction, Drop, Fill, HeaderRewrite, Move, Round, Write
from disks.engine.compaction import (
    changed_table,
    free_ranges,
    rounds_of_drops,
    rounds_of_moves,
)
from disks.engine.units import SECTOR_BYTES, round_up
from disks.engine.vhd import batmap, room
from disks.engine.vhd.bat import ABSENT, PIECE_ENTRIES
from disks.engine.vhd.room import PAGE_BYTES

if TYPE_CHECKING:
    from disks.engine.vhd.image import VhdImage

_ENTRY_BYTES = 4
_BLOCK = 0xFFFFFFFF  # the lower half of a packed entry and block


def plan_compaction(image: VhdImage, absent: Collection[int]) -> Compaction:
    """See `Image`. Raises the write refusal."""
    _require_blocks(image)
    gone = frozenset(absent)
    drops = [Drop(block, ABSENT) for block in sorted(gone) if image.bat.entry(block) != ABSENT]
    used = sorted(
        entry << 32 | block for block, entry in image.bat.allocated() if block not in gone
    )
    moves = list(_moves(image, used))
    left = used[: len(used) - len(moves)]
    highest = [move.target for move in moves]
    if left:
        highest.append((left[-1] >> 32) * SECTOR_BYTES)
    rounds = (
        *rounds_of_drops(drops, lambda drop: (_page_of(image, drop.number),)),
        *rounds_of_moves(moves, lambda move: _page_of(image, move.number)),
    )
    end = _end(image, max(highest, default=None))
    return Compaction(rounds, end + image.footers.end.length)


def plan_round(image: VhdImage, round: Round) -> HeaderRewrite:
    """See `Image`. Raises the write refusal, `E_CHANGED`."""
    _require_blocks(image)
    entries = {drop.number: drop.entry for drop in round.drops}
    before = batmap.without_blocks(image, [drop.number for drop in round.drops])
    copies: list[Fill] = []
    for move in round.moves:
        if image.bat.entry(move.number) * SECTOR_BYTES != move.source:
            raise changed_table(image.file.path, move.number)
        entries[move.number] = move.target // SECTOR_BYTES
        copies.append(Fill(move.target, move.length, copy_of=move.source))
        if move.room_bytes > move.length:
            rest = move.room_bytes - move.length
            copies.append(Fill(move.target + move.length, rest))
    first: list[tuple[Write | Fill, ...]] = [tuple(one) for one in (before, copies) if one]
    steps = (*first, tuple(_table_sectors(image, entries)))
    return HeaderRewrite(
        steps,
        image.file.size_bytes,
        (),
        visible_step=len(steps) - 1,
        entry_bytes=_ENTRY_BYTES,
    )


def plan_end(image: VhdImage) -> HeaderRewrite | None:
    """See `Image`. Raises the write refusal."""
    _require_blocks(image)
    old = image.footers.end
    highest = (
        max(image.bat.in_use(piece)[1], default=None)
        for piece in range(-(-image.bat.entries // PIECE_ENTRIES))
    )
    entry = max((one for one in highest if one is not None), default=None)
    end = _end(image, None if entry is None else entry * SECTOR_BYTES)
    if end + old.length > old.offset:
        return None
    footer = Write(end, old.raw[: old.length])
    return HeaderRewrite(((footer,),), end + old.length, (), visible_step=0)


def _require_blocks(image: VhdImage) -> None:
    if image.write_refusal is not None:
        raise image.write_refusal
    if image.header is None:
        raise ValueError("a fixed disk has no blocks that could be moved")


def _stride(image: VhdImage) -> int:
    return image.bitmap_bytes + image.block_size_bytes


def _page_of(image: VhdImage, block: int) -> int:
    return (image.bat.offset + block * _ENTRY_BYTES) // PAGE_BYTES


def _end(image: VhdImage, highest: int | None) -> int:
    """Where the footer may lie when the highest block begins there.

    Some tools leave out what the size cuts off the last block: then it ends with the data.
    """
    ends = [end for _, end in room.metadata(image)]
    if highest is not None:
        ends.append(highest + _stride(image))
    return min(image.data_end, round_up(max(ends), SECTOR_BYTES))


def _moves(image: VhdImage, used: list[int]) -> Iterator[Move]:
    """The highest block into the lowest room for one, and so on; used: packed, ascending."""
    stride = _stride(image)
    aligned = _is_aligned(image, used)
    blocks = ((packed >> 32) * SECTOR_BYTES for packed in used)
    fixed = sorted([*room.metadata(image), *room.reserved(image)])
    taken = heapq.merge(fixed, ((start, start + stride) for start in blocks))
    gaps = free_ranges(taken, SECTOR_BYTES)
    gap = next(gaps, None)
    for packed in reversed(used):
        source = (packed >> 32) * SECTOR_BYTES
        target = source
        while gap is not None and gap[0] < source:
            target = gap[0]
            if aligned:
                target = round_up(target + image.bitmap_bytes, PAGE_BYTES) - image.bitmap_bytes
            if target + stride <= gap[1]:
                break
            gap = next(gaps, None)
        if gap is None or gap[0] >= source:
            return
        length = min(stride, image.data_end - source)
        yield Move(packed & _BLOCK, source, target, length, stride)
        gap = (target + stride, gap[1])


def _is_aligned(image: VhdImage, used: list[int]) -> bool:
    """Whether the data of all blocks lies on page borders: then it stays so."""
    if image.block_size_bytes < PAGE_BYTES:
        return False
    step = PAGE_BYTES // SECTOR_BYTES
    off = -(image.bitmap_bytes // SECTOR_BYTES) % step
    return all((packed >> 32) % step == off for packed in used)


def _table_sectors(image: VhdImage, entries: Mapping[int, int]) -> Iterator[Write]:
    """The sectors of the table with these entries: a sector is written in one piece."""
    per_sector = SECTOR_BYTES // _ENTRY_BYTES
    by_sector: dict[int, list[int]] = {}
    for block in entries:
        by_sector.setdefault(block // per_sector, []).append(block)
    for sector, blocks in sorted(by_sector.items()):
        at = image.bat.offset + sector * SECTOR_BYTES
        data = bytearray(image.file.read_at(at, SECTOR_BYTES))
        for block in blocks:
            place = block % per_sector * _ENTRY_BYTES
            data[place : place + _ENTRY_BYTES] = entries[block].to_bytes(_ENTRY_BYTES)
        yield Write(at, bytes(data))
