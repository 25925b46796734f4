"""Locks on the storage itself (crash-safety §5, layer B): ours and qemu's exclude each other.

For every disk two things are taken, both freed by the kernel when their owner dies:

- `.vdlock/<hash of the name>` in the disk's own folder: an open-file-description (OFD)
  lock that says who holds it. The command line and every console meet there.
- on the image itself the byte ranges that qemu uses: byte 100+n is read-locked by who
  has permission n, byte 200+n by who does not let others have it.

Windows hosts ignore all of this: hence the declaration that the disks are offline.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import struct
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from disks.engine.errors import ImageError
from disks.engine.files import storage_error
from disks.operations.beneath import libc, open_beneath
from disks.operations.journal import UNREADABLE
from disks.operations.paths import Roots
from disks.operations.storage_roots import LOCK_FOLDER
from disks.operations.windows import shown

# qemu's permissions: read consistently, write, write the same again, resize.
_READ, _WRITE, _WRITE_UNCHANGED, _RESIZE = range(4)
_HAS_BASE, _DENIES_BASE = 100, 200
_WRITER = ((_READ, _WRITE, _WRITE_UNCHANGED, _RESIZE), (_READ, _WRITE, _WRITE_UNCHANGED, _RESIZE))
_READER = ((_READ,), (_WRITE, _RESIZE))

# Byte-range locks are mandatory for Windows readers there (SMB, CIFS).
_NO_BYTE_LOCKS = (0xFF534D42, 0xFE534D42, 0x517B)
_TAKEN = (errno.EAGAIN, errno.EACCES)
_UNSUPPORTED = (errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
_NAME = re.compile(r"[0-9a-f]{32}")  # of a lock file, see lock_name()
_FLOCK = "hhqqi4x"  # l_type, l_whence, l_start, l_len, l_pid

_Images = dict[tuple[int, int], bool]  # device and inode: exclusively
_mine: ContextVar[dict[str, bool]] = ContextVar("held_disks")  # path: exclusively
_my_images: ContextVar[_Images] = ContextVar("held_images")


@dataclass(slots=True)
class _LockFile:
    folder: str
    name: str
    fd: int
    exclusive: bool


@contextlib.contextmanager
def hold(
    roots: Roots,
    exclusive: Sequence[str],
    shared: Sequence[str] = (),
    *,
    job: str = "",
    token: int = 0,
    installation: str = "",
) -> Iterator[None]:
    """Hold disks while the block runs: those that change, and those that must not change.

    exclusive may hold names that do not exist yet. Taken in sorted order, so that two
    jobs never wait for each other; nobody waits here at all. A disk that this very job
    holds already is not taken again, by another name neither: a rename that a death cut in
    two left both. Raises E_LOCKED naming the holder, E_IN_USE when
    another program has the image open, E_ACCESS, E_NO_LOCKS.
    """
    held = _mine.get({})
    wanted = dict.fromkeys(shared, False) | dict.fromkeys(exclusive, True)
    for path, exclusively in wanted.items():
        if exclusively and held.get(path) is False:
            raise ImageError(
                "E_LOCKED", f"This job only reads {shown(path)}; it cannot change it.", file=path
            )
    who = _holder(job, token, installation)
    images = dict(_my_images.get({}))
    with contextlib.ExitStack() as stack:
        for path in sorted(path for path in wanted if path not in held):
            lock = _lock_file(roots, path, exclusive=wanted[path], who=who)
            if lock is not None:
                stack.callback(_release, roots, lock)
            _lock_image(roots, path, stack, images, exclusive=wanted[path])
        reset, reset_images = _mine.set(held | wanted), _my_images.set(images)
        try:
            yield
        finally:
            _mine.reset(reset)
            _my_images.reset(reset_images)


def in_the_way(roots: Roots, path: str, *, exclusive: bool) -> ImageError | None:
    """What hold() would raise for this disk now, without waiting, taking or writing anything.

    E_LOCKED or E_IN_USE; None also where that cannot be told, and for what this job holds.
    """
    if path in _mine.get({}):
        return None
    try:
        who = None if roots.locate(path)[0].read_only else _holder_of(roots, path, exclusive)
        return who or _other_program(roots, path, exclusive)
    except (ImageError, OSError):
        return None


def _holder_of(roots: Roots, path: str, exclusive: bool) -> ImageError | None:
    """E_LOCKED while another job has the disk's lock file in a way that excludes this one."""
    folder_fd = roots.open_folder(os.path.dirname(path))
    try:
        name = f"{LOCK_FOLDER}/{lock_name(path)}"
        fd = open_beneath(folder_fd, name, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    finally:
        os.close(folder_fd)
    try:
        kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
        return _locked(fd, path) if _others_hold(fd, kind, 0, 0) else None
    finally:
        os.close(fd)


def _other_program(roots: Roots, path: str, exclusive: bool) -> ImageError | None:
    """E_IN_USE while another program has the image open in a way that excludes this job."""
    if not roots.exists(path):
        return None
    with roots.open(path) as file:
        if _file_system(file.fd) in _NO_BYTE_LOCKS:
            return None
        has, denies = _WRITER if exclusive else _READER
        return _in_use(path) if _is_taken(file.fd, has, denies) else None


def lock_name(path: str) -> str:
    """The name of a disk's lock file in `.vdlock` beside it.

    A name that is such a hash stands for itself: temporary files of disks with very long
    names carry it, and who sweeps them must meet their owner.
    """
    name = os.path.basename(path)
    if re.fullmatch(r"[0-9a-f]{32}|[0-9a-f]{64}", name):
        return name[:32]
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def sweep(roots: Roots, folder: str) -> None:
    """Take away the lock files in a folder that dead owners left; living ones keep theirs."""
    try:
        entries = roots.list(os.path.join(folder, LOCK_FOLDER))
        names = [entry.name for entry in entries if _NAME.fullmatch(entry.name)]
        folder_fd = roots.open_folder(folder)
    except ImageError:
        return
    try:
        for name in names:
            with contextlib.suppress(OSError):
                fd = open_beneath(folder_fd, f"{LOCK_FOLDER}/{name}", os.O_RDWR)
                _release(roots, _LockFile(folder, name, fd, exclusive=False))
        with contextlib.suppress(OSError):
            os.rmdir(LOCK_FOLDER, dir_fd=folder_fd)
    finally:
        os.close(folder_fd)


def _holder(job: str, token: int, installation: str) -> bytes:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    host = os.uname().nodename
    known = {"job": job, "token": token, "installation": installation}
    return json.dumps({"host": host, "pid": os.getpid(), "since": now, **known}).encode()


def _lock_file(roots: Roots, path: str, *, exclusive: bool, who: bytes) -> _LockFile | None:
    """Take the lock file; None where a reader may not write beside the disk."""
    folder = os.path.dirname(path)
    root, _ = roots.locate(path)
    if root.read_only:
        if exclusive:
            roots.require_writable(path)
        return None
    try:
        for _ in range(100):
            lock = _try_lock_file(roots, folder, path, exclusive=exclusive, who=who)
            if lock is not None:
                return lock
    except OSError as error:
        if not exclusive and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            return None
        if error.errno in _UNSUPPORTED:
            raise _no_locks(path) from error
        raise storage_error(error, os.path.join(folder, LOCK_FOLDER), verb="lock") from error
    raise ImageError("E_LOCKED", f"{shown(path)} is locked and freed too often.", file=path)


def _try_lock_file(
    roots: Roots, folder: str, path: str, *, exclusive: bool, who: bytes
) -> _LockFile | None:
    """One attempt; None if the file was removed by its last holder meanwhile."""
    name = lock_name(path)
    folder_fd = roots.open_folder(folder)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(LOCK_FOLDER, 0o777, dir_fd=folder_fd)
        try:
            fd = open_beneath(folder_fd, f"{LOCK_FOLDER}/{name}", os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            return None
        try:
            if not _set_lock(fd, fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK, 0, 0):
                raise _locked(fd, path)
            if not _still_there(folder_fd, name, fd):
                os.close(fd)
                return None
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(fd)
            raise
    finally:
        os.close(folder_fd)
    # Who holds it is for people: a full disk must not stand in the way of the lock. A file
    # with a second name was put there by somebody, and may be a disk: it is not written.
    with contextlib.suppress(OSError):
        if os.fstat(fd).st_nlink == 1:
            os.ftruncate(fd, 0)
            if exclusive:
                os.pwrite(fd, who, 0)
    return _LockFile(folder, name, fd, exclusive)


def _still_there(folder_fd: int, name: str, fd: int) -> bool:
    try:
        found = os.stat(f"{LOCK_FOLDER}/{name}", dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    mine = os.fstat(fd)
    return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)


def _release(roots: Roots, lock: _LockFile) -> None:
    """Free the lock; its last holder takes the file away, and the folder if it is empty."""
    try:
        with contextlib.suppress(OSError, ImageError):
            if lock.exclusive or _set_lock(lock.fd, fcntl.F_WRLCK, 0, 0):
                folder_fd = roots.open_folder(lock.folder)
                try:
                    if _still_there(folder_fd, lock.name, lock.fd):
                        os.unlink(f"{LOCK_FOLDER}/{lock.name}", dir_fd=folder_fd)
                    os.rmdir(LOCK_FOLDER, dir_fd=folder_fd)
                finally:
                    os.close(folder_fd)
    finally:
        os.close(lock.fd)


def _lock_image(
    roots: Roots,
    path: str,
    stack: contextlib.ExitStack,
    images: _Images,
    *,
    exclusive: bool,
) -> None:
    """qemu's byte ranges on an existing image, for as long as the stack is open.

    images: those that this job has already; this one joins them
    """
    try:
        file = roots.open(path)
    except ImageError as error:
        if error.code == "E_NOT_FOUND":
            return  # a name that is only going to exist
        raise
    stack.callback(file.close)
    found = file.stat()
    image = (found.st_dev, found.st_ino)
    if image in images and images[image] >= exclusive:
        return
    if _file_system(file.fd) in _NO_BYTE_LOCKS:
        return
    images[image] = exclusive
    has, denies = _WRITER if exclusive else _READER
    try:
        for permission in has:
            _set_lock(file.fd, fcntl.F_RDLCK, _HAS_BASE + permission, 1)
        for permission in denies:
            _set_lock(file.fd, fcntl.F_RDLCK, _DENIES_BASE + permission, 1)
        taken = _is_taken(file.fd, has, denies)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise _no_locks(path) from error
        raise storage_error(error, path, verb="lock") from error
    if taken:
        raise _in_use(path)


def _is_taken(fd: int, has: Sequence[int], denies: Sequence[int]) -> bool:
    """Whether others deny what we want to have of an image, or have what we want to deny."""
    return any(
        _others_hold(fd, fcntl.F_WRLCK, byte, 1)
        for byte in (*(_DENIES_BASE + one for one in has), *(_HAS_BASE + one for one in denies))
    )


def _set_lock(fd: int, kind: int, start: int, length: int) -> bool:
    """An OFD lock without waiting; False if somebody else has one that excludes it."""
    request = struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True


def _others_hold(fd: int, kind: int, start: int, length: int) -> bool:
    """True if another open file description has a lock there that excludes one of that kind."""
    request = struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, request)
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)


def _file_system(fd: int) -> int:
    """The kernel's magic number of the file system that an open file lies on."""
    buffer = ctypes.create_string_buffer(256)
    if libc().fstatfs(fd, buffer) != 0:
        return 0
    return int(ctypes.c_long.from_buffer(buffer).value) & 0xFFFFFFFF


def _locked(fd: int, path: str) -> ImageError:
    who = "another job that reads it"
    try:
        known = json.loads(os.pread(fd, 4096, 0))
        job = f"job {known['job']}" if known["job"] else "a command"
        who = f"{job} on host {known['host']} (process {known['pid']}, since {known['since']})"
    except (OSError, *UNREADABLE):
        pass
    return ImageError(
        "E_LOCKED",
        f"{shown(path)} is in the hands of {shown(who)}.",
        file=path,
        field="lock",
        value=who,
    )


def _in_use(path: str) -> ImageError:
    return ImageError(
        "E_IN_USE",
        f"{shown(path)} is open in another program, for example a running virtual machine.",
        file=path,
    )


def _no_locks(path: str) -> ImageError:
    return ImageError(
        "E_NO_LOCKS",
        f"The storage of {shown(path)} offers no file locks, so nothing would keep two jobs apart.",
        file=path,
    )
