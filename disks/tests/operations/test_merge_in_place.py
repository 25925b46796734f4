"""A merge in place gives the parent exactly what the child read as, sector by sector."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from disks.operations import merge, trash
from disks.operations.progress import Progress
from disks.operations.trash import restoring
from disks.tests.builders import FAMILIES, VHD, Family, seven_zip_sha256
from disks.tests.operations import worlds
from disks.tests.operations.kinds import needs_7z

both = pytest.mark.parametrize("family", FAMILIES, ids=[one.name for one in FAMILIES])
_SHAPES = [
    {},
    {"base_type": "fixed"},
    {"leaf_block": 2, "middle_block": 1},
    {"block": 2, "middle_block": 1, "leaf_block": 1},
]


def _options(family: Family, shape: dict[str, object]) -> dict[str, object]:
    unit = worlds.BLOCK if family is VHD else worlds.MIB
    return {key: unit * value if isinstance(value, int) else value for key, value in shape.items()}


@both
@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize(
    ("down_to", "keep_name"), list(itertools.product(["middle", "base"], ["parent", "child"]))
)
def test_the_merged_disk_and_its_children_read_as_the_leaf_did(
    tmp_path: Path, family: Family, shape: dict[str, object], down_to: str, keep_name: str
) -> None:
    world = worlds.chain(tmp_path, family=family, grandchild=True, **_options(family, shape))
    assert world.grandchild is not None
    wanted = world.leaf.sha256
    below = world.grandchild.sha256
    kept = world.path(family.file(down_to))
    inode = os.stat(kept).st_ino
    plan = merge.plan(
        str(world.leaf.path),
        world.roots,
        base=kept,
        into_parent=True,
        in_place=True,
        keep_name=keep_name,
    )
    assert plan.refused is None
    done = merge.apply(plan, world.roots, offline=True)
    assert os.stat(plan.output).st_ino == inode, "the parent's own file is the merged disk"
    assert worlds.content_of(plan.output) == wanted
    assert worlds.content_of(world.grandchild.path) == below
    assert worlds.errors_in(plan.output) == []
    assert done["bytes_written"] <= plan.amount.held_bytes
    assert worlds.strays(tmp_path) == []


@needs_7z
@both
def test_another_program_reads_the_merged_disk(tmp_path: Path, family: Family) -> None:
    world = worlds.chain(tmp_path, family=family)
    base = str(world.base.path)
    plan = merge.plan(str(world.leaf.path), world.roots, base=base, into_parent=True, in_place=True)
    merge.apply(plan, world.roots, offline=True)
    assert seven_zip_sha256(world.base.path) == world.leaf.sha256


class SizeOf(Progress):
    """The largest that a file was when progress was told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size_bytes = 0

    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        if self.path.exists():
            self.size_bytes = max(self.size_bytes, self.path.stat().st_size)


@both
def test_the_dry_run_says_how_much_room_the_journal_takes(tmp_path: Path, family: Family) -> None:
    """As much as the merge can need: that of a small one is small."""
    world = worlds.chain(tmp_path, family=family)
    plan = merge.plan(str(world.leaf.path), world.roots, into_parent=True, in_place=True)
    assert plan.measured is not None
    journal = SizeOf(tmp_path / f".{family.file('middle')}.vdpages")
    grown = os.stat(world.middle.path).st_size
    merge.apply(plan, world.roots, offline=True, progress=journal)
    grown = os.stat(world.middle.path).st_size - grown
    assert 0 < journal.size_bytes < 3 * 1024 * 1024
    room = plan.as_dict()["free_space_needed_bytes"]
    assert room == plan.measured.growth_bytes + journal.size_bytes >= grown + journal.size_bytes


@both
def test_the_dry_run_says_what_a_copy_would_need(tmp_path: Path, family: Family) -> None:
    world = worlds.chain(tmp_path, family=family)
    here, copied = (
        merge.plan(str(world.leaf.path), world.roots, into_parent=True, in_place=in_place)
        for in_place in (True, False)
    )
    assert here.as_dict()["by_copy_bytes"] >= copied.as_dict()["free_space_needed_bytes"] > 0


def test_a_leaf_larger_than_its_parent_makes_it_grow(tmp_path: Path) -> None:
    world = worlds.chain(tmp_path, leaf_size=250 * 1024)
    plan = merge.plan(str(world.leaf.path), world.roots, base=str(world.base.path),
                      into_parent=True, in_place=True)  # fmt: skip
    merge.apply(plan, world.roots, offline=True)
    assert worlds.content_of(world.base.path) == world.leaf.sha256
    assert worlds.errors_in(world.base.path) == []


@both
def test_a_parent_with_another_name_is_refused(tmp_path: Path, family: Family) -> None:
    world = worlds.chain(tmp_path, family=family)
    os.link(world.middle.path, tmp_path / "second-name")
    plan = merge.plan(str(world.leaf.path), world.roots, into_parent=True, in_place=True)
    assert plan.refused is not None
    assert plan.refused.code == "E_HARD_LINKS"


@both
def test_what_was_merged_in_place_is_not_brought_back(tmp_path: Path, family: Family) -> None:
    world = worlds.chain(tmp_path, family=family)
    plan = merge.plan(str(world.leaf.path), world.roots, into_parent=True, in_place=True)
    merge.apply(plan, world.roots, offline=True)
    (put_away,) = trash.list_trash(str(tmp_path), world.roots)
    refusal = restoring.restore_refusal(world.roots, put_away)
    assert refusal is not None
    assert "is a part of that disk now" in refusal.message
