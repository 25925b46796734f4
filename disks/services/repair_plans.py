"""Repair plans: the broken parent links of many children by cause, rewritten and taken back."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Case, When

from disks.engine.errors import ImageError
from disks.models import Disk, Job, LinkUndo, ParentLink
from disks.operations import paths, relink
from disks.operations.progress import Progress
from disks.services import (
    causes,
    declarations,
    jobs,
    parent_updates,
    roots,
    sidecars,
    trash_index,
)
from disks.services.chains import JOINING
from disks.services.errors import Refusal
from disks.services.stored_json import readable
from disks.services.work import JobContext

_ROW_NUMBER = re.compile(r"[0-9]{1,18}")  # what a database takes for a number of a row


@dataclass
class RepairRow:
    """One broken child: what it names, the proposed parent, why, and how sure that is.

    why: of a row without a proposal, what is missing.
    """

    child: Disk
    names: str
    parent: Disk | None
    reason: str = ""
    certain: bool = False
    why: str = ""

    @property
    def value(self) -> str:
        """What a checkbox carries: child and parent, to be checked again when it comes back."""
        return f"{self.child.pk}:{self.parent.pk}" if self.parent else ""


@dataclass
class RepairGroup:
    """Children broken by one cause. found: the one disk that mends them all, if there is one."""

    cause: str
    sentence: str
    found: Disk | None = None
    matched: list[RepairRow] = field(default_factory=list)
    unmatched: list[RepairRow] = field(default_factory=list)


def repair_plan(
    cause: str = "", root: int | None = None, most: int | None = None
) -> list[RepairGroup]:
    """The broken links by cause, largest group first; a constant number of queries.

    cause, root: only this one. most: not more links than that; those for which a parent is
    proposed come first.
    """
    links = (
        ParentLink.objects.exclude(status__in=JOINING)
        .filter(child__missing_since=None)
        .select_related("child__root", "suggested__root")
        .defer("trace", "child__findings", "suggested__findings")
        .order_by("cause", "child__root__name", "child__relative_path")
    )
    if cause:
        links = links.filter(cause=cause)
    if root:
        links = links.filter(child__root=root)
    if most is not None:
        proposed = Case(When(suggested=None, then=1), default=0)
        links = links.order_by(proposed, *links.query.order_by)[:most]
    grouped: dict[str, list[ParentLink]] = defaultdict(list)
    for link in links:
        grouped[link.cause or causes.cause_of(link.status, link.named_identity)].append(link)
    in_trash = _in_trash(link.named_identity for members in grouped.values() for link in members)
    groups = []
    for key, members in grouped.items():
        rows = [_repair_row(link, in_trash) for link in members]
        found = {row.parent.pk: row.parent for row in rows if row.parent is not None}
        groups.append(
            RepairGroup(
                cause=key,
                sentence=causes.sentence(key, len(members), members[0].named_path),
                found=next(iter(found.values())) if len(found) == 1 else None,
                matched=[row for row in rows if row.parent is not None],
                unmatched=[row for row in rows if row.parent is None],
            )
        )
    return sorted(groups, key=lambda group: -(len(group.matched) + len(group.unmatched)))


def _in_trash(identities: Iterable[str]) -> dict[str, int]:
    """Of disks with these identities that jobs put away and that can be restored: that job."""
    wanted = set(identities) - {""}
    gone = Disk.objects.filter(health=Disk.Health.MISSING, put_away_by__isnull=False)
    rows = gone.values_list("identity", "put_away_by")
    found = [(identity, job) for identity, job in rows if identity in wanted]
    restorable = trash_index.restorable_jobs(job for _, job in found)
    return {identity: job for identity, job in found if job in restorable}


def _repair_row(link: ParentLink, in_trash: Mapping[str, int]) -> RepairRow:
    """in_trash: jobs that put disks away, by identity."""
    row = RepairRow(link.child, link.named_path, None)
    parent = link.suggested
    if link.child.log_waits:
        row.why = declarations.LOG_WAITS
    elif link.child.root.read_only:
        row.why = f"The storage root {link.child.root.name} is read-only."
    elif parent is None:
        row.why = link.reason
    elif parent.health in (Disk.Health.DAMAGED, Disk.Health.UNREADABLE, Disk.Health.MISSING):
        row.why = f"The disk with the right identity is of no use: {parent.sentence}"
    else:
        row.parent = parent
        reasons = ["the identity that the child names"]
        same_size = parent.virtual_size_bytes == link.child.virtual_size_bytes
        if same_size:
            reasons.append("the same size")
        if os.path.basename(link.named_path.replace("\\", "/")).casefold() == (
            parent.name.casefold()
        ):
            reasons.append("the same name")
        if parent.root_id == link.child.root_id:
            reasons.append("in the same root")
        if parent.modified_at is not None:
            reasons.append(f"last written {parent.modified_at:%Y-%m-%d %H:%M} UTC")
        row.reason = ", ".join(reasons)
        later = (
            link.child.image_created_at is not None
            and parent.modified_at is not None
            and parent.modified_at > link.child.image_created_at
        )
        put_away_by = in_trash.get(link.named_identity)
        row.certain = same_size and not later and put_away_by is None
        if later:
            row.reason += ", which is after the child was made"
        if put_away_by is not None:
            row.reason += f"; the disk itself may be in the trash, where job {put_away_by} put it"
    return row


def broken_count(cause: str = "") -> int:
    """How many links repair_plan() has, of one cause or of all."""
    links = ParentLink.objects.exclude(status__in=JOINING).filter(child__missing_since=None)
    return links.filter(cause=cause).count() if cause else links.count()


def above_count(cause: str = "") -> int:
    """How many disks more are broken because they stand on those that repair_plan() has."""
    above = ParentLink.objects.filter(status__in=JOINING, child__missing_since=None)
    if cause:
        return above.filter(cause=cause).count()
    direct = ParentLink.objects.exclude(status__in=JOINING).filter(child__missing_since=None)
    return above.filter(cause__in=direct.filter(cause__gt="").values("cause")).count()


def chosen_rows(values: Iterable[str]) -> list[RepairRow]:
    """The rows of a sent form, looked up anew; what is mended meanwhile is left out."""
    wanted = {}
    for value in values:
        child, _, parent = value.partition(":")
        if _ROW_NUMBER.fullmatch(child) and _ROW_NUMBER.fullmatch(parent):
            wanted[int(child)] = int(parent)
    links = (
        ParentLink.objects.filter(child__in=wanted, suggested__isnull=False)
        .exclude(status__in=JOINING)
        .select_related("child__root", "suggested__root")
        .order_by("child__root__name", "child__relative_path")
    )
    rows = [_repair_row(link, {}) for link in links if link.suggested_id == wanted[link.child_id]]
    return [row for row in rows if row.parent is not None]


def request_repair(
    rows: Sequence[RepairRow],
    *,
    user: Any,
    idempotency_key: str,
    declared_offline: bool = False,
    address: str = "",
) -> Job:
    """Ask for all these links to be rewritten, in one job; the caller enqueues it."""
    pairs = [(row.child, row.parent) for row in rows if row.parent is not None]
    if not pairs:
        raise Refusal("E_NOTHING_CHOSEN", "No disk was chosen.", "Choose at least one disk.")
    children = [child.path for child, _ in pairs]
    declarations.require(children, declared_offline=declared_offline)
    count = "one disk" if len(pairs) == 1 else f"{len(pairs):,} disks"
    return jobs.request(
        kind=Job.Kind.REPAIR_PLAN,
        parameters={
            "rows": [{"child": child.path, "parent": parent.path} for child, parent in pairs]
        },
        user=user,
        root=pairs[0][0].root,
        disk=pairs[0][0] if len(pairs) == 1 else None,
        summary=f"Repair the parent paths of {count}",
        exclusive=children,
        shared=sorted({parent.path for _, parent in pairs} - set(children)),
        declared_offline=declared_offline,
        idempotency_key=idempotency_key,
        address=address,
    )


def undoable(job: Job) -> list[LinkUndo]:
    """The links that this job wrote and that can still be taken back."""
    return list(
        LinkUndo.objects.filter(job=job, state=LinkUndo.State.AVAILABLE)
        .select_related("disk__root")
        .order_by("disk__root__name", "disk__relative_path")
    )


def request_undo_plan(
    job: Job,
    *,
    user: Any,
    idempotency_key: str,
    declared_offline: bool = False,
    address: str = "",
) -> Job:
    """Ask for every link that a repair wrote to be taken back; the caller enqueues."""
    links = undoable(job)
    if not links:
        raise Refusal(
            "E_NOTHING_TO_UNDO", f"Nothing of what job {job.pk} wrote can be taken back any more."
        )
    children = [link.disk.path for link in links]
    declarations.require(children, declared_offline=declared_offline)
    return jobs.request(
        kind=Job.Kind.UNDO_PLAN,
        parameters={"rows": [{"child": child} for child in children], "undoes": job.pk},
        user=user,
        root=links[0].disk.root,
        summary=f"Undo the {len(links):,} parent path updates of job {job.pk}",
        exclusive=children,
        declared_offline=declared_offline,
        repeats=job,
        idempotency_key=idempotency_key,
        address=address,
    )


def run_repair(
    parameters: dict[str, Any], progress: Progress, context: JobContext
) -> dict[str, Any]:
    """One child after the other; a refusal of one stops none of the others.

    Done again after an interruption, it recognises what is written already.
    """

    def one(row: dict[str, Any], scope: paths.Roots, quiet: Progress) -> dict[str, Any] | None:
        planned = relink.plan(row["child"], row["parent"], scope)
        if planned.leads_here and _is_child_of(row["child"], row["parent"], scope):
            return sidecars.written_link(scope, row["child"], context)
        return parent_updates.apply_as_shown(planned, None, scope, quiet, context)

    return _many(parameters["rows"], one, progress, context, "updated")


def run_undo_plan(
    parameters: dict[str, Any], progress: Progress, context: JobContext
) -> dict[str, Any]:
    """The same, taking each link back."""

    def one(row: dict[str, Any], scope: paths.Roots, quiet: Progress) -> dict[str, Any] | None:
        _require_last_update(row["child"], parameters["undoes"])
        try:
            planned = relink.plan_undo(row["child"], scope)
        except ImageError as error:
            if error.code == "E_NOTHING_TO_UNDO" and context.job.attempts > 1:
                return sidecars.taken_back_link(scope, row["child"])
            raise
        return parent_updates.apply_as_shown(planned, None, scope, quiet, context)

    return _many(parameters["rows"], one, progress, context, "taken back")


def _require_last_update(child: str, repair: int) -> None:
    """E_CHANGED where the disk's last update is no longer the one of this repair."""
    root, relative = roots.locate(child)
    later = (
        LinkUndo.objects.filter(
            disk__root=root, disk__relative_path=relative, state=LinkUndo.State.AVAILABLE
        )
        .exclude(job=repair)
        .first()
    )
    if later is not None:
        raise ImageError(
            "E_CHANGED",
            f"{readable(child)} was updated again by job {later.job_id}; that stays.",
            file=child,
        )


def _is_child_of(child: str, parent: str, scope: paths.Roots) -> bool:
    """True if the child's header leads to exactly this parent already."""
    from disks.engine.formats import open_image
    from disks.engine.resolution import resolve

    with scope.open(child) as file:
        image = open_image(file)
        if image.parent is None:
            return False
        found = resolve(image, child, scope)
        return found.status == "found" and found.path == parent


class _Within(Progress):
    """Progress of one child within a plan: the whole can be stopped between two children."""

    def __init__(self, whole: Progress) -> None:
        self._whole = whole

    def log(self, sentence: str) -> None:
        self._whole.log(sentence)


def _many(
    rows: Sequence[dict[str, Any]],
    one: Callable[[dict[str, Any], paths.Roots, Progress], dict[str, Any] | None],
    progress: Progress,
    context: JobContext,
    done_word: str,
) -> dict[str, Any]:
    scope = context.roots()
    within = _Within(progress)
    links: list[dict[str, Any]] = []
    report: list[dict[str, Any]] = []
    progress.step("links", f"Rewriting {len(rows):,} parent links")
    stopped = True
    try:
        for number, row in enumerate(rows):
            name = readable(os.path.basename(row["child"]))
            progress.report(number, len(rows), f"disk {number + 1:,} of {len(rows):,}: {name}")
            try:
                result = one(row, scope, within)
            except (ImageError, Refusal) as error:
                progress.log(f"{name}: {error.message}")
                report.append({"child": row["child"], "ok": False, **error.as_dict()})
                continue
            if result is not None:
                links.append(result)
            report.append({"child": row["child"], "ok": True, "was_done": result is None})
        progress.report(len(rows), len(rows))
        stopped = False
    finally:
        scope.close()
        if stopped and links:
            # What was written before the stop is in the catalog, and can be undone.
            parent_updates.finished_update(context.job, {"links": links, "sentence": "stopped"})
    failed = [row for row in report if not row["ok"]]
    sentence = f"{len(report) - len(failed):,} of {len(rows):,} parent paths {done_word}"
    verb = "was" if len(failed) == 1 else "were"
    sentence += f"; {len(failed):,} {verb} not, see the list." if failed else "."
    return {"links": links, "rows": report, "failed": len(failed), "sentence": sentence}
