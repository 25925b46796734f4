"""Which other disks a merge concerns: those it would ruin, and those that must follow it.

Other children of a merged disk (siblings) would read wrong data, so they refuse the merge.
What cannot be read may be one of them: a person has to say that it is not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from disks.engine.chain import Chain
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.formats import open_image
from disks.engine.images import Image
from disks.operations import family, journal, link_changes
from disks.operations.family import ChildrenOf
from disks.operations.fingerprints import Fingerprint
from disks.operations.link_changes import LinkChange
from disks.operations.merge_plan import MergePlan
from disks.operations.paths import Roots
from disks.operations.progress import Progress


@dataclass(frozen=True, slots=True)
class Known:
    """Where to look for other children; see `merge.plan`."""

    children_of: ChildrenOf | None
    suspects: Iterable[str] = ()
    scan: bool = True

    @property
    def anything(self) -> bool:
        return self.scan or self.children_of is not None


def find(
    result: MergePlan,
    chain: Chain,
    last: int,
    roots: Roots,
    known: Known,
    progress: Progress | None,
) -> None:
    """Fill in siblings (ruined), grandchildren, and which of these need a new path."""
    parents = {chain.paths[index]: chain.images[index].identity for index in range(last + 1)}
    found = family.look(
        roots,
        parents,
        children_of=known.children_of,
        suspects=known.suspects,
        scan=known.scan,
        progress=progress,
    )
    for index in range(1, last + 1):
        child = chain.paths[index - 1]
        others = found.of(chain.paths[index])
        result.siblings += [path for path in others if not family.same_name(roots, path, child)]
    leaf = chain.paths[0]
    result.grandchildren = found.of(leaf)
    if result.output != leaf:
        result.relink = list(result.grandchildren)
    for path in result.grandchildren:
        with roots.open(path) as file:
            if path in result.relink:
                new_link(
                    file, result.output, chain.images[0], roots, instead="keep the child's name"
                )
            with contextlib.suppress(ImageError):  # damaged, and left as it is
                result.fingerprints[path] = Fingerprint.of(file)
    result.unread = found.unread


def new_link(
    file: ImageFile, output: str, parent: Image, roots: Roots, *, instead: str
) -> LinkChange | None:
    """What the parent link of a child (file) becomes when its parent lies at output.

    None if it leads there already. Raises now what would keep it from being written later.
    instead: the way out without that, in words.
    """
    path = file.path
    roots.require_writable(path)
    child = open_image(file)
    if child.write_refusal is not None:
        raise child.write_refusal
    if file.stat().st_nlink > 1:
        raise ImageError(
            "E_HARD_LINKS",
            f"{path} needs a new parent path, but it has another name too (hard link), under "
            "which it would change unseen.",
            advice=f"Make a copy of its own first, or {instead}.",
            file=path,
        )
    if not roots.may_write(path):
        raise ImageError(
            "E_ACCESS",
            f"{path} needs a new parent path, but this service may not write to it.",
            advice=f"Give it the right to (and take the immutable attribute away), or {instead}.",
            file=path,
        )
    if roots.windows_path(output) is None and roots.relative_windows_path(path, output) is None:
        raise ImageError(
            "E_NO_WINDOWS_PATH",
            f"Windows would not find {output} from {path}: it is not known how Windows names the "
            "folder.",
            advice=f"Give its storage root a Windows view, or {instead}.",
            file=path,
        )
    journal.require_nameable(roots, path, instead=instead)
    return link_changes.plan(roots, child, parent, disk=path, parent_path=output)


class UnreadDisks(ImageError):
    """E_UNREAD_DISKS; paths are all of the files and folders that it is about."""

    paths: list[str]


def require_unrelated(plan: MergePlan, unrelated: Collection[str]) -> None:
    """Raises UnreadDisks for what could not be read and is not declared to be no sibling.

    What cannot be read may build on a disk that is merged; nobody would notice before the
    trash is emptied and its content is gone for good.
    """
    open_questions = [path for path in sorted(plan.unread) if not _covered(path, unrelated)]
    if not open_questions:
        return
    first = plan.unread[open_questions[0]]
    error = UnreadDisks(
        "E_UNREAD_DISKS",
        f"{family.listed(open_questions)} cannot be read, so nobody knows whether it builds on a "
        f"disk that would be merged, and would be ruined. What is wrong with it: {first.message}",
        advice="Make it readable, or move it out of the storage roots; or declare that it does "
        "not; or merge to a new disk, which leaves every existing file as it is.",
        file=open_questions[0],
    )
    error.paths = open_questions
    raise error


def _covered(path: str, declared: Collection[str]) -> bool:
    return any(path == one or path.startswith(one.rstrip("/") + "/") for one in declared)


def ruined(result: MergePlan) -> ImageError:
    return ImageError(
        "E_SIBLINGS",
        "Other disks depend on a disk that would change, and would be ruined: "
        f"{family.listed(result.siblings)}.",
        file=result.output,
        field="children",
        value=len(result.siblings),
    )
