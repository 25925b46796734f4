"""Every write, fsync, rename, link… of the copy jobs fails or kills, one after the other.

bad-input F81, F82, F84, F85 and E79: whatever breaks, the content read through the chain is
as before or the finished result, the files are sound, and recovery leaves nothing behind.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from disks.engine import faults
from disks.engine.errors import ImageError
from disks.operations import compact, convert, create, merge, trash
from disks.operations.paths import Roots
from disks.operations.recover import recover
from disks.tests.builders import build_dynamic
from disks.tests.operations import worlds
from disks.tests.operations.worlds import BLOCK, KIB, chain, content_of, errors_in, noise, roots_of

MOST_POINTS = 400


@dataclass(frozen=True)
class Case:
    """build makes the files, work does the job; result says which disk then has the content."""

    build: Callable[[Path], None]
    work: Callable[[Path, Roots], object]
    readable: tuple[str, ...]  # the disks that must read as the leaf did, in either state
    result: str


def _chain(folder: Path) -> None:
    chain(folder, grandchild=True)


def _two(folder: Path) -> None:
    chain(folder)


def _into_parent(folder: Path, roots: Roots) -> object:
    plan = merge.plan(str(folder / "leaf.vhd"), roots, into_parent=True)
    return merge.apply(plan, roots, offline=True, job="7", token=1)


def _into_base_as_child(folder: Path, roots: Roots) -> object:
    plan = merge.plan(
        str(folder / "leaf.vhd"),
        roots,
        into_parent=True,
        base=str(folder / "base.vhd"),
        keep_name="child",
    )
    return merge.apply(plan, roots, offline=True, job="7", token=1)


def _to_new(folder: Path, roots: Roots) -> object:
    plan = merge.plan(str(folder / "leaf.vhd"), roots, to=str(folder / "new.vhd"))
    return merge.apply(plan, roots, offline=True, job="7", token=1)


def _flatten(folder: Path, roots: Roots) -> object:
    plan = convert.plan(str(folder / "leaf.vhd"), str(folder / "new.vhd"), roots, disk_type="fixed")
    return convert.apply(plan, roots, job="7", token=1)


def _to_raw(folder: Path, roots: Roots) -> object:
    plan = convert.plan(str(folder / "leaf.vhd"), str(folder / "new.raw"), roots)
    return convert.apply(plan, roots, job="7", token=1)


def _sparse(folder: Path) -> None:
    folder.mkdir()
    content = [(0, noise(1, 40)), (64, worlds.zeros(96)), (200, noise(2, 9))]
    build_dynamic(folder, "leaf.vhd", size=160 * KIB, block_size=BLOCK, content=content)


def _compact(folder: Path, roots: Roots) -> object:
    plan = compact.plan(str(folder / "leaf.vhd"), roots)
    return compact.apply(plan, roots, offline=True, job="7", token=1)


def _create_child(folder: Path, roots: Roots) -> object:
    plan = create.plan(str(folder / "new.vhd"), roots, parent=str(folder / "leaf.vhd"))
    return create.apply(plan, roots, job="7", token=1)


def _merged(folder: Path) -> None:
    chain(folder, grandchild=True)
    _into_parent(folder, roots_of(folder))


def _restore(folder: Path, roots: Roots) -> object:
    found = trash.list_trash(str(folder), roots)
    # An interrupted restore may have brought everything back already.
    return trash.restore(found[0].folder, roots, offline=True) if found else None


CASES = {
    "into the parent": Case(_chain, _into_parent, ("leaf.vhd", "middle.vhd"), "middle.vhd"),
    "into the base, child's name": Case(_two, _into_base_as_child, ("leaf.vhd",), "leaf.vhd"),
    "to a new disk": Case(_two, _to_new, ("leaf.vhd",), "new.vhd"),
    "flatten into a fixed disk": Case(_two, _flatten, ("leaf.vhd",), "new.vhd"),
    "convert to a plain image": Case(_two, _to_raw, ("leaf.vhd",), "new.raw"),
    "compact": Case(_sparse, _compact, ("leaf.vhd",), "leaf.vhd"),
    "create a child": Case(_two, _create_child, ("leaf.vhd",), "new.vhd"),
}

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: thousands of fsyncs would only cost time."""
    try:
        made = Path(tempfile.mkdtemp(prefix="vdadmin-faults-", dir="/dev/shm"))
    except OSError:
        yield tmp_path
        return
    yield made
    shutil.rmtree(made)


class Prepared:
    """A folder built once and copied for each run; inodes differ, contents do not."""

    def __init__(self, case: Case, place: Path) -> None:
        self.case = case
        self.model = place / "model"
        case.build(self.model)
        self.expected = content_of(self.model / "leaf.vhd")
        self.below = None
        if (self.model / "below.vhd").exists():
            self.below = content_of(self.model / "below.vhd")
        self.before = worlds.snapshot(self.model)
        self.place = place / "run"

    def fresh(self) -> Path:
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.model, self.place)
        return self.place

    def check(self, *, finished: bool) -> bool:
        """After recovery: all as before, or all done. Returns whether it is done."""
        folder = self.place
        assert worlds.strays(folder) == []
        found = worlds.snapshot(folder)
        undo_records = {name for name in found if name.endswith(".vdundo")}
        done = {name: found[name] for name in found if name not in undo_records} != self.before
        assert done or not finished
        leaves = [self.case.result] if done else ["leaf.vhd"]
        for name in leaves:
            assert _read(folder / name) == self.expected
        for name in found:
            if name.endswith(".vhd") and not name.startswith("."):
                assert errors_in(folder / name) == []
        if self.below:
            assert content_of(folder / "below.vhd") == self.below
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


def _points(prepared: Prepared) -> int:
    """How many fault points one undisturbed run passes."""
    seen: list[str] = []
    folder = prepared.fresh()
    faults.watch(lambda event: seen.append(event.point))
    try:
        prepared.case.work(folder, roots_of(folder))
    finally:
        faults.watch(None)
    assert 5 < len(seen) < MOST_POINTS
    return len(seen)


@pytest.mark.parametrize("name", list(CASES))
def test_a_kill_at_every_point_is_undone_or_finished(place: Path, name: str) -> None:
    """bad-input F85, E79."""
    prepared = Prepared(CASES[name], place)
    outcomes = set()
    for number in range(1, _points(prepared) + 1):
        folder = prepared.fresh()

        def work(number: int = number, folder: Path = folder) -> None:
            faults.install(faults.Fault("*", number, "kill"))
            prepared.case.work(folder, roots_of(folder))

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
    place: Path, name: str, kind: str
) -> None:
    """bad-input F81, F82, F84: full storage, or failing storage, at each operation."""
    prepared = Prepared(CASES[name], place)
    for number in range(1, _points(prepared) + 1):
        folder = prepared.fresh()
        faults.install(faults.Fault("*", number, kind))
        failed = ""
        try:
            prepared.case.work(folder, roots_of(folder))
        except ImageError as error:
            failed = error.code
        finally:
            faults.install(None)
        assert failed in ("", "E_NOSPC", "E_IO"), failed
        recover(str(folder), roots_of(folder))
        prepared.check(finished=not failed)


@pytest.mark.parametrize("name", list(CASES))
def test_short_writes_are_continued(place: Path, name: str) -> None:
    """bad-input F84."""
    prepared = Prepared(CASES[name], place)
    for number in range(1, 12):
        folder = prepared.fresh()
        faults.install(faults.Fault("write", number, "short"))
        try:
            prepared.case.work(folder, roots_of(folder))
        finally:
            faults.install(None)
        assert prepared.check(finished=True)


@pytest.mark.parametrize("point", [1, 2, 3, 5, 8, 13, 21])
def test_three_kills_during_recovery_do_no_harm(place: Path, point: int) -> None:
    """bad-input F87."""
    prepared = Prepared(CASES["into the parent"], place)
    folder = prepared.fresh()
    total = _points(prepared)
    folder = prepared.fresh()

    def work() -> None:
        faults.install(faults.Fault("*", total - 25, "kill"))
        prepared.case.work(folder, roots_of(folder))

    _in_child(work)
    for number in (point, point + 1, point + 2):

        def again(number: int = number) -> None:
            faults.install(faults.Fault("*", number, "kill"))
            recover(str(folder), roots_of(folder))

        _in_child(again)
    recover(str(folder), roots_of(folder))
    prepared.check(finished=False)


def test_a_source_written_after_the_crash_makes_recovery_undo(place: Path) -> None:
    """bad-input F85: a machine was started between crash and recovery."""
    prepared = Prepared(CASES["into the parent"], place)
    undone = 0
    for number in range(1, _points(prepared) + 1):
        folder = prepared.fresh()

        def work(number: int = number, folder: Path = folder) -> None:
            faults.install(faults.Fault("commit.fsync-folder", number, "kill"))
            prepared.case.work(folder, roots_of(folder))

        if os.WIFEXITED(_in_child(work)):
            break
        leaf = folder / "leaf.vhd"
        data = leaf.read_bytes()
        os.utime(leaf, ns=(1, 1))
        rows = recover(str(folder), roots_of(folder))
        assert [row["action"] for row in rows if row["path"].endswith("middle.vhd")] in (
            ["undone"], ["undone", "swept"],
        )  # fmt: skip
        assert leaf.read_bytes() == data
        assert content_of(leaf) == prepared.expected
        undone += 1
    assert undone >= 3


def test_a_kill_at_every_point_of_a_restore_is_continued(place: Path) -> None:
    """bad-input F85, F87: restoring again goes on where it stopped."""
    case = Case(_merged, _restore, ("middle.vhd",), "leaf.vhd")
    model = place / "model"
    case.build(model)
    below = content_of(model / "below.vhd")
    run = place / "run"
    for number in range(1, MOST_POINTS):
        shutil.rmtree(run, ignore_errors=True)
        case.build(run)  # not copied: the trash is known by its files' inodes

        def work(number: int = number) -> None:
            faults.install(faults.Fault("*", number, "kill"))
            _restore(run, roots_of(run))

        status = _in_child(work)
        recover(str(run), roots_of(run))
        _restore(run, roots_of(run))
        assert worlds.strays(run) == []
        assert not any(name.startswith(".vdtrash") for name in worlds.snapshot(run))
        assert (run / "leaf.vhd").exists()
        assert content_of(run / "below.vhd") == below
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
    else:
        pytest.fail("the restore never came to its end")
