"""Expand: the dry run for the form, the job, and the catalog afterwards."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from disks.engine.formats import open_image
from disks.engine.units import size_text
from disks.models import Disk, Job
from disks.operations import expand, fingerprints, recover
from disks.operations.expand import ExpandPlan
from disks.operations.paths import Roots
from disks.operations.progress import Progress
from disks.services import audit, declarations, inspection, jobs, roots, sidecars
from disks.services.stored_json import readable, restored
from disks.services.work import JobContext, Recovery

MADE_ROOM = (
    "The worker stopped before the disk was larger. Blocks were moved to make room; size and "
    "content are as they were."
)


def plan(disk: Disk, *, size_bytes: int) -> ExpandPlan:
    """The dry run, from the file as it is; children as the catalog knows them.

    Raises Refusal where the chain is broken or a child lies in an offline root. What else
    stands in the way is in `refused`. The job looks for children again, in all headers
    below all roots and under lock.
    """
    declarations.require_chain(disk)
    declarations.require_no_hidden_children(
        [disk], else_do="create a child disk and expand that, which changes nothing here"
    )
    with closing(roots.operation_roots()) as scope:
        return expand.plan(
            disk.path,
            size_bytes,
            scope,
            children_of=declarations.catalog_children,
            scan=False,
        )


def request(
    disk: Disk,
    *,
    size_bytes: int,
    user: Any,
    idempotency_key: str,
    declared_offline: bool = False,
    seen: dict[str, Any] | None = None,
    address: str = "",
) -> Job:
    """Ask for the expansion; the caller enqueues the job. Raises what the plan refuses.

    seen: the fingerprint of the plan that was shown; E_CHANGED if it is another one by now.
    """
    planned = plan(disk, size_bytes=size_bytes)
    if planned.refused is not None:
        raise planned.refused
    if seen is not None and planned.fingerprint != seen:
        raise fingerprints.changed(disk.path, "was changed")
    declarations.require(planned.exclusive, declared_offline=declared_offline)
    return jobs.request(
        kind=Job.Kind.EXPAND,
        parameters={
            "path": disk.path,
            "size_bytes": size_bytes,
            "size_before_bytes": planned.virtual_size_bytes,
            "fingerprint": [*planned.fingerprint.items()],
        },
        user=user,
        disk=disk,
        root=disk.root,
        summary=f"Expand {readable(disk.name)}",
        exclusive=planned.exclusive,
        shared=planned.shared,
        declared_offline=declared_offline,
        idempotency_key=idempotency_key,
        address=address,
    )


def run_expand(
    parameters: dict[str, Any], progress: Progress, context: JobContext
) -> dict[str, Any]:
    """The work: plan again, compare with what was shown, write."""
    with closing(context.roots()) as scope:
        planned = expand.plan(
            parameters["path"],
            parameters["size_bytes"],
            scope,
            children_of=declarations.catalog_children,
            scan=False,
            progress=progress,
        )
        declarations.require_as_shown(planned, parameters["fingerprint"])
        return expand.apply(
            planned,
            scope,
            offline=context.job.declared_offline,
            job=context.name,
            token=context.token,
            progress=progress,
            children_of=declarations.catalog_children,
        )


def recover_expand(job: Job, context: JobContext) -> Recovery:
    """What the sidecars say, and then the disk itself: it has its new size, or it has not.

    An expansion that is complete leaves no record, and one that only made room does not count.
    """
    recovery = sidecars.recover_by_sidecars(job, context)
    parameters = restored(job.parameters)
    with closing(context.roots()) as scope:
        size = _size_of(scope, parameters["path"])
    if size == parameters["size_bytes"]:
        return Recovery(recover.FINISHED, recovery.sentence, _told(parameters))
    if recovery.action == recover.FINISHED:
        return Recovery(recover.UNDONE, MADE_ROOM)
    return recovery


def _size_of(scope: Roots, path: str) -> int:
    with scope.open(path) as file:
        return open_image(file).virtual_size_bytes


def _told(parameters: dict[str, Any]) -> dict[str, Any]:
    """As much of the result as the request knew."""
    return {
        "output": parameters["path"],
        "virtual_size_before_bytes": parameters["size_before_bytes"],
        "virtual_size_bytes": parameters["size_bytes"],
    }


def finished_expand(job: Job, result: dict[str, Any]) -> None:
    """The catalog and the audit after an expansion, also after one that recovery finished."""
    parameters = restored(job.parameters)
    before, after = parameters["size_before_bytes"], parameters["size_bytes"]
    result["sentence"] = (
        f"The disk has {size_text(after)} now. Its partitions are as they were: enlarge them in "
        "the machine."
    )
    for key in ("output", "copy_seconds", "fingerprint"):  # the job's own disk; nothing was copied
        result.pop(key, None)
    inspection.refresh_paths([], rewritten=[parameters["path"]], job=job)
    disk = job.disk
    if disk is None or disk.audit.filter(job=job, action="disk-expanded").exists():
        return
    audit.record(
        user=job.requested_by,
        action="disk-expanded",
        sentence=f"Expanded {readable(disk.name)} from {size_text(before)} to {size_text(after)}.",
        disk=disk,
        job=job,
        before={"virtual_size_bytes": before},
        after={"virtual_size_bytes": after},
    )
