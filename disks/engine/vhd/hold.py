"""Making a VHD hold more sectors where it lies: new blocks at the end, bits, then the BAT.

Whatever was done so far, the file ends with a footer, and what it holds reads as before.
Source: VHD specification 1.0; formats/vhd.md §10 "Merge", §11.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from disks.engine.changes import Write
from disks.engine.errors import ImageError
from disks.engine.holding import HoldPlan, Limits, Place, Wanted, by_block
from disks.engine.images import DiskType
from disks.engine.sector_bitmap import set_range
from disks.engine.units import SECTOR_BYTES, round_up
from disks.engine.vhd import expand
from disks.engine.vhd.bat import ABSENT, MAX_FILE_SECTORS
from disks.engine.vhd.extents import check_entry
from disks.engine.vhd.room import PAGE_BYTES

if TYPE_CHECKING:
    from disks.engine.vhd.image import VhdImage


def plan_hold(image: VhdImage, wanted: Iterator[Wanted], limits: Limits) -> HoldPlan:
    """See `Image`. Raises the write refusal, `E_TOO_LARGE`, `E_BAT_IN_HEADER`, `E_BAT_PAST_EOF`."""
    if image.write_refusal is not None:
        raise image.write_refusal
    if image.disk_type is DiskType.FIXED:
        return _hold_fixed(image, wanted, limits)
    batch = _Batch(image)
    for block, inside, length, zeros in by_block(wanted, image.sectors_per_block):
        first = block * image.sectors_per_block + inside
        left = batch.left_sectors(limits)
        if left <= 0:
            return batch.done(first)
        batch.hold(block, inside, min(left, length), zeros=zeros)
        if left < length:
            return batch.done(first + left)
    return batch.done(None)


def growth_bytes(image: VhdImage, wanted: Iterator[Wanted]) -> int:
    """See `Image`. Raises `E_TOO_LARGE`."""
    if image.disk_type is DiskType.FIXED:
        return 0
    stride = round_up(image.bitmap_bytes + image.block_size_bytes, PAGE_BYTES)
    blocks, last = 0, -1
    for block, _, _, zeros in by_block(wanted, image.sectors_per_block):
        if block == last or (zeros and image.disk_type is DiskType.DYNAMIC):
            continue
        last = block
        blocks += block >= image.blocks_total or image.bat.entry(block) == ABSENT
    growth = blocks * stride + PAGE_BYTES if blocks else 0
    _require_reach(image, image.data_end + growth)
    return growth


def _require_reach(image: VhdImage, end: int) -> None:
    """E_TOO_LARGE unless blocks that end there, and the footer behind them, can be named."""
    if end + SECTOR_BYTES > MAX_FILE_SECTORS * SECTOR_BYTES:
        raise ImageError(
            "E_TOO_LARGE",
            "The file would grow past 2 TiB, which the block allocation table cannot reach.",
            file=image.file.path,
            value=end,
        )


def _hold_fixed(image: VhdImage, wanted: Iterator[Wanted], limits: Limits) -> HoldPlan:
    places: list[Place] = []
    left = limits.data_bytes // SECTOR_BYTES
    until = None
    for first, count, zeros in wanted:
        taken = min(count, left)
        if taken:
            places.append(Place(first, taken, first * SECTOR_BYTES, zeros))
        left -= taken
        if taken < count or len(places) * 2 >= limits.pages:
            until = first + taken
            break
    return HoldPlan(until, image.file.size_bytes, (), tuple(places), (), ())


class _Batch:
    """The blocks that one batch touches: where they lie, and which bits they get."""

    def __init__(self, image: VhdImage) -> None:
        self._image = image
        self._dynamic = image.disk_type is DiskType.DYNAMIC
        self._footer = image.footers.end
        self._end = round_up(max(image.data_end, expand.end_of_cut_block(image)), SECTOR_BYTES)
        self._first_new = 0
        self._places: list[Place] = []
        self._bytes = 0
        self._at: dict[int, int] = {}  # block: offset of its bitmap
        self._new: dict[int, int] = {}  # the same of blocks that are added
        self._bitmaps: dict[int, bytearray] = {}
        self._before: dict[int, bytes] = {}

    def left_sectors(self, limits: Limits) -> int:
        each = self._image.bitmap_bytes // PAGE_BYTES + 3  # a block's bitmap, and its BAT entry
        pages = 2 * len(self._places) + each * (len(self._bitmaps) + 1)
        return 0 if pages >= limits.pages else (limits.data_bytes - self._bytes) // SECTOR_BYTES

    def hold(self, block: int, inside: int, count: int, *, zeros: bool) -> None:
        image = self._image
        if block not in self._at:
            entry = image.bat.entry(block)
            if entry == ABSENT:
                if zeros and self._dynamic:
                    return  # an absent block reads as zeros
                self._add(block)
            else:
                self._at[block] = check_entry(image, block, entry)
                bitmap = image.file.read_at(self._at[block], image.bitmap_bytes)
                self._before[block] = bitmap
                self._bitmaps[block] = bytearray(bitmap)
        set_range(self._bitmaps[block], inside, count)
        if zeros and block in self._new:
            return  # its room reads as zeros
        data = self._at[block] + image.bitmap_bytes
        first = block * image.sectors_per_block + inside
        self._places.append(Place(first, count, data + inside * SECTOR_BYTES, zeros))
        self._bytes += count * SECTOR_BYTES

    def _add(self, block: int) -> None:
        """A new block at the end, its data on a page border as the writer does."""
        image = self._image
        at = self._end
        if image.block_size_bytes >= PAGE_BYTES:
            at = round_up(at + image.bitmap_bytes, PAGE_BYTES) - image.bitmap_bytes
        self._first_new = self._first_new or at
        self._end = at + image.bitmap_bytes + image.block_size_bytes
        _require_reach(image, self._end)
        self._at[block] = self._new[block] = at
        self._bitmaps[block] = bitmap = bytearray(image.bitmap_bytes)
        self._before[block] = b""
        if self._dynamic:
            # As the writer does: readers that ignore the bitmap see the same as the others.
            first = block * image.sectors_per_block
            total = image.virtual_size_bytes // SECTOR_BYTES
            set_range(bitmap, 0, min(image.sectors_per_block, total - first))

    def done(self, until: int | None) -> HoldPlan:
        image, footer = self._image, self._footer
        room: tuple[Write, ...] = ()
        beside: list[Write] = []
        size = image.file.size_bytes
        if self._new:
            room = (Write(self._end, footer.raw[: footer.length]),)
            size = self._end + footer.length
            old = min(self._first_new - image.data_end, footer.length)
            if old > 0:  # the rest of the old footer lies under the first new bitmap
                beside.append(Write(image.data_end, bytes(old)))
        for block, bitmap in self._bitmaps.items():
            if bitmap != self._before[block]:
                beside.append(Write(self._at[block], bytes(bitmap)))
        entries = tuple(
            Write(image.bat.offset + block * 4, (at // SECTOR_BYTES).to_bytes(4))
            for block, at in sorted(self._new.items())
        )
        steps = (entries,) if entries else ()
        return HoldPlan(until, size, room, tuple(self._places), tuple(beside), steps)
