"""Unfinished records of no job of ours: of a command line that died, of another database.

bad-input F91. What is short is finished or undone at once, as `disk recover` would do it. A merge
in place that has moved data may take hours: an ordinary job goes on with it, as one does whose
worker was lost. What somebody stopped goes on when somebody says so.
"""

from __future__ import annotations

import logging
import os
from contextlib import closing
from typing import Any

from disks.engine.errors import ImageError
from disks.models import AuditEntry, Disk, StorageRoot
from disks.operations import journal, merge_in_place, recover, unforeseen
from disks.operations.journal import Sidecar
from disks.operations.paths import Roots
from disks.operations.windows import shown
from disks.services import audit, half_merged, jobs, merging
from disks.services import roots as root_services
from disks.services.stored_json import readable

logger = logging.getLogger(__name__)

HANDED_OVER = "handed-over"  # action of a row: a job goes on with it


def recover_orphans() -> list[dict[str, Any]]:
    """Look beside the catalogued disks of roots that may be written; rows as `recover` has them.

    Done holding the locks on the storage, and audited.
    """
    ours = half_merged.names_of_jobs()
    done: list[dict[str, Any]] = []
    with closing(root_services.operation_roots()) as roots:
        for folder in _catalogued_folders():
            for sidecar in _unfinished(roots, folder):
                if sidecar.job in ours:
                    continue
                rows = _settled(roots, sidecar)
                if any(row["action"] == HANDED_OVER for row in rows):
                    ours.add(sidecar.job)
                done += rows
    for row in done:
        if row["action"] != recover.BUSY:
            _audit_orphan(row)
    return done


def _unfinished(roots: Roots, folder: str) -> list[Sidecar]:
    """Of one folder; without those of one that cannot be looked at, the others have theirs."""
    try:
        found = [sidecar for _, sidecar in journal.sidecars_in(roots, folder)]
    except Exception as error:
        logger.warning("sidecars in %r: %s", folder, unforeseen.typed(error, folder))
        return []
    return [one for one in found if not isinstance(one, ImageError) and one.unfinished]


def _settled(roots: Roots, sidecar: Sidecar) -> list[dict[str, Any]]:
    """What became of one record; the others are looked after whatever is wrong with it."""
    try:
        return _settle(roots, sidecar)
    except Exception as error:
        return [recover.failed(sidecar.disk, error)]


def _settle(roots: Roots, sidecar: Sidecar) -> list[dict[str, Any]]:
    merge = merge_in_place.to_go_on_with(roots, sidecar)
    if merge is None:
        return recover.recover_disk(sidecar.disk, roots)
    return [] if merge_in_place.was_stopped(merge) else _hand_over(roots, merge)


def _hand_over(roots: Roots, merge: Sidecar) -> list[dict[str, Any]]:
    """Ask for the job that goes on; not while whoever began it lives, or a machine has a disk."""
    with recover.held(merge, roots):
        now = merge_in_place.pending(roots, merge.disk)
        if now is None or merge_in_place.was_stopped(now):
            return []  # whoever was at it has ended or stopped it just now
        job = merging.go_on_with(now)
    jobs.hand_over(job.pk)
    sentence = f"The merge in place into {shown(merge.disk)} was interrupted; job {job.pk} goes on."
    return [{"path": merge.disk, "action": HANDED_OVER, "code": None, "sentence": sentence}]


def _audit_orphan(row: dict[str, Any]) -> None:
    """Once: what needs attention is found again every time."""
    last = AuditEntry.objects.filter(path=row["path"], action="orphan-recovery").first()
    if last is None or last.sentence != readable(row["sentence"]):
        audit.record(
            user=None,
            action="orphan-recovery",
            sentence=row["sentence"],
            path=row["path"],
            after={"action": row["action"], "code": row["code"]},
        )


def _catalogued_folders() -> list[str]:
    rows = (
        Disk.objects.filter(root__read_only=False, missing_since=None)
        .exclude(root__state__in=[StorageRoot.State.OFFLINE, StorageRoot.State.CHANGED])
        .values_list("root__path", "relative_path")
    )
    return sorted({os.path.dirname(os.path.join(*row)) for row in rows.iterator()})
