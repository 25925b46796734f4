"""Making a VHDX hold more sectors where it lies: new blocks at the end, then BAT and bitmaps.

What refers to data goes through the log, all of a batch in one entry: a reader finds the batch
whole or not at all. Source: [MS-VHDX] 2.3, 2.5; formats/vhdx.md §9 "Merge".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from disks.engine.changes import Write
from disks.engine.holding import HoldPlan, Limits, Place, Wanted, by_block, steps_of
from disks.engine.images import DiskType
from disks.engine.sector_bitmap import REVERSED_BITS, set_range
from disks.engine.units import MIB, SECTOR_BYTES, round_up
from disks.engine.vhdx import bat, expand
from disks.engine.vhdx.bat import offset_of, state_of
from disks.engine.vhdx.extents import check_bitmap_entry, check_entry
from disks.engine.vhdx.logged import PAGE_BYTES, plan_logged

if TYPE_CHECKING:
    from disks.engine.vhdx.image import VhdxImage

_BITMAP_BYTES = 1 * MIB
_ENTRIES_PER_PAGE = PAGE_BYTES // bat.ENTRY_BYTES


def plan_hold(image: VhdxImage, wanted: Iterator[Wanted], limits: Limits) -> HoldPlan:
    """See `Image`. Raises the write refusal, `E_VHDX_BAT`, `E_VHDX_LOG`."""
    if image.write_refusal is not None:
        raise image.write_refusal
    batch = _Batch(image)
    for block, inside, length, zeros in by_block(wanted, image.sectors_per_block):
        first = block * image.sectors_per_block + inside
        left = batch.left_sectors(limits)
        if left <= 0:
            return batch.done(first)
        if zeros and batch.state_zeros(block, inside, length):
            continue
        batch.hold(block, inside, min(left, length), zeros=zeros)
        if left < length:
            return batch.done(first + left)
    return batch.done(None)


def growth_bytes(image: VhdxImage, wanted: Iterator[Wanted]) -> int:
    """See `Image`."""
    differencing = image.disk_type is DiskType.DIFFERENCING
    blocks = 0
    last = -1
    chunks = set()
    for block, _, _, zeros in by_block(wanted, image.sectors_per_block):
        if block == last or (zeros and not differencing):
            continue
        last = block
        absent = block >= image.blocks_total or (
            state_of(image.bat.entry(block)) < bat.FULLY_PRESENT
        )
        blocks += absent
        if absent and differencing:
            chunks.add(block // image.geometry.ratio)
    return blocks * image.block_size_bytes + len(chunks) * _BITMAP_BYTES + (MIB if blocks else 0)


def needed_bytes(image: VhdxImage) -> int:
    """See `Image`."""
    end = 0
    for index, entry in image.bat.used():
        is_bitmap = image.geometry.is_bitmap(index)
        if state_of(entry) >= bat.FULLY_PRESENT:
            length = _BITMAP_BYTES if is_bitmap else image.block_size_bytes
            end = max(end, offset_of(entry) + length)
    return end


class _Batch:
    """What one batch changes: entries of the table, bits, and where data goes."""

    def __init__(self, image: VhdxImage) -> None:
        self._image = image
        self._differencing = image.disk_type is DiskType.DIFFERENCING
        self._end = self._old_end = expand.end_of_blocks(image)
        self._places: list[Place] = []
        self._bytes = 0
        self._entries: dict[int, int] = {}  # index in the table: new entry
        self._bits: dict[int, bytearray] = {}  # block: its bits, VHD's order
        self._bits_before: dict[int, bytes] = {}
        self._fresh: set[int] = set()  # blocks whose room was added by this batch
        log_pages = image.headers.header.log_length // PAGE_BYTES
        self._most_pages = log_pages - 2 - log_pages // 126

    def left_sectors(self, limits: Limits) -> int:
        # A block may add a page of the table, two of bitmaps and one for its bitmap's entry.
        logged = len(self._pages_touched()) + 4
        slice_pages = -(-self._slice_bytes() // PAGE_BYTES) + 1
        if logged + slice_pages > self._most_pages or 2 * len(self._places) + 2 >= limits.pages:
            return 0
        scale = self._image.logical_sector_bytes // SECTOR_BYTES
        left = (limits.data_bytes - self._bytes) // SECTOR_BYTES
        return left - left % scale

    def _slice_bytes(self) -> int:
        return _BITMAP_BYTES // self._image.geometry.ratio

    def _pages_touched(self) -> set[int]:
        """Pages that the log entry will hold at most: of the table, then of bitmaps."""
        pages = {-1 - index // _ENTRIES_PER_PAGE for index in self._entries}
        size = self._slice_bytes()
        for block in self._bits:
            chunk, inside = divmod(block, self._image.geometry.ratio)
            at = chunk * _BITMAP_BYTES + inside * size
            pages.update(range(at // PAGE_BYTES, (at + size - 1) // PAGE_BYTES + 1))
        return pages

    def _entry(self, index: int) -> int:
        return self._entries.get(index, self._image.bat.at(index))

    def state_zeros(self, block: int, inside: int, count: int) -> bool:
        """Say zeros without storing them, where the block lets that be said."""
        image = self._image
        index = image.geometry.index_of(block)
        state = state_of(self._entry(index))
        absent = state < bat.FULLY_PRESENT
        if absent and (state != bat.NOT_PRESENT or not self._differencing):
            return True  # reads as zeros already, and hides what a parent has
        start = block * image.sectors_per_block
        size = min(image.sectors_per_block, image.virtual_size_bytes // SECTOR_BYTES - start)
        whole = inside == 0 and count >= size
        if whole and image.disk_type is not DiskType.FIXED and block not in self._fresh:
            self._entries[index] = bat.ZERO
            return True
        return False

    def hold(self, block: int, inside: int, count: int, *, zeros: bool) -> None:
        image = self._image
        index = image.geometry.index_of(block)
        entry = self._entry(index)
        state = state_of(entry)
        if state < bat.FULLY_PRESENT:
            partly = self._differencing and state == bat.NOT_PRESENT
            state = bat.PARTIALLY_PRESENT if partly else bat.FULLY_PRESENT
            entry = self._allocate(image.block_size_bytes) | state
            self._entries[index] = entry
            self._fresh.add(block)
            offset = offset_of(entry)
        elif block in self._fresh:
            offset = offset_of(entry)
        else:
            offset = check_entry(image, block, entry)
        if state == bat.PARTIALLY_PRESENT:
            self._set_bits(block, inside, count)
        if zeros and block in self._fresh:
            return
        first = block * image.sectors_per_block + inside
        self._places.append(Place(first, count, offset + inside * SECTOR_BYTES, zeros))
        self._bytes += count * SECTOR_BYTES

    def _allocate(self, length: int) -> int:
        offset = self._end
        self._end += length
        return offset

    def _set_bits(self, block: int, inside: int, count: int) -> None:
        image = self._image
        if block not in self._bits:
            chunk, number = divmod(block, image.geometry.ratio)
            index = image.geometry.bitmap_index(chunk)
            entry = self._entry(index)
            before = bytes(self._slice_bytes())
            if state_of(entry) != bat.BITMAP_PRESENT:
                self._entries[index] = self._allocate(_BITMAP_BYTES) | bat.BITMAP_PRESENT
            elif offset_of(entry) < self._old_end:
                at = check_bitmap_entry(image, chunk, entry) + number * len(before)
                if block not in self._fresh:
                    before = image.file.read_at(at, len(before)).translate(REVERSED_BITS)
            self._bits[block] = bytearray(before)
            self._bits_before[block] = before
        scale = image.logical_sector_bytes // SECTOR_BYTES
        set_range(self._bits[block], inside // scale, count // scale)

    def done(self, until: int | None) -> HoldPlan:
        pages: dict[int, bytearray] = {}
        beside: list[Write] = []
        image = self._image
        for index, entry in self._entries.items():
            self._patch(pages, image.bat.entry_offset(index), entry.to_bytes(8, "little"))
        for block, bits in self._bits.items():
            stored = bytes(bits).translate(REVERSED_BITS)
            chunk, number = divmod(block, image.geometry.ratio)
            at = offset_of(self._entry(image.geometry.bitmap_index(chunk))) + number * len(bits)
            if at >= self._old_end:
                beside.append(Write(at, stored))  # nothing refers to it yet
            elif bits != self._bits_before[block] or block in self._fresh:
                self._patch(pages, at, stored)
        size = max(image.stored_file.size_bytes, self._end if self._end > self._old_end else 0)
        changed = [(offset, bytes(page)) for offset, page in sorted(pages.items())]
        steps: tuple[tuple[Write, ...], ...] = ()
        if changed:
            steps = steps_of(plan_logged(image, changed, (), size_after_bytes=round_up(size, MIB)))
            size = max(size, round_up(size, MIB))
        return HoldPlan(until, size, (), tuple(self._places), tuple(beside), steps, logged=True)

    def _patch(self, pages: dict[int, bytearray], offset: int, data: bytes) -> None:
        position = 0
        while position < len(data):
            at = offset + position
            start = at - at % PAGE_BYTES
            length = min(len(data) - position, start + PAGE_BYTES - at)
            if start not in pages:
                pages[start] = bytearray(self._image.file.read_at(start, PAGE_BYTES))
            pages[start][at - start : at - start + length] = data[position : position + length]
            position += length
