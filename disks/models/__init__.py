"""The catalog, the jobs and the audit: small rows; rules live in services."""

from disks.models.audit import AuditEntry
from disks.models.catalog import Disk, OtherFile, ParentLink
from disks.models.jobs import DiskLock, Job, JobLogLine
from disks.models.roots import StorageRoot, WindowsView
from disks.models.undo import LinkUndo, TrashedJob

__all__ = [
    "AuditEntry",
    "Disk",
    "DiskLock",
    "Job",
    "JobLogLine",
    "LinkUndo",
    "OtherFile",
    "ParentLink",
    "StorageRoot",
    "TrashedJob",
    "WindowsView",
]
