"""What makes jobs survive everything: lost messages, dead workers, half-done files.

The reconciler is a process of its own, so that it never waits behind hour-long jobs. Every
RECONCILER_SECONDS it sends queued jobs that no worker has taken, notices workers that died,
finishes or undoes what they left, and clears away locks that belong to nobody. Any number of
them may run: each change of state is conditional, so one of them wins.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q
from django.db.models.functions import Now
from django.utils import timezone

from disks.engine.errors import ImageError
from disks.models import DiskLock, Job
from disks.services import jobs, leases, orphans, processes, stopping, timing
from disks.services.errors import Refusal
from disks.services.leases import Lease, LeaseLost
from disks.services.stored_json import readable, restored
from disks.services.work import WORK, JobContext, Recovery, function

logger = logging.getLogger(__name__)

_OWNED = (Job.Status.RUNNING, Job.Status.RECOVERING)
_WAITS = "Recovery waits: "
# Somebody still has the files, or the storage is away: no failed try, it is tried again.
_WAIT_CODES = (
    "E_LOCKED",
    "E_IN_USE",
    "E_OUTSIDE_ROOTS",
    "E_ROOT_CHANGED",
    "E_ROOT_OFFLINE",
    "E_READ_ONLY",
)


@dataclass
class Reconciler:
    """One reconciler's memory between its rounds.

    send         puts a job's id into the queue; False when the broker is away
    queue_depth  how many messages wait there; None when that cannot be told
    """

    send: Callable[[int], bool]
    queue_depth: Callable[[], int | None]
    orphans_looked_for_at: float = field(default=float("-inf"))

    def round(self) -> None:
        """Everything once; a part that fails does not keep the others from happening."""
        parts: list[Callable[[], object]] = [
            mark_lost,
            recover_lost,
            sweep_locks,
            go_on_by_the_clock,
            lambda: resend(self.send, self.queue_depth),
        ]
        if time.monotonic() - self.orphans_looked_for_at > settings.RECONCILER_ORPHANS_SECONDS:
            self.orphans_looked_for_at = time.monotonic()
            parts.append(orphans.recover_orphans)
        for part in parts:
            try:
                part()
            except Exception:
                logger.exception("the reconciler's round went on without this part")


# --- dead workers ------------------------------------------------------------------------


def mark_lost() -> list[int]:
    """Jobs whose lease is over, or whose process on this host is gone; their ids."""
    lost = []
    over = Job.objects.filter(Q(lease_until__lte=Now()) | Q(lease_until=None), status__in=_OWNED)
    for job in over:
        with transaction.atomic():
            # asked again in the update: the worker may have renewed its lease just now
            still = Job.objects.filter(pk=job.pk, token=job.token, status=job.status).filter(
                Q(lease_until__lte=Now()) | Q(lease_until=None)
            )
            if _lost(still, job, "Its worker did not answer in time."):
                lost.append(job.pk)
    for job in Job.objects.filter(status__in=_OWNED):
        if processes.is_dead(job.worker):
            with transaction.atomic():
                still = Job.objects.filter(pk=job.pk, token=job.token, status=job.status)
                if _lost(still, job, "Its worker stopped."):
                    lost.append(job.pk)
    return lost


def _lost(still: Any, job: Job, sentence: str) -> bool:
    """Within a transaction; the locks stay until recovery is through."""
    if not still.update(status=Job.Status.LOST, sentence=sentence, lease_until=None, worker={}):
        return False
    logger.warning("job %s is lost: %s", job.pk, sentence)
    jobs.note_state(job, job.status, Job.Status.LOST, sentence, user=None)
    return True


# --- recovery ----------------------------------------------------------------------------


def recover_lost() -> None:
    """Finish or undo, one lost job after the other."""
    for job_id in list(
        Job.objects.filter(status=Job.Status.LOST).order_by("pk").values_list("pk", flat=True)
    ):
        recover_job(job_id)


def recover_job(job_id: int) -> None:
    """One try for one lost job, under a lease of its own; somebody else's is left alone."""
    began = leases.clock()
    with transaction.atomic(durable=True):
        job = (
            Job.objects.select_related("requested_by", "disk", "root")
            .filter(pk=job_id, status=Job.Status.LOST)
            .first()
        )
        if job is None or job.kind not in WORK:
            return
        seen = Job.objects.filter(pk=job.pk, status=Job.Status.LOST, token=job.token)
        if job.recoveries >= settings.JOB_RECOVERIES:
            _needs_attention(job, seen)
            return
        token = job.token + 1
        waited = job.sentence.startswith(_WAITS)
        if not seen.update(
            status=Job.Status.RECOVERING,
            token=token,
            recoveries=F("recoveries") + 1,
            worker=processes.this_process(),
            heartbeat_at=Now(),
            lease_until=leases.from_now(settings.JOB_LEASE_SECONDS),
            sentence=job.sentence
            if waited
            else "Finding out what the worker left, and putting it right.",
        ):
            return
        DiskLock.objects.filter(job=job).update(
            token=token, lease_until=leases.from_now(settings.JOB_LEASE_SECONDS)
        )
        if not waited:  # of many tries that only wait, the first is told
            jobs.note_state(
                job, Job.Status.LOST, Job.Status.RECOVERING, "recovery began.", user=None
            )
        job.refresh_from_db()
    with Lease(job.pk, token, Job.Status.RECOVERING, began) as lease:
        _recover(job, token, lease)


def _needs_attention(job: Job, seen: Any) -> None:
    sentence = (
        f"Recovery failed {job.recoveries} times. Nothing else touches its disks until somebody "
        "has looked: read the log below and the worker's log, then press “Try again”."
    )
    if seen.update(status=Job.Status.NEEDS_ATTENTION, sentence=sentence, finished_at=Now()):
        logger.error("job %s needs attention", job.pk)
        jobs.note_state(job, Job.Status.LOST, Job.Status.NEEDS_ATTENTION, sentence, user=None)


def _recover(job: Job, token: int, lease: Lease) -> None:
    work = WORK[job.kind]
    context = JobContext(job, token)
    try:
        recovery = Recovery("nothing")
        if work.recover:
            recovery = function(work.recover)(job, context)
        lease.check()
        _conclude(job, token, recovery)
    except LeaseLost:
        jobs.lose(job, token, Job.Status.RECOVERING, "Its recovery took too long to answer.")
    except ImageError as error:
        if error.code in _WAIT_CODES:
            _wait(job, token, error)
        else:
            _failed_try(job, token, error.sentence)
    except Exception:
        logger.exception("job %s: recovery failed", job.pk)
        _failed_try(job, token, "Internal error. The reconciler's log has the details.")


def _wait(job: Job, token: int, error: ImageError) -> None:
    """The old worker is paused, not dead, or a machine runs: a try that does not count."""
    sentence = readable(f"{_WAITS}{error.message}")
    with transaction.atomic():
        mine = Job.objects.filter(pk=job.pk, token=token, status=Job.Status.RECOVERING)
        changed = mine.update(
            status=Job.Status.LOST,
            recoveries=F("recoveries") - 1,
            sentence=sentence,
            lease_until=None,
            worker={},
        )
        if changed and job.sentence != sentence:
            jobs.note_state(job, Job.Status.RECOVERING, Job.Status.LOST, sentence, user=None)


def _failed_try(job: Job, token: int, why: str) -> None:
    told = f"Recovery, try {job.recoveries} of {settings.JOB_RECOVERIES}, failed: {why}"
    jobs.lose(job, token, Job.Status.RECOVERING, told)


def _conclude(job: Job, token: int, recovery: Recovery) -> None:
    """Recovery is through: into the state that tells the truth."""
    work = WORK[job.kind]
    goes_on = work.goes_on(restored(job.parameters))
    # Of work that consists of parts, a finished one says nothing of the whole.
    if recovery.action == "finished" and not work.requeue_when_lost:
        jobs.note_finished(job, recovery.result)
        jobs.succeed(
            job,
            token,
            Job.Status.RECOVERING,
            recovery.result,
            recovery.sentence or "Done. The worker had stopped; the rest was done by recovery.",
        )
        return
    job.refresh_from_db(fields=["cancel_requested_at", "pause_requested_at", "error", "attempts"])
    stopped = recovery.action in ("stopped", "ending")
    if stopped and _must_wait(job, ending=recovery.action == "ending"):
        told = str(job.error["message"]) if job.error else recovery.sentence
        jobs.put_off(job, token, Job.Status.RECOVERING, told, cancellable=False)
    elif stopped:
        _requeue(job, token, stopped=True)
    elif job.error is not None:
        _end(job, token, Job.Status.FAILED, str(job.error.get("message", "")), job.error)
    elif job.cancel_requested_at is not None:
        _end(job, token, Job.Status.CANCELLED, work.after_cancel(restored(job.parameters)), None)
    elif job.pause_requested_at is not None and goes_on:
        jobs.put_off(job, token, Job.Status.RECOVERING, jobs.PAUSED)
    elif goes_on and job.attempts < settings.JOB_ATTEMPTS:
        _requeue(job, token, stopped=False)
    else:
        sentence = recovery.sentence or work.lost
        if goes_on:
            sentence = f"Its worker stopped {job.attempts} times. {sentence}"
        error = jobs.INTERNAL_ERROR | {"code": "E_WORKER_LOST", "message": sentence, "advice": ""}
        _end(job, token, Job.Status.FAILED, sentence, error)


def _end(job: Job, token: int, status: str, sentence: str, error: dict[str, Any] | None) -> None:
    jobs.end(job, token, Job.Status.RECOVERING, status, sentence, error=error)


def _must_wait(job: Job, *, ending: bool) -> bool:
    """Of work that has moved data: it had an error, loses every worker, or was asked to stop.

    ending: too late for that.
    """
    asked = job.cancel_requested_at is not None or job.pause_requested_at is not None
    return job.error is not None or job.attempts >= settings.JOB_ATTEMPTS or (asked and not ending)


def _requeue(job: Job, token: int, *, stopped: bool) -> None:
    """stopped: its first part is done and cannot be taken back, so its locks stay."""
    next_words = "goes on" if stopped else "starts again"
    sentence = f"Its worker stopped; it {next_words}."
    with transaction.atomic():
        changed = Job.objects.filter(pk=job.pk, token=token, status=Job.Status.RECOVERING).update(
            status=Job.Status.QUEUED,
            sentence=sentence,
            lease_until=None,
            worker={},
            cancellable=not stopped,
            recoveries=0,
            result={},
        )
        if changed:
            # that its worker was lost stands in the line before
            told = f"It {next_words}."
            jobs.note_state(job, Job.Status.RECOVERING, Job.Status.QUEUED, told, user=None)
            if not stopped:
                jobs.release(job)
            jobs.hand_over(job.pk)


# --- jobs that wait for the clock --------------------------------------------------------


def go_on_by_the_clock() -> list[int]:
    """Jobs that were paused half-way until now are queued again; their ids."""
    gone_on = []
    for job in timing.due():
        with contextlib.suppress(Refusal):  # somebody was faster
            stopping.go_on(job)
            gone_on.append(job.pk)
    return gone_on


# --- messages that got lost --------------------------------------------------------------


def resend(send: Callable[[int], bool], queue_depth: Callable[[], int | None]) -> list[int]:
    """Send queued jobs that nobody has taken for JOB_RESEND_SECONDS; the ids sent.

    While at least as many messages wait in the queue as jobs are due, theirs are probably
    among them and the workers are just busy: so a long wait does not fill the queue.
    """
    before = timezone.now() - timedelta(seconds=settings.JOB_RESEND_SECONDS)
    holding = Exists(DiskLock.objects.filter(job=OuterRef("waits_for")))
    due = list(
        Job.objects.filter(Q(sent_at=None) | Q(sent_at__lt=before), status=Job.Status.QUEUED)
        .filter(requested_at__lt=before)
        .exclude(holding)
        .exclude(waits_for__status=Job.Status.QUEUED)
        .filter(Q(resume_at=None) | Q(resume_at__lte=timezone.now()))
        .filter(Q(waits_for_root=None) | Q(pk__in=timing.may_go_now()))
        .order_by("pk")
        .values_list("pk", flat=True)
    )
    if not due:
        return []
    depth = queue_depth()
    if depth is not None and depth >= len(due):
        return []
    sent = []
    for job_id in due:
        if not send(job_id):
            break  # the broker is away; the next round tries again
        sent.append(job_id)
    return sent


# --- locks that belong to nobody -----------------------------------------------------------


def sweep_locks() -> int:
    """Delete locks of jobs that hold none: ended, or not started. Returns how many."""
    idle = Q(job__status__in=Job.FINAL) | Q(job__status=Job.Status.QUEUED, job__started_at=None)
    count, _ = DiskLock.objects.filter(idle, lease_until__lte=Now()).delete()
    if count:
        logger.warning("%s disk locks belonged to no running job", count)
    return count
