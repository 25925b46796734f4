"""What can this storage do? Tried out in a folder of our own, which is gone afterwards.

A root's capabilities decide which work is offered on it: without hard links a file is
replaced by a journalled pair of renames, without working locks nothing is changed in
place, and where a copy would lose its owner no file is replaced (crash-safety §3, §5).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from disks.engine.errors import ImageError
from disks.operations.ownership import carry_over
from disks.operations.paths import Roots
from disks.operations.space import space_of

# Begins like all names of ours (paths.is_internal_name), so that no scan sees it.
_PREFIX = ".vdprobe-"
_FILES = ("a", "b", "linked")


@dataclass
class Probe:
    """What was found; None where it could not be tried. problems: sentences for people."""

    readable: bool = False
    writable: bool = False
    locks: bool | None = None
    hard_links: bool | None = None
    rename_over: bool | None = None
    ownership: bool | None = None
    attributes: bool | None = None
    file_system: str = ""
    free_bytes: int | None = None
    total_bytes: int | None = None
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def probe(roots: Roots, folder: str) -> Probe:
    """Try a root's folder out. Never raises for what the storage cannot do; it is told."""
    found = Probe()
    try:
        fd = roots.open_folder(folder)
    except ImageError as error:
        found.problems.append(error.message)
        return found
    try:
        _read(fd, found)
        space = space_of(fd)
        found.free_bytes, found.total_bytes = space.free_bytes, space.total_bytes
        found.file_system = _file_system(os.fstat(fd).st_dev)
        _sweep(fd)
        with _own_folder(fd, found) as own:
            if own is not None:
                _try_out(own, fd, found)
    finally:
        os.close(fd)
    return found


def _read(fd: int, found: Probe) -> None:
    try:
        with os.scandir(fd) as entries:
            next(iter(entries), None)
        found.readable = True
    except OSError as error:
        found.problems.append(f"The folder cannot be listed: {error.strerror}.")


@contextlib.contextmanager
def _own_folder(fd: int, found: Probe) -> Iterator[int | None]:
    name = _PREFIX + secrets.token_hex(8)
    try:
        os.mkdir(name, 0o700, dir_fd=fd)
    except OSError as error:
        found.problems.append(f"Nothing can be written here: {error.strerror}.")
        yield None
        return
    found.writable = True
    own = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        yield own
    finally:
        os.close(own)
        _remove(fd, name)


def _try_out(own: int, root_fd: int, found: Probe) -> None:
    first = _new_file(own, "a", found)
    if first is None:
        return
    second = os.open("a", os.O_RDWR | os.O_CLOEXEC, dir_fd=own)
    try:
        found.locks = _locks_work(first, second)
        if not found.locks:
            found.problems.append(
                "Locks do not hold here: two programs could change one disk at the same time."
            )
        found.hard_links = _hard_links_work(own)
        if not found.hard_links:
            found.problems.append("The file system knows no hard links.")
        _try_ownership(own, root_fd, first, found)
        found.rename_over = _rename_over_works(own)
    finally:
        os.close(first)
        os.close(second)


def _new_file(own: int, name: str, found: Probe) -> int | None:
    try:
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=own)
        os.write(fd, b"probe")
        os.fsync(fd)
    except OSError as error:
        found.writable = False
        found.problems.append(f"A file cannot be written here: {error.strerror}.")
        return None
    return fd


def _locks_work(first: int, second: int) -> bool:
    """An open-file lock taken once keeps a second opening out, and goes when given back."""
    try:
        fcntl.fcntl(first, fcntl.F_OFD_SETLK, _lock(fcntl.F_WRLCK))
    except OSError:
        return False
    try:
        fcntl.fcntl(second, fcntl.F_OFD_SETLK, _lock(fcntl.F_WRLCK))
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            return False
    else:
        return False
    try:
        fcntl.fcntl(first, fcntl.F_OFD_SETLK, _lock(fcntl.F_UNLCK))
        fcntl.fcntl(second, fcntl.F_OFD_SETLK, _lock(fcntl.F_WRLCK))
    except OSError:
        return False
    return True


def _lock(kind: int) -> bytes:
    """struct flock of one byte; the pid must be 0 for locks of an open file."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, 100, 1, 0)


def _hard_links_work(own: int) -> bool:
    try:
        os.link("a", "linked", src_dir_fd=own, dst_dir_fd=own, follow_symlinks=False)
        return os.stat("linked", dir_fd=own).st_nlink == 2
    except OSError:
        return False


def _try_ownership(own: int, root_fd: int, first: int, found: Probe) -> None:
    """Whether a copy can be given the owner, mode and attributes that files here have."""
    status = os.fstat(root_fd)
    copy = _new_file(own, "b", found)
    if copy is None:
        return
    try:
        found.attributes = _attribute_kept(first)
        try:
            os.fchown(first, status.st_uid, status.st_gid)
            os.fchmod(first, 0o640)
            carry_over(first, copy, "the probe")
            found.ownership = True
        except (OSError, ImageError) as error:
            found.ownership = False
            why = error.message if isinstance(error, ImageError) else error.strerror
            found.problems.append(
                "A copy here does not keep the owner and rights of the original, so no file "
                f"can be replaced by a copy ({why})."
            )
    finally:
        os.close(copy)


def _attribute_kept(fd: int) -> bool:
    try:
        os.setxattr(fd, "user.vdadmin.probe", b"1")
    except OSError:
        return False
    return True


def _rename_over_works(own: int) -> bool:
    try:
        os.rename("b", "a", src_dir_fd=own, dst_dir_fd=own)
    except OSError:
        return False
    return True


def _sweep(fd: int) -> None:
    """Folders of probes that were killed; their names are ours alone."""
    with contextlib.suppress(OSError), os.scandir(fd) as entries:
        left = [e.name for e in entries if e.name.startswith(_PREFIX)]
        for name in left:
            _remove(fd, name)


def _remove(fd: int, name: str) -> None:
    with contextlib.suppress(OSError):
        own = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
        try:
            for file in _FILES:
                with contextlib.suppress(OSError):
                    os.unlink(file, dir_fd=own)
        finally:
            os.close(own)
        os.rmdir(name, dir_fd=fd)


def _file_system(device: int) -> str:
    """The file system's type by the kernel's table of mounts, "" where that is silent."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as table:
            for line in table:
                before, _, after = line.partition(" - ")
                if before.split()[2] == wanted:
                    return after.split()[0]
    except (OSError, IndexError):
        return ""
    return ""
