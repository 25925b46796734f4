"""The two copies of a footer, one at each end of the file, and which of them counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from disks.engine.errors import ImageError, NotAnImage
from disks.engine.files import ImageFile
from disks.engine.findings import Finding, Level
from disks.engine.units import MIB, SECTOR_BYTES
from disks.engine.vhd.footer import (
    CHECKSUM_OFFSET,
    COOKIE,
    DIFFERENCING,
    DYNAMIC,
    FIXED,
    FOOTER_BYTES,
    OFFSETS,
    OLD_FOOTER_BYTES,
    POISON,
    Footer,
    checksum_is_right,
)

HEAD_BYTES = 16 * 1024  # one read that usually holds footer copy, header, locators and BAT
_SEARCH_BYTES = 1 * MIB  # how much of the file's end is searched for a lost footer


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
        offset=copy.offset + CHECKSUM_OFFSET,
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
                OFFSETS[different[0]][0] if different else CHECKSUM_OFFSET,
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
