"""Bringing what waits in the log to its place in the file.

The log is the journal of this: until the last header says that it is empty, whoever opens the
file replays it from the beginning. The DataWriteGuid stays: the virtual disk reads as before,
and a new one would cut off every child.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from disks.engine.changes import FieldChange, LogReplay
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.units import MIB
from disks.engine.vhdx import headers, log, regions
from disks.engine.vhdx.guid import NIL, new_guid
from disks.engine.vhdx.log import Replayed, Update, Updates

if TYPE_CHECKING:
    from disks.engine.vhdx.image import VhdxImage

_BLOCKS = "blocks and sector bitmaps"


def plan_replay(image: VhdxImage) -> LogReplay:
    """What replay() will write, for an image whose log waits.

    Raises `E_NOTHING_TO_REPLAY` for an empty log, `E_VHDX_HEADER` where no later header can
    be told from the present one.
    """
    updates = image.updates
    if updates is None:
        raise _nothing(image.file.path)
    for finding in image.findings:
        if finding.code == "E_VHDX_HEADER":
            raise ImageError(
                finding.code,
                finding.message,
                file=image.file.path,
                field=finding.field,
                offset=finding.offset,
                value=finding.value,
            )
    written = _in_order(updates)
    header = image.headers.header
    place = (header.log_offset, header.log_length)
    rows = [FieldChange("log", waiting_words(updates), "empty", *place)]
    rows += _by_structure(image, written)
    size = image.stored_file.size_bytes
    if updates.file_bytes > size:
        rows.append(FieldChange("file size", f"{size:,} bytes", f"{updates.file_bytes:,} bytes"))
    key = hashlib.sha256(header.log_guid)
    for update in written:
        key.update(f"{update.offset} {update.length}".encode())
        key.update(update.data or b"")
    return LogReplay(
        entries=len(updates.entries),
        updates=len(written),
        bytes_written=sum(update.length for update in written),
        size_after_bytes=updates.file_bytes,
        changes=tuple(rows),
        key=key.hexdigest(),
    )


def waiting_words(updates: Updates) -> str:
    """How much waits."""
    written = _in_order(updates)
    return (
        f"{_number(len(updates.entries), 'entry', 'entries')} with "
        f"{_number(len(written), 'update', 'updates')}, "
        f"{sum(update.length for update in written):,} bytes"
    )


def _in_order(updates: Updates) -> list[Update]:
    return [update for entry in updates.entries for update in entry.updates]


def _by_structure(image: VhdxImage, updates: list[Update]) -> Iterator[FieldChange]:
    """One row for each structure that the updates are about, in the order of the file."""
    found: dict[str, tuple[int, int, int]] = {}  # first byte, updates, bytes
    for update in updates:
        name = _structure(image, update.offset)
        first, count, size = found.get(name, (update.offset, 0, 0))
        found[name] = min(first, update.offset), count + 1, size + update.length
    for name, (first, count, size) in sorted(found.items(), key=lambda row: row[1]):
        waits = f"{_number(count, 'update', 'updates')} not in place"
        yield FieldChange(name, waits, "as the log says", first, size)


def _structure(image: VhdxImage, offset: int) -> str:
    for number, start in enumerate(regions.OFFSETS, 1):
        if start <= offset < start + regions.TABLE_BYTES:
            return f"region table {number}"
    for region in image.table.regions:
        if region.offset <= offset < region.end:
            return region.name
    return _BLOCKS


def _number(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _nothing(path: str) -> ImageError:
    return ImageError("E_NOTHING_TO_REPLAY", "The log is empty: nothing waits in it.", file=path)


def replay(file: ImageFile) -> None:
    """Replay the log of a file that is open for writing; durable when this returns.

    Nothing says that the log is empty before what it held was read back from its place. Raises
    `E_NOTHING_TO_REPLAY` for an empty log, `E_VHDX_HEADER`, `E_VHDX_LOG`, `E_TRUNCATED`,
    `E_REPLAY`, and what writing raises: the log then still waits, and this may be repeated.
    Source: [MS-VHDX] 2.3.3.
    """
    found = headers.read_headers(file)
    if not found.header.has_log:
        raise _nothing(file.path)
    problem = headers.log_problem(found, file.size_bytes) or headers.count_problem(found)
    if problem is not None:
        problem.file = file.path
        raise problem
    updates = log.find_updates(file, found.header)
    replayed = Replayed(file, updates)
    begun, done, again = headers.next_headers(
        found, {"file_write_guid": new_guid()}, {"log_guid": NIL}, {}
    )
    file.write_at(*begun)
    file.sync()
    if updates.file_bytes > file.size_bytes:
        file.allocate(updates.file_bytes, from_bytes=file.size_bytes)
    for offset, data in _pieces(replayed):
        file.write_at(offset, data)
    file.sync()
    file.hint(0, 0, os.POSIX_FADV_DONTNEED)  # what is compared comes from the storage
    for offset, data in _pieces(replayed):
        if file.read_at(offset, len(data)) != data:
            raise ImageError(
                "E_REPLAY",
                "What was written from the log does not read back as it was written. The log "
                "still waits, and the disk reads as before: nothing is lost.",
                file=file.path,
                field="log",
                offset=offset,
            )
    for offset, data in (done, again):
        file.write_at(offset, data)
        file.sync()


def _pieces(replayed: Replayed) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of all that the updates touch, each once, as it reads when all are there."""
    for start, end in replayed.touched():
        for at in range(start, end, MIB):
            yield at, replayed.read_at(at, min(MIB, end - at))
