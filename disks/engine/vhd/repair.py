"""Writing the sound footer of a dynamic or differencing disk over its damaged copy.

Nothing else is touched. A footer at the end goes where remains of one lie; where the file's
last bytes could be anything, it goes behind them, onto a page of its own: a power cut while it is
written cannot garble them. The file is never made shorter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from disks.engine.changes import FieldChange, HeaderRewrite, Write
from disks.engine.errors import ImageError
from disks.engine.images import DiskType
from disks.engine.units import SECTOR_BYTES, round_up
from disks.engine.vhd import footer_copies, parent_locator
from disks.engine.vhd.batmap import find_batmap
from disks.engine.vhd.extents import check_entry
from disks.engine.vhd.footer import FOOTER_BYTES, OFFSETS
from disks.engine.vhd.footer_copies import FooterCopy
from disks.engine.vhd.raw_view import footer_changes
from disks.engine.vhd.room import PAGE_BYTES

if TYPE_CHECKING:
    from disks.engine.vhd.image import VhdImage

# What the repair is for, and what it has no part in: the content stays as it was saved.
_IGNORED = frozenset({"E_FOOTER_END", "E_FOOTER_FRONT", "E_SAVED_STATE"})


def plan_repair(image: VhdImage) -> HeaderRewrite:
    """The one write that makes both footers sound and equal.

    Raises `E_NOTHING_TO_REPAIR`; `E_FOOTERS_DIFFER` where two sound ones disagree;
    `E_TRUNCATED` where a part of the disk is missing; `E_BAT_IN_HEADER` where a block lies
    over headers; `E_FOREIGN_JOURNAL`, `E_RAW_PARENT`.
    """
    refusal = image.refusal_apart_from(_IGNORED)
    if refusal is not None:
        raise refusal
    if image.disk_type is DiskType.FIXED:
        raise _nothing(image, "A fixed disk has one footer and no copy of it; it is sound.")
    front, end = image.footers.front, image.footers.end
    if not end.is_right:
        return _repair_end(image, front, end)
    if not front.is_right:
        return _repair_front(image, front, end)
    raise _nothing(image, "The footer and its copy at the beginning are sound and equal.")


def _nothing(image: VhdImage, why: str) -> ImageError:
    return ImageError("E_NOTHING_TO_REPAIR", why, file=image.file.path)


def _repair_front(image: VhdImage, front: FooterCopy, end: FooterCopy) -> HeaderRewrite:
    for block, entry in image.bat.below(1):
        check_entry(image, block, entry)  # a block over the copy's place: raises
    now = "missing" if front.footer is None else "damaged: its checksum is wrong"
    rows = [
        FieldChange("footer copy", now, f"as the footer at byte {end.offset:,}", 0, FOOTER_BYTES),
        *footer_changes(front.raw, end.raw, 0),
    ]
    return HeaderRewrite(((Write(0, end.raw),),), image.file.size_bytes, tuple(rows))


def _repair_end(image: VhdImage, front: FooterCopy, end: FooterCopy) -> HeaderRewrite:
    size = image.file.size_bytes
    end_of_data, end_of_blocks = _ends(image)
    if end_of_data > size:
        raise ImageError(
            "E_TRUNCATED",
            f"The file was cut off: it has {size:,} bytes, and its headers name data up to byte "
            f"{end_of_data:,}. A new footer would not bring that back.",
            file=image.file.path,
            field="footer",
            offset=size,
            value=end_of_data,
        )
    lost = footer_copies.find_lost_footer(image.file)
    if lost is not None and lost[0] >= end_of_data and lost[1] != front.raw:
        raise ImageError(
            "E_FOOTERS_DIFFER",
            f"A sound footer lies at byte {lost[0]:,}, before the end of the file, and it "
            "differs from the copy at the beginning. It is not clear which one is right.",
            file=image.file.path,
            field="footer",
            offset=lost[0],
        )
    in_place = end.offset % SECTOR_BYTES == 0 and (
        (_is_remains(end, front) and end_of_data <= end.offset)
        or (not any(end.raw) and end_of_blocks <= end.offset)
    )
    offset = end.offset if in_place else round_up(size, PAGE_BYTES)
    size_after = max(size, offset + FOOTER_BYTES)
    rows = [
        FieldChange(
            "footer at the end", _now(end, lost, in_place), "as its copy at byte 0",
            offset, FOOTER_BYTES,
        )
    ]  # fmt: skip
    if in_place and any(end.raw):
        rows += footer_changes(end.raw, front.raw, offset)
    if size_after > size:
        rows.append(FieldChange("file size", f"{size:,} bytes", f"{size_after:,} bytes"))
    return HeaderRewrite(((Write(offset, front.raw),),), size_after, tuple(rows))


def _ends(image: VhdImage) -> tuple[int, int]:
    """Where the last thing ends that the headers name, and where the last whole block ends.

    The second is behind the first where a block reaches past the virtual size: its unused
    tail is no data, and some tools have left it out.
    """
    header = image.header
    if header is None:
        raise AssertionError("a dynamic disk without a header is not opened")
    ends = [image.metadata_end, image.table_end]
    batmap = find_batmap(image)
    if batmap is not None and batmap.has_cookie:
        ends += [stop for _, stop in batmap.ranges]
    for locator in parent_locator.parse_entries(header.parent_locators):
        length = locator.platform_data_length
        if not locator.is_free and length <= parent_locator.MAX_LENGTH_BYTES:
            ends.append(locator.platform_data_offset + length)
    data = blocks = max(ends)
    whole = image.bitmap_bytes + image.block_size_bytes
    for block, entry in image.bat.allocated():
        check_entry(image, block, entry)
        offset = entry * SECTOR_BYTES
        data = max(data, offset + image.block_bytes(block))
        blocks = max(blocks, offset + whole)
    return data, blocks


def _is_remains(end: FooterCopy, sound: FooterCopy) -> bool:
    """Whether the last bytes were this footer: a cookie, or the disk's identity."""
    at, length = OFFSETS["unique_id"]
    identity = slice(at, at + length)
    return end.footer is not None or end.raw[identity] == sound.raw[identity]


def _now(end: FooterCopy, lost: tuple[int, bytes] | None, in_place: bool) -> str:
    if end.footer is not None:
        return "damaged: its checksum is wrong"
    if lost is not None and not in_place:
        return f"at byte {lost[0]:,}, with other bytes behind it, which stay"
    if in_place and any(end.raw):
        return "damaged: its cookie is gone"
    return "missing"
