"""bad-input F95: few open files, little memory, deep trees, crowded folders, many roots: work goes
on, or says why not."""

from __future__ import annotations

import itertools
import os
import resource
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from disks.engine.chain import open_chain
from disks.engine.errors import ImageError
from disks.operations import family as families
from disks.operations import inspection, journal, merge, root_folders
from disks.operations.headers import everything_below
from disks.operations.paths import Roots
from disks.operations.recover import recover
from disks.operations.storage_roots import Root
from disks.tests.builders import MIB, SECTOR, Family
from disks.tests.operations.crashing import (
    in_fork,
)
from disks.tests.operations.dying import DONE
from disks.tests.operations.worlds import content_of, noise, roots_of

FEW_FILES = 48
LITTLE_BYTES = 40 * MIB  # that may be added to what a process has


def limited(work: Callable[[], object]) -> int:
    """Run work in a process that may open only a few files more.

    The limit is one on descriptors' numbers, of which any may be taken already.
    """

    def few() -> None:
        taken = set(map(int, os.listdir("/proc/self/fd")))
        free = (number for number in itertools.count() if number not in taken)
        most = next(itertools.islice(free, FEW_FILES, None))
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        work()

    return in_fork(few)


def test_a_chain_longer_than_the_files_one_may_open_is_a_sentence(
    tmp_path: Path, family: Family
) -> None:
    """Not a chain that ends early, nor a bare errno."""
    disk = family.dynamic(tmp_path, family.file("0"), size=1024 * 1024, content=[(0, b"x" * 512)])
    for number in range(1, FEW_FILES + 20):
        disk = family.differencing(
            tmp_path, family.file(str(number)), disk, **dict(family.cheapest)
        )

    def read() -> None:
        with pytest.raises(ImageError) as told, open_chain(str(disk.path), roots_of(tmp_path)):
            pass
        assert told.value.code == "E_PARENT_UNREADABLE"
        assert "Too many open files" in told.value.message

    assert limited(read) == DONE
    with open_chain(str(disk.path), roots_of(tmp_path)) as chain:
        assert chain.sha256() == disk.sha256


def test_a_deep_tree_and_a_crowded_folder_need_few_open_files(
    tmp_path: Path, family: Family
) -> None:
    """Looking for children and recovery go through all of it."""
    deep = tmp_path
    for _ in range(FEW_FILES * 2):
        deep = deep / "d"
        deep.mkdir()
    parent = family.dynamic(tmp_path, family.file("parent"), size=1024 * 1024)
    child = family.differencing(deep, family.file("child"), parent, **dict(family.cheapest))
    for number in range(2000):
        (tmp_path / f"{number}.txt").touch()

    def look() -> None:
        roots = roots_of(tmp_path)
        found = families.look(roots, {str(parent.path): parent.identity}, children_of=None)
        assert found.of(str(parent.path)) == [str(child.path)]
        assert recover(str(tmp_path), roots) == []

    assert limited(look) == DONE


def _walk(path: str, roots: Roots) -> None:
    for _ in roots.walk(os.path.dirname(path)):
        pass


@pytest.mark.parametrize(
    "work",
    [
        _walk,
        lambda path, roots: journal.require_settled(roots, [path]),
        inspection.managed_by,
        lambda path, roots: recover(os.path.dirname(path), roots),
    ],
    ids=["walk", "ask for records", "ask who manages it", "recover"],
)
def test_the_names_of_a_crowded_folder_are_never_all_in_memory(
    crowded: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[str, Roots], object]
) -> None:
    """Of a million, either; what that comes to is measured by hand (docs/performance.md)."""
    monkeypatch.setattr(root_folders, "PORTION", 500)
    roots = roots_of(crowded)
    work(str(crowded / "7"), roots)  # what is loaded once is none of it
    tracemalloc.start()
    try:
        work(str(crowded / "7"), roots)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < MIB // 2


def test_places_that_overlap_are_looked_at_once(tmp_path: Path) -> None:
    """Remembered by their folders: of files there may be a million."""
    below = tmp_path / "below"
    below.mkdir()
    one, other = tmp_path / "one", below / "other"
    one.touch()
    other.touch()
    roots = roots_of(tmp_path)
    for places in ([tmp_path, below, one], [one, one, below, tmp_path], [other, below, tmp_path]):
        found = [each.path for each in everything_below(roots, map(str, places))]
        assert sorted(found) == sorted(map(str, (one, other)))


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crowded")
    for number in range(20_000):
        (folder / str(number)).touch()
    return folder


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "by copy"])
def test_a_merge_of_more_than_the_memory_one_may_have_goes_on(
    place: Path, family: Family, in_place: bool
) -> None:
    much = noise(1, 96 * MIB // SECTOR)
    base = family.dynamic(place, family.file("base"), size=128 * MIB, content=[(9, noise(2, 1))])
    leaf = family.differencing(place, family.file("leaf"), base, content=[(0, much)])

    def merged() -> None:
        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + LITTLE_BYTES, has + LITTLE_BYTES))
        with pytest.raises(MemoryError):
            bytearray(128 * MIB)
        roots = roots_of(place)
        plan = merge.plan(str(leaf.path), roots, into_parent=True, in_place=in_place)
        merge.apply(plan, roots, offline=True)

    assert in_fork(merged) == DONE
    assert content_of(base.path) == leaf.sha256


def test_a_path_is_found_below_one_of_a_thousand_roots(tmp_path: Path) -> None:
    declared = []
    for number in range(1000):
        folder = tmp_path / str(number)
        folder.mkdir()
        declared.append(Root(str(folder), windows_views=(f"C:\\VMs\\{number}",)))
    roots = Roots(declared)
    (tmp_path / "707" / "disk.vhd").write_bytes(b"found")
    with roots.open(roots.from_windows("C:\\VMs\\707\\disk.vhd")[0]) as file:
        assert file.read_at(0, 5) == b"found"
