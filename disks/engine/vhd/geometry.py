"""Cylinders, heads and sectors per track, which some readers still go by."""

from __future__ import annotations

from disks.engine.units import SECTOR_BYTES


def geometry_of(size_bytes: int) -> tuple[int, int, int]:
    """Cylinders, heads, sectors per track for a size.

    Source: VHD specification 1.0, "CHS Calculation".
    """
    total = min(size_bytes // SECTOR_BYTES, 65535 * 16 * 255)
    if total >= 65535 * 16 * 63:
        track, heads = 255, 16
        rows = total // track
    else:
        track = 17
        rows = total // track
        heads = max(4, (rows + 1023) // 1024)
        if rows >= heads * 1024 or heads > 16:
            track, heads = 31, 16
            rows = total // track
        if rows >= heads * 1024:
            track, heads = 63, 16
            rows = total // track
    return rows // heads, heads, track
