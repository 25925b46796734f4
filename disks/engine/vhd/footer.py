"""The hard disk footer: its fields, its two copies, and which of them counts."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from disks.engine.errors import ImageError, NotAnImage
from disks.engine.files import ImageFile
from disks.engine.findings import Finding, Level
from disks.engine.units import GIB, MIB, SECTOR_BYTES
from disks.engine.vhd.checksum import ones_complement
from disks.engine.vhd.text import ascii_label, moment

FOOTER_BYTES = 512
OLD_FOOTER_BYTES = 511  # Virtual PC before 2004 left the last reserved byte out
HEAD_BYTES = 16 * 1024  # one read that usually holds footer copy, header, locators and BAT
COOKIE = b"conectix"
POISON = b"v_poison"  # blktap: a journalled operation is under way
VERSION = 0x00010000
NO_DATA_OFFSET = 0xFFFFFFFFFFFFFFFF
NO_DATA_OFFSET_BY_TEXT = 0xFFFFFFFF  # the specification's text; no known writer does this
MAX_SIZE_BYTES = 2040 * GIB
_SEARCH_BYTES = 1 * MIB  # how much of the file's end is searched for a lost footer

FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
FEATURE_TEMPORARY = 1
FEATURE_RESERVED = 2

_LAYOUT = struct.Struct(">8sIIQI4sI4sQQHBBII16sBB426s")
_CHECKSUM_OFFSET = 64
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

# Creators seen in the wild (application code as stored).
KNOWN_CREATORS = {
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
    stored = int.from_bytes(data[_CHECKSUM_OFFSET : _CHECKSUM_OFFSET + 4])
    computed = ones_complement(data, _CHECKSUM_OFFSET)
    if stored == computed:
        return True
    if data[28:32] == b"tap\0" and data[32:36] in (b"\0\0\0\1", b"\0\1\0\1"):
        return stored == (computed + data[85]) & 0xFFFFFFFF
    return False


class FooterCopy(NamedTuple):
    """One place where a footer belongs, and what lies there.

    raw      512 bytes (a 511-byte footer is padded with a zero)
    length   bytes that the footer takes in the file: 512 or 511
    footer   None where there is no cookie
    """

    offset: int
    length: int
    raw: bytes
    footer: Footer | None
    is_right: bool

    @property
    def is_poisoned(self) -> bool:
        return self.footer is not None and self.footer.cookie == POISON


class Footers(NamedTuple):
    """Both copies of an image. chosen is the one to go by, None if neither is sound."""

    head: bytes
    front: FooterCopy
    end: FooterCopy
    chosen: FooterCopy | None

    @property
    def differ(self) -> bool:
        return self.front.is_right and self.end.is_right and self.front.raw != self.end.raw


def _copy(offset: int, data: bytes) -> FooterCopy:
    cookie = data[:8]
    if cookie not in (COOKIE, POISON):
        return FooterCopy(offset, len(data), data, None, False)
    raw = data.ljust(FOOTER_BYTES, b"\0")
    return FooterCopy(offset, len(data), raw, Footer.parse(raw), checksum_is_right(raw))


def read_footers(file: ImageFile) -> Footers:
    """Look at both ends of the file.

    The footer at the end wins; where it is not sound, the copy at the front of a dynamic or
    differencing disk counts. Raises NotAnImage (`E_TOO_SMALL`, `E_NO_FOOTER`).

    Source: VHD specification 1.0, "Hard Disk Footer Format".
    """
    size = file.size_bytes
    if size < FOOTER_BYTES:
        raise NotAnImage(
            "E_TOO_SMALL",
            f"The file has {size} bytes; the smallest virtual disk has more than {FOOTER_BYTES}.",
            file=file.path,
            value=size,
        )
    head = file.read_at(0, min(size, HEAD_BYTES))
    tail = head[-FOOTER_BYTES:] if size == len(head) else file.read_at(size - 512, FOOTER_BYTES)
    if tail[1:9] in (COOKIE, POISON):
        end = _copy(size - OLD_FOOTER_BYTES, tail[1:])
    else:
        end = _copy(size - FOOTER_BYTES, tail)
    if head[:512] == end.raw:
        front = FooterCopy(0, FOOTER_BYTES, end.raw, end.footer, end.is_right)
    else:
        front = _copy(0, head[:FOOTER_BYTES])
    if end.footer is None and front.footer is None:
        raise NotAnImage(
            "E_NO_FOOTER",
            "The file has no VHD footer, neither at its end nor at its beginning.",
            file=file.path,
        )
    chosen = None
    if end.is_right:
        chosen = end
    elif front.is_right and front.footer is not None and front.footer.disk_type != FIXED:
        chosen = front
    return Footers(head, front, end, chosen)


def find_lost_footer(file: ImageFile) -> tuple[int, bytes] | None:
    """A sound footer a little before the file's end, with other bytes behind it.

    Returns its offset and its 512 bytes; the last MiB of the file is searched.
    """
    size = file.size_bytes
    start = max(0, size - _SEARCH_BYTES)
    start -= start % SECTOR_BYTES
    data = file.read_at(start, size - start)
    at = data.rfind(COOKIE, 0, max(0, len(data) - FOOTER_BYTES))
    while at >= 0:
        raw = data[at : at + FOOTER_BYTES]
        if start + at > 0 and len(raw) == FOOTER_BYTES and checksum_is_right(raw):
            return start + at, raw
        at = data.rfind(COOKIE, 0, at)
    return None


def unusable(footers: Footers, path: str) -> ImageError:
    """The error for a file whose footers are both not sound."""
    copy = footers.end if footers.end.footer is not None else footers.front
    if copy.footer is None:
        raise AssertionError("read_footers() refuses files without any cookie")
    if footers.end.footer is None and footers.front.is_right:
        return NotAnImage(
            "E_NO_FOOTER",
            "The file ends without a footer, and what stands at its beginning is the footer "
            "of a fixed disk, which does not belong there.",
            file=path,
        )
    return ImageError(
        "E_FOOTER_CHECKSUM",
        "The checksum of the footer is wrong, and there is no sound copy of it.",
        file=path,
        field="checksum",
        offset=copy.offset + _CHECKSUM_OFFSET,
        value=copy.footer.checksum,
    )


def copy_findings(footers: Footers) -> Iterator[Finding]:
    """What is wrong with the pair of footers: damage, difference, a 511-byte footer."""
    front, end, chosen = footers.front, footers.end, footers.chosen
    if chosen is None or chosen.footer is None:
        return
    if front.is_poisoned or end.is_poisoned:
        yield Finding(
            Level.ERROR,
            "E_FOREIGN_JOURNAL",
            "blktap stopped in the middle of changing this disk (its footer says v_poison).",
            "cookie",
            chosen.offset,
            "v_poison",
        )
    if chosen is front:
        what = "is missing" if end.footer is None else "has a wrong checksum"
        yield Finding(
            Level.ERROR,
            "E_FOOTER_END",
            f"The footer at the end of the file {what}; the copy at the beginning is used.",
            "footer",
            end.offset,
        )
    elif chosen.footer.disk_type in (DYNAMIC, DIFFERENCING):
        if footers.differ:
            different = [
                name
                for name in Footer._fields
                if front.footer is not None
                and name != "checksum"
                and getattr(front.footer, name) != getattr(chosen.footer, name)
            ]
            yield Finding(
                Level.ERROR,
                "E_FOOTERS_DIFFER",
                "The footer and its copy at the beginning are both sound but differ in "
                f"{', '.join(different) or 'the checksum'}; the footer at the end is used.",
                different[0] if different else "checksum",
                OFFSETS[different[0]][0] if different else _CHECKSUM_OFFSET,
                ", ".join(different),
            )
        elif not front.is_right:
            what = "is missing" if front.footer is None else "has a wrong checksum"
            yield Finding(
                Level.ERROR,
                "E_FOOTER_FRONT",
                f"The copy of the footer at the beginning of the file {what}.",
                "footer",
                0,
            )
    if end.footer is not None and end.length == OLD_FOOTER_BYTES:
        yield Finding(
            Level.WARNING,
            "W_OLD_FOOTER",
            "The footer has 511 bytes, as Virtual PC wrote before 2004; some tools refuse that.",
            "footer",
            end.offset,
            OLD_FOOTER_BYTES,
        )


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
    if footer.creator_application not in KNOWN_CREATORS:
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


def too_large(size_bytes: int) -> ImageError:
    """A virtual size that no VHD can have."""
    return ImageError(
        "E_TOO_LARGE",
        f"A VHD holds at most 2,040 GiB ({MAX_SIZE_BYTES:,} bytes); {size_bytes:,} bytes are more.",
        field="current_size",
        value=size_bytes,
    )


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
