"""Stopping jobs: for good, or to go on later (crash-safety §6).

Work that may end half-way and be started again (Work.goes_on) can be paused: its worker is
free, its locks stay, and resuming puts it into the queue again. Of work in place, what has
moved stays moved: from then on stopping it means pausing it. A copy is paused by holding it:
its worker waits with it, so only some jobs may be held at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone

from disks.engine.files import FileIdentity
from disks.models import Job
from disks.services import audit, held, jobs, leases, timing
from disks.services.errors import Refusal
from disks.services.jobs import User
from disks.services.stored_json import restored
from disks.services.work import ONLY_TOUCHED, WORK

_TRIES = 5  # the job may move on between a look and the update


def cancel(job: Job, user: User, address: str = "") -> Job:
    """Stop a job: a waiting or paused one at once, a running one within about two seconds.

    Raises Refusal E_TOO_LATE where its result is being put in place, or data has moved in
    place; E_NOT_ACTIVE when it has ended. Asking twice changes nothing.
    """
    return _in_one_update(job, lambda: _cancel_once(job, user, address))


def _cancel_once(job: Job, user: User, address: str) -> bool:
    if job.status in (Job.Status.QUEUED, Job.Status.PAUSED):
        if job.cancellable:
            return _end_idle(job, user, address)
        if job.status == Job.Status.QUEUED:
            return _pause_waiting(job, user, address)
        raise Refusal(
            "E_TOO_LATE",
            f"Job {job.pk} has moved data in place; that cannot be taken back, only finished.",
            "Resume it.",
        )
    if job.status not in (Job.Status.RUNNING, Job.Status.LOST, Job.Status.RECOVERING):
        raise _not_active(job, "stopped")
    if job.cancel_requested_at is not None:
        return True
    if not job.cancellable:
        raise _too_late(job)
    return _ask(job, "cancel", "asked to stop.", user, address)


def _end_idle(job: Job, user: User, address: str) -> bool:
    """A job that no worker has ends at once."""
    if not job.was_begun:
        sentence = "Cancelled before it started. Every file is as it was."
        told = "cancelled before it started."
    else:
        sentence = told = _cancelled(job)
    with transaction.atomic():
        changed = _unmoved(job).update(
            status=Job.Status.CANCELLED,
            sentence=sentence,
            cancel_requested_at=Now(),
            finished_at=Now(),
            cancellable=False,
            **jobs.NOTHING_AWAITED,
        )
        if changed:
            jobs.note_state(job, job.status, Job.Status.CANCELLED, told, user=user, address=address)
            jobs.release(job)
    return bool(changed)


def _cancelled(job: Job) -> str:
    return (
        WORK[job.kind].after_cancel(restored(job.parameters)) if job.kind in WORK else "Cancelled."
    )


def pause(job: Job, user: User, address: str = "") -> Job:
    """Have a job go on later: a waiting one at once, a running one at its next safe place.

    Raises Refusal E_NOT_PAUSABLE for work that cannot be gone on with nor held, E_HELD where
    as many are held as may be, E_NOT_ACTIVE.
    """
    return _in_one_update(job, lambda: _pause_once(job, user, address))


def _pause_once(job: Job, user: User, address: str) -> bool:
    if job.status == Job.Status.QUEUED or (job.is_paused and job.resume_at is not None):
        return _pause_waiting(job, user, address)
    if job.status != Job.Status.RUNNING:
        raise _not_active(job, "paused")
    if job.pause_requested_at is not None:
        return True
    if held.can_be_held(job):
        return _hold(job, user, address)
    if not held.can_be_paused(job):
        raise Refusal(
            "E_NOT_PAUSABLE",
            f"Job {job.pk} cannot be paused: what it has done could not be gone on with.",
            "Let it end, or cancel it: that leaves every file as it was.",
        )
    return _ask(job, "pause", "asked to pause.", user, address)


def _pause_waiting(job: Job, user: User, address: str) -> bool:
    sentence = jobs.PAUSED if job.was_begun else "Paused before it started."
    with transaction.atomic():
        changed = _unmoved(job).update(
            status=Job.Status.PAUSED,
            sentence=sentence,
            pause_requested_at=None,
            **jobs.NOTHING_AWAITED,
        )
        if changed:
            jobs.note_state(
                job, job.status, Job.Status.PAUSED, sentence, user=user, address=address
            )
    return bool(changed)


def _hold(job: Job, user: User, address: str) -> bool:
    if not job.cancellable:
        raise _too_late(job)
    with transaction.atomic():
        leases.one_claim_at_a_time()
        others = held.others(job)
        most = settings.JOBS_HELD_AT_MOST
        if len(others) >= most:
            raise _none_to_wait(job, others, most)
        return _ask(job, "pause", "asked to pause; its worker waits with it.", user, address)


def _none_to_wait(job: Job, others: list[Job], most: int) -> Refusal:
    if not others:
        return Refusal(
            "E_HELD",
            f"Job {job.pk} cannot be paused: its worker would wait with it, and there is no other.",
            "Let it end or cancel it; or start another worker and raise VDADMIN_JOBS_HELD_AT_MOST.",
        )
    names = " and ".join(f"job {other.pk}" for other in others)
    return Refusal(
        "E_HELD",
        f"Job {job.pk} cannot be paused: a paused copy keeps a worker waiting, {names} "
        f"{'does' if len(others) == 1 else 'do'} so already, and no more than {most:,} may.",
        f"Resume or cancel {names} first, or raise VDADMIN_JOBS_HELD_AT_MOST if there are more "
        "workers.",
    )


def resume(
    job: Job, user: User, address: str = "", *, untouched: FileIdentity | None = None
) -> Job:
    """A paused job waits for a worker again; the caller hands it over. Repeatable.

    untouched: the base of the merge that it has left half-way (half_merged.touched_base()), as it
    was when somebody said that nobody has written to it. Raises Refusal E_NOT_PAUSED.
    """
    return _in_one_update(job, lambda: _resume_once(job, user, address, untouched))


def _resume_once(job: Job, user: User, address: str, untouched: FileIdentity | None = None) -> bool:
    if job.status in (Job.Status.QUEUED, Job.Status.RUNNING):
        return job.pause_requested_at is None or _withdraw_pause(job, user, address)
    if job.status != Job.Status.PAUSED:
        raise Refusal(
            "E_NOT_PAUSED",
            f"Job {job.pk} cannot be resumed: it is “{job.get_status_display()}”.",
        )
    said, told = {}, "resumed."
    if untouched is not None:
        said = {"parameters": job.parameters | {ONLY_TOUCHED: untouched.as_dict()}}
        told = (
            "resumed; declared that nobody has written to the disk merged into, though its times "
            "are others."
        )
    with transaction.atomic():
        changed = (
            _unmoved(job)
            .filter(resume_at=job.resume_at)
            .update(
                status=Job.Status.QUEUED,
                sentence=jobs.WAITING,
                attempts=0,
                recoveries=0,
                sent_at=None,
                resume_at=None,
                stop_by=timing.stops_by(job),
                **said,
            )
        )
        if changed:
            jobs.note_state(job, job.status, Job.Status.QUEUED, told, user=user, address=address)
            jobs.hand_over(job.pk)
    return bool(changed)


def go_on(job: Job) -> Job:
    """A paused job whose moment has come waits for a worker again.

    Raises Refusal E_NOT_PAUSED where somebody has had it keep paused, or go on, meanwhile.
    """
    return _in_one_update(job, lambda: _go_on_once(job))


def _go_on_once(job: Job) -> bool:
    if not job.is_paused or job.resume_at is None or job.resume_at > timezone.now():
        raise Refusal("E_NOT_PAUSED", f"Job {job.pk} does not wait for the clock any more.")
    return _resume_once(job, None, "")


def start_now(job: Job, user: User, address: str = "") -> Job:
    """A job that waits for the clock waits no more, whatever the hours of its storage roots.

    Raises Refusal E_NOT_PAUSED where it does not wait for the clock: somebody has paused it, say,
    and only resuming goes on with that. A job that only waits for a worker is let be: asking
    twice changes nothing.
    """
    return _in_one_update(job, lambda: _start_now_once(job, user, address))


def _start_now_once(job: Job, user: User, address: str) -> bool:
    waits = timing.decides(job)
    if not waits and job.status != Job.Status.QUEUED:
        raise Refusal(
            "E_NOT_PAUSED",
            f"Job {job.pk} does not wait for the clock: it is “{job.get_status_display()}”.",
            "Resume it: then it goes on." if job.is_paused else "",
        )
    if not waits:
        return True
    with transaction.atomic():
        changed = timing.mind_no_clock(job, user, address)
        if changed and job.is_paused:
            changed = _resume_once(job, user, address)
        elif changed and job.status == Job.Status.QUEUED:
            _unmoved(job).update(sentence=jobs.WAITING)
            jobs.hand_over(job.pk)
    return changed


def _withdraw_pause(job: Job, user: User, address: str) -> bool:
    with transaction.atomic():
        changed = _unmoved(job).update(pause_requested_at=None)
        if changed:
            told = "goes on, and is not paused."
            _record(job, "job-resumed", told, {"pause_requested": False}, user, address)
    return bool(changed)


def _ask(job: Job, what: str, told: str, user: User, address: str) -> bool:
    """Note the wish in the row; the worker reads it whenever it stores its progress."""
    column = f"{what}_requested_at"
    with transaction.atomic():
        seen = {column: None} | ({"cancellable": True} if what == "cancel" else {})
        changed = _unmoved(job).filter(**seen).update(**{column: Now()})
        if changed:
            _record(job, f"job-{what}-requested", told, {f"{what}_requested": True}, user, address)
    return bool(changed)


def _record(
    job: Job, action: str, told: str, after: dict[str, Any], user: User, address: str
) -> None:
    audit.record(
        user=user,
        action=action,
        sentence=f"{job.summary or job.get_kind_display()}: {told}",
        disk=job.disk,
        job=job,
        before={"status": job.status},
        after={"status": job.status} | after,
        address=address,
    )


def _unmoved(job: Job) -> Any:
    return Job.objects.filter(pk=job.pk, status=job.status, token=job.token)


def _in_one_update(job: Job, attempt: Callable[[], bool]) -> Job:
    for _ in range(_TRIES):
        job.refresh_from_db()
        if attempt():
            job.refresh_from_db()
            return job
    raise Refusal("E_BUSY", f"Job {job.pk} is changing right now.", "Try again.")


def _too_late(job: Job) -> Refusal:
    return Refusal(
        "E_TOO_LATE",
        f"Job {job.pk} is putting its result in place; it can no longer be stopped.",
        "Wait for its end; what it replaced is in the trash afterwards.",
    )


def _not_active(job: Job, done: str) -> Refusal:
    return Refusal(
        "E_NOT_ACTIVE", f"Job {job.pk} cannot be {done}: it is “{job.get_status_display()}”."
    )
