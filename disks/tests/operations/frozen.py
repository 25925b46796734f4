"""A folder as it was at one moment, to which it can be brought back as often as needed."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from disks.engine import faults
from disks.operations.locks import LOCK_FOLDER

Extents = list[tuple[int, bytes]]
PIECE_BYTES = 64 * 1024
_link = os.link  # also where a test plays a storage without it

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
    anything. Locks are known by name, and come and go behind the fault points: they are made
    anew.

    needed: the inodes of this moment and of all others to which the trees are to be brought back
    """

    trees: tuple[Path, ...]
    spares: tuple[Path, ...]
    contents: Contents
    needed: set[int] = field(default_factory=set)
    folders: list[str] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)
    files: dict[int, _File] = field(default_factory=dict)
    locks: dict[str, _File] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path, is_folder, inode in _entries(*self.trees):
            if is_folder:
                self.folders.append(path)
            elif _is_lock(path):
                self.locks[path] = self.contents.of(path)
            else:
                self.names[path] = inode
                if inode not in self.files:
                    self.files[inode] = self.contents.of(path)
        self.needed.update(self.files)

    def held(self, *, times: bool = True) -> tuple[object, ...]:
        """All of it, to be compared with another moment; with or without times of change."""
        files: list[dict[object, _File]] = [dict(self.files), dict(self.locks)]
        if not times:
            files = [{at: replace(file, mtime_ns=0) for at, file in one.items()} for one in files]
        return sorted(self.folders), self.names, files

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Nothing that is needed loses its last name to what this process does now."""
        faults.watch(self.keep)
        try:
            yield
        finally:
            faults.watch(None)

    def keep(self, event: faults.Event) -> None:
        """Another name for what is about to lose its last one."""
        lost = {"unlink": event.path, "rename": event.target}.get(event.operation, "")
        if lost and os.path.isfile(lost):
            found = os.stat(lost)
            if found.st_nlink == 1 and found.st_ino in self.needed:
                _link(lost, self._spare_name(found.st_ino))

    def _spare_name(self, inode: int) -> str:
        return str(self.spares[-1] / f"spare{inode}")

    def thaw(self) -> bool:
        """Bring everything back. False: a file is gone for good, and nothing was done."""
        now = list(_entries(*self.trees, *self.spares))
        if self.files.keys() - {inode for _, _, inode in now}:
            return False
        somewhere = {}  # inode -> a name of it, to link others to
        spared = {}
        for path, is_folder, inode in now:
            if is_folder or path in self.locks:
                continue
            if self.names.get(path) == inode:
                somewhere[inode] = path
            elif inode in self.needed and not _is_lock(path):
                spared[inode] = self._spare_name(inode)
                somewhere.setdefault(inode, spared[inode])
                if not os.path.exists(spared[inode]):
                    os.rename(path, spared[inode])
                elif path != spared[inode]:
                    os.unlink(path)
            else:
                os.unlink(path)
        for folder in self.folders:
            os.makedirs(folder, exist_ok=True)
        for path, inode in self.names.items():
            if not os.path.exists(path):
                _link(somewhere[inode], path)
        for inode in spared.keys() & self.files.keys():
            os.unlink(spared[inode])
        for path, is_folder, _ in reversed(now):
            if is_folder and path not in self.folders:
                os.rmdir(path)
        for inode, path in {inode: path for path, inode in self.names.items()}.items():
            self.contents.put(path, self.files[inode])
        for path, lock in self.locks.items():
            with open(path, "ab"):
                self.contents.put(path, lock)
        return True


def _is_lock(path: str) -> bool:
    return f"/{LOCK_FOLDER}/" in path


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
    for data, data_end in data_in(fd, size_bytes):
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
    for start, end in data_in(fd, size_bytes):
        for at in range(start, end, PIECE_BYTES):
            yield at, os.pread(fd, min(PIECE_BYTES, end - at), at)


def data_in(fd: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """(start, end) of what is not a hole."""
    at = 0
    while at < size_bytes:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return  # nothing but a hole is left
        at = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, at
