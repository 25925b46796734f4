"""Compacting in place: what goes, what stays and why, and that nothing else changes."""

from __future__ import annotations

import os
import shutil
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from disks.engine.errors import ImageError
from disks.engine.formats import open_image
from disks.engine.vhd.batmap import find_batmap, map_of
from disks.operations import compact, journal, locks
from disks.operations.compact_in_place import InPlacePlan
from disks.operations.progress import Cancelled, Lost, Progress
from disks.operations.recover import recover
from disks.tests.builders import (
    MIB,
    Family,
    build_differencing,
    build_dynamic,
    seven_zip_sha256,
)
from disks.tests.operations import worlds
from disks.tests.operations.crashing import unreadable_once
from disks.tests.operations.shrinking import BLOCK, SCENES, TWO_CHUNKS, Scene, noise, zeros
from disks.tests.operations.worlds import content_of, errors_in, roots_of

needs_7z = pytest.mark.skipif(
    not (shutil.which("7zz") or shutil.which("7z")), reason="7-Zip is not installed"
)


@pytest.fixture(params=list(SCENES))
def scene(request: pytest.FixtureRequest) -> Scene:
    return SCENES[request.param]


def planned(path: Path, **options: Any) -> InPlacePlan:
    plan = compact.plan(str(path), roots_of(path.parent), **options)
    assert isinstance(plan, InPlacePlan)
    return plan


def compacted(path: Path, **options: Any) -> dict[str, Any]:
    plan = planned(path)
    assert plan.refused is None, plan.refused
    done = compact.apply(plan, roots_of(path.parent), offline=True, **options)
    assert done["file_size_after_bytes"] == plan.predicted_size_bytes == path.stat().st_size
    assert done["blocks_moved"] == plan.moves
    assert worlds.strays(path.parent) == []
    return done


def refusal(path: Path) -> ImageError:
    plan = planned(path)
    assert plan.refused is not None
    with pytest.raises(ImageError) as raised:
        compact.apply(plan, roots_of(path.parent), offline=True)
    assert raised.value is plan.refused
    return plan.refused


def facts_of(path: Path) -> dict[str, Any]:
    """What must survive, as the file itself says it."""
    with roots_of(path.parent).open(str(path)) as file:
        image = open_image(file)
        return {
            "identity": image.identity,
            "traits": image.copy_traits(),
            "link": image.recorded_link() if image.parent is not None else None,
            "blocks": image.block_size_bytes,
        }


def blocks_of(path: Path) -> int:
    with roots_of(path.parent).open(str(path)) as file:
        return open_image(file).blocks_allocated()


def test_what_holds_nothing_goes_and_the_file_becomes_dense(scene: Scene, tmp_path: Path) -> None:
    built = scene.make(tmp_path)
    facts, before = facts_of(built.path), built.path.stat()
    reasons = {
        row["verdict"]: row["blocks"]
        for row in planned(built.path).as_dict()["reasons"]
        if row["goes"]
    }
    assert reasons == scene.going
    os.chmod(built.path, 0o640)
    done = compacted(built.path)
    after = built.path.stat()
    assert (after.st_ino, after.st_mode & 0o777) == (before.st_ino, 0o640)
    assert after.st_size == scene.size(built, scene.left)
    assert done["file_size_before_bytes"] == before.st_size
    assert done["blocks_dropped"] == sum(scene.going.values())
    assert done["blocks_moved"] <= done["blocks_dropped"] + 2  # room of nobody was there, too
    assert blocks_of(built.path) == scene.left
    assert facts_of(built.path) == facts
    assert errors_in(built.path) == []
    assert content_of(built.path) == built.sha256


@needs_7z
def test_7_zip_reads_the_same_afterwards(scene: Scene, tmp_path: Path) -> None:
    built = scene.make(tmp_path)
    if scene is SCENES["dynamic, last block cut short"]:
        with pytest.raises(AssertionError):  # before and after: it wants the last block whole
            seven_zip_sha256(built.path)
        return
    read = seven_zip_sha256(built.path)
    compacted(built.path)
    assert seven_zip_sha256(built.path) == read


def test_a_second_time_there_is_nothing_to_do(scene: Scene, tmp_path: Path) -> None:
    """And nothing is written: not even the time of the file changes."""
    built = scene.make(tmp_path)
    compacted(built.path)
    before = worlds.snapshot(tmp_path), built.path.stat().st_mtime_ns
    done = compacted(built.path)
    assert (done["blocks_dropped"], done["blocks_moved"], done["bytes_written"]) == (0, 0, 0)
    assert (worlds.snapshot(tmp_path), built.path.stat().st_mtime_ns) == before


def test_only_as_many_blocks_are_moved_as_go(family: Family, tmp_path: Path) -> None:
    block, per = family.small, family.small // 512
    content = [(number * per, noise(number, 8)) for number in range(20)]
    content += [(3 * per, zeros(per)), (4 * per, zeros(per))]
    name = family.file("disk")
    built = family.dynamic(tmp_path, name, size=20 * block, block_size=block, content=content)
    done = compacted(built.path)
    assert (done["blocks_dropped"], done["blocks_moved"]) == (2, 2)
    assert 2 * block <= done["bytes_written"] <= 2 * (block + 512)
    assert content_of(built.path) == built.sha256


def test_why_the_rest_stays_is_told_with_the_zeros_inside(tmp_path: Path) -> None:
    base = build_dynamic(
        tmp_path, "base.vhd", size=8 * BLOCK, block_size=BLOCK, content=[(0, noise(1, 256))]
    )
    content = [(0, noise(2, 32)), (32, zeros(32)), (64, zeros(16) + noise(3, 16))]
    child = build_differencing(tmp_path, "child.vhd", base, content=content, layout="packed")
    plan = planned(child.path)
    assert plan.why == (
        "no block can go; 3 stay: 1 of data, 1 partly of zeros and "
        "1 of zeros that hide the parent's data."
    )
    assert plan.zero_bytes == 16 * 512
    assert plan.moves == plan.bytes_to_move == 0


def test_one_reason_why_all_stay_is_told_without_numbers(tmp_path: Path) -> None:
    content = [(0, noise(1, 32)), (32, noise(2, 32))]
    built = build_dynamic(tmp_path, "disk.vhd", size=8 * BLOCK, block_size=BLOCK, content=content)
    assert planned(built.path).why == "no block can go: all are of data."


def test_the_plan_foretells_what_the_job_reads_to_look(tmp_path: Path) -> None:
    """A glance at each block of data, and all of a block that begins with zeros."""
    unit = 2 * MIB
    mixed = zeros(1) * 2048 + noise(3, 1)
    content = [(0, noise(1, 4096)), (4096, zeros(4096)), (2 * 4096, mixed)]
    built = build_dynamic(tmp_path, "disk.vhd", size=4 * unit, content=content)
    seen: list[int] = []

    class Looking(Progress):
        def step(self, step: str, sentence: str) -> None:
            self.is_looking = step == "look"

        def moved(self, count_bytes: int) -> None:
            if self.is_looking:
                seen.append(count_bytes)

    plan = planned(built.path)
    compact.apply(plan, roots_of(tmp_path), offline=True, progress=Looking())
    assert plan.bytes_to_look == sum(seen)
    assert unit + unit // 2 < plan.bytes_to_look < 2 * unit


def test_a_short_look_estimates_and_says_so(tmp_path: Path) -> None:
    content = [(block * 32, noise(block, 1) if block % 4 else zeros(1)) for block in range(2000)]
    built = build_dynamic(
        tmp_path, "disk.vhd", size=2000 * BLOCK, block_size=BLOCK, content=content
    )
    exact = planned(built.path)
    quick = planned(built.path, time_budget_seconds=0.005)
    assert (exact.estimated, exact.blocks_kept, exact.moves) == (False, 1500, 375)
    assert quick.estimated
    low, high = quick.size_bounds_bytes
    assert low <= exact.predicted_size_bytes <= high
    assert quick.why.startswith("about ")


def test_sector_bitmaps_move_too_and_leave_when_nobody_needs_them(tmp_path: Path) -> None:
    built = TWO_CHUNKS.make(tmp_path)
    done = compacted(built.path)
    assert built.path.stat().st_size == TWO_CHUNKS.size(built, TWO_CHUNKS.left)
    assert done["blocks_dropped"] == 2
    assert errors_in(built.path) == []
    with roots_of(tmp_path).open(str(built.path)) as file:
        image = open_image(file)
        far = 4096 * 2048
        for sector, source in (
            (0, "parent"),
            (2048, "data"),
            (far, "parent"),
            (far + 2048, "data"),
        ):
            (extent,) = image.extents(sector, 1)
            assert str(extent.source) == source
            if extent.file_offset is not None:
                data = file.read_at(extent.file_offset, 512)
                assert data == bytes(built.model[sector * 512 : sector * 512 + 512])


def test_a_dropped_block_leaves_no_bits_that_would_come_back_with_it(tmp_path: Path) -> None:
    built = SCENES["vhdx, differencing"].make(tmp_path)
    compacted(built.path)
    with roots_of(tmp_path).open(str(built.path)) as file:
        image = open_image(file)
        offset = image.bat.at(image.geometry.bitmap_index(0)) >> 20 << 20  # type: ignore[attr-defined]
        for block in (0, 2, 3, 4, 8):
            assert not any(file.read_at(offset + block * 256, 256))


def test_blktaps_map_stays_true(tmp_path: Path) -> None:
    built = SCENES["blktap"].make(tmp_path)
    compacted(built.path)
    with roots_of(tmp_path).open(str(built.path)) as file:
        image = open_image(file)
        batmap = find_batmap(image)  # type: ignore[arg-type]
        assert batmap is not None
        data, problem = map_of(image, batmap)  # type: ignore[arg-type]
    assert problem is None
    assert data is not None
    assert data[:2] == bytes([0b10000110, 0b11010000])


def test_a_disk_with_two_names_is_refused(family: Family, tmp_path: Path) -> None:
    built = family.dynamic(tmp_path, family.file("disk"), content=[(0, noise(1, 8))])
    os.link(built.path, tmp_path / "other")
    assert refusal(built.path).code == "E_HARD_LINKS"


def test_a_fixed_disk_has_nothing_to_give_back(family: Family, tmp_path: Path) -> None:
    built = family.fixed(tmp_path, family.file("disk"), size=4 * MIB, content=[(0, noise(1, 8))])
    error = refusal(built.path)
    assert error.code == "E_FIXED"
    assert "always has its full size" in error.message


def test_blocks_that_share_one_place_are_refused(tmp_path: Path) -> None:
    """bad-input A22, A28."""
    built = SCENES["dynamic"].make(tmp_path)
    worlds.let_two_blocks_share_a_place(built.path)
    before = worlds.snapshot(tmp_path)
    assert refusal(built.path).code == "E_BAT_OVERLAP"
    assert worlds.snapshot(tmp_path) == before


@pytest.mark.parametrize("sector", [1, 3, 0x7FFFFFFF])
def test_entries_that_lead_nowhere_are_refused(tmp_path: Path, sector: int) -> None:
    """bad-input A: a block over the headers, or outside of the file."""
    built = SCENES["dynamic"].make(tmp_path)
    built.patch(built.table_offset + 20, struct.pack(">I", sector))
    before = worlds.snapshot(tmp_path)
    assert refusal(built.path).code in ("E_BAT_IN_HEADER", "E_BAT_PAST_EOF")
    assert worlds.snapshot(tmp_path) == before


def test_a_log_that_waits_is_refused(tmp_path: Path) -> None:
    built = SCENES["vhdx, dynamic"].make(tmp_path)
    built.move_into_log(built.table_offset)  # type: ignore[attr-defined]
    before = worlds.snapshot(tmp_path)
    assert refusal(built.path).code == "E_LOG"
    assert worlds.snapshot(tmp_path) == before


def test_a_missing_parent_is_refused_because_nothing_can_be_compared(tmp_path: Path) -> None:
    built = SCENES["differencing"].make(tmp_path)
    (tmp_path / "parent.vhd").unlink()
    assert refusal(built.path).code == "E_PARENT_MISSING"


def test_a_block_that_cannot_be_read_is_told_by_its_sector(family: Family, tmp_path: Path) -> None:
    """bad-input F83: nobody takes it for zeros."""
    sector = 3 * family.small // 512
    content = [(sector, noise(1, 8))]
    disk = family.dynamic(
        tmp_path, family.file("disk"), size=8 * MIB, block_size=family.small, content=content
    )
    with unreadable_once(str(disk.path), 1):
        told = compact.plan(str(disk.path), roots_of(tmp_path)).refused
    assert told is not None
    assert (told.code, told.field, told.value) == ("E_IO", "LBA", sector)


def test_a_disk_changed_since_the_plan_is_not_touched(family: Family, tmp_path: Path) -> None:
    built = family.dynamic(tmp_path, family.file("disk"), content=[(0, zeros(8))])
    plan = planned(built.path)
    os.utime(built.path, ns=(1, 1))
    before = worlds.snapshot(tmp_path)
    with pytest.raises(ImageError) as raised:
        compact.apply(plan, roots_of(tmp_path), offline=True)
    assert raised.value.code == "E_CHANGED"
    assert worlds.snapshot(tmp_path) == before


def test_a_disk_in_use_is_not_touched(family: Family, tmp_path: Path) -> None:
    built = family.dynamic(tmp_path, family.file("disk"), content=[(0, zeros(8))])
    roots = roots_of(tmp_path)
    plan = planned(built.path)

    def compacting() -> None:
        with pytest.raises(ImageError) as raised:
            compact.apply(plan, roots_of(tmp_path), offline=True)
        assert raised.value.code == "E_LOCKED"

    # Another thread knows nothing of the locks that this one holds.
    with locks.hold(roots, [str(built.path)], job="other"), ThreadPoolExecutor(1) as threads:
        threads.submit(compacting).result()


def test_the_time_that_a_child_stores_stays(tmp_path: Path) -> None:
    """Else it would look as if the parent had been changed; any other time shows the change."""
    content = [(0, noise(1, 8)), (64, zeros(32)), (128, noise(2, 8))]
    base = build_dynamic(tmp_path, "base.vhd", size=8 * BLOCK, block_size=BLOCK, content=content)
    os.utime(base.path, ns=(10**18, 10**18))
    seconds = 10**9 - 946_684_800
    child = build_differencing(
        tmp_path, "child.vhd", base, content=[(8, noise(3, 8))], parent_timestamp=seconds
    )
    compacted(base.path)
    assert base.path.stat().st_mtime_ns == 10**18
    assert content_of(child.path) == child.sha256
    child.path.unlink()
    base.patch(base.table_offset, b"\xff\xff\xff\xff")  # one more block can be cut off
    os.utime(base.path, ns=(10**18, 10**18))
    compacted(base.path)
    assert base.path.stat().st_mtime_ns != 10**18


class Stops(Progress):
    """Asks to stop at the number-th question; counts them, and none comes while it matters."""

    def __init__(self, number: int = 0) -> None:
        self.left = number
        self.asked = 0
        self.committing = False

    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        assert not self.committing
        self.asked += 1
        self.left -= 1
        if self.left == 0:
            raise Cancelled

    def commit_starts(self) -> None:
        self.committing = True

    def commit_ends(self) -> None:
        self.committing = False


@pytest.fixture
def small_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("disks.engine.compaction.ROUND_BYTES", 1)


@pytest.mark.usefixtures("small_rounds")
def test_a_stop_at_any_place_leaves_a_valid_disk_and_running_it_again_goes_on(
    scene: Scene, tmp_path: Path
) -> None:
    """bad-input E79."""
    built = scene.make(tmp_path)
    original = built.path.read_bytes()
    count = Stops()
    compacted(built.path, progress=count)
    sizes = set()
    for number in range(1, count.asked + 1):
        built.path.write_bytes(original)
        with pytest.raises(Cancelled):
            compacted(built.path, progress=Stops(number))
        assert worlds.strays(tmp_path) == []
        assert errors_in(built.path) == []
        assert content_of(built.path) == built.sha256
        sizes.add(blocks_of(built.path))
        compacted(built.path)
        assert built.path.stat().st_size == scene.size(built, scene.left)
        assert content_of(built.path) == built.sha256
    assert len(sizes) >= 1


@pytest.mark.usefixtures("small_rounds")
def test_who_has_lost_the_work_writes_nothing_more(family: Family, tmp_path: Path) -> None:
    block, per = family.small, family.small // 512
    content = [(number * per, noise(number, 8)) for number in range(4)]
    content += [(per, zeros(per))]
    name = family.file("disk")
    built = family.dynamic(tmp_path, name, size=4 * block, block_size=block, content=content)
    record = Path(journal.sidecar_path(str(built.path), journal.UNDO))
    seen = []

    class Gone(Progress):
        def moved(self, count_bytes: int) -> None:
            if record.exists():
                seen.append((built.path.read_bytes(), record.read_bytes()))
                raise Lost

    with pytest.raises(Lost):
        compacted(built.path, progress=Gone())
    assert seen == [(built.path.read_bytes(), record.read_bytes())]
    rows = recover(str(tmp_path), roots_of(tmp_path))
    assert [row["action"] for row in rows] == ["undone"]
    assert (content_of(built.path), errors_in(built.path)) == (built.sha256, [])


@pytest.mark.usefixtures("small_rounds")
def test_each_round_alone_leaves_the_same_disk(family: Family, tmp_path: Path) -> None:
    block, per = family.small, family.small // 512
    content = [(number * per, noise(number, 8)) for number in range(12)]
    content += [(number * per, zeros(per)) for number in (1, 2, 5)]
    name = family.file("disk")
    built = family.dynamic(tmp_path, name, size=12 * block, block_size=block, content=content)
    seen = []

    class Looks(Progress):
        def commit_ends(self) -> None:
            seen.append((content_of(built.path), errors_in(built.path)))

    compacted(built.path, progress=Looks())
    assert seen == [(built.sha256, [])] * (1 + 3 + 1)  # the drops, three moves, the end
