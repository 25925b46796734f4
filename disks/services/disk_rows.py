"""What was read of files, written: rows of Disk, and the header's side of ParentLink.

All functions take any number of files and ask a number of statements that does not depend
on it. What the links lead to and what that means for the disks is told later (linking.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any

from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from disks.models import Disk, ParentLink
from disks.services import verdicts
from disks.services.bulk import insert_rows, select_rows, update_rows
from disks.services.moves import Found
from disks.services.reading import Named, Reading

# What Disk rows get from a Reading.
FILE_COLUMNS = (
    "own_health", "findings", "format", "disk_type", "virtual_size_bytes", "file_size_bytes",
    "allocated_bytes", "block_size_bytes", "blocks_total", "blocks_allocated", "spare_bytes",
    "identity", "virtual_disk_id", "file_write_guid", "log_waits", "creator",
    "image_created_at", "managed_by", "device", "inode", "mtime_ns", "ctime_ns", "header_hash",
    "modified_at",
)  # fmt: skip
# What is known of a file that could not be read.
_REFUSED_COLUMNS = ("own_health", "findings")
_NEW_COLUMNS = (
    "root", "relative_path", "name", "first_seen_at", "last_seen_at", "last_read_at",
    "health", "health_code", "sentence", *FILE_COLUMNS,
)  # fmt: skip
_BLANK: dict[str, Any] = {
    field.name: field.get_default()
    for field in Disk._meta.concrete_fields
    if field.name in FILE_COLUMNS
}

_file_values = itemgetter(*FILE_COLUMNS)

Place = tuple[int, str]  # root and path below it: what makes a row unique


def insert_disks(fresh: Sequence[Found], now: datetime) -> dict[Place, int]:
    """Rows of new files, each with the verdict on the file alone. Returns their keys.

    A row that somebody else wrote meanwhile stays as it is.
    """
    with transaction.atomic():
        newest = Disk.objects.aggregate(newest=Max("pk"))["newest"] or 0
        insert_rows(Disk, _NEW_COLUMNS, [_new_row(found, now) for found in fresh])
        rows = Disk.objects.filter(pk__gt=newest).order_by()
        keys = {
            (root, relative): pk
            for pk, root, relative in rows.values_list("pk", "root_id", "relative_path")
        }
    older: dict[int, list[str]] = defaultdict(list)
    for found in fresh:
        if (found.root.pk, found.relative) not in keys:
            older[found.root.pk].append(found.relative)
    for root, relatives in older.items():
        rows = Disk.objects.filter(root=root, relative_path__in=relatives).order_by()
        keys |= {(root, relative): pk for pk, relative in rows.values_list("pk", "relative_path")}
    return keys


def _new_row(found: Found, now: datetime) -> tuple[Any, ...]:
    reading = found.reading
    columns = reading.columns if reading.was_read else _BLANK | reading.columns
    verdict = verdicts.own_verdict(columns["own_health"], columns["findings"])
    return (
        found.root.pk,
        found.relative,
        found.name,
        now,
        now,
        now if reading.was_read else None,
        verdict.health,
        verdict.code,
        verdict.sentence,
        *_file_values(columns),
    )


def update_disks(changed: Sequence[tuple[int, Reading]], now: datetime) -> None:
    """Rows, by key, whose file was looked at again, and their links.

    What could not be read keeps what was known of its headers.
    """
    read = [(pk, found) for pk, found in changed if found.was_read]
    update_rows(
        Disk,
        [*FILE_COLUMNS, "last_seen_at", "last_read_at", "missing_since", "put_away_by"],
        [(pk, *_file_values(found.columns), now, now, None, None) for pk, found in read],
    )
    update_rows(
        Disk,
        [*_REFUSED_COLUMNS, "last_seen_at", "missing_since", "put_away_by"],
        [
            (pk, *(found.columns[name] for name in _REFUSED_COLUMNS), now, None, None)
            for pk, found in changed
            if not found.was_read
        ],
    )
    _update_links(read)


def _update_links(read: Sequence[tuple[int, Reading]]) -> None:
    """Bring the header's side of parent links up to date: new, changed, or no child any more."""
    existing: dict[int, int] = dict(
        select_rows(ParentLink, "child_id", {pk for pk, _ in read}, "pk")
    )
    insert_links((pk, found.link) for pk, found in read if found.link and pk not in existing)
    update_rows(
        ParentLink,
        Named._fields,
        [(existing[pk], *found.link) for pk, found in read if found.link and pk in existing],
    )
    no_child = [
        existing[pk]
        for pk, found in read
        # A damaged header says nothing; what it said before is worth keeping.
        if found.link is None and pk in existing and found.columns.get("disk_type")
    ]
    if no_child:
        ParentLink.objects.filter(pk__in=no_child).delete()


def insert_links(links: Iterable[tuple[int, Named]]) -> None:
    """Rows of children that have none; what they lead to is found when all files are known."""
    now = timezone.now()
    missing = str(ParentLink.Status.MISSING)
    insert_rows(
        ParentLink,
        ["child", "status", "first_seen_at", *Named._fields],
        [(child, missing, now, *link) for child, link in links],
    )
