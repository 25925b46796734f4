"""Disks in the trash that a merge makes unreadable: they build on what it merges into.

Until then they can be restored, and read. Afterwards their parent is another disk.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from disks.engine.errors import ImageError
from disks.operations import family, trash
from disks.operations.headers import read_header
from disks.operations.new_copy import Level
from disks.operations.paths import Roots


@dataclass(frozen=True, slots=True)
class Trashed:
    """A disk in the trash: where it lay, its identity, and those that its parent may have."""

    original: str
    identity: str
    may_build_on: tuple[str, ...]


class TrashSeen:
    """What the trash holds that can be restored, each folder looked into once: several plans that
    are made together need not read it again.
    """

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._below: dict[str, list[Trashed]] = {}

    def below(self, folder: str) -> list[Trashed]:
        """Of the trash of this folder. What cannot be read there is passed over: nothing of it
        would be readable after a merge, or before.
        """
        if folder not in self._below:
            self._below[folder] = list(_restorable(self._roots, folder))
        return self._below[folder]


def warnings(roots: Roots, levels: Sequence[Level], seen: TrashSeen | None = None) -> list[str]:
    """What a plan says of them. levels: the merged disks, leaf first; all others are merged into.

    The trash of each root is looked into, and the one beside the disks. seen: looked into before
    """
    seen = seen or TrashSeen(roots)
    into = {level.identity for level in levels[1:]}
    merged = {level.identity for level in levels}
    folders = [root.path for root in roots.roots]
    folders += [os.path.dirname(level.path) for level in levels]
    found = sorted(
        one.original
        for folder in dict.fromkeys(folders)
        for one in seen.below(folder)
        if one.identity not in merged and not into.isdisjoint(one.may_build_on)
    )
    if not found:
        return []
    one = len(found) == 1
    what = "A disk in the trash builds" if one else f"{len(found):,} disks in the trash build"
    return [
        f"{what} on what is merged into, and cannot be read any more afterwards, restored or not: "
        f"{family.listed(found)}. Restore what is still needed first."
    ]


def _restorable(roots: Roots, folder: str) -> Iterator[Trashed]:
    with contextlib.suppress(ImageError):
        for manifest in trash.list_trash(folder, roots):
            if manifest.can_be_restored:
                for entry in manifest.entries_here:
                    parents = _may_build_on(roots, entry.trash)
                    yield Trashed(entry.original, entry.identity, parents)


def _may_build_on(roots: Roots, path: str) -> tuple[str, ...]:
    with contextlib.suppress(ImageError):
        return read_header(roots, path).may_build_on
    return ()
