"""Before the first batch: base gets a fresh identity, and the disk above it is told.

A forgotten child of base fails loudly from then on, instead of reading wrong data. Each header
changes by a journalled rewrite of its own; the merge's sidecar, which is there before the first
and says what was before, makes one change of them: all of it, or taken back.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace

from disks.engine import faults
from disks.engine.chain import Chain, open_chain
from disks.engine.errors import ImageError
from disks.engine.formats import open_image
from disks.engine.images import Expansion, HeaderRewrite, Image
from disks.operations import durable, fingerprints, journal, rewriting, rules, steps, trash
from disks.operations.merge_in_place import batches, old_pages
from disks.operations.merge_in_place.work import MERGING, Work, pointers, write
from disks.operations.paths import Roots
from disks.operations.progress import Progress
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
        old_pages.create(roots, work.pages_path, journal_pages)
        _require_as_planned(roots, work)
        fresh = str(uuid.uuid4())
        rewrite(roots, work, work.base, rewriting.IDENTITY, lambda i: i.plan_identity(fresh))
        _grow(roots, work)
        identity = _identity_of(roots, work.base)
        _tell(roots, work, identity)
        seen = batches.seen(roots, work.levels)
        work = replace(work, state=MERGING, identity=identity, seen=seen)
        write(roots, work)
    return work


def take_back(roots: Roots, work: Work) -> None:
    """Everything as it was before begin(), except that a base that has grown stays so."""
    with faults.stage("merge.undo"):
        for path in (work.base, work.above):
            settle(roots, path)
        if _identity_of(roots, work.base) != work.old_identity:
            if not _is_ours(roots, work, work.base):
                raise rewriting.attention(work.base, "another file has its name now")
            rewrite(
                roots,
                work,
                work.base,
                rewriting.IDENTITY,
                lambda image: image.plan_identity(work.old_identity),
            )
        with roots.open(work.above) as file:
            is_as_before = open_image(file).recorded_link() == work.old_link
        # A stranger's link is none of ours, whatever it says.
        if not is_as_before and _is_ours(roots, work, work.above):
            rewrite(
                roots,
                work,
                work.above,
                rewriting.IDENTITY,
                lambda image: image.plan_recorded_link(work.old_link),
            )
        trash.discard(roots, work.manifest)
        remove_records(roots, work)


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
        rewriting.recover(roots, found, token=found.token + 1)


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

    Its identity stays, for nobody but the disk above knows it. E_PARENT_SIZE with nothing
    written where a larger ancestor would show. Killed here, the next attempt does the rest.
    """
    with roots.open(work.leaf) as file:
        size = open_image(file).virtual_size_bytes
    if size <= work.size_bytes:
        return work
    with open_chain(work.base, roots) as chain:
        _require_small_ancestors(chain, size)
    work = replace(work, size_bytes=size, result=work.result | {"virtual_size_bytes": size})
    with faults.stage("merge.prepare"):
        _grow(roots, work, keeps_identity=True)
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
            f"visible, instead of zeros. Make the leaf as small as it was, {base:,} bytes at "
            "most, then go on with the merge.",
            file=chain.paths[0],
            field="current_size",
            value=ancestor.virtual_size_bytes,
        )


def _grow(roots: Roots, work: Work, *, keeps_identity: bool = False) -> None:
    """Where the leaf is larger, base becomes as large; the grown area reads as zeros."""

    def planned(image: Image) -> Expansion:
        return image.plan_expand(work.size_bytes, keeps_identity=keeps_identity)

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
            rewriting.MAKE_ROOM if makes_room else rewriting.EXPAND,
            lambda image: planned(image).rewrite,
        )


def _tell(roots: Roots, work: Work, identity: str) -> None:
    rewrite(
        roots,
        work,
        work.above,
        rewriting.IDENTITY,
        lambda image: image.plan_parent_identity(identity),
        lambda image: _require_told(image, identity),
    )


def _require_told(image: Image, identity: str) -> None:
    if image.parent is None or image.parent.identity != identity:
        raise rewriting.unverified(image.file.path, "it expects another parent")


def _identity_of(roots: Roots, path: str) -> str:
    with roots.open(path) as file:
        return open_image(file).identity
