"""Header, block allocation table, locator data and blocks must not share bytes of the file."""

from __future__ import annotations

import bisect
import itertools
from array import array
from collections.abc import Iterator

from disks.engine.findings import Finding, Level
from disks.engine.units import SECTOR_BYTES
from disks.engine.vhd import footer
from disks.engine.vhd.batmap import Batmap
from disks.engine.vhd.dynamic_header import HEADER_BYTES, DynamicHeader
from disks.engine.vhd.image import VhdImage
from disks.engine.vhd.parent_locator import MAX_LENGTH_BYTES, ReadLocator


def region_findings(
    image: VhdImage,
    header: DynamicHeader,
    ordered: array[int],
    locators: list[ReadLocator],
    batmap: Batmap | None,
) -> Iterator[Finding]:
    """Header, BAT, batmap, locator data and blocks must not share bytes."""
    regions: list[tuple[int, int, str]] = [
        (0, footer.FOOTER_BYTES, "the footer copy"),
        (image.footer.data_offset, image.footer.data_offset + HEADER_BYTES, "the header"),
        (header.table_offset, image.table_end, "the block allocation table"),
        (image.data_end, image.file.size_bytes, "the footer"),
    ]
    if batmap is not None and batmap.has_cookie:
        regions += [(start, end, "the tdbatmap") for start, end in batmap.ranges]
    for one in locators:
        start = one.entry.platform_data_offset
        length = one.entry.platform_data_length
        if 0 < length <= MAX_LENGTH_BYTES and start < image.file.size_bytes:
            name = f"the data of parent locator {one.locator.code}"
            regions.append((start, start + length, name))
    regions = [region for region in regions if region[0] < region[1]]
    regions.sort()
    for (start, end, name), (next_start, _, next_name) in itertools.pairwise(regions):
        if next_start < end:
            yield Finding(
                Level.ERROR,
                "E_OVERLAP",
                f"{name[0].upper()}{name[1:]} and {next_name} share bytes from {next_start:,} on.",
                "table_offset" if "table" in name + next_name else "parent_locators",
                next_start,
                start,
            )
    # Blocks against the few regions; those against headers and BAT were found as E_BAT_IN_HEADER.
    span = (image.bitmap_bytes + image.block_size_bytes) // SECTOR_BYTES
    for start, end, name in regions:
        if not name.startswith(("the data", "the tdbatmap")):
            continue
        first, last = start // SECTOR_BYTES - span, (end - 1) // SECTOR_BYTES
        for packed in _between(ordered, first + 1, last):
            block = packed & 0xFFFFFFFF
            yield Finding(
                Level.ERROR,
                "E_OVERLAP",
                f"Block {block:,} lies over {name}.",
                "block_allocation_table",
                header.table_offset + block * 4,
                packed >> 32,
            )


def _between(ordered: array[int], first: int, last: int) -> Iterator[int]:
    """The packed blocks whose sector is in [first, last]."""
    index = bisect.bisect_left(ordered, max(0, first) << 32)
    while index < len(ordered) and ordered[index] >> 32 <= last:
        yield ordered[index]
        index += 1
