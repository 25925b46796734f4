"""What a VHDX says of itself beyond what every format says: label and value, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from disks.engine.vhdx import replay
from disks.engine.vhdx.guid import guid_text

if TYPE_CHECKING:
    from disks.engine.vhdx.image import VhdxImage


def properties(image: VhdxImage) -> list[tuple[str, str]]:
    """See `Image`."""
    header, found = image.headers.header, image.metadata
    log_state = "empty"
    if image.updates is not None:
        log_state = f"{replay.waiting_words(image.updates)}, waiting to be replayed"
    return [
        ("Format", "VHDX 1"),
        ("DataWriteGuid", guid_text(header.data_write_guid)),
        ("FileWriteGuid", guid_text(header.file_write_guid)),
        ("Virtual disk id", guid_text(found.virtual_disk_id)),
        (
            "Header in use",
            f"{image.headers.current.number} of 2, sequence {header.sequence_number:,}",
        ),
        ("Log", log_state),
        ("Logical sector size", f"{found.logical_sector_bytes:,} bytes"),
        ("Physical sector size", f"{found.physical_sector_bytes:,} bytes"),
        ("Chunk ratio", f"{image.geometry.ratio:,} blocks to a sector bitmap"),
        ("Log at byte", f"{header.log_offset:,}, {header.log_length:,} bytes"),
        ("Metadata at byte", f"{found.region.offset:,}"),
        ("Block allocation table at byte", f"{image.bat.offset:,}"),
        ("Block allocation table entries", f"{image.geometry.entries:,}"),
    ]
