"""Every write, fsync, rename, link… of the copy jobs fails or kills, one after the other.

bad-input F81, F82, F84, F85 and E79: whatever breaks, the content read through the chain is
as before or the finished result, the files are sound, and recovery leaves nothing behind.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from disks.engine import faults
from disks.engine.errors import ImageError
from disks.operations import compact, convert, create, merge, trash
from disks.operations.paths import Roots
from disks.operations.recover import recover
from disks.tests.builders import MIB, VHDX, Family
from disks.tests.operations import worlds
from disks.tests.operations.worlds import BLOCK, KIB, chain, content_of, errors_in, noise, roots_of

MOST_POINTS = 400


Build = Callable[[Path, Family], None]
Work = Callable[[Path, Roots, Family], object]


@dataclass(frozen=True)
class Case:
    """build makes the files, work does the job; result says which disk then has the content."""

    build: Build
    work: Work
    readable: tuple[str, ...]  # the disks that must read as the leaf did, in either state
    result: str


def _chain(folder: Path, family: Family) -> None:
    chain(folder, family=family, grandchild=True)


def _two(folder: Path, family: Family) -> None:
    chain(folder, family=family)


def _named(folder: Path, family: Family, stem: str) -> str:
    return str(folder / family.file(stem))


def _into_parent(folder: Path, roots: Roots, family: Family) -> object:
    plan = merge.plan(_named(folder, family, "leaf"), roots, into_parent=True)
    return merge.apply(plan, roots, offline=True, job="7", token=1)


def _into_base_as_child(folder: Path, roots: Roots, family: Family) -> object:
    plan = merge.plan(
        _named(folder, family, "leaf"),
        roots,
        into_parent=True,
        base=_named(folder, family, "base"),
        keep_name="child",
    )
    return merge.apply(plan, roots, offline=True, job="7", token=1)


def _to_new(folder: Path, roots: Roots, family: Family) -> object:
    plan = merge.plan(_named(folder, family, "leaf"), roots, to=_named(folder, family, "new"))
    return merge.apply(plan, roots, offline=True, job="7", token=1)


def _flatten(folder: Path, roots: Roots, family: Family) -> object:
    source, target = _named(folder, family, "leaf"), _named(folder, family, "new")
    plan = convert.plan(source, target, roots, disk_type="fixed")
    return convert.apply(plan, roots, job="7", token=1)


def _to_raw(folder: Path, roots: Roots, family: Family) -> object:
    plan = convert.plan(_named(folder, family, "leaf"), str(folder / "new.raw"), roots)
    return convert.apply(plan, roots, job="7", token=1)


def _sparse(folder: Path, family: Family) -> None:
    folder.mkdir()
    content = [(0, noise(1, 40)), (64, worlds.zeros(96)), (200, noise(2, 9))]
    size, block = 160 * KIB, BLOCK
    if family is VHDX:
        content = [(0, noise(1, 40)), (2048, worlds.zeros(2048)), (6000, noise(2, 9))]
        size, block = 3 * MIB, MIB
    family.dynamic(folder, family.file("leaf"), size=size, block_size=block, content=content)


def _compact(folder: Path, roots: Roots, family: Family) -> object:
    plan = compact.plan(_named(folder, family, "leaf"), roots, in_place=False)
    return compact.apply(plan, roots, offline=True, job="7", token=1)


def _create_child(folder: Path, roots: Roots, family: Family) -> object:
    parent = _named(folder, family, "leaf")
    plan = create.plan(_named(folder, family, "new"), roots, parent=parent)
    return create.apply(plan, roots, job="7", token=1)


def _merged(folder: Path, family: Family) -> None:
    chain(folder, family=family, grandchild=True)
    _into_parent(folder, roots_of(folder), family)


def _restore(folder: Path, roots: Roots) -> object:
    found = trash.list_trash(str(folder), roots)
    # An interrupted restore may have brought everything back already.
    return trash.restore(found[0].folder, roots, offline=True) if found else None


CASES = {
    "into the parent": Case(_chain, _into_parent, ("leaf", "middle"), "middle"),
    "into the base, child's name": Case(_two, _into_base_as_child, ("leaf",), "leaf"),
    "to a new disk": Case(_two, _to_new, ("leaf",), "new"),
    "flatten into a fixed disk": Case(_two, _flatten, ("leaf",), "new"),
    "convert to a plain image": Case(_two, _to_raw, ("leaf",), "new.raw"),
    "compact": Case(_sparse, _compact, ("leaf",), "leaf"),
    "create a child": Case(_two, _create_child, ("leaf",), "new"),
}

pytestmark = pytest.mark.slow


class Prepared:
    """A folder built once and copied for each run; inodes differ, contents do not."""

    def __init__(self, case: Case, place: Path, family: Family) -> None:
        self.case = case
        self.family = family
        self.model = place / "model"
        case.build(self.model, family)
        self.expected = content_of(self.model / family.file("leaf"))
        self.below = None
        if (self.model / family.file("below")).exists():
            self.below = content_of(self.model / family.file("below"))
        self.before = worlds.snapshot(self.model)
        self.place = place / "run"

    def fresh(self) -> Path:
        shutil.rmtree(self.place, ignore_errors=True)
        worlds.copy_tree(self.model, self.place)
        return self.place

    def work(self, folder: Path) -> object:
        return self.case.work(folder, roots_of(folder), self.family)

    def check(self, *, finished: bool) -> bool:
        """After recovery: all as before, or all done. Returns whether it is done."""
        folder = self.place
        assert worlds.strays(folder) == []
        found = worlds.snapshot(folder)
        undo_records = {name for name in found if name.endswith(".vdundo")}
        done = {name: found[name] for name in found if name not in undo_records} != self.before
        assert done or not finished
        leaf = self.case.result if done else "leaf"
        name = leaf if leaf.endswith(".raw") else self.family.file(leaf)
        assert _read(folder / name) == self.expected
        for name in found:
            if name.endswith(f".{self.family.name}") and not name.startswith("."):
                assert errors_in(folder / name) == []
        if self.below:
            assert content_of(folder / self.family.file("below")) == self.below
        return done


def _read(path: Path) -> str:
    if path.suffix == ".raw":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return content_of(path)


def _in_child(work: Callable[[], object]) -> int:
    """Run work in a forked process; the way it ended, as waitpid says."""
    child = os.fork()
    if child == 0:
        code = 3
        try:
            work()
            code = 0
        except ImageError:
            code = 1
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def points_of(prepared: Prepared) -> int:
    """How many fault points one undisturbed run passes."""
    seen: list[str] = []
    folder = prepared.fresh()
    faults.watch(lambda event: seen.append(event.point))
    try:
        prepared.work(folder)
    finally:
        faults.watch(None)
    assert 5 < len(seen) < MOST_POINTS
    return len(seen)


@pytest.mark.parametrize("name", list(CASES))
def test_a_kill_at_every_point_is_undone_or_finished(
    place: Path, family: Family, name: str
) -> None:
    """bad-input F85, E79."""
    prepared = Prepared(CASES[name], place, family)
    outcomes = set()
    for number in range(1, points_of(prepared) + 1):
        folder = prepared.fresh()

        def work(number: int = number, folder: Path = folder) -> None:
            faults.install(faults.Fault("*", number, "kill"))
            prepared.work(folder)

        status = _in_child(work)
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL
        rows = recover(str(folder), roots_of(folder))
        assert all(row["action"] in ("finished", "undone", "swept") for row in rows), rows
        outcomes.add(prepared.check(finished=False))
        assert recover(str(folder), roots_of(folder)) == []
    assert outcomes == {False, True}


@pytest.mark.parametrize("kind", ["enospc", "eio"])
@pytest.mark.parametrize("name", list(CASES))
def test_an_error_at_every_point_leaves_the_old_or_the_new(
    place: Path, family: Family, name: str, kind: str
) -> None:
    """bad-input F81, F82, F84: full storage, or failing storage, at each operation."""
    prepared = Prepared(CASES[name], place, family)
    for number in range(1, points_of(prepared) + 1):
        folder = prepared.fresh()
        faults.install(faults.Fault("*", number, kind))
        failed = ""
        try:
            prepared.work(folder)
        except ImageError as error:
            failed = error.code
        finally:
            faults.install(None)
        assert failed in ("", "E_NOSPC", "E_IO"), failed
        recover(str(folder), roots_of(folder))
        prepared.check(finished=not failed)


@pytest.mark.parametrize("name", list(CASES))
def test_short_writes_are_continued(place: Path, family: Family, name: str) -> None:
    """bad-input F84."""
    prepared = Prepared(CASES[name], place, family)
    for number in range(1, 12):
        folder = prepared.fresh()
        faults.install(faults.Fault("write", number, "short"))
        try:
            prepared.work(folder)
        finally:
            faults.install(None)
        assert prepared.check(finished=True)


@pytest.mark.parametrize("point", [1, 2, 3, 5, 8, 13, 21])
def test_three_kills_during_recovery_do_no_harm(place: Path, family: Family, point: int) -> None:
    """bad-input F87."""
    prepared = Prepared(CASES["into the parent"], place, family)
    folder = prepared.fresh()
    total = points_of(prepared)
    folder = prepared.fresh()

    def work() -> None:
        faults.install(faults.Fault("*", total - 25, "kill"))
        prepared.work(folder)

    _in_child(work)
    for number in (point, point + 1, point + 2):

        def again(number: int = number) -> None:
            faults.install(faults.Fault("*", number, "kill"))
            recover(str(folder), roots_of(folder))

        _in_child(again)
    recover(str(folder), roots_of(folder))
    prepared.check(finished=False)


def test_a_source_written_after_the_crash_makes_recovery_undo(place: Path, family: Family) -> None:
    """bad-input F85: a machine was started between crash and recovery."""
    prepared = Prepared(CASES["into the parent"], place, family)
    undone = 0
    for number in range(1, points_of(prepared) + 1):
        folder = prepared.fresh()

        def work(number: int = number, folder: Path = folder) -> None:
            faults.install(faults.Fault("commit.fsync-folder", number, "kill"))
            prepared.work(folder)

        if os.WIFEXITED(_in_child(work)):
            break
        leaf = folder / family.file("leaf")
        data = leaf.read_bytes()
        os.utime(leaf, ns=(1, 1))
        rows = recover(str(folder), roots_of(folder))
        assert [row["action"] for row in rows if row["path"].endswith(family.file("middle"))] in (
            ["undone"], ["undone", "swept"],
        )  # fmt: skip
        assert leaf.read_bytes() == data
        assert content_of(leaf) == prepared.expected
        undone += 1
    assert undone >= 3


def test_a_kill_at_every_point_of_a_restore_is_continued(place: Path, family: Family) -> None:
    """bad-input F85, F87: restoring again goes on where it stopped."""
    model = place / "model"
    _merged(model, family)
    below = content_of(model / family.file("below"))
    run = place / "run"
    for number in range(1, MOST_POINTS):
        shutil.rmtree(run, ignore_errors=True)
        _merged(run, family)  # not copied: the trash is known by its files' inodes

        def work(number: int = number) -> None:
            faults.install(faults.Fault("*", number, "kill"))
            _restore(run, roots_of(run))

        status = _in_child(work)
        recover(str(run), roots_of(run))
        _restore(run, roots_of(run))
        assert worlds.strays(run) == []
        assert not any(name.startswith(".vdtrash") for name in worlds.snapshot(run))
        assert (run / family.file("leaf")).exists()
        assert content_of(run / family.file("below")) == below
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
    else:
        pytest.fail("the restore never came to its end")
