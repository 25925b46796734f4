"""Putting the sound copy of a disk's footer in place of the damaged one: plan, apply.

Written by the same journalled rewrite as a parent link: a crash leaves the footer as it
was or repaired, never half. The content is not touched and the file never cut.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from disks.engine.errors import ImageError
from disks.engine.files import FileIdentity
from disks.engine.findings import Finding
from disks.engine.formats import open_image
from disks.engine.images import FieldChange, Image
from disks.operations import fingerprints, guards, journal, locks, rewriting
from disks.operations.looks import Looks
from disks.operations.paths import Roots
from disks.operations.progress import Progress

NOTHING = "E_NOTHING_TO_REPAIR"


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """What a repair will do. Writes nothing by itself.

    file         the disk's file as it was when the plan was made
    fingerprint  stands for that file, its headers, and what is to be written
    """

    path: str
    changes: tuple[FieldChange, ...]
    warnings: tuple[Finding, ...]
    managers: tuple[dict[str, str], ...]
    size_before_bytes: int
    size_after_bytes: int
    fingerprint: str
    file: FileIdentity

    def as_dict(self) -> dict[str, Any]:
        """The plan as a document: what `--dry-run --json` shows."""
        return {
            "path": self.path,
            "changes": [asdict(change) for change in self.changes],
            "warnings": [warning.as_dict() for warning in self.warnings],
            "managers": list(self.managers),
            "file_size_before_bytes": self.size_before_bytes,
            "file_size_after_bytes": self.size_after_bytes,
            "fingerprint": self.fingerprint,
        }


def plan(path: str, roots: Roots, *, job: str = "") -> RepairPlan:
    """What it takes to make both copies of the footer of a disk (host path) sound and equal.

    job: the caller's own job, whose sidecars do not stand in its way.
    Raises ImageError with the refusal: E_NOTHING_TO_REPAIR, E_FOOTERS_DIFFER, E_TRUNCATED,
    E_READ_ONLY, E_HARD_LINKS, E_UNFINISHED, and what opening the disk raises.
    """
    roots.require_writable(path)
    journal.require_settled(roots, [path], job=job)
    with roots.open(path) as file:
        image = open_image(file)
        rewriting.require_one_name(file)
        rewrite = image.plan_repair()
        return RepairPlan(
            path=path,
            changes=rewrite.changes,
            warnings=tuple(rewriting.recent_write(file)),
            managers=tuple(guards.managers(roots, [(path, image)])),
            size_before_bytes=file.size_bytes,
            size_after_bytes=rewrite.size_after_bytes,
            fingerprint=rewriting.fingerprint(
                file, image, [rewrite.changes, rewrite.size_after_bytes]
            ),
            file=file.identity(),
        )


def apply(
    plan: RepairPlan,
    roots: Roots,
    *,
    offline: bool,
    job: str = "",
    token: int = 0,
    progress: Progress | None = None,
    known_children: Iterable[datetime | None] = (),
) -> dict[str, Any]:
    """Write what the plan says; the plan's document again, as the result.

    offline         somebody declares that nobody has the disk open; without it a disk
                    that something manages is refused (E_MANAGED)
    known_children  the parent timestamps that children of this disk store: if one is
                    exactly its modification time, that is put back afterwards
    Raises E_CHANGED when anything is not as it was planned, E_LOCKED, E_IN_USE, E_VERIFY
    (the file is then as it was), and every refusal of plan().
    """
    progress = progress or Progress()
    progress.step("repair", f"repairing the footer of {plan.path}")
    with locks.hold(roots, [plan.path], job=job, token=token):
        fingerprints.require_same_file(roots, plan.path, plan.file)
        fresh = _again(plan, roots, job)
        guards.require_offline(fresh.managers, offline=offline)
        with roots.open(plan.path) as file:
            before = Looks.of(open_image(file))
        progress.commit_starts()
        rewriting.rewrite(
            roots,
            plan.path,
            rewriting.Change(
                build=lambda image: image.plan_repair(),
                check=lambda image: _verify(plan.path, image, before),
                about=rewriting.REPAIR,
                keep_mtime=rewriting.is_recorded(fresh.file.mtime_ns, known_children),
            ),
            expected=fresh.file,
            job=job,
            token=token,
        )
    footer = fresh.changes[0]
    progress.log(f"{footer.field}: was {footer.now}; is written {footer.after}.")
    return fresh.as_dict()


def _again(planned: RepairPlan, roots: Roots, job: str) -> RepairPlan:
    """The plan made anew under the lock. E_CHANGED if it is another one."""
    fresh = plan(planned.path, roots, job=job)
    if fresh.fingerprint != planned.fingerprint:
        raise fingerprints.changed(planned.path)
    return fresh


def _verify(path: str, image: Image, before: Looks) -> None:
    """The repaired disk as anybody opens it: the same disk, and nothing left to repair."""
    if Looks.of(image) != before:
        raise rewriting.unverified(path, "it reads as another disk")
    try:
        image.plan_repair()
    except ImageError as error:
        if error.code == NOTHING:
            return
        raise rewriting.unverified(path, error.message) from error
    raise rewriting.unverified(path, "one of its copies is still damaged")
