"""What a job left beside its disks, and putting that right (crash-safety §1, §2).

The files decide: unfinished sidecars are finished or undone by the operations. Where none
is left, a finished one that names the job, or the job's draft under the name of one of its
disks, says that the work was complete when its worker died.
"""

from __future__ import annotations

import os
import re
from contextlib import closing, suppress
from typing import Any

from disks.engine.errors import ImageError
from disks.models import DiskLock, Job
from disks.operations import copying, durable, journal, locks, recover
from disks.operations.journal import Sidecar
from disks.operations.paths import Roots
from disks.services import leases
from disks.services.work import JobContext, Recovery

DRAFTS = "drafts"  # key in Job.result while the commit is under way


def left_unfinished(job: Job, context: JobContext) -> bool:
    """Does an unfinished sidecar of this job lie beside one of its disks?

    A damaged sidecar counts: nobody can tell whose it is. Raises ImageError when the
    folders cannot be read.
    """
    wanted = [path for path, _ in leases.wanted_locks(job)]
    try:
        with closing(context.roots()) as roots:
            return bool(_unfinished(roots, wanted, context))
    except ImageError as error:
        if error.code == "E_SIDECAR":
            return True
        raise


def recover_by_sidecars(job: Job, context: JobContext) -> Recovery:
    """The usual recovery of a job whose worker is gone. May be repeated.

    Raises E_LOCKED or E_IN_USE while the old worker or a machine still holds a disk;
    other ImageErrors mean that nothing was put right yet.
    """
    wanted = leases.wanted_locks(job)
    if not wanted:
        return Recovery("nothing")
    with closing(context.roots()) as roots:
        mine = _unfinished(roots, [path for path, _ in wanted], context)
        recovery = _with_sidecars(mine, roots) if mine else None
        changed = [path for path, mode in wanted if mode == DiskLock.Mode.EXCLUSIVE]
        # With the locks on the storage, the old worker is gone for good.
        with locks.hold(roots, changed, job=context.name, token=context.token):
            _sweep(roots, changed, context)
            return recovery or _by_traces(job, context, roots, changed)


def _unfinished(roots: Roots, paths: list[str], context: JobContext) -> list[Sidecar]:
    if not paths:
        return []
    return [sidecar for sidecar in journal.pending(roots, paths) if _is_ours(sidecar, context)]


def _is_ours(sidecar: Sidecar, context: JobContext) -> bool:
    return sidecar.job in (context.name, copying.job_word(context.name))


def _with_sidecars(mine: list[Sidecar], roots: Roots) -> Recovery:
    """Have each finished or undone, links first: a copy job then finds its children settled.

    The record of a copy job decides what became of it; without one the links' do.
    """
    result = next((dict(each.record["result"]) for each in mine if each.record.get("result")), {})
    told: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for sidecar in sorted(mine, key=lambda each: each.kind == journal.JOB):
        for row in recover.recover_disk(sidecar.disk, roots):
            if row["action"] in (recover.BUSY, recover.ATTENTION):
                code = row["code"] or "E_NEEDS_ATTENTION"
                raise ImageError(code, row["sentence"], file=row["path"])
            told[sidecar.kind == journal.JOB].append(row)
    rows = told[True] or told[False]
    for action in (recover.FINISHED, recover.UNDONE):
        for row in rows:
            if row["action"] == action:
                return Recovery(action, row["sentence"], result)
    return Recovery("nothing")


def _by_traces(job: Job, context: JobContext, roots: Roots, changed: list[str]) -> Recovery:
    """No record was open: nothing had begun, or all of it was over."""
    published = {inode for _, inode in job.result.get(DRAFTS, [])}
    for path in changed:
        if published and _inode(roots, path) in published:
            return Recovery("finished", result={"output": path})
        record = journal.of(roots, path, journal.UNDO)
        if record is not None and not record.unfinished and _is_ours(record, context):
            return Recovery("finished", result=dict(record.record.get("result") or {}))
    return Recovery("nothing")


def _sweep(roots: Roots, changed: list[str], context: JobContext) -> None:
    """Remove what the job did not get to name: its drafts, and records half written."""
    for path, _ in _drafts(roots, changed, context):
        durable.unlink(roots, path, missing_ok=True)
    for disk in changed:
        for kind in journal.KINDS:
            half_written = f"{journal.sidecar_path(disk, kind)}.vdtmp"
            if roots.exists(half_written):
                durable.unlink(roots, half_written, missing_ok=True)


def drafts(job: Job, context: JobContext) -> list[tuple[str, int]]:
    """(path, inode) of the temporary files that are about to get their names.

    Noted in the row when the commit starts: the name's inode tells afterwards whether it did.
    """
    wanted = leases.wanted_locks(job)
    changed = [path for path, mode in wanted if mode == DiskLock.Mode.EXCLUSIVE]
    if not changed:
        return []
    with closing(context.roots()) as roots:
        return _drafts(roots, changed, context)


def _drafts(roots: Roots, paths: list[str], context: JobContext) -> list[tuple[str, int]]:
    """Those of this job, of all its tokens; a folder that is away now holds none to speak of."""
    words = "|".join(map(re.escape, (context.name, copying.job_word(context.name))))
    ours = re.compile(rf"\..+\.(?:{words})-\d+\.vdtmp", re.DOTALL)
    found = []
    for folder in sorted({os.path.dirname(path) for path in paths}):
        with suppress(ImageError):
            for entry in roots.list(folder):
                if entry.is_file and ours.fullmatch(entry.name):
                    path = os.path.join(folder, entry.name)
                    found.append((path, roots.stat(path).st_ino))
    return found


def _inode(roots: Roots, path: str) -> int | None:
    return roots.stat(path).st_ino if roots.exists(path) else None
