"""Create a new disk: dynamic, fixed, or a differencing child of an existing one."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

from disks.engine.errors import ImageError
from disks.engine.formats import Format, open_image
from disks.engine.images import DiskType
from disks.engine.new_image import NewImage
from disks.operations import (
    copying,
    filling,
    fingerprints,
    in_use,
    journal,
    links,
    locks,
    rules,
    space,
)
from disks.operations.copying import Draft
from disks.operations.fingerprints import Fingerprint
from disks.operations.paths import Roots
from disks.operations.progress import Progress


@dataclass(frozen=True)
class CreatePlan:
    """What will be made, and what it needs; writes nothing.

    refused             why it cannot be done; everything else may be guesswork then
    free_space_needed_bytes  the new file's size
    parent_path         of a differencing disk
    windows_will_look_at    where Windows will look for the parent
    """

    path: str
    format: Format
    new: NewImage
    predicted_size_bytes: int
    free_space_bytes: int
    refused: ImageError | None
    parent_path: str = ""
    parent_seen: Fingerprint | None = None
    windows_will_look_at: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must still hold when the plan is carried out; JSON-able."""
        if self.parent_seen is None:
            return {}
        return {self.parent_path: self.parent_seen.as_dict()}

    def as_dict(self) -> dict[str, Any]:
        return {
            "output": self.path,
            "format": self.format.name,
            "type": str(self.new.disk_type),
            "virtual_size_bytes": self.new.virtual_size_bytes,
            "block_size_bytes": self.new.block_size_bytes,
            "logical_sector_bytes": self.new.logical_sector_bytes,
            "file_size_before_bytes": 0,
            "file_size_after_bytes": self.predicted_size_bytes,
            "bytes_written": self.predicted_size_bytes,
            "free_space_needed_bytes": self.predicted_size_bytes,
            "free_space_bytes": self.free_space_bytes,
            "affected_children": [],
            "parent": self.parent_path or None,
            "windows_will_look_at": self.windows_will_look_at,
            "warnings": self.warnings,
            "refused": None if self.refused is None else self.refused.as_dict(),
        }


def plan(
    path: str,
    roots: Roots,
    *,
    disk_type: DiskType | str = DiskType.DYNAMIC,
    size_bytes: int | None = None,
    parent: str | None = None,
    block_size_bytes: int | None = None,
    sector_bytes: int | None = None,
) -> CreatePlan:
    """Decide what a new disk will be; its name's extension says of which format.

    size_bytes  virtual size, for fixed and dynamic disks; a differencing disk has its parent's
    parent      path of the parent; makes it a differencing disk
    block_size_bytes, sector_bytes  of blocks, and of logical sectors; None: as Windows makes it

    What stands in the way is in the plan's `refused`, not raised.
    """
    kind = DiskType.DIFFERENCING if parent else DiskType(disk_type)
    format = rules.format_of_name(path)
    usual = format.choices
    block = usual.block_bytes[0] if kind is DiskType.DYNAMIC else usual.other_block_bytes
    new = NewImage(
        kind,
        size_bytes or 0,
        block_size_bytes or block,
        logical_sector_bytes=sector_bytes or usual.sector_bytes[0],
    )
    refused: ImageError | None = None
    seen: Fingerprint | None = None
    look_at: list[str] = []
    warnings: list[str] = []
    predicted = free = 0
    try:
        rules.check_new_name(roots, path, format)
        if parent:
            new, seen, look_at, warnings = _child_of(path, parent, roots, format)
        else:
            _check(path, format, new)
        predicted = format.predicted_size_bytes(new, 0)
        free, refused = space.shortage_at(roots, path, predicted)
        warnings += in_use.warnings(roots, [path], [parent] if parent else [])
    except ImageError as error:
        refused = error
    return CreatePlan(
        path=path,
        format=format,
        new=new,
        predicted_size_bytes=predicted,
        free_space_bytes=free,
        refused=refused,
        parent_path=parent or "",
        parent_seen=seen,
        windows_will_look_at=look_at,
        warnings=warnings,
    )


def apply(
    plan: CreatePlan,
    roots: Roots,
    *,
    offline: bool = False,
    job: str = "",
    token: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make the disk: complete and durable under a temporary name, then given its name.

    Raises what the plan refuses, E_CHANGED if the parent changed since, E_EXISTS if the
    name was taken meanwhile. Nothing is left behind then. No declaration is needed: no
    existing file is written.
    """
    progress = progress or Progress()
    if plan.refused is not None:
        raise plan.refused
    job = copying.job_name(job)
    started = time.monotonic()
    shared = [plan.parent_path] if plan.parent_path else []
    with locks.hold(roots, [plan.path], shared, job=job, token=token):
        journal.require_settled(roots, [plan.path, *shared])
        if plan.parent_seen is not None:
            fingerprints.require_unchanged(roots, plan.parent_path, plan.parent_seen)
        rules.check_new_name(roots, plan.path, plan.format)
        with Draft(roots, plan.path, job=job, token=token) as draft:
            short = space.shortage(plan.predicted_size_bytes, draft.space(), plan.path)
            if short is not None:
                raise short
            progress.step("copy", f"Creating {draft.name}")
            _write(draft, plan, progress)
            _prove(draft, plan)
            if plan.parent_seen is not None:
                fingerprints.require_unchanged(roots, plan.parent_path, plan.parent_seen)
            draft.set_mode(draft.usual_mode)
            size = draft.file.stat().st_size
            progress.commit_starts()
            draft.publish()
    return {
        "output": plan.path,
        "virtual_size_bytes": plan.new.virtual_size_bytes,
        "file_size_before_bytes": 0,
        "file_size_after_bytes": size,
        "bytes_written": size,
        "seconds": round(time.monotonic() - started, 3),
        "copy_seconds": round(time.monotonic() - started, 3),
        "proof_seconds": 0.0,
        "content_sha256": None,
    }


def _child_of(
    path: str, parent: str, roots: Roots, format: Format
) -> tuple[NewImage, Fingerprint, list[str], list[str]]:
    """The new child's parameters, as the parent prescribes them."""
    with roots.open(parent) as file:
        image = open_image(file)
        if image.format_name != format.name:
            raise ImageError(
                "E_PARENT_FORMAT",
                f"The parent is a {image.format_name.upper()} disk, and its children must be, too.",
                file=path,
                field="format",
                value=format.name,
            )
        if image.write_refusal is not None:
            raise image.write_refusal
        link = links.new_parent(roots, path, parent, image)
        new = NewImage(
            DiskType.DIFFERENCING,
            image.virtual_size_bytes,
            rules.block_bytes_of(image),
            parent=link.parent,
        )
        new = replace(new, **image.child_traits())
        return new, Fingerprint.of(file), link.windows_will_look_at, link.warnings


def _check(path: str, format: Format, new: NewImage) -> None:
    """What no writer judges: it leaves alone what its format does not store."""
    if new.disk_type is DiskType.DIFFERENCING:
        raise ImageError(
            "E_NO_PARENT", "A differencing disk needs a parent to be named.", file=path
        )
    sector, sectors = new.logical_sector_bytes, format.choices.sector_bytes
    if sector not in sectors:
        possible = " or ".join(f"{size:,}" for size in sectors)
        name = format.name.upper()
        raise ImageError(
            "E_BLOCK_SIZE",
            f"A {name} cannot have sectors of {sector:,} bytes; {possible} is possible.",
            advice="Choose another sector size.",
            file=path,
            field="logical_sector_size",
            value=sector,
        )


def _write(draft: Draft, plan: CreatePlan, progress: Progress) -> None:
    if plan.new.disk_type is DiskType.FIXED:
        filling.reserve(draft.file, 0, plan.new.virtual_size_bytes, progress)
    plan.format.writer(draft.file, plan.new, blocks=0).finish()


def _prove(draft: Draft, plan: CreatePlan) -> None:
    """The new file is opened and checked like any other before it gets its name."""
    with draft.reopened() as file:
        image = open_image(file)
        if (
            image.virtual_size_bytes != plan.new.virtual_size_bytes
            or image.disk_type is not plan.new.disk_type
        ):
            raise ImageError(
                "E_PROOF",
                f"The new {draft.name} does not read as it was written; it was thrown away.",
                file=plan.path,
            )
