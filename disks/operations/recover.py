"""Finish or undo what interrupted operations left behind, from the files alone.

Works without any database, may be run again at any time, and touches nothing while its
owner lives: every step is taken under the storage locks of the disk it concerns (R8, §5).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from disks.engine.errors import ImageError
from disks.operations import durable, journal, locks, unforeseen
from disks.operations.journal import JOB, MERGE, UNDO, Sidecar
from disks.operations.paths import Roots
from disks.operations.progress import Cancelled, Lost, Progress, Stopped
from disks.operations.rewriting import recovery

FINISHED = "finished"
UNDONE = "undone"
SWEPT = "swept"
BUSY = "busy"
ATTENTION = "needs-attention"

_HASH_LETTERS = 32  # of a lock's name, and at least of a temporary file's
_TEMPORARY = re.compile(r"\.(.+\..+)\.vdtmp", re.DOTALL)


@dataclass(frozen=True)
class Said:
    """What somebody has declared for a recovery; see recover()."""

    assume_dead: bool = False
    only_touched: bool = False


_NOTHING_SAID = Said()


def recover(
    folder: str,
    roots: Roots,
    *,
    assume_dead: bool = False,
    only_touched: bool = False,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Everything unfinished in folder and below; one row per disk that was looked after.

    assume_dead   where the storage has no locks: somebody declares that no other host works
    only_touched  as merge_in_place.recover() has it, of all merges there
    progress      of merges in place, which may take hours and can be stopped once more
    Rows: path of the disk, action (`finished`, `undone`, `swept`, `busy`,
    `needs-attention`), code (null, or that of the error), sentence. Whatever goes wrong with
    one of them is its row, and the others are looked after all the same.
    """
    rows: list[dict[str, Any]] = []
    said = Said(assume_dead, only_touched)
    for current in _folders(folder, roots, rows):
        try:
            for row in _recover_folder(current, roots, said, progress):
                rows.append(row)
        except (Cancelled, Lost):
            raise
        except Exception as error:
            rows.append(failed(current, error))
    _sweep_trash(folder, roots)
    return rows


def _recover_folder(
    folder: str, roots: Roots, said: Said, progress: Progress | None
) -> Iterator[dict[str, Any]]:
    """The rows of one folder, without those below."""
    for path, sidecar in list(journal.sidecars_in(roots, folder)):
        if isinstance(sidecar, ImageError):
            yield _row(path, ATTENTION, sidecar.message, sidecar.code)
        elif sidecar.unfinished:
            row = _recover_one(sidecar, roots, said, progress)
            yield {key: value for key, value in row.items() if key != "result"}
    yield from _sweep(folder, roots, assume_dead=said.assume_dead)
    locks.sweep(roots, folder)


def recover_disk(path: str, roots: Roots) -> list[dict[str, Any]]:
    """The same for the sidecars beside one disk, for a job that knows which one it left.

    A finished copy job's row has its `result` too.
    """
    rows = []
    for kind in journal.KINDS:
        sidecar = journal.of(roots, path, kind)
        if sidecar is not None and sidecar.unfinished:
            rows.append(_recover_one(sidecar, roots))
    return rows


def _recover_one(
    sidecar: Sidecar, roots: Roots, said: Said = _NOTHING_SAID, progress: Progress | None = None
) -> dict[str, Any]:
    disk = sidecar.disk
    try:
        with held(sidecar, roots, assume_dead=said.assume_dead):
            # Under the lock: its owner may have finished while we waited for our turn.
            current = journal.of(roots, disk, sidecar.kind)
            if current is None or not current.unfinished:
                return _row(disk, FINISHED, "Its own job has finished it meanwhile.", None)
            return _act(current, roots, said, progress)
    except Stopped as stopped:
        why = stopped.__cause__
        code = why.code if isinstance(why, ImageError) else "E_STOPPED"
        return _row(disk, ATTENTION, stopped.sentence, code)
    except (Cancelled, Lost):
        raise
    except Exception as error:  # the other disks do not wait for what is wrong with this one
        return failed(disk, error)


def failed(disk: str, error: Exception) -> dict[str, Any]:
    """The row of a disk that is left with its record, to be tried again."""
    why = unforeseen.typed(error, disk)
    waiting = why.code in ("E_LOCKED", "E_IN_USE")
    return _row(disk, BUSY if waiting else ATTENTION, why.sentence, why.code)


def _act(sidecar: Sidecar, roots: Roots, said: Said, progress: Progress | None) -> dict[str, Any]:
    if sidecar.kind == UNDO:
        action, sentence = recovery.recover(roots, sidecar, token=sidecar.token + 1)
        return _row(sidecar.disk, action, sentence, None)
    if sidecar.kind in (JOB, MERGE):
        from disks.operations import copying, merge_in_place

        if sidecar.kind == JOB:
            told = copying.recover(sidecar, roots)
        else:
            told = merge_in_place.recover(sidecar, roots, progress, only_touched=said.only_touched)
        row = _row(sidecar.disk, str(told["action"]), str(told["sentence"]), None)
        return row | ({"result": told["result"]} if told.get("result") else {})
    raise recovery.attention(
        sidecar.disk, f"this release cannot finish an operation of the kind “{sidecar.kind}”"
    )


@contextlib.contextmanager
def held(sidecar: Sidecar, roots: Roots, *, assume_dead: bool = False) -> Iterator[None]:
    """The locks of everything a sidecar names: whoever wrote it is gone. E_LOCKED, E_IN_USE."""
    disks = [sidecar.disk, *sidecar.neighbours]
    with _held(roots, disks, sidecar, assume_dead=assume_dead):
        yield


@contextlib.contextmanager
def _held(roots: Roots, disks: list[str], sidecar: Sidecar, *, assume_dead: bool) -> Iterator[None]:
    """The locks of some disks; only assume_dead goes on where there are none."""
    known = [disk for disk in dict.fromkeys(disks) if _locatable(roots, disk)]
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locks.hold(roots, known, job=sidecar.job, token=sidecar.token + 1))
        except ImageError as error:
            if error.code != "E_NO_LOCKS" or not assume_dead:
                raise
        yield


def _locatable(roots: Roots, path: str) -> bool:
    """A neighbour may lie outside of the folders that this recovery was given.

    E_IO where it cannot be known: without its lock nothing is done to it.
    """
    try:
        next(roots.entries(os.path.dirname(path)), None)
    except ImageError as error:
        if error.code == "E_IO":
            raise
        return False
    return True


def _sweep(folder: str, roots: Roots, *, assume_dead: bool) -> Iterator[dict[str, Any]]:
    """Take away temporary files whose owner is dead and whose disk has no open sidecar."""
    files = (entry.name for entry in roots.entries(folder) if entry.is_file)
    names = sorted(name for name in files if name.endswith(".vdtmp"))
    recorded = _recorded(roots, folder) if names else []
    for name in names:
        found = _TEMPORARY.fullmatch(name)
        if found is None:
            continue
        path = os.path.join(folder, name)
        owners = _owners(folder, found[1])
        disk = owners[0]
        try:
            if journal.pending(roots, [*owners, *_hashed(recorded, owners)]):
                continue
            with _held(roots, owners, Sidecar(UNDO, disk, ""), assume_dead=assume_dead):
                durable.unlink(roots, path, missing_ok=True)
            yield _row(disk, SWEPT, f"The unfinished file {name} was removed.", None)
        except Exception as error:
            yield failed(disk, error)


def _sweep_trash(folder: str, roots: Roots) -> None:
    """Only a root has a trash; what waits in it is nobody's to recover, but what is empty goes."""
    from disks.operations import trash

    try:
        root, _ = roots.locate(folder)
        if root.path == os.path.normpath(folder) and not root.read_only:
            trash.sweep(roots, root.path)
    except Exception as error:
        unforeseen.typed(error, folder)  # for the log: no disk waits for it


def _owners(folder: str, stem: str) -> list[str]:
    """Every disk that a temporary file `.STEM.vdtmp` may belong to: its name up to each dot.

    `.NAME.vdundo.vdtmp`, `.NAME.<job>-<token>.vdtmp`; all of them are locked, which is
    right whichever of the dots belongs to the name.
    """
    ends = [at for at, letter in enumerate(stem) if letter == "." and at > 0]
    return [os.path.join(folder, stem[:end]) for end in reversed(ends)]


def _recorded(roots: Roots, folder: str) -> list[str]:
    """The disks of a folder that its sidecars name."""
    found = (one for _, one in journal.sidecars_in(roots, folder) if isinstance(one, Sidecar))
    disks = {disk for sidecar in found for disk in (sidecar.disk, *sidecar.neighbours)}
    return [disk for disk in disks if os.path.dirname(disk) == folder]


def _hashed(recorded: list[str], owners: list[str]) -> list[str]:
    """The disks for whose very long names a hash stands among the owners of a temporary file."""
    names = {os.path.basename(owner)[:_HASH_LETTERS] for owner in owners}
    return [disk for disk in recorded if locks.lock_name(disk) in names]


def _folders(folder: str, roots: Roots, rows: list[dict[str, Any]]) -> Iterator[str]:
    """folder and everything below it that may be looked at; rows get what cannot be listed."""
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            root, _ = roots.locate(current)
            below = sorted(
                entry.name
                for entry in roots.entries(current)
                if entry.is_folder and not root.excludes(entry.name)
            )
        except ImageError as error:
            if error.code not in ("E_NOT_FOUND", "E_OUTSIDE_ROOTS"):
                rows.append(failed(current, error))
            continue
        yield current
        waiting.extend(os.path.join(current, name) for name in below)


def _row(path: str, action: str, sentence: str, code: str | None) -> dict[str, Any]:
    return {"path": path, "action": action, "code": code, "sentence": sentence}
