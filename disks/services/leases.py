"""Leases of running jobs, and the disk locks in the database (crash-safety §5, layer A).

A worker owns a job for JOB_LEASE_SECONDS of the database's time, and renews that every
JOB_HEARTBEAT_SECONDS. It stops writing by its own clock, JOB_STOP_WRITING_SECONDS after its
last renewal *began*: earlier than anybody else may think the lease over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection, connections, transaction
from django.db.models import DateTimeField, ExpressionWrapper, Q, QuerySet
from django.db.models.functions import Now

from disks.models import DiskLock, Job
from disks.operations import in_use
from disks.operations.progress import Lost
from disks.services.stored_json import restored

logger = logging.getLogger(__name__)

_CLAIMS = 0x7664_6A6F_6273  # PostgreSQL advisory lock: one claim at a time


class LeaseLost(Lost):
    """This worker no longer owns its job: nothing more may be written, not even the row."""


def from_now(seconds: float) -> ExpressionWrapper:
    """A moment by the database's clock, for use in queries."""
    return ExpressionWrapper(Now() + timedelta(seconds=seconds), output_field=DateTimeField())


def clock() -> float:
    """Seconds that go on while the machine sleeps, where the system has such a clock."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


class Lease:
    """A claimed job's lease, kept by a thread: `with Lease(...) as lease: … lease.check()`.

    claimed_at: clock() before the claim began. status: the state in which the job is owned.
    """

    def __init__(self, job_id: int, token: int, status: str, claimed_at: float) -> None:
        self.job_id = job_id
        self.token = token
        self.status = status
        self._renewal_began = claimed_at
        self._lost = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{job_id}", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def ours(self) -> Any:
        """The job's row, as long as it is ours."""
        return Job.objects.filter(pk=self.job_id, token=self.token, status=self.status)

    def check(self) -> None:
        """Raises LeaseLost when another may own the job by now. Cheap: no query."""
        if clock() - self._renewal_began > settings.JOB_STOP_WRITING_SECONDS:
            self._lost = True
        if self._lost:
            raise LeaseLost(f"job {self.job_id}: the lease of token {self.token} is over")

    def give_up(self) -> None:
        """The row says that it is not ours; raises LeaseLost, now and from now on."""
        self._lost = True
        self.check()

    def renew(self) -> None:
        """Extend the lease of the job and its locks; a lease that is over stays over."""
        began = clock()
        with transaction.atomic():
            kept = self.ours.filter(lease_until__gt=Now()).update(
                heartbeat_at=Now(), lease_until=from_now(settings.JOB_LEASE_SECONDS)
            )
            DiskLock.objects.filter(job_id=self.job_id, token=self.token).update(
                lease_until=from_now(settings.JOB_LEASE_SECONDS)
            )
        if kept:
            self._renewal_began = began
        else:
            self._lost = True

    def _keep(self) -> None:
        pause = settings.JOB_HEARTBEAT_SECONDS
        try:
            while not self._ended.wait(pause) and not self._lost:
                try:
                    self.renew()
                    pause = settings.JOB_HEARTBEAT_SECONDS
                except (DatabaseError, InterfaceError) as error:
                    # locked or away: again soon; the worker's clock runs on meanwhile
                    logger.warning("job %s: lease not renewed: %s", self.job_id, error)
                    connection.close()
                    pause = min(1.0, settings.JOB_HEARTBEAT_SECONDS)
        finally:
            connections.close_all()


def one_claim_at_a_time() -> None:
    """Within a transaction: no other claim may look at the locks until this one commits.

    So two jobs can never each hold half of what both need. SQLite has one writer anyway
    (transactions begin IMMEDIATE).
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_CLAIMS])


def wanted_locks(job: Job) -> list[tuple[str, str]]:
    """(path, mode) of what the job needs, in the order in which all jobs take them."""
    locks = restored(job.parameters.get("locks") or {})
    exclusive = set(locks.get("exclusive", []))
    shared = set(locks.get("shared", [])) - exclusive
    return sorted(
        [(path, DiskLock.Mode.EXCLUSIVE) for path in exclusive]
        + [(path, DiskLock.Mode.SHARED) for path in shared]
    )


def holder(wanted: Iterable[tuple[str, str]], job: Job | None = None) -> Job | None:
    """The job, but not this one, that holds a lock which the wanted ones cannot stand beside.

    Locks do not end with their lease: recovery has to finish or undo their job first.
    """
    modes = dict(wanted)
    held = DiskLock.objects.filter(path__in=list(modes)).exclude(job=job).select_related("job")
    for lock in held.order_by("path", "job_id"):
        if DiskLock.Mode.EXCLUSIVE in (lock.mode, modes[lock.path]):
            return lock.job
    return None


def at_work_on(path: str) -> Job | None:
    """The job that has the disk at this host path for itself; it runs, or is paused."""
    locks = DiskLock.objects.filter(path=path, mode=DiskLock.Mode.EXCLUSIVE)
    lock = locks.select_related("job").first()
    return lock.job if lock is not None else None


def holder_told_of(warning: str) -> Job | None:
    """The job of this console that a plan's warning means, where it tells of a disk that is had."""
    path, in_hands, _ = warning.partition(in_use.IN_HANDS)
    return holder([(path, DiskLock.Mode.EXCLUSIVE)]) if in_hands else None


def first_waiting_for(path: str) -> Job | None:
    """The first job that has not started and is going to have this disk (host path) for itself."""
    waiting = Job.objects.filter(status__in=[Job.Status.QUEUED, Job.Status.PAUSED], started_at=None)
    first = _first_that_wants(path, waiting)
    return None if first is None else Job.objects.filter(pk=first).first()


def was_ours_at(path: str, at: float) -> bool:
    """Whether a job had the disk at this host path for itself at that time (since 1970).

    Then it was the job that wrote to it, and no machine.
    """
    moment = datetime.fromtimestamp(at, UTC)
    known = Job.objects.filter(
        Q(finished_at__gte=moment) | Q(status=Job.Status.RUNNING),
        # files are dated by a clock that ticks some milliseconds apart
        started_at__lte=moment + timedelta(seconds=1),
    )
    return _first_that_wants(path, known) is not None


def _first_that_wants(path: str, jobs: QuerySet[Job]) -> int | None:
    """Which of these jobs has asked for a disk for itself; no more than that is read of them."""
    rows = jobs.order_by("pk").values_list("pk", "parameters__locks__exclusive")
    return next((pk for pk, disks in rows.iterator() if path in restored(disks or [])), None)


def take_locks(wanted: Iterable[tuple[str, str]], job: Job, token: int) -> None:
    """Make the rows; the caller has asked holder() in the same transaction.

    A job that goes on after a pause has kept its own.
    """
    DiskLock.objects.filter(job=job).delete()
    DiskLock.objects.bulk_create(
        DiskLock(
            path=path,
            mode=mode,
            job=job,
            token=token,
            lease_until=from_now(settings.JOB_LEASE_SECONDS),
        )
        for path, mode in wanted
    )
