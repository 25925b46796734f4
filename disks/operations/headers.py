"""The headers of the disks below some folders: who is who, and who names whom as parent."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from disks.engine.errors import ImageError
from disks.engine.formats import open_image
from disks.engine.images import DiskType
from disks.operations.paths import Roots


@dataclass(frozen=True, slots=True)
class Header:
    """What a search needs to know of one disk; sizes in bytes, ids "" where there are none.

    parent_also, parent_problem: see `ParentReference`; "" for none
    """

    path: str
    format_name: str
    disk_type: DiskType
    identity: str
    virtual_size_bytes: int
    file_size_bytes: int
    allocated_bytes: int
    logical_sector_bytes: int
    parent_identity: str
    parent_timestamp: datetime | None
    mtime_ns: int
    virtual_disk_id: str = ""
    parent_also: str = ""
    parent_problem: str = ""

    @property
    def may_build_on(self) -> tuple[str, ...]:
        """The identities that the parent may have, by which one program or another opens it."""
        return tuple(one for one in (self.parent_identity, self.parent_also) if one)


def read_header(roots: Roots, path: str) -> Header:
    """Raises ImageError for what is no disk or cannot be opened."""
    with roots.open(path) as file:
        image = open_image(file)
        status = file.stat()
        return Header(
            path=path,
            format_name=image.format_name,
            disk_type=image.disk_type,
            identity=image.identity,
            virtual_size_bytes=image.virtual_size_bytes,
            file_size_bytes=status.st_size,
            allocated_bytes=status.st_blocks * 512,
            logical_sector_bytes=image.logical_sector_bytes,
            parent_identity=image.parent.identity if image.parent else "",
            parent_timestamp=image.parent.timestamp if image.parent else None,
            mtime_ns=status.st_mtime_ns,
            virtual_disk_id=image.virtual_disk_id or "",
            parent_also=image.parent.also if image.parent else "",
            parent_problem=(image.parent.identity_problem or "") if image.parent else "",
        )


def headers_below(
    roots: Roots,
    places: Iterable[str],
    *,
    problems: list[ImageError] | None = None,
    no_disks: list[ImageError] | None = None,
) -> Iterator[Header]:
    """The sound disks among places: folders (searched all the way down) and files.

    A file is judged by its content. What is no disk is added to no_disks; files that look
    like disks but cannot be read, and folders that cannot be listed, are added to problems.
    """
    for found in everything_below(roots, places):
        if isinstance(found, Header):
            yield found
            continue
        heap = no_disks if found.error.code in _NO_DISK else problems
        if heap is not None:
            heap.append(found.error)


@dataclass(frozen=True, slots=True)
class NotRead:
    """A file without a sound header, or a folder that could not be listed."""

    path: str
    is_folder: bool
    error: ImageError


def everything_below(roots: Roots, places: Iterable[str]) -> Iterator[Header | NotRead]:
    """All files among places, each once, and the folders whose files are not known."""
    files: set[str] = set()  # among places; of all others their folders are remembered
    walked: set[str] = set()
    for place in places:
        unlisted: list[ImageError] = []
        paths: Iterable[str] = [place]
        if not roots.exists(place):
            below = roots.walk(place, problems=unlisted, walked=walked)
            paths = (path for path in below if path not in files)
        elif place in files or os.path.dirname(place) in walked:
            continue
        else:
            files.add(place)
        for path in paths:
            try:
                yield read_header(roots, path)
            except ImageError as error:
                yield NotRead(path, False, error)
        for problem in unlisted:
            yield NotRead(problem.file or place, True, problem)


_NO_DISK = frozenset({"E_TOO_SMALL", "E_NO_FOOTER", "E_NOT_A_FILE"})
