"""The rows of what lies in the trash folders below each root.

The console's own jobs put files into `<root>/.vdtrash`; the command line, which knows no
roots, into the `.vdtrash` beside the disk. Both are listed, restored and emptied alike.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from django.db import transaction
from django.db.models import Count, QuerySet, Sum
from django.utils import timezone

from disks.engine.errors import ImageError
from disks.models import Job, StorageRoot, TrashedJob
from disks.operations import storage_roots, trash
from disks.operations.trash import emptying
from disks.operations.trash.manifests import PLANNED, Manifest
from disks.services import roots
from disks.services.stored_json import readable

State = TrashedJob.State


def totals() -> QuerySet[Any]:
    """Roots with something in the trash: `trash_bytes`, `trash_count` of jobs; by name.

    trash_bytes: what emptying it gives back, in bytes on the storage. Files with holes read as
    more than that.
    """
    return (
        StorageRoot.objects.filter(trash__state=State.IN_TRASH)
        .annotate(trash_bytes=Sum("trash__size_bytes"), trash_count=Count("trash"))
        .order_by("name")
    )


def given_back_bytes(root: StorageRoot | None = None) -> int:
    """What emptying the trash gives back on the storage: of one root, or of all."""
    some = totals() if root is None else totals().filter(pk=root.pk)
    return sum(one.trash_bytes for one in some)


def sync(root: StorageRoot, folders: Iterable[str] = ()) -> int:
    """Bring the rows of one root in step with its trash folders. Returns rows in the trash.

    folders: those below the root (relative to it) that were seen to hold a trash folder;
    the root itself and those already known are looked into anyhow. A job's folder that is
    gone was emptied, or brought back, outside of this console.
    """
    rows = list(TrashedJob.objects.filter(root=root, state=State.IN_TRASH))
    holding = {"", *folders, *(_holder(row.folder) for row in rows)}
    manifests: list[Manifest] = []
    unknown = set()  # cannot be listed now: what was known stays
    scope = roots.operation_roots([root])
    try:
        for folder in sorted(holding):
            try:
                manifests += trash.list_trash(os.path.join(root.path, folder), scope)
            except ImageError:
                unknown.add(folder)
    finally:
        scope.close()
    given_back = _given_back(manifests)
    present = set()
    with transaction.atomic():
        for manifest in manifests:
            if manifest.state == PLANNED or not manifest.is_primary:
                continue  # the job is not over, or the full list lies elsewhere
            folder = os.path.relpath(manifest.folder, root.path)
            present.add(folder)
            _keep(root, folder, manifest, given_back)
        for row in rows:
            if row.folder not in present and _holder(row.folder) not in unknown:
                row.state = State.EMPTIED
                row.save(update_fields=["state"])
    return len(present)


def restorable_jobs(jobs: Iterable[int | None]) -> set[int]:
    """Those of these jobs (their keys) whose files can be restored from the trash."""
    items = TrashedJob.objects.filter(job__in=set(jobs) - {None}, state=State.IN_TRASH)
    return {item.job_id for item in items if item.job_id is not None and item.can_be_restored}


def _holder(folder: str) -> str:
    """The folder that holds the trash folder of a row."""
    head, _, _ = folder.rpartition(f"{storage_roots.TRASH_FOLDER}/")
    return head.rstrip("/")


def _given_back(manifests: Iterable[Manifest]) -> dict[str, int]:
    """Bytes that the storage gets back for each file in the trash, by its path there.

    A job may have put files into the trash of several roots.
    """
    with closing(roots.operation_roots()) as scope:
        return {
            entry.trash: emptying.given_back_bytes(scope, entry)
            for manifest in manifests
            for entry in manifest.entries
        }


def _keep(
    root: StorageRoot, folder: str, manifest: Manifest, given_back: Mapping[str, int]
) -> None:
    # The word in the folder's name begins with the job's number; the command line has none.
    number = re.match(r"(?:job-?)?(\d+)(?:[-~]|$)", manifest.job)
    job = int(number[1]) if number else None
    TrashedJob.objects.update_or_create(
        root=root,
        folder=folder,
        defaults={
            "job": Job.objects.filter(pk=job).first() if job else None,
            "operation": manifest.kind[:20],
            "items": readable(
                [
                    {
                        "path": os.path.relpath(entry.original, root.path),
                        "stored": os.path.basename(entry.trash),
                        "size_bytes": given_back[entry.trash],
                        "role": entry.role,
                    }
                    for entry in manifest.entries
                ]
            ),
            "size_bytes": sum(given_back[entry.trash] for entry in manifest.entries),
            "trashed_at": _moment(manifest.created),
            "state": State.IN_TRASH,
        },
    )


def _moment(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return timezone.now()
