"""Jobs that wait: what they say, how workers hear of them, and who is sent when another ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.models import User as Account
from django.db import transaction
from django.utils import timezone

from disks.models import DiskLock, Job, JobLogLine
from disks.services import audit, timing
from disks.services.stored_json import readable

User = Account | AnonymousUser | None

WAITING = "Waiting for a worker."
# Of a job that waits for no other one, no root and no moment. A moment that is left behind
# would have the reconciler wake a job that somebody, or the end of its time, has paused.
NOTHING_AWAITED: dict[str, Any] = {"waits_for": None, "waits_for_root": None, "resume_at": None}

_INTERRUPTED = (Job.Status.PAUSED, Job.Status.QUEUED, Job.Status.LOST)


class Sender:
    """How ids of jobs reach the workers: set by `disks.tasks`, for services know no broker."""

    send: Callable[[int], object] | None = None


def hand_over(job_id: int) -> None:
    """Tell the workers after the transaction; where nothing can, the reconciler does."""

    def send() -> None:
        if Sender.send is not None:
            Sender.send(job_id)

    transaction.on_commit(send)


def release(job: Job) -> None:
    """Within a transaction: give the locks back, and send the jobs that waited for them."""
    DiskLock.objects.filter(job=job).delete()
    waiting = Job.objects.filter(waits_for=job, status=Job.Status.QUEUED).order_by("pk")
    for job_id in list(waiting.values_list("pk", flat=True)):
        Job.objects.filter(pk=job_id, status=Job.Status.QUEUED, waits_for=job).update(
            waits_for=None, sentence=WAITING
        )
        hand_over(job_id)
    send_where_room_is()


def send_where_room_is() -> None:
    """Within a transaction: send the jobs whose turn has come on a storage root."""
    for job_id in timing.may_go_now():
        hand_over(job_id)


def note_state(
    job: Job, before: str, after: str, sentence: str, *, user: User, address: str = ""
) -> None:
    """The audit row of a change of state, for the same transaction; its own log has what
    interrupts a job, for that tells of nothing else why an hour is missing.
    """
    audit.record(
        user=user,
        action=f"job-{after}",
        sentence=f"{job.summary or job.get_kind_display()}: {sentence}",
        disk=job.disk,
        job=job,
        before={"status": str(before)},
        after={"status": str(after)},
        address=address,
    )
    if after in _INTERRUPTED:
        log(job, sentence[0].upper() + sentence[1:])


def log(job: Job, sentence: str) -> None:
    """One line for the job's own log."""
    JobLogLine.objects.create(job=job, at=timezone.now(), text=readable(sentence))
