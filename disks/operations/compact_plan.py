"""What both ways to compact a disk look at before anything else, and what their dry runs share."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from disks.engine.chain import Chain
from disks.engine.errors import ImageError
from disks.engine.formats import open_image
from disks.engine.images import DiskType, Image
from disks.operations import family, fingerprints, guards, journal, rules
from disks.operations.family import ChildrenOf
from disks.operations.fingerprints import Fingerprint
from disks.operations.paths import Roots
from disks.operations.progress import Progress


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

    in_place = False

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
    def gone(self) -> str:
        """What is true of the blocks that go."""
        if self.disk_type is DiskType.DIFFERENCING:
            return "hold nothing that differs from the parent"
        return "are all zeros"

    @property
    def why(self) -> str:
        """One sentence: what goes, and why the rest stays."""
        about = "about " if self.estimated else ""
        dropped = self.blocks - self.blocks_kept
        if not dropped:
            return "every block holds data of this disk." if self.blocks else "it stores no block."
        return (
            f"{about}{dropped:,} of {self.blocks:,} blocks {self.gone}; "
            f"the other {self.blocks_kept:,} hold data of this disk."
        )

    def as_dict(self) -> dict[str, Any]:
        refused = self.refused
        low, high = self.size_bounds_bytes
        return {
            "output": self.path,
            "format": self.format_name,
            "type": str(self.disk_type) if self.disk_type else None,
            "in_place": self.in_place,
            "virtual_size_bytes": self.virtual_size_bytes,
            "file_size_before_bytes": self.file_size_bytes,
            "file_size_after_bytes": self.predicted_size_bytes,
            "file_size_after_bounds_bytes": [low, high],
            "estimated": self.estimated,
            "blocks": self.blocks,
            "blocks_kept": self.blocks_kept,
            "blocks_read": self.blocks_read,
            "why": self.why,
            "seconds": None,
            "copy_seconds": None,
            "proof_seconds": None,
            "content_sha256": None,
            "free_space_needed_bytes": self.free_space_needed_bytes,
            "free_space_bytes": self.free_space_bytes,
            "affected_children": [],
            "children": self.children,
            "survivors": self.survivors,
            "managers": self.managers,
            "warnings": self.warnings,
            "fingerprint": self.fingerprint,
            "refused": None if refused is None else refused.as_dict(),
        }


def describe(result: CompactPlan, chain: Chain, roots: Roots, *, so: str) -> None:
    """Everything that needs no block read. Raises what stands in the way.

    so: what is refused because of a damage, in words
    """
    image = chain.images[0]
    status = image.file.stat()
    result.format_name = image.format_name
    result.disk_type = image.disk_type
    result.virtual_size_bytes = image.virtual_size_bytes
    result.file_size_bytes = result.predicted_size_bytes = status.st_size
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
            "to give back.",
            file=result.path,
            field="disk_type",
            value=str(image.disk_type),
        )
    if image.write_refusal is not None:
        raise image.write_refusal
    damaged = rules.structure_refusal([(result.path, image)], so=so)
    if damaged is not None:
        raise damaged
    roots.require_writable(result.path)
    journal.require_settled(roots, chain.paths)


def require_same(plan: CompactPlan, fresh: CompactPlan) -> None:
    """E_CHANGED when the plan does not hold any more."""
    for path in (*plan.exclusive, *plan.shared):
        if plan.fingerprints.get(path) != fresh.fingerprints.get(path):
            raise fingerprints.changed(path)


def children(
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


def kept_mtime(result: CompactPlan, image: Image, roots: Roots) -> int | None:
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
