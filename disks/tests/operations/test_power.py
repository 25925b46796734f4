"""The power cuts themselves: a death within the process is one, and nothing is remembered wrong."""

from __future__ import annotations

import gc
import os
import random
import shutil
from pathlib import Path

import pytest

from disks.operations import merge
from disks.tests.builders import Family
from disks.tests.operations import worlds
from disks.tests.operations.crashing import (
    in_fork,
    with_fault,
)
from disks.tests.operations.dying import DIED
from disks.tests.operations.frozen import Contents, Frozen
from disks.tests.operations.power import run_until


def _state(folder: Path) -> dict[str, int]:
    """Every name, those of locks, too, and the sizes of the disks: what chance does not choose.

    What our own files hold does: numbers of processes, of one digit more or less.
    """
    return {
        os.path.relpath(os.path.join(current, name), folder): (
            os.path.getsize(os.path.join(current, name)) if name.endswith((".vhd", ".vhdx")) else 0
        )
        for current, folders, names in os.walk(folder)
        for name in [*names, *folders]
        if not os.path.isdir(os.path.join(current, name)) or name == ".vdlock"
    }


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "by copy"])
def test_a_death_leaves_what_sigkill_leaves(place: Path, family: Family, in_place: bool) -> None:
    """What the dying do on their way out, rollbacks and freed locks, does not reach the storage."""
    model, folder, keep = place / "model", place / "run", place / "keep"
    worlds.chain(model, family=family, grandchild=True)
    gc.collect()
    open_files = os.listdir("/proc/self/fd")

    def fresh() -> None:
        for one in (folder, keep):
            shutil.rmtree(one, ignore_errors=True)
        keep.mkdir()
        worlds.copy_tree(model, folder)

    def work() -> None:
        roots = worlds.roots_of(folder)
        leaf = str(folder / family.file("leaf"))
        plan = merge.plan(leaf, roots, into_parent=True, in_place=in_place)
        merge.apply(plan, roots, offline=True, job="7", token=1)

    for number in range(2, 60, 9):
        fresh()
        assert in_fork(with_fault(f"*:{number}:kill", work)) == DIED
        killed = _state(folder)
        fresh()
        code, storage = run_until(number, work, keep)
        assert code == DIED
        assert storage is not None
        assert _state(folder) == killed, f"at point {number}"
        assert any(".vdlock/" in name for name in killed)
    assert os.listdir("/proc/self/fd") == open_files


def test_what_was_frozen_comes_back_whatever_was_done_to_it(tmp_path: Path) -> None:
    """Contents, holes, sizes, modes, times, names and inodes; many times within one clock tick."""
    folder, spare = tmp_path / "folder", tmp_path / "spare"
    folder.mkdir()
    spare.mkdir()
    chance = random.Random(5)
    paths = [folder / name for name in ("a", "b", "c")]
    for path in paths:
        with path.open("wb") as file:
            file.write(chance.randbytes(9000))
            file.seek(300_000)
            file.write(chance.randbytes(100_000))
    before = worlds.snapshot(folder)
    stats = [
        (one.st_ino, one.st_mtime_ns, one.st_mode, one.st_blocks) for one in map(os.stat, paths)
    ]
    frozen = Frozen((folder,), (spare,), Contents())
    for number in range(200):
        path = chance.choice(paths)
        with path.open("r+b") as file:
            if number % 3 == 0:
                file.truncate(chance.randrange(500_000))
            file.seek(chance.randrange(350_000))
            file.write(chance.randbytes(chance.randrange(1, 20_000)))
        if number % 5 == 0:
            os.chmod(path, 0o600)
        if number % 7 == 0:
            os.rename(path, folder / "d")
        (folder / "stranger").write_bytes(b"s")
        assert worlds.snapshot(folder) != before
        assert frozen.thaw()
        assert worlds.snapshot(folder) == before
        assert stats == [
            (one.st_ino, one.st_mtime_ns, one.st_mode, one.st_blocks) for one in map(os.stat, paths)
        ]
