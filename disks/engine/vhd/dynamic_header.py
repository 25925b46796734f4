"""The dynamic disk header: its fields and what may be wrong with them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from disks.engine.findings import Finding, Level
from disks.engine.units import MIB, SECTOR_BYTES, round_up
from disks.engine.vhd.checksum import ones_complement

HEADER_BYTES = 1024
COOKIE = b"cxsparse"
VERSION = 0x00010000
NO_NEXT_HEADER = 0xFFFFFFFFFFFFFFFF
LOCATOR_SLOTS = 8
LOCATOR_BYTES = 24
NAME_BYTES = 512
MAX_BLOCK_BYTES = 256 * MIB
# 2,040 GiB in blocks of 256 KiB. Larger tables are made by nobody but those who want every
# look at a disk to cost gigabytes of reading.
MAX_ENTRIES = 8 * MIB
USUAL_BLOCK_BYTES = (512 * 1024, 2 * MIB)

_LAYOUT = struct.Struct(">8sQQIIII16sII512s192s256s")
_CHECKSUM_OFFSET = 36
assert _LAYOUT.size == HEADER_BYTES  # noqa: S101 - the layout itself, at import

OFFSETS = {
    "cookie": (0, 8),
    "data_offset": (8, 8),
    "table_offset": (16, 8),
    "header_version": (24, 4),
    "max_table_entries": (28, 4),
    "block_size": (32, 4),
    "checksum": (36, 4),
    "parent_unique_id": (40, 16),
    "parent_timestamp": (56, 4),
    "reserved1": (60, 4),
    "parent_unicode_name": (64, 512),
    "parent_locators": (576, 192),
    "reserved2": (768, 256),
}


class DynamicHeader(NamedTuple):
    """The fields as stored; data_offset would be the next header and is always all ones."""

    cookie: bytes
    data_offset: int
    table_offset: int
    header_version: int
    max_table_entries: int
    block_size: int
    checksum: int
    parent_unique_id: bytes
    parent_timestamp: int
    reserved1: int
    parent_unicode_name: bytes
    parent_locators: bytes
    reserved2: bytes

    @classmethod
    def parse(cls, data: bytes) -> DynamicHeader:
        """Cut 1,024 bytes into fields; judges nothing."""
        return cls._make(_LAYOUT.unpack(data))

    def pack(self) -> bytes:
        """1,024 bytes with a fresh checksum."""
        data = _LAYOUT.pack(*self._replace(checksum=0))
        return _LAYOUT.pack(*self._replace(checksum=ones_complement(data)))


def checksum_is_right(data: bytes) -> bool:
    stored = int.from_bytes(data[_CHECKSUM_OFFSET : _CHECKSUM_OFFSET + 4])
    return stored == ones_complement(data, _CHECKSUM_OFFSET)


def bitmap_bytes(block_size: int) -> int:
    """Room of a block's sector bitmap in the file: one bit per sector, whole sectors."""
    return round_up(max(1, -(-block_size // SECTOR_BYTES // 8)), SECTOR_BYTES)


def table_bytes(entries: int) -> int:
    """Room of a block allocation table in the file: four bytes each, whole sectors."""
    return round_up(entries * 4, SECTOR_BYTES)


def offset_finding(data_offset: int, data_end: int) -> Finding | None:
    """Whether the footer's data offset can be where a header lies (`E_DATA_OFFSET`)."""
    if (
        data_offset % SECTOR_BYTES == 0
        and data_offset >= SECTOR_BYTES
        and data_offset + HEADER_BYTES <= data_end
    ):
        return None
    return Finding(
        Level.ERROR,
        "E_DATA_OFFSET",
        f"The footer says that the dynamic disk header lies at byte {data_offset:,}, where "
        "none can be: it must be a multiple of 512, behind the footer copy and inside the file.",
        "data_offset",
        16,
        data_offset,
    )


def checksum_findings(data: bytes, base: int) -> Iterator[Finding]:
    """Cookie and checksum (`E_HEADER_CHECKSUM`): nothing of the header counts without them."""
    if data[:8] != COOKIE:
        yield Finding(
            Level.ERROR,
            "E_HEADER_CHECKSUM",
            "There is no dynamic disk header where the footer says: its cookie is wrong.",
            "cookie",
            base,
            data[:8].hex(),
        )
    elif not checksum_is_right(data):
        yield Finding(
            Level.ERROR,
            "E_HEADER_CHECKSUM",
            "The checksum of the dynamic disk header is wrong.",
            "checksum",
            base + _CHECKSUM_OFFSET,
            int.from_bytes(data[_CHECKSUM_OFFSET : _CHECKSUM_OFFSET + 4]),
        )


_NO_RESERVED = bytes(OFFSETS["reserved2"][1])

# Findings with these codes make the disk unreadable.
FATAL = frozenset(
    {"E_HEADER_CHECKSUM", "E_VERSION", "E_TABLE_OFFSET", "E_BAT_SIZE", "E_BLOCK_SIZE"}
)


def field_findings(
    header: DynamicHeader, base: int, current_size: int, data_end: int, end_is_footer: bool
) -> Iterator[Finding]:
    """Everything that the header's own numbers can break (parent fields apart).

    base is the header's offset; data_end is where data has to end in the file.
    The codes in FATAL make the disk unreadable.
    """

    def finding(level: Level, code: str, message: str, name: str, value: int) -> Finding:
        return Finding(level, code, message, name, base + OFFSETS[name][0], value)

    if header.header_version != VERSION:
        version = header.header_version
        yield finding(
            Level.ERROR,
            "E_VERSION",
            f"The dynamic disk header has version {version >> 16}.{version & 0xFFFF}; "
            "only 1.0 is known.",
            "header_version",
            version,
        )
    if header.data_offset != NO_NEXT_HEADER:
        yield finding(
            Level.WARNING,
            "W_NEXT_HEADER",
            "The header names another header behind it; nothing is known to be there.",
            "data_offset",
            header.data_offset,
        )
    block = header.block_size
    block_is_legal = SECTOR_BYTES <= block <= MAX_BLOCK_BYTES and block & (block - 1) == 0
    if not block_is_legal:
        yield finding(
            Level.ERROR,
            "E_BLOCK_SIZE",
            f"The block size is {block:,} bytes; it must be a power of two from 512 bytes "
            "to 256 MiB.",
            "block_size",
            block,
        )
    elif block not in USUAL_BLOCK_BYTES:
        yield finding(
            Level.WARNING,
            "W_BLOCK_SIZE",
            f"The block size is {block:,} bytes; Microsoft's tools write 2 MiB or 512 KiB.",
            "block_size",
            block,
        )
    table = header.table_offset
    overlaps_header = base - 4 < table < base + HEADER_BYTES
    table_is_legal = (
        table % SECTOR_BYTES == 0
        and table >= SECTOR_BYTES
        and table < data_end
        and not overlaps_header
    )
    if not table_is_legal:
        yield finding(
            Level.ERROR,
            "E_TABLE_OFFSET",
            f"The block allocation table is said to lie at byte {table:,}, where none can be: it "
            "must be a multiple of 512, behind the header and inside the file.",
            "table_offset",
            table,
        )
    if block_is_legal and table_is_legal:
        yield from _table_findings(header, base, current_size, data_end, end_is_footer)
    if header.reserved1 or header.reserved2 != _NO_RESERVED:
        yield finding(
            Level.WARNING,
            "W_RESERVED",
            "Reserved bytes of the dynamic disk header are not zero; 7-Zip refuses that.",
            "reserved1" if header.reserved1 else "reserved2",
            header.reserved1,
        )


def _table_findings(
    header: DynamicHeader, base: int, current_size: int, data_end: int, end_is_footer: bool
) -> Iterator[Finding]:
    entries = header.max_table_entries
    needed = -(-current_size // header.block_size)
    offset = base + OFFSETS["max_table_entries"][0]
    if entries < needed:
        yield Finding(
            Level.ERROR,
            "E_BAT_SIZE",
            f"The block allocation table has {entries:,} entries, but a disk of this size "
            f"needs {needed:,}.",
            "max_table_entries",
            offset,
            entries,
        )
        return
    if needed > MAX_ENTRIES:
        yield Finding(
            Level.ERROR,
            "E_BAT_SIZE",
            f"The block allocation table has {entries:,} entries, more than any known tool "
            f"writes (at most {MAX_ENTRIES:,} are read here).",
            "max_table_entries",
            offset,
            entries,
        )
        return
    if header.table_offset + entries * 4 > data_end:
        if entries == needed and not end_is_footer:
            room = max(0, (data_end - header.table_offset) // 4)
            lost = room * (header.block_size // SECTOR_BYTES)
            yield Finding(
                Level.ERROR,
                "E_TRUNCATED",
                "The file ends inside the block allocation table; the first lost sector "
                f"(LBA) is {lost:,}.",
                "max_table_entries",
                data_end,
                lost,
            )
            return
        yield Finding(
            Level.ERROR,
            "E_BAT_SIZE",
            f"The block allocation table of {entries:,} entries does not fit into the file.",
            "max_table_entries",
            offset,
            entries,
        )
    elif entries > needed:
        yield Finding(
            Level.NOTE if entries == needed + 1 else Level.WARNING,
            "N_BAT_SIZE" if entries == needed + 1 else "W_BAT_SIZE",
            f"The block allocation table has {entries:,} entries, {needed:,} are needed; "
            "7-Zip refuses that.",
            "max_table_entries",
            offset,
            entries,
        )
