"""A scan: the files below some roots become catalog rows again.

First the files are walked and compared with what is known; only new and changed ones are
read, and written in portions, so that a cancelled scan keeps what it has seen. A file that
may be an old one at a new place waits until it is clear whether the old place is empty.
Then the links are resolved, when all files are known.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from django.db import connection
from django.utils import timezone

from disks.engine.errors import ImageError
from disks.models import Disk, Job, StorageRoot
from disks.operations import merge_in_place
from disks.operations.progress import Cancelled, Progress
from disks.services import jobs, linking, moves, reading, root_state, roots, trash_index
from disks.services.known_files import Known, KnownFiles
from disks.services.moves import Found
from disks.services.other_files import OtherFiles
from disks.services.reading import Reading
from disks.services.scan_outcome import Outcome, sentence
from disks.services.scan_writer import ScanWriter
from disks.services.stored_json import readable, storable
from disks.services.walking import Folder, Walk, is_there, open_file
from disks.services.work import JobContext

_UNREAD_KEPT = 1_000

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


def asked_for() -> dict[int, Job]:
    """The scan that waits or runs, by the key of each storage root that has one."""
    open_scans = Job.objects.filter(kind=Job.Kind.SCAN, status__in=Job.OPEN).order_by("-pk")
    return {
        root: job
        for job in open_scans
        for root in job.parameters.get("roots") or [job.parameters.get("root")]
    }


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
    with _old_objects_left_alone():
        return Scan(chosen, progress or Progress()).run()


@contextlib.contextmanager
def _old_objects_left_alone() -> Iterator[None]:
    """Rows pile up, and each time the collector would look at all that Django is made of, too."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


# ----------------------------------------------------------------------------- the work


class Scan:
    """One scan under way."""

    def __init__(self, chosen: Sequence[StorageRoot], progress: Progress) -> None:
        self.chosen = chosen
        self.progress = progress
        self.outcome = Outcome()
        self.now: datetime = timezone.now()
        self.waiting: list[Found] = []  # may be known files at a new place
        self.unread: dict[int, list[str]] = {}  # root: what is in no row and could not be read

    def run(self) -> dict[str, Any]:
        online = self._online()
        _widen_cache()
        self.known = KnownFiles.load({root.pk for root in online})
        self.expected = len(self.known.by_path)
        self.writer = ScanWriter(self.known, self.outcome, self.now)
        self.scope = scope = roots.operation_roots(online)
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
            self.writer.flush()
        except Cancelled:
            # What was seen is worth keeping, and must be linked.
            self.writer.flush()
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
                root_state.require_online(root)
                online.append(root)
            except ImageError as error:
                refusal = error
                self.outcome.problem(error)
            if root.state != before:
                linking.root_changed_state(root)
        if not online and refusal is not None:
            raise refusal
        return online

    def _other_roots(self, root: StorageRoot) -> frozenset[str]:
        others = StorageRoot.objects.exclude(pk=root.pk).values_list("path", flat=True)
        return frozenset(path for path in others if path.startswith(root.path))

    # --- walking

    def _walk(self, root: StorageRoot, walk: Walk) -> None:
        others = OtherFiles(root)
        for folder in walk:
            unknown = []
            for name, status in folder.files:
                relative = folder.path_of(name)
                known = self.known.by_path.get((root.pk, relative))
                if (
                    known is not None
                    and known.is_unchanged(status)
                    and known.pk not in self.known.unlinked
                ):
                    self.outcome.files += 1
                    self._unchanged(known, name, folder.telling)
                else:
                    unknown.append((name, relative, status, known))
            others.at_hand([relative for _, relative, _, _ in unknown])
            for name, relative, status, known in unknown:
                self.outcome.files += 1
                if others.is_unchanged(relative, status):
                    continue
                found = self._read(root, folder, name, folder.telling)
                if found is not None:
                    self._sort(Found(root, relative, found), known, others)
                self._report(root, folder)  # reading one takes a while on slow storage
            self._report(root, folder)
        others.write(lambda relative: _below_any(relative, walk.unread))

    def _report(self, root: StorageRoot, folder: Folder) -> None:
        # A first scan does not know how many files there are; then nothing is promised.
        total = max(self.expected, self.outcome.files) if self.expected else 0
        where = readable(folder.relative or root.name)
        self.progress.report(
            self.outcome.files, total, f"{self.outcome.files:,} files looked at, now in {where}"
        )

    def _unchanged(self, known: Known, name: str, telling: list[str]) -> None:
        self.writer.seen.add(known.pk)
        self.outcome.disks += 1
        if known.is_missing:
            self.writer.bring_back(known)
        if (telling or known.managed_by) and known.own_health != Disk.Health.NOT_A_DISK:
            hidden = known.managed_by == "xcp-ng"  # the header says so and is unchanged
            code = reading.managed_by(telling, name, hidden=hidden)
            if code != known.managed_by:
                self.writer.set_manager(known, code)

    def _read(
        self, root: StorageRoot, folder: Folder, name: str, telling: list[str]
    ) -> Reading | None:
        """What the file tells; None if it is gone since the folder was listed."""
        path = os.path.join(root.path, folder.path_of(name))
        try:
            with open_file(folder, name, path) as file:
                half_merged = is_there(
                    folder, reading.half_merged_by(name)
                ) and merge_in_place.is_half_way_into(self.scope, path)
                found = reading.read(file, name, telling, half_merged=half_merged)
        except ImageError as error:
            if error.code in ("E_NOT_FOUND", "E_NOT_A_FILE"):
                return None
            found = reading.refused(error, name)
        if not found.was_read:
            self._count_refused(found, path)
        return found

    def _count_refused(self, found: Reading, path: str) -> None:
        if found.columns["own_health"] == Disk.Health.IN_USE:
            self.outcome.in_use += 1
        else:
            self.outcome.unreadable += 1
        message = found.columns["findings"][0]
        self.outcome.problem(ImageError(message["code"], message["message"], file=path))

    def _sort(self, found: Found, known: Known | None, others: OtherFiles) -> None:
        """Where a file that was read belongs; known: the row of its place."""
        read = found.reading
        if read.was_read and not read.is_listed:
            others.add(found.relative, read.status)  # a disk that was here before is gone
            return
        if known is None and not read.is_listed:
            self.unread.setdefault(found.root.pk, []).append(found.relative)
            return
        self.outcome.disks += 1
        if known is not None:
            self.writer.seen.add(known.pk)
        if known is not None and not _took_the_place(known, read):
            self.writer.change(known, read)
        elif known is not None or self.known.may_hold(read):
            found.displaced = known
            self.waiting.append(found)
        else:
            self.writer.add(found)

    def _place_waiting(self, online: Sequence[StorageRoot]) -> None:
        waiting, self.waiting = self.waiting, []
        placing = moves.place(waiting, self.known, online, self.writer.seen)
        self.writer.move(placing.moved)
        for known, found in placing.kept:
            self.writer.change(known, found.reading)
        for found in placing.fresh:
            self.writer.add(found)

    def _mark_missing(self, root: StorageRoot, walk: Walk) -> None:
        """Rows whose file was not met. Not those in folders that could not be listed now."""
        seen = self.writer.seen
        self.writer.mark_missing(
            [
                known
                for (root_pk, relative), known in self.known.by_path.items()
                if root_pk == root.pk
                and known.pk not in seen
                and not known.is_missing
                and not _below_any(relative, walk.unread)
            ]
        )

    # --- links, and the end

    def _link(self, online: Sequence[StorageRoot], progress: Progress) -> None:
        mapping = _mapping_digest()
        changed_views = any(
            root.last_scan_result and root.last_scan_result.get("mapping") != mapping
            for root in online
        )
        if not self.writer.touched and not changed_views:
            return
        progress.step("links", "Looking for parents")
        self.outcome.links_resolved = linking.renew(
            self.writer.touched,
            everything=changed_views,
            report=lambda done, total: progress.report(
                done, total, f"{done:,} of {total:,} parent links resolved"
            ),
        )

    def _finish(self, root: StorageRoot, walk: Walk) -> None:
        for error in walk.problems:
            self.outcome.problem(error)
        there = Disk.objects.filter(root=root, missing_since=None, last_seen_at__lt=self.now)
        if walk.unread:  # nobody has seen what lies in folders that could not be listed
            met = sorted(self.writer.seen)
            for start in range(0, len(met), 5_000):
                there.filter(pk__in=met[start : start + 5_000]).update(last_seen_at=self.now)
        else:
            there.update(last_seen_at=self.now)
        trash_index.sync(root, walk.trashes)
        root.last_scan_at = self.now
        unread = sorted({*self.unread.get(root.pk, ()), *walk.unread})
        root.last_scan_result = self.outcome.as_dict() | {
            "mapping": _mapping_digest(),
            # beyond a number that nobody goes through, the root as a whole stands for them
            "unread": storable(unread if len(unread) <= _UNREAD_KEPT else [""]),
        }
        root.save(update_fields=["last_scan_at", "last_scan_result"])

    def _result(self, online: Sequence[StorageRoot]) -> dict[str, Any]:
        result = self.outcome.as_dict()
        offline = [root.name for root in self.chosen if root not in online]
        result["offline"] = offline
        result["seconds"] = round((timezone.now() - self.now).total_seconds(), 3)
        result["sentence"] = sentence(result)
        return result


def _widen_cache() -> None:
    """SQLite's 2 MiB of cache would be read and written over and over for each index."""
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA cache_size = -32768")


def _took_the_place(known: Known, found: Reading) -> bool:
    """True if another file with another disk lies where the known one was."""
    return (
        found.was_read
        and known.inode != found.status.st_ino
        and bool(known.identity)
        and known.identity != found.identity
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
