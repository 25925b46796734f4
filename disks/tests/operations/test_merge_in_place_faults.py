"""A merge in place survives death, errors, stops and power cuts at every point of it."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from disks.engine import faults, files
from disks.engine.errors import ImageError
from disks.engine.files import LARGE_BYTES, ImageFile
from disks.engine.formats import open_image
from disks.operations import journal, merge, merge_in_place, merge_plan
from disks.operations.merge_in_place import batches, moving, old_pages
from disks.operations.progress import Cancelled, Progress, Stopped
from disks.operations.recover import recover
from disks.tests.builders import MIB, VHD, VHDX, BuiltVhdx, Family
from disks.tests.operations import worlds
from disks.tests.operations.crashing import (
    SAMPLE,
    failing_at_every_point,
    faulty,
    in_fork,
    mended_at_every_point,
    unreadable_once,
    with_fault,
)
from disks.tests.operations.dying import DIED, DONE, Work
from disks.tests.operations.moments import left_by_deaths
from disks.tests.operations.power import cuts_of, survive_power_cuts
from disks.tests.operations.worlds import KIB


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three batches of a small disk, past the memory and through it."""
    monkeypatch.setattr(batches, "BATCH_BYTES", 12 * 1024)
    for module in (files, moving):
        monkeypatch.setattr(module, "LARGE_BYTES", 4096)


@dataclass
class Scene:
    """Three levels and a child below, copied afresh; base: how far down it merges."""

    folder: Path
    family: Family
    base: str | None
    keep_name: str
    leaf_essence: str
    below_sha256: str
    shape: str

    @property
    def is_large(self) -> bool:
        return self.shape.endswith("large")

    def path(self, stem: str) -> str:
        return str(self.folder / self.family.file(stem))

    @property
    def roots(self) -> worlds.Roots:
        return worlds.roots_of(self.folder)

    @property
    def output(self) -> str:
        return self.path("leaf" if self.keep_name == "child" else self.base or "middle")

    def plan(self) -> merge_plan.MergePlan:
        return merge.plan(
            self.path("leaf"),
            self.roots,
            into_parent=True,
            in_place=True,
            keep_name=self.keep_name,
            base=self.path(self.base) if self.base else None,
        )

    def merge(self, progress: Progress | None = None) -> dict[str, object]:
        return merge.apply(self.plan(), self.roots, offline=True, progress=progress, job="7")

    def merge_or_stop(self) -> None:
        """As a job sees it: what cannot go on is refused, whether it may be resumed or not."""
        try:
            self.merge()
        except Stopped as stopped:
            raise ImageError("E_STOPPED", stopped.sentence) from stopped

    def recover(self) -> list[dict[str, object]]:
        return recover(str(self.folder), self.roots)

    def judge(self) -> str:
        """Names the state: nothing lost, nothing broken, nothing left lying about."""
        merged = not os.path.exists(self.path("leaf")) or self.keep_name == "child"
        if self.keep_name == "child":
            merged = not os.path.exists(self.path(self.base or "middle"))
        leaf = self.output if merged else self.path("leaf")
        assert worlds.essence_of(leaf) == self.leaf_essence
        assert worlds.essence_of(self.path("below")) == self.below_sha256
        assert worlds.errors_in(leaf) == []
        assert worlds.errors_in(self.path("below")) == []
        left = [
            name
            for name in worlds.names_in(self.folder)
            if name.endswith((".vdtmp", ".vdmerge", ".vdpages", ".vdjob"))
        ]
        assert left == []
        paths = [self.path(stem) for stem in ("base", "middle", "leaf", "below")]
        assert journal.pending(self.roots, paths) == []
        return "merged" if merged else "old"


def _large_at(sector: int) -> dict[str, Any]:
    return {"leaf_more": [(sector, worlds.noise(12, 3000))]}


_SHAPES = {
    "vhd": (VHD, None, "parent", {}),
    "vhd-two-levels": (VHD, "base", "parent", {"leaf_size": 200 * KIB}),
    "vhd-child-name": (VHD, None, "child", {}),
    "vhdx": (VHDX, None, "parent", {}),
    "vhdx-two-levels": (VHDX, "base", "child", {}),
}
# Large: so that one piece is read while the one before it is written. Short: base's last block
# lacks what lies behind its end, and the leaf is larger, and holds a block that base has not.
_OTHERS = {
    "vhd-large": (VHD, None, "parent", {"size": 2 * MIB, "block": 2 * MIB, **_large_at(1024)}),
    "vhdx-large": (VHDX, None, "parent", _large_at(6144)),
    "vhd-short": (
        VHD,
        "base",
        "parent",
        {"block": 64 * KIB, "leaf_size": 200 * KIB, "leaf_more": [(390, worlds.noise(5, 4))]},
    ),
}


@pytest.fixture(params=sorted(_SHAPES))
def scene_of(request: pytest.FixtureRequest, place: Path) -> Callable[[], Scene]:
    return scenes(place, request.param)


@pytest.fixture(params=sorted(_SHAPES | _OTHERS))
def any_scene_of(
    request: pytest.FixtureRequest, place: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Scene]:
    """As scene_of, and others, of which loops take a sample: large ones cost ten times as much."""
    if request.param.endswith("large"):
        monkeypatch.setattr(batches, "BATCH_BYTES", 1400 * 1024)
        for module in (files, moving):
            monkeypatch.setattr(module, "LARGE_BYTES", LARGE_BYTES)
    return scenes(place, request.param)


def scenes(place: Path, shape: str) -> Callable[[], Scene]:
    """A fresh scene at every call, always in the same place."""
    family, base, keep_name, options = (_SHAPES | _OTHERS)[shape]
    template = place / "template"
    world = worlds.chain(template, family=family, grandchild=True, **options)
    if shape == "vhd-short":
        data = world.base.path.read_bytes()
        world.base.path.write_bytes(data[: -512 - 32 * KIB] + data[-512:])
    leaf, below = worlds.essence_of(world.leaf.path), worlds.essence_of(world.grandchild.path)
    folder = place / "scene"

    def fresh() -> Scene:
        shutil.rmtree(folder, ignore_errors=True)
        worlds.copy_tree(template, folder)
        return Scene(folder, family, base, keep_name, leaf, below, shape)

    return fresh


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kill", "torn"])
def test_killed_at_every_point_it_is_finished_or_taken_back(
    any_scene_of: Callable[[], Scene], kind: str
) -> None:
    repeated = Repeated(any_scene_of, any_scene_of())
    every = 1 if kind == "kill" else SAMPLE
    if repeated.scene.shape in _OTHERS:
        every *= SAMPLE
    states = mended_at_every_point(
        repeated.fresh,
        faulty(kind),
        expected=DIED,
        recover=repeated.recover,
        judge=repeated.judge,
        every=every,
        folder=repeated.folder,
    )
    assert states == {"old", "merged"}
    assert repeated.judge() == "merged"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kill", "torn"])
def test_no_machine_may_use_a_leaf_that_a_death_left_unreadable(
    scene_of: Callable[[], Scene], kind: str
) -> None:
    repeated = Repeated(scene_of, scene_of())
    allowed = 0
    for _ in left_by_deaths(repeated.folder, repeated.fresh(), torn=kind == "torn"):
        scene = repeated.scene
        base = scene.path(scene.base or "middle")
        found = merge_in_place.pending(scene.roots, base)
        if found is None or not merge_in_place.has_begun_to_move(found):
            continue
        if merge_in_place.why_not_used(scene.roots, found) == "":
            assert worlds.essence_of(scene.path("leaf")) == scene.leaf_essence
            allowed += 1
    assert allowed


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["enospc", "eio"])
def test_an_error_at_every_point_leaves_what_recovery_finishes_or_takes_back(
    any_scene_of: Callable[[], Scene], kind: str
) -> None:
    repeated = Repeated(any_scene_of, any_scene_of())
    # Of large ones: where one piece is written and the next one read.
    step, every = ("merge.data", 1) if repeated.scene.is_large else ("*", SAMPLE)
    for _ in failing_at_every_point(repeated.fresh, kind, step=step, every=every):
        repeated.recover()
        repeated.judge()
    assert repeated.judge() == "merged"


def test_short_writes_change_nothing(any_scene_of: Callable[[], Scene]) -> None:
    repeated = Repeated(any_scene_of, any_scene_of())
    for code in failing_at_every_point(repeated.fresh, "short", every=SAMPLE**2):
        assert code == DONE
        assert repeated.judge() == "merged"


_OF_A_BATCH = [
    f"merge.{stage}.{operation}"
    for stage in ("journal", "room", "data", "table")
    for operation in ("write", "allocate", "fsync")
]


@dataclass
class Repeated:
    """The scene as one that is made anew for every run."""

    scene_of: Callable[[], Scene]
    scene: Scene

    @property
    def folder(self) -> Path:
        return self.scene.folder

    def fresh(self) -> Work:
        self.scene = self.scene_of()
        return self.scene.merge_or_stop

    def recover(self) -> list[dict[str, object]]:
        return self.scene.recover()

    def judge(self) -> str:
        return self.scene.judge()


@pytest.mark.slow
@pytest.mark.power_cuts
def test_power_cuts_lose_nothing(
    request: pytest.FixtureRequest, any_scene_of: Callable[[], Scene], place: Path
) -> None:
    """Unsynced pages kept, lost, torn or garbage, names lost; then cut again in recovery."""
    scene = any_scene_of()
    shapes = (_SHAPES | _OTHERS).values()
    of_this_format = [shape for shape in shapes if shape[0] is scene.family]
    survive_power_cuts(
        Repeated(any_scene_of, scene),
        operation="merge in place",
        format_name=scene.family.name,
        cuts=cuts_of(len(of_this_format), 12),
        seed=request.node.name,
        aside=place / "aside",
        last_point_of_recovery=60,
        dies_at=_OF_A_BATCH if scene.is_large else (),
    )


def test_a_garbled_page_that_is_half_put_back_is_no_strangers(
    scene_of: Callable[[], Scene],
) -> None:
    """The power fails in a batch, and again while recovery writes the old pages."""
    scene = scene_of()
    base = Path(scene.path(scene.base or "middle"))
    assert in_fork(with_fault("merge.table.write:1:kill", scene.merge_or_stop)) == DIED
    pending = merge_in_place.pending(scene.roots, str(base))
    assert pending is not None
    work = merge_in_place.Work.from_sidecar(pending)
    slot = old_pages.newest(scene.roots, work.pages_path, batches.key(work), work.batch)
    assert slot is not None
    page = next(page for page in slot.pages if len(page.old) == 4096 and page.ours.bit_count() < 8)
    garbage = random.Random(1).randbytes(4096)

    def dies_before_the_pages_are_back() -> None:
        batches.old_pages.put_back = lambda file, slot: os.kill(os.getpid(), signal.SIGKILL)
        scene.recover()

    with open(base, "r+b") as file:
        file.seek(page.offset)
        file.write(garbage)
    assert in_fork(dies_before_the_pages_are_back) == DIED
    with open(base, "r+b") as file:
        for number in range(8):
            if page.ours >> number & 1:
                file.seek(page.offset + number * 512)
                file.write(page.old[number * 512 : (number + 1) * 512])
    assert [row["action"] for row in scene.recover()] == ["finished"]
    assert scene.judge() == "merged"


class StopsAfter(Progress):
    """Asks to stop at the n-th question."""

    def __init__(self, number: int) -> None:
        self.left = number

    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        self.left -= 1
        if self.left == 0:
            raise Cancelled


def test_stopped_between_any_two_batches_it_reads_as_before_and_goes_on(
    scene_of: Callable[[], Scene],
) -> None:
    stops = 0
    for number in range(1, 400):
        scene = scene_of()
        try:
            scene.merge(StopsAfter(number))
        except Cancelled:
            assert scene.judge() == "old"
            continue
        except Stopped:
            stops += 1
            assert worlds.essence_of(scene.path("leaf")) == scene.leaf_essence
            with pytest.raises(ImageError) as refused:
                merge.apply(scene.plan(), scene.roots, offline=True)
            assert refused.value.code == "E_UNFINISHED"
            assert [row["action"] for row in scene.recover()] == ["finished"]
            assert scene.judge() == "merged"
            continue
        break
    assert scene.judge() == "merged"
    assert stops >= 2


class StopsWhenBegun(Progress):
    """Asks to stop as soon as the merge has written anything."""

    def __init__(self, record: str, *, goes_on_later: bool) -> None:
        self.record = record
        self.goes_on_later = goes_on_later

    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        if os.path.exists(self.record):
            raise Cancelled(goes_on_later=self.goes_on_later)


def test_stopped_for_good_before_anything_moved_it_is_taken_back(
    scene_of: Callable[[], Scene],
) -> None:
    scene = scene_of()
    record = journal.sidecar_path(scene.path(scene.base or "middle"), journal.MERGE)
    with pytest.raises(Cancelled):
        scene.merge(StopsWhenBegun(record, goes_on_later=False))
    assert scene.judge() == "old"
    assert scene.recover() == []


def test_paused_before_anything_moved_it_keeps_what_it_has_begun(
    scene_of: Callable[[], Scene],
) -> None:
    scene = scene_of()
    record = journal.sidecar_path(scene.path(scene.base or "middle"), journal.MERGE)
    with pytest.raises(Stopped) as stopped:
        scene.merge(StopsWhenBegun(record, goes_on_later=True))
    assert "was stopped before its first batch was complete. Resume it" in stopped.value.sentence
    assert [row["action"] for row in scene.recover()] == ["finished"]
    assert scene.judge() == "merged"


class StopsCommitting(Progress):
    """Asks to stop when the n-th batch is about to show."""

    def __init__(self, number: int) -> None:
        self.left = number

    def commit_starts(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Cancelled


@pytest.mark.parametrize("kind", [StopsAfter, StopsCommitting])
def test_stopped_inside_of_a_batch_it_takes_that_back_and_goes_on(
    scene_of: Callable[[], Scene],
    monkeypatch: pytest.MonkeyPatch,
    kind: type[StopsAfter | StopsCommitting],
) -> None:
    """Within the copying, and at the last moment before the table leads to what was copied."""
    monkeypatch.setattr(batches, "BATCH_BYTES", 24 * 1024)
    monkeypatch.setattr(moving, "REPORT_BYTES", 512)
    taken_back = 0
    for number in range(1, 60, 1 if kind is StopsCommitting else 5):
        scene = scene_of()
        base = Path(scene.path(scene.base or "middle"))
        try:
            scene.merge(kind(number))
        except Cancelled:
            continue
        except Stopped:
            taken_back += 1
            assert worlds.essence_of(scene.path("leaf")) == scene.leaf_essence
            assert worlds.errors_in(str(base)) == []
            assert [row["action"] for row in scene.recover()] == ["finished"]
        assert scene.judge() == "merged"
        if kind is StopsCommitting:
            break
    assert taken_back


def test_what_reads_otherwise_than_it_was_written_is_written_again(
    scene_of: Callable[[], Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noticed before anything of base refers to it."""
    moved: list[ImageFile] = []
    move = batches.move

    def failing(file: ImageFile, places: Any, runs: Any, told: Any) -> str:
        digest = move(file, places, runs, told)
        moved.append(file)
        if len(moved) == broken[0]:
            file.write_at(places[-1].file_offset, b"\xbd" * 512)
        return digest

    monkeypatch.setattr(batches, "move", failing)
    broken = [0]
    scene_of().merge()
    for broken[0] in sorted({1, 2, len(moved)}):
        moved.clear()
        scene = scene_of()
        with pytest.raises(Stopped) as stopped:
            scene.merge()
        assert "reads otherwise" in stopped.value.sentence
        assert worlds.essence_of(scene.path("leaf")) == scene.leaf_essence
        assert [row["action"] for row in scene.recover()] == ["finished"]
        assert scene.judge() == "merged"


def test_a_leaf_that_cannot_be_read_stops_the_merge_at_that_sector(
    any_scene_of: Callable[[], Scene],
) -> None:
    """bad-input F83: nothing is made up, also where a piece was to be read ahead."""
    ahead = 0
    for number in range(1, 100):
        scene = any_scene_of()
        leaf = scene.path("leaf")
        with scene.roots.open(leaf) as file:
            image = open_image(file)
            held = list(image.extents(0, image.virtual_size_bytes // 512))
        with unreadable_once(leaf, number) as failed:
            try:
                scene.merge()
            except Stopped as stopped:
                sentence = stopped.sentence
        if not failed:
            assert scene.judge() == "merged"
            assert ahead > 1
            return
        offset, thread = failed[0]
        ahead += thread.startswith("ahead")
        sector = next(
            one.first_sector + (offset - one.file_offset) // 512
            for one in held
            if 0 <= offset - (one.file_offset or 0) < one.count_sectors * 512
        )
        assert f"Sector (LBA) {sector:,} cannot be read." in sentence
        assert worlds.essence_of(leaf) == scene.leaf_essence
        assert [row["action"] for row in scene.recover()] == ["finished"]
        assert scene.judge() == "merged"
    raise AssertionError("it never came through")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (batches, "move"),  # before anything leads to what is written
        (batches, "prove"),  # when all of it is written
        (old_pages, "write"),
        (merge_in_place.ending, "finish"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("rolls_back", [True, False], ids=["", "not-even-taken-back"])
def test_an_error_that_nobody_foresaw_is_a_stop_that_can_be_gone_on_from(
    scene_of: Callable[[], Scene],
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    name: str,
    rolls_back: bool,
) -> None:
    scene = scene_of()
    works = getattr(module, name)
    calls: list[int] = []

    def fails_in_the_second_batch(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2 or module not in (batches, old_pages):
            raise RuntimeError("dictionary changed size")
        return works(*args)

    def fails(*_: Any) -> None:
        raise IndexError("list index out of range")

    with monkeypatch.context() as patch:
        patch.setattr(module, name, fails_in_the_second_batch)
        if not rolls_back:
            patch.setattr(old_pages, "put_back", fails)
        with pytest.raises(Stopped) as stopped:
            scene.merge()
    assert "dictionary changed size" in stopped.value.sentence
    assert "Resume it later" in stopped.value.sentence
    assert worlds.essence_of(scene.path("leaf")) == scene.leaf_essence
    assert [row["action"] for row in scene.recover()] == ["finished"]
    assert scene.judge() == "merged"


@pytest.mark.parametrize("stage", ["merge.prepare", "merge.end"])
def test_an_error_before_or_after_the_moving_says_how_to_go_on(tmp_path: Path, stage: str) -> None:
    world = worlds.chain(tmp_path)
    plan = merge.plan(str(world.leaf.path), world.roots, into_parent=True, in_place=True)

    def refuse(event: faults.Event) -> None:
        if event.point.startswith(stage):
            raise OSError(28, os.strerror(28), event.path)

    faults.watch(refuse)
    try:
        with pytest.raises(Stopped) as stopped:
            merge.apply(plan, world.roots, offline=True)
    finally:
        faults.watch(None)
    assert "the storage is full" in stopped.value.sentence
    assert f"disk recover {tmp_path}" in stopped.value.sentence
    assert [row["action"] for row in recover(str(tmp_path), world.roots)] == ["finished"]
    assert worlds.content_of(world.middle.path) == world.leaf.sha256


def test_base_written_by_somebody_else_meanwhile_is_left_alone(
    scene_of: Callable[[], Scene],
) -> None:
    scene = _scene_stopped_in_the_middle(scene_of)
    base = Path(scene.path(scene.base or "middle"))
    os.utime(base, ns=(1, 1))
    before = worlds.snapshot(scene.folder)
    rows = scene.recover()
    assert [row["code"] for row in rows] == ["E_NEEDS_ATTENTION"]
    after = worlds.snapshot(scene.folder)
    changed = {name for name in before if before[name] != after.get(name)}
    assert all(name.endswith(".vdmerge") for name in changed)


def test_a_leaf_written_meanwhile_is_moved_from_the_beginning(
    scene_of: Callable[[], Scene],
) -> None:
    scene = _scene_stopped_in_the_middle(scene_of)
    leaf = Path(scene.path("leaf"))
    with scene.roots.open(str(leaf)) as file:
        extents = list(open_image(file).extents(0, 16))
        place = next(one.file_offset for one in extents if one.file_offset is not None)
    with leaf.open("r+b") as raw:
        raw.seek(place)
        raw.write(b"\x5a" * 512)
    wanted = worlds.essence_of(leaf)
    assert wanted != scene.leaf_essence
    assert [row["action"] for row in scene.recover()] == ["finished"]
    assert worlds.essence_of(scene.output) == wanted


def _scene_stopped_in_the_middle(scene_of: Callable[[], Scene]) -> Scene:
    for number in range(1, 400):
        scene = scene_of()
        try:
            scene.merge(StopsAfter(number))
        except Cancelled:
            continue
        except Stopped as stopped:
            if "before its first batch" not in stopped.sentence:
                return scene
            continue
        raise AssertionError("it was never stopped")
    raise AssertionError("it never came to an end")


def test_asked_to_stop_when_only_names_are_left_it_ends(scene_of: Callable[[], Scene]) -> None:
    class Asked(Progress):
        has_moved = False

        def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
            self.has_moved = self.has_moved or 0 < done_bytes == total_bytes

        def commit_starts(self) -> None:
            if self.has_moved:
                raise Cancelled

    scene = scene_of()
    try:
        scene.merge(Asked())
    except Stopped:  # between the last batch and the end of the moving
        assert [row["action"] for row in scene.recover()] == ["finished"]
    assert scene.judge() == "merged"


def _stop_and_resume(
    world: worlds.World, meanwhile: Callable[[], object]
) -> list[dict[str, object]]:
    """Merge the leaf into the middle, stop after the first batch, and recover."""
    plan = merge.plan(str(world.leaf.path), world.roots, into_parent=True, in_place=True)
    for number in range(3, 60):
        try:
            merge.apply(plan, world.roots, offline=True, progress=StopsAfter(number))
        except Cancelled:
            plan = merge.plan(str(world.leaf.path), world.roots, into_parent=True, in_place=True)
        except Stopped:
            meanwhile()
            return recover(str(world.folder), world.roots)
    raise AssertionError("it was never stopped")


@pytest.mark.parametrize("only_emptied", [False, True])
def test_without_its_old_pages_it_does_not_go_on(tmp_path: Path, only_emptied: bool) -> None:
    """Somebody tidied up: what was half written is known by them alone."""
    world = worlds.chain(tmp_path)

    def tidied_up() -> None:
        pages = next(tmp_path.glob(".*.vdpages"))
        pages.write_bytes(b"") if only_emptied else pages.unlink()

    (row,) = _stop_and_resume(world, tidied_up)
    assert (row["action"], row["code"]) == ("needs-attention", "E_NEEDS_ATTENTION")
    assert ".middle.vhd.vdpages is gone" in str(row["sentence"])
    assert worlds.content_of(world.leaf.path) == world.leaf.sha256


def test_a_log_that_waits_in_the_leaf_is_replayed_before_it_goes_on(tmp_path: Path) -> None:
    """Whoever used the leaf while the merge was stopped died, and left its log."""
    world = worlds.chain(tmp_path, family=VHDX)
    wanted = world.leaf.sha256
    leaf = world.leaf
    assert isinstance(leaf, BuiltVhdx)
    rows = _stop_and_resume(world, lambda: leaf.move_into_log(leaf.table_offset))
    assert [(row["action"], row["code"]) for row in rows] == [("finished", None)]
    assert worlds.content_of(world.middle.path) == wanted


@pytest.mark.parametrize("family", [VHD, VHDX], ids=lambda one: one.name)
def test_a_child_of_the_leaf_that_came_meanwhile_follows_or_holds_the_names_back(
    tmp_path: Path, family: Family
) -> None:
    world = worlds.chain(tmp_path, family=family)
    new = tmp_path / family.file("new")
    other = tmp_path / "other-name"

    def made() -> None:
        family.differencing(tmp_path, new.name, world.leaf, content=[(2, b"n" * 512)])
        os.link(new, other)

    (row,) = _stop_and_resume(world, made)
    assert (row["action"], row["code"]) == ("needs-attention", "E_HARD_LINKS")
    assert "Everything is moved" in str(row["sentence"])
    wanted = worlds.content_of(new)
    assert worlds.content_of(world.leaf.path) == world.leaf.sha256
    other.unlink()

    def killed() -> None:
        with_fault("merge.end:1:kill", lambda: recover(str(tmp_path), world.roots))()

    base = str(world.middle.path)
    assert (stopped := merge_in_place.pending(world.roots, base)) is not None
    assert merge_in_place.was_stopped(stopped)
    assert in_fork(killed) == DIED
    assert (interrupted := merge_in_place.pending(world.roots, base)) is not None
    assert not merge_in_place.was_stopped(interrupted), "it goes on by itself"
    assert [row["action"] for row in recover(str(tmp_path), world.roots)] == ["finished"]
    assert worlds.content_of(new) == wanted
    assert worlds.content_of(world.middle.path) == world.leaf.sha256
