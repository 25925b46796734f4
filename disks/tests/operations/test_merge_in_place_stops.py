"""Whoever stops a merge in place that has moved data finds that in its record, wherever it fell.

By that the console knows what to leave alone until somebody resumes it (services/orphans.py).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from disks.engine import faults
from disks.operations import family, journal, merge, merge_in_place
from disks.operations.merge_in_place import batches
from disks.operations.paths import Roots
from disks.operations.pile import applying, planning
from disks.operations.progress import Cancelled, Progress, Stopped
from disks.operations.recover import recover
from disks.tests.builders import FAMILIES, Family
from disks.tests.operations import piles, worlds
from disks.tests.operations.crashing import SAMPLE, in_fork, with_fault
from disks.tests.operations.dying import DIED, Work
from disks.tests.operations.power import cuts_of, survive_power_cuts

BATCH = "merge.data.write:2:kill"
ENDING = "merge.end.rename:1:kill"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three batches of a small disk."""
    monkeypatch.setattr(batches, "BATCH_BYTES", 12 * 1024)


@dataclass
class Scene:
    """base ← middle ← leaf ← below, copied afresh; the leaf is merged and keeps its name."""

    folder: Path
    family: Family
    leaf_sha256: str

    def path(self, stem: str) -> str:
        return str(self.folder / self.family.file(stem))

    @property
    def roots(self) -> Roots:
        return worlds.roots_of(self.folder)

    def merge(self, progress: Progress | None = None, keep_name: str = "child") -> object:
        planned = merge.plan(
            self.path("leaf"), self.roots, into_parent=True, in_place=True, keep_name=keep_name
        )
        return merge.apply(planned, self.roots, offline=True, progress=progress)

    def recover(self, progress: Progress | None = None) -> list[dict[str, Any]]:
        return recover(str(self.folder), self.roots, progress=progress)

    def record(self) -> journal.Sidecar | None:
        """Of the merge, once it can only be gone on with."""
        found = merge_in_place.pending(self.roots, self.path("middle"))
        return found if found is not None and merge_in_place.has_begun_to_move(found) else None

    def assert_it_reads_as_ever(self) -> None:
        assert worlds.content_of(self.path("leaf")) == self.leaf_sha256

    def assert_it_can_be_ended(self) -> None:
        self.recover()
        self.assert_it_reads_as_ever()
        assert self.recover() == []
        assert worlds.errors_in(self.path("leaf")) == []


@pytest.fixture(params=FAMILIES, ids=lambda one: one.name)
def scene_of(request: pytest.FixtureRequest, place: Path) -> Callable[[], Scene]:
    """A fresh scene at every call."""
    world = worlds.chain(place / "template", family=request.param, grandchild=True)
    sha256 = worlds.content_of(world.leaf)

    def fresh() -> Scene:
        shutil.rmtree(place / "scene", ignore_errors=True)
        worlds.copy_tree(place / "template", place / "scene")
        return Scene(place / "scene", request.param, sha256)

    return fresh


class StopsAt(Progress):
    """Somebody stops it at the n-th thing it tells; a new step, too, may be where that is heard."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.committing = False

    def step(self, step: str, sentence: str) -> None:
        self.report(0, 0)

    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        self.left -= 0 if self.committing else 1
        if self.left == 0:
            raise Cancelled

    def commit_starts(self) -> None:
        self.committing = True

    def commit_ends(self) -> None:
        self.committing = False

    @property
    def has_stopped(self) -> bool:
        return self.left <= 0


@contextmanager
def interrupted_at(number: int) -> Iterator[list[int]]:
    """Ctrl-C twice, or where nothing listens: before the n-th change of the storage."""
    count = [0]

    def interrupt(event: faults.Event) -> None:
        count[0] += 1
        if count[0] == number:
            raise KeyboardInterrupt

    faults.watch(interrupt)
    try:
        yield count
    finally:
        faults.watch(None)


def merged_or_stopped(scene: Scene, number: int) -> bool:
    """Whether the merge has begun to move before it heard of the stop."""
    try:
        scene.merge(StopsAt(number))
    except Cancelled:
        return False
    except Stopped:
        return True
    raise AssertionError("nobody stopped it")


def begun(scene: Scene, how: str) -> None:
    """A merge that somebody goes on with: it died in a batch, or at its end, or was stopped."""
    if how == "stopped":
        number = 1
        while not merged_or_stopped(scene, number):
            number += 1
        return
    assert in_fork(with_fault(how, scene.merge)) == DIED
    record = scene.record()
    assert record is not None
    assert not merge_in_place.was_stopped(record)


def assert_noted(scene: Scene, at: int, before: journal.Sidecar | None = None) -> bool:
    """Whether something is left that a console could go on with; then it must not by itself.

    before: the record as it was when somebody went on with it; untouched, it tells as much as then
    """
    record = scene.record()
    if record is None or record == before:
        return False
    if merge_in_place.cannot_wait(scene.roots, record):
        return False  # it is brought to its end by whoever comes
    assert merge_in_place.was_stopped(record), f"stopped at {at}"
    scene.assert_it_reads_as_ever()
    return True


@pytest.mark.parametrize("how", ["", BATCH, ENDING, "stopped"], ids=["new", "batch", "end", "stop"])
def test_a_stop_at_whatever_it_tells_is_noted(scene_of: Callable[[], Scene], how: str) -> None:
    noted = 0
    for number in range(1, 400):
        scene = scene_of()
        if how:
            begun(scene, how)
        before = scene.record()
        progress = StopsAt(number)
        with suppress(Cancelled, Stopped):
            scene.recover(progress) if how else scene.merge(progress)
        noted += assert_noted(scene, number, before)
        scene.assert_it_can_be_ended()
        if not progress.has_stopped:
            break
    assert bool(noted) is (how != ENDING)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["", BATCH, ENDING, "stopped"], ids=["new", "batch", "end", "stop"])
def test_an_interrupt_before_any_change_is_noted(scene_of: Callable[[], Scene], how: str) -> None:
    noted = 0
    for number in range(1, 400, SAMPLE):
        scene = scene_of()
        if how:
            begun(scene, how)
        before = scene.record()
        with interrupted_at(number) as count, suppress(KeyboardInterrupt):
            scene.recover() if how else scene.merge()
        noted += assert_noted(scene, number, before)
        scene.assert_it_can_be_ended()
        if count[0] < number:
            break
    assert bool(noted) is (how != ENDING)


def test_who_dies_while_it_notes_a_stop_leaves_what_can_be_gone_on_with(
    scene_of: Callable[[], Scene],
) -> None:
    for fault in ("write", "fsync", "rename", "fsync-folder"):
        scene = scene_of()

        stopped = partial(begun, scene, "stopped")
        assert in_fork(with_fault(f"merge.stop.{fault}:1:kill", stopped)) == DIED
        scene.assert_it_can_be_ended()


class Interrupted(StopsAt):
    """By Ctrl-C, pressed twice: nobody takes the batch at hand back."""

    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        try:
            super().report(done_bytes, total_bytes, sentence)
        except Cancelled:
            raise KeyboardInterrupt from None


@dataclass
class Stopping:
    """A merge that is stopped within its second batch; what is noted then may be lost."""

    scene_of: Callable[[], Scene]
    progress: type[StopsAt]
    scene: Scene
    at: int

    @property
    def folder(self) -> Path:
        return self.scene.folder

    def fresh(self) -> Work:
        self.scene = self.scene_of()
        return self.work

    def work(self) -> None:
        with suppress(Stopped, KeyboardInterrupt):
            self.scene.merge(self.progress(self.at))

    def recover(self) -> list[dict[str, Any]]:
        return self.scene.recover()

    def judge(self) -> str:
        self.scene.assert_it_reads_as_ever()
        assert worlds.errors_in(self.scene.path("leaf")) == []
        assert worlds.strays(self.folder) == []
        return "old" if Path(self.scene.path("middle")).exists() else "merged"


NOTES = [f"merge.stop.{one}" for one in ("create", "write", "fsync", "rename", "fsync-folder")]


@pytest.mark.slow
@pytest.mark.power_cuts
@pytest.mark.parametrize("progress", [StopsAt, Interrupted])
def test_power_cuts_while_a_stop_is_noted_leave_what_can_be_gone_on_with(
    request: pytest.FixtureRequest,
    scene_of: Callable[[], Scene],
    place: Path,
    progress: type[StopsAt],
) -> None:
    """bad-input F86, F87."""
    first = 1
    while not merged_or_stopped(scene_of(), first):
        first += 1
    scene = scene_of()
    survive_power_cuts(
        Stopping(scene_of, progress, scene, at=first + 2),
        operation="stop a merge in place",
        format_name=scene.family.name,
        cuts=cuts_of(2, 12),
        seed=request.node.name,
        aside=place / "aside",
        last_point_of_recovery=60,
        dies_at=NOTES,
    )


def test_what_somebody_resumed_is_not_stopped_any_more(scene_of: Callable[[], Scene]) -> None:
    """Should it be interrupted then, the console may go on with it."""
    scene = scene_of()
    begun(scene, "stopped")
    assert assert_noted(scene, 0)
    assert in_fork(with_fault("merge.prepare.write:1:kill", scene.recover)) == DIED
    record = scene.record()
    assert record is not None
    assert not merge_in_place.was_stopped(record)


def test_foreign_writes_are_noticed_however_often_it_is_stopped(
    scene_of: Callable[[], Scene],
) -> None:
    """Noting a stop says nothing of the files: what they were when the merge left them stays."""
    scene = scene_of()
    begun(scene, "stopped")
    os.utime(scene.path("middle"))
    for _ in range(3):
        (row,) = scene.recover()
        assert "somebody has written to it since the merge was stopped" in row["sentence"]
        assert assert_noted(scene, 0)


class AlwaysAsked(Progress):
    """Somebody wants it to stop all the while."""

    def step(self, step: str, sentence: str) -> None:
        raise Cancelled

    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        raise Cancelled

    def commit_starts(self) -> None:
        raise Cancelled


def test_once_the_parent_gets_the_leafs_face_no_stop_leaves_it_so(
    scene_of: Callable[[], Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leaf still has its name and cannot be read; to look for its children may take long."""
    look = family.look

    def looks(*args: Any, progress: Progress, **more: Any) -> family.Family:
        progress.report(0, 0)  # as it does when it has looked at many files
        return look(*args, progress=progress, **more)

    scene = scene_of()
    dying = with_fault("face.header.write:1:kill", partial(scene.merge, keep_name="parent"))
    assert in_fork(dying) == DIED
    monkeypatch.setattr(family, "look", looks)
    scene.recover(AlwaysAsked())
    assert scene.record() is None
    assert worlds.content_of(scene.path("middle")) == scene.leaf_sha256


def test_a_stop_at_whatever_a_pile_tells_is_noted(tmp_path: Path) -> None:
    """A new step of one of its merges asks, too: they are parts of one work."""
    stops = 0
    for number in range(1, 400):
        folder = tmp_path / str(number)
        piles.make(folder)
        roots = piles.roots_of(folder)
        steps = planning.plan(str(folder), roots, in_place=True).steps()
        progress = StopsAt(number)
        with suppress(Cancelled, Stopped):
            applying.apply(steps, roots, offline=True, progress=progress)
        record = merge_in_place.pending(roots, steps[0].base)
        if record is not None:
            assert merge_in_place.was_stopped(record), f"stopped at {number}"
            stops += 1
        shutil.rmtree(folder)
        if not progress.has_stopped:
            break
    assert stops
