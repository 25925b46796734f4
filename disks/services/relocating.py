"""Copy, move and delete: the dry runs for the forms, the jobs, and the catalog afterwards."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from django.db import transaction
from django.utils import timezone

from disks.models import Disk, Job, LinkUndo
from disks.operations import copy_chain, delete, fingerprints, move, recover
from disks.operations import trash as trash_folders
from disks.operations.paths import Roots
from disks.operations.progress import Progress
from disks.operations.relocation_plan import RelocationPlan
from disks.operations.steps import and_to_repair
from disks.services import audit, declarations, inspection, jobs, roots, sidecars, trash
from disks.services.stored_json import readable, restored
from disks.services.work import JobContext, Recovery

COPY, MOVE, DELETE = Job.Kind.COPY, Job.Kind.MOVE, Job.Kind.DELETE


def plan_copy(disk: Disk, *, folder: str, whole: bool) -> copy_chain.CopyChainPlan:
    """The dry run, from the files as they are; what stands in the way is in `refused`.

    folder: host path. Raises Refusal where the chain is broken.
    """
    declarations.require_chain(disk)
    with closing(roots.operation_roots()) as scope:
        return copy_chain.plan(disk.path, folder, scope, whole=whole)


def plan_move(disk: Disk, *, target: str, breaks: Sequence[str] = ()) -> move.MovePlan:
    """The same for a new host path, links rewritten but those of the children in `breaks`;
    children as the catalog knows them.

    Raises Refusal where a child lies in an offline root. The job looks for children again,
    in all headers below all roots and under lock.
    """
    declarations.require_no_hidden_children([disk], else_do="copy the disk instead")
    with closing(roots.operation_roots()) as scope:
        return _move(scope, {"path": disk.path, "target": target, "breaks": breaks})


def plan_delete(disk: Disk, *, breaks: Sequence[str] = ()) -> delete.DeletePlan:
    """The same; breaks: children that may lose their parent."""
    declarations.require_no_hidden_children([disk], else_do="leave the disk where it is")
    with closing(roots.operation_roots()) as scope:
        return _delete(scope, {"path": disk.path, "breaks": breaks})


def _move(scope: Roots, said: dict[str, Any], progress: Progress | None = None) -> move.MovePlan:
    return move.plan(
        said["path"],
        said["target"],
        scope,
        relink=True,
        breaks=said.get("breaks", ()),  # jobs asked for before there was a choice have none
        children_of=declarations.catalog_children,
        scan=False,
        progress=progress,
    )


def _delete(
    scope: Roots, said: dict[str, Any], progress: Progress | None = None
) -> delete.DeletePlan:
    return delete.plan(
        said["path"],
        scope,
        breaks=said["breaks"],
        children_of=declarations.catalog_children,
        scan=False,
        progress=progress,
    )


def seen_of(plan: RelocationPlan) -> dict[str, Any]:
    """What a form has shown: the files, the names afterwards and who depends on them."""
    return {
        "files": plan.fingerprint,
        "names": [one.target for one in plan.files],
        "children": plan.children,
        "breaks": list(plan.breaks),
    }


def request(
    disk: Disk,
    plan: RelocationPlan,
    *,
    user: Any,
    idempotency_key: str,
    declared_offline: bool = False,
    seen: dict[str, Any] | None = None,
    address: str = "",
) -> Job:
    """Ask for what is planned; the caller enqueues the job. Raises what the plan refuses.

    seen: seen_of() the plan that was shown; E_CHANGED if it is another one by now.
    """
    if plan.refused is not None:
        raise plan.refused
    if seen is not None and seen_of(plan) != seen:
        raise fingerprints.changed(disk.path)
    kind, parameters, summary = _asked(disk, plan)
    # a copy writes to no file that exists
    declarations.require(plan.exclusive, declared_offline=declared_offline or kind == COPY)
    return jobs.request(
        kind=kind,
        parameters=parameters | {"fingerprint": [*plan.fingerprint.items()]},
        user=user,
        disk=disk,
        root=roots.locate(plan.output)[0],
        summary=summary,
        exclusive=plan.exclusive,
        shared=plan.shared,
        declared_offline=declared_offline,
        idempotency_key=idempotency_key,
        address=address,
    )


def _asked(disk: Disk, plan: RelocationPlan) -> tuple[str, dict[str, Any], str]:
    """Kind, parameters and summary of the job."""
    name, path = readable(disk.name), {"path": disk.path}
    if isinstance(plan, copy_chain.CopyChainPlan):
        what = f"{len(plan.files):,} disks of {name}" if len(plan.files) > 1 else name
        said = {"folder": plan.folder, "whole": plan.whole}
        return COPY, path | said, f"Copy {what} to {readable(plan.folder)}"
    if isinstance(plan, move.MovePlan):
        if os.path.dirname(plan.output) == os.path.dirname(plan.path):
            summary = f"Rename {name} to {readable(os.path.basename(plan.output))}"
        else:
            summary = f"Move {name} to {readable(plan.output)}"
        return MOVE, path | {"target": plan.output, "breaks": list(plan.breaks)}, summary
    return DELETE, path | {"breaks": list(plan.breaks)}, f"Delete {name}"


# ---------------------------------------------------------------------- the jobs


def run_copy(parameters: dict[str, Any], progress: Progress, context: JobContext) -> dict[str, Any]:
    """The work: plan again, compare with what was shown, copy."""
    with closing(context.roots()) as scope:
        planned = copy_chain.plan(
            parameters["path"], parameters["folder"], scope, whole=parameters["whole"]
        )
        declarations.require_as_shown(planned, parameters["fingerprint"])
        return copy_chain.apply(
            planned, scope, job=context.name, token=context.token, progress=progress
        )


def run_move(parameters: dict[str, Any], progress: Progress, context: JobContext) -> dict[str, Any]:
    """The work: plan again, compare with what was shown, move."""
    with closing(context.roots()) as scope:
        planned = _move(scope, parameters, progress)
        declarations.require_as_shown(planned, parameters["fingerprint"])
        return move.apply(
            planned,
            scope,
            offline=context.job.declared_offline,
            job=context.name,
            token=context.token,
            progress=progress,
            children_of=declarations.catalog_children,
        )


def run_delete(
    parameters: dict[str, Any], progress: Progress, context: JobContext
) -> dict[str, Any]:
    """The work: plan again, compare with what was shown, put away."""
    with closing(context.roots()) as scope:
        planned = _delete(scope, parameters, progress)
        declarations.require_as_shown(planned, parameters["fingerprint"])
        return delete.apply(
            planned,
            scope,
            offline=context.job.declared_offline,
            job=context.name,
            token=context.token,
            progress=progress,
            children_of=declarations.catalog_children,
        )


def recover_job(job: Job, context: JobContext) -> Recovery:
    """What the sidecars say, and where none is left, where the file itself lies.

    A move or a delete that is complete leaves no record beside the disk.
    """
    recovery = sidecars.recover_by_sidecars(job, context)
    if recovery.action != "nothing":
        return recovery
    parameters = restored(job.parameters)
    path = parameters["path"]
    inode = dict(parameters["fingerprint"])[path]["file"]["inode"]
    with closing(context.roots()) as scope:
        if job.kind == MOVE:
            target = parameters["target"]
            is_done = scope.exists(target) and scope.stat(target).st_ino == inode
        else:
            root, _ = scope.locate(path)
            is_done = not scope.exists(path) and any(
                entry.original == path and entry.file.inode == inode
                for manifest in trash_folders.list_trash(root.path, scope)
                for entry in manifest.entries
            )
    return Recovery(recover.FINISHED) if is_done else recovery


# ---------------------------------------------------------------------- the catalog


def finished_copy(job: Job, result: dict[str, Any]) -> None:
    """The copies get their rows. Repeatable, as the next two."""
    targets = restored(job.parameters)["locks"]["exclusive"]
    inspection.refresh_paths(targets, job=job)
    count = len(targets)
    _tell(job, result, f"{count:,} {'disk lies' if count == 1 else 'disks lie'} there now.")
    _audit(job, "disk-copied", f"Copied to {readable(restored(job.parameters)['folder'])}.")


def finished_move(job: Job, result: dict[str, Any]) -> None:
    """The row goes along with its file, and keeps its history."""
    parameters = restored(job.parameters)
    source, target = parameters["path"], parameters["target"]
    touched = parameters["locks"]["exclusive"]
    relinked = result.get("relinked", [])
    _follow(source, target)
    inspection.refresh_paths([source, *touched], rewritten=[target, *relinked], job=job)
    LinkUndo.objects.filter(
        disk__in=_rows([target, *relinked] if relinked else []), state=LinkUndo.State.AVAILABLE
    ).update(state=LinkUndo.State.SUPERSEDED)
    trash.sync_for([source], job)
    count = len(relinked)
    links = f", and {count:,} parent {'link' if count == 1 else 'links'} rewritten" if count else ""
    _tell(job, result, f"Moved{links}{and_to_repair(result)}")
    told = f"Moved {readable(source)}.{_given_up(parameters)}"
    _audit(job, "disk-moved", told, before=source, after=target)


def finished_delete(job: Job, result: dict[str, Any]) -> None:
    parameters = restored(job.parameters)
    path = parameters["path"]
    inspection.refresh_paths([path], put_away=[path], job=job)
    trash.sync_for([path], job)
    _tell(job, result, "The disk is in the trash, and can be restored until that is emptied.")
    told = f"Deleted {readable(path)}.{_given_up(parameters)}"
    _audit(job, "disk-deleted", told, before=path)


def _given_up(parameters: dict[str, Any]) -> str:
    """The end of an audit sentence: children that lost their parent by it."""
    broken = [readable(child) for child in parameters.get("breaks", ())]
    return f" Given up with it: {', '.join(broken)}." if broken else ""


def _tell(job: Job, result: dict[str, Any], sentence: str) -> None:
    """Leave of the document what the job's page shows."""
    result["sentence"] = sentence
    result["links"] = [
        {"child": row["disk"], "parent": row["parent"]}
        for row in result.get("links", [])
        if isinstance(row, dict) and row.get("disk")
    ]
    result["files_proven"] = len(result.get("proofs") or ())
    # The rest is in the plan that was shown, or says nothing of what was done.
    for key in ("files", "fingerprint", "managers", "proofs", "opens_as", "source", "trash"):
        result.pop(key, None)
    if job.kind == COPY or not result.get("bytes_written"):  # nothing became larger or smaller
        for key in ("file_size_before_bytes", "file_size_after_bytes"):
            result.pop(key, None)


def _follow(source: str, target: str) -> None:
    """The row of a moved disk names its new place; an older row of that name makes room."""
    (old_root, old), (new_root, new) = roots.locate(source), roots.locate(target)
    row = Disk.objects.filter(root=old_root, relative_path=old).first()
    if row is None:
        return
    with transaction.atomic():
        for tenant in Disk.objects.filter(root=new_root, relative_path=new).exclude(pk=row.pk):
            Disk.objects.filter(pk=tenant.pk).update(
                relative_path=f"{new} (replaced, {tenant.pk})", missing_since=timezone.now()
            )
        Disk.objects.filter(pk=row.pk).update(
            root=new_root, relative_path=new, name=os.path.basename(new), moved_from=source
        )


def _rows(host_paths: Sequence[str]) -> list[int]:
    found: list[int] = []
    for path in host_paths:
        root, relative = roots.locate(path)
        found += Disk.objects.filter(root=root, relative_path=relative).values_list("pk", flat=True)
    return found


def _audit(job: Job, action: str, sentence: str, *, before: str = "", after: str = "") -> None:
    disk = job.disk
    if disk is None or disk.audit.filter(job=job, action=action).exists():
        return
    audit.record(
        user=job.requested_by,
        action=action,
        sentence=sentence,
        disk=disk,
        job=job,
        before={"path": readable(before)} if before else {},
        after={"path": readable(after)} if after else {},
    )
