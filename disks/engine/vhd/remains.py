"""What a file that does not open as a VHD still says about its parent."""

from __future__ import annotations

from typing import NamedTuple

from disks.engine.errors import NotAnImage
from disks.engine.files import ImageFile
from disks.engine.units import SECTOR_BYTES
from disks.engine.vhd import dynamic_header, footer, footer_copies
from disks.engine.vhd.dynamic_header import HEADER_BYTES, DynamicHeader
from disks.engine.vhd.text import identity_text

_USUAL_HEADER_OFFSET = SECTOR_BYTES


class _Trace(NamedTuple):
    """A footer, wherever it was found; only a sound one is believed."""

    footer: footer.Footer
    is_sound: bool

    @property
    def has_no_parent(self) -> bool:
        return self.is_sound and self.footer.disk_type in (footer.FIXED, footer.DYNAMIC)


def named_parent(file: ImageFile, extensions: tuple[str, ...]) -> str | None:
    """See `Format.named_parent`. A sound dynamic disk header tells it, whatever else is lost.

    extensions: only files named so are searched for a footer that is not at their end; that
    takes a MiB of each.
    """
    if file.size_bytes < footer.FOOTER_BYTES:
        return ""
    traces, head = _footers(file)
    if file.path.lower().endswith(extensions):
        lost = footer_copies.find_lost_footer(file)
        if lost is not None:
            traces.append(_Trace(footer.Footer.parse(lost[1]), True))
    places = {_USUAL_HEADER_OFFSET, *(trace.footer.data_offset for trace in traces)}
    sound = {identity for at in places if (identity := _by_header(file, at)) is not None}
    if sound:
        return sound.pop() if len(sound) == 1 else None
    if traces:
        return "" if all(trace.has_no_parent for trace in traces) else None
    return None if head[_USUAL_HEADER_OFFSET:].startswith(dynamic_header.COOKIE) else ""


def _footers(file: ImageFile) -> tuple[list[_Trace], bytes]:
    """The copies that have a cookie, sound or not, and the file's beginning."""
    try:
        found = footer_copies.read_footers(file)
    except NotAnImage:
        return [], file.read_at(0, min(file.size_bytes, footer_copies.HEAD_BYTES))
    copies = (found.end, found.front)
    return [_Trace(one.footer, one.is_right) for one in copies if one.footer], found.head


def _by_header(file: ImageFile, offset: int) -> str | None:
    """The parent's identity, "" for none, by a header at an offset; None if no sound one is."""
    if offset + HEADER_BYTES > file.size_bytes:
        return None
    data = file.read_at(offset, HEADER_BYTES)
    if data[:8] != dynamic_header.COOKIE or not dynamic_header.checksum_is_right(data):
        return None
    unique_id = DynamicHeader.parse(data).parent_unique_id
    return identity_text(unique_id) if any(unique_id) else ""
