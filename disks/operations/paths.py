"""Storage roots: the only place that opens, lists or stats anything (crash-safety R5).

A path is joined lexically, the root with the longest prefix is chosen, and the kernel
opens below that root without following links or crossing into another file system.
What lies outside the roots is neither opened nor stat'ed, whatever an image says.
Paths are absolute text as the host sees them (`os.fsdecode`: odd bytes survive).
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from disks.engine.errors import ImageError
from disks.engine.files import ImageFile, storage_error
from disks.operations import windows
from disks.operations.beneath import open_beneath
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
_INTERNAL_SUFFIXES = (".vdundo", ".vdmerge", ".vdcompact", ".vdjob", ".vdpages", ".vdtmp")


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
        object.__setattr__(self, "path", _normal(self.path))
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


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a folder, links not followed."""

    name: str
    is_file: bool
    is_folder: bool


# `list` is a method of Roots, so its annotations need other names for the type.
_Texts = list[str]
_Views = list[WindowsPath]
_Entries = list[Entry]
_Problems = list[ImageError]


@dataclass
class _Opened:
    """What is known of a root's folder once it was opened."""

    fd: int
    device: int
    inode: int


class Roots:
    """The roots of one job, request or command; implements the engine's `Places`.

    search          folders below which parents are looked for by identity
    find_identity   another way to look for an identity (the catalog); used before search
    identity_leads  a parent that only such a search (or a look beside the child) finds is
                    used; else it is a suggestion, because Windows would not find it
    """

    def __init__(
        self,
        roots: Iterable[Root],
        *,
        search: Iterable[str] = (),
        find_identity: Callable[[str], Iterable[str]] | None = None,
        identity_leads: bool = False,
    ) -> None:
        by_path: dict[str, Root] = {}
        for root in roots:
            by_path.setdefault(root.path, root)
        # Longest path first: a root below another root is a root of its own.
        self.roots = tuple(sorted(by_path.values(), key=lambda root: -len(root.path)))
        self.search = tuple(_normal(folder) for folder in search)
        self.identity_leads = identity_leads
        self._find_identity = find_identity
        self._opened: dict[str, _Opened] = {}
        self._by_identity: dict[str, _Texts] | None = None

    # ------------------------------------------------------------------ finding the root

    def locate(self, path: str) -> tuple[Root, str]:
        """The root that holds path, and the path below it. E_OUTSIDE_ROOTS, E_NAME.

        Purely lexical: nothing is opened. The relative part is empty for the root itself.
        """
        if "\0" in path or not os.path.isabs(path):
            raise ImageError("E_NAME", f"“{shown(path)}” is no absolute path.", file=shown(path))
        if not _is_encodable(path):
            raise ImageError(
                "E_NAME", f"“{shown(path)}” can be no name on this host.", file=shown(path)
            )
        normal = _normal(path)
        for root in self.roots:
            below = _below(normal, root.path)
            if below is not None:
                return root, below
        raise ImageError(
            "E_OUTSIDE_ROOTS",
            f"{shown(normal)} is outside the storage roots; it was not looked at.",
            file=shown(normal),
        )

    def holds(self, path: str) -> bool:
        """True if path lies below a root and in no folder that is left out."""
        try:
            root, relative = self.locate(path)
        except ImageError:
            return False
        return not any(root.excludes(part) for part in relative.split("/")[:-1])

    def require_writable(self, path: str) -> Root:
        """The root of path; E_READ_ONLY if nothing may be written there."""
        root, _ = self.locate(path)
        if root.read_only:
            raise ImageError(
                "E_READ_ONLY",
                f"The storage root {root.label} is read-only, so {shown(path)} is not changed.",
                file=path,
            )
        return root

    # ------------------------------------------------------------------ opening

    def open(
        self,
        path: str,
        *,
        writable: bool = False,
        create: bool = False,
    ) -> ImageFile:
        """A regular file below a root. The caller closes it.

        writable  E_READ_ONLY in a read-only root; E_HARD_LINKS if the file has a second
                  name, because writing here would change it there, unseen
        create    a new file, E_EXISTS if the name is taken
        Raises E_NOT_FOUND, E_OUTSIDE_ROOTS, E_NOT_A_FILE, E_ACCESS, E_IN_USE, E_IO.
        """
        root, relative = self.locate(path)
        path = os.path.join(root.path, relative) if relative else root.path
        flags = os.O_RDWR if writable or create else os.O_RDONLY
        if writable or create:
            self.require_writable(path)
        folder, name = os.path.split(relative)
        if not name:
            raise _not_a_file(path)
        folder_fd = self.open_folder(os.path.join(root.path, folder))
        try:
            if create:
                flags |= os.O_CREAT | os.O_EXCL
            else:
                # Before opening: opening a device or a pipe can already do something.
                found = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
                if stat.S_ISLNK(found.st_mode):
                    raise _linked(path)
                if not stat.S_ISREG(found.st_mode):
                    raise _not_a_file(path)
            fd = open_beneath(folder_fd, name, flags | os.O_NONBLOCK | os.O_NOCTTY, 0o666)
        except OSError as error:
            raise _opening_failed(error, path) from error
        finally:
            os.close(folder_fd)
        return self._checked(fd, path, writable=writable or create)

    def open_folder(self, path: str) -> int:
        """A descriptor of a folder below a root, for `dir_fd=`; the caller closes it."""
        root, relative = self.locate(path)
        opened = self._root(root)
        try:
            return open_beneath(opened.fd, relative or ".", os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise _opening_failed(error, path) from error

    def stat(self, path: str) -> os.stat_result:
        """Of the name itself, links not followed. Errors as in open()."""
        root, relative = self.locate(path)
        folder, name = os.path.split(relative)
        folder_fd = self.open_folder(os.path.join(root.path, folder))
        try:
            return os.stat(name or ".", dir_fd=folder_fd, follow_symlinks=False)
        except OSError as error:
            raise _opening_failed(error, path) from error
        finally:
            os.close(folder_fd)

    def exists(self, path: str) -> bool:
        """True if a regular file has this name below a root."""
        try:
            return stat.S_ISREG(self.stat(path).st_mode)
        except ImageError:
            return False

    def list(self, path: str) -> _Entries:
        """The names in a folder, sorted; links are neither file nor folder."""
        folder_fd = self.open_folder(path)
        try:
            with os.scandir(folder_fd) as found:
                entries = [
                    Entry(
                        entry.name,
                        entry.is_file(follow_symlinks=False),
                        entry.is_dir(follow_symlinks=False),
                    )
                    for entry in found
                ]
        except OSError as error:
            raise _opening_failed(error, path) from error
        finally:
            os.close(folder_fd)
        return sorted(entries, key=lambda entry: entry.name)

    def walk(self, folder: str, *, problems: _Problems | None = None) -> Iterator[str]:
        """Every regular file below folder that may be a disk, as a path, folder by folder.

        Left out: excluded folders, links, other file systems, files of our own. Folders
        that cannot be read are added to problems.
        """
        waiting = [_normal(folder)]
        while waiting:
            current = waiting.pop()
            try:
                root, _ = self.locate(current)
                entries = self.list(current)
            except ImageError as error:
                if problems is not None:
                    problems.append(error)
                continue
            for entry in entries:
                path = os.path.join(current, entry.name)
                if entry.is_folder and not root.excludes(entry.name):
                    waiting.append(path)
                elif entry.is_file and not is_internal_name(entry.name):
                    yield path

    def close(self) -> None:
        """Give the roots' descriptors back; the object can be used again."""
        opened, self._opened = self._opened, {}
        for known in opened.values():
            os.close(known.fd)

    def __del__(self) -> None:
        self.close()

    # ------------------------------------------------------------------ names of images

    def actual(self, path: str) -> str:
        """path as it is spelled on disk: exact if it exists, else without regard to case.

        Windows does not distinguish case, and macOS composes letters differently. Of
        several spellings the first in order is taken; without any, path itself.
        """
        spellings = self._spellings(path)
        return spellings[0] if spellings else _normal(path)

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
        found: _Texts = []
        folder = os.path.dirname(_normal(child_path))
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

    def from_windows(self, text: str) -> _Texts:
        """Where an absolute path from an image lies on this host; empty: no root covers it.

        A POSIX path (VirtualBox on Linux writes them) counts where it lies in a root.
        E_NAME for what no path can be, E_OUTSIDE_ROOTS for a climb above a drive.
        """
        if "\0" in text:
            raise ImageError("E_NAME", f"“{shown(text)}” holds a NUL character.")
        if text.startswith("/") and not text.startswith("//"):
            path = _normal(text)
            return self._spelled([path]) if self.holds(path) else []
        target = windows.parse_absolute(text)
        return [] if target is None else self._spelled(self._host_paths(target))

    def find_identity(self, identity: str) -> _Texts:
        """Disks of this identity that the catalog or the search folders know."""
        found: _Texts = []
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

    def windows_paths(self, host_path: str) -> _Views:
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
        folders = [part for part in os.path.dirname(_normal(child)).split("/") if part]
        target = [part for part in _normal(parent).split("/") if part]
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

    def windows_will_look_at(self, child: str, relative: str) -> _Texts:
        """The absolute Windows paths that a relative locator of child means, view by view."""
        parts = windows.split_relative(relative)
        seen: _Texts = []
        for folder in self._windows_folders(child):
            try:
                seen.append(str(windows.joined(folder, parts, relative)))
            except ImageError:
                continue
        return list(dict.fromkeys(seen))

    # ------------------------------------------------------------------ inside

    def _root(self, root: Root) -> _Opened:
        """The root's folder, opened once; E_ROOT_CHANGED if something else is there now."""
        known = self._opened.get(root.path)
        if known is not None:
            return known
        sys.audit("open", root.path, None, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fd = os.open(root.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _opening_failed(error, root.path) from error
        found = os.fstat(fd)
        known = _Opened(fd, found.st_dev, found.st_ino)
        try:
            if root.marker:
                _require_marker(root, fd)
            elif root.expected not in (None, (found.st_dev, found.st_ino)):
                raise _root_changed(root, "another folder or file system is there now")
        except BaseException:
            os.close(fd)
            raise
        self._opened[root.path] = known
        return known

    def _checked(self, fd: int, path: str, *, writable: bool) -> ImageFile:
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise _not_a_file(path)
            if writable and found.st_nlink > 1:
                raise ImageError(
                    "E_HARD_LINKS",
                    f"{shown(path)} has {found.st_nlink} names (hard links). Writing here would "
                    "change it under the other name too, so it is not written in place.",
                    file=path,
                    field="links",
                    value=found.st_nlink,
                )
            return ImageFile(fd, path, writable=writable)
        except BaseException:
            os.close(fd)
            raise

    def _spellings(self, path: str) -> _Texts:
        """Existing files that path means: itself, or all that differ in case alone."""
        try:
            root, relative = self.locate(path)
        except ImageError:
            return []
        exact = os.path.join(root.path, relative)
        if self.exists(exact):
            return [exact]
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

    def _alike(self, folder: str, name: str, *, folders: bool) -> _Texts:
        wanted = folded(name)
        try:
            entries = self.list(folder)
        except ImageError:
            return []
        return [
            entry.name
            for entry in entries
            if (entry.is_folder if folders else entry.is_file) and folded(entry.name) == wanted
        ]

    def _spelled(self, paths: Iterable[str]) -> _Texts:
        found: _Texts = []
        for path in paths:
            found.extend(self._spellings(path) or [path])
        return list(dict.fromkeys(found))

    def _host_paths(self, target: WindowsPath) -> _Texts:
        found = []
        for root in self.roots:
            for view in root.views():
                below = target.below(view)
                if below:
                    path = os.path.join(root.path, *below)
                    if self.holds(path):
                        found.append(path)
        return list(dict.fromkeys(found))

    def _windows_folders(self, path: str) -> _Views:
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

    def _searched(self) -> dict[str, _Texts]:
        if self._by_identity is None:
            from disks.operations.headers import headers_below

            index: dict[str, _Texts] = {}
            for header in headers_below(self, self.search):
                index.setdefault(header.identity, []).append(header.path)
            self._by_identity = index
        return self._by_identity


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


def _normal(path: str) -> str:
    """Absolute and without `.`, `..`, doubled slashes; text alone, no link is followed."""
    normal = os.path.normpath(path)
    return "/" + normal.lstrip("/")


def _is_encodable(path: str) -> bool:
    """False for halves of surrogate pairs, which records and requests can hold."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def _below(path: str, root: str) -> str | None:
    if path == root:
        return ""
    prefix = root if root.endswith("/") else root + "/"
    return path[len(prefix) :] if path.startswith(prefix) else None


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


def _require_marker(root: Root, fd: int) -> None:
    try:
        marker_fd = open_beneath(fd, ROOT_MARKER, os.O_RDONLY | os.O_NONBLOCK)
        try:
            content = os.read(marker_fd, 4096)
        finally:
            os.close(marker_fd)
    except OSError:
        content = b""
    if content.decode("utf-8", "replace").strip() != root.marker:
        raise _root_changed(root, "its marker is missing or another one")


def _root_changed(root: Root, why: str) -> ImageError:
    return ImageError(
        "E_ROOT_CHANGED",
        f"The folder of the storage root {root.label} is not the one that was set up: "
        f"{why}. The volume may not be mounted.",
        file=root.path,
    )


# ---------------------------------------------------------------------- errors in words


def _opening_failed(error: OSError, path: str) -> ImageError:
    name = shown(path)
    number = error.errno
    if number == errno.ELOOP:
        return _linked(path)
    if number == errno.EXDEV:
        return ImageError(
            "E_OUTSIDE_ROOTS",
            f"{name} lies on another file system mounted below the storage root.",
            advice="Make that folder a storage root of its own.",
            file=path,
        )
    if number in (errno.ENOENT, errno.ENOTDIR):
        return ImageError("E_NOT_FOUND", f"There is no file {name}.", file=path)
    if number == errno.EEXIST:
        return ImageError("E_EXISTS", f"{name} exists already and is not overwritten.", file=path)
    if number in (errno.EBUSY, errno.ETXTBSY, errno.EWOULDBLOCK):
        return ImageError(
            "E_IN_USE", f"{name} is in use: another program holds it open.", file=path
        )
    if number in (errno.ENXIO, errno.EISDIR, errno.ENODEV):
        return _not_a_file(path)
    return storage_error(error, name)


def _linked(path: str) -> ImageError:
    return ImageError(
        "E_OUTSIDE_ROOTS",
        f"{shown(path)} is reached through a symbolic link. Links are not followed, "
        "because they can lead out of the storage roots.",
        file=path,
    )


def _not_a_file(path: str) -> ImageError:
    return ImageError(
        "E_NOT_A_FILE", f"{shown(path)} is no regular file, so it cannot be a disk.", file=path
    )
