"""Deleting a disk: into the trash, with its dependants named, and back again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from disks.engine.errors import ImageError
from disks.operations import delete, locks, trash
from disks.operations.trash import manifests, restoring
from disks.tests.builders import Family
from disks.tests.operations import worlds
from disks.tests.operations.worlds import chain, content_of, roots_of, snapshot


def test_a_leaf_goes_to_the_trash_and_comes_back(tmp_path: Path, family: Family) -> None:
    world = chain(tmp_path, family=family)
    before = snapshot(tmp_path)
    roots = world.roots
    plan = delete.plan(str(world.leaf.path), roots)
    done = delete.apply(plan, roots, offline=True, job="12", token=1)
    assert not world.leaf.path.exists()
    assert worlds.strays(tmp_path) == []
    (kept,) = trash.list_trash(str(tmp_path), roots)
    assert done["trash"] == [kept.folder] == [str(tmp_path / ".vdtrash" / "job-12")]
    assert (kept.kind, kept.state) == ("delete", manifests.COMPLETE)
    assert [entry.original for entry in kept.entries] == [str(world.leaf.path)]
    restoring.restore(kept.folder, roots, offline=True)
    assert snapshot(tmp_path) == before
    assert content_of(world.leaf.path)


def test_children_and_those_below_them_are_named(tmp_path: Path, family: Family) -> None:
    world = chain(tmp_path, family=family, grandchild=True)
    assert world.grandchild is not None
    before = snapshot(tmp_path)
    plan = delete.plan(str(world.middle.path), world.roots)
    document = plan.as_dict()
    assert document["affected_children"] == [str(world.leaf.path)]
    assert document["descendants"] == [str(world.grandchild.path)]
    assert document["refused"]["code"] == "E_CHILDREN"
    assert document["refused"]["message"] == (
        f"Deleting {world.middle.path} breaks 1 child, and 1 further below: {world.leaf.path}."
    )
    assert document["refused"]["advice"] == (
        "Delete or merge them first, or name every child that may be broken."
    )
    with pytest.raises(ImageError):
        delete.apply(plan, world.roots, offline=True)
    assert snapshot(tmp_path) == before


def test_it_goes_when_every_child_is_named(tmp_path: Path, family: Family) -> None:
    world = chain(tmp_path, family=family)
    family.differencing(tmp_path, family.file("sibling"), world.middle, **family.cheapest)
    sibling = str(tmp_path / family.file("sibling"))
    one = delete.plan(str(world.middle.path), world.roots, breaks=[sibling])
    assert one.refused is not None
    assert str(world.leaf.path) in one.refused.message
    assert sibling not in one.refused.message
    both = delete.plan(str(world.middle.path), world.roots, breaks=[sibling, str(world.leaf.path)])
    delete.apply(both, world.roots, offline=True)
    assert not world.middle.path.exists()
    (kept,) = trash.list_trash(str(tmp_path), world.roots)
    restoring.restore(kept.folder, world.roots, offline=True)
    assert content_of(world.leaf.path)


def test_a_child_made_meanwhile_is_noticed(tmp_path: Path, family: Family) -> None:
    world = chain(tmp_path, family=family)
    plan = delete.plan(str(world.leaf.path), world.roots)
    family.differencing(tmp_path, family.file("new"), world.leaf, **family.cheapest)
    before = snapshot(tmp_path)
    with pytest.raises(ImageError, match="got a child") as caught:
        delete.apply(plan, world.roots, offline=True)
    assert caught.value.code == "E_CHANGED"
    assert snapshot(tmp_path) == before


def test_a_disk_written_since_the_plan_is_not_deleted(tmp_path: Path, family: Family) -> None:
    world = chain(tmp_path, family=family)
    plan = delete.plan(str(world.leaf.path), world.roots)
    os.utime(world.leaf.path, ns=(1, 1))
    with pytest.raises(ImageError) as caught:
        delete.apply(plan, world.roots, offline=True)
    assert caught.value.code == "E_CHANGED"
    assert world.leaf.path.exists()


def test_a_damaged_disk_can_be_deleted_and_says_what_is_not_known(
    tmp_path: Path, family: Family
) -> None:
    damaged = tmp_path / family.file("damaged")
    damaged.write_bytes(bytes(700))
    plan = delete.plan(str(damaged), roots_of(tmp_path))
    assert plan.warnings[-1].startswith("The disk cannot be read (")
    delete.apply(plan, roots_of(tmp_path), offline=True)
    assert not damaged.exists()


def test_what_is_no_disk_is_not_ours_to_delete(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_bytes(bytes(700))
    plan = delete.plan(str(notes), roots_of(tmp_path))
    assert plan.refused is not None
    assert plan.refused.code == "E_NO_FOOTER"


def test_a_disk_that_another_job_holds_stays(tmp_path: Path, family: Family) -> None:
    world = chain(tmp_path, family=family)
    plan = delete.plan(str(world.leaf.path), world.roots)
    told, holds = os.pipe(), os.pipe()
    other = os.fork()
    if other == 0:
        with locks.hold(roots_of(tmp_path), [str(world.leaf.path)], job="other"):
            os.write(told[1], b"x")
            os.read(holds[0], 1)
        os._exit(0)
    os.read(told[0], 1)
    try:
        with pytest.raises(ImageError) as caught:
            delete.apply(plan, world.roots, offline=True)
    finally:
        os.write(holds[1], b"x")
        os.waitpid(other, 0)
    assert caught.value.code == "E_LOCKED"
    assert world.leaf.path.exists()


def test_a_managed_disk_asks_for_the_declaration(tmp_path: Path, family: Family) -> None:
    world = chain(tmp_path, family=family)
    name = f"{world.leaf.path.stem}.a{family.name}"
    checkpoint = world.leaf.path.rename(tmp_path / name)
    (tmp_path / "machine.vmcx").write_bytes(b"")
    plan = delete.plan(str(checkpoint), world.roots)
    assert plan.managers
    with pytest.raises(ImageError) as caught:
        delete.apply(plan, world.roots)
    assert caught.value.code == "E_MANAGED"
    assert checkpoint.exists()
    delete.apply(plan, world.roots, offline=True)
    assert not checkpoint.exists()


def test_a_read_only_root_is_not_written(tmp_path: Path, family: Family) -> None:
    world = chain(tmp_path, family=family)
    plan = delete.plan(str(world.leaf.path), roots_of(tmp_path, read_only=True))
    assert plan.refused is not None
    assert plan.refused.code == "E_READ_ONLY"
