"""A merge in place that only began is taken back, whatever its disks are called by then."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from disks.engine.errors import ImageError
from disks.engine.formats import open_image
from disks.operations import journal, merge
from disks.operations.progress import Cancelled, Lost, Progress
from disks.operations.recover import recover
from disks.tests.builders import FAMILIES, Family
from disks.tests.operations import worlds
from disks.tests.operations.crashing import (
    in_fork,
    with_fault,
)
from disks.tests.operations.dying import DIED

# Where it died: before a disk was written, when base had its new identity, when the leaf knew it.
NOTHING = "identity.sidecar.create:1:kill"
BASE_CHANGED = "identity.sidecar.create:2:kill"
LEAF_TOLD = "merge.begin.rename:4:kill"
IN_THE_HEADER = "identity.header.fsync:1:kill"

at_each_point = pytest.mark.parametrize(
    "point", [NOTHING, BASE_CHANGED, LEAF_TOLD], ids=["nothing", "base-changed", "leaf-told"]
)


@dataclass
class Scene:
    """base ← middle ← leaf; the merge of leaf into middle died while it began."""

    folder: Path
    family: Family
    leaf_sha256: str

    def path(self, stem: str) -> Path:
        return self.folder / self.family.file(stem)

    @property
    def roots(self) -> worlds.Roots:
        return worlds.roots_of(self.folder)

    def identity(self, stem: str) -> str:
        with self.roots.open(str(self.path(stem))) as file:
            return open_image(file).identity

    def expected(self) -> str:
        """The identity that the leaf knows its parent by."""
        with self.roots.open(str(self.path("leaf"))) as file:
            parent = open_image(file).parent
        assert parent is not None
        return parent.identity

    def recover(self) -> list[dict[str, object]]:
        return recover(str(self.folder), self.roots)

    def assert_settled(self) -> None:
        paths = [str(self.path(stem)) for stem in ("middle", "leaf")]
        assert journal.pending(self.roots, paths) == []
        assert not list(self.folder.glob(".*.vd[mpu]*"))
        assert worlds.strays(self.folder) == []
        assert self.recover() == []


@pytest.fixture(params=FAMILIES, ids=lambda one: one.name)
def begun(request: pytest.FixtureRequest, place: Path) -> Callable[[str], Scene]:
    """A merge that died at a fault point."""

    def died(fault: str) -> Scene:
        folder = place / "scene"
        shutil.rmtree(folder, ignore_errors=True)
        world = worlds.chain(folder, family=request.param)
        plan = merge.plan(str(world.leaf.path), world.roots, into_parent=True, in_place=True)

        def work() -> None:
            merge.apply(plan, world.roots, offline=True, job="7")

        scene = Scene(folder, request.param, world.leaf.sha256)
        assert in_fork(with_fault(fault, work)) == DIED
        return scene

    return died


def swapped(path: Path, stranger: Path) -> Path:
    """Another file gets the name; where the former one is now."""
    aside = path.with_name("aside")
    path.rename(aside)
    shutil.copyfile(stranger, path)
    return aside


@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.name)
@pytest.mark.parametrize(
    "fault", ["identity.sidecar.create:2:eio", "merge.begin.rename:4:enospc", ""]
)
def test_an_error_or_a_wish_to_stop_gives_every_disk_its_identities_back(
    tmp_path: Path, family: Family, fault: str
) -> None:
    world = worlds.chain(tmp_path, family=family)
    scene = Scene(tmp_path, family, world.leaf.sha256)
    before = scene.identity("middle"), scene.expected()
    assert before[0] == before[1]
    record = Path(journal.sidecar_path(str(scene.path("middle")), journal.MERGE))
    plan = merge.plan(str(world.leaf.path), world.roots, into_parent=True, in_place=True)

    class Asked(Progress):
        def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
            if not fault and record.exists():
                raise Cancelled

    def work() -> None:
        merge.apply(plan, world.roots, offline=True, job="7", progress=Asked())

    with pytest.raises((ImageError, Cancelled)):
        (with_fault(fault, work) if fault else work)()
    assert (scene.identity("middle"), scene.expected()) == before
    scene.assert_settled()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.name)
def test_who_has_lost_the_work_takes_nothing_back(tmp_path: Path, family: Family) -> None:
    """It is another's by now, who does that; perhaps even the record is."""
    world = worlds.chain(tmp_path, family=family)
    scene = Scene(tmp_path, family, world.leaf.sha256)
    record = Path(journal.sidecar_path(str(scene.path("middle")), journal.MERGE))
    plan = merge.plan(str(world.leaf.path), world.roots, into_parent=True, in_place=True)
    seen: list[dict[str, bytes]] = []

    class Gone(Progress):
        def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
            if record.exists():
                seen.append({path.name: path.read_bytes() for path in tmp_path.glob(".*.vd*")})
                raise Lost

    with pytest.raises(Lost):
        merge.apply(plan, world.roots, offline=True, job="7", progress=Gone())
    assert [{path.name: path.read_bytes() for path in tmp_path.glob(".*.vd*")}] == seen
    assert [row["action"] for row in scene.recover()] == ["undone"]
    scene.assert_settled()


def copied(path: Path) -> None:
    """The same file, as a file of its own."""
    aside = path.with_name("aside")
    shutil.copy2(path, aside)
    aside.replace(path)


@at_each_point
def test_another_disk_in_the_place_of_base_is_left_as_it_is_and_told_of(
    begun: Callable[[str], Scene], point: str
) -> None:
    scene = begun(point)
    middle, stranger = scene.path("middle"), scene.path("base")
    swapped(middle, stranger)
    with scene.roots.open(str(stranger)) as file:
        known = open_image(file).identity
    (row,) = scene.recover()
    assert (row["action"], row["code"]) == ("undone", None)
    assert f"another file is called {middle} now" in str(row["sentence"])
    assert "update the parent path" in str(row["sentence"])
    assert middle.read_bytes() == stranger.read_bytes()
    assert scene.expected() not in (known, "")
    scene.assert_settled()


@at_each_point
def test_a_copy_in_the_place_of_base_gets_its_identity_back_and_fits_to_the_leaf(
    begun: Callable[[str], Scene], point: str
) -> None:
    """The folder was copied to another storage: inodes are new, what we wrote came along."""
    scene = begun(point)
    middle = scene.path("middle")
    copied(middle)
    (row,) = scene.recover()
    assert row["action"] == "undone"
    assert scene.expected() == scene.identity("middle")
    assert worlds.content_of(scene.path("leaf")) == scene.leaf_sha256
    scene.assert_settled()


@at_each_point
def test_copies_of_all_disks_fit_to_one_another_again(
    begun: Callable[[str], Scene], point: str
) -> None:
    scene = begun(point)
    for stem in ("base", "middle", "leaf"):
        copied(scene.path(stem))
    (row,) = scene.recover()
    assert row["action"] == "undone"
    assert scene.expected() == scene.identity("middle")
    assert worlds.content_of(scene.path("leaf")) == scene.leaf_sha256
    scene.assert_settled()


@at_each_point
@pytest.mark.parametrize("stem", ["middle", "leaf"])
def test_a_disk_that_is_gone_keeps_nothing_from_being_taken_back(
    begun: Callable[[str], Scene], point: str, stem: str
) -> None:
    scene = begun(point)
    kept = scene.identity("middle") if stem == "leaf" else scene.expected()
    scene.path(stem).rename(scene.path(stem).with_name("aside"))
    (row,) = scene.recover()
    assert row["action"] == "undone"
    assert f"no file is called {scene.path(stem)} now" in str(row["sentence"])
    changed = point != NOTHING if stem == "leaf" else point == LEAF_TOLD
    assert ((scene.identity("middle") if stem == "leaf" else scene.expected()) != kept) is changed
    scene.assert_settled()


def test_what_is_no_disk_is_left_in_the_place_of_base(begun: Callable[[str], Scene]) -> None:
    scene = begun(LEAF_TOLD)
    text = scene.folder / "text"
    text.write_bytes(b"no disk\n" * 1000)
    swapped(scene.path("middle"), text)
    (row,) = scene.recover()
    assert row["action"] == "undone"
    assert scene.path("middle").read_bytes() == text.read_bytes()
    scene.assert_settled()


def test_half_a_header_keeps_its_record_until_its_disk_is_back(
    begun: Callable[[str], Scene],
) -> None:
    """Nothing else could mend that disk."""
    scene = begun(IN_THE_HEADER)
    middle = scene.path("middle")
    aside = swapped(middle, scene.path("base"))
    before = middle.read_bytes()
    rows = scene.recover()
    assert {row["action"] for row in rows} == {"needs-attention"}
    assert middle.read_bytes() == before
    aside.replace(middle)
    assert "undone" in {row["action"] for row in scene.recover()}
    assert scene.expected() == scene.identity("middle")
    assert worlds.content_of(scene.path("leaf")) == scene.leaf_sha256
    scene.assert_settled()
