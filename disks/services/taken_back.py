"""What a job's recovery put right, as it left it: nobody else has changed that since, or has.

Taking back what was begun writes to a file, too, so the plan of the job fits to it no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing, suppress

from disks.engine.errors import ImageError
from disks.models import Job
from disks.operations.fingerprints import Fingerprint
from disks.operations.paths import Roots
from disks.services.stored_json import restored, storable
from disks.services.work import JobContext

_LEFT_AS = "left_as"  # parameter: [path, fingerprint] of each disk after recovery


def note(job: Job, context: JobContext, roots: Roots, paths: Iterable[str]) -> None:
    """The caller holds the locks, and has put right what the job had begun."""
    left = [(path, seen.as_dict()) for path, seen in _now(roots, paths).items()]
    Job.objects.filter(pk=job.pk, token=context.token).update(
        parameters=job.parameters | {_LEFT_AS: storable(left)}
    )


def is_all_that_changed(context: JobContext, planned: Mapping[str, Fingerprint]) -> bool:
    """Whether disks are the files that were planned with, and are as recovery left them."""
    left = dict(restored(context.job.parameters).get(_LEFT_AS, ()))
    if not planned.keys() <= left.keys():
        return False
    with closing(context.roots()) as roots:
        now = _now(roots, planned)
    return all(
        path in now
        and now[path] == Fingerprint.from_dict(left[path])
        and now[path].file.inode == seen.file.inode
        for path, seen in planned.items()
    )


def _now(roots: Roots, paths: Iterable[str]) -> dict[str, Fingerprint]:
    """Without what is no disk, or not there any more."""
    found = {}
    for path in paths:
        with suppress(ImageError), roots.open(path) as file:
            found[path] = Fingerprint.of(file)
    return found
