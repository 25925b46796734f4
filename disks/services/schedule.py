"""What happens by the clock: scans that are due, and old jobs that go."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from disks.models import Job, StorageRoot
from disks.services import jobs

READ_ONLY_KINDS = (Job.Kind.SCAN, Job.Kind.CHECK)
READ_ONLY_KEEP_DAYS = 30


def request_due_scans(now: datetime | None = None) -> list[Job]:
    """A job for each storage root whose last scan is older than it wishes, or never was.

    Offline roots too: a scan is how they are found to be back. Asked twice within one
    period, the same job is meant.
    """
    now = now or timezone.now()
    requested = []
    for root in StorageRoot.objects.filter(scan_every_minutes__gt=0):
        every = timedelta(minutes=root.scan_every_minutes)
        scans = Job.objects.filter(kind=Job.Kind.SCAN, root=root)
        last_asked = scans.order_by("-requested_at").values_list("requested_at", flat=True).first()
        latest = max(filter(None, [root.last_scan_at, last_asked]), default=None)
        if latest is not None and now - latest < every:
            continue
        if scans.filter(status__in=Job.ACTIVE).exists():
            continue
        period = int(now.timestamp() // every.total_seconds())
        requested.append(
            jobs.request(
                kind=Job.Kind.SCAN,
                parameters={"root": root.pk},
                user=None,
                root=root,
                summary=f"Scan {root.name}",
                exclusive=[root.path],
                idempotency_key=f"due-scan-{root.pk}-{period}",
            )
        )
    return [job for job in requested if job.status == Job.Status.QUEUED]


def forget_old_jobs(now: datetime | None = None) -> int:
    """Delete rows of jobs that ended long ago; the audit keeps its own words. Returns how many.

    Jobs whose files still lie in the trash, or whose link update can be undone, stay.
    """
    now = now or timezone.now()
    old = Q(finished_at__lt=now - timedelta(days=settings.JOB_KEEP_DAYS)) | Q(
        kind__in=READ_ONLY_KINDS, finished_at__lt=now - timedelta(days=READ_ONLY_KEEP_DAYS)
    )
    forgotten = (
        Job.objects.filter(old, status__in=Job.FINAL)
        .exclude(trashed__state="in-trash")
        .exclude(link_undos__state="available")
    )
    count = forgotten.count()
    forgotten.delete()
    return count
