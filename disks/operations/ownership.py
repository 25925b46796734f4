"""Owner, mode, access list and extended attributes of a file that a copy shall replace.

A copy that lost them would lock a virtual machine out of its own disk, so they are
carried over and compared before the replaced file gives way (crash-safety §3 "Rewrite").
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass

from disks.engine import faults
from disks.engine.errors import ImageError
from disks.engine.files import storage_error

# Set by the kernel for the file's content or place, not by its owner: never carried over.
_NOT_OURS = ("security.ima", "security.evm", "btrfs.", "ceph.")
_ACCESS_LISTS = {"system.posix_acl_access", "system.nfs4_acl", "security.NTACL"}

# Such an owner, right or attribute is not to be had here, however often it is tried.
_CANNOT_BE = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.E2BIG, errno.ERANGE)


@dataclass(frozen=True, slots=True)
class Ownership:
    """uid, gid, permission bits; attributes hold POSIX access lists and Samba's NT ACL too."""

    uid: int
    gid: int
    mode: int
    attributes: tuple[tuple[str, bytes], ...]


def ownership_of(fd: int) -> Ownership:
    """What belongs to an open file beside its content."""
    status = os.fstat(fd)
    return Ownership(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), _attributes(fd))


def carry_over(source: int, target: int, path: str) -> None:
    """Give the new file (target) what the replaced one (source) has.

    Compares afterwards. Raises E_OWNER, naming what could not be carried over, and what the
    storage says where it fails; the replaced file stays untouched, and of E_OWNER merging to
    a new disk is the way out.
    """
    wanted = ownership_of(source)
    try:
        _apply(wanted, target, path)
    except OSError as error:
        if error.errno not in _CANNOT_BE:
            raise storage_error(error, path, verb="chown") from error
        raise _refused(path, error.strerror or "the storage refused it") from error
    got = ownership_of(target)
    lost = _differences(wanted, got)
    if lost:
        raise _refused(path, f"{', '.join(lost)} would be lost")


def let_in_readers_of(disk: int, ours: int) -> None:
    """Let those read a file of ours who may read the disk; nobody else reads, or writes, it.

    So that another host's service, under another user of the group, can undo what this one began.
    Until then only its owner may open it, and so it stays where the storage refuses more, and
    where an access list would have its say.
    """
    with contextlib.suppress(OSError):
        if {name for fd in (disk, ours) for name, _ in _attributes(fd)} & _ACCESS_LISTS:
            return
        status = os.fstat(disk)
        if os.fstat(ours).st_gid != status.st_gid:
            os.fchown(ours, -1, status.st_gid)
        os.fchmod(ours, 0o600 | status.st_mode & 0o044)


def _apply(wanted: Ownership, target: int, path: str) -> None:
    faults.reached("chown", path)
    os.fchown(target, wanted.uid, wanted.gid)
    faults.reached("chmod", path)
    os.fchmod(target, wanted.mode)
    present = dict(_attributes(target))
    for name, value in wanted.attributes:
        if present.pop(name, None) != value:
            faults.reached("setxattr", path)
            os.setxattr(target, name, value)
    for name in present:
        faults.reached("removexattr", path)
        os.removexattr(target, name)


def _attributes(fd: int) -> tuple[tuple[str, bytes], ...]:
    try:
        names = os.listxattr(fd)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOSYS):
            return ()
        raise
    kept = sorted(name for name in names if not name.startswith(_NOT_OURS))
    return tuple((name, os.getxattr(fd, name)) for name in kept)


def _differences(wanted: Ownership, got: Ownership) -> list[str]:
    lost = []
    if wanted.uid != got.uid:
        lost.append(f"the owner (user {wanted.uid})")
    if wanted.gid != got.gid:
        lost.append(f"the group ({wanted.gid})")
    if wanted.mode != got.mode:
        lost.append(f"the mode ({wanted.mode:04o})")
    if wanted.attributes != got.attributes:
        lost.append("the access list or an extended attribute")
    return lost


def _refused(path: str, why: str) -> ImageError:
    return ImageError(
        "E_OWNER",
        f"{path} is not replaced, because its copy would not keep owner and rights: {why}.",
        file=path,
        field="owner",
    )
