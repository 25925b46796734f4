"""The region table: where the BAT and the metadata lie. Two copies, the first sound one counts."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.findings import Finding, Level
from disks.engine.units import KIB, MIB
from disks.engine.vhdx import checksum
from disks.engine.vhdx.guid import guid_bytes, guid_text
from disks.engine.vhdx.headers import HEADER_SECTION_BYTES

TABLE_BYTES = 64 * KIB
OFFSETS = (192 * KIB, 256 * KIB)
MAX_ENTRIES = 2047
BAT = guid_bytes("2dc27766-f623-4200-9d64-115e9bfd4a08")
METADATA = guid_bytes("8b7ca206-4790-4b9a-b8fe-575f050f886e")
_NAMES = {BAT: "block allocation table", METADATA: "metadata"}

_SIGNATURE = b"regi"
_HEADER = struct.Struct("<4sIII")
_ENTRY = struct.Struct("<16sQII")


class Region(NamedTuple):
    """One entry as stored."""

    guid: bytes
    offset: int
    length: int
    required: int

    @property
    def end(self) -> int:
        return self.offset + self.length

    @property
    def name(self) -> str:
        return _NAMES.get(self.guid, guid_text(self.guid))


class TableCopy(NamedTuple):
    number: int
    offset: int
    raw: bytes
    is_right: bool


class RegionTable(NamedTuple):
    """copies: both as they are; chosen: the one that counts; regions: its entries."""

    copies: tuple[TableCopy, TableCopy]
    chosen: TableCopy
    regions: tuple[Region, ...]

    @property
    def bat(self) -> Region:
        return next(one for one in self.regions if one.guid == BAT)

    @property
    def metadata(self) -> Region:
        return next(one for one in self.regions if one.guid == METADATA)


def pack(regions: Sequence[Region]) -> bytes:
    """64 KiB with a right checksum."""
    data = _HEADER.pack(_SIGNATURE, 0, len(regions), 0)
    data += b"".join(_ENTRY.pack(*region) for region in regions)
    return checksum.sealed(data.ljust(TABLE_BYTES, b"\0"))


def entries(raw: bytes) -> tuple[Region, ...]:
    """The entries that a table claims, as far as they have room in it; judges nothing."""
    if len(raw) < TABLE_BYTES:
        return ()
    count = min(_HEADER.unpack_from(raw)[2], MAX_ENTRIES)
    return tuple(
        Region._make(_ENTRY.unpack_from(raw, _HEADER.size + index * _ENTRY.size))
        for index in range(count)
    )


def read_copies(file: ImageFile) -> tuple[TableCopy, TableCopy]:
    """Both tables as they are; raises only what reading raises."""

    def one(number: int) -> TableCopy:
        offset = OFFSETS[number - 1]
        raw = file.read_at(offset, max(0, min(TABLE_BYTES, file.size_bytes - offset)))
        sound = len(raw) == TABLE_BYTES and raw[:4] == _SIGNATURE and checksum.is_right(raw)
        return TableCopy(number, offset, raw, sound)

    return one(1), one(2)


def read_table(file: ImageFile, log: tuple[int, int]) -> RegionTable:
    """The regions by the first sound copy. log: (start, end) of the log, which none may touch.

    Raises `E_VHDX_REGION` where no copy is sound or what it says cannot be.
    Source: [MS-VHDX] 2.2.3.
    """
    table = read_unjudged(file)
    for problem in problems(file, table, log):
        raise problem
    return table


def read_unjudged(file: ImageFile) -> RegionTable:
    """The first sound copy's entries as they are. Raises `E_VHDX_REGION` without a sound copy."""
    first, second = copies = read_copies(file)
    if not first.is_right and not second.is_right:
        raise ImageError(
            "E_VHDX_REGION",
            "Neither copy of the region table is sound: nothing says where the disk's blocks are.",
            file=file.path,
            field="checksum",
            offset=first.offset,
            value=first.raw[:8].hex(),
        )
    chosen = first if first.is_right else second
    return RegionTable(copies, chosen, entries(chosen.raw))


def problems(file: ImageFile, table: RegionTable, log: tuple[int, int]) -> Iterator[ImageError]:
    """All that keeps a sound table from being believed (`E_VHDX_REGION`)."""
    base = table.chosen.offset

    def wrong(offset: int, name: str, value: int | str, why: str) -> ImageError:
        return ImageError(
            "E_VHDX_REGION",
            f"The region table cannot be right: {why}.",
            file=file.path,
            field=name,
            offset=offset,
            value=value,
        )

    count = _HEADER.unpack_from(table.chosen.raw)[2]
    if count > MAX_ENTRIES:
        why = f"it claims {count:,} entries; 2,047 have room"
        yield wrong(base + 8, "entry_count", count, why)
        return
    seen: set[bytes] = set()
    taken = [(*log, "the log")] if log[1] > log[0] else []
    for index, region in enumerate(table.regions):
        at = base + _HEADER.size + index * _ENTRY.size
        guid, name = guid_text(region.guid), f"the {region.name} region"
        if region.guid in seen:
            yield wrong(at, "guid", guid, f"{name} is there twice")
        seen.add(region.guid)
        if region.guid not in _NAMES and region.required & 1:
            yield wrong(at, "guid", guid, f"{name} is required to read the disk, and not known")
        if region.offset < HEADER_SECTION_BYTES or region.offset % MIB:
            why = f"{name} cannot lie at byte {region.offset:,}"
            yield wrong(at + 16, "file_offset", region.offset, why)
        if region.length == 0 or region.length % MIB:
            why = f"{name} cannot have {region.length:,} bytes"
            yield wrong(at + 24, "length", region.length, why)
        if region.end > file.size_bytes and region.guid in _NAMES:
            why = f"{name} reaches past the end of the file"
            yield wrong(at + 16, "file_offset", region.offset, why)
        taken.append((region.offset, region.end, name))
    for known, name in _NAMES.items():
        if known not in seen:
            yield wrong(base, "guid", guid_text(known), f"it names no {name} region")
    taken.sort()
    for (_, end, name), (start, _, other) in itertools.pairwise(taken):
        if start < end:
            why = f"{name} and {other} share bytes from {start:,} on"
            yield wrong(base, "file_offset", start, why)


def findings(table: RegionTable) -> Iterator[Finding]:
    """What does not keep the disk from being read."""
    for copy in table.copies:
        if not copy.is_right:
            yield Finding(
                Level.WARNING,
                "W_REGION_COPY",
                f"Region table {copy.number} is damaged; the other one is sound.",
                "checksum",
                copy.offset,
                copy.raw[:8].hex(),
            )
    first, second = table.copies
    if first.is_right and second.is_right and first.raw != second.raw:
        yield Finding(
            Level.WARNING,
            "W_REGIONS_DIFFER",
            "The two copies of the region table differ; the first one is used, as Windows does.",
            "region_table",
            second.offset,
        )
    for region in table.regions:
        if region.guid in _NAMES and not region.required & 1:
            yield Finding(
                Level.NOTE,
                "N_REGION_REQUIRED",
                f"The {region.name} region is not marked as required; QEMU writes it so.",
                "required",
                table.chosen.offset,
            )
        elif region.guid not in _NAMES:
            yield Finding(
                Level.WARNING,
                "W_REGION_UNKNOWN",
                f"The region {region.name} is not known; it is left as it is.",
                "guid",
                table.chosen.offset,
                region.name,
            )
