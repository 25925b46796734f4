"""Telling a differencing disk where its parent is: plan, apply, undo (crash-safety §1).

A plan writes nothing and says what each header field will be. apply() takes the locks,
plans again from what the files hold then, and goes on only if nothing has changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from disks.engine.chain import open_chain
from disks.engine.changes import FieldChange, HeaderRewrite
from disks.engine.errors import ImageError
from disks.engine.files import FileIdentity
from disks.engine.findings import Finding
from disks.engine.formats import open_image
from disks.engine.images import Image
from disks.engine.parent_link import NewParent
from disks.engine.resolution import resolve
from disks.engine.resolution.outcome import Status
from disks.operations import (
    fingerprints,
    guards,
    in_use,
    journal,
    links,
    locks,
    modification_times,
    pairing,
    rewriting,
)
from disks.operations.inspection import link_document, managed_by
from disks.operations.journal import UNDO
from disks.operations.managers import Manager
from disks.operations.paths import Roots
from disks.operations.progress import Progress
from disks.operations.rewriting import records
from disks.operations.windows import shown


@dataclass(frozen=True, slots=True)
class LinkPlan:
    """What an update or an undo will do. Writes nothing by itself.

    parent               host path; "" for an undo, which restores what the header said
    ancestors            the parent and everything above it, host paths
    windows_will_look_at absolute Windows paths that the new link means
    fingerprint          stands for the files as they were and the link to be written
    """

    child: str
    parent: str
    is_undo: bool
    changes: tuple[FieldChange, ...]
    warnings: tuple[Finding, ...]
    windows_will_look_at: tuple[str, ...]
    fingerprint: str
    manager: Manager | None
    ancestors: tuple[str, ...]
    chain_complete: bool
    leads_here: bool
    windows_path: str | None
    ignore_identity: bool
    file: FileIdentity
    new_parent: NewParent | None
    restored: dict[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        """The plan as a document: what `--dry-run --json` shows."""
        return {
            "child": self.child,
            "parent": self.parent or None,
            "undo": self.is_undo,
            "changes": [asdict(change) for change in self.changes],
            "warnings": [warning.as_dict() for warning in self.warnings],
            "windows_will_look_at": list(self.windows_will_look_at),
            "managed_by": self.manager.as_dict() if self.manager else None,
            "fingerprint": self.fingerprint,
        }


def plan(
    child: str,
    parent: str,
    roots: Roots,
    *,
    windows_path: str | None = None,
    ignore_identity: bool = False,
    job: str = "",
) -> LinkPlan:
    """What it takes to make parent the parent of child (host paths).

    windows_path     how Windows names the parent, instead of what the root's view gives
    ignore_identity  the parent may be another disk than the child was made from; it is
                     then the child's content that is at stake
    job              the caller's own job, whose sidecars do not stand in its way
    Raises ImageError with the refusal: E_NOT_DIFFERENCING, E_READ_ONLY, E_HARD_LINKS,
    E_UNFINISHED, E_CYCLE, E_PARENT_IDENTITY, E_PARENT_SIZE, E_PARENT_FORMAT,
    E_NO_WINDOWS_PATH, E_NAME, and what opening either disk raises.
    """
    return _plan_update(
        child, parent, roots, windows_path=windows_path, ignore_identity=ignore_identity, job=job
    )


def _plan_update(
    child: str,
    parent: str,
    roots: Roots,
    *,
    windows_path: str | None,
    ignore_identity: bool,
    job: str,
) -> LinkPlan:
    roots.require_writable(child)
    journal.require_settled(roots, [child, parent], job=job)
    with roots.open(child) as child_file, roots.open(parent) as parent_file:
        image = pairing.differencing(child_file)
        target = pairing.parent_image(parent_file)
        pairing.refuse_itself(child_file, parent_file, image, target)
        findings = pairing.refuse_mismatch(image, target, child, ignore_identity=ignore_identity)
        ancestors, broken = pairing.ancestors_of(parent, child_file, image, roots)
        new = links.renewed(image, target, child, parent, roots, windows_path)
        written = image.is_linked_to(new)
        changes = () if written else image.plan_parent_link(new).changes
        looks = links.windows_will_look_at(roots, child, new)
        if image.parent is not None and image.parent.identity != target.identity:
            findings.append(pairing.other_identity(image, image.parent.identity, target))
        findings += pairing.warnings_of(child_file, parent_file, parent, target, roots)
        findings += links.windows_warnings(child, parent, new, roots)
        if broken is not None:
            findings.append(broken)
        findings += in_use.findings(roots, [child], ancestors)
        return LinkPlan(
            child=child,
            parent=parent,
            is_undo=False,
            changes=changes,
            warnings=tuple(findings),
            windows_will_look_at=tuple(looks),
            fingerprint=fingerprints.of_plan(
                child_file, image, [new, parent_file.path, target.identity]
            ),
            manager=managed_by(child, roots, hidden=bool(getattr(image, "hidden", False))),
            ancestors=tuple(ancestors),
            chain_complete=broken is None,
            leads_here=links.leads_here(child, parent, new, roots),
            windows_path=windows_path,
            ignore_identity=ignore_identity,
            file=child_file.identity(),
            new_parent=new,
            restored=None,
        )


def apply(
    plan: LinkPlan,
    roots: Roots,
    *,
    offline: bool,
    job: str = "",
    token: int = 0,
    progress: Progress | None = None,
    known_children: Iterable[datetime | None] = (),
) -> dict[str, Any]:
    """Write the link that a plan describes; returns the link before and after.

    offline         somebody declares that nobody has the disk open; without it a disk
                    that something manages is refused (E_MANAGED)
    known_children  the parent timestamps that children of this disk store: if one is
                    exactly its modification time, that is put back afterwards
    Raises E_CHANGED when anything is not as it was planned, E_LOCKED, E_IN_USE, E_VERIFY
    (the file is then as it was), and every refusal of plan().
    """
    progress = progress or Progress()
    progress.step("update", f"rewriting the parent link of {plan.child}")
    with locks.hold(roots, [plan.child], plan.ancestors, job=job, token=token):
        fingerprints.require_same_file(roots, plan.child, plan.file)
        fresh = _again(plan, roots, job)
        if fresh.fingerprint != plan.fingerprint:
            raise fingerprints.changed(plan.child)
        if fresh.manager is not None and not offline:
            raise guards.managed(plan.child, fresh.manager)
        before = _link(roots, plan.child)
        if not fresh.changes:
            return _document(fresh, before, before)
        progress.commit_starts()
        rewriting.rewrite(
            roots,
            plan.child,
            rewriting.Change(
                build=lambda image: _rewrite_of(fresh, image),
                check=lambda image: _verify(fresh, image, roots),
                keep_mtime=modification_times.is_recorded(fresh.file.mtime_ns, known_children),
                is_undo=fresh.is_undo,
                neighbours=(fresh.parent,) if fresh.parent else (),
            ),
            expected=fresh.file,
            job=job,
            token=token,
        )
        after = _link(roots, plan.child)
    return _document(plan, before, after)


def _document(plan: LinkPlan, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {
        "child": plan.child,
        "parent": plan.parent or None,
        "undo": plan.is_undo,
        "before": before,
        "after": after,
        "windows_will_look_at": list(plan.windows_will_look_at),
        "warnings": [warning.as_dict() for warning in plan.warnings],
    }


def plan_undo(child: str, roots: Roots) -> LinkPlan:
    """What it takes to bring back the link that the last update replaced.

    Raises E_NOTHING_TO_UNDO, E_LINK_CHANGED when the link is not the one that was written,
    E_UNFINISHED, E_READ_ONLY, E_HARD_LINKS.
    """
    roots.require_writable(child)
    journal.require_settled(roots, [child])
    with roots.open(child) as file:
        image = pairing.differencing(file)
        sidecar = journal.of(roots, child, UNDO)
        if sidecar is None or sidecar.record.get("is_undo"):
            raise ImageError(
                "E_NOTHING_TO_UNDO",
                f"No update of the parent link of {shown(child)} is on record beside it, or it "
                "has been taken back already.",
                file=child,
            )
        record = sidecar.record
        if record.get("identity") != image.identity:
            raise ImageError(
                "E_NOTHING_TO_UNDO",
                f"The record beside {shown(child)} belongs to another disk that had this name.",
                file=child,
            )
        if not records.same_link(record.get("link_after"), image.recorded_link()):
            raise ImageError(
                "E_LINK_CHANGED",
                f"The parent link of {shown(child)} is not the one that the last update wrote: "
                "something else has changed it since.",
                file=child,
            )
        guards.require_one_name(file)
        restored = record["link_before"]
        rewrite = image.plan_recorded_link(restored)
        return LinkPlan(
            child=child,
            parent="",
            is_undo=True,
            changes=tuple(row for row in rewrite.changes if row.now or row.after),
            warnings=(*guards.recent_write(roots, file), *in_use.findings(roots, [child])),
            windows_will_look_at=(),
            fingerprint=fingerprints.of_plan(file, image, [restored]),
            manager=managed_by(child, roots, hidden=bool(getattr(image, "hidden", False))),
            ancestors=(),
            chain_complete=False,
            leads_here=False,
            windows_path=None,
            ignore_identity=False,
            file=file.identity(),
            new_parent=None,
            restored=restored,
        )


def undo(
    child: str,
    roots: Roots,
    *,
    offline: bool,
    job: str = "",
    token: int = 0,
    progress: Progress | None = None,
    known_children: Iterable[datetime | None] = (),
) -> dict[str, Any]:
    """Take the last update of a disk's parent link back; documents and errors as in apply()."""
    return apply(
        plan_undo(child, roots),
        roots,
        offline=offline,
        job=job,
        token=token,
        progress=progress,
        known_children=known_children,
    )


# ---------------------------------------------------------------------- applying


def _again(plan: LinkPlan, roots: Roots, job: str) -> LinkPlan:
    if plan.is_undo:
        return plan_undo(plan.child, roots)
    return _plan_update(
        plan.child,
        plan.parent,
        roots,
        windows_path=plan.windows_path,
        ignore_identity=plan.ignore_identity,
        job=job,
    )


def _rewrite_of(plan: LinkPlan, image: Image) -> HeaderRewrite:
    if plan.new_parent is not None:
        return image.plan_parent_link(plan.new_parent)
    return image.plan_recorded_link(plan.restored or {})


def _verify(plan: LinkPlan, image: Image, roots: Roots) -> None:
    """The rewritten disk as anybody opens it: the link is the planned one and it reads."""
    if image.parent is None:
        raise rewriting.unverified(plan.child, "it is no differencing disk any more")
    if plan.new_parent is None:
        if not records.same_link(image.recorded_link(), plan.restored):
            raise rewriting.unverified(plan.child, "its link is not the recorded one")
        return
    if image.parent.identity != plan.new_parent.identity:
        raise rewriting.unverified(plan.child, "its header names another parent")
    if plan.leads_here:
        found = resolve(image, plan.child, roots)
        if found.status is not Status.FOUND or found.path != plan.parent:
            raise rewriting.unverified(
                plan.child, f"the new link does not lead there: {found.reason.rstrip('.')}"
            )
        if plan.chain_complete:
            with open_chain(plan.child, roots) as chain:
                count = min(8, chain.sectors)
                chain.read(0, count)
                chain.read(chain.sectors - count, count)


def _link(roots: Roots, path: str) -> dict[str, Any]:
    with roots.open(path) as file:
        parent = open_image(file).parent
        return link_document(parent) if parent is not None else {}
