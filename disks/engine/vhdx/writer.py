"""New VHDX files: everything else first, the identifier that makes the file a disk last.

Layout: headers and region tables in the first MiB, log, metadata, BAT, then payload blocks in
the order of the virtual disk, each chunk's sector bitmap behind its blocks. No holes.
"""

from __future__ import annotations

import struct
from array import array
from typing import NamedTuple

from disks.engine.errors import ImageError, OutOfRange
from disks.engine.files import ImageFile
from disks.engine.images import DiskType
from disks.engine.new_image import ImageWriter, NewImage
from disks.engine.sector_bitmap import REVERSED_BITS, set_range
from disks.engine.units import MIB, SECTOR_BYTES, round_up
from disks.engine.vhdx import bat, headers, metadata, parent_locator, regions
from disks.engine.vhdx.bat import Geometry
from disks.engine.vhdx.guid import NIL, guid_bytes, guid_text, new_guid
from disks.engine.vhdx.headers import Header
from disks.engine.vhdx.metadata import Item
from disks.engine.vhdx.regions import Region

CREATOR = "vdadmin"
LOG_OFFSET = 1 * MIB
LOG_BYTES = 1 * MIB
METADATA_OFFSET = 2 * MIB
METADATA_BYTES = 1 * MIB
BAT_OFFSET = 3 * MIB
_FIRST_ITEM = metadata.TABLE_BYTES
_LOCATOR_AT = metadata.TABLE_BYTES + 4096  # a page of its own: relinking never tears others


class Layout(NamedTuple):
    """Where the blocks of a new disk begin, and what its sizes make of the BAT."""

    geometry: Geometry
    bat_bytes: int
    first_block: int


def layout_of(new: NewImage) -> Layout:
    """The layout for a new disk. Raises `E_SIZE`, `E_TOO_LARGE`, `E_BLOCK_SIZE`."""
    size, block, logical = (
        new.virtual_size_bytes,
        new.block_size_bytes,
        new.logical_sector_bytes,
    )
    for name, value in (
        ("logical_sector_size", logical),
        ("physical_sector_size", new.physical_sector_bytes),
    ):
        if value not in metadata.SECTOR_SIZES:
            raise ImageError(
                "E_BLOCK_SIZE",
                f"A VHDX cannot have sectors of {value:,} bytes: 512 or 4,096.",
                advice="Choose another sector size.",
                field=name,
                value=value,
            )
    if size > metadata.MAX_VIRTUAL_BYTES:
        raise metadata.too_large(size)
    if size <= 0 or size % logical:
        raise ImageError(
            "E_SIZE",
            f"A VHDX cannot have {size:,} bytes: the size must be a multiple of {logical}, more "
            "than 0.",
            advice="Choose another size.",
            field="virtual_disk_size",
            value=size,
        )
    legal = metadata.MIN_BLOCK_BYTES <= block <= metadata.MAX_BLOCK_BYTES
    if not legal or block & (block - 1):
        raise ImageError(
            "E_BLOCK_SIZE",
            f"A VHDX cannot have blocks of {block:,} bytes: a power of two from 1 to 256 MiB.",
            advice="Choose another block size.",
            field="block_size",
            value=block,
        )
    geometry = Geometry.of(size, block, logical, new.disk_type is DiskType.DIFFERENCING)
    bat_bytes = round_up(geometry.entries * bat.ENTRY_BYTES, MIB)
    return Layout(geometry, bat_bytes, BAT_OFFSET + bat_bytes)


def file_bytes(new: NewImage, layout: Layout, blocks: int, bitmaps: int | None = None) -> int:
    """The size of the file with that many payload blocks and sector bitmaps.

    bitmaps None: as many as so many blocks can need, one in each chunk.
    """
    if new.disk_type is not DiskType.DIFFERENCING:
        bitmaps = 0
    elif bitmaps is None:
        bitmaps = min(blocks, -(-layout.geometry.blocks // layout.geometry.ratio))
    return layout.first_block + blocks * new.block_size_bytes + bitmaps * bat.BITMAP_BLOCK_BYTES


def predicted_size_bytes(new: NewImage, blocks: int, bitmaps: int | None = None) -> int:
    """See `Target`; blocks is unused for fixed images."""
    layout = layout_of(new)
    fixed = new.disk_type is DiskType.FIXED
    return file_bytes(new, layout, layout.geometry.blocks if fixed else blocks, bitmaps)


def open_writer(file: ImageFile, new: NewImage, blocks: int) -> ImageWriter:
    """A writer into an empty file. Reserves all room at once, so that a full volume shows now.

    Raises `E_SIZE`, `E_BLOCK_SIZE`, `E_NAME`, `E_NOSPC`, `E_TOO_LARGE`, `E_NO_PARENT`.
    """
    return VhdxWriter(file, new, blocks)


class VhdxWriter:
    """Implements `ImageWriter` for all three types."""

    def __init__(self, file: ImageFile, new: NewImage, blocks: int) -> None:
        self.file = file
        self.new = new
        self.layout = layout_of(new)
        self._items = _items(new)  # judges the parent's names before anything is written
        self._data_write_guid = _guid(new.identity)
        self._file_write_guid = _guid(new.file_write_guid)
        self.identity = guid_text(self._data_write_guid)
        self._has_bitmaps = new.disk_type is DiskType.DIFFERENCING
        self._scale = new.logical_sector_bytes // SECTOR_BYTES
        self._per_block = new.block_size_bytes // SECTOR_BYTES
        self._sectors = new.virtual_size_bytes // SECTOR_BYTES
        self._table = array("Q", bytes(self.layout.geometry.entries * bat.ENTRY_BYTES))
        self._end = self.layout.first_block
        self._next_sector = 0
        self._finished = False
        self._block = -1  # which is being filled
        self._offset = 0  # where it lies
        self._held = 0  # sectors of it
        self._chunk: int | None = None
        self._bitmap = bytearray()  # of the chunk; highest bit first until it is written
        self._partial = False  # whether the chunk needs its bitmap
        self._used = 0
        fixed = new.disk_type is DiskType.FIXED
        self._reserve(self.layout.geometry.blocks if fixed else blocks)
        if fixed:
            self._place_all()

    def _reserve(self, blocks: int) -> None:
        self.file.allocate(file_bytes(self.new, self.layout, blocks))

    def _place_all(self) -> None:
        """A fixed disk: every block has its place from the beginning."""
        for block in range(self.layout.geometry.blocks):
            self._table[self.layout.geometry.index_of(block)] = self._end | bat.FULLY_PRESENT
            self._end += self.new.block_size_bytes
        self._used = self.layout.geometry.blocks

    @property
    def blocks_written(self) -> int:
        return self._used

    def _claim(self, first_sector: int, count_sectors: int) -> int:
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
        if self._has_bitmaps and (first_sector % self._scale or count_sectors % self._scale):
            raise ValueError("a bitmap of 4,096-byte sectors cannot hold a part of one")
        self._next_sector = end
        return end

    def write(self, first_sector: int, data: bytes | bytearray | memoryview) -> None:
        """See `ImageWriter`. Sectors ascend; each is written once."""
        view = memoryview(data).cast("B")
        if len(view) % SECTOR_BYTES:
            raise ValueError(f"{len(view)} bytes are no whole sectors")
        done = 0
        for offset, length in self.place(first_sector, len(view) // SECTOR_BYTES):
            self.file.write_at(offset, view[done : done + length])
            done += length

    def place(self, first_sector: int, count_sectors: int) -> list[tuple[int, int]]:
        """See `ImageWriter`."""
        end = self._claim(first_sector, count_sectors)
        if self.new.disk_type is DiskType.FIXED:
            offset = self.layout.first_block + first_sector * SECTOR_BYTES
            return [(offset, count_sectors * SECTOR_BYTES)] if count_sectors else []
        pieces = []
        sector = first_sector
        while sector < end:
            block = sector // self._per_block
            inside = sector - block * self._per_block
            count = min(end - sector, self._per_block - inside)
            if block != self._block:
                self._open_block(block)
            self._hold(block, inside, count)
            pieces.append((self._offset + inside * SECTOR_BYTES, count * SECTOR_BYTES))
            sector += count
        return pieces

    def hold_zeros(self, first_sector: int, count_sectors: int) -> None:
        """See `ImageWriter`: whole blocks become ZERO and take no room."""
        end = first_sector + count_sectors
        sector = first_sector
        while sector < end:
            block = sector // self._per_block
            stop = min(end, (block + 1) * self._per_block)
            whole = sector % self._per_block == 0 and stop == min(
                self._sectors, (block + 1) * self._per_block
            )
            if whole and self.new.disk_type is not DiskType.FIXED:
                self._claim(sector, stop - sector)
                self._close_block()
                self._enter_chunk(block)
                self._table[self.layout.geometry.index_of(block)] = bat.ZERO
            else:
                self.place(sector, stop - sector)  # reserved room reads as zeros
            sector = stop

    def _hold(self, block: int, inside: int, count: int) -> None:
        self._held += count
        if self._has_bitmaps:
            first = (block % self.layout.geometry.ratio) * self._per_block + inside
            set_range(self._bitmap, first // self._scale, count // self._scale)

    def _open_block(self, block: int) -> None:
        self._close_block()
        self._enter_chunk(block)
        self._take_room(self.new.block_size_bytes)
        self._offset = self._end - self.new.block_size_bytes
        self._block, self._held = block, 0
        self._used += 1

    def _take_room(self, length: int) -> None:
        self._end += length
        if self._end > self.file.size_bytes:
            self._reserve(self._used + max(1, self._used // 8))
            self.file.allocate(max(self._end, self.file.size_bytes))

    def _enter_chunk(self, block: int) -> None:
        """Sector bitmaps are written when the last block of their chunk is done."""
        if not self._has_bitmaps:
            return
        ratio = self.layout.geometry.ratio
        last = self._chunk
        if last is not None and last != block // ratio:
            self._close_chunk(last)
        if last != block // ratio:
            self._bitmap = bytearray(bat.BITMAP_BLOCK_BYTES)
            self._partial = False
            self._chunk = block // ratio

    def _close_block(self) -> None:
        if self._block < 0:
            return
        block, geometry = self._block, self.layout.geometry
        room = min(self._per_block, self._sectors - block * self._per_block)
        state = bat.FULLY_PRESENT
        if self._has_bitmaps and self._held < room:
            state = bat.PARTIALLY_PRESENT
            self._partial = True
        self._table[geometry.index_of(block)] = self._offset | state
        self._block = -1

    def _close_chunk(self, chunk: int) -> None:
        if not self._partial:
            return
        self._take_room(bat.BITMAP_BLOCK_BYTES)
        offset = self._end - bat.BITMAP_BLOCK_BYTES
        self.file.write_at(offset, self._bitmap.translate(REVERSED_BITS))
        index = self.layout.geometry.bitmap_index(chunk)
        self._table[index] = offset | bat.BITMAP_PRESENT

    def finish(self) -> None:
        """Blocks, BAT, metadata, region tables and headers, fsync; then the identifier, fsync.

        A reader finds no disk at all, or one whose content is durable.
        """
        self._close_block()
        if self._chunk is not None:
            self._close_chunk(self._chunk)
        self._finished = True
        if self.file.size_bytes != self._end:
            self.file.truncate(self._end)
        table, layout = bat.to_stored(self._table), self.layout
        for at in range(0, len(table), MIB):
            self.file.write_at(BAT_OFFSET + at, table[at : at + MIB])
        for offset, data in self._items:
            self.file.write_at(METADATA_OFFSET + offset, data)
        packed = regions.pack(
            (
                Region(regions.BAT, BAT_OFFSET, layout.bat_bytes, 1),
                Region(regions.METADATA, METADATA_OFFSET, METADATA_BYTES, 1),
            )
        )
        for offset in regions.OFFSETS:
            self.file.write_at(offset, packed)
        for number, offset in enumerate(headers.OFFSETS):
            self.file.write_at(offset, self._header(number).pack())
        self.file.sync()
        identifier = headers.SIGNATURE + CREATOR.encode("utf-16-le")
        self.file.write_at(0, identifier.ljust(SECTOR_BYTES * 2, b"\0"))
        self.file.sync()

    def _header(self, sequence: int) -> Header:
        return Header(
            signature=b"head",
            checksum=0,
            sequence_number=sequence,
            file_write_guid=self._file_write_guid,
            data_write_guid=self._data_write_guid,
            log_guid=NIL,
            log_version=headers.LOG_VERSION,
            version=headers.VERSION,
            log_length=LOG_BYTES,
            log_offset=LOG_OFFSET,
        )


def _guid(text: str | None) -> bytes:
    """As stored; a fresh one for None."""
    return new_guid() if text is None else guid_bytes(text)


def _items(new: NewImage) -> list[tuple[int, bytes]]:
    """Table and items of the metadata region: offset from its start, and bytes."""
    flags = metadata.LEAVE_BLOCKS_ALLOCATED if new.disk_type is DiskType.FIXED else 0
    locator = None
    if new.disk_type is DiskType.DIFFERENCING:
        if new.parent is None:
            raise ImageError("E_NO_PARENT", "A differencing disk needs a parent.", field="parent")
        flags = metadata.HAS_PARENT
        locator = parent_locator.pack(parent_locator.pairs_of(new.parent))
    disk_id = _guid(new.virtual_disk_id)
    values = [
        (metadata.FILE_PARAMETERS, struct.pack("<II", new.block_size_bytes, flags)),
        (metadata.VIRTUAL_DISK_SIZE, struct.pack("<Q", new.virtual_size_bytes)),
        (metadata.VIRTUAL_DISK_ID, disk_id),
        (metadata.LOGICAL_SECTOR_SIZE, struct.pack("<I", new.logical_sector_bytes)),
        (metadata.PHYSICAL_SECTOR_SIZE, struct.pack("<I", new.physical_sector_bytes)),
    ]
    at = _FIRST_ITEM
    items, pieces = [], []
    for guid, data in values:
        items.append(Item(guid, at, len(data), metadata.KNOWN[guid].flags, 0))
        pieces.append((at, data))
        at = round_up(at + len(data), 8)
    if locator is not None:
        known = metadata.KNOWN[metadata.PARENT_LOCATOR]
        items.append(Item(metadata.PARENT_LOCATOR, _LOCATOR_AT, len(locator), known.flags, 0))
        pieces.append((_LOCATOR_AT, locator))
    at = round_up(_LOCATOR_AT + max(len(locator or b""), 4096), 4096)
    for guid, item_flags, data in new.metadata_items:
        if at + len(data) > METADATA_BYTES or len(items) == metadata.MAX_ITEMS:
            raise ImageError(
                "E_VHDX_METADATA",
                "The disk has more metadata items than a copy has room for, and none is left out.",
                advice="Copy it with the tool that wrote them.",
                field="metadata",
                value=len(new.metadata_items),
            )
        items.append(Item(guid, at if data else 0, len(data), item_flags, 0))
        pieces.append((at, data))
        at = round_up(at + len(data), 8)
    return [(0, metadata.pack_table(items)), *pieces]
