"""A merge in place that was stopped, and what others do with its leaf meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from disks.engine.formats import open_image
from disks.engine.holding import Limits, Wanted
from disks.engine.units import SECTOR_BYTES
from disks.operations import merge, rewriting
from disks.operations.pages import changed_writes
from disks.operations.paths import Roots
from disks.operations.progress import Cancelled, Progress, Stopped


class StopsAtTheFirstBatch(Progress):
    """Stops as soon as nothing can be taken back any more."""

    def __init__(self, record: Path) -> None:
        self.record = record

    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        if self.record.exists() and b'"state": "merging"' in self.record.read_bytes():
            raise Cancelled


def stopped(leaf: Path, base: Path, roots: Roots) -> None:
    plan = merge.plan(str(leaf), roots, base=str(base), into_parent=True, in_place=True)
    record = base.with_name(f".{base.name}.vdmerge")
    with pytest.raises(Stopped):
        merge.apply(plan, roots, offline=True, progress=StopsAtTheFirstBatch(record))


def enlarge(leaf: Path, roots: Roots, by_bytes: int) -> int:
    """As another program makes it larger, which knows nothing of our records; the new size."""
    with roots.open(str(leaf), writable=True) as file:
        size = open_image(file).virtual_size_bytes + by_bytes
        makes_room = True
        while makes_room:
            planned = open_image(file).plan_expand(size)
            rewriting.write_steps(file, changed_writes(file, planned.rewrite)[0], Progress())
            makes_room = planned.makes_room
    return size


def write_at_sector(leaf: Path, roots: Roots, sector: int) -> None:
    """As a machine does that uses the leaf: 8 sectors."""
    with roots.open(str(leaf), writable=True) as file:
        wanted = iter([Wanted(sector, 8, zeros=False)])
        held = open_image(file).plan_hold(wanted, Limits(1024 * 1024, 1000))
        if held.size_after_bytes > file.size_bytes:
            file.allocate(held.size_after_bytes, from_bytes=file.size_bytes)
        for place in held.places:
            file.write_at(place.file_offset, b"Z" * (place.count_sectors * SECTOR_BYTES))
        for writes in (held.room, held.beside, *held.steps):
            for one in writes:
                file.write_at(one.offset, one.data)
