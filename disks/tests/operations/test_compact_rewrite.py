"""Compacting by rewriting: what goes, what stays, and that content never changes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from disks.engine.errors import ImageError
from disks.engine.formats import open_image
from disks.operations import compact
from disks.operations.verdicts import likely, spread
from disks.tests.builders import (
    SECTOR,
    build_differencing,
    build_dynamic,
    build_fixed,
    seven_zip_sha256,
)
from disks.tests.operations import worlds
from disks.tests.operations.worlds import BLOCK, KIB, content_of, errors_in, noise, roots_of, zeros

needs_7z = pytest.mark.skipif(
    not (shutil.which("7zz") or shutil.which("7z")), reason="7-Zip is not installed"
)
PER_BLOCK = BLOCK // SECTOR


def compacted(path: Path, **options: Any) -> dict[str, Any]:
    roots = roots_of(path.parent)
    plan = compact.plan(str(path), roots, in_place=False)
    assert plan.refused is None, plan.refused
    done = compact.apply(plan, roots, offline=True, job="9", token=1, **options)
    assert done["file_size_after_bytes"] == min(plan.predicted_size_bytes, plan.file_size_bytes)
    assert worlds.strays(path.parent) == []
    return done


def blocks_of(path: Path) -> int:
    with roots_of(path.parent).open(str(path)) as file:
        return open_image(file).blocks_allocated()


def header_of(path: Path) -> dict[str, Any]:
    """Everything that must survive a compaction, as the file itself says it."""
    with roots_of(path.parent).open(str(path)) as file:
        image = open_image(file)
        link = image.recorded_link() if image.parent is not None else None
        parent = image.parent
        locators = [(one.code, one.path, one.raw) for one in parent.locators] if parent else []
        return {
            "identity": image.identity,
            "traits": image.copy_traits(),
            "block": image.block_size_bytes,
            "name": parent.name if parent else None,
            "timestamp": parent.timestamp if parent else None,
            "locators": sorted(locators),
            "link": bool(link),
        }


@needs_7z
def test_a_dynamic_disk_loses_its_blocks_of_zeros(tmp_path: Path) -> None:
    disk = build_dynamic(
        tmp_path,
        "disk.vhd",
        size=10 * BLOCK,
        block_size=BLOCK,
        content=[(0, noise(1, 40)), (2 * PER_BLOCK, zeros(4 * PER_BLOCK)), (300, noise(2, 3))],
        allocate=[8],
    )
    before, size = header_of(disk.path), disk.path.stat().st_size
    done = compacted(disk.path)
    assert blocks_of(disk.path) == 3
    assert done["file_size_before_bytes"] == size
    assert done["file_size_after_bytes"] == disk.path.stat().st_size < size
    assert done["blocks_left_out"] == 4
    assert header_of(disk.path) == before
    assert content_of(disk.path) == seven_zip_sha256(disk.path) == disk.sha256
    assert errors_in(disk.path) == []


@pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed")
def test_qemu_reads_a_compacted_disk_as_before(tmp_path: Path) -> None:
    disk = build_dynamic(
        tmp_path,
        "disk.vhd",
        size=1024 * KIB,
        block_size=64 * KIB,
        content=[(0, noise(1, 40)), (512, zeros(512)), (1500, noise(2, 99))],
    )
    compacted(disk.path)
    raw = tmp_path / "raw"
    raw.write_bytes(disk.model)
    vpc = f"driver=vpc,force_size_calc=current_size,file.filename={disk.path}"
    subprocess.run(
        ["qemu-img", "compare", "--image-opts", vpc, f"driver=raw,file.filename={raw}"],
        check=True,
        capture_output=True,
    )


@needs_7z
def test_a_child_loses_only_what_equals_its_parents_content(tmp_path: Path) -> None:
    """A held zero sector over parent data stays; one over zeros or equal data may go."""
    base = build_dynamic(tmp_path, "base.vhd", size=8 * BLOCK, block_size=BLOCK,
                         content=[(0, noise(1, 3 * PER_BLOCK))])  # fmt: skip
    same = bytes(base.model[: 5 * SECTOR])
    child = build_differencing(
        tmp_path,
        "child.vhd",
        base,
        content=[
            (0, same),  # block 0: equal to the parent, goes
            (PER_BLOCK, zeros(4)),  # block 1: zeros that hide the parent's data, stay
            (5 * PER_BLOCK, zeros(PER_BLOCK)),  # block 5: zeros over zeros, go
            (6 * PER_BLOCK, noise(2, 1)),  # block 6: data, stays
        ],
        allocate=[7],  # nothing held, goes
    )
    before = header_of(child.path)
    done = compacted(child.path)
    assert blocks_of(child.path) == 2
    assert done["replaced"]
    assert header_of(child.path) == before
    assert content_of(child.path) == seven_zip_sha256(child.path) == child.sha256
    assert errors_in(child.path) == []


def test_a_difference_in_the_last_sector_keeps_a_block(tmp_path: Path) -> None:
    base = build_dynamic(tmp_path, "base.vhd", size=4 * 256 * KIB, block_size=256 * KIB,
                         content=[(0, noise(1, 512))])  # fmt: skip
    changed = bytearray(base.model[: 256 * KIB])
    changed[-1] ^= 1
    child = build_differencing(
        tmp_path, "child.vhd", base, content=[(0, bytes(changed)), (512, zeros(512))]
    )
    compacted(child.path)
    assert blocks_of(child.path) == 1
    assert content_of(child.path) == child.sha256


def test_a_larger_child_is_compared_with_zeros_beyond_its_parent(tmp_path: Path) -> None:
    base = build_dynamic(tmp_path, "base.vhd", size=2 * BLOCK, block_size=BLOCK,
                         content=[(0, noise(1, 64))])  # fmt: skip
    child = build_differencing(
        tmp_path, "child.vhd", base, size=6 * BLOCK,
        content=[(3 * PER_BLOCK, zeros(PER_BLOCK)), (5 * PER_BLOCK, noise(2, 4))],
    )  # fmt: skip
    compacted(child.path)
    assert blocks_of(child.path) == 1
    assert content_of(child.path) == child.sha256


_pieces = st.lists(
    st.tuples(st.integers(0, 255), st.integers(1, 48), st.sampled_from(["noise", "zero", "same"])),
    max_size=8,
)


@given(base_runs=_pieces, child_runs=_pieces, blocks=st.sampled_from([(512, 4096), (16384, 4096)]))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_content_never_changes(
    tmp_path: Path,
    base_runs: list[tuple[int, int, str]],
    child_runs: list[tuple[int, int, str]],
    blocks: tuple[int, int],
) -> None:
    folder = tmp_path / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()

    def content(runs: list[tuple[int, int, str]], under: bytes) -> list[tuple[int, bytes]]:
        made = []
        for first, wanted, kind in runs:
            count = min(wanted, 256 - first)
            data = {
                "noise": noise(first, count),
                "zero": zeros(count),
                "same": under[first * SECTOR : (first + count) * SECTOR],
            }[kind]
            made.append((first, bytes(data)))
        return made

    empty = bytes(256 * SECTOR)
    base = build_dynamic(folder, "base.vhd", size=len(empty), block_size=blocks[0],
                         content=content(base_runs, empty))  # fmt: skip
    child = build_differencing(folder, "child.vhd", base, block_size=blocks[1],
                               content=content(child_runs, bytes(base.model)))  # fmt: skip
    compacted(child.path)
    assert content_of(child.path) == child.sha256
    assert errors_in(child.path) == []
    compacted(base.path)
    assert content_of(base.path) == base.sha256
    assert content_of(child.path) == child.sha256
    assert errors_in(base.path) == []


def test_every_locator_of_the_link_is_kept(tmp_path: Path) -> None:
    base = build_dynamic(tmp_path, "base.vhd", size=4 * BLOCK, block_size=BLOCK)
    child = build_differencing(
        tmp_path,
        "child.vhd",
        base,
        locators={
            "MacX": "file://./base.vhd",
            "W2ku": "D:\\else\\base.vhd",
            "W2ru": ".\\base.vhd",
        },
        parent_timestamp=12345,
        content=[(0, zeros(PER_BLOCK))],
    )
    before = header_of(child.path)
    assert compacted(child.path)["replaced"]
    assert header_of(child.path) == before
    assert content_of(child.path) == child.sha256


def test_nothing_to_gain_leaves_the_file_alone(tmp_path: Path) -> None:
    disk = build_dynamic(tmp_path, "disk.vhd", size=4 * BLOCK, block_size=BLOCK,
                         content=[(0, noise(1, 4 * PER_BLOCK))])  # fmt: skip
    before = worlds.snapshot(tmp_path)
    inode = disk.path.stat().st_ino
    done = compacted(disk.path)
    assert not done["replaced"]
    assert disk.path.stat().st_ino == inode
    assert worlds.snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda folder: build_fixed(folder, "disk.vhd"), "E_FIXED"),
        (
            lambda folder: build_dynamic(
                folder, "disk.vhd", footer={"saved_state": 1}, front={"saved_state": 1}
            ),
            "E_SAVED_STATE",
        ),
        (lambda folder: (folder / "disk.vhd").write_bytes(bytes(512)), "E_NO_FOOTER"),
    ],
)
def test_what_cannot_be_compacted_is_refused(tmp_path: Path, make: Any, code: str) -> None:
    """bad-input A2, A15."""
    make(tmp_path)
    before = worlds.snapshot(tmp_path)
    plan = compact.plan(str(tmp_path / "disk.vhd"), roots_of(tmp_path), in_place=False)
    assert plan.refused is not None
    assert plan.refused.code == code
    assert plan.as_dict()["refused"]["code"] == code
    with pytest.raises(ImageError):
        compact.apply(plan, roots_of(tmp_path), offline=True)
    assert worlds.snapshot(tmp_path) == before


def test_without_its_parent_a_child_is_never_compacted(tmp_path: Path) -> None:
    """bad-input D54."""
    base = build_dynamic(tmp_path, "base.vhd", size=4 * BLOCK, block_size=BLOCK)
    child = build_differencing(tmp_path, "child.vhd", base, content=[(0, zeros(PER_BLOCK))])
    base.path.rename(tmp_path / "gone")
    before = worlds.snapshot(tmp_path)
    plan = compact.plan(str(child.path), roots_of(tmp_path), in_place=False)
    assert plan.refused is not None
    assert plan.refused.code == "E_PARENT_MISSING"
    assert worlds.snapshot(tmp_path) == before


@pytest.mark.parametrize("victim", ["base.vhd", "child.vhd"])
def test_a_change_after_the_plan_is_noticed(tmp_path: Path, victim: str) -> None:
    """bad-input E73, E77: the parent counts too, for blocks are judged by it."""
    base = build_dynamic(tmp_path, "base.vhd", size=4 * BLOCK, block_size=BLOCK)
    child = build_differencing(tmp_path, "child.vhd", base, content=[(0, zeros(PER_BLOCK))])
    plan = compact.plan(str(child.path), roots_of(tmp_path), in_place=False)
    os.utime(tmp_path / victim, ns=(5, 5))
    before = worlds.snapshot(tmp_path)
    with pytest.raises(ImageError) as caught:
        compact.apply(plan, roots_of(tmp_path), offline=True)
    assert caught.value.code == "E_CHANGED"
    assert worlds.snapshot(tmp_path) == before


@pytest.mark.parametrize("stored", [True, False])
def test_the_time_is_put_back_only_if_a_child_stores_exactly_it(
    tmp_path: Path, stored: bool
) -> None:
    base = build_dynamic(tmp_path, "base.vhd", size=4 * BLOCK, block_size=BLOCK,
                         content=[(0, noise(1, 3)), (64, zeros(64))])  # fmt: skip
    seconds = 1_700_000_000
    os.utime(base.path, ns=(0, seconds * 10**9 + 5))
    since_2000 = seconds - 946_684_800
    build_differencing(
        tmp_path, "child.vhd", base, parent_timestamp=since_2000 if stored else since_2000 + 1
    )
    compacted(base.path)
    kept = base.path.stat().st_mtime_ns == seconds * 10**9 + 5
    assert kept is stored


def test_an_estimate_says_so_and_its_bounds_hold(tmp_path: Path) -> None:
    content = [(index * 8, noise(index, 8) if index % 3 else zeros(8)) for index in range(3000)]
    disk = build_dynamic(tmp_path, "disk.vhd", size=3000 * 4096, block_size=4096, content=content)
    roots = roots_of(tmp_path)
    exact = compact.plan(str(disk.path), roots, in_place=False)
    quick = compact.plan(str(disk.path), roots, time_budget_seconds=0.01, in_place=False)
    assert (exact.estimated, exact.blocks_kept) == (False, 2000)
    assert quick.estimated
    assert quick.as_dict()["estimated"] is True
    low, high = quick.size_bounds_bytes
    assert low <= exact.predicted_size_bytes <= high
    assert quick.why.startswith("about ")
    full = compact.plan(str(disk.path), roots, time_budget_seconds=60, in_place=False)
    assert (full.estimated, full.blocks_kept) == (False, 2000)
    assert full.predicted_size_bytes == exact.predicted_size_bytes


@pytest.mark.parametrize("total", [0, 1, 2, 3, 7, 64, 1000])
def test_samples_visit_every_block_once_and_spread(total: int) -> None:
    order = list(spread(total))
    assert sorted(order) == list(range(total))
    if total >= 64:
        assert max(order[:8]) - min(order[:8]) > total / 2


def test_wilson_bounds_are_never_outside_what_was_seen() -> None:
    assert likely(0, 0, 10) == (0, 10)
    assert likely(5, 10, 10) == (5, 5)
    low, high = likely(50, 100, 1000)
    assert 50 <= low < 500 < high <= 950


def test_blocks_that_share_one_place_are_refused_not_told_apart(tmp_path: Path) -> None:
    """bad-input A22, A28: compacting starts from a verified block allocation table only."""
    disk = build_dynamic(
        tmp_path,
        "d.vhd",
        size=8 * BLOCK,
        block_size=BLOCK,
        content=[(0, noise(1, 3)), (64, noise(2, 40)), (128, zeros(32))],
    )
    worlds.let_two_blocks_share_a_place(disk.path)
    plan = compact.plan(str(disk.path), roots_of(tmp_path), in_place=False)
    assert plan.refused is not None
    assert plan.refused.code == "E_BAT_OVERLAP"


def test_an_unusable_locator_is_named_before_anything_is_copied(tmp_path: Path) -> None:
    """bad-input B31: it is not the storage that fails."""
    base = build_dynamic(tmp_path, "base.vhd", size=8 * BLOCK, block_size=BLOCK)
    locators: list[tuple[str, str | bytes]] = [("W2ru", ".\\base.vhd"), ("W2ku", b"abc")]
    child = build_differencing(tmp_path, "c.vhd", base, locators=locators, content=[(0, zeros(9))])
    plan = compact.plan(str(child.path), roots_of(tmp_path), in_place=False)
    assert plan.refused is not None
    assert plan.refused.code == "E_LOCATOR_ENCODING"
