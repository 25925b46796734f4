"""What jobs put away: whole jobs that can be brought back until their trash is emptied.

Deleting is renaming into `<root>/.vdtrash/<job>/` on the same file system (crash-safety
R8). Beside the files lie `manifest.json`, the truth for the console, and `README.txt`,
the same for a person without the console.

Here files are put away and what lies in the trash is listed; `restoring` brings it back,
`emptying` deletes it for good.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable

from disks.engine.errors import ImageError
from disks.engine.files import FileIdentity
from disks.operations import durable, locks, rules
from disks.operations.paths import Roots, folded
from disks.operations.storage_roots import TRASH_FOLDER
from disks.operations.trash.manifests import (
    MANIFEST,
    README,
    Entry,
    Manifest,
    read,
    readme_text,
    write,
    write_text,
)

# ---------------------------------------------------------------------- putting away


def folder_for(roots: Roots, path: str, job: str) -> str:
    """The trash folder of a job for a disk: below the disk's root, on its file system."""
    root, _ = roots.locate(path)
    return os.path.join(root.path, TRASH_FOLDER, job)


def free_job(roots: Roots, paths: Iterable[str], job: str) -> str:
    """The job's name, with a number if a trash folder of that name is there already."""
    name, number = job, 1
    wanted = list(paths)
    while any(has_name(roots, folder_for(roots, path, name)) for path in wanted):
        number += 1
        name = f"{job}~{number}"
    return name


def planned(
    roots: Roots,
    *,
    job: str,
    kind: str,
    summary: str,
    replacement: str,
    put_away: Iterable[tuple[str, FileIdentity, str, str]],
    relinked: Iterable[str] = (),
) -> Manifest:
    """Decide which file goes where; nothing is written.

    put_away: (path, file identity, image identity, role), the replaced one first, whose
    root gets the primary folder.
    """
    entries: list[Entry] = []
    folders: list[str] = []
    used = {folded(MANIFEST), folded(README)}
    for path, file, identity, role in put_away:
        folder = folder_for(roots, path, job)
        if folder not in folders:
            folders.append(folder)
        name = rules.free_name(os.path.basename(path), used, "~")
        used.add(folded(name))
        entries.append(Entry(path, os.path.join(folder, name), file, identity, role))
    return Manifest(
        folder=folders[0],
        job=job,
        kind=kind,
        summary=summary,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        primary=folders[0],
        folders=folders,
        entries=entries,
        replacement=replacement,
        relinked=list(relinked),
    )


def prepare(roots: Roots, manifest: Manifest) -> None:
    """Make the job's trash folders, with manifest and help; may be repeated.

    Raises E_TRASH when a folder is not on the file system of what it shall take.
    """
    for folder in manifest.folders:
        _make_folder(roots, manifest, folder)
    for entry in manifest.entries:
        there = roots.stat(os.path.dirname(entry.trash)).st_dev
        if there != roots.stat(os.path.dirname(entry.original)).st_dev:
            raise ImageError(
                "E_TRASH",
                f"The trash of {entry.original} would lie on another file system, "
                "and disks are never copied there silently.",
                file=entry.original,
            )
    write(roots, manifest)


def _make_folder(roots: Roots, manifest: Manifest, folder: str) -> None:
    """The folder and its help at one go: a sweep() may take it away while it is empty."""
    for tries_left in (2, 1, 0):
        try:
            durable.make_folder(roots, os.path.dirname(folder), 0o700)
            durable.make_folder(roots, folder, 0o700)
            write_text(roots, os.path.join(folder, README), readme_text(manifest))
            return
        except ImageError as error:
            if error.code != "E_NOT_FOUND" or not tries_left:
                raise


def discard(roots: Roots, manifest: Manifest) -> None:
    """Remove the folders of a job that never put anything away."""
    for folder in manifest.folders:
        remove_folder(roots, folder)


def sweep(roots: Roots, root: str) -> None:
    """Take away what a dead restore or emptying left of a root's trash: locks, empty folders.

    A job that is only about to fill one of these makes it once more.
    """
    base = os.path.join(root, TRASH_FOLDER)
    if not has_name(roots, base):
        return
    locks.sweep(roots, base)
    for entry in roots.list(base):
        folder = os.path.join(base, entry.name)
        if entry.is_folder and not roots.list(folder):
            durable.remove_empty_folder(roots, folder)
    durable.remove_empty_folder(roots, base)


# ---------------------------------------------------------------------- looking


def list_trash(root: str, roots: Roots) -> list[Manifest]:
    """What the trash of one root holds, newest first; folders that are not ours are left out."""
    base = os.path.join(root, TRASH_FOLDER)
    try:
        entries = roots.list(base)
    except ImageError as error:
        if error.code == "E_NOT_FOUND":
            return []
        raise
    found = []
    for entry in entries:
        if entry.is_folder:
            with contextlib.suppress(ImageError):
                found.append(read(roots, os.path.join(base, entry.name)))
    return sorted(found, key=lambda manifest: manifest.created, reverse=True)


# ---------------------------------------------------------------------- the folders


def has_name(roots: Roots, path: str) -> bool:
    """Whether anything has this name. Raises what keeps that from being known."""
    try:
        roots.stat(path)
    except ImageError as error:
        if error.code == "E_NOT_FOUND":
            return False
        raise
    return True


def remove_folder(roots: Roots, folder: str) -> None:
    """Remove help, manifest and folder; the manifest last. A folder with more in it stays."""
    for name in (f".{README}.vdtmp", f".{MANIFEST}.vdtmp", README, MANIFEST):
        try:
            durable.unlink(roots, os.path.join(folder, name), missing_ok=True)
        except ImageError as error:
            if error.code != "E_NOT_FOUND":
                raise
            break  # the folder itself is not there, or not any more
    else:
        durable.remove_empty_folder(roots, folder)
    durable.remove_empty_folder(roots, os.path.dirname(folder))


def lock_path(manifest: Manifest) -> str:
    """Stands for a job's trash in locks: it is restored or emptied, never both at once."""
    return f"{manifest.primary}.trash"


def remove_bases(roots: Roots, manifest: Manifest) -> None:
    """The lock was in the way of removing the folder that holds all trash."""
    for folder in manifest.folders:
        durable.remove_empty_folder(roots, os.path.dirname(folder))
