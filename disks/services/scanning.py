"""A scan: the files below some roots become catalog rows again.

First the files are walked and compared with what is known; only new and changed ones are
read, and written in batches, so that a cancelled scan keeps what it has seen. A file that
may be an old one at a new place waits until it is clear whether the old place is empty.
Then the links are resolved, when all files are known.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.utils import timezone

from disks.engine.errors import ImageError
from disks.models import Disk, Job, OtherFile, ParentLink, StorageRoot
from disks.operations.progress import Cancelled, Progress
from disks.services import jobs, linking, reading, roots, trash_index, verdicts
from disks.services.bulk import insert_rows, update_rows
from disks.services.linking import LINK_COLUMNS, Touched
from disks.services.reading import Reading
from disks.services.stored_json import readable
from disks.services.walking import Folder, Walk, open_file
from disks.services.work import JobContext

_BATCH = 500
# For files that could not be read at all.
_BLANK: dict[str, Any] = {
    field.name: field.get_default() for field in Disk._meta.concrete_fields if field.name != "id"
}
_PROBLEMS_SHOWN = 20
# Links of new children wait in memory until they are resolved, about 2 KiB each.
_LINKS_KEPT = 20_000

# What Disk rows get from a Reading and from being seen; the order of update_rows.
_FILE_COLUMNS = [
    "own_health", "findings", "format", "disk_type", "virtual_size_bytes", "file_size_bytes",
    "allocated_bytes", "block_size_bytes", "blocks_total", "blocks_allocated", "identity",
    "virtual_disk_id", "file_write_guid", "log_waits", "creator", "image_created_at",
    "managed_by", "device", "inode", "mtime_ns", "ctime_ns", "header_hash", "modified_at",
]  # fmt: skip
_NEW_COLUMNS = [
    "root", "relative_path", "name", "first_seen_at", "last_seen_at", "last_read_at",
    "health", "health_code", "sentence", *_FILE_COLUMNS,
]  # fmt: skip


class Known(NamedTuple):
    """A catalog row as a scan compares it."""

    pk: int
    root: int
    relative: str
    inode: int | None
    size: int
    mtime_ns: int | None
    ctime_ns: int | None
    identity: str
    header_hash: str
    own_health: str
    managed_by: str
    is_missing: bool
    disk_type: str

    def is_unchanged(self, status: os.stat_result) -> bool:
        return (
            self.inode == status.st_ino
            and self.size == status.st_size
            and self.mtime_ns == status.st_mtime_ns
            and self.ctime_ns == status.st_ctime_ns
            # What could not be read last time is tried again.
            and self.own_health not in (Disk.Health.IN_USE, Disk.Health.UNREADABLE)
        )


@dataclass
class New:
    """A file at a path where no row is, or where another disk was."""

    root: StorageRoot
    relative: str
    reading: Reading
    displaced: Known | None = None


@dataclass
class Outcome:
    """What a scan found; the numbers of its result."""

    files: int = 0
    disks: int = 0
    new: int = 0
    changed: int = 0
    moved: int = 0
    missing: int = 0
    returned: int = 0
    unreadable: int = 0
    in_use: int = 0
    links_resolved: int = 0
    problems: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        result = dict(vars(self))
        result["problem_count"] = len(self.problems)
        result["problems"] = self.problems[:_PROBLEMS_SHOWN]
        return result


# ------------------------------------------------------------------------------ as a job


def request(root: StorageRoot, *, user: Any, idempotency_key: str, address: str = "") -> Job:
    """Ask for a scan of one root; the caller enqueues the job."""
    return request_many([root], user=user, idempotency_key=idempotency_key, address=address)


def request_many(
    chosen: Sequence[StorageRoot], *, user: Any, idempotency_key: str, address: str = ""
) -> Job:
    """Ask for one scan of several roots."""
    names = ", ".join(root.name for root in chosen)
    return jobs.request(
        kind=Job.Kind.SCAN,
        parameters={"roots": [root.pk for root in chosen]},
        user=user,
        root=chosen[0] if len(chosen) == 1 else None,
        summary=f"Scan {names}",
        # Two scans of one root would each write what the other has just seen.
        exclusive=[root.path for root in chosen],
        idempotency_key=idempotency_key,
        address=address,
    )


def run_scan(parameters: dict[str, Any], progress: Progress, context: JobContext) -> dict[str, Any]:
    """The work of a scan job: one root (`root`) or several (`roots`)."""
    wanted = parameters.get("roots") or [parameters["root"]]
    chosen = list(StorageRoot.objects.filter(pk__in=wanted).order_by("name"))
    return scan_roots(chosen, progress)


def scan(root: StorageRoot, progress: Progress | None = None) -> dict[str, Any]:
    """Scan one root now. Raises ImageError E_ROOT_OFFLINE, E_ROOT_CHANGED; Cancelled."""
    return scan_roots([root], progress)


def scan_roots(chosen: Sequence[StorageRoot], progress: Progress | None = None) -> dict[str, Any]:
    """Scan several roots now, as one picture.

    Roots that are offline are marked so and left as they are; E_ROOT_OFFLINE or
    E_ROOT_CHANGED only when none of them is there.
    """
    return Scan(chosen, progress or Progress()).run()


# ----------------------------------------------------------------------------- the work


class Scan:
    """One scan under way."""

    def __init__(self, chosen: Sequence[StorageRoot], progress: Progress) -> None:
        self.chosen = chosen
        self.progress = progress
        self.outcome = Outcome()
        self.touched = Touched()
        self.now: datetime = timezone.now()
        self.by_path: dict[tuple[int, str], Known] = {}
        self.by_inode: dict[int, list[Known]] = {}
        self.by_content: dict[tuple[str, int, str], list[Known]] = {}
        self.seen: set[int] = set()
        self.unlinked: set[int] = set()
        self.waiting: list[New] = []  # may be known files at a new place
        self.fresh: list[New] = []
        self.changed: list[tuple[Known, Reading]] = []
        self.returned: list[int] = []
        self.managers: list[tuple[int, str]] = []
        self.expected = 0

    def run(self) -> dict[str, Any]:
        online = self._online()
        _widen_cache()
        self._load(online)
        scope = roots.operation_roots(online)
        walks = [
            Walk(
                scope,
                next(one for one in scope.roots if one.path == root.path),
                other_roots=self._other_roots(root),
            )
            for root in online
        ]
        self.progress.step("read", "Reading what is new")
        try:
            for root, walk in zip(online, walks, strict=True):
                self._walk(root, walk)
            self._place_waiting(online)
            for root, walk in zip(online, walks, strict=True):
                self._mark_missing(root, walk)
            self._flush()
        except Cancelled:
            # What was seen is worth keeping, and must be linked.
            self._flush()
            self._link(online, Progress())
            raise
        finally:
            scope.close()
        self._link(online, self.progress)
        for root, walk in zip(online, walks, strict=True):
            self._finish(root, walk)
        return self._result(online)

    def _online(self) -> list[StorageRoot]:
        online = []
        refusal: ImageError | None = None
        for root in self.chosen:
            before = root.state
            try:
                roots.require_online(root)
                online.append(root)
            except ImageError as error:
                refusal = error
                self._problem(error)
            if root.state != before:
                linking.root_changed_state(root)
        if not online and refusal is not None:
            raise refusal
        return online

    def _other_roots(self, root: StorageRoot) -> frozenset[str]:
        others = StorageRoot.objects.exclude(pk=root.pk).values_list("path", flat=True)
        return frozenset(path for path in others if path.startswith(root.path))

    def _load(self, online: Iterable[StorageRoot]) -> None:
        """Every row of the catalog: a file can come from any root."""
        own = {root.pk for root in online}
        rows = Disk.objects.values_list(
            "pk", "root_id", "relative_path", "inode", "file_size_bytes", "mtime_ns", "ctime_ns",
            "identity", "header_hash", "own_health", "managed_by", "missing_since", "disk_type",
        ).order_by()  # fmt: skip
        for row in rows.iterator(10_000):
            known = Known(*row[:11], row[11] is not None, row[12])
            if known.root in own:
                self.by_path[known.root, known.relative] = known
            if known.inode is not None:
                self.by_inode.setdefault(known.inode, []).append(known)
            if known.identity:
                key = (known.identity, known.size, known.header_hash)
                self.by_content.setdefault(key, []).append(known)
        self.expected = len(self.by_path)
        # Left by a scan that was killed between writing disks and writing their links.
        linked = set(ParentLink.objects.values_list("child_id", flat=True))
        self.unlinked = {
            known.pk
            for known in self.by_path.values()
            if known.disk_type == "differencing" and known.pk not in linked
        }

    # --- walking

    def _walk(self, root: StorageRoot, walk: Walk) -> None:
        others = {
            relative: rest
            for relative, *rest in OtherFile.objects.filter(root=root).values_list(
                "relative_path", "inode", "file_size_bytes", "mtime_ns", "ctime_ns"
            )
        }
        passed_over: list[OtherFile] = []
        for folder in walk:
            telling = reading.telling_names(folder.names)
            for name, status in folder.files:
                self.outcome.files += 1
                relative = folder.path_of(name)
                known = self.by_path.get((root.pk, relative))
                if (
                    known is not None
                    and known.is_unchanged(status)
                    and known.pk not in self.unlinked
                ):
                    self._unchanged(known, name, telling)
                    continue
                was = others.get(relative)
                if was is not None:
                    same = [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
                    if was == same:
                        del others[relative]
                        continue
                self._read(root, folder, name, relative, known, telling, passed_over)
                if len(self.fresh) + len(self.changed) >= _BATCH:
                    self._flush()
                if self.outcome.files % 100 == 0:
                    self._report(root, folder)
            self._report(root, folder)
        self._remember_others(root, walk, others, passed_over)

    def _report(self, root: StorageRoot, folder: Folder) -> None:
        # A first scan does not know how many files there are; then nothing is promised.
        total = max(self.expected, self.outcome.files) if self.expected else 0
        where = readable(folder.relative or root.name)
        self.progress.report(
            self.outcome.files, total, f"{self.outcome.files:,} files looked at, now in {where}"
        )

    def _unchanged(self, known: Known, name: str, telling: list[str]) -> None:
        self.seen.add(known.pk)
        self.outcome.disks += 1
        if known.is_missing:  # back at its place, as it was
            self.outcome.returned += 1
            self.returned.append(known.pk)
            self.touched.add(known.pk, known.identity)
        if (telling or known.managed_by) and known.own_health != Disk.Health.NOT_A_DISK:
            hidden = known.managed_by == "xcp-ng"  # the header says so and is unchanged
            code = reading.managed_by(telling, name, hidden=hidden)
            if code != known.managed_by:
                self.managers.append((known.pk, code))

    def _read(
        self,
        root: StorageRoot,
        folder: Folder,
        name: str,
        relative: str,
        known: Known | None,
        telling: list[str],
        passed_over: list[OtherFile],
    ) -> None:
        path = os.path.join(root.path, relative)
        try:
            with open_file(folder, name, path) as file:
                found = reading.read(file, name, telling)
        except ImageError as error:
            if error.code in ("E_NOT_FOUND", "E_NOT_A_FILE"):
                return  # gone, or replaced by something else, since the folder was listed
            found = reading.refused(error, name)
        if not found.was_read:
            self._count_refused(found, path)
        if known is not None:
            self.seen.add(known.pk)
            if not found.is_listed and found.was_read:
                self.seen.discard(known.pk)  # its disk is gone; the file is something else
            elif self._took_the_place(known, found):
                self.waiting.append(New(root, relative, found, displaced=known))
                return
            else:
                self.outcome.disks += 1
                self.outcome.changed += 1
                self.changed.append((known, found))
                return
        if not found.is_listed:
            if found.was_read:
                passed_over.append(_other(root, relative, found.status))
            return
        self.outcome.disks += 1
        new = New(root, relative, found)
        (self.waiting if self._may_be_known(found) else self.fresh).append(new)

    def _count_refused(self, found: Reading, path: str) -> None:
        if found.columns["own_health"] == Disk.Health.IN_USE:
            self.outcome.in_use += 1
        else:
            self.outcome.unreadable += 1
        message = found.columns["findings"][0]
        self._problem(ImageError(message["code"], message["message"], file=path))

    def _problem(self, error: ImageError) -> None:
        self.outcome.problems.append(readable(error.as_dict()))

    def _took_the_place(self, known: Known, found: Reading) -> bool:
        """True if another file with another disk lies where the known one was."""
        return (
            found.was_read
            and known.inode != found.status.st_ino
            and bool(known.identity)
            and known.identity != found.identity
        )

    def _may_be_known(self, found: Reading) -> bool:
        key = (found.identity, found.status.st_size, found.header_hash)
        return bool(
            self.by_inode.get(found.status.st_ino) or (found.identity and self.by_content.get(key))
        )

    # --- moved or copied

    def _place_waiting(self, online: Sequence[StorageRoot]) -> None:
        """Give rows whose file is gone from its place to the files that are those files now.

        The same file (inode) first; then the same content under another inode, where only
        one row and one file fit together. What is left is new: a copy is a row of its own.
        """
        if not self.waiting:
            return
        gone = _Gone(self, online)
        moves: list[tuple[Known, New]] = []
        taken: set[int] = set()
        left: list[New] = []
        for new in self.waiting:
            known = self._same_file(new, gone, taken)
            if known is not None:
                taken.add(known.pk)
                moves.append((known, new))
            else:
                left.append(new)
        for new in left:
            known = self._same_content(new, left, gone, taken)
            if known is not None:
                taken.add(known.pk)
                moves.append((known, new))
            elif new.displaced is not None and new.displaced.pk not in taken:
                # Nothing tells where the other disk went: the place keeps its history.
                taken.add(new.displaced.pk)
                self.outcome.changed += 1
                self.changed.append((new.displaced, new.reading))
            else:
                self.fresh.append(new)
        # Who lost its row to a move after it was kept in place becomes a new row.
        self.waiting = []
        self.outcome.moved += len(moves)
        self._write_moves(moves)

    def _same_file(self, new: New, gone: _Gone, taken: set[int]) -> Known | None:
        for known in self.by_inode.get(new.reading.status.st_ino, ()):
            if known.pk in taken or known.root not in gone.devices:
                continue
            same_disk = (
                not known.identity or not new.reading.identity
            ) or known.identity == new.reading.identity
            if (
                gone.devices[known.root] == new.reading.status.st_dev
                and same_disk
                and gone.is_gone(known)
            ):
                return known
        return None

    def _same_content(
        self, new: New, others: list[New], gone: _Gone, taken: set[int]
    ) -> Known | None:
        found = new.reading
        if not found.identity:
            return None
        key = (found.identity, found.status.st_size, found.header_hash)
        fitting = [
            known
            for known in self.by_content.get(key, ())
            if known.pk not in taken and gone.is_gone(known)
        ]
        rivals = [
            other
            for other in others
            if (
                other.reading.identity,
                other.reading.status.st_size,
                other.reading.header_hash,
            )
            == key
        ]
        if len(fitting) == 1 and len(rivals) == 1:
            return fitting[0]
        name = os.path.basename(new.relative)
        named = [known for known in fitting if os.path.basename(known.relative) == name]
        same_name = [other for other in rivals if os.path.basename(other.relative) == name]
        return named[0] if len(named) == 1 and len(same_name) == 1 else None

    # --- writing

    def _flush(self) -> None:
        """Write what was read so far, in one short transaction."""
        fresh, self.fresh = self.fresh, []
        changed, self.changed = self.changed, []
        returned, self.returned = self.returned, []
        managers, self.managers = self.managers, []
        if not (fresh or changed or returned or managers):
            return
        with transaction.atomic():
            update_rows(
                Disk, ["missing_since", "put_away_by"], [(pk, None, None) for pk in returned]
            )
            update_rows(Disk, ["managed_by"], managers)
            self._write_new(fresh)
            self._write_changed(changed)

    def _write_new(self, fresh: list[New]) -> None:
        if not fresh:
            return
        insert_rows(
            Disk,
            _NEW_COLUMNS,
            [
                (
                    new.root.pk,
                    new.relative,
                    os.path.basename(new.relative),
                    self.now,
                    self.now,
                    self.now if new.reading.was_read else None,
                    *_verdict(new.reading),
                    *(new.reading.columns.get(name, _BLANK[name]) for name in _FILE_COLUMNS),
                )
                for new in fresh
            ],
        )
        pks: dict[tuple[int, str], int] = {}
        for root in {new.root.pk for new in fresh}:
            paths = [new.relative for new in fresh if new.root.pk == root]
            for pk, relative in Disk.objects.filter(root=root, relative_path__in=paths).values_list(
                "pk", "relative_path"
            ):
                pks[root, relative] = pk
        for new in fresh:
            pk = pks[new.root.pk, new.relative]
            self.seen.add(pk)
            self.touched.add(pk, new.reading.identity)
            if new.reading.link is not None:
                self.touched.new_links[pk] = new.reading.link
        if len(self.touched.new_links) > _LINKS_KEPT:
            add_links([*self.touched.new_links.items()])
            self.touched.new_links.clear()
        self.outcome.new += len(fresh)

    def _write_changed(self, changed: list[tuple[Known, Reading]]) -> None:
        read = [(known, found) for known, found in changed if found.was_read]
        update_rows(
            Disk,
            [*_FILE_COLUMNS, "last_seen_at", "last_read_at", "missing_since", "put_away_by"],
            [
                (
                    known.pk,
                    *(_column(found, name) for name in _FILE_COLUMNS),
                    self.now,
                    self.now,
                    None,
                    None,
                )
                for known, found in read
            ],
        )
        # What could not be read keeps what was known of its headers.
        update_rows(
            Disk,
            ["own_health", "findings", "last_seen_at", "missing_since"],
            [
                (known.pk, found.columns["own_health"], found.columns["findings"], self.now, None)
                for known, found in changed
                if not found.was_read
            ],
        )
        for known, found in changed:
            self.touched.add(known.pk, known.identity, found.identity)
            if known.is_missing:
                self.outcome.returned += 1
        write_links([(known.pk, found) for known, found in read])

    def _write_moves(self, moves: list[tuple[Known, New]]) -> None:
        if not moves:
            return
        places = dict(StorageRoot.objects.values_list("pk", "path"))
        with transaction.atomic():
            # Two files may have changed places: first all leave, then all arrive.
            update_rows(
                Disk, ["relative_path"], [(known.pk, f"/moved/{known.pk}") for known, _ in moves]
            )
            self._leave_places(moves)
            update_rows(
                Disk,
                ["root", "relative_path", "name", "moved_from"],
                [
                    (
                        known.pk,
                        new.root.pk,
                        new.relative,
                        os.path.basename(new.relative),
                        os.path.join(places[known.root], known.relative),
                    )
                    for known, new in moves
                ],
            )
            self._write_changed([(known, new.reading) for known, new in moves])
        self.seen.update(known.pk for known, _ in moves)

    def _leave_places(self, moves: list[tuple[Known, New]]) -> None:
        """Rows of missing disks that still hold a place where a moved file lies now.

        They are older tenants of that name; their history ends under a name of its own.
        """
        moved = {known.pk for known, _ in moves}
        for _, new in moves:
            tenant = self.by_path.get((new.root.pk, new.relative))
            if tenant is not None and tenant.pk not in moved:
                Disk.objects.filter(pk=tenant.pk).update(
                    relative_path=f"{new.relative} (replaced, {tenant.pk})",
                    missing_since=self.now,
                )
                self.touched.add(tenant.pk, tenant.identity)
                self.seen.add(tenant.pk)

    def _remember_others(
        self,
        root: StorageRoot,
        walk: Walk,
        left: dict[str, list[Any]],
        passed_over: list[OtherFile],
    ) -> None:
        """left: those known before that were not met unchanged; gone or read again."""
        stale = [relative for relative in left if not _below_any(relative, walk.unread)]
        with transaction.atomic():
            for start in range(0, len(stale), _BATCH):
                OtherFile.objects.filter(
                    root=root, relative_path__in=stale[start : start + _BATCH]
                ).delete()
            OtherFile.objects.bulk_create(passed_over, ignore_conflicts=True)

    def _mark_missing(self, root: StorageRoot, walk: Walk) -> None:
        """Rows whose file was not met. Not those in folders that could not be listed now."""
        gone = [
            known
            for (root_pk, relative), known in self.by_path.items()
            if root_pk == root.pk
            and known.pk not in self.seen
            and not known.is_missing
            and not _below_any(relative, walk.unread)
        ]
        for known in gone:
            self.touched.add(known.pk, known.identity)
        update_rows(Disk, ["missing_since"], [(known.pk, self.now) for known in gone])
        self.outcome.missing += len(gone)

    # --- links, and the end

    def _link(self, online: Sequence[StorageRoot], progress: Progress) -> None:
        mapping = _mapping_digest()
        changed_views = any(
            root.last_scan_result and root.last_scan_result.get("mapping") != mapping
            for root in online
        )
        if not self.touched and not changed_views:
            return
        progress.step("links", "Looking for parents")
        self.outcome.links_resolved = linking.renew(
            self.touched,
            everything=changed_views,
            report=lambda done, total: progress.report(
                done, total, f"{done:,} of {total:,} parent links resolved"
            ),
        )

    def _finish(self, root: StorageRoot, walk: Walk) -> None:
        for error in walk.problems:
            self._problem(error)
        there = Disk.objects.filter(root=root, missing_since=None, last_seen_at__lt=self.now)
        if walk.unread:  # nobody has seen what lies in folders that could not be listed
            met = sorted(self.seen)
            for start in range(0, len(met), 5_000):
                there.filter(pk__in=met[start : start + 5_000]).update(last_seen_at=self.now)
        else:
            there.update(last_seen_at=self.now)
        trash_index.sync(root, walk.trashes)
        root.last_scan_at = self.now
        root.last_scan_result = self.outcome.as_dict() | {"mapping": _mapping_digest()}
        root.save(update_fields=["last_scan_at", "last_scan_result"])

    def _result(self, online: Sequence[StorageRoot]) -> dict[str, Any]:
        result = self.outcome.as_dict()
        offline = [root.name for root in self.chosen if root not in online]
        result["offline"] = offline
        result["seconds"] = round((timezone.now() - self.now).total_seconds(), 3)
        result["sentence"] = sentence(result)
        return result


class _Gone:
    """Whether a row's file is gone from its place; rows of offline roots never are."""

    def __init__(self, scan: Scan, online: Sequence[StorageRoot]) -> None:
        self._scan = scan
        self._scanned = {root.pk for root in online}
        self._displaced = {new.displaced.pk for new in scan.waiting if new.displaced is not None}
        usable = StorageRoot.objects.exclude(
            state__in=[StorageRoot.State.OFFLINE, StorageRoot.State.CHANGED]
        )
        self._paths = {root.pk: root.path for root in usable}
        self.devices = {root.pk: root.device for root in usable}
        self.devices |= {root.pk: root.device for root in online}
        self._roots = roots.operation_roots()

    def is_gone(self, known: Known) -> bool:
        if known.pk in self._displaced:
            return True
        if known.root in self._scanned:
            return known.pk not in self._scan.seen
        if known.root not in self._paths:
            return False
        try:
            self._roots.stat(os.path.join(self._paths[known.root], known.relative))
        except ImageError as error:
            return error.code == "E_NOT_FOUND"
        return False


def _widen_cache() -> None:
    """SQLite's 2 MiB of cache would be read and written over and over for each index."""
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA cache_size = -32768")


def write_links(read: Sequence[tuple[int, Reading]]) -> None:
    """Bring the header's side of parent links up to date: new, changed, or no child any more."""
    existing = dict(
        ParentLink.objects.filter(child__in=[pk for pk, _ in read]).values_list("child_id", "pk")
    )
    add_links(
        [(pk, found.link) for pk, found in read if found.link is not None and pk not in existing]
    )
    update_rows(
        ParentLink,
        LINK_COLUMNS,
        [
            (existing[pk], *(found.link[name] for name in LINK_COLUMNS))
            for pk, found in read
            if found.link is not None and pk in existing
        ],
    )
    no_child = [
        existing[pk]
        for pk, found in read
        # A damaged header says nothing; what it said before is worth keeping.
        if found.link is None and pk in existing and found.columns.get("disk_type")
    ]
    if no_child:
        ParentLink.objects.filter(pk__in=no_child).delete()


def add_links(links: Sequence[tuple[int, dict[str, Any]]]) -> None:
    """Rows of children that have none; what they lead to is found when all files are known."""
    now = timezone.now()
    insert_rows(
        ParentLink,
        ["child", "status", "first_seen_at", *LINK_COLUMNS],
        [
            (child, str(ParentLink.Status.MISSING), now, *(link[name] for name in LINK_COLUMNS))
            for child, link in links
        ],
    )


def sentence(result: dict[str, Any]) -> str:
    """The result in words, with what could not be read: never a bare "complete"."""
    parts = [f"{result['disks']:,} disks seen"]
    for key, words in (
        ("new", "new"),
        ("changed", "changed"),
        ("moved", "moved"),
        ("missing", "missing"),
        ("returned", "back again"),
        ("in_use", "in use and not read"),
        ("unreadable", "could not be read"),
    ):
        if result[key]:
            parts.append(f"{result[key]:,} {words}")
    text = ", ".join(parts) + "."
    if result.get("offline"):
        text += f" Offline and not scanned: {', '.join(result['offline'])}."
    return text


def file_columns(found: Reading) -> dict[str, Any]:
    """The columns of one reading by name, for a single row."""
    if not found.was_read:
        return {name: found.columns[name] for name in ("own_health", "findings")}
    return {name: _column(found, name) for name in _FILE_COLUMNS}


def _column(found: Reading, name: str) -> Any:
    return found.columns[name]


def _verdict(found: Reading) -> tuple[str, str, str]:
    verdict = verdicts.own_verdict(found.columns["own_health"], found.columns["findings"])
    return str(verdict.health), verdict.code, verdict.sentence


def _other(root: StorageRoot, relative: str, status: os.stat_result) -> OtherFile:
    return OtherFile(
        root=root,
        relative_path=relative,
        inode=status.st_ino,
        file_size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
    )


def _below_any(relative: str, folders: Iterable[str]) -> bool:
    return any(not folder or relative.startswith(folder + "/") for folder in folders)


def _mapping_digest() -> str:
    """What decides where header paths lead; when it differs, every link is resolved anew."""
    rows = StorageRoot.objects.order_by("path").prefetch_related("windows_views")
    text = repr(
        [
            (root.path, root.excluded_folders, [view.prefix for view in root.windows_views.all()])
            for root in rows
        ]
    )
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
