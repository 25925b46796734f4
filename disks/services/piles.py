"""Checkpoint piles: where the catalog sees some, the dry run of a folder, and its job.

The catalog says how the disks hang together; what their merge comes to is read from the
files as they are, and the job reads everything again under lock.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.db.models import Q, QuerySet
from django.db.utils import DatabaseError

from disks.engine.errors import ImageError
from disks.models import Disk, Job, ParentLink, StorageRoot
from disks.models.fields import to_column
from disks.operations import concerned, fingerprints, merge
from disks.operations.forest import Forest, Lost, Member, Run
from disks.operations.managers import NO_CLAIM
from disks.operations.merge import MergePlan
from disks.operations.pile import Pile, PilePlan, Step, applying, planning, windows_script
from disks.operations.progress import Progress
from disks.operations.survey import Survey, is_inside
from disks.services import declarations, jobs, merging, roots
from disks.services.chains import JOINING
from disks.services.errors import Refusal
from disks.services.stored_json import readable
from disks.services.work import JobContext

LEAST_CHECKPOINTS = 3  # fewer are a chain that somebody made on purpose
PLANNED_AT_ONCE = 8  # each is read from the storage while a page is made
_MOST_BASES = 500  # whose chains are looked at for the overview
_AT_ONCE = 500  # numbers in one query
_HEAVY = ("findings", "parent_link__trace", "parent_link__locators", "parent_link__parent_evidence")


@dataclass(frozen=True)
class Forgotten:
    """Differencing disks of one chain in one folder that no manager beside them claims.

    leaf  the uppermost disk of the pile
    """

    root: StorageRoot
    folder: str
    leaf: Disk
    count: int
    allocated_bytes: int
    are_checkpoints: bool


# ------------------------------------------------------------------------------ the catalog


class _Level(NamedTuple):
    """As little of a disk as tells how it hangs together with others, and whose it is."""

    pk: int
    root: int
    relative_path: str
    is_differencing: bool
    child_count: int
    managed_by: str
    allocated_bytes: int
    parent: int | None

    @property
    def place(self) -> tuple[int, str]:
        return self.root, os.path.dirname(self.relative_path)


def forgotten(most: int | None = None) -> tuple[list[Forgotten], int]:
    """Piles of at least three disks without a host, the largest first, and how many there are.

    most: only so many of them, because the overview asks: whole rows are read of these alone.
    """
    found = []
    for run in _runs(_levels()):
        checkpoints = [level for level in run if level.is_differencing]
        if any(level.managed_by and level.managed_by not in NO_CLAIM for level in checkpoints):
            continue
        places = Counter(level.place for level in checkpoints).most_common(1)
        here = [level for level in checkpoints if level.place == places[0][0]] if places else []
        if len(here) >= LEAST_CHECKPOINTS:
            allocated_bytes = sum(level.allocated_bytes for level in here)
            found.append((-allocated_bytes, run[0].pk, here))
    found.sort(key=lambda one: one[:2])
    leaves = Disk.objects.select_related("root").in_bulk([leaf for _, leaf, _ in found[:most]])
    there = StorageRoot.objects.in_bulk([here[0].root for _, _, here in found[:most]])
    piles = [
        Forgotten(
            root=there[here[0].root],
            folder=here[0].place[1],
            leaf=leaves[leaf],
            count=len(here),
            allocated_bytes=-negative,
            are_checkpoints=all(
                level.relative_path.lower().endswith(planning.CHECKPOINT_ENDINGS) for level in here
            ),
        )
        for negative, leaf, here in found[:most]
        if leaf in leaves
    ]
    return piles, len(found)


def _levels() -> dict[int, _Level]:
    """The disks of chains that are deep enough; of a limited number of bases."""
    # Every chain with more disks has one at this position; an index leads to them.
    deep = Disk.objects.filter(
        disk_type="differencing", missing_since=None, chain_position=LEAST_CHECKPOINTS
    ).exclude(root__state__in=declarations.OFFLINE_STATES)
    bases = deep.order_by().values_list("chain_base", flat=True).distinct()[:_MOST_BASES]
    some = [base for base in bases if base is not None]
    rows = Disk.objects.filter(Q(pk__in=some) | Q(chain_base__in=some)).filter(
        missing_since=None, chain_depth__gte=LEAST_CHECKPOINTS
    )
    columns = rows.order_by().values_list(
        "pk", "root_id", "relative_path", "disk_type", "child_count", "managed_by",
        "allocated_bytes", "parent_link__parent", "parent_link__status",
    )  # fmt: skip
    return {
        pk: _Level(
            pk, root, path, kind == "differencing", children, manager, allocated_bytes,
            parent if status in JOINING else None,
        )
        for pk, root, path, kind, children, manager, allocated_bytes, parent, status in columns
    }  # fmt: skip


def _runs(levels: dict[int, _Level]) -> Iterator[list[_Level]]:
    """Disks that follow each other without a branch, leaf first (operations/forest.py).

    Each disk is in one run at most, also where links and numbers of children do not agree: a
    catalog between two scans may know of disks that lead to each other.
    """
    taken: set[int] = set()
    for leaf in levels.values():
        if leaf.child_count == 1:
            continue
        run = [leaf]
        below = levels.get(leaf.parent or 0)
        while below is not None and below.child_count == 1 and below.pk not in taken:
            taken.add(below.pk)
            run.append(below)
            below = levels.get(below.parent or 0)
        yield run


def survey(root: StorageRoot, folder: str) -> tuple[Survey, dict[str, Disk]]:
    """What a folder of a root holds, as of the last scans; the disks by their host paths."""
    inside = list(_rows(Disk.objects.filter(root=root, missing_since=None), folder))
    bases = {disk.chain_base_id or disk.pk for disk in inside if _is_in_a_chain(disk)}
    disks = {disk.path: disk for disk in (*_hanging_on(bases), *inside)}
    place = os.path.join(root.path, folder) if folder else root.path
    sound = {path: disk for path, disk in disks.items() if disk.identity}
    members = _members(sound.values(), lambda disk: is_inside(disk.path, place))
    mute = [disk for disk in inside if not disk.identity]
    no_disks = [disk for disk in mute if disk.own_health == Disk.Health.NOT_A_DISK]
    return (
        Survey(
            place,
            Forest(members),
            [_as_error(disk) for disk in no_disks],
            [_as_error(disk) for disk in mute if disk.own_health != Disk.Health.NOT_A_DISK],
        ),
        disks,
    )


def _rows(disks: QuerySet[Disk], folder: str) -> QuerySet[Disk]:
    """Those in a folder and below, with what a Member needs."""
    if folder:
        disks = disks.filter(relative_path__startswith=to_column(f"{folder}/"))
    return disks.select_related("root", "parent_link__parent__root").defer(*_HEAVY)


def _is_in_a_chain(disk: Disk) -> bool:
    return disk.disk_type == "differencing" or disk.child_count > 0


def _folder(disk: Disk) -> str:
    return os.path.dirname(disk.relative_path)


def _hanging_on(bases: Iterable[int]) -> Iterator[Disk]:
    """These disks and everything that stands on them."""
    numbers = sorted(bases)
    for start in range(0, len(numbers), _AT_ONCE):
        some = numbers[start : start + _AT_ONCE]
        connected = Disk.objects.filter(Q(pk__in=some) | Q(chain_base__in=some))
        yield from _rows(connected.filter(missing_since=None), "")


def _members(disks: Iterable[Disk], inside: Callable[[Disk], bool]) -> list[Member]:
    return [
        Member(
            path=disk.path,
            identity=disk.identity,
            disk_type=disk.disk_type,
            virtual_size_bytes=disk.virtual_size_bytes or 0,
            file_size_bytes=disk.file_size_bytes,
            allocated_bytes=disk.allocated_bytes,
            mtime_ns=disk.mtime_ns or 0,
            inside=inside(disk),
            parent=_parent(disk),
            lost=_lost(disk),
        )
        for disk in disks
    ]


def _parent(disk: Disk) -> str | None:
    link: ParentLink | None = getattr(disk, "parent_link", None)
    joined = link is not None and link.status in JOINING and link.parent is not None
    return link.parent.path if joined and link is not None and link.parent is not None else None


def _lost(disk: Disk) -> Lost | None:
    if disk.disk_type != "differencing" or _parent(disk) is not None:
        return None
    link: ParentLink | None = getattr(disk, "parent_link", None)
    if link is None:
        return Lost("E_PARENT_MISSING", "Its parent was not looked for yet; scan the root.")
    code = disk.health_code if disk.health_code.startswith("E_") else "E_PARENT_MISSING"
    return Lost(code, link.reason)


def _as_error(disk: Disk) -> ImageError:
    return ImageError(disk.health_code or "E_NO_FOOTER", disk.sentence, file=disk.path)


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
    keep_name: str = merge.PARENT,
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
        piles = [
            planning.judged(
                found.forest, run, _dry_run(disks[run.leaf], run, keep_name, in_place), scope
            )
            for run in chosen
        ]
        ready = [one for one in piles if one.refused is None] or piles
        short = planning.shortage(ready, scope)
        planned = PilePlan(found, ready, keep_name, short, in_place)
    return FolderPlan(planned, piles, disks, [run for run in runs if run not in chosen])


def _dry_run(leaf: Disk, run: Run, keep_name: str, in_place: bool) -> MergePlan:
    try:
        return merging.plan(
            leaf, into_parent=True, base=run.base, keep_name=keep_name, in_place=in_place
        )
    except Refusal as refusal:
        error = ImageError(refusal.code, f"{refusal.message} {refusal.advice}".strip())
    except ImageError as error_found:
        error = error_found
    request = merge.Request(run.leaf, run.base, None, None, keep_name, in_place)
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
    keep_name: str = merge.PARENT,
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
        merging.lost_before_it_moved(context),
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
        )
    return applying.outcome(rows) | {"rows": [_told(row) for row in rows]}


def _told(row: dict[str, Any]) -> dict[str, Any]:
    """What was done with one pile, for the job's page."""
    before, after = row["file_size_before_bytes"], row["file_size_after_bytes"]
    return {
        "path": row["output"],
        "ok": True,
        "sentence": f"{len(row['levels']):,} disks became this one: {before:,} → {after:,} bytes.",
    }


def finished_pile(job: Job, result: dict[str, Any]) -> None:
    """The catalog after all merges; may be repeated."""
    for row in result.get("merges", ()):
        merging.note(job, row)
