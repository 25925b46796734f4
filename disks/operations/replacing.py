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

import contextlib
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from disks.engine import faults
from disks.engine.errors import ImageError
from disks.engine.files import FileIdentity
from disks.operations import copying, durable, journal, locks, rewriting, trash
from disks.operations.fingerprints import Fingerprint
from disks.operations.journal import Sidecar
from disks.operations.paths import Roots, is_internal_name
from disks.operations.progress import Progress

COPYING = "copying"
COMMIT = "commit"
ELSEWHERE = "elsewhere"  # a pointer: the record lies beside another disk

TO_REPAIR = "to_repair"  # in a result: {path, code, message} of disks that refused their new link
_NAMED = 5  # disks in a sentence

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS, errno.EACCES)
# Why the folder of a job's record cannot be looked at, and what to do
_UNSEEN = {
    "E_OUTSIDE_ROOTS": "outside of what this recovery may look at. Recover that folder, with "
    "this one as a root.",
    "E_NOT_FOUND": "and that folder cannot be found. Mount it, or bring it back to that place, "
    "then recover again.",
}
_STORAGE_FAILED = ("E_NOSPC", "E_IO", "E_READ_ONLY", "E_ACCESS", "E_TOO_LARGE")


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
    manifest: trash.Manifest
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
            primary = os.path.normpath(os.path.join(folder, record["trash"]))
            mtime_ns = record["mtime_ns"]
            work = cls(
                kind=str(record["kind"]),
                surviving=sidecar.disk,
                temp_path=os.path.join(folder, os.path.basename(record["temp"])),
                manifest=trash.Manifest.from_stored(record["manifest"], primary),
                job=sidecar.job,
                token=sidecar.token,
                relink=tuple(
                    os.path.normpath(os.path.join(folder, path)) for path in record["relink"]
                ),
                temp_inode=int(record["temp_inode"]),
                mtime_ns=None if mtime_ns is None else int(mtime_ns),
                result=dict(record["result"]),
            )
            # What is removed or moved is believed only if such a job could have written it.
            if (
                work.manifest.entries[0].original != work.surviving
                or not work.manifest.is_believable
                or not is_internal_name(os.path.basename(work.temp_path))
            ):
                raise ValueError("it names files that are no part of such a job")
        except journal.UNREADABLE as error:
            raise ImageError(
                "E_SIDECAR",
                f"The record beside {sidecar.disk} cannot be understood, so nothing is done.",
                file=sidecar.path,
            ) from error
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
        if inode_of(roots, replaced.trash) == replaced.file.inode:
            name = inode_of(roots, replaced.original)
            if name == replaced.file.inode:  # two names of one file, whoever wrote to it since
                durable.unlink(roots, replaced.trash)
            elif name is None:
                durable.rename(roots, replaced.trash, replaced.original, replace=False)
        durable.unlink(roots, work.temp_path, missing_ok=True)
        trash.discard(roots, work.manifest)
        _remove_sidecars(roots, work)


def undo_quietly(roots: Roots, work: Replacement) -> None:
    """As undo(), while another error is on its way: what fails here is left to recovery."""
    with contextlib.suppress(ImageError):
        undo(roots, work)


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
            _set_mtime(roots, work.surviving, work.mtime_ns)
        refused: list[dict[str, Any]] = []
        for child in work.relink:
            progress.step("commit", f"Rewriting the parent link of {child}")
            error = relink_child(roots, child, work.surviving, job=work.job, token=work.token)
            if error is not None:
                message = f"The parent link of {child} could not be rewritten: {error.message}"
                refused.append({"path": child, "code": error.code, "message": message})
                warnings.append(message)
                progress.log(message)
        for entry in work.manifest.entries[1:]:
            put_away(roots, entry)
        with roots.open(work.surviving) as file:
            work.manifest.replaced_by = Fingerprint.of(file)
        relinked = [path for path in work.relink if path not in {row["path"] for row in refused}]
        work.manifest.relinked = relinked  # only these get an old link back by a restore
        work.manifest.state = trash.COMPLETE
        trash.write(roots, work.manifest)
        _remove_sidecars(roots, work)
    done = work.result | {"warnings": warnings}
    if work.relink:
        done["relinked"] = relinked
    return done | ({TO_REPAIR: refused} if refused else {})


def and_to_repair(result: dict[str, Any]) -> str:
    """How a finished job's sentence ends: which disks below it still has to be repaired by hand."""
    rows = result.get(TO_REPAIR) or []
    if not rows:
        return "."
    what = "1 disk" if len(rows) == 1 else f"{len(rows):,} disks"
    more = f" and {len(rows) - _NAMED:,} more" if len(rows) > _NAMED else ""
    names = ", ".join(row["path"] for row in rows[:_NAMED])
    return f", but {what} below must be repaired (update the parent path): {names}{more}."


def _replace(roots: Roots, work: Replacement) -> None:
    """Steps 1 and 2."""
    if inode_of(roots, work.surviving) == work.temp_inode:
        return
    replaced = work.manifest.entries[0]
    name, kept = inode_of(roots, work.surviving), inode_of(roots, replaced.trash)
    if inode_of(roots, work.temp_path) != work.temp_inode or not (
        name == replaced.file.inode or (name is None and kept == replaced.file.inode)
    ):
        raise _attention(work.surviving, "other files than this job's lie under its names")
    if kept is None:
        link_or_move(roots, replaced.original, replaced.trash)
    elif kept != replaced.file.inode:
        raise _attention(replaced.trash, "another file lies in the trash under this name")
    durable.rename(roots, work.temp_path, work.surviving)


def link_or_move(roots: Roots, source: str, target: str) -> None:
    """A second name in the trash, so that the first never goes missing; else a move."""
    try:
        durable.link(roots, source, target)
    except ImageError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in _NO_LINKS:
            raise
        durable.rename(roots, source, target, replace=False)


def put_away(roots: Roots, entry: trash.Entry) -> None:
    if inode_of(roots, entry.trash) == entry.file.inode:
        return
    if inode_of(roots, entry.original) != entry.file.inode:
        raise _attention(entry.original, "another file has this name now")
    durable.rename(roots, entry.original, entry.trash, replace=False)


def relink_child(
    roots: Roots, child: str, parent: str, *, job: str, token: int
) -> ImageError | None:
    """Point one child at the disk that took over. Returns why, if the child refuses that.

    Storage errors are raised: recovery tries again. What the child itself refuses is not
    worth holding the finished merge up for.
    """
    from disks.operations import relink

    try:
        _settle(roots, child, job, token)
        plan = relink.plan(child, parent, roots, job=job)
        relink.apply(plan, roots, offline=True, job=job, token=token)
    except ImageError as error:
        if error.code in _STORAGE_FAILED:
            raise
        return error
    return None


def _settle(roots: Roots, child: str, job: str, token: int) -> None:
    """An earlier attempt of this job may have died in the middle of this link: heal it first.

    Planning on a half written header would fail, or keep the half as what was there before.
    """
    found = journal.of(roots, child, journal.UNDO)
    if found is not None and found.unfinished and found.job == job:
        with locks.hold(roots, [child], job=job, token=token):
            rewriting.recover(roots, found, token=found.token + 1)


def _set_mtime(roots: Roots, path: str, mtime_ns: int) -> None:
    with roots.open(path) as file, copying.in_words(path, "utime"):
        faults.reached("utime", path)
        os.utime(file.fd, ns=(file.stat().st_atime_ns, mtime_ns))


# ---------------------------------------------------------------------- recovery


def recover(sidecar: Sidecar, roots: Roots) -> dict[str, Any]:
    """Finish or undo what a sidecar of a dead job says. {path, action, sentence, result}

    action is `undone` or `finished`. The caller holds the locks of all disks that the
    sidecar names. Raises E_NEEDS_ATTENTION when the files are not as any of our steps
    leaves them, and E_LOCKED while disks in another folder are in other hands.
    """
    if sidecar.state == ELSEWHERE:
        return recover_pointer(sidecar, roots, recover)
    work = Replacement.from_sidecar(sidecar)
    # Taking over: the sidecar says so first, so that its old owner is known to be dead.
    work = replace(work, token=work.token + 1)
    journal.write(roots, work.sidecar(sidecar.state))
    if sidecar.state == COMMIT and _may_roll_forward(roots, work):
        result = roll_forward(roots, work)
        ending = and_to_repair(result)
        sentence = f"The {work.kind} was past its commit step and was finished{ending}"
        return _told(work.surviving, "finished", sentence) | {"result": result}
    undo(roots, work)
    sentence = f"The {work.kind} was stopped before its commit step; nothing was changed."
    return _told(work.surviving, "undone", sentence)


def _may_roll_forward(roots: Roots, work: Replacement) -> bool:
    """True if the name is taken over, or nothing speaks against taking it over now.

    A source that was written since the proof (a machine was started after a crash) makes
    the copy worthless: then all is undone.
    """
    if inode_of(roots, work.surviving) == work.temp_inode:
        return True
    if inode_of(roots, work.temp_path) != work.temp_inode:
        return False
    replaced, *others = work.manifest.entries
    return (
        _holds(roots, replaced.original, replaced.file)
        or (
            inode_of(roots, replaced.original) is None
            and _holds(roots, replaced.trash, replaced.file)
        )
    ) and all(_holds(roots, entry.original, entry.file) for entry in others)


def recover_pointer(
    sidecar: Sidecar, roots: Roots, act: Callable[[Sidecar, Roots], dict[str, Any]]
) -> dict[str, Any]:
    """A sidecar that only says beside which disk the record lies: act on that one."""
    folder = os.path.dirname(sidecar.disk)
    primary = os.path.normpath(os.path.join(folder, str(sidecar.record.get("primary"))))
    try:
        # A missing record says that the job is over only where its folder is there.
        os.close(roots.open_folder(os.path.dirname(primary)))
        there = journal.of(roots, primary, sidecar.kind)
    except ImageError as error:
        if error.code not in _UNSEEN:
            raise
        raise ImageError(
            "E_UNFINISHED",
            f"{sidecar.disk} takes part in a job whose record lies beside {primary}, "
            f"{_UNSEEN[error.code]}",
            file=sidecar.disk,
        ) from error
    if there is not None and there.job == sidecar.job and there.unfinished:
        disks = [there.disk, *there.neighbours]
        with locks.hold(roots, disks, job=there.job, token=there.token + 1):
            return act(there, roots)
    journal.remove(roots, sidecar)
    return _told(sidecar.disk, "finished", "The job that this disk took part in is over.")


def _told(path: str, action: str, sentence: str) -> dict[str, Any]:
    return {"path": path, "action": action, "sentence": sentence}


# ---------------------------------------------------------------------- small things


def _pointers(work: Replacement) -> list[Sidecar]:
    """One sidecar in every other folder whose disks the job touches."""
    home = os.path.dirname(work.surviving)
    by_folder: dict[str, list[str]] = {}
    for path in work.others:
        if os.path.dirname(path) != home:
            by_folder.setdefault(os.path.dirname(path), []).append(path)
    return [
        Sidecar(
            kind=journal.JOB,
            disk=paths[0],
            state=ELSEWHERE,
            job=work.job,
            token=work.token,
            neighbours=tuple(paths[1:]),
            record={"primary": os.path.relpath(work.surviving, folder)},
            help=f"This disk takes part in a job. Its record lies beside {work.surviving}.",
        )
        for folder, paths in by_folder.items()
    ]


def _remove_sidecars(roots: Roots, work: Replacement) -> None:
    journal.remove(roots, work.sidecar(COPYING))
    for pointer in _pointers(work):
        journal.remove(roots, pointer)


def inode_of(roots: Roots, path: str) -> int | None:
    """The inode that has this name; None if the name is free."""
    try:
        return roots.stat(path).st_ino
    except ImageError as error:
        if error.code == "E_NOT_FOUND":
            return None
        raise


def _holds(roots: Roots, path: str, file: FileIdentity) -> bool:
    """Whether path is this very file, unwritten (ctime aside: a new name changes it)."""
    try:
        status = roots.stat(path)
    except ImageError as error:
        if error.code == "E_NOT_FOUND":
            return False
        raise
    return (status.st_ino, status.st_size, status.st_mtime_ns) == (
        file.inode,
        file.size_bytes,
        file.mtime_ns,
    )


def _attention(path: str, why: str) -> ImageError:
    return ImageError(
        "E_NEEDS_ATTENTION",
        f"The interrupted job on {path} is neither finished nor undone, because {why}. "
        "Nothing was written. Look at the files that the sidecar names.",
        file=path,
    )


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
