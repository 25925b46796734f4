"""Who else hangs on a disk: asked before it is merged away or replaced.

A child counts by the identity its header names. One that resolves to another copy of
the same disk (a backup beside its own backup of the parent) is left out of it. A damaged
disk counts, too, if what is left of its headers says so; if nothing is, nobody knows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from disks.engine.errors import ImageError
from disks.engine.formats import named_parent, open_image
from disks.engine.resolution import resolve
from disks.operations.headers import Header, NotRead, everything_below
from disks.operations.paths import Roots, folded
from disks.operations.progress import Progress

ChildrenOf = Callable[[str], Iterable[str]]
NAMED = 5  # files in a message


@dataclass
class Family:
    """Children by the path of their parent, and the files and folders nobody could judge."""

    children: dict[str, list[str]] = field(default_factory=dict)
    unread: dict[str, ImageError] = field(default_factory=dict)

    def of(self, path: str) -> list[str]:
        return self.children.get(path, [])

    def unread_warnings(self) -> list[str]:
        """A sentence for the plan, where something could not be judged."""
        if not self.unread:
            return []
        names = ", ".join(path for path in list(self.unread)[:5])
        more = f" and {len(self.unread) - 5} more" if len(self.unread) > 5 else ""
        return [
            f"{len(self.unread)} files could not be read, so it is not known whether they are "
            f"children of a disk that is changed: {names}{more}."
        ]


def look(
    roots: Roots,
    parents: dict[str, str],
    *,
    children_of: ChildrenOf | None = None,
    suspects: Iterable[str] = (),
    scan: bool = True,
    progress: Progress | None = None,
) -> Family:
    """Find the children of some disks.

    parents      path -> identity
    children_of  what a catalog knows; believed in addition to the scan
    suspects     files and folders that a catalog could not read; looked at again
    scan         read the headers of everything below all roots, now

    Raises Cancelled out of progress.
    """
    family = Family()
    by_identity: dict[str, list[str]] = {}
    for path, identity in parents.items():
        by_identity.setdefault(identity, []).append(path)
    candidates: dict[str, str] = {}  # child path -> identity it names
    if children_of is not None:
        for path, identity in parents.items():
            candidates |= dict.fromkeys(children_of(path), identity)
    folders = [root.path for root in roots.roots] if scan else []
    for seen, found in enumerate(everything_below(roots, [*folders, *suspects]), 1):
        if progress is not None and seen % 50 == 0:
            progress.report(0, 0, f"looking for other children: {seen:,} files looked at")
        named = _named_by(roots, found)
        if named is None and isinstance(found, NotRead):
            family.unread[found.path] = found.error
        elif named in by_identity:
            candidates[found.path] = named
    for child, identity in sorted(candidates.items()):
        for parent in by_identity[identity]:
            if child == parent or not _hangs_on(roots, child, identity, parent):
                continue
            known = family.children.setdefault(parent, [])
            if not any(same_name(roots, child, other) for other in known):
                known.append(child)
    return family


def _named_by(roots: Roots, found: Header | NotRead) -> str | None:
    """The identity of the parent, "" without one; None if that cannot be told."""
    if isinstance(found, Header):
        return found.parent_identity
    if found.error.code in _GONE:
        return ""
    if found.is_folder:
        return None
    try:
        with roots.open(found.path) as file:
            return named_parent(file)
    except ImageError as error:
        return "" if error.code in _GONE else None


_GONE = ("E_NOT_FOUND", "E_NOT_A_FILE")  # since the folder was listed


def _hangs_on(roots: Roots, child: str, identity: str, parent: str) -> bool:
    """Whether child would be ruined if parent changed; yes when that is not certain."""
    try:
        with roots.open(child) as file:
            image = open_image(file)
            if image.parent is None or image.parent.identity != identity:
                return False
            resolution = resolve(image, child, roots)
    except ImageError as error:
        return error.code != "E_NOT_FOUND"
    if resolution.status != "found" or resolution.path is None:
        return True
    return same_name(roots, resolution.path, parent)


def same_name(roots: Roots, one: str, other: str) -> bool:
    """Whether two paths are one name of one file, so that replacing one replaces the other.

    The same folder can be mounted twice, and a share need not tell cases apart. Two hard
    links are two names: the other one keeps the old content.
    """
    if one == other:
        return True
    if folded(os.path.basename(one)) != folded(os.path.basename(other)):
        return False
    return _place(roots, one) == _place(roots, other)


def _place(roots: Roots, path: str) -> list[tuple[int, int]]:
    """The file and its folder, as the storage knows them."""
    found = [roots.stat(path), roots.stat(os.path.dirname(path))]
    return [(status.st_dev, status.st_ino) for status in found]


def listed(paths: Sequence[str]) -> str:
    """The first few paths, for a message."""
    more = f" and {len(paths) - NAMED:,} more" if len(paths) > NAMED else ""
    return ", ".join(paths[:NAMED]) + more
