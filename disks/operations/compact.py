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
from datetime import UTC, datetime
from typing import Any

from disks.engine.chain import Chain, open_chain
from disks.engine.errors import ImageError
from disks.engine.formats import by_name, open_image
from disks.engine.images import (
    DiskType,
    HeaderRewrite,
    Image,
    LocatorRole,
    NewImage,
    NewParent,
)
from disks.engine.units import SECTOR_BYTES
from disks.operations import (
    copying,
    family,
    fingerprints,
    guards,
    journal,
    locks,
    ownership,
    replacing,
    rewriting,
    rules,
    space,
    trash,
)
from disks.operations.copying import Copied, Draft
from disks.operations.family import ChildrenOf
from disks.operations.fingerprints import Fingerprint
from disks.operations.paths import Roots
from disks.operations.progress import Progress
from disks.operations.streaming import (
    Amount,
    ChainContent,
    Verdict,
    count,
    is_zero,
    read_block,
    stream,
    whole_blocks,
)

_Z_95 = 1.96  # two-sided 95 % of the normal distribution


@dataclass
class CompactPlan:
    """The dry run.

    blocks               allocated blocks that hold at least one sector
    blocks_kept          of these, how many stay (an estimate if estimated)
    estimated            True: from blocks spread evenly over the disk, read in the time given
    size_bounds_bytes    lowest and highest likely file size afterwards (95 %), if estimated
    blocks_read          how many blocks the figures rest on
    """

    path: str
    format_name: str = "vhd"
    disk_type: DiskType | None = None
    virtual_size_bytes: int = 0
    file_size_bytes: int = 0
    allocated_bytes: int = 0
    new: NewImage | None = None
    amount: Amount = field(default_factory=lambda: Amount(0, 0))
    blocks: int = 0
    blocks_kept: int = 0
    blocks_read: int = 0
    estimated: bool = False
    predicted_size_bytes: int = 0
    size_bounds_bytes: tuple[int, int] = (0, 0)
    free_space_needed_bytes: int = 0
    free_space_bytes: int = 0
    survivors: list[str] = field(default_factory=list)
    children: list[str] = field(default_factory=list)
    managers: list[dict[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    fingerprints: dict[str, Fingerprint] = field(default_factory=dict)
    refused: ImageError | None = None

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must still hold when the plan is carried out; JSON-able, comparable."""
        return {path: seen.as_dict() for path, seen in sorted(self.fingerprints.items())}

    @property
    def exclusive(self) -> list[str]:
        return [self.path]

    @property
    def shared(self) -> list[str]:
        return self.survivors

    @property
    def why(self) -> str:
        """One sentence: what goes, and why the rest stays."""
        if self.disk_type is DiskType.DIFFERENCING:
            gone = "hold nothing that differs from the parent"
            holding = by_name(self.format_name).holding(self.new) if self.new else None
            if holding is not None and holding.states_zeros:
                gone = "hold nothing but zeros, or nothing that differs from the parent"
        else:
            gone = "are all zeros"
        about = "about " if self.estimated else ""
        dropped = self.blocks - self.blocks_kept
        if not dropped:
            return "every block holds data of this disk." if self.blocks else "it stores no block."
        return (
            f"{about}{dropped:,} of {self.blocks:,} blocks {gone}; "
            f"the other {self.blocks_kept:,} hold data of this disk."
        )

    def as_dict(self) -> dict[str, Any]:
        refused = self.refused
        low, high = self.size_bounds_bytes
        return {
            "output": self.path,
            "format": self.format_name,
            "type": str(self.disk_type) if self.disk_type else None,
            "virtual_size_bytes": self.virtual_size_bytes,
            "file_size_before_bytes": self.file_size_bytes,
            "file_size_after_bytes": self.predicted_size_bytes,
            "file_size_after_bounds_bytes": [low, high],
            "estimated": self.estimated,
            "blocks": self.blocks,
            "blocks_kept": self.blocks_kept,
            "blocks_read": self.blocks_read,
            "why": self.why,
            "bytes_written": self.predicted_size_bytes,
            "bytes_to_copy": self.amount.held_bytes,
            "seconds": None,
            "copy_seconds": None,
            "proof_seconds": None,
            "content_sha256": None,
            "free_space_needed_bytes": self.free_space_needed_bytes,
            "free_space_bytes": self.free_space_bytes,
            "space_back_when_trash_emptied_bytes": self.allocated_bytes,
            "affected_children": [],
            "children": self.children,
            "trash": [self.path],
            "survivors": self.survivors,
            "managers": self.managers,
            "warnings": self.warnings,
            "fingerprint": self.fingerprint,
            "refused": None if refused is None else refused.as_dict(),
        }


def plan(
    path: str,
    roots: Roots,
    *,
    time_budget_seconds: float | None = None,
    progress: Progress | None = None,
) -> CompactPlan:
    """Look at every block, or at as many as the time allows, and write nothing.

    time_budget_seconds  None: exact. Else the figures are estimated from blocks spread
                         evenly over the disk, unless all could be read in that time.

    What stands in the way is in the plan's `refused`, not raised.
    """
    result = CompactPlan(path)
    try:
        with open_chain(path, roots) as chain:
            _describe(result, chain, roots)
            _measure(result, chain, time_budget_seconds, progress)
            _check_room(result, roots)
    except ImageError as error:
        result.refused = error
    return result


def apply(
    plan: CompactPlan,
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
        fresh = CompactPlan(plan.path)
        progress.step("check", f"Looking at {os.path.basename(plan.path)} once more")
        with open_chain(plan.path, roots) as chain:
            _describe(fresh, chain, roots)
            for path in (*plan.exclusive, *plan.shared):
                if plan.fingerprints.get(path) != fresh.fingerprints.get(path):
                    raise fingerprints.changed(path)
            guards.require_offline(fresh.managers, offline=offline)
            fresh.children = _children(fresh, chain.images[0], roots, children_of, progress)
            return _rewrite(fresh, chain, roots, job, token, progress)


# ---------------------------------------------------------------------- planning


def _describe(result: CompactPlan, chain: Chain, roots: Roots) -> None:
    """Everything that needs no block read. Raises what stands in the way."""
    image = chain.images[0]
    status = image.file.stat()
    result.format_name = image.format_name
    result.disk_type = image.disk_type
    result.virtual_size_bytes = image.virtual_size_bytes
    result.file_size_bytes = status.st_size
    result.allocated_bytes = status.st_blocks * 512
    result.survivors = chain.paths[1:]
    result.fingerprints = {
        path: Fingerprint.of(each.file)
        for path, each in zip(chain.paths, chain.images, strict=True)
    }
    result.managers = guards.managers(roots, [(result.path, image)])
    if image.disk_type is DiskType.FIXED:
        raise ImageError(
            "E_FIXED",
            f"{result.path} is a fixed disk: it always has its full size, so there is nothing "
            "to give back. A dynamic copy of it would be smaller.",
            file=result.path,
            field="disk_type",
            value=str(image.disk_type),
        )
    if image.write_refusal is not None:
        raise image.write_refusal
    damaged = rules.structure_refusal([(result.path, image)])
    if damaged is not None:
        raise damaged
    small = rules.size_refusal(zip(chain.paths[:2], chain.images[:2], strict=True))
    if small is not None:
        raise small
    roots.require_writable(result.path)
    journal.require_settled(roots, chain.paths)
    result.new = _new_image(image)
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
    result: CompactPlan, chain: Chain, budget: float | None, progress: Progress | None
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
    result: CompactPlan, chain: Chain, unit: int, keep: Verdict | None, budget: float
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
    for index in _spread(total):
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
    low, high = _likely(kept, read, total)
    result.blocks_kept = round(total * kept / read) if read else 0
    size = by_name(result.format_name).predicted_size_bytes
    result.size_bounds_bytes = (size(result.new, low), size(result.new, high))
    return None if result.estimated else len(bitmaps)


def _spread(total: int) -> list[int] | range:
    """All numbers below total, each prefix spread evenly: multiples of the golden section."""
    if total < 2:
        return range(total)
    step = round(total * 0.6180339887498949) or 1
    while _common_divisor(step, total) > 1:
        step += 1
    return [(index * step) % total for index in range(total)]


def _common_divisor(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a


def _likely(kept: int, read: int, total: int) -> tuple[int, int]:
    """Between which numbers of kept blocks the truth lies (Wilson score interval, 95 %).

    Never outside what was seen: the kept blocks are kept, the droppable ones are not.
    """
    if read == 0:
        return 0, total
    if read == total:
        return kept, kept
    share, z2 = kept / read, _Z_95**2
    middle = (share + z2 / (2 * read)) / (1 + z2 / read)
    half = _Z_95 / (1 + z2 / read) * (share * (1 - share) / read + z2 / (4 * read**2)) ** 0.5
    low = max(kept, int(total * (middle - half)))
    high = min(total - (read - kept), -int(-total * (middle + half)))
    return low, max(low, high)


def _check_room(result: CompactPlan, roots: Roots) -> None:
    result.free_space_bytes, short = space.shortage_at(
        roots, result.path, result.free_space_needed_bytes
    )
    if short is not None:
        raise short


# ---------------------------------------------------------------------- carrying out


def _children(
    result: CompactPlan,
    image: Image,
    roots: Roots,
    children_of: ChildrenOf | None,
    progress: Progress,
) -> list[str]:
    found = family.look(
        roots, {result.path: image.identity}, children_of=children_of, progress=progress
    )
    return found.of(result.path)


def _kept_mtime(result: CompactPlan, image: Image, roots: Roots) -> int | None:
    """The old modification time, if a child stores exactly it: else backups must see a change."""
    mtime_ns = image.file.stat().st_mtime_ns
    stored = datetime.fromtimestamp(mtime_ns // 1_000_000_000, UTC)
    for path in result.children:
        try:
            with roots.open(path) as file:
                parent = open_image(file).parent
        except ImageError:
            continue  # damaged: what it stored is not known
        if parent is not None and parent.timestamp == stored:
            return mtime_ns
    return None


def _rewrite(
    result: CompactPlan, chain: Chain, roots: Roots, job: str, token: int, progress: Progress
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
        mtime_ns=_kept_mtime(result, image, roots),
    )
    try:
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
    except BaseException:
        replacing.undo_quietly(roots, work)
        raise
    return replacing.roll_forward(roots, work, progress=progress)


def _copy(result: CompactPlan, chain: Chain, draft: Draft, progress: Progress) -> Copied:
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
            _write(draft, copy.plan_recorded_link(recorded))


def _write(draft: Draft, rewrite: HeaderRewrite) -> None:
    """The writes of a link; a file that has no name yet needs no journal."""
    rewriting.write_steps(draft.file, rewrite.steps, Progress())


def _document(result: CompactPlan, copied: Copied) -> dict[str, Any]:
    return {
        "output": result.path,
        "virtual_size_bytes": result.virtual_size_bytes,
        "file_size_before_bytes": result.file_size_bytes,
        **copied.as_dict(),
        "space_back_when_trash_emptied_bytes": result.allocated_bytes,
        "warnings": result.warnings,
    }
