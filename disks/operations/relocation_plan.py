"""What the dry runs of move, copy and delete have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from disks.engine.errors import ImageError
from disks.operations import fingerprints
from disks.operations.fingerprints import Fingerprint
from disks.operations.link_changes import LinkChange
from disks.operations.windows import shown


@dataclass(frozen=True, slots=True)
class Moved:
    """A file and where it will lie; sizes in bytes."""

    path: str
    target: str
    identity: str
    disk_type: str
    virtual_size_bytes: int
    file_size_bytes: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "target": self.target,
            "identity": self.identity,
            "type": self.disk_type,
            "virtual_size_bytes": self.virtual_size_bytes,
            "file_size_bytes": self.file_size_bytes,
        }


@dataclass(kw_only=True)
class RelocationPlan:
    """The dry run.

    path, output  the disk, and its name afterwards
    files         what lies elsewhere afterwards, leaf first
    links         parent links that are rewritten
    children      disks that name this one as parent
    breaks        those of them that somebody named and gives up
    bytes_to_copy, free_space_bytes  bytes_to_copy is 0 where only names change
    trash         files that go to the trash
    shared        disks that must not change while the job runs
    fingerprints  of every file that the plan rests on, by path
    refused       why it cannot be done; the figures may be missing then
    """

    path: str
    output: str
    files: list[Moved] = field(default_factory=list)
    links: list[LinkChange] = field(default_factory=list)
    children: list[str] = field(default_factory=list)
    breaks: tuple[str, ...] = ()
    bytes_to_copy: int = 0
    free_space_bytes: int = 0
    trash: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    managers: list[dict[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    fingerprints: dict[str, Fingerprint] = field(default_factory=dict)
    refused: ImageError | None = None

    @property
    def broken(self) -> list[str]:
        """Children that will not find their parent any more."""
        return [path for path in self.children if path in self.breaks]

    @property
    def exclusive(self) -> list[str]:
        """Disks whose locks the job needs for itself."""
        names = [name for one in self.files for name in (one.path, one.target)]
        names += [change.now for change in self.links]
        return list(dict.fromkeys(names))

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must still hold when the plan is carried out; JSON-able, comparable."""
        return {path: seen.as_dict() for path, seen in sorted(self.fingerprints.items())}

    def as_dict(self) -> dict[str, Any]:
        size = sum(one.file_size_bytes for one in self.files)
        return {
            "output": self.output,
            "source": self.path,
            "virtual_size_bytes": self.files[0].virtual_size_bytes if self.files else None,
            "file_size_before_bytes": size,
            "file_size_after_bytes": size,
            "bytes_written": self.bytes_to_copy,
            "seconds": None,
            "copy_seconds": None,
            "proof_seconds": None,
            "content_sha256": None,
            "free_space_needed_bytes": self.bytes_to_copy,
            "free_space_bytes": self.free_space_bytes,
            "affected_children": self.children,
            "files": [one.as_dict() for one in self.files],
            "links": [change.as_dict() for change in self.links],
            "breaks": self.broken,
            "trash": self.trash,
            "commands": self.commands,
            "managers": self.managers,
            "warnings": self.warnings,
            "fingerprint": self.fingerprint,
            "refused": None if self.refused is None else self.refused.as_dict(),
        }


def require_same(plan: RelocationPlan, fresh: RelocationPlan) -> None:
    """E_CHANGED, or the fresh refusal, when a plan does not hold any more."""
    if fresh.refused is not None and plan.children == fresh.children:
        raise fresh.refused
    for path in sorted({*plan.fingerprints, *fresh.fingerprints}):
        if plan.fingerprints.get(path) == fresh.fingerprints.get(path):
            continue
        if path in fresh.children and path not in plan.children:
            break
        raise fingerprints.changed(path)
    new = sorted(set(fresh.children) - set(plan.children))
    if new:
        raise fingerprints.changed(plan.path, f"got a child ({shown(new[0])})")
    if fresh.refused is not None:
        raise fresh.refused
    if [one.target for one in plan.files] != [one.target for one in fresh.files]:
        raise fingerprints.changed(plan.path, "got another chain of parents")
