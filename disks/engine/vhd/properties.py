"""What a VHD says of itself beyond what every format says: label and value, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from disks.engine.images import DiskType
from disks.engine.vhd.text import ascii_label, windows_guid

if TYPE_CHECKING:
    from disks.engine.vhd.image import VhdImage


def properties(image: VhdImage) -> list[tuple[str, str]]:
    """See `Image`."""
    f = image.footer
    geometry = (f.cylinders, f.heads, f.sectors_per_track)
    rows = [
        ("Format", f"VHD {f.file_format_version >> 16}.{f.file_format_version & 0xFFFF}"),
        ("Unique id", image.identity),
        ("Unique id as Windows shows it", windows_guid(f.unique_id)),
        ("Geometry (cylinders/heads/sectors)", "/".join(map(str, geometry))),
        ("Size by geometry", f"{geometry[0] * geometry[1] * geometry[2] * 512:,} bytes"),
        ("Original size", f"{f.original_size:,} bytes"),
        ("Creator host OS", ascii_label(f.creator_host_os) or "none"),
        ("Features", f"0x{f.features:08x}"),
        ("Saved state", str(f.saved_state)),
        ("Hidden (blktap)", str(f.hidden)),
        ("Footer at byte", f"{image.footer_offset:,}"),
    ]
    if image.header is not None:
        h = image.header
        rows += [
            ("Dynamic disk header at byte", f"{f.data_offset:,}"),
            ("Block allocation table at byte", f"{h.table_offset:,}"),
            ("Block allocation table entries", f"{h.max_table_entries:,}"),
            ("Sector bitmap", f"{image.bitmap_bytes:,} bytes"),
        ]
    if image.header is not None and image.disk_type is DiskType.DIFFERENCING:
        rows.append(("Parent id as Windows shows it", windows_guid(h.parent_unique_id)))
    return rows
