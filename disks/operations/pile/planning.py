"""Looking at a folder: which piles there are, and what would become of each. Writes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from disks.engine.errors import ImageError
from disks.operations import journal, merge, merge_plan, space, stranded
from disks.operations.family import listed
from disks.operations.forest import Forest, Member, Run
from disks.operations.merge_plan import MergePlan
from disks.operations.paths import Roots
from disks.operations.pile import Pile, PilePlan, room_bytes
from disks.operations.progress import Progress
from disks.operations.survey import survey

CHECKPOINT_ENDINGS = (".avhd", ".avhdx")


def plan(
    folder: str,
    roots: Roots,
    *,
    keep_name: str = merge_plan.PARENT,
    in_place: bool = False,
    leaves: Sequence[str] = (),
    progress: Progress | None = None,
) -> PilePlan:
    """Look at every disk of a folder and write nothing.

    keep_name  `parent` or `child`: which name each merged disk has
    in_place   move the data into each lowest disk, instead of making copies
    leaves     only the piles that end in these disks; E_NO_PILE where one ends none

    What stands in the way of a pile is in its `refused`.
    """
    found = survey(folder, roots, progress=progress)
    forest = found.forest
    runs = chosen(forest.runs, leaves)
    suspects = [error.file for error in found.unread if error.file]
    trash_seen = stranded.TrashSeen(roots)

    def dry_run(run: Run) -> MergePlan:
        return merge.plan(
            run.leaf,
            roots,
            base=run.base,
            into_parent=True,
            in_place=in_place,
            keep_name=keep_name,
            children_of=forest.children_of,
            suspects=suspects,
            scan=False,
            trash_seen=trash_seen,
            progress=progress,
        )

    piles = [judged(forest, run, dry_run(run), roots) for run in runs]
    return PilePlan(found, piles, keep_name, shortage(piles, roots), in_place)


def chosen(runs: Sequence[Run], leaves: Sequence[str]) -> list[Run]:
    """The runs that end in these leaves, or all. Raises E_NO_PILE."""
    by_leaf = {run.leaf: run for run in runs}
    for leaf in leaves:
        if leaf not in by_leaf:
            those = f"Those that are: {listed(list(by_leaf))}." if by_leaf else "No disk here is."
            raise ImageError(
                "E_NO_PILE", f"{leaf} is not the uppermost disk of a pile. {those}", file=leaf
            )
    return [run for run in runs if not leaves or run.leaf in leaves]


def judged(forest: Forest, run: Run, plan: MergePlan, roots: Roots) -> Pile:
    """A run and its dry run, with what only the whole folder tells: twins, what lies outside."""
    disks = [forest.members[path] for path in run.paths]
    refused = _unsettled(run, roots) or _twins_in_the_way(forest, run) or plan.refused
    return Pile(run, disks, plan, refused, [*plan.warnings, *_warnings(forest, disks, plan)])


def shortage(piles: Iterable[Pile], roots: Roots) -> ImageError | None:
    """E_NOSPC if the results do not fit side by side: the old files stay in the trash.

    In place: if what all lowest disks grow by does not fit.
    """
    here: dict[int, list[MergePlan]] = {}
    for pile in piles:
        if pile.refused is not None:
            continue
        folder = roots.open_folder(os.path.dirname(pile.output))
        try:
            merges = here.setdefault(os.fstat(folder).st_dev, [])
            merges.append(pile.merge)
            short = space.shortage(room_bytes(merges), space.space_of(folder), pile.output)
        finally:
            os.close(folder)
        if short is not None:
            return short
    return None


def _unsettled(run: Run, roots: Roots) -> ImageError | None:
    """An interrupted job explains whatever else is wrong with the chain."""
    try:
        journal.require_settled(roots, [*run.paths, *run.above])
    except ImageError as error:
        return error
    return None


def _twins_in_the_way(forest: Forest, run: Run) -> ImageError | None:
    """Two copies of one disk on the same parent make a branch that nobody meant."""
    parent = forest.parent_of(run.base)
    ends = {run.leaf, *([] if parent is None else [parent])}
    for branch in forest.branches:
        if branch.parent not in ends or not branch.twins:
            continue
        if branch.parent == parent and run.base not in branch.twins:
            continue
        return ImageError(
            "E_TWINS",
            f"{listed(list(branch.twins))} are the same disk twice, and both build on "
            f"{branch.parent}. Which of them is the right one cannot be told from the files.",
            file=branch.twins[0],
            field="unique_id",
            value=forest.members[branch.twins[0]].identity,
        )
    return None


def _warnings(forest: Forest, disks: list[Member], plan: MergePlan) -> Iterable[str]:
    outside = [disk.path for disk in disks if not disk.inside]
    if outside:
        yield (
            f"{listed(outside)} lies outside of the folder. Other disks that build on it are "
            "known only where they lie below a storage root."
        )
    elsewhere = [disk.path for disk in disks if disk.elsewhere]
    if elsewhere:
        yield (
            f"The parent of {listed(elsewhere)} was found by its identity alone: no path in "
            "the header leads to it, so Windows would not find it."
        )
    for disk in disks:
        others = forest.twins.get(disk.path)
        if others:
            yield (
                f"{listed(others)} has the same identity as {disk.path} (a copy, a backup). "
                "It is left alone; the path in the headers decides which one belongs here."
            )
    if plan.new is not None and plan.new.parent is None:
        name = os.path.basename(plan.output)
        if name.lower().endswith(CHECKPOINT_ENDINGS):
            yield (
                f"The merged disk will be whole, but its name {name} is that of a checkpoint. "
                "Keep the parent's name, unless a machine expects this one."
            )
