"""bad-input F95: few open files, deep trees, crowded folders: work goes on, or says why not."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from disks.engine.chain import open_chain
from disks.engine.errors import ImageError
from disks.operations import family as families
from disks.operations.recover import recover
from disks.tests.builders import Family
from disks.tests.operations.crashing import (
    in_fork,
)
from disks.tests.operations.dying import DONE
from disks.tests.operations.worlds import roots_of

FEW_FILES = 48


def limited(work: Callable[[], object]) -> int:
    """Run work in a process that may open only a few files more."""

    def few() -> None:
        most = max(map(int, os.listdir("/proc/self/fd"))) + FEW_FILES
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
