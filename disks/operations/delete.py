"""Delete a disk: into the trash, from where it can be restored, with its dependants named."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.formats import FORMATS, open_image
from disks.operations import (
    copying,
    family,
    fingerprints,
    guards,
    in_use,
    journal,
    locks,
    relocating,
    trash,
)
from disks.operations.family import ChildrenOf
from disks.operations.fingerprints import Fingerprint
from disks.operations.headers import read_header
from disks.operations.paths import Roots
from disks.operations.progress import Progress
from disks.operations.relocating import Relocation
from disks.operations.relocation_plan import Moved, RelocationPlan, require_same
from disks.operations.rollback import rolling_back
from disks.operations.windows import shown

_NO_DISK = ("E_NO_FOOTER", "E_TOO_SMALL", "E_NOT_A_FILE")


@dataclass(kw_only=True)
class DeletePlan(RelocationPlan):
    """descendants: disks below the children, which lose their chain along with them.

    allocated_bytes: what emptying the trash gives back, by the storage's own count.
    """

    descendants: list[str] = field(default_factory=list)
    allocated_bytes: int = 0

    @property
    def exclusive(self) -> list[str]:
        return [self.path]

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {
            "output": self.path,
            "descendants": self.descendants,
            "file_size_after_bytes": 0,
            "space_back_when_trash_emptied_bytes": self.allocated_bytes,
            "can_be_undone_until": "trash emptied",
        }


def plan(
    path: str,
    roots: Roots,
    *,
    breaks: Collection[str] = (),
    children_of: ChildrenOf | None = None,
    scan: bool = True,
    progress: Progress | None = None,
) -> DeletePlan:
    """Look at everything and write nothing.

    breaks       children that lose their parent: every one must be named, or it is refused
    children_of  what a catalog knows of a disk's children
    scan         also read the headers below all roots now; apply() always does

    What stands in the way is in the plan's `refused`, not raised.
    """
    result = DeletePlan(path=path, output=path, breaks=tuple(breaks))
    try:
        journal.require_settled(roots, [path])
        _fill(result, roots, children_of, scan, progress)
    except ImageError as error:
        result.refused = error
    else:
        result.warnings += in_use.warnings(roots, result.exclusive, result.shared)
    return result


def apply(
    plan: DeletePlan,
    roots: Roots,
    *,
    offline: bool = False,
    job: str = "",
    token: int = 0,
    progress: Progress | None = None,
    children_of: ChildrenOf | None = None,
) -> dict[str, Any]:
    """Carry a plan out. Returns its document, with the trash folder.

    Locks, looks again, and compares before anything is done (E_CHANGED). An error leaves
    the disk where it is; a kill does after recovery, or leaves it in the trash.

    Raises what the plan refuses, E_MANAGED, E_LOCKED, E_IN_USE, E_CHILDREN, E_TRASH.
    """
    progress = progress or Progress()
    if plan.refused is not None:
        raise plan.refused
    job = copying.job_name(job)
    with locks.hold(roots, plan.exclusive, job=job, token=token):
        journal.require_settled(roots, plan.exclusive)
        fresh = DeletePlan(path=plan.path, output=plan.path, breaks=plan.breaks)
        progress.step("check", "Looking for disks that build on it once more")
        try:
            _fill(fresh, roots, children_of, True, progress)
        except ImageError as error:
            fresh.refused = error
        require_same(plan, fresh)
        guards.require_offline(fresh.managers, offline=offline)
        return _put_away(fresh, roots, job, token, progress)


# ---------------------------------------------------------------------- planning


def _fill(
    result: DeletePlan,
    roots: Roots,
    children_of: ChildrenOf | None,
    scan: bool,
    progress: Progress | None,
) -> None:
    """Fill a plan in. Raises the first thing that stands in the way."""
    path = result.path
    with roots.open(path) as file:
        _look_at(result, file, roots)
        guards.require_movable(file)
    roots.require_writable(path)
    result.trash = [path]
    identity = result.files[0].identity
    found = family.look(
        roots,
        {path: identity} if identity else {},
        children_of=children_of,
        scan=scan,
        progress=progress,
    )
    result.children = found.of(path)
    result.warnings += found.unread_warnings()
    result.descendants = _descendants(result.children, roots, children_of, scan, progress)
    unnamed = [child for child in result.children if child not in result.breaks]
    if unnamed:
        raise _would_break(result, unnamed)


def _look_at(result: DeletePlan, file: ImageFile, roots: Roots) -> None:
    """What the disk is. A damaged one may go, too; what is no disk at all is not ours."""
    path = result.path
    status = file.stat()
    result.allocated_bytes = status.st_blocks * 512
    result.warnings += [one.message for one in guards.recent_write(roots, file)]
    try:
        image = open_image(file)
    except ImageError as error:
        extensions = tuple(one for form in FORMATS for one in form.extensions)
        if error.code in _NO_DISK and not path.lower().endswith(extensions):
            raise
        result.files = [Moved(path, path, "", "", 0, file.size_bytes)]
        result.fingerprints = {path: Fingerprint.of_plain(file)}
        result.warnings.append(
            f"The disk cannot be read ({error.code}), so it is not known which disks build on it."
        )
        return
    kind = str(image.disk_type)
    result.files = [
        Moved(path, path, image.identity, kind, image.virtual_size_bytes, file.size_bytes)
    ]
    result.fingerprints = {path: Fingerprint.of(file)}
    result.managers = guards.managers(roots, [(path, image)])
    if status.st_nlink > 1:
        result.warnings.append(
            f"The file has {status.st_nlink} names (hard links); only this one is taken away."
        )


def _descendants(
    children: list[str],
    roots: Roots,
    children_of: ChildrenOf | None,
    scan: bool,
    progress: Progress | None,
) -> list[str]:
    """Everything that builds on the children, level by level; each once."""
    known = set(children)
    below: list[str] = []
    level = children
    while level:
        parents = {path: _identity(roots, path) for path in level}
        found = family.look(
            roots,
            {path: identity for path, identity in parents.items() if identity},
            children_of=children_of,
            scan=scan,
            progress=progress,
        )
        next_level = [child for path in level for child in found.of(path)]
        level = [child for child in dict.fromkeys(next_level) if child not in known]
        known.update(level)
        below += level
    return below


def _identity(roots: Roots, path: str) -> str:
    try:
        return read_header(roots, path).identity
    except ImageError:
        return ""


def _would_break(result: DeletePlan, unnamed: list[str]) -> ImageError:
    count = len(result.children)
    below = len(result.descendants)
    more = f", and {below:,} further below" if below else ""
    return ImageError(
        "E_CHILDREN",
        f"Deleting {shown(result.path)} breaks {count:,} {'child' if count == 1 else 'children'}"
        f"{more}: {family.listed(unnamed)}.",
        advice="Delete or merge them first, or name every child that may be broken.",
        file=result.path,
        field="children",
        value=count,
    )


# ---------------------------------------------------------------------- carrying out


def _put_away(
    plan: DeletePlan, roots: Roots, job: str, token: int, progress: Progress
) -> dict[str, Any]:
    seen = plan.fingerprints[plan.path]
    manifest = trash.planned(
        roots,
        job=trash.free_job(roots, [plan.path], copying.job_word(job)),
        kind="delete",
        summary=f"Deleted {plan.path}",
        replacement="",
        put_away=[(plan.path, seen.file, plan.files[0].identity, "deleted")],
    )
    work = Relocation(
        kind=relocating.DELETE,
        disk=plan.path,
        job=job,
        token=token,
        manifest=manifest,
        result=plan.as_dict() | {"trash": [manifest.primary]},
    )
    progress.step("commit", f"Moving {os.path.basename(plan.path)} to the trash")
    with rolling_back(lambda: relocating.undo(roots, work), plan.path):
        relocating.begin(roots, work)
        fingerprints.require_unchanged(roots, plan.path, seen)
        progress.commit_starts()
        relocating.commit(roots, work)
    return relocating.carry_out(roots, work, progress)
