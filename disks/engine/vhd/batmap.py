"""blktap's tdbatmap behind the BAT: found in order to be respected, never believed.

It says which blocks have all of their sectors set. Nothing here reads content by it; a block
that leaves the disk leaves the map, too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from disks.engine.changes import Write
from disks.engine.units import SECTOR_BYTES, round_up
from disks.engine.vhd.checksum import ones_complement

if TYPE_CHECKING:
    from disks.engine.vhd.image import VhdImage

COOKIE = b"tdbatmap"
HEADER_BYTES = 512
VERSIONS = (0x00010001, 0x00010002)
SIGNED_VERSION = 0x00010001  # summed its bytes as signed ones
_FIELDS = struct.Struct(">8sQIII")
_CHECKSUM_AT = 24
_MAX_MAP_BYTES = 8 * 1024 * 1024  # one bit for each of 64 Mi blocks


class Batmap(NamedTuple):
    """The header of the map as stored, and whether it can be trusted to be one."""

    offset: int
    map_offset: int
    map_sectors: int
    version: int
    checksum: int
    has_cookie: bool

    @property
    def map_bytes(self) -> int:
        return self.map_sectors * SECTOR_BYTES

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The ranges of the file that it takes."""
        taken = [(self.offset, self.offset + HEADER_BYTES)]
        if self.has_cookie and self.map_bytes <= _MAX_MAP_BYTES:
            taken.append((self.map_offset, self.map_offset + self.map_bytes))
        return taken


def find_batmap(image: VhdImage) -> Batmap | None:
    """The map of a blktap disk: expected from creator version 1.2 on, else by its cookie."""
    header = image.header
    if header is None or image.footer.creator_application != b"tap\0":
        return None
    offset = header.table_offset + round_up(header.max_table_entries * 4, SECTOR_BYTES)
    if offset + HEADER_BYTES > image.data_end:
        return None
    data = image.file.read_at(offset, HEADER_BYTES)
    cookie, map_offset, sectors, version, checksum = _FIELDS.unpack_from(data)
    if cookie != COOKIE and image.footer.creator_version < 0x00010002:
        return None
    return Batmap(offset, map_offset, sectors, version, checksum, cookie == COOKIE)


def map_of(image: VhdImage, batmap: Batmap) -> tuple[bytes | None, str | None]:
    """The map's bytes, and why it cannot be trusted (None if it can)."""
    if not batmap.has_cookie:
        return None, "its cookie is missing"
    if batmap.version not in VERSIONS:
        return None, f"its version 0x{batmap.version:08x} is not known"
    size = batmap.map_bytes
    if size > _MAX_MAP_BYTES or batmap.map_offset + size > image.data_end:
        return None, "it does not fit into the file"
    if batmap.map_offset % SECTOR_BYTES:
        return None, "its offset is no multiple of 512"
    if size * 8 < image.blocks_total:
        return None, f"it has {size * 8:,} bits for {image.blocks_total:,} blocks"
    data = image.file.read_at(batmap.map_offset, size)
    if batmap.checksum not in _sums(image, batmap, data):
        return None, "its checksum is wrong"
    return data, None


def without_blocks(image: VhdImage, blocks: Iterable[int]) -> list[Write]:
    """The writes that take blocks out of the map; none where there is none to be trusted.

    A bit that stayed would make blktap ignore the sector bitmap of a block that takes the place.
    """
    batmap = find_batmap(image)
    data = None if batmap is None else map_of(image, batmap)[0]
    if batmap is None or data is None:
        return []
    cleared = bytearray(data)
    for block in blocks:
        cleared[block // 8] &= ~(0x80 >> block % 8)
    if cleared == data:
        return []
    which = _sums(image, batmap, data).index(batmap.checksum)
    checksum = _sums(image, batmap, bytes(cleared))[which]
    return [
        Write(batmap.map_offset, bytes(cleared)),
        Write(batmap.offset + _CHECKSUM_AT, checksum.to_bytes(4)),
    ]


def _sums(image: VhdImage, batmap: Batmap, data: bytes) -> list[int]:
    """The checksums that a map may have, in a fixed order: of all of it, and of what is used."""
    # The sum runs over the part that the disk's size needs at 2 MiB a block.
    size = len(data)
    used = min(size, max(SECTOR_BYTES, round_up(image.virtual_size_bytes >> 24, SECTOR_BYTES)))
    parts = (data, data[:used])
    sums = [ones_complement(part) for part in parts]
    if batmap.version == SIGNED_VERSION:
        for part in parts:
            signed = sum(part) - 256 * sum(1 for byte in part if byte > 127)
            sums.append(~signed & 0xFFFFFFFF)
    return sums
