"""The catalog's rows as a scan compares files with them: by path, by inode, by content."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from disks.models import Disk, ParentLink
from disks.services.reading import Reading

_COLUMNS = (
    "pk", "root_id", "relative_path", "inode", "file_size_bytes", "mtime_ns", "ctime_ns",
    "identity", "header_hash", "own_health", "managed_by", "disk_type", "missing_since",
)  # fmt: skip


class Known(NamedTuple):
    """A catalog row as a scan compares it."""

    pk: int
    root: int
    relative: str
    inode: int | None
    size: int
    mtime_ns: int | None
    ctime_ns: int | None
    identity: str
    header_hash: str
    own_health: str
    managed_by: str
    disk_type: str
    missing_since: datetime | None

    @property
    def is_missing(self) -> bool:
        return self.missing_since is not None

    def is_unchanged(self, status: os.stat_result) -> bool:
        return (
            self.inode == status.st_ino
            and self.size == status.st_size
            and self.mtime_ns == status.st_mtime_ns
            and self.ctime_ns == status.st_ctime_ns
            # What could not be read last time is tried again.
            and self.own_health not in (Disk.Health.IN_USE, Disk.Health.UNREADABLE)
        )


Content = tuple[str, int, str]  # identity, size, hash of the headers


def content_of(found: Reading) -> Content:
    return found.identity, found.status.st_size, found.header_hash


@dataclass
class KnownFiles:
    """Every row of the catalog: a file can come from any root. by_path: of the scanned ones."""

    by_path: dict[tuple[int, str], Known] = field(default_factory=dict)
    by_inode: dict[int, list[Known]] = field(default_factory=lambda: defaultdict(list))
    by_content: dict[Content, list[Known]] = field(default_factory=lambda: defaultdict(list))
    # Left by a scan that was killed between writing disks and writing their links.
    unlinked: set[int] = field(default_factory=set)

    @classmethod
    def load(cls, scanned: Collection[int]) -> KnownFiles:
        known_files = cls()
        rows = Disk.objects.order_by().values_list(*_COLUMNS)
        for row in rows.iterator(10_000):
            known_files._add(Known(*row), scanned)
        linked = set(ParentLink.objects.values_list("child_id", flat=True))
        known_files.unlinked = {
            known.pk
            for known in known_files.by_path.values()
            if known.disk_type == "differencing" and known.pk not in linked
        }
        return known_files

    def _add(self, known: Known, scanned: Collection[int]) -> None:
        if known.root in scanned:
            self.by_path[known.root, known.relative] = known
        if known.inode is not None:
            self.by_inode[known.inode].append(known)
        if known.identity:
            self.by_content[known.identity, known.size, known.header_hash].append(known)

    def may_hold(self, found: Reading) -> bool:
        """Whether the file may be a known one at a new place."""
        return found.status.st_ino in self.by_inode or (
            bool(found.identity) and content_of(found) in self.by_content
        )
