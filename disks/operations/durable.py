"""Changes of names that last: each ends with the folder made durable (crash-safety R3)."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Callable

from disks.engine import faults
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile, storage_error
from disks.operations import ownership
from disks.operations.beneath import libc
from disks.operations.paths import Roots

_RENAME_NOREPLACE = 1


def rename(roots: Roots, source: str, target: str, *, replace: bool = True) -> None:
    """Give a file another name, in one step for everybody who looks.

    replace  False: E_EXISTS if the target name is taken; without a rename that can do so it
             has both names for a moment. Both folders are made durable.
    """

    def change(source_fd: int, target_fd: int, old: str, new: str) -> None:
        faults.reached("rename", source, target=target)
        if replace:
            os.rename(old, new, src_dir_fd=source_fd, dst_dir_fd=target_fd)
        elif not _rename_new(source_fd, old, target_fd, new):
            faults.reached("link", source, target=target)
            os.link(old, new, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
            _sync(target_fd, os.path.dirname(target))  # the only name may not be a lost one
            faults.reached("unlink", source)  # killed here, the file has both names
            os.unlink(old, dir_fd=source_fd)

    _between(roots, source, target, change)


def link(roots: Roots, source: str, target: str) -> None:
    """A second name for a file; E_EXISTS if it is taken. The target's folder is made durable."""

    def change(source_fd: int, target_fd: int, old: str, new: str) -> None:
        faults.reached("link", source, target=target)
        os.link(old, new, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)

    _between(roots, source, target, change)


def create(roots: Roots, path: str, *, rights_of: str = "") -> ImageFile:
    """A new empty file, open for writing; E_EXISTS. Its name is not durable yet.

    rights_of: the disk whose bytes it is to hold; who may not read that cannot read this.
    """
    try:
        faults.reached("create", path)
    except OSError as error:
        raise storage_error(error, path, verb="create") from error
    if not rights_of:
        return roots.open(path, create=True)
    file = roots.open(path, create=True, mode=0o600)
    with contextlib.suppress(ImageError), roots.open(rights_of) as disk:
        ownership.let_in_readers_of(disk.fd, file.fd)
    return file


def unlink(roots: Roots, path: str, *, missing_ok: bool = False) -> None:
    """Take a name away for good; only for files of our own (disks go to the trash, R8)."""
    roots.require_writable(path)
    folder, name = os.path.split(path)
    folder_fd = roots.open_folder(folder)
    try:
        faults.reached("unlink", path)
        os.unlink(name, dir_fd=folder_fd)
        _sync(folder_fd, folder)
    except FileNotFoundError as error:
        if not missing_ok:
            raise storage_error(error, path, verb="unlink") from error
    except OSError as error:
        raise storage_error(error, path, verb="unlink") from error
    finally:
        os.close(folder_fd)


def make_folder(roots: Roots, path: str, mode: int = 0o777) -> bool:
    """A new folder, durable; False if it was there already. mode is cut by the umask."""
    roots.require_writable(path)
    parent, name = os.path.split(path)
    parent_fd = roots.open_folder(parent)
    try:
        faults.reached("mkdir", path)
        os.mkdir(name, mode, dir_fd=parent_fd)
        _sync(parent_fd, parent)
    except FileExistsError:
        return False
    except OSError as error:
        raise storage_error(error, path, verb="mkdir") from error
    finally:
        os.close(parent_fd)
    return True


def remove_empty_folder(roots: Roots, path: str) -> bool:
    """True if the folder was empty and is gone now."""
    parent, name = os.path.split(path)
    parent_fd = roots.open_folder(parent)
    try:
        faults.reached("rmdir", path)
        os.rmdir(name, dir_fd=parent_fd)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.EBUSY):
            return False
        raise storage_error(error, path, verb="rmdir") from error
    finally:
        os.close(parent_fd)
    return True


def replace_content(
    roots: Roots, path: str, temporary: str, data: bytes, *, rights_of: str = ""
) -> None:
    """path holds exactly data afterwards, or what it held before: temp, fsync, rename, fsync.

    temporary is a name in the same folder, free or left behind by an attempt that died.
    rights_of: see create().
    """
    unlink(roots, temporary, missing_ok=True)
    with create(roots, temporary, rights_of=rights_of) as file:
        try:
            file.write_at(0, data)
            file.sync()
        except ImageError:
            _discard(roots, temporary)
            raise
    try:
        rename(roots, temporary, path)
    except ImageError:
        _discard(roots, temporary)
        raise


def sync_folder_of(roots: Roots, path: str) -> None:
    """Make the name of a file durable."""
    folder = os.path.dirname(path)
    folder_fd = roots.open_folder(folder)
    try:
        _sync(folder_fd, folder)
    finally:
        os.close(folder_fd)


def _discard(roots: Roots, temporary: str) -> None:
    # The first error counts; recovery sweeps what is left.
    with contextlib.suppress(ImageError):
        unlink(roots, temporary, missing_ok=True)


def _between(
    roots: Roots,
    source: str,
    target: str,
    change: Callable[[int, int, str, str], None],
) -> None:
    roots.require_writable(source)
    roots.require_writable(target)
    source_folder, old = os.path.split(source)
    target_folder, new = os.path.split(target)
    source_fd = roots.open_folder(source_folder)
    try:
        target_fd = roots.open_folder(target_folder)
        try:
            change(source_fd, target_fd, old, new)
            _sync(target_fd, target_folder)
            if source_folder != target_folder:
                _sync(source_fd, source_folder)
        finally:
            os.close(target_fd)
    except FileExistsError as error:
        raise ImageError(
            "E_EXISTS", f"{target} exists already and is not overwritten.", file=target
        ) from error
    except OSError as error:
        raise storage_error(error, source, verb="rename") from error
    finally:
        os.close(source_fd)


def _rename_new(source_fd: int, old: str, target_fd: int, new: str) -> bool:
    """Rename that never replaces; False where the storage has no such rename."""
    result = libc().renameat2(
        source_fd,
        ctypes.c_char_p(os.fsencode(old)),
        target_fd,
        ctypes.c_char_p(os.fsencode(new)),
        ctypes.c_uint(_RENAME_NOREPLACE),
    )
    number = 0 if result == 0 else ctypes.get_errno()
    if number not in (0, errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number), new)
    return number == 0


def _sync(folder_fd: int, folder: str) -> None:
    try:
        faults.reached("fsync-folder", folder)
        os.fsync(folder_fd)
    except OSError as error:
        # Some network file systems know no fsync of a folder: names are durable there
        # as soon as the server has answered.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise storage_error(error, folder, verb="fsync") from error
