"""What a scan found on its way into the catalog: collected, and written in portions.

So a scan that is cancelled, or killed, keeps what it has seen.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime

from django.db import transaction

from disks.models import Disk, StorageRoot
from disks.services import disk_rows
from disks.services.bulk import update_rows
from disks.services.known_files import Known, KnownFiles
from disks.services.linking import Touched
from disks.services.moves import Found
from disks.services.reading import Reading
from disks.services.scan_outcome import Outcome

_PORTION = 2_000
# Links of new children wait in memory until they are resolved, about 2 KiB each.
_LINKS_KEPT = 20_000


class ScanWriter:
    """seen: rows whose file was met. touched: what the links must be looked at again for."""

    def __init__(self, known_files: KnownFiles, outcome: Outcome, now: datetime) -> None:
        self.known_files = known_files
        self.outcome = outcome
        self.now = now
        self.seen: set[int] = set()
        self.touched = Touched()
        self._fresh: list[Found] = []
        self._changed: list[tuple[Known, Reading]] = []
        self._returned: list[Known] = []
        self._managers: list[tuple[int, str]] = []

    # --- collecting

    def add(self, found: Found) -> None:
        """A file without a row."""
        self.outcome.new += 1
        self._fresh.append(found)
        self._flush_when_full()

    def change(self, known: Known, found: Reading) -> None:
        """The file of a row is another one than before, or was read anew."""
        self.outcome.changed += 1
        self._changed.append((known, found))
        self._flush_when_full()

    def bring_back(self, known: Known) -> None:
        """The file of a missing row lies in its place again, as it was."""
        self.outcome.returned += 1
        self._returned.append(known)

    def set_manager(self, known: Known, code: str) -> None:
        self._managers.append((known.pk, code))

    # --- writing

    def _flush_when_full(self) -> None:
        if len(self._fresh) + len(self._changed) >= _PORTION:
            self.flush()

    def flush(self) -> None:
        """Write what was collected, in one short transaction."""
        fresh, self._fresh = self._fresh, []
        changed, self._changed = self._changed, []
        returned, self._returned = self._returned, []
        managers, self._managers = self._managers, []
        if not (fresh or changed or returned or managers):
            return
        with transaction.atomic():
            update_rows(
                Disk,
                ["missing_since", "put_away_by"],
                [(known.pk, None, None) for known in returned],
            )
            update_rows(Disk, ["managed_by"], managers)
            self._write_new(fresh)
            self._write_changed(changed)
        for known in returned:
            self.touched.add(known.pk, known.identity)

    def _write_new(self, fresh: Sequence[Found]) -> None:
        if not fresh:
            return
        keys = disk_rows.insert_disks(fresh, self.now)
        for found in fresh:
            pk = keys[found.root.pk, found.relative]
            self.seen.add(pk)
            self.touched.add(pk, found.reading.identity)
            if found.reading.link is not None:
                self.touched.new_links[pk] = found.reading.link
        if len(self.touched.new_links) > _LINKS_KEPT:
            disk_rows.insert_links(self.touched.new_links.items())
            self.touched.new_links.clear()

    def _write_changed(self, changed: Sequence[tuple[Known, Reading]]) -> None:
        disk_rows.update_disks([(known.pk, found) for known, found in changed], self.now)
        for known, found in changed:
            self.touched.add(known.pk, known.identity, found.identity)
            self.outcome.returned += known.is_missing

    def move(self, moved: Sequence[tuple[Known, Found]]) -> None:
        """Give rows their files' new places, at once."""
        if not moved:
            return
        self.outcome.moved += len(moved)
        places = dict(StorageRoot.objects.values_list("pk", "path"))
        with transaction.atomic():
            # Two files may have changed places: first all leave, then all arrive.
            update_rows(
                Disk, ["relative_path"], [(known.pk, f"/moved/{known.pk}") for known, _ in moved]
            )
            self._empty_places(moved)
            update_rows(
                Disk,
                ["root", "relative_path", "name", "moved_from"],
                [
                    (
                        known.pk,
                        found.root.pk,
                        found.relative,
                        found.name,
                        os.path.join(places[known.root], known.relative),
                    )
                    for known, found in moved
                ],
            )
            self._write_changed([(known, found.reading) for known, found in moved])
        self.seen.update(known.pk for known, _ in moved)

    def _empty_places(self, moved: Sequence[tuple[Known, Found]]) -> None:
        """Rows of missing disks that still hold a place where a moved file lies now.

        They are older tenants of that name; their history ends under a name of its own.
        """
        leaving = {known.pk for known, _ in moved}
        for _, found in moved:
            tenant = self.known_files.by_path.get((found.root.pk, found.relative))
            if tenant is not None and tenant.pk not in leaving:
                Disk.objects.filter(pk=tenant.pk).update(
                    relative_path=f"{found.relative} (replaced, {tenant.pk})",
                    missing_since=self.now,
                )
                self.touched.add(tenant.pk, tenant.identity)
                self.seen.add(tenant.pk)

    def mark_missing(self, gone: Sequence[Known]) -> None:
        for known in gone:
            self.touched.add(known.pk, known.identity)
        update_rows(Disk, ["missing_since"], [(known.pk, self.now) for known in gone])
        self.outcome.missing += len(gone)
