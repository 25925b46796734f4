"""The log: metadata updates that were decided but perhaps not yet written in their place.

A disk whose header names a log must not be read around it. `find_updates` says what the log
holds, without writing; `Replayed` is the file as it reads with these updates in place.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterator
from typing import NamedTuple

from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.units import KIB, MIB
from disks.engine.vhdx import checksum
from disks.engine.vhdx.headers import Header
from disks.engine.vhdx.regions import OFFSETS as REGION_OFFSETS

PAGE_BYTES = 4 * KIB
MAX_LOG_BYTES = 32 * MIB  # Windows makes logs of 1 MiB
MAX_GROWTH_BYTES = 1024 * MIB
MAX_UPDATES = 16 * 1024  # more would cost every look at the disk seconds

_ENTRY = struct.Struct("<4sIIIQII16sQQ")
_ZERO = struct.Struct("<4sIQQQ")
_DATA = struct.Struct("<4s4s8sQQ")
_DESCRIPTOR_BYTES = 32
_IN_FIRST_PAGE = 126
_IN_OTHER_PAGES = 128
_LOWEST_TARGET = REGION_OFFSETS[0]


class Update(NamedTuple):
    """Bytes for one place. data None: length bytes of zeros."""

    offset: int
    length: int
    data: bytes | None


class LogEntry(NamedTuple):
    """A sound entry of the log. at: bytes from the log's start."""

    at: int
    length: int
    tail: int
    sequence: int
    flushed_file_offset: int
    last_file_offset: int
    updates: tuple[Update, ...]


class Updates(NamedTuple):
    """What a replay does, in order. file_bytes: the size that the file then has at least."""

    entries: tuple[LogEntry, ...]
    file_bytes: int

    def __iter__(self) -> Iterator[Update]:  # type: ignore[override]
        for entry in self.entries:
            yield from entry.updates


def find_updates(file: ImageFile, header: Header) -> Updates:
    """The active sequence of the log that the header names.

    A torn last entry is left out by design; a log without any sound entry is an error, for
    nobody knows what it held. Raises `E_VHDX_LOG`, `E_TRUNCATED`. Source: [MS-VHDX] 2.3.
    """
    if header.log_length > MAX_LOG_BYTES:
        raise _unusable(file, header, f"its length of {header.log_length:,} bytes is unheard of")
    reader = _Reader(file, header)
    best: list[LogEntry] = []
    at = 0
    while at < header.log_length:
        sequence = reader.sequence_from(at)
        if not sequence:
            at += PAGE_BYTES
            continue
        head = sequence[-1]
        # The tail must lie inside the sequence: what is older is in its place already.
        kept = [entry for entry in sequence if entry.at == head.tail]
        if kept and (not best or head.sequence > best[-1].sequence):
            best = sequence[sequence.index(kept[0]) :]
        end = sequence[-1].at + sequence[-1].length
        if end <= at:
            break  # wrapped around
        at = end
    if not best:
        raise _unusable(file, header, "the header says that it holds updates, and none is sound")
    return _judged(file, header, best)


def _judged(file: ImageFile, header: Header, entries: list[LogEntry]) -> Updates:
    head = entries[-1]
    if file.size_bytes < head.flushed_file_offset:
        raise ImageError(
            "E_TRUNCATED",
            f"The file has {file.size_bytes:,} bytes; when its log was written it had "
            f"{head.flushed_file_offset:,}. It was cut off since.",
            file=file.path,
            field="flushed_file_offset",
            offset=header.log_offset + head.at + 48,
            value=head.flushed_file_offset,
        )
    count = sum(len(entry.updates) for entry in entries)
    if count > MAX_UPDATES:
        raise _unusable(file, header, f"it holds {count:,} updates, more than any writer makes")
    # An older entry may reach further than the last one says.
    size = max(file.size_bytes, *(entry.last_file_offset for entry in entries))
    size = max(size, *(one.offset + one.length for entry in entries for one in entry.updates), 0)
    if size > file.size_bytes + MAX_GROWTH_BYTES:
        raise _unusable(file, header, f"it wants the file to have {size:,} bytes")
    return Updates(tuple(entries), size)


def _unusable(file: ImageFile, header: Header, why: str) -> ImageError:
    return ImageError(
        "E_VHDX_LOG",
        f"The log cannot be replayed: {why}.",
        file=file.path,
        field="log",
        offset=header.log_offset,
        value=header.log_length,
    )


class _Reader:
    """Takes entries out of the circular log; looks at each place once."""

    def __init__(self, file: ImageFile, header: Header) -> None:
        self._file = file
        self._header = header
        self._bytes = file.read_at(header.log_offset, header.log_length)
        self._entries: dict[int, LogEntry | None] = {}
        self._limit_bytes = file.size_bytes + MAX_GROWTH_BYTES
        self._log = (header.log_offset, header.log_offset + header.log_length)
        # A hostile log could have its checksum taken over and over: this bounds the work.
        self._budget_bytes = 4 * header.log_length

    def sequence_from(self, at: int) -> list[LogEntry]:
        """Entries that follow each other from a place on, each numbered one more."""
        found: list[LogEntry] = []
        used = 0
        while (entry := self._entry(at)) is not None:
            if found and entry.sequence != found[-1].sequence + 1:
                break
            used += entry.length
            if used > len(self._bytes):
                break
            found.append(entry)
            at = (at + entry.length) % len(self._bytes)
        return found

    def _entry(self, at: int) -> LogEntry | None:
        if at not in self._entries:
            self._entries[at] = self._parse(at)
        return self._entries[at]

    def _take(self, at: int, length: int) -> bytes:
        data = self._bytes[at : at + length]
        return data + self._bytes[: length - len(data)]

    def _parse(self, at: int) -> LogEntry | None:
        head = _ENTRY.unpack_from(self._bytes, at)
        cookie, _, length, tail, sequence, count, _, guid, flushed, last = head
        if cookie != b"loge" or guid != self._header.log_guid or sequence == 0:
            return None
        if length == 0 or length % PAGE_BYTES or length > len(self._bytes):
            return None
        if tail % PAGE_BYTES or tail >= len(self._bytes) or flushed % MIB or last % MIB:
            return None
        pages = 1 + max(0, -(-(count - _IN_FIRST_PAGE) // _IN_OTHER_PAGES))
        if pages * PAGE_BYTES > length or self._budget_bytes < length:
            return None
        self._budget_bytes -= length
        data = self._take(at, length)
        if not checksum.is_right(data):
            return None
        if count > MAX_UPDATES:  # sound, so it must not be passed over as torn
            why = f"an entry holds {count:,} updates, more than any writer makes"
            raise _unusable(self._file, self._header, why)
        updates = self._updates(data, count, pages, sequence)
        if updates is None:
            return None
        return LogEntry(at, length, tail, sequence, flushed, last, updates)

    def _updates(
        self, data: bytes, count: int, pages: int, sequence: int
    ) -> tuple[Update, ...] | None:
        """The descriptors with their data; None if anything of them is wrong."""
        updates = []
        sector = pages
        for index in range(count):
            at = _ENTRY.size + index * _DESCRIPTOR_BYTES
            if data[at : at + 4] == b"zero":
                _, _, length, offset, number = _ZERO.unpack_from(data, at)
                update = Update(offset, length, None)
            elif data[at : at + 4] == b"desc":
                _, trailing, leading, offset, number = _DATA.unpack_from(data, at)
                page = data[sector * PAGE_BYTES : (sector + 1) * PAGE_BYTES]
                sector += 1
                numbered = page[4:8] == (sequence >> 32).to_bytes(4, "little") and page[-4:] == (
                    sequence & 0xFFFFFFFF
                ).to_bytes(4, "little")
                if len(page) != PAGE_BYTES or page[:4] != b"data" or not numbered:
                    return None
                update = Update(offset, PAGE_BYTES, leading + page[8:-4] + trailing)
            else:
                return None
            if number != sequence or not self._may_go(update):
                return None
            updates.append(update)
        if sector * PAGE_BYTES != len(data):
            return None
        return tuple(updates)

    def _may_go(self, update: Update) -> bool:
        """Whole pages, never over identifier, headers or the log itself, never far past the end."""
        start, end = update.offset, update.offset + update.length
        if start % PAGE_BYTES or update.length % PAGE_BYTES or not update.length:
            return False
        inside_log = start < self._log[1] and end > self._log[0]
        return start >= _LOWEST_TARGET and not inside_log and end <= self._limit_bytes


class Replayed(ImageFile):
    """A file as it reads once its log is replayed; nothing is written. Owns the same descriptor.

    Pages of the updates lie over the file; between its end and size_bytes there are zeros.
    """

    def __init__(self, file: ImageFile, updates: Updates) -> None:
        super().__init__(file.fd, file.path)
        self._stored_bytes = file.size_bytes
        self.size_bytes = updates.file_bytes
        self._pages: dict[int, bytes] = {}
        self._zeros: list[tuple[int, int]] = []  # disjoint, ascending; older than any page
        self._order: list[int] = []  # offsets of the pages, ascending
        for update in updates:
            self._lay(update)
        self._fd_owner = file

    @property
    def is_plain(self) -> bool:
        return False

    def _lay(self, update: Update) -> None:
        if update.data is not None:
            if update.offset not in self._pages:
                bisect.insort(self._order, update.offset)
            self._pages[update.offset] = update.data
            return
        start, end = update.offset, update.offset + update.length
        first, last = bisect.bisect_left(self._order, start), bisect.bisect_left(self._order, end)
        for offset in self._order[first:last]:
            del self._pages[offset]
        del self._order[first:last]
        first = bisect.bisect_left(self._zeros, (start, start))
        if first and self._zeros[first - 1][1] >= start:
            first -= 1
        last = first
        while last < len(self._zeros) and self._zeros[last][0] <= end:
            start, end = min(start, self._zeros[last][0]), max(end, self._zeros[last][1])
            last += 1
        self._zeros[first:last] = [(start, end)]

    def touched(self) -> list[tuple[int, int]]:
        """(start, end) of what the updates concern: disjoint, ascending."""
        ranges = sorted([*self._zeros, *((at, at + PAGE_BYTES) for at in self._order)])
        joined: list[tuple[int, int]] = []
        for start, end in ranges:
            if joined and start <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(joined[-1][1], end))
            else:
                joined.append((start, end))
        return joined

    def read_at(self, offset: int, length: int) -> bytes:
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        if end > self.size_bytes:
            raise self._too_short(max(offset, self.size_bytes), end)
        stored = max(0, min(end, self._stored_bytes) - offset)
        super().read_into(offset, buffer[:stored])
        buffer[stored:] = bytes(len(buffer) - stored)
        index = max(0, bisect.bisect_right(self._zeros, (offset, end)) - 1)
        for start, stop in self._zeros[index:]:
            if start >= end:
                break
            first, last = max(start, offset), min(stop, end)
            if first < last:
                buffer[first - offset : last - offset] = bytes(last - first)
        index = bisect.bisect_right(self._order, offset - PAGE_BYTES)
        for start in self._order[index:]:
            if start >= end:
                break
            first, last = max(start, offset), min(start + PAGE_BYTES, end)
            page = self._pages[start]
            buffer[first - offset : last - offset] = page[first - start : last - start]

    def next_data(self, offset: int) -> int:
        stored = super().next_data(offset)
        index = bisect.bisect_right(self._order, offset - PAGE_BYTES)
        return min(stored, max(offset, self._order[index])) if index < len(self._order) else stored

    def close(self) -> None:
        self._fd_owner.close()
        self.fd = -1


def pack_entry(
    header: Header, guid: bytes, pages: list[tuple[int, bytes]], file_bytes: int
) -> bytes:
    """One entry that holds whole pages, for the start of an empty log.

    pages: (offset, 4 KiB). file_bytes: the file's size once they are written, durable already.
    Raises `E_VHDX_LOG` where the log has no room for them.
    """
    sequence = 1
    descriptors, sectors = [], []
    for offset, data in pages:
        descriptors.append(_DATA.pack(b"desc", data[-4:], data[:8], offset, sequence))
        number = sequence.to_bytes(8, "little")
        sectors.append(b"data" + number[4:] + data[8:-4] + number[:4])
    table = (1 + max(0, -(-(len(pages) - _IN_FIRST_PAGE) // _IN_OTHER_PAGES))) * PAGE_BYTES
    length = table + len(pages) * PAGE_BYTES
    if length > header.log_length:
        raise ImageError(
            "E_VHDX_LOG",
            f"The log has {header.log_length:,} bytes, too few for this change.",
            advice="Copy the disk to a new one, which has a larger log.",
            field="log_length",
            value=header.log_length,
        )
    flushed, last = file_bytes // MIB * MIB, -(-file_bytes // MIB) * MIB
    head = _ENTRY.pack(b"loge", 0, length, 0, sequence, len(pages), 0, guid, flushed, last)
    data = (head + b"".join(descriptors)).ljust(table, b"\0") + b"".join(sectors)
    return checksum.sealed(data)
