"""Who would lose the parent if a job were taken back: disks made on its result since.

A merge that keeps the parent's name gives that file the identity of the leaf. Restored, the
file has its old identity again, and a child made on the result meanwhile finds another disk
under the name that it stores. A compaction keeps the identity: nobody loses anything then.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from disks.engine.errors import ImageError
from disks.engine.formats import open_image
from disks.engine.resolution import resolve
from disks.engine.resolution.outcome import Resolution, Status
from disks.operations import family
from disks.operations.family import ChildrenOf
from disks.operations.paths import Roots
from disks.operations.progress import Progress
from disks.operations.trash.manifests import Manifest


@dataclass
class Bereft:
    """children would lose their parent; unread may be among them, and could not be judged."""

    replacement: str
    children: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    @property
    def refusal(self) -> ImageError | None:
        """E_RESTORE_CHILDREN, naming them and the way out; None if there are none."""
        if not self.children:
            return None
        return ImageError(
            "E_RESTORE_CHILDREN",
            f"{family.listed(self.children)} got {self.replacement} as parent after the job, and "
            "would lose it: what is restored under that name is another disk.",
            file=self.replacement,
            field="children",
            value=self.children[: family.NAMED],
        )

    @property
    def warnings(self) -> list[str]:
        if not self.unread:
            return []
        return [
            f"{len(self.unread)} files could not be read, so it is not known whether they need "
            f"the job's result: {family.listed(self.unread)}."
        ]


def look(
    roots: Roots,
    manifest: Manifest,
    *,
    children_of: ChildrenOf | None = None,
    scan: bool = True,
    progress: Progress | None = None,
) -> Bereft:
    """Find them. The disks that the job itself relinked get their old link back: they do not count.

    children_of, scan, progress: as in family.look(). Raises Cancelled out of progress.
    """
    found = Bereft(manifest.replacement)
    identity = _lost_identity(roots, manifest)
    if not identity:
        return found
    hanging = family.look(
        roots,
        {manifest.replacement: identity},
        children_of=children_of,
        scan=scan,
        progress=progress,
    )
    coming_back = {e.original for e in manifest.entries if e.identity == identity}
    found.unread = sorted(hanging.unread)
    found.children = [
        child
        for child in hanging.of(manifest.replacement)
        if child not in manifest.relinked
        and _loses(roots, child, manifest.replacement, coming_back)
    ]
    return found


def _lost_identity(roots: Roots, manifest: Manifest) -> str:
    """The identity that nobody finds under the replacement's name afterwards; "" if none."""
    replaced = next((e for e in manifest.entries if e.original == manifest.replacement), None)
    if replaced is None:
        return ""
    try:
        with roots.open(manifest.replacement) as file:
            identity = open_image(file).identity
    except ImageError as error:
        if error.code == "E_NOT_FOUND":
            return ""
        raise
    return "" if identity == replaced.identity else identity


def _loses(roots: Roots, child: str, replacement: str, coming_back: set[str]) -> bool:
    """Whether child finds its parent in the replacement now, and nowhere afterwards.

    A copy of an old child that names a file which comes back gains by the restore.
    """
    try:
        with roots.open(child) as file:
            image = open_image(file)
            if image.parent is None:
                return False
            resolution = resolve(image, child, roots)
    except ImageError as error:
        return error.code != "E_NOT_FOUND"
    if resolution.status is not Status.FOUND or resolution.path is None:
        return False
    return family.same_name(roots, resolution.path, replacement) and not _names(
        resolution, coming_back
    )


def _names(resolution: Resolution, paths: set[str]) -> bool:
    """Whether the header itself leads to one of these, as soon as it exists."""
    return any(
        step.candidate in paths and step.source not in ("beside", "identity")
        for step in resolution.trace
    )
