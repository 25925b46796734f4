"""Storage roots: what an administrator allows to be looked at, and what is left out of it.

Paths are absolute text as the host sees them (`os.fsdecode`: odd bytes survive).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from disks.engine.errors import ImageError
from disks.operations import windows
from disks.operations.windows import WindowsPath, shown

# Copies that somebody else keeps (snapshots, recycle bins) and our own folders: never
# scanned, never offered, never what a locator leads to. Compared without regard to case.
EXCLUDED_FOLDERS = frozenset(
    {
        ".vdtrash",
        ".vdlock",
        ".snapshot",
        ".snapshots",
        ".zfs",
        "#recycle",
        "@Recycle",
        "$RECYCLE.BIN",
        "System Volume Information",
        "lost+found",
    }
)
TRASH_FOLDER = ".vdtrash"
LOCK_FOLDER = ".vdlock"
ROOT_MARKER = ".vdroot"
_EXCLUDED = frozenset(name.casefold() for name in EXCLUDED_FOLDERS)
_INTERNAL_SUFFIXES = (".vdundo", ".vdmerge", ".vdjob", ".vdpages", ".vdtmp")


def is_internal_name(name: str) -> bool:
    """Sidecars, temporary files and markers of ours: never catalogued, never candidates."""
    return name.startswith(".vd") or (name.startswith(".") and name.endswith(_INTERNAL_SUFFIXES))


@dataclass(frozen=True)
class Root:
    """A folder that may be looked at, with everything below it on the same file system.

    path           absolute, as this host sees it
    windows_views  how Windows sees the same folder (`C:\\VMs`, `\\\\nas\\vms`), preferred first
    read_only      nothing below it is ever written
    excluded       names of further folders that are left out
    marker         content that the file `.vdroot` must have; empty: not checked. Another
                   volume mounted in the same place is noticed by it (E_ROOT_CHANGED).
    expected       device and inode that the folder must have, where no marker tells; None:
                   not checked
    """

    path: str
    name: str = ""
    windows_views: tuple[str, ...] = ()
    read_only: bool = False
    excluded: tuple[str, ...] = ()
    marker: str = ""
    expected: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not os.path.isabs(self.path):
            raise ImageError(
                "E_NAME", f"A storage root needs an absolute path, not “{shown(self.path)}”."
            )
        object.__setattr__(self, "path", normal_path(self.path))
        for view in self.windows_views:
            parsed_view(view)

    @property
    def label(self) -> str:
        return self.name or self.path

    def views(self) -> list[WindowsPath]:
        return [parsed_view(view) for view in self.windows_views]

    def excludes(self, folder_name: str) -> bool:
        folded = folder_name.casefold()
        return folded in _EXCLUDED or any(folded == name.casefold() for name in self.excluded)


def parsed_view(view: str) -> WindowsPath:
    """A root's Windows view, taken apart. E_NAME if it is no absolute Windows path."""
    parsed = windows.parse_absolute(view if len(view) != 2 else view + "\\")
    if parsed is None:
        raise ImageError(
            "E_NAME",
            f"“{shown(view)}” is no Windows folder.",
            advice="Write it like C:\\VMs or \\\\server\\share.",
            value=shown(view),
        )
    return parsed


def normal_path(path: str) -> str:
    """Absolute and without `.`, `..`, doubled slashes; text alone, no link is followed."""
    normal = os.path.normpath(path)
    return "/" + normal.lstrip("/")
