"""Checkpoint piles: the dry run of a folder, and its job.

The catalog says how the disks hang together (`pile_catalog`); what their merge comes to is
read from the files as they are, and the job reads everything again under lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from django.db.utils import DatabaseError

from disks.engine.errors import ImageError
from disks.engine.units import size_text
from disks.models import Disk, Job, StorageRoot
from disks.operations import concerned, fingerprints, merge_plan
from disks.operations.forest import Run
from disks.operations.merge_plan import MergePlan
from disks.operations.pile import Pile, PilePlan, Step, applying, planning, windows_script
from disks.operations.progress import Progress
from disks.operations.stranded import TrashSeen
from disks.services import declarations, jobs, merging, roots
from disks.services.errors import Refusal
from disks.services.pile_catalog import survey
from disks.services.stored_json import readable
from disks.services.work import JobContext, said_untouched

PLANNED_AT_ONCE = 8  # each is read from the storage while a page is made


# ------------------------------------------------------------------------------ the dry run


@dataclass
class FolderPlan:
    """The dry run of a folder's piles.

    plan    of the piles that can be merged now; of all where none can, with the refusal
    piles   all that were looked at
    others  runs that were not looked at this time
    """

    plan: PilePlan
    piles: list[Pile]
    disks: dict[str, Disk]
    others: list[Run]

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must still hold when the job is asked for: the files that are merged."""
        return {
            one.run.leaf: {path: seen.as_dict() for path, seen in one.step.levels}
            for one in self.plan.piles
        }


def plan(
    root: StorageRoot,
    folder: str,
    *,
    leaf: str = "",
    keep_name: str = merge_plan.PARENT,
    in_place: bool = True,
) -> FolderPlan:
    """What merging the piles of a folder comes to; leaf: only the pile that ends there.

    in_place: the data moves into each lowest disk; False: by copy

    Raises ImageError E_NO_PILE. What stands in the way of one pile is in its `refused`; the
    others can be merged all the same.
    """
    found, disks = survey(root, folder)
    runs = found.forest.runs
    chosen = planning.chosen(runs, [leaf] if leaf else [])[:PLANNED_AT_ONCE]
    with closing(roots.operation_roots()) as scope:
        seen = TrashSeen(scope)
        piles = [
            planning.judged(
                found.forest, run, _dry_run(disks[run.leaf], run, keep_name, in_place, seen), scope
            )
            for run in chosen
        ]
        ready = [one for one in piles if one.refused is None] or piles
        short = planning.shortage(ready, scope)
        planned = PilePlan(found, ready, keep_name, short, in_place)
    return FolderPlan(planned, piles, disks, [run for run in runs if run not in chosen])


def _dry_run(leaf: Disk, run: Run, keep_name: str, in_place: bool, seen: TrashSeen) -> MergePlan:
    try:
        return merging.plan(
            leaf,
            into_parent=True,
            base=run.base,
            keep_name=keep_name,
            in_place=in_place,
            trash_seen=seen,
        )
    except Refusal as refusal:
        error = ImageError(refusal.code, refusal.message, advice=refusal.advice)
    except ImageError as error_found:
        error = error_found
    request = merge_plan.Request(run.leaf, run.base, None, None, keep_name, in_place)
    return MergePlan(request=request, output=run.base, refused=error)


def script(planned: FolderPlan) -> str:
    """The same merges as PowerShell for the Hyper-V host; E_NO_PILE where there are none."""
    found = planned.plan
    with closing(roots.operation_roots()) as scope:
        text, steps = windows_script.script(planned.piles, found.forest, scope, found.survey.folder)
    if steps:
        return text
    raise found.refused or ImageError(
        "E_NO_PILE", "Nothing here can be merged on the Hyper-V host.", file=found.survey.folder
    )


# ------------------------------------------------------------------------------ the job


def request(
    root: StorageRoot,
    folder: str,
    *,
    user: Any,
    idempotency_key: str,
    leaf: str = "",
    keep_name: str = merge_plan.PARENT,
    in_place: bool = True,
    declared_offline: bool = False,
    unrelated: Sequence[str] = (),
    seen: dict[str, Any] | None = None,
    address: str = "",
) -> Job:
    """Ask for the merge of the piles that can be merged, in one job; the caller enqueues it.

    A single pile is a merge like any other. seen: the fingerprint that was shown, E_CHANGED
    if it is another one by now. unrelated: what cannot be read and is declared to build on
    none of the merged disks. Raises what the plan refuses, E_UNREAD_DISKS, and Refusal
    E_NOT_OFFLINE, E_READ_ONLY, E_ROOT_OFFLINE.
    """
    planned = plan(root, folder, leaf=leaf, keep_name=keep_name, in_place=in_place)
    steps = planned.plan.steps()
    if not steps:
        raise Refusal("E_NO_PILE", "There is no pile to merge in this folder any more.")
    if seen is not None and planned.fingerprint != seen:
        raise fingerprints.changed(planned.plan.survey.folder)
    first = planned.disks[steps[0].leaf]
    if len(steps) == 1:
        return merging.request(
            first,
            user=user,
            idempotency_key=idempotency_key,
            declared_offline=declared_offline,
            unrelated=unrelated,
            into_parent=True,
            base=steps[0].base,
            keep_name=keep_name,
            in_place=in_place,
            seen=planned.plan.piles[0].merge.fingerprint,
            address=address,
        )
    merges = [one.merge for one in planned.plan.piles]
    exclusive = {path for one in merges for path in one.exclusive}
    declarations.require(exclusive, declared_offline=declared_offline)
    for one in merges:
        concerned.require_unrelated(one, unrelated)
    count = sum(len(step.levels) for step in steps)
    return jobs.request(
        kind=Job.Kind.PILE,
        parameters={
            "steps": [step.as_dict() for step in steps],
            "in_place": in_place,
            "unrelated": list(unrelated),
        },
        user=user,
        root=root,
        disk=first,
        summary=f"Merge {len(steps):,} checkpoint piles of {count:,} disks"
        + (" in place" if in_place else "")
        + (f" in {readable(folder)}" if folder else ""),
        exclusive=sorted(exclusive),
        shared=sorted({path for one in merges for path in one.shared} - exclusive),
        declared_offline=declared_offline,
        idempotency_key=idempotency_key,
        address=address,
    )


def run_pile(parameters: dict[str, Any], progress: Progress, context: JobContext) -> dict[str, Any]:
    """One pile after the other; done again after an interruption, it goes on where it was."""
    steps = [Step.from_dict(row) for row in parameters["steps"]]

    def done(row: dict[str, Any]) -> None:
        # The next pile is planned by what the catalog knows of children; and after a stop
        # what is merged must be known.
        try:
            merging.note(context.job, row)
        except DatabaseError as error:
            progress.log(f"The catalog could not be brought up to date yet: {error}")

    with (
        closing(context.roots()) as scope,
        declarations.unread_remembered(),
        merging.lost_before_it_moved(context, [dict(step.levels) for step in steps]),
    ):
        rows = applying.apply(
            steps,
            scope,
            offline=context.job.declared_offline,
            unrelated=parameters.get("unrelated", ()),
            job=context.name,
            token=context.token,
            progress=progress,
            children_of=declarations.catalog_children,
            done=done,
            untouched=said_untouched(parameters),
        )
    return applying.outcome(rows) | {"rows": [_told(row) for row in rows]}


def _told(row: dict[str, Any]) -> dict[str, Any]:
    """What was done with one pile, for the job's page."""
    before, after = map(size_text, (row["file_size_before_bytes"], row["file_size_after_bytes"]))
    return {
        "path": row["output"],
        "ok": True,
        "sentence": f"{len(row['levels']):,} disks became this one: {before} → {after}.",
    }


def finished_pile(job: Job, result: dict[str, Any]) -> None:
    """The catalog after all merges; may be repeated."""
    for row in result.get("merges", ()):
        merging.note(job, row)
