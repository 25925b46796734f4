"""Files that are no disks, remembered only so that a scan does not read them again."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from django.db import transaction

from disks.models import OtherFile, StorageRoot

_PORTION = 500


class _Look(NamedTuple):
    """What tells whether a file is as it was."""

    inode: int
    file_size_bytes: int
    mtime_ns: int
    ctime_ns: int


def _look(status: os.stat_result) -> _Look:
    return _Look(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class OtherFiles:
    """Those of one root, while it is scanned."""

    def __init__(self, root: StorageRoot) -> None:
        self.root = root
        rows = OtherFile.objects.filter(root=root).values_list("relative_path", *_Look._fields)
        # What stays in here to the end is gone, or was read again.
        self._known = {relative: _Look(*look) for relative, *look in rows.iterator(10_000)}
        self._found: dict[str, _Look] = {}

    def is_unchanged(self, relative: str, status: os.stat_result) -> bool:
        """Whether this file was read already and is no disk."""
        if self._known.get(relative) != _look(status):
            return False
        del self._known[relative]
        return True

    def add(self, relative: str, status: os.stat_result) -> None:
        self._found[relative] = _look(status)

    def write(self, is_unread: Callable[[str], bool]) -> None:
        """is_unread: whether a path lies in a folder that could not be listed now."""
        stale = [relative for relative in self._known if not is_unread(relative)]
        rows = OtherFile.objects.filter(root=self.root)
        with transaction.atomic():
            for start in range(0, len(stale), _PORTION):
                rows.filter(relative_path__in=stale[start : start + _PORTION]).delete()
            OtherFile.objects.bulk_create(
                (
                    OtherFile(root=self.root, relative_path=relative, **look._asdict())
                    for relative, look in self._found.items()
                ),
                ignore_conflicts=True,
            )
