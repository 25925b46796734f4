"""Log entries of a VHDX: 4 KiB pages and runs of zeros on their way to other places."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from disks.tests.builders.common import up
from disks.tests.builders.vhdx_parts import sealed

PAGE = 4096
ENTRY_HEADER = "<4sIIIQII16sQQ"
ENTRY_FIELDS = [
    "signature",
    "checksum",
    "entry_length",
    "tail",
    "sequence_number",
    "descriptor_count",
    "reserved",
    "log_guid",
    "flushed_file_offset",
    "last_file_offset",
]


@dataclass
class Page:
    """New content of 4 KiB at a file offset; row: descriptor fields that differ."""

    offset: int
    data: bytes
    row: dict[str, Any] = field(default_factory=dict)
    sector: dict[str, Any] = field(default_factory=dict)  # the same for its data sector


@dataclass
class Zeros:
    """length zero bytes at a file offset; row: descriptor fields that differ."""

    offset: int
    length: int
    row: dict[str, Any] = field(default_factory=dict)


@dataclass
class Entry:
    """One entry. Fields that are None follow from the entries around it.

    fields   header fields that differ, also `descriptor_count` and `entry_length`
    damage   "": none; "crc": wrong; "torn": its second half never reached the disk;
             "data": a data sector of another entry (CRC right)
    """

    changes: list[Page | Zeros]
    sequence: int | None = None
    tail: int | None = None
    guid: bytes | None = None
    flushed: int | None = None
    last: int | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    damage: str = ""


def entry_bytes(changes: Sequence[Page | Zeros]) -> int:
    """Length: descriptor sectors (126 in the first, 128 in later ones), then data sectors."""
    sectors = -(-(64 + 32 * len(changes)) // PAGE)
    return (sectors + sum(isinstance(one, Page) for one in changes)) * PAGE


def pack_entry(
    entry: Entry, *, sequence: int, tail: int, guid: bytes, flushed: int, last: int
) -> bytes:
    """One entry as it lies in the log, with its CRC."""
    sequence = entry.sequence if entry.sequence is not None else sequence
    descriptors = b""
    sectors = b""
    for change in entry.changes:
        if isinstance(change, Zeros):
            row = {"signature": b"zero", "reserved": 0, "length": change.length}
            layout = "<4sIQQQ"
        else:
            row = {
                "signature": b"desc",
                "trailing": change.data[-4:],
                "leading": change.data[:8],
            }
            layout = "<4s4s8sQQ"
            part = {
                "signature": b"data",
                "high": sequence >> 32,
                "low": sequence & 0xFFFFFFFF,
            } | change.sector
            sectors += part["signature"] + struct.pack("<I", part["high"])
            sectors += change.data[8:-4] + struct.pack("<I", part["low"])
        row |= {"file_offset": change.offset, "sequence_number": sequence} | change.row
        descriptors += struct.pack(layout, *row.values())
    body = up(64 + len(descriptors), PAGE) - 64
    fields = {
        "signature": b"loge",
        "checksum": 0,
        "entry_length": 64 + body + len(sectors),
        "tail": tail if entry.tail is None else entry.tail,
        "sequence_number": sequence,
        "descriptor_count": len(entry.changes),
        "reserved": 0,
        "log_guid": guid if entry.guid is None else entry.guid,
        "flushed_file_offset": flushed if entry.flushed is None else entry.flushed,
        "last_file_offset": last if entry.last is None else entry.last,
    } | entry.fields
    head = struct.pack(ENTRY_HEADER, *(fields[name] for name in ENTRY_FIELDS))
    whole = head + descriptors.ljust(body, b"\0") + sectors
    if entry.damage == "data":
        whole = whole[:-4] + struct.pack("<I", (sequence - 1) & 0xFFFFFFFF)
    whole = sealed(whole, wrong=entry.damage == "crc")
    if entry.damage == "torn":
        whole = whole[: len(whole) // 2 // PAGE * PAGE].ljust(len(whole), b"\0")
    return whole


def pack_log(
    entries: Sequence[Entry],
    *,
    log_bytes: int,
    guid: bytes,
    file_size: int,
    at: int = 0,
    first_sequence: int = 1,
) -> list[tuple[int, bytes]]:
    """Entries one behind the other from offset `at` of the log, as (log offset, bytes) pieces.

    An entry that reaches the log's end goes on at its beginning. Each one's tail is the first
    entry: all of them are still needed.
    """
    pieces: list[tuple[int, bytes]] = []
    tail, position, sequence = at, at, first_sequence
    for entry in entries:
        sequence = sequence if entry.sequence is None else entry.sequence
        data = pack_entry(
            entry, sequence=sequence, tail=tail, guid=guid, flushed=file_size, last=file_size
        )
        room = log_bytes - position
        pieces.append((position, data[:room]))
        if len(data) > room:
            pieces.append((0, data[room:]))
        position = (position + len(data)) % log_bytes
        sequence += 1
    return pieces
