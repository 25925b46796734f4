"""Every disk of a folder read by its content, with the parents that were found for them.

What lies below the other roots is read, too: a disk there may be the parent of one in the
folder, or build on one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from disks.engine.errors import ImageError
from disks.engine.formats import FORMATS, open_image
from disks.engine.resolution import resolve
from disks.engine.resolution.outcome import Resolution
from disks.operations.forest import Forest, Lost, Member
from disks.operations.headers import Header, headers_below, read_header
from disks.operations.paths import Roots
from disks.operations.progress import Progress

_SIGNS_OF_A_DISK = tuple(end for one in FORMATS for end in one.extensions)


@dataclass
class Survey:
    """What a folder holds.

    no_disks  files with a disk's name whose content is none, or of a format that is not read
    unread    files and folders that could not be read: nobody knows what they depend on
    """

    folder: str
    forest: Forest
    no_disks: list[ImageError] = field(default_factory=list)
    unread: list[ImageError] = field(default_factory=list)


def survey(folder: str, roots: Roots, *, progress: Progress | None = None) -> Survey:
    """Read every disk in a folder and below, and find its parent as every operation does.

    Raises E_NOT_FOUND, E_OUTSIDE_ROOTS … for the folder itself, and Cancelled out of progress.
    """
    next(roots.entries(folder), None)
    no_disks: list[ImageError] = []
    unread: list[ImageError] = []
    headers: dict[str, Header] = {}
    places = [folder, *(root.path for root in roots.roots)]
    found = headers_below(roots, places, problems=unread, no_disks=no_disks)
    for seen, header in enumerate(found, 1):
        headers[header.path] = header
        if progress is not None and seen % 50 == 0:
            progress.report(0, 0, f"{seen:,} disks read")
    members = _Gathering(folder, roots, headers, unread).members()
    return Survey(
        folder,
        Forest(members),
        [error for error in no_disks if _concerns(error, folder)],
        unread,
    )


def _concerns(error: ImageError, folder: str) -> bool:
    """Whether somebody who looks at this folder may have taken the file for a disk."""
    path = error.file or ""
    return is_inside(path, folder) and path.lower().endswith(_SIGNS_OF_A_DISK)


def is_inside(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


class _Gathering:
    """The disks of the folder, and from outside those that hang together with them."""

    def __init__(
        self, folder: str, roots: Roots, headers: dict[str, Header], unread: list[ImageError]
    ) -> None:
        self._folder = folder
        self._roots = roots
        self._headers = headers
        self._unread = unread
        self._naming: dict[str, list[str]] = {}  # parent identity -> disks that name it
        for header in headers.values():
            if header.parent_identity:
                self._naming.setdefault(header.parent_identity, []).append(header.path)
        self._known: dict[str, Member | None] = {}

    def members(self) -> list[Member]:
        """From each disk of the folder down to its base, and up to all that build on either."""
        found: dict[str, Member] = {}
        waiting = [path for path in self._headers if is_inside(path, self._folder)]
        while waiting:
            path = waiting.pop()
            member = self._read(path)
            if member is None or path in found:
                continue
            found[path] = member
            if member.parent is not None:
                waiting.append(member.parent)
            for child in self._naming.get(member.identity, ()):
                above = self._read(child)
                if above is not None and above.parent == path:
                    waiting.append(child)
        return list(found.values())

    def _read(self, path: str) -> Member | None:
        """The disk, its parent looked for once; None if it went away or cannot be read now."""
        if path not in self._known:
            try:
                self._known[path] = self._member(path)
            except ImageError as error:
                self._known[path] = None
                self._unread.append(error)
        return self._known[path]

    def _member(self, path: str) -> Member:
        header = self._headers.get(path)
        if header is None:  # a parent in a folder that searches leave out
            header = self._headers[path] = read_header(self._roots, path)
        found = self._resolution(header)
        lost = None
        if found is not None and found.path is None:
            lost = Lost(found.code or "E_PARENT_MISSING", found.reason, found.suggested)
        return Member(
            path=path,
            identity=header.identity,
            disk_type=str(header.disk_type),
            virtual_size_bytes=header.virtual_size_bytes,
            file_size_bytes=header.file_size_bytes,
            allocated_bytes=header.allocated_bytes,
            mtime_ns=header.mtime_ns,
            inside=is_inside(path, self._folder),
            parent=None if found is None else found.path,
            lost=lost,
            elsewhere=found is not None and None not in (found.path, found.suggested),
        )

    def _resolution(self, header: Header) -> Resolution | None:
        if not header.parent_identity:
            return None
        with self._roots.open(header.path) as file:
            image = open_image(file)
            return None if image.parent is None else resolve(image, header.path, self._roots)
