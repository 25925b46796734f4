"""Compact a disk by rewriting it without the blocks that hold nothing of their own.

A dynamic disk loses its blocks of zeros. A differencing disk loses a block only if no
sector of it is held, or if every held sector equals what the parent chain gives there:
a held sector of zeros may hide the parent's data. Identity, creator, geometry and parent
link stay, because the content stays (crash-safety §3 "Rewrite").
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from disks.engine.chain import Chain, open_chain
from disks.engine.errors import ImageError
from disks.engine.formats import by_name, open_image
from disks.engine.images import DiskType, Image
from disks.engine.new_image import NewImage
from disks.engine.parent_link import LocatorRole, NewParent
from disks.engine.units import SECTOR_BYTES
from disks.operations import (
    copying,
    fingerprints,
    guards,
    in_use,
    locks,
    ownership,
    replacing,
    rules,
    space,
    trash,
)
from disks.operations.compact_plan import CompactPlan, children, describe, kept_mtime, require_same
from disks.operations.content import ChainContent
from disks.operations.copying import Copied, Draft
from disks.operations.counting import Amount, count
from disks.operations.family import ChildrenOf
from disks.operations.output_blocks import is_zero, read_block, whole_blocks
from disks.operations.paths import Roots
from disks.operations.progress import Progress
from disks.operations.rewriting import writing
from disks.operations.rollback import rolling_back
from disks.operations.streaming import Verdict, stream
from disks.operations.verdicts import likely, spread


@dataclass
class RewritePlan(CompactPlan):
    """The dry run. new, amount: the copy, and what it has to take at most."""

    new: NewImage | None = None
    amount: Amount = field(default_factory=lambda: Amount(0, 0))

    @property
    def gone(self) -> str:
        holding = by_name(self.format_name).holding(self.new) if self.new else None
        if holding is not None and holding.states_zeros:
            return "hold nothing but zeros, or nothing that differs from the parent"
        return super().gone

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {
            "bytes_written": self.predicted_size_bytes,
            "bytes_to_copy": self.amount.held_bytes,
            "space_back_when_trash_emptied_bytes": self.allocated_bytes,
            "trash": [self.path],
        }


def plan(
    path: str,
    roots: Roots,
    *,
    time_budget_seconds: float | None = None,
    progress: Progress | None = None,
) -> RewritePlan:
    """Look at every block, or at as many as the time allows, and write nothing.

    time_budget_seconds  None: exact. Else the figures are estimated from blocks spread
                         evenly over the disk, unless all could be read in that time.

    What stands in the way is in the plan's `refused`, not raised.
    """
    result = RewritePlan(path)
    try:
        with open_chain(path, roots) as chain:
            _describe(result, chain, roots)
            _measure(result, chain, time_budget_seconds, progress)
            _check_room(result, roots)
    except ImageError as error:
        result.refused = error
    else:
        result.warnings += in_use.warnings(roots, result.exclusive, result.shared)
    return result


def apply(
    plan: RewritePlan,
    roots: Roots,
    *,
    offline: bool = False,
    job: str = "",
    token: int = 0,
    progress: Progress | None = None,
    children_of: ChildrenOf | None = None,
) -> dict[str, Any]:
    """Rewrite the disk and put the copy in its place. Returns the finished job's document.

    Safety and errors as in merge.apply. A copy that came out no smaller is thrown away,
    and the disk stays as it is (`"replaced": false`).
    """
    progress = progress or Progress()
    if plan.refused is not None:
        raise plan.refused
    job = copying.job_name(job)
    with locks.hold(roots, plan.exclusive, plan.shared, job=job, token=token):
        fresh = RewritePlan(plan.path)
        progress.step("check", f"Looking at {os.path.basename(plan.path)} once more")
        with open_chain(plan.path, roots) as chain:
            _describe(fresh, chain, roots)
            require_same(plan, fresh)
            guards.require_offline(fresh.managers, offline=offline)
            fresh.children = children(fresh, chain.images[0], roots, children_of, progress)
            return _rewrite(fresh, chain, roots, job, token, progress)


# ---------------------------------------------------------------------- planning


def _describe(result: RewritePlan, chain: Chain, roots: Roots) -> None:
    """Everything that needs no block read. Raises what stands in the way."""
    describe(result, chain, roots, so="no copy takes its place")
    guards.require_movable(chain.images[0].file)
    small = rules.size_refusal(zip(chain.paths[:2], chain.images[:2], strict=True))
    if small is not None:
        raise small
    result.new = _new_image(chain.images[0])
    result.warnings += rules.smaller_blocks(chain.images[0], result.new)
    result.amount = count(_content(chain), copying.unit_bytes(result.new))
    result.blocks = result.amount.blocks


def _content(chain: Chain) -> ChainContent:
    """What the disk itself holds, without its ancestors."""
    return ChainContent(chain.levels(0, 0))


def _new_image(image: Image) -> NewImage:
    """The same disk once more. The whole old link is put back after writing, see _keep_link."""
    new = NewImage(
        image.disk_type,
        image.virtual_size_bytes,
        rules.block_bytes_of(image),
        identity=image.identity,
        parent=_same_parent(image),
    )
    return replace(new, **image.copy_traits())


def _same_parent(image: Image) -> NewParent | None:
    parent = image.parent
    if parent is None:
        return None
    paths: dict[LocatorRole, str] = {}
    for locator in parent.locators:
        if locator.path and not locator.problem:
            paths.setdefault(locator.role, locator.path)
    return NewParent(
        parent.identity,
        parent.name or "",
        paths.get(LocatorRole.RELATIVE),
        paths.get(LocatorRole.PATH),
        parent.timestamp,
    )


def _verdict(chain: Chain) -> Verdict | None:
    """Which blocks of a differencing disk stay; None for a dynamic disk (zeros go)."""
    if chain.images[0].disk_type is not DiskType.DIFFERENCING:
        return None
    below = ChainContent(chain.levels(1, len(chain.images) - 1))
    buffer = memoryview(bytearray(64 * 1024))

    def keep(first_sector: int, data: memoryview, held: list[tuple[int, int]]) -> bool:
        for start, length in held:
            for at in range(start, start + length, len(buffer)):
                size = min(len(buffer), start + length - at)
                read_block(below, first_sector + at // SECTOR_BYTES, buffer[:size])
                # bytearray == memoryview is a plain memory comparison; the reverse is slow.
                if bytearray(data[at : at + size]) != buffer[:size]:
                    return True
        return False

    return keep


def _measure(
    result: RewritePlan, chain: Chain, budget: float | None, progress: Progress | None
) -> None:
    """How many blocks stay: counted, or estimated within the time given."""
    assert result.new is not None  # noqa: S101 - _describe filled it
    unit = copying.unit_bytes(result.new)
    format = by_name(result.format_name)
    keep = _verdict(chain)
    bitmaps: int | None
    if budget is None:
        seen = stream(
            _content(chain),
            unit,
            holding=format.holding(result.new),
            keep=keep,
            progress=progress,
            expected=result.amount,
            verb="reading",
        )
        result.blocks_read, result.blocks_kept, bitmaps = result.blocks, seen.blocks, seen.bitmaps
    else:
        bitmaps = _sample(result, chain, unit, keep, budget)
    result.predicted_size_bytes = format.predicted_size_bytes(
        result.new, result.blocks_kept, bitmaps
    )
    if not result.estimated:
        result.size_bounds_bytes = (result.predicted_size_bytes,) * 2
    # All blocks may turn out to be needed, and room is reserved before the first is read.
    result.free_space_needed_bytes = format.predicted_size_bytes(result.new, result.blocks)


def _sample(
    result: RewritePlan, chain: Chain, unit: int, keep: Verdict | None, budget: float
) -> int | None:
    """Read blocks spread evenly over the disk until the time is over.

    Returns how many sector bitmaps take room of their own, None if not all was read.
    """
    assert result.new is not None  # noqa: S101 - see _measure
    deadline = time.monotonic() + budget
    content = _content(chain)
    per_block = unit // SECTOR_BYTES
    allocated = array("Q")
    total_sectors = result.virtual_size_bytes // SECTOR_BYTES
    for run in content.runs(0, total_sectors):
        first = run.first_sector // per_block
        final = (run.first_sector + run.count_sectors - 1) // per_block
        blocks: Iterable[int] = range(first, final + 1)
        if run.file is None:  # stated zeros: only at their ends a block may hold something
            end = run.first_sector + run.count_sectors
            sides = {first, final} - whole_blocks(run.first_sector, end, per_block, total_sectors)
            blocks = sorted(sides)
        for block in blocks:
            if not allocated or allocated[-1] != block:
                allocated.append(block)
    total = len(allocated)
    buffer = memoryview(bytearray(unit))
    holding = by_name(result.format_name).holding(result.new)
    bitmaps: set[int] = set()
    kept = read = 0
    for index in spread(total):
        first = allocated[index] * per_block
        length = min(unit, result.virtual_size_bytes - first * SECTOR_BYTES)
        data = buffer[:length]
        held = read_block(content, first, data)
        whole = sum(part[1] for part in held) == length
        zeros_go = holding is None or (holding.states_zeros and whole)
        if not (zeros_go and is_zero(data)) and (keep is None or keep(first, data, held)):
            kept += 1
            if holding and holding.bitmap_sectors and not whole:
                bitmaps.add(first // holding.bitmap_sectors)
        read += 1
        if time.monotonic() >= deadline:
            break
    result.blocks, result.blocks_read = total, read
    result.estimated = read < total
    low, high = likely(kept, read, total)
    result.blocks_kept = round(total * kept / read) if read else 0
    size = by_name(result.format_name).predicted_size_bytes
    result.size_bounds_bytes = (size(result.new, low), size(result.new, high))
    return None if result.estimated else len(bitmaps)


def _check_room(result: RewritePlan, roots: Roots) -> None:
    result.free_space_bytes, short = space.shortage_at(
        roots, result.path, result.free_space_needed_bytes
    )
    if short is not None:
        raise short


# ---------------------------------------------------------------------- carrying out


def _rewrite(
    result: RewritePlan, chain: Chain, roots: Roots, job: str, token: int, progress: Progress
) -> dict[str, Any]:
    image = chain.images[0]
    manifest = trash.planned(
        roots,
        job=trash.free_job(roots, [result.path], copying.job_word(job)),
        kind="compact",
        summary=f"Compacted {result.path}",
        replacement=result.path,
        put_away=[(result.path, result.fingerprints[result.path].file, image.identity, "replaced")],
    )
    draft = Draft(roots, result.path, job=job, token=token)
    work = replacing.Replacement(
        kind="compact",
        surviving=result.path,
        temp_path=draft.temp_path,
        manifest=manifest,
        job=job,
        token=token,
        mtime_ns=kept_mtime(result, image, roots),
    )
    with rolling_back(lambda: replacing.undo(roots, work), result.path):
        replacing.begin(roots, work)
        with draft:
            copied = _copy(result, chain, draft, progress)
            if copied.size_bytes >= result.file_size_bytes:
                replacing.undo(roots, work)
                return _document(result, copied) | {
                    "replaced": False,
                    "file_size_after_bytes": result.file_size_bytes,
                    "space_back_when_trash_emptied_bytes": 0,
                }
            ownership.carry_over(image.file.fd, draft.file.fd, result.path)
            draft.file.sync()
            for path, seen in result.fingerprints.items():
                fingerprints.require_unchanged(roots, path, seen)
            work = replace(
                work,
                temp_inode=draft.file.stat().st_ino,
                result=_document(result, copied) | {"replaced": True, "trash": manifest.primary},
            )
            progress.commit_starts()
            replacing.commit(roots, work, draft)
    return replacing.roll_forward(roots, work, progress=progress)


def _copy(result: RewritePlan, chain: Chain, draft: Draft, progress: Progress) -> Copied:
    assert result.new is not None  # noqa: S101 - see _measure
    return copying.copy(
        _content(chain),
        draft,
        by_name(result.format_name),
        result.new,
        result.amount,
        keep=_verdict(chain),
        complete=lambda: _keep_link(chain.images[0], draft),
        progress=progress,
    )


def _keep_link(image: Image, draft: Draft) -> None:
    """Give the copy the parent link of the original, as it is stored, locators and all."""
    if image.disk_type is not DiskType.DIFFERENCING:
        return
    with draft.reopened() as file:
        copy = open_image(file)
        recorded = image.recorded_link()
        if copy.recorded_link() != recorded:
            writing.write_straight(draft.file, copy.plan_recorded_link(recorded))


def _document(result: RewritePlan, copied: Copied) -> dict[str, Any]:
    return {
        "output": result.path,
        "virtual_size_bytes": result.virtual_size_bytes,
        "file_size_before_bytes": result.file_size_bytes,
        **copied.as_dict(),
        "space_back_when_trash_emptied_bytes": result.allocated_bytes,
        "warnings": result.warnings,
    }
