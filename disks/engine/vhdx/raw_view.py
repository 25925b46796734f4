"""Headers, region tables, metadata and BAT as labelled bytes, also of damaged files."""

from __future__ import annotations

from collections.abc import Iterator

from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.images import RawField, RawRegion
from disks.engine.vhdx import bat, headers, metadata, parent_locator, regions
from disks.engine.vhdx.guid import guid_text
from disks.engine.vhdx.regions import Region

MAX_REGION_BYTES = 4096
MOST_ENTRIES = 64  # of the BAT, with a label each; those in use first of all
MOST_ABSENT_ENTRIES = 8
_ENTRY_BYTES = 32


def header_bytes(file: ImageFile) -> bytes:
    """Headers, region tables and metadata items: what a change of metadata changes.

    Whatever of it can be read; not the BAT, which grows with every new block.
    """
    pieces = []
    try:
        pieces += [copy.raw for copy in headers.read_copies(file)]
        copies = regions.read_copies(file)
        pieces += [copy.raw for copy in copies]
        for region in _regions_of(copies):
            if region.guid == regions.METADATA:
                items, raw = metadata.read_items(file, region)
                pieces.append(raw)
                pieces += [
                    file.read_at(region.offset + item.offset, min(item.length, MAX_REGION_BYTES))
                    for item in items
                    if item.length
                ]
    except (ImageError, OverflowError):
        pass  # what lies outside of the file is none
    return b"".join(pieces)


def _all(file: ImageFile) -> Iterator[RawRegion]:
    identifier = file.read_at(0, min(file.size_bytes, 8 + headers.CREATOR_BYTES))
    creator = identifier[8:].decode("utf-16-le", "replace").partition("\0")[0]
    yield RawRegion(
        "File type identifier",
        0,
        identifier,
        [
            RawField("signature", 0, 8, identifier[:8].decode("ascii", "replace")),
            RawField("creator", 8, headers.CREATOR_BYTES, creator),
        ],
    )
    for copy in headers.read_copies(file):
        fields = [
            RawField(name, copy.offset + at, length, _value(name, copy.raw[at : at + length]))
            for name, (at, length) in headers.FIELDS.items()
        ]
        yield RawRegion(f"Header {copy.number}", copy.offset, copy.raw[:512], fields)
    copies = regions.read_copies(file)
    for table in copies:
        yield RawRegion(
            f"Region table {table.number}",
            table.offset,
            table.raw[:512],
            list(_region_fields(table)),
        )
    for region in _regions_of(copies):
        if region.guid == regions.METADATA:
            yield from _metadata(file, region)
        elif region.guid == regions.BAT:
            yield _table(file, region)


def raw_regions(file: ImageFile) -> list[RawRegion]:
    """Whatever of the structures can be read; never raises for damage."""
    found: list[RawRegion] = []
    try:
        for region in _all(file):
            found.append(region)
    except (ImageError, OverflowError):
        pass
    return found


def _value(name: str, data: bytes) -> str:
    if name == "signature":
        return data.decode("ascii", "replace")
    if name.endswith("guid"):
        return guid_text(data) if len(data) == 16 else ""
    number = int.from_bytes(data, "little")
    return f"0x{number:08x}" if name == "checksum" else f"{number:,}"


def _regions_of(copies: tuple[regions.TableCopy, regions.TableCopy]) -> list[Region]:
    """The entries of the first sound copy, not judged."""
    for copy in copies:
        if copy.is_right:
            return list(regions.entries(copy.raw))
    return []


def _region_fields(table: regions.TableCopy) -> Iterator[RawField]:
    for index, region in enumerate(regions.entries(table.raw)):
        at = 16 + index * _ENTRY_BYTES
        if at + _ENTRY_BYTES > 512:
            return
        text = f"{region.offset:,}, {region.length:,} bytes"
        yield RawField(region.name, table.offset + at, _ENTRY_BYTES, text)


def _metadata(file: ImageFile, region: Region) -> Iterator[RawRegion]:
    items, raw = metadata.read_items(file, region)
    fields = [
        RawField(
            item.name,
            metadata.entry_offset(region, index),
            _ENTRY_BYTES,
            f"{item.length:,} bytes at {region.offset + item.offset:,}",
        )
        for index, item in enumerate(items)
    ]
    yield RawRegion("Metadata table", region.offset, raw[:MAX_REGION_BYTES], fields)
    for item in items:
        if item.guid not in metadata.KNOWN or not item.length:
            continue
        offset = region.offset + item.offset
        data = file.read_at(offset, min(item.length, MAX_REGION_BYTES))
        name = item.name[0].upper() + item.name[1:]
        yield RawRegion(name, offset, data, list(_item_fields(item, offset, data)))


def _item_fields(item: metadata.Item, offset: int, data: bytes) -> Iterator[RawField]:
    if item.guid == metadata.PARENT_LOCATOR:
        for pair in parent_locator.parse(offset, data).pairs:
            yield RawField(pair.key, offset + pair.at, len(pair.raw), pair.value or "")
    elif item.guid == metadata.VIRTUAL_DISK_ID:
        yield RawField("guid", offset, 16, guid_text(data[:16]))
    elif item.guid == metadata.FILE_PARAMETERS:
        flags = int.from_bytes(data[4:8], "little")
        words = ["leave blocks allocated"] * (flags & 1) + ["has parent"] * (flags >> 1 & 1)
        yield RawField("block_size", offset, 4, f"{int.from_bytes(data[:4], 'little'):,}")
        yield RawField("flags", offset + 4, 4, ", ".join(words) or "none")
    else:
        yield RawField("value", offset, len(data), f"{int.from_bytes(data, 'little'):,}")


def _table(file: ImageFile, region: Region) -> RawRegion:
    data = file.read_at(region.offset, min(MAX_REGION_BYTES, region.length))
    fields: list[RawField] = []
    for index, entry in enumerate(bat.to_entries(data)):
        if not entry and index >= MOST_ABSENT_ENTRIES:
            continue
        if len(fields) == MOST_ENTRIES:
            break
        state = bat.STATE_NAMES.get(bat.state_of(entry), f"state {bat.state_of(entry)}")
        place = bat.offset_of(entry)
        text = f"{state}, byte {place:,}" if place else state
        fields.append(RawField(f"entry {index}", region.offset + index * 8, 8, text))
    return RawRegion("Block allocation table", region.offset, data, fields)
