"""A merge in place that finds no room: on the storage, or within what its format can reach."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from disks.engine.vhd import hold
from disks.operations import merge, merge_in_place
from disks.operations.progress import Stopped
from disks.operations.recover import recover
from disks.tests.builders import Family
from disks.tests.operations import worlds


def test_a_merge_goes_on_after_room_was_reserved_in_part(
    tmp_path: Path, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input F81: the parent stays a disk with a footer at its end.

    ext4 grows a file by what it could reserve before it met the end of the room; where the C
    library reserves by writing (NFS before 4.2), it is the same.
    """
    world = worlds.chain(tmp_path, family=family)
    planned = merge.plan(str(world.leaf.path), world.roots, into_parent=True, in_place=True)
    real = os.posix_fallocate
    base = os.stat(world.middle.path).st_ino
    full = [True]

    def reserve(fd: int, offset: int, length: int) -> None:
        if full[0] and os.fstat(fd).st_ino == base:
            real(fd, offset, length // 2 // 4096 * 4096)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(fd, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", reserve)
    with pytest.raises(Stopped):
        merge.apply(planned, world.roots, offline=True)
    assert worlds.errors_in(world.middle.path) == []
    assert worlds.content_of(world.leaf.path) == world.leaf.sha256
    assert merge_in_place.pending(world.roots, str(world.middle.path)) is not None
    full[0] = False
    assert [row["action"] for row in recover(str(world.folder), world.roots)] == ["finished"]
    assert worlds.content_of(world.middle.path) == world.leaf.sha256
    assert worlds.errors_in(world.middle.path) == []


def test_a_vhd_that_would_grow_out_of_the_reach_of_its_table_is_refused_before_anything_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found out half-way, it could neither go on nor be taken back."""
    world = worlds.chain(tmp_path)
    sectors = world.middle.path.stat().st_size // 512
    monkeypatch.setattr(hold, "MAX_FILE_SECTORS", sectors + 8)
    planned = merge.plan(str(world.leaf.path), world.roots, into_parent=True, in_place=True)
    assert planned.refused is not None
    assert planned.refused.code == "E_TOO_LARGE"
