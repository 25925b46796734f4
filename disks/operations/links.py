"""The parent link that a new disk gets: what Windows will find the parent by."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from disks.engine.images import Image
from disks.engine.parent_link import NewParent
from disks.operations.paths import Roots


@dataclass(frozen=True)
class NewLink:
    """parent: for the writer; the rest is for the plan."""

    parent: NewParent
    windows_will_look_at: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


# UTF-16 units that a VHD's parent_unicode_name surely holds, for two-unit characters, too.
_LONGEST_NAME = 127


def new_parent(roots: Roots, child_path: str, parent_path: str, parent: Image) -> NewLink:
    """The link from a disk that will lie at child_path to an existing parent.

    The timestamp is left zero, as Windows 10 leaves it: a stored time would go stale with
    every copy and restore of the parent, and identity is what counts.
    """
    relative = roots.relative_windows_path(child_path, parent_path)
    absolute = roots.windows_path(parent_path)
    warnings = []
    if relative is None and absolute is None:
        warnings.append(
            f"No Windows path leads from {child_path} to {parent_path}: Windows will not find "
            "the parent until the storage root says how Windows sees it."
        )
    elif relative is not None and roots.is_assumed_relative(child_path, parent_path):
        warnings.append(
            f"The relative path {relative} holds only if Windows sees both folders in one "
            "place, as this host does."
        )
    name = stored_name(parent_path, relative, absolute)
    link = NewParent(parent.identity, name, relative, absolute)
    return NewLink(link, windows_will_look_at(roots, child_path, link), warnings)


def stored_name(parent_path: str, relative: str | None, absolute: str | None) -> str:
    """The parent's name in the header: its file's where a relative path leads there.

    Elsewhere the whole path: a name alone means the child's own folder, where another disk of
    this name and identity may lie (the one that the parent was copied from), and comes before
    the absolute path.
    """
    name = os.path.basename(parent_path)
    if relative is None and absolute is not None and len(absolute) <= _LONGEST_NAME:
        return absolute
    return name


def windows_will_look_at(roots: Roots, child_path: str, link: NewParent) -> list[str]:
    """Absolute Windows paths that a link means, in the order in which Windows tries them."""
    relative, absolute = link.relative_path, link.windows_path
    seen = [] if relative is None else roots.windows_will_look_at(child_path, relative)
    return list(dict.fromkeys([*seen, *([absolute] if absolute else [])]))
