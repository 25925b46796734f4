"""Making a VHDX larger where it lies: one change through its log, the old disk or the larger one.

What becomes a part of the disk reads zero, or as its parent: the rest of a block that the old
size cut is cleared first. Where the block allocation table has no room for more entries, or
more blocks are to be present (a fixed disk), a new one is written at the end of the file and
the region tables are pointed to it. The visible content changes, so the disk gets a new
DataWriteGuid, in the same header that names the log.

Source: formats/vhdx.md §9 "Resize"; [MS-VHDX] 2.2.3, 2.5, 2.6.2.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from disks.engine.changes import Expansion, FieldChange, Fill, Write
from disks.engine.errors import ImageError
from disks.engine.images import DiskType
from disks.engine.units import MIB, round_up
from disks.engine.vhdx import bat, metadata, regions
from disks.engine.vhdx.bat import Geometry, offset_of, state_of
from disks.engine.vhdx.extents import bitmap_place, check_entry
from disks.engine.vhdx.guid import guid_text, new_guid
from disks.engine.vhdx.logged import PAGE_BYTES, patched_page, plan_logged

if TYPE_CHECKING:
    from disks.engine.vhdx.image import VhdxImage

Piece = Write | Fill
_MOST_TABLE_BYTES = 64 * MIB  # 8 million blocks: it is written as a whole for a fixed disk
_CHILDREN = (
    "they know this disk by its DataWriteGuid, and a larger disk gets another one (0xC03A000E on "
    "Windows)"
)


class _Room(NamedTuple):
    """What goes behind the end of the file before the log names it.

    pieces  in room that nothing uses; table: where the new BAT lies, None if the old one stays
    end     of the file afterwards
    """

    pieces: tuple[Piece, ...]
    table: regions.Region | None
    end: int


def plan_expand(
    image: VhdxImage, new_size_bytes: int, *, keeps_identity: bool = False
) -> Expansion:
    """See `Image`. new_size_bytes: more than the disk has, a multiple of its logical sectors.

    Raises the write refusal, `E_TOO_LARGE`, `E_BLOCK_SIZE`, `E_VHDX_LOG`.
    """
    if image.write_refusal is not None:
        raise image.write_refusal
    old_size, logical = image.virtual_size_bytes, image.logical_sector_bytes
    if new_size_bytes <= old_size or new_size_bytes % logical:
        raise ValueError(f"{new_size_bytes} bytes are no larger size in whole sectors")
    if new_size_bytes > metadata.MAX_VIRTUAL_BYTES:
        raise metadata.too_large(new_size_bytes)
    geometry = Geometry.of(
        new_size_bytes,
        image.block_size_bytes,
        logical,
        image.disk_type is DiskType.DIFFERENCING,
    )
    cleared, cut_pages = _clear_tail(image)
    filled_until = max((one.offset + one.length for one in cleared), default=0)
    room = _make_room(image, geometry, filled_until)
    pages = [_size_page(image, new_size_bytes)]
    if room.table is not None:
        pages += _region_pages(image, room.table)
    identity = None if keeps_identity else new_guid()
    rows = _rows(image, new_size_bytes, room, keeps_identity=keeps_identity)
    rewrite = plan_logged(
        image,
        pages,
        rows,
        before=(*cleared, *room.pieces),
        content=cut_pages,
        data_write_guid=identity,
        size_after_bytes=room.end,
    )
    return Expansion(
        rewrite, False, tuple(rows), room.end, (), children_break=_CHILDREN
    )  # fmt: skip


# The rest of the last block


def _clear_tail(image: VhdxImage) -> tuple[tuple[Fill, ...], list[tuple[int, bytes]]]:
    """Zeros for what the old size cut off a block, in whole pages; and the pages to be logged.

    Those are its bitmap's without bits for that, and the page that the disk ends within: the
    last sectors lie there, which a power cut under a plain write could garble.
    """
    inside = image.virtual_size_bytes % image.block_size_bytes
    block = image.virtual_size_bytes // image.block_size_bytes
    if not inside:
        return (), []
    entry = image.bat.entry(block)
    if state_of(entry) < bat.FULLY_PRESENT:
        return (), []
    start = check_entry(image, block, entry) + inside
    end = start + image.block_size_bytes - inside
    border = round_up(start, PAGE_BYTES)
    pages = _cleared_rest(image, start, border)
    if state_of(entry) == bat.PARTIALLY_PRESENT:
        pages += _cleared_bitmap(image, block, inside // image.logical_sector_bytes)
    return ((Fill(border, end - border),) if border < end else ()), pages


def _cleared_rest(image: VhdxImage, start: int, border: int) -> list[tuple[int, bytes]]:
    """The page that ends at border with zeros from start on; none if it has them already."""
    page = border - PAGE_BYTES
    kept = image.file.read_at(page, max(0, min(border, image.stored_file.size_bytes) - page))
    if not any(kept[start - page :]):
        return []
    return [(page, kept[: start - page].ljust(PAGE_BYTES, b"\0"))]


def _cleared_bitmap(image: VhdxImage, block: int, first: int) -> list[tuple[int, bytes]]:
    """Pages of a block's bitmap without the bits from a logical sector on; none if all are 0."""
    at, length = bitmap_place(image, block)
    now = image.file.read_at(at, length)
    kept = bytearray(length)
    kept[: first // 8] = now[: first // 8]
    if first % 8:
        kept[first // 8] = now[first // 8] & (1 << first % 8) - 1  # the lowest bit comes first
    if kept == now:
        return []
    pages = []
    position = 0
    while position < length:
        stop = min(length, position + PAGE_BYTES - (at + position) % PAGE_BYTES)
        pages.append(patched_page(image, at + position, bytes(kept[position:stop])))
        position = stop
    return pages


# The block allocation table


def _make_room(image: VhdxImage, geometry: Geometry, filled_until: int) -> _Room:
    """Blocks of a fixed disk, and a new table where the old one cannot grow in its place.

    filled_until: where the zeros for the rest of the last block end.
    """
    end = end_of_blocks(image)
    pieces: list[Piece] = []
    size = image.stored_file.size_bytes
    if end > size:
        start = max(size, filled_until)
        if start < end:
            pieces.append(Fill(start, end - start))
    added: list[int] = []
    if image.disk_type is DiskType.FIXED:
        count = geometry.blocks - image.geometry.blocks
        added = [end + index * image.block_size_bytes for index in range(count)]
        if count:
            pieces.append(Fill(end, count * image.block_size_bytes))
            end += count * image.block_size_bytes
    needed = round_up(geometry.entries * bat.ENTRY_BYTES, MIB)
    if not added and needed <= image.table.bat.length and _rest_is_empty(image, geometry):
        return _Room(tuple(pieces), None, end)
    if needed > _MOST_TABLE_BYTES:
        raise ImageError(
            "E_BLOCK_SIZE",
            f"The disk has blocks of {image.block_size_bytes:,} bytes, too small for that size: "
            f"its block allocation table would need {needed:,} bytes.",
            advice="Convert it into a copy with larger blocks: that can have this size.",
            file=image.file.path,
            field="block_size",
            value=image.block_size_bytes,
        )
    pieces.append(Write(end, _table(image, geometry, added).ljust(needed, b"\0")))
    table = image.table.bat._replace(offset=end, length=needed)
    return _Room(tuple(pieces), table, end + needed)


def end_of_blocks(image: VhdxImage) -> int:
    """The file's end in whole MiB, behind a last block that was written short, too."""
    end = image.stored_file.size_bytes
    last = image.geometry.blocks - 1
    entry = image.bat.entry(last)
    if state_of(entry) >= bat.FULLY_PRESENT:
        end = max(end, offset_of(entry) + image.block_size_bytes)
    return round_up(end, MIB)


def _rest_is_empty(image: VhdxImage, geometry: Geometry) -> bool:
    """Whether the entries that become valid are all zero in the table as it is."""
    if any(image.bat.at(index) for index in image.geometry.beyond()):
        return False
    first = image.geometry.entries * bat.ENTRY_BYTES
    end = geometry.entries * bat.ENTRY_BYTES
    for at in range(first, end, MIB):
        if any(image.file.read_at(image.bat.offset + at, min(MIB, end - at))):
            return False
    return True


def _table(image: VhdxImage, geometry: Geometry, added: list[int]) -> bytes:
    """The entries of the larger disk: the old ones, and the blocks that were added."""
    length = min(image.geometry.entries, geometry.entries) * bat.ENTRY_BYTES
    entries = bat.to_entries(image.file.read_at(image.bat.offset, length))
    for index in image.geometry.beyond():
        entries[index] = 0
    entries.frombytes(bytes((geometry.entries - len(entries)) * bat.ENTRY_BYTES))
    for index, offset in enumerate(added, image.geometry.blocks):
        entries[geometry.index_of(index)] = offset | bat.FULLY_PRESENT
    return bat.to_stored(entries)


# What refers to it


def _size_page(image: VhdxImage, size_bytes: int) -> tuple[int, bytes]:
    at = image.metadata.value_offset(metadata.VIRTUAL_DISK_SIZE)
    return patched_page(image, at, size_bytes.to_bytes(8, "little"))


def _region_pages(image: VhdxImage, table: regions.Region) -> list[tuple[int, bytes]]:
    """The pages of both region tables that change."""
    packed = regions.pack(
        [table if one.guid == regions.BAT else one for one in image.table.regions]
    )
    return [
        (copy.offset + at, packed[at : at + PAGE_BYTES])
        for copy in image.table.copies
        for at in range(0, regions.TABLE_BYTES, PAGE_BYTES)
        if copy.raw[at : at + PAGE_BYTES] != packed[at : at + PAGE_BYTES]
    ]


def _rows(
    image: VhdxImage, size_bytes: int, room: _Room, *, keeps_identity: bool
) -> list[FieldChange]:
    rows = [
        FieldChange(
            "virtual_disk_size",
            f"{image.virtual_size_bytes:,} bytes",
            f"{size_bytes:,} bytes",
            image.metadata.value_offset(metadata.VIRTUAL_DISK_SIZE),
            8,
        ),
    ]
    if not keeps_identity:
        rows.append(
            FieldChange(
                "data_write_guid",
                guid_text(image.headers.header.data_write_guid),
                "a new one",
                image.headers.other.offset + 32,
                16,
            )
        )
    old = image.table.bat
    if room.table is not None:
        rows.append(
            FieldChange(
                "block_allocation_table",
                f"{old.length:,} bytes at {old.offset:,}",
                f"{room.table.length:,} bytes at {room.table.offset:,}",
                room.table.offset,
                room.table.length,
            )
        )
    if room.end > image.stored_file.size_bytes:
        now = image.stored_file.size_bytes
        rows.append(FieldChange("file size", f"{now:,} bytes", f"{room.end:,} bytes"))
    return rows
