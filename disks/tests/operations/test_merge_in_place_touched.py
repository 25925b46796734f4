"""A stopped merge in place whose parent has other times since: somebody has the word, or nobody."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from disks.engine.formats import open_image
from disks.operations import merge, merge_in_place
from disks.operations.merge_in_place import as_left, batches
from disks.operations.merge_in_place.work import Work, write
from disks.operations.paths import Roots
from disks.operations.progress import Cancelled, Progress, Stopped
from disks.operations.recover import recover
from disks.tests.builders import FAMILIES, VHDX, Family
from disks.tests.operations import worlds
from disks.tests.operations.crashing import in_fork, with_fault
from disks.tests.operations.dying import DIED


class StopsAfterOneBatch(Progress):
    is_moved = False

    def commit_ends(self) -> None:
        self.is_moved = True

    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        if self.is_moved:
            raise Cancelled


@dataclass
class Scene:
    """middle ← leaf, stopped when some of the leaf has moved into the middle."""

    folder: Path
    family: Family
    leaf: str
    base: str
    wanted: str

    @property
    def roots(self) -> Roots:
        return worlds.roots_of(self.folder)

    @property
    def work(self) -> Work:
        record = merge_in_place.pending(self.roots, self.base)
        assert record is not None
        return Work.from_sidecar(record)

    def recover(self, *, only_touched: bool = True) -> dict[str, Any]:
        (row,) = recover(str(self.folder), self.roots, only_touched=only_touched)
        return row

    def touch(self) -> None:
        os.utime(self.base, ns=(1, 1))

    def poke(self, offset: int, data: bytes) -> None:
        """As somebody writes who knows nothing of the merge."""
        with open(self.base, "r+b") as file:
            file.seek(offset)
            file.write(data)
        self.touch()

    def place_of_what_has_moved(self) -> int:
        """Where the first sector that the leaf holds lies in base."""
        work = self.work
        with batches.Levels(self.roots, work) as levels:
            first = next(levels.runs(0)).first_sector
        assert first < work.position
        with self.roots.open(self.base) as file:
            offset = next(iter(open_image(file).extents(first, 1))).file_offset
        assert offset is not None
        return offset

    def assert_merged(self) -> None:
        assert worlds.content_of(self.base) == self.wanted
        assert worlds.errors_in(self.base) == []
        assert not os.path.exists(self.leaf)


@pytest.fixture(params=FAMILIES, ids=lambda one: one.name)
def scene(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(batches, "BATCH_BYTES", 6 * 1024)
    world = worlds.chain(tmp_path, family=request.param)
    plan = merge.plan(str(world.leaf.path), world.roots, into_parent=True, in_place=True)
    with pytest.raises(Stopped):
        merge.apply(plan, world.roots, offline=True, progress=StopsAfterOneBatch())
    paths = str(world.leaf.path), str(world.middle.path)
    return Scene(tmp_path, request.param, *paths, world.leaf.sha256)


def test_other_times_alone_are_refused_with_both_ways_out(scene: Scene) -> None:
    scene.touch()
    before = worlds.snapshot(scene.folder)
    row = scene.recover(only_touched=False)
    assert (row["action"], row["code"]) == ("needs-attention", "E_NEEDS_ATTENTION")
    assert "a tool has changed only its times" in row["sentence"]
    assert "tick that on the page" in row["sentence"]
    assert "--only-touched" in row["sentence"]
    assert "by hand" not in row["sentence"], "it can only be finished"
    after = worlds.snapshot(scene.folder)
    changed = {name for name in before if before[name] != after.get(name)}
    assert all(name.endswith(".vdmerge") for name in changed)


def test_said_to_be_only_touched_it_goes_on(scene: Scene) -> None:
    scene.touch()
    assert scene.recover()["action"] == "finished"
    scene.assert_merged()


def test_said_wrongly_what_the_leaf_holds_is_right_all_the_same(scene: Scene) -> None:
    scene.poke(scene.place_of_what_has_moved(), b"\x5a" * 512)
    assert scene.recover()["action"] == "finished"
    scene.assert_merged()


def test_killed_at_once_it_needs_not_be_said_again_and_moves_all_the_same(scene: Scene) -> None:
    scene.poke(scene.place_of_what_has_moved(), b"\x5a" * 512)
    assert in_fork(with_fault("merge.data.write:1:kill", scene.recover)) == DIED
    assert scene.recover(only_touched=False)["action"] == "finished"
    scene.assert_merged()


@pytest.mark.parametrize("number", [1, 2])
def test_said_of_a_merge_whose_names_are_changing_it_ends_as_ever(
    scene: Scene, number: int
) -> None:
    fault = f"merge.end.rename:{number}:kill"
    assert in_fork(with_fault(fault, lambda: scene.recover(only_touched=False))) == DIED
    assert scene.recover()["action"] == "finished"
    scene.assert_merged()


def test_a_word_on_what_was_touched_again_since_is_not_believed(scene: Scene) -> None:
    scene.touch()
    record = merge_in_place.pending(scene.roots, scene.base)
    assert record is not None
    told = merge_in_place.touched(scene.roots, record)
    assert told is not None
    os.utime(scene.base, ns=(2, 2))
    assert as_left.taken_as_untouched(scene.roots, scene.work, told) == scene.work


def shorter(scene: Scene) -> None:
    os.truncate(scene.base, os.path.getsize(scene.base) - 512)


def larger(scene: Scene) -> None:
    os.truncate(scene.base, os.path.getsize(scene.base) + 512)


def another_file(scene: Scene) -> None:
    shutil.copyfile(scene.base, f"{scene.base}.copy")
    os.rename(f"{scene.base}.copy", scene.base)


def another_identity(scene: Scene) -> None:
    scene_work = scene.work
    write(scene.roots, scene_work.at(scene_work.state, identity=scene_work.old_identity))
    scene.touch()


def opened_for_writing(scene: Scene) -> None:
    """What its makers write into a header: FileWriteGuid, or the creator."""
    in_footer = os.path.getsize(scene.base) - 512 + 28
    scene.poke(64 * 1024 + 16 if scene.family is VHDX else in_footer, b"else")


@pytest.mark.parametrize(
    ("meanwhile", "why", "next_step"),
    [
        (shorter, "shorter than it was", "as it was when the merge was stopped"),
        (larger, "larger than it was", "as it was when the merge was stopped"),
        (another_file, "another file has its name", "began with its name back"),
        (another_identity, "another identity now", "as it was when the merge was stopped"),
        (opened_for_writing, "opened it to write", "as it was when the merge was stopped"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_the_file_itself_tells_no_word_overrules(
    scene: Scene, meanwhile: Callable[[Scene], None], why: str, next_step: str
) -> None:
    meanwhile(scene)
    before = worlds.snapshot(scene.folder)
    row = scene.recover()
    assert row["code"] == "E_NEEDS_ATTENTION"
    assert why in row["sentence"]
    assert next_step in row["sentence"]
    assert "by hand" not in row["sentence"]
    after = worlds.snapshot(scene.folder)
    changed = {name for name in before if before[name] != after.get(name)}
    assert all(name.endswith(".vdmerge") for name in changed)


@pytest.mark.parametrize("meanwhile", [shorter, larger, opened_for_writing])
def test_what_it_held_written_back_into_the_file_lets_it_go_on(
    scene: Scene, meanwhile: Callable[[Scene], None]
) -> None:
    """As the refusal says."""
    held = Path(scene.base).read_bytes()
    meanwhile(scene)
    assert scene.recover()["action"] == "needs-attention"
    Path(scene.base).write_bytes(held)
    assert scene.recover()["action"] == "finished"
    scene.assert_merged()


def test_a_record_of_before_headers_were_noted_is_gone_on_with(scene: Scene) -> None:
    work = scene.work
    assert work.header is not None
    write(scene.roots, work.at(work.state, header=None))
    scene.touch()
    assert scene.recover()["action"] == "finished"
    scene.assert_merged()
