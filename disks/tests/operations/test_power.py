"""The power cuts themselves: a death within the process is one, and nothing is remembered wrong."""

from __future__ import annotations

import gc
import itertools
import os
import pickle
import random
import shutil
from pathlib import Path

import pytest

from disks.engine import faults
from disks.operations import merge
from disks.operations.recover import recover
from disks.tests.builders import Family
from disks.tests.operations import worlds
from disks.tests.operations.crashing import (
    in_fork,
    with_fault,
)
from disks.tests.operations.dying import DIED, Work
from disks.tests.operations.frozen import Contents, Frozen
from disks.tests.operations.moments import Run, left_by_deaths
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


class Merge:
    """A merge into the parent, each time of fresh copies of a chain in the same folder."""

    def __init__(self, place: Path, family: Family, *, in_place: bool) -> None:
        self.family, self.in_place = family, in_place
        self.model, self.folder, self.keep = place / "model", place / "run", place / "keep"
        worlds.chain(self.model, family=family, grandchild=True)

    def fresh(self) -> Work:
        for one in (self.folder, self.keep):
            shutil.rmtree(one, ignore_errors=True)
        self.keep.mkdir()
        worlds.copy_tree(self.model, self.folder)
        return self.work

    def work(self) -> None:
        roots = worlds.roots_of(self.folder)
        leaf = str(self.folder / self.family.file("leaf"))
        plan = merge.plan(leaf, roots, into_parent=True, in_place=self.in_place)
        merge.apply(plan, roots, offline=True, job="7", token=1)


@pytest.fixture(params=[True, False], ids=["in place", "by copy"])
def merging(request: pytest.FixtureRequest, place: Path, family: Family) -> Merge:
    return Merge(place, family, in_place=request.param)


def test_a_death_leaves_what_sigkill_leaves(merging: Merge) -> None:
    """What the dying do on their way out, rollbacks and freed locks, does not reach the storage."""
    gc.collect()
    open_files = os.listdir("/proc/self/fd")
    brought_back = {}
    for number in left_by_deaths(merging.folder, merging.fresh(), every=9):
        brought_back[number] = _state(merging.folder)
        recover(str(merging.folder), worlds.roots_of(merging.folder))  # and all is changed again
    for number, state in itertools.islice(brought_back.items(), 1, 7):
        assert in_fork(with_fault(f"*:{number}:kill", merging.fresh())) == DIED
        killed = _state(merging.folder)
        assert state == killed, f"at point {number}"
        code, storage = run_until(number, merging.fresh(), merging.keep)
        assert code == DIED
        assert storage is not None
        assert _state(merging.folder) == killed, f"at point {number}"
        assert any(".vdlock/" in name for name in killed)
    assert os.listdir("/proc/self/fd") == open_files


@pytest.mark.parametrize("kind", ["kill", "torn"])
def test_a_moment_is_byte_for_byte_what_sigkill_leaves(merging: Merge, kind: str) -> None:
    """Names, inodes, contents, holes, modes and times: told by the process that dies then.

    (Half of a write is done twice here, so its time is another.)
    """
    told, times = merging.keep / "told", kind != "torn"
    work, dies_at = merging.work, 0

    def dies() -> None:
        run = Run(merging.folder, merging.keep, kind == "torn", every=dies_at - 1)

        def see(event: faults.Event) -> None:
            run.see(event)
            if run.passed == dies_at:
                told.write_bytes(pickle.dumps(run.moments[dies_at].held(times=times)))

        faults.watch(see)
        faults.install(faults.Fault("*", dies_at, kind))
        work()

    for dies_at in range(3, 60, 7):
        work = merging.fresh()
        assert in_fork(dies) == DIED
        left = Frozen((merging.folder,), (), Contents()).held(times=times)
        assert pickle.loads(told.read_bytes()) == left, f"at point {dies_at}"


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
