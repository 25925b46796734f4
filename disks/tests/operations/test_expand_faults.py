"""Expanding survives death, errors and power cuts: the disk is the old one or the larger one."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from disks.engine.errors import ImageError
from disks.engine.formats import open_image
from disks.operations import expand, journal
from disks.operations.paths import Roots
from disks.operations.progress import Cancelled, Progress
from disks.operations.recover import recover
from disks.tests.builders import MIB, BuiltVhdx
from disks.tests.operations import worlds
from disks.tests.operations.crashing import (
    SAMPLE,
    broken_at_every_point,
    failing_at_every_point,
    failing_from,
    faulty,
    in_fork,
    killed,
    with_fault,
)
from disks.tests.operations.dying import DONE, REFUSED, Work
from disks.tests.operations.enlarging import BLOCK, HUGE, KIB, LARGE, MANY, MORE, SCENES
from disks.tests.operations.power import cuts_of, survive_power_cuts
from disks.tests.operations.worlds import errors_in, essence_of, essence_of_bytes, roots_of

DIED = -9

# What is written where, in how many rewrites: each needs its own look.
WORK = {
    "fixed": MORE,
    "fixed, ends with a page": 1024 * KIB,
    "fixed, longer than needed": 120 * KIB,
    "dynamic": HUGE,  # blocks make room
    "dynamic, far apart": HUGE,  # more than once
    "dynamic, stale end": MORE,
    "dynamic, empty": LARGE,  # the footer makes room
    "dynamic, last block cut short": MANY,
    "blktap": HUGE,
    "differencing": 32 * MIB,  # the table moves past the room that locators keep
    "differencing, strings everywhere": MANY,
    "vhdx, fixed": 5 * MIB + 512 * KIB,
    "vhdx, dynamic": 5 * MIB,
    "vhdx, ends within a page": 5 * MIB,
    "vhdx, differencing": 4 * MIB,
}


@dataclass(eq=False)
class Running:
    """A disk, what it was, and what it is to become."""

    path: Path
    original: bytes
    model: bytes
    size: int

    @property
    def roots(self) -> Roots:
        return roots_of(self.path.parent)

    def expand(self, progress: Progress | None = None) -> None:
        plan = expand.plan(str(self.path), self.size, self.roots)
        expand.apply(plan, self.roots, offline=True, progress=progress)

    def recover(self) -> list[dict[str, object]]:
        return recover(str(self.folder), self.roots)

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def is_vhdx(self) -> bool:
        return self.path.suffix == ".vhdx"

    def fresh(self) -> Work:
        self.reset()
        return self.expand

    def judge(self) -> str:
        return self.assert_sound()

    def reset(self) -> None:
        for stray in self.path.parent.glob(".*"):
            if stray.is_file():
                stray.unlink()
        self.path.write_bytes(self.original)

    def virtual_size(self) -> int:
        with self.roots.open(str(self.path)) as file:
            return open_image(file).virtual_size_bytes

    def assert_readable(self) -> int:
        """One of the two disks, also to somebody who knows nothing of journals; its size."""
        size = self.virtual_size()
        assert size in (len(self.model), self.size)
        assert essence_of(self.path) == self.essence(size)
        return size

    @cache  # noqa: B019 - a few sizes, for as long as the test runs
    def essence(self, size_bytes: int, more: bytes = b"") -> str:
        """Of the old content, more right behind it, and zeros."""
        return essence_of_bytes((self.model + more).ljust(size_bytes, b"\0"))

    def assert_sound(self) -> str:
        """One of the two disks, whole, writable, with nothing lying about; says which."""
        size = self.assert_readable()
        with self.roots.open(str(self.path)) as file:
            assert open_image(file).write_refusal is None
        assert errors_in(self.path) == []
        assert worlds.strays(self.path.parent) == []
        assert [entry.name for entry in self.path.parent.glob(".*.vd*") if entry.is_file()] == []
        assert journal.pending(self.roots, [str(self.path)]) == []
        if size != len(self.model):
            return "larger"
        if self.is_vhdx:  # of a VHD blocks may have made room by then
            assert self.path.stat().st_size == len(self.original)  # none stays reserved
        return "old"


@pytest.fixture(params=list(WORK))
def running(request: pytest.FixtureRequest, place: Path) -> Running:
    folder = place / "disks"
    folder.mkdir()
    built = SCENES[request.param].make(folder)
    return Running(built.path, built.path.read_bytes(), bytes(built.model), WORK[request.param])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kill", "torn"])
def test_killed_at_every_point_it_is_the_old_disk_or_the_larger_one(
    running: Running, kind: str
) -> None:
    """bad-input F85: kill at every fault point; 0 damage after recovery."""
    seen = set()
    for _ in broken_at_every_point(
        running.fresh,
        faulty(kind),
        expected=DIED,
        every=1 if kind == "kill" else SAMPLE,
        folder=running.folder,
    ):
        if kind == "kill":
            running.assert_readable()
        rows = running.recover()
        assert [row for row in rows if row["action"] in ("busy", "needs-attention")] == []
        seen.add(running.judge())
        assert running.recover() == []
    assert seen == {"old", "larger"} or kind != "kill"
    assert running.judge() == "larger"


@pytest.mark.parametrize("kind", ["enospc", "eio"])
def test_an_error_at_any_point_leaves_the_old_disk_or_the_larger_one(
    running: Running, kind: str
) -> None:
    """bad-input F81, F84."""
    for _ in broken_at_every_point(running.fresh, faulty(kind), expected=REFUSED, every=SAMPLE):
        running.recover()
        running.judge()
    assert running.judge() == "larger"


def test_storage_that_fails_for_good_is_mended_once_it_works_again(running: Running) -> None:
    """bad-input F84."""
    for _ in broken_at_every_point(running.fresh, failing_from, expected=REFUSED, every=SAMPLE):
        running.recover()
        running.judge()


def test_short_writes_are_continued(running: Running) -> None:
    """bad-input F84: short writes are looped."""
    for code in failing_at_every_point(running.fresh, "short"):
        assert code == DONE
        assert running.judge() == "larger"


@pytest.mark.power_cuts
def test_power_cuts_leave_the_old_disk_or_the_larger_one(
    request: pytest.FixtureRequest, running: Running, place: Path
) -> None:
    """bad-input F86: unsynced pages kept, lost or garbled, growth lost; also in recovery."""
    of_this_format = [name for name in WORK if name.startswith("vhdx") == running.is_vhdx]
    seen = survive_power_cuts(
        running,
        operation="expand",
        format_name="vhdx" if running.is_vhdx else "vhd",
        cuts=cuts_of(len(of_this_format), 12),
        seed=request.node.name,
        aside=place / "aside",
    )
    assert set(seen) == {"old", "larger"} or seen.total() < 30  # few meet one alone


@pytest.mark.parametrize("running", ["dynamic", "fixed"], indirect=True)
def test_recovery_killed_three_times_in_a_row_still_mends(running: Running) -> None:
    """bad-input F87: recovery is idempotent, wherever it was stopped before."""
    for start in (8, 11, 14):
        for number in range(1, 13, 3):
            running.reset()
            in_fork(with_fault(f"*:{start}:torn", running.expand))
            for attempt in range(3):
                killed(number + attempt, running.recover)
            running.recover()
            running.assert_sound()


@pytest.mark.parametrize("running", ["fixed", "dynamic, empty", "dynamic"], indirect=True)
def test_a_file_system_that_refuses_growth_leaves_the_disk_as_it_was(running: Running) -> None:
    """bad-input F82: the kernel itself says EFBIG when the file would grow."""

    def limited() -> None:
        size = len(running.original) + 100
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        with pytest.raises(ImageError) as refused:
            running.expand()
        assert refused.value.code == "E_TOO_LARGE"

    assert in_fork(limited) == DONE
    assert running.assert_sound() == "old"
    assert running.path.read_bytes() == running.original


@pytest.mark.parametrize(
    "running", ["fixed, ends with a page", "dynamic", "differencing", "vhdx, fixed"], indirect=True
)
def test_a_cancel_while_room_is_filled_takes_everything_back(running: Running) -> None:
    """bad-input E79: as a kill at that point, and afterwards nothing is left to do."""

    class Stops(Progress):
        def __init__(self, at: str) -> None:
            self.at = at
            self.committed = self.reported = False

        def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
            if not self.committed and (sentence or "").startswith(self.at):
                self.reported = True
                raise Cancelled

        def commit_starts(self) -> None:
            self.committed = True

    for at in ("", "reserving"):  # the first room at all, and the first behind the old end
        running.reset()
        stops = Stops(at)
        try:
            running.expand(stops)
        except Cancelled:
            assert (stops.reported, stops.committed) == (True, False)
            assert running.assert_sound() == "old"
            assert running.path.stat().st_size == len(running.original)
        else:
            assert at == "reserving"  # no room behind the old end was needed


@pytest.mark.parametrize("running", ["dynamic", "fixed"], indirect=True)
def test_until_recovery_everything_else_is_refused_and_the_record_explains(
    running: Running,
) -> None:
    """R10, H122: its plain text says what was done, and how to take it back by hand."""
    assert in_fork(with_fault("*:9:kill", running.expand)) == DIED
    refused = expand.plan(str(running.path), running.size, running.roots).refused
    assert refused is not None
    assert refused.code == "E_UNFINISHED"
    text = (running.path.parent / ".disk.vhd.vdundo").read_text()
    assert "disk recover" in text
    command = next(line for line in text.splitlines() if line.startswith("  python3 -c"))
    command = command.replace("SIDECAR", ".disk.vhd.vdundo")
    subprocess.run(command, shell=True, check=True, cwd=running.path.parent)
    assert running.path.read_bytes() == running.original


@pytest.mark.parametrize(
    "running", [name for name in WORK if not name.startswith("vhdx")], indirect=True
)
def test_a_disk_written_by_others_since_is_left_untouched(running: Running) -> None:
    """bad-input F88: recovery that cannot be sure writes nothing and says so."""
    assert in_fork(with_fault("fsync:3:kill", running.expand)) == DIED
    with running.path.open("ab") as file:
        file.write(b"x" * 32 * 1024 * 1024)
    before = running.path.read_bytes()
    rows = running.recover()
    assert [(row["action"], row["code"]) for row in rows] == [
        ("needs-attention", "E_NEEDS_ATTENTION")
    ]
    assert running.path.read_bytes() == before


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used since"])
def test_room_that_was_reserved_is_cut_off_unless_somebody_uses_it(
    tmp_path: Path, used: bool
) -> None:
    """Killed before the log says so much as a word of it; then a block was put there, or not."""
    built = SCENES["vhdx, fixed"].make(tmp_path)
    assert isinstance(built, BuiltVhdx)
    original = built.path.read_bytes()
    running = Running(built.path, original, bytes(built.model), WORK["vhdx, fixed"])
    killed = with_fault("fsync:3:kill", running.expand)  # the record, the header, the room
    assert in_fork(killed) == DIED
    grown = built.path.stat().st_size
    assert grown > len(original)
    if used:
        built.patch_entry(0, 6, len(original))
    (row,) = running.recover()
    assert (row["action"], running.virtual_size()) == ("undone", len(running.model))
    assert built.path.stat().st_size == (grown if used else len(original))
    assert errors_in(built.path) == []


def guest_writes(running: Running) -> bool:
    """Write the first sector that was added, as a machine would; False if there is none yet."""
    with running.roots.open(str(running.path), writable=True) as file:
        image = open_image(file)
        if image.virtual_size_bytes != running.size:
            return False
        sector = len(running.model) // 512
        (extent,) = image.extents(sector, 1)
        offset = extent.file_offset
        if offset is None:  # in the last block, not marked as written
            block, inside = divmod(sector, BLOCK // 512)
            bitmap = image.bat.entry(block) * 512  # type: ignore[attr-defined]
            bits = bytearray(file.read_at(bitmap + inside // 8, 1))
            bits[0] |= 0x80 >> inside % 8
            file.write_at(bitmap + inside // 8, bits)
            offset = bitmap + 512 + inside * 512
        file.write_at(offset, b"guest".ljust(512, b"."))
    return True


@pytest.mark.parametrize("running", ["dynamic, stale end", "fixed", "blktap"], indirect=True)
def test_who_has_used_the_added_area_before_recovery_keeps_what_was_written(
    running: Running,
) -> None:
    """Once the disk is larger to anybody, the change is only completed, never taken back."""
    used = 0
    for _ in broken_at_every_point(running.fresh, killed, expected=DIED, folder=running.folder):
        if not guest_writes(running):
            continue
        running.recover()
        written = running.essence(running.size, b"guest".ljust(512, b"."))
        assert essence_of(running.path) == written
        assert errors_in(running.path) == []
        used += 1
    assert used >= 2


# E_NO_FOOTER: opened before the footer moved, read after.
LOST = ("E_LOCKED", "E_CHANGED", "E_UNFINISHED", "E_SHRINK", "E_NO_FOOTER")


def worker(running: Running) -> Callable[[], object]:
    def work() -> None:
        try:
            running.expand()
        except ImageError as error:
            if error.code not in LOST:
                os._exit(98)
            raise

    return work


@pytest.mark.parametrize("running", ["fixed"], indirect=True)
def test_of_expansions_at_the_same_time_one_wins(running: Running) -> None:
    """bad-input E68: the others are refused, nothing is mixed."""
    children = []
    for _ in range(6):
        pid = os.fork()
        if pid == 0:
            os._exit(in_fork(worker(running)) & 0xFF)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert set(codes) <= {DONE, REFUSED}
    assert DONE in codes
    assert running.assert_sound() == "larger"
