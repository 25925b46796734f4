"""Move or rename a disk, with every parent link that this concerns: plan, apply.

Within one file system only names change: the file gets its new one, and the links of its
children, and its own, are rewritten in the same job. To another file system a proven copy
takes the new name and the original goes to the trash. Until the commit step everything is
as it was; after it the job only rolls forward (`relocating`).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from disks.engine.chain import walk
from disks.engine.errors import ImageError
from disks.engine.formats import by_name, open_image
from disks.engine.images import Image
from disks.engine.parent_link import NewParent
from disks.engine.resolution import resolve
from disks.engine.resolution.outcome import Status
from disks.engine.units import size_text
from disks.operations import (
    concerned,
    copying,
    family,
    file_copy,
    fingerprints,
    guards,
    in_use,
    journal,
    link_changes,
    locks,
    new_copy,
    ownership,
    relocating,
    rules,
    space,
    trash,
)
from disks.operations.copying import Draft
from disks.operations.family import ChildrenOf
from disks.operations.file_copy import Meter
from disks.operations.fingerprints import Fingerprint
from disks.operations.paths import Roots
from disks.operations.progress import Progress
from disks.operations.relocating import Arrival, Relocation
from disks.operations.relocation_plan import Moved, RelocationPlan, require_same
from disks.operations.rollback import rolling_back
from disks.operations.windows import shown


@dataclass(kw_only=True)
class MovePlan(RelocationPlan):
    """relink: links that would break are rewritten. across: to another file system, by copy."""

    relink: bool = False
    across: bool = False

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {"relink": self.relink, "across_file_systems": self.across}


def plan(
    path: str,
    target: str,
    roots: Roots,
    *,
    relink: bool = False,
    breaks: Collection[str] = (),
    children_of: ChildrenOf | None = None,
    scan: bool = True,
    progress: Progress | None = None,
) -> MovePlan:
    """Look at everything and write nothing.

    target       the new path, name included
    relink       parent links that would break may be rewritten; without it they are a refusal
    breaks       children that keep their link, and will not find the disk any more
    children_of  what a catalog knows of a disk's children
    scan         also read the headers below all roots now; apply() always does

    What stands in the way is in the plan's `refused`, not raised.
    """
    result = MovePlan(path=path, output=target, relink=relink, breaks=tuple(breaks))
    try:
        journal.require_settled(roots, [path])  # first: half changed, it reads as anything
        _fill(result, roots, children_of, scan, progress)
    except ImageError as error:
        result.refused = error
    else:
        result.warnings += in_use.warnings(roots, result.exclusive, result.shared)
    return result


def apply(
    plan: MovePlan,
    roots: Roots,
    *,
    offline: bool = False,
    job: str = "",
    token: int = 0,
    progress: Progress | None = None,
    children_of: ChildrenOf | None = None,
) -> dict[str, Any]:
    """Carry a plan out. Returns the document of the finished move.

    Locks, looks at everything again and compares with the plan before anything is written
    (E_CHANGED). Until the commit step every error, a cancel and a kill leave all files as
    they were; after it the job only rolls forward, by itself or by recovery.

    Raises what the plan refuses, E_MANAGED, E_LOCKED, E_IN_USE, E_NOSPC, E_OWNER, E_PROOF,
    E_EXISTS, and Cancelled out of progress.
    """
    progress = progress or Progress()
    if plan.refused is not None:
        raise plan.refused
    job = copying.job_name(job)
    started = time.monotonic()
    with locks.hold(roots, plan.exclusive, plan.shared, job=job, token=token):
        journal.require_settled(roots, [*plan.exclusive, *plan.shared])
        fresh = MovePlan(path=plan.path, output=plan.output, relink=plan.relink, breaks=plan.breaks)
        progress.step("check", "Looking at the disk and for its children once more")
        try:
            _fill(fresh, roots, children_of, True, progress)
        except ImageError as error:
            fresh.refused = error
        require_same(plan, fresh)
        guards.require_offline(fresh.managers, offline=offline)
        carry_out = _copy_over if fresh.across else _rename
        result = carry_out(fresh, roots, job, token, progress)
    return result | {"seconds": round(time.monotonic() - started, 3)}


# ---------------------------------------------------------------------- planning


def _fill(
    result: MovePlan,
    roots: Roots,
    children_of: ChildrenOf | None,
    scan: bool,
    progress: Progress | None,
) -> None:
    """Fill a plan in. Raises the first thing that stands in the way."""
    path, target = result.path, result.output
    with roots.open(path) as file:
        image = open_image(file)
        result.files = [
            Moved(
                path,
                target,
                image.identity,
                str(image.disk_type),
                image.virtual_size_bytes,
                file.size_bytes,
            )
        ]
        result.fingerprints = {path: Fingerprint.of(file)}
        result.warnings = [one.message for one in guards.recent_write(roots, file)]
        managed = guards.managers(roots, [(path, image)])
        roots.require_writable(path)
        guards.require_movable(file)
        rules.check_new_name(roots, target, by_name(image.format_name))
        result.across = not _is_one_mount(roots, path, target)
        result.commands = new_copy.commands(roots, path, target)
        found = family.look(
            roots, {path: image.identity}, children_of=children_of, scan=scan, progress=progress
        )
        result.children = found.of(path)
        result.warnings += found.unread_warnings()
        result.shared = [link.path for link in walk(path, roots)][1:]
        own = _own_link(result, image, roots)
        for child in result.children:
            if child not in result.breaks:
                managed += _child_link(result, child, image, roots)
    result.managers = managed
    _require_told(result, own)
    journal.require_settled(roots, [*result.exclusive, *result.shared])
    if result.across:
        size = result.files[0].file_size_bytes
        result.bytes_to_copy, result.trash = size, [path]
        result.free_space_bytes, short = space.shortage_at(roots, target, size)
        if short is not None:
            raise short


def _own_link(result: MovePlan, image: Image, roots: Roots) -> bool:
    """Note what the moved disk's own link becomes. Whether it would break otherwise."""
    path, target = result.path, result.output
    if image.parent is None or os.path.dirname(path) == os.path.dirname(target):
        return False
    found = resolve(image, path, roots)
    if found.status is not Status.FOUND or found.path is None:
        raise ImageError(
            "E_PARENT_MISSING",
            f"{shown(path)} does not find its parent where it lies now, so it is not known what "
            f"its link has to say from another folder. {found.reason}",
            advice="Update its parent path first; a new name in the same folder is possible.",
            file=path,
            field="parent",
        )
    with roots.open(found.path) as parent_file:
        parent = open_image(parent_file)
        change = link_changes.plan(
            roots, image, parent, disk=target, parent_path=found.path, replays=result.across
        )
        result.fingerprints[found.path] = Fingerprint.of(parent_file)
    if change is None:
        return False
    if not result.across:  # a copy of it is written to, else the disk itself
        guards.require_one_name(image.file)
        journal.require_nameable(roots, target)
    result.links.insert(0, change)
    result.warnings += change.warnings
    return True


def _child_link(result: MovePlan, child: str, image: Image, roots: Roots) -> list[dict[str, str]]:
    """Note what becomes of a child's link; who manages the child. Raises why it cannot be."""
    with roots.open(child) as file:
        change = concerned.new_link(
            file, result.output, image, roots, instead="let this child's link break"
        )
        if change is not None:
            result.links.append(change)
            result.warnings += change.warnings
            result.fingerprints[child] = Fingerprint.of(file)
        return guards.managers(roots, [(child, open_image(file))])


def _require_told(result: MovePlan, own: bool) -> None:
    """E_RELINK, E_CHILDREN unless links may be rewritten."""
    if result.relink or not result.links:
        return
    names = [change.now for change in result.links]
    whose = f"{family.listed(names)}" if not own or len(names) > 1 else "the disk itself"
    count = len(names)
    raise ImageError(
        "E_RELINK",
        f"Moving {shown(result.path)} breaks {count:,} parent {'link' if count == 1 else 'links'}, "
        f"of {whose}.",
        file=result.path,
        field="parent_locators",
        value=count,
    )


def _is_one_mount(roots: Roots, path: str, target: str) -> bool:
    """Whether a rename can do it. Two mounts of one file system are two, for the kernel."""
    places = []
    for folder in (os.path.dirname(path), os.path.dirname(target)):
        fd = roots.open_folder(folder)
        try:
            places.append((os.fstat(fd).st_dev, _mount_of(fd)))
        finally:
            os.close(fd)
    return places[0] == places[1]


def _mount_of(fd: int) -> str:
    """The kernel's number of the mount that an open folder is seen through; "" unknown."""
    with contextlib.suppress(OSError), open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
        for line in info:
            name, _, value = line.partition(":")
            if name == "mnt_id":
                return value.strip()
    return ""


# ---------------------------------------------------------------------- carrying out


def _work(plan: MovePlan, job: str, token: int) -> Relocation:
    own = plan.across  # then its link is right before it arrives
    return Relocation(
        kind=relocating.MOVE,
        disk=plan.output,
        job=job,
        token=token,
        links=tuple(
            (change.disk, change.parent)
            for change in plan.links
            if not (own and change.disk == plan.output)
        ),
        result=plan.as_dict() | {"trash": []},
    )


def _rename(
    plan: MovePlan, roots: Roots, job: str, token: int, progress: Progress
) -> dict[str, Any]:
    seen = plan.fingerprints[plan.path]
    work = replace(_work(plan, job, token), arrivals=(Arrival(plan.path, plan.output, seen.file),))
    with rolling_back(lambda: relocating.undo(roots, work), plan.path):
        relocating.begin(roots, work)
        fingerprints.require_unchanged(roots, plan.path, seen)
        progress.commit_starts()
        relocating.commit(roots, work)
    return relocating.carry_out(roots, work, progress)


def _copy_over(
    plan: MovePlan, roots: Roots, job: str, token: int, progress: Progress
) -> dict[str, Any]:
    seen = plan.fingerprints[plan.path]
    manifest = trash.planned(
        roots,
        job=trash.free_job(roots, [plan.path], copying.job_word(job)),
        kind="move",
        summary=f"Moved {plan.path} to {plan.output}, on another file system",
        replacement="",
        put_away=[(plan.path, seen.file, plan.files[0].identity, "moved")],
    )
    draft = Draft(roots, plan.output, job=job, token=token)
    work = replace(
        _work(plan, job, token),
        arrivals=(Arrival(draft.temp_path, plan.output),),
        manifest=manifest,
    )
    progress.step("copy", f"Copying {size_text(plan.bytes_to_copy)} to {plan.output}")
    with rolling_back(lambda: relocating.undo(roots, work), plan.path):
        relocating.begin(roots, work)
        with draft:
            digest = file_copy.make(
                roots,
                plan.path,
                draft,
                _own_new_link(plan),
                Meter(progress, file_copy.total_bytes([plan.bytes_to_copy])),
            )
            with roots.open(plan.path) as original:
                ownership.carry_over(original.fd, draft.file.fd, plan.output)
            draft.file.sync()
            fingerprints.require_unchanged(roots, plan.path, seen)
            work = replace(
                work,
                arrivals=(Arrival(draft.temp_path, plan.output, draft.file.identity()),),
                result=work.result | {"trash": [manifest.primary], "proof": digest},
            )
            progress.commit_starts()
            relocating.commit(roots, work)
            draft.handed_over()
    return relocating.carry_out(roots, work, progress)


def _own_new_link(plan: MovePlan) -> NewParent | None:
    return next((change.new for change in plan.links if change.disk == plan.output), None)
