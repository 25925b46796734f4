"""Asking for a job: its row, with what was declared and which disks it locks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from django.contrib.auth.models import User as Account
from django.db import IntegrityError, transaction
from django.utils import timezone

from disks.models import Disk, Job, StorageRoot
from disks.services import audit, declarations
from disks.services.errors import Refusal
from disks.services.jobs.queueing import WAITING, User
from disks.services.stored_json import readable, storable

PARAMETERS_VERSION = 1


def request(
    *,
    kind: str,
    parameters: dict[str, Any],
    user: User,
    summary: str,
    idempotency_key: str,
    disk: Disk | None = None,
    root: StorageRoot | None = None,
    exclusive: list[str] | None = None,
    shared: list[str] | None = None,
    declared_offline: bool = False,
    said: str = "",
    repeats: Job | None = None,
    address: str = "",
) -> Job:
    """Store a job; the same key gives the same job, however often it is asked for.

    exclusive: paths that it changes, makes or replaces, and the children of what changes;
    shared: the ancestors that it only reads. The caller enqueues it in the same transaction.
    said: which declaration was made (Job.Said), where the roots do not tell.
    Raises Refusal E_IDEMPOTENCY when the key was used for work of another kind.
    """
    if len(idempotency_key) > 64:
        idempotency_key = hashlib.sha256(idempotency_key.encode()).hexdigest()
    locks = {"exclusive": sorted(set(exclusive or [])), "shared": sorted(set(shared or []))}
    known = user if isinstance(user, Account) else None
    if declared_offline:
        said = said or _said_of(locks["exclusive"])
    which = {"said": str(said)} if said else {}
    declared = {"declared_offline": declared_offline} | (
        {"declared_unrelated": parameters["unrelated"]} if parameters.get("unrelated") else {}
    )
    declared |= {"declared_only_touched": True} if parameters.get("only_touched") else {}
    try:
        with transaction.atomic():
            job = Job.objects.create(
                kind=kind,
                parameters=storable(parameters | {"locks": locks} | which),
                parameters_version=PARAMETERS_VERSION,
                summary=readable(summary),
                sentence=WAITING,
                root=root,
                disk=disk,
                repeats=repeats,
                idempotency_key=idempotency_key,
                declared_offline=declared_offline,
                requested_by=known,
                requested_at=timezone.now(),
            )
            audit.record(
                user=user,
                action="job-requested",
                sentence=f"{summary}: requested{_declared(**declared, said=said)}.",
                disk=disk,
                job=job,
                after={"kind": kind, **declared, **which, "locks": locks},
                address=address,
            )
    except IntegrityError:
        earlier = Job.objects.filter(idempotency_key=idempotency_key).first()
        if earlier is None:
            raise
        if earlier.kind != kind:
            raise Refusal(
                "E_IDEMPOTENCY",
                f"This form was already used for job {earlier.pk} ({earlier.summary}).",
                "Open the page anew and send it again.",
            ) from None
        return earlier
    return job


def _said_of(host_paths: list[str]) -> str:
    """Disks that nobody else opens are not asked about: there only a manager is."""
    roots = declarations.roots_of(host_paths)
    nobody = StorageRoot.OpenedBy.NOBODY
    if roots and all(root.opened_by == nobody for root in roots):
        return Job.Said.UNMANAGED
    return Job.Said.OFFLINE


_SAID = {
    Job.Said.OFFLINE: ", declared offline",
    Job.Said.UNMANAGED: ", with its manager declared stopped",
}


def _declared(
    declared_offline: bool,
    declared_unrelated: Sequence[str] = (),
    said: str = "",
    *,
    declared_only_touched: bool = False,
) -> str:
    """What somebody took the responsibility for, as the end of a sentence."""
    words = _SAID[Job.Said(said)] if declared_offline else ""
    if declared_unrelated:
        count = len(declared_unrelated)
        what = declared_unrelated[0] if count == 1 else f"{count:,} files or folders"
        words += f", {what} declared to build on none of its disks though not readable"
    if declared_only_touched:
        words += ", the disk merged into declared to be written by nobody, only touched"
    return words
