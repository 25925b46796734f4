"""Merge levels of a chain by copy: into their lowest one, or into a new disk.

Into the parent (crash-safety §2 "By copy"): a proven copy of the levels, with the child's
identity and the parent's type, takes over the parent's name (or the child's); the merged
files go to the trash as one job. To a new disk: nothing that exists is touched.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from typing import Any

from disks.engine.chain import Chain, open_chain
from disks.engine.errors import ImageError
from disks.engine.formats import by_name
from disks.engine.images import DiskType, Image
from disks.engine.new_image import NewImage
from disks.operations import (
    concerned,
    copying,
    fingerprints,
    guards,
    in_use,
    journal,
    links,
    locks,
    merge_into,
    new_copy,
    ownership,
    replacing,
    rules,
    stranded,
    trash,
)
from disks.operations.content import ChainContent
from disks.operations.copying import Copied, Draft
from disks.operations.counting import count_levels
from disks.operations.family import ChildrenOf
from disks.operations.fingerprints import Fingerprint
from disks.operations.merge_plan import CHILD, PARENT, MergePlan, Request
from disks.operations.new_copy import Level
from disks.operations.paths import Roots
from disks.operations.progress import Progress
from disks.operations.rollback import rolling_back


def plan(
    leaf: str,
    roots: Roots,
    *,
    base: str | None = None,
    to: str | None = None,
    into_parent: bool = False,
    disk_type: DiskType | str | None = None,
    keep_name: str = PARENT,
    in_place: bool = False,
    children_of: ChildrenOf | None = None,
    suspects: Iterable[str] = (),
    scan: bool = True,
    trash_seen: stranded.TrashSeen | None = None,
    progress: Progress | None = None,
) -> MergePlan:
    """Look at everything and write nothing.

    base         the lowest disk merged, inclusive; into the parent: one level, to a new
                 disk: the whole chain
    to           path of the new disk; or into_parent
    disk_type    of a new disk that holds the whole chain: dynamic (default) or fixed
    in_place     into the parent: move the child's data there, instead of making a copy
    keep_name    `parent` or `child`: which name the merged disk has, into the parent
    children_of  what a catalog knows of a disk's children
    suspects     what a catalog could not read
    scan         also read the headers below all roots now; apply() always does
    trash_seen   what of the trash was looked into for plans made together with this one

    What stands in the way is in the plan's `refused`; ValueError for a request that makes
    no sense (both or neither of to and into_parent).
    """
    if (to is None) is not into_parent:
        raise ValueError("either to= or into_parent=True")
    if keep_name not in (PARENT, CHILD):
        raise ValueError("keep_name is parent or child")
    if in_place and not into_parent:
        raise ValueError("in place is into the parent")
    kind = None if disk_type is None else DiskType(disk_type)
    if kind is DiskType.DIFFERENCING:
        kind = None  # follows from base
    request = Request(leaf, base, to, kind, keep_name, in_place)
    result = MergePlan(request=request, output=to or leaf)
    try:
        with open_chain(leaf, roots) as chain:
            _fill(result, chain, roots, concerned.Known(children_of, suspects, scan), progress)
    except ImageError as error:
        result.refused = error
    if result.refused is None:
        result.warnings += in_use.warnings(roots, result.exclusive, result.shared)
    if into_parent:
        result.warnings += stranded.warnings(roots, result.levels, trash_seen)
    return result


def apply(
    plan: MergePlan,
    roots: Roots,
    *,
    offline: bool = False,
    unrelated: Collection[str] = (),
    job: str = "",
    token: int = 0,
    progress: Progress | None = None,
    children_of: ChildrenOf | None = None,
) -> dict[str, Any]:
    """Carry a plan out. Returns the document of the finished merge.

    unrelated: files, and folders with everything in them, that cannot be read and of which
    somebody declares that they build on none of the merged disks.

    Locks, looks at everything again and compares with the plan before anything is written
    (E_CHANGED). Until the commit step every error, a cancel and a kill leave all files as
    they were; after it the job only rolls forward, by itself or by recovery.

    In place it raises Stopped instead of Cancelled, and of any error, once data moves.

    Raises what the plan refuses, E_NOT_OFFLINE, E_MANAGED, E_LOCKED, E_IN_USE, E_SIBLINGS,
    E_UNREAD_DISKS, E_NOSPC, E_OWNER, E_PROOF, and Cancelled out of progress.
    """
    progress = progress or Progress()
    if plan.refused is not None:
        raise plan.refused
    request = plan.request
    job = copying.job_name(job)
    with locks.hold(roots, plan.exclusive, plan.shared, job=job, token=token):
        journal.require_settled(roots, [*plan.exclusive, *plan.shared])
        fresh = MergePlan(request=request, output=plan.output, earlier=plan)
        progress.step("check", "Looking at the chain and for other children once more")
        with open_chain(request.leaf, roots) as chain:
            _fill(fresh, chain, roots, concerned.Known(children_of), progress)
            _compare(plan, fresh)
            if request.into_parent:
                concerned.require_unrelated(fresh, unrelated)
                guards.require_offline(fresh.managers, offline=offline)
                if request.in_place:
                    return merge_into.start(fresh, chain, roots, job, token, progress)
                return _into_parent(fresh, chain, roots, job, token, progress)
            return _to_new(fresh, chain, roots, job, token, progress)


# ---------------------------------------------------------------------- planning


def _fill(
    result: MergePlan, chain: Chain, roots: Roots, known: concerned.Known, progress: Progress | None
) -> None:
    """Fill a plan in; the first thing that stands in the way ends it as its refusal."""
    request = result.request
    last = _last_level(request, chain)
    result.levels = [Level.of(chain.paths[i], chain.images[i]) for i in range(last + 1)]
    result.survivors = chain.paths[last + 1 :]
    result.fingerprints = {
        path: Fingerprint.of(image.file)
        for path, image in zip(chain.paths, chain.images, strict=True)
    }
    if request.into_parent:
        result.output = chain.paths[last if request.keep_name == PARENT else 0]
    merged = zip(chain.paths[: last + 1], chain.images, strict=False)
    result.managers = guards.managers(roots, merged)
    refusals = _refusals(result, chain, last, roots, known, progress)
    result.refused = next(refusals, None)


def _refusals(
    result: MergePlan,
    chain: Chain,
    last: int,
    roots: Roots,
    known: concerned.Known,
    progress: Progress | None,
) -> Iterator[ImageError]:
    """Everything that stands in the way, one after the other, filling the plan meanwhile."""
    request = result.request
    merged = chain.images[: last + 1]
    disks = list(zip(chain.paths, chain.images, strict=True))
    try:  # first: half changed, a disk reads as anything
        journal.require_settled(roots, chain.paths)
    except ImageError as error:
        yield error
    yield from new_copy.source_refusals(
        disks[: last + 1],
        disks[last + 1 : last + 2],
        sources_stay=not request.into_parent,
    )
    if request.into_parent and known.anything:
        concerned.find(result, chain, last, roots, known, progress)
        if result.siblings:
            yield concerned.ruined(result)
    link = None
    if result.survivors:
        link = links.new_parent(roots, result.output, result.survivors[0], chain.images[last + 1])
        result.windows_will_look_at = link.windows_will_look_at
        result.warnings += link.warnings
    result.new = _new_image(request, merged, link.parent if link else None)
    result.format_name = merged[-1].format_name
    format = by_name(result.format_name)
    if not request.in_place:
        below = merged[-1] if request.into_parent else merged[0]
        result.warnings += rules.smaller_blocks(below, result.new)
        result.amount = count_levels(merged, copying.unit_bytes(result.new), progress)
        result.predicted_size_bytes = format.predicted_size_bytes(result.new, result.amount.blocks)
    result.commands = new_copy.commands(roots, request.leaf, result.output)
    if request.into_parent:
        for path in (*(level.path for level in result.levels), *result.relink):
            roots.require_writable(path)
        for image in merged:
            guards.require_movable(image.file)
    else:
        rules.check_new_name(roots, result.output, format)
    try:
        journal.require_settled(roots, [*result.exclusive, *result.shared])
    except ImageError as error:
        yield error
    if request.in_place:
        yield from merge_into.damage(chain, last)
        merge_into.measure(result, chain, last)
    short = new_copy.shortage(result, roots)
    if request.in_place:
        yield from merge_into.refusals(result, chain, last, roots)
    if short is not None:
        yield short


def _last_level(request: Request, chain: Chain) -> int:
    """Index of the lowest disk merged. E_NOT_IN_CHAIN, E_NO_PARENT."""
    if request.into_parent and len(chain.paths) < 2:
        raise ImageError(
            "E_NOT_DIFFERENCING",
            f"{request.leaf} has no parent that it could be merged into.",
            file=request.leaf,
        )
    if request.base is None:
        return 1 if request.into_parent else len(chain.paths) - 1
    base = os.path.normpath(request.base)
    if base not in chain.paths:
        raise ImageError(
            "E_NOT_IN_CHAIN",
            f"{base} is not among the ancestors of {request.leaf}.",
            file=request.leaf,
            value=base,
        )
    index = chain.paths.index(base)
    if request.into_parent and index == 0:
        raise ImageError(
            "E_NOT_IN_CHAIN", "A disk cannot be merged into itself.", file=request.leaf
        )
    return index


def _new_image(request: Request, merged: list[Image], parent: Any) -> NewImage:
    """What the merged disk will be: the child's face on the parent's type, or a new disk."""
    leaf, lowest = merged[0], merged[-1]
    traits = leaf.copy_traits()
    if request.into_parent:
        new = NewImage(
            lowest.disk_type,
            leaf.virtual_size_bytes,
            rules.block_bytes_of(lowest),
            identity=leaf.identity,
            parent=parent,
        )
        return replace(new, **traits)
    kind = DiskType.DIFFERENCING if parent else request.disk_type or DiskType.DYNAMIC
    new = NewImage(kind, leaf.virtual_size_bytes, rules.block_bytes_of(leaf), parent=parent)
    return replace(new, **leaf.child_traits())


def _compare(plan: MergePlan, fresh: MergePlan) -> None:
    """E_CHANGED, or the fresh refusal, when the plan does not hold any more."""
    new_copy.require_same(plan, fresh, plan.request.leaf)
    new_children = set(fresh.grandchildren) - set(plan.grandchildren)
    if new_children:
        raise fingerprints.changed(plan.request.leaf, f"got a child ({sorted(new_children)[0]})")


# ---------------------------------------------------------------------- carrying out


def _to_new(
    plan: MergePlan, chain: Chain, roots: Roots, job: str, token: int, progress: Progress
) -> dict[str, Any]:
    copied = new_copy.make(
        plan,
        _view(plan, chain),
        by_name(plan.format_name),
        roots,
        like=chain.images[0].file,
        job=job,
        token=token,
        progress=progress,
    )
    return _document(plan, copied)


def _into_parent(
    plan: MergePlan, chain: Chain, roots: Roots, job: str, token: int, progress: Progress
) -> dict[str, Any]:
    levels = {level.path: level for level in plan.levels}
    replaced = next(
        image for path, image in zip(chain.paths, chain.images, strict=True) if path == plan.output
    )
    names = " + ".join(os.path.basename(level.path) for level in reversed(plan.levels))
    manifest = trash.planned(
        roots,
        job=trash.free_job(roots, plan.trash, copying.job_word(job)),
        kind="merge",
        summary=f"Merged {names} into {plan.output}",
        replacement=plan.output,
        put_away=[
            (
                path,
                plan.fingerprints[path].file,
                levels[path].identity,
                "replaced" if path == plan.output else "merged",
            )
            for path in plan.trash
        ],
        relinked=plan.relink,
    )
    work = replacing.Replacement(
        kind="merge",
        surviving=plan.output,
        temp_path="",
        manifest=manifest,
        job=job,
        token=token,
        relink=tuple(plan.relink),
    )
    draft = Draft(roots, plan.output, job=job, token=token)
    work = replace(work, temp_path=draft.temp_path)
    with rolling_back(lambda: replacing.undo(roots, work), plan.output):
        replacing.begin(roots, work)
        with draft:
            copied = _copy(plan, chain, draft, progress)
            ownership.carry_over(replaced.file.fd, draft.file.fd, plan.output)
            draft.file.sync()
            new_copy.require_unchanged(plan, roots)
            work = replace(
                work,
                temp_inode=draft.file.stat().st_ino,
                result=_document(plan, copied) | {"trash": manifest.primary},
            )
            progress.commit_starts()
            replacing.commit(roots, work, draft)
    return replacing.roll_forward(roots, work, progress=progress)


def _copy(plan: MergePlan, chain: Chain, draft: Draft, progress: Progress) -> Copied:
    assert plan.new is not None  # noqa: S101 - a plan without refusal has one
    format = by_name(plan.format_name)
    view = _view(plan, chain)
    return copying.copy(view, draft, format, plan.new, plan.amount, progress=progress)


def _view(plan: MergePlan, chain: Chain) -> ChainContent:
    last = len(plan.levels) - 1
    return ChainContent(chain.levels(0, last) if plan.survivors else chain)


def _document(plan: MergePlan, copied: Copied) -> dict[str, Any]:
    return new_copy.document(plan, copied) | {
        "relinked": plan.relink,
        "space_back_when_trash_emptied_bytes": plan.space_back_bytes,
    }
