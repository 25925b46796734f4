"""When a job runs and how fast: what its storage roots allow, and what was chosen for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from disks.models import Job, StorageRoot
from disks.services import audit, declarations
from disks.services.stored_json import restored
from disks.services.work import WORK

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


# --- how many at once --------------------------------------------------------------------


def full_root(job: Job) -> tuple[StorageRoot, int] | None:
    """A root that lets no more jobs run now, and how many run there; None: there is room.

    Within the transaction of a claim. Jobs that have waited longer come first.
    """
    if not _moves_data(job):
        return None
    limited = [root for root in declarations.roots_of(paths_of(job)) if root.jobs_at_once]
    if not limited:
        return None
    running = _roots_of_running()
    for root in limited:
        run = running.count(root.pk)
        earlier = waiting_for(root).filter(pk__lt=job.pk).count()
        if run + earlier >= root.jobs_at_once:
            return root, run
    return None


def waits_for_room(root: StorageRoot, running: int) -> str:
    """The sentence of a job that waits."""
    jobs = "1 job already runs" if running == 1 else f"{running:,} jobs already run"
    turn = "" if running >= root.jobs_at_once else ", and others have waited longer"
    return f"Waits: {jobs} on {root.name}, which allows {root.jobs_at_once:,} at once{turn}."


def waiting_for(root: StorageRoot) -> Any:
    """Jobs that wait for room on a root, the first in line first."""
    return Job.objects.filter(waits_for_root=root, status=Job.Status.QUEUED).order_by("pk")


def may_go_now() -> list[int]:
    """Ids of jobs that have waited for a root which has room for them by now."""
    waiting = StorageRoot.objects.filter(
        pk__in=Job.objects.filter(status=Job.Status.QUEUED, waits_for_root__isnull=False)
        .order_by()
        .values("waits_for_root")
    )
    running = _roots_of_running()
    found: list[int] = []
    for root in waiting:
        every = waiting_for(root).values_list("pk", flat=True)
        room = max(0, root.jobs_at_once - running.count(root.pk))
        found += every[:room] if root.jobs_at_once else every
    return found


def _moves_data(job: Job) -> bool:
    return job.kind in WORK and WORK[job.kind].moves_data


def _roots_of_running() -> list[int]:
    """The roots that running jobs move data on: each as often as there are such jobs."""
    kinds = [kind for kind, work in WORK.items() if work.moves_data]
    return [
        root.pk
        for job in Job.objects.filter(status=Job.Status.RUNNING, kind__in=kinds)
        for root in declarations.roots_of(paths_of(job))
    ]
