"""When everything is moved: the face, the names, the links; each step recognises itself."""

from __future__ import annotations

import os
from typing import Any

from disks.engine import faults
from disks.engine.formats import open_image
from disks.engine.images import Image
from disks.operations import durable, journal, rewriting, steps
from disks.operations.fingerprints import Fingerprint
from disks.operations.merge_in_place import refusals
from disks.operations.merge_in_place.step_zero import remove_records, rewrite, settle
from disks.operations.merge_in_place.work import Work
from disks.operations.paths import Roots
from disks.operations.progress import Cancelled, Progress
from disks.operations.rewriting import kinds
from disks.operations.trash import manifests
from disks.operations.windows import shown


def finish(roots: Roots, work: Work, progress: Progress) -> dict[str, Any]:
    """Roll forward from wherever it stands; may be repeated. Returns the result.

    Raises E_NEEDS_ATTENTION with nothing written when other files have these names; storage
    errors leave the sidecar for the next attempt.
    """
    try:
        progress.commit_starts()
    except Cancelled:
        progress = Progress()  # it ends all the same: a few headers and names are left
    progress.step("commit", f"Putting {os.path.basename(work.surviving)} in place")
    with faults.stage("merge.end"):
        _take_face(roots, work)
        leaf, *others = work.manifest.entries
        if work.surviving == work.base:
            others = [leaf, *others]
        else:
            _take_name(roots, work, leaf)
        warnings = list(work.result.get("warnings", []))
        links = [(child, work.surviving) for child in work.relink]
        if work.base_parent and os.path.dirname(work.surviving) != os.path.dirname(work.base):
            links.insert(0, (work.surviving, work.base_parent))
        refused = steps.point_each(
            roots,
            links,
            job=work.job,
            token=work.token,
            progress=progress,
            warnings=warnings,
        )
        for entry in others:
            steps.put_away(roots, entry)
        with roots.open(work.surviving) as file:
            work.manifest.replaced_by = Fingerprint.of(file)
            size = file.size_bytes
        relinked = [path for path in work.relink if path not in {row["path"] for row in refused}]
        work.manifest.relinked = relinked
        work.manifest.state = manifests.COMPLETE
        manifests.write(roots, work.manifest)
        remove_records(roots, work)
    done = work.result | {
        "file_size_after_bytes": size,
        "trash": work.manifest.primary,
        "warnings": warnings,
        "relinked": relinked,
    }
    return done | ({steps.TO_REPAIR: refused} if refused else {})


def has_begun(roots: Roots, work: Work) -> bool:
    """Whether base is getting the leaf's face, or a name has changed, of a merge that is ending.

    From then on the leaf cannot be read until the end.
    """
    if steps.inode(roots, work.base) != work.inodes[-1]:
        return True
    rewritten = journal.of(roots, work.base, journal.UNDO)
    if rewritten is not None and rewritten.unfinished:
        return True
    with roots.open(work.base) as file:
        return open_image(file).identity != work.identity


def _take_face(roots: Roots, work: Work) -> None:
    """base says all that the leaf said of itself; it is that disk from here on."""
    if steps.inode(roots, work.base) != work.inodes[-1]:
        if steps.inode(roots, work.surviving) == work.inodes[-1]:
            return  # it has taken the leaf's name already, and before that its face
        raise refusals.another_file(work.base)
    settle(roots, work.base)
    leaf = work.manifest.entries[0]
    kept = steps.inode(roots, leaf.trash) == work.inodes[0]
    with roots.open(leaf.trash if kept else work.leaf) as leaf_file:
        if leaf_file.stat().st_ino != work.inodes[0]:
            raise refusals.another_file(work.leaf)
        theirs = open_image(leaf_file)
        with roots.open(work.base) as file:
            if open_image(file).identity == theirs.identity:
                return
        rewrite(
            roots,
            work,
            work.base,
            kinds.FACE,
            lambda image: image.plan_face(theirs),
            lambda image: _require_face(image, theirs),
        )


def _require_face(image: Image, theirs: Image) -> None:
    if image.identity != theirs.identity:
        raise rewriting.unverified(image.file.path, "it has another identity")
    if image.virtual_size_bytes != theirs.virtual_size_bytes:
        raise rewriting.unverified(image.file.path, "it has another size")


def _take_name(roots: Roots, work: Work, leaf: manifests.Entry) -> None:
    """The leaf gets a second name in the trash, so that its own never goes missing."""
    if steps.inode(roots, work.surviving) == work.inodes[-1]:
        return
    kept = steps.inode(roots, leaf.trash)
    if kept is None:
        steps.link_or_move(roots, leaf.original, leaf.trash)
    elif kept != leaf.file.inode:
        raise refusals.attention(
            leaf.original,
            f"another file lies in its place in the trash, {shown(leaf.trash)}",
            "Move that file elsewhere, then go on with the merge.",
        )
    durable.rename(roots, work.base, work.surviving)
