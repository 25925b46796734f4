"""The database's picture of the files; the files are the truth, a scan renews this."""

from __future__ import annotations

import os

from django.db import models

from disks.models.fields import PathField
from disks.models.roots import StorageRoot


class Disk(models.Model):
    class Health(models.TextChoices):
        """The worst that is known; `broken` speaks of the chain, `damaged` of the file."""

        HEALTHY = "healthy", "Healthy"
        NOTICE = "notice", "Look at this"
        SUSPECT = "suspect", "Parent was written"
        BROKEN = "broken", "Chain broken"
        DAMAGED = "damaged", "Damaged"
        NOT_A_DISK = "not-a-disk", "Not a disk"
        IN_USE = "in-use", "In use"
        UNREADABLE = "unreadable", "Unreadable"
        MISSING = "missing", "Missing"

    root = models.ForeignKey(
        StorageRoot,
        on_delete=models.CASCADE,
        related_name="disks",
        db_index=False,  # two indexes below begin with it
    )
    relative_path = PathField()
    name = PathField()
    health = models.CharField(max_length=20, choices=Health, default=Health.HEALTHY)
    own_health = models.CharField(
        max_length=20,
        choices=Health,
        default=Health.HEALTHY,
        help_text="of the file alone, whatever its chain is like",
    )
    health_code = models.CharField(max_length=40, blank=True)
    sentence = models.TextField(blank=True, help_text="The verdict, for the top of its page")

    format = models.CharField(max_length=10, blank=True)
    disk_type = models.CharField(max_length=20, blank=True)
    virtual_size_bytes = models.BigIntegerField(null=True)
    file_size_bytes = models.BigIntegerField(default=0)
    allocated_bytes = models.BigIntegerField(default=0)
    block_size_bytes = models.BigIntegerField(null=True)
    blocks_total = models.BigIntegerField(null=True)
    blocks_allocated = models.BigIntegerField(null=True)
    spare_bytes = models.BigIntegerField(
        null=True, help_text="room in the file that no block takes; null: little, or not known"
    )
    identity = models.CharField(max_length=36, blank=True, db_index=True)
    virtual_disk_id = models.CharField(
        max_length=36,
        blank=True,
        db_index=True,
        help_text="shared by all disks of a chain, where the format has it",
    )
    file_write_guid = models.CharField(
        max_length=36,
        blank=True,
        help_text="another one after every opening for writing, where the format has it",
    )
    log_waits = models.BooleanField(
        default=False, help_text="the format's own log holds changes that are not in their place"
    )
    creator = models.CharField(max_length=60, blank=True)
    image_created_at = models.DateTimeField(null=True)
    findings = models.JSONField(default=list)
    managed_by = models.CharField(max_length=40, blank=True)

    device = models.BigIntegerField(null=True)
    inode = models.BigIntegerField(null=True)
    mtime_ns = models.BigIntegerField(null=True)
    ctime_ns = models.BigIntegerField(null=True)
    header_hash = models.CharField(max_length=64, blank=True)
    modified_at = models.DateTimeField(null=True)
    first_seen_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    last_read_at = models.DateTimeField(null=True)
    missing_since = models.DateTimeField(null=True)
    moved_from = PathField(blank=True)
    put_away_by = models.ForeignKey(
        "disks.Job",
        null=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="the job that put the file into the trash, while it is gone",
    )

    # kept by the scan, so that lists need no tree query
    chain_position = models.PositiveIntegerField(
        default=1, help_text="1 is the base, or the lowest disk that is known"
    )
    chain_depth = models.PositiveIntegerField(
        default=1, help_text="levels of the longest chain through this disk: position is 2 of 4"
    )
    chain_base = models.ForeignKey(
        "self",
        null=True,
        on_delete=models.SET_NULL,
        related_name="chain_members",
        # SQLite would take six times as long to write a row when it changes.
        db_constraint=False,
        help_text="none: the disk is its own base",
    )
    child_count = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["root__name", "relative_path"]
        constraints = [
            models.UniqueConstraint(fields=["root", "relative_path"], name="disk_once_per_root")
        ]
        indexes = [
            # what lists are sorted by
            models.Index(fields=["health", "name"], name="disk_health"),
            models.Index(fields=["name"], name="disk_name"),
            models.Index(fields=["allocated_bytes"], name="disk_allocated"),
            models.Index(fields=["virtual_size_bytes"], name="disk_virtual_size"),
            models.Index(fields=["child_count"], name="disk_children"),
            models.Index(fields=["modified_at"], name="disk_modified"),
            models.Index(fields=["chain_position", "name"], name="disk_bases"),
            models.Index(fields=["root", "missing_since"], name="disk_root_missing"),
            # what the overview counts, from the index alone
            models.Index(
                fields=["disk_type", "child_count"],
                condition=models.Q(missing_since=None),
                name="disk_leaves",
            ),
            models.Index(
                fields=["spare_bytes"],
                condition=models.Q(missing_since=None, spare_bytes__isnull=False),
                name="disk_spare",
            ),
            models.Index(
                fields=["chain_position", "chain_base", "root"],
                condition=models.Q(missing_since=None, disk_type="differencing"),
                name="disk_piles",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_put_away(self) -> bool:
        """A job of ours put its file into the trash: it is gone, and nobody misses it."""
        return self.health == self.Health.MISSING and self.health_code == "N_PUT_AWAY"

    @property
    def path(self) -> str:
        """The file on this host."""
        return os.path.join(self.root.path, self.relative_path)


class ParentLink(models.Model):
    """What a differencing disk's header says about its parent, and what that resolves to."""

    class Status(models.TextChoices):
        FOUND = "found", "Found"
        MISSING = "missing", "Missing"
        IN_USE = "in-use", "In use"
        IDENTITY_MISMATCH = "identity-mismatch", "Another disk is there"
        AMBIGUOUS = "ambiguous", "Several candidates"
        OUTSIDE_ROOTS = "outside-roots", "Outside the storage roots"
        UNREADABLE = "unreadable", "Unreadable"
        CYCLE = "cycle", "Cycle"

    child = models.OneToOneField(Disk, on_delete=models.CASCADE, related_name="parent_link")
    parent = models.ForeignKey(
        Disk, null=True, on_delete=models.SET_NULL, related_name="child_links"
    )
    status = models.CharField(max_length=20, choices=Status)
    named_identity = models.CharField(max_length=36, blank=True, db_index=True)
    named_path = models.TextField(blank=True, help_text="the most telling path in the header")
    named_name = models.TextField(blank=True, help_text="the header's parent name")
    name_problem = models.TextField(blank=True, help_text="why that name cannot be used")
    named_timestamp = models.DateTimeField(null=True)
    locators = models.JSONField(default=list)
    trace = models.JSONField(default=list)
    reason = models.TextField(blank=True, help_text="one sentence")
    cause = models.CharField(
        max_length=200,
        blank=True,
        help_text="groups children that cannot be read because of one event; else empty",
    )
    unmapped_folder = models.CharField(
        max_length=400,
        blank=True,
        help_text="a folder that the header of a child without parent names and no root maps",
    )
    suggested = models.ForeignKey(
        Disk, null=True, on_delete=models.SET_NULL, related_name="suggested_for"
    )
    parent_written_after = models.BooleanField(default=False)
    parent_evidence = models.JSONField(default=dict, help_text="the parent as first seen, and now")
    first_seen_at = models.DateTimeField()

    class Meta:
        indexes = [
            # what the overview counts, from the index alone
            models.Index(fields=["cause", "status", "suggested", "child"], name="link_causes"),
            models.Index(fields=["unmapped_folder"], name="link_unmapped"),
        ]

    def __str__(self) -> str:
        return f"{self.child_id} -> {self.named_path}"

    @property
    def status_words(self) -> str:
        """What a state's own words would say wrongly: it is no other disk, it was written."""
        mismatch = self.status == self.Status.IDENTITY_MISMATCH
        return "Written since" if mismatch and "written" in self.parent_evidence else ""


class OtherFile(models.Model):
    """A file below a root that is no disk: kept only so that a scan does not read it again."""

    root = models.ForeignKey(StorageRoot, on_delete=models.CASCADE, related_name="other_files")
    relative_path = PathField()
    inode = models.BigIntegerField()
    file_size_bytes = models.BigIntegerField()
    mtime_ns = models.BigIntegerField()
    ctime_ns = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["root", "relative_path"], name="other_once_per_root")
        ]

    def __str__(self) -> str:
        return self.relative_path
