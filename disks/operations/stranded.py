"""Disks in the trash that a merge makes unreadable: they build on what it merges into.

Until then they can be restored, and read. Afterwards their parent is another disk.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence

from disks.engine.errors import ImageError
from disks.operations import family, trash
from disks.operations.headers import read_header
from disks.operations.new_copy import Level
from disks.operations.paths import Roots
from disks.operations.trash.manifests import Entry


def warnings(roots: Roots, levels: Sequence[Level]) -> list[str]:
    """What a plan says of them. levels: the merged disks, leaf first; all others are merged into.

    The trash of each root is looked into, and the one beside the disks. What cannot be read
    there is passed over: nothing of it would be readable afterwards, or before.
    """
    into = {level.identity for level in levels[1:]}
    merged = {level.identity for level in levels}
    folders = [root.path for root in roots.roots]
    folders += [os.path.dirname(level.path) for level in levels]
    found = sorted(
        entry.original
        for entry in _restorable(roots, dict.fromkeys(folders))
        if entry.identity not in merged and _parent_identity(roots, entry.trash) in into
    )
    if not found:
        return []
    one = len(found) == 1
    what = "A disk in the trash builds" if one else f"{len(found):,} disks in the trash build"
    return [
        f"{what} on what is merged into, and cannot be read any more afterwards, restored or not: "
        f"{family.listed(found)}. Restore what is still needed first."
    ]


def _restorable(roots: Roots, folders: Iterable[str]) -> Iterator[Entry]:
    for folder in folders:
        with contextlib.suppress(ImageError):
            for manifest in trash.list_trash(folder, roots):
                if manifest.can_be_restored:
                    yield from manifest.entries_here


def _parent_identity(roots: Roots, path: str) -> str:
    with contextlib.suppress(ImageError):
        return read_header(roots, path).parent_identity
    return ""
