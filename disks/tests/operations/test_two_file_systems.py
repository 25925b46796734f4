"""Two storage roots on two real file systems: a rename cannot do it, links lead across."""

from __future__ import annotations

from pathlib import Path

import pytest

from disks.engine.formats import open_image
from disks.engine.resolution import resolve
from disks.operations import copy_chain, move, recover, trash
from disks.operations.paths import Roots
from disks.operations.storage_roots import Root
from disks.tests.builders import Family
from disks.tests.operations.crashing import (
    in_fork,
    with_fault,
)
from disks.tests.operations.dying import DIED
from disks.tests.operations.worlds import (
    World,
    chain,
    content_of,
    errors_in,
    snapshot,
    strays,
)


@pytest.fixture
def here(disk_folder: Path) -> Path:
    return disk_folder


@pytest.fixture
def there(tmp_path: Path, here: Path) -> Path:
    assert tmp_path.stat().st_dev != here.stat().st_dev, "the tests need two file systems"
    return tmp_path


@pytest.fixture
def roots(here: Path, there: Path) -> Roots:
    return Roots(
        [
            Root(str(here), windows_views=("C:\\VMs",)),
            Root(str(there), windows_views=("\\\\nas\\vms",)),
        ]
    )


def parent_of(path: Path, roots: Roots) -> str | None:
    with roots.open(str(path)) as file:
        return resolve(open_image(file), str(path), roots).path


def moved(world: World, there: Path, roots: Roots) -> move.MovePlan:
    source = world.middle.path
    plan = move.plan(str(source), str(there / source.name), roots, relink=True)
    assert plan.refused is None, plan.refused
    assert plan.across
    return plan


def test_a_disk_moves_between_them_with_its_own_link_and_its_childrens(
    here: Path, there: Path, roots: Roots, family: Family
) -> None:
    world = chain(here, family=family)
    was, data = content_of(world.leaf.path), world.middle.path.read_bytes()
    done = move.apply(moved(world, there, roots), roots, offline=True)
    target = there / world.middle.path.name
    assert parent_of(target, roots) == str(world.base.path)
    assert parent_of(world.leaf.path, roots) == str(target)
    assert content_of(world.leaf.path, roots) == was
    assert errors_in(target) == errors_in(world.leaf.path) == []
    assert done["relinked"] == [str(world.leaf.path)]
    (kept,) = trash.list_trash(str(here), roots)
    assert Path(kept.entries[0].trash).read_bytes() == data
    assert strays(there) == []


@pytest.mark.parametrize("point", ["begin:3", "commit:1", "commit:2", "forward:1", "forward:6"])
def test_killed_on_the_way_it_is_either_here_or_there(
    here: Path, there: Path, roots: Roots, family: Family, point: str
) -> None:
    """The record lies on the one, the original and its trash on the other."""
    world = chain(here, family=family)
    was = content_of(world.leaf.path)
    target = there / world.middle.path.name

    def go() -> None:
        move.apply(moved(world, there, roots), roots, offline=True)

    assert in_fork(with_fault(f"{point}:kill", go)) == DIED
    for folder in (there, here):
        recover.recover(str(folder), roots)
    assert content_of(world.leaf.path, roots) == was
    assert target.exists() != world.middle.path.exists()
    assert strays(there) == strays(here) == []


def test_a_chain_is_copied_to_the_other_and_reads_there_by_itself(
    here: Path, there: Path, roots: Roots, family: Family
) -> None:
    world = chain(here, family=family)
    was, before = content_of(world.leaf.path), snapshot(here)
    plan = copy_chain.plan(str(world.leaf.path), str(there), roots, whole=True)
    assert plan.refused is None, plan.refused
    copy_chain.apply(plan, roots)
    assert snapshot(here) == before
    alone = Roots([Root(str(there))])
    assert content_of(there / world.leaf.path.name, alone) == was
    assert strays(there) == []
