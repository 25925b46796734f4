"""Index of what can be taken back; the truth lies beside the files."""

from __future__ import annotations

from django.db import models

from disks.models.catalog import Disk
from disks.models.fields import PathField
from disks.models.jobs import Job
from disks.models.roots import StorageRoot


class LinkUndo(models.Model):
    """A parent link that was rewritten: the `.vdundo` record beside the child."""

    class State(models.TextChoices):
        AVAILABLE = "available", "Can be undone"
        UNDONE = "undone", "Undone"
        SUPERSEDED = "superseded", "Superseded"

    disk = models.ForeignKey(Disk, on_delete=models.CASCADE, related_name="link_undos")
    job = models.ForeignKey(Job, null=True, on_delete=models.SET_NULL, related_name="link_undos")
    state = models.CharField(max_length=20, choices=State, default=State.AVAILABLE)
    before = models.JSONField()
    after = models.JSONField()
    written_at = models.DateTimeField()

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.disk_id} {self.state}"


class TrashedJob(models.Model):
    """What one job put into a `.vdtrash/<job>/` folder; restored or emptied as a whole."""

    class State(models.TextChoices):
        IN_TRASH = "in-trash", "In the trash"
        RESTORED = "restored", "Restored"
        EMPTIED = "emptied", "Emptied"

    root = models.ForeignKey(StorageRoot, on_delete=models.CASCADE, related_name="trash")
    folder = PathField(help_text="below the root")
    job = models.ForeignKey(Job, null=True, on_delete=models.SET_NULL, related_name="trashed")
    operation = models.CharField(max_length=20)
    items = models.JSONField(default=list, help_text="the manifest's rows")
    size_bytes = models.BigIntegerField(default=0)
    trashed_at = models.DateTimeField()
    state = models.CharField(max_length=20, choices=State, default=State.IN_TRASH)

    class Meta:
        ordering = ["-trashed_at"]
        constraints = [models.UniqueConstraint(fields=["root", "folder"], name="trash_folder_once")]

    def __str__(self) -> str:
        return self.folder

    @property
    def words(self) -> str:
        """What put it away, where no job of this console is known to have: a command, say."""
        return self.operation.replace("-", " ").capitalize()

    @property
    def can_be_restored(self) -> bool:
        """What a merge in place put away is a part of the merged disk now."""
        return self.operation != "merge-in-place"
