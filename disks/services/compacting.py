"""Compact: the dry run for the form, the job, and the catalog afterwards."""

from __future__ import annotations

from typing import Any

from disks.engine.files import FileIdentity
from disks.engine.units import size_text
from disks.models import Disk, Job
from disks.operations import compact, fingerprints
from disks.operations.compact import CompactPlan
from disks.operations.progress import Progress
from disks.services import declarations, inspection, jobs, roots, sidecars, trash
from disks.services.stored_json import readable, restored
from disks.services.work import JobContext, Recovery

# A page does not wait for a terabyte to be read: then the figures are estimates.
PLAN_SECONDS = 1.5
STOPPED = (
    "The worker stopped. The disk reads as before, and what it had given back stays so. Compact "
    "it again: it goes on with the rest."
)


def plan(
    disk: Disk, *, in_place: bool = True, time_budget_seconds: float | None = PLAN_SECONDS
) -> CompactPlan:
    """The dry run. Raises Refusal where the chain is broken; the rest is in `refused`."""
    declarations.require_chain(disk)
    scope = roots.operation_roots()
    try:
        return compact.plan(
            disk.path, scope, in_place=in_place, time_budget_seconds=time_budget_seconds
        )
    finally:
        scope.close()


def request(
    disk: Disk,
    *,
    user: Any,
    idempotency_key: str,
    in_place: bool = True,
    declared_offline: bool = False,
    seen: dict[str, Any] | None = None,
    address: str = "",
) -> Job:
    """Ask for the compaction; the caller enqueues the job. Raises what the plan refuses.

    in_place: where the disk lies; False: a proven copy takes its place
    seen: the fingerprint of the plan that was shown; E_CHANGED if it is another one by now.
    """
    planned = plan(disk, in_place=in_place, time_budget_seconds=0.2)
    if planned.refused is not None:
        raise planned.refused
    if seen is not None and planned.as_dict()["fingerprint"] != seen:
        raise fingerprints.changed(disk.path)
    declarations.require(planned.exclusive, declared_offline=declared_offline)
    return jobs.request(
        kind=Job.Kind.COMPACT,
        parameters={
            "path": disk.path,
            "in_place": in_place,
            "fingerprint": [*planned.fingerprint.items()],
        },
        user=user,
        disk=disk,
        root=disk.root,
        summary=f"Compact {readable(disk.name)}",
        exclusive=list(planned.exclusive),
        shared=list(planned.shared),
        declared_offline=declared_offline,
        idempotency_key=idempotency_key,
        address=address,
    )


def run_compact(
    parameters: dict[str, Any], progress: Progress, context: JobContext
) -> dict[str, Any]:
    """The work: plan again, compare with what was shown, carry out."""
    scope = context.roots()
    try:
        # The work itself looks at every block: no need to read all of it twice.
        planned = compact.plan(
            parameters["path"],
            scope,
            in_place=_in_place(parameters),
            time_budget_seconds=0.0,
            progress=progress,
        )
        declarations.require_as_shown(planned, _shown(parameters, planned, context))
        result = compact.apply(
            planned,
            scope,
            offline=context.job.declared_offline,
            job=context.name,
            token=context.token,
            progress=progress,
            children_of=declarations.catalog_children,
        )
    finally:
        scope.close()
    return result | {"changed": [parameters["path"]]}


def _shown(
    parameters: dict[str, Any], planned: CompactPlan, context: JobContext
) -> list[tuple[str, dict[str, Any]]]:
    """The fingerprints that must still hold: the disk's own only until the work has begun.

    Begun again, the job finds the disk as its own steps have left it. It must be the same file
    still, and none that has grown; its content is looked at anew in any case, and stays.
    """
    shown = dict(parameters["fingerprint"])
    path = parameters["path"]
    now = planned.fingerprints.get(path)
    if _in_place(parameters) and context.token > 1 and now is not None:
        before, file = FileIdentity.from_dict(shown[path]["file"]), now.file
        is_same = (file.device, file.inode) == (before.device, before.inode)
        if is_same and file.size_bytes <= before.size_bytes:
            del shown[path]
    return list(shown.items())


def recover_compact(job: Job, context: JobContext) -> Recovery:
    """What the sidecars say. In place, a step that was finished is not the whole of it.

    Nothing has to be gone on with: the disk is whole, and the job begins again by itself.
    """
    recovery = sidecars.recover_by_sidecars(job, context)
    if not _in_place(restored(job.parameters)):
        return recovery
    inspection.refresh_paths([], rewritten=[restored(job.parameters)["path"]], job=job)
    return Recovery("undone", STOPPED)


def _in_place(parameters: dict[str, Any]) -> bool:
    """Jobs that were asked for before there was a choice copy."""
    return bool(parameters.get("in_place", False))


def finished_compact(job: Job, result: dict[str, Any]) -> None:
    """The catalog after a compaction: the content is the same, so children are not warned."""
    changed = result.get("changed") or restored(job.parameters).get("locks", {}).get(
        "exclusive", []
    )
    inspection.refresh_paths([], rewritten=changed, job=job)
    trash.sync_for(changed, job)
    before, after = result.get("file_size_before_bytes"), result.get("file_size_after_bytes")
    if before is not None and after is not None:  # recovery does not know them
        was = "as before" if after == before else f"{size_text(before)} before"
        result["sentence"] = f"The file has {size_text(after)} now, {was}."
