"""Whole piles of checkpoints to be merged: what is planned for each, and what a job carries.

A pile is a run of disks without a branch (`forest`). It is merged in one pass from its leaf
into its lowest disk, by `merge`; pair by pair the same data would be moved again and again.
Several piles are merged one after the other; what is done stays done, and is recognised by
what lies in the trash when the work is begun again.

`planning` looks at a folder, `applying` carries the merges out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from disks.engine.errors import ImageError
from disks.operations.fingerprints import Fingerprint
from disks.operations.forest import Forest, Member, Run
from disks.operations.merge_plan import PARENT, MergePlan
from disks.operations.pile.surroundings import branches, member_as_dict, strangers
from disks.operations.survey import Survey


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
        return self.base if self.keep_name == PARENT else self.leaf

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
        return self.run.base if kept == PARENT else self.run.leaf

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
            "order": [member_as_dict(disk) for disk in self.disks],
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
        return room_bytes([pile.merge for pile in self.piles])

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


def room_bytes(merges: Sequence[MergePlan]) -> int:
    """What merges one after the other need on a file system; a journal is over with its merge."""
    journals = [merge.measured.journal_bytes for merge in merges if merge.measured]
    return sum(merge.needed_bytes for merge in merges) - sum(journals) + max(journals, default=0)
