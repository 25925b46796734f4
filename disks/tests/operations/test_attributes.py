"""Files that are marked never to be changed or renamed: told before a job passes its commit."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from disks.engine.errors import ImageError
from disks.operations import compact, delete, merge, move
from disks.tests.builders import Family
from disks.tests.operations import worlds

IMMUTABLE, APPEND_ONLY = 0x10, 0x20


def mark(patch: pytest.MonkeyPatch, marked: Path, attributes: int) -> None:
    """As `chattr` does, which takes the rights of root and a file system that knows it."""
    inode, real = marked.stat().st_ino, fcntl.ioctl

    def ioctl(fd: int, request: int, argument: Any = 0, *rest: Any) -> Any:
        if request != 0x80086601:
            return real(fd, request, argument, *rest)
        here = attributes if os.fstat(fd).st_ino == inode else 0x80000
        return here.to_bytes(4, "little") + bytes(4)

    patch.setattr(fcntl, "ioctl", ioctl)


def planned_merge(world: worlds.World, **options: Any) -> ImageError | None:
    base = str(world.base.path)
    plan = merge.plan(str(world.leaf.path), world.roots, base=base, into_parent=True, **options)
    return plan.refused


JOBS: dict[str, Callable[[worlds.World], ImageError | None]] = {
    "merge in place": lambda world: planned_merge(world, in_place=True),
    "merge by copy": planned_merge,
    "compact": lambda world: (
        compact.plan(str(world.leaf.path), world.roots, in_place=False).refused
    ),
    "delete": lambda world: delete.plan(str(world.leaf.path), world.roots).refused,
    "move": lambda world: (
        (
            move.plan(str(world.leaf.path), world.path(f"new{world.leaf.path.suffix}"), world.roots)
        ).refused
    ),
}


@pytest.mark.parametrize("attributes", [IMMUTABLE, APPEND_ONLY])
@pytest.mark.parametrize("job", JOBS)
def test_a_disk_that_cannot_be_renamed_keeps_a_job_from_beginning(
    tmp_path: Path, job: str, attributes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Met past the commit, the job could neither end nor be taken back."""
    world = worlds.chain(tmp_path)
    assert JOBS[job](world) is None
    mark(monkeypatch, world.leaf.path, attributes)
    refused = JOBS[job](world)
    assert refused is not None
    assert refused.code == "E_ACCESS"


def test_a_child_that_may_not_be_written_keeps_its_parent_from_another_name(
    tmp_path: Path, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its link is the last thing that a merge writes, when all is moved and nothing goes back."""
    world = worlds.chain(tmp_path, family=family, grandchild=True)
    assert world.grandchild is not None
    child, real = world.grandchild.path.name, os.access

    def access(path: Any, mode: int, **options: Any) -> bool:
        return real(path, mode, **options) and not (path == child and mode & os.W_OK)

    monkeypatch.setattr(os, "access", access)
    refused = planned_merge(world, in_place=True)
    assert refused is not None
    assert (refused.code, refused.file) == ("E_ACCESS", str(world.grandchild.path))
    assert planned_merge(world, in_place=True, keep_name="child") is None
