"""A proven copy of a disk under a new name: what merge to a new disk and convert share.

Nothing that exists is touched: the sources are only read, and the copy gets its name when
it is proven and every source is still the file that the plan saw.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.images import Image
from disks.engine.new_image import NewImage, Target
from disks.operations import copying, fingerprints, powershell, rules, space
from disks.operations.content import View
from disks.operations.copying import Copied, Draft
from disks.operations.counting import Amount
from disks.operations.fingerprints import Fingerprint
from disks.operations.paths import Roots
from disks.operations.progress import Progress


@dataclass(frozen=True, slots=True)
class Level:
    """One file that is read, leaf first; sizes in bytes."""

    path: str
    identity: str
    disk_type: str
    virtual_size_bytes: int
    file_size_bytes: int
    allocated_bytes: int

    @classmethod
    def of(cls, path: str, image: Image) -> Level:
        status = image.file.stat()
        return cls(
            path=path,
            identity=image.identity,
            disk_type=str(image.disk_type),
            virtual_size_bytes=image.virtual_size_bytes,
            file_size_bytes=status.st_size,
            allocated_bytes=status.st_blocks * 512,
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "identity": self.identity,
            "type": self.disk_type,
            "virtual_size_bytes": self.virtual_size_bytes,
            "file_size_bytes": self.file_size_bytes,
            "allocated_bytes": self.allocated_bytes,
        }


@dataclass(kw_only=True)
class CopyPlan:
    """The dry run of a copy.

    output        path of the new file
    levels        what is read into it, leaf first
    amount        blocks and bytes to copy, an upper bound
    fingerprints  of every file that the plan rests on, by path
    refused       why it cannot be done; the figures may be missing then
    """

    output: str
    levels: list[Level] = field(default_factory=list)
    new: NewImage | None = None
    format_name: str = "vhd"
    amount: Amount = field(default_factory=lambda: Amount(0, 0))
    predicted_size_bytes: int = 0
    free_space_bytes: int = 0
    commands: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    fingerprints: dict[str, Fingerprint] = field(default_factory=dict)
    refused: ImageError | None = None

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must still hold when the plan is carried out; JSON-able, comparable."""
        return {path: seen.as_dict() for path, seen in sorted(self.fingerprints.items())}

    @property
    def needed_bytes(self) -> int:
        """Room that the job takes."""
        return self.predicted_size_bytes

    @property
    def exclusive(self) -> list[str]:
        """Disks whose locks the job needs for itself."""
        return [self.output]

    @property
    def shared(self) -> list[str]:
        """Disks that must not change while the job runs."""
        return [level.path for level in self.levels]

    def as_dict(self) -> dict[str, Any]:
        refused = self.refused
        return {
            "output": self.output,
            "format": self.format_name,
            "type": str(self.new.disk_type) if self.new else None,
            "virtual_size_bytes": self.new.virtual_size_bytes if self.new else None,
            "file_size_before_bytes": sum(level.file_size_bytes for level in self.levels),
            "file_size_after_bytes": self.predicted_size_bytes,
            "bytes_written": self.predicted_size_bytes,
            "bytes_to_copy": self.amount.held_bytes,
            "blocks_to_copy": self.amount.blocks,
            "seconds": None,
            "copy_seconds": None,
            "proof_seconds": None,
            "content_sha256": None,
            "free_space_needed_bytes": self.needed_bytes,
            "free_space_bytes": self.free_space_bytes,
            "affected_children": [],
            "levels": [level.as_dict() for level in self.levels],
            "commands": self.commands,
            "warnings": self.warnings,
            "fingerprint": self.fingerprint,
            "refused": None if refused is None else refused.as_dict(),
        }


def source_refusals(
    levels: Sequence[tuple[str, Image]],
    below: Sequence[tuple[str, Image]] = (),
    *,
    sources_stay: bool = True,
) -> Iterator[ImageError]:
    """Why no copy is made of these levels, leaf first; below: the parent that stays, if any.

    A child smaller than its parent, a disk that another tool left half changed or that a
    saved machine uses, blocks that share one place: a copy would hide that for good.
    A VHDX log that waits keeps nothing hidden: the copy has what it says, and where
    sources_stay, so does the original.
    """
    small = rules.size_refusal([*levels, *below])
    if small is not None:
        yield small
    for _, image in levels:
        if image.write_refusal is not None and not (sources_stay and image.log_waits):
            yield image.write_refusal
    damaged = rules.structure_refusal(levels, blocks_only=True)
    if damaged is not None:
        yield damaged


def shortage(plan: CopyPlan, roots: Roots) -> ImageError | None:
    """E_NOSPC if the new file does not fit; notes what is free there."""
    plan.free_space_bytes, short = space.shortage_at(roots, plan.output, plan.needed_bytes)
    return short


def require_same(plan: CopyPlan, fresh: CopyPlan, subject: str) -> None:
    """E_CHANGED, or the fresh refusal, when the plan does not hold any more."""
    if fresh.refused is not None:
        raise fresh.refused
    if [level.path for level in plan.levels] != [level.path for level in fresh.levels]:
        raise fingerprints.changed(subject, "got another chain of parents")
    for path in (*plan.exclusive, *plan.shared):
        if plan.fingerprints.get(path) != fresh.fingerprints.get(path):
            raise fingerprints.changed(path, "was changed")


def require_unchanged(plan: CopyPlan, roots: Roots) -> None:
    """E_CHANGED if one of the files was written or replaced since."""
    for path, seen in plan.fingerprints.items():
        fingerprints.require_unchanged(roots, path, seen)


def make(
    plan: CopyPlan,
    view: View,
    target: Target,
    roots: Roots,
    *,
    like: ImageFile,
    job: str,
    token: int,
    progress: Progress,
) -> Copied:
    """Copy the view, prove the copy and give it its name. E_EXISTS, and as copying.copy.

    like: the file whose permission bits the new one gets.
    """
    assert plan.new is not None  # noqa: S101 - a plan without refusal has one
    with Draft(roots, plan.output, job=job, token=token) as draft:
        copied = copying.copy(view, draft, target, plan.new, plan.amount, progress=progress)
        require_unchanged(plan, roots)
        # Whoever may read the source may read what it became; nobody else.
        draft.set_mode(like.stat().st_mode)
        progress.step("commit", f"Giving {draft.name} its name")
        progress.commit_starts()
        draft.publish()
    return copied


def document(plan: CopyPlan, copied: Copied) -> dict[str, Any]:
    """The result of a finished copy."""
    assert plan.new is not None  # noqa: S101 - see make
    return {
        "output": plan.output,
        "virtual_size_bytes": plan.new.virtual_size_bytes,
        "file_size_before_bytes": sum(level.file_size_bytes for level in plan.levels),
        **copied.as_dict(),
        "levels": [level.path for level in plan.levels],
        "commands": plan.commands,
        "warnings": plan.warnings,
    }


def commands(roots: Roots, old: str, new: str) -> list[str]:
    """PowerShell for the virtual machine's host: use the new name, and prove the disk."""
    before, after = _windows_text(roots, old), _windows_text(roots, new)
    lines = [] if before == after else [powershell.point_machine(before, after)]
    return [*lines, f"Test-VHD -Path {powershell.quoted(after)}"]


def _windows_text(roots: Roots, path: str) -> str:
    """How Windows names a file; with a placeholder where no Windows view is known."""
    return roots.windows_path(path) or "<folder>\\" + os.path.basename(path)
