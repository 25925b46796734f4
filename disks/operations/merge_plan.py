"""What a merge shall be, and its dry run: everything to be known before saying yes to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from disks.engine.errors import ImageError
from disks.engine.images import DiskType
from disks.operations.counting import Amount
from disks.operations.new_copy import CopyPlan

PARENT = "parent"
CHILD = "child"


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for; see `merge.plan`."""

    leaf: str
    base: str | None
    to: str | None
    disk_type: DiskType | None
    keep_name: str
    in_place: bool = False

    @property
    def into_parent(self) -> bool:
        return self.to is None


@dataclass(frozen=True, slots=True)
class Measured:
    """What a merge in place moves, and the room that it takes.

    growth_bytes   what base grows by
    journal_pages  the old pages that it keeps at once; journal_bytes: the room for them
    """

    amount: Amount
    growth_bytes: int
    journal_pages: int
    journal_bytes: int

    @property
    def room_bytes(self) -> int:
        return self.growth_bytes + self.journal_bytes


@dataclass(kw_only=True)
class MergePlan(CopyPlan):
    """The dry run: everything that a person wants to know before saying yes.

    levels         what is merged, leaf first; the last one is the parent merged into
    survivors      ancestors that stay below the output, nearest first
    siblings       other children of merged disks: they would be ruined, so it is refused
    unread         files and folders that could not be read, and why: they may be siblings,
                   so somebody has to declare that they are not
    measured       in place: what is moved, and the room that it takes
    earlier        a plan whose figures hold where all files are as they were
    grandchildren  children of the leaf, and whether their parent path must be rewritten
    """

    request: Request
    survivors: list[str] = field(default_factory=list)
    siblings: list[str] = field(default_factory=list)
    unread: dict[str, ImageError] = field(default_factory=dict)
    grandchildren: list[str] = field(default_factory=list)
    relink: list[str] = field(default_factory=list)
    measured: Measured | None = None
    earlier: MergePlan | None = None
    managers: list[dict[str, str]] = field(default_factory=list)
    windows_will_look_at: list[str] = field(default_factory=list)

    @property
    def trash(self) -> list[str]:
        """Files that go to the trash, the replaced one first."""
        if not self.request.into_parent:
            return []
        paths = [level.path for level in self.levels]
        if self.request.in_place:
            return paths[:-1]
        return sorted(paths, key=lambda path: path != self.output)

    @property
    def space_back_bytes(self) -> int:
        """What emptying the trash gives back afterwards."""
        if not self.request.into_parent:
            return 0
        return sum(level.allocated_bytes for level in self.levels if level.path in self.trash)

    @property
    def needed_bytes(self) -> int:
        if not self.request.in_place:
            return super().needed_bytes
        return self.measured.room_bytes if self.measured else 0

    @property
    def _undone_until(self) -> str:
        if not self.request.into_parent:
            return "always"
        return "never" if self.request.in_place else "trash emptied"

    @property
    def exclusive(self) -> list[str]:
        if not self.request.into_parent:
            return super().exclusive
        return [*(level.path for level in self.levels), *self.grandchildren]

    @property
    def shared(self) -> list[str]:
        merged = [] if self.request.into_parent else super().shared
        return [*merged, *self.survivors]

    def as_dict(self) -> dict[str, Any]:
        in_place = self.request.in_place
        written = {"bytes_written": self.amount.held_bytes} if in_place else {}
        # At most what the other way would need until the trash is emptied: a copy has no gaps.
        written |= {"by_copy_bytes": self.predicted_size_bytes} if in_place else {}
        return (
            super().as_dict()
            | written
            | {
                "in_place": in_place,
                "affected_children": sorted({*self.siblings, *self.grandchildren}),
                "siblings": self.siblings,
                "unread": [
                    {"path": path, "code": error.code, "message": error.message}
                    for path, error in sorted(self.unread.items())
                ],
                "grandchildren": self.grandchildren,
                "relinked": self.relink,
                "into_parent": self.request.into_parent,
                "keep_name": self.request.keep_name if self.request.into_parent else None,
                "survivors": self.survivors,
                "trash": self.trash,
                "space_back_when_trash_emptied_bytes": self.space_back_bytes,
                "can_be_undone_until": self._undone_until,
                "can_be_resumed": in_place,
                "managers": self.managers,
                "windows_will_look_at": self.windows_will_look_at,
            }
        )
