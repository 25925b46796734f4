"""Rows for tests: each function makes one row with sensible values that arguments override.

No files are touched; for real files see `builders/`.
"""

from __future__ import annotations

import itertools
import os
import uuid
from typing import Any

from django.contrib.auth import get_user_model
from django.utils import timezone

from disks.models import (
    AuditEntry,
    Disk,
    Job,
    LinkUndo,
    ParentLink,
    StorageRoot,
    TrashedJob,
    WindowsView,
)

_numbers = itertools.count(1)
GIB = 1024**3


def make_user(username: str = "", **fields: Any) -> Any:
    """A user without a role; `is_superuser=True` makes an administrator."""
    username = username or f"user-{next(_numbers)}"
    return get_user_model().objects.create_user(username, password="quiet-harbour-42", **fields)


def make_root(path: str | os.PathLike[str] = "", *, views: tuple[str, ...] = (), **fields: Any):
    """A root that is online, writable and opened by nobody; the first view is preferred."""
    number = next(_numbers)
    values: dict[str, Any] = {
        "name": f"root-{number}",
        "path": os.fspath(path) or f"/srv/root-{number}",
        "opened_by": StorageRoot.OpenedBy.NOBODY,
        "read_only": False,
        "state": StorageRoot.State.ONLINE,
    }
    root = StorageRoot.objects.create(**(values | fields))
    for index, prefix in enumerate(views):
        WindowsView.objects.create(root=root, prefix=prefix, preferred=index == 0)
    return root


def make_disk(relative_path: str = "", *, root: StorageRoot | None = None, **fields: Any) -> Disk:
    """A healthy dynamic disk of 1 GiB that a scan has just seen."""
    number = next(_numbers)
    relative_path = relative_path or f"disk-{number}.vhd"
    now = timezone.now()
    values: dict[str, Any] = {
        "root": root or StorageRoot.objects.first() or make_root(),
        "relative_path": relative_path,
        "name": os.path.basename(relative_path),
        "sentence": "Nothing is wrong with this disk.",
        "format": "vhd",
        "disk_type": "dynamic",
        "virtual_size_bytes": GIB,
        "file_size_bytes": 64 * 1024**2,
        "allocated_bytes": 64 * 1024**2,
        "block_size_bytes": 2 * 1024**2,
        "blocks_total": 512,
        "blocks_allocated": 31,
        "identity": str(uuid.uuid4()),
        "creator": "win  10.0",
        "image_created_at": now,
        "device": 1,
        "inode": number,
        "mtime_ns": 1_700_000_000_000_000_000,
        "ctime_ns": 1_700_000_000_000_000_000,
        "modified_at": now,
        "first_seen_at": now,
        "last_seen_at": now,
        "last_read_at": now,
    }
    return Disk.objects.create(**(values | fields))


def make_link(child: Disk, parent: Disk | None = None, **fields: Any) -> ParentLink:
    """The child's parent link: found when a parent is given, else missing.

    The chain columns of both disks are set for a chain of these two.
    """
    identity = parent.identity if parent else str(uuid.uuid4())
    name = parent.name if parent else "base.vhd"
    values: dict[str, Any] = {
        "child": child,
        "parent": parent,
        "status": ParentLink.Status.FOUND if parent else ParentLink.Status.MISSING,
        "named_identity": identity,
        "named_path": f"C:\\VMs\\{name}",
        "locators": [
            {"code": "W2ru", "path": f".\\{name}", "problem": None},
            {"code": "W2ku", "path": f"C:\\VMs\\{name}", "problem": None},
        ],
        "trace": [
            {
                "source": "W2ru",
                "raw": f".\\{name}",
                "candidate": os.path.join(os.path.dirname(child.path), name),
                "verdict": "match" if parent else "not-found",
                "detail": "",
            }
        ],
        "reason": "" if parent else f"This disk names C:\\VMs\\{name}, which is not there.",
        "cause": "" if parent else f"missing:{identity}",
        "first_seen_at": timezone.now(),
    }
    link = ParentLink.objects.create(**(values | fields))
    child.disk_type = "differencing"
    if link.parent:
        child.chain_position = link.parent.chain_position + 1
        child.chain_depth = max(child.chain_depth, child.chain_position)
        child.chain_base = link.parent.chain_base or link.parent
        link.parent.child_count += 1
        link.parent.chain_depth = max(link.parent.chain_depth, child.chain_depth)
        link.parent.save(update_fields=["child_count", "chain_depth"])
    else:
        child.health = Disk.Health.BROKEN
        child.health_code = "E_PARENT_MISSING"
        child.sentence = link.reason
    child.save()
    return link


def make_job(kind: str = Job.Kind.CHECK, **fields: Any) -> Job:
    """A job that waits; give `status` and its times for another."""
    values: dict[str, Any] = {
        "kind": kind,
        "summary": f"{Job.Kind(kind).label} a disk",
        "idempotency_key": uuid.uuid4().hex,
        "requested_at": timezone.now(),
    }
    return Job.objects.create(**(values | fields))


def make_audit(sentence: str = "Somebody did something.", **fields: Any) -> AuditEntry:
    values: dict[str, Any] = {
        "at": timezone.now(),
        "username": "someone",
        "action": "test",
        "sentence": sentence,
    }
    return AuditEntry.objects.create(**(values | fields))


def make_link_undo(disk: Disk, **fields: Any) -> LinkUndo:
    values: dict[str, Any] = {
        "disk": disk,
        "before": {"name": "old.vhd"},
        "after": {"name": "new.vhd"},
        "written_at": timezone.now(),
    }
    return LinkUndo.objects.create(**(values | fields))


def make_trashed_job(root: StorageRoot, job: Job | None = None, **fields: Any) -> TrashedJob:
    values: dict[str, Any] = {
        "root": root,
        "folder": f".vdtrash/{next(_numbers)}",
        "job": job,
        "operation": "merge",
        "items": [{"path": "child.vhd", "stored": "child.vhd", "size_bytes": 1024}],
        "size_bytes": 1024,
        "trashed_at": timezone.now(),
    }
    return TrashedJob.objects.create(**(values | fields))
