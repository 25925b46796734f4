"""What a VHDX that does not open still says about its parent."""

from __future__ import annotations

from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.vhdx import headers, metadata, parent_locator, regions
from disks.engine.vhdx.guid import NIL_TEXT


def named_parent(file: ImageFile) -> str | None:
    """See `Format.named_parent`. Sound region tables and metadata tell it, whatever else is lost.

    With a log that waits they are not the last word; then nobody can tell.
    """
    try:
        if file.read_at(0, min(file.size_bytes, len(headers.SIGNATURE))) != headers.SIGNATURE:
            return ""
        copies = headers.read_copies(file)
        if any(copy.header is not None and copy.header.has_log for copy in copies):
            return None
        table = regions.read_unjudged(file)
        found = metadata.read_unjudged(file, table.metadata)
    except (ImageError, StopIteration, OverflowError):
        return None
    if not found.has_parent and found.locator is None:
        return ""
    if found.locator is None:
        return None
    identity, problem = parent_locator.linkage(parent_locator.parse(*found.locator))
    return None if problem is not None or identity == NIL_TEXT else identity
