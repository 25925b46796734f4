"""Every invariant that one VHD file can break, as findings; goes on after the first.

Memory is bounded by the file: of a BAT, however long, no more entries are kept than blocks
can fit into the file without overlapping.
"""

from __future__ import annotations

import bisect
import itertools
import operator
from array import array
from collections.abc import Generator, Iterator
from functools import lru_cache

from disks.engine.errors import ImageError, NotAnImage
from disks.engine.files import ImageFile
from disks.engine.findings import MAX_ALIKE, Finding, Level, limited
from disks.engine.images import DiskType
from disks.engine.sector_bitmap import held_runs
from disks.engine.units import MIB, SECTOR_BYTES, round_up
from disks.engine.vhd import dynamic_header, footer
from disks.engine.vhd.bat import ABSENT, PIECE_ENTRIES, to_entries
from disks.engine.vhd.batmap import Batmap, find_batmap, map_of
from disks.engine.vhd.dynamic_header import HEADER_BYTES, DynamicHeader
from disks.engine.vhd.footer import Footer
from disks.engine.vhd.image import VhdImage, now_timestamp
from disks.engine.vhd.parent_locator import (
    FREE,
    KNOWN_CODES,
    MAX_LENGTH_BYTES,
    ReadLocator,
    decode_name,
)
from disks.engine.vhd.text import ascii_label
from disks.engine.walk import Report, Walk, unreported


def check_file(
    file: ImageFile, *, deep: bool = False, report: Report = unreported
) -> list[Finding]:
    """All findings of a file that claims to be a VHD. deep: every bitmap and clear sector too."""
    findings: list[Finding] = []
    try:
        for finding in limited(_check(file, deep, Walk(file, report))):
            findings.append(finding)
    except ImageError as error:
        # The storage failed or the file ends early; what was found so far still holds.
        findings.append(Finding.from_error(error))
    return findings


def check_opened(image: VhdImage) -> list[Finding]:
    """The same as check_file for an image that opened, without reading its headers again."""
    findings: list[Finding] = []
    try:
        for finding in limited(_check_opened(image)):
            findings.append(finding)
    except ImageError as error:
        findings.append(Finding.from_error(error))
    return findings


def _check_opened(image: VhdImage) -> Iterator[Finding]:
    footers = image.footers
    yield from _size_findings(image.file)
    if not footers.end.is_right:
        yield from _lost_footer(image.file)
    if footers.differ and footers.front.footer is not None:
        yield from footer.field_findings(
            footers.front.footer, footers.front.offset, now_timestamp()
        )
    yield from image.findings
    if image.header is not None:
        yield from _block_findings(image, image.header, False, Walk(image.file, unreported))
        yield from _parent_findings(image, image.header)


def _size_findings(file: ImageFile) -> Iterator[Finding]:
    remainder = file.size_bytes % SECTOR_BYTES
    if remainder not in (0, footer.OLD_FOOTER_BYTES):
        yield Finding(
            Level.ERROR,
            "E_FILE_SIZE",
            f"The file's size, {file.size_bytes:,} bytes, is no multiple of 512.",
            "file_size",
            None,
            file.size_bytes,
        )


def _check(file: ImageFile, deep: bool, walk: Walk) -> Iterator[Finding]:
    try:
        footers = footer.read_footers(file)
    except NotAnImage as error:
        yield Finding.from_error(error)
        if error.code == "E_NO_FOOTER":
            yield from _lost_footer(file)
            yield from _left_header(file)
        return
    yield from _size_findings(file)
    chosen = footers.chosen
    if chosen is None or chosen.footer is None:
        yield Finding.from_error(footer.unusable(footers, file.path))
        yield from _lost_footer(file)
        return
    yield from footer.copy_findings(footers)
    if not footers.end.is_right:
        yield from _lost_footer(file)
    for copy in (chosen, footers.front if footers.differ else footers.end):
        if copy.footer is not None and (copy is chosen or footers.differ):
            yield from footer.field_findings(copy.footer, copy.offset, now_timestamp())
    end_is_footer = chosen is footers.end
    data_end = footers.end.offset if end_is_footer else file.size_bytes
    if chosen.footer.disk_type in (footer.DYNAMIC, footer.DIFFERENCING):
        yield from _header_findings(file, chosen.footer, data_end, end_is_footer)
    try:
        image = VhdImage(file)
    except ImageError as error:
        finding = Finding.from_error(error)
        # Known already, except for what only opening looks at.
        if finding.code in ("E_TYPE_CONFLICT", "E_TRUNCATED", "E_NO_FOOTER"):
            yield finding
        return
    yield from image.findings
    if image.header is not None:
        yield from _block_findings(image, image.header, deep, walk)
        yield from _parent_findings(image, image.header)


def _lost_footer(file: ImageFile) -> Iterator[Finding]:
    """Whether a footer lies a little before the file's end, with other bytes behind it."""
    found = footer.find_lost_footer(file)
    if found is not None:
        yield _trailing(found[0], file.size_bytes)


def _left_header(file: ImageFile) -> Iterator[Finding]:
    """A dynamic disk header at its usual place shows what the file was before it was damaged."""
    cookie = dynamic_header.COOKIE
    if file.size_bytes >= SECTOR_BYTES + HEADER_BYTES and (
        file.read_at(SECTOR_BYTES, len(cookie)) == cookie
    ):
        yield Finding(
            Level.ERROR,
            "E_FOOTERS_LOST",
            "Both copies of the footer are lost; the dynamic disk header behind the first one is "
            "still there.",
            "footer",
            0,
        )


def _trailing(offset: int, size: int) -> Finding:
    behind = size - offset - footer.FOOTER_BYTES
    return Finding(
        Level.ERROR,
        "E_TRAILING",
        f"A footer lies at byte {offset:,}, and {behind:,} bytes follow it that do not belong "
        "to the disk.",
        "footer",
        offset,
        behind,
    )


def _header_findings(
    file: ImageFile, foot: Footer, data_end: int, end_is_footer: bool
) -> Iterator[Finding]:
    """The header's own findings, also where they keep the image from being opened."""
    offset = foot.data_offset
    problem = dynamic_header.offset_finding(offset, data_end)
    if problem is not None:
        yield problem
        return
    data = file.read_at(offset, HEADER_BYTES)
    broken = list(dynamic_header.checksum_findings(data, offset))
    yield from broken
    if broken and broken[0].field == "cookie":
        return
    yield from dynamic_header.field_findings(
        DynamicHeader.parse(data), offset, foot.current_size, data_end, end_is_footer
    )


# The blocks


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
                image.check_entry(block, entry)
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


def _region_findings(
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


def _block_findings(
    image: VhdImage, header: DynamicHeader, deep: bool, walk: Walk
) -> Iterator[Finding]:
    kept: array[int] = array("Q")
    yield from _bat_findings(image, header, kept, walk)
    block_sectors = (image.bitmap_bytes + image.block_size_bytes) // SECTOR_BYTES
    ordered, clashes = sorted_blocks(kept, block_sectors)
    yield from _overlap_findings(header, ordered, clashes)
    batmap = find_batmap(image)
    yield from _region_findings(image, header, ordered, image.read_locators(), batmap)
    yield from _end_findings(image, ordered)
    full_by_batmap = b""
    if image.footer.creator_application == b"tap\0":
        full_by_batmap = yield from _batmap_findings(image, batmap)
    if deep:
        yield from _content_findings(image, ordered, full_by_batmap, walk)


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
            f"{unused:,} bytes behind the last block belong to nothing; compacting gives them "
            "back.",
            "footer",
            end,
            unused,
        )
    end = round_up(end, SECTOR_BYTES)
    if not image.end_is_footer and end + footer.FOOTER_BYTES < image.file.size_bytes:
        raw = image.file.read_at(end, footer.FOOTER_BYTES)
        if raw[:8] == footer.COOKIE and footer.checksum_is_right(raw):
            yield _trailing(end, image.file.size_bytes)


def _batmap_findings(image: VhdImage, batmap: Batmap | None) -> Generator[Finding, None, bytes]:
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


def _content_findings(
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
                f"Block {block:,} is allocated but holds no sector; compacting gives it back.",
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


# The parent fields


@lru_cache(16)
def _header_places(base: int) -> dict[str, int]:
    """Where the header's fields lie in the file; base is nearly always 512."""
    return {name: base + place[0] for name, place in dynamic_header.OFFSETS.items()}


def _parent_findings(image: VhdImage, header: DynamicHeader) -> Iterator[Finding]:
    at = _header_places(image.footer.data_offset)
    if image.disk_type is not DiskType.DIFFERENCING:
        for name in ("parent_unique_id", "parent_unicode_name", "parent_locators"):
            if any(getattr(header, name)):
                yield Finding(
                    Level.WARNING,
                    "W_PARENT_FIELDS",
                    "The disk has no parent, but its header has parent fields.",
                    name,
                    at[name],
                )
        return
    if header.parent_unique_id == b"\xff" * 16:
        yield Finding(
            Level.ERROR,
            "E_PARENT_IDENTITY",
            "The header names no identity of its parent.",
            "parent_unique_id",
            at["parent_unique_id"],
            header.parent_unique_id.hex(),
        )
    elif header.parent_unique_id == image.footer.unique_id:
        yield Finding(
            Level.ERROR,
            "E_CYCLE",
            "The disk names itself as its parent.",
            "parent_unique_id",
            at["parent_unique_id"],
            image.identity,
        )
    if header.parent_timestamp > now_timestamp() + 1800:
        yield Finding(
            Level.WARNING,
            "W_PARENT_TIMESTAMP",
            "The recorded modification time of the parent lies in the future.",
            "parent_timestamp",
            at["parent_timestamp"],
            header.parent_timestamp,
        )
    yield from _locator_findings(image, header, at)


def _locator_findings(
    image: VhdImage, header: DynamicHeader, at: dict[str, int]
) -> Iterator[Finding]:
    name, problem = decode_name(header.parent_unicode_name)
    if problem is not None:
        yield Finding(
            Level.WARNING,
            "W_PARENT_NAME",
            problem,
            "parent_unicode_name",
            at["parent_unicode_name"],
            name,
        )
    locators = image.read_locators()
    codes: set[bytes] = set()
    for one in locators:
        field = f"parent_locator {one.locator.code}"
        slot_at = at["parent_locators"] + one.slot * dynamic_header.LOCATOR_BYTES
        entry = one.entry
        if entry.platform_code in codes:
            yield Finding(
                Level.WARNING,
                "W_LOCATOR_TWICE",
                f"There is more than one parent locator {one.locator.code}.",
                field,
                slot_at,
            )
        codes.add(entry.platform_code)
        if entry.platform_code not in KNOWN_CODES:
            yield Finding(
                Level.WARNING,
                "W_LOCATOR_CODE",
                f"The parent locator code “{one.locator.code}” is not known; it is kept as it is.",
                field,
                slot_at,
                ascii_label(entry.platform_code),
            )
        elif one.locator.problem is not None and one.code is not None:
            # One bad locator does not make a disk unreadable; without any, see below.
            yield Finding(
                Level.ERROR,
                one.code,
                f"Parent locator {one.locator.code}: {one.locator.problem}",
                field,
                slot_at,
                one.locator.path or entry.platform_data_length,
            )
        space = entry.platform_data_space
        if (space % SECTOR_BYTES and space > 128) or space == 0:
            yield Finding(
                Level.NOTE,
                "N_LOCATOR_SPACE",
                f"The data space of parent locator {one.locator.code} is {space:,}, neither bytes "
                "in whole sectors nor a likely number of sectors.",
                field,
                slot_at + 4,
                space,
            )
        if entry.reserved:
            yield Finding(
                Level.WARNING, "W_RESERVED", "A parent locator's reserved field is not zero.",
                field, slot_at + 12, entry.reserved,
            )  # fmt: skip
    usable = [one.locator.path for one in locators if one.locator.problem is None]
    if not usable and (name is None or problem is not None):
        yield Finding(
            Level.ERROR,
            "E_NO_PARENT_NAME",
            "Neither a parent locator nor the parent name can be used to find the parent.",
            "parent_locators",
            at["parent_locators"],
        )
    yield from _base_name_findings(name if problem is None else None, usable, at)
    if any(entry.is_free for entry in image.locator_entries if entry != FREE):
        yield Finding(
            Level.NOTE,
            "N_LOCATOR_SLOT",
            "A free parent locator slot has leftovers in it.",
            "parent_locators",
            at["parent_locators"],
        )


def _base_name_findings(
    name: str | None, usable: list[str | None], at: dict[str, int]
) -> Iterator[Finding]:
    names = {
        text.replace("\\", "/").rsplit("/", 1)[-1].casefold() for text in [name, *usable] if text
    }
    if len(names) > 1:
        yield Finding(
            Level.WARNING,
            "W_PARENT_NAMES_DIFFER",
            f"The header names the parent differently: {', '.join(sorted(names))}.",
            "parent_unicode_name",
            at["parent_unicode_name"],
        )
