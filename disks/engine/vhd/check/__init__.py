"""Every invariant that one VHD file can break, as findings; goes on after the first."""

from __future__ import annotations

from collections.abc import Iterator

from disks.engine.errors import ImageError, NotAnImage
from disks.engine.files import ImageFile
from disks.engine.findings import Finding, collected
from disks.engine.vhd import footer, footer_copies, footer_findings
from disks.engine.vhd.check.blocks import block_findings
from disks.engine.vhd.check.headers import header_findings, left_header, lost_footer, size_findings
from disks.engine.vhd.check.parent import parent_findings
from disks.engine.vhd.image import VhdImage, now_timestamp
from disks.engine.walk import Report, Walk, unreported


def check_file(
    file: ImageFile, *, deep: bool = False, report: Report = unreported
) -> list[Finding]:
    """All findings of a file that claims to be a VHD. deep: every bitmap and clear sector too."""
    return collected(_check(file, deep, Walk(file, report)))


def check_opened(image: VhdImage) -> list[Finding]:
    """The same as check_file for an image that opened, without reading its headers again."""
    return collected(_check_opened(image))


def _check(file: ImageFile, deep: bool, walk: Walk) -> Iterator[Finding]:
    try:
        footers = footer_copies.read_footers(file)
    except NotAnImage as error:
        yield Finding.from_error(error)
        if error.code == "E_NO_FOOTER":
            yield from lost_footer(file)
            yield from left_header(file)
        return
    yield from size_findings(file)
    chosen = footers.chosen
    if chosen is None or chosen.footer is None:
        yield Finding.from_error(footer_copies.unusable(footers, file.path))
        yield from lost_footer(file)
        return
    yield from footer_copies.copy_findings(footers)
    if not footers.end.is_right:
        yield from lost_footer(file)
    for copy in (chosen, footers.front if footers.differ else footers.end):
        if copy.footer is not None and (copy is chosen or footers.differ):
            yield from footer_findings.field_findings(copy.footer, copy.offset, now_timestamp())
    end_is_footer = chosen is footers.end
    data_end = footers.end.offset if end_is_footer else file.size_bytes
    if chosen.footer.disk_type in (footer.DYNAMIC, footer.DIFFERENCING):
        yield from header_findings(file, chosen.footer, data_end, end_is_footer)
    try:
        image = VhdImage(file)
    except ImageError as error:
        finding = Finding.from_error(error)
        # Known already, except for what only opening looks at.
        if finding.code in ("E_TYPE_CONFLICT", "E_TRUNCATED", "E_NO_FOOTER"):
            yield finding
        return
    yield from image.findings
    if image.header is not None:
        yield from block_findings(image, image.header, deep, walk)
        yield from parent_findings(image, image.header)


def _check_opened(image: VhdImage) -> Iterator[Finding]:
    footers = image.footers
    yield from size_findings(image.file)
    if not footers.end.is_right:
        yield from lost_footer(image.file)
    if footers.differ and footers.front.footer is not None:
        yield from footer_findings.field_findings(
            footers.front.footer, footers.front.offset, now_timestamp()
        )
    yield from image.findings
    if image.header is not None:
        yield from block_findings(image, image.header, False, Walk(image.file, unreported))
        yield from parent_findings(image, image.header)
