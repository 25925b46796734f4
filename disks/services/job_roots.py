"""Which storage roots jobs work on, and how many run on each."""

from __future__ import annotations

from collections.abc import Iterable

from disks.models import Job, StorageRoot
from disks.services import declarations
from disks.services.stored_json import restored
from disks.services.work import WORK


def paths_of(job: Job) -> list[str]:
    """Host paths that the job changes or reads."""
    locks = restored(job.parameters.get("locks") or {})
    return [*locks.get("exclusive", []), *locks.get("shared", [])]


def of_job(job: Job) -> list[StorageRoot]:
    return declarations.roots_of(paths_of(job))


def moves_data(job: Job) -> bool:
    """Does it copy or move what disks hold? Then the hours and the speed of its roots count."""
    return job.kind in WORK and WORK[job.kind].moves_data


def takes_a_turn(job: Job) -> bool:
    """Is it one of the jobs of which roots let only some run at once?"""
    return job.kind in WORK and WORK[job.kind].takes_a_turn(restored(job.parameters))


def running() -> list[Job]:
    return list(Job.objects.filter(status=Job.Status.RUNNING))


def on_each_root(jobs: Iterable[Job]) -> dict[int, int]:
    """How many of the jobs work on a root, by the root's key; roots without one are left out."""
    counts: dict[int, int] = {}
    for roots in declarations.roots_of_each(paths_of(job) for job in jobs):
        for root in roots:
            counts[root.pk] = counts.get(root.pk, 0) + 1
    return counts
