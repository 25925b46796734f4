"""The metadata region: a table of items, and the items that every disk has."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.findings import Finding, Level
from disks.engine.units import KIB, MIB
from disks.engine.vhdx.guid import guid_bytes, guid_text
from disks.engine.vhdx.regions import Region

TABLE_BYTES = 64 * KIB
MAX_ITEMS = 2047
MAX_USER_ITEMS = 1024
MAX_ITEM_BYTES = 1 * MIB
MAX_VIRTUAL_BYTES = 64 * 1024 * 1024 * MIB
MIN_BLOCK_BYTES = 1 * MIB
MAX_BLOCK_BYTES = 256 * MIB
SECTOR_SIZES = (512, 4096)

FILE_PARAMETERS = guid_bytes("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
VIRTUAL_DISK_SIZE = guid_bytes("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
VIRTUAL_DISK_ID = guid_bytes("beca12ab-b2e6-4523-93ef-c309e000c746")
LOGICAL_SECTOR_SIZE = guid_bytes("8141bf1d-a96f-4709-ba47-f233a8faab5f")
PHYSICAL_SECTOR_SIZE = guid_bytes("cda348c7-445d-4471-9cc9-e9885251c556")
PARENT_LOCATOR = guid_bytes("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
_INCOMPLETE = guid_bytes("71cc85f0-1b69-4e28-9558-c3bf83ae75d3")

IS_USER, IS_VIRTUAL_DISK, IS_REQUIRED = 1, 2, 4
LEAVE_BLOCKS_ALLOCATED, HAS_PARENT = 1, 2

_SIGNATURE = b"metadata"
_HEADER = struct.Struct("<8sHH20s")
ENTRY = struct.Struct("<16sIIII")


def too_large(size_bytes: int) -> ImageError:
    """A virtual size that no VHDX can have."""
    return ImageError(
        "E_TOO_LARGE",
        f"A VHDX holds at most 64 TiB ({MAX_VIRTUAL_BYTES:,} bytes); {size_bytes:,} bytes are "
        "more.",
        field="virtual_disk_size",
        value=size_bytes,
    )


class Known(NamedTuple):
    """length: exact bytes, None for any; flags as Windows writes them."""

    name: str
    length: int | None
    flags: int


KNOWN = {
    FILE_PARAMETERS: Known("file parameters", 8, IS_REQUIRED),
    VIRTUAL_DISK_SIZE: Known("virtual disk size", 8, IS_REQUIRED | IS_VIRTUAL_DISK),
    VIRTUAL_DISK_ID: Known("virtual disk id", 16, IS_REQUIRED | IS_VIRTUAL_DISK),
    LOGICAL_SECTOR_SIZE: Known("logical sector size", 4, IS_REQUIRED | IS_VIRTUAL_DISK),
    PHYSICAL_SECTOR_SIZE: Known("physical sector size", 4, IS_REQUIRED | IS_VIRTUAL_DISK),
    PARENT_LOCATOR: Known("parent locator", None, IS_REQUIRED),
}
_MANDATORY = [guid for guid in KNOWN if guid != PARENT_LOCATOR]


class Item(NamedTuple):
    """A table entry as stored. offset: from the region's start."""

    guid: bytes
    offset: int
    length: int
    flags: int
    reserved: int

    @property
    def name(self) -> str:
        known = KNOWN.get(self.guid)
        return known.name if known is not None else guid_text(self.guid)

    @property
    def end(self) -> int:
        return self.offset + self.length


class Metadata(NamedTuple):
    """What the items say.

    items        every entry of the table, in order
    table_raw    the used part of the table, for comparing
    locator      (offset in the file, bytes) of the parent locator item; None without one
    """

    region: Region
    items: tuple[Item, ...]
    table_raw: bytes
    block_bytes: int
    leaves_blocks_allocated: bool
    has_parent: bool
    virtual_bytes: int
    virtual_disk_id: bytes
    logical_sector_bytes: int
    physical_sector_bytes: int
    locator: tuple[int, bytes] | None

    def entry_offset(self, guid: bytes) -> int:
        """Where the table entry of an item lies in the file."""
        return entry_offset(self.region, self._index(guid))

    def value_offset(self, guid: bytes) -> int:
        """Where the bytes of an item lie in the file."""
        return self.region.offset + self.item(guid).offset

    def item(self, guid: bytes) -> Item:
        """The system's item of that name."""
        return self.items[self._index(guid)]

    def _index(self, guid: bytes) -> int:
        """Of the system's item: users may have one of the same name."""
        return next(
            index
            for index, item in enumerate(self.items)
            if item.guid == guid and not item.flags & IS_USER
        )


def entry_offset(region: Region, index: int) -> int:
    return region.offset + _HEADER.size + index * ENTRY.size


def pack_table(items: Sequence[Item]) -> bytes:
    """The table's used bytes, not padded."""
    data = _HEADER.pack(_SIGNATURE, 0, len(items), bytes(20))
    return data + b"".join(ENTRY.pack(*item) for item in items)


def read_items(file: ImageFile, region: Region) -> tuple[tuple[Item, ...], bytes]:
    """The entries of the table, all within bounds, and the table's bytes.

    Raises `E_VHDX_METADATA`. Source: [MS-VHDX] 2.6.1.
    """
    head = file.read_at(region.offset, _HEADER.size)
    signature, _, count, _ = _HEADER.unpack(head)
    if signature != _SIGNATURE:
        raise _wrong(file, region.offset, "signature", signature.hex(), "its signature is gone")
    if count > MAX_ITEMS:
        raise _wrong(
            file,
            region.offset + 10,
            "entry_count",
            count,
            f"it claims {count:,} items; 2,047 have room",
        )
    raw = head + file.read_at(region.offset + _HEADER.size, count * ENTRY.size)
    items = tuple(Item._make(row) for row in ENTRY.iter_unpack(raw[_HEADER.size :]))
    of_users = sum(item.flags & IS_USER for item in items)
    if of_users > MAX_USER_ITEMS:
        why = f"it has {of_users:,} items of users; 1,024 are allowed"
        raise _wrong(file, region.offset + 10, "entry_count", of_users, why)
    seen = set()
    ranges = []
    for index, item in enumerate(items):
        at = entry_offset(region, index)
        key = (item.guid, item.flags & IS_USER)
        if key in seen:
            raise _wrong(file, at, "item_id", item.name, f"the item {item.name} is there twice")
        seen.add(key)
        if item.length == 0 and item.offset == 0:
            continue  # present, and empty
        if (
            item.length > MAX_ITEM_BYTES
            or item.length == 0
            or item.offset < TABLE_BYTES
            or item.end > region.length
        ):
            raise _wrong(
                file,
                at + 16,
                "offset",
                item.offset,
                f"the item {item.name} ({item.length:,} bytes at {item.offset:,}) does not lie "
                "inside of it",
            )
        ranges.append((item.offset, item.end, item.name))
    ranges.sort()
    for (_, end, name), (start, _, other) in itertools.pairwise(ranges):
        if start < end:
            raise _wrong(
                file,
                region.offset + start,
                "offset",
                start,
                f"the items {name} and {other} overlap",
            )
    return items, raw


def read_metadata(file: ImageFile, region: Region) -> Metadata:
    """All known items, judged.

    Raises `E_VHDX_METADATA`, `E_SIZE`, `E_BLOCK_SIZE`, `E_TYPE_CONFLICT`.
    Source: [MS-VHDX] 2.6.2.
    """
    found = read_unjudged(file, region)
    for problem in problems(file, found):
        raise problem
    return found


def read_unjudged(file: ImageFile, region: Region) -> Metadata:
    """All known items as they are. Raises `E_VHDX_METADATA` where one is not to be found."""
    items, raw = read_items(file, region)
    system: dict[bytes, tuple[int, Item]] = {}
    for index, item in enumerate(items):
        at = entry_offset(region, index)
        if item.flags & IS_USER:
            continue
        if item.guid == _INCOMPLETE:
            raise _wrong(
                file,
                at,
                "item_id",
                item.name,
                "the disk was never finished: whoever made it stopped halfway",
            )
        if item.guid not in KNOWN and item.flags & IS_REQUIRED:
            raise _wrong(
                file,
                at,
                "item_id",
                item.name,
                f"the item {item.name} is required to read the disk, and not known",
            )
        system[item.guid] = (at, item)
    values: dict[bytes, tuple[int, bytes]] = {}
    for guid in _MANDATORY:
        if guid not in system:
            raise _wrong(
                file,
                region.offset,
                "item_id",
                guid_text(guid),
                f"the item {KNOWN[guid].name} is missing",
            )
        at, item = system[guid]
        if item.length != KNOWN[guid].length:
            raise _wrong(
                file,
                at + 20,
                "length",
                item.length,
                f"the item {item.name} has {item.length:,} bytes",
            )
        offset = region.offset + item.offset
        values[guid] = (offset, file.read_at(offset, item.length))
    locator = None
    if PARENT_LOCATOR in system:
        _, item = system[PARENT_LOCATOR]
        offset = region.offset + item.offset
        locator = (offset, file.read_at(offset, item.length) if item.length else b"")
    return _values(region, items, raw, values, locator)


def _values(
    region: Region,
    items: tuple[Item, ...],
    raw: bytes,
    values: dict[bytes, tuple[int, bytes]],
    locator: tuple[int, bytes] | None,
) -> Metadata:
    block_bytes, flags = struct.unpack("<II", values[FILE_PARAMETERS][1])
    numbers = {guid: int.from_bytes(data, "little") for guid, (_, data) in values.items()}
    return Metadata(
        region,
        items,
        raw,
        block_bytes,
        bool(flags & LEAVE_BLOCKS_ALLOCATED),
        bool(flags & HAS_PARENT),
        numbers[VIRTUAL_DISK_SIZE],
        values[VIRTUAL_DISK_ID][1],
        numbers[LOGICAL_SECTOR_SIZE],
        numbers[PHYSICAL_SECTOR_SIZE],
        locator,
    )


def problems(file: ImageFile, found: Metadata) -> Iterator[ImageError]:
    """All values that cannot be: `E_BLOCK_SIZE`, `E_SIZE`, `E_TYPE_CONFLICT`."""

    def wrong(code: str, item: bytes, name: str, value: int, message: str) -> ImageError:
        at = found.value_offset(item) + (4 if name == "has_parent" else 0)
        return ImageError(code, message, file=file.path, field=name, offset=at, value=value)

    logical = found.logical_sector_bytes
    for name, size, guid in (
        ("logical_sector_size", logical, LOGICAL_SECTOR_SIZE),
        ("physical_sector_size", found.physical_sector_bytes, PHYSICAL_SECTOR_SIZE),
    ):
        if size not in SECTOR_SIZES:
            text = f"The {name.replace('_', ' ')} is {size:,} bytes; 512 and 4,096 are possible."
            yield wrong("E_BLOCK_SIZE", guid, name, size, text)
    block = found.block_bytes
    if not MIN_BLOCK_BYTES <= block <= MAX_BLOCK_BYTES or block & (block - 1):
        text = f"The block size is {block:,} bytes; it must be a power of two from 1 to 256 MiB."
        yield wrong("E_BLOCK_SIZE", FILE_PARAMETERS, "block_size", block, text)
    size = found.virtual_bytes
    unit = logical if logical in SECTOR_SIZES else 512
    if not 0 < size <= MAX_VIRTUAL_BYTES or size % unit:
        text = (
            f"The virtual size is {size:,} bytes; it must be a multiple of {unit} from {unit} "
            "bytes to 64 TiB."
        )
        yield wrong("E_SIZE", VIRTUAL_DISK_SIZE, "virtual_disk_size", size, text)
    if found.has_parent != (found.locator is not None):
        says = "says that there is a parent, but there is no parent locator"
        if not found.has_parent:
            says = "says that there is no parent, but there is a parent locator"
        text = f"The file parameters item {says}."
        yield wrong("E_TYPE_CONFLICT", FILE_PARAMETERS, "has_parent", int(found.has_parent), text)


def findings(found: Metadata) -> Iterator[Finding]:
    """Items that are not known, which stay as they are."""
    for index, item in enumerate(found.items):
        if item.guid not in KNOWN or item.flags & IS_USER:
            yield Finding(
                Level.NOTE,
                "N_METADATA_ITEM",
                f"The metadata item {item.name} is not known; it is kept as it is.",
                "item_id",
                entry_offset(found.region, index),
                item.name,
            )
    if not any(found.virtual_disk_id):
        yield Finding(
            Level.WARNING,
            "W_VIRTUAL_DISK_ID",
            "The disk has no virtual disk id.",
            "virtual_disk_id",
            found.region.offset,
        )


def _wrong(file: ImageFile, offset: int, name: str, value: int | str, why: str) -> ImageError:
    return ImageError(
        "E_VHDX_METADATA",
        f"The metadata cannot be right: {why}.",
        file=file.path,
        field=name,
        offset=offset,
        value=value,
    )
