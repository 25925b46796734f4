"""Where every sector of a VHDX comes from: the block allocation table and sector bitmaps, read."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from typing import TYPE_CHECKING

from disks.engine.errors import ImageError, require_inside
from disks.engine.images import DiskType, Extent, Source
from disks.engine.sector_bitmap import REVERSED_BITS, Run, held_runs, unreadable
from disks.engine.units import SECTOR_BYTES
from disks.engine.vhdx import bat, headers
from disks.engine.vhdx.bat import offset_of, state_of

if TYPE_CHECKING:
    from disks.engine.vhdx.image import VhdxImage


def extents(image: VhdxImage, first_sector: int, count_sectors: int) -> Iterator[Extent]:
    """See `Image`. A damaged entry raises when its sectors are reached."""
    total = image.virtual_size_bytes // SECTOR_BYTES
    require_inside(first_sector, count_sectors, total, image.file.path)
    return _joined(_pieces(image, first_sector, first_sector + count_sectors))


def _pieces(image: VhdxImage, first: int, end: int) -> Iterator[Extent]:
    """One extent for each run of a block, and for all blocks between that are not used."""
    per_block = image.sectors_per_block
    absent = Source.PARENT if image.disk_type is DiskType.DIFFERENCING else Source.ZERO
    position = first
    while position < end:
        block = position // per_block
        entry = image.bat.entry(block)
        if not entry:
            last = -(-end // per_block)
            stop = min(end, image.bat.next_used(block + 1, last) * per_block)
            yield Extent(position, stop - position, absent)
            position = stop
            continue
        stop = min(end, (block + 1) * per_block)
        yield from _block_pieces(image, block, entry, position, stop, absent)
        position = stop


def _block_pieces(
    image: VhdxImage, block: int, entry: int, first: int, end: int, absent: Source
) -> Iterator[Extent]:
    """The sectors [first, end), all of one block."""
    state = state_of(entry)
    if state == bat.NOT_PRESENT:
        yield Extent(first, end - first, absent)
        return
    if state in bat.READ_AS_ZEROS:
        yield Extent(first, end - first, Source.ZERO)
        return
    start = block * image.sectors_per_block
    data = check_entry(image, block, entry) - start * SECTOR_BYTES
    if state == bat.FULLY_PRESENT:
        yield Extent(first, end - first, Source.DATA, data + first * SECTOR_BYTES)
        return
    runs = held(image, block)
    index = max(0, bisect.bisect_right(runs, (first - start, image.sectors_per_block)) - 1)
    position = first
    for run_first, run_end in runs[index:]:
        begin, stop = max(start + run_first, first), min(start + run_end, end)
        if begin >= end:
            break
        if begin >= stop:
            continue
        if begin > position:
            yield Extent(position, begin - position, absent)
        yield Extent(begin, stop - begin, Source.DATA, data + begin * SECTOR_BYTES)
        position = stop
    if position < end:
        yield Extent(position, end - position, absent)


def held(image: VhdxImage, block: int) -> list[Run]:
    """Runs of 512-byte sectors that a partially present block holds."""
    runs = image.runs_known.get(block)
    if runs is not None:
        return runs
    offset, length = bitmap_place(image, block)
    try:
        bitmap = image.file.read_at(offset, length)
    except ImageError as error:
        first = block * image.sectors_per_block
        raise unreadable(error, block, first) from error
    scale = image.logical_sector_bytes // SECTOR_BYTES
    runs = held_runs(bitmap.translate(REVERSED_BITS), image.sectors_per_block // scale)
    if scale > 1:
        runs = [(first * scale, end * scale) for first, end in runs]
    return image.runs_known.put(block, runs)


def bitmap_place(image: VhdxImage, block: int) -> tuple[int, int]:
    """Offset and length in bytes of a block's part of its chunk's sector bitmap."""
    chunk, inside = divmod(block, image.geometry.ratio)
    index = image.geometry.bitmap_index(chunk)
    entry = image.bat.at(index)
    if state_of(entry) != bat.BITMAP_PRESENT:
        raise _wrong_entry(
            image, index, entry, f"block {block:,} is partly held, but its sector bitmap is missing"
        )
    offset = check_bitmap_entry(image, chunk, entry)
    length = bat.BITMAP_BLOCK_BYTES // image.geometry.ratio
    return offset + inside * length, length


def check_bitmap_entry(image: VhdxImage, chunk: int, entry: int) -> int:
    """The byte offset of a present sector bitmap, after its bounds were found right."""
    index = image.geometry.bitmap_index(chunk)
    what = f"the sector bitmap of chunk {chunk:,}"
    _check_bounds(image, index, entry, bat.BITMAP_BLOCK_BYTES, what)
    return offset_of(entry)


def check_entry(image: VhdxImage, block: int, entry: int) -> int:
    """The byte offset of a present block, after state and bounds were found right."""
    index = image.geometry.index_of(block)
    state = state_of(entry)
    if state not in bat.STATE_NAMES:
        raise _wrong_entry(image, index, entry, f"block {block:,} has the unknown state {state}")
    if state == bat.PARTIALLY_PRESENT and image.disk_type is not DiskType.DIFFERENCING:
        raise _wrong_entry(
            image, index, entry, f"block {block:,} is partly held, but the disk has no parent"
        )
    # QEMU once wrote the last block only as far as the disk goes.
    inside = image.virtual_size_bytes - block * image.block_size_bytes
    length = min(image.block_size_bytes, inside)
    _check_bounds(image, index, entry, length, f"block {block:,}")
    return offset_of(entry)


def _check_bounds(image: VhdxImage, index: int, entry: int, length: int, what: str) -> None:
    offset = offset_of(entry)
    if offset < headers.HEADER_SECTION_BYTES:
        raise _wrong_entry(image, index, entry, f"{what} would lie over the headers")
    before = bisect.bisect_left(image.taken, (offset + length,)) - 1
    if before >= 0 and offset < image.taken[before][1]:
        raise _wrong_entry(
            image, index, entry, f"{what} would lie over the log or over one of the regions"
        )
    if offset + length > image.file.size_bytes:
        raise _wrong_entry(image, index, entry, f"{what} would reach past the end of the file")


def _wrong_entry(image: VhdxImage, index: int, entry: int, why: str) -> ImageError:
    return ImageError(
        "E_VHDX_BAT",
        f"The block allocation table cannot be right: {why}.",
        file=image.file.path,
        field="block_allocation_table",
        offset=image.bat.entry_offset(index),
        value=entry,
    )


def _joined(extents: Iterator[Extent]) -> Iterator[Extent]:
    """Neighbours that continue each other as one."""
    last: Extent | None = None
    for extent in extents:
        if last is not None and last.source is extent.source:
            follows = last.file_offset is None or (
                last.file_offset + last.count_sectors * SECTOR_BYTES == extent.file_offset
            )
            if follows:
                last = Extent(
                    last.first_sector,
                    last.count_sectors + extent.count_sectors,
                    last.source,
                    last.file_offset,
                )
                continue
        if last is not None:
            yield last
        last = extent
    if last is not None:
        yield last
