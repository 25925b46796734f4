"""Deleting what a job put away, for good."""

from __future__ import annotations

import contextlib
import os

from disks.engine.errors import ImageError
from disks.operations import durable, locks
from disks.operations.paths import Roots
from disks.operations.trash import lock_path, remove_bases, remove_folder
from disks.operations.trash.manifests import (
    EMPTYING,
    PLANNED,
    RESTORING,
    Entry,
    Manifest,
    read,
    write,
)


def empty(folder: str, roots: Roots) -> int:
    """Delete what a job put away, for good. Returns the bytes freed.

    Raises E_UNFINISHED while the job is not over: its files may still be needed.
    """
    manifest = read(roots, folder)
    if not manifest.is_primary:
        manifest = read(roots, manifest.primary)
    with locks.hold(roots, [lock_path(manifest)]):
        freed = _emptied(roots, read(roots, manifest.primary))
    remove_bases(roots, manifest)
    return freed


def _emptied(roots: Roots, manifest: Manifest) -> int:
    if manifest.state in (PLANNED, RESTORING):
        raise ImageError(
            "E_UNFINISHED",
            f"The job {manifest.job} or its restore is not over: its files may still be needed.",
            file=manifest.folder,
        )
    for each in manifest.folders:
        roots.require_writable(each)
    manifest.state = EMPTYING
    write(roots, manifest)
    freed = 0
    for entry in manifest.entries:
        try:
            status = roots.stat(entry.trash)
        except ImageError as error:
            if error.code == "E_NOT_FOUND":
                continue
            raise
        durable.unlink(roots, entry.trash, missing_ok=True)
        freed += _room_bytes(status)
    for each in reversed(manifest.folders):
        remove_folder(roots, each)
    return freed


def given_back_bytes(roots: Roots, entry: Entry) -> int:
    """What the storage gets back when this file is deleted: the room that it takes up there.

    0 for a file that is gone, or that has another name.
    """
    with contextlib.suppress(ImageError):
        return _room_bytes(roots.stat(entry.trash))
    return 0


def _room_bytes(status: os.stat_result) -> int:
    return status.st_blocks * 512 if status.st_nlink == 1 else 0
