"""The hard disk footer: its layout, and whether its checksum is right."""

from __future__ import annotations

import struct
from typing import NamedTuple

from disks.engine.errors import ImageError
from disks.engine.units import GIB
from disks.engine.vhd.checksum import ones_complement
from disks.engine.vhd.text import ascii_label

FOOTER_BYTES = 512
OLD_FOOTER_BYTES = 511  # Virtual PC before 2004 left the last reserved byte out
COOKIE = b"conectix"
POISON = b"v_poison"  # blktap: a journalled operation is under way
VERSION = 0x00010000
NO_DATA_OFFSET = 0xFFFFFFFFFFFFFFFF
MAX_SIZE_BYTES = 2040 * GIB

FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
FEATURE_TEMPORARY = 1
FEATURE_RESERVED = 2

_LAYOUT = struct.Struct(">8sIIQI4sI4sQQHBBII16sBB426s")
CHECKSUM_OFFSET = 64
assert _LAYOUT.size == FOOTER_BYTES  # noqa: S101 - the layout itself, at import

# Field offsets, for messages and the hex view.
OFFSETS = {
    "cookie": (0, 8),
    "features": (8, 4),
    "file_format_version": (12, 4),
    "data_offset": (16, 8),
    "timestamp": (24, 4),
    "creator_application": (28, 4),
    "creator_version": (32, 4),
    "creator_host_os": (36, 4),
    "original_size": (40, 8),
    "current_size": (48, 8),
    "cylinders": (56, 2),
    "heads": (58, 1),
    "sectors_per_track": (59, 1),
    "disk_type": (60, 4),
    "checksum": (64, 4),
    "unique_id": (68, 16),
    "saved_state": (84, 1),
    "hidden": (85, 1),
    "reserved": (86, 426),
}


class Footer(NamedTuple):
    """The fields as stored, in the specification's order and words; hidden is blktap's."""

    cookie: bytes
    features: int
    file_format_version: int
    data_offset: int
    timestamp: int
    creator_application: bytes
    creator_version: int
    creator_host_os: bytes
    original_size: int
    current_size: int
    cylinders: int
    heads: int
    sectors_per_track: int
    disk_type: int
    checksum: int
    unique_id: bytes
    saved_state: int
    hidden: int
    reserved: bytes

    @classmethod
    def parse(cls, data: bytes) -> Footer:
        """Cut 512 bytes (511: the missing byte counts as zero) into fields; judges nothing."""
        return cls._make(_LAYOUT.unpack(data.ljust(FOOTER_BYTES, b"\0")))

    def pack(self) -> bytes:
        """512 bytes with a fresh checksum."""
        data = _LAYOUT.pack(*self._replace(checksum=0))
        return _LAYOUT.pack(*self._replace(checksum=ones_complement(data)))

    @property
    def creator(self) -> str:
        """Application code and version, as `win  10.0`."""
        major, minor = self.creator_version >> 16, self.creator_version & 0xFFFF
        return f"{ascii_label(self.creator_application)} {major}.{minor}"


def checksum_is_right(data: bytes) -> bool:
    """Whether a footer's bytes agree with the checksum in them.

    Old blktap (`tap` 0.1 and 1.1) set the hidden byte and left the checksum as it was;
    that one difference is forgiven.
    """
    stored = int.from_bytes(data[CHECKSUM_OFFSET : CHECKSUM_OFFSET + 4])
    computed = ones_complement(data, CHECKSUM_OFFSET)
    if stored == computed:
        return True
    if data[28:32] == b"tap\0" and data[32:36] in (b"\0\0\0\1", b"\0\1\0\1"):
        return stored == (computed + data[85]) & 0xFFFFFFFF
    return False


def too_large(size_bytes: int) -> ImageError:
    """A virtual size that no VHD can have."""
    return ImageError(
        "E_TOO_LARGE",
        f"A VHD holds at most 2,040 GiB ({MAX_SIZE_BYTES:,} bytes); {size_bytes:,} bytes are more.",
        field="current_size",
        value=size_bytes,
    )
