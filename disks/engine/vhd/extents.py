"""Where every sector of a VHD comes from: the block allocation table and sector bitmaps, read."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from typing import TYPE_CHECKING

from disks.engine.errors import ImageError, require_inside
from disks.engine.images import DiskType, Extent, Source
from disks.engine.sector_bitmap import Run, held_runs, unreadable
from disks.engine.units import SECTOR_BYTES
from disks.engine.vhd.bat import ABSENT

if TYPE_CHECKING:
    from disks.engine.vhd.image import VhdImage


def extents(image: VhdImage, first_sector: int, count_sectors: int) -> Iterator[Extent]:
    """See `Image`: the one loop that cuts requests at block boundaries.

    Raises OutOfRange; `E_TRUNCATED`, `E_BAT_IN_HEADER`, `E_BAT_PAST_EOF` where the BAT
    leads outside the file's blocks; `E_IO` with the LBA.

    Source: VHD specification 1.0, "Block Allocation Table and Data Blocks".
    """
    end = first_sector + count_sectors
    total = image.virtual_size_bytes // SECTOR_BYTES
    require_inside(first_sector, count_sectors, total, image.file.path)
    if image.read_refusal is not None:
        raise image.read_refusal
    if count_sectors == 0:
        return iter(())
    if image.disk_type is DiskType.FIXED:
        return _of_fixed(image, first_sector, end)
    return _of_blocks(image, first_sector, end)


def _of_fixed(image: VhdImage, first: int, end: int) -> Iterator[Extent]:
    held = min(end, image.data_end // SECTOR_BYTES)
    if first < held:
        yield Extent(first, held - first, Source.DATA, first * SECTOR_BYTES)
    if held < end:
        raise _lost(image, max(first, held))


def _of_blocks(image: VhdImage, first: int, end: int) -> Iterator[Extent]:
    absent = Source.PARENT if image.disk_type is DiskType.DIFFERENCING else Source.ZERO
    per_block = image.sectors_per_block
    bat = image.bat
    absent_from = first  # everything since then is absent
    position = first
    while position < end:
        block = position // per_block
        entry = bat.entry(block)
        if entry == ABSENT:
            last = -(-end // per_block)
            position = bat.next_allocated(block + 1, last) * per_block
            continue
        block_first = block * per_block
        block_end = min(end, block_first + per_block)
        runs = _held(image, block, entry)
        data = entry * SECTOR_BYTES + image.bitmap_bytes - block_first * SECTOR_BYTES
        if position > block_first and len(runs) > 1:
            index = max(0, bisect.bisect_right(runs, (position - block_first, per_block)) - 1)
            runs = runs[index:]
        for run_first, run_end in runs:
            start = block_first + run_first
            stop = block_first + run_end
            if start < position:
                start = position
            if stop > block_end:
                stop = block_end
            if start >= stop:
                if start >= block_end:
                    break
                continue
            if start > absent_from:
                yield Extent(absent_from, start - absent_from, absent)
            if image.is_truncated and data + stop * SECTOR_BYTES > image.data_end:
                left = (image.data_end - data) // SECTOR_BYTES - start
                if left > 0:
                    offset = data + start * SECTOR_BYTES
                    yield Extent(start, left, Source.DATA, offset)
                raise _lost(image, start + max(0, left))
            yield Extent(start, stop - start, Source.DATA, data + start * SECTOR_BYTES)
            absent_from = stop
        position = block_end
    if absent_from < end:
        yield Extent(absent_from, end - absent_from, absent)


def _held(image: VhdImage, block: int, entry: int) -> list[Run]:
    """Runs of sectors that an allocated block holds."""
    runs = image.runs_known.get(block)
    if runs is not None:
        return runs
    offset = check_entry(image, block, entry)
    try:
        bitmap = image.file.read_at(offset, image.bitmap_used_bytes)
    except ImageError as error:
        first = block * image.sectors_per_block
        raise unreadable(error, block, first) from error
    return image.runs_known.put(block, held_runs(bitmap, image.sectors_per_block))


def check_entry(image: VhdImage, block: int, entry: int) -> int:
    """The byte offset of an allocated block, after its bounds were found right."""
    offset = entry * SECTOR_BYTES
    end = offset + image.block_bytes(block)
    header = image.header
    in_table = header is not None and offset < image.table_end and end > header.table_offset
    if offset < image.metadata_end or in_table:
        raise ImageError(
            "E_BAT_IN_HEADER",
            f"The block allocation table places block {block:,} at sector {entry:,}, over "
            "the disk's own headers.",
            file=image.file.path,
            field="block_allocation_table",
            offset=image.bat.offset + block * 4,
            value=entry,
        )
    if end > image.data_end:
        if not image.end_is_footer:
            # Of a file that was cut off, the sectors before the cut can be read.
            if offset + image.bitmap_bytes <= image.data_end:
                return offset
            raise _lost(image, image.first_lost_sector(block, entry))
        raise ImageError(
            "E_BAT_PAST_EOF",
            f"The block allocation table places block {block:,} at sector {entry:,}; the "
            "block would reach past the end of the file's data.",
            file=image.file.path,
            field="block_allocation_table",
            offset=image.bat.offset + block * 4,
            value=entry,
        )
    return offset


def _lost(image: VhdImage, sector: int) -> ImageError:
    return ImageError(
        "E_TRUNCATED",
        f"The file was cut off; sector (LBA) {sector:,} is lost.",
        file=image.file.path,
        offset=image.data_end,
        value=sector,
    )
