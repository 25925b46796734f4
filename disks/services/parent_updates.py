"""The work of updates and undos of parent paths, of one link or many, and the catalog after it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils import timezone

from disks.models import Disk, Job, LinkUndo, ParentLink
from disks.operations import fingerprints, paths, relink
from disks.operations.progress import Progress
from disks.operations.relink import LinkPlan
from disks.services import audit, inspection, roots
from disks.services.stored_json import readable, restored
from disks.services.work import JobContext

_REMEMBERED_AT_ONCE = 50  # one commit for so many, and no other writer waits for long


def run_update(
    parameters: dict[str, Any], progress: Progress, context: JobContext
) -> dict[str, Any]:
    """The work of one update: plan again, compare with what was shown, write."""
    scope = context.roots()
    try:
        planned = relink.plan(
            parameters["child"],
            parameters["parent"],
            scope,
            windows_path=parameters["windows_path"],
            ignore_identity=parameters["ignore_identity"],
        )
        shown = parameters["fingerprint"]
        return {"links": [apply_as_shown(planned, shown, scope, progress, context)]}
    finally:
        scope.close()


def run_undo(parameters: dict[str, Any], progress: Progress, context: JobContext) -> dict[str, Any]:
    """The work of one undo."""
    scope = context.roots()
    try:
        planned = relink.plan_undo(parameters["child"], scope)
        shown = parameters["fingerprint"]
        return {"links": [apply_as_shown(planned, shown, scope, progress, context)]}
    finally:
        scope.close()


def apply_as_shown(
    planned: LinkPlan,
    fingerprint: str | None,
    scope: paths.Roots,
    progress: Progress,
    context: JobContext,
) -> dict[str, Any]:
    """Write it, for a job; fingerprint: of the plan that was shown, None where none was.

    Raises what the plan refuses, and E_CHANGED.
    """
    if fingerprint is not None and planned.fingerprint != fingerprint:
        raise fingerprints.changed(planned.child, "or its new parent was changed")
    return relink.apply(
        planned,
        scope,
        offline=context.job.declared_offline,
        job=context.name,
        token=context.token,
        progress=progress,
        known_children=recorded_times(planned.child),
    )


def recorded_times(child: str) -> list[datetime | None]:
    """The parent timestamps that children of this disk store."""
    root, relative = roots.locate(child)
    return list(
        ParentLink.objects.filter(parent__root=root, parent__relative_path=relative).values_list(
            "named_timestamp", flat=True
        )
    )


def finished_update(job: Job, result: dict[str, Any]) -> None:
    """The catalog after updates or undos of one or many links; may be repeated."""
    links = result.get("links")
    if links is None:  # recovery finished it, and knows the file alone
        changed = restored(job.parameters)["locks"]["exclusive"]
        inspection.refresh_paths([], rewritten=changed, job=job)
        return
    before = set(_broken())
    inspection.refresh_paths([], rewritten=[row["child"] for row in links], job=job)
    mended = before - set(_broken())
    for start in range(0, len(links), _REMEMBERED_AT_ONCE):
        with transaction.atomic():
            for row in links[start : start + _REMEMBERED_AT_ONCE]:
                _remember(job, row)
    if not result.get("sentence"):
        result["sentence"] = _readable_again(len(mended), job.disk_id in mended)
    result["readable_again"] = len(mended)


def _broken() -> Iterable[int]:
    return Disk.objects.filter(health=Disk.Health.BROKEN).values_list("pk", flat=True)


def _readable_again(mended: int, itself: bool) -> str:
    above = mended - 1 if itself else mended
    if not mended:
        return "The parent path is written."
    if not above:
        return "The parent path is written; this disk is readable again."
    word = "disk" if above == 1 else "disks"
    verb = "is" if above == 1 else "are"
    return (
        f"The parent path is written; {above:,} {word} above this one {verb} readable again, too."
    )


def _remember(job: Job, row: dict[str, Any]) -> None:
    """The undo row and the audit line of one rewritten link; once per job and disk."""
    root, relative = roots.locate(row["child"])
    disk = Disk.objects.filter(root=root, relative_path=relative).first()
    if disk is None:
        return
    earlier = LinkUndo.objects.filter(disk=disk, state=LinkUndo.State.AVAILABLE)
    if row["undo"]:
        earlier.update(state=LinkUndo.State.UNDONE)
    elif not LinkUndo.objects.filter(disk=disk, job=job).exists():
        earlier.update(state=LinkUndo.State.SUPERSEDED)
        LinkUndo.objects.create(
            disk=disk,
            job=job,
            before=readable(row["before"]),
            after=readable(row["after"]),
            written_at=timezone.now(),
        )
    action = "parent-update-undone" if row["undo"] else "parent-updated"
    if not disk.audit.filter(job=job, action=action).exists():
        done = "Took back the update of" if row["undo"] else "Updated"
        audit.record(
            user=job.requested_by,
            action=action,
            sentence=f"{done} the parent path of {readable(disk.name)}{_new_identity(row)}.",
            disk=disk,
            job=job,
            before=row["before"],
            after=row["after"],
        )


def _new_identity(row: dict[str, Any]) -> str:
    """What an update that was forced says in the audit: which identity it put in place of which."""
    before, after = (
        side.get("identity") if isinstance(side, dict) else None
        for side in (row["before"], row["after"])
    )
    if not before or not after or before == after:
        return ""
    return f", and its parent's identity from {before} to {after}"
