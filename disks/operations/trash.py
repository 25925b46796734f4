"""What jobs put away: whole jobs that can be brought back until their trash is emptied.

Deleting is renaming into `<root>/.vdtrash/<job>/` on the same file system (crash-safety
R8). Beside the files lie `manifest.json`, the truth for the console, and `README.txt`,
the same for a person without the console.

A job that touched several roots has a folder in each; one of them is the primary one,
whose manifest lists everything, and the others name it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from disks.engine.errors import ImageError
from disks.engine.files import FileIdentity, is_of_the_storage
from disks.operations import bereft, durable, journal, locks, relink
from disks.operations.copying import job_word
from disks.operations.family import ChildrenOf
from disks.operations.fingerprints import Fingerprint
from disks.operations.inspection import managed_by
from disks.operations.paths import TRASH_FOLDER, Roots
from disks.operations.progress import Progress

MANIFEST = "manifest.json"
README = "README.txt"
MAGIC = "vdadmin-trash"
VERSION = 1
MERGED_IN_PLACE = "merge-in-place"  # a kind: nothing of it can be brought back
_MOST_BYTES = 64 * 1024 * 1024  # of a manifest

PLANNED = "planned"  # the job is not over: only recovery touches it
COMPLETE = "complete"  # can be restored or emptied
RESTORING = "restoring"  # a restore was interrupted: restoring again goes on
EMPTYING = "emptying"  # an emptying was interrupted: emptying again goes on


@dataclass(frozen=True)
class Entry:
    """One file put away. original, trash: absolute paths; role: `replaced` or `merged`."""

    original: str
    trash: str
    file: FileIdentity
    identity: str
    role: str

    def stored(self, folder: str) -> dict[str, Any]:
        """JSON-able, with paths relative to folder: a root may be mounted elsewhere later."""
        return {
            "original": os.path.relpath(self.original, folder),
            "trash": os.path.relpath(self.trash, folder),
            "file": self.file.as_dict(),
            "identity": self.identity,
            "role": self.role,
        }

    @classmethod
    def from_stored(cls, row: dict[str, Any], folder: str) -> Entry:
        return cls(
            _joined(folder, row["original"]),
            _joined(folder, row["trash"]),
            FileIdentity.from_dict(row["file"]),
            str(row["identity"]),
            str(row["role"]),
        )


@dataclass
class Manifest:
    """What one job put away, and what took its place.

    folder        the trash folder that this manifest lies in
    primary       the folder with the full list; equal to folder there
    folders       all trash folders of the job
    replacement   path that got new content, with its fingerprint once it lies there
    relinked      disks whose parent link the job changed
    """

    folder: str
    job: str
    kind: str
    summary: str
    created: str
    state: str = PLANNED
    primary: str = ""
    folders: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    replacement: str = ""
    replaced_by: Fingerprint | None = None
    relinked: list[str] = field(default_factory=list)

    @property
    def is_primary(self) -> bool:
        return self.primary == self.folder

    @property
    def entries_here(self) -> list[Entry]:
        """Those of the files that lie in this folder."""
        return [entry for entry in self.entries if os.path.dirname(entry.trash) == self.folder]

    @property
    def can_be_restored(self) -> bool:
        """By kind and state; what else may stand in the way: restore_refusal()."""
        return self.kind != MERGED_IN_PLACE and self.state in (COMPLETE, RESTORING)

    @property
    def is_believable(self) -> bool:
        """What is deleted or moved is believed only where it lies in trash folders."""
        return all(
            os.path.basename(os.path.dirname(each)) == TRASH_FOLDER
            for each in (*self.folders, self.primary)
        ) and all(os.path.dirname(entry.trash) in self.folders for entry in self.entries)

    @property
    def size_bytes(self) -> int:
        """Of the files as they are read; what emptying frees: given_back_bytes()."""
        return sum(entry.file.size_bytes for entry in self.entries)

    def as_dict(self) -> dict[str, Any]:
        """For people and pages: absolute paths."""
        return {
            "folder": self.folder,
            "job": self.job,
            "kind": self.kind,
            "summary": self.summary,
            "created": self.created,
            "state": self.state,
            "size_bytes": self.size_bytes,
            "files": [
                {"path": entry.original, "size_bytes": entry.file.size_bytes, "role": entry.role}
                for entry in self.entries
            ],
            "replacement": self.replacement or None,
            "relinked": self.relinked,
        }

    def stored(self, folder: str) -> dict[str, Any]:
        """JSON-able, as it lies in one of the job's folders; paths relative to that folder."""
        whole = folder == self.primary
        return {
            "magic": MAGIC,
            "version": VERSION,
            "job": self.job,
            "kind": self.kind,
            "summary": self.summary,
            "created": self.created,
            "state": self.state,
            "primary": os.path.relpath(self.primary, folder),
            "folders": [os.path.relpath(each, folder) for each in self.folders],
            "entries": [
                entry.stored(folder)
                for entry in self.entries
                if whole or os.path.dirname(entry.trash) == folder
            ],
            "replacement": os.path.relpath(self.replacement, folder) if self.replacement else "",
            "replaced_by": self.replaced_by.as_dict() if self.replaced_by else None,
            "relinked": [os.path.relpath(path, folder) for path in self.relinked],
        }

    @classmethod
    def from_stored(cls, row: dict[str, Any], folder: str) -> Manifest:
        replaced_by = row["replaced_by"]
        return cls(
            folder=folder,
            job=str(row["job"]),
            kind=str(row["kind"]),
            summary=str(row["summary"]),
            created=str(row["created"]),
            state=str(row["state"]),
            primary=_joined(folder, row["primary"]),
            folders=[_joined(folder, each) for each in row["folders"]],
            entries=[Entry.from_stored(entry, folder) for entry in row["entries"]],
            replacement=_joined(folder, row["replacement"]) if row["replacement"] else "",
            replaced_by=Fingerprint.from_dict(replaced_by) if replaced_by else None,
            relinked=[_joined(folder, path) for path in row["relinked"]],
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
    while any(_has_name(roots, folder_for(roots, path, name)) for path in wanted):
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
    used: set[str] = {MANIFEST, README}
    for path, file, identity, role in put_away:
        folder = folder_for(roots, path, job)
        if folder not in folders:
            folders.append(folder)
        name = _free_name(os.path.basename(path), used)
        used.add(name)
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
            _write_text(roots, os.path.join(folder, README), _help(manifest))
            return
        except ImageError as error:
            if error.code != "E_NOT_FOUND" or not tries_left:
                raise


def write(roots: Roots, manifest: Manifest) -> None:
    """Make the manifest's state durable in all folders of the job, the primary one last."""
    for folder in [*manifest.folders[1:], manifest.folders[0]]:
        text = json.dumps(manifest.stored(folder), indent=1)
        _write_text(roots, os.path.join(folder, MANIFEST), text + "\n")


def discard(roots: Roots, manifest: Manifest) -> None:
    """Remove the folders of a job that never put anything away."""
    for folder in manifest.folders:
        _remove_folder(roots, folder)


def sweep(roots: Roots, root: str) -> None:
    """Take away what a dead restore or emptying left of a root's trash: locks, empty folders.

    A job that is only about to fill one of these makes it once more.
    """
    base = os.path.join(root, TRASH_FOLDER)
    if not _has_name(roots, base):
        return
    locks.sweep(roots, base)
    for entry in roots.list(base):
        folder = os.path.join(base, entry.name)
        if entry.is_folder and not roots.list(folder):
            durable.remove_empty_folder(roots, folder)
    durable.remove_empty_folder(roots, base)


# ---------------------------------------------------------------------- looking


def read(roots: Roots, folder: str) -> Manifest:
    """The manifest of a trash folder. E_TRASH if it is missing or not ours."""
    path = os.path.join(folder, MANIFEST)
    try:
        with roots.open(path) as file:
            if file.size_bytes > _MOST_BYTES:
                raise ValueError("it is too large for one")
            row = json.loads(file.read_at(0, file.size_bytes))
        if row["magic"] != MAGIC or row["version"] != VERSION:
            raise ValueError("another kind of file")
        manifest = Manifest.from_stored(row, folder)
    except journal.UNREADABLE as error:
        raise ImageError("E_TRASH", f"{path} cannot be understood: {error}.", file=path) from error
    if folder not in manifest.folders or not manifest.is_believable:
        raise ImageError("E_TRASH", f"{path} names files outside its trash.", file=path)
    return manifest


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


def given_back_bytes(roots: Roots, entry: Entry) -> int:
    """What the storage gets back when this file is deleted: the room that it takes up there.

    0 for a file that is gone, or that has another name.
    """
    with contextlib.suppress(ImageError):
        return _room_bytes(roots.stat(entry.trash))
    return 0


def _room_bytes(status: os.stat_result) -> int:
    return status.st_blocks * 512 if status.st_nlink == 1 else 0


# ---------------------------------------------------------------------- bringing back


def restore_refusal(roots: Roots, manifest: Manifest) -> ImageError | None:
    """Why this job cannot be brought back now; None if it can."""
    if manifest.state == PLANNED:
        return ImageError(
            "E_UNFINISHED",
            f"The job {manifest.job} is not over yet, or was interrupted: recover it first.",
            file=manifest.folder,
        )
    if manifest.kind == MERGED_IN_PLACE:
        return ImageError(
            "E_TRASH",
            f"{manifest.summary}: what these files hold is a part of that disk now, so they are "
            "kept only to look at. By themselves they read as nothing that ever was.",
            file=manifest.folder,
        )
    if manifest.state == EMPTYING:
        return ImageError(
            "E_TRASH",
            f"The trash of {manifest.job} is being emptied: parts of it are gone already.",
            file=manifest.folder,
        )
    for entry in manifest.entries:
        error = _entry_refusal(roots, manifest, entry)
        if error is not None:
            return error
    return None


def restore(
    folder: str,
    roots: Roots,
    *,
    offline: bool = False,
    job: str = "",
    token: int = 0,
    progress: Progress | None = None,
    children_of: ChildrenOf | None = None,
) -> dict[str, Any]:
    """Bring a whole job back: every file to its name, every changed link as it was.

    The new content that took a name goes: it was made from exactly these files. Raises
    E_CHANGED if it was written since, E_EXISTS if a name is taken by another file,
    E_RESTORE_CHILDREN if disks that were made on it since would lose their parent. An
    interrupted restore is continued by restoring again.

    children_of: what a catalog knows of children; all headers below the roots are read too.
    """
    progress = progress or Progress()
    manifest = read(roots, folder)
    if not manifest.is_primary:
        manifest = read(roots, manifest.primary)
    paths = {entry.original for entry in manifest.entries} | set(manifest.relinked)
    for path in sorted(paths):
        manager = managed_by(path, roots)
        if manager is not None and not offline:
            raise relink.managed(path, manager)
        roots.require_writable(path)
    existing = sorted(path for path in paths if roots.exists(path))
    with locks.hold(roots, [_lock_path(manifest), *existing], job=job, token=token):
        journal.require_settled(roots, paths, job=job)
        manifest = read(roots, manifest.primary)  # an emptying may have been at it meanwhile
        refusal = restore_refusal(roots, manifest)
        if refusal is not None:
            raise refusal
        progress.step("check", "Looking for disks made on the result since")
        left = bereft.look(roots, manifest, children_of=children_of, progress=progress)
        if left.refusal is not None:
            raise left.refusal
        progress.step("commit", f"Bringing back {len(manifest.entries)} files")
        progress.commit_starts()
        manifest.state = RESTORING
        write(roots, manifest)
        # Those first whose names are free: a chain is readable again as soon as the last,
        # the one whose name the new content holds, takes that name back in one step.
        ordered = sorted(manifest.entries, key=lambda e: e.original == manifest.replacement)
        for entry in ordered:
            if _has_name(roots, entry.trash):  # else an interrupted restore was here before
                durable.rename(
                    roots,
                    entry.trash,
                    entry.original,
                    replace=entry.original == manifest.replacement,
                )
        warnings = _links_back(roots, manifest, offline=offline, job=job, token=token)
        for each in reversed(manifest.folders):
            _remove_folder(roots, each)
    _remove_bases(roots, manifest)
    return {
        "restored": [entry.original for entry in manifest.entries],
        "relinked": manifest.relinked,
        "warnings": [*left.warnings, *warnings],
    }


def empty(folder: str, roots: Roots) -> int:
    """Delete what a job put away, for good. Returns the bytes freed.

    Raises E_UNFINISHED while the job is not over: its files may still be needed.
    """
    manifest = read(roots, folder)
    if not manifest.is_primary:
        manifest = read(roots, manifest.primary)
    with locks.hold(roots, [_lock_path(manifest)]):
        freed = _emptied(roots, read(roots, manifest.primary))
    _remove_bases(roots, manifest)
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
        _remove_folder(roots, each)
    return freed


def _entry_refusal(roots: Roots, manifest: Manifest, entry: Entry) -> ImageError | None:
    resuming = manifest.state == RESTORING
    try:
        kept = roots.stat(entry.trash)
    except ImageError:
        if resuming and _is_inode(roots, entry.original, entry.file):
            return None
        return ImageError(
            "E_TRASH", f"{entry.trash} is no longer in the trash.", file=entry.original
        )
    if (kept.st_size, kept.st_mtime_ns) != (entry.file.size_bytes, entry.file.mtime_ns):
        return ImageError(
            "E_CHANGED", f"{entry.trash} was written while it lay in the trash.", file=entry.trash
        )
    if entry.original != manifest.replacement:
        if _has_name(roots, entry.original):
            return ImageError(
                "E_EXISTS",
                f"{entry.original} exists again: another file has the name. Rename it first.",
                file=entry.original,
            )
        return None
    return _replacement_refusal(roots, manifest)


def _replacement_refusal(roots: Roots, manifest: Manifest) -> ImageError | None:
    """The new content may go only while it is exactly what the job made."""
    path, made = manifest.replacement, manifest.replaced_by
    try:
        with roots.open(path) as file:
            now = Fingerprint.of(file)
    except ImageError as error:
        if error.code == "E_NOT_FOUND":
            return None
        return ImageError("E_CHANGED", f"{path} can no longer be read: {error.message}", file=path)
    if made is None or not _same_content(now, made):
        return ImageError(
            "E_CHANGED",
            f"{path} was written after the job, and restoring would lose that. "
            "Move it to another name first if the old state is wanted all the same.",
            file=path,
        )
    return None


def _same_content(now: Fingerprint, made: Fingerprint) -> bool:
    """As written by the job; a changed owner or mode (ctime) does not count here."""
    return (
        now.header == made.header
        and now.file.inode == made.file.inode
        and now.file.size_bytes == made.file.size_bytes
        and now.file.mtime_ns == made.file.mtime_ns
    )


def _links_back(
    roots: Roots, manifest: Manifest, *, offline: bool, job: str, token: int
) -> list[str]:
    """Take the job's link changes back; what somebody changed since stays, with a warning.

    What is the storage's fault is raised instead: restored again, the job may come to its end.
    """
    warnings = []
    for path in manifest.relinked:
        try:
            _require_last_update(roots, manifest, path)
            relink.undo(path, roots, offline=offline, job=job, token=token)
        except ImageError as error:
            if is_of_the_storage(error):
                raise ImageError(
                    error.code,
                    f"All files are back, but the parent link of {path} is not as it was yet: "
                    f"{error.message} Restore this job once more when the storage works.",
                    file=path,
                ) from error
            warnings.append(f"The parent link of {path} was left as it is: {error.message}")
    return warnings


def _require_last_update(roots: Roots, manifest: Manifest, path: str) -> None:
    """E_LINK_CHANGED unless the update on record beside a disk is the one that the job made.

    Else an undo would take back what somebody wrote before the job, or since.
    """
    record = journal.of(roots, path, journal.UNDO)
    if record is None or job_word(record.job) != manifest.job.partition("~")[0]:
        raise ImageError(
            "E_LINK_CHANGED", "its last update is not the one that this job made.", file=path
        )


# ---------------------------------------------------------------------- small things


def _joined(folder: str, relative: Any) -> str:
    return os.path.normpath(os.path.join(folder, str(relative)))


def _is_inode(roots: Roots, path: str, file: FileIdentity) -> bool:
    try:
        return roots.stat(path).st_ino == file.inode
    except ImageError:
        return False


def _has_name(roots: Roots, path: str) -> bool:
    """Whether anything has this name. Raises what keeps that from being known."""
    try:
        roots.stat(path)
    except ImageError as error:
        if error.code == "E_NOT_FOUND":
            return False
        raise
    return True


def _free_name(name: str, used: set[str]) -> str:
    if name not in used:
        return name
    stem, extension = os.path.splitext(name)
    number = 2
    while (other := f"{stem[:200]}~{number}{extension}") in used:
        number += 1
    return other


def _write_text(roots: Roots, path: str, text: str) -> None:
    folder, name = os.path.split(path)
    data = text.encode("utf-8", "surrogateescape")
    durable.replace_content(roots, path, os.path.join(folder, f".{name}.vdtmp"), data)


def _remove_folder(roots: Roots, folder: str) -> None:
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


def _lock_path(manifest: Manifest) -> str:
    """Stands for a job's trash in locks: it is restored or emptied, never both at once."""
    return f"{manifest.primary}.trash"


def _remove_bases(roots: Roots, manifest: Manifest) -> None:
    """The lock was in the way of removing the folder that holds all trash."""
    for folder in manifest.folders:
        durable.remove_empty_folder(roots, os.path.dirname(folder))


def _help(manifest: Manifest) -> str:
    lines = [
        "Disks that a job of vdadmin put away. Nothing here is in use.",
        "",
        f"Job:  {manifest.job} ({manifest.kind}), {manifest.created}",
        f"What: {manifest.summary}",
        "",
        "To bring it back without the console, with nobody using these disks:",
    ]
    for entry in manifest.entries:
        lines.append(f"  move  {entry.trash}")
        lines.append(f"    to  {entry.original}")
    if manifest.replacement:
        lines += [
            "",
            f"{manifest.replacement} was made from these files. Move it away first, and only",
            "if nothing was written to it since.",
        ]
    if manifest.relinked:
        lines += ["", "These disks got a new parent path, which must be set back then:"]
        lines += [f"  {path}" for path in manifest.relinked]
    lines += ["", "To free the space: delete this folder, once the result was found good.", ""]
    return "\n".join(lines)
