"""Which row is a file at a new place? Moved files keep their history, copies are new."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from disks.engine.errors import ImageError
from disks.models import StorageRoot
from disks.services import roots
from disks.services.known_files import Content, Known, KnownFiles, content_of
from disks.services.reading import Reading


@dataclass(slots=True)
class Found:
    """A file at a path where no row is, or where another disk was (displaced)."""

    root: StorageRoot
    relative: str
    reading: Reading
    displaced: Known | None = None

    @property
    def name(self) -> str:
        return os.path.basename(self.relative)


@dataclass
class Placing:
    """What became of the files that waited.

    moved  rows whose file lies elsewhere now
    kept   rows whose place another disk took over, because nothing tells where theirs went
    fresh  files without a row
    """

    moved: list[tuple[Known, Found]] = field(default_factory=list)
    kept: list[tuple[Known, Found]] = field(default_factory=list)
    fresh: list[Found] = field(default_factory=list)


class Gone:
    """Whether a row's file is gone from its place; rows of offline roots never are."""

    def __init__(
        self, scanned: Sequence[StorageRoot], seen: Collection[int], displaced: Collection[int]
    ) -> None:
        self._scanned = {root.pk for root in scanned}
        self._seen = seen
        self._displaced = displaced
        usable = StorageRoot.objects.exclude(
            state__in=[StorageRoot.State.OFFLINE, StorageRoot.State.CHANGED]
        )
        self._paths = {root.pk: root.path for root in usable}
        self.devices = {root.pk: root.device for root in usable}
        self.devices |= {root.pk: root.device for root in scanned}
        self._roots = roots.operation_roots()

    def is_gone(self, known: Known) -> bool:
        if known.pk in self._displaced:
            return True
        if known.root in self._scanned:
            return known.pk not in self._seen
        if known.root not in self._paths:
            return False
        try:
            self._roots.stat(os.path.join(self._paths[known.root], known.relative))
        except ImageError as error:
            return error.code == "E_NOT_FOUND"
        return False


def place(
    waiting: Sequence[Found],
    known_files: KnownFiles,
    scanned: Sequence[StorageRoot],
    seen: Collection[int],
) -> Placing:
    """Give rows whose file is gone from its place to the files that are those files now.

    The same file (inode) first; then the same content under another inode, where only
    one row and one file fit together. What is left is new: a copy is a row of its own.

    seen: rows whose file was met at its place, in a scan of these roots that is complete.
    """
    placing = Placing()
    if not waiting:
        return placing
    gone = Gone(scanned, seen, {one.displaced.pk for one in waiting if one.displaced is not None})
    taken: set[int] = set()
    left: list[Found] = []
    for found in waiting:
        known = _same_file(found, known_files, gone, taken)
        if known is not None:
            taken.add(known.pk)
            placing.moved.append((known, found))
        else:
            left.append(found)
    rivals: dict[Content, list[Found]] = defaultdict(list)
    for found in left:
        rivals[content_of(found.reading)].append(found)
    for found in left:
        known = _same_content(found, rivals, known_files, gone, taken)
        if known is not None:
            taken.add(known.pk)
            placing.moved.append((known, found))
        elif found.displaced is not None and found.displaced.pk not in taken:
            # Nothing tells where the other disk went: the place keeps its history.
            taken.add(found.displaced.pk)
            placing.kept.append((found.displaced, found))
        else:
            # Also who lost its row to a move after it was kept in place.
            placing.fresh.append(found)
    return placing


def _same_file(found: Found, known_files: KnownFiles, gone: Gone, taken: set[int]) -> Known | None:
    status, identity = found.reading.status, found.reading.identity
    for known in known_files.by_inode.get(status.st_ino, ()):
        if known.pk in taken or known.root not in gone.devices:
            continue
        same_disk = not known.identity or not identity or known.identity == identity
        if gone.devices[known.root] == status.st_dev and same_disk and gone.is_gone(known):
            return known
    return None


def _same_content(
    found: Found,
    rivals: dict[Content, list[Found]],
    known_files: KnownFiles,
    gone: Gone,
    taken: set[int],
) -> Known | None:
    if not found.reading.identity:
        return None
    content = content_of(found.reading)
    fitting = [
        known
        for known in known_files.by_content.get(content, ())
        if known.pk not in taken and gone.is_gone(known)
    ]
    alike = rivals[content]
    if len(fitting) == 1 and len(alike) == 1:
        return fitting[0]
    named = [known for known in fitting if os.path.basename(known.relative) == found.name]
    same_name = [other for other in alike if other.name == found.name]
    return named[0] if len(named) == 1 and len(same_name) == 1 else None
