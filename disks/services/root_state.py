"""What became of a storage root: is it there, is it the same, what can it do, how much is free?"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable
from typing import Any

from django.utils import timezone

from disks.engine.errors import ImageError
from disks.models import StorageRoot
from disks.operations import durable, paths, probing
from disks.operations.storage_roots import ROOT_MARKER, Root
from disks.services import declarations

_SAMPLE = 20


def probe(root: StorageRoot) -> dict[str, Any]:
    """Try out what the storage can do and keep the answer; leaves nothing behind."""
    single = Root(path=root.path, name=root.name, excluded=tuple(root.excluded_folders))
    found = probing.probe(paths.Roots([single]), root.path).as_dict()
    root.probe = found
    root.probed_at = timezone.now()
    root.free_bytes, root.total_bytes = found["free_bytes"], found["total_bytes"]
    root.save(update_fields=["probe", "probed_at", "free_bytes", "total_bytes"])
    return found


def check_state(root: StorageRoot) -> StorageRoot:
    """See whether the root is there and is the same as before; the row keeps the answer.

    Rows of an offline root are kept and nothing in it counts as deleted (bad-input 67).
    Another volume in its place is E_ROOT_CHANGED (bad-input 75) until somebody accepts it.
    A volume whose device number changed (a reboot) is known by its marker, else by files
    that are where the catalog says.
    """
    state, reason, status = _look(root)
    fields: dict[str, Any] = {"state": state, "state_reason": reason}
    if state == StorageRoot.State.ONLINE and status is not None:
        fields |= {"device": status.st_dev, "inode": status.st_ino}
        figures = os.statvfs(root.path)
        fields["free_bytes"] = figures.f_bavail * figures.f_frsize
        fields["total_bytes"] = figures.f_blocks * figures.f_frsize
    changed = {name: value for name, value in fields.items() if getattr(root, name) != value}
    if changed:
        for name, value in changed.items():
            setattr(root, name, value)
        root.save(update_fields=list(changed))
    return root


def measure(host_paths: Iterable[str]) -> None:
    """Note anew how much is free in the roots that hold these paths: something was written.

    Whether a root is there at all is for check_state() to say; one that is not is left alone.
    """
    for root in declarations.roots_of(host_paths):
        with contextlib.suppress(OSError):
            if os.stat(root.path).st_dev != root.device:
                continue
            figures = os.statvfs(root.path)
            StorageRoot.objects.filter(pk=root.pk).update(
                free_bytes=figures.f_bavail * figures.f_frsize,
                total_bytes=figures.f_blocks * figures.f_frsize,
            )


def require_online(root: StorageRoot) -> None:
    """Raises ImageError E_ROOT_OFFLINE or E_ROOT_CHANGED unless the root can be worked on."""
    check_state(root)
    if root.state == StorageRoot.State.OFFLINE:
        raise ImageError(
            "E_ROOT_OFFLINE",
            f"The storage root {root.name} is offline: {root.state_reason}",
            file=root.path,
        )
    if root.state == StorageRoot.State.CHANGED:
        raise ImageError(
            "E_ROOT_CHANGED",
            f"The storage root {root.name} is not the one that was set up: {root.state_reason}",
            file=root.path,
        )


def _look(root: StorageRoot) -> tuple[str, str, os.stat_result | None]:
    states = StorageRoot.State
    bare = paths.Roots([Root(path=root.path, name=root.name)])
    try:
        fd = bare.open_folder(root.path)
    except ImageError as error:
        return states.OFFLINE, error.message, None
    try:
        status = os.fstat(fd)
        try:
            with os.scandir(fd) as entries:
                is_empty = next(iter(entries), None) is None
        except OSError as error:
            return states.OFFLINE, f"The folder cannot be listed: {error.strerror}.", status
        if is_empty and root.disks.filter(missing_since=None).exists():
            return (
                states.OFFLINE,
                "The folder is empty, though disks were here: is the volume mounted?",
                status,
            )
        if root.marker:
            if read_marker(fd) == root.marker:
                return states.ONLINE, "", status
            return states.CHANGED, "Its marker file is missing or another one.", status
        same = root.device is None or (status.st_dev, status.st_ino) == (root.device, root.inode)
        if same or _files_agree(root, bare):
            return states.ONLINE, "", status
        return states.CHANGED, "Another folder or file system is mounted there now.", status
    finally:
        os.close(fd)


def read_marker(fd: int) -> str:
    """The content of the root's marker file, "" without one."""
    try:
        marker = os.open(
            ROOT_MARKER,
            os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
            dir_fd=fd,
        )
    except OSError:
        return ""
    try:
        return os.read(marker, 4096).decode("utf-8", "replace").strip()
    finally:
        os.close(marker)


def _files_agree(root: StorageRoot, bare: paths.Roots) -> bool:
    """True if files that the catalog knows lie where it says, with their inode and size."""
    rows = root.disks.filter(missing_since=None).values_list(
        "relative_path", "inode", "file_size_bytes"
    )[:_SAMPLE]
    agreed = 0
    for relative, inode, size in rows:
        try:
            status = bare.stat(os.path.join(root.path, relative))
        except ImageError:
            continue
        agreed += (status.st_ino, status.st_size) == (inode, size)
    return agreed > 0 and agreed * 2 >= len(rows)


def require_marker(root: StorageRoot) -> None:
    """A root that may be written carries a marker, so that another volume is noticed."""
    if root.read_only or root.marker or root.state == StorageRoot.State.OFFLINE:
        return
    bare = paths.Roots([Root(path=root.path)])
    try:
        fd = bare.open_folder(root.path)
        try:
            marker = read_marker(fd)
        finally:
            os.close(fd)
        if not marker:
            marker = secrets.token_hex(16)
            path = os.path.join(root.path, ROOT_MARKER)
            durable.replace_content(bare, path, path + ".vdtmp", marker.encode() + b"\n")
    except ImageError:
        return  # device and inode are compared instead
    root.marker = marker
    root.save(update_fields=["marker"])
