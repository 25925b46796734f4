"""`disk recover --only-touched`, of a merge in place whose parent has other times since."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from disks.operations import merge
from disks.operations.progress import Cancelled, Progress, Stopped
from disks.tests.commandline.running import Disk
from disks.tests.operations import worlds


class StopsOnceItMoves(Progress):
    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        if total_bytes:
            raise Cancelled


def test_recover_asks_whether_the_parent_was_only_touched_and_takes_the_answer(
    disk: Disk, tmp_path: Path
) -> None:
    world = worlds.chain(tmp_path)
    plan = merge.plan(str(world.leaf.path), world.roots, into_parent=True, in_place=True)
    with pytest.raises(Stopped):
        merge.apply(plan, world.roots, offline=True, progress=StopsOnceItMoves())
    os.utime(world.middle.path, ns=(1, 1))
    refused = disk.json("recover", tmp_path)
    (row,) = refused.document["recovered"]
    assert (refused.code, row["code"]) == (1, "E_NEEDS_ATTENTION")
    assert "add --only-touched to “disk recover”" in row["sentence"]
    done = disk("recover", tmp_path, "--only-touched")
    assert (done.code, "was finished" in done.out) == (0, True)
    assert worlds.content_of(world.middle.path) == world.leaf.sha256
