"""Before the first batch: base gets a fresh identity, and the disk above it is told.

A forgotten child of base fails loudly from then on, instead of reading wrong data. Each header
changes by a journalled rewrite of its own; the merge's sidecar, which is there before the first
and says what was before, makes one change of them: all of it, or taken back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from disks.engine import faults
from disks.engine.chain import Chain, open_chain
from disks.engine.changes import Expansion, HeaderRewrite
from disks.engine.errors import ImageError
from disks.engine.files import is_of_the_storage
from disks.engine.formats import open_image
from disks.engine.images import Image
from disks.operations import durable, fingerprints, journal, rewriting, rules, steps, trash
from disks.operations.merge_in_place import batches, old_pages
from disks.operations.merge_in_place.work import MERGING, Work, pointers, write
from disks.operations.paths import Roots
from disks.operations.progress import Cancelled, Progress
from disks.operations.rewriting import kinds, recovery
from disks.operations.windows import shown


def begin(roots: Roots, work: Work, journal_pages: int, progress: Progress) -> Work:
    """Carry the step out; the work that goes on is returned.

    journal_pages: how many old pages of one batch there is room for. An error, and Cancelled
    out of progress, leave it to take_back().
    """
    progress.report(0, 0)  # the last moment at which every file is as it was
    with faults.stage("merge.begin"):
        for pointer in pointers(work):
            journal.write(roots, pointer)
        write(roots, work)
        trash.prepare(roots, work.manifest)
        old_pages.create(roots, work.pages_path, journal_pages, disk=work.base)
        _require_as_planned(roots, work)
        _change_identity(roots, work, work.identity)
        _grow(roots, work)
        _tell(roots, work)
        seen = batches.seen(roots, work.levels)
        _ask_for_the_last_time(progress)
        work = replace(work, state=MERGING, seen=seen)
        write(roots, work)
    return work


def _ask_for_the_last_time(progress: Progress) -> None:
    """Cancelled if it shall stop for good: from here on it could only be paused."""
    try:
        progress.report(0, 0)
    except Cancelled as asked:
        if not asked.goes_on_later:
            raise


def take_back(roots: Roots, work: Work) -> str:
    """Everything as it was before begin(), except that a base that has grown stays so.

    What we have written is known by the new identity, which nobody else can know; a file that
    has nothing of it is left as it is, whatever its name. Returns what there is to say of such.
    """
    with faults.stage("merge.undo"):
        for path in (work.base, work.above):
            settle(roots, path)
        told = ""
        if _identity_of(roots, work, work.base) == work.identity:
            _change_identity(roots, work, work.old_identity)
        elif not _is_ours(roots, work, work.base):
            told += _told_of(roots, work, work.base)
        if _parent_identity_of(roots, work, work.above) == work.identity:
            rewrite(
                roots,
                work,
                work.above,
                kinds.IDENTITY,
                lambda image: image.plan_recorded_link(work.old_link),
            )
        elif not _is_ours(roots, work, work.above):
            told += _told_of(roots, work, work.above)
        trash.discard(roots, work.manifest)
        remove_records(roots, work)
    return told


def _told_of(roots: Roots, work: Work, stranger: str) -> str:
    """What is said of a name that is not that of the file which the merge began with any more."""
    found = "another file" if roots.exists(stranger) else "no file"
    return (
        f" But {found} is called {shown(stranger)} now; that is left so. Should the one come back "
        f"with which the merge began, it may know the parent as {work.identity} instead of "
        f"{work.old_identity}: update the parent path of {shown(work.above)} then."
    )


def _require_as_planned(roots: Roots, work: Work) -> None:
    """E_CHANGED, before any disk is written, if one of them is not the planned file any more."""
    for entry in work.manifest.entries:
        fingerprints.require_same_file(roots, entry.original, entry.file)
    if not _is_ours(roots, work, work.base):
        raise fingerprints.changed(work.base, "was replaced by another file")


def _is_ours(roots: Roots, work: Work, path: str) -> bool:
    return steps.inode(roots, path) == work.inodes[[*work.levels, work.base].index(path)]


def remove_records(roots: Roots, work: Work) -> None:
    """The merge is over; its own sidecar goes last."""
    durable.unlink(roots, work.pages_path, missing_ok=True)
    for pointer in pointers(work):
        journal.remove(roots, pointer)
    journal.remove(roots, work.sidecar())


def settle(roots: Roots, path: str) -> None:
    """A rewrite of one header that died halfway is finished or undone; we hold the lock."""
    found = journal.of(roots, path, journal.UNDO)
    if found is not None and found.unfinished:
        recovery.recover(roots, found, token=found.token + 1)


def rewrite(
    roots: Roots,
    work: Work,
    path: str,
    about: str,
    build: Callable[[Image], HeaderRewrite],
    check: Callable[[Image], None] = lambda image: None,
) -> None:
    """One journalled change of a header, of the file as it is now."""
    with roots.open(path) as file:
        expected = file.identity()
    change = rewriting.Change(build=build, check=check, about=about)
    rewriting.rewrite(roots, path, change, expected=expected, job=work.job, token=work.token)


def follow_size(roots: Roots, work: Work) -> Work:
    """Base grows with a leaf that was made larger while the merge was stopped; it is consistent.

    E_PARENT_SIZE with nothing written where a larger ancestor would show. Killed here, the next
    attempt does the rest.
    """
    with roots.open(work.leaf) as file:
        size = open_image(file).virtual_size_bytes
    if size <= work.size_bytes:
        return work
    with open_chain(work.base, roots) as chain:
        _require_small_ancestors(chain, size)
    work = replace(work, size_bytes=size, result=work.result | {"virtual_size_bytes": size})
    with faults.stage("merge.prepare"):
        _grow(roots, work)
        write(roots, work)
    return work


def _require_small_ancestors(chain: Chain, size_bytes: int) -> None:
    base = chain.images[0].virtual_size_bytes
    larger = rules.larger_ancestor(chain.paths, chain.images)
    if base < size_bytes and larger is not None:
        path, ancestor = larger
        raise ImageError(
            "E_PARENT_SIZE",
            f"The leaf was made larger while the merge was stopped, but {shown(path)} is "
            f"larger than {shown(chain.paths[0])}: what that holds behind its end would become "
            "visible, instead of zeros.",
            advice=f"Make the leaf as small as it was, {base:,} bytes at most, then go on with "
            "the merge.",
            file=chain.paths[0],
            field="current_size",
            value=ancestor.virtual_size_bytes,
        )


def _grow(roots: Roots, work: Work) -> None:
    """Where the leaf is larger, base becomes as large; the grown area reads as zeros.

    Its identity stays the one that it got for the merge: nobody but the disk above knows it.
    """

    def planned(image: Image) -> Expansion:
        return image.plan_expand(work.size_bytes, keeps_identity=True)

    while True:
        with roots.open(work.base) as file:
            image = open_image(file)
            if image.virtual_size_bytes >= work.size_bytes:
                return
            makes_room = planned(image).makes_room
        rewrite(
            roots,
            work,
            work.base,
            kinds.MAKE_ROOM if makes_room else kinds.EXPAND,
            lambda image: planned(image).rewrite,
        )


def _tell(roots: Roots, work: Work) -> None:
    rewrite(
        roots,
        work,
        work.above,
        kinds.IDENTITY,
        lambda image: image.plan_parent_identity(work.identity),
        lambda image: _require_told(image, work.identity),
    )


def _require_told(image: Image, identity: str) -> None:
    if image.parent is None or image.parent.identity != identity:
        raise rewriting.unverified(image.file.path, "it expects another parent")


def _change_identity(roots: Roots, work: Work, identity: str) -> None:
    rewrite(
        roots,
        work,
        work.base,
        kinds.IDENTITY,
        lambda image: image.plan_identity(identity),
    )


def _identity_of(roots: Roots, work: Work, path: str) -> str | None:
    return _seen(roots, work, path, lambda image: image.identity)


def _parent_identity_of(roots: Roots, work: Work, path: str) -> str | None:
    return _seen(roots, work, path, lambda image: image.parent.identity if image.parent else None)


def _seen(roots: Roots, work: Work, path: str, look: Callable[[Image], str | None]) -> str | None:
    """What the disk of a name says; None if that is no disk, which ours is."""
    try:
        with roots.open(path) as file:
            return look(open_image(file))
    except ImageError as error:
        if is_of_the_storage(error) or _is_ours(roots, work, path):
            raise
        return None
