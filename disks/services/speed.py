"""How fast a job may be: as was chosen for it, else its share of what its storage roots allow.

The limit of a root is one for all jobs there: those that run share it evenly. A job for which a
limit of its own was chosen is none of them. Each looks again every few seconds, so that it takes
more when another one ends, and less when one begins.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from disks.models import Job, StorageRoot
from disks.services import job_roots


@dataclass(frozen=True)
class Limit:
    """bytes_per_second: 0: none. root: the name of the one whose limit it is, shared by jobs."""

    bytes_per_second: int = 0
    root: str = ""
    jobs: int = 1


def of_job(job: Job) -> Limit:
    """What the job may move in a second now, as one of those that run."""
    if job.limit_bytes_per_second is not None:
        return Limit(job.limit_bytes_per_second)
    limited = [root for root in job_roots.of_job(job) if root.limit_bytes_per_second]
    if not limited:
        return Limit()
    others = job_roots.on_each_root(
        other for other in job_roots.running() if other.pk != job.pk and _shares(other)
    )
    shares = []
    for root in limited:
        jobs = 1 + others.get(root.pk, 0)
        shares.append(Limit(max(1, root.limit_bytes_per_second // jobs), root.name, jobs))
    return min(shares, key=lambda share: share.bytes_per_second)


def _shares(job: Job) -> bool:
    """One that is held moves nothing."""
    return job_roots.moves_data(job) and job.limit_bytes_per_second is None and job.held_at is None


def of_roots(roots: Iterable[StorageRoot]) -> int:
    """The smallest limit of these roots; 0: none."""
    limits = [root.limit_bytes_per_second for root in roots]
    return min((limit for limit in limits if limit > 0), default=0)
