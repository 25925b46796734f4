"""The one's complement checksum of the VHD footer, header and batmap."""

from __future__ import annotations


def ones_complement(data: bytes, field_offset: int | None = None) -> int:
    """Complement of the byte sum, the 4 bytes at field_offset counted as zero.

    Source: VHD specification 1.0, "Checksum" of footer and dynamic disk header.
    """
    total = sum(data)
    if field_offset is not None:
        total -= sum(data[field_offset : field_offset + 4])
    return ~total & 0xFFFFFFFF
