"""How fast a job runs: what its storage roots allow, and what was chosen for the job itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from disks.models import Job
from disks.services import audit, declarations
from disks.services.stored_json import restored

MIB = 1024 * 1024
LEAST_BYTES_PER_SECOND = MIB


@dataclass(frozen=True)
class Choice:
    """What was chosen for one job. limit_bytes_per_second: None: as its roots say; 0: none."""

    limit_bytes_per_second: int | None = None

    @property
    def is_usual(self) -> bool:
        return self == Choice()


def choose(job: Job, choice: Choice, *, user: Any, address: str = "") -> None:
    """Keep what was chosen for a job that is asked for, in the same transaction; audited."""
    if choice.is_usual or job.status != Job.Status.QUEUED:
        return
    changed = (
        Job.objects.filter(pk=job.pk, status=Job.Status.QUEUED)
        .exclude(limit_bytes_per_second=choice.limit_bytes_per_second)
        .update(limit_bytes_per_second=choice.limit_bytes_per_second)
    )
    if not changed:
        return  # the same form, sent again
    job.refresh_from_db()
    audit.record(
        user=user,
        action="job-timed",
        sentence=f"{job.summary or job.get_kind_display()}: {in_words(choice)}.",
        disk=job.disk,
        job=job,
        after={"limit_bytes_per_second": choice.limit_bytes_per_second},
        address=address,
    )


def choice_of(job: Job) -> Choice:
    """What was chosen for a job, for one that repeats it."""
    return Choice(limit_bytes_per_second=job.limit_bytes_per_second)


def in_words(choice: Choice) -> str:
    """ "at most 50 MB/s", for the audit and lists."""
    return rate_in_words(choice.limit_bytes_per_second or 0)


def rate_in_words(bytes_per_second: int) -> str:
    if bytes_per_second == 0:
        return "no limit of speed"
    return f"at most {bytes_per_second / MIB:,.4g} MB/s"


def paths_of(job: Job) -> list[str]:
    """Host paths that the job changes or reads."""
    locks = restored(job.parameters.get("locks") or {})
    return [*locks.get("exclusive", []), *locks.get("shared", [])]


def bytes_per_second(job: Job) -> int:
    """What the job may move in a second; 0: no limit.

    Its own limit, else the smallest of the roots that it reads or writes.
    """
    if job.limit_bytes_per_second is not None:
        return job.limit_bytes_per_second
    limits = [root.limit_bytes_per_second for root in declarations.roots_of(paths_of(job))]
    return min((limit for limit in limits if limit > 0), default=0)
