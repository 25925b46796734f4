"""Update parent path: candidates, plan, apply, undo; for one child, or a whole repair plan."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Case, Q, When
from django.utils import timezone

from disks.engine.errors import ImageError
from disks.models import Disk, Job, LinkUndo, ParentLink
from disks.operations import candidates, fingerprints, paths, relink
from disks.operations.candidates import Candidate
from disks.operations.progress import Progress
from disks.operations.relink import LinkPlan
from disks.services import (
    audit,
    causes,
    chains,
    declarations,
    evidence,
    inspection,
    jobs,
    linking,
    roots,
    sidecars,
)
from disks.services.access import Role, allows
from disks.services.chains import JOINING
from disks.services.errors import Refusal
from disks.services.stored_json import readable, restored
from disks.services.work import JobContext

Status = ParentLink.Status
_OTHERS_OFFERED = 40
_REMEMBERED_AT_ONCE = 50  # one commit for so many, and no other writer waits for long
_ROW_NUMBER = re.compile(r"[0-9]{1,18}")  # what a database takes for a number of a row


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

    Raises Refusal E_OUTSIDE_ROOTS or E_NOT_FOUND; nothing outside the roots is asked about.
    """
    scope = roots.operation_roots()
    try:
        found = [text] if text.startswith("/") else scope.from_windows(text)
        there = [path for path in found if scope.holds(path) and scope.exists(path)]
        if there:
            return scope.actual(there[0])
        if not found or not any(scope.holds(path) for path in found):
            raise Refusal(
                "E_OUTSIDE_ROOTS",
                "This path is not below a storage root; the console looks only into its roots.",
                "An administrator can add a root, or tell a root how Windows sees it.",
            )
        raise Refusal("E_NOT_FOUND", "There is no such file below the storage root.")
    except ImageError as error:
        raise Refusal(error.code, error.message) from error
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
        return {"links": [_apply(planned, parameters["fingerprint"], scope, progress, context)]}
    finally:
        scope.close()


def run_undo(parameters: dict[str, Any], progress: Progress, context: JobContext) -> dict[str, Any]:
    """The work of one undo."""
    scope = context.roots()
    try:
        planned = relink.plan_undo(parameters["child"], scope)
        return {"links": [_apply(planned, parameters["fingerprint"], scope, progress, context)]}
    finally:
        scope.close()


def _apply(
    planned: LinkPlan,
    fingerprint: str | None,
    scope: paths.Roots,
    progress: Progress,
    context: JobContext,
) -> dict[str, Any]:
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


# -------------------------------------------------------------------------- many children


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
    groups = []
    for key, members in grouped.items():
        rows = [_repair_row(link) for link in members]
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


def _repair_row(link: ParentLink) -> RepairRow:
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
        row.certain = same_size and not later
        if later:
            row.reason += ", which is after the child was made"
    return row


def broken_count(cause: str = "") -> int:
    """How many links repair_plan() has, of one cause or of all."""
    links = ParentLink.objects.exclude(status__in=JOINING).filter(child__missing_since=None)
    return links.filter(cause=cause).count() if cause else links.count()


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
    rows = [_repair_row(link) for link in links if link.suggested_id == wanted[link.child_id]]
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
        return _apply(planned, None, scope, quiet, context)

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
        return _apply(planned, None, scope, quiet, context)

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
            finished_update(context.job, {"links": links, "sentence": "stopped"})
    failed = [row for row in report if not row["ok"]]
    sentence = f"{len(report) - len(failed):,} of {len(rows):,} parent paths {done_word}"
    verb = "was" if len(failed) == 1 else "were"
    sentence += f"; {len(failed):,} {verb} not, see the list." if failed else "."
    return {"links": links, "rows": report, "failed": len(failed), "sentence": sentence}
