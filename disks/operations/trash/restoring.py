"""Bringing back what a job put away: every file to its name, every changed link as it was."""

from __future__ import annotations

from typing import Any

from disks.engine.errors import ImageError
from disks.engine.files import FileIdentity, is_of_the_storage
from disks.operations import durable, guards, journal, locks, relink
from disks.operations.copying import job_word
from disks.operations.family import ChildrenOf
from disks.operations.fingerprints import Fingerprint
from disks.operations.inspection import managed_by
from disks.operations.paths import Roots
from disks.operations.progress import Progress
from disks.operations.trash import bereft, has_name, lock_path, remove_bases, remove_folder
from disks.operations.trash.manifests import (
    EMPTYING,
    MERGED_IN_PLACE,
    PLANNED,
    RESTORING,
    Entry,
    Manifest,
    read,
    write,
)


def restore_refusal(roots: Roots, manifest: Manifest) -> ImageError | None:
    """Why this job cannot be brought back now; None if it can."""
    if manifest.state == PLANNED:
        return ImageError(
            "E_UNFINISHED",
            f"The job {manifest.job} is not over yet, or was interrupted.",
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
            raise guards.managed(path, manager)
        roots.require_writable(path)
    existing = sorted(path for path in paths if roots.exists(path))
    with locks.hold(roots, [lock_path(manifest), *existing], job=job, token=token):
        journal.require_settled(roots, paths, job=job)
        manifest = read(roots, manifest.primary)  # an emptying may have been at it meanwhile
        refusal = restore_refusal(roots, manifest)
        if refusal is not None:
            raise refusal
        progress.step("check", "Looking for disks made on the result since")
        left = bereft.look(roots, manifest, children_of=children_of, progress=progress)
        if left.refusal is not None:
            raise left.refusal
        count = len(manifest.entries)
        progress.step("commit", f"Bringing back {count:,} {'file' if count == 1 else 'files'}")
        progress.commit_starts()
        manifest.state = RESTORING
        write(roots, manifest)
        # Those first whose names are free: a chain is readable again as soon as the last,
        # the one whose name the new content holds, takes that name back in one step.
        ordered = sorted(manifest.entries, key=lambda e: e.original == manifest.replacement)
        for entry in ordered:
            if has_name(roots, entry.trash):  # else an interrupted restore was here before
                durable.rename(
                    roots,
                    entry.trash,
                    entry.original,
                    replace=entry.original == manifest.replacement,
                )
        warnings = _links_back(roots, manifest, offline=offline, job=job, token=token)
        for each in reversed(manifest.folders):
            remove_folder(roots, each)
    remove_bases(roots, manifest)
    return {
        "restored": [entry.original for entry in manifest.entries],
        "relinked": manifest.relinked,
        "warnings": [*left.warnings, *warnings],
    }


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
        both_names = resuming and _is_inode(roots, entry.original, entry.file)
        if has_name(roots, entry.original) and not both_names:
            return ImageError(
                "E_EXISTS",
                f"{entry.original} exists again: another file has the name.",
                advice="Rename that file first.",
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
            f"{path} was written after the job, and restoring would lose that.",
            advice="Move it to another name first if the old state is wanted all the same.",
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


def _is_inode(roots: Roots, path: str, file: FileIdentity) -> bool:
    try:
        return roots.stat(path).st_ino == file.inode
    except ImageError:
        return False
