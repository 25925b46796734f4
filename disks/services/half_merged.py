"""Merges in place that are half-way: what their records say, and going on with those of others.

Their data has moved, so they can only be finished; until they are, nothing else is done to their
disks. One that no job of this console has was begun at a terminal, say, and stopped there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from disks.engine.errors import ImageError
from disks.engine.files import FileIdentity
from disks.models import Disk, Job
from disks.operations import copying, locks, merge_in_place
from disks.operations.journal import Sidecar
from disks.operations.merge_in_place import Work
from disks.operations.paths import Roots
from disks.services import chains, declarations, leases, merging, roots
from disks.services.errors import Refusal
from disks.services.stored_json import restored
from disks.services.work import BEGUN_AS, JobContext, name_in_files

_GOES_ON = "Nobody has stopped this merge: it goes on by itself."


@dataclass(frozen=True)
class Begun:
    """What the record of such a merge says.

    levels        what is merged, leaf first, and base into which it is; host paths
    surviving     the name that stays: base's or the leaf's
    at_terminal   begun by a command; else by a job, of another console or forgotten here
    stopped       somebody has stopped it; else it was interrupted, or somebody is at it
    unusable      why no machine may use the leaf meanwhile; "" where it reads as ever and waits
    touched       base as it is, where it has other times since the merge was stopped: somebody has
                  to say that nobody has written to it
    in_the_way    what has its disks now, a running command say
    """

    levels: tuple[str, ...]
    base: str
    surviving: str
    at_terminal: bool
    stopped: bool
    unusable: str
    touched: FileIdentity | None
    in_the_way: ImageError | None
    fingerprint: list[Any]

    @property
    def leaf_name(self) -> str:
        return os.path.basename(self.levels[0])

    @property
    def base_name(self) -> str:
        return os.path.basename(self.base)

    @property
    def surviving_name(self) -> str:
        return os.path.basename(self.surviving)

    @property
    def between(self) -> int:
        """How many disks are merged besides the leaf."""
        return len(self.levels) - 1


def names_of_jobs() -> set[str]:
    """How the files call the jobs that are not over."""
    rows = Job.objects.filter(status__in=Job.OPEN).values_list("pk", f"parameters__{BEGUN_AS}")
    names = {name_in_files(pk, begun_as) for pk, begun_as in rows.iterator()}
    return names | {copying.job_word(name) for name in names}


def merge_of(disk: Disk) -> Begun | None:
    """The merge that this disk is part of, or builds on; None where there is none to tell of.

    It is looked for beside the disks of its chain alone: that is cheap in a large folder, too.
    """
    paths = [one.path for one in chains.chain_of(disk)]
    try:
        with closing(roots.operation_roots()) as scope:
            record = _record(scope, paths)
            return None if record is None else _described(scope, record)
    except ImageError:
        return None  # what is wrong there is told by the disk's own verdict


def request(
    disk: Disk,
    *,
    user: Any,
    idempotency_key: str,
    seen: list[Any],
    declared_offline: bool = False,
    only_touched: bool = False,
    address: str = "",
) -> Job:
    """Ask for the job that finishes it; the caller enqueues it.

    seen: the fingerprint that was shown. only_touched: nobody has written to its base, if that has
    other times since the merge was stopped. Raises Refusal E_CHANGED where the merge has gone on or
    ended meanwhile, E_NOT_OFFLINE, E_READ_ONLY, E_ROOT_OFFLINE; E_LOCKED and E_IN_USE where
    somebody has its disks.
    """
    with closing(roots.operation_roots()) as scope:
        record = _record(scope, [one.path for one in chains.chain_of(disk)])
        touched = None if record is None else _touched(scope, record)
        if record is None or _fingerprint(record, touched) != seen:
            raise Refusal(
                "E_CHANGED",
                "This merge has gone on, or has ended, since you looked.",
                "Look at the disk again.",
            )
        declarations.require([record.disk, *record.neighbours], declared_offline=declared_offline)
        if (busy := _in_the_way(scope, record)) is not None:
            raise busy
        return merging.go_on_with(
            record,
            user=user,
            idempotency_key=idempotency_key,
            declared_offline=declared_offline,
            untouched=touched if only_touched else None,
            address=address,
        )


def half_done(job: Job) -> tuple[str, str, str] | None:
    """Of the merge in place that a job has left half-way: its leaf and base, as host paths, and
    why no machine may use the leaf ("" where it reads as ever).

    None where no merge of it is half-way, or the storage cannot be asked.
    """
    with closing(roots.operation_roots()) as scope, suppress(ImageError):
        found = _of_job(scope, job)
        if found is not None:
            why_not = merge_in_place.why_not_used(scope, found)
            return Work.from_sidecar(found).leaf, found.disk, why_not
    return None


def touched_base(job: Job) -> tuple[str, FileIdentity] | None:
    """Host path and file of the base of the merge that a job has left half-way, where it has other
    times since: somebody has to say that nobody has written to it. None elsewhere.
    """
    with closing(roots.operation_roots()) as scope, suppress(ImageError):
        found = _of_job(scope, job)
        touched = None if found is None else _touched(scope, found)
        if found is not None and touched is not None:
            return found.disk, touched
    return None


def _touched(scope: Roots, record: Sidecar) -> FileIdentity | None:
    """As merge_in_place.touched(); None, too, where the files cannot be asked."""
    with suppress(ImageError):
        return merge_in_place.touched(scope, record)
    return None


def _of_job(scope: Roots, job: Job) -> Sidecar | None:
    """The record of the merge that this job is at, once its data moves."""
    parameters = restored(job.parameters)
    bases = [step["base"] for step in parameters.get("steps", [])]
    bases += parameters.get("levels", [])[-1:]
    name = JobContext(job, job.token).name
    for base in bases:
        found = merge_in_place.pending(scope, base)
        if found and found.job == name and merge_in_place.has_begun_to_move(found):
            return found
    return None


def _record(scope: Roots, paths: Iterable[str]) -> Sidecar | None:
    for path in paths:
        with suppress(ImageError):  # in a root that is offline, say: it may lie beside the next
            found = merge_in_place.pending(scope, path)
            merge = found and merge_in_place.to_go_on_with(scope, found)
            if merge and merge.job not in names_of_jobs() and leases.at_work_on(merge.disk) is None:
                return merge
    return None


def _described(scope: Roots, record: Sidecar) -> Begun:
    work = Work.from_sidecar(record)
    touched = _touched(scope, record)
    return Begun(
        work.levels,
        work.base,
        work.surviving,
        at_terminal=record.job.startswith("cli-"),
        stopped=work.stopped,
        unusable=merge_in_place.why_not_used(scope, record) or ("" if work.stopped else _GOES_ON),
        touched=touched,
        in_the_way=_in_the_way(scope, record),
        fingerprint=_fingerprint(record, touched),
    )


def _in_the_way(scope: Roots, record: Sidecar) -> ImageError | None:
    """E_LOCKED while whoever began it lives, E_IN_USE while a machine has one of its disks."""
    each = (
        locks.in_the_way(scope, path, exclusive=True) for path in (record.disk, *record.neighbours)
    )
    return next(filter(None, each), None)


def _fingerprint(record: Sidecar, touched: FileIdentity | None) -> list[Any]:
    """Changes whenever somebody goes on with it, stops it, or touches its base."""
    file = touched and [touched.inode, touched.size_bytes, touched.mtime_ns]
    return [record.job, record.token, record.disk, record.state, file]
