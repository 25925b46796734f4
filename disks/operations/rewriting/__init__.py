"""A header rewrite that a crash cannot leave half done (crash-safety §1).

The sidecar with every page before and after is durable before the first byte changes.
An error puts the old pages back at once; a crash leaves the sidecar, and `recovery` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from disks.engine import faults
from disks.engine.changes import HeaderRewrite, Write
from disks.engine.errors import ImageError
from disks.engine.files import FileIdentity
from disks.engine.formats import open_image
from disks.engine.images import Image
from disks.operations import fingerprints, journal
from disks.operations.journal import UNDO, Sidecar
from disks.operations.modification_times import set_mtime
from disks.operations.pages import changed_writes
from disks.operations.paths import Roots
from disks.operations.progress import Lost, Progress
from disks.operations.rewriting.kinds import LINK, help_text
from disks.operations.rewriting.records import finished, link_of, previous_of, without_pages
from disks.operations.rewriting.recovery import roll_back
from disks.operations.rewriting.writing import write_steps
from disks.operations.rollback import quietly
from disks.operations.windows import shown

PREPARED = "prepared"


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done to one header.

    build       the rewrite, computed on the freshly opened image
    check       called after the writes with the reopened image; raising undoes everything
    about       LINK; with any other the link stays, and nothing is kept to take it back with
    keep_mtime  put the modification time back: a child stores exactly that one
    is_undo     the change takes an earlier one back
    neighbours  other disks that this concerns
    progress    told while room is filled; Cancelled out of it takes everything back
    """

    build: Callable[[Image], HeaderRewrite]
    check: Callable[[Image], None]
    about: str = LINK
    keep_mtime: bool = False
    is_undo: bool = False
    neighbours: tuple[str, ...] = ()
    progress: Progress = field(default_factory=Progress)


def rewrite(
    roots: Roots,
    path: str,
    change: Change,
    *,
    expected: FileIdentity,
    job: str = "",
    token: int = 0,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Change the header of a disk that the caller has locked; returns both recorded links.

    expected: the file as it was when the plan was checked. On any error the file is put
    back as it was and the error raised; if even that fails, the sidecar stays for recovery.
    """
    previous = previous_of(roots, path)
    with roots.open(path, writable=True) as file:
        if file.identity() != expected:
            raise fingerprints.changed(path)
        image = open_image(file)
        before = link_of(image)
        planned = change.build(image)
        steps, pages = changed_writes(file, planned)
        if not steps and planned.size_after_bytes >= file.size_bytes:
            return before, before
        logged = planned.logged_step is not None
        if logged:
            pages = [page for page in pages if page.step == planned.logged_step]
        sidecar = Sidecar(
            UNDO,
            path,
            PREPARED,
            job=job,
            token=token or (previous.token + 1 if previous else 1),
            neighbours=change.neighbours,
            help=help_text(path, change.about, logged=logged),
            record={
                "about": change.about,
                "pages": [page.as_dict() for page in pages],
                "size_before": file.size_bytes,
                "size_after": planned.size_after_bytes,
                "logged": logged,
                "file": expected.as_dict(),
                "identity": image.identity,
                "identities": [image.identity, planned.identity_after or image.identity],
                "keep_mtime": change.keep_mtime,
                "is_undo": change.is_undo,
                "visible_step": planned.visible_step,
                "visible": _visible(planned),
                "entry_bytes": planned.entry_bytes,
                "link_before": before,
                "link_after": None,
                "previous": without_pages(previous),
            },
        )
        with faults.stage(f"{change.about}.sidecar"):
            journal.write(roots, sidecar)
        try:
            with faults.stage(f"{change.about}.header"):
                write_steps(file, steps, planned.size_after_bytes, change.progress)
                if planned.size_after_bytes < file.size_bytes:
                    file.truncate(planned.size_after_bytes)
                    file.sync()
            after = _check(roots, path, change)
            if change.keep_mtime:
                set_mtime(file, expected.mtime_ns)
        except Lost:
            raise  # whose it is now finds the sidecar
        except BaseException as error:
            with faults.stage(f"{change.about}.rollback"):
                # Killed here, recovery does the same.
                taken_back = quietly(lambda: roll_back(roots, sidecar, file), path)
            if isinstance(error, Unverified):
                raise error.with_outcome(taken_back=taken_back, logged=logged) from error
            raise
    with faults.stage(f"{change.about}.done"):
        finished(roots, sidecar, after)
    return before, after


def _visible(planned: HeaderRewrite) -> list[tuple[int, int]]:
    """Where the step writes that makes the change visible: (offset, length) within one page."""
    if planned.visible_step is None:
        return []
    step = planned.steps[planned.visible_step]
    return [(piece.offset, len(piece.data)) for piece in step if isinstance(piece, Write)]


class Unverified(ImageError):
    """E_VERIFY, raised by the check of a change; rewrite() adds what became of the change."""

    def with_outcome(self, *, taken_back: bool, logged: bool) -> ImageError:
        if taken_back:
            outcome = "The change was taken back."
        elif logged:
            outcome = (
                "The change went through the disk's own log, and is there: recovery completes "
                "it and does not take it back. Check the disk before anybody uses it."
            )
        else:
            outcome = "It could not be taken back; recovery does that."
        return ImageError(self.code, f"{self.message} {outcome}", file=self.file)


def unverified(path: str, why: str) -> Unverified:
    return Unverified(
        "E_VERIFY", f"After the change {shown(path)} was opened again, and {why}.", file=path
    )


def _check(roots: Roots, path: str, change: Change) -> dict[str, Any]:
    """Open the disk again as anybody would, and let the caller judge it."""
    with roots.open(path) as file:
        image = open_image(file)
        change.check(image)
        return link_of(image)
