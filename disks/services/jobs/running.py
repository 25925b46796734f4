"""Doing a claimed job in this process, and how what it raised or returned becomes its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection

from disks.engine.errors import ImageError
from disks.models import Job
from disks.operations.progress import Cancelled, Stopped
from disks.services import root_state, sidecars, timing
from disks.services.errors import Refusal
from disks.services.jobs.claiming import Claim, claim
from disks.services.jobs.ending import end, lose, put_back, put_off, succeed
from disks.services.jobs.queueing import log
from disks.services.leases import Lease, LeaseLost
from disks.services.stored_json import readable, restored
from disks.services.work import WORK, JobContext, function, works_in_place
from disks.services.worker_progress import JobProgress

logger = logging.getLogger(__name__)

PAUSED = "Paused. It goes on where it stopped when it is resumed."
PAUSED_LOOKING = "Paused while it looked at the disk: it looks anew when it is resumed."
HELD_SHUT_DOWN = "Paused. Its worker was shut down meanwhile: it begins anew when it is resumed."
STORING_TRIES = 10


def run(job_id: int) -> None:
    """Claim the job and do it, in this process. Returns at once when it is not to be had."""
    claimed = claim(job_id)
    if claimed is None:
        return
    lease = Lease(claimed.job.pk, claimed.token, Job.Status.RUNNING, claimed.claimed_at)
    with lease:
        _perform(claimed, lease)


def run_now(job: Job) -> Job:
    """Do a short job in the calling process, on the same path; the row as it is afterwards.

    Still queued? Then another job blocks it; the reconciler sends it when that one ends.
    """
    run(job.pk)
    job.refresh_from_db()
    return job


def _perform(claimed: Claim, lease: Lease) -> None:
    """Do the work, then store how it ended: with patience, for it may have taken hours."""
    store_end = _work(claimed, lease)
    for _ in range(STORING_TRIES):
        try:
            store_end()
        except (OperationalError, InterfaceError) as error:
            # the database is locked or away; if it stays so, recovery finds out what was done
            logger.warning("job %s: its end is not stored yet: %s", claimed.job.pk, error)
            connection.close()
            time.sleep(settings.JOB_PROGRESS_SECONDS)
        else:
            return
    logger.error("job %s: its end could not be stored", claimed.job.pk)


def _work(claimed: Claim, lease: Lease) -> Callable[[], object]:
    """Do the work; what is returned stores its end, and may be called again."""
    job, token = claimed.job, claimed.token
    work = WORK[job.kind]
    context = JobContext(job, token)
    parameters = restored(job.parameters)
    progress = JobProgress(
        lease,
        lambda: sidecars.traces(job, context),
        goes_on=work.goes_on(parameters),
        in_batches=works_in_place(parameters),
        in_bytes=work.measured_in_bytes,
        rules=partial(timing.rules, job.pk),
        may_be_held=work.moves_data,
        worked_seconds=job.worked_seconds or 0.0,
    )
    seen = Job.Status.RUNNING
    try:
        try:
            result = function(work.run)(parameters, progress, context)
            progress.flush()
        finally:
            progress.note_worked()
    except Stopped as stopped:
        told = stopped.reason
        if progress.is_shut_down:
            return partial(put_back, job, token, seen, if_paused=told, moved=True)
        return partial(put_off, job, token, seen, told, cancellable=False, by=progress.ended_by)
    except Cancelled:
        if progress.is_shut_down:
            if_paused = PAUSED if work.goes_on(parameters) else HELD_SHUT_DOWN
            return partial(put_back, job, token, seen, if_paused=if_paused)
        by, cancelled = progress.ended_by, work.after_cancel(parameters)
        if progress.is_pausing:
            told = PAUSED_LOOKING if progress.is_looking else PAUSED
            return partial(put_off, job, token, seen, told, by=by)
        if by is not None:
            told = f"Stopped at {timing.moment(by.at)}, as asked. {cancelled}"
            return partial(end, job, token, seen, Job.Status.CANCELLED, told)
        return partial(end, job, token, seen, Job.Status.CANCELLED, cancelled)
    except LeaseLost as error:
        logger.warning("%s", error)
        return partial(lose, job, token, seen, "The worker was away too long and lost its lease.")
    except (ImageError, Refusal) as error:
        return partial(fail, job, token, readable(error.as_dict()))
    except Exception:
        logger.exception("job %s (%s) failed", job.pk, job.kind)
        return partial(fail, job, token, INTERNAL_ERROR)

    if isinstance(result, dict) and progress.waited_seconds >= 0.1:
        result = result | {"waited_seconds": round(progress.waited_seconds, 1)}
    if isinstance(result, dict) and "seconds" in result and work.goes_on(parameters):
        result = result | {"seconds": round(progress.worked_seconds, 3)}  # not of its last part

    def done() -> None:
        note_finished(job, result)
        succeed(job, token, seen, result)

    return done


INTERNAL_ERROR: dict[str, Any] = {
    "code": "E_INTERNAL",
    "message": "Something went wrong in this job that should not.",
    "advice": "The log of the worker has the details; please report them.",
    "file": None,
    "field": None,
    "offset": None,
    "value": None,
}


def note_finished(job: Job, result: dict[str, Any]) -> None:
    """Bring the catalog up to date; the work is done, so an error in here is only logged."""
    work = WORK[job.kind]
    try:
        root_state.measure(restored(job.parameters).get("locks", {}).get("exclusive", []))
        if work.finished:
            function(work.finished)(job, result)
    except (OperationalError, InterfaceError):
        raise
    except Exception:
        logger.exception("job %s: the catalog was not brought up to date", job.pk)
        log(job, "The catalog could not be brought up to date; the next scan will do it.")


def fail(job: Job, token: int, error: dict[str, Any]) -> None:
    """End the job with its error; or leave it to recovery, when it left something half done."""
    if _left_something(job, token):
        Job.objects.filter(pk=job.pk, token=token).update(error=error)
        lose(
            job,
            token,
            Job.Status.RUNNING,
            f"{error['message']} What it had begun is being taken back.",
        )
        return
    end(
        job,
        token,
        Job.Status.RUNNING,
        Job.Status.FAILED,
        str(error["message"]),
        error=error,
    )


def _left_something(job: Job, token: int) -> bool:
    if not WORK[job.kind].recover:
        return False
    try:
        return sidecars.left_unfinished(job, JobContext(job, token))
    except ImageError as error:
        # storage that is away now is a reason for recovery to look, as often as it takes
        logger.warning("job %s: sidecars could not be looked for: %s", job.pk, error)
        return error.code in ("E_IO", "E_ROOT_CHANGED", "E_ROOT_OFFLINE")
