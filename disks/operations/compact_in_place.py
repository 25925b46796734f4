"""Compact a disk where it lies: no room needed, and only as many blocks are moved as go.

A sequence of small changes, each through the journalled rewrite and each leaving a valid disk
of the same content: entries of blocks that hold nothing of their own are taken out of the
table; the highest blocks are copied into the lowest free room, read back, and only then named
by the table; in the end the file is cut off behind what is used. So it may be stopped after
any of them, and to go on is to run it again (crash-safety §3). Identity, owner, rights and
every name of the file stay.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from typing import Any

from disks.engine.chain import Chain, open_chain
from disks.engine.changes import Compaction, HeaderRewrite, Move, Round
from disks.engine.check import check_image
from disks.engine.errors import ImageError
from disks.engine.files import FileIdentity
from disks.engine.findings import Level
from disks.engine.formats import open_image
from disks.engine.images import Image
from disks.operations import (
    compact_plan,
    copying,
    fingerprints,
    guards,
    in_use,
    journal,
    locks,
    rewriting,
)
from disks.operations.compact_plan import CompactPlan, describe, require_same
from disks.operations.family import ChildrenOf
from disks.operations.looks import Looks
from disks.operations.pages import PAGE_BYTES
from disks.operations.paths import Roots
from disks.operations.progress import Progress
from disks.operations.rewriting import kinds
from disks.operations.verdicts import GOES, STAYS, Judged, Verdict, judge, likely

_MOVES_PER_READ = 6  # read, write, flush and read back, each slower than the read of a look
_WORDS = {
    Verdict.ZERO: "of zeros",
    Verdict.UNWRITTEN: "without a sector",
    Verdict.SAME: "equal to what the parent gives",
    Verdict.STATED: "of zeros that need no room to hide the parent's data",
    Verdict.DATA: "of data",
    Verdict.PARTLY: "partly of zeros",
    Verdict.HIDING: "of zeros that hide the parent's data",
}


@dataclass
class InPlacePlan(CompactPlan):
    """The dry run.

    counts      blocks by reason, of those that were looked at
    zero_bytes  zeros inside of the blocks that stay, in whole pieces of 4 KiB
    bytes_to_look         what is read to find the blocks that go; about, if estimated
    moves, bytes_to_move  what is copied inside of the file; about, if estimated
    seconds     about how long it takes, the reading back (proof_seconds) included
    """

    counts: dict[Verdict, int] = field(default_factory=dict)
    zero_bytes: int = 0
    bytes_to_look: int = 0
    moves: int = 0
    bytes_to_move: int = 0
    seconds: float | None = None
    proof_seconds: float | None = None

    in_place = True

    @property
    def why(self) -> str:
        going = self._reasons(GOES)
        staying = self._reasons(STAYS)
        if not self.blocks:
            return "it stores no block."
        about = "about " if self.estimated else ""
        if not going and len(staying) == 1:
            return f"no block can go: all are {staying[0][1]}."
        if not going:
            return f"no block can go; {self.blocks:,} stay: {_list(staying)}."
        dropped = self.blocks - self.blocks_kept
        rest = f"; {self.blocks_kept:,} stay: {_list(staying)}" if staying else ""
        return f"{about}{dropped:,} of {self.blocks:,} blocks can go: {_list(going)}{rest}."

    def _reasons(self, verdicts: tuple[Verdict, ...]) -> list[tuple[int, str]]:
        found = [(self.scaled(verdict), _WORDS[verdict]) for verdict in verdicts]
        return [(count, words) for count, words in found if count]

    def scaled(self, verdict: Verdict) -> int:
        """Blocks of a verdict in the whole disk, as far as it was looked at."""
        count = self.counts.get(verdict, 0)
        if not self.estimated or not self.blocks_read:
            return count
        return round(count * self.blocks / self.blocks_read)

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {
            "bytes_written": self.bytes_to_move,
            "blocks_to_move": self.moves,
            "bytes_to_move": self.bytes_to_move,
            "reasons": [
                {
                    "verdict": str(verdict),
                    "goes": verdict in GOES,
                    "blocks": self.scaled(verdict),
                    "words": _WORDS[verdict],
                }
                for verdict in (*GOES, *STAYS)
                if self.scaled(verdict)
            ],
            "zero_bytes_in_blocks_that_stay": self.zero_bytes,
            "seconds": self.seconds,
            "copy_seconds": self.seconds,
            "proof_seconds": self.proof_seconds,
            "space_back_when_trash_emptied_bytes": 0,
            "trash": [],
        }


def plan(
    path: str,
    roots: Roots,
    *,
    time_budget_seconds: float | None = None,
    progress: Progress | None = None,
) -> InPlacePlan:
    """See compact.plan."""
    result = InPlacePlan(path)
    try:
        journal.require_settled(roots, [path])  # first: half changed, it reads as anything
        with open_chain(path, roots) as chain:
            _describe(result, chain, roots)
            _measure(result, chain, time_budget_seconds, progress)
    except ImageError as error:
        result.refused = error
    else:
        result.warnings += in_use.warnings(roots, result.exclusive, result.shared)
    return result


def apply(
    plan: InPlacePlan,
    roots: Roots,
    *,
    offline: bool = False,
    job: str = "",
    token: int = 0,
    progress: Progress | None = None,
    children_of: ChildrenOf | None = None,
) -> dict[str, Any]:
    """Carry a plan out. Returns the document of the finished compaction.

    Locks, looks at every block once, and changes what it finds then. Cancelled out of progress,
    or an error, leave what the steps before it have done: a valid disk of the same content.

    Raises what the plan refuses, E_CHANGED, E_NOT_OFFLINE, E_MANAGED, E_LOCKED, E_IN_USE,
    E_VERIFY, E_NOSPC (the file has holes, and its blocks need room where none was stored).
    """
    progress = progress or Progress()
    if plan.refused is not None:
        raise plan.refused
    job = copying.job_name(job)
    started = time.monotonic()
    with locks.hold(roots, plan.exclusive, plan.shared, job=job, token=token):
        journal.require_settled(roots, plan.exclusive)
        fresh = InPlacePlan(plan.path)
        progress.step("check", f"Looking at {os.path.basename(plan.path)} once more")
        with open_chain(plan.path, roots) as chain:
            _describe(fresh, chain, roots)
            require_same(plan, fresh)
            guards.require_offline(fresh.managers, offline=offline)
            image = chain.images[0]
            fresh.children = compact_plan.children(fresh, image, roots, children_of, progress)
            keep_mtime = compact_plan.kept_mtime(fresh, image, roots) is not None
            progress.step("look", "Looking for blocks that hold nothing of their own")
            judged = judge(chain, thorough=False, progress=progress)
            compaction = image.plan_compaction(judged.absent, judged.zeros)
        work = _Work(fresh, roots, job, token, keep_mtime, progress)
        proof_seconds = round(work.carry_out(compaction), 3)
        size_after = roots.stat(plan.path).st_size
    seconds = round(time.monotonic() - started, 3)
    return {
        "output": fresh.path,
        "in_place": True,
        "replaced": False,
        "virtual_size_bytes": fresh.virtual_size_bytes,
        "file_size_before_bytes": fresh.file_size_bytes,
        "file_size_after_bytes": size_after,
        "freed_bytes": max(0, fresh.file_size_bytes - size_after),
        "blocks_dropped": judged.going,
        "blocks_moved": compaction.moves,
        "bytes_written": compaction.bytes_moved,
        "seconds": seconds,
        "copy_seconds": round(seconds - proof_seconds, 3),
        "proof_seconds": proof_seconds,
        "content_sha256": None,
        "warnings": fresh.warnings,
    }


# ---------------------------------------------------------------------- planning


def _describe(result: InPlacePlan, chain: Chain, roots: Roots) -> None:
    """Everything that needs no block read. Raises what stands in the way."""
    describe(result, chain, roots, so="nothing is moved in it")
    file = chain.images[0].file
    guards.require_one_name(file)
    result.warnings = [finding.message for finding in guards.recent_write(roots, file)]


def _measure(
    result: InPlacePlan, chain: Chain, budget: float | None, progress: Progress | None
) -> None:
    image = chain.images[0]
    began = time.monotonic()
    judged = judge(chain, time_budget_seconds=budget, progress=progress)
    seconds = time.monotonic() - began
    result.blocks, result.blocks_read = judged.total, judged.read
    result.estimated = not judged.complete
    result.counts, result.zero_bytes = judged.counts, judged.zero_bytes
    compaction = image.plan_compaction(judged.absent, judged.zeros)
    result.predicted_size_bytes = compaction.size_after_bytes
    result.moves, result.bytes_to_move = compaction.moves, compaction.bytes_moved
    result.blocks_kept = judged.total - judged.going
    result.size_bounds_bytes = (result.predicted_size_bytes,) * 2
    if result.estimated:
        _extrapolate(result, judged, image.block_size_bytes)
    if judged.read_bytes and seconds:
        share = judged.total / judged.read
        result.bytes_to_look = round(judged.needed_bytes * share)
        per_byte = seconds / judged.read_bytes
        result.proof_seconds = round(per_byte * result.bytes_to_move, 1)
        moving = per_byte * result.bytes_to_move * _MOVES_PER_READ
        result.seconds = round(seconds * share + moving, 1)


def _extrapolate(result: InPlacePlan, judged: Judged, block_bytes: int) -> None:
    """From the blocks that were looked at to all of them."""
    seen, total = judged.going, judged.total
    going = round(total * seen / judged.read) if judged.read else 0
    low, high = likely(seen, judged.read, total)
    now = result.predicted_size_bytes  # without those that were seen to go

    def size(dropped: int) -> int:
        return max(0, now - (dropped - seen) * block_bytes)

    result.blocks_kept = total - going
    result.predicted_size_bytes = size(going)
    result.size_bounds_bytes = (size(high), size(low))
    result.moves = min(going, total - going)
    result.bytes_to_move = result.moves * block_bytes


def _list(reasons: list[tuple[int, str]]) -> str:
    words = [f"{count:,} {reason}" for count, reason in reasons]
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


# ---------------------------------------------------------------------- carrying out


@dataclass
class _Work:
    """The disk under its lock, and the rewrites of it, one after the other."""

    plan: InPlacePlan
    roots: Roots
    job: str
    token: int
    keep_mtime: bool
    progress: Progress

    def carry_out(self, compaction: Compaction) -> float:
        """Returns for how many seconds copies were read back, before the table named them."""
        expected = self.plan.fingerprints[self.plan.path].file
        self.progress.step("move", f"Moving {compaction.moves:,} blocks down")
        moving = _Moving(self.progress, compaction)
        for one in compaction.rounds:
            moving.between()
            expected = self._round(one, expected, moving)
        moving.between()
        self._end(expected)
        self._require_sound()
        return moving.proof_seconds

    def _round(self, one: Round, expected: FileIdentity, progress: Progress) -> FileIdentity:
        with self.roots.open(self.plan.path) as file:
            before = _looks(open_image(file), whole=not one.drops)
        return self._rewrite(
            lambda image: image.plan_round(one),
            lambda image: _require_round(image, before, one),
            expected,
            progress,
        )

    def _end(self, expected: FileIdentity) -> None:
        with self.roots.open(self.plan.path) as file:
            image = open_image(file)
            if image.plan_end() is None:
                return
            before = _looks(image, whole=True)
        self._rewrite(_planned_end, lambda image: _require_same_disk(image, before), expected)

    def _rewrite(
        self,
        build: Any,
        check: Any,
        expected: FileIdentity,
        progress: Progress | None = None,
    ) -> FileIdentity:
        """One journalled change; the file's identity after it."""
        change = rewriting.Change(
            build=build,
            check=check,
            about=kinds.COMPACT,
            keep_mtime=self.keep_mtime,
            progress=progress or self.progress,
        )
        path = self.plan.path
        rewriting.rewrite(
            self.roots, path, change, expected=expected, job=self.job, token=self.token
        )
        self.progress.commit_ends()
        with self.roots.open(path) as file:
            if file.stat().st_ino != expected.inode:
                raise fingerprints.changed(path)
            return file.identity()

    def _require_sound(self) -> None:
        with self.roots.open(self.plan.path) as file:
            for finding in check_image(file):
                if finding.level is Level.ERROR:
                    why = f"its structure is damaged: {finding.message}"
                    raise rewriting.unverified(self.plan.path, why)


def _planned_end(image: Image) -> HeaderRewrite:
    planned = image.plan_end()
    if planned is None:
        raise fingerprints.changed(image.file.path)
    return planned


def _looks(image: Image, *, whole: bool) -> Looks:
    """whole: also where the disk has content, though not where that lies."""
    looks = Looks.of(image, places=False)
    return looks if whole else replace(looks, extents=[])


def _require_same_disk(image: Image, before: Looks) -> None:
    """E_VERIFY unless it opens as the same disk."""
    if _looks(image, whole=bool(before.extents)) != before:
        raise rewriting.unverified(image.file.path, "it reads as another disk")


def _require_round(image: Image, before: Looks, one: Round) -> None:
    """The same disk, and the edges of what was copied as they were; the rest was read back."""
    _require_same_disk(image, before)
    edges = [(move, at) for move in one.moves for at in {0, max(0, move.length - PAGE_BYTES)}]
    # Asked for together and by themselves: read one by one, and ahead, they take longer than
    # the copies took.
    image.file.hint(0, 0, os.POSIX_FADV_RANDOM)
    for move, at in edges:
        for start in (move.source, move.target):
            image.file.hint(start + at, PAGE_BYTES, os.POSIX_FADV_WILLNEED)
    for move, at in edges:
        _require_copied(image, move, at)


def _require_copied(image: Image, move: Move, at: int) -> None:
    length = min(PAGE_BYTES, move.length - at)
    old, new = (image.file.read_at(start + at, length) for start in (move.source, move.target))
    if old != new:
        raise rewriting.unverified(image.file.path, f"a copy differs at byte {move.target + at:,}")


class _Moving(Progress):
    """The bytes that all rounds move, seen from outside."""

    def __init__(self, progress: Progress, compaction: Compaction) -> None:
        self._progress = progress
        self._total = compaction.bytes_moved
        self._done = 0
        self.proof_seconds = 0.0

    def between(self) -> None:
        """All is whole: a wish to stop is heard here."""
        self._progress.report(self._done, self._total)

    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        moved = self._done + done_bytes
        self._progress.report(moved, self._total, "moving blocks down")
        if done_bytes == total_bytes:
            self._done = moved

    def moved(self, count_bytes: int) -> None:
        self._progress.moved(count_bytes)

    def proved(self, seconds: float) -> None:
        self.proof_seconds += seconds

    def commit_starts(self) -> None:
        self._progress.commit_starts()
