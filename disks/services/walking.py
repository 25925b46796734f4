"""Every regular file below a root, folder by folder, without following anything anywhere.

Left out: excluded folders, names of our own, links, other file systems (a mount below a
root is a root of its own), folders that are roots themselves. What is no regular file is
not opened, so a named pipe cannot stop a scan.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from disks.engine.errors import ImageError
from disks.engine.files import GlancedFile, ImageFile, storage_error
from disks.operations import paths
from disks.operations.beneath import open_beneath
from disks.operations.managers import is_telling
from disks.operations.root_folders import portions
from disks.operations.storage_roots import TRASH_FOLDER, Root, is_internal_name


@dataclass
class Folder:
    """A folder while its files are looked at, a portion of them at once.

    fd       an open descriptor of it
    telling  names in it that say who manages its disks
    """

    relative: str
    fd: int
    files: list[tuple[str, os.stat_result]]
    telling: list[str]

    def path_of(self, name: str) -> str:
        """Below the root."""
        return f"{self.relative}/{name}" if self.relative else name


@dataclass
class Walk:
    """A walk over one root.

    problems  what could not be read, for the result
    trashes   folders that hold a trash folder: the command line puts one beside a disk
    """

    roots: paths.Roots
    root: Root
    other_roots: Collection[str] = ()
    problems: list[ImageError] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)  # folders whose files are not known now
    trashes: set[str] = field(default_factory=set)

    def __iter__(self) -> Iterator[Folder]:
        waiting = [""]
        while waiting:
            relative = waiting.pop()
            path = os.path.join(self.root.path, relative) if relative else self.root.path
            try:
                fd = self.roots.open_folder(path)
            except ImageError as error:
                self._skip(relative, error)
                continue
            try:
                telling, below = self._look(relative, path, fd)
                waiting.extend(below)
                for files in portions(self._files(fd), lambda file: file[0]):
                    yield Folder(relative, fd, files, telling)
            except OSError as error:
                self._skip(relative, storage_error(error, path, verb="read"))
            finally:
                os.close(fd)

    def _look(self, relative: str, path: str, fd: int) -> tuple[list[str], list[str]]:
        """Names that say who manages the disks, and the folders to walk, last one first."""
        telling: list[str] = []
        below: list[str] = []
        with os.scandir(fd) as entries:
            for entry in entries:
                name = entry.name
                if is_telling(name):
                    telling.append(name)
                if entry.is_dir(follow_symlinks=False):
                    if name == TRASH_FOLDER:
                        self.trashes.add(relative)
                    if not self._leaves_out(path, name):
                        below.append(f"{relative}/{name}" if relative else name)
        below.sort(reverse=True)
        return telling, below

    def _files(self, fd: int) -> Iterator[tuple[str, os.stat_result]]:
        with os.scandir(fd) as entries:
            for entry in entries:
                if not entry.is_file(follow_symlinks=False) or is_internal_name(entry.name):
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # gone since it was listed
                if stat.S_ISREG(status.st_mode):
                    yield entry.name, status

    def _leaves_out(self, path: str, name: str) -> bool:
        return (
            self.root.excludes(name)
            or is_internal_name(name)
            or os.path.join(path, name) in self.other_roots
        )

    def _skip(self, relative: str, error: ImageError) -> None:
        # A folder that vanished meanwhile is no problem: its files are missing, and said so.
        if error.code == "E_NOT_FOUND" and relative:
            return
        # Another file system mounted below is left out by intent, and told once.
        self.problems.append(error)
        self.unread.add(relative)


def open_file(folder: Folder, name: str, path: str) -> ImageFile:
    """Open one of the folder's files for reading; never waits, never follows a link.

    Raises ImageError E_NOT_A_FILE if something else has taken its place meanwhile, and what
    storage_error() says.
    """
    try:
        fd = open_beneath(folder.fd, name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise storage_error(error, path) from error
    file = GlancedFile(fd, path)
    if not stat.S_ISREG(file.status_at_opening.st_mode):
        file.close()
        raise ImageError("E_NOT_A_FILE", f"{path} is no regular file.", file=path)
    return file


def is_there(folder: Folder, name: str) -> bool:
    """Whether a file of this name lies in the folder, also one of our own."""
    try:
        os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
    except OSError:
        return False
    return True
