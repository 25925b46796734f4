"""Files that are no disks, remembered only so that a scan does not read them again.

There can be a million of them: where there are so many they are looked up a portion at a time, and
they are always written so. Fewer are known at once: their folders are not asked for one by one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from django.db import transaction
from django.db.models import Max, QuerySet

from disks.models import OtherFile, StorageRoot
from disks.services.bulk import insert_rows

_PORTION = 500
_KNOWN_AT_ONCE = 100_000  # some 40 MB


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
        self._rows = OtherFile.objects.filter(root=root)
        self._last = self._rows.aggregate(last=Max("pk"))["last"] or 0  # of earlier scans
        self._known: dict[str, tuple[int, _Look]] = {}  # of all, or the files at hand: key, look
        self._are_few = self._rows.count() <= _KNOWN_AT_ONCE
        if self._are_few:
            self._know(self._rows)
        self._met = _Numbers()  # keys of rows that are right; others are gone, or are disks now
        self._outdated: list[int] = []
        self._new: list[tuple[int, str, *tuple[int, ...]]] = []

    def at_hand(self, relatives: Sequence[str]) -> None:
        """The files that is_unchanged() and add() are about to be asked of."""
        if self._are_few:
            return
        self._known = {}
        for start in range(0, len(relatives), _PORTION):
            self._know(self._rows.filter(relative_path__in=relatives[start : start + _PORTION]))

    def _know(self, rows: QuerySet[OtherFile]) -> None:
        for key, relative, *look in rows.values_list(
            "pk", "relative_path", *_Look._fields
        ).iterator(10_000):
            self._known[relative] = (key, _Look(*look))

    def is_unchanged(self, relative: str, status: os.stat_result) -> bool:
        """Whether this file was read already and is no disk."""
        key, look = self._known.get(relative, (0, None))
        if look != _look(status):
            return False
        self._met.add(key)
        return True

    def add(self, relative: str, status: os.stat_result) -> None:
        self._new.append((self.root.pk, relative, *_look(status)))
        if relative in self._known:
            self._outdated.append(self._known[relative][0])
        if len(self._new) >= _PORTION:
            self._write()

    def write(self, is_unread: Callable[[str], bool]) -> None:
        """is_unread: whether a path lies in a folder that could not be listed now."""
        rows = self._rows.filter(pk__lte=self._last).values_list("pk", "relative_path")
        for key, relative in rows.iterator(10_000):
            if key not in self._met and not is_unread(relative):
                self._outdated.append(key)
        self._write()

    def _write(self) -> None:
        new, self._new = self._new, []
        outdated, self._outdated = self._outdated, []
        with transaction.atomic():
            for start in range(0, len(outdated), _PORTION):
                self._rows.filter(pk__in=outdated[start : start + _PORTION]).delete()
            insert_rows(OtherFile, ["root", "relative_path", *_Look._fields], new)


class _Numbers:
    """A set of keys of rows, a bit for each."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, number: int) -> None:
        missing = number // 8 + 1 - len(self._bits)
        if missing > 0:
            self._bits.extend(bytes(max(missing, len(self._bits))))
        self._bits[number // 8] |= 1 << number % 8

    def __contains__(self, number: int) -> bool:
        return number // 8 < len(self._bits) and bool(self._bits[number // 8] >> number % 8 & 1)
