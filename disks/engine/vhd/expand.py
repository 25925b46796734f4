"""Making a VHD larger where it lies: which bytes change, and in which order.

Whatever was done so far, a reader finds a footer at the file's end and the old disk, until
one sector says that it is larger. So nobody can have used the added area when a change that
broke off is taken back. In a disk of blocks the block allocation table grows, in place or
into another gap; blocks in its way move to the end of the file first, in changes of their
own that leave size and content alone. What becomes a part of the disk reads zero, or as
its parent: it may have been the rest of a block that the old size cut.

Source: VHD specification 1.0; formats/vhd.md §10 "Expand", §11.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from disks.engine.changes import Expansion, FieldChange, Fill, HeaderRewrite, Write
from disks.engine.errors import ImageError
from disks.engine.images import DiskType
from disks.engine.units import SECTOR_BYTES, round_up
from disks.engine.vhd import dynamic_header, footer, geometry, room
from disks.engine.vhd.bat import ABSENT, MAX_FILE_SECTORS
from disks.engine.vhd.batmap import HEADER_BYTES as BATMAP_HEADER_BYTES
from disks.engine.vhd.batmap import Batmap, find_batmap
from disks.engine.vhd.dynamic_header import DynamicHeader
from disks.engine.vhd.extents import check_entry
from disks.engine.vhd.footer import Footer
from disks.engine.vhd.raw_view import footer_changes
from disks.engine.vhd.room import PAGE_BYTES

if TYPE_CHECKING:
    from disks.engine.vhd.image import VhdImage

Piece = Write | Fill
_ANYWHERE = 1 << 62
_ENTRIES_PER_SECTOR = SECTOR_BYTES // 4
# Who stores the size for itself; of all others' disks QEMU believes the geometry.
_SIZE_BELIEVED = (b"win ", b"qem2", b"d2v ", b"CTXS", b"tap\0")
_CHILDREN = "a child must not be smaller than its parent (0xC03A0012, 0xC03A0017 on Windows)"
_OLD_BLKTAP = 0x00000001  # a version before tdbatmap: none is looked for


def plan_expand(image: VhdImage, new_size_bytes: int) -> Expansion:
    """See `Image`. new_size_bytes: more than the disk has, a multiple of 512.

    Raises the write refusal, `E_TOO_LARGE`, `E_BLOCK_SIZE`, `E_BAT_IN_HEADER`, `E_BAT_PAST_EOF`.
    """
    if image.write_refusal is not None:
        raise image.write_refusal
    if new_size_bytes > footer.MAX_SIZE_BYTES:
        raise footer.too_large(new_size_bytes)
    if new_size_bytes <= image.virtual_size_bytes or new_size_bytes % SECTOR_BYTES:
        raise ValueError(f"{new_size_bytes} bytes are no larger size in whole sectors")
    if image.disk_type is DiskType.FIXED:
        return _plan_fixed(image, new_size_bytes)
    return _plan_blocks(image, new_size_bytes)


def _larger(image: VhdImage, size_bytes: int) -> Footer:
    """The footer with another size. A blktap disk's says that no tdbatmap is there any more."""
    cylinders, heads, track = geometry.geometry_of(size_bytes)
    changed = image.footer._replace(
        current_size=size_bytes, cylinders=cylinders, heads=heads, sectors_per_track=track
    )
    if image.header is not None and find_batmap(image) is not None:
        return changed._replace(creator_version=_OLD_BLKTAP)
    return changed


def _batmap(image: VhdImage) -> Batmap | None:
    """The map that is there: where one is only expected, something else may lie."""
    batmap = find_batmap(image)
    return batmap if batmap is not None and batmap.has_cookie else None


# A fixed disk


def _plan_fixed(image: VhdImage, size_bytes: int) -> Expansion:
    """A second footer at the new end, which still names the old size, then room up to there.

    Until the last write the file is merely longer than the disk needs.
    """
    end = image.footers.end
    foot = _larger(image, size_bytes).pack()[: end.length]
    old_size = image.virtual_size_bytes
    steps: list[tuple[Piece, ...]] = []
    at = max(size_bytes, end.offset)
    if at > end.offset:
        steps.append((Write(at, end.raw[: end.length]),))
    added = Fill(old_size, size_bytes - old_size)
    steps += [tuple(_over_footer(image, added)), (Write(at, foot),)]
    rows = _footer_rows(image, foot, at)
    rewrite = HeaderRewrite(tuple(steps), at + end.length, tuple(rows), visible_step=len(steps) - 1)
    return _expansion(image, rewrite, (), foot, rewrite.size_after_bytes)


# A disk of blocks


class _Layout(NamedTuple):
    """Where things go. table_room: bytes of the table, padded; end: of all but the footer.

    in_the_way: (block, entry), ordered by sector of the table
    """

    entries: int
    table_offset: int
    table_room: int
    end: int
    in_the_way: tuple[tuple[int, int], ...]

    @property
    def table_end(self) -> int:
        return self.table_offset + self.table_room


def _plan_blocks(image: VhdImage, size_bytes: int) -> Expansion:
    header = _header_of(image)
    layout = _layout(image, header, size_bytes)
    foot = _larger(image, size_bytes).pack()
    if layout.in_the_way:
        moves, end = _plan_moves(image, layout)
        rows = _block_rows(image, header, foot, layout, end)
        size_after = end + image.footers.end.length
        return _expansion(image, moves, rows, foot, size_after, makes_room=True)
    rows = _block_rows(image, header, foot, layout, layout.end)
    size_after = layout.end + image.footers.end.length
    steps = tuple(_grow(image, header, layout, foot))
    # The footer at the end counts; after that only its copy at the beginning follows.
    rewrite = HeaderRewrite(steps, size_after, tuple(rows), visible_step=len(steps) - 2)
    return _expansion(image, rewrite, (), foot, size_after)


def _header_of(image: VhdImage) -> DynamicHeader:
    if image.header is None:
        raise AssertionError("a dynamic disk without a header is not opened")
    return image.header


def _layout(image: VhdImage, header: DynamicHeader, size_bytes: int) -> _Layout:
    block = image.block_size_bytes
    needed = -(-size_bytes // block)
    if needed > dynamic_header.MAX_ENTRIES:
        raise ImageError(
            "E_BLOCK_SIZE",
            f"The disk has blocks of {block:,} bytes, too small for one of {size_bytes:,} bytes: "
            "its block allocation table would become longer than any tool reads.",
            advice="Convert it into a copy with larger blocks: that can have this size.",
            file=image.file.path,
            field="block_size",
            value=block,
        )
    entries = max(needed, header.max_table_entries)
    table_room = dynamic_header.table_bytes(entries)
    offset = image.bat.offset
    in_the_way: tuple[tuple[int, int], ...] = ()
    if offset + table_room > image.table_end:
        offset = _table_place(image, table_room)
        in_the_way = _blocks_over(image, offset, offset + table_room)
    end = max(image.data_end, offset + table_room, end_of_cut_block(image))
    if round_up(end, SECTOR_BYTES) + SECTOR_BYTES > MAX_FILE_SECTORS * SECTOR_BYTES:
        raise _past_2_tib(image, end)
    if end > image.data_end:
        end = round_up(end, SECTOR_BYTES)
    return _Layout(entries, offset, table_room, end, in_the_way)


def _past_2_tib(image: VhdImage, end: int) -> ImageError:
    return ImageError(
        "E_TOO_LARGE",
        "The file would grow past 2 TiB, which the block allocation table cannot reach.",
        file=image.file.path,
        value=end,
    )


def _table_place(image: VhdImage, table_room: int) -> int:
    """Where a longer table fits between headers and strings: where it is, else the first gap."""
    offset = image.bat.offset
    taken = [*room.headers(image), *room.reserved(image)]
    if not any(start < offset + table_room and offset < end for start, end in taken):
        return offset
    taken.append((offset, image.table_end))
    for start, end in room.gaps(taken, _ANYWHERE):
        place = round_up(start, PAGE_BYTES)
        if place + table_room <= end:
            return place
    raise AssertionError("there is room without end behind everything")


def _blocks_over(image: VhdImage, start: int, end: int) -> tuple[tuple[int, int], ...]:
    """The blocks that lie over a range of the file, by sector of the table, lowest first."""
    stride = image.bitmap_bytes + image.block_size_bytes
    found = []
    for block, entry in image.bat.below(-(-end // SECTOR_BYTES)):
        if check_entry(image, block, entry) + stride > start:
            found.append((block, entry))
    return tuple(sorted(found, key=lambda pair: (pair[0] // _ENTRIES_PER_SECTOR, pair[1])))


def _cut_block(image: VhdImage) -> tuple[int, int] | None:
    """(offset of its bitmap, bytes inside the disk) of the allocated block that the size cuts."""
    inside = image.virtual_size_bytes % image.block_size_bytes
    if not inside:
        return None
    entry = image.bat.entry(image.blocks_total - 1)
    if entry == ABSENT:
        return None
    return check_entry(image, image.blocks_total - 1, entry), inside


def end_of_cut_block(image: VhdImage) -> int:
    """Some tools leave out what the size cuts off the last block; now all of it is needed."""
    cut = _cut_block(image)
    return 0 if cut is None else cut[0] + image.bitmap_bytes + image.block_size_bytes


def _plan_moves(image: VhdImage, layout: _Layout) -> tuple[HeaderRewrite, int]:
    """Blocks to the end of the file; also where the footer lies when all of them are moved.

    As many as have their entries in one sector of the table: that changes whole or not at
    all, and so each of them is at its old place or its new one. The footer moves first, so
    that every prefix ends with one; then the copies, over its old place, too.
    """
    end = image.footers.end
    moves = list(_new_places(image, layout))
    sector = moves[0][0] // _ENTRIES_PER_SECTOR
    now = [move for move in moves if move[0] // _ENTRIES_PER_SECTOR == sector]
    stride = image.bitmap_bytes + image.block_size_bytes
    new_end = now[-1][2] + stride
    copies: list[Piece] = []
    entries: list[Piece] = []
    free_from = end.offset
    for block, entry, at in now:
        length = image.block_bytes(block)
        copies += _over_footer(image, Fill(free_from, at - free_from))
        copies += _over_footer(image, Fill(at, length, copy_of=entry * SECTOR_BYTES))
        entries.append(Write(image.bat.offset + block * 4, (at // SECTOR_BYTES).to_bytes(4)))
        free_from = at + length
    copies += _over_footer(image, Fill(free_from, new_end - free_from))
    lowest = min(entry for _, entry, _ in moves) * SECTOR_BYTES
    row = FieldChange(
        "blocks in the table's way",
        f"{len(moves):,} from byte {lowest:,} on",
        f"at the end of the file, from byte {moves[0][2]:,} on",
        lowest,
        len(moves) * stride,
    )
    steps = ((Write(new_end, end.raw[: end.length]),), tuple(copies), tuple(entries))
    rewrite = HeaderRewrite(steps, new_end + end.length, (row,), visible_step=len(steps) - 1)
    return rewrite, moves[-1][2] + stride


def _new_places(image: VhdImage, layout: _Layout) -> Iterator[tuple[int, int, int]]:
    """(block, entry, new offset) of every block in the way: behind everything, and the table."""
    at = round_up(layout.end, SECTOR_BYTES)
    for block, entry in layout.in_the_way:
        if image.block_size_bytes >= PAGE_BYTES:  # its data on a page border, as the writer does
            at = round_up(at + image.bitmap_bytes, PAGE_BYTES) - image.bitmap_bytes
        yield block, entry, at
        at += image.bitmap_bytes + image.block_size_bytes
        if at + SECTOR_BYTES > MAX_FILE_SECTORS * SECTOR_BYTES:
            raise _past_2_tib(image, at)


def _over_footer(image: VhdImage, fill: Fill) -> Iterator[Piece]:
    """A fill behind the data, as pieces: the footer that lies there is no room that holds nothing.

    What replaces it is written, so that it can be put back.
    """
    end = image.footers.end
    start, stop = end.offset, end.offset + end.length
    cuts = sorted({fill.offset, fill.offset + fill.length, *(
        at for at in (start, stop) if fill.offset < at < fill.offset + fill.length
    )})  # fmt: skip
    for first, after in itertools.pairwise(cuts):
        source = None if fill.copy_of is None else fill.copy_of + first - fill.offset
        if not start <= first < stop:
            yield Fill(first, after - first, fill.byte, source)
        elif source is None:
            yield Write(first, bytes([fill.byte]) * (after - first))
        else:
            yield Write(first, image.file.read_at(source, after - first))


def _grow(
    image: VhdImage, header: DynamicHeader, layout: _Layout, foot: bytes
) -> Iterator[tuple[Piece, ...]]:
    """Nothing of the old disk is touched until the header names the longer table."""
    end = image.footers.end
    first: list[Piece] = []
    batmap = _batmap(image)
    if batmap is not None and not layout.table_offset <= batmap.offset < layout.table_end:
        # A stale bit makes blktap ignore a sector bitmap: the map goes before any bit changes.
        first.append(Write(batmap.offset, bytes(BATMAP_HEADER_BYTES)))
    if layout.end > end.offset:
        first.append(Write(layout.end, end.raw[: end.length]))
    if first:
        yield tuple(first)
    fresh = [*_rest_of_cut_block(image), *_table(image, layout)]
    yield tuple(piece for fill in fresh for piece in _split(image, fill))
    changed = header._replace(table_offset=layout.table_offset, max_table_entries=layout.entries)
    yield (Write(image.footer.data_offset, changed.pack()),)
    yield (Write(layout.end, foot[: end.length]),)
    yield (Write(0, foot),)


def _split(image: VhdImage, piece: Piece) -> Iterator[Piece]:
    if isinstance(piece, Fill):
        yield from _over_footer(image, piece)
    else:
        yield piece


def _table(image: VhdImage, layout: _Layout) -> Iterator[Fill]:
    """The entries of the blocks there are, then absent ones to the end of the padding."""
    used = image.blocks_total * 4
    if layout.table_offset != image.bat.offset:
        yield Fill(layout.table_offset, used, copy_of=image.bat.offset)
    yield Fill(layout.table_offset + used, layout.table_room - used, 0xFF)


def _rest_of_cut_block(image: VhdImage) -> Iterator[Piece]:
    """What the old size cut off the last block: its bits are cleared, its sectors zero."""
    cut = _cut_block(image)
    if cut is None:
        return
    offset, inside = cut
    first_bit = inside // SECTOR_BYTES
    at = first_bit // 8
    bits = bytearray(image.file.read_at(offset + at, image.sectors_per_block // 8 - at or 1))
    bits[0] &= 0xFF00 >> (first_bit % 8) & 0xFF
    bits[1:] = bytes(len(bits) - 1)
    yield Write(offset + at, bytes(bits))
    data = offset + image.bitmap_bytes
    yield Fill(data + inside, image.block_size_bytes - inside)


# For people


def _expansion(
    image: VhdImage,
    rewrite: HeaderRewrite,
    following: Sequence[FieldChange],
    foot: bytes,
    size_after: int,
    *,
    makes_room: bool = False,
) -> Expansion:
    """following: the rows of what is done after the rewrite."""
    rows = [*rewrite.changes, *following]
    now = image.file.size_bytes
    if size_after != now:
        rows.append(FieldChange("file size", f"{now:,} bytes", f"{size_after:,} bytes"))
    warnings = tuple(_warnings(image, Footer.parse(foot)))
    return Expansion(rewrite, makes_room, tuple(rows), size_after, warnings, _CHILDREN)


def _footer_rows(image: VhdImage, foot: bytes, at: int) -> list[FieldChange]:
    changed = footer_changes(image.footers.end.raw, foot.ljust(footer.FOOTER_BYTES, b"\0"), at)
    return [row for row in changed if row.field != "checksum"]


def _block_rows(
    image: VhdImage, header: DynamicHeader, foot: bytes, layout: _Layout, end: int
) -> list[FieldChange]:
    rows = _footer_rows(image, foot, end)
    base = image.footer.data_offset
    for name, now, after in (
        ("max_table_entries", header.max_table_entries, layout.entries),
        ("table_offset", header.table_offset, layout.table_offset),
    ):
        if now != after:
            at, length = dynamic_header.OFFSETS[name]
            rows.append(FieldChange(name, f"{now:,}", f"{after:,}", base + at, length))
    if layout.entries != header.max_table_entries:
        room_now = image.table_end - image.bat.offset
        rows.append(
            FieldChange(
                "block_allocation_table",
                f"{room_now:,} bytes",
                f"{layout.table_room:,} bytes",
                layout.table_offset,
                layout.table_room,
            )
        )
    batmap = _batmap(image)
    if batmap is not None:
        rows.append(FieldChange("tdbatmap", "there", None, batmap.offset, BATMAP_HEADER_BYTES))
    cut = _cut_block(image)
    if cut is not None:
        offset, inside = cut
        rest = image.block_size_bytes - inside
        start = offset + image.bitmap_bytes + inside
        what = "zeros" if image.disk_type is DiskType.DYNAMIC else "the parent's"
        rows.append(
            FieldChange("rest of the last block", "not a part of the disk", what, start, rest)
        )
    return rows


def _warnings(image: VhdImage, foot: Footer) -> Iterator[str]:
    if image.disk_type is DiskType.DIFFERENCING:
        yield (
            "Windows wants a differencing VHD to have its parent's size and may refuse this one "
            "(0xC03A0017) until it is merged to a new disk."
        )
    by_geometry = foot.cylinders * foot.heads * foot.sectors_per_track * SECTOR_BYTES
    believed = foot.creator_application in _SIZE_BELIEVED or foot.cylinders == 65535
    if not believed and by_geometry != foot.current_size:
        yield (
            f"QEMU believes the geometry of disks made by “{image.creator}” and will show "
            f"{by_geometry:,} bytes. Tell it to use the size: -o driver=vpc,"
            "force_size_calc=current_size."
        )
