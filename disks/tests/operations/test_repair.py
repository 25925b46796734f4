"""Repair footer: planned, written through the journal, survived at every point, verified."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from disks.engine.chain import open_chain
from disks.engine.check import check_image
from disks.engine.errors import ImageError
from disks.engine.findings import Level
from disks.engine.formats import open_image
from disks.operations import journal, relink, repair
from disks.operations.paths import Root, Roots
from disks.operations.recover import recover
from disks.tests.builders import (
    MIB,
    build_differencing,
    build_dynamic,
    build_dynamic_vhdx,
    build_fixed,
    seven_zip,
    seven_zip_sha256,
)
from disks.tests.operations.crashing import (
    DIED,
    REFUSED,
    Work,
    failing_from,
    faulty,
    in_fork,
    mended_at_every_point,
    power_cut,
    with_fault,
)

SIZE = 256 * 1024
BLOCK = 64 * 1024


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault points around fsync stay; waiting for the hardware proves nothing here."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@dataclass
class Scene:
    """One disk with a damaged copy, and the bytes that it had before anything was done.

    codes: what a check says of the damage, where it is none that keeps from writing (VHDX).
    """

    path: Path
    sha256: str
    damaged: bytes
    codes: frozenset[str] = frozenset()

    @property
    def undo_record(self) -> Path:
        return self.path.parent / f".{self.path.name}.vdundo"

    @property
    def roots(self) -> Roots:
        return Roots([Root(str(self.path.parent))])

    def repair(self) -> None:
        repair.apply(repair.plan(str(self.path), self.roots), self.roots, offline=True)

    def recover(self) -> list[dict[str, object]]:
        return recover(str(self.path.parent), self.roots)

    def content(self) -> str:
        with open_chain(str(self.path), self.roots) as chain:
            return chain.sha256()

    def reset(self) -> None:
        for stray in self.path.parent.glob(".*"):
            if stray.is_file():
                stray.unlink()
        self.path.write_bytes(self.damaged)


VHDX_DAMAGE = {
    "vhdx header": (["header1"], {"W_HEADER_COPY"}),
    "vhdx region": (["region2"], {"W_REGION_COPY"}),
    "vhdx both": (["header2", "region1"], {"W_HEADER_COPY", "W_REGION_COPY"}),
}


def make(folder: Path, damage: str) -> Scene:
    folder.mkdir()
    if damage in VHDX_DAMAGE:
        damaged, codes = VHDX_DAMAGE[damage]
        content = [(3, b"\xa5" * 1024), (300, b"\x5a" * 512)]
        other = build_dynamic_vhdx(
            folder, "disk.vhdx", size=SIZE, block_size=MIB, content=content, damaged=damaged
        )
        return Scene(other.path, other.sha256, other.path.read_bytes(), frozenset(codes))
    built = build_dynamic(
        folder, "disk.vhd", size=SIZE, block_size=BLOCK,
        content=[(3, b"\xa5" * 1024), (300, b"\x5a" * 512)],
        front_footer="missing" if damage == "front" else "present",
        end_footer="missing" if damage == "missing" else "present",
        append=b"who knows" * 100 if damage == "missing" else b"",
    )  # fmt: skip
    if damage == "end":
        built.patch(built.footer_offset, b"\xde\xad\xbe\xef" * 16)
    return Scene(built.path, built.sha256, built.path.read_bytes())


@pytest.fixture(params=["end", "missing", "front", *VHDX_DAMAGE])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    return make(tmp_path / "disks", request.param)


def assert_old_or_repaired(scene: Scene) -> str:
    """The content as ever; the footer exactly as it was, or whole; nothing lying about."""
    assert scene.content() == scene.sha256
    assert [entry.name for entry in scene.path.parent.glob(".*") if entry.is_file()] == []
    assert journal.pending(scene.roots, [str(scene.path)]) == []
    if scene.path.read_bytes() == scene.damaged:
        return "old"
    with scene.roots.open(str(scene.path)) as file:
        findings = check_image(file, deep=True)
        assert [one for one in findings if one.level is Level.ERROR] == []
        assert open_image(file).write_refusal is None
    # A change that a VHDX's log holds may have begun with a new header, and ended there.
    return "old" if scene.codes & {one.code for one in findings} else "repaired"


def test_repair_leaves_the_content_and_makes_the_disk_writable(scene: Scene) -> None:
    """bad-input A4, A6: repaired from the copy, the content hash before and after equal."""
    before = scene.content()
    plan = repair.plan(str(scene.path), scene.roots)
    assert scene.path.read_bytes() == scene.damaged  # a plan writes nothing
    done = repair.apply(plan, scene.roots, offline=False)
    assert done == plan.as_dict()
    assert scene.content() == before == scene.sha256
    assert assert_old_or_repaired(scene) == "repaired"
    assert scene.path.stat().st_size == plan.size_after_bytes
    with pytest.raises(ImageError) as nothing:
        repair.plan(str(scene.path), scene.roots)
    assert nothing.value.code == "E_NOTHING_TO_REPAIR"


@pytest.mark.skipif(seven_zip() is None and not os.environ.get("CI"), reason="no 7-Zip here")
def test_seven_zip_reads_the_repaired_disk(scene: Scene) -> None:
    """bad-input A4, A6: a tool of others accepts both footers."""
    scene.repair()
    assert seven_zip_sha256(scene.path) == scene.sha256


@pytest.mark.parametrize(
    ("breaking", "expected"),
    [
        (faulty("kill"), DIED),
        (faulty("torn"), DIED),
        (faulty("enospc"), REFUSED),
        (faulty("eio"), REFUSED),
        (failing_from, REFUSED),
    ],
    ids=["kill", "torn", "enospc", "eio", "fails for good"],
)
def test_broken_at_any_point_it_is_finished_or_undone(
    scene: Scene, breaking: Callable[[int, Work], Work], expected: int
) -> None:
    """bad-input F81, F84, F85, A4, A6."""

    def damaged() -> Work:
        scene.reset()
        return scene.repair

    states = mended_at_every_point(
        damaged,
        breaking,
        expected=expected,
        recover=scene.recover,
        judge=lambda: assert_old_or_repaired(scene),
    )
    assert "old" in states
    assert ("repaired" in states) or expected == REFUSED
    assert assert_old_or_repaired(scene) == "repaired"


def test_power_cuts_leave_the_old_footer_or_the_repaired_one(scene: Scene) -> None:
    """bad-input F86: the page around the footer may be garbled; the journal heals it.

    Where a page that was only appended to is garbled and its growth lost, nothing tells the
    power cut from a foreign writer: that is left to a person (F88), who has the old bytes.
    """
    for seed in range(int(os.environ.get("VD_PROVE", "60"))):
        scene.reset()
        if power_cut(seed % 20 + 1, scene.repair, seed) == DIED:
            rows = scene.recover()
            if [row for row in rows if row["action"] != "finished" and row["code"]]:
                assert rows[0]["code"] == "E_NEEDS_ATTENTION"
                assert scene.path.stat().st_size == len(scene.damaged)
                undo_by_hand(scene)
                assert scene.path.read_bytes() == scene.damaged
                continue
        assert_old_or_repaired(scene)


def undo_by_hand(scene: Scene) -> None:
    """What the sidecar's plain text tells a person to do."""
    folder = scene.path.parent
    text = scene.undo_record.read_text()
    command = next(line for line in text.splitlines() if line.startswith("  python3 -c"))
    command = command.replace("SIDECAR", scene.undo_record.name)
    subprocess.run(command, shell=True, check=True, cwd=folder)


def test_a_garbled_page_that_only_grew_is_healed_and_a_foreign_write_is_not(
    tmp_path: Path,
) -> None:
    """bad-input F86, F88: what lies behind the old end tells the two apart."""
    scene = make(tmp_path / "disks", "missing")
    for garbled, action in ((True, "undone"), (False, "needs-attention")):
        scene.reset()
        assert in_fork(with_fault("repair.header.fsync:1:kill", scene.repair)) == DIED
        with scene.path.open("r+b") as file:
            file.seek(len(scene.damaged) - 300)
            file.write(b"?" * (900 if garbled else 10))
        rows = scene.recover()
        assert [row["action"] for row in rows] == [action]
        assert (scene.path.read_bytes() == scene.damaged) is garbled


def test_until_recovery_everything_else_is_refused(scene: Scene) -> None:
    """R10; the sidecar says in words what was being done."""
    assert in_fork(with_fault("repair.header.fsync:1:kill", scene.repair)) == DIED
    with pytest.raises(ImageError) as refused:
        scene.repair()
    assert refused.value.code == "E_UNFINISHED"
    text = scene.undo_record.read_text()
    assert f"The headers of the disk {scene.path.name} were being repaired" in text
    assert "repair of its headers" in str(scene.recover()[0]["sentence"])


def test_a_disk_that_changed_since_the_plan_is_not_written(scene: Scene) -> None:
    plan = repair.plan(str(scene.path), scene.roots)
    data = scene.path.read_bytes()
    scene.path.write_bytes(data)
    with pytest.raises(ImageError) as refused:
        repair.apply(plan, scene.roots, offline=True)
    assert refused.value.code == "E_CHANGED"
    assert scene.path.read_bytes() == scene.damaged


def test_a_read_only_root_and_a_second_name_are_refused(scene: Scene) -> None:
    """bad-input D64: written in place, a hard link would change, too."""
    with pytest.raises(ImageError) as refused:
        repair.plan(str(scene.path), Roots([Root(str(scene.path.parent), read_only=True)]))
    assert refused.value.code == "E_READ_ONLY"
    os.link(scene.path, scene.path.parent / "other.vhd")
    with pytest.raises(ImageError) as refused:
        repair.plan(str(scene.path), scene.roots)
    assert refused.value.code == "E_HARD_LINKS"


def test_a_managed_disk_needs_the_declaration(tmp_path: Path) -> None:
    """The same guard as every other verb that writes."""
    scene = make(tmp_path / "disks", "end")
    (tmp_path / "disks" / "disk.vhd.mrt").write_bytes(b"")
    plan = repair.plan(str(scene.path), scene.roots)
    assert plan.managers
    with pytest.raises(ImageError) as refused:
        repair.apply(plan, scene.roots, offline=False)
    assert refused.value.code == "E_MANAGED"
    repair.apply(plan, scene.roots, offline=True)
    assert assert_old_or_repaired_with_manager(scene) == scene.sha256


def assert_old_or_repaired_with_manager(scene: Scene) -> str:
    with scene.roots.open(str(scene.path)) as file:
        assert open_image(file).write_refusal is None
    return scene.content()


@pytest.fixture
def linked(tmp_path: Path) -> Callable[[], tuple[Roots, str, str]]:
    """A child whose parent path was updated, and whose footer was damaged after that."""

    def made() -> tuple[Roots, str, str]:
        parent = build_fixed(tmp_path, "base.vhd", size=SIZE)
        child = build_differencing(
            tmp_path, "child.vhd", parent, block_size=BLOCK, layout="windows"
        )
        (tmp_path / "moved").mkdir()
        os.rename(parent.path, tmp_path / "moved" / "base.vhd")
        roots = Roots([Root(str(tmp_path))])
        moved = str(tmp_path / "moved" / "base.vhd")
        relink.apply(relink.plan(str(child.path), moved, roots), roots, offline=True)
        with child.path.open("r+b") as file:
            file.seek(-512, os.SEEK_END)
            file.write(bytes(512))
        return roots, str(child.path), moved

    return made


def test_the_last_update_can_still_be_taken_back_after_a_repair(
    linked: Callable[[], tuple[Roots, str, str]],
) -> None:
    """The link's record beside the disk comes back as it was."""
    roots, child, _ = linked()
    sidecar = Path(journal.sidecar_path(child, journal.UNDO))
    before = journal.of(roots, child, journal.UNDO)
    repair.apply(repair.plan(child, roots), roots, offline=True)
    after = journal.of(roots, child, journal.UNDO)
    assert before is not None
    assert after is not None
    assert after.record == before.record | {"pages": []}
    assert (after.state, after.job, after.token) == (before.state, before.job, before.token)
    assert "undo-update" in sidecar.read_text()
    relink.undo(child, roots, offline=True)


def test_the_time_that_children_store_is_put_back(scene: Scene) -> None:
    """A child stores its parent's modification time; a repair changes no content."""
    stored = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    os.utime(scene.path, (stored.timestamp(), stored.timestamp()))
    plan = repair.plan(str(scene.path), scene.roots)
    repair.apply(plan, scene.roots, offline=True, known_children=[stored])
    assert scene.path.stat().st_mtime == stored.timestamp()
