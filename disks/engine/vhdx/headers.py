"""The two headers: which one is current, what it says, and how the next one looks.

A header is never changed where it lies: the next one, with a higher sequence number, goes over
the copy that is not current. So a torn write always leaves the one before it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.findings import Finding, Level
from disks.engine.units import KIB, MIB
from disks.engine.vhdx import checksum
from disks.engine.vhdx.guid import NIL, guid_text

SIGNATURE = b"vhdxfile"
CREATOR_BYTES = 512
HEADER_BYTES = 4 * KIB
OFFSETS = (64 * KIB, 128 * KIB)
HEADER_SECTION_BYTES = 1 * MIB  # identifier, headers and region tables; everything else is behind
VERSION = 1
LOG_VERSION = 0
MAX_SEQUENCE = 0xFFFFFFFFFFFFFFFF

_LAYOUT = struct.Struct("<4sIQ16s16s16sHHIQ")
_COOKIE = b"head"

FIELDS = {
    "signature": (0, 4),
    "checksum": (4, 4),
    "sequence_number": (8, 8),
    "file_write_guid": (16, 16),
    "data_write_guid": (32, 16),
    "log_guid": (48, 16),
    "log_version": (64, 2),
    "version": (66, 2),
    "log_length": (68, 4),
    "log_offset": (72, 8),
}


class Header(NamedTuple):
    """The fields as stored; GUIDs in stored form."""

    signature: bytes
    checksum: int
    sequence_number: int
    file_write_guid: bytes
    data_write_guid: bytes
    log_guid: bytes
    log_version: int
    version: int
    log_length: int
    log_offset: int

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """Cut 4 KiB into fields; judges nothing."""
        return cls._make(_LAYOUT.unpack_from(data))

    def pack(self) -> bytes:
        """4 KiB with a fresh checksum."""
        data = _LAYOUT.pack(*self._replace(signature=_COOKIE, checksum=0))
        return checksum.sealed(data.ljust(HEADER_BYTES, b"\0"))

    @property
    def has_log(self) -> bool:
        return self.log_guid != NIL


class HeaderCopy(NamedTuple):
    """One of the two. header: None unless signature and checksum are right."""

    number: int  # 1 or 2
    offset: int
    raw: bytes
    header: Header | None

    @property
    def problem(self) -> str:
        return "its signature is gone" if self.raw[:4] != _COOKIE else "its checksum is wrong"


class Headers(NamedTuple):
    """Both copies, and the one that counts."""

    copies: tuple[HeaderCopy, HeaderCopy]
    current: HeaderCopy

    @property
    def header(self) -> Header:
        assert self.current.header is not None  # noqa: S101 - chosen for having one
        return self.current.header

    @property
    def other(self) -> HeaderCopy:
        """The copy that the next header goes over."""
        return self.copies[2 - self.current.number]

    def log_range(self, problem: ImageError | None) -> tuple[int, int]:
        """Start and end of the log in the file; nothing where its place is a problem."""
        if problem is not None or not self.header.log_length:
            return 0, 0
        return self.header.log_offset, self.header.log_offset + self.header.log_length


def _read_copy(file: ImageFile, number: int) -> HeaderCopy:
    offset = OFFSETS[number - 1]
    raw = file.read_at(offset, max(0, min(HEADER_BYTES, file.size_bytes - offset)))
    sound = len(raw) == HEADER_BYTES and raw[:4] == _COOKIE and checksum.is_right(raw)
    return HeaderCopy(number, offset, raw, Header.parse(raw) if sound else None)


def read_copies(file: ImageFile) -> tuple[HeaderCopy, HeaderCopy]:
    """Both headers as they are; raises only what reading raises."""
    return _read_copy(file, 1), _read_copy(file, 2)


def read_headers(file: ImageFile) -> Headers:
    """The sound header with the higher sequence number, and the other one.

    Raises `E_VHDX_HEADER` without a sound one, and for two different ones that claim the same
    place in the sequence; `E_VERSION` for a version that is not known.
    Source: [MS-VHDX] 2.2.2; equal headers are accepted, disk2vhd writes them.
    """
    first, second = copies = read_copies(file)
    if first.header is None and second.header is None:
        raise ImageError(
            "E_VHDX_HEADER",
            f"Neither header is sound: of the first {first.problem}, of the second "
            f"{second.problem}.",
            file=file.path,
            field="checksum",
            offset=first.offset,
            value=first.raw[:8].hex(),
        )
    if first.header is None or second.header is None:
        current = second if first.header is None else first
    elif first.header.sequence_number == second.header.sequence_number:
        if first.raw != second.raw:
            raise ImageError(
                "E_VHDX_HEADER",
                f"Both headers have the sequence number {first.header.sequence_number:,} and "
                "say different things: it is not clear which one is right.",
                file=file.path,
                field="sequence_number",
                offset=second.offset + FIELDS["sequence_number"][0],
                value=first.header.sequence_number,
            )
        current = first
    else:
        newer = first.header.sequence_number > second.header.sequence_number
        current = first if newer else second
    headers = Headers(copies, current)
    if headers.header.version != VERSION:
        raise ImageError(
            "E_VERSION",
            f"The header has version {headers.header.version}; only version 1 is known.",
            file=file.path,
            field="version",
            offset=current.offset + FIELDS["version"][0],
            value=headers.header.version,
        )
    return headers


def count_problem(headers: Headers) -> ImageError | None:
    """Why no further header can be written (`E_VHDX_HEADER`); None if it can."""
    number = headers.header.sequence_number
    if number <= MAX_SEQUENCE - 8:
        return None
    return ImageError(
        "E_VHDX_HEADER",
        f"The sequence number of the headers, {number:,}, cannot be counted on: no further "
        "change could be told from the last one. The disk is only read.",
        field="sequence_number",
        offset=headers.current.offset + FIELDS["sequence_number"][0],
        value=number,
    )


def findings(headers: Headers) -> Iterator[Finding]:
    """What the pair of headers shows; nothing of it keeps the disk from being read."""
    header, current = headers.header, headers.current
    for copy in headers.copies:
        if copy.header is None:
            yield Finding(
                Level.WARNING,
                "W_HEADER_COPY",
                f"Header {copy.number} cannot be used: {copy.problem}. The other one is sound.",
                "checksum",
                copy.offset,
                copy.raw[:8].hex(),
            )
    problem = count_problem(headers)
    if problem is not None:
        yield Finding.from_error(problem)
    other = headers.other.header
    if other is not None and other.sequence_number == header.sequence_number:
        yield Finding(
            Level.NOTE,
            "N_HEADERS_EQUAL",
            "Both headers have the same sequence number and the same content, as disk2vhd "
            "writes them.",
            "sequence_number",
            current.offset + FIELDS["sequence_number"][0],
            header.sequence_number,
        )
    if (
        other is not None
        and other.data_write_guid != header.data_write_guid
        and abs(other.sequence_number - header.sequence_number) == 1
    ):
        yield Finding(
            Level.NOTE,
            "N_HEADERS_DIFFER",
            "The two headers name different DataWriteGuids, as QEMU writes them; the one of the "
            "current header is the disk's identity.",
            "data_write_guid",
            headers.other.offset + FIELDS["data_write_guid"][0],
            guid_text(other.data_write_guid),
        )
    if header.data_write_guid == NIL:
        yield Finding(
            Level.ERROR,
            "E_IDENTITY",
            "The disk has no DataWriteGuid; it can be read but not be a parent.",
            "data_write_guid",
            current.offset + FIELDS["data_write_guid"][0],
            guid_text(header.data_write_guid),
        )


def log_problem(headers: Headers, file_bytes: int) -> ImageError | None:
    """Why the log's place in the file cannot be (`E_VHDX_LOG`); None if it can."""
    header, base = headers.header, headers.current.offset

    def wrong(name: str, why: str, value: int) -> ImageError:
        return ImageError(
            "E_VHDX_LOG",
            f"The log cannot be used: {why}.",
            field=name,
            offset=base + FIELDS[name][0],
            value=value,
        )

    offset, length = header.log_offset, header.log_length
    if length == 0 and not header.has_log:
        return None  # a disk without a log is legal until something is to be written through it
    if header.has_log and header.log_version != LOG_VERSION:
        return wrong(
            "log_version", f"its version is {header.log_version}, not 0", header.log_version
        )
    if length == 0 or length % MIB:
        return wrong(
            "log_length", f"its length of {length:,} bytes is no multiple of 1 MiB", length
        )
    if offset < HEADER_SECTION_BYTES or offset % MIB:
        return wrong("log_offset", f"it cannot lie at byte {offset:,}", offset)
    if offset + length > file_bytes:
        return wrong("log_offset", "it reaches past the end of the file", offset)
    return None


def next_headers(headers: Headers, *changes: dict[str, bytes]) -> list[tuple[int, bytes]]:
    """Header updates one after the other, as (offset, 4 KiB): each over the older copy."""
    number, header = headers.current.number, headers.header
    writes = []
    for change in changes:
        number = 3 - number
        header = header._replace(sequence_number=header.sequence_number + 1, **change)  # type: ignore[arg-type]
        writes.append((OFFSETS[number - 1], header.pack()))
    return writes
