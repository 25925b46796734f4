"""Merge in place: what levels of a chain hold is moved into their base (crash-safety §2).

Only the levels' data moves; base keeps its file, owner and rights and needs room for new blocks
only. It cannot be taken back once data moves, but stopped between any two batches and resumed:
by the sidecar beside base alone, also on another host. `merge.py` plans it and looks for what
stands in the way.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from disks.engine import faults
from disks.engine.errors import ImageError
from disks.engine.files import FileIdentity
from disks.operations import journal, steps, unforeseen
from disks.operations.journal import Sidecar
from disks.operations.merge_in_place import (
    as_left,
    batches,
    ending,
    journal_room,
    newcomers,
    step_zero,
)
from disks.operations.merge_in_place.journal_room import journal_bytes, journal_pages
from disks.operations.merge_in_place.leaf import why_not_used
from disks.operations.merge_in_place.work import BEGUN, ENDING, MERGING, Work, write
from disks.operations.paths import Roots
from disks.operations.progress import Cancelled, Lost, Progress, Stopped
from disks.operations.rollback import quietly, rolling_back
from disks.operations.windows import shown

__all__ = [
    "Work",
    "cannot_wait",
    "errors_stop_it",
    "has_begun_to_move",
    "is_half_way_into",
    "journal_bytes",
    "journal_pages",
    "may_have_written",
    "pending",
    "recover",
    "resume",
    "start",
    "to_go_on_with",
    "touched",
    "was_stopped",
    "why_not_used",
]


def start(
    roots: Roots, work: Work, progress: Progress, *, journal_pages: int, total_bytes: int
) -> dict[str, Any]:
    """Carry a fresh merge out; the caller holds the locks. Returns its result.

    Until the first batch every error, and Cancelled, leaves all disks as they were. From then on
    it raises Stopped instead, with every file consistent, and resume() goes on.
    """
    # In the record before it is in a disk: so what is ours is known in whichever file it is found.
    work = replace(work, identity=str(uuid.uuid4()))
    with rolling_back(lambda: step_zero.take_back(roots, work), work.base):
        work = step_zero.begin(roots, work, journal_pages, progress)
    with errors_stop_it(work.base), _its_end_is_a_stop(roots, work.base):
        return _carry_on(roots, work, progress, total_bytes=total_bytes)


@contextlib.contextmanager
def errors_stop_it(base: str) -> Iterator[None]:
    """Whatever goes wrong in here is a stop, for a merge into base that has begun to move.

    Its reason is the cause of the Stopped that is raised.
    """
    try:
        yield
    except (Cancelled, Stopped, Lost):
        raise
    except Exception as error:
        why = unforeseen.typed(error, base)
        how = batches.how_to_resume(base)
        raise Stopped(f"The merge cannot go on now. {why.sentence}", how) from why


def resume(
    roots: Roots, sidecar: Sidecar, progress: Progress, *, untouched: FileIdentity | None = None
) -> dict[str, Any]:
    """Go on with a merge that has moved data, to its end; the caller holds the locks.

    untouched: base as touched() told of it, where somebody said that nobody has written to it
    Returns its result. Raises Stopped, E_NEEDS_ATTENTION with nothing written.
    """
    return _go_on(roots, Work.from_sidecar(sidecar), progress, untouched)


def touched(roots: Roots, sidecar: Sidecar) -> FileIdentity | None:
    """Base as it is, where it has other times since the merge was stopped, and going on needs
    somebody's word that nobody has written to it. None elsewhere.

    sidecar: of a merge that has begun to move. Raises E_SIDECAR, and what reading base raises.
    """
    work = Work.from_sidecar(sidecar)
    found = as_left.touched(roots, work)
    if found and work.state == ENDING and batches.seen(roots, work.levels) == work.seen:
        return None  # all is moved
    return found


def recover(
    sidecar: Sidecar,
    roots: Roots,
    progress: Progress | None = None,
    *,
    only_touched: bool = False,
) -> dict[str, Any]:
    """Finish, or take back what only began. {path, action, sentence, result}

    only_touched: somebody says that nobody has written to base where its times are others
    Finishing may take hours: it raises Stopped like resume().
    """
    progress = progress or Progress()
    if sidecar.state == steps.ELSEWHERE:
        return steps.follow(
            sidecar,
            roots,
            lambda there, roots: recover(there, roots, progress, only_touched=only_touched),
        )
    work = Work.from_sidecar(sidecar)
    if work.state == BEGUN:
        told = step_zero.take_back(roots, _taken_over(roots, work))
        sentence = f"The merge had moved nothing yet; every disk is as it was.{told}"
        return {"path": work.base, "action": "undone", "sentence": sentence}
    untouched = touched(roots, sidecar) if only_touched else None
    result = _go_on(roots, work, progress, untouched)
    ending_words = steps.and_to_repair(result)
    return {
        "path": work.surviving,
        "action": "finished",
        "sentence": f"The merge in place was interrupted and was finished{ending_words}",
        "result": result,
    }


def _taken_over(roots: Roots, work: Work) -> Work:
    """Says so first, so that the old owner is known to be dead; it is stopped no more."""
    work = replace(work, token=work.token + 1, stopped=False)
    write(roots, work)
    return work


def _go_on(
    roots: Roots, work: Work, progress: Progress, untouched: FileIdentity | None
) -> dict[str, Any]:
    """After an interruption: others may have used the leaf, and made disks on it."""
    with _its_end_is_a_stop(roots, work.base):
        work = _taken_over(roots, as_left.taken_as_untouched(roots, work, untouched))
        return _carry_on(roots, work, progress, journal_room.follow, newcomers.take_along)


@contextlib.contextmanager
def _its_end_is_a_stop(roots: Roots, base: str) -> Iterator[None]:
    """Whoever ends a merge that has moved data has stopped it, wherever that falls: it is noted.

    One that died, or was lost, goes on by itself; so does one that cannot wait. What the files
    are is not noted: here they may be half written, and who wrote to them meanwhile is told by
    what they were.
    """
    try:
        yield
    except Lost:
        raise
    except BaseException as why:
        quietly(lambda: _note_stop(roots, base), base)
        if isinstance(why, Cancelled):
            how = batches.how_to_resume(base)
            raise Stopped("The merge was stopped between two of its steps.", how) from why
        raise


def _note_stop(roots: Roots, base: str) -> None:
    found = pending(roots, base)
    if found is None or not has_begun_to_move(found) or was_stopped(found):
        return
    if not cannot_wait(roots, found):
        with faults.stage("merge.stop"):
            write(roots, replace(Work.from_sidecar(found), stopped=True))


def _carry_on(
    roots: Roots,
    work: Work,
    progress: Progress,
    before_moving: Callable[[Roots, Work], None] = lambda roots, work: None,
    before_end: Callable[[Roots, Work, Progress], Work] = lambda roots, work, progress: work,
    total_bytes: int | None = None,
) -> dict[str, Any]:
    started = time.monotonic()
    if work.state == MERGING:
        work = _moved(roots, work, progress, before_moving, total_bytes)
    work = before_end(roots, work, progress)
    if _was_used_since(roots, work):  # while it waited, or by a host that heeds no locks
        work = _moved(roots, work.at(MERGING), progress, journal_room.follow, None)
        _require_unused(roots, work)
    work = _no_more_as_stopped(roots, work)
    seconds = round(time.monotonic() - started, 3)
    result = ending.finish(roots, work, progress)
    proof_seconds = min(seconds, result.get("proof_seconds", 0.0))
    times = {"seconds": seconds, "copy_seconds": round(seconds - proof_seconds, 3)}
    return result | times | {"proof_seconds": proof_seconds}


def _moved(
    roots: Roots,
    work: Work,
    progress: Progress,
    before_moving: Callable[[Roots, Work], None],
    total_bytes: int | None,
) -> Work:
    for path in (work.base, work.above):
        step_zero.settle(roots, path)
    work = step_zero.follow_size(roots, batches.prepare(roots, work))
    with faults.stage("merge.prepare"):
        before_moving(roots, work)
    return batches.run(roots, work, progress, total_bytes)


def _no_more_as_stopped(roots: Roots, work: Work) -> Work:
    """From here on base is not as it was at the last stop: it gets its face, half of it perhaps."""
    if work.file is None:
        return work
    work = replace(work, file=None)
    with faults.stage("merge.end"):
        write(roots, work)
    return work


def _was_used_since(roots: Roots, work: Work) -> bool:
    """Whether a level was written since it was moved, before base has the leaf's face."""
    disks = [*work.levels, work.base]
    if [steps.inode(roots, path) for path in disks] != list(work.inodes):
        return False  # names have changed
    if batches.seen(roots, work.levels) == work.seen:
        return False
    step_zero.settle(roots, work.base)  # taken back, it has not begun
    return not ending.has_begun(roots, work)


def _require_unused(roots: Roots, work: Work) -> None:
    """Stopped if it was written even while it was moved once more: a machine runs on it."""
    if not _was_used_since(roots, work):
        return
    why = ImageError(
        "E_CHANGED",
        f"{shown(work.leaf)} was written while it was merged: a machine may be running on it.",
        advice="Switch that machine off first.",
        file=work.leaf,
    )
    raise newcomers.waits(roots, work, f"It cannot end yet: {why.sentence}") from why


def pending(roots: Roots, base: str) -> Sidecar | None:
    """The sidecar of an unfinished merge into this disk; None without one."""
    found = journal.of(roots, base, journal.MERGE)
    return found if found is not None and found.unfinished else None


def has_begun_to_move(sidecar: Sidecar) -> bool:
    """Whether it is of a merge that can only be finished; one that is not is taken back."""
    return sidecar.kind == journal.MERGE and sidecar.state in (MERGING, ENDING)


def is_half_way_into(roots: Roots, disk: str) -> bool:
    """Whether a merge has moved data into this disk, or may have: its record cannot be read.

    The record beside another of the merge's disks only leads to that one.
    """
    try:
        found = pending(roots, disk)
    except ImageError:
        return True
    return found is not None and has_begun_to_move(found)


def may_have_written(roots: Roots, sidecar: Sidecar, disk: str) -> bool:
    """Whether a merge that has begun to move may be who wrote to one of its disks last.

    It writes to those below the leaf, and to the leaf's header before it moves anything.
    Raises E_SIDECAR, and what reading the leaf raises.
    """
    work = Work.from_sidecar(sidecar)
    if disk == work.leaf and work.state == MERGING:
        return batches.seen(roots, [disk]) == work.seen[:1]
    return disk in (work.base, *work.levels) or work.state == ENDING


def cannot_wait(roots: Roots, sidecar: Sidecar) -> bool:
    """Whether names and headers are changing: until they have, the leaf cannot be read.

    A wish to stop comes too late then, as it does for who is at it: a moment's work is left.
    Raises E_SIDECAR, and what reading base raises of the storage.
    """
    return sidecar.state == ENDING and ending.has_begun(roots, Work.from_sidecar(sidecar))


def to_go_on_with(roots: Roots, sidecar: Sidecar) -> Sidecar | None:
    """The record of the merge that has moved data and that a record is part of, if it is of one.

    sidecar: that record itself, one that points to it, or one of a header that the merge changes
    """
    for found in journal.pending(roots, [sidecar.disk]):
        if found.kind != journal.MERGE or found.job != sidecar.job:
            continue
        is_pointer = found.state == steps.ELSEWHERE
        there = pending(roots, steps.primary_of(found)) if is_pointer else found
        if there is not None and there.job == sidecar.job and has_begun_to_move(there):
            return there
    return None


def was_stopped(sidecar: Sidecar) -> bool:
    """Whether somebody stopped this merge, or it said why it cannot go on.

    It goes on when somebody says so; one that was interrupted does by itself. Raises E_SIDECAR.
    """
    return has_begun_to_move(sidecar) and Work.from_sidecar(sidecar).stopped
