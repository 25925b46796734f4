"""A merge that is begun again: gone on with where it was stopped, or found to be finished.

What an earlier attempt of the same job left decides: the sidecar beside the base of a merge in
place, or what a finished merge put away. Without either nothing was changed.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from disks.engine.files import FileIdentity
from disks.operations import copying, locks, merge_in_place, trash
from disks.operations.paths import Roots
from disks.operations.progress import Progress
from disks.operations.trash import emptying, manifests
from disks.operations.trash.manifests import Manifest


def go_on(
    base: str,
    roots: Roots,
    *,
    job: str,
    token: int = 0,
    progress: Progress | None = None,
    untouched: FileIdentity | None = None,
) -> dict[str, Any] | None:
    """Finish the merge in place into base that this job began; None where there is none.

    untouched: as merge_in_place.resume() has it
    Raises Stopped, also where it cannot go on now: its data has moved, so it stays to be
    resumed, with the reason.
    """
    job = copying.job_name(job)
    with merge_in_place.errors_stop_it(base):
        found = merge_in_place.pending(roots, base)
        if found is None or found.job != job or not merge_in_place.has_begun_to_move(found):
            return None
        disks = [found.disk, *found.neighbours]
        with locks.hold(roots, disks, job=job, token=token):
            found = merge_in_place.pending(roots, base)
            if found is None:
                return None  # somebody's recovery was quicker
            progress = progress or Progress()
            return merge_in_place.resume(roots, found, progress, untouched=untouched)


def finished(
    output: str,
    gone: str,
    levels: Sequence[tuple[str, FileIdentity]],
    roots: Roots,
    *,
    in_place: bool,
) -> dict[str, Any] | None:
    """The document of this merge if it has been brought to its end before, else None.

    Its proof lies in the trash: exactly the files that the plan saw, put away by a merge under
    this name.

    gone    the name that no file has any more afterwards
    levels  path and file of each disk that was merged, leaf first, as the plan saw them
    """
    if roots.exists(gone) or not roots.exists(output):
        return None
    put_away = levels[:-1] if in_place else levels
    wanted = {path: _file(file) for path, file in put_away}
    for manifest in _put_away_from([path for path, _ in levels], roots):
        found = {entry.original: _file(entry.file) for entry in manifest.entries}
        if (
            manifest.state == manifests.COMPLETE
            and manifest.kind == (manifests.MERGED_IN_PLACE if in_place else "merge")
            and manifest.replacement == output
            and found == wanted
        ):
            size = sum(file.size_bytes for _, file in levels)
            return {
                "output": output,
                "in_place": in_place,
                "file_size_before_bytes": size,
                "file_size_after_bytes": roots.stat(output).st_size,
                "levels": [path for path, _ in levels],
                "relinked": list(manifest.relinked),
                "space_back_when_trash_emptied_bytes": sum(
                    emptying.given_back_bytes(roots, entry) for entry in manifest.entries
                ),
                "trash": manifest.primary,
                "was_done": True,
                "commands": [],
                "warnings": [],
            }
    return None


def _put_away_from(disks: Iterable[str], roots: Roots) -> Iterator[Manifest]:
    """What the trash of the disks' storage roots holds, and, of the command line, that beside."""
    places = [(roots.locate(disk)[0].path, os.path.dirname(disk)) for disk in disks]
    for place in dict.fromkeys(itertools.chain.from_iterable(places)):
        yield from trash.list_trash(place, roots)


def _file(seen: FileIdentity) -> tuple[int, int, int]:
    """What stays the same when a file is moved to the trash."""
    return seen.inode, seen.size_bytes, seen.mtime_ns
