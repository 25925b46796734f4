"""Observations about an image, even a broken one, and about a child and its parent."""

from __future__ import annotations

from collections.abc import Iterator

from disks.engine import formats
from disks.engine.errors import ImageError, NotAnImage
from disks.engine.files import ImageFile
from disks.engine.findings import Finding, Level
from disks.engine.images import Image
from disks.engine.walk import Report, unreported


def check_image(
    file: ImageFile, *, deep: bool = False, report: Report = unreported
) -> list[Finding]:
    """Every invariant that one file can break. deep: also each sector bitmap and clear sector.

    Never raises for what the file holds: a file that is no disk is one finding. What report
    raises goes through; its bytes are places in the file, up to its size.
    """
    try:
        return formats.identify(file).check(file, deep=deep, report=report)
    except NotAnImage as error:
        findings = [Finding.from_error(error)]
        if error.value is None:
            # Neither a format nor a known stranger: perhaps a disk with something behind it.
            for one in formats.FORMATS:
                findings += [f for f in one.check(file) if f.code != error.code]
        return findings
    except ImageError as error:
        return [Finding.from_error(error)]


def pair_errors(child: Image, parent: Image) -> Iterator[ImageError]:
    """Why nothing may be read through this parent, even if its identity is the right one."""

    def error(code: str, message: str, value: int | str) -> ImageError:
        return ImageError(code, message, file=child.file.path, field="parent", value=value)

    if child.format_name != parent.format_name:
        yield error(
            "E_PARENT_FORMAT",
            f"The parent's format is {parent.format_name.upper()}, the child's "
            f"{child.format_name.upper()}; both must be of one format.",
            parent.format_name,
        )
    if child.logical_sector_bytes != parent.logical_sector_bytes:
        yield error(
            "E_PARENT_SECTOR_SIZE",
            f"The parent has sectors of {parent.logical_sector_bytes} bytes, the child of "
            f"{child.logical_sector_bytes}.",
            parent.logical_sector_bytes,
        )


def check_link(child: Image, parent: Image) -> list[Finding]:
    """What only shows when both are open: identity, sizes, timestamp, format."""
    reference = child.parent
    if reference is None:
        return []
    findings = [Finding.from_error(error) for error in pair_errors(child, parent)]

    def add(level: Level, code: str, message: str, value: int | str) -> None:
        findings.append(Finding(level, code, message, "parent", None, value))

    if reference.identity != parent.identity:
        add(
            Level.ERROR,
            "E_PARENT_IDENTITY",
            f"The parent's identity is {parent.identity}; the child was made from "
            f"{reference.identity}.",
            parent.identity,
        )
    if child.virtual_disk_id != parent.virtual_disk_id:
        add(
            Level.WARNING,
            "W_VIRTUAL_DISK_ID",
            f"The parent's virtual disk id is {parent.virtual_disk_id}, the child's "
            f"{child.virtual_disk_id}; all disks of one chain share one.",
            parent.virtual_disk_id or "",
        )
    if child.virtual_size_bytes < parent.virtual_size_bytes:
        add(
            Level.ERROR,
            "E_PARENT_SIZE",
            f"The child's virtual size is {child.virtual_size_bytes:,} bytes, smaller than the "
            f"parent's {parent.virtual_size_bytes:,}: it cannot be merged.",
            parent.virtual_size_bytes,
        )
    elif child.virtual_size_bytes > parent.virtual_size_bytes:
        add(
            Level.WARNING,
            "W_PARENT_SIZE",
            f"The child's virtual size is {child.virtual_size_bytes:,} bytes, the parent's "
            f"{parent.virtual_size_bytes:,}; Windows refuses such a pair.",
            parent.virtual_size_bytes,
        )
    if reference.timestamp is not None:
        written = int(parent.file.stat().st_mtime)
        if int(reference.timestamp.timestamp()) != written:
            add(
                Level.NOTE,
                "N_PARENT_TIMESTAMP",
                "The parent file's modification time is not the one that the child recorded; "
                "copying a file is enough for that.",
                written,
            )
    return findings
