"""What a parent link will say when disks lie elsewhere: planned before anything moves."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from disks.engine.changes import FieldChange
from disks.engine.errors import ImageError
from disks.engine.images import Image
from disks.engine.parent_link import NewParent
from disks.operations import links
from disks.operations.paths import Roots


@dataclass(frozen=True, slots=True)
class LinkChange:
    """One link that is rewritten.

    disk    where the child will lie; now: where it lies
    parent  where its parent will lie
    """

    disk: str
    now: str
    parent: str
    new: NewParent
    changes: tuple[FieldChange, ...]
    windows_will_look_at: tuple[str, ...]
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "disk": self.disk,
            "disk_now": self.now,
            "parent": self.parent,
            "changes": [asdict(change) for change in self.changes],
            "windows_will_look_at": list(self.windows_will_look_at),
        }


def plan(
    roots: Roots,
    image: Image,
    parent: Image,
    *,
    disk: str,
    parent_path: str,
    replays: bool = False,
) -> LinkChange | None:
    """The link of image, which will lie at disk, to parent, which will lie at parent_path.

    None if it says all of this already. replays: a log that waits is no hindrance, it is
    replayed first; what the fields say until then is not told. Raises E_NO_WINDOWS_PATH
    where Windows would not find the parent, and what keeps the link from being written.
    """
    found = links.new_parent(roots, disk, parent_path, parent)
    link = found.parent
    if link.relative_path is None and link.windows_path is None:
        raise ImageError(
            "E_NO_WINDOWS_PATH",
            f"Windows would not find {parent_path} from {disk}: it is not known how Windows names "
            "the folder.",
            file=image.file.path,
        )
    if image.parent is not None and image.parent.timestamp is not None:
        link = NewParent(
            link.identity,
            link.name,
            link.relative_path,
            link.windows_path,
            image.parent.timestamp,
        )
    if image.is_linked_to(link):
        return None
    return LinkChange(
        disk,
        image.file.path,
        parent_path,
        link,
        () if replays and image.log_waits else image.plan_parent_link(link).changes,
        tuple(found.windows_will_look_at),
        tuple(found.warnings),
    )
