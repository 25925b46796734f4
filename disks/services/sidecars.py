"""What a job left beside its disks, and putting that right (crash-safety §1, §2).

The files decide: unfinished sidecars are finished or undone by the operations. Where none
is left, the traces that were noted when the commit began tell whether it came to its end: the
job's draft has got a name, or the record of the last link update is another one.
"""

from __future__ import annotations

import os
import re
from contextlib import closing, suppress
from typing import Any

from disks.engine.errors import ImageError
from disks.models import DiskLock, Job
from disks.operations import copying, durable, journal, locks, merge_in_place, recover
from disks.operations.journal import Sidecar
from disks.operations.paths import Roots
from disks.operations.storage_roots import TRASH_FOLDER
from disks.services import leases, taken_back
from disks.services.stored_json import restored
from disks.services.work import JobContext, Recovery

# Keys in Job.result while the commit is under way.
DRAFTS = "drafts"  # [path, inode] of temporary files
RECORDS = "records"  # [disk, job, token] of the last link update's record, or nulls


def _wanted(job: Job) -> list[tuple[str, str]]:
    """The locks of the job on disks; no disk's record lies in the trash, which may be gone."""
    trash = f"/{TRASH_FOLDER}/"
    return [(path, mode) for path, mode in leases.wanted_locks(job) if trash not in path]


def left_unfinished(job: Job, context: JobContext) -> bool:
    """Does an unfinished sidecar of this job lie beside one of its disks?

    A damaged sidecar counts: nobody can tell whose it is. Raises ImageError when the
    folders cannot be read.
    """
    wanted = [path for path, _ in _wanted(job)]
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
    wanted = _wanted(job)
    if not wanted:
        return Recovery("nothing")
    with closing(context.roots()) as roots:
        mine = _unfinished(roots, [path for path, _ in wanted], context)
        to_go_on = next(filter(merge_in_place.has_begun_to_move, mine), None)
        recovery = _with_sidecars(mine, roots) if mine and to_go_on is None else None
        changed = [path for path, mode in wanted if mode == DiskLock.Mode.EXCLUSIVE]
        # With the locks on the storage, the old worker is gone for good.
        with locks.hold(roots, changed, job=context.name, token=context.token):
            _sweep(roots, changed, context)
            if to_go_on is not None:  # the job does that: it may take hours
                action = "ending" if merge_in_place.cannot_wait(roots, to_go_on) else "stopped"
                return Recovery(action, "The merge was interrupted; what has moved stays so.")
            recovery = recovery or _by_traces(job, roots)
            if mine:
                taken_back.note(job, context, roots, changed)
            return recovery


def _unfinished(roots: Roots, paths: list[str], context: JobContext) -> list[Sidecar]:
    if not paths:
        return []
    return [sidecar for sidecar in journal.pending(roots, paths) if _is_ours(sidecar, context)]


def _is_ours(sidecar: Sidecar, context: JobContext) -> bool:
    return sidecar.job in (context.name, copying.job_word(context.name))


def _with_sidecars(mine: list[Sidecar], roots: Roots) -> Recovery | None:
    """Have each finished or undone, links first: a copy job then finds its children settled.

    The record of a copy job decides what became of it; without one the links' do. None where
    only pointers to a record were left: it was written later than they, and removed earlier.
    """
    told: dict[bool, list[tuple[Sidecar, dict[str, Any]]]] = {False: [], True: []}
    for sidecar in sorted(mine, key=lambda each: each.kind == journal.JOB):
        for row in recover.recover_disk(sidecar.disk, roots):
            if row["action"] in (recover.BUSY, recover.ATTENTION):
                code = row["code"] or "E_NEEDS_ATTENTION"
                raise ImageError(code, row["sentence"], file=row["path"])
            told[sidecar.kind == journal.JOB].append((sidecar, row))
    rows = told[True] or told[False]
    finished = [(sidecar, row) for sidecar, row in rows if row["action"] == recover.FINISHED]
    if finished:
        sidecar, row = finished[0]
        if sidecar.kind == journal.UNDO:
            result = {"links": [_link_row(roots, each) for each, _ in finished]}
        else:
            # What the finishing itself told knows more than what was noted before the commit.
            told_now = [dict(each.get("result") or {}) for _, each in finished]
            noted = [dict(each.record.get("result") or {}) for each in mine]
            result = next(filter(None, [*told_now, *noted]), {})
        return Recovery(recover.FINISHED, row["sentence"], result)
    undone = [row for _, row in rows if row["action"] == recover.UNDONE]
    return Recovery(recover.UNDONE, undone[0]["sentence"]) if undone else None


def _by_traces(job: Job, roots: Roots) -> Recovery:
    """No record was open: nothing had begun, or all of it was over."""
    noted = restored(job.result)
    published = {inode for _, inode in noted.get(DRAFTS, [])}
    for path, _ in _wanted(job):
        if published and _inode(roots, path) in published:
            return Recovery(recover.FINISHED, result={"output": path})
    links = []
    for disk, writer, token in noted.get(RECORDS, []):
        record = journal.of(roots, disk, journal.UNDO)
        if _written_by(record) != (writer, token):
            links.append(_link_row(roots, record, disk))
    return Recovery(recover.FINISHED, result={"links": links}) if links else Recovery("nothing")


def written_link(roots: Roots, disk: str, context: JobContext) -> dict[str, Any] | None:
    """The link that an earlier attempt of this very job wrote into a disk; None if it did not."""
    record = journal.of(roots, disk, journal.UNDO)
    if record is None or record.unfinished or not _is_ours(record, context):
        return None
    return _link_row(roots, record)


def taken_back_link(roots: Roots, disk: str) -> dict[str, Any]:
    """The same for a link that an earlier attempt has brought back."""
    return _link_row(roots, None, disk)


def _link_row(roots: Roots, record: Sidecar | None, disk: str = "") -> dict[str, Any]:
    """What relink.apply() would have told of this rewrite; of one taken back little is left."""
    disk = record.disk if record is not None else disk
    now = journal.of(roots, disk, journal.UNDO)
    taken_back = now is None or record is None or bool(record.record.get("is_undo"))
    return {
        "child": disk,
        "parent": None,
        "undo": taken_back,
        "before": None if record is None else record.record.get("link_before"),
        "after": None if now is None else now.record.get("link_after"),
        "windows_will_look_at": [],
        "warnings": [],
    }


def _written_by(record: Sidecar | None) -> tuple[str | None, int | None]:
    return (None, None) if record is None else (record.job, record.token)


def _sweep(roots: Roots, changed: list[str], context: JobContext) -> None:
    """Remove what the job did not get to name: its drafts, and records half written."""
    for path, _ in _drafts(roots, changed, context):
        durable.unlink(roots, path, missing_ok=True)
    for disk in changed:
        for kind in journal.KINDS:
            half_written = f"{journal.sidecar_path(disk, kind)}.vdtmp"
            if roots.exists(half_written):
                durable.unlink(roots, half_written, missing_ok=True)


def traces(job: Job, context: JobContext) -> dict[str, Any]:
    """What the commit that starts now will change; kept in the row until the job's end."""
    wanted = _wanted(job)
    changed = [path for path, mode in wanted if mode == DiskLock.Mode.EXCLUSIVE]
    if not changed:
        return {}
    records = []
    with closing(context.roots()) as roots:
        for path in changed:
            with suppress(ImageError):  # a name that is only going to exist, a damaged record
                record = journal.of(roots, path, journal.UNDO)
                records.append([path, *_written_by(record)])
        return {DRAFTS: _drafts(roots, changed, context), RECORDS: records}


def _drafts(roots: Roots, paths: list[str], context: JobContext) -> list[tuple[str, int]]:
    """Those of this job, of all its tokens; a folder that is away now holds none to speak of."""
    words = "|".join(map(re.escape, (context.name, copying.job_word(context.name))))
    ours = re.compile(rf"\..+\.(?:{words})-\d+\.vdtmp", re.DOTALL)
    found = []
    for folder in sorted({os.path.dirname(path) for path in paths}):
        with suppress(ImageError):
            for entry in roots.entries(folder):
                if entry.is_file and ours.fullmatch(entry.name):
                    path = os.path.join(folder, entry.name)
                    found.append((path, roots.stat(path).st_ino))
    return found


def _inode(roots: Roots, path: str) -> int | None:
    return roots.stat(path).st_ino if roots.exists(path) else None
