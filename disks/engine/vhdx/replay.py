"""Bringing what waits in the log to its place in the file.

The log is the journal of this: until the last header says that it is empty, whoever opens the
file replays it from the beginning. The DataWriteGuid stays: the virtual disk reads as before,
and a new one would cut off every child.
"""

from __future__ import annotations

from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.units import MIB
from disks.engine.vhdx import headers, log
from disks.engine.vhdx.guid import NIL, new_guid

_ZEROS = bytes(MIB)


def replay(file: ImageFile) -> None:
    """Replay the log of a file that is open for writing; durable when this returns.

    Raises `E_NOTHING_TO_REPLAY` for an empty log, `E_VHDX_HEADER`, `E_VHDX_LOG`,
    `E_TRUNCATED`, and what writing raises: the log then still waits, and this may be repeated.
    Source: [MS-VHDX] 2.3.3.
    """
    found = headers.read_headers(file)
    if not found.header.has_log:
        raise ImageError(
            "E_NOTHING_TO_REPLAY", "The log is empty. Nothing is to be replayed.", file=file.path
        )
    problem = headers.log_problem(found, file.size_bytes) or headers.count_problem(found)
    if problem is not None:
        problem.file = file.path
        raise problem
    updates = log.find_updates(file, found.header)
    begun, done, again = headers.next_headers(
        found, {"file_write_guid": new_guid()}, {"log_guid": NIL}, {}
    )
    file.write_at(*begun)
    file.sync()
    if updates.file_bytes > file.size_bytes:
        file.allocate(updates.file_bytes, from_bytes=file.size_bytes)
    for update in updates:
        if update.data is not None:
            file.write_at(update.offset, update.data)
            continue
        for at in range(0, update.length, MIB):
            file.write_at(update.offset + at, _ZEROS[: min(MIB, update.length - at)])
    file.sync()
    for offset, data in (done, again):
        file.write_at(offset, data)
        file.sync()
