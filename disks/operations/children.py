"""Which disks have a given disk as their parent, by reading the headers below some folders."""

from __future__ import annotations

from collections.abc import Iterable

from disks.engine.errors import ImageError
from disks.operations.headers import headers_below, read_header
from disks.operations.paths import Roots


def children_of(
    path: str,
    roots: Roots,
    folders: Iterable[str] = (),
    *,
    problems: list[ImageError] | None = None,
) -> list[str]:
    """The differencing disks whose parent identity is that of the disk at path, sorted.

    folders  where to look, all the way down; none given: below every root. A child of a
             twin of the disk is counted too: its identity cannot tell them apart.
    problems gets what could not be read, so that "no other child" is never said blindly.
    """
    identity = read_header(roots, path).identity
    places = list(folders) or [root.path for root in roots.roots]
    return sorted(
        header.path
        for header in headers_below(roots, places, problems=problems)
        if header.parent_identity == identity and header.path != path
    )
