"""Trying again: a new job with the same parameters, or another try of a recovery."""

from __future__ import annotations

from django.db import transaction

from disks.models import Job
from disks.services import access, timing
from disks.services.errors import Refusal
from disks.services.jobs.queueing import User, note_state
from disks.services.jobs.requesting import request
from disks.services.stored_json import restored

# Jobs that carry out a plan of one disk as it was shown in a form.
PLANNED_KINDS = frozenset(
    (
        Job.Kind.UPDATE_PARENT,
        Job.Kind.REPAIR,
        Job.Kind.REPLAY_LOG,
        Job.Kind.MERGE,
        Job.Kind.PILE,
        Job.Kind.COMPACT,
        Job.Kind.CONVERT,
        Job.Kind.EXPAND,
        Job.Kind.COPY,
        Job.Kind.MOVE,
        Job.Kind.DELETE,
    )
)


def needs_a_new_plan(job: Job) -> bool:
    """Whether trying again can only fail: what the job's plan was made for is not so any more."""
    return (
        job.status == Job.Status.FAILED
        and job.kind in PLANNED_KINDS
        and job.disk_id is not None
        and isinstance(job.error, dict)
        and job.error.get("code") in ("E_CHANGED", "E_UNREAD_DISKS")
    )


def retry(job: Job, user: User, address: str = "", *, declared_offline: bool | None = None) -> Job:
    """A new job with the same parameters; pressed twice, it is the same new job.

    declared_offline: said anew, for a machine may have been started since; None keeps what
    was said (command line). Raises Refusal E_NOT_OFFLINE where it is needed and was not
    said, E_NOT_ALLOWED for what only an administrator may ask for, E_CHANGED where only a
    new plan helps.

    One that needs attention is not repeated: its recovery is tried again, for what it left
    half done comes first. The caller enqueues what is returned.
    """
    job.refresh_from_db()
    if job.status == Job.Status.NEEDS_ATTENTION:
        with transaction.atomic():
            changed = Job.objects.filter(
                pk=job.pk, status=Job.Status.NEEDS_ATTENTION, token=job.token
            ).update(
                status=Job.Status.LOST,
                recoveries=0,
                sentence="Recovery will be tried again.",
                finished_at=None,
            )
            if changed:
                note_state(
                    job,
                    Job.Status.NEEDS_ATTENTION,
                    Job.Status.LOST,
                    "recovery is tried again.",
                    user=user,
                    address=address,
                )
        job.refresh_from_db()
        return job
    if job.status not in (Job.Status.FAILED, Job.Status.CANCELLED):
        raise Refusal(
            "E_NOT_ENDED",
            f"Job {job.pk} cannot be tried again: it is “{job.get_status_display()}”.",
        )
    if needs_a_new_plan(job):
        raise Refusal(
            "E_CHANGED",
            f"Job {job.pk} cannot be tried again: what it was planned for has changed since.",
            "Open the form of this disk again: it plans with everything as it is now.",
        )
    parameters = restored(job.parameters)
    locks = parameters.pop("locks", {})
    said = parameters.pop("said", "")
    if parameters.get("ignore_identity") and user is not None and not _administers(user):
        raise Refusal(
            "E_NOT_ALLOWED",
            "Only an administrator can give a disk a parent of another identity.",
        )
    if job.declared_offline and declared_offline is False:
        raise Refusal(
            "E_NOT_OFFLINE",
            f"Job {job.pk} was asked for with the declaration that its disks are offline; "
            "that was then.",
            "Make sure that nobody has these disks open now, and declare it again.",
        )
    again = request(
        kind=job.kind,
        parameters=parameters,
        user=user,
        summary=job.summary,
        idempotency_key=f"retry-of-{job.pk}",
        disk=job.disk,
        root=job.root,
        exclusive=locks.get("exclusive", []),
        shared=locks.get("shared", []),
        declared_offline=job.declared_offline,
        said=Job.Said.OFFLINE if job.declared_offline and declared_offline else said,
        repeats=job,
        address=address,
    )
    timing.choose(again, timing.chosen_again(job), user=user, address=address)
    return again


def _administers(user: User) -> bool:
    return access.allows(user, access.Role.ADMINISTRATOR)
