"""New VHD files: everything else first, the footer that makes the file a disk last.

Layout of a differencing disk as Windows makes it: footer copy, header, W2ku at 4 KiB, BAT,
W2ru, blocks whose data lies on 4 KiB borders. No holes: Windows refuses sparse files.
"""

from __future__ import annotations

import os
from array import array
from typing import NamedTuple

from disks.engine.errors import ImageError, OutOfRange
from disks.engine.files import ImageFile
from disks.engine.images import DiskType
from disks.engine.new_image import ImageWriter, NewImage
from disks.engine.sector_bitmap import set_range
from disks.engine.units import SECTOR_BYTES, round_up
from disks.engine.vhd import dynamic_header, footer, geometry, parent_locator
from disks.engine.vhd.bat import ABSENT, MAX_FILE_SECTORS, to_stored
from disks.engine.vhd.dynamic_header import HEADER_BYTES, DynamicHeader
from disks.engine.vhd.footer import FOOTER_BYTES, Footer
from disks.engine.vhd.image import now_timestamp
from disks.engine.vhd.parent_locator import LocatorEntry
from disks.engine.vhd.room import PAGE_BYTES
from disks.engine.vhd.text import identity_bytes, identity_text, timestamp_of

LOCATOR_SPACE_BYTES = 4096  # room for a longer path later

# Windows' own code: QEMU believes the geometry, not the size, of disks of unknown creators,
# and so would cut the end off ours.
CREATOR = (b"win ", 0x000A0000, b"Wi2k")

_TYPES = {
    DiskType.FIXED: footer.FIXED,
    DiskType.DYNAMIC: footer.DYNAMIC,
    DiskType.DIFFERENCING: footer.DIFFERENCING,
}


class Layout(NamedTuple):
    """Where everything of a dynamic or differencing disk goes, in bytes.

    first_block   offset of the first block's bitmap
    stride        from one bitmap to the next
    """

    table_offset: int
    entries: int
    bitmap_bytes: int
    first_block: int
    stride: int
    strings: tuple[tuple[LocatorEntry, bytes], ...]

    def block_offset(self, index: int) -> int:
        return self.first_block + index * self.stride

    def file_bytes(self, blocks: int) -> int:
        return self.block_offset(blocks) + FOOTER_BYTES


def _check_size(new: NewImage) -> None:
    size = new.virtual_size_bytes
    if size > footer.MAX_SIZE_BYTES:
        raise footer.too_large(size)
    if size <= 0 or size % SECTOR_BYTES:
        raise ImageError(
            "E_SIZE",
            f"A VHD cannot have {size:,} bytes: the size must be a multiple of 512, more than 0.",
            advice="Choose another size.",
            field="current_size",
            value=size,
        )


def layout_of(new: NewImage) -> Layout:
    """The layout for a new dynamic or differencing disk. E_SIZE, E_TOO_LARGE, E_BLOCK_SIZE…"""
    _check_size(new)
    block = new.block_size_bytes
    legal = SECTOR_BYTES <= block <= dynamic_header.MAX_BLOCK_BYTES and block & (block - 1) == 0
    if not legal:
        raise ImageError(
            "E_BLOCK_SIZE",
            f"A VHD cannot have blocks of {block:,} bytes.",
            advice="Choose another block size.",
            field="block_size",
            value=block,
        )
    entries = -(-new.virtual_size_bytes // block)
    if entries > dynamic_header.MAX_ENTRIES:
        raise ImageError(
            "E_BLOCK_SIZE",
            f"Blocks of {block:,} bytes are too small for a disk of {new.virtual_size_bytes:,}.",
            advice="Choose larger blocks.",
            field="block_size",
            value=block,
        )
    table_bytes = dynamic_header.table_bytes(entries)
    strings: list[tuple[LocatorEntry, bytes]] = []
    if new.disk_type is DiskType.DIFFERENCING:
        if new.parent is None:
            raise ImageError("E_NO_PARENT", "A differencing disk needs a parent.", field="parent")
        windows = _text(new.parent.windows_path)
        relative = _text(new.parent.relative_path)
        table = PAGE_BYTES + _space(windows)
        relative_offset = round_up(table + table_bytes, PAGE_BYTES)
        end = relative_offset + _space(relative)
        if relative:
            strings.append(_string(parent_locator.W2RU, relative, relative_offset))
        if windows:
            strings.append(_string(parent_locator.W2KU, windows, PAGE_BYTES))
    else:
        table = FOOTER_BYTES + HEADER_BYTES
        end = table + table_bytes
    bitmap = dynamic_header.bitmap_bytes(block)
    if block >= PAGE_BYTES:
        # Padding before each bitmap puts the block's data on a page border.
        first = round_up(end + bitmap, PAGE_BYTES) - bitmap
        stride = round_up(bitmap + block, PAGE_BYTES)
    else:
        first, stride = end, bitmap + block
    return Layout(table, entries, bitmap, first, stride, tuple(strings))


def _text(path: str | None) -> bytes:
    return parent_locator.encode_path(path) if path else b""


def _space(data: bytes) -> int:
    return max(LOCATOR_SPACE_BYTES, round_up(len(data), LOCATOR_SPACE_BYTES))


def _string(code: bytes, data: bytes, offset: int) -> tuple[LocatorEntry, bytes]:
    return LocatorEntry(code, _space(data), len(data), 0, offset), data


def predicted_size_bytes(new: NewImage, blocks: int) -> int:
    """File size of a new image with that many allocated blocks (unused for fixed ones)."""
    if new.disk_type is DiskType.FIXED:
        _check_size(new)
        return new.virtual_size_bytes + FOOTER_BYTES
    return layout_of(new).file_bytes(blocks)


def new_unique_id() -> bytes:
    """Sixteen random bytes, marked as a version 4 UUID."""
    data = bytearray(os.urandom(16))
    data[6] = data[6] & 0x0F | 0x40
    data[8] = data[8] & 0x3F | 0x80
    return bytes(data)


def build_footer(new: NewImage) -> Footer:
    """The footer of a new image."""
    application, version, host_os = new.creator or CREATOR
    cylinders, heads, track = new.geometry or geometry.geometry_of(new.virtual_size_bytes)
    created = max(0, now_timestamp()) if new.created is None else timestamp_of(new.created)
    return Footer(
        cookie=footer.COOKIE,
        features=footer.FEATURE_RESERVED,
        file_format_version=footer.VERSION,
        data_offset=(footer.NO_DATA_OFFSET if new.disk_type is DiskType.FIXED else FOOTER_BYTES),
        timestamp=created,
        creator_application=application,
        creator_version=version,
        creator_host_os=host_os,
        original_size=new.virtual_size_bytes,
        current_size=new.virtual_size_bytes,
        cylinders=cylinders,
        heads=heads,
        sectors_per_track=track,
        disk_type=_TYPES[new.disk_type],
        checksum=0,
        unique_id=identity_bytes(new.identity) if new.identity else new_unique_id(),
        saved_state=0,
        hidden=0,
        reserved=bytes(426),
    )


def build_header(new: NewImage, layout: Layout) -> DynamicHeader:
    """The dynamic disk header of a new image."""
    parent = new.parent if new.disk_type is DiskType.DIFFERENCING else None
    return DynamicHeader(
        cookie=dynamic_header.COOKIE,
        data_offset=dynamic_header.NO_NEXT_HEADER,
        table_offset=layout.table_offset,
        header_version=dynamic_header.VERSION,
        max_table_entries=layout.entries,
        block_size=new.block_size_bytes,
        checksum=0,
        parent_unique_id=identity_bytes(parent.identity) if parent else bytes(16),
        parent_timestamp=timestamp_of(parent.timestamp) if parent else 0,
        reserved1=0,
        parent_unicode_name=(
            parent_locator.encode_name(parent.name) if parent else bytes(dynamic_header.NAME_BYTES)
        ),
        parent_locators=parent_locator.pack_entries([entry for entry, _ in layout.strings]),
        reserved2=bytes(256),
    )


def open_writer(file: ImageFile, new: NewImage, blocks: int) -> ImageWriter:
    """A writer into an empty file. Reserves all room at once, so that a full volume shows now.

    Raises `E_SIZE`, `E_BLOCK_SIZE`, `E_NAME`, `E_NOSPC`, `E_TOO_LARGE`.
    """
    if new.disk_type is DiskType.FIXED:
        return FixedWriter(file, new)
    return BlockWriter(file, new, blocks)


class _Writer:
    """What both kinds share: bounds, and the order of sectors."""

    def __init__(self, file: ImageFile, new: NewImage) -> None:
        self.file = file
        self.new = new
        self.footer = build_footer(new)
        self.identity = identity_text(self.footer.unique_id)
        self._sectors = new.virtual_size_bytes // SECTOR_BYTES
        self._next_sector = 0
        self._finished = False

    def _claim(self, first_sector: int, count_sectors: int) -> None:
        if self._finished:
            raise ValueError("the image is already finished")
        if first_sector < self._next_sector:
            raise ValueError(f"sector {first_sector} comes after {self._next_sector}")
        end = first_sector + count_sectors
        if count_sectors < 0 or end > self._sectors:
            raise OutOfRange(
                "E_RANGE",
                f"Sectors up to {end:,} were written; the disk has {self._sectors:,}.",
                file=self.file.path,
                value=end,
            )
        self._next_sector = end

    def place(self, first_sector: int, count_sectors: int) -> list[tuple[int, int]]:
        raise NotImplementedError

    def hold_zeros(self, first_sector: int, count_sectors: int) -> None:
        """See `ImageWriter`: reserved room reads as zeros."""
        self.place(first_sector, count_sectors)

    def write(self, first_sector: int, data: bytes | bytearray | memoryview) -> None:
        """See `ImageWriter`. Sectors ascend; each is written once."""
        view = memoryview(data).cast("B")
        if len(view) % SECTOR_BYTES:
            raise ValueError(f"{len(view)} bytes are no whole sectors")
        done = 0
        for offset, length in self.place(first_sector, len(view) // SECTOR_BYTES):
            self.file.write_at(offset, view[done : done + length])
            done += length


class FixedWriter(_Writer):
    """A fixed disk: its sectors as they are, then the footer."""

    def __init__(self, file: ImageFile, new: NewImage) -> None:
        super().__init__(file, new)
        _check_size(new)
        file.allocate(new.virtual_size_bytes + FOOTER_BYTES)

    def place(self, first_sector: int, count_sectors: int) -> list[tuple[int, int]]:
        """See `ImageWriter`."""
        self._claim(first_sector, count_sectors)
        if count_sectors == 0:
            return []
        return [(first_sector * SECTOR_BYTES, count_sectors * SECTOR_BYTES)]

    def finish(self) -> None:
        """The data is made durable before the footer turns the file into a disk."""
        self._finished = True
        self.file.sync()
        self.file.write_at(self.new.virtual_size_bytes, self.footer.pack())
        self.file.sync()


class BlockWriter(_Writer):
    """A dynamic or differencing disk: blocks in the order of the virtual disk."""

    def __init__(self, file: ImageFile, new: NewImage, blocks: int) -> None:
        super().__init__(file, new)
        self.layout = layout_of(new)
        self._per_block = new.block_size_bytes // SECTOR_BYTES
        self._table = array("I", [ABSENT]) * self.layout.entries
        self._used = 0
        self._block = -1  # whose bitmap is held in memory
        self._bitmap = bytearray(self.layout.bitmap_bytes)
        self._reserved = 0
        self._reserve(blocks)

    def _reserve(self, blocks: int) -> None:
        size = self.layout.file_bytes(blocks)
        if size > MAX_FILE_SECTORS * SECTOR_BYTES:
            raise ImageError(
                "E_TOO_LARGE",
                "The file would grow past 2 TiB, which the block allocation table cannot reach.",
                file=self.file.path,
                value=size,
            )
        self.file.allocate(size)
        self._reserved = blocks

    def place(self, first_sector: int, count_sectors: int) -> list[tuple[int, int]]:
        """See `ImageWriter`."""
        self._claim(first_sector, count_sectors)
        pieces = []
        sector, end = first_sector, first_sector + count_sectors
        while sector < end:
            block = sector // self._per_block
            inside = sector - block * self._per_block
            count = min(end - sector, self._per_block - inside)
            if block != self._block:
                self._open_block(block)
            if self.new.disk_type is DiskType.DIFFERENCING:
                set_range(self._bitmap, inside, count)
            offset = self.layout.block_offset(self._used - 1) + self.layout.bitmap_bytes
            pieces.append((offset + inside * SECTOR_BYTES, count * SECTOR_BYTES))
            sector += count
        return pieces

    def _open_block(self, block: int) -> None:
        self._close_block()
        if self._used == self._reserved:
            self._reserve(self._used + max(1, self._used // 8))
        self._table[block] = self.layout.block_offset(self._used) // SECTOR_BYTES
        self._used += 1
        self._block = block
        self._bitmap = bytearray(self.layout.bitmap_bytes)
        if self.new.disk_type is DiskType.DYNAMIC:
            # All of the block counts as written: its room reads as zeros, and readers that
            # ignore the bitmap see the same as those that honour it.
            first = block * self._per_block
            set_range(self._bitmap, 0, min(self._per_block, self._sectors - first))

    def _close_block(self) -> None:
        if self._block >= 0:
            self.file.write_at(self.layout.block_offset(self._used - 1), self._bitmap)
            self._block = -1

    @property
    def blocks_written(self) -> int:
        return self._used

    def finish(self) -> None:
        """Everything but the footers, fsync; the footer at the end, fsync; its copy, fsync.

        A reader finds no disk at all, or one whose content is durable.
        """
        self._close_block()
        self._finished = True
        layout = self.layout
        size = layout.file_bytes(self._used)
        if self.file.size_bytes != size:
            self.file.truncate(size)
        table = to_stored(self._table)
        self.file.write_at(
            layout.table_offset,
            table.ljust(dynamic_header.table_bytes(layout.entries), b"\xff"),
        )
        for entry, data in layout.strings:
            self.file.write_at(entry.platform_data_offset, data)
        self.file.write_at(FOOTER_BYTES, build_header(self.new, layout).pack())
        self.file.sync()
        packed = self.footer.pack()
        self.file.write_at(size - FOOTER_BYTES, packed)
        self.file.sync()
        self.file.write_at(0, packed)
        self.file.sync()
