"""A folder as it was at one moment, to which it can be brought back as often as needed."""

from __future__ import annotations

import itertools
import os
import stat
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from disks.engine import faults
from disks.operations.locks import LOCK_FOLDER

Extents = list[tuple[int, bytes]]
PIECE_BYTES = 64 * 1024


SURELY_OLDER_NS = 20_000_000  # than any step of the clock that file systems take times from


@dataclass(frozen=True)
class _File:
    size_bytes: int
    mtime_ns: int
    mode: int
    extents: Extents


@dataclass
class Contents:
    """What files held when they were last looked at, so that few have to be read again.

    As git's index does: a file whose time of change (ctime, which nobody can set) is what it
    was then holds what it held then, unless it had been changed just before.
    """

    _known: dict[int, tuple[int, _File]] = field(default_factory=dict)  # inode: ctime_ns, it

    def of(self, path: str) -> _File:
        known = self._still_known(path)
        return known if known is not None else self._learn(path, os.stat(path), _read(path))

    def put(self, path: str, wanted: _File) -> None:
        """Content, time of change and mode, where they are not what they shall be."""
        if self._still_known(path) is not wanted:
            _write(path, wanted)
            self._learn(path, os.stat(path), wanted)

    def forget_all_but(self, inodes: Set[int]) -> None:
        for inode in self._known.keys() - inodes:
            del self._known[inode]

    def _still_known(self, path: str) -> _File | None:
        found = os.stat(path)
        ctime_ns, file = self._known.get(found.st_ino, (0, None))
        return file if ctime_ns == found.st_ctime_ns else None

    def _learn(self, path: str, found: os.stat_result, file: _File) -> _File:
        if time.time_ns() - found.st_ctime_ns > SURELY_OLDER_NS:
            self._known[found.st_ino] = (found.st_ctime_ns, file)
        else:
            self._known.pop(found.st_ino, None)
        return file


@dataclass
class Frozen:
    """What trees of folders held: names, inodes, contents, holes, modes and times of change.

    A file comes back as the very same inode, for sidecars know disks by it. It needs a name
    all the while: what loses its last one while kept() watches gets one in the last of the
    spare folders. Only what differs is touched, so that ctime stays where nobody changed
    anything.
    """

    trees: tuple[Path, ...]
    spares: tuple[Path, ...]
    contents: Contents
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
                    self.files[inode] = self.contents.of(path)

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
        return str(self.spares[-1] / f"spare{next(self._numbers)}")

    def thaw(self) -> bool:
        """Bring everything back. False: a file is gone for good, and nothing was done."""
        if not self._make_locks_anew():
            return False
        now = list(_entries(*self.trees, *self.spares))
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
            self.contents.put(path, self.files[inode])
        return True

    def _make_locks_anew(self) -> bool:
        """Only locks are taken away behind the fault points, and known by name, not inode.

        Returns whether nothing else is gone.
        """
        there = {inode for _, _, inode in _entries(*self.trees, *self.spares)}
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
        held = list(extents(file.fileno(), found.st_size))
        return _File(found.st_size, found.st_mtime_ns, found.st_mode, held)


def _write(path: str, wanted: _File) -> None:
    """Make a file as wanted; what is so already stays untouched."""
    with open(path, "r+b", buffering=0) as file:
        fd = file.fileno()
        found = os.fstat(fd)
        where_holes_shall_be = _first_data_beside(fd, found.st_size, wanted.extents)
        if where_holes_shall_be < min(found.st_size, wanted.size_bytes):
            os.ftruncate(fd, where_holes_shall_be)
        if os.fstat(fd).st_size != wanted.size_bytes:
            os.ftruncate(fd, wanted.size_bytes)
        for offset, data in wanted.extents:
            if os.pread(fd, len(data), offset) != data:
                os.pwrite(fd, data, offset)
        if found.st_mode != wanted.mode:
            os.fchmod(fd, stat.S_IMODE(wanted.mode))
        if os.fstat(fd).st_mtime_ns != wanted.mtime_ns:
            os.utime(fd, ns=(wanted.mtime_ns, wanted.mtime_ns))


def _first_data_beside(fd: int, size_bytes: int, wanted: Extents) -> int:
    """Where the first data lies that is in none of the wanted extents; size_bytes if nowhere."""
    covered = iter(wanted)
    start = end = 0
    for data, data_end in _data(fd, size_bytes):
        while data < data_end:
            while end <= data:
                offset, content = next(covered, (size_bytes, b""))
                if not content:
                    return data
                start, end = offset, offset + len(content)
            if data < start:
                return data
            data = end
    return size_bytes


def extents(fd: int, size_bytes: int) -> Iterator[tuple[int, bytes]]:
    """(offset, data) of everything in a file but its holes, in pieces."""
    for start, end in _data(fd, size_bytes):
        for at in range(start, end, PIECE_BYTES):
            yield at, os.pread(fd, min(PIECE_BYTES, end - at), at)


def _data(fd: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """(start, end) of what is not a hole."""
    at = 0
    while at < size_bytes:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return  # nothing but a hole is left
        at = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, at
