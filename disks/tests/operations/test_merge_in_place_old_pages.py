"""The old pages of a batch always fit into their file, whatever the disk looks like."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from disks.engine.formats import open_image
from disks.engine.holding import HoldPlan, Limits, Wanted
from disks.engine.units import GIB, KIB, MIB
from disks.operations import create, merge_in_place
from disks.operations.merge_in_place import batches, old_pages
from disks.operations.paths import Roots
from disks.tests.builders import VHD, VHDX, Family
from disks.tests.operations import worlds

_SHAPES: dict[str, tuple[Family, int, int]] = {
    "vhd-smallest": (VHD, 4 * KIB, 4 * MIB),
    "vhd-usual": (VHD, 2 * MIB, 256 * MIB),
    "vhd-largest": (VHD, 256 * MIB, 16 * GIB),
    "vhdx-smallest": (VHDX, 1 * MIB, 256 * MIB),
    "vhdx-usual": (VHDX, 32 * MIB, 8 * GIB),
    "vhdx-largest": (VHDX, 256 * MIB, 48 * GIB),
}

# Where sectors are wanted: (sectors from one run to the next, sectors in a run, at). Runs lie
# across the borders of pages, which costs two each; in every block, which costs its bitmap.
Runs = Callable[[int], tuple[int, int, int]]
_RUNS: dict[str, Runs] = {
    "every-page": lambda block: (16, 9, 3),
    "every-block": lambda block: (block, 2, block // 2 - 1),
    "three-in-a-block": lambda block: (max(block // 3, 8), 2, 7),
    "across-blocks": lambda block: (block, 2, block - 1),
}


def wanted(first: int, total: int, runs: tuple[int, int, int]) -> Iterator[Wanted]:
    step, count, at = runs
    begin = at + max(0, -(-(first - at) // step)) * step
    for start in range(begin, total - count, step):
        yield Wanted(start, count, zeros=False)


def _written(roots: Roots, path: str, hold: HoldPlan) -> None:
    """What a batch changes, but for the data: that takes time and changes no figure."""
    with roots.open(path, writable=True) as file:
        os.truncate(path, max(hold.size_after_bytes, file.size_bytes))
    with roots.open(path, writable=True) as file:
        for writes in (hold.room, hold.beside, *hold.steps):
            for one in writes:
                file.write_at(one.offset, one.data)


@pytest.mark.parametrize("runs", sorted(_RUNS))
@pytest.mark.parametrize("shape", sorted(_SHAPES))
def test_a_batch_keeps_no_more_than_its_file_has_room_for(
    tmp_path: Path, shape: str, runs: str
) -> None:
    """bad-input F85: of the smallest file there is for such a disk, which a leaf that was empty
    gets; it may be written anyhow before its merge goes on. New blocks first, then old ones."""
    family, block_bytes, size = _SHAPES[shape]
    roots = worlds.roots_of(tmp_path)
    below, path = (str(tmp_path / family.file(stem)) for stem in ("below", "base"))
    block = {"block_size_bytes": block_bytes}
    create.apply(create.plan(below, roots, size_bytes=size, **block), roots)
    create.apply(create.plan(path, roots, parent=below, **block), roots)
    with roots.open(path) as file:
        pages = merge_in_place.journal_pages(0, 0, open_image(file))
    room = old_pages.file_bytes(pages)
    limits = Limits(batches.BATCH_BYTES, pages - old_pages.SPARE_PAGES)
    total = size // 512
    chosen = _RUNS[runs](block_bytes // 512)
    most = 0
    for _ in ("new blocks", "the same ones"):
        first: int | None = 0
        for _ in range(12):
            if first is None:
                break
            with roots.open(path) as file:
                hold = open_image(file).plan_hold(wanted(first, total, chosen), limits)
                kept = old_pages.collect(file, batches._changed(hold))
            most = max(most, len(kept))
            assert old_pages.file_bytes(len(kept)) <= room
            assert hold.until_sector is None or hold.until_sector > first
            _written(roots, path, hold)
            first = hold.until_sector
    assert most > 0
