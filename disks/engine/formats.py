"""What a format offers, and which one a file has: its content decides, never its name.

A format is a folder beside this file (`vhd/`) and one line here. Nothing above the engine
knows which one it works on.
"""

from __future__ import annotations

from typing import Protocol

from disks.engine import vhd, vhdx
from disks.engine.errors import ImageError, NotAnImage
from disks.engine.files import ImageFile
from disks.engine.findings import Finding
from disks.engine.images import Image, RawRegion
from disks.engine.new_image import Choices, Target
from disks.engine.walk import Report, unreported


class Format(Target, Protocol):
    """One disk format. All functions read the content, never the extension."""

    choices: Choices

    def matches(self, file: ImageFile) -> bool:
        """True if the content claims this format, sound or damaged."""
        ...

    def open(self, file: ImageFile) -> Image: ...

    def check(
        self, file: ImageFile, *, deep: bool = False, report: Report = unreported
    ) -> list[Finding]:
        """Every invariant that this one file can break; goes on after the first.

        report's bytes are places in the file, up to its size.
        """
        ...

    def check_opened(self, image: Image) -> list[Finding]:
        """As check(), not deep, for an image of this format that was opened already."""
        ...

    def named_parent(self, file: ImageFile) -> str | None:
        """What a file that does not open as a disk still says about its parent.

        Its identity; "" where it surely has none, or is nothing of this format; None where
        that cannot be told.
        """
        ...

    def header_bytes(self, file: ImageFile) -> bytes:
        """The metadata whose hash stands for "this file is unchanged" (footer and headers)."""
        ...

    def raw_regions(self, file: ImageFile) -> list[RawRegion]:
        """As `Image.raw_regions`, of a file that may be too damaged to open."""
        ...


FORMATS: tuple[Format, ...] = (vhd.FORMAT, vhdx.FORMAT)

# Signatures of formats that are recognised in order to name them: offset, bytes, name.
_FOREIGN = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0x40, b"\x7f\x10\xda\xbe", "VDI"),
)
_ISO = (0x8001, b"CD001", "ISO 9660")


def by_name(name: str) -> Format:
    """The format called `vhd`, …; KeyError for others."""
    for one in FORMATS:
        if one.name == name:
            return one
    raise KeyError(name)


def _foreign_name(file: ImageFile, *, iso: bool) -> str | None:
    head = file.read_at(0, min(file.size_bytes, 0x80))
    for offset, signature, name in _FOREIGN:
        if head[offset : offset + len(signature)] == signature:
            return name
    offset, signature, name = _ISO
    end = offset + len(signature)
    if iso and file.size_bytes >= end and file.read_at(offset, len(signature)) == signature:
        return name
    return None


def identify(file: ImageFile) -> Format:
    """The one format that the content claims.

    Raises NotAnImage (`E_TOO_SMALL`, `E_NO_FOOTER`) for none, naming a known foreign format,
    and `E_AMBIGUOUS_FORMAT` for two: such a file is read by none of them.
    """
    matching = [one for one in FORMATS if one.matches(file)]
    # A fixed VHD may well hold an ISO image as its content, but no other disk image's head.
    foreign = _foreign_name(file, iso=vhd.FORMAT not in matching)
    known = {one.name.upper() for one in matching}
    if len(matching) > 1 or (matching and foreign is not None and foreign not in known):
        names = sorted({*known, *([foreign] if foreign else [])})
        raise ImageError(
            "E_AMBIGUOUS_FORMAT",
            f"The content claims to be {' and '.join(names)} at once.",
            file=file.path,
        )
    if matching:
        return matching[0]
    if file.size_bytes < 512:
        raise NotAnImage(
            "E_TOO_SMALL",
            f"The file has {file.size_bytes} bytes; no virtual disk is that small.",
            file=file.path,
            value=file.size_bytes,
        )
    if foreign is not None:
        raise NotAnImage(
            "E_NO_FOOTER",
            f"The file is a {foreign} image, which this console does not read.",
            file=file.path,
            value=foreign,
        )
    raise NotAnImage(
        "E_NO_FOOTER",
        "The file is no virtual disk: no known format is found in its content.",
        file=file.path,
    )


def named_parent(file: ImageFile) -> str | None:
    """What a file that does not open as a disk says about its parent: see `Format`.

    None if any format leaves it open. Raises ImageError where the storage fails.
    """
    told = [one.named_parent(file) for one in FORMATS]
    return None if None in told else next((identity for identity in told if identity), "")


def open_image(file: ImageFile) -> Image:
    """Open whatever format the content has. Raises ImageError; file stays the caller's then."""
    return identify(file).open(file)
