"""Where the block allocation table places the blocks of a VHD: inside the file, each by itself.

Memory is bounded by the file: of a table, however long, no more entries are kept than blocks
can fit into the file without overlapping.
"""

from __future__ import annotations

import operator
from array import array
from collections.abc import Iterator

from disks.engine.errors import ImageError
from disks.engine.findings import MAX_ALIKE, Finding, Level
from disks.engine.units import SECTOR_BYTES, round_up
from disks.engine.vhd import dynamic_header, footer
from disks.engine.vhd.bat import ABSENT, PIECE_ENTRIES, to_entries
from disks.engine.vhd.batmap import find_batmap
from disks.engine.vhd.check.content import batmap_findings, content_findings
from disks.engine.vhd.check.headers import trailing
from disks.engine.vhd.check.regions import region_findings
from disks.engine.vhd.dynamic_header import DynamicHeader
from disks.engine.vhd.extents import check_entry
from disks.engine.vhd.image import VhdImage
from disks.engine.walk import Walk


def _bat_findings(
    image: VhdImage, header: DynamicHeader, kept: array[int], walk: Walk
) -> Iterator[Finding]:
    """Bounds of every BAT entry; packs (sector << 32 | block) of the sound ones into kept."""
    block_sectors = (image.bitmap_bytes + image.block_size_bytes) // SECTOR_BYTES
    # More blocks than this must overlap somewhere, which the sorted ones then show.
    most = image.data_end // (image.bitmap_bytes + image.block_size_bytes) + 2
    total = min(
        header.max_table_entries,
        (image.data_end - header.table_offset) // 4,
        dynamic_header.MAX_ENTRIES,
    )
    # Entries within these bounds are sound whatever block they belong to.
    low = -(-max(image.metadata_end, image.table_end) // SECTOR_BYTES)
    high = image.data_end // SECTOR_BYTES - block_sectors
    alike = {True: 0, False: 0}
    for first in range(0, total, PIECE_ENTRIES):
        count = min(PIECE_ENTRIES, total - first)
        walk.reads(header.table_offset + first * 4, count * 4)
        if first + count <= image.blocks_total:
            blocks, sectors = image.bat.in_use(first // PIECE_ENTRIES)
            if not sectors or (low <= min(sectors) and max(sectors) <= high):
                room = max(0, most - len(kept))
                kept.extend(
                    [at << 32 | block for at, block in zip(sectors, blocks, strict=True)][:room]
                )
                continue
        entries = to_entries(image.file.read_at(header.table_offset + first * 4, count * 4))
        if entries.count(ABSENT) == count:
            continue
        inside = entries[: max(0, image.blocks_total - first)]
        room = max(0, most - len(kept))
        kept.extend(
            [
                entry << 32 | block
                for block, entry in enumerate(inside, first)
                if low <= entry <= high
            ][:room]
        )
        odd = [
            (block, entry)
            for block, entry in enumerate(inside, first)
            if not low <= entry <= high and entry != ABSENT
        ]
        for block, entry in odd:
            kind = entry < low
            alike[kind] += 1
            if alike[kind] > MAX_ALIKE + 1:
                continue  # a table full of nonsense is told in a few findings
            try:
                check_entry(image, block, entry)
            except ImageError as error:
                yield Finding.from_error(error)
                continue
            if (entry + block_sectors) * SECTOR_BYTES > image.data_end and image.end_is_footer:
                yield Finding(
                    Level.WARNING,
                    "W_SHORT_BLOCK",
                    f"The last block, {block:,}, is cut short behind the end of the virtual disk.",
                    "block_allocation_table",
                    header.table_offset + block * 4,
                    entry,
                )
            if len(kept) < most:
                kept.append(entry << 32 | block)
        beyond = [entry for entry in entries[len(inside) :] if entry != ABSENT]
        if beyond:
            yield Finding(
                Level.WARNING,
                "W_BAT_BEYOND_SIZE",
                f"{len(beyond):,} blocks beyond the virtual size are allocated; what they hold "
                "is never read.",
                "block_allocation_table",
                header.table_offset + (first + len(inside)) * 4,
                beyond[0],
            )


def sorted_blocks(packed: array[int], span: int) -> tuple[array[int], list[int]]:
    """Packed (sector << 32 | block) numbers in ascending order, and the clashes among them.

    A clash is the index of a block that starts less than span sectors behind the one before.
    A million blocks take well below a second.
    """
    if len(packed) < 50_000:
        ordered = sorted(packed)
        sectors = [number >> 32 for number in ordered]
        gaps = list(map(operator.sub, sectors[1:], sectors))
        if min(gaps, default=span) >= span:
            return array("Q", ordered), []
        clashes = [index for index, gap in enumerate(gaps, 1) if gap < span]
        return array("Q", ordered), clashes[: MAX_ALIKE + 1]
    import numpy as np  # slow to import, so only where it pays

    numbers = np.frombuffer(packed, dtype=np.uint64).copy()
    numbers.sort()
    found = np.flatnonzero(np.diff(numbers >> np.uint64(32)) < span) + 1
    return array("Q", numbers.tobytes()), found[: MAX_ALIKE + 1].tolist()


def _overlap_findings(
    header: DynamicHeader, ordered: array[int], clashes: list[int]
) -> Iterator[Finding]:
    """Blocks that share sectors with each other: neighbours after sorting."""
    for index in clashes:
        one, other = ordered[index - 1] & 0xFFFFFFFF, ordered[index] & 0xFFFFFFFF
        sector = ordered[index] >> 32
        yield Finding(
            Level.ERROR,
            "E_BAT_OVERLAP",
            f"Blocks {one:,} and {other:,} share the same place in the file (sector {sector:,}).",
            "block_allocation_table",
            header.table_offset + other * 4,
            sector,
        )


def block_findings(
    image: VhdImage, header: DynamicHeader, deep: bool, walk: Walk
) -> Iterator[Finding]:
    kept: array[int] = array("Q")
    yield from _bat_findings(image, header, kept, walk)
    block_sectors = (image.bitmap_bytes + image.block_size_bytes) // SECTOR_BYTES
    ordered, clashes = sorted_blocks(kept, block_sectors)
    yield from _overlap_findings(header, ordered, clashes)
    batmap = find_batmap(image)
    yield from region_findings(image, header, ordered, image.read_locators(), batmap)
    yield from _end_findings(image, ordered)
    full_by_batmap = b""
    if image.footer.creator_application == b"tap\0":
        full_by_batmap = yield from batmap_findings(image, batmap)
    if deep:
        yield from content_findings(image, ordered, full_by_batmap, walk)


def _end_findings(image: VhdImage, ordered: array[int]) -> Iterator[Finding]:
    """Bytes behind the last block that nothing refers to."""
    end = max(image.table_end, image.metadata_end)
    if ordered:
        stride = image.bitmap_bytes + image.block_size_bytes
        end = max(end, (ordered[-1] >> 32) * SECTOR_BYTES + stride)
    for one in image.read_locators():
        end = max(end, one.entry.platform_data_offset + len(one.locator.raw))
    unused = image.data_end - end
    if unused > image.block_size_bytes + image.bitmap_bytes + 4096:
        yield Finding(
            Level.NOTE,
            "N_UNUSED_SPACE",
            f"{unused:,} bytes behind the last block belong to nothing.",
            "footer",
            end,
            unused,
        )
    end = round_up(end, SECTOR_BYTES)
    if not image.end_is_footer and end + footer.FOOTER_BYTES < image.file.size_bytes:
        raw = image.file.read_at(end, footer.FOOTER_BYTES)
        if raw[:8] == footer.COOKIE and footer.checksum_is_right(raw):
            yield trailing(end, image.file.size_bytes)
