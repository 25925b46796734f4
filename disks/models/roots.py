"""Storage roots: the folders that the console may look at, and how Windows sees them."""

from __future__ import annotations

from django.db import models

from disks.models.fields import PathField


class StorageRoot(models.Model):
    class OpenedBy(models.TextChoices):
        NOBODY = "nobody", "Nobody else"
        HYPER_V = "hyper-v", "Hyper-V"
        FSLOGIX = "fslogix", "FSLogix"
        XCP_NG = "xcp-ng", "XCP-ng or XenServer"
        OTHER = "other", "Something else"

    class State(models.TextChoices):
        NEW = "new", "Not scanned yet"
        ONLINE = "online", "Online"
        OFFLINE = "offline", "Offline"
        CHANGED = "changed", "Another file system is mounted here"

    class DeclaredBy(models.TextChoices):
        SETTINGS = "settings", "Settings"
        COMMAND_LINE = "command line", "Command line"
        BROWSER = "browser", "Browser"

    name = models.CharField(max_length=80, unique=True)
    path = PathField(unique=True)
    opened_by = models.CharField(max_length=20, choices=OpenedBy, default=OpenedBy.OTHER)
    read_only = models.BooleanField(default=True)
    declared_by = models.CharField(
        max_length=20, choices=DeclaredBy, default=DeclaredBy.COMMAND_LINE
    )
    excluded_folders = models.JSONField(default=list, blank=True)
    scan_every_minutes = models.PositiveIntegerField(default=60, help_text="0: by hand only")
    limit_bytes_per_second = models.PositiveBigIntegerField(
        default=0, help_text="what all jobs together may move here; 0: no limit"
    )
    hours_begin = models.TimeField(null=True, help_text="long jobs run from here; null: always")
    hours_end = models.TimeField(null=True, help_text="until here, across midnight if not later")
    jobs_at_once = models.PositiveSmallIntegerField(
        default=0, help_text="jobs that move data here; 0: no limit"
    )
    state = models.CharField(max_length=20, choices=State, default=State.NEW)
    state_reason = models.TextField(blank=True)
    device = models.BigIntegerField(null=True)
    inode = models.BigIntegerField(null=True)
    marker = models.CharField(
        max_length=64, blank=True, help_text="content of the file .vdroot; none: not written yet"
    )
    probe = models.JSONField(default=dict, blank=True)
    probed_at = models.DateTimeField(null=True)
    free_bytes = models.BigIntegerField(null=True)
    total_bytes = models.BigIntegerField(null=True)
    last_scan_at = models.DateTimeField(null=True)
    last_scan_result = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def hours(self) -> str:
        """ "22:00–06:00", or "" where long jobs run at any time."""
        if self.hours_begin is None or self.hours_end is None:
            return ""
        return f"{self.hours_begin:%H:%M}–{self.hours_end:%H:%M}"


class WindowsView(models.Model):
    """How Windows hosts name the root: `D:\\VMs`, `\\\\nas\\vms`."""

    root = models.ForeignKey(StorageRoot, on_delete=models.CASCADE, related_name="windows_views")
    prefix = models.CharField(max_length=400)
    preferred = models.BooleanField(default=False)

    class Meta:
        ordering = ["-preferred", "prefix"]
        constraints = [
            models.UniqueConstraint(fields=["root", "prefix"], name="windows_view_once"),
            models.UniqueConstraint(
                fields=["root"],
                condition=models.Q(preferred=True),
                name="one_preferred_view_per_root",
            ),
        ]

    def __str__(self) -> str:
        return self.prefix
