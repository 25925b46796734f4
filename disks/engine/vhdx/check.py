"""Every invariant that one VHDX file can break, as findings; goes on after the first.

Memory is bounded by the file: of a BAT, however long, no more entries are kept than blocks can
fit into the file without overlapping. Source: [MS-VHDX]; the list is in formats/vhdx.md §10.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.findings import MAX_ALIKE, Finding, Level, collected
from disks.engine.images import DiskType
from disks.engine.units import MIB, SECTOR_BYTES
from disks.engine.vhdx import bat, headers, metadata, parent_locator, regions
from disks.engine.vhdx.bat import offset_of, state_of
from disks.engine.vhdx.extents import bitmap_place, check_bitmap_entry, check_entry, held
from disks.engine.vhdx.image import VhdxImage
from disks.engine.walk import Report, Walk, unreported


def check_file(
    file: ImageFile, *, deep: bool = False, report: Report = unreported
) -> list[Finding]:
    """All findings of a file that claims to be a VHDX. deep: every sector bitmap too."""
    return collected(_check(file, deep, Walk(file, report)))


def check_opened(image: VhdxImage) -> list[Finding]:
    """The same as check_file for an image that opened, without reading its headers again."""
    return collected(_opened_findings(image, False, Walk(image.file, unreported)))


def _check(file: ImageFile, deep: bool, walk: Walk) -> Iterator[Finding]:
    signature = file.read_at(0, min(file.size_bytes, len(headers.SIGNATURE)))
    if signature != headers.SIGNATURE:
        return  # nothing of it claims to be a VHDX
    try:
        image = VhdxImage(file)
    except ImageError as error:
        yield Finding.from_error(error)
        yield from _closed_findings(file)
        return
    yield from _opened_findings(image, deep, walk)


def _closed_findings(file: ImageFile) -> Iterator[Finding]:
    """Of a file that cannot be opened: what each structure shows, until one hides the next."""
    try:
        found = headers.read_headers(file)
        yield from headers.findings(found)
        if found.header.has_log:
            return  # the structures are those that a replay leaves
        problem = headers.log_problem(found, file.size_bytes)
        if problem is not None:
            yield Finding.from_error(problem)
        table = regions.read_unjudged(file)
        yield from regions.findings(table)
        problems = list(regions.problems(file, table, found.log_range(problem)))
        if not problems:
            items = metadata.read_unjudged(file, table.metadata)
            yield from metadata.findings(items)
            problems += metadata.problems(file, items)
        for one in problems:
            yield Finding.from_error(one)
    except ImageError as error:
        yield Finding.from_error(error)


def _opened_findings(image: VhdxImage, deep: bool, walk: Walk) -> Iterator[Finding]:
    yield from image.findings
    kept: array[int] = array("Q")
    yield from _bat_findings(image, kept, walk)
    yield from _overlap_findings(image, kept, walk)
    if image.locator is not None:
        yield from parent_locator.findings(image.locator)
        if parent_locator.linkage(image.locator)[0] == image.identity:
            yield Finding(
                Level.ERROR,
                "E_CYCLE",
                "The disk names itself as its parent.",
                parent_locator.LINKAGE,
                image.locator.offset,
                image.identity,
            )
    if deep:
        yield from _bitmap_findings(image, walk)


def _bat_findings(image: VhdxImage, kept: array[int], walk: Walk) -> Iterator[Finding]:
    """State and bounds of every entry; packs (MiB << 32 | index) of the sound ones into kept.

    More entries than fit into the file without overlapping are not kept: their overlap shows.
    """
    most = image.file.size_bytes // MIB + 2
    geometry = image.geometry
    wrong = 0
    stride = geometry.ratio + 1
    # Whole blocks between these bounds are sound whatever they hold: nearly all there are.
    low = max(end for _, end in image.taken)
    high = image.file.size_bytes - image.block_size_bytes
    last = geometry.index_of(geometry.blocks - 1)
    beyond: list[tuple[int, int]] = []
    looked_until = 0
    for index, entry in image.bat.used():
        if index >= looked_until:
            looked_until = index + bat.PIECE_ENTRIES
            walk.reads(image.bat.entry_offset(index), bat.PIECE_ENTRIES * bat.ENTRY_BYTES)
        is_bitmap = index % stride == geometry.ratio
        if index > last and not is_bitmap:
            beyond.append((index, entry))
            continue
        plain = low <= entry - bat.FULLY_PRESENT <= high and not entry & bat.RESERVED
        if not (plain and not is_bitmap and entry & 7 == bat.FULLY_PRESENT) and wrong <= MAX_ALIKE:
            try:
                yield from _entry_findings(image, index, entry, is_bitmap)
            except ImageError as error:
                wrong += 1
                yield Finding.from_error(error)
                continue
        inside = entry < image.file.size_bytes
        if inside and state_of(entry) >= bat.FULLY_PRESENT and len(kept) < most:
            kept.append(offset_of(entry) // MIB << 32 | index)
    if beyond:
        index, entry = beyond[0]
        yield Finding(
            Level.WARNING,
            "W_BAT_BEYOND_SIZE",
            f"{len(beyond):,} blocks beyond the virtual size are in the table; what they hold is "
            "never read.",
            "block_allocation_table",
            image.bat.entry_offset(index),
            entry,
        )


def _entry_findings(image: VhdxImage, index: int, entry: int, is_bitmap: bool) -> Iterator[Finding]:
    """One entry of the table. Raises ImageError where its sectors could not be read."""
    at = image.bat.entry_offset(index)
    state, offset = state_of(entry), offset_of(entry)
    if entry & bat.RESERVED:
        yield Finding(
            Level.ERROR,
            "E_VHDX_BAT",
            f"Entry {index:,} of the block allocation table has reserved bits in use.",
            "block_allocation_table",
            at,
            entry,
        )
    if is_bitmap:
        yield from _bitmap_entry_findings(image, index, entry)
        return
    block = image.geometry.block_of(index)
    if state < bat.FULLY_PRESENT:
        if state not in bat.STATE_NAMES:
            check_entry(image, block, entry)  # raises
        if offset:
            yield Finding(
                Level.WARNING,
                "W_BAT_OFFSET",
                f"Block {block:,} is {bat.STATE_NAMES[state]} and has a place in the file all "
                "the same; Hyper-V may refuse the disk.",
                "block_allocation_table",
                at,
                entry,
            )
        return
    check_entry(image, block, entry)
    if offset + image.block_size_bytes > image.file.size_bytes:
        yield Finding(
            Level.WARNING,
            "W_SHORT_BLOCK",
            f"The last block, {block:,}, is cut short behind the end of the virtual disk.",
            "block_allocation_table",
            at,
            entry,
        )
    if state == bat.PARTIALLY_PRESENT:
        bitmap_place(image, block)


def _bitmap_entry_findings(image: VhdxImage, index: int, entry: int) -> Iterator[Finding]:
    """As _entry_findings, of a sector bitmap."""
    at = image.bat.entry_offset(index)
    chunk = index // (image.geometry.ratio + 1)
    state = state_of(entry)
    if state not in (bat.NOT_PRESENT, bat.BITMAP_PRESENT):
        yield Finding(
            Level.ERROR,
            "E_VHDX_BAT",
            f"The sector bitmap of chunk {chunk:,} has the unknown state {state}.",
            "block_allocation_table",
            at,
            entry,
        )
    elif state == bat.BITMAP_PRESENT and image.disk_type is not DiskType.DIFFERENCING:
        yield Finding(
            Level.WARNING,
            "W_BITMAP_UNUSED",
            f"Chunk {chunk:,} has a sector bitmap, which a disk without parent does not use.",
            "block_allocation_table",
            at,
            entry,
        )
    elif state == bat.BITMAP_PRESENT:
        check_bitmap_entry(image, chunk, entry)


def _overlap_findings(image: VhdxImage, kept: array[int], walk: Walk) -> Iterator[Finding]:
    """Blocks and bitmaps that share bytes with each other: neighbours after sorting."""
    ordered = sorted(kept)
    block_mib = image.block_size_bytes // MIB
    last_end = last_index = -1
    for number, packed in enumerate(ordered):
        start, index = packed >> 32, packed & 0xFFFFFFFF
        if number % bat.PIECE_ENTRIES == 0:
            walk.reads(image.bat.entry_offset(index), 0)  # millions of them take a while, too
        if start < last_end:
            yield Finding(
                Level.ERROR,
                "E_VHDX_BAT",
                f"{_what(image, last_index)} and {_what(image, index)} share the same place in "
                f"the file (byte {start * MIB:,}).",
                "block_allocation_table",
                image.bat.entry_offset(index),
                start * MIB,
            )
        length = 1 if image.geometry.is_bitmap(index) else block_mib
        if start + length > last_end:
            last_end, last_index = start + length, index
    end = max(last_end * MIB, image.end_of_structures)
    behind = image.stored_file.size_bytes - end
    if behind > 0:
        yield Finding(
            Level.NOTE,
            "N_UNUSED_SPACE",
            f"{behind:,} bytes at the end of the file are not used.",
            "file_size",
            end,
            behind,
        )


def _what(image: VhdxImage, index: int) -> str:
    if image.geometry.is_bitmap(index):
        return f"The sector bitmap of chunk {index // (image.geometry.ratio + 1):,}"
    return f"Block {image.geometry.block_of(index):,}"


def _bitmap_findings(image: VhdxImage, walk: Walk) -> Iterator[Finding]:
    """Every sector bitmap: whether it can be read, and what it says about the block."""
    if image.disk_type is not DiskType.DIFFERENCING:
        return
    total = image.virtual_size_bytes // SECTOR_BYTES
    for index, entry in image.bat.used():
        if image.geometry.is_bitmap(index) or state_of(entry) != bat.PARTIALLY_PRESENT:
            continue
        block = image.geometry.block_of(index)
        walk.reads(offset_of(entry), bat.BITMAP_BLOCK_BYTES // image.geometry.ratio)
        try:
            runs = held(image, block)
        except ImageError as error:
            yield Finding.from_error(error)
            continue
        at = image.bat.entry_offset(index)
        if not runs:
            yield Finding(
                Level.NOTE,
                "N_EMPTY_BLOCK",
                f"Block {block:,} has room in the file and holds nothing.",
                "sector_bitmap",
                at,
                block,
            )
        elif block * image.sectors_per_block + runs[-1][1] > total:
            yield Finding(
                Level.WARNING,
                "W_BITMAP_BEYOND_SIZE",
                f"The sector bitmap of block {block:,} marks sectors beyond the virtual size.",
                "sector_bitmap",
                at,
                block,
            )
