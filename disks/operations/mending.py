"""Mending what is wrong with one file while its content stays: plan, apply.

How is in the modules of the kinds: `repair.py` (the sound copy of a header over the damaged
one) and `replay.py` (what waits in a disk's own log). What every kind asks for is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from disks.engine.changes import FieldChange
from disks.engine.errors import ImageError
from disks.engine.files import FileIdentity, ImageFile
from disks.engine.findings import Finding
from disks.engine.formats import open_image
from disks.engine.images import Image
from disks.operations import fingerprints, guards, in_use, journal, locks, modification_times
from disks.operations.looks import Looks
from disks.operations.paths import Roots
from disks.operations.progress import Progress


@dataclass(frozen=True, slots=True)
class Intent:
    """What one kind wants to write: rows for people, the size afterwards, figures for scripts."""

    changes: tuple[FieldChange, ...]
    size_after_bytes: int
    figures: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MendPlan:
    """What will be done. Writes nothing by itself.

    file         the disk's file as it was when the plan was made
    fingerprint  stands for what the plan rests on, and for what is to be written
    """

    path: str
    changes: tuple[FieldChange, ...]
    warnings: tuple[Finding, ...]
    managers: tuple[dict[str, str], ...]
    size_before_bytes: int
    size_after_bytes: int
    figures: Mapping[str, int]
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
            **self.figures,
            "fingerprint": self.fingerprint,
        }


@dataclass(frozen=True, slots=True)
class Writing:
    """What write() of a kind works with, under the locks.

    wrong        what is wrong with the disk as anybody opens it afterwards; "": nothing
    keep_mtime   the modification time is put back: a child stores exactly that one
    """

    roots: Roots
    plan: MendPlan
    wrong: Callable[[Image], str]
    keep_mtime: bool
    job: str
    token: int


@dataclass(frozen=True, slots=True)
class Mend:
    """A kind of mending.

    step         its step in a job's progress; doing: the same in words, before the disk's path
    nothing      the code that intend() raises for a disk that needs none of it
    intend       what it would write; raises ImageError with the refusal
    fingerprint  of the file, its image and the intent
    write        does it; raises with the file as it was, or still waiting to be mended
    """

    step: str
    doing: str
    nothing: str
    intend: Callable[[Image], Intent]
    fingerprint: Callable[[ImageFile, Image, Intent], str]
    write: Callable[[Writing], None]


def plan(mend: Mend, path: str, roots: Roots, *, job: str = "") -> MendPlan:
    """What it takes to mend a disk (host path).

    job: the caller's own job, whose sidecars do not stand in its way.
    Raises ImageError with the refusal: the kind's own, E_READ_ONLY, E_HARD_LINKS,
    E_UNFINISHED, and what opening the disk raises.
    """
    roots.require_writable(path)
    journal.require_settled(roots, [path], job=job)
    with roots.open(path) as file:
        image = open_image(file)
        guards.require_one_name(file)
        intent = mend.intend(image)
        return MendPlan(
            path=path,
            changes=intent.changes,
            warnings=(*guards.recent_write(roots, file), *in_use.findings(roots, [path])),
            managers=tuple(guards.managers(roots, [(path, image)])),
            size_before_bytes=file.size_bytes,
            size_after_bytes=intent.size_after_bytes,
            figures=intent.figures,
            fingerprint=mend.fingerprint(file, image, intent),
            file=file.identity(),
        )


def apply(
    mend: Mend,
    plan: MendPlan,
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
    Raises E_CHANGED when anything is not as it was planned, E_LOCKED, E_IN_USE, every
    refusal of plan(), and E_VERIFY or E_REPLAY where the disk does not read as it should.
    """
    progress = progress or Progress()
    progress.step(mend.step, f"{mend.doing} {plan.path}")
    with locks.hold(roots, [plan.path], job=job, token=token):
        fingerprints.require_same_file(roots, plan.path, plan.file)
        fresh = _again(mend, plan, roots, job)
        guards.require_offline(fresh.managers, offline=offline)
        with roots.open(plan.path) as file:
            before = Looks.of(open_image(file))
        progress.commit_starts()
        mend.write(
            Writing(
                roots,
                fresh,
                wrong=lambda image: _wrong(mend, image, before),
                keep_mtime=modification_times.is_recorded(fresh.file.mtime_ns, known_children),
                job=job,
                token=token,
            )
        )
    for change in fresh.changes:
        progress.log(
            f"{change.field}: was {change.now or 'nothing'}; is {change.after or 'removed'}."
        )
    return fresh.as_dict()


def _again(mend: Mend, planned: MendPlan, roots: Roots, job: str) -> MendPlan:
    """The plan made anew under the lock. E_CHANGED if it is another one."""
    fresh = plan(mend, planned.path, roots, job=job)
    if fresh.fingerprint != planned.fingerprint:
        raise fingerprints.changed(planned.path)
    return fresh


def _wrong(mend: Mend, image: Image, before: Looks) -> str:
    """Whether it is the same disk, with nothing left to mend; why not."""
    if Looks.of(image) != before:
        return "it reads as another disk"
    try:
        mend.intend(image)
    except ImageError as error:
        return "" if error.code == mend.nothing else error.message
    return "not all of it was mended"
