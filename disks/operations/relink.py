"""Telling a differencing disk where its parent is: plan, apply, undo (crash-safety §1).

A plan writes nothing and says what each header field will be. apply() takes the locks,
plans again from what the files hold then, and goes on only if nothing has changed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from disks.engine.chain import open_chain, walk
from disks.engine.changes import FieldChange, HeaderRewrite
from disks.engine.check import check_link
from disks.engine.errors import ImageError
from disks.engine.files import FileIdentity, ImageFile
from disks.engine.findings import Finding, Level
from disks.engine.formats import open_image
from disks.engine.images import DiskType, Image
from disks.engine.parent_link import NewParent
from disks.engine.resolution import Status, resolve
from disks.operations import (
    fingerprints,
    guards,
    journal,
    links,
    locks,
    modification_times,
    rewriting,
    windows,
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
        image = _differencing(child_file)
        target = _parent_image(parent_file)
        _refuse_itself(child_file, parent_file, image, target)
        findings = _refuse_mismatch(image, target, child, ignore_identity=ignore_identity)
        ancestors, broken = _ancestors(parent, child_file, image, roots)
        new = _new_parent(image, target, child, parent, roots, windows_path)
        written = image.is_linked_to(new)
        changes = () if written else image.plan_parent_link(new).changes
        looks = links.windows_will_look_at(roots, child, new)
        if image.parent is not None and image.parent.identity != target.identity:
            findings.append(_other_identity(image, image.parent.identity, target))
        findings += _warnings(child_file, parent_file, parent, target, roots)
        findings += _windows_warnings(child, parent, new, roots)
        if broken is not None:
            findings.append(broken)
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
            leads_here=_leads_here(child, parent, new, roots),
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
            raise managed(plan.child, fresh.manager)
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
        image = _differencing(file)
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
                "something else has changed it since. Update the parent path instead.",
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
            warnings=tuple(guards.recent_write(file)),
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


def managed(path: str, manager: Manager) -> ImageError:
    """E_MANAGED: somebody else keeps books about this disk, and nobody has taken that on."""
    return ImageError(
        "E_MANAGED",
        f"{shown(path)} is not changed without a declaration. {manager.sentence} "
        f"{manager.way_out} If the manager is stopped or does not know this disk any more, "
        "declare that the disks are offline (--offline).",
        file=path,
        field="managed_by",
        value=manager.code,
    )


# ---------------------------------------------------------------------- judging the pair


def _differencing(file: ImageFile) -> Image:
    image = open_image(file)
    if image.disk_type is not DiskType.DIFFERENCING:
        raise ImageError(
            "E_NOT_DIFFERENCING",
            f"{shown(file.path)} is a {image.disk_type} disk; only differencing disks have a "
            "parent.",
            file=file.path,
            field="disk_type",
            value=str(image.disk_type),
        )
    if image.write_refusal is not None:
        raise image.write_refusal
    guards.require_one_name(file)
    return image


def _parent_image(file: ImageFile) -> Image:
    image = open_image(file)
    plain = image.identity.replace("-", "")
    if set(plain) in ({"0"}, {"f"}):
        raise ImageError(
            "E_IDENTITY",
            f"{shown(file.path)} has no identity ({image.identity}), so no child could tell it "
            "from other disks. It cannot be a parent.",
            file=file.path,
            field="identity",
            value=image.identity,
        )
    return image


def _refuse_itself(
    child_file: ImageFile, parent_file: ImageFile, child: Image, parent: Image
) -> None:
    mine, theirs = child_file.stat(), parent_file.stat()
    if (mine.st_dev, mine.st_ino) == (theirs.st_dev, theirs.st_ino) or (
        child.identity == parent.identity
    ):
        raise _cycle(
            child_file.path,
            f"{shown(parent_file.path)} is the disk itself or a copy of it; no disk can be its "
            "own parent.",
        )


def _refuse_mismatch(
    child: Image, parent: Image, path: str, *, ignore_identity: bool
) -> list[Finding]:
    """Warnings about the pair; the first error is raised."""
    kept = []
    for finding in check_link(child, parent):
        if finding.code == "E_PARENT_IDENTITY" and ignore_identity:
            continue
        if finding.code == "E_PARENT_IDENTITY":
            message = (
                f"{finding.message} Its content would be mixed with that of another disk. "
                "Choose the disk that it was made from."
            )
            if _of_one_chain(child, parent):
                message = (
                    f"{finding.message} By its virtual disk id it is of this disk's own chain: "
                    "most likely the parent itself, written after this disk was made, or an older "
                    "copy of it. Choose the parent as it was then, from a backup."
                )
            raise ImageError(
                finding.code, message, file=path, field="parent_identity", value=finding.value
            )
        if finding.level is Level.ERROR:
            raise ImageError(
                finding.code, finding.message, file=path, field=finding.field, value=finding.value
            )
        if finding.code != "N_PARENT_TIMESTAMP":  # the rewrite renews it
            kept.append(finding)
    return kept


def _ancestors(
    parent: str, child_file: ImageFile, child: Image, roots: Roots
) -> tuple[list[str], Finding | None]:
    """The parent's own chain, and what is wrong with it. E_CYCLE if the child is in it."""
    mine = child_file.stat()
    paths: list[str] = []
    broken: Finding | None = None
    for link in walk(parent, roots):
        if link.error is not None:
            broken = _broken_above(link.path, link.error.message)
            if link.error.code == "E_CYCLE":
                raise _cycle(child_file.path, link.error.message)
            break
        if link.image is None:
            break
        theirs = link.image.file.stat()
        named = link.image.parent.identity if link.image.parent else ""
        if (mine.st_dev, mine.st_ino) == (theirs.st_dev, theirs.st_ino) or (
            child.identity in (link.image.identity, named)
        ):
            raise _cycle(
                child_file.path,
                f"{shown(parent)} builds on {shown(child_file.path)} itself (through "
                f"{shown(link.path)}), so it cannot be its parent.",
            )
        paths.append(link.path)
        if link.resolution is not None and link.resolution.status is not Status.FOUND:
            broken = _broken_above(link.path, link.resolution.reason)
    return paths, broken


def _broken_above(path: str, why: str) -> Finding:
    return Finding(
        Level.WARNING,
        "W_CHAIN_BROKEN_ABOVE",
        f"The chain stays broken above {shown(path)}: {why}",
        "parent",
        None,
        path,
    )


def _cycle(path: str, why: str) -> ImageError:
    return ImageError("E_CYCLE", why, file=path, field="parent")


# ---------------------------------------------------------------------- the new link


def _new_parent(
    child: Image, parent: Image, child_path: str, path: str, roots: Roots, given: str | None
) -> NewParent:
    name = os.path.basename(path)
    if not windows.is_windows_name(name):
        raise ImageError(
            "E_NAME",
            f"“{shown(name)}” is no name that Windows can open, so no parent locator can hold it. "
            "Rename the parent first.",
            file=path,
        )
    absolute = _given_path(given) if given is not None else roots.windows_path(path)
    relative = roots.relative_windows_path(child_path, path)
    if absolute is None and relative is None:
        raise ImageError(
            "E_NO_WINDOWS_PATH",
            f"Windows could not find {shown(path)} from {shown(child_path)}: they lie in different "
            "places, and it is not known how Windows names the parent's folder. Give its storage "
            "root a Windows view (--map 'C:\\VMs=/srv/vms'), or name it with --windows-path.",
            file=child_path,
            field="parent_locators",
            value=path,
        )
    # Windows itself stores 0 here; only who stored a time before keeps one.
    timestamp = None
    if child.parent is not None and child.parent.timestamp is not None:
        timestamp = datetime.fromtimestamp(int(parent.file.stat().st_mtime), UTC)
    name = links.stored_name(path, relative, absolute)
    return NewParent(parent.identity, name, relative, absolute, timestamp)


def _given_path(text: str) -> str:
    parsed = windows.parse_absolute(text)
    if parsed is None or not parsed.parts:
        raise ImageError(
            "E_NAME",
            f"“{shown(text)}” is no absolute Windows path of a file. Write it like "
            "C:\\VMs\\base.vhd or \\\\server\\share\\base.vhd.",
            field="windows_path",
            value=shown(text),
        )
    return str(parsed)


def _leads_here(child: str, parent: str, new: NewParent, roots: Roots) -> bool:
    """True if this host, too, finds the parent by the new link, so that it can be verified."""
    with contextlib.suppress(ImageError):
        if new.relative_path is not None and roots.beside(child, new.relative_path) == parent:
            return True
    with contextlib.suppress(ImageError):
        if new.windows_path is not None and parent in roots.from_windows(new.windows_path):
            return True
    return False


# ---------------------------------------------------------------------- what to be told


def _warnings(
    child_file: ImageFile, parent_file: ImageFile, parent: str, image: Image, roots: Roots
) -> Iterator[Finding]:
    yield from guards.recent_write(child_file)
    links = parent_file.stat().st_nlink
    if links > 1:
        yield Finding(
            Level.WARNING,
            "W_HARD_LINKS",
            f"The parent has {links} names (hard links): who writes to it under another name "
            "changes what this disk reads.",
            "links",
            None,
            links,
        )
    twins = [path for path in roots.find_identity(image.identity) if path != parent]
    for twin in twins[:5]:
        with contextlib.suppress(ImageError):
            written = datetime.fromtimestamp(roots.stat(twin).st_mtime, UTC)
            yield Finding(
                Level.WARNING,
                "W_PARENT_TWIN",
                f"{shown(twin)}, last written {written:%Y-%m-%d %H:%M} UTC, has the same identity. "
                "The same disk by its identity; which of the copies has the right content is not "
                "proven.",
                "parent",
                None,
                twin,
            )


def _windows_warnings(child: str, parent: str, new: NewParent, roots: Roots) -> Iterator[Finding]:
    if new.windows_path is None:
        yield Finding(
            Level.NOTE,
            "N_NO_WINDOWS_VIEW",
            "It is not known how Windows names the parent's folder, so only the relative path is "
            "written and an absolute one is removed.",
            "absolute_path",
        )
    if new.relative_path is None:
        yield Finding(
            Level.NOTE,
            "N_NO_RELATIVE_PATH",
            "The two folders are on different drives or shares for Windows, so only the absolute "
            "path is written and a relative one is removed.",
            "relative_path",
        )
    elif roots.is_assumed_relative(child, parent):
        yield Finding(
            Level.WARNING,
            "W_RELATIVE_ASSUMED",
            "The relative path follows the folders of this host. It is right for Windows only if "
            "both folders lie under one drive or share there in the same way.",
            "relative_path",
            None,
            new.relative_path,
        )


def _of_one_chain(child: Image, parent: Image) -> bool:
    """Whether a disk of another identity is one of the child's chain all the same."""
    return child.virtual_disk_id is not None and child.virtual_disk_id == parent.virtual_disk_id


def _other_identity(child: Image, expected: str, parent: Image) -> Finding:
    actual = parent.identity
    message = (
        f"The child was made from the disk {expected}; this parent is {actual}. What the child "
        "does not hold itself will be read from another disk: its content will be wrong unless "
        "the two were equal."
    )
    if _of_one_chain(child, parent):
        message = (
            f"The child was made from this disk when its DataWriteGuid was {expected}; it is "
            f"{actual} now, so its content was changed since, or an older copy was put in its "
            "place. Where the child holds a sector, that one is read; everywhere else what the "
            "parent holds now shows through. A file system that lies across both may be damaged "
            "without a sign: check it in the guest before anything is written to it."
        )
    return Finding(Level.WARNING, "W_PARENT_IDENTITY", message, "parent_identity", None, actual)


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
