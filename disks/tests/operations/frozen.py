"""A folder as it was at one moment, to which it can be brought back as often as needed."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from disks.engine import faults
from disks.operations.locks import LOCK_FOLDER

Extents = list[tuple[int, bytes]]


@dataclass(frozen=True)
class _File:
    size_bytes: int
    mtime_ns: int
    extents: Extents


@dataclass
class Frozen:
    """What trees of folders held: names, inodes, contents, holes and times of change.

    A file comes back as the very same inode, for sidecars know disks by it. It needs a name
    all the while: what loses its last one while kept() watches gets one in spare. Only what
    differs is touched, so that ctime stays where nobody changed anything.
    """

    trees: tuple[Path, ...]
    spare: Path
    folders: list[str] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)
    files: dict[int, _File] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        for path, is_folder, inode in _entries(*self.trees):
            if is_folder:
                self.folders.append(path)
            else:
                self.names[path] = inode
                if inode not in self.files:
                    self.files[inode] = _read(path)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Nothing that was here before loses its last name to what this process does now."""

        def see(event: faults.Event) -> None:
            lost = {"unlink": event.path, "rename": event.target}.get(event.operation, "")
            if lost and os.path.isfile(lost):
                found = os.stat(lost)
                if found.st_nlink == 1 and found.st_ino in self.files:
                    os.link(lost, self._new_name())

        faults.watch(see)
        try:
            yield
        finally:
            faults.watch(None)

    def _new_name(self) -> str:
        return str(self.spare / f"spare{next(self._numbers)}")

    def thaw(self) -> bool:
        """Bring everything back. False: a file is gone for good, and nothing was done."""
        if not self._make_locks_anew():
            return False
        now = list(_entries(*self.trees, self.spare))
        somewhere = {}  # inode -> a name of it, to link others to
        added = []
        for path, is_folder, inode in now:
            if is_folder:
                continue
            if self.names.get(path) == inode:
                somewhere[inode] = path
            elif inode in self.files:
                added.append(self._new_name())
                os.rename(path, added[-1])
                somewhere.setdefault(inode, added[-1])
            else:
                os.unlink(path)
        for folder in self.folders:
            os.makedirs(folder, exist_ok=True)
        for path, inode in self.names.items():
            if not os.path.exists(path):
                os.link(somewhere[inode], path)
        for path in added:
            os.unlink(path)
        for path, is_folder, _ in reversed(now):
            if is_folder and path not in self.folders:
                os.rmdir(path)
        for inode, path in {inode: path for path, inode in self.names.items()}.items():
            _write(path, self.files[inode])
        return True

    def _make_locks_anew(self) -> bool:
        """Only locks are taken away behind the fault points, and known by name, not inode.

        Returns whether nothing else is gone.
        """
        there = {inode for _, _, inode in _entries(*self.trees, self.spare)}
        gone = {path: inode for path, inode in self.names.items() if inode not in there}
        if any(f"/{LOCK_FOLDER}/" not in path for path in gone):
            return False
        for path, inode in gone.items():
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "ab") as file:
                self.names[path] = os.fstat(file.fileno()).st_ino
            self.files[self.names[path]] = self.files.pop(inode)
        return True


def forget_second_names(folder: Path) -> None:
    """Take away each file below folder that has another name: it must not seem hard-linked."""
    for path, is_folder, _ in _entries(folder):
        if not is_folder and os.stat(path).st_nlink > 1:
            os.unlink(path)


def _entries(*trees: Path) -> Iterator[tuple[str, bool, int]]:
    """(path, whether it is a folder, inode) below trees, a folder before what is in it."""
    waiting = [str(tree) for tree in trees]
    while waiting:
        with os.scandir(waiting.pop()) as found:
            for entry in found:
                is_folder = entry.is_dir(follow_symlinks=False)
                if is_folder:
                    waiting.append(entry.path)
                yield entry.path, is_folder, entry.inode()


def _read(path: str) -> _File:
    with open(path, "rb") as file:
        found = os.fstat(file.fileno())
        return _File(found.st_size, found.st_mtime_ns, list(extents(file.fileno(), found.st_size)))


def _write(path: str, wanted: _File) -> None:
    """Content and time of change, where they are not what they shall be."""
    if _read(path) == wanted:
        return
    with open(path, "r+b") as file:
        file.truncate(0)
        file.truncate(wanted.size_bytes)
        for offset, data in wanted.extents:
            os.pwrite(file.fileno(), data, offset)
    os.utime(path, ns=(wanted.mtime_ns, wanted.mtime_ns))


def extents(fd: int, size_bytes: int) -> Iterator[tuple[int, bytes]]:
    """(offset, data) of everything in a file but its holes."""
    at = 0
    while at < size_bytes:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return  # nothing but a hole is left
        end = os.lseek(fd, at, os.SEEK_HOLE)
        yield at, os.pread(fd, end - at, at)
        at = end
