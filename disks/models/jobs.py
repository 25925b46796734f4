"""One row per piece of long work; the row is the truth, Celery carries its id."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from disks.models.catalog import Disk
from disks.models.fields import PathField
from disks.models.roots import StorageRoot


class Job(models.Model):
    class Kind(models.TextChoices):
        SCAN = "scan", "Scan"
        CHECK = "check", "Check"
        UPDATE_PARENT = "update-parent", "Update parent path"
        UNDO_UPDATE = "undo-update", "Undo parent path update"
        REPAIR_PLAN = "repair-plan", "Repair parent paths"
        UNDO_PLAN = "undo-plan", "Undo repair of parent paths"
        REPAIR = "repair", "Repair headers"
        REPLAY_LOG = "replay-log", "Replay log"
        MERGE = "merge", "Merge"
        PILE = "pile", "Merge checkpoint piles"
        COMPACT = "compact", "Compact"
        CONVERT = "convert", "Convert"
        EXPAND = "expand", "Expand"
        CREATE = "create", "Create"
        COPY = "copy", "Copy"
        MOVE = "move", "Move or rename"
        DELETE = "delete", "Delete"
        RESTORE = "restore", "Restore from trash"
        EMPTY_TRASH = "empty-trash", "Empty trash"

    class Status(models.TextChoices):
        QUEUED = "queued", "Waiting"
        RUNNING = "running", "Running"
        SUCCEEDED = "succeeded", "Done"
        FAILED = "failed", "Failed"
        CANCELLED = "cancelled", "Cancelled"
        PAUSED = "paused", "Paused"
        LOST = "lost", "Worker lost"
        RECOVERING = "recovering", "Recovering"
        NEEDS_ATTENTION = "needs-attention", "Needs attention"

    class Said(models.TextChoices):
        """Which declaration stands behind `declared_offline`."""

        OFFLINE = "offline", "The disks are offline"
        UNMANAGED = "unmanaged", "The manager is stopped, or does not know the disks"

    ACTIVE = (Status.QUEUED, Status.RUNNING, Status.LOST, Status.RECOVERING)
    FINAL = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)
    OPEN = (*ACTIVE, Status.PAUSED, Status.NEEDS_ATTENTION)

    kind = models.CharField(max_length=20, choices=Kind)
    status = models.CharField(max_length=20, choices=Status, default=Status.QUEUED)
    parameters = models.JSONField(default=dict)
    parameters_version = models.PositiveSmallIntegerField(default=1)
    summary = models.TextField(blank=True, help_text="verb and disks, for lists")
    result = models.JSONField(default=dict)
    error = models.JSONField(null=True, help_text="code, message, file, field, offset, value")
    root = models.ForeignKey(StorageRoot, null=True, on_delete=models.SET_NULL)
    disk = models.ForeignKey(Disk, null=True, on_delete=models.SET_NULL, related_name="jobs")
    repeats = models.ForeignKey("self", null=True, on_delete=models.SET_NULL, related_name="+")
    waits_for = models.ForeignKey("self", null=True, on_delete=models.SET_NULL, related_name="+")
    waits_for_root = models.ForeignKey(
        StorageRoot,
        null=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="as many jobs run there as it allows at once",
    )
    idempotency_key = models.CharField(max_length=64, unique=True)
    declared_offline = models.BooleanField(default=False)

    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    requested_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True, help_text="last handed to the broker")
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    worked_seconds = models.FloatField(
        null=True,
        help_text="of all its workers, without what it was held; null: before that was counted",
    )
    heartbeat_at = models.DateTimeField(null=True)
    lease_until = models.DateTimeField(null=True)
    token = models.BigIntegerField(default=0, help_text="raised by every claim")
    attempts = models.PositiveSmallIntegerField(default=0)
    recoveries = models.PositiveSmallIntegerField(default=0)
    worker = models.JSONField(default=dict, help_text="host, pid, start time")
    cancel_requested_at = models.DateTimeField(null=True)
    pause_requested_at = models.DateTimeField(null=True)
    held_at = models.DateTimeField(
        null=True, help_text="running: its worker waits with it, for it could not be gone on with"
    )
    cancellable = models.BooleanField(
        default=True, help_text="false once the commit has begun, and where data has moved in place"
    )

    limit_bytes_per_second = models.PositiveBigIntegerField(
        null=True, help_text="null: as its storage roots say; 0: no limit"
    )
    not_before = models.DateTimeField(null=True, help_text="it starts then at the earliest")
    stop_by = models.DateTimeField(null=True, help_text="it pauses then, or is cancelled")
    outside_hours = models.BooleanField(
        default=False, help_text="it does not mind the hours of its storage roots"
    )
    resume_at = models.DateTimeField(
        null=True, help_text="queued or paused: it waits for the clock, and goes on then by itself"
    )

    step = models.CharField(max_length=40, blank=True)
    step_started_at = models.DateTimeField(
        null=True, help_text="its first report of this start of the job; for rate and time left"
    )
    step_start_bytes = models.BigIntegerField(
        default=0, help_text="done by then, perhaps before the job was paused"
    )
    sentence = models.TextField(blank=True)
    done_bytes = models.BigIntegerField(default=0)
    total_bytes = models.BigIntegerField(default=0)

    class Meta:
        ordering = ["-pk"]
        indexes = [models.Index(fields=["status", "kind"], name="job_status_kind")]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.pk}"

    @property
    def is_active(self) -> bool:
        return self.status in self.ACTIVE

    @property
    def is_paused(self) -> bool:
        return self.status == self.Status.PAUSED

    @property
    def was_begun(self) -> bool:
        """Whether a worker has ever had it; attempts are counted anew when it is resumed."""
        return self.started_at is not None

    @property
    def is_held(self) -> bool:
        """Paused with its worker: a copy, which keeps its unfinished file while it waits.

        For somebody who resumes it, or for the clock.
        """
        waits = self.pause_requested_at is not None or self.resume_at is not None
        return self.status == self.Status.RUNNING and self.held_at is not None and waits

    @property
    def said(self) -> str:
        """Which declaration was made; "" for none. Older jobs tell only that one was."""
        if not self.declared_offline:
            return ""
        return str(self.parameters.get("said") or self.Said.OFFLINE)


class JobLogLine(models.Model):
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="log")
    at = models.DateTimeField()
    text = models.TextField()

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return self.text


class DiskLock(models.Model):
    """Layer A of crash-safety §5: who may change what, over all hosts of one database."""

    class Mode(models.TextChoices):
        EXCLUSIVE = "exclusive", "Exclusive"
        SHARED = "shared", "Shared"

    path = PathField(help_text="the file on this host; new names are locked too")
    mode = models.CharField(max_length=10, choices=Mode)
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="locks")
    token = models.BigIntegerField()
    lease_until = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["path", "job"], name="lock_once_per_job"),
            models.UniqueConstraint(
                fields=["path"],
                condition=models.Q(mode="exclusive"),
                name="one_exclusive_lock_per_path",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.mode} {self.path}"
