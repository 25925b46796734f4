"""CRC-32C over structures that hold their own checksum in bytes 4 to 8."""

from __future__ import annotations

import google_crc32c

_FIELD = slice(4, 8)
_ZEROS = bytes(4)


def crc32c(data: bytes) -> int:
    """Of a header, a region table or a log entry, its checksum field counted as zero.

    Source: [MS-VHDX] 2.2.2, 2.2.3, 2.3.1.1 (Castagnoli polynomial).
    """
    start = google_crc32c.value(data[:4] + _ZEROS)
    return int(google_crc32c.extend(start, data[8:]))


def is_right(data: bytes) -> bool:
    return int.from_bytes(data[_FIELD], "little") == crc32c(data)


def sealed(data: bytes) -> bytes:
    """The same bytes with a right checksum."""
    return data[:4] + crc32c(data).to_bytes(4, "little") + data[8:]
