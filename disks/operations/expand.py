"""Make a disk larger where it lies: plan, apply.

Written by the same journalled rewrite as a parent link: a crash leaves the old size or the
new one, never half. Where blocks are in the way of what has to grow, they are moved first,
as a change of its own that leaves size and content as they are. Nothing of the content is
touched, and the area that is added reads zero. A VHD keeps its identity; a VHDX gets another,
because by its rules that stands for size and content.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from disks.engine.chain import Chain, open_chain
from disks.engine.changes import FieldChange
from disks.engine.check import check_image
from disks.engine.errors import ImageError
from disks.engine.files import FileIdentity
from disks.engine.findings import Level
from disks.engine.formats import open_image
from disks.engine.images import DiskType, Image, Source
from disks.engine.units import MIB, SECTOR_BYTES, size_text
from disks.operations import (
    family,
    fingerprints,
    guards,
    in_use,
    journal,
    locks,
    rewriting,
    rules,
    space,
)
from disks.operations.family import ChildrenOf
from disks.operations.fingerprints import Fingerprint
from disks.operations.looks import Looks
from disks.operations.paths import Roots
from disks.operations.progress import Progress
from disks.operations.rewriting import kinds
from disks.operations.windows import shown

_LOOKED_AT_BYTES = 32 * MIB  # of the grown area, at both of its ends


@dataclass
class ExpandPlan:
    """The dry run.

    children      disks that name this one as parent: each would be broken by a larger parent
    children_break    why, half a sentence
    new_identity  the disk gets another one, by the rules of its format
    breaks        those of them that somebody named and gives up
    fingerprints  of every file that the plan rests on, by path
    refused       why it cannot be done; the figures may be missing then
    """

    path: str
    new_size_bytes: int
    breaks: tuple[str, ...] = ()
    format_name: str = "vhd"
    disk_type: DiskType | None = None
    virtual_size_bytes: int = 0
    file_size_bytes: int = 0
    size_after_bytes: int = 0
    free_space_bytes: int = 0
    changes: tuple[FieldChange, ...] = ()
    ancestors: list[str] = field(default_factory=list)
    children: list[str] = field(default_factory=list)
    children_break: str = ""
    new_identity: bool = False
    managers: list[dict[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    fingerprints: dict[str, Fingerprint] = field(default_factory=dict)
    refused: ImageError | None = None

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must still hold when the plan is carried out; JSON-able, comparable."""
        return {path: seen.as_dict() for path, seen in sorted(self.fingerprints.items())}

    @property
    def growth_bytes(self) -> int:
        """Of the file."""
        return max(0, self.size_after_bytes - self.file_size_bytes)

    @property
    def exclusive(self) -> list[str]:
        """Disks whose locks the job needs for itself."""
        return [self.path]

    @property
    def shared(self) -> list[str]:
        """Disks that must not change while the job runs."""
        return self.ancestors

    def as_dict(self) -> dict[str, Any]:
        refused = self.refused
        return {
            "output": self.path,
            "format": self.format_name,
            "type": str(self.disk_type) if self.disk_type else None,
            "virtual_size_before_bytes": self.virtual_size_bytes,
            "virtual_size_bytes": self.new_size_bytes,
            "file_size_before_bytes": self.file_size_bytes,
            "file_size_after_bytes": self.size_after_bytes,
            "bytes_written": self.growth_bytes,
            "seconds": None,
            "copy_seconds": None,
            "proof_seconds": None,
            "content_sha256": None,
            "free_space_needed_bytes": self.growth_bytes,
            "free_space_bytes": self.free_space_bytes,
            "affected_children": self.children,
            "children_break": self.children_break,
            "new_identity": self.new_identity,
            "changes": [asdict(change) for change in self.changes],
            "managers": self.managers,
            "warnings": self.warnings,
            "fingerprint": self.fingerprint,
            "refused": None if refused is None else refused.as_dict(),
        }


def plan(
    path: str,
    new_size_bytes: int,
    roots: Roots,
    *,
    breaks: Collection[str] = (),
    children_of: ChildrenOf | None = None,
    scan: bool = True,
    progress: Progress | None = None,
) -> ExpandPlan:
    """Look at everything and write nothing.

    breaks       children that may be broken: every one must be named, or it is refused
    children_of  what a catalog knows of a disk's children
    scan         also read the headers below all roots now; apply() always does

    What stands in the way is in the plan's `refused`, not raised.
    """
    result = ExpandPlan(path, new_size_bytes, tuple(breaks))
    try:
        journal.require_settled(roots, [path])  # first: half changed, it reads as anything
        with open_chain(path, roots) as chain:
            _fill(result, chain, roots, children_of, scan, progress)
    except ImageError as error:
        result.refused = error
    else:
        result.warnings += in_use.warnings(roots, result.exclusive, result.shared)
    return result


def apply(
    plan: ExpandPlan,
    roots: Roots,
    *,
    offline: bool = False,
    job: str = "",
    token: int = 0,
    progress: Progress | None = None,
    children_of: ChildrenOf | None = None,
) -> dict[str, Any]:
    """Carry a plan out. Returns the document of the finished expansion.

    Locks, looks at everything again and compares with the plan before anything is written
    (E_CHANGED). Every error, and a cancel, leave size and content as they were; a kill
    does after recovery, or leaves the larger disk.

    Raises what the plan refuses, E_NOT_OFFLINE, E_MANAGED, E_LOCKED, E_IN_USE, E_CHILDREN,
    E_NOSPC, E_VERIFY, and Cancelled out of progress.
    """
    progress = progress or Progress()
    if plan.refused is not None:
        raise plan.refused
    started = time.monotonic()
    with locks.hold(roots, plan.exclusive, plan.shared, job=job, token=token):
        journal.require_settled(roots, plan.exclusive)
        fresh = ExpandPlan(plan.path, plan.new_size_bytes, plan.breaks)
        progress.step("check", "Looking at the disk and for its children once more")
        with open_chain(plan.path, roots) as chain:
            _fill(fresh, chain, roots, children_of, True, progress)
        _require_same(plan, fresh)
        guards.require_offline(fresh.managers, offline=offline)
        progress.step(
            "expand",
            f"Making {os.path.basename(plan.path)} larger: {size_text(fresh.virtual_size_bytes)} "
            f"becomes {size_text(fresh.new_size_bytes)}",
        )
        _expand(fresh, roots, job, token, progress)
        size_after = roots.stat(plan.path).st_size
    seconds = round(time.monotonic() - started, 3)
    return fresh.as_dict() | {
        "file_size_after_bytes": size_after,
        "bytes_written": max(0, size_after - fresh.file_size_bytes),
        "seconds": seconds,
        "copy_seconds": seconds,
        "proof_seconds": 0.0,
    }


# ---------------------------------------------------------------------- planning


def _fill(
    result: ExpandPlan,
    chain: Chain,
    roots: Roots,
    children_of: ChildrenOf | None,
    scan: bool,
    progress: Progress | None,
) -> None:
    """Fill a plan in. Raises the first thing that stands in the way."""
    image, file = chain.images[0], chain.images[0].file
    result.format_name = image.format_name
    result.disk_type = image.disk_type
    result.virtual_size_bytes = image.virtual_size_bytes
    result.file_size_bytes = result.size_after_bytes = file.size_bytes
    result.ancestors = chain.paths[1:]
    result.fingerprints = {
        path: Fingerprint.of(each.file)
        for path, each in zip(chain.paths, chain.images, strict=True)
    }
    result.managers = guards.managers(roots, [(result.path, image)])
    _require_size(image, result.new_size_bytes)
    _require_small_ancestors(chain)
    damaged = rules.structure_refusal([(result.path, image)], so="it is not made larger")
    if damaged is not None:
        raise damaged
    roots.require_writable(result.path)
    guards.require_one_name(file)
    journal.require_settled(roots, [*result.exclusive, *result.shared])
    planned = image.plan_expand(result.new_size_bytes)
    result.changes = planned.changes
    result.size_after_bytes = planned.size_after_bytes
    result.children_break = planned.children_break
    result.new_identity = planned.rewrite.identity_after is not None
    result.warnings = [
        *planned.warnings,
        *(finding.message for finding in guards.recent_write(roots, file)),
    ]
    result.free_space_bytes, short = space.shortage_at(roots, result.path, result.growth_bytes)
    found = family.look(
        roots,
        {result.path: image.identity},
        children_of=children_of,
        scan=scan,
        progress=progress,
    )
    result.children = found.of(result.path)
    result.warnings += found.unread_warnings()
    _require_no_children(result)
    if short is not None:
        raise short


def _require_size(image: Image, new_size_bytes: int) -> None:
    """E_SECTORS, E_SHRINK."""
    path, now = image.file.path, image.virtual_size_bytes
    sector_bytes = image.logical_sector_bytes
    if new_size_bytes % sector_bytes:
        raise ImageError(
            "E_SECTORS",
            f"{new_size_bytes:,} bytes are no whole sectors of {sector_bytes:,} bytes.",
            file=path,
            field="current_size",
            value=new_size_bytes,
        )
    if new_size_bytes <= now:
        raise ImageError(
            "E_SHRINK",
            f"{shown(path)} has {now:,} bytes already; {new_size_bytes:,} bytes are not more. "
            "Disks are only made larger here: what lies behind a smaller end would be lost.",
            file=path,
            field="current_size",
            value=new_size_bytes,
        )


def _require_small_ancestors(chain: Chain) -> None:
    """E_PARENT_SIZE: the grown area would show what a larger ancestor holds there."""
    larger = rules.larger_ancestor(chain.paths, chain.images)
    if larger is not None:
        path, ancestor = larger
        raise ImageError(
            "E_PARENT_SIZE",
            f"{path} has {ancestor.virtual_size_bytes:,} bytes, more than this disk. What it "
            "holds behind this disk's end would become visible, instead of zeros.",
            file=chain.images[0].file.path,
            field="current_size",
            value=ancestor.virtual_size_bytes,
        )


def _require_no_children(result: ExpandPlan) -> None:
    """E_CHILDREN, unless every child that would be broken was named."""
    unnamed = [path for path in result.children if path not in result.breaks]
    if not unnamed:
        return
    count = len(result.children)
    raise ImageError(
        "E_CHILDREN",
        f"Expanding {shown(result.path)} breaks {count:,} {'child' if count == 1 else 'children'}: "
        f"{result.children_break}: {family.listed(unnamed)}.",
        file=result.path,
        field="children",
        value=count,
    )


def _require_same(plan: ExpandPlan, fresh: ExpandPlan) -> None:
    """E_CHANGED when the plan does not hold any more."""
    for path in (*plan.exclusive, *plan.shared):
        if plan.fingerprints.get(path) != fresh.fingerprints.get(path):
            raise fingerprints.changed(path, "was changed")
    if plan.ancestors != fresh.ancestors:
        raise fingerprints.changed(plan.path, "got another chain of parents")


# ---------------------------------------------------------------------- carrying out


def _expand(plan: ExpandPlan, roots: Roots, job: str, token: int, progress: Progress) -> None:
    """As many rewrites as it takes to make room, then the one that makes the disk larger."""
    expected = plan.fingerprints[plan.path].file
    while _rewrite(plan, expected, roots, job, token, progress):
        progress.log("Moved blocks that were in the way of what has to grow.")
        with roots.open(plan.path) as file:
            if file.stat().st_ino != expected.inode:
                raise fingerprints.changed(plan.path)
            expected = file.identity()


def _rewrite(
    plan: ExpandPlan,
    expected: FileIdentity,
    roots: Roots,
    job: str,
    token: int,
    progress: Progress,
) -> bool:
    """One journalled change. False for the one that makes the disk larger, the last."""
    size = plan.new_size_bytes
    with roots.open(plan.path) as file:
        image = open_image(file)
        makes_room = image.plan_expand(size).makes_room
        before = Looks.of(image, places=not makes_room)
    change = rewriting.Change(
        build=lambda image: image.plan_expand(size).rewrite,
        check=lambda image: (
            _require_moved(image, before) if makes_room else _require_larger(image, before, size)
        ),
        about=kinds.MAKE_ROOM if makes_room else kinds.EXPAND,
        progress=progress,
    )
    rewriting.rewrite(roots, plan.path, change, expected=expected, job=job, token=token)
    return makes_room


def _require_moved(image: Image, before: Looks) -> None:
    """The same disk as anybody opens it, whose blocks lie elsewhere. E_VERIFY."""
    if Looks.of(image, places=False) != before:
        raise rewriting.unverified(image.file.path, "it reads as another disk")
    _require_sound(image)


def _require_larger(image: Image, before: Looks, size: int) -> None:
    """The old content where it was, and an area behind it that holds nothing. E_VERIFY."""
    path, old_size = image.file.path, before.size_bytes
    if image.virtual_size_bytes != size:
        raise rewriting.unverified(path, f"it has {image.virtual_size_bytes:,} bytes")
    now = replace(Looks.of(image, old_size), identity=before.identity)  # a VHDX gets another
    if now != before:
        raise rewriting.unverified(path, "its old content is not where it was")
    _require_sound(image)
    first = old_size // SECTOR_BYTES
    sectors = size // SECTOR_BYTES - first
    count = min(sectors, _LOOKED_AT_BYTES // SECTOR_BYTES)
    for start in (first, first + sectors - count):
        for extent in image.extents(start, count):
            if extent.source is Source.DATA and extent.file_offset is not None:
                length = extent.count_sectors * SECTOR_BYTES
                if any(image.file.read_at(extent.file_offset, length)):
                    raise rewriting.unverified(path, "the area that was added holds something")


def _require_sound(image: Image) -> None:
    for finding in check_image(image.file):
        if finding.level is Level.ERROR:
            why = f"its structure is damaged: {finding.message}"
            raise rewriting.unverified(image.file.path, why)
