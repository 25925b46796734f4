"""Who changed what: append-only."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from disks.models.catalog import Disk
from disks.models.fields import PathField
from disks.models.jobs import Job


class AuditEntry(models.Model):
    at = models.DateTimeField(db_index=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    username = models.CharField(max_length=150, help_text="kept when the user goes")
    address = models.CharField(max_length=60, blank=True)
    action = models.CharField(max_length=40, db_index=True)
    sentence = models.TextField()
    disk = models.ForeignKey(Disk, null=True, on_delete=models.SET_NULL, related_name="audit")
    path = PathField(blank=True)
    job = models.ForeignKey(Job, null=True, on_delete=models.SET_NULL, related_name="audit")
    before = models.JSONField(null=True)
    after = models.JSONField(null=True)

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return self.sentence
