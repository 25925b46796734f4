"""Copy a disk into another type or format; a chain is flattened into one file.

The sources stay as they are; the copy gets an identity of its own. Plain images have no
signature: one is written where that is asked for, and read only where somebody says that
the source is one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from disks.engine.chain import open_chain
from disks.engine.errors import ImageError, NotAnImage
from disks.engine.files import ImageFile
from disks.engine.formats import FORMATS, by_name, identify
from disks.engine.images import DiskType, Image
from disks.engine.new_image import NewImage, Target
from disks.engine.raw import RAW
from disks.engine.units import SECTOR_BYTES
from disks.operations import copying, in_use, journal, locks, new_copy, rules
from disks.operations.content import ChainContent, PlainContent, View
from disks.operations.counting import count, count_levels
from disks.operations.fingerprints import Fingerprint
from disks.operations.new_copy import CopyPlan, Level
from disks.operations.paths import Roots
from disks.operations.progress import Progress
from disks.operations.windows import shown

TARGETS: tuple[Target, ...] = (*FORMATS, RAW)


def target_named(name: str) -> Target:
    """The format of that name, or plain bytes; KeyError for others."""
    return RAW if name == RAW.name else by_name(name)


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for; see plan()."""

    source: str
    output: str
    disk_type: DiskType | None
    format_name: str | None
    source_is_raw: bool


@dataclass(kw_only=True)
class ConvertPlan(CopyPlan):
    """The dry run. levels: the source and its ancestors; a plain image is one without identity."""

    request: Request

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {
            "source": self.request.source,
            "flattened": len(self.levels) > 1,
            "can_be_undone_until": "always",
        }


def plan(
    source: str,
    output: str,
    roots: Roots,
    *,
    disk_type: DiskType | str | None = None,
    format_name: str | None = None,
    source_is_raw: bool = False,
    progress: Progress | None = None,
) -> ConvertPlan:
    """Look at everything and write nothing.

    disk_type      fixed or dynamic; None: the source's, dynamic for a chain or a plain image
    format_name    `vhd`, …, or `raw`; None: what output's extension says, else the source's
    source_is_raw  somebody says that the source is a plain image

    What stands in the way is in the plan's `refused`; ValueError for a request that makes no
    sense: a differencing output, a type for a plain image, no way to know the format.
    """
    kind = None if disk_type is None else DiskType(disk_type)
    named = format_name or _format_of_extension(output)
    if kind is DiskType.DIFFERENCING:
        raise ValueError("a chain is flattened, so the copy is fixed or dynamic")
    if named == RAW.name and kind is not None:
        raise ValueError("a plain image has no type")
    if named is None and source_is_raw:
        raise ValueError("a plain image does not say which format its copy shall have")
    request = Request(source, output, kind, named, source_is_raw)
    result = ConvertPlan(request=request, output=output, format_name=named or "")
    try:
        with _opened(request, roots) as disk:
            _fill(result, disk, roots, progress)
    except ImageError as error:
        result.refused = error
    else:
        result.warnings += in_use.warnings(roots, result.exclusive, result.shared)
    return result


def apply(
    plan: ConvertPlan,
    roots: Roots,
    *,
    job: str = "",
    token: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Carry a plan out. Returns the document of the finished copy.

    Until the copy gets its name, every error, a cancel and a kill leave nothing but a
    temporary file, which recovery sweeps. Raises what the plan refuses, E_CHANGED,
    E_LOCKED, E_IN_USE, E_NOSPC, E_PROOF, E_EXISTS, and Cancelled out of progress.
    """
    progress = progress or Progress()
    if plan.refused is not None:
        raise plan.refused
    request = plan.request
    job = copying.job_name(job)
    with locks.hold(roots, plan.exclusive, plan.shared, job=job, token=token):
        fresh = ConvertPlan(request=request, output=plan.output, format_name=plan.format_name)
        progress.step("check", f"Looking at {os.path.basename(request.source)} once more")
        with _opened(request, roots) as disk:
            _fill(fresh, disk, roots, progress)
            new_copy.require_same(plan, fresh, request.source)
            copied = new_copy.make(
                fresh,
                disk.view,
                target_named(fresh.format_name),
                roots,
                like=disk.files[0],
                job=job,
                token=token,
                progress=progress,
            )
    return new_copy.document(fresh, copied) | {"format": fresh.format_name}


@dataclass(frozen=True, slots=True)
class _Disk:
    """The opened source. images is empty for a plain image."""

    paths: list[str]
    files: list[ImageFile]
    images: list[Image]
    view: View


@contextmanager
def _opened(request: Request, roots: Roots) -> Iterator[_Disk]:
    if request.source_is_raw:
        with roots.open(request.source) as file:
            _require_plain(file)
            yield _Disk([request.source], [file], [], PlainContent(file))
        return
    with open_chain(request.source, roots) as chain:
        files = [image.file for image in chain.images]
        yield _Disk(chain.paths, files, chain.images, ChainContent(chain))


def _require_plain(file: ImageFile) -> None:
    """E_AMBIGUOUS_FORMAT for the head or tail of a disk's own format: those are no content."""
    try:
        found: object = identify(file).name.upper()
    except NotAnImage as error:
        found = error.value  # the name of a known foreign format
    if isinstance(found, str) and not found.startswith("ISO"):  # a stick's image may be both
        raise ImageError(
            "E_AMBIGUOUS_FORMAT",
            f"{shown(file.path)} was said to be a plain image, but its content is that of a "
            f"{found} disk: its headers would become a part of the new disk's content.",
            file=file.path,
            value=found,
        )
    if not file.size_bytes or file.size_bytes % SECTOR_BYTES:
        raise ImageError(
            "E_FILE_SIZE",
            f"{shown(file.path)} has {file.size_bytes:,} bytes; a disk consists of whole "
            f"sectors of {SECTOR_BYTES} bytes.",
            file=file.path,
            field="file_size",
            value=file.size_bytes,
        )


def _fill(result: ConvertPlan, disk: _Disk, roots: Roots, progress: Progress | None) -> None:
    """Fill a plan in. Raises the first thing that stands in the way."""
    request = result.request
    if disk.images:
        result.format_name = request.format_name or disk.images[0].format_name
        levels = list(zip(disk.paths, disk.images, strict=True))
        result.levels = [Level.of(path, image) for path, image in levels]
        result.fingerprints = {path: Fingerprint.of(image.file) for path, image in levels}
        for refusal in new_copy.source_refusals(levels):
            raise refusal
    else:
        result.levels = [_plain_level(request.source, disk.files[0])]
        result.fingerprints = {request.source: Fingerprint.of_plain(disk.files[0])}
    target = target_named(result.format_name)
    result.new = _new_image(request, disk, target)
    _require_sectors(disk, target, request.source)
    unit_bytes = copying.unit_bytes(result.new)
    if disk.images:
        result.warnings += rules.smaller_blocks(disk.images[0], result.new)
        result.amount = count_levels(disk.images, unit_bytes, progress)
    else:
        result.amount = count(disk.view, unit_bytes, progress)
    result.predicted_size_bytes = target.predicted_size_bytes(result.new, result.amount.blocks)
    if target is not RAW:
        used = result.output if request.source_is_raw else request.source
        result.commands = new_copy.commands(roots, used, result.output)
    rules.check_new_name(roots, result.output, target)
    journal.require_settled(roots, [*result.exclusive, *result.shared])
    short = new_copy.shortage(result, roots)
    if short is not None:
        raise short


def _plain_level(path: str, file: ImageFile) -> Level:
    status = file.stat()
    return Level(path, "", RAW.name, file.size_bytes, status.st_size, status.st_blocks * 512)


def _new_image(request: Request, disk: _Disk, target: Target) -> NewImage:
    """What the copy will be. Within one format block size, geometry and sector sizes are kept."""
    kind = request.disk_type or DiskType.DYNAMIC
    if target is RAW or (
        request.disk_type is None and disk.images and disk.images[0].disk_type is DiskType.FIXED
    ):
        kind = DiskType.FIXED
    new = NewImage(kind, disk.view.virtual_size_bytes)
    if not disk.images or disk.images[0].format_name != target.name:
        return new
    leaf = disk.images[0]
    traits = leaf.child_traits() | {"virtual_disk_id": None}  # a disk of no chain
    return replace(new, block_size_bytes=rules.block_bytes_of(leaf), **traits)


def _require_sectors(disk: _Disk, target: Target, source: str) -> None:
    """E_SECTOR_SIZE: partition tables count in sectors, so these stay what they are."""
    if not disk.images or target is RAW or disk.images[0].format_name == target.name:
        return
    sector_bytes = disk.images[0].logical_sector_bytes
    if sector_bytes != SECTOR_BYTES:
        raise ImageError(
            "E_SECTOR_SIZE",
            f"{shown(source)} has logical sectors of {sector_bytes:,} bytes. Its partitions are "
            f"counted in them, and a {target.name.upper()} copy with sectors of {SECTOR_BYTES} "
            "bytes could not be read by its machine.",
            file=source,
            field="logical_sector_size",
            value=sector_bytes,
        )


def _format_of_extension(path: str) -> str | None:
    """The name of the target whose extension the path has, if any."""
    for target in TARGETS:
        if path.lower().endswith(target.extensions):
            return target.name
    return None
