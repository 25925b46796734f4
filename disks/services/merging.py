"""Merge: the dry run for the form, the job, and the catalog afterwards."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from django.db import transaction

from disks.engine.errors import ImageError
from disks.engine.files import FileIdentity
from disks.engine.images import DiskType
from disks.models import Disk, Job
from disks.operations import concerned, fingerprints, merge, merge_again, merge_plan, steps
from disks.operations.fingerprints import Fingerprint
from disks.operations.journal import Sidecar
from disks.operations.merge_in_place import Work
from disks.operations.merge_plan import MergePlan
from disks.operations.paths import Roots
from disks.operations.progress import Progress
from disks.operations.stranded import TrashSeen
from disks.services import (
    chains,
    declarations,
    inspection,
    jobs,
    roots,
    sidecars,
    taken_back,
    trash,
)
from disks.services.stored_json import readable, restored
from disks.services.work import BEGUN_AS, ONLY_TOUCHED, JobContext, Recovery, said_untouched


def plan(
    leaf: Disk,
    *,
    into_parent: bool = False,
    to: str | None = None,
    base: str | None = None,
    keep_name: str = merge_plan.PARENT,
    in_place: bool = True,
    disk_type: DiskType | str | None = None,
    trash_seen: TrashSeen | None = None,
) -> MergePlan:
    """The dry run, from the files as they are; other children as the catalog knows them.

    in_place: into the parent only: what the child holds moves there; False: by copy
    trash_seen: as merge.plan() has it

    Raises Refusal where the chain is broken or a child lies in an offline root. What else
    stands in the way is in the plan's `refused`. The job looks for other children again,
    in all headers below all roots and under lock.
    """
    declarations.require_chain(leaf)
    if into_parent:
        declarations.require_no_hidden_children(chains.chain_of(leaf)[:-1])
    scope = roots.operation_roots()
    try:
        planned = merge.plan(
            leaf.path,
            scope,
            into_parent=into_parent,
            to=to,
            base=base,
            keep_name=keep_name,
            in_place=in_place and into_parent,
            disk_type=disk_type,
            children_of=declarations.catalog_children,
            suspects=declarations.unread_files() if into_parent else (),
            scan=False,
            trash_seen=trash_seen,
        )
    finally:
        scope.close()
    return planned


def request(
    leaf: Disk,
    *,
    user: Any,
    idempotency_key: str,
    declared_offline: bool = False,
    unrelated: Sequence[str] = (),
    into_parent: bool = False,
    to: str | None = None,
    base: str | None = None,
    keep_name: str = merge_plan.PARENT,
    in_place: bool = True,
    disk_type: DiskType | str | None = None,
    seen: dict[str, Any] | None = None,
    address: str = "",
) -> Job:
    """Ask for the merge as it is planned now; the caller enqueues the job.

    seen: the fingerprint of the plan that was shown; E_CHANGED if it is another one by now.
    unrelated: what cannot be read and is declared to build on none of the merged disks.
    Raises what the plan refuses, E_UNREAD_DISKS, and Refusal E_NOT_OFFLINE, E_READ_ONLY,
    E_ROOT_OFFLINE.
    """
    options: dict[str, Any] = {
        "into_parent": into_parent,
        "to": to,
        "base": base,
        "keep_name": keep_name,
        "in_place": in_place and into_parent,
        "disk_type": str(disk_type) if disk_type else None,
    }
    planned = plan(leaf, **options)
    if planned.refused is not None:
        raise planned.refused
    if seen is not None and planned.as_dict()["fingerprint"] != seen:
        raise fingerprints.changed(leaf.path)
    declarations.require(planned.exclusive, declared_offline=declared_offline or not into_parent)
    concerned.require_unrelated(planned, unrelated)
    return jobs.request(
        kind=Job.Kind.MERGE,
        parameters=options
        | {
            "leaf": leaf.path,
            "levels": [level.path for level in planned.levels],
            "output": planned.output,
            "fingerprint": [*planned.fingerprint.items()],
            "unrelated": list(unrelated),
        },
        user=user,
        disk=leaf,
        root=leaf.root,
        summary=_summary(planned),
        exclusive=list(planned.exclusive),
        shared=list(planned.shared),
        declared_offline=declared_offline,
        idempotency_key=idempotency_key,
        address=address,
    )


def go_on_with(
    begun: Sidecar,
    *,
    user: Any = None,
    idempotency_key: str = "",
    declared_offline: bool = False,
    untouched: FileIdentity | None = None,
    address: str = "",
) -> Job:
    """The job that goes on with a merge in place which no job of ours has begun; the same one
    however often it is asked for. The caller hands it over.

    user: who asks for it; None: the console by itself. untouched: base as it was when they said
    that nobody has written to it.
    It is the usual one, under the name that the merge has in the files. Data has moved, so it
    can be paused and not cancelled. Raises E_SIDECAR.
    """
    work = Work.from_sidecar(begun)
    levels = [*work.levels, work.base]
    seen = {entry.original: entry.file for entry in work.manifest.entries}
    seen[work.base] = _as_planned(work)
    with transaction.atomic():
        job = jobs.request(
            kind=Job.Kind.MERGE,
            parameters={
                "into_parent": True,
                "to": None,
                "base": work.base,
                "keep_name": merge_plan.PARENT if work.surviving == work.base else merge_plan.CHILD,
                "in_place": True,
                "disk_type": None,
                "leaf": work.leaf,
                "levels": levels,
                "output": work.surviving,
                "fingerprint": [
                    (path, Fingerprint(file, "").as_dict()) for path, file in seen.items()
                ],
                "unrelated": [],
                BEGUN_AS: begun.job,
            }
            | ({ONLY_TOUCHED: untouched.as_dict()} if untouched else {}),
            user=user,
            disk=_catalogued(work.leaf),
            root=roots.locate(work.base)[0],
            summary=_into_parent([os.path.basename(path) for path in levels], in_place=True),
            exclusive=[*levels, *work.relink],
            shared=[work.base_parent] if work.base_parent else [],
            declared_offline=declared_offline,
            # A token is raised by every attempt: a job that ended is no reason for none.
            idempotency_key=idempotency_key or f"{begun.job} {work.token} {work.base}",
            address=address,
        )
        Job.objects.filter(pk=job.pk, started_at=None).update(cancellable=False)
    return job


def _as_planned(work: Work) -> FileIdentity:
    """What the record of a merge tells of base as it was; a new plan never fits to that."""
    before = int(work.result.get("file_size_before_bytes", 0)) - work.manifest.size_bytes
    return FileIdentity(0, work.inodes[-1], before, 0, 0)


def _catalogued(path: str) -> Disk | None:
    root, relative = roots.locate(path)
    return Disk.objects.filter(root=root, relative_path=relative, missing_since=None).first()


def _summary(planned: MergePlan) -> str:
    names = [os.path.basename(level.path) for level in planned.levels]
    if planned.request.into_parent:
        return _into_parent(names, in_place=planned.request.in_place)
    names = [readable(name) for name in names]
    target = readable(os.path.basename(planned.output))
    what = names[0] if len(names) == 1 else f"{len(names)} disks from {names[0]}"
    return f"Merge {what} to {target}"


def _into_parent(names: Sequence[str], *, in_place: bool) -> str:
    *above, base = map(readable, names)
    what = above[0] if len(above) == 1 else f"{len(above)} disks"
    return f"Merge {what}{' in place' if in_place else ''} into {base}"


def run_merge(
    parameters: dict[str, Any], progress: Progress, context: JobContext
) -> dict[str, Any]:
    """The work: plan again, compare with what was shown, carry out.

    In place, what an earlier attempt of this job has begun is gone on with instead.
    """
    with closing(context.roots()) as scope, declarations.unread_remembered():
        result = _begun_before(parameters, scope, progress, context)
        if result is not None:
            return _told(result)
        planned = merge.plan(
            parameters["leaf"],
            scope,
            into_parent=parameters["into_parent"],
            to=parameters["to"],
            base=parameters["base"],
            keep_name=parameters["keep_name"],
            in_place=_in_place(parameters),
            disk_type=parameters["disk_type"],
            children_of=declarations.catalog_children,
            scan=False,
        )
        with lost_before_it_moved(context, [_levels(parameters)]):
            declarations.require_as_shown(planned, parameters["fingerprint"])
        result = merge.apply(
            planned,
            scope,
            offline=context.job.declared_offline,
            unrelated=parameters.get("unrelated", ()),
            job=context.name,
            token=context.token,
            progress=progress,
            children_of=declarations.catalog_children,
        )
    return _told(result) | {
        "changed": [*planned.exclusive, planned.output],
        "put_away": [path for path in planned.trash if path != planned.output],
        "read": list(planned.shared),
    }


@contextlib.contextmanager
def lost_before_it_moved(
    context: JobContext, merges: Sequence[Mapping[str, Fingerprint]]
) -> Iterator[None]:
    """E_CHANGED says so where it is the job itself that has changed the files of its plan.

    Its worker stopped while it changed identities, and recovery has put them back: that is
    another time in the files, too.

    merges: the disks of each, as they were planned with
    """
    try:
        yield
    except ImageError as error:
        concerned = next((levels for levels in merges if error.file in levels), None)
        ours = concerned is not None and taken_back.is_all_that_changed(context, concerned)
        if error.code != "E_CHANGED" or not ours:
            raise
        raise ImageError(
            "E_CHANGED",
            "Its worker stopped before anything was moved. Taking back what it had begun changed "
            "the files, too, so the plan does not fit to them any more. If nobody else has written "
            "to them meanwhile, which cannot be told, every disk reads as it did.",
            advice="Open the form of this disk again, and start the merge anew.",
            file=error.file,
        ) from error


def _in_place(parameters: dict[str, Any]) -> bool:
    """Jobs that were asked for before there was a choice copy."""
    return bool(parameters.get("in_place", False))


def _begun_before(
    parameters: dict[str, Any], scope: Roots, progress: Progress, context: JobContext
) -> dict[str, Any] | None:
    """The document of a merge in place that an earlier attempt has begun; None without one.

    Raises Stopped where it cannot go on now.
    """
    if not _in_place(parameters):
        return None
    base = parameters["levels"][-1]
    job, token = context.name, context.token
    untouched = said_untouched(parameters)
    done = merge_again.go_on(
        base, scope, job=job, token=token, progress=progress, untouched=untouched
    )
    return done if done is not None else _finished_before(parameters, scope)


def _levels(parameters: dict[str, Any]) -> dict[str, Fingerprint]:
    """The disks that are merged, leaf first, as they were shown."""
    shown = dict(parameters["fingerprint"])
    return {path: Fingerprint.from_dict(shown[path]) for path in parameters["levels"]}


def _finished_before(parameters: dict[str, Any], scope: Roots) -> dict[str, Any] | None:
    paths, output = parameters["levels"], parameters["output"]
    gone = paths[0] if output == paths[-1] else paths[-1]
    levels = [(path, seen.file) for path, seen in _levels(parameters).items()]
    return merge_again.finished(output, gone, levels, scope, in_place=True)


def recover_merge(job: Job, context: JobContext) -> Recovery:
    """What the records say; in place, where there is none any more, what the merge put away says.

    Its worker may have died when all was done.
    """
    recovery = sidecars.recover_by_sidecars(job, context)
    parameters = restored(job.parameters)
    if not _in_place(parameters) or recovery.action not in ("nothing", "finished"):
        return recovery
    with closing(context.roots()) as scope:
        done = _finished_before(parameters, scope)
    return Recovery("nothing") if done is None else Recovery("finished", result=_told(done))


def _told(result: dict[str, Any]) -> dict[str, Any]:
    """The document with a sentence, where there is more to say than that it is done."""
    if result.get("was_done"):
        return result | {"sentence": "Merged: recovery had finished it meanwhile."}
    if not result.get(steps.TO_REPAIR):
        return result
    return result | {"sentence": f"Merged{steps.and_to_repair(result)}"}


def _became(parameters: dict[str, Any]) -> str:
    """The verdict on a merge that is done: which disk has it all."""
    levels, output = parameters["levels"], parameters["output"]
    name, count = readable(os.path.basename(output)), len(levels)
    if output in levels:
        return f"{count:,} disks became one: {name}."
    return f"{name} holds what {count:,} disks hold together; they are as they were."


def note(job: Job, merged: dict[str, Any]) -> None:
    """The catalog after one merge into a parent, from the operation's document; repeatable."""
    levels, output = merged["levels"], merged["output"]
    # In place, the merged disk reads as its children know it; by copy it may be taken back.
    as_known = [output] if merged.get("in_place") else []
    inspection.refresh_paths(
        [*levels, output],
        rewritten=[*merged["relinked"], *as_known],
        put_away=[path for path in levels if path != output],
        job=job,
    )
    trash.sync_for(levels, job)


def finished_merge(job: Job, result: dict[str, Any]) -> None:
    """The catalog after a merge, also after one that recovery finished (result is bare then)."""
    result.setdefault("sentence", _became(restored(job.parameters)))
    if result.get("in_place"):
        note(job, result)
        return
    locks = restored(job.parameters).get("locks", {})
    changed = result.get("changed") or locks.get("exclusive", [])
    inspection.refresh_paths(
        [*changed, *([result["output"]] if result.get("output") else [])],
        rewritten=result.get("relinked", []),
        put_away=result.get("put_away", []),
        job=job,
    )
    trash.sync_for(changed, job)
