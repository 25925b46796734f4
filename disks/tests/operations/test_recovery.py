"""What recovery makes of remains that need more than one look."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from disks.operations import merge
from disks.operations.paths import Roots
from disks.operations.recover import recover
from disks.tests.builders import build_differencing, build_dynamic
from disks.tests.operations.crashing import in_fork, with_fault
from disks.tests.operations.worlds import BLOCK, KIB, chain, content_of, noise, roots_of, strays


def merge_into_parent(leaf: Path | str, roots: Roots) -> None:
    plan = merge.plan(str(leaf), roots, into_parent=True)
    merge.apply(plan, roots, offline=True, job="42", token=1)


@pytest.mark.parametrize("write", range(1, 6))
def test_a_link_torn_while_a_merge_was_finished_is_healed_and_then_written(
    tmp_path: Path, write: int
) -> None:
    """bad-input F85, F86: the merge's record sorts before that of the half written child."""
    base = build_dynamic(
        tmp_path, "a.vhd", size=160 * KIB, block_size=BLOCK, content=[(0, noise(1, 70))]
    )
    leaf = build_differencing(tmp_path, "m.vhd", base, content=[(3, noise(2, 4))])
    below = build_differencing(tmp_path, "z.vhd", leaf, content=[(8, noise(3, 4))])
    roots = roots_of(tmp_path)
    fault = f"relink.header:{write}:torn"
    in_fork(with_fault(fault, lambda: merge_into_parent(leaf.path, roots)))
    recover(str(tmp_path), roots)
    assert content_of(below.path) == below.sha256
    assert not leaf.path.exists()
    assert strays(tmp_path) == []


def test_a_disk_written_after_the_crash_keeps_no_second_name_in_the_trash(tmp_path: Path) -> None:
    """bad-input F85: the link into the trash was made, then a machine ran."""
    world = chain(tmp_path)
    leaf = world.leaf.path
    in_fork(with_fault("forward.rename:1:kill", lambda: merge_into_parent(leaf, world.roots)))
    middle = world.middle.path
    assert middle.stat().st_nlink == 2
    os.utime(middle, ns=(1, 1))
    (row,) = [row for row in recover(str(tmp_path), world.roots) if row["action"] != "swept"]
    assert row["action"] == "undone"
    assert middle.stat().st_nlink == 1
    assert not (tmp_path / ".vdtrash").exists()
    assert content_of(leaf) == world.leaf.sha256


def test_a_disk_stays_part_of_a_job_whose_record_cannot_be_seen(tmp_path: Path) -> None:
    """bad-input F87: recovery of one folder alone does not call the whole job over."""
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    world = chain(here)
    locators = {"W2ru": "..\\here\\leaf.vhd"}
    below = build_differencing(there, "below.vhd", world.leaf, locators=locators)
    both = roots_of(tmp_path)
    in_fork(with_fault("forward.link:1:kill", lambda: merge_into_parent(world.leaf.path, both)))
    pointer = there / ".below.vhd.vdjob"
    (row,) = recover(str(there), roots_of(there))
    assert (row["action"], row["code"]) == ("needs-attention", "E_UNFINISHED")
    assert str(world.middle.path) in row["sentence"]
    assert pointer.exists()
    recover(str(tmp_path), both)
    assert not pointer.exists()
    assert content_of(below.path, both) == below.sha256
