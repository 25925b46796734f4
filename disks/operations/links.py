"""The parent link that a disk gets: what Windows, and this host, will find the parent by."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from disks.engine.errors import ImageError
from disks.engine.findings import Finding, Level
from disks.engine.images import Image
from disks.engine.parent_link import NewParent
from disks.operations import windows
from disks.operations.paths import Roots
from disks.operations.windows import shown


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


def renewed(
    child: Image, parent: Image, child_path: str, path: str, roots: Roots, given: str | None
) -> NewParent:
    """The link from an existing child to another place of its parent, or to another parent.

    given: how Windows names the parent; None: as its root's view says. Raises E_NAME,
    E_NO_WINDOWS_PATH.
    """
    name = os.path.basename(path)
    if not windows.is_windows_name(name):
        raise ImageError(
            "E_NAME",
            f"“{shown(name)}” is no name that Windows can open, so no parent locator can hold it.",
            advice="Rename the parent first.",
            file=path,
        )
    absolute = _given_path(given) if given is not None else roots.windows_path(path)
    relative = roots.relative_windows_path(child_path, path)
    if absolute is None and relative is None:
        raise ImageError(
            "E_NO_WINDOWS_PATH",
            f"Windows could not find {shown(path)} from {shown(child_path)}: they lie in different "
            "places, and it is not known how Windows names the parent's folder.",
            file=child_path,
            field="parent_locators",
            value=path,
        )
    # Windows itself stores 0 here; only who stored a time before keeps one.
    timestamp = None
    if child.parent is not None and child.parent.timestamp is not None:
        timestamp = datetime.fromtimestamp(int(parent.file.stat().st_mtime), UTC)
    name = stored_name(path, relative, absolute)
    return NewParent(parent.identity, name, relative, absolute, timestamp)


def _given_path(text: str) -> str:
    parsed = windows.parse_absolute(text)
    if parsed is None or not parsed.parts:
        raise ImageError(
            "E_NAME",
            f"“{shown(text)}” is no absolute Windows path of a file.",
            advice="Write it like C:\\VMs\\base.vhd or \\\\server\\share\\base.vhd.",
            field="windows_path",
            value=shown(text),
        )
    return str(parsed)


def leads_here(child: str, parent: str, new: NewParent, roots: Roots) -> bool:
    """True if this host, too, finds the parent by the new link, so that it can be verified."""
    with contextlib.suppress(ImageError):
        if new.relative_path is not None and roots.beside(child, new.relative_path) == parent:
            return True
    with contextlib.suppress(ImageError):
        if new.windows_path is not None and parent in roots.from_windows(new.windows_path):
            return True
    return False


def windows_warnings(child: str, parent: str, new: NewParent, roots: Roots) -> Iterator[Finding]:
    if new.windows_path is None:
        yield Finding(
            Level.NOTE,
            "N_NO_WINDOWS_VIEW",
            "It is not known how Windows names the parent's folder, so only the relative path is "
            "written and an absolute one is removed.",
            "absolute_path",
        )
    if new.relative_path is None:
        yield Finding(
            Level.NOTE,
            "N_NO_RELATIVE_PATH",
            "The two folders are on different drives or shares for Windows, so only the absolute "
            "path is written and a relative one is removed.",
            "relative_path",
        )
    elif roots.is_assumed_relative(child, parent):
        yield Finding(
            Level.WARNING,
            "W_RELATIVE_ASSUMED",
            "The relative path follows the folders of this host. It is right for Windows only if "
            "both folders lie under one drive or share there in the same way.",
            "relative_path",
            None,
            new.relative_path,
        )
