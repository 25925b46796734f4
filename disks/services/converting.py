"""Convert: the dry run for the form, the job, and the catalog afterwards."""

from __future__ import annotations

import os
from contextlib import closing
from typing import Any

from disks.engine.images import DiskType
from disks.models import Disk, Job
from disks.operations import convert, fingerprints
from disks.operations.convert import ConvertPlan
from disks.operations.progress import Progress
from disks.services import declarations, inspection, jobs, roots
from disks.services.stored_json import readable, restored
from disks.services.work import JobContext


def plan(
    disk: Disk,
    *,
    output: str,
    format_name: str,
    disk_type: DiskType | str | None = None,
) -> ConvertPlan:
    """The dry run, from the files as they are; what stands in the way is in `refused`.

    disk_type: None for a plain image. Raises Refusal where the chain is broken.
    """
    declarations.require_chain(disk)
    with closing(roots.operation_roots()) as scope:
        return convert.plan(disk.path, output, scope, disk_type=disk_type, format_name=format_name)


def request(
    disk: Disk,
    *,
    output: str,
    format_name: str,
    disk_type: DiskType | str | None = None,
    user: Any,
    idempotency_key: str,
    seen: dict[str, Any] | None = None,
    address: str = "",
) -> Job:
    """Ask for the copy; the caller enqueues the job. Raises what the plan refuses.

    seen: the fingerprint of the plan that was shown; E_CHANGED if it is another one by now.
    """
    options: dict[str, Any] = {
        "output": output,
        "format_name": format_name,
        "disk_type": str(disk_type) if disk_type else None,
    }
    planned = plan(disk, **options)
    if planned.refused is not None:
        raise planned.refused
    if seen is not None and planned.fingerprint != seen:
        raise fingerprints.changed(disk.path, "was changed")
    declarations.require(planned.exclusive, declared_offline=True)  # no existing file is written
    return jobs.request(
        kind=Job.Kind.CONVERT,
        parameters=options | {"source": disk.path, "fingerprint": [*planned.fingerprint.items()]},
        user=user,
        disk=disk,
        root=roots.locate(output)[0],
        summary=f"Convert {readable(disk.name)} to {readable(os.path.basename(output))}",
        exclusive=planned.exclusive,
        shared=planned.shared,
        idempotency_key=idempotency_key,
        address=address,
    )


def run_convert(
    parameters: dict[str, Any], progress: Progress, context: JobContext
) -> dict[str, Any]:
    """The work: plan again, compare with what was shown, copy."""
    with closing(context.roots()) as scope:
        planned = convert.plan(
            parameters["source"],
            parameters["output"],
            scope,
            disk_type=parameters["disk_type"],
            format_name=parameters["format_name"],
            progress=progress,
        )
        declarations.require_as_shown(planned, parameters["fingerprint"])
        return convert.apply(
            planned, scope, job=context.name, token=context.token, progress=progress
        )


def finished_convert(job: Job, result: dict[str, Any]) -> None:
    """The new disk gets its row; a plain image is no disk that the catalog knows."""
    output = result.get("output") or restored(job.parameters)["output"]
    inspection.refresh_paths([output], job=job)
    result["sentence"] = f"{readable(os.path.basename(output))} is there, and reads the same."
