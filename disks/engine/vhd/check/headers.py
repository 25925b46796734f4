"""The file, its footers and its dynamic disk header, also where they keep it from being opened."""

from __future__ import annotations

from collections.abc import Iterator

from disks.engine.files import ImageFile
from disks.engine.findings import Finding, Level
from disks.engine.units import SECTOR_BYTES
from disks.engine.vhd import dynamic_header, footer, footer_copies
from disks.engine.vhd.dynamic_header import HEADER_BYTES, DynamicHeader
from disks.engine.vhd.footer import Footer


def size_findings(file: ImageFile) -> Iterator[Finding]:
    remainder = file.size_bytes % SECTOR_BYTES
    if remainder not in (0, footer.OLD_FOOTER_BYTES):
        yield Finding(
            Level.ERROR,
            "E_FILE_SIZE",
            f"The file's size, {file.size_bytes:,} bytes, is no multiple of 512.",
            "file_size",
            None,
            file.size_bytes,
        )


def lost_footer(file: ImageFile) -> Iterator[Finding]:
    """Whether a footer lies a little before the file's end, with other bytes behind it."""
    found = footer_copies.find_lost_footer(file)
    if found is not None:
        yield trailing(found[0], file.size_bytes)


def left_header(file: ImageFile) -> Iterator[Finding]:
    """A dynamic disk header at its usual place shows what the file was before it was damaged."""
    cookie = dynamic_header.COOKIE
    if file.size_bytes >= SECTOR_BYTES + HEADER_BYTES and (
        file.read_at(SECTOR_BYTES, len(cookie)) == cookie
    ):
        yield Finding(
            Level.ERROR,
            "E_FOOTERS_LOST",
            "Both copies of the footer are lost; the dynamic disk header behind the first one is "
            "still there.",
            "footer",
            0,
        )


def trailing(offset: int, size: int) -> Finding:
    behind = size - offset - footer.FOOTER_BYTES
    return Finding(
        Level.ERROR,
        "E_TRAILING",
        f"A footer lies at byte {offset:,}, and {behind:,} bytes follow it that do not belong "
        "to the disk.",
        "footer",
        offset,
        behind,
    )


def header_findings(
    file: ImageFile, foot: Footer, data_end: int, end_is_footer: bool
) -> Iterator[Finding]:
    """The header's own findings, also where they keep the image from being opened."""
    offset = foot.data_offset
    problem = dynamic_header.offset_finding(offset, data_end)
    if problem is not None:
        yield problem
        return
    data = file.read_at(offset, HEADER_BYTES)
    broken = list(dynamic_header.checksum_findings(data, offset))
    yield from broken
    if broken and broken[0].field == "cookie":
        return
    yield from dynamic_header.field_findings(
        DynamicHeader.parse(data), offset, foot.current_size, data_end, end_is_footer
    )
