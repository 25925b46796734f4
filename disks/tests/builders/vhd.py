"""Small VHDs written byte by byte, without the engine: the side that tests compare it with.

Every builder returns a `Built` whose `model` is the virtual content as it must read. Damage is
an argument: `build_dynamic(folder, "a.vhd", footer_checksum="wrong")`.
"""

from __future__ import annotations

import os
import struct
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from disks.tests.builders.common import MIB, SECTOR, Built, Content, runs, up, write_sparse

ABSENT = 0xFFFFFFFF
MOST_DENSE_BYTES = 64 * MIB

FOOTER = ">8sIIQI4sI4sQQHBBII16sBB426s"
FOOTER_FIELDS = [
    "cookie",
    "features",
    "version",
    "data_offset",
    "timestamp",
    "creator",
    "creator_version",
    "creator_os",
    "original_size",
    "current_size",
    "cylinders",
    "heads",
    "sectors_per_track",
    "disk_type",
    "checksum",
    "unique_id",
    "saved_state",
    "hidden",
    "reserved",
]
HEADER = ">8sQQIIII16sII512s192s256s"
HEADER_FIELDS = [
    "cookie",
    "data_offset",
    "table_offset",
    "version",
    "max_table_entries",
    "block_size",
    "checksum",
    "parent_unique_id",
    "parent_timestamp",
    "reserved1",
    "parent_name",
    "locators",
    "reserved2",
]
CREATED = 655_731_475  # 2020-10-11, as seconds since 2000


@dataclass
class BuiltVhd(Built):
    header_offset: int = SECTOR
    footer_offset: int = 0
    locators: dict[str, tuple[int, int]] = field(default_factory=dict)  # code -> offset, length

    def patch_header(self, **fields: Any) -> None:
        """Change header fields, with a right checksum unless `checksum` is among them."""
        with self.path.open("r+b") as file:
            file.seek(self.header_offset)
            old = dict(zip(HEADER_FIELDS, struct.unpack(HEADER, file.read(1024)), strict=True))
            file.seek(self.header_offset)
            file.write(pack_header(old, fields))


def checksum(data: bytes) -> int:
    return ~sum(data) & 0xFFFFFFFF


def _pack(layout: str, names: list[str], fields: Mapping[str, Any], changes: Mapping[str, Any],
          state: str) -> bytes:  # fmt: skip
    values = {**fields, **changes}
    if "checksum" not in changes:
        values["checksum"] = 0
        right = checksum(struct.pack(layout, *(values[name] for name in names)))
        values["checksum"] = right if state == "right" else right ^ 0x55
    return struct.pack(layout, *(values[name] for name in names))


def pack_footer(
    fields: Mapping[str, Any], changes: Mapping[str, Any] | None = None, state: str = "right"
) -> bytes:
    return _pack(FOOTER, FOOTER_FIELDS, fields, changes or {}, state)


def pack_header(
    fields: Mapping[str, Any], changes: Mapping[str, Any] | None = None, state: str = "right"
) -> bytes:
    return _pack(HEADER, HEADER_FIELDS, fields, changes or {}, state)


def chs(size: int) -> tuple[int, int, int]:
    """Geometry by the specification's recipe."""
    total = min(size // SECTOR, 65535 * 16 * 255)
    if total >= 65535 * 16 * 63:
        return total // 255 // 16, 16, 255
    heads, cylinders_heads = max(4, (total // 17 + 1023) // 1024), total // 17
    track = 17
    if cylinders_heads >= heads * 1024 or heads > 16:
        track, heads, cylinders_heads = 31, 16, total // 31
    if cylinders_heads >= heads * 1024:
        track, heads, cylinders_heads = 63, 16, total // 63
    return cylinders_heads // heads, heads, track


def footer_fields(size: int, disk_type: int, unique_id: bytes, data_offset: int) -> dict[str, Any]:
    cylinders, heads, track = chs(size)
    return {
        "cookie": b"conectix", "features": 2, "version": 0x00010000, "data_offset": data_offset,
        "timestamp": CREATED, "creator": b"win ", "creator_version": 0x000A0000,
        "creator_os": b"Wi2k", "original_size": size, "current_size": size,
        "cylinders": cylinders, "heads": heads, "sectors_per_track": track,
        "disk_type": disk_type, "unique_id": unique_id, "saved_state": 0, "hidden": 0,
        "reserved": bytes(426),
    }  # fmt: skip


def _end(footer: bytes, length: int, end_footer: str, append: bytes) -> bytes:
    """What follows the data: the footer, or what is there in place of it, and more bytes."""
    kept = {"present": footer[:length], "zeroed": bytes(length)}
    return kept.get(end_footer, b"") + append


def _write(path: Path, pieces: list[tuple[int, bytes]], cut_to: int | None) -> None:
    """Pieces that do not overlap. No holes, but in a file of which hardly anything is written."""
    end = max(offset + len(data) for offset, data in pieces)
    if end > MOST_DENSE_BYTES:
        write_sparse(path, pieces, end)
    else:
        whole = bytearray(end)
        for offset, data in pieces:
            whole[offset : offset + len(data)] = data
        path.write_bytes(whole)
    if cut_to is not None:
        os.truncate(path, cut_to)


def build_fixed(
    folder: Path,
    name: str,
    *,
    size: int = MIB,
    content: Content = (),
    unique_id: bytes | None = None,
    footer: Mapping[str, Any] | None = None,
    footer_checksum: str = "right",
    footer_length: int = 512,
    end_footer: str = "present",
    append: bytes = b"",
    cut_to: int | None = None,
) -> BuiltVhd:
    """A fixed disk. footer: fields that differ from the usual ones (checksum stays right)."""
    unique_id = unique_id or uuid.uuid4().bytes
    model = bytearray(size)
    for sector, data in content:
        model[sector * SECTOR : sector * SECTOR + len(data)] = data
    fields = footer_fields(size, 2, unique_id, 0xFFFFFFFFFFFFFFFF)
    foot = pack_footer(fields, footer, footer_checksum)
    path = folder / name
    end = _end(foot, footer_length, end_footer, append)
    _write(path, [(0, bytes(model)), (size, end)], cut_to)
    return BuiltVhd(path, unique_id, model, footer_offset=size)


def _encode(code: str, value: str | bytes) -> bytes:
    if isinstance(value, bytes):
        return value
    if code in ("W2ru", "W2ku"):
        return value.encode("utf-16-le", "surrogatepass")
    return value.encode()


def build_dynamic(folder: Path, name: str, **options: Any) -> BuiltVhd:
    """A dynamic disk; options as in _build_blocks()."""
    return _build_blocks(folder, name, disk_type=3, **options)


def build_differencing(
    folder: Path,
    name: str,
    parent: Built,
    *,
    locators: Mapping[str, str | bytes] | list[tuple[str, str | bytes]] | None = None,
    parent_name: str | None = None,
    **options: Any,
) -> BuiltVhd:
    """A differencing disk as Windows makes one.

    Absolute parent name, W2ku first, W2ru second. locators: code to text or raw bytes.
    """
    absolute = f"C:\\VMs\\{parent.path.name}"
    if locators is None:
        locators = {"W2ku": absolute, "W2ru": f".\\{parent.path.name}"}
    options.setdefault("size", len(parent.model))
    options.setdefault("layout", "windows")
    options.setdefault("block_size", parent.block_size or 2 * MIB)
    base = bytearray(parent.model[: options["size"]])
    base += bytes(options["size"] - len(base))
    return _build_blocks(
        folder,
        name,
        disk_type=4,
        base=base,
        parent_id=parent.unique_id,
        parent_name=absolute if parent_name is None else parent_name,
        locators=list(locators.items()) if isinstance(locators, Mapping) else locators,
        **options,
    )


def _build_blocks(
    folder: Path,
    name: str,
    *,
    disk_type: int,
    size: int = 4 * MIB,
    block_size: int = 2 * MIB,
    content: Content = (),
    base: bytearray | None = None,
    bitmaps: str = "exact",
    order: str = "ascending",
    layout: str = "packed",
    unique_id: bytes | None = None,
    parent_id: bytes = bytes(16),
    parent_name: str = "",
    parent_timestamp: int = 0,
    locators: list[tuple[str, str | bytes]] | None = None,
    locator_fields: Mapping[str, Mapping[str, int]] | None = None,
    extra_entries: int = 0,
    allocate: Iterable[int] = (),
    bat: Mapping[int, int] | None = None,
    bitmap_of: Mapping[int, bytes] | None = None,
    footer: Mapping[str, Any] | None = None,
    footer_checksum: str = "right",
    footer_length: int = 512,
    front: Mapping[str, Any] | None = None,
    front_checksum: str | None = None,
    front_footer: str = "present",
    header: Mapping[str, Any] | None = None,
    header_checksum: str = "right",
    end_footer: str = "present",
    before_footer: bytes = b"",
    append: bytes = b"",
    cut_to: int | None = None,
    space_unit: str = "bytes",
) -> BuiltVhd:
    """content: (first sector, data) pieces; later ones win.

    bitmaps      exact: written sectors only; full: whole blocks (filled from base)
    order        ascending or descending places of the blocks in the file
    layout       packed: no gaps; windows: BAT at 8 KiB, data on 4 KiB borders
    allocate     blocks that are allocated though nothing is written to them
    bat, bitmap_of, footer, front, header, locator_fields: values put in instead of the right ones
    """
    unique_id = unique_id or uuid.uuid4().bytes
    model = bytearray(base) if base is not None else bytearray(size)
    written: dict[int, bytearray] = {block: bytearray(block_size // SECTOR) for block in allocate}
    for sector, data in content:
        model[sector * SECTOR : sector * SECTOR + len(data)] = data
        for one in range(sector, sector + len(data) // SECTOR):
            block, inside = divmod(one, block_size // SECTOR)
            written.setdefault(block, bytearray(block_size // SECTOR))[inside] = 1
    entries = -(-size // block_size) + extra_entries
    table_bytes = up(entries * 4, SECTOR)
    strings = [(code, _encode(code, value)) for code, value in locators or []]
    places: list[tuple[int, int]] = []  # offset, space
    if layout == "windows" and disk_type == 4:
        table = 8192
        after = up(table + table_bytes, 4096)
        for index, (_, data) in enumerate(strings):
            if index == 0 and len(data) <= 4096:
                places.append((4096, 4096))
            else:
                places.append((after, 65536 if index == 1 else 4096))
                after += places[-1][1]
        end = after
    else:
        table = SECTOR + 1024
        end = table + table_bytes
        for _, data in strings:
            space = max(SECTOR, up(len(data), SECTOR))
            places.append((end, space))
            end += space
    bitmap_bytes = up(max(1, -(-block_size // SECTOR // 8)), SECTOR)
    aligned = layout == "windows" and block_size >= 4096
    blocks: dict[int, int] = {}
    at = end
    for block in sorted(written, reverse=order == "descending"):
        if aligned:
            at = up(at + bitmap_bytes, 4096) - bitmap_bytes
        blocks[block] = at
        at += bitmap_bytes + block_size
    if aligned:
        at = up(at + bitmap_bytes, 4096) - bitmap_bytes
    pieces: list[tuple[int, bytes]] = []
    for block, offset in blocks.items():
        sectors = written[block]
        start = block * block_size
        inside = min(block_size, size - start)
        if bitmaps == "full":
            sectors[: inside // SECTOR] = b"\1" * (inside // SECTOR)
        bits = bytearray(bitmap_bytes)
        for first, last in runs(sectors):
            for index in range(first, last):
                bits[index >> 3] |= 0x80 >> (index & 7)
            data = model[start + first * SECTOR : start + last * SECTOR]
            pieces.append((offset + bitmap_bytes + first * SECTOR, data))
        other = (bitmap_of or {}).get(block, b"")
        bits[: len(other)] = other
        pieces.append((offset, bytes(bits)))
    numbers = [blocks.get(block, ABSENT * SECTOR) // SECTOR for block in range(entries)]
    for block, sector in (bat or {}).items():
        numbers[block] = sector
    pieces.append((table, struct.pack(f">{entries}I", *numbers).ljust(table_bytes, b"\xff")))
    packed = b""
    for (code, data), (offset, space) in zip(strings, places, strict=True):
        pieces.append((offset, data))
        unit = space if space_unit == "bytes" else space // SECTOR
        row = {"space": unit, "length": len(data), "reserved": 0, "offset": offset}
        row |= (locator_fields or {}).get(code, {})
        packed += struct.pack(">4sIIIQ", code.encode("latin-1").ljust(4, b"\0"), row["space"],
                              row["length"], row["reserved"], row["offset"])  # fmt: skip
    name_field = parent_name.encode("utf-16-be", "surrogatepass").ljust(512, b"\0")[:512]
    fields = {
        "cookie": b"cxsparse", "data_offset": 0xFFFFFFFFFFFFFFFF, "table_offset": table,
        "version": 0x00010000, "max_table_entries": entries, "block_size": block_size,
        "parent_unique_id": parent_id, "parent_timestamp": parent_timestamp, "reserved1": 0,
        "parent_name": name_field, "locators": packed.ljust(192, b"\0"), "reserved2": bytes(256),
    }  # fmt: skip
    pieces.append((SECTOR, pack_header(fields, header, header_checksum)))
    foot = footer_fields(size, disk_type, unique_id, SECTOR)
    if front_footer == "present":
        state = front_checksum or footer_checksum
        pieces.append((0, pack_footer(foot, {**(footer or {}), **(front or {})}, state)))
    footer_offset = at + len(before_footer)
    whole_footer = pack_footer(foot, footer, footer_checksum)
    end = before_footer + _end(whole_footer, footer_length, end_footer, append)
    path = folder / name
    _write(path, [*pieces, (at, end)], cut_to)
    ends = [(offset, len(data)) for (_, data), (offset, _) in zip(strings, places, strict=True)]
    return BuiltVhd(
        path, unique_id, model, block_size, table, blocks,
        footer_offset=footer_offset,
        locators=dict(zip((code for code, _ in strings), ends, strict=True)),
    )  # fmt: skip
