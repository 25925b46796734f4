"""The trash: an index of what lies in each root's `.vdtrash`, restored or emptied by jobs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from disks.engine.errors import ImageError
from disks.engine.units import size_text
from disks.models import Disk, Job, TrashedJob
from disks.operations.paths import Roots
from disks.operations.progress import Progress
from disks.operations.trash import bereft, emptying, manifests, restoring
from disks.operations.trash.manifests import Manifest
from disks.services import declarations, inspection, jobs, roots
from disks.services.errors import Refusal
from disks.services.stored_json import readable, restored
from disks.services.trash_index import sync
from disks.services.work import JobContext

State = TrashedJob.State


def sync_for(host_paths: Iterable[str], job: Job | None = None) -> None:
    """The same for the roots that hold these paths."""
    for root in declarations.roots_of(host_paths):
        sync(root)


def request_restore(
    item: TrashedJob,
    *,
    user: Any,
    idempotency_key: str,
    declared_offline: bool = False,
    address: str = "",
) -> Job:
    """Ask for everything back that one job put away; the caller enqueues.

    Raises what stands in the way (E_CHANGED: the result was written since;
    E_RESTORE_CHILDREN: the catalog knows disks that were made on it since), E_NOT_OFFLINE.
    The job looks for such disks again, in all headers below all roots and under lock.
    """
    manifest = _manifest(item)
    scope = roots.operation_roots()
    try:
        refusal = _refusal(scope, manifest)
    finally:
        scope.close()
    if refusal is not None:
        raise refusal
    _require_no_hidden_children(manifest)
    paths = sorted({entry.original for entry in manifest.entries} | set(manifest.relinked))
    declarations.require(paths, declared_offline=declared_offline)
    return jobs.request(
        kind=Job.Kind.RESTORE,
        parameters={"trash": item.pk, "folder": manifest.folder},
        user=user,
        root=item.root,
        disk=item.job.disk if item.job else None,
        summary=f"Restore what job {item.job_id or manifest.job} replaced",
        exclusive=paths,
        shared=[_folder(item)],  # what emptying locks: the one waits for the other
        declared_offline=declared_offline,
        said=Job.Said.OFFLINE if declared_offline else "",
        idempotency_key=idempotency_key,
        address=address,
    )


def run_restore(
    parameters: dict[str, Any], progress: Progress, context: JobContext
) -> dict[str, Any]:
    """The work; asked again after an interruption it goes on."""
    scope = context.roots()
    try:
        try:
            manifests.read(scope, parameters["folder"])
        except ImageError as error:
            if error.code == "E_NOT_FOUND" and context.job.attempts > 1:
                # The attempt before this one had come to its end.
                return {"restored": [], "sentence": "Everything is back at its place."}
            raise
        result = restoring.restore(
            parameters["folder"],
            scope,
            offline=context.job.declared_offline,
            job=context.name,
            token=context.token,
            progress=progress,
            children_of=declarations.catalog_children,
        )
    finally:
        scope.close()
    count = len(result["restored"])
    one, more = "1 file is back at its place.", f"{count:,} files are back at their places."
    return result | {"sentence": one if count == 1 else more}


def finished_restore(job: Job, result: dict[str, Any]) -> None:
    locks = restored(job.parameters)["locks"]["exclusive"]
    inspection.refresh_paths([*result.get("restored", []), *locks], job=job)
    TrashedJob.objects.filter(pk=job.parameters["trash"], state=State.IN_TRASH).update(
        state=State.RESTORED
    )
    sync_for(locks, job)


def request_empty(
    items: Sequence[TrashedJob], *, user: Any, idempotency_key: str, address: str = ""
) -> Job:
    """Ask for these to be deleted for good; the caller enqueues."""
    if not items:
        raise Refusal("E_NOTHING_CHOSEN", "There is nothing to delete.")
    size = sum(item.size_bytes for item in items)
    folders = [_folder(item) for item in items]
    declarations.require(folders, declared_offline=True)
    what = f"job {items[0].job_id}" if len(items) == 1 else f"{len(items):,} jobs"
    return jobs.request(
        kind=Job.Kind.EMPTY_TRASH,
        parameters={"trash": [item.pk for item in items], "size_bytes": size},
        user=user,
        root=items[0].root,
        summary=f"Delete what {what} left in the trash",
        exclusive=folders,
        idempotency_key=idempotency_key,
        address=address,
    )


def run_empty(
    parameters: dict[str, Any], progress: Progress, context: JobContext
) -> dict[str, Any]:
    """The work: one job's folder after the other; what is gone already is passed over."""
    scope = context.roots()
    freed = done = 0
    failed: list[dict[str, Any]] = []
    total = int(parameters["size_bytes"])
    progress.step("empty", "Deleting")
    try:
        chosen = TrashedJob.objects.filter(pk__in=parameters["trash"], state=State.IN_TRASH)
        for item in chosen.select_related("root"):
            progress.report(done, total, f"deleting {readable(item.folder)}")
            try:
                freed += emptying.empty(_folder(item), scope)
            except ImageError as error:
                if error.code != "E_NOT_FOUND":
                    failed.append({"folder": item.folder, **error.as_dict()})
                    progress.log(error.message)
                    continue
            TrashedJob.objects.filter(pk=item.pk).update(state=State.EMPTIED)
            done += item.size_bytes
    finally:
        scope.close()
    if failed and not freed:
        raise ImageError(failed[0]["code"], failed[0]["message"], file=failed[0]["file"])
    return {
        "freed_bytes": freed,
        "failed": failed,
        "sentence": f"{size_text(freed)} free again."
        + (f" {len(failed):,} folders could not be emptied." if failed else ""),
    }


def _folder(item: TrashedJob) -> str:
    return os.path.join(item.root.path, item.folder)


def _refusal(scope: Roots, manifest: Manifest) -> ImageError | None:
    """From the trash as it is and the catalog; other headers are left to the job."""
    refusal = restoring.restore_refusal(scope, manifest)
    if refusal is not None:
        return refusal
    known = declarations.catalog_children
    return bereft.look(scope, manifest, children_of=known, scan=False).refusal


def _require_no_hidden_children(manifest: Manifest) -> None:
    """Refusal E_ROOT_OFFLINE while a disk made on the result since cannot be looked at."""
    if not manifest.replacement:
        return
    replaced = {entry.identity for entry in manifest.entries if entry.role == "replaced"}
    root, relative = roots.locate(manifest.replacement)
    result = Disk.objects.filter(root=root, relative_path=relative).exclude(identity__in=replaced)
    declarations.require_no_hidden_children(result, else_do="leave the job's result as it is")


def _manifest(item: TrashedJob) -> Manifest:
    if item.state != State.IN_TRASH:
        raise Refusal(
            "E_NOT_IN_TRASH",
            f"This is not in the trash any more: it is “{item.get_state_display()}”.",
        )
    scope = roots.operation_roots()
    try:
        manifest = manifests.read(scope, _folder(item))
        return manifest if manifest.is_primary else manifests.read(scope, manifest.primary)
    finally:
        scope.close()
