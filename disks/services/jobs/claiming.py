"""Claiming: a queued job becomes one worker's, with all its locks, or says what it waits for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from disks.models import DiskLock, Job
from disks.services import leases, processes, timing
from disks.services.jobs.queueing import NOTHING_AWAITED, note_state
from disks.services.jobs.requesting import PARAMETERS_VERSION
from disks.services.work import WORK


@dataclass(frozen=True)
class Claim:
    job: Job
    token: int
    claimed_at: float  # leases.clock(), before the claim began


def claim(job_id: int) -> Claim | None:
    """Make the queued job this process's, with all its locks; None when it is not to be had.

    A job that another one blocks stays queued, and says for whom it waits.
    """
    claimed_at = leases.clock()
    if not Job.objects.filter(pk=job_id, status=Job.Status.QUEUED).exists():
        return None  # the usual second delivery: no lock, no transaction
    with transaction.atomic(durable=True):
        leases.one_claim_at_a_time()
        job = (
            Job.objects.select_related("requested_by", "disk", "root")
            .filter(pk=job_id, status=Job.Status.QUEUED)
            .first()
        )
        if job is None:
            return None
        if job.kind not in WORK or job.parameters_version > PARAMETERS_VERSION:
            _queued(job).update(sentence="Waiting for a worker of a newer version.")
            return None
        if missed := timing.missed(job, timezone.now()):
            _queued(job).update(status=Job.Status.PAUSED, sentence=missed, **NOTHING_AWAITED)
            note_state(job, Job.Status.QUEUED, Job.Status.PAUSED, missed, user=None)
            return None
        early = timing.waits_for_the_clock(job, timezone.now())
        if early is not None:
            _queued(job).update(**(NOTHING_AWAITED | early))
            return None
        wanted = leases.wanted_locks(job)
        blocking = leases.holder(wanted, job) or _earlier_waiting(wanted, job)
        if blocking is not None:
            awaited = NOTHING_AWAITED | {"waits_for": blocking}
            _queued(job).update(sentence=_waits_for(blocking), **awaited)
            return None
        full = timing.full_root(job)
        if full is not None:
            root, running = full
            sentence = timing.waits_for_room(root, running)
            _queued(job).update(sentence=sentence, **(NOTHING_AWAITED | {"waits_for_root": root}))
            return None
        token = job.token + 1
        claimed = _queued(job).update(
            status=Job.Status.RUNNING,
            token=token,
            attempts=F("attempts") + 1,
            **NOTHING_AWAITED,
            worker=processes.this_process(),
            started_at=Now(),
            heartbeat_at=Now(),
            lease_until=leases.from_now(settings.JOB_LEASE_SECONDS),
            cancellable=True,
            step="start",
            sentence="Starting.",
            done_bytes=0,
            total_bytes=0,
            pause_requested_at=None,
            held_at=None,
        )
        if not claimed:
            return None
        leases.take_locks(wanted, job, token)
        note_state(job, Job.Status.QUEUED, Job.Status.RUNNING, "started.", user=job.requested_by)
        job.refresh_from_db()
    return Claim(job, token, claimed_at)


def _queued(job: Job) -> Any:
    return Job.objects.filter(pk=job.pk, status=Job.Status.QUEUED, token=job.token)


def _waits_for(blocking: Job) -> str:
    sentence = f"Waits for job {blocking.pk} ({blocking.summary or blocking.get_kind_display()})"
    if blocking.status == Job.Status.NEEDS_ATTENTION:
        return sentence + ", which needs attention."
    if blocking.status == Job.Status.PAUSED:
        return sentence + ", which is paused."
    return sentence + "."


def _earlier_waiting(wanted: list[tuple[str, str]], job: Job) -> Job | None:
    """An older job that waits for one of these locks goes first, or it might wait forever."""
    modes = dict(wanted)
    for other in Job.objects.filter(
        status=Job.Status.QUEUED, waits_for__isnull=False, pk__lt=job.pk
    ).order_by("pk"):
        for path, mode in leases.wanted_locks(other):
            if path in modes and DiskLock.Mode.EXCLUSIVE in (mode, modes[path]):
                return other
    return None
