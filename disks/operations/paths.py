"""Names of disks below the storage roots: which file a text means, and how Windows names one.

Names only lead; `RootFolders` opens what they lead to, and nothing outside of the roots.
"""

from __future__ import annotations

import contextlib
import os
import string
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from disks.engine.errors import ImageError
from disks.operations import windows
from disks.operations.root_folders import RootFolders
from disks.operations.storage_roots import Root, normal_path
from disks.operations.windows import WindowsPath, shown

_OTHER_CASE = str.maketrans(string.ascii_letters, string.ascii_uppercase + string.ascii_lowercase)


class Roots(RootFolders):
    """The roots of one job, request or command; implements the engine's `Places`.

    search          folders below which parents are looked for by identity
    find_identity   another way to look for an identity (the catalog); used before search
    identity_leads  a parent that only such a search (or a look beside the child) finds is
                    used; else it is a suggestion, because Windows would not find it
    is_our_write    whether a job of ours wrote this file at that time (seconds since 1970)
    """

    def __init__(
        self,
        roots: Iterable[Root],
        *,
        search: Iterable[str] = (),
        find_identity: Callable[[str], Iterable[str]] | None = None,
        identity_leads: bool = False,
        is_our_write: Callable[[str, float], bool] = lambda path, at: False,
    ) -> None:
        super().__init__(roots)
        self.is_our_write = is_our_write
        self.search = tuple(normal_path(folder) for folder in search)
        self.identity_leads = identity_leads
        self._find_identity = find_identity
        self._by_identity: dict[str, list[str]] | None = None
        self._minds_case: dict[str, bool] = {}  # by folder
        # Of those that do not, by extension: names by what they are with no case.
        self._listed: dict[tuple[str, str], dict[str, list[str]]] = {}

    # ------------------------------------------------------------------ names of images

    def actual(self, path: str) -> str:
        """path as it is spelled on disk: exact if it exists, else without regard to case.

        Windows does not distinguish case, and macOS composes letters differently. Of
        several spellings the first in order is taken; without any, path itself.
        """
        spellings = self._spellings(path)
        return spellings[0] if spellings else normal_path(path)

    def beside(self, child_path: str, text: str) -> str:
        """Where a relative path from the child's folder leads. E_OUTSIDE_ROOTS, E_NAME.

        Where two folders are one tree only in Windows (`C:\\VMs` and `C:\\Bases` are two
        roots here), the path is followed there and mapped back.
        """
        if windows.is_absolute(text):
            raise windows.climbs_out(text)
        parts = windows.split_relative(text)
        if not parts or parts[-1] == "..":
            raise ImageError("E_NAME", f"“{shown(text)}” names no file.", value=shown(text))
        found: list[str] = []
        folder = os.path.dirname(normal_path(child_path))
        here = _climb(folder, parts)
        if here is not None and self.holds(here):
            found.append(here)
        for view_folder in self._windows_folders(child_path):
            try:
                target = windows.joined(view_folder, parts, text)
            except ImageError:
                continue
            found.extend(self._host_paths(target))
        if not found:
            raise windows.climbs_out(text)
        for candidate in found:
            spellings = self._spellings(candidate)
            if spellings:
                return spellings[0]
        return found[0]

    def from_windows(self, text: str) -> list[str]:
        """Where an absolute path from an image lies on this host; empty: no root covers it.

        A POSIX path (VirtualBox on Linux writes them) counts where it lies in a root.
        E_NAME for what no path can be, E_OUTSIDE_ROOTS for a climb above a drive.
        """
        if "\0" in text:
            raise ImageError("E_NAME", f"“{shown(text)}” holds a NUL character.")
        if text.startswith("/") and not text.startswith("//"):
            path = normal_path(text)
            return self._spelled([path]) if self.holds(path) else []
        target = windows.parse_absolute(text)
        return [] if target is None else self._spelled(self._host_paths(target))

    def find_identity(self, identity: str) -> list[str]:
        """Disks of this identity that the catalog or the search folders know."""
        found: list[str] = []
        if self._find_identity is not None:
            found.extend(path for path in self._find_identity(identity) if self.holds(path))
        if self.search:
            found.extend(self._searched().get(identity, []))
        return list(dict.fromkeys(found))

    # ------------------------------------------------------------------ names for Windows

    def windows_path(self, host_path: str) -> str | None:
        """How Windows names this file, by the root's preferred view; None without a view."""
        paths = self.windows_paths(host_path)
        return str(paths[0]) if paths else None

    def windows_paths(self, host_path: str) -> list[WindowsPath]:
        """The same by every view of the root, preferred first."""
        root, relative = self.locate(host_path)
        parts = tuple(part for part in relative.split("/") if part)
        if not all(windows.is_windows_name(part) for part in parts):
            return []
        return [WindowsPath(view.anchor, (*view.parts, *parts)) for view in root.views()]

    def relative_windows_path(self, child: str, parent: str) -> str | None:
        """The relative path that a child's locator needs, None if there is none.

        Within one root: as the folders lie. Between two roots that both have Windows
        views: only within one drive or share. Between roots without views: as the
        folders lie, if they are on one file system (an assumption that a plan must say).
        """
        child_root, child_below = self.locate(child)
        parent_root, parent_below = self.locate(parent)
        names = [part for part in parent_below.split("/") if part]
        if not all(windows.is_windows_name(part) for part in names):
            return None
        if child_root.path == parent_root.path:
            folders = [part for part in child_below.split("/")[:-1] if part]
            return windows.relative(folders, names)
        if child_root.windows_views and parent_root.windows_views:
            return self._relative_between_views(child, parent)
        if self._root(child_root).device != self._root(parent_root).device:
            return None
        folders = [part for part in os.path.dirname(normal_path(child)).split("/") if part]
        target = [part for part in normal_path(parent).split("/") if part]
        if not all(windows.is_windows_name(part) for part in target):
            return None
        return windows.relative(folders, target)

    def is_assumed_relative(self, child: str, parent: str) -> bool:
        """True if relative_windows_path rests on the folders' places on this host alone."""
        child_root, _ = self.locate(child)
        parent_root, _ = self.locate(parent)
        return child_root.path != parent_root.path and not (
            child_root.windows_views and parent_root.windows_views
        )

    def windows_will_look_at(self, child: str, relative: str) -> list[str]:
        """The absolute Windows paths that a relative locator of child means, view by view."""
        parts = windows.split_relative(relative)
        seen: list[str] = []
        for folder in self._windows_folders(child):
            try:
                seen.append(str(windows.joined(folder, parts, relative)))
            except ImageError:
                continue
        return list(dict.fromkeys(seen))

    # ------------------------------------------------------------------ inside

    def _spellings(self, path: str) -> list[str]:
        """Existing files that path means: itself, or all that differ in case alone."""
        try:
            root, relative = self.locate(path)
        except ImageError:
            return []
        exact = os.path.join(root.path, relative)
        if self.exists(exact):
            return [self._as_listed(exact)]
        folders = [root.path]
        *parents, name = relative.split("/")
        for part in parents:
            folders = [
                os.path.join(folder, found)
                for folder in folders
                for found in self._alike(folder, part, folders=True)
            ]
        return sorted(
            os.path.join(folder, found)
            for folder in folders
            for found in self._alike(folder, name, folders=False)
        )

    def _as_listed(self, path: str) -> str:
        """An existing file as its folder lists it: an SMB share takes any spelling of a name.

        Records and locks go by the name, so a disk must have the same one for everybody.
        """
        folder, name = os.path.split(path)
        other = name.translate(_OTHER_CASE)
        if folder not in self._minds_case and other != name:
            self._minds_case[folder] = not self._is_one_file(path, os.path.join(folder, other))
        if self._minds_case.get(folder, True):
            return path
        of_its_kind = folder, os.path.splitext(folded(name))[1]
        if folded(name) not in self._listed.get(of_its_kind, {}):
            self._listed[of_its_kind] = self._listing(*of_its_kind)
        listed = self._listed[of_its_kind].get(folded(name), [])
        return path if name in listed or not listed else os.path.join(folder, listed[0])

    def _listing(self, folder: str, extension: str | None) -> dict[str, list[str]]:
        """Names of the files of one kind in a folder, by what they are with no case.

        extension: of that; None for the folders there
        """
        names: dict[str, list[str]] = {}
        with contextlib.suppress(ImageError):
            for entry in self.entries(folder):
                if not (entry.is_folder if extension is None else entry.is_file):
                    continue
                spelled = folded(entry.name)
                if extension is None or os.path.splitext(spelled)[1] == extension:
                    names.setdefault(spelled, []).append(entry.name)
        return names

    def _is_one_file(self, one: str, other: str) -> bool:
        try:
            return os.path.samestat(self.stat(one), self.stat(other))
        except ImageError:
            return False

    def _alike(self, folder: str, name: str, *, folders: bool) -> list[str]:
        wanted = folded(name)
        try:
            return sorted(
                entry.name
                for entry in self.entries(folder)
                if (entry.is_folder if folders else entry.is_file) and folded(entry.name) == wanted
            )
        except ImageError:
            return []

    def _spelled(self, paths: Iterable[str]) -> list[str]:
        found: list[str] = []
        for path in paths:
            found.extend(self._spellings(path) or [path])
        return list(dict.fromkeys(found))

    def _host_paths(self, target: WindowsPath) -> list[str]:
        found = []
        for root in self.roots:
            for view in root.views():
                below = target.below(view)
                if below:
                    path = os.path.join(root.path, *below)
                    if self.holds(path):
                        found.append(path)
        return list(dict.fromkeys(found))

    def _windows_folders(self, path: str) -> list[WindowsPath]:
        """The folder that holds path, in every Windows view of its root."""
        try:
            root, relative = self.locate(path)
        except ImageError:
            return []
        parts = tuple(part for part in os.path.dirname(relative).split("/") if part)
        return [WindowsPath(view.anchor, (*view.parts, *parts)) for view in root.views()]

    def _relative_between_views(self, child: str, parent: str) -> str | None:
        for folder in self._windows_folders(child):
            for target in self.windows_paths(parent):
                if folder.same_place(target):
                    return windows.relative(folder.parts, target.parts)
        return None

    def _searched(self) -> dict[str, list[str]]:
        if self._by_identity is None:
            from disks.operations.headers import headers_below

            index: dict[str, list[str]] = {}
            for header in headers_below(self, self.search):
                index.setdefault(header.identity, []).append(header.path)
            self._by_identity = index
        return self._by_identity


def _climb(folder: str, parts: Sequence[str]) -> str | None:
    """folder and a relative path from it, None above `/`."""
    result = [part for part in folder.split("/") if part]
    for part in parts:
        if part != "..":
            result.append(part)
        elif result:
            result.pop()
        else:
            return None
    return "/" + "/".join(result)


def folded(name: str) -> str:
    """A name as it is compared where case and composition do not count."""
    return unicodedata.normalize("NFC", name).casefold()
