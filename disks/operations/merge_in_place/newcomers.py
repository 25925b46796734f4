"""Disks that were made on the leaf while the merge was stopped: they follow it to its new name.

A merge that runs through looks for the leaf's children under lock before it begins, and nobody
makes one meanwhile. One that was stopped has to look again before the names change.
"""

from __future__ import annotations

from dataclasses import replace

from disks.engine.errors import ImageError
from disks.engine.formats import open_image
from disks.operations import concerned, family, journal, steps
from disks.operations.merge_in_place import ending
from disks.operations.merge_in_place.batches import how_to_go_on, stopped
from disks.operations.merge_in_place.work import Work, pointers, write
from disks.operations.paths import Roots
from disks.operations.progress import Cancelled, Progress, Stopped


def take_along(roots: Roots, work: Work, progress: Progress) -> Work:
    """The work with all children of the leaf that need a new parent path; durable.

    Raises Stopped, caused by the ImageError that says why, while one of them cannot get it: the
    merge then waits for somebody to resume it.
    """
    if work.surviving == work.leaf or steps.inode(roots, work.leaf) != work.inodes[0]:
        return work  # it keeps the name that they look for; or the names have changed already
    if ending.has_begun(roots, work):
        return work  # nobody can read it, or make a disk on it; too late to stop
    try:
        found = _children(roots, work, progress)
        new = [path for path in found.of(work.leaf) if path not in work.relink]
        for path in new:
            with roots.open(path) as file, roots.open(work.leaf) as leaf:
                concerned.new_link(
                    file, work.surviving, open_image(leaf), roots, instead="delete that disk"
                )
    except ImageError as error:
        raise waits(roots, work, f"It cannot end yet: {error.sentence}") from error
    except Cancelled as asked:
        raise waits(roots, work, "It was stopped before the names changed.") from asked
    unread = found.unread_warnings()
    if not new and not unread:
        return work
    relink = (*work.relink, *new)
    warnings = [*work.result.get("warnings", []), *unread]
    result = work.result | {"relinked": list(relink), "warnings": warnings}
    work = replace(work, relink=relink, result=result)
    for pointer in pointers(work):
        journal.write(roots, pointer)
    write(roots, work)
    return work


def _children(roots: Roots, work: Work, progress: Progress) -> family.Family:
    with roots.open(work.leaf) as file:
        identity = open_image(file).identity
    return family.look(roots, {work.leaf: identity}, progress=progress)


def waits(roots: Roots, work: Work, why: str) -> Stopped:
    """To raise before base gets the leaf's face; who writes to it from here on is noticed."""
    stopped(roots, work)
    return Stopped(f"Everything is moved by the merge. {why}", how_to_go_on(work))
