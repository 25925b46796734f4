"""Jobs that are held: their worker waits with them, for they cannot end and be gone on with.

Somebody has paused them, or the hours of their storage root are over. Only some may be held at
a time, so that a worker is left for the others.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now

from disks.models import Job
from disks.services import leases
from disks.services.stored_json import restored
from disks.services.work import WORK


def can_be_paused(job: Job) -> bool:
    """Whether a running job can end and go on later."""
    return job.kind in WORK and WORK[job.kind].goes_on(restored(job.parameters))


def can_be_held(job: Job) -> bool:
    """Whether a running job can only be paused by having its worker wait with it."""
    return job.kind in WORK and WORK[job.kind].moves_data and not can_be_paused(job)


def others(job: Job) -> list[Job]:
    """Other jobs that are held, or are about to be. Within one_claim_at_a_time() for a count."""
    held = Job.objects.filter(
        Q(pause_requested_at__isnull=False) | Q(held_at__isnull=False), status=Job.Status.RUNNING
    )
    return [other for other in held.exclude(pk=job.pk) if can_be_held(other)]


def until_the_hours_begin(job: Job, ours: Any, resume_at: datetime | None) -> bool:
    """Note that its worker waits with it from now on; False: as many are held as may be.

    ours: the row, as long as it is this worker's
    """
    with transaction.atomic():
        leases.one_claim_at_a_time()
        if len(others(job)) >= settings.JOBS_HELD_AT_MOST:
            return False
        return bool(ours.update(held_at=Now(), resume_at=resume_at))
