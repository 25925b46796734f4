"""Update the parent path of one child, or take that back: planned, and asked for as a job.

Many at once: repair_plans.py. What may be chosen: parent_candidates.py.
"""

from __future__ import annotations

import os
from typing import Any

from disks.models import Disk, Job, ParentLink
from disks.operations import fingerprints, relink
from disks.operations.relink import LinkPlan
from disks.services import audit, declarations, evidence, jobs, linking, roots
from disks.services.access import Role, allows
from disks.services.errors import Refusal
from disks.services.stored_json import readable


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
