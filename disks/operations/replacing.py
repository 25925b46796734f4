"""The commit step of copy jobs that take a name over (crash-safety §2 "By copy", §3).

Before it every file is as it was; a sidecar `.NAME.vdjob` in state `copying` says that a
temporary file may lie there. The commit point is one durable write: the sidecar's state
`commit`. From then on the work only rolls forward, in steps that recognise themselves
when repeated:

1. the replaced file gets a second name in the trash (or is moved there, where the
   storage knows no hard links)
2. the new file takes the name over
3. disks below get their parent link rewritten
4. the other merged files are moved to the trash
5. the trash is declared complete, the sidecar goes
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any

from disks.engine import faults
from disks.operations import copying, durable, journal, steps, trash
from disks.operations.fingerprints import Fingerprint
from disks.operations.journal import Sidecar
from disks.operations.modification_times import set_mtime
from disks.operations.paths import Roots
from disks.operations.progress import Progress
from disks.operations.storage_roots import is_internal_name
from disks.operations.trash import manifests

COPYING = "copying"
COMMIT = "commit"


@dataclass(frozen=True)
class Replacement:
    """One copy job on its way to a name that exists.

    kind       `merge` or `compact`
    surviving  the path whose file is replaced; manifest.entries[0] is that file
    temp_path  the new file until it takes the name over; temp_inode: which one that is
    manifest   what goes to the trash, the replaced file first
    relink     children of the surviving disk whose parent link must name it
    mtime_ns   modification time that the new file shall get; None: leave it
    result     the finished job's document
    """

    kind: str
    surviving: str
    temp_path: str
    manifest: manifests.Manifest
    job: str
    token: int
    relink: tuple[str, ...] = ()
    temp_inode: int = 0
    mtime_ns: int | None = None
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def others(self) -> list[str]:
        """Every disk that the job touches beside the surviving one."""
        paths = [entry.original for entry in self.manifest.entries[1:]]
        return [*paths, *self.relink]

    def sidecar(self, state: str) -> Sidecar:
        folder = os.path.dirname(self.surviving)
        primary = self.manifest.primary
        return Sidecar(
            kind=journal.JOB,
            disk=self.surviving,
            state=state,
            job=self.job,
            token=self.token,
            neighbours=tuple(self.others),
            record={
                "kind": self.kind,
                "temp": os.path.basename(self.temp_path),
                "temp_inode": self.temp_inode,
                "trash": os.path.relpath(primary, folder),
                "manifest": self.manifest.stored(primary),
                "relink": [os.path.relpath(path, folder) for path in self.relink],
                "mtime_ns": self.mtime_ns,
                "result": self.result,
            },
            help=_help(self, state),
        )

    @classmethod
    def from_sidecar(cls, sidecar: Sidecar) -> Replacement:
        """Raises E_SIDECAR if the record is not one of these."""
        folder = os.path.dirname(sidecar.disk)
        record = sidecar.record
        try:
            primary = journal.path_of(folder, record["trash"])
            mtime_ns = record["mtime_ns"]
            work = cls(
                kind=str(record["kind"]),
                surviving=sidecar.disk,
                temp_path=os.path.join(folder, os.path.basename(record["temp"])),
                manifest=manifests.Manifest.from_stored(record["manifest"], primary),
                job=sidecar.job,
                token=sidecar.token,
                relink=tuple(journal.path_of(folder, path) for path in record["relink"]),
                temp_inode=int(record["temp_inode"]),
                mtime_ns=None if mtime_ns is None else int(mtime_ns),
                result=journal.result_of(record),
            )
            # What is removed or moved is believed only if such a job could have written it.
            if (
                work.manifest.entries[0].original != work.surviving
                or not work.manifest.is_believable
                or not is_internal_name(os.path.basename(work.temp_path))
            ):
                raise ValueError("it names files that are no part of such a job")
        except journal.UNREADABLE as error:
            raise journal.not_understood(sidecar) from error
        return work


# ---------------------------------------------------------------------- before the commit


def begin(roots: Roots, work: Replacement) -> None:
    """Say beside every disk concerned that a copy is being made."""
    with faults.stage("begin"):
        for pointer in _pointers(work):
            journal.write(roots, pointer)
        journal.write(roots, work.sidecar(COPYING))


def commit(roots: Roots, work: Replacement, draft: copying.Draft) -> None:
    """Pass the point of no return; the draft belongs to the sidecar then."""
    with faults.stage("commit"):
        trash.prepare(roots, work.manifest)
        journal.write(roots, work.sidecar(COMMIT))
    draft.handed_over()


def undo(roots: Roots, work: Replacement) -> None:
    """Make everything as it was before begin(); only while the name is not taken over."""
    with faults.stage("undo"):
        replaced = work.manifest.entries[0]
        inode = replaced.file.inode
        if steps.inode(roots, replaced.trash) == inode and (
            steps.inode(roots, replaced.original) in (inode, None)  # whoever wrote to it since
        ):
            steps.rename_new(roots, replaced.trash, replaced.original, inode)
        durable.unlink(roots, work.temp_path, missing_ok=True)
        trash.discard(roots, work.manifest)
        _remove_sidecars(roots, work)


# ---------------------------------------------------------------------- after the commit


def roll_forward(
    roots: Roots, work: Replacement, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Finish a committed job from wherever it stands; may be repeated. Returns its result.

    Raises E_NEEDS_ATTENTION, with nothing written, when the files are not ours any more;
    storage errors leave the sidecar for the next attempt.
    """
    progress = progress or Progress()
    warnings: list[str] = list(work.result.get("warnings", []))
    with faults.stage("forward"):
        progress.step("commit", f"Putting {os.path.basename(work.surviving)} in place")
        _replace(roots, work)
        if work.mtime_ns is not None:
            with roots.open(work.surviving) as file:
                set_mtime(file, work.mtime_ns)
        refused = steps.point_each(
            roots,
            [(child, work.surviving) for child in work.relink],
            job=work.job,
            token=work.token,
            progress=progress,
            warnings=warnings,
        )
        for entry in work.manifest.entries[1:]:
            steps.put_away(roots, entry)
        with roots.open(work.surviving) as file:
            work.manifest.replaced_by = Fingerprint.of(file)
        relinked = [path for path in work.relink if path not in {row["path"] for row in refused}]
        work.manifest.relinked = relinked  # only these get an old link back by a restore
        work.manifest.state = manifests.COMPLETE
        manifests.write(roots, work.manifest)
        _remove_sidecars(roots, work)
    done = work.result | {"warnings": warnings}
    if work.relink:
        done["relinked"] = relinked
    return done | ({steps.TO_REPAIR: refused} if refused else {})


def _replace(roots: Roots, work: Replacement) -> None:
    """Steps 1 and 2."""
    if steps.inode(roots, work.surviving) == work.temp_inode:
        return
    replaced = work.manifest.entries[0]
    name, kept = steps.inode(roots, work.surviving), steps.inode(roots, replaced.trash)
    if steps.inode(roots, work.temp_path) != work.temp_inode or not (
        name == replaced.file.inode or (name is None and kept == replaced.file.inode)
    ):
        raise steps.attention(work.surviving, "other files than this job's lie under its names")
    if kept is None:
        steps.link_or_move(roots, replaced.original, replaced.trash)
    elif kept != replaced.file.inode:
        raise steps.attention(replaced.trash, "another file lies in the trash under this name")
    durable.rename(roots, work.temp_path, work.surviving)


# ---------------------------------------------------------------------- recovery


def recover(sidecar: Sidecar, roots: Roots) -> dict[str, Any]:
    """Finish or undo what a sidecar of a dead job says. {path, action, sentence, result}

    action is `undone` or `finished`. The caller holds the locks of all disks that the
    sidecar names. Raises E_NEEDS_ATTENTION when the files are not as any of our steps
    leaves them.
    """
    work = Replacement.from_sidecar(sidecar)
    # Taking over: the sidecar says so first, so that its old owner is known to be dead.
    work = replace(work, token=work.token + 1)
    journal.write(roots, work.sidecar(sidecar.state))
    if sidecar.state == COMMIT and _may_roll_forward(roots, work):
        result = roll_forward(roots, work)
        ending = steps.and_to_repair(result)
        sentence = f"The {work.kind} was past its commit step and was finished{ending}"
        return steps.told(work.surviving, "finished", sentence) | {"result": result}
    undo(roots, work)
    sentence = f"The {work.kind} was stopped before its commit step; nothing was changed."
    return steps.told(work.surviving, "undone", sentence)


def _may_roll_forward(roots: Roots, work: Replacement) -> bool:
    """True if the name is taken over, or nothing speaks against taking it over now.

    A source that was written since the proof (a machine was started after a crash) makes
    the copy worthless: then all is undone.
    """
    if steps.inode(roots, work.surviving) == work.temp_inode:
        return True
    if steps.inode(roots, work.temp_path) != work.temp_inode:
        return False
    replaced, *others = work.manifest.entries
    return (
        steps.holds(roots, replaced.original, replaced.file)
        or (
            steps.inode(roots, replaced.original) is None
            and steps.holds(roots, replaced.trash, replaced.file)
        )
    ) and all(steps.holds(roots, entry.original, entry.file) for entry in others)


# ---------------------------------------------------------------------- small things


def _pointers(work: Replacement) -> list[Sidecar]:
    return steps.pointers(work.surviving, work.others, job=work.job, token=work.token)


def _remove_sidecars(roots: Roots, work: Replacement) -> None:
    journal.remove(roots, work.sidecar(COPYING))
    for pointer in _pointers(work):
        journal.remove(roots, pointer)


def _help(work: Replacement, state: str) -> str:
    lines = [f"vdadmin: {work.kind}, job {work.job}, on {work.surviving}", ""]
    if state == COPYING:
        lines += [
            "A copy is, or was, being made in the temporary file",
            f"  {work.temp_path}",
            "No disk was changed yet. If no job runs any more: delete that file and this one.",
        ]
    else:
        lines += ["The finished, proven copy takes the place of these files. To finish by hand:"]
        for entry in work.manifest.entries:
            lines.append(f"  move  {entry.original}  to  {entry.trash}")
        lines += [f"  move  {work.temp_path}  to  {work.surviving}"]
        lines += [f"  set the parent path of {path} to {work.surviving}" for path in work.relink]
        lines += ["and delete this file. To undo: move the same files back."]
    lines += ["", "Or run: manage.py disk recover FOLDER", ""]
    return "\n".join(lines)
