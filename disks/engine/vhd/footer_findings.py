"""Everything that the fields of one footer can break."""

from __future__ import annotations

from collections.abc import Iterator

from disks.engine.findings import Finding, Level
from disks.engine.units import SECTOR_BYTES
from disks.engine.vhd.footer import (
    DIFFERENCING,
    DYNAMIC,
    FEATURE_RESERVED,
    FEATURE_TEMPORARY,
    FIXED,
    MAX_SIZE_BYTES,
    NO_DATA_OFFSET,
    OFFSETS,
    VERSION,
    Footer,
)
from disks.engine.vhd.geometry import geometry_of
from disks.engine.vhd.text import ascii_label, moment

# Creators seen in the wild (application code as stored).
_KNOWN_CREATORS = {
    b"vpc ": "Microsoft Virtual PC",
    b"vs  ": "Microsoft Virtual Server",
    b"win ": "Windows or Hyper-V",
    b"qemu": "QEMU",
    b"qem2": "QEMU",
    b"vbox": "VirtualBox",
    b"dutl": "DiscUtils",
    b"d2v ": "Disk2vhd",
    b"CTXS": "Citrix XenConvert",
    b"tap\0": "blktap (XenServer, XCP-ng)",
    b"xo  ": "Xen Orchestra",
}


def _field(
    level: Level, code: str, message: str, base: int, name: str, value: int | str
) -> Finding:
    return Finding(level, code, message, name, base + OFFSETS[name][0], value)


FATAL = frozenset({"E_VERSION", "E_DISK_TYPE", "E_SIZE"})
_NO_RESERVED = bytes(OFFSETS["reserved"][1])
_NO_IDENTITY = (bytes(16), b"\xff" * 16)


def field_findings(footer: Footer, base: int, now: int) -> Iterator[Finding]:
    """Everything that one footer's fields can break. base: its offset; now: as stored times.

    The codes in FATAL make the disk unreadable.
    """
    if footer.file_format_version != VERSION:
        version = footer.file_format_version
        yield _field(
            Level.ERROR,
            "E_VERSION",
            f"The footer has format version {version >> 16}.{version & 0xFFFF}; only 1.0 is known.",
            base,
            "file_format_version",
            version,
        )
    if footer.disk_type not in (FIXED, DYNAMIC, DIFFERENCING):
        yield _field(
            Level.ERROR,
            "E_DISK_TYPE",
            f"The footer names disk type {footer.disk_type}; 2 (fixed), 3 (dynamic) and "
            "4 (differencing) exist.",
            base,
            "disk_type",
            footer.disk_type,
        )
    size = footer.current_size
    if size == 0 or size % SECTOR_BYTES or size > MAX_SIZE_BYTES:
        yield _field(
            Level.ERROR,
            "E_SIZE",
            f"The virtual size is {size:,} bytes; it must be a multiple of 512, more than "
            "0 and at most 2,040 GiB.",
            base,
            "current_size",
            size,
        )
    if footer.unique_id in _NO_IDENTITY:
        yield _field(
            Level.ERROR,
            "E_IDENTITY",
            "The disk has no identity (its unique id is empty), so it cannot be a parent.",
            base,
            "unique_id",
            footer.unique_id.hex(),
        )
    if footer.features & ~(FEATURE_TEMPORARY | FEATURE_RESERVED):
        yield _field(
            Level.WARNING,
            "W_FEATURES",
            f"The footer has unknown feature bits: 0x{footer.features:08x}.",
            base,
            "features",
            footer.features,
        )
    if not footer.features & FEATURE_RESERVED:
        yield _field(
            Level.WARNING,
            "W_FEATURES",
            "The feature bit that must always be set is clear; old Virtual PC did that.",
            base,
            "features",
            footer.features,
        )
    if footer.saved_state:
        yield _field(
            Level.WARNING,
            "W_SAVED_STATE",
            "A virtual machine was saved while using this disk (saved state is "
            f"{footer.saved_state}).",
            base,
            "saved_state",
            footer.saved_state,
        )
    if footer.hidden > 1 or footer.reserved != _NO_RESERVED:
        yield _field(
            Level.WARNING,
            "W_RESERVED",
            "Reserved bytes of the footer are not zero.",
            base,
            "reserved",
            footer.hidden,
        )
    if footer.hidden == 1:
        yield _field(
            Level.NOTE,
            "N_HIDDEN",
            "blktap marked this disk as hidden; 7-Zip and DiscUtils refuse to read it.",
            base,
            "hidden",
            1,
        )
    if footer.disk_type == FIXED and footer.data_offset != NO_DATA_OFFSET:
        yield _field(
            Level.WARNING,
            "W_DATA_OFFSET",
            "The data offset of a fixed disk should be all ones.",
            base,
            "data_offset",
            footer.data_offset,
        )
    if footer.creator_application not in _KNOWN_CREATORS:
        yield _field(
            Level.NOTE,
            "N_CREATOR",
            f"The creator “{ascii_label(footer.creator_application)}” is not a known one.",
            base,
            "creator_application",
            ascii_label(footer.creator_application),
        )
    if footer.timestamp == 0 or footer.timestamp > now + 1800:
        yield _field(
            Level.NOTE,
            "N_CREATION_TIME",
            f"The creation time is odd: {moment(footer.timestamp):%Y-%m-%d %H:%M} UTC.",
            base,
            "timestamp",
            footer.timestamp,
        )
    yield from _geometry_findings(footer, base)


def _geometry_findings(footer: Footer, base: int) -> Iterator[Finding]:
    geometry = (footer.cylinders, footer.heads, footer.sectors_per_track)
    product = geometry[0] * geometry[1] * geometry[2] * SECTOR_BYTES
    computed = geometry_of(footer.current_size)
    if geometry == computed:
        return
    shown = "/".join(map(str, geometry))
    if product == 0:
        yield _field(
            Level.WARNING,
            "W_GEOMETRY",
            f"The geometry is {shown}; the size counts.",
            base,
            "cylinders",
            shown,
        )
    elif product > footer.current_size and geometry != (65535, 16, 255):
        yield _field(
            Level.WARNING,
            "W_GEOMETRY",
            f"The geometry {shown} is larger than the virtual size; QEMU may show another "
            "size. The size counts.",
            base,
            "cylinders",
            shown,
        )
    else:
        # Far off means that a reader which believes the geometry loses data.
        far = footer.current_size - product > max(footer.current_size // 10, 64 * 1024 * 1024)
        far = far and geometry != (65535, 16, 255)
        yield _field(
            Level.WARNING if far else Level.NOTE,
            "W_GEOMETRY" if far else "N_GEOMETRY",
            f"The geometry is {shown}, the size would give "
            f"{'/'.join(map(str, computed))}; the size counts.",
            base,
            "cylinders",
            shown,
        )
