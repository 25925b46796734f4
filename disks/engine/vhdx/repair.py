"""Writing the sound header or region table of a VHDX over its damaged copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from disks.engine.changes import FieldChange, HeaderRewrite, Write
from disks.engine.errors import ImageError
from disks.engine.vhdx import headers, regions
from disks.engine.vhdx.guid import new_guid
from disks.engine.vhdx.logged import PAGE_BYTES, plan_logged

if TYPE_CHECKING:
    from disks.engine.vhdx.image import VhdxImage


def plan_repair(image: VhdxImage) -> HeaderRewrite:
    """The steps that make both headers and both region tables sound again.

    A header is renewed by writing the next one over the damaged copy, as every change does; a
    region table goes through the log. Raises `E_NOTHING_TO_REPAIR` and the write refusal.
    """
    if image.write_refusal is not None:
        raise image.write_refusal
    damaged = next((copy for copy in image.table.copies if not copy.is_right), None)
    broken = next((copy for copy in image.headers.copies if copy.header is None), None)
    rows = []
    if broken is not None:
        rows.append(
            FieldChange(
                f"header {broken.number}",
                f"damaged: {broken.problem}",
                f"as header {image.headers.current.number}, with the next sequence number",
                broken.offset,
                headers.HEADER_BYTES,
            )
        )
    if damaged is not None:
        chosen = image.table.chosen
        rows.append(
            FieldChange(
                f"region table {damaged.number}",
                "damaged: its checksum is wrong",
                f"as region table {chosen.number}",
                damaged.offset,
                regions.TABLE_BYTES,
            )
        )
        pages = [
            (damaged.offset + at, chosen.raw[at : at + PAGE_BYTES])
            for at in range(0, regions.TABLE_BYTES, PAGE_BYTES)
            if image.file.read_at(damaged.offset + at, PAGE_BYTES)
            != chosen.raw[at : at + PAGE_BYTES]
        ]
        return plan_logged(image, pages, rows)  # which renews both headers as well
    if broken is None:
        raise ImageError(
            "E_NOTHING_TO_REPAIR",
            "Both headers and both region tables are sound.",
            file=image.file.path,
        )
    offset, data = headers.next_headers(image.headers, {"file_write_guid": new_guid()})[0]
    return HeaderRewrite(((Write(offset, data),),), image.stored_file.size_bytes, tuple(rows))
