"""Small steps of jobs that give files other names: each recognises itself when repeated.

A job that takes several files has its record beside one of them, and a pointer to it beside
one disk in every other folder it touches: whoever looks at a disk there finds the job.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from typing import Any

from disks.engine.errors import ImageError
from disks.engine.files import FileIdentity, is_of_the_storage
from disks.operations import durable, journal, locks
from disks.operations.journal import Sidecar
from disks.operations.paths import Roots
from disks.operations.progress import Progress
from disks.operations.rewriting import recovery
from disks.operations.trash import manifests

TO_REPAIR = "to_repair"  # in a result: {path, code, message} of disks that refused their new link
_NAMED = 5  # disks in a sentence
ELSEWHERE = "elsewhere"  # state of a pointer: the record lies beside another disk

# Why the folder of a job's record cannot be looked at, and what to do
_UNSEEN = {
    "E_OUTSIDE_ROOTS": (
        "outside of what this recovery may look at.",
        "Recover that folder, with this one as a root.",
    ),
    "E_NOT_FOUND": (
        "and that folder cannot be found.",
        "Mount it, or bring it back to that place, then recover again.",
    ),
}
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS, errno.EACCES)


# ---------------------------------------------------------------------- which file is where


def inode(roots: Roots, path: str) -> int | None:
    """The inode that has this name; None if the name is free."""
    try:
        return roots.stat(path).st_ino
    except ImageError as error:
        if error.code == "E_NOT_FOUND":
            return None
        raise


def holds(roots: Roots, path: str, file: FileIdentity) -> bool:
    """Whether path is this very file, unwritten (ctime aside: a new name changes it)."""
    try:
        status = roots.stat(path)
    except ImageError as error:
        if error.code == "E_NOT_FOUND":
            return False
        raise
    return (status.st_ino, status.st_size, status.st_mtime_ns) == (
        file.inode,
        file.size_bytes,
        file.mtime_ns,
    )


def rename_new(roots: Roots, source: str, target: str, number: int | None) -> None:
    """Give the file of this inode a name that nobody has, in place of the one that it has.

    E_EXISTS if another file has it.
    """
    if number is None or inode(roots, target) != number:
        durable.rename(roots, source, target, replace=False)
    elif inode(roots, source) == number and roots.stat(source).st_nlink > 1:
        # A death between link and unlink, where no rename spares what has the name. With one
        # link these are one name in two spellings, where case does not count.
        durable.sync_folder_of(roots, target)  # the only name may not be a lost one
        durable.unlink(roots, source)


def put_away(roots: Roots, entry: manifests.Entry) -> None:
    """Move a file to its place in the trash; E_NEEDS_ATTENTION if its name is another's now."""
    if entry.file.inode not in (inode(roots, entry.trash), inode(roots, entry.original)):
        raise attention(entry.original, "another file has this name now")
    rename_new(roots, entry.original, entry.trash, entry.file.inode)


def link_or_move(roots: Roots, source: str, target: str) -> None:
    """A second name in the trash, so that the first never goes missing; else a move."""
    try:
        durable.link(roots, source, target)
    except ImageError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in _NO_LINKS:
            raise
        if inode(roots, target) is not None:
            raise  # it has the second name: what failed is to make that durable
        durable.rename(roots, source, target, replace=False)


def attention(path: str, why: str) -> ImageError:
    return ImageError(
        "E_NEEDS_ATTENTION",
        f"The interrupted job on {path} is neither finished nor undone, because {why}. "
        "Nothing was written.",
        advice="Look at the files that the sidecar names.",
        file=path,
    )


# ---------------------------------------------------------------------- parent links


def point(roots: Roots, child: str, parent: str, *, job: str, token: int) -> ImageError | None:
    """Rewrite one child's parent link (crash-safety §1). Returns why, if the child refuses that.

    Storage errors are raised: recovery tries again. What the child itself refuses is not
    worth holding up a job for that is past its commit.
    """
    from disks.operations import relink

    try:
        _settle(roots, child, job, token)
        plan = relink.plan(child, parent, roots, job=job)
        relink.apply(plan, roots, offline=True, job=job, token=token)
    except ImageError as error:
        if is_of_the_storage(error):
            raise
        return error
    return None


def point_each(
    roots: Roots,
    links: Iterable[tuple[str, str]],
    *,
    job: str,
    token: int,
    progress: Progress,
    warnings: list[str],
) -> list[dict[str, Any]]:
    """Rewrite parent links, (child, parent) each. Returns those refused: {path, code, message}.

    warnings: gets their messages, too
    """
    refused: list[dict[str, Any]] = []
    for child, parent in links:
        progress.step("commit", f"Rewriting the parent link of {child}")
        error = point(roots, child, parent, job=job, token=token)
        if error is None:
            continue
        message = f"The parent link of {child} could not be rewritten: {error.message}"
        refused.append({"path": child, "code": error.code, "message": message})
        warnings.append(message)
        progress.log(message)
    return refused


def and_to_repair(result: dict[str, Any]) -> str:
    """How a finished job's sentence ends: which disks below it still has to be repaired by hand."""
    rows = result.get(TO_REPAIR) or []
    if not rows:
        return "."
    what = "1 disk" if len(rows) == 1 else f"{len(rows):,} disks"
    more = f" and {len(rows) - _NAMED:,} more" if len(rows) > _NAMED else ""
    names = ", ".join(row["path"] for row in rows[:_NAMED])
    return f", but {what} below must be repaired (update the parent path): {names}{more}."


def _settle(roots: Roots, child: str, job: str, token: int) -> None:
    """An earlier attempt of this job may have died in the middle of this link: heal it first.

    Planning on a half written header would fail, or keep the half as what was there before.
    """
    found = journal.of(roots, child, journal.UNDO)
    if found is not None and found.unfinished and found.job == job:
        with locks.hold(roots, [child], job=job, token=token):
            recovery.recover(roots, found, token=found.token + 1)


# ---------------------------------------------------------------------- pointers


def pointers(
    primary: str, others: Iterable[str], *, job: str, token: int, kind: str = journal.JOB
) -> list[Sidecar]:
    """One sidecar in every folder but primary's whose disks (others) the job touches."""
    home = os.path.dirname(primary)
    by_folder: dict[str, list[str]] = {}
    for path in others:
        if os.path.dirname(path) != home:
            by_folder.setdefault(os.path.dirname(path), []).append(path)
    return [
        Sidecar(
            kind=kind,
            disk=paths[0],
            state=ELSEWHERE,
            job=job,
            token=token,
            neighbours=tuple(paths[1:]),
            record={"primary": os.path.relpath(primary, folder)},
            help=f"This disk takes part in a job. Its record lies beside {primary}.",
        )
        for folder, paths in by_folder.items()
    ]


def primary_of(pointer: Sidecar) -> str:
    """The disk that the record of a pointer's job lies beside; E_SIDECAR if it names none."""
    try:
        return journal.path_of(os.path.dirname(pointer.disk), pointer.record.get("primary"))
    except journal.UNREADABLE as error:
        raise journal.not_understood(pointer) from error


def follow(
    sidecar: Sidecar, roots: Roots, recover: Callable[[Sidecar, Roots], dict[str, Any]]
) -> dict[str, Any]:
    """Recover the job that a pointer names, or take the pointer away if that job is over."""
    primary = primary_of(sidecar)
    try:
        # A missing record says that the job is over only where its folder is there.
        os.close(roots.open_folder(os.path.dirname(primary)))
        there = journal.of(roots, primary, sidecar.kind)
    except ImageError as error:
        if error.code not in _UNSEEN:
            raise
        why, advice = _UNSEEN[error.code]
        raise ImageError(
            "E_UNFINISHED",
            f"{sidecar.disk} takes part in a job whose record lies beside {primary}, {why}",
            advice=advice,
            file=sidecar.disk,
        ) from error
    if there is not None and there.job == sidecar.job and there.unfinished:
        disks = [there.disk, *there.neighbours]
        with locks.hold(roots, disks, job=there.job, token=there.token + 1):
            return recover(there, roots)
    journal.remove(roots, sidecar)
    # Over, or never begun: the pointers are written first and removed last.
    return told(sidecar.disk, "swept", "The job that this disk took part in is over.")


def told(path: str, action: str, sentence: str) -> dict[str, Any]:
    """What recovery says of one disk."""
    return {"path": path, "action": action, "sentence": sentence}
