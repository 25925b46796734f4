"""Merge and compact disks that Windows made."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from disks.engine.formats import open_image
from disks.operations import compact, merge
from disks.operations.trash import restoring
from disks.tests.builders import seven_zip, seven_zip_sha256
from disks.tests.operations.worlds import content_of, errors_in, roots_of

CONTENT = "b7922a46a6b08fa4f4fc0c51a25d5587d1d49f15cfade45ca740dd07110ae144"
DYNAMIC = "8b10b52e3d1e76075d05a5101a6536b9fa8376a5b8f7c22f502d0987d165c876"


@pytest.fixture
def windows(corpus: Path, tmp_path: Path) -> Path:
    """A folder of its own with the parent, its child and a dynamic disk."""
    for name in ("ntfs-parent.vhd", "ntfs-differential.vhd", "ntfs-dynamic.vhd"):
        shutil.copy(next(corpus.rglob(name)), tmp_path)
    return tmp_path


def reads_as(path: Path, expected: str) -> None:
    assert content_of(path) == expected
    assert errors_in(path) == []
    if seven_zip():
        assert seven_zip_sha256(path) == expected


@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
def test_merged_to_a_new_disk_and_compacted(windows: Path, kind: str) -> None:
    roots = roots_of(windows)
    new = windows / "merged.vhd"
    leaf = str(windows / "ntfs-differential.vhd")
    merge.apply(merge.plan(leaf, roots, to=str(new), disk_type=kind), roots)
    reads_as(new, CONTENT)
    if kind == "dynamic":
        compact.apply(compact.plan(str(new), roots, in_place=False), roots, offline=True)
        reads_as(new, CONTENT)


@pytest.mark.parametrize("name", ["parent", "child"])
def test_merged_into_the_fixed_parent_and_back(windows: Path, name: str) -> None:
    roots = roots_of(windows)
    leaf, parent = windows / "ntfs-differential.vhd", windows / "ntfs-parent.vhd"
    before = leaf.read_bytes(), parent.read_bytes()
    plan = merge.plan(str(leaf), roots, into_parent=True, keep_name=name)
    done = merge.apply(plan, roots, offline=True)
    reads_as(Path(done["output"]), CONTENT)
    restoring.restore(done["trash"], roots, offline=True)
    assert (leaf.read_bytes(), parent.read_bytes()) == before
    reads_as(leaf, CONTENT)


def test_the_child_and_a_dynamic_disk_are_compacted(windows: Path) -> None:
    roots = roots_of(windows)
    for name, expected in (("ntfs-differential.vhd", CONTENT), ("ntfs-dynamic.vhd", DYNAMIC)):
        path = windows / name
        with roots.open(str(path)) as file:
            image = open_image(file)
            identity, parent = image.identity, image.parent
        compact.apply(compact.plan(str(path), roots, in_place=False), roots, offline=True)
        reads_as(path, expected)
        with roots.open(str(path)) as file:
            image = open_image(file)
            assert image.identity == identity
            if parent is not None:
                assert image.parent is not None
                assert {one.code: one.path for one in image.parent.locators} == {
                    one.code: one.path for one in parent.locators
                }
                assert image.parent.name == parent.name
