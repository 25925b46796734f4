"""Create: the dry run for the form, the job, and the catalog afterwards."""

from __future__ import annotations

import os
from typing import Any

from disks.engine.images import DiskType
from disks.models import Disk, Job
from disks.operations import create, fingerprints
from disks.operations.create import CreatePlan
from disks.operations.progress import Progress
from disks.services import declarations, inspection, jobs, roots
from disks.services.stored_json import readable, restored
from disks.services.work import JobContext


def plan(
    *,
    path: str,
    disk_type: DiskType | str = DiskType.DYNAMIC,
    size_bytes: int | None = None,
    parent: str | None = None,
    block_size_bytes: int | None = None,
    sector_bytes: int | None = None,
) -> CreatePlan:
    """What a new disk at this host path would be; what stands in the way is in `refused`."""
    scope = roots.operation_roots()
    try:
        return create.plan(
            path,
            scope,
            disk_type=disk_type,
            size_bytes=size_bytes,
            parent=parent,
            block_size_bytes=block_size_bytes,
            sector_bytes=sector_bytes,
        )
    finally:
        scope.close()


def request(
    *,
    path: str,
    user: Any,
    idempotency_key: str,
    disk_type: DiskType | str = DiskType.DYNAMIC,
    size_bytes: int | None = None,
    parent: str | None = None,
    block_size_bytes: int | None = None,
    sector_bytes: int | None = None,
    address: str = "",
) -> Job:
    """Ask for the new disk; the caller enqueues the job. Raises what the plan refuses."""
    options: dict[str, Any] = {
        "path": path,
        "disk_type": str(disk_type),
        "size_bytes": size_bytes,
        "parent": parent,
        "block_size_bytes": block_size_bytes,
        "sector_bytes": sector_bytes,
    }
    planned = plan(**options)
    if planned.refused is not None:
        raise planned.refused
    declarations.require([path], declared_offline=True)  # no existing file is written
    root, _ = roots.locate(path)
    return jobs.request(
        kind=Job.Kind.CREATE,
        parameters=options | {"fingerprint": [*planned.fingerprint.items()]},
        user=user,
        root=root,
        summary=f"Create {readable(os.path.basename(path))}",
        exclusive=[path],
        shared=[parent] if parent else [],
        idempotency_key=idempotency_key,
        address=address,
    )


def run_create(
    parameters: dict[str, Any], progress: Progress, context: JobContext
) -> dict[str, Any]:
    """The work: plan again, compare the parent with what was shown, make the disk."""
    scope = context.roots()
    options: dict[str, Any] = {name: parameters.get(name) for name in _OPTIONS}
    path = options.pop("path")
    try:
        planned = create.plan(path, scope, **options)
        if planned.refused is not None:
            raise planned.refused
        if planned.fingerprint != dict(parameters["fingerprint"]):
            raise fingerprints.changed(str(parameters["parent"]))
        return create.apply(
            planned, scope, job=context.name, token=context.token, progress=progress
        )
    finally:
        scope.close()


def finished_create(job: Job, result: dict[str, Any]) -> None:
    """The new disk gets its row, and the job points to it."""
    path = result.get("output") or restored(job.parameters)["path"]
    inspection.refresh_paths([path], job=job)
    root, relative = roots.locate(path)
    disk = Disk.objects.filter(root=root, relative_path=relative).first()
    if disk is not None and job.disk_id is None:
        Job.objects.filter(pk=job.pk).update(disk=disk)


_OPTIONS = ("path", "disk_type", "size_bytes", "parent", "block_size_bytes", "sector_bytes")
