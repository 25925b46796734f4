"""A change of metadata that goes through the disk's own log, as ordered steps.

Whoever opens the disk next, Hyper-V included, finds the change whole or not at all: as soon as
the header names the log, a replay finishes it; before that it has not begun.
Source: [MS-VHDX] 2.2.2.1 and 2.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from disks.engine.changes import FieldChange, Fill, HeaderRewrite, Write
from disks.engine.vhdx import headers, log
from disks.engine.vhdx.guid import NIL, guid_text, new_guid

if TYPE_CHECKING:
    from disks.engine.vhdx.image import VhdxImage

PAGE_BYTES = log.PAGE_BYTES


def patched_page(image: VhdxImage, offset: int, data: bytes) -> tuple[int, bytes]:
    """The 4 KiB page around an offset, with data put in; data must lie within it."""
    start = offset // PAGE_BYTES * PAGE_BYTES
    page = bytearray(image.file.read_at(start, PAGE_BYTES))
    page[offset - start : offset - start + len(data)] = data
    return start, bytes(page)


def plan_logged(
    image: VhdxImage,
    pages: Sequence[tuple[int, bytes]],
    changes: Sequence[FieldChange],
    *,
    before: Sequence[Write | Fill] = (),
    content: Sequence[tuple[int, bytes]] = (),
    data_write_guid: bytes | None = None,
    size_after_bytes: int | None = None,
) -> HeaderRewrite:
    """The steps that change whole pages of metadata.

    pages            (offset, 4 KiB) to be changed in place
    before           what they will refer to, in room that nothing uses yet
    content          (offset, 4 KiB) of what belongs to the disk's content, changed with the pages;
                     whoever uses the disk writes there, so these do not tell what became of it
    data_write_guid  for a change that shows in the virtual disk; in force with the log
    Raises `E_VHDX_LOG` where the log has no room.
    """
    size = image.stored_file.size_bytes if size_after_bytes is None else size_after_bytes
    guid = new_guid()
    entry = log.pack_entry(image.headers.header, guid, [*pages, *content], size)
    begun = {"file_write_guid": new_guid()}
    named = {"log_guid": guid}
    if data_write_guid is not None:
        named["data_write_guid"] = data_write_guid
    opened, live, done, again = (
        (Write(offset, data),)
        for offset, data in headers.next_headers(image.headers, begun, named, {"log_guid": NIL}, {})
    )
    log_write = Write(image.headers.header.log_offset, entry)
    in_place = tuple(Write(offset, data) for offset, data in pages)
    steps = [opened, (*before, log_write), live, in_place]
    if content:
        steps.append(tuple(Write(offset, data) for offset, data in content))
    steps += [done, again]
    identity = None if data_write_guid is None else guid_text(data_write_guid)
    return HeaderRewrite(tuple(steps), size, tuple(changes), logged_step=3, identity_after=identity)
