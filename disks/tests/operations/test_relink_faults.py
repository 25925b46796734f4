"""Updating a parent link survives death, errors and power cuts at every point of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from disks.engine.errors import ImageError
from disks.engine.formats import open_image
from disks.operations import journal, relink
from disks.operations.paths import Roots
from disks.operations.recover import recover
from disks.operations.storage_roots import Root
from disks.tests.builders import VHD, VHDX, Built
from disks.tests.operations import worlds
from disks.tests.operations.crashing import (
    SAMPLE,
    broken_at_every_point,
    failing_at_every_point,
    failing_from,
    faulty,
    in_fork,
    killed,
    mended_at_every_point,
    with_fault,
)
from disks.tests.operations.dying import DONE, REFUSED, Work
from disks.tests.operations.power import cuts_of, survive_power_cuts

SIZE = 128 * 1024
DIED = -9


@dataclass
class Scene:
    """A child that finds its parent beside it, and a copy of the parent elsewhere."""

    folder: Path
    child: str
    parent: str
    sha256: str
    original: bytes
    old_link: object

    @property
    def logged(self) -> bool:
        """The change goes through the disk's own log: no old bytes are ever put back."""
        return self.child.endswith(".vhdx")

    def roots(self) -> Roots:
        return Roots([Root(str(self.folder), windows_views=("D:\\VMs",))])

    def update(self) -> None:
        roots = self.roots()
        relink.apply(relink.plan(self.child, self.parent, roots), roots, offline=True)

    def undo(self) -> None:
        relink.undo(self.child, self.roots(), offline=True)

    def recover(self) -> list[dict[str, object]]:
        return recover(str(self.folder), self.roots())

    def found_parent(self) -> str:
        return worlds.parent_of(self.child, self.roots())

    def link(self) -> object:
        with self.roots().open(self.child) as file:
            return open_image(file).recorded_link()


def make(folder: Path, layout: str) -> Scene:
    """gap: room for new strings before the first block; end: none, the file must grow; vhdx.

    short: as end, and the last block lacks what lies behind the disk's end.
    """
    folder.mkdir()
    family = VHDX if layout == "vhdx" else VHD
    lacks = 8 * 1024 if layout == "short" else 0
    filled = range(0, min(250, (SIZE - lacks) // 512), 3)
    content = [(sector, bytes([sector % 251 + 1]) * 512) for sector in filled]
    parent = family.fixed(folder, family.file("base"), size=SIZE - lacks, content=content)
    elsewhere = folder / ("m" * 120 if layout in ("end", "short") else "moved") / "deeper"
    elsewhere.mkdir(parents=True)
    shutil.copy(parent.path, elsewhere)
    options = {"block_size": family.small}
    if family is VHD:
        options = {"block_size": 64 * 1024, "layout": "windows" if layout == "gap" else "packed"}
    child: Built = family.differencing(
        folder,
        family.file("child"),
        parent,
        content=[(5, b"\xaa" * 1024), (200, b"\xbb" * 512)],
        **options,
    )
    if lacks:
        data = child.path.read_bytes()
        child.path.write_bytes(data[: -512 - lacks] + data[-512:])
    with Roots([Root(str(folder))]).open(str(child.path)) as file:
        old_link = open_image(file).recorded_link()
    return Scene(
        folder,
        str(child.path),
        str(elsewhere / parent.path.name),
        child.sha256,
        child.path.read_bytes(),
        old_link,
    )


LAYOUTS_OF_A_FORMAT = {"gap": 3, "end": 3, "short": 3, "vhdx": 1}


@pytest.fixture(params=list(LAYOUTS_OF_A_FORMAT))
def scene_of(request: pytest.FixtureRequest, place: Path) -> Callable[[], Scene]:
    """A fresh scene at every call: a copy of one that was built once, in the same place."""
    template = make(place / "template", request.param)
    made = make(place / "scene", request.param)

    def fresh() -> Scene:
        for stray in made.folder.glob(".*"):
            shutil.rmtree(stray) if stray.is_dir() else stray.unlink()
        Path(made.child).write_bytes(made.original)
        return made

    assert template.sha256 == made.sha256
    return fresh


def assert_sound(scene: Scene, *, mended: bool = True) -> str:
    """Content as ever, no errors, nothing left lying about; says which link is there."""
    roots = scene.roots()
    assert worlds.errors_in(scene.child) == []
    assert worlds.content_of(scene.child, roots) == scene.sha256
    found = scene.found_parent()
    link = scene.link()
    if link == scene.old_link:
        assert found == os.path.join(scene.folder, os.path.basename(scene.parent))
        if not scene.logged:
            assert Path(scene.child).read_bytes() == scene.original
    else:
        assert found == scene.parent
    if mended:
        names = {entry.name for entry in scene.folder.iterdir() if entry.name.startswith(".")}
        undo = f".{os.path.basename(scene.child)}.vdundo"
        expected = set() if link == scene.old_link else {undo}
        assert names == expected
        assert journal.pending(roots, [scene.child]) == []
    return "old" if link == scene.old_link else "new"


class Updating:
    """The scene as power cuts want it: each time a fresh one in the same folder."""

    def __init__(self, scene_of: Callable[[], Scene]) -> None:
        self.scene_of, self.scene = scene_of, scene_of()
        self.folder = self.scene.folder
        self.recover = self.scene.recover

    def fresh(self) -> Work:
        return self.scene_of().update

    def judge(self) -> str:
        return assert_sound(self.scene)


class Undoing(Updating):
    """The way back from an update that was finished."""

    def fresh(self) -> Work:
        self.scene_of().update()
        return self.scene.undo

    def judge(self) -> str:
        """Unlike after an update, the old link may take other bytes than it once did."""
        scene = self.scene
        assert worlds.content_of(scene.child, scene.roots()) == scene.sha256
        assert worlds.errors_in(scene.child) == []
        found = scene.found_parent()
        assert journal.pending(scene.roots(), [scene.child]) == []
        names = {entry.name for entry in scene.folder.iterdir() if entry.name.startswith(".")}
        assert names <= {f".{os.path.basename(scene.child)}.vdundo"}
        beside = os.path.join(scene.folder, os.path.basename(scene.parent))
        assert found in (scene.parent, beside)
        return "old" if found == beside else "new"


@pytest.mark.parametrize("kind", ["kill", "torn"])
def test_update_killed_at_every_point_is_finished_or_undone(
    scene_of: Callable[[], Scene], kind: str
) -> None:
    """bad-input F85: kill at every fault point; 0 damage after recovery."""
    updating = Updating(scene_of)
    seen = mended_at_every_point(
        updating.fresh,
        faulty(kind),
        expected=DIED,
        recover=updating.recover,
        judge=updating.judge,
        every=1 if kind == "kill" else SAMPLE,
        folder=updating.folder,
    )
    assert seen == {"old", "new"}
    assert updating.judge() == "new"


@pytest.mark.parametrize("kind", ["enospc", "eio"])
def test_update_that_meets_an_error_leaves_the_disk_as_it_was(
    scene_of: Callable[[], Scene], kind: str
) -> None:
    """bad-input F81, F84: an error at each write, fsync and rename ends the attempt."""
    updating = Updating(scene_of)
    for _ in broken_at_every_point(updating.fresh, faulty(kind), expected=REFUSED, every=SAMPLE):
        updating.recover()
        updating.judge()
    assert updating.judge() == "new"


def test_update_on_storage_that_fails_for_good_is_mended_once_it_works_again(
    scene_of: Callable[[], Scene],
) -> None:
    """bad-input F84: even putting the old pages back fails; the sidecar keeps them."""
    updating = Updating(scene_of)
    for _ in broken_at_every_point(updating.fresh, failing_from, expected=REFUSED, every=SAMPLE):
        updating.recover()
        updating.judge()


def test_short_writes_are_continued(scene_of: Callable[[], Scene]) -> None:
    """bad-input F84: short writes are looped."""
    updating = Updating(scene_of)
    for code in failing_at_every_point(updating.fresh, "short"):
        assert code == DONE
        assert updating.judge() == "new"


def test_undo_killed_at_every_point_is_finished_or_undone(scene_of: Callable[[], Scene]) -> None:
    """bad-input F85, for the way back."""
    undoing = Undoing(scene_of)
    seen = mended_at_every_point(
        undoing.fresh,
        killed,
        expected=DIED,
        recover=undoing.recover,
        judge=undoing.judge,
        folder=undoing.folder,
    )
    assert seen == {"old", "new"}
    assert undoing.judge() == "old"


@pytest.mark.parametrize("kind", ["enospc", "eio", "short"])
def test_undo_that_meets_an_error_leaves_one_link_or_the_other(
    scene_of: Callable[[], Scene], kind: str
) -> None:
    """bad-input F81, F84, for the way back."""
    undoing = Undoing(scene_of)
    for code in failing_at_every_point(undoing.fresh, kind):
        undoing.recover()
        assert (code, undoing.judge()) in ((REFUSED, "new"), (REFUSED, "old"), (DONE, "old"))
    assert undoing.judge() == "old"


def test_recovery_killed_three_times_in_a_row_still_mends(scene_of: Callable[[], Scene]) -> None:
    """bad-input F87: recovery is idempotent, wherever it was stopped before."""
    for start in (7, 9, 11):
        for number in range(1, 13, 2):
            scene = scene_of()
            assert in_fork(with_fault(f"*:{start}:torn", scene.update)) == DIED
            for attempt in range(3):
                killed(number + attempt, scene.recover)
            scene.recover()
            assert_sound(scene)


@pytest.mark.power_cuts
@pytest.mark.parametrize("way", [Updating, Undoing])
def test_power_cuts_leave_the_old_link_or_the_new_one(
    request: pytest.FixtureRequest, scene_of: Callable[[], Scene], place: Path, way: type[Updating]
) -> None:
    """bad-input F86: unsynced pages kept, lost or garbled, names lost; also in recovery."""
    layout = request.node.callspec.params["scene_of"]
    seen = survive_power_cuts(
        way(scene_of),
        operation="update a parent link" if way is Updating else "undo an update",
        format_name="vhdx" if layout == "vhdx" else "vhd",
        cuts=cuts_of(LAYOUTS_OF_A_FORMAT[layout], 30),
        seed=request.node.name,
        aside=place / "aside",
    )
    assert set(seen) == {"old", "new"} or seen.total() < 30  # few meet one alone


def test_a_file_system_that_refuses_growth_leaves_the_disk_as_it_was(tmp_path: Path) -> None:
    """bad-input F82: the kernel itself says EFBIG when the file would grow."""
    import resource

    scene = make(tmp_path / "scene", "end")

    def limited() -> None:
        size = len(scene.original)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        with pytest.raises(ImageError) as refused:
            scene.update()
        assert refused.value.code == "E_TOO_LARGE"

    assert in_fork(limited) == DONE
    assert assert_sound(scene) == "old"


def test_of_updates_at_the_same_time_one_wins(scene_of: Callable[[], Scene]) -> None:
    """bad-input E68: the others are refused (E_LOCKED, E_CHANGED), nothing is mixed.

    All were planned before: a plan looks without the lock, and may see half of another's work.
    """
    scene = scene_of()
    plan = relink.plan(scene.child, scene.parent, scene.roots())
    children = []
    for _ in range(6):
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                relink.apply(plan, scene.roots(), offline=True)
                code = DONE
            except ImageError as error:
                code = REFUSED if error.code in ("E_LOCKED", "E_CHANGED") else 98
            finally:
                os._exit(code)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert sorted(codes) == [DONE, *[REFUSED] * 5]
    assert assert_sound(scene) == "new"


def test_everything_else_is_refused_until_recovery(scene_of: Callable[[], Scene]) -> None:
    """R10: an unfinished sidecar stands before every other operation."""
    scene = scene_of()
    assert in_fork(with_fault("relink.header.fsync:1:kill", scene.update)) == DIED
    with pytest.raises(ImageError) as refused:
        scene.update()
    assert refused.value.code == "E_UNFINISHED"
    assert "interrupted" in refused.value.message
    with pytest.raises(ImageError) as refused:
        relink.plan_undo(scene.child, scene.roots())
    assert refused.value.code == "E_UNFINISHED"


def test_a_disk_written_by_others_since_is_left_untouched(scene_of: Callable[[], Scene]) -> None:
    """bad-input F88: recovery that cannot be sure writes nothing and says so."""
    scene = scene_of()
    assert in_fork(with_fault("relink.header.fsync:1:kill", scene.update)) == DIED
    with open(scene.child, "r+b") as file:
        if scene.logged:
            file.seek(2 * 1024 * 1024 + 32 + 24)  # flags of the first item: that page was to change
            file.write(b"\0")
        else:
            file.seek(0, os.SEEK_END)
            file.write(b"x" * 2 * 1024 * 1024)
    before = Path(scene.child).read_bytes()
    sidecar = undo_record(scene).read_bytes()
    rows = scene.recover()
    assert [(row["action"], row["code"]) for row in rows] == [
        ("needs-attention", "E_NEEDS_ATTENTION")
    ]
    assert Path(scene.child).read_bytes() == before
    assert undo_record(scene).read_bytes() == sidecar
    assert scene.recover() == rows


def undo_record(scene: Scene) -> Path:
    return Path(scene.folder, f".{os.path.basename(scene.child)}.vdundo")


def test_the_sidecar_explains_how_to_undo_by_hand(scene_of: Callable[[], Scene]) -> None:
    """bad-input H122: the command in the sidecar's plain text puts the old header back."""
    import subprocess

    scene = scene_of()
    assert in_fork(with_fault("relink.header.fsync:2:kill", scene.update)) == DIED
    text = undo_record(scene).read_text()
    if scene.logged:
        assert "finds it done or not begun; nothing has to be put back" in text
        assert "python3 -c" not in text
        return
    command = next(line for line in text.splitlines() if line.startswith("  python3 -c"))
    name = undo_record(scene).name
    subprocess.run(command.replace("SIDECAR", name), shell=True, check=True, cwd=scene.folder)
    assert Path(scene.child).read_bytes() == scene.original


def test_the_scenes_cover_both_ways_of_placing_strings(tmp_path: Path) -> None:
    """Into a gap the file keeps its size; without one it grows, the footer moved first."""
    for layout, grows in (("gap", False), ("end", True)):
        scene = make(tmp_path / layout, layout)
        scene.update()
        assert (os.path.getsize(scene.child) > len(scene.original)) is grows
        assert_sound(scene)
