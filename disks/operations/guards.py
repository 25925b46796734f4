"""Who else may have a say: managers beside the disks, and the declaration that overrules them;
other names of a disk's file, and who wrote it a moment ago.
"""

from __future__ import annotations

import fcntl
import sys
import time
from collections.abc import Iterable, Iterator

from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.findings import Finding, Level
from disks.engine.images import Image
from disks.operations.inspection import managed_by
from disks.operations.managers import Manager
from disks.operations.paths import Roots
from disks.operations.windows import shown


def managers(roots: Roots, disks: Iterable[tuple[str, Image]]) -> list[dict[str, str]]:
    """What manages these disks: code, sentence, way_out, path; nothing for the others."""
    found = []
    for path, image in disks:
        manager = managed_by(path, roots, hidden=image.hidden)
        if manager is not None:
            found.append(manager.as_dict() | {"path": path})
    return found


def in_short(managed: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """Each manager once, with the number of its disks where it has several."""
    found: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in managed:
        found.setdefault((row["code"], row["sentence"]), []).append(row)
    return [
        rows[0] | ({"sentence": f"{len(rows):,} disks: {sentence}"} if len(rows) > 1 else {})
        for (_, sentence), rows in found.items()
    ]


def require_offline(managed: Iterable[dict[str, str]], *, offline: bool) -> None:
    """E_MANAGED if something manages one of the disks and nobody declared them offline.

    What is open on this storage is told by the locks; Windows hosts ignore those, so the
    console asks for the declaration in any case where a root is opened by them.
    """
    for row in managed:
        if offline:
            return
        raise ImageError(
            "E_MANAGED",
            f"{row['path']}: {row['sentence']} {row['way_out']}",
            file=row["path"],
            field="managed_by",
            value=row["code"],
        )


RECENT_SECONDS = 300
_GET_ATTRIBUTES = 0x80086601  # FS_IOC_GETFLAGS, of linux/fs.h
_NEVER_RENAMED = 0x10 | 0x20  # FS_IMMUTABLE_FL, FS_APPEND_FL


def require_one_name(file: ImageFile) -> None:
    """E_HARD_LINKS: what is written in place changes under every name of the file."""
    links = file.stat().st_nlink
    if links > 1:
        raise ImageError(
            "E_HARD_LINKS",
            f"{shown(file.path)} has {links} names (hard links). Its header is not changed, "
            "because it would change under the other name too.",
            file=file.path,
            field="links",
            value=links,
        )


def require_movable(file: ImageFile) -> None:
    """E_ACCESS: the file is marked as one that is never renamed (`chattr +i`, `+a`).

    A job that met that past its commit could not come to its end.
    """
    try:
        stored = fcntl.ioctl(file.fd, _GET_ATTRIBUTES, bytes(8))
    except OSError:
        return  # a file system that knows no such attributes
    if int.from_bytes(stored[:4], sys.byteorder) & _NEVER_RENAMED:
        raise ImageError(
            "E_ACCESS",
            f"{shown(file.path)} is marked as immutable or append-only, so it cannot be moved to "
            "the trash or get another name.",
            advice="Take the attribute away first (chattr -i -a).",
            file=file.path,
            field="attributes",
        )


def recent_write(roots: Roots, file: ImageFile) -> Iterator[Finding]:
    """A warning where the disk was written a moment ago: perhaps a machine runs on it.

    None where it was a job of ours.
    """
    written = file.stat().st_mtime
    seconds = time.time() - written
    if 0 <= seconds < RECENT_SECONDS and not roots.is_our_write(file.path, written):
        number, unit = (seconds, "second") if seconds < 120 else (seconds / 60, "minute")
        words = f"{int(number)} {unit}{'' if int(number) == 1 else 's'}"
        yield Finding(
            Level.WARNING,
            "W_RECENT_WRITE",
            f"The disk was written {words} ago; perhaps somebody has it open.",
            "mtime",
            None,
            int(seconds),
        )


def managed(path: str, manager: Manager) -> ImageError:
    """E_MANAGED: somebody else keeps books about this disk, and nobody has taken that on."""
    return ImageError(
        "E_MANAGED",
        f"{shown(path)} is not changed without a declaration. {manager.sentence} {manager.way_out}",
        file=path,
        field="managed_by",
        value=manager.code,
    )
