"""Links that could not be rewritten after the commit are a refusal of the plan before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from disks.operations import journal, merge, move
from disks.operations.merge_plan import CHILD
from disks.operations.recover import recover
from disks.tests.builders import MIB, VHDX, Family
from disks.tests.operations import worlds
from disks.tests.operations.test_merge_in_place_leaf_used import stopped

LONG = "n" * 240  # a name that a disk can have; that of its record would be 15 bytes longer


@pytest.fixture
def short_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on eCryptfs: the names of records do not fit where those of disks do."""
    monkeypatch.setattr(journal, "_LONGEST_NAME_BYTES", 255)


@pytest.fixture
def world(tmp_path: Path, family: Family, short_names: None) -> worlds.World:
    """The leaf's child has a long name."""
    world = worlds.chain(tmp_path, family=family, grandchild=True)
    assert world.grandchild is not None
    world.grandchild.path = world.grandchild.path.rename(tmp_path / family.file(LONG))
    return world


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "by copy"])
def test_a_merge_is_refused_below_which_a_child_has_too_long_a_name(
    tmp_path: Path, world: worlds.World, in_place: bool
) -> None:
    """bad-input F82: before anything is written, with the two ways out."""
    assert world.grandchild is not None
    before = worlds.snapshot(tmp_path)
    leaf, below = str(world.leaf.path), world.grandchild.path
    refused = merge.plan(leaf, world.roots, into_parent=True, in_place=in_place).refused
    assert refused is not None
    assert (refused.code, refused.file) == ("E_NAME", str(below))
    assert refused.advice == "Give the disk a shorter name first, or keep the child's name."
    assert worlds.snapshot(tmp_path) == before

    keeping = merge.plan(leaf, world.roots, into_parent=True, in_place=in_place, keep_name=CHILD)
    assert "to_repair" not in merge.apply(keeping, world.roots, offline=True)
    assert worlds.content_of(below) == world.grandchild.sha256


def test_a_disk_is_not_moved_away_from_a_child_with_too_long_a_name(
    tmp_path: Path, world: worlds.World, family: Family
) -> None:
    plan = move.plan(
        str(world.leaf.path), str(tmp_path / family.file("moved")), world.roots, relink=True
    )
    assert plan.refused is not None
    assert plan.refused.code == "E_NAME"
    assert "or let this child's link break" in plan.refused.advice


def test_a_disk_whose_link_changes_with_its_folder_gets_no_name_that_is_too_long(
    tmp_path: Path, family: Family, short_names: None
) -> None:
    world = worlds.chain(tmp_path, family=family)
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / family.file(LONG)
    refused = move.plan(str(world.leaf.path), str(target), world.roots, relink=True).refused
    assert refused is not None
    assert (refused.code, refused.file) == ("E_NAME", str(target))


def test_a_merge_that_was_stopped_waits_until_a_new_child_has_a_shorter_name(
    tmp_path: Path, family: Family, short_names: None
) -> None:
    world = worlds.chain(tmp_path, family=family)
    stopped(world.leaf.path, world.middle.path, world.roots)
    new = family.differencing(tmp_path, family.file(LONG), world.leaf)
    (row,) = recover(str(tmp_path), world.roots)
    assert row["action"] == "needs-attention"
    assert "It cannot end yet" in str(row["sentence"])
    short = new.path.rename(tmp_path / family.file("short"))
    assert [row["action"] for row in recover(str(tmp_path), world.roots)] == ["finished"]
    assert worlds.content_of(short) == new.sha256


def test_a_child_that_has_no_room_for_its_new_link_is_a_refusal_of_the_merge(
    tmp_path: Path,
) -> None:
    """What the format refuses is asked of it before the commit, too."""
    world = worlds.chain(tmp_path, family=VHDX)
    taken = (bytes(range(16)), 1, b"u" * (MIB - 64 * 1024 - 4096))
    below = VHDX.differencing(tmp_path, "below.vhdx", world.leaf, extra_items=[taken])
    refused = merge.plan(str(world.leaf.path), world.roots, into_parent=True).refused
    assert refused is not None
    assert (refused.code, refused.file) == ("E_VHDX_METADATA", str(below.path))
