"""May one disk be the parent of another: what refuses it, and what a person should know first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime

from disks.engine.chain import walk
from disks.engine.check import check_link
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.findings import Finding, Level
from disks.engine.formats import open_image
from disks.engine.images import DiskType, Image
from disks.engine.resolution.outcome import Status
from disks.operations import guards
from disks.operations.paths import Roots
from disks.operations.windows import shown


def differencing(file: ImageFile) -> Image:
    """The child, if its header may be rewritten. Raises E_NOT_DIFFERENCING and other refusals."""
    image = open_image(file)
    if image.disk_type is not DiskType.DIFFERENCING:
        raise ImageError(
            "E_NOT_DIFFERENCING",
            f"{shown(file.path)} is a {image.disk_type} disk; only differencing disks have a "
            "parent.",
            file=file.path,
            field="disk_type",
            value=str(image.disk_type),
        )
    if image.write_refusal is not None:
        raise image.write_refusal
    guards.require_one_name(file)
    return image


def parent_image(file: ImageFile) -> Image:
    """The parent, if a child can tell it from other disks; E_IDENTITY."""
    image = open_image(file)
    plain = image.identity.replace("-", "")
    if set(plain) in ({"0"}, {"f"}):
        raise ImageError(
            "E_IDENTITY",
            f"{shown(file.path)} has no identity ({image.identity}), so no child could tell it "
            "from other disks. It cannot be a parent.",
            file=file.path,
            field="identity",
            value=image.identity,
        )
    return image


def refuse_itself(
    child_file: ImageFile, parent_file: ImageFile, child: Image, parent: Image
) -> None:
    """E_CYCLE: by the file or by its identity the two are one disk."""
    mine, theirs = child_file.stat(), parent_file.stat()
    if (mine.st_dev, mine.st_ino) == (theirs.st_dev, theirs.st_ino) or (
        child.identity == parent.identity
    ):
        raise _cycle(
            child_file.path,
            f"{shown(parent_file.path)} is the disk itself or a copy of it; no disk can be its "
            "own parent.",
        )


def refuse_mismatch(
    child: Image, parent: Image, path: str, *, ignore_identity: bool
) -> list[Finding]:
    """Warnings about the pair; the first error is raised."""
    kept = []
    for finding in check_link(child, parent):
        if finding.code == "E_PARENT_IDENTITY" and ignore_identity:
            continue
        if finding.code == "E_PARENT_IDENTITY":
            message = (
                f"{finding.message} Its content would be mixed with that of another disk. "
                "Choose the disk that it was made from."
            )
            if _of_one_chain(child, parent):
                message = (
                    f"{finding.message} By its virtual disk id it is of this disk's own chain: "
                    "most likely the parent itself, written after this disk was made, or an older "
                    "copy of it. Choose the parent as it was then, from a backup."
                )
            raise ImageError(
                finding.code, message, file=path, field="parent_identity", value=finding.value
            )
        if finding.level is Level.ERROR:
            raise ImageError(
                finding.code, finding.message, file=path, field=finding.field, value=finding.value
            )
        if finding.code != "N_PARENT_TIMESTAMP":  # the rewrite renews it
            kept.append(finding)
    return kept


def ancestors_of(
    parent: str, child_file: ImageFile, child: Image, roots: Roots
) -> tuple[list[str], Finding | None]:
    """The parent's own chain, and what is wrong with it. E_CYCLE if the child is in it."""
    mine = child_file.stat()
    paths: list[str] = []
    broken: Finding | None = None
    for link in walk(parent, roots):
        if link.error is not None:
            broken = _broken_above(link.path, link.error.message)
            if link.error.code == "E_CYCLE":
                raise _cycle(child_file.path, link.error.message)
            break
        if link.image is None:
            break
        theirs = link.image.file.stat()
        named = link.image.parent.identity if link.image.parent else ""
        if (mine.st_dev, mine.st_ino) == (theirs.st_dev, theirs.st_ino) or (
            child.identity in (link.image.identity, named)
        ):
            raise _cycle(
                child_file.path,
                f"{shown(parent)} builds on {shown(child_file.path)} itself (through "
                f"{shown(link.path)}), so it cannot be its parent.",
            )
        paths.append(link.path)
        if link.resolution is not None and link.resolution.status is not Status.FOUND:
            broken = _broken_above(link.path, link.resolution.reason)
    return paths, broken


def _broken_above(path: str, why: str) -> Finding:
    return Finding(
        Level.WARNING,
        "W_CHAIN_BROKEN_ABOVE",
        f"The chain stays broken above {shown(path)}: {why}",
        "parent",
        None,
        path,
    )


def _cycle(path: str, why: str) -> ImageError:
    return ImageError("E_CYCLE", why, file=path, field="parent")


def warnings_of(
    child_file: ImageFile, parent_file: ImageFile, parent: str, image: Image, roots: Roots
) -> Iterator[Finding]:
    """Fresh writes, other names of the parent's file, copies of the parent."""
    yield from guards.recent_write(roots, child_file)
    links = parent_file.stat().st_nlink
    if links > 1:
        yield Finding(
            Level.WARNING,
            "W_HARD_LINKS",
            f"The parent has {links} names (hard links): who writes to it under another name "
            "changes what this disk reads.",
            "links",
            None,
            links,
        )
    twins = [path for path in roots.find_identity(image.identity) if path != parent]
    for twin in twins[:5]:
        with contextlib.suppress(ImageError):
            written = datetime.fromtimestamp(roots.stat(twin).st_mtime, UTC)
            yield Finding(
                Level.WARNING,
                "W_PARENT_TWIN",
                f"{shown(twin)}, last written {written:%Y-%m-%d %H:%M} UTC, has the same identity. "
                "The same disk by its identity; which of the copies has the right content is not "
                "proven.",
                "parent",
                None,
                twin,
            )


def _of_one_chain(child: Image, parent: Image) -> bool:
    """Whether a disk of another identity is one of the child's chain all the same."""
    return child.virtual_disk_id is not None and child.virtual_disk_id == parent.virtual_disk_id


def other_identity(child: Image, expected: str, parent: Image) -> Finding:
    """What it means that the parent is not the disk that the child was made from."""
    actual = parent.identity
    message = (
        f"The child was made from the disk {expected}; this parent is {actual}. What the child "
        "does not hold itself will be read from another disk: its content will be wrong unless "
        "the two were equal."
    )
    if _of_one_chain(child, parent):
        message = (
            f"The child was made from this disk when its DataWriteGuid was {expected}; it is "
            f"{actual} now, so its content was changed since, or an older copy was put in its "
            "place. Where the child holds a sector, that one is read; everywhere else what the "
            "parent holds now shows through. A file system that lies across both may be damaged "
            "without a sign: check it in the guest before anything is written to it."
        )
    return Finding(Level.WARNING, "W_PARENT_IDENTITY", message, "parent_identity", None, actual)
