"""Who else hangs on a disk: asked before it is merged away or replaced.

A child counts by the identity its header names, or by a second one, by which some Windows would
open it. One that resolves to another copy of the same disk (a backup beside its own backup of
the parent) is left out of it. A damaged disk counts, too, if what is left of its headers says
so; if nothing is, nobody knows.
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
from disks.operations.windows import shown

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
        try:
            named = _named_by(roots, found)
        except _Unknown as unknown:
            family.unread[found.path] = unknown.why
            continue
        known_by = next((identity for identity in named if identity in by_identity), None)
        if known_by is not None:
            candidates[found.path] = known_by
    for child, identity in sorted(candidates.items()):
        for parent in by_identity[identity]:
            if child == parent or not _hangs_on(roots, child, identity, parent):
                continue
            known = family.children.setdefault(parent, [])
            if not any(same_name(roots, child, other) for other in known):
                known.append(child)
    return family


class _Unknown(Exception):
    """Nobody can tell whether a file has a parent, and which."""

    def __init__(self, why: ImageError) -> None:
        super().__init__()
        self.why = why


def _named_by(roots: Roots, found: Header | NotRead) -> tuple[str, ...]:
    """The identities that the parent may have, that which counts here first; none without one.

    Raises _Unknown.
    """
    if isinstance(found, Header):
        if found.parent_problem and not found.parent_also:
            why = f"{shown(found.path)} does not tell which its parent is. {found.parent_problem}"
            raise _Unknown(ImageError("E_LOCATOR", why, file=found.path))
        return found.may_build_on
    if found.error.code in _GONE:
        return ()
    if found.is_folder:
        raise _Unknown(found.error)
    try:
        with roots.open(found.path) as file:
            named = named_parent(file)
    except ImageError as error:
        if error.code in _GONE:
            return ()
        raise _Unknown(found.error) from error
    if named is None:
        raise _Unknown(found.error)
    return (named,)


_GONE = ("E_NOT_FOUND", "E_NOT_A_FILE")  # since the folder was listed


def _hangs_on(roots: Roots, child: str, identity: str, parent: str) -> bool:
    """Whether child would be ruined if parent changed; yes when that is not certain."""
    try:
        with roots.open(child) as file:
            image = open_image(file)
            link = image.parent
            if link is None or identity not in (link.identity, link.also):
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
