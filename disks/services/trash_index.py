"""The rows of what lies in the trash folders below each root.

The console's own jobs put files into `<root>/.vdtrash`; the command line, which knows no
roots, into the `.vdtrash` beside the disk. Both are listed, restored and emptied alike.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime

from django.db import transaction
from django.utils import timezone

from disks.engine.errors import ImageError
from disks.models import Job, StorageRoot, TrashedJob
from disks.operations import storage_roots, trash
from disks.operations.trash.manifests import PLANNED, Manifest
from disks.services import roots
from disks.services.stored_json import readable

State = TrashedJob.State


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
    present = set()
    with transaction.atomic():
        for manifest in manifests:
            if manifest.state == PLANNED or not manifest.is_primary:
                continue  # the job is not over, or the full list lies elsewhere
            folder = os.path.relpath(manifest.folder, root.path)
            present.add(folder)
            _keep(root, folder, manifest)
        for row in rows:
            if row.folder not in present and _holder(row.folder) not in unknown:
                row.state = State.EMPTIED
                row.save(update_fields=["state"])
    return len(present)


def _holder(folder: str) -> str:
    """The folder that holds the trash folder of a row."""
    head, _, _ = folder.rpartition(f"{storage_roots.TRASH_FOLDER}/")
    return head.rstrip("/")


def _keep(root: StorageRoot, folder: str, manifest: Manifest) -> None:
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
                        "size_bytes": entry.file.size_bytes,
                        "role": entry.role,
                    }
                    for entry in manifest.entries
                ]
            ),
            "size_bytes": manifest.size_bytes,
            "trashed_at": _moment(manifest.created),
            "state": State.IN_TRASH,
        },
    )


def _moment(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return timezone.now()
