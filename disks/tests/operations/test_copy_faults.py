"""Every write, fsync, rename, link… of the copy jobs fails or kills, one after the other.

bad-input F81, F82, F84, F85 and E79: whatever breaks, the content read through the chain is
as before or the finished result, the files are sound, and recovery leaves nothing behind.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from disks.engine import faults
from disks.engine.chain import open_chain
from disks.engine.errors import ImageError
from disks.operations import compact, convert, create, merge
from disks.operations.paths import Roots
from disks.operations.recover import recover
from disks.tests.builders import MIB, VHD, VHDX, Family
from disks.tests.operations import worlds
from disks.tests.operations.crashing import (
    SAMPLE,
    failing_at_every_point,
    faulty,
    in_fork,
    killed,
    mended_at_every_point,
    with_fault,
)
from disks.tests.operations.dying import DIED, DONE, Work
from disks.tests.operations.power import cuts_of, points_of, survive_power_cuts
from disks.tests.operations.worlds import (
    BLOCK,
    KIB,
    chain,
    content_of,
    errors_in,
    essence_of,
    noise,
    roots_of,
)

Build = Callable[[Path, Family], None]
Do = Callable[[Path, Roots, Family], object]


@dataclass(frozen=True)
class Case:
    """build makes the files, work does the job; result says which disk then has the content."""

    operation: str
    build: Build
    work: Do
    result: str
    to_other_format: bool = False


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


def _other(family: Family) -> Family:
    return VHD if family is VHDX else VHDX


def _to_other(folder: Path, roots: Roots, family: Family) -> object:
    source, target = _named(folder, family, "leaf"), _named(folder, _other(family), "new")
    return convert.apply(convert.plan(source, target, roots), roots, job="7", token=1)


def _plain(folder: Path, family: Family) -> None:
    """A plain image beside a disk of the same content."""
    _two(folder, family)
    with open_chain(_named(folder, family, "leaf"), roots_of(folder)) as opened:
        (folder / "plain.img").write_bytes(opened.read(0, opened.sectors))


def _from_raw(folder: Path, roots: Roots, family: Family) -> object:
    source, target = str(folder / "plain.img"), _named(folder, family, "new")
    plan = convert.plan(source, target, roots, source_is_raw=True)
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


def _empty(folder: Path, family: Family) -> None:
    """A disk that reads as the new one is to read."""
    folder.mkdir()
    family.dynamic(folder, family.file("leaf"), size=4 * MIB, content=[])


def _create(disk_type: str) -> Do:
    def do(folder: Path, roots: Roots, family: Family) -> object:
        path = _named(folder, family, "new")
        plan = create.plan(path, roots, disk_type=disk_type, size_bytes=4 * MIB)
        return create.apply(plan, roots, job="7", token=1)

    return do


CASES = {
    "into the parent": Case("merge by copy", _chain, _into_parent, "middle"),
    "into the base, child's name": Case("merge by copy", _two, _into_base_as_child, "leaf"),
    "to a new disk": Case("merge to a new disk", _two, _to_new, "new"),
    "flatten into a fixed disk": Case("convert", _two, _flatten, "new"),
    "convert to a plain image": Case("convert", _two, _to_raw, "new.raw"),
    "compact": Case("compact by copy", _sparse, _compact, "leaf"),
    "convert to the other format": Case("convert", _two, _to_other, "new", True),
    "convert from a plain image": Case("convert", _plain, _from_raw, "new"),
    "create a child": Case("create", _two, _create_child, "new"),
    "create a dynamic disk": Case("create", _empty, _create("dynamic"), "new"),
    "create a fixed disk": Case("create", _empty, _create("fixed"), "new"),
}

pytestmark = pytest.mark.slow


class Prepared:
    """A folder built once and copied for each run; inodes differ, contents do not."""

    def __init__(self, case: Case, place: Path, family: Family) -> None:
        self.case = case
        self.family = family
        self.model = place / "model"
        case.build(self.model, family)
        self.expected = essence_of(self.model / family.file("leaf"))
        self.expected_raw = content_of(self.model / family.file("leaf"))
        self.below = None
        if (self.model / family.file("below")).exists():
            self.below = essence_of(self.model / family.file("below"))
        self.before = worlds.snapshot(self.model)
        self.folder = place / "run"

    def fresh(self) -> Work:
        shutil.rmtree(self.folder, ignore_errors=True)
        worlds.copy_tree(self.model, self.folder)
        return self.work

    @property
    def result(self) -> Path:
        family = _other(self.family) if self.case.to_other_format else self.family
        name = self.case.result
        return self.folder / (name if "." in name else family.file(name))

    def work(self) -> object:
        return self.case.work(self.folder, roots_of(self.folder), self.family)

    def recover(self) -> list[dict[str, object]]:
        return recover(str(self.folder), roots_of(self.folder))

    def judge(self) -> str:
        return "done" if self.check(finished=False) else "as before"

    def check(self, *, finished: bool) -> bool:
        """After recovery: all as before, or all done. Returns whether it is done."""
        folder = self.folder
        assert worlds.strays(folder) == []
        found = worlds.snapshot(folder)
        undo_records = {name for name in found if name.endswith(".vdundo")}
        done = {name: found[name] for name in found if name not in undo_records} != self.before
        assert done or not finished
        result = self.result if done else folder / self.family.file("leaf")
        if result.suffix == ".raw":
            data = result.read_bytes()
            assert hashlib.sha256(data).hexdigest() == self.expected_raw
        else:
            assert essence_of(result) == self.expected
        for name in found:
            if name.endswith((".vhd", ".vhdx")) and not name.startswith("."):
                assert errors_in(folder / name) == []
        if self.below:
            assert essence_of(folder / self.family.file("below")) == self.below
        return done


@pytest.fixture(params=list(CASES))
def prepared(request: pytest.FixtureRequest, place: Path, family: Family) -> Prepared:
    return Prepared(CASES[request.param], place, family)


@pytest.mark.parametrize("kind", ["kill", "torn"])
def test_a_death_at_every_point_is_undone_or_finished(prepared: Prepared, kind: str) -> None:
    """bad-input F85, E79."""
    states = mended_at_every_point(
        prepared.fresh,
        faulty(kind),
        expected=DIED,
        recover=prepared.recover,
        judge=prepared.judge,
        every=1 if kind == "kill" else SAMPLE,
        folder=prepared.folder,
    )
    assert states == {"as before", "done"} or kind == "torn"


@pytest.mark.parametrize("kind", ["enospc", "eio"])
def test_an_error_at_every_point_leaves_the_old_or_the_new(prepared: Prepared, kind: str) -> None:
    """bad-input F81, F82, F84: full storage, or failing storage, at each operation."""
    for number in range(1, len(points_of(prepared)) + 1, SAMPLE):
        work = prepared.fresh()
        faults.install(faults.Fault("*", number, kind))
        failed = ""
        try:
            work()
        except ImageError as error:
            failed = error.code
        finally:
            faults.install(None)
        assert failed in ("", "E_NOSPC", "E_IO"), failed
        prepared.recover()
        prepared.check(finished=not failed)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EDQUOT, "E_NOSPC"),
        (errno.EFBIG, "E_TOO_LARGE"),
        (errno.EROFS, "E_READ_ONLY"),
        (errno.EACCES, "E_ACCESS"),
    ],
)
def test_what_else_a_storage_answers_is_told_as_what_it_is(
    place: Path, family: Family, number: int, code: str
) -> None:
    """bad-input F82: quotas, small file systems, one that became read-only midway."""
    prepared = Prepared(CASES["into the parent"], place, family)
    codes = set()
    for point in range(2, len(points_of(prepared)), 2 * SAMPLE):
        work, passed = prepared.fresh(), itertools.count(1)

        def fail(event: faults.Event, point: int = point, passed: Any = passed) -> None:
            if next(passed) == point:
                raise OSError(number, os.strerror(number), event.path)

        faults.watch(fail)
        failed = ""
        try:
            work()
        except ImageError as error:
            failed = error.code
        finally:
            faults.watch(None)
        prepared.recover()
        prepared.check(finished=not failed)
        codes.add(failed)
    assert codes - {""} == {code}  # some points' failure is harmless


def test_short_writes_are_continued(prepared: Prepared) -> None:
    """bad-input F84."""
    for code in failing_at_every_point(prepared.fresh, "short"):
        assert code == DONE
        assert prepared.check(finished=True)


@pytest.mark.power_cuts
def test_a_power_cut_leaves_the_old_files_or_the_finished_job(
    request: pytest.FixtureRequest, prepared: Prepared, place: Path
) -> None:
    """bad-input F86, F87: also when the power fails again during recovery."""
    cases = sum(case.operation == prepared.case.operation for case in CASES.values())
    survive_power_cuts(
        prepared,
        operation=prepared.case.operation,
        format_name=prepared.family.name,
        cuts=cuts_of(cases, 8),
        seed=request.node.name,
        aside=place / "aside",
    )


@pytest.mark.parametrize("point", [1, 2, 3, 5, 8, 13, 21])
def test_three_kills_during_recovery_do_no_harm(place: Path, family: Family, point: int) -> None:
    """bad-input F87."""
    prepared = Prepared(CASES["into the parent"], place, family)
    total = len(points_of(prepared))
    killed(total - 25, prepared.fresh())
    for number in (point, point + 1, point + 2):
        killed(number, prepared.recover)
    prepared.recover()
    prepared.check(finished=False)


def test_a_source_written_after_the_crash_makes_recovery_undo(place: Path, family: Family) -> None:
    """bad-input F85: a machine was started between crash and recovery."""
    prepared = Prepared(CASES["into the parent"], place, family)
    undone = 0
    for number in range(1, len(points_of(prepared)) + 1):
        if in_fork(with_fault(f"commit.fsync-folder:{number}:kill", prepared.fresh())) != DIED:
            break
        leaf = prepared.folder / family.file("leaf")
        data = leaf.read_bytes()
        os.utime(leaf, ns=(1, 1))
        rows = prepared.recover()
        assert [row["action"] for row in rows if row["path"].endswith(family.file("middle"))] in (
            ["undone"], ["undone", "swept"],
        )  # fmt: skip
        assert leaf.read_bytes() == data
        assert essence_of(leaf) == prepared.expected
        undone += 1
    assert undone >= 3
