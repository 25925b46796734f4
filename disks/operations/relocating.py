"""The commit step of jobs that give disks other names: move, copy of a chain, delete.

Before it every disk is as it was; a sidecar `.NAME.vdjob` in state `prepared` says that
temporary files may lie there. The commit point is one durable write: the sidecar's state
`commit`. From then on the work only rolls forward, in steps that recognise themselves
when repeated:

1. files arrive: each gets its new name, the base of a chain first, and never takes one
   that somebody else has
2. links are rewritten, each as a journalled change of its own (crash-safety §1)
3. files that are no longer wanted are moved to the trash, which is declared complete
4. the sidecar goes

If a file cannot arrive, because its name was taken meanwhile, those before it are taken
back (`undoing`): nothing was linked to them yet.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from disks.engine import faults
from disks.engine.errors import ImageError
from disks.engine.files import FileIdentity
from disks.operations import durable, journal, steps, trash
from disks.operations.journal import Sidecar
from disks.operations.paths import Roots
from disks.operations.progress import Progress
from disks.operations.storage_roots import is_internal_name
from disks.operations.trash import manifests

MOVE, COPY, DELETE = "move", "copy", "delete"
KINDS = (MOVE, COPY, DELETE)

PREPARED = "prepared"
COMMIT = "commit"
UNDOING = "undoing"

_VERBS = {MOVE: "moving", COPY: "copying", DELETE: "deleting"}


@dataclass(frozen=True)
class Arrival:
    """A file that gets a name.

    source  its name until then: that of a temporary file, or of the disk itself
    file    which file it is; None until it is complete
    """

    source: str
    target: str
    file: FileIdentity | None = None

    @property
    def is_new(self) -> bool:
        """A copy of ours, which nobody misses; else the disk itself."""
        return is_internal_name(os.path.basename(self.source))


@dataclass(frozen=True)
class Relocation:
    """One job on its way.

    kind      `move`, `copy` or `delete`
    disk      beside which the record lies: the new name, or that of a deleted disk
    arrivals  files that get names, the base of a chain first
    links     (child, parent): parent links to rewrite once all names are there
    manifest  what goes to the trash afterwards
    result    the finished job's document
    """

    kind: str
    disk: str
    job: str
    token: int
    arrivals: tuple[Arrival, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    manifest: manifests.Manifest | None = None
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def others(self) -> list[str]:
        """Every disk that the job touches beside the one that has its record."""
        names = [name for one in self.arrivals for name in (one.target, one.source)]
        names += [child for child, _ in self.links]
        names += [entry.original for entry in self.put_away]
        disks = [name for name in names if not is_internal_name(os.path.basename(name))]
        return [name for name in dict.fromkeys(disks) if name != self.disk]

    @property
    def put_away(self) -> list[manifests.Entry]:
        return self.manifest.entries if self.manifest is not None else []

    def sidecar(self, state: str) -> Sidecar:
        folder = os.path.dirname(self.disk)

        def below(path: str) -> str:
            return os.path.relpath(path, folder)

        stored = None
        if self.manifest is not None:
            primary = self.manifest.primary
            stored = {"folder": below(primary), "manifest": self.manifest.stored(primary)}
        return Sidecar(
            kind=journal.JOB,
            disk=self.disk,
            state=state,
            job=self.job,
            token=self.token,
            neighbours=tuple(self.others),
            record={
                "kind": self.kind,
                "arrivals": [
                    [below(one.source), below(one.target), one.file and one.file.as_dict()]
                    for one in self.arrivals
                ],
                "links": [[below(child), below(parent)] for child, parent in self.links],
                "trash": stored,
                "result": self.result,
            },
            help=_help(self, state),
        )

    @classmethod
    def from_sidecar(cls, sidecar: Sidecar) -> Relocation:
        """Raises E_SIDECAR if the record is not one of these."""
        folder = os.path.dirname(sidecar.disk)
        record = sidecar.record

        def joined(relative: Any) -> str:
            return journal.path_of(folder, relative)

        try:
            stored = record["trash"]
            manifest = None
            if stored is not None:
                manifest = manifests.Manifest.from_stored(
                    stored["manifest"], joined(stored["folder"])
                )
            work = cls(
                kind=str(record["kind"]),
                disk=sidecar.disk,
                job=sidecar.job,
                token=sidecar.token,
                arrivals=tuple(
                    Arrival(
                        joined(source),
                        joined(target),
                        FileIdentity.from_dict(file) if file else None,
                    )
                    for source, target, file in record["arrivals"]
                ),
                links=tuple((joined(child), joined(parent)) for child, parent in record["links"]),
                manifest=manifest,
                result=journal.result_of(record),
            )
            if not _is_believable(work):
                raise ValueError("it names files that are no part of such a job")
        except journal.UNREADABLE as error:
            raise journal.not_understood(sidecar) from error
        return work


def _is_believable(work: Relocation) -> bool:
    """What is renamed or removed is believed only if such a job could have written it."""
    for one in work.arrivals:
        if is_internal_name(os.path.basename(one.target)):
            return False
        if one.is_new and os.path.dirname(one.source) != os.path.dirname(one.target):
            return False
        if not one.is_new and work.kind != MOVE:
            return False
    return work.manifest is None or work.manifest.is_believable


# ---------------------------------------------------------------------- before the commit


def begin(roots: Roots, work: Relocation) -> None:
    """Say beside every disk concerned that the job is at work."""
    with faults.stage("begin"):
        for pointer in _pointers(work):
            journal.write(roots, pointer)
        journal.write(roots, work.sidecar(PREPARED))


def commit(roots: Roots, work: Relocation) -> None:
    """Pass the point of no return: from here on the sidecar owns the temporary files."""
    with faults.stage("commit"):
        if work.manifest is not None:
            trash.prepare(roots, work.manifest)
        journal.write(roots, work.sidecar(COMMIT))


def undo(roots: Roots, work: Relocation) -> None:
    """Make everything as it was before begin(); only while no link was rewritten.

    Copies that have got their name lose it again only while they are as we made them.
    """
    with faults.stage("undo"):
        for one in reversed(work.arrivals):
            if one.file is not None and steps.inode(roots, one.target) == one.file.inode:
                _take_back(roots, one)
            if one.is_new:
                durable.unlink(roots, one.source, missing_ok=True)
        if work.manifest is not None:
            trash.discard(roots, work.manifest)
        _remove_sidecars(roots, work)


def _take_back(roots: Roots, one: Arrival) -> None:
    assert one.file is not None  # noqa: S101 - asked before
    if not one.is_new:
        durable.rename(roots, one.target, one.source, replace=False)
    elif steps.holds(roots, one.target, one.file):
        durable.unlink(roots, one.target)
    else:
        raise steps.attention(one.target, "somebody has written to the new file")


# ---------------------------------------------------------------------- after the commit


def carry_out(
    roots: Roots,
    work: Relocation,
    progress: Progress,
    *,
    check: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Finish a job that was committed a moment ago, by this process. Returns its result.

    check: called when all files have arrived; what it raises takes them back. Raises that,
    and E_EXISTS, with everything as it was, if a name was taken meanwhile. Storage errors
    later on leave the sidecar, and recovery finishes.
    """
    try:
        with faults.stage("forward"):
            _arrive(roots, work, progress)
        if check is not None:
            check()
    except ImageError:
        with contextlib.suppress(ImageError):
            with faults.stage("undo"):
                journal.write(roots, work.sidecar(UNDOING))
            undo(roots, work)
        raise
    return roll_forward(roots, work, progress)


def roll_forward(
    roots: Roots, work: Relocation, progress: Progress | None = None
) -> dict[str, Any]:
    """Finish a committed job from wherever it stands; may be repeated. Returns its result.

    Raises E_NEEDS_ATTENTION, with nothing written, when the files are not ours any more;
    storage errors leave the sidecar for the next attempt.
    """
    progress = progress or Progress()
    warnings: list[str] = list(work.result.get("warnings", []))
    with faults.stage("forward"):
        _arrive(roots, work, progress)
        # Before the links: beside a child that names its parent alone, the old one comes first.
        for entry in work.put_away:
            steps.put_away(roots, entry)
        refused = _point(roots, work, progress, warnings)
        for one in work.arrivals:
            if not one.is_new:
                _carry_record(roots, one, keep=one.target not in dict(work.links))
        if work.manifest is not None:
            work.manifest.state = manifests.COMPLETE
            manifests.write(roots, work.manifest)
        _remove_sidecars(roots, work)
    relinked = [child for child, _ in work.links if child not in {row["path"] for row in refused}]
    done = work.result | {"warnings": warnings, "relinked": relinked}
    return done | ({steps.TO_REPAIR: refused} if refused else {})


def _arrive(roots: Roots, work: Relocation, progress: Progress) -> None:
    for one in work.arrivals:
        here, there = (
            steps.inode(roots, name) == _inode_of(one) for name in (one.source, one.target)
        )
        if here or not there:
            progress.step("commit", f"Giving {os.path.basename(one.target)} its name")
            durable.rename(roots, one.source, one.target, replace=False)


def _carry_record(roots: Roots, one: Arrival, *, keep: bool) -> None:
    """The record of the last link update moves along, or goes: its link is superseded."""
    record = journal.of(roots, one.source, journal.UNDO)
    if record is None or record.unfinished:
        return
    if keep:
        journal.write(roots, replace(record, disk=one.target))
    journal.remove(roots, record)


def _point(
    roots: Roots, work: Relocation, progress: Progress, warnings: list[str]
) -> list[dict[str, Any]]:
    """Rewrite the links. Returns those that were refused: {path, code, message}."""
    refused = steps.point_each(
        roots,
        work.links,
        job=work.job,
        token=work.token,
        progress=progress,
        warnings=warnings,
    )
    # Taken back alone, one of these would lead to the old name again.
    for child, _ in work.links:
        record = journal.of(roots, child, journal.UNDO)
        if record is not None and not record.unfinished and record.job == work.job:
            journal.remove(roots, record)
    return refused


# ---------------------------------------------------------------------- recovery


def recover(sidecar: Sidecar, roots: Roots) -> dict[str, Any]:
    """Finish or undo what a sidecar of a dead job says. {path, action, sentence, result}

    action is `undone` or `finished`. The caller holds the locks of all disks that the
    sidecar names. Raises E_NEEDS_ATTENTION when the files are not as any of our steps
    leaves them.
    """
    work = Relocation.from_sidecar(sidecar)
    # Taking over: the sidecar says so first, so that its old owner is known to be dead.
    work = replace(work, token=work.token + 1)
    journal.write(roots, work.sidecar(sidecar.state))
    verb = _VERBS[work.kind]
    if sidecar.state == COMMIT and _may_roll_forward(roots, work):
        result = roll_forward(roots, work)
        ending = steps.and_to_repair(result)
        sentence = f"The {verb} was past its commit step and was finished{ending}"
        return steps.told(work.disk, "finished", sentence) | {"result": result}
    undo(roots, work)
    sentence = f"The {verb} was stopped before its commit step; nothing was changed."
    return steps.told(work.disk, "undone", sentence)


def _may_roll_forward(roots: Roots, work: Relocation) -> bool:
    """Whether nothing speaks against finishing it. Undone is only what has not begun.

    What was written since (a machine was started after a crash) is not put away: a copy
    taken before lacks it.
    """
    arrived = [steps.inode(roots, one.target) == _inode_of(one) for one in work.arrivals]
    blocked = [
        one.target
        for one, is_there in zip(work.arrivals, arrived, strict=True)
        if not is_there
        and (
            steps.inode(roots, one.source) != _inode_of(one)
            or steps.inode(roots, one.target) is not None
        )
    ]
    away = [steps.inode(roots, entry.trash) == entry.file.inode for entry in work.put_away]
    blocked += [
        entry.original
        for entry, is_away in zip(work.put_away, away, strict=True)
        if not is_away and not steps.holds(roots, entry.original, entry.file)
    ]
    if blocked and any([*arrived, *away]):
        raise steps.attention(blocked[0], "its file is another, or was written since")
    return not blocked


def _inode_of(one: Arrival) -> int:
    return one.file.inode if one.file is not None else -1


# ---------------------------------------------------------------------- small things


def _pointers(work: Relocation) -> list[Sidecar]:
    return steps.pointers(work.disk, work.others, job=work.job, token=work.token)


def _remove_sidecars(roots: Roots, work: Relocation) -> None:
    journal.remove(roots, work.sidecar(PREPARED))
    for pointer in _pointers(work):
        journal.remove(roots, pointer)


def _help(work: Relocation, state: str) -> str:
    lines = [f"vdadmin: {_VERBS[work.kind]}, job {work.job}, on {work.disk}", ""]
    if state != COMMIT:
        lines += ["No disk was changed yet. If no job runs any more: delete this file"]
        lines += [f"  and {one.source}" for one in work.arrivals if one.is_new]
    else:
        lines.append("To finish by hand:")
        lines += [f"  move  {one.source}  to  {one.target}" for one in work.arrivals]
        lines += [f"  set the parent path of {child} to {parent}" for child, parent in work.links]
        lines += [f"  move  {entry.original}  to  {entry.trash}" for entry in work.put_away]
        lines.append("and delete this file. To undo: the same the other way round.")
    lines += ["", "Or run: manage.py disk recover FOLDER", ""]
    return "\n".join(lines)
