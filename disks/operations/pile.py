"""Merge whole piles of checkpoints: the order worked out from the files, planned, carried out.

A pile is a run of disks without a branch (`forest`). It is merged in one pass from its leaf
into its lowest disk, by `merge`; pair by pair the same data would be moved again and again.
Several piles are merged one after the other; what is done stays done, and is recognised by
what lies in the trash when the work is begun again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from disks.engine.errors import ImageError
from disks.engine.units import size_text
from disks.operations import copying, fingerprints, journal, merge, merge_again, space, steps
from disks.operations.family import ChildrenOf
from disks.operations.fingerprints import Fingerprint
from disks.operations.forest import Forest, Member, Run
from disks.operations.inspection import moment_of
from disks.operations.merge import MergePlan
from disks.operations.paths import Roots
from disks.operations.progress import Progress
from disks.operations.survey import Survey, survey
from disks.operations.windows import shown

CHECKPOINT_ENDINGS = (".avhd", ".avhdx")
_NAMED = 5  # disks in a sentence


@dataclass(frozen=True)
class Step:
    """One pile to be merged, as it was shown; what a job carries.

    levels      path and fingerprint of each disk that is merged, leaf first
    held_bytes  what is to be moved; by copy it is then read again for the proof
    """

    leaf: str
    base: str
    keep_name: str
    levels: tuple[tuple[str, Fingerprint], ...]
    held_bytes: int
    in_place: bool = False

    @property
    def output(self) -> str:
        return self.base if self.keep_name == merge.PARENT else self.leaf

    @property
    def gone(self) -> str:
        """The name that no file has any more afterwards."""
        return self.leaf if self.output == self.base else self.base

    @property
    def work_bytes(self) -> int:
        """What all of its stages add up to."""
        return self.held_bytes if self.in_place else 2 * self.held_bytes

    def as_dict(self) -> dict[str, Any]:
        return {
            "in_place": self.in_place,
            "leaf": self.leaf,
            "base": self.base,
            "keep_name": self.keep_name,
            "levels": [[path, seen.as_dict()] for path, seen in self.levels],
            "held_bytes": self.held_bytes,
        }

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Step:
        levels = tuple((str(path), Fingerprint.from_dict(seen)) for path, seen in row["levels"])
        return cls(
            row["leaf"],
            row["base"],
            row["keep_name"],
            levels,
            int(row["held_bytes"]),
            bool(row.get("in_place", False)),
        )


@dataclass
class Pile:
    """One run of disks and the dry run of its merge. refused: why it cannot be merged now."""

    run: Run
    disks: list[Member]
    merge: MergePlan
    refused: ImageError | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def output(self) -> str:
        kept = self.merge.request.keep_name
        return self.run.base if kept == merge.PARENT else self.run.leaf

    @property
    def pairwise_bytes(self) -> int:
        """What merging pair by pair would move, at most: each step takes along all before it."""
        moved = carried = 0
        for disk in self.disks[:-1]:
            carried = min(carried + disk.allocated_bytes, disk.virtual_size_bytes)
            moved += carried
        return moved

    @property
    def step(self) -> Step:
        plan = self.merge
        levels = tuple(
            (level.path, plan.fingerprints[level.path])
            for level in plan.levels
            if level.path in plan.fingerprints
        )
        request = plan.request
        return Step(
            self.run.leaf,
            self.run.base,
            request.keep_name,
            levels,
            plan.amount.held_bytes,
            request.in_place,
        )

    def as_dict(self) -> dict[str, Any]:
        dry_run = self.merge.as_dict()
        del dry_run["fingerprint"]
        return {
            "order": [as_dict(disk) for disk in self.disks],
            "steps": [{"merge": child, "into": parent} for child, parent in self.run.steps],
            "above": list(self.run.above),
            "pairwise_bytes": self.pairwise_bytes,
            "merge": dry_run,
            "output": self.output,
            "warnings": self.warnings,
            "refused": None if self.refused is None else self.refused.as_dict(),
        }


@dataclass
class PilePlan:
    """What a folder holds and what would be done with it. Writes nothing by itself."""

    survey: Survey
    piles: list[Pile]
    keep_name: str
    short_of_room: ImageError | None = None
    in_place: bool = False

    @property
    def forest(self) -> Forest:
        return self.survey.forest

    @property
    def refused(self) -> ImageError | None:
        """The first thing that keeps these piles from being merged as one job."""
        return next((pile.refused for pile in self.piles if pile.refused), self.short_of_room)

    def steps(self) -> list[Step]:
        """The work, for apply(). Raises what the plan refuses."""
        if self.refused is not None:
            raise self.refused
        return [pile.step for pile in self.piles]

    @property
    def unread(self) -> dict[str, ImageError]:
        """Files and folders that may build on a merged disk, for all that can be read of them.

        apply() asks for a declaration of each.
        """
        return {path: error for pile in self.piles for path, error in pile.merge.unread.items()}

    @property
    def free_space_needed_bytes(self) -> int:
        """At the peak: by copy every result beside all old files, which stay in the trash."""
        return _room_bytes([pile.merge for pile in self.piles])

    def as_dict(self) -> dict[str, Any]:
        forest = self.forest
        inside = [member for member in forest.members.values() if member.inside]
        refused = self.refused
        return {
            "folder": self.survey.folder,
            "disks": len(inside),
            "differencing": sum(member.is_differencing for member in inside),
            "allocated_bytes": sum(member.allocated_bytes for member in inside),
            "keep_name": self.keep_name,
            "in_place": self.in_place,
            "piles": [pile.as_dict() for pile in self.piles],
            "bytes_to_copy": sum(pile.merge.amount.held_bytes for pile in self.piles),
            "free_space_needed_bytes": self.free_space_needed_bytes,
            "space_back_when_trash_emptied_bytes": sum(
                pile.merge.space_back_bytes for pile in self.piles
            ),
            "seconds": None,
            "branches": branches(forest),
            "orphans": [
                {
                    "path": one.path,
                    "code": one.lost.code,
                    "reason": one.lost.reason,
                    "suggested": one.lost.suggested,
                }
                for one in forest.orphans
                if one.lost is not None
            ],
            "rings": [list(ring) for ring in forest.rings],
            "strangers": strangers(self.survey),
            "needed_outside": [
                {"path": path, "children": children} for path, children in forest.needed_outside
            ],
            "unread": [error.as_dict() for error in self.survey.unread],
            "refused": None if refused is None else refused.as_dict(),
        }


# ---------------------------------------------------------------------- planning


def plan(
    folder: str,
    roots: Roots,
    *,
    keep_name: str = merge.PARENT,
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
            progress=progress,
        )

    piles = [judged(forest, run, dry_run(run), roots) for run in runs]
    return PilePlan(found, piles, keep_name, shortage(piles, roots), in_place)


def chosen(runs: Sequence[Run], leaves: Sequence[str]) -> list[Run]:
    """The runs that end in these leaves, or all. Raises E_NO_PILE."""
    by_leaf = {run.leaf: run for run in runs}
    for leaf in leaves:
        if leaf not in by_leaf:
            those = f"Those that are: {_listed(list(by_leaf))}." if by_leaf else "No disk here is."
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
            short = space.shortage(_room_bytes(merges), space.space_of(folder), pile.output)
        finally:
            os.close(folder)
        if short is not None:
            return short
    return None


def _room_bytes(merges: Sequence[MergePlan]) -> int:
    """What merges one after the other need on a file system; a journal is over with its merge."""
    journals = [merge.measured.journal_bytes for merge in merges if merge.measured]
    return sum(merge.needed_bytes for merge in merges) - sum(journals) + max(journals, default=0)


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
            f"{_listed(list(branch.twins))} are the same disk twice, and both build on "
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
            f"{_listed(outside)} lies outside of the folder. Other disks that build on it are "
            "known only where they lie below a storage root."
        )
    elsewhere = [disk.path for disk in disks if disk.elsewhere]
    if elsewhere:
        yield (
            f"The parent of {_listed(elsewhere)} was found by its identity alone: no path in "
            "the header leads to it, so Windows would not find it."
        )
    for disk in disks:
        others = forest.twins.get(disk.path)
        if others:
            yield (
                f"{_listed(others)} has the same identity as {disk.path} (a copy, a backup). "
                "It is left alone; the path in the headers decides which one belongs here."
            )
    if plan.new is not None and plan.new.parent is None:
        name = os.path.basename(plan.output)
        if name.lower().endswith(CHECKPOINT_ENDINGS):
            yield (
                f"The merged disk will be whole, but its name {name} is that of a checkpoint. "
                "Keep the parent's name, unless a machine expects this one."
            )


def branches(forest: Forest) -> list[dict[str, Any]]:
    """Every disk with several children, and what can be done about it."""
    rows = []
    for branch in forest.branches:
        newest = forest.newest(branch)
        count = len(branch.children)
        if branch.twins:
            why = "Some of them are copies of one disk: one of these is too many."
            way_out = "Move the copy that nobody needs out of the storage roots, then look again."
        else:
            why = "Merging one of them into it would ruin the others."
            way_out = (
                "Merge each leaf that is needed to a new disk, which leaves all others alone; or "
                "keep the branch. A leaf that nobody needs can be moved out of the storage roots."
            )
        guess = (
            f"The leaf last written is {newest}: probably the one that a machine uses."
            if newest
            else "Which leaf a machine uses cannot be told: the last two were written together."
        )
        rows.append(
            {
                "parent": branch.parent,
                "children": list(branch.children),
                "leaves": [as_dict(forest.members[path]) for path in branch.leaves],
                "newest": newest,
                "twins": list(branch.twins),
                "sentence": f"{count:,} disks build on {branch.parent}. {why} {guess}",
                "way_out": way_out,
            }
        )
    return rows


def strangers(found: Survey) -> list[dict[str, str]]:
    """Files in the folder that belong to no chain, each with the reason."""
    twins = found.forest.twins
    rows = []
    for one in found.forest.alone:
        reason = f"A {one.disk_type} disk on which nothing builds here."
        if one.path in twins:
            reason += f" It has the same identity as {_listed(twins[one.path])}."
        rows.append({"path": one.path, "code": "", "reason": reason})
    rows += [
        {"path": str(error.file), "code": error.code, "reason": error.message}
        for error in found.no_disks
    ]
    return sorted(rows, key=lambda row: row["path"])


def as_dict(member: Member) -> dict[str, Any]:
    """A disk as the documents carry it."""
    by = "identity" if member.elsewhere else "header"
    return {
        "path": member.path,
        "identity": member.identity,
        "type": member.disk_type,
        "virtual_size_bytes": member.virtual_size_bytes,
        "file_size_bytes": member.file_size_bytes,
        "allocated_bytes": member.allocated_bytes,
        "modified": moment_of(member.mtime_ns),
        "outside": not member.inside,
        "parent_found_by": by if member.parent is not None else None,
    }


# ---------------------------------------------------------------------- carrying out


def apply(
    steps: Sequence[Step],
    roots: Roots,
    *,
    offline: bool = False,
    unrelated: Collection[str] = (),
    job: str = "",
    token: int = 0,
    progress: Progress | None = None,
    children_of: ChildrenOf | None = None,
    done: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Merge these piles one after the other; the documents of all merges.

    Each is planned and compared with what was shown when its turn comes (E_CHANGED). The
    first error, or a cancel, ends the work (Stopped, in the middle of a merge in place);
    piles merged before that stay merged. Begun again with the same steps by the same job, it
    passes over those that are done, and goes on with the one that was stopped.

    unrelated    as merge.apply() has it, of all these piles
    children_of  as merge.plan() has it; it must know what the merges so far have changed
    done         told of each merge as soon as it is complete
    """
    progress = progress or Progress()
    job = copying.job_name(job)
    total = sum(step.work_bytes for step in steps)
    rows: list[dict[str, Any]] = []
    begin = 0
    progress.step("merge", f"Merging {'one pile' if len(steps) == 1 else f'{len(steps):,} piles'}")
    for number, step in enumerate(steps, 1):
        label = f"pile {number:,} of {len(steps):,}: " if len(steps) > 1 else ""
        part = _Part(progress, label, begin, step, total)
        row = _begun_before(step, roots, job, token, part)
        if row is None:
            fresh = _planned_again(step, roots, part, children_of)
            row = merge.apply(
                fresh,
                roots,
                offline=offline,
                unrelated=unrelated,
                job=job,
                token=token,
                progress=part,
                children_of=children_of,
            )
        progress.commit_ends()
        if not row.get("was_done"):
            progress.log(
                f"{label}merged {len(step.levels):,} disks into {shown(step.output)}, "
                f"{size_text(row['bytes_written'])} in {row['seconds']:.1f} s"
            )
        rows.append(row)
        if done is not None:
            done(row)
        begin += step.work_bytes
    return rows


def _planned_again(
    step: Step, roots: Roots, progress: Progress, children_of: ChildrenOf | None
) -> MergePlan:
    """The merge of a pile whose turn has come. Raises what the plan refuses, E_CHANGED."""
    fresh = merge.plan(
        step.leaf,
        roots,
        base=step.base,
        into_parent=True,
        keep_name=step.keep_name,
        in_place=step.in_place,
        children_of=children_of,
        scan=children_of is None,  # the headers are read again under lock in any case
        progress=progress,
    )
    if fresh.refused is not None:
        raise fresh.refused
    now = {level.path: fresh.fingerprints[level.path] for level in fresh.levels}
    if list(now) != [path for path, _ in step.levels]:
        raise fingerprints.changed(step.leaf, "got another chain of parents")
    for path, seen in step.levels:
        if now[path] != seen:
            raise fingerprints.changed(path)
    return fresh


def _begun_before(
    step: Step, roots: Roots, job: str, token: int, progress: Progress
) -> dict[str, Any] | None:
    """The document of a merge that an earlier attempt has begun, else None. Raises Stopped."""
    row = None
    if step.in_place:
        row = merge_again.go_on(step.base, roots, job=job, token=token, progress=progress)
    levels = [(path, seen.file) for path, seen in step.levels]
    return row or merge_again.finished(
        step.output, step.gone, levels, roots, in_place=step.in_place
    )


_SUMS = (
    "file_size_before_bytes",
    "file_size_after_bytes",
    "bytes_written",
    "space_back_when_trash_emptied_bytes",
    "seconds",
    "copy_seconds",
    "proof_seconds",
)


def outcome(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All merges in one document: their sums, and each under `merges`."""
    result: dict[str, Any] = {key: sum(row.get(key) or 0 for row in rows) for key in _SUMS}
    for key in ("seconds", "copy_seconds", "proof_seconds"):
        result[key] = round(result[key], 3)
    for key in ("commands", "warnings", "relinked", steps.TO_REPAIR):
        result[key] = [one for row in rows for one in row.get(key) or ()]
    disks = sum(len(row["levels"]) for row in rows)
    piles = "1 pile" if len(rows) == 1 else f"{len(rows):,} piles"
    ending = steps.and_to_repair(result)
    result["sentence"] = f"Merged {piles}: {disks:,} disks became {len(rows):,}{ending}"
    in_place = any(row.get("in_place") for row in rows)
    return result | {"in_place": in_place, "merges": list(rows)}


class _Part(Progress):
    """Progress of one merge as a part of the whole, which counts copying and proof of all."""

    def __init__(self, whole: Progress, label: str, begin: int, step: Step, total: int) -> None:
        self._whole = whole
        self._label = label
        self._begin = begin
        self._held = step.held_bytes
        self._all = step.work_bytes
        self._total = total
        self._before = 0  # bytes of the merge's earlier stages
        self._is_begun = False

    def step(self, step: str, sentence: str) -> None:
        self._before = {"proof": self._held, "commit": self._all}.get(step, 0)
        self._is_begun = False
        self._tell(0, sentence)

    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        if not self._is_begun:  # a merge that goes on has most of its bytes behind it
            self._is_begun = True
            self.begins_at(done_bytes)
        self._tell(done_bytes, sentence)

    def begins_at(self, done_bytes: int) -> None:
        self._whole.begins_at(self._done(done_bytes))

    def _tell(self, done_bytes: int, sentence: str | None) -> None:
        said = None if sentence is None else f"{self._label}{sentence}"
        self._whole.report(self._done(done_bytes), self._total, said)

    def _done(self, done_bytes: int) -> int:
        return self._begin + self._before + min(done_bytes, self._held)

    def moved(self, count_bytes: int) -> None:
        self._whole.moved(count_bytes)

    def at_once_bytes(self, most_bytes: int) -> int:
        return self._whole.at_once_bytes(most_bytes)

    def log(self, sentence: str) -> None:
        self._whole.log(f"{self._label}{sentence}")

    def commit_starts(self) -> None:
        self._whole.commit_starts()

    def commit_ends(self) -> None:
        self._whole.commit_ends()


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _NAMED:,} more" if len(paths) > _NAMED else ""
    return ", ".join(paths[:_NAMED]) + more
