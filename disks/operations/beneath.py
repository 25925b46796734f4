"""Opening below a folder: no links, no other file system, no way out (crash-safety R5)."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys

_OPENAT2 = 437  # the same number on every architecture that Linux added it to
_RESOLVE = 0x01 | 0x02 | 0x04 | 0x08  # NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH
_NOT_HERE = (errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG)

_state = {"openat2": True}


def open_beneath(folder_fd: int, relative: str, flags: int, mode: int = 0) -> int:
    """Open relative below folder_fd: no links, no other file system, no way out.

    openat2 where the kernel has it; else component by component, which a rename under
    way can at most make fail.
    """
    # The name that Python's own open() announces, for whoever watches (tests do).
    sys.audit("open", relative, None, flags)
    flags |= os.O_CLOEXEC
    if _state["openat2"]:
        try:
            return _openat2(folder_fd, relative, flags, mode)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            # EPERM may be a sandbox that knows no openat2, or a real refusal: the slow
            # way decides, and only a missing call is remembered.
            if error.errno == errno.ENOSYS:
                _state["openat2"] = False
    return _open_stepwise(folder_fd, relative, flags, mode)


def _openat2(folder_fd: int, relative: str, flags: int, mode: int) -> int:
    how = struct.pack("QQQ", flags, mode if flags & os.O_CREAT else 0, _RESOLVE)
    name = os.fsencode(relative)
    for _ in range(8):
        fd = libc().syscall(_OPENAT2, folder_fd, name, how, len(how))
        if fd >= 0:
            return int(fd)
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(number, os.strerror(number), relative)


def _open_stepwise(folder_fd: int, relative: str, flags: int, mode: int) -> int:
    device = os.fstat(folder_fd).st_dev
    parts = [part for part in relative.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), relative)
    current = os.dup(folder_fd)
    try:
        for part in parts[:-1]:
            step = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            following = _no_link(current, part, step, 0)
            os.close(current)
            current = following
            _same_device(current, device, relative)
        fd = _no_link(current, parts[-1] if parts else ".", flags | os.O_NOFOLLOW, mode)
    finally:
        os.close(current)
    try:
        _same_device(fd, device, relative)
    except OSError:
        os.close(fd)
        raise
    return fd


def _no_link(folder_fd: int, name: str, flags: int, mode: int) -> int:
    try:
        return os.open(name, flags, mode, dir_fd=folder_fd)
    except NotADirectoryError:
        # O_DIRECTORY | O_NOFOLLOW on a link says ENOTDIR; tell it apart as openat2 does.
        if stat.S_ISLNK(os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name) from None
        raise


def _same_device(fd: int, device: int, relative: str) -> None:
    if os.fstat(fd).st_dev != device:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), relative)


def libc() -> ctypes.CDLL:
    if "libc" not in _cache:
        _cache["libc"] = ctypes.CDLL(None, use_errno=True)
    return _cache["libc"]


_cache: dict[str, ctypes.CDLL] = {}
