"""Small VHDX files written byte by byte, without the engine: the side that tests compare it with.

They look as Windows makes them (measured on disks of Windows 10): log at 1 MiB, metadata at 2,
BAT at 3, then blocks; the same order of items and of locator keys. Files are sparse: only what
is not zero is written. Damage is an argument or a patch of the `BuiltVhdx`.
"""

from __future__ import annotations

import os
import struct
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from disks.tests.builders import vhdx_parts as parts
from disks.tests.builders.common import (
    MIB,
    SECTOR,
    Built,
    Content,
    Model,
    new_model,
    resized,
    up,
    write_sparse,
)
from disks.tests.builders.vhdx_blocks import Blocks, entry_pieces
from disks.tests.builders.vhdx_log import PAGE, Entry, Page, Zeros, pack_log

LOG_AT, METADATA_AT, BAT_AT = MIB, 2 * MIB, 3 * MIB
CREATOR = "Microsoft Windows 10.0.19041.0"
Pairs = Sequence[tuple[str | bytes, str | bytes]]


@dataclass
class BuiltVhdx(Built):
    """unique_id is the DataWriteGuid as stored; table_offset is the BAT."""

    logical_sector: int = SECTOR
    log_offset: int = LOG_AT
    log_bytes: int = MIB
    metadata_offset: int = METADATA_AT
    disk_id: bytes = bytes(16)
    bitmaps: dict[int, int] = field(default_factory=dict)  # chunk -> offset of its sector bitmap
    items: dict[str, tuple[int, int]] = field(default_factory=dict)  # name -> offset, length
    rows: dict[str, int] = field(default_factory=dict)  # name -> offset of its table entry
    strings: dict[str, tuple[int, int]] = field(default_factory=dict)  # locator key -> value

    @property
    def identity(self) -> str:
        return parts.text_of(self.unique_id)

    @property
    def per_chunk(self) -> int:
        """Payload blocks of a chunk, between two entries of sector bitmaps."""
        return 2**23 * self.logical_sector // self.block_size

    def entry_at(self, block: int) -> int:
        """File offset of a payload block's BAT entry."""
        return self.table_offset + 8 * (block + block // self.per_chunk)

    def bitmap_entry_at(self, chunk: int) -> int:
        """File offset of a sector bitmap's BAT entry."""
        return self.table_offset + 8 * (self.per_chunk + chunk * (self.per_chunk + 1))

    def header(self, which: int) -> dict[str, Any]:
        return parts.parse_header(self.read(parts.HEADER_AT[which], PAGE))

    @property
    def current(self) -> int:
        """Number of the header with the higher sequence number."""
        return max((1, 2), key=lambda which: self.header(which)["sequence_number"])

    def patch_header(self, which: int, *, wrong: bool = False, **fields: Any) -> None:
        """Change header fields, with a right CRC unless wrong or `checksum` among them."""
        old = self.header(which) | {"checksum": 0}
        self.patch(parts.HEADER_AT[which], parts.pack_header(old | fields, wrong=wrong))

    def patch_table(self, which: int, offset: int, data: bytes, *, wrong: bool = False) -> None:
        """Change bytes of a region table copy; the CRC is put right, or wrong."""
        at = parts.REGION_AT[which]
        table = bytearray(self.read(at, parts.REGION_BYTES))
        table[offset : offset + len(data)] = data
        self.patch(at, parts.sealed(bytes(table), wrong=wrong))

    def patch_entry(self, block: int, state: int, offset: int = 0) -> None:
        """Another BAT entry for a payload block; offset in bytes, of whole MiB or not."""
        self.patch(self.entry_at(block), struct.pack("<Q", state | offset))

    def patch_row(self, item: str, **fields: int | bytes) -> None:
        """Change fields of a metadata table entry: item_id, offset, length, flags, reserved."""
        names = ("item_id", "offset", "length", "flags", "reserved")
        old = struct.unpack(parts.METADATA_ENTRY, self.read(self.rows[item], 32))
        new = dict(zip(names, old, strict=True)) | fields
        self.patch(self.rows[item], struct.pack(parts.METADATA_ENTRY, *new.values()))

    def write_log(
        self,
        entries: Sequence[Entry],
        *,
        at: int = 0,
        first_sequence: int = 1,
        guid: bytes | None = None,
        append: bool = False,
    ) -> bytes:
        """Put entries into the log and make the headers say that it is in use.

        at: offset in the log. append: keep what the log already holds. Returns the log GUID.
        """
        guid = guid or uuid.uuid4().bytes_le
        size = self.path.stat().st_size
        if not append:
            self.patch(self.log_offset, bytes(self.log_bytes))
        pieces = pack_log(
            entries, log_bytes=self.log_bytes, guid=guid, file_size=size, at=at,
            first_sequence=first_sequence,
        )  # fmt: skip
        for offset, data in pieces:
            self.patch(self.log_offset + offset, data)
        for which in (1, 2):
            self.patch_header(which, log_guid=guid)
        return guid

    def move_into_log(self, *offsets: int, **options: Any) -> bytes:
        """Take pages of the file out of their places and into the log, each in its own entry.

        A page of zeros goes as a zero descriptor. The places get stale bytes: who reads the
        file without its log reads wrong. Options as in write_log().
        """
        entries = []
        for offset in offsets:
            data = self.read(offset, PAGE)
            change = Page(offset, data) if any(data) else Zeros(offset, PAGE)
            entries.append(Entry([change]))
            self.patch(offset, bytes(PAGE) if any(data) else b"\xdd" * PAGE)
        return self.write_log(entries, **options)


def build_fixed_vhdx(folder: Path, name: str, **options: Any) -> BuiltVhdx:
    """A fixed disk: every block is there. Options as in _build()."""
    return _build(folder, name, kind="fixed", **options)


def build_dynamic_vhdx(folder: Path, name: str, **options: Any) -> BuiltVhdx:
    """A dynamic disk: blocks that were written to are there. Options as in _build()."""
    return _build(folder, name, kind="dynamic", **options)


def build_differencing_vhdx(
    folder: Path, name: str, parent: Built, *, locator: Pairs | None = None, **options: Any
) -> BuiltVhdx:
    """A differencing disk as Windows makes one, with its five locator keys in their order.

    locator: other pairs of key and value, as text or raw bytes.
    """
    options.setdefault("size", len(parent.model))
    options.setdefault("block_size", parent.block_size or 2 * MIB)
    options.setdefault("disk_id", getattr(parent, "disk_id", None))
    if isinstance(parent, BuiltVhdx):
        options.setdefault("logical_sector", parent.logical_sector)
    return _build(
        folder,
        name,
        kind="differencing",
        base=resized(parent.model, options["size"]),
        locator=windows_locator(parent) if locator is None else locator,
        **options,
    )


def windows_locator(parent: Built, folder: str = "C:\\VMs") -> list[tuple[str, str]]:
    """What Windows 10 writes, for a parent beside the child."""
    name = parent.path.name
    volume = "\\\\?\\Volume{9cdf8dfa-0000-0000-0000-501f00000000}"
    return [
        ("parent_linkage", f"{{{parent.identity}}}"),
        ("absolute_win32_path", f"{folder}\\{name}"),
        ("relative_path", f".\\{name}"),
        ("volume_path", f"{volume}{folder[2:]}\\{name}"),
        ("parent_linkage2", f"{{{uuid.UUID(int=0)}}}"),
    ]


def _build(
    folder: Path,
    name: str,
    *,
    kind: str,
    size: int = 4 * MIB,
    block_size: int = 2 * MIB,
    logical_sector: int = SECTOR,
    physical_sector: int = 4096,
    content: Content = (),
    base: Model | None = None,
    bitmaps: str = "exact",
    order: str = "ascending",
    allocate: Iterable[int] = (),
    states: Mapping[int, int] | None = None,
    bitmap_of: Mapping[int, bytes] | None = None,
    unique_id: bytes | None = None,
    file_write_guid: bytes | None = None,
    disk_id: bytes | None = None,
    creator: str | bytes = CREATOR,
    sequences: tuple[int, int] = (10, 11),
    headers: Mapping[int, Mapping[str, Any]] | None = None,
    damaged: Collection[str] = (),
    regions: Sequence[tuple[bytes, int, int, int]] = (),
    region_fields: Mapping[str, Mapping[str, int | bytes]] | None = None,
    second_regions: Sequence[tuple[bytes, int, int, int]] | None = None,
    region_count: int | None = None,
    items: Mapping[str, bytes | None] | None = None,
    extra_items: Sequence[tuple[bytes, int, bytes]] = (),
    metadata_count: int | None = None,
    locator: Pairs | None = None,
    locator_options: Mapping[str, Any] | None = None,
    bat: Mapping[int, int] | None = None,
    bat_bytes: int | None = None,
    log_bytes: int = MIB,
    append: int = 0,
    cut_to: int | None = None,
) -> BuiltVhdx:
    """content: (first sector of 512 bytes, data) pieces; later ones win.

    bitmaps       of a differencing disk. exact: state 7, written sectors only; full: state 7,
                  all bits set (filled from base); none: state 6, filled from base
    order         ascending or descending places of the blocks in the file
    allocate      blocks that are there though nothing is written to them
    states        states of payload blocks that differ; 1 to 3 read as zeros, 0 as the base, and
                  neither has a place in the file
    bitmap_of     chunk to raw bytes, put over the beginning of its sector bitmap
    unique_id     the DataWriteGuid as stored
    headers       header number to fields that differ
    damaged       structures with a wrong CRC: header1, header2, region1, region2
    regions       more entries (GUID, offset, length, required) of the region table
    region_fields bat or metadata to fields of its entry that differ (id, offset, length, required)
    second_regions  all entries of the second copy, where it shall differ
    items         raw bytes in place of an item's, None: without it
    extra_items   more items (GUID, flags, bytes)
    bat           BAT index to a raw entry
    append        zero bytes (a hole) behind the last block
    """
    unique_id = unique_id or uuid.uuid4().bytes_le
    disk_id = disk_id or uuid.uuid4().bytes_le
    differencing = kind == "differencing"
    model = base if base is not None else new_model(size)
    blocks = Blocks(model, size, block_size, logical_sector, differencing)
    everything = range(blocks.total) if kind == "fixed" else ()
    blocks.fill(content, [*everything, *allocate], states or {}, bitmaps)

    log_at = LOG_AT
    metadata_at = log_at + up(max(log_bytes, 1), MIB)
    bat_at = metadata_at + MIB
    table_bytes = up(blocks.entries * 8, MIB) if bat_bytes is None else bat_bytes
    end = blocks.place(bat_at + table_bytes, order)
    pieces = blocks.pieces(bitmap_of or {})
    pieces += entry_pieces(bat_at, blocks.table() | dict(bat or {}))

    said = creator if isinstance(creator, bytes) else creator.encode("utf-16-le")
    pieces.append((0, b"vhdxfile" + said.ljust(512, b"\0")))
    common = {
        "file_write_guid": file_write_guid or uuid.uuid4().bytes_le,
        "data_write_guid": unique_id,
        "log_guid": bytes(16),
        "log_version": 0,
        "version": 1,
        "log_length": log_bytes,
        "log_offset": log_at,
    }
    for which, sequence in zip((1, 2), sequences, strict=True):
        fields = {**common, "sequence_number": sequence, **(headers or {}).get(which, {})}
        packed = parts.pack_header(fields, wrong=f"header{which}" in damaged)
        pieces.append((parts.HEADER_AT[which], packed))
    known = {
        "bat": {"id": parts.BAT, "offset": bat_at, "length": table_bytes, "required": 1},
        "metadata": {"id": parts.METADATA, "offset": metadata_at, "length": MIB, "required": 1},
    }
    for key, row in known.items():
        row |= dict((region_fields or {}).get(key, {}))
    first = [*(tuple(row.values()) for row in known.values()), *regions]
    second = first if second_regions is None else second_regions
    for which, listed in zip((1, 2), (first, second), strict=True):
        packed = parts.pack_regions(listed, count=region_count, wrong=f"region{which}" in damaged)
        pieces.append((parts.REGION_AT[which], packed))

    leave = parts.LEAVE_BLOCK_ALLOCATED if kind == "fixed" else 0
    values: dict[str, bytes | None] = {
        "file_parameters": struct.pack(
            "<II", block_size, parts.HAS_PARENT if differencing else leave
        ),
        "virtual_disk_size": struct.pack("<Q", size),
        "logical_sector_size": struct.pack("<I", logical_sector),
        "physical_sector_size": struct.pack("<I", physical_sector),
        "virtual_disk_id": disk_id,
        "parent_locator": None,
    }
    strings = {}
    if locator is not None:
        packed = parts.pack_locator(locator, **(locator_options or {}))
        values["parent_locator"] = packed
        strings = parts.locator_places(packed)
    values |= dict(items or {})
    places, rows, metadata = _metadata(values, extra_items, metadata_count)
    pieces += [(metadata_at + offset, data) for offset, data in metadata]
    path = folder / name
    write_sparse(path, pieces, end + append)
    if cut_to is not None:
        os.truncate(path, cut_to)
    locator_at = metadata_at + places.get("parent_locator", (0, 0))[0]
    return BuiltVhdx(
        path,
        unique_id,
        model,
        block_size,
        bat_at,
        blocks.offsets,
        logical_sector=logical_sector,
        log_offset=log_at,
        log_bytes=log_bytes,
        metadata_offset=metadata_at,
        disk_id=disk_id,
        bitmaps=blocks.bitmaps,
        items={name: (metadata_at + offset, size) for name, (offset, size) in places.items()},
        rows={name: metadata_at + offset for name, offset in rows.items()},
        strings={key: (locator_at + offset, size) for key, (offset, size) in strings.items()},
    )


def _metadata(
    values: Mapping[str, bytes | None],
    extra: Sequence[tuple[bytes, int, bytes]],
    count: int | None,
) -> tuple[dict[str, tuple[int, int]], dict[str, int], list[tuple[int, bytes]]]:
    """Places of the items and of their rows in the region, and its bytes as pieces."""
    rows = b""
    places: dict[str, tuple[int, int]] = {}
    row_at: dict[str, int] = {}
    pieces = []
    listed = [(key, parts.ITEMS[key], parts.ITEM_FLAGS[key], data) for key, data in values.items()]
    listed += [(f"extra{index}", *one) for index, one in enumerate(extra)]
    at = parts.FIRST_ITEM
    total = 0
    for key, item, flags, data in listed:
        if data is None:
            continue
        places[key] = (at if data else 0, len(data))
        row_at[key] = 32 + len(rows)
        rows += struct.pack(parts.METADATA_ENTRY, item, places[key][0], len(data), flags, 0)
        pieces.append((at, data))
        at = up(at + len(data), 4)
        total += 1
    head = struct.pack(
        parts.METADATA_HEADER, b"metadata", 0, total if count is None else count, bytes(20)
    )
    return places, row_at, [(0, head + rows), *pieces]
