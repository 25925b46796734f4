"""Where in a VHD file something lies, and where nothing does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from disks.engine.units import SECTOR_BYTES, round_up
from disks.engine.vhd import dynamic_header, parent_locator
from disks.engine.vhd.batmap import find_batmap

if TYPE_CHECKING:
    from disks.engine.vhd.image import VhdImage

Range = tuple[int, int]  # first byte, end (exclusive)

PAGE_BYTES = 4096  # what Windows puts new structures and the data of blocks on borders of


def headers(image: VhdImage) -> list[Range]:
    """The footer's copy, the header and the live locator strings, in whole sectors."""
    if image.header is None:
        raise AssertionError("a fixed disk has none")
    offset = image.footer.data_offset
    taken = [(0, SECTOR_BYTES), (offset, offset + dynamic_header.HEADER_BYTES)]
    for entry in parent_locator.parse_entries(image.header.parent_locators):
        if not entry.is_free:
            start = entry.platform_data_offset
            length = min(entry.platform_data_length, parent_locator.MAX_LENGTH_BYTES)
            taken.append((start, round_up(start + length, SECTOR_BYTES)))
    return taken


def metadata(image: VhdImage) -> list[Range]:
    """Every range of the file in use, the blocks apart: headers, strings, BAT, batmap."""
    taken = [*headers(image), (image.bat.offset, image.table_end)]
    batmap = find_batmap(image)
    return taken if batmap is None else [*taken, *batmap.ranges]


def reserved(image: VhdImage) -> list[Range]:
    """Room that locators keep for longer strings: Windows writes them there without looking.

    In bytes, as Windows and most others write it, or in sectors, as the specification says.
    """
    found = []
    for entry in image.locator_entries:
        space = entry.platform_data_space
        if not entry.is_free:
            space *= SECTOR_BYTES if space < SECTOR_BYTES else 1
            start = entry.platform_data_offset
            found.append((start, start + min(space, parent_locator.MAX_LENGTH_BYTES)))
    return found


def gaps(taken: Sequence[Range], limit: int) -> list[Range]:
    """Free 512-aligned ranges below limit, ascending."""
    found = []
    position = 0
    for start, end in sorted(taken):
        if start >= limit:
            break
        if start > position:
            found.append((position, start))
        position = max(position, round_up(end, SECTOR_BYTES))
    if position < limit:
        found.append((position, limit))
    return found
