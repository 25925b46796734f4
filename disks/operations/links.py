"""The parent link that a new disk gets: what Windows will find the parent by."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from disks.engine.images import Image, NewParent
from disks.operations.paths import Roots


@dataclass(frozen=True)
class NewLink:
    """parent: for the writer; the rest is for the plan."""

    parent: NewParent
    windows_will_look_at: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


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
    link = NewParent(parent.identity, os.path.basename(parent_path), relative, absolute)
    return NewLink(link, windows_will_look_at(roots, child_path, link), warnings)


def windows_will_look_at(roots: Roots, child_path: str, link: NewParent) -> list[str]:
    """Absolute Windows paths that a link means, in the order in which Windows tries them."""
    relative, absolute = link.relative_path, link.windows_path
    seen = [] if relative is None else roots.windows_will_look_at(child_path, relative)
    return list(dict.fromkeys([*seen, *([absolute] if absolute else [])]))
