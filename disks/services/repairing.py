"""Repair footer: the dry run for the page, the job, and the catalog afterwards."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from disks.engine import codes
from disks.engine.errors import ImageError
from disks.models import Disk, Job
from disks.operations import fingerprints, repair
from disks.operations.progress import Progress
from disks.operations.repair import RepairPlan
from disks.services import audit, declarations, inspection, jobs, parent_paths, roots, sidecars
from disks.services.stored_json import readable, restored
from disks.services.work import JobContext, Recovery

DONE = "The footer is repaired: both copies are sound and equal. The content was not touched."

DAMAGED = frozenset({"E_FOOTER_END", "E_FOOTER_FRONT"})
_IN_THE_WAY = ("E_FOREIGN_JOURNAL", "E_FOOTERS_DIFFER", "E_TRUNCATED", "E_RAW_PARENT")


def is_damaged(disk: Disk) -> bool:
    """Whether one copy of the footer was damaged when the disk was last read; asks no query."""
    return bool(DAMAGED & _codes(disk))


def why_not(disk: Disk) -> str:
    """What was found that keeps the footer from being repaired; empty where nothing was."""
    found = _codes(disk)
    code = next((one for one in _IN_THE_WAY if one in found), None)
    return "" if code is None else f"{codes.title(code)}: see the findings."


def _codes(disk: Disk) -> set[str]:
    """Lists leave the findings in the database; the verdict's code has to do there."""
    if "findings" not in disk.__dict__:  # deferred
        return {disk.health_code}
    return {row.get("code", "") for row in disk.findings}


def plan(disk: Disk) -> RepairPlan:
    """The dry run; raises ImageError with the refusal."""
    with closing(roots.operation_roots()) as scope:
        return repair.plan(disk.path, scope)


def request(
    disk: Disk,
    *,
    user: Any,
    idempotency_key: str,
    fingerprint: str | None = None,
    declared_offline: bool = False,
    address: str = "",
) -> Job:
    """Ask for the repair; the caller enqueues the job. Raises what the plan refuses.

    fingerprint: of the plan that was shown; E_CHANGED if it is not the same any more.
    """
    declarations.require([disk.path], declared_offline=declared_offline)
    planned = plan(disk)
    if fingerprint is not None and planned.fingerprint != fingerprint:
        raise fingerprints.changed(disk.path)
    return jobs.request(
        kind=Job.Kind.REPAIR,
        parameters={"path": disk.path, "fingerprint": planned.fingerprint},
        user=user,
        disk=disk,
        root=disk.root,
        summary=f"Repair the footer of {readable(disk.name)}",
        exclusive=[disk.path],
        declared_offline=declared_offline,
        idempotency_key=idempotency_key,
        address=address,
    )


def run_repair(
    parameters: dict[str, Any], progress: Progress, context: JobContext
) -> dict[str, Any]:
    """The work: plan again, compare with what was shown, write."""
    path = parameters["path"]
    with closing(context.roots()) as scope:
        planned = repair.plan(path, scope)
        if planned.fingerprint != parameters["fingerprint"]:
            raise fingerprints.changed(path)
        return repair.apply(
            planned,
            scope,
            offline=context.job.declared_offline,
            job=context.name,
            token=context.token,
            progress=progress,
            known_children=parent_paths.recorded_times(path),
        )


def recover_repair(job: Job, context: JobContext) -> Recovery:
    """What the sidecar says; without one, whether the repair was over already.

    A repair that is complete leaves no record: the disk itself tells.
    """
    recovery = sidecars.recover_by_sidecars(job, context)
    if recovery.action != "nothing" or sidecars.RECORDS not in job.result:
        return recovery
    with closing(context.roots()) as scope:
        try:
            repair.plan(restored(job.parameters)["path"], scope)
        except ImageError as error:
            if error.code == repair.NOTHING:
                return Recovery("finished")
            raise
    return recovery


def finished_repair(job: Job, result: dict[str, Any]) -> None:
    """The catalog after a repair: the content is the same, so children are not warned."""
    path = restored(job.parameters)["path"]
    result.pop("links", None)  # recovery speaks of the parent link, which is as it was
    result.pop("path", None)  # the job's own disk
    result["sentence"] = DONE
    inspection.refresh_paths([], rewritten=[path], job=job)
    disk = job.disk
    if disk is None or disk.audit.filter(job=job, action="footer-repaired").exists():
        return
    changes = result.get("changes") or []
    audit.record(
        user=job.requested_by,
        action="footer-repaired",
        sentence=f"Repaired the footer of {readable(disk.name)} from its sound copy.",
        disk=disk,
        job=job,
        before={row["field"]: row["now"] for row in changes},
        after={row["field"]: row["after"] for row in changes},
    )
