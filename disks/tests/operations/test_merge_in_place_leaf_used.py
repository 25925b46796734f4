"""A leaf may be used while its merge in place is stopped: the merge takes all of it in."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from disks.engine.formats import open_image
from disks.engine.holding import Limits, Wanted
from disks.engine.units import SECTOR_BYTES
from disks.operations import merge, rewriting
from disks.operations.pages import changed_writes
from disks.operations.paths import Roots
from disks.operations.progress import Cancelled, Progress, Stopped
from disks.operations.recover import recover
from disks.tests.builders import FAMILIES, VHD, VHDX, Family
from disks.tests.operations import worlds
from disks.tests.operations.crashing import DIED, SAMPLE, Work, faulty, mended_at_every_point

both = pytest.mark.parametrize("family", FAMILIES, ids=[one.name for one in FAMILIES])


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
        file.allocate(held.size_after_bytes, from_bytes=file.size_bytes)
        for place in held.places:
            file.write_at(place.file_offset, b"Z" * (place.count_sectors * SECTOR_BYTES))
        for writes in (held.room, held.beside, *held.steps):
            for one in writes:
                file.write_at(one.offset, one.data)


def _grown_by(family: Family) -> int:
    """So much that the table of base has to become larger, too, for a VHD."""
    return 40 * 1024 * 1024 if family is VHDX else 8 * 1024 * 1024


@both
@pytest.mark.parametrize("base_type", ["dynamic", "fixed"])
def test_base_grows_with_a_leaf_that_was_made_larger_meanwhile(
    tmp_path: Path, family: Family, base_type: str
) -> None:
    world = worlds.chain(tmp_path, family=family, base_type=base_type)
    stopped(world.leaf.path, world.base.path, world.roots)
    size = enlarge(world.leaf.path, world.roots, _grown_by(family))
    write_at_sector(world.leaf.path, world.roots, size // SECTOR_BYTES - 8)
    wanted = worlds.content_of(world.leaf.path)
    assert [row["action"] for row in recover(str(tmp_path), world.roots)] == ["finished"]
    assert worlds.content_of(world.base.path) == wanted
    assert worlds.errors_in(world.base.path) == []
    assert worlds.strays(tmp_path) == []


def test_a_leaf_that_was_made_larger_than_an_ancestor_allows_is_not_merged_on(
    tmp_path: Path,
) -> None:
    """What the ancestor holds behind the end of base would become visible."""
    below = VHD.dynamic(tmp_path, "below.vhd", size=200 * 1024, content=[(390, b"b" * 512)])
    size = 160 * 1024
    parent = VHD.differencing(tmp_path, "parent.vhd", below, size=size)
    base = VHD.differencing(tmp_path, "base.vhd", parent, size=size)
    leaf = VHD.differencing(tmp_path, "leaf.vhd", base, size=size, content=[(5, b"l" * 512)])
    roots = worlds.roots_of(tmp_path)
    stopped(leaf.path, base.path, roots)
    enlarge(leaf.path, roots, 64 * 1024)
    before = worlds.snapshot(tmp_path)
    (row,) = recover(str(tmp_path), roots)
    assert (row["action"], row["code"]) == ("needs-attention", "E_PARENT_SIZE")
    after = worlds.snapshot(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {".base.vhd.vdmerge"}


@pytest.mark.slow
@both
def test_killed_while_base_grows_it_goes_on(tmp_path: Path, family: Family) -> None:
    folder = tmp_path / "scene"
    wanted: list[str] = []

    def again() -> list[dict[str, object]]:
        return recover(str(folder), worlds.roots_of(folder))

    def fresh() -> Work:
        shutil.rmtree(folder, ignore_errors=True)
        world = worlds.chain(folder, family=family)
        stopped(world.leaf.path, world.middle.path, world.roots)
        size = enlarge(world.leaf.path, world.roots, 1024 * 1024)
        write_at_sector(world.leaf.path, world.roots, size // SECTOR_BYTES - 8)
        wanted[:] = [worlds.content_of(world.leaf.path)]
        return again

    def judge() -> str:
        merged = folder / family.file("middle")
        assert not (folder / family.file("leaf")).exists()
        assert [worlds.content_of(merged)] == wanted
        assert worlds.errors_in(merged) == []
        return "merged"

    mended_at_every_point(
        fresh,
        faulty("kill"),
        expected=DIED,
        recover=again,
        judge=judge,
        every=SAMPLE,
    )


def test_an_empty_leaf_that_was_written_meanwhile_is_merged(tmp_path: Path) -> None:
    """The old pages of an empty one take next to no room; those of a written one need some."""
    base = VHD.dynamic(tmp_path, "base.vhd", content=[(0, worlds.noise(1, 10))])
    leaf = VHD.differencing(tmp_path, "leaf.vhd", base)
    roots = worlds.roots_of(tmp_path)
    stopped(leaf.path, base.path, roots)
    write_at_sector(leaf.path, roots, 3)
    wanted = worlds.content_of(leaf.path)
    assert [row["action"] for row in recover(str(tmp_path), roots)] == ["finished"]
    assert worlds.content_of(base.path) == wanted
