"""Which disk a VHDX claims to be: another identity, or all that another disk says of itself.

Both go through the log: the DataWriteGuid comes into force with the header that names it, and
the items of the virtual disk with the replay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from disks.engine.changes import FieldChange, HeaderRewrite
from disks.engine.vhdx import metadata
from disks.engine.vhdx.guid import guid_bytes
from disks.engine.vhdx.logged import PAGE_BYTES, plan_logged

if TYPE_CHECKING:
    from disks.engine.vhdx.image import VhdxImage


def plan_identity(image: VhdxImage, identity: str) -> HeaderRewrite:
    """See `Image`. The log entry holds a page as it is: an entry has to hold something."""
    return _rewrite(image, identity, {})


def plan_face(image: VhdxImage, of: VhdxImage) -> HeaderRewrite:
    """See `Image`: the items of the virtual disk that both have, in the same length.

    Source: [MS-VHDX] 2.6.1.2, "IsVirtualDisk".
    """
    theirs = {
        (item.guid, item.flags & metadata.IS_USER): item
        for item in of.metadata.items
        if item.flags & metadata.IS_VIRTUAL_DISK and item.length
    }
    values: dict[int, bytes] = {}
    for item in image.metadata.items:
        other = theirs.get((item.guid, item.flags & metadata.IS_USER))
        if other is not None and other.length == item.length:
            place = of.metadata.region.offset + other.offset
            values[image.metadata.region.offset + item.offset] = of.file.read_at(
                place, other.length
            )
    return _rewrite(image, of.identity, values)


def _rewrite(image: VhdxImage, identity: str, values: dict[int, bytes]) -> HeaderRewrite:
    """values: bytes of the metadata region, by offset in the file."""
    if image.write_refusal is not None:
        raise image.write_refusal
    pages: dict[int, bytearray] = {}
    first = image.metadata.region.offset
    pages[first] = bytearray(image.file.read_at(first, PAGE_BYTES))
    for offset, value in values.items():
        for at, byte in enumerate(value, offset):
            start = at - at % PAGE_BYTES
            if start not in pages:
                pages[start] = bytearray(image.file.read_at(start, PAGE_BYTES))
            pages[start][at - start] = byte
    row = FieldChange(
        "data_write_guid", image.identity, identity, image.headers.other.offset + 32, 16
    )
    return plan_logged(
        image,
        [(offset, bytes(page)) for offset, page in sorted(pages.items())],
        [row],
        data_write_guid=guid_bytes(identity),
    )
