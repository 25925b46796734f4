"""What blocks hold: sector bitmaps against the sectors, and against the map that blktap keeps."""

from __future__ import annotations

from array import array
from collections.abc import Generator, Iterator

from disks.engine.findings import Finding, Level
from disks.engine.images import DiskType
from disks.engine.sector_bitmap import held_runs
from disks.engine.units import MIB, SECTOR_BYTES
from disks.engine.vhd.bat import ABSENT
from disks.engine.vhd.batmap import Batmap, map_of
from disks.engine.vhd.image import VhdImage
from disks.engine.walk import Walk


def batmap_findings(image: VhdImage, batmap: Batmap | None) -> Generator[Finding, None, bytes]:
    """tdbatmap: never used for reading, so its faults are warnings here.

    Returns the map for a deep check, which looks whether its blocks are full; empty where
    it cannot be trusted.
    """
    if batmap is None:
        if image.footer.creator_version >= 0x00010002:
            yield _batmap_warning("it lies outside of the file", image.table_end)
        return b""
    data, problem = map_of(image, batmap)
    if data is None:
        yield _batmap_warning(problem or "it cannot be read", batmap.offset)
        return b""
    for block in range(min(image.blocks_total, len(data) * 8)):
        if _is_marked(data, block) and image.bat.entry(block) == ABSENT:
            yield _batmap_warning(f"it marks block {block:,}, which is not there", batmap.offset)
    return data


def _is_marked(batmap: bytes, block: int) -> bool:
    at = block >> 3
    return at < len(batmap) and bool(batmap[at] & 0x80 >> (block & 7))


def _batmap_warning(why: str, offset: int) -> Finding:
    return Finding(
        Level.WARNING,
        "W_BATMAP",
        f"blktap's tdbatmap cannot be trusted: {why}. It is not used here.",
        "tdbatmap",
        offset,
    )


def content_findings(
    image: VhdImage, ordered: array[int], full_by_batmap: bytes, walk: Walk
) -> Iterator[Finding]:
    """Deep: each bitmap against the virtual size and, in a dynamic disk, against its sectors."""
    per_block = image.sectors_per_block
    used = -(-per_block // 8)
    last_sector = image.virtual_size_bytes // SECTOR_BYTES
    parentless = image.disk_type is DiskType.DYNAMIC
    zeros = bytes(MIB)
    for packed in ordered:
        block, offset = packed & 0xFFFFFFFF, (packed >> 32) * SECTOR_BYTES
        walk.reads(offset, used)
        bitmap = image.file.read_at(offset, used)
        runs = held_runs(bitmap, per_block)
        if _is_marked(full_by_batmap, block) and runs != [(0, per_block)]:
            yield _batmap_warning(
                f"it says that block {block:,} is full, and it is not; blktap would copy too "
                "much of it",
                offset,
            )
        if not runs:
            yield Finding(
                Level.NOTE,
                "N_EMPTY_BLOCK",
                f"Block {block:,} is allocated but holds no sector.",
                "sector_bitmap",
                offset,
                block,
            )
        inside = min(per_block, last_sector - block * per_block)
        # Past the end of the disk a fully marked last block is what all of Microsoft's tools
        # write; a single stray bit is odd.
        if inside < per_block and runs and runs[-1][1] > inside and runs != [(0, per_block)]:
            yield Finding(
                Level.WARNING,
                "W_BITMAP_BEYOND_SIZE",
                f"The sector bitmap of block {block:,} marks sectors beyond the virtual size.",
                "sector_bitmap",
                offset,
                block,
            )
        if not parentless:
            continue
        data = offset + image.bitmap_bytes
        position = 0
        for first, end in [*runs, (inside, inside)]:
            if first > position:
                yield from _clear_findings(
                    image, block, data, position, min(first, inside), zeros, walk
                )
            position = max(position, end)


def _clear_findings(
    image: VhdImage, block: int, data: int, first: int, end: int, zeros: bytes, walk: Walk
) -> Iterator[Finding]:
    """Sectors that the bitmap calls clear must be zero in a disk without parent."""
    position, stop = data + first * SECTOR_BYTES, data + end * SECTOR_BYTES
    while position < stop:
        size = min(len(zeros), stop - position)
        walk.reads(position, size)
        piece = image.file.read_at(position, size)
        if piece != zeros[:size]:
            at = len(piece) - len(piece.lstrip(b"\0"))
            sector = (position + at - data) // SECTOR_BYTES
            yield Finding(
                Level.WARNING,
                "W_CLEAR_SECTOR",
                f"Sector (LBA) {block * image.sectors_per_block + sector:,} is marked as never "
                "written but is not zero; other readers show its bytes.",
                "sector_bitmap",
                position + at,
                block,
            )
            return
        position += size
