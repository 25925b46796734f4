"""Update the parent path of one child: candidates, plan, apply, undo. Many: repair_plans.py."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from disks.engine.errors import ImageError
from disks.models import Disk, Job, LinkUndo, ParentLink
from disks.operations import candidates, fingerprints, paths, relink
from disks.operations.candidates import Candidate
from disks.operations.progress import Progress
from disks.operations.relink import LinkPlan
from disks.services import (
    audit,
    chains,
    declarations,
    evidence,
    inspection,
    jobs,
    linking,
    roots,
)
from disks.services.access import Role, allows
from disks.services.errors import Refusal
from disks.services.stored_json import readable, restored
from disks.services.work import JobContext

Status = ParentLink.Status
_OTHERS_OFFERED = 40
_REMEMBERED_AT_ONCE = 50  # one commit for so many, and no other writer waits for long


# ------------------------------------------------------------------------------ one child


def candidates_for(child: Disk) -> list[Candidate]:
    """Possible parents, best first: the identity first, each with its reasons.

    Read from the files now; only those that the catalog says may be worth it. Raises
    ImageError where the child cannot be read.
    """
    link: ParentLink | None = getattr(child, "parent_link", None)
    if link is None:
        raise Refusal(
            "E_NOT_DIFFERENCING",
            f"{readable(child.name)} has no parent; only differencing disks have one.",
        )
    usable = (
        Disk.objects.filter(missing_since=None, format=child.format)
        .exclude(identity="")
        .exclude(root__state__in=declarations.OFFLINE_STATES)
        .exclude(pk=child.pk)
        .select_related("root")
        .defer("findings")
    )
    above = {disk.pk for disk in chains.descendants(child)}
    name = link.named_path.replace("\\", "/").rpartition("/")[2]
    others = usable.exclude(identity=link.named_identity).filter(
        Q(name__iexact=name)
        | (Q(virtual_disk_id=child.virtual_disk_id) & ~Q(virtual_disk_id=""))
        | Q(root=child.root, virtual_size_bytes=child.virtual_size_bytes)
        | Q(pk=link.suggested_id)
    )
    chosen = [*usable.filter(identity=link.named_identity), *others[:_OTHERS_OFFERED]]
    scope = roots.operation_roots()
    try:
        found = candidates.candidates(
            child.path, scope, [disk.path for disk in chosen if disk.pk not in above]
        )
    finally:
        scope.close()
    rows = {disk.path: disk for disk in chosen}
    return [
        replace(one, reasons=(*one.reasons, *_more(rows.get(one.path), child))) for one in found
    ]


def _more(row: Disk | None, child: Disk) -> Iterator[str]:
    """What the catalog adds to a candidate's reasons."""
    if row is None:
        return
    if row.root_id == child.root_id:
        yield "in the same root"
    if row.modified_at is not None:
        yield f"last written {row.modified_at:%Y-%m-%d %H:%M} UTC"
        if child.image_created_at and row.modified_at > child.image_created_at:
            yield "written after the child was made"
    if row.health in (Disk.Health.BROKEN, Disk.Health.DAMAGED):
        yield f"but: {row.sentence}"


def plan(
    child: Disk,
    target: str,
    *,
    windows_path: str | None = None,
    ignore_identity: bool = False,
) -> LinkPlan:
    """What will be written to make the disk at this host path the parent.

    Writes nothing; raises ImageError with the refusal (E_PARENT_IDENTITY, E_CYCLE,
    E_PARENT_SIZE, E_READ_ONLY …).
    """
    scope = roots.operation_roots()
    try:
        return relink.plan(
            child.path,
            target,
            scope,
            windows_path=windows_path,
            ignore_identity=ignore_identity,
        )
    finally:
        scope.close()


def plan_undo(child: Disk) -> LinkPlan:
    """What it takes to bring the link back that the last update replaced."""
    scope = roots.operation_roots()
    try:
        return relink.plan_undo(child.path, scope)
    finally:
        scope.close()


def located(text: str) -> str:
    """A typed path, Windows or of this host, as a host path below a root.

    Raises Refusal E_NOT_FOUND, or E_OUTSIDE_ROOTS in the same words whatever lies there: nothing
    outside the roots is asked about, nor in folders of them that are left out.
    """
    with closing(roots.operation_roots()) as scope:
        try:
            found = [path for path in scope.from_windows(text) if scope.holds(path)]
        except ImageError:
            found = []  # no path at all, or one that climbs out
        for path in found:
            if scope.exists(path):
                return scope.actual(path)
        if found:
            root, relative = scope.locate(found[0])
            raise Refusal(
                "E_NOT_FOUND",
                f"There is no file {readable(relative)} in the storage root {root.label}.",
            )
    raise Refusal(
        "E_OUTSIDE_ROOTS",
        "This path is not below a storage root; the console looks only into its roots.",
        "An administrator can add a root, or tell a root how Windows sees it.",
    )


def request_update(
    child: Disk,
    target: str,
    *,
    user: Any,
    idempotency_key: str,
    windows_path: str | None = None,
    ignore_identity: bool = False,
    confirmed_name: str | None = None,
    fingerprint: str | None = None,
    declared_offline: bool = False,
    address: str = "",
) -> Job:
    """Update the parent path now, as a job in this process; the job as it ended.

    fingerprint      of the plan that was shown: E_CHANGED if it is not the same any more
    ignore_identity  administrators only; the form has asked for the disk's name
    Raises what the plan refuses and what declarations.require() does. A job that waits for
    another one is still queued when this returns.
    """
    if ignore_identity and not allows(user, Role.ADMINISTRATOR):
        raise Refusal(
            "E_NOT_ALLOWED",
            "Only an administrator can give a disk a parent of another identity.",
        )
    if confirmed_name is not None and confirmed_name != child.name:
        raise Refusal("E_NOT_CONFIRMED", "The disk's name was not typed as it is.")
    declarations.require([child.path], declared_offline=declared_offline)
    planned = plan(child, target, windows_path=windows_path, ignore_identity=ignore_identity)
    if fingerprint is not None and planned.fingerprint != fingerprint:
        raise fingerprints.changed(child.path, "or its new parent was changed")
    job = jobs.request(
        kind=Job.Kind.UPDATE_PARENT,
        parameters={
            "child": child.path,
            "parent": target,
            "windows_path": windows_path,
            "ignore_identity": ignore_identity,
            "fingerprint": planned.fingerprint,
        },
        user=user,
        disk=child,
        root=child.root,
        summary=f"Update the parent path of {readable(child.name)} to "
        f"{readable(os.path.basename(target))}",
        exclusive=[child.path],
        shared=list(planned.ancestors),
        declared_offline=declared_offline,
        idempotency_key=idempotency_key,
        address=address,
    )
    return jobs.run_now(job)


def request_undo(
    child: Disk,
    *,
    user: Any,
    idempotency_key: str,
    fingerprint: str | None = None,
    declared_offline: bool = False,
    address: str = "",
) -> Job:
    """Take the last update back now, as a job in this process; the job as it ended.

    fingerprint: of the plan that was shown; E_CHANGED if it is another one by now.
    """
    declarations.require([child.path], declared_offline=declared_offline)
    planned = plan_undo(child)
    if fingerprint is not None and planned.fingerprint != fingerprint:
        raise fingerprints.changed(child.path, "or its new parent was changed")
    job = jobs.request(
        kind=Job.Kind.UNDO_UPDATE,
        parameters={"child": child.path, "fingerprint": planned.fingerprint},
        user=user,
        disk=child,
        root=child.root,
        summary=f"Undo the parent path update of {readable(child.name)}",
        exclusive=[child.path],
        declared_offline=declared_offline,
        idempotency_key=idempotency_key,
        address=address,
    )
    return jobs.run_now(job)


def trust_parent(child: Disk, *, user: Any, address: str = "") -> None:
    """Somebody has looked: the parent that was written is right for this child all the same."""
    link = ParentLink.objects.select_related("parent").get(child=child)
    before = {"sentence": link.parent_evidence.get("sentence", "")}
    evidence.trust(link)
    audit.record(
        user=user,
        action="parent-trusted",
        sentence=f"Declared the parent of {readable(child.name)} to be right as it is now.",
        disk=child,
        before=before,
        after=link.parent_evidence.get("now"),
        address=address,
    )
    touched = linking.Touched()
    touched.add(child.pk)
    linking.renew(touched)


# ---------------------------------------------------------------------------- the work


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
