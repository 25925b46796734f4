"""Out of the hands of a worker: ended, paused, put back, or lost."""

from __future__ import annotations

import logging
from typing import Any

from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Now

from disks.models import Job
from disks.services import timing
from disks.services.jobs.queueing import (
    NOTHING_AWAITED,
    hand_over,
    note_state,
    release,
    send_where_room_is,
)
from disks.services.stored_json import readable
from disks.services.timing import End

logger = logging.getLogger(__name__)

SHUT_DOWN = "Its worker was shut down. The next one does it."


def succeed(
    job: Job, token: int, seen: str, result: dict[str, Any], sentence: str = "Done."
) -> bool:
    """The work is done. False when the job is not ours any more."""
    said = result.get("sentence") if isinstance(result, dict) else None
    return end(
        job,
        token,
        seen,
        Job.Status.SUCCEEDED,
        str(said or sentence),
        result=readable(result),
        error=None,
    )


def end(job: Job, token: int, seen: str, status: str, sentence: str, **columns: Any) -> bool:
    """Into a final state: locks go, those who waited are sent. False: not ours any more."""
    with transaction.atomic():
        changed = Job.objects.filter(pk=job.pk, token=token, status=seen).update(
            status=status,
            sentence=readable(sentence),
            finished_at=Now(),
            lease_until=None,
            cancellable=False,
            **(NOTHING_AWAITED | {"result": {}} | columns),
        )
        if not changed:
            logger.warning("job %s: token %s no longer owns it", job.pk, token)
            return False
        note_state(job, seen, status, sentence, user=job.requested_by)
        release(job)
    return True


def put_off(
    job: Job,
    token: int,
    seen: str,
    sentence: str,
    *,
    cancellable: bool = True,
    by: End | None = None,
) -> bool:
    """Running or recovering → paused; the locks stay. False: the job is not ours any more.

    cancellable: whether it may still be ended without going on. by: the end of its time, if
    that stopped it; then it may go on by itself.
    """
    clock = timing.put_off_by_the_clock(job, by) if by is not None else {}
    if "sentence" in clock:
        sentence = clock.pop("sentence") + ("" if cancellable else f" {sentence}")
    with transaction.atomic():
        changed = Job.objects.filter(pk=job.pk, token=token, status=seen).update(
            status=Job.Status.PAUSED,
            sentence=readable(sentence),
            cancellable=cancellable,
            lease_until=None,
            worker={},
            cancel_requested_at=None,
            pause_requested_at=None,
            result={},
            error=None,
            **({"resume_at": None} | clock),
        )
        if changed:
            note_state(job, seen, Job.Status.PAUSED, sentence, user=job.requested_by)
            send_where_room_is()
    return bool(changed)


def put_back(job: Job, token: int, seen: str, *, if_paused: str, moved: bool = False) -> bool:
    """Running → queued, for another worker; this one shuts down. bad-input F98.

    if_paused: the sentence where somebody has asked it to pause, perhaps only while it stopped:
    then it is paused. moved: data has moved in place, so its locks stay and it can only be gone
    on with; else every file is as it was. False: the job is not ours any more.
    """
    ours = Job.objects.filter(pk=job.pk, token=token, status=seen)
    to_go_on = Q(pause_requested_at=None) | Q(cancel_requested_at__isnull=False)  # it counts more
    with transaction.atomic():
        changed = ours.filter(to_go_on).update(
            status=Job.Status.QUEUED,
            sentence=SHUT_DOWN,
            cancellable=not moved,
            attempts=F("attempts") - 1,  # it is not the job that made its worker end
            lease_until=None,
            worker={},
            sent_at=None,
            result={},
            error=None,
            **NOTHING_AWAITED,
        )
        if changed:
            note_state(job, seen, Job.Status.QUEUED, SHUT_DOWN, user=None)
            if not moved:
                release(job)
            hand_over(job.pk)
    return bool(changed) or put_off(job, token, seen, if_paused, cancellable=not moved)


def lose(job: Job, token: int, seen: str, sentence: str) -> bool:
    """The job has no worker any more; its locks stay until recovery is through."""
    with transaction.atomic():
        changed = Job.objects.filter(pk=job.pk, token=token, status=seen).update(
            status=Job.Status.LOST, sentence=readable(sentence), lease_until=None, worker={}
        )
        if changed:
            note_state(job, seen, Job.Status.LOST, sentence, user=None)
    return bool(changed)
