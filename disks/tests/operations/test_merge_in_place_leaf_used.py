"""A leaf may be used while its merge in place is stopped: the merge takes all of it in."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from disks.engine.formats import open_image
from disks.engine.holding import Limits, Wanted
from disks.engine.units import SECTOR_BYTES
from disks.engine.vhdx import headers
from disks.operations import journal, merge
from disks.operations.merge_in_place import batches, old_pages
from disks.operations.paths import Roots
from disks.operations.progress import Cancelled, Progress, Stopped
from disks.operations.recover import recover
from disks.operations.rewriting import writing
from disks.tests.builders import FAMILIES, VHD, VHDX, BuiltVhdx, Family
from disks.tests.operations import worlds
from disks.tests.operations.crashing import (
    SAMPLE,
    faulty,
    in_fork,
    mended_at_every_point,
    with_fault,
)
from disks.tests.operations.dying import DIED, Work

both = pytest.mark.parametrize("family", FAMILIES, ids=[one.name for one in FAMILIES])


class StopsAtTheFirstBatch(Progress):
    """Stops as soon as nothing can be taken back any more."""

    def __init__(self, record: Path) -> None:
        self.record = record

    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        if self.record.exists() and b'"state": "merging"' in self.record.read_bytes():
            raise Cancelled


class StopsAfter(Progress):
    """Stops as soon as so many bytes are moved; the batch that they are in is taken back."""

    def __init__(self, count_bytes: int) -> None:
        self.count_bytes = count_bytes

    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        if done_bytes >= self.count_bytes:
            raise Cancelled


def stopped(leaf: Path, base: Path, roots: Roots, after_bytes: int = 0) -> None:
    """A merge of these that was stopped, once so much was moved."""
    plan = merge.plan(str(leaf), roots, base=str(base), into_parent=True, in_place=True)
    progress: Progress = StopsAfter(after_bytes)
    if after_bytes == 0:
        progress = StopsAtTheFirstBatch(base.with_name(f".{base.name}.vdmerge"))
    with pytest.raises(Stopped):
        merge.apply(plan, roots, offline=True, progress=progress)


def enlarge(leaf: Path, roots: Roots, by_bytes: int) -> int:
    """As another program makes it larger, which knows nothing of our records; the new size."""
    with roots.open(str(leaf), writable=True) as file:
        size = open_image(file).virtual_size_bytes + by_bytes
        makes_room = True
        while makes_room:
            planned = open_image(file).plan_expand(size)
            writing.write_straight(file, planned.rewrite)
            makes_room = planned.makes_room
    return size


def write_at_sector(leaf: Path, roots: Roots, *numbers: int) -> None:
    """As a machine does that uses the leaf: 8 sectors each."""
    with roots.open(str(leaf), writable=True) as file:
        wanted = iter([Wanted(sector, 8, zeros=False) for sector in numbers])
        held = open_image(file).plan_hold(wanted, Limits(4 * 1024 * 1024, 10_000))
        assert held.until_sector is None
        if held.size_after_bytes > file.size_bytes:
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


@pytest.mark.parametrize("base_type", ["dynamic", "fixed"])
def test_zeros_that_the_leaf_states_behind_the_end_of_a_smaller_level_are_taken_in(
    tmp_path: Path, base_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was moved from there before lies in base, and would come back into sight."""
    mib = worlds.MIB
    build_base = VHDX.fixed if base_type == "fixed" else VHDX.dynamic
    base = build_base(tmp_path, "base.vhdx", size=2 * mib, block_size=mib)
    middle = VHDX.differencing(tmp_path, "middle.vhdx", base, size=2 * mib)
    leaf = VHDX.differencing(
        tmp_path,
        "leaf.vhdx",
        middle,
        size=5 * mib,
        content=[(3 * 2048, b"l" * mib), (4 * 2048, b"m" * mib)],
    )
    assert isinstance(leaf, BuiltVhdx)
    roots = worlds.roots_of(tmp_path)
    plan = merge.plan(str(leaf.path), roots, base=str(base.path), into_parent=True, in_place=True)
    monkeypatch.setattr(batches, "BATCH_BYTES", mib)
    with pytest.raises(Stopped):
        merge.apply(plan, roots, offline=True, progress=StopsAfter(mib + 1))
    with leaf.path.open("r+b") as file:  # as a machine that trims the block
        file.seek(leaf.table_offset + 3 * 8)
        file.write((3).to_bytes(8, "little"))
    os.utime(leaf.path)
    wanted = worlds.content_of(leaf.path)
    assert [row["action"] for row in recover(str(tmp_path), roots)] == ["finished"]
    assert worlds.content_of(base.path) == wanted


def _planned(folder: Path, family: Family) -> tuple[worlds.World, Path, Path, merge.MergePlan]:
    """A chain, its leaf and base, and the plan that merges all of it in place."""
    world = worlds.chain(folder, family=family)
    leaf, base = world.leaf.path, world.base.path
    plan = merge.plan(str(leaf), world.roots, base=str(base), into_parent=True, in_place=True)
    return world, leaf, base, plan


@both
@pytest.mark.parametrize("grown", [False, True], ids=["written", "grown"])
@pytest.mark.parametrize("fault", ["face.sidecar:1:kill", "face.header:1:kill"])
def test_a_leaf_that_was_used_when_all_was_moved_is_taken_in(
    tmp_path: Path, family: Family, fault: str, grown: bool
) -> None:
    """It may be used until base has its face, and the merge may wait for long before that."""
    world, leaf, base, plan = _planned(tmp_path, family)
    dying = with_fault(fault, lambda: merge.apply(plan, world.roots, offline=True))
    assert in_fork(dying) == DIED
    if grown:
        size = enlarge(leaf, world.roots, _grown_by(family))
        write_at_sector(leaf, world.roots, size // SECTOR_BYTES - 8)
    write_at_sector(leaf, world.roots, 64)
    os.utime(leaf)
    wanted = worlds.content_of(leaf)
    assert "finished" in [row["action"] for row in recover(str(tmp_path), world.roots)]
    assert worlds.content_of(base) == wanted
    assert worlds.errors_in(base) == []
    assert worlds.strays(tmp_path) == []


def test_base_half_written_by_the_end_of_a_merge_that_had_waited_is_not_called_foreign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited when all was moved; killed in its end after that, it knows whose half it finds."""
    monkeypatch.setattr(journal, "_LONGEST_NAME_BYTES", 255)
    world = worlds.chain(tmp_path, family=VHDX)
    leaf, base = world.leaf.path, world.middle.path
    stopped(leaf, base, world.roots)
    new = VHDX.differencing(tmp_path, VHDX.file("n" * 240), world.leaf)
    (row,) = recover(str(tmp_path), world.roots)
    assert "It cannot end yet" in row["sentence"]
    new.path.rename(tmp_path / "new.vhdx")
    dying = with_fault("face.header:2:kill", lambda: recover(str(tmp_path), world.roots))
    assert in_fork(dying) == DIED
    write_at_sector(leaf, world.roots, 64)
    os.utime(leaf)
    wanted = worlds.content_of(leaf)
    recover(str(tmp_path), world.roots)
    assert worlds.content_of(base) == wanted
    assert worlds.strays(tmp_path) == []


class WrittenMeanwhile(Progress):
    """A machine of a host that heeds no locks writes into the leaf, so many times."""

    def __init__(self, leaf: Path, roots: Roots, times: int) -> None:
        self.leaf, self.roots, self.times = leaf, roots, times
        self.sha256 = ""  # of what the leaf reads as since

    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        if done_bytes and self.times:
            self.times -= 1
            write_at_sector(self.leaf, self.roots, 0, 64)
            os.utime(self.leaf)
            self.sha256 = worlds.content_of(self.leaf)


@both
def test_what_a_machine_writes_while_the_leaf_is_merged_is_taken_in(
    tmp_path: Path, family: Family
) -> None:
    world, leaf, base, plan = _planned(tmp_path, family)
    machine = WrittenMeanwhile(leaf, world.roots, 1)
    merge.apply(plan, world.roots, offline=True, progress=machine)
    assert worlds.content_of(base) == machine.sha256
    assert worlds.strays(tmp_path) == []


@both
def test_a_leaf_that_a_machine_writes_all_the_while_is_not_put_away(
    tmp_path: Path, family: Family
) -> None:
    world, leaf, base, plan = _planned(tmp_path, family)
    machine = WrittenMeanwhile(leaf, world.roots, 1000)
    with pytest.raises(Stopped, match="was written while it was merged"):
        merge.apply(plan, world.roots, offline=True, progress=machine)
    times = base.stat()
    write_at_sector(leaf, world.roots, 128)
    machine.sha256 = worlds.content_of(leaf)
    os.utime(base, ns=(1, 1))
    (refused,) = recover(str(tmp_path), world.roots)
    assert refused["code"] == "E_NEEDS_ATTENTION", "somebody may have written to base meanwhile"
    os.utime(base, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert [row["action"] for row in recover(str(tmp_path), world.roots)] == ["finished"]
    assert worlds.content_of(base) == machine.sha256


def test_a_vhdx_leaf_tells_that_it_was_written_where_its_time_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut took the time of writes that were durable themselves."""
    mib = worlds.MIB
    base = VHDX.dynamic(tmp_path, "base.vhdx", size=4 * mib, block_size=mib)
    content = [(block * 2048, b"l" * mib) for block in range(3)]
    leaf = VHDX.differencing(tmp_path, "leaf.vhdx", base, content=content)
    roots = worlds.roots_of(tmp_path)
    plan = merge.plan(str(leaf.path), roots, into_parent=True, in_place=True)
    monkeypatch.setattr(batches, "BATCH_BYTES", mib)
    with pytest.raises(Stopped):
        merge.apply(plan, roots, offline=True, progress=StopsAfter(mib + 1))
    times = leaf.path.stat()
    with roots.open(str(leaf.path), writable=True) as file:
        found = headers.read_headers(file)
        file.write_at(*headers.next_headers(found, {"file_write_guid": bytes(range(16))})[0])
        file.write_at(leaf.blocks[0], b"Z" * 4096)
    os.utime(leaf.path, ns=(times.st_atime_ns, times.st_mtime_ns))
    wanted = worlds.content_of(leaf.path)
    assert [row["action"] for row in recover(str(tmp_path), roots)] == ["finished"]
    assert worlds.content_of(base.path) == wanted


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
        folder=folder,
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


@dataclass
class Written:
    """An empty leaf whose merge was stopped, and that was written in many places then."""

    family: Family
    folder: Path

    def __post_init__(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        options = {"content": [(0, worlds.noise(1, 10))]}
        base = self.family.dynamic(self.folder, self.family.file("base"), **options)
        leaf = self.family.differencing(self.folder, self.family.file("leaf"), base)
        stopped(leaf.path, base.path, self.roots)
        write_at_sector(leaf.path, self.roots, *range(3, 6000, 16))
        self.leaf_sha256 = worlds.content_of(leaf.path)

    @property
    def roots(self) -> Roots:
        return worlds.roots_of(self.folder)

    def recover(self) -> list[dict[str, object]]:
        return recover(str(self.folder), self.roots)

    def judge(self) -> str:
        base = self.folder / self.family.file("base")
        assert worlds.content_of(base) == self.leaf_sha256
        assert worlds.errors_in(base) == []
        assert worlds.strays(self.folder) == []
        assert not list(self.folder.glob(".*.vdpages*"))
        return "merged"


@pytest.fixture
def batches_made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many old pages each batch has room for."""
    made: list[int] = []
    one_batch = batches._Moving._batch

    def counted(moving: batches._Moving, first: int) -> int | None:
        made.append(old_pages.pages_in(moving.journal_file))
        return one_batch(moving, first)

    monkeypatch.setattr(batches._Moving, "_batch", counted)
    return made


@both
def test_a_leaf_that_was_written_in_many_places_is_moved_in_few_batches(
    place: Path, family: Family, batches_made: list[int]
) -> None:
    """Its merge was planned for an empty one, with next to no room for old pages."""
    scene = Written(family, place / "scene")
    assert [row["action"] for row in scene.recover()] == ["finished"]
    assert scene.judge() == "merged"
    assert len(batches_made) == 1
    assert batches_made[0] > old_pages.LEAST_PAGES


@both
def test_without_room_for_more_old_pages_it_is_moved_in_more_batches(
    place: Path, family: Family, batches_made: list[int]
) -> None:
    scene = Written(family, place / "scene")
    with_fault("merge.prepare.allocate:1:enospc", scene.recover)()
    assert scene.judge() == "merged"
    assert len(batches_made) > 3
    assert max(batches_made) == old_pages.LEAST_PAGES


@both
@pytest.mark.parametrize("kind", ["kill", "torn"])
def test_killed_while_it_gets_more_room_for_old_pages_it_goes_on(
    place: Path, family: Family, kind: str
) -> None:
    scenes: list[Written] = []

    def fresh() -> Work:
        scenes[:] = [Written(family, place / "scene")]
        return scenes[0].recover

    mended_at_every_point(
        fresh,
        lambda number, work: in_fork(with_fault(f"merge.prepare:{number}:{kind}", work)),
        expected=DIED,
        recover=lambda: scenes[0].recover(),
        judge=lambda: scenes[0].judge(),
    )
