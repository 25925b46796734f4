"""What every job asks before it writes: is the name free and possible, is it allowed?"""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Sequence

from disks.engine.check import check_image
from disks.engine.errors import ImageError
from disks.engine.findings import Level
from disks.engine.formats import FORMATS, Format, by_name
from disks.engine.images import DiskType, Image
from disks.engine.new_image import NewImage, Target
from disks.engine.units import MIB
from disks.operations import windows
from disks.operations.paths import Roots, folded
from disks.operations.storage_roots import is_internal_name

LARGEST_NAME_BYTES = 255
MOST_BLOCK_BYTES = 2 * MIB  # of what is written anew: of larger ones fewer can be left out


def check_new_name(roots: Roots, path: str, format: Target) -> None:
    """Raises why no new disk can get this path: E_NAME, E_EXISTS, E_READ_ONLY, E_OUTSIDE_ROOTS…

    The name must be one that Windows can open and that says what the file is.
    """
    root, relative = roots.locate(path)
    roots.require_writable(path)
    folder, name = os.path.split(relative)
    windows.check_name(name, path)
    if any(root.excludes(part) for part in folder.split("/")) or is_internal_name(name):
        raise ImageError(
            "E_NAME",
            f"“{windows.shown(name)}” would lie where disks are not looked for.",
            file=path,
        )
    if not windows.is_windows_name(name):
        raise ImageError(
            "E_NAME", f"“{windows.shown(name)}” is no name that Windows can open.", file=path
        )
    if len(os.fsencode(name)) > LARGEST_NAME_BYTES:
        raise ImageError(
            "E_NAME", f"The name is longer than {LARGEST_NAME_BYTES} bytes.", file=path
        )
    if not name.lower().endswith(format.extensions):
        wanted = " or ".join(format.extensions)
        raise ImageError(
            "E_NAME",
            f"“{windows.shown(name)}” must end in {wanted}, so that it is known for what it is.",
            file=path,
        )
    try:
        roots.stat(path)
    except ImageError as error:
        if error.code == "E_NOT_FOUND":
            require_folder(roots, os.path.dirname(path))
            return
        raise
    raise ImageError("E_EXISTS", f"{path} exists already and is not overwritten.", file=path)


def free_name(name: str, taken: Collection[str], mark: str) -> str:
    """name, or, where it is taken, the same with a number: `NAME<mark>2.vhd`; never too long.

    taken: names as paths.folded() has them, for a share may mind no case
    """
    stem, extension = os.path.splitext(name)
    number = 1
    while folded(name) in taken:
        number += 1
        tail = f"{mark}{number}{extension}"
        while stem and len(os.fsencode(stem + tail)) > LARGEST_NAME_BYTES:
            stem = stem[:-1]
        name = stem + tail
    return name


def require_folder(roots: Roots, folder: str) -> None:
    """E_NOT_FOUND in the words of somebody who chooses where a new file shall lie."""
    try:
        next(roots.entries(folder), None)
    except ImageError as error:
        if error.code != "E_NOT_FOUND":
            raise
        raise ImageError(
            "E_NOT_FOUND",
            f"There is no folder {windows.shown(folder)}.",
            advice="Make it first, or choose another.",
            file=folder,
        ) from error


def format_of_name(path: str) -> Format:
    """The format whose extension the name has; for other names VHDX, the one of today."""
    for format in FORMATS:
        if path.lower().endswith(format.extensions):
            return format
    return by_name("vhdx")


def size_refusal(images: Iterable[tuple[str, Image]]) -> ImageError | None:
    """E_PARENT_SIZE if a child of the chain (leaf first) is smaller than its parent."""
    chain = list(images)
    for (path, child), (parent_path, parent) in itertools.pairwise(chain):
        if child.virtual_size_bytes < parent.virtual_size_bytes:
            return ImageError(
                "E_PARENT_SIZE",
                f"{path} is smaller ({child.virtual_size_bytes:,} bytes) than its parent "
                f"{parent_path} ({parent.virtual_size_bytes:,} bytes): the end of the parent's "
                "content would be lost.",
                file=path,
                field="current_size",
                value=child.virtual_size_bytes,
            )
    return None


def larger_ancestor(paths: Sequence[str], images: Sequence[Image]) -> tuple[str, Image] | None:
    """The first ancestor that is larger than the first of these disks, which is leaf first.

    A disk that has one cannot grow: what the ancestor holds behind its end would become visible.
    """
    for path, ancestor in zip(paths[1:], images[1:], strict=True):
        if ancestor.virtual_size_bytes > images[0].virtual_size_bytes:
            return path, ancestor
    return None


def structure_refusal(
    images: Iterable[tuple[str, Image]],
    *,
    blocks_only: bool = False,
    so: str = "no copy takes its place",
) -> ImageError | None:
    """The first structural error of these disks: no copy is made that would hide it.

    Blocks that share one place in the file read without an error, though one of them must
    have lost its content; in a copy each has its own place, and nobody would ever know.

    blocks_only  only where blocks lie; the copy does not keep the rest of the headers
    so           what is refused because of it, in words
    """
    for path, image in images:
        for finding in check_image(image.file):
            if finding.level is not Level.ERROR:
                continue
            if blocks_only and finding.field != "block_allocation_table":
                continue
            return ImageError(
                finding.code,
                f"{path} is damaged, so {so}: {finding.message}",
                file=path,
                field=finding.field,
                offset=finding.offset,
                value=finding.value,
            )
    return None


def block_bytes_of(image: Image) -> int:
    """The block size for a new image made from this one; the usual 2 MiB for a fixed disk."""
    if image.disk_type is DiskType.FIXED or not image.block_size_bytes:
        return MOST_BLOCK_BYTES
    return min(image.block_size_bytes, MOST_BLOCK_BYTES)


def smaller_blocks(image: Image, new: NewImage) -> Iterator[str]:
    """What a plan says where the copy of a disk of blocks gets smaller ones than that has."""
    has_blocks = DiskType.FIXED not in (image.disk_type, new.disk_type)
    if has_blocks and new.block_size_bytes < image.block_size_bytes:
        yield (
            f"The disk has blocks of {image.block_size_bytes // MIB} MiB; its copy gets blocks of "
            f"{new.block_size_bytes // MIB} MiB, so that more of them can be left out. The content "
            "is the same."
        )
