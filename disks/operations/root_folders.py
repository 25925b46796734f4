"""Folders and files below storage roots: the only place that opens, lists or stats anything
(crash-safety R5).

A path is joined lexically, the root with the longest prefix is chosen, and the kernel
opens below that root without following links or crossing into another file system.
What lies outside the roots is neither opened nor stat'ed, whatever an image says.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from disks.engine.errors import ImageError
from disks.engine.files import ImageFile, storage_error
from disks.operations.beneath import open_beneath
from disks.operations.storage_roots import ROOT_MARKER, Root, is_internal_name, normal_path
from disks.operations.windows import shown

_Named = TypeVar("_Named")


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a folder, links not followed."""

    name: str
    is_file: bool
    is_folder: bool


PORTION = 10_000
"""Names of a folder that are held at once, and put in order."""


def portions(entries: Iterable[_Named], key: Callable[[_Named], str]) -> Iterator[list[_Named]]:
    """All of a folder's entries, each portion in order; an empty one where there are none."""
    left = iter(entries)
    portion = sorted(itertools.islice(left, PORTION), key=key)
    while True:
        yield portion
        portion = sorted(itertools.islice(left, PORTION), key=key)
        if not portion:
            return


def _name(entry: Entry) -> str:
    return entry.name


# `list` is a method of RootFolders, so its annotations need other names for the type.
_Entries = list[Entry]
_Problems = list[ImageError]


@dataclass
class _Opened:
    """What is known of a root's folder once it was opened."""

    fd: int
    device: int
    inode: int


class RootFolders:
    """The roots of one job, request or command, and what lies below them."""

    def __init__(self, roots: Iterable[Root]) -> None:
        by_path: dict[str, Root] = {}
        for root in roots:
            by_path.setdefault(root.path, root)
        # Longest path first: a root below another root is a root of its own.
        self.roots = tuple(sorted(by_path.values(), key=lambda root: -len(root.path)))
        self._opened: dict[str, _Opened] = {}

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
        normal = normal_path(path)
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

    def open(
        self,
        path: str,
        *,
        writable: bool = False,
        create: bool = False,
        mode: int = 0o666,
    ) -> ImageFile:
        """A regular file below a root. The caller closes it.

        writable  E_READ_ONLY in a read-only root; E_HARD_LINKS if the file has a second
                  name, because writing here would change it there, unseen
        create    a new file, E_EXISTS if the name is taken; mode: its rights at most, from its
                  first moment on (umask, the folder's default ACL)
        Raises E_NOT_FOUND, E_OUTSIDE_ROOTS, E_NOT_A_FILE, E_ACCESS, E_IN_USE, E_IO.
        """
        root, relative = self.locate(path)
        path = _joined(root, relative)
        flags = os.O_RDWR if writable or create else os.O_RDONLY
        if writable or create:
            self.require_writable(path)
        folder, name = os.path.split(relative)
        if not name:
            raise _not_a_file(path)
        folder_fd = self._open_folder(root, folder)
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
            fd = open_beneath(folder_fd, name, flags | os.O_NONBLOCK | os.O_NOCTTY, mode)
        except OSError as error:
            raise _opening_failed(error, path) from error
        finally:
            os.close(folder_fd)
        return self._checked(fd, path, writable=writable or create)

    def open_folder(self, path: str) -> int:
        """A descriptor of a folder below a root, for `dir_fd=`; the caller closes it."""
        return self._open_folder(*self.locate(path))

    def _open_folder(self, root: Root, relative: str) -> int:
        opened = self._root(root)
        try:
            return open_beneath(opened.fd, relative or ".", os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise _opening_failed(error, _joined(root, relative)) from error

    def stat(self, path: str) -> os.stat_result:
        """Of the name itself, links not followed. Errors as in open()."""
        root, relative = self.locate(path)
        folder, name = os.path.split(relative)
        folder_fd = self._open_folder(root, folder)
        try:
            return os.stat(name or ".", dir_fd=folder_fd, follow_symlinks=False)
        except OSError as error:
            raise _opening_failed(error, path) from error
        finally:
            os.close(folder_fd)

    def may_write(self, path: str) -> bool:
        """Whether this service may write to a file, by the file's rights and attributes."""
        folder, name = os.path.split(path)
        folder_fd = self.open_folder(folder)
        try:
            return os.access(name, os.W_OK, dir_fd=folder_fd, effective_ids=True)
        finally:
            os.close(folder_fd)

    def exists(self, path: str) -> bool:
        """True if a regular file has this name below a root."""
        try:
            return stat.S_ISREG(self.stat(path).st_mode)
        except ImageError:
            return False

    def entries(self, path: str) -> Iterator[Entry]:
        """The names in a folder one by one, as they come: it may hold a million."""
        folder_fd = self.open_folder(path)
        try:
            with os.scandir(folder_fd) as found:
                for entry in found:
                    yield Entry(
                        entry.name,
                        entry.is_file(follow_symlinks=False),
                        entry.is_dir(follow_symlinks=False),
                    )
        except OSError as error:
            raise _opening_failed(error, path) from error
        finally:
            os.close(folder_fd)

    def list(self, path: str) -> _Entries:
        """The names in a folder, sorted."""
        return sorted(self.entries(path), key=_name)

    def walk(
        self, folder: str, *, problems: _Problems | None = None, walked: set[str] | None = None
    ) -> Iterator[str]:
        """Every regular file below folder that may be a disk, as a path, folder by folder.

        Left out: excluded folders, links, other file systems, files of our own, and folders
        that are in walked, which gets those that are looked at. Folders that cannot be read
        are added to problems. In order of names, as far as PORTION reaches.
        """
        walked = set() if walked is None else walked
        waiting = [normal_path(folder)]
        while waiting:
            current = waiting.pop()
            if current in walked:
                continue
            walked.add(current)
            try:
                root, _ = self.locate(current)
                found = portions(self.entries(current), _name)
                for entry in itertools.chain.from_iterable(found):
                    path = os.path.join(current, entry.name)
                    if entry.is_folder and not root.excludes(entry.name):
                        waiting.append(path)
                    elif entry.is_file and not is_internal_name(entry.name):
                        yield path
            except ImageError as error:
                walked.discard(current)
                if problems is not None:
                    problems.append(error)

    def close(self) -> None:
        """Give the roots' descriptors back; the object can be used again."""
        opened, self._opened = self._opened, {}
        for known in opened.values():
            os.close(known.fd)

    def __del__(self) -> None:
        self.close()

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


def _is_encodable(path: str) -> bool:
    """False for halves of surrogate pairs, which records and requests can hold."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def _joined(root: Root, relative: str) -> str:
    return os.path.join(root.path, relative) if relative else root.path


def _below(path: str, root: str) -> str | None:
    if path == root:
        return ""
    prefix = root if root.endswith("/") else root + "/"
    return path[len(prefix) :] if path.startswith(prefix) else None


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
