"""A limit on bytes per second: what waits, how long, and that every operation counts its bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from disks.operations import compact, convert, copy_chain, merge
from disks.operations.pacing import PIECE_SECONDS, Pacer
from disks.operations.paths import Roots
from disks.operations.progress import Cancelled, Progress
from disks.tests.builders import MIB, build_differencing, build_dynamic
from disks.tests.operations.worlds import content_of, noise, roots_of

SECTORS_PER_BLOCK = 2 * MIB // 512
MOST_BETWEEN_REPORTS = 8 * MIB


class Clock:
    """Time that passes by sleeping alone."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def paced(clock: Clock, rate: int) -> Pacer:
    return Pacer(rate, clock=lambda: clock.now, sleep=clock.sleep)


def test_what_is_moved_is_waited_for_in_short_pieces(clock: Clock) -> None:
    pacer, asked = paced(clock, 10 * MIB), []
    for _ in range(20):
        pacer.moved(2 * MIB)
        pacer.wait(lambda: asked.append(clock.now))
    assert clock.now - 1000 == pytest.approx(40 / 10, abs=0.3)
    assert max(clock.slept) <= PIECE_SECONDS
    assert len(asked) == len(clock.slept)


@pytest.mark.parametrize(("rate", "left"), [(20 * MIB, 2.0), (MIB, 40.0), (0, 0.0)])
def test_a_rate_that_is_changed_counts_for_what_is_owed_as_well(
    clock: Clock, rate: int, left: float
) -> None:
    pacer = paced(clock, 10 * MIB)
    pacer.moved(int(40.25 * 10 * MIB))  # a quarter of a second is always given
    clock.now += 36
    pacer.change(rate)
    began = clock.now
    pacer.wait(lambda: None)
    assert clock.now - began == pytest.approx(left, abs=0.01)


def test_looking_again_at_the_same_rate_gives_no_credit(clock: Clock) -> None:
    pacer = paced(clock, 10 * MIB)
    for _ in range(40):
        pacer.moved(MIB)
        pacer.wait(lambda: None)
        pacer.change(10 * MIB)
    assert clock.now - 1000 == pytest.approx(4.0, abs=0.3)


def test_what_is_slow_by_itself_never_waits_and_saves_nothing_up(clock: Clock) -> None:
    pacer = paced(clock, 10 * MIB)
    for _ in range(5):
        clock.now += 10
        pacer.moved(MIB)
        pacer.wait(lambda: None)
    assert clock.slept == []
    pacer.moved(20 * MIB)  # the fifty seconds before are no credit
    pacer.wait(lambda: None)
    assert sum(clock.slept) > 1.5


def test_no_limit_never_waits(clock: Clock) -> None:
    pacer = paced(clock, 0)
    pacer.moved(10**15)
    pacer.wait(lambda: pytest.fail("it waited"))
    assert pacer.at_once_bytes(64 * MIB) == 64 * MIB


def test_the_wish_to_stop_ends_the_waiting(clock: Clock) -> None:
    def stop() -> None:
        raise Cancelled

    pacer = paced(clock, MIB)
    pacer.moved(3600 * MIB)
    with pytest.raises(Cancelled):
        pacer.wait(stop)
    assert clock.slept == [PIECE_SECONDS]


def test_batches_are_cut_to_about_a_second_of_the_limit(clock: Clock) -> None:
    assert paced(clock, 10 * MIB).at_once_bytes(64 * MIB) == 10 * MIB
    assert paced(clock, 1 * MIB).at_once_bytes(64 * MIB) == 4 * MIB
    assert paced(clock, 500 * MIB).at_once_bytes(64 * MIB) == 64 * MIB


class Counts(Progress):
    """Bytes told as moved: all of them, and the most between two reports outside a commit."""

    def __init__(self, at_once: int = MOST_BETWEEN_REPORTS) -> None:
        self.total = self.since = self.most = 0
        self.at_once = at_once

    def moved(self, count_bytes: int) -> None:
        self.total += count_bytes
        self.since += count_bytes
        self.most = max(self.most, self.since)

    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        self.since = 0

    def at_once_bytes(self, most_bytes: int) -> int:
        return min(most_bytes, self.at_once)


@pytest.fixture
def leaf(tmp_path: Path) -> Path:
    """Eight blocks of 2 MiB in the base, six in the leaf; two blocks of the base are zeros."""
    folder = tmp_path / "disks"
    folder.mkdir()
    content = [(n * SECTORS_PER_BLOCK, noise(n, SECTORS_PER_BLOCK)) for n in range(2, 8)]
    content += [(n * SECTORS_PER_BLOCK, bytes(2 * MIB)) for n in range(2)]
    base = build_dynamic(folder, "base.vhd", size=20 * MIB, content=content)
    above = [(n * SECTORS_PER_BLOCK, noise(50 + n, SECTORS_PER_BLOCK)) for n in range(4, 10)]
    return build_differencing(folder, "leaf.vhd", parent=base, content=above).path


def _merge(leaf: Path, roots: Roots, progress: Progress, *, in_place: bool) -> None:
    plan = merge.plan(str(leaf), roots, into_parent=True, in_place=in_place)
    merge.apply(plan, roots, offline=True, progress=progress)


def _convert(leaf: Path, roots: Roots, progress: Progress) -> None:
    plan = convert.plan(str(leaf), str(leaf.with_name("new.vhdx")), roots)
    convert.apply(plan, roots, progress=progress)


def _copy(leaf: Path, roots: Roots, progress: Progress) -> None:
    there = leaf.parent / "there"
    there.mkdir()
    plan = copy_chain.plan(str(leaf), str(there), roots, whole=True)
    copy_chain.apply(plan, roots, progress=progress)


def _compact(leaf: Path, roots: Roots, progress: Progress, *, in_place: bool) -> None:
    path = str(leaf.with_name("base.vhd"))
    plan = compact.plan(path, roots, in_place=in_place)
    compact.apply(plan, roots, offline=True, progress=progress)


# Bytes: of the copy, and of the proof (both in MiB, of data).
WORK: dict[str, tuple[Callable[[Path, Roots, Progress], None], int]] = {
    "merge by copy": (lambda *a: _merge(*a, in_place=False), 18 + 16),  # zeros are read, not kept
    "merge in place": (lambda *a: _merge(*a, in_place=True), 12 + 12),
    "convert": (_convert, 18 + 16),
    "copy": (_copy, 28 + 28),
    "compact by rewriting": (lambda *a: _compact(*a, in_place=False), 16 + 12),
    "compact in place": (lambda *a: _compact(*a, in_place=True), 4 + 4 + 4),  # looked at first
}


@pytest.mark.parametrize("what", list(WORK))
def test_every_operation_tells_what_it_moves_at_least_every_8_mib(leaf: Path, what: str) -> None:
    """So a limit holds: the copy, and the proof beside it."""
    do, moved_mib = WORK[what]
    told = Counts()
    do(leaf, roots_of(leaf.parent), told)
    assert told.total / MIB == pytest.approx(moved_mib, rel=0.15)
    assert told.most <= 2 * MOST_BETWEEN_REPORTS
    if "place" not in what or "compact" in what:
        assert told.most <= MOST_BETWEEN_REPORTS


def test_a_limited_merge_in_place_moves_less_at_once_and_the_same_in_the_end(leaf: Path) -> None:
    roots = roots_of(leaf.parent)
    wanted = content_of(leaf)
    told = Counts(at_once=MIB)
    _merge(leaf, roots, told, in_place=True)
    assert told.most <= 2 * 2 * MIB  # a block, and read back
    assert content_of(leaf.with_name("base.vhd")) == wanted
    assert not os.path.exists(leaf)
