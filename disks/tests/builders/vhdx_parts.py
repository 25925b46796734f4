"""The structures of a VHDX as bytes, written from the specification and without the engine.

All integers are little-endian; GUIDs are stored with their first three groups swapped.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from disks.tests.builders.common import MIB

KIB = 1024
HEADER_AT = {1: 64 * KIB, 2: 128 * KIB}
REGION_AT = {1: 192 * KIB, 2: 256 * KIB}
REGION_BYTES = 64 * KIB
FIRST_ITEM = 64 * KIB  # metadata items start behind their table

HEADER = "<4sIQ16s16s16sHHIQ"
HEADER_FIELDS = [
    "signature",
    "checksum",
    "sequence_number",
    "file_write_guid",
    "data_write_guid",
    "log_guid",
    "log_version",
    "version",
    "log_length",
    "log_offset",
]
REGION_HEADER = "<4sIII"  # signature, checksum, entry count, reserved
REGION_ENTRY = "<16sQII"  # GUID, file offset, length, required
METADATA_HEADER = "<8sHH20s"  # signature, reserved, entry count, reserved
METADATA_ENTRY = "<16sIIII"  # item id, offset, length, flags, reserved
LOCATOR_HEADER = "<16sHH"  # type, reserved, key-value count
LOCATOR_ENTRY = "<IIHH"  # key offset, value offset, key length, value length

IS_USER, IS_VIRTUAL_DISK, IS_REQUIRED = 1, 2, 4
LEAVE_BLOCK_ALLOCATED, HAS_PARENT = 1, 2

NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED = 0, 1, 2, 3
FULLY_PRESENT, PARTIALLY_PRESENT = 6, 7


def guid(text: str) -> bytes:
    return uuid.UUID(text).bytes_le


def text_of(stored: bytes) -> str:
    return str(uuid.UUID(bytes_le=stored))


BAT = guid("2DC27766-F623-4200-9D64-115E9BFD4A08")
METADATA = guid("8B7CA206-4790-4B9A-B8FE-575F050F886E")
WINDOWS_LOCATOR = guid("B04AEFB7-D19E-4A81-B789-25B8E9445913")
ITEMS = {
    "file_parameters": guid("CAA16737-FA36-4D43-B3B6-33F0AA44E76B"),
    "virtual_disk_size": guid("2FA54224-CD1B-4876-B211-5DBED83BF4B8"),
    "logical_sector_size": guid("8141BF1D-A96F-4709-BA47-F233A8FAAB5F"),
    "physical_sector_size": guid("CDA348C7-445D-4471-9CC9-E9885251C556"),
    "virtual_disk_id": guid("BECA12AB-B2E6-4523-93EF-C309E000C746"),
    "parent_locator": guid("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C"),
}
"""In the order in which Windows stores them."""

ITEM_FLAGS = {
    name: IS_REQUIRED if name in ("file_parameters", "parent_locator") else 6 for name in ITEMS
}


def _table() -> list[int]:
    rows = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        rows.append(value)
    return rows


_CRC = _table()


@lru_cache(maxsize=64)
def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), byte by byte."""
    crc = 0xFFFFFFFF
    table = _CRC
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def sealed(data: bytes, field: int = 4, *, wrong: bool = False) -> bytes:
    """With the CRC of the whole in its place (or a wrong one)."""
    blank = data[:field] + bytes(4) + data[field + 4 :]
    crc = crc32c(blank) ^ (0x55 if wrong else 0)
    return data[:field] + struct.pack("<I", crc) + data[field + 4 :]


def pack_header(fields: Mapping[str, Any], *, wrong: bool = False) -> bytes:
    """4 KiB; with the right CRC unless `checksum` is among the fields or wrong is said."""
    values = {"signature": b"head", **fields}
    stored = values.setdefault("checksum", 0)
    data = struct.pack(HEADER, *(values[name] for name in HEADER_FIELDS)).ljust(4096, b"\0")
    return data if stored else sealed(data, wrong=wrong)


def parse_header(data: bytes) -> dict[str, Any]:
    return dict(zip(HEADER_FIELDS, struct.unpack(HEADER, data[:80]), strict=True))


def pack_regions(
    entries: Sequence[tuple[bytes, int, int, int]],
    *,
    signature: bytes = b"regi",
    count: int | None = None,
    wrong: bool = False,
) -> bytes:
    """A region table of 64 KiB; count: what it says instead of the number of entries."""
    data = struct.pack(REGION_HEADER, signature, 0, len(entries) if count is None else count, 0)
    data += b"".join(struct.pack(REGION_ENTRY, *entry) for entry in entries[:2047])
    return sealed(data.ljust(REGION_BYTES, b"\0"), wrong=wrong)


def pack_locator(
    pairs: Sequence[tuple[str | bytes, str | bytes]],
    *,
    kind: bytes = WINDOWS_LOCATOR,
    count: int | None = None,
    rows: Mapping[int, Mapping[str, int]] | None = None,
) -> bytes:
    """A parent locator item; keys and values lie behind the entries in turn, as Windows does it.

    rows: fields of single entries that differ (key_offset, value_offset, key_length,
    value_length).
    """
    strings = [(_utf16(key), _utf16(value)) for key, value in pairs]
    at = 20 + 12 * len(strings)
    entries, data = b"", b""
    for index, (key, value) in enumerate(strings):
        row = {
            "key_offset": at + len(data),
            "value_offset": at + len(data) + len(key),
            "key_length": len(key),
            "value_length": len(value),
        } | dict((rows or {}).get(index, {}))
        entries += struct.pack(LOCATOR_ENTRY, *row.values())
        data += key + value
    head = struct.pack(LOCATOR_HEADER, kind, 0, len(pairs) if count is None else count)
    return head + entries + data


def locator_places(item: bytes) -> dict[str, tuple[int, int]]:
    """Key to offset (in the item) and length of its value, of an item that pack_locator made."""
    found = {}
    count = struct.unpack_from("<H", item, 18)[0]
    for index in range(min(count, (len(item) - 20) // 12)):
        row = struct.unpack_from(LOCATOR_ENTRY, item, 20 + 12 * index)
        key = item[row[0] : row[0] + row[2]].decode("utf-16-le", "replace")
        found[key] = (row[1], row[3])
    return found


def _utf16(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-16-le", "surrogatepass")


def bat_value(state: int, offset: int) -> int:
    if offset % MIB:
        raise ValueError(f"{offset} is no whole number of MiB")
    return state | offset
