"""Who changed what: every write leaves one row, in the transaction of the change."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.models import User as Account
from django.utils import timezone

from disks.models import AuditEntry, Disk, Job
from disks.services.stored_json import readable

SYSTEM = "system"


def record(
    *,
    user: Account | AnonymousUser | None,
    action: str,
    sentence: str,
    disk: Disk | None = None,
    path: str = "",
    job: Job | None = None,
    before: Any = None,
    after: Any = None,
    address: str = "",
) -> AuditEntry:
    """Add one line; call it inside the transaction that makes the change.

    user None (or nobody signed in) is the console itself: schedule, worker, reconciler.
    before, after: anything JSON can hold; text that no database takes is shown escaped.
    """
    known = user if isinstance(user, Account) else None
    return AuditEntry.objects.create(
        at=timezone.now(),
        user=known,
        username=known.get_username() if known is not None else SYSTEM,
        address=address[:60],
        action=action,
        sentence=readable(sentence),
        disk=disk,
        path=path or (disk.path if disk is not None else ""),
        job=job,
        before=readable(before),
        after=readable(after),
    )
