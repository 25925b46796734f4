"""Carrying out: piles merged one after the other, and gone on with where that was broken off."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from disks.engine.files import FileIdentity
from disks.engine.units import size_text
from disks.operations import copying, fingerprints, merge, merge_again, steps
from disks.operations.family import ChildrenOf
from disks.operations.merge_plan import MergePlan
from disks.operations.paths import Roots
from disks.operations.pile import Step
from disks.operations.progress import Progress
from disks.operations.windows import shown


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
    untouched: FileIdentity | None = None,
) -> list[dict[str, Any]]:
    """Merge these piles one after the other; the documents of all merges.

    Each is planned and compared with what was shown when its turn comes (E_CHANGED). The
    first error, or a cancel, ends the work (Stopped, in the middle of a merge in place);
    piles merged before that stay merged. Begun again with the same steps by the same job, it
    passes over those that are done, and goes on with the one that was stopped.

    unrelated    as merge.apply() has it, of all these piles
    children_of  as merge.plan() has it; it must know what the merges so far have changed
    done         told of each merge as soon as it is complete
    untouched    as merge_again.go_on() has it, of the merge that was stopped
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
        row = _begun_before(step, roots, job, token, part, untouched)
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
    step: Step,
    roots: Roots,
    job: str,
    token: int,
    progress: Progress,
    untouched: FileIdentity | None,
) -> dict[str, Any] | None:
    """The document of a merge that an earlier attempt has begun, else None. Raises Stopped."""
    row = None
    if step.in_place:
        row = merge_again.go_on(
            step.base, roots, job=job, token=token, progress=progress, untouched=untouched
        )
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
