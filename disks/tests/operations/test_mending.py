"""Repair and replay: planned, written, survived at every point, verified."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from disks.engine.check import check_image
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.findings import Level
from disks.engine.formats import open_image
from disks.engine.units import round_up
from disks.operations import journal, mending, relink
from disks.operations.mending import Mend, MendPlan
from disks.operations.pages import PAGE_BYTES
from disks.operations.paths import Roots
from disks.operations.recover import recover
from disks.operations.repair import REPAIR
from disks.operations.replay import REPLAY
from disks.operations.storage_roots import Root
from disks.tests.builders import (
    MIB,
    BuiltVhdx,
    build_differencing,
    build_differencing_vhdx,
    build_dynamic,
    build_dynamic_vhdx,
    build_fixed,
    seven_zip,
    seven_zip_sha256,
)
from disks.tests.builders.vhdx_log import Entry, Page
from disks.tests.operations.crashing import (
    SAMPLE,
    Breaking,
    failing_at_every_point,
    failing_from,
    faulty,
    in_fork,
    mended_at_every_point,
    with_fault,
)
from disks.tests.operations.dying import DIED, DONE, REFUSED, Work
from disks.tests.operations.power import cuts_of, survive_power_cuts
from disks.tests.operations.worlds import content_of

SIZE = 256 * 1024
BLOCK = 64 * 1024


@dataclass
class Scene:
    """One disk with something to mend, and the bytes that it had before anything was done."""

    path: Path
    sha256: str
    damaged: bytes
    mend: Mend

    @property
    def folder(self) -> Path:
        return self.path.parent

    def fresh(self) -> Work:
        self.reset()
        return self.do

    def judge(self) -> str:
        return assert_old_or_mended(self, torn=True)

    @property
    def roots(self) -> Roots:
        return Roots([Root(str(self.path.parent))])

    def plan(self) -> MendPlan:
        return mending.plan(self.mend, str(self.path), self.roots)

    def do(self) -> None:
        mending.apply(self.mend, self.plan(), self.roots, offline=True)

    def recover(self) -> list[dict[str, object]]:
        return recover(str(self.path.parent), self.roots)

    def content(self) -> str:
        return content_of(self.path, self.roots)

    def identity(self) -> str:
        with self.roots.open(str(self.path)) as file:
            return open_image(file).identity

    @property
    def undo_record(self) -> Path:
        return self.path.parent / f".{self.path.name}.vdundo"

    def reset(self) -> None:
        for stray in self.path.parent.glob(".*"):
            if stray.is_file():
                stray.unlink()
        self.path.write_bytes(self.damaged)


def make(folder: Path, damage: str) -> Scene:
    folder.mkdir()
    if damage in ("end", "missing", "front"):
        return vhd(folder, damage)
    content = [(3, b"\xa5" * 1024), (MIB // 512 + 9, b"\x5a" * 512)]
    if damage in VHDX_DAMAGE:
        built = build_dynamic_vhdx(
            folder,
            "disk.vhdx",
            size=2 * MIB,
            block_size=MIB,
            content=content,
            damaged=VHDX_DAMAGE[damage],
        )
        return Scene(built.path, built.sha256, built.path.read_bytes(), REPAIR)
    return dirty(folder, content, grows=damage == "growing log")


def vhd(folder: Path, damage: str) -> Scene:
    built = build_dynamic(
        folder, "disk.vhd", size=SIZE, block_size=BLOCK,
        content=[(3, b"\xa5" * 1024), (300, b"\x5a" * 512)],
        front_footer="missing" if damage == "front" else "present",
        end_footer="missing" if damage == "missing" else "present",
        append=b"who knows" * 100 if damage == "missing" else b"",
    )  # fmt: skip
    if damage == "end":
        built.patch(built.footer_offset, b"\xde\xad\xbe\xef" * 16)
    return Scene(built.path, built.sha256, built.path.read_bytes(), REPAIR)


def dirty(folder: Path, content: list[tuple[int, bytes]], *, grows: bool) -> Scene:
    """A child whose block table and sector bitmap are in the log only; read around it, it lies."""
    parent = build_dynamic_vhdx(
        folder, "base.vhdx", size=2 * MIB, block_size=MIB, content=[(0, b"\x11" * 2 * MIB)]
    )
    built = build_differencing_vhdx(folder, "disk.vhdx", parent, content=content)
    assert isinstance(built, BuiltVhdx)
    pages = [built.table_offset, built.bitmaps[0], built.table_offset + 4096]
    if grows:  # the last entry wants a file of another MiB
        entries = [Entry([Page(at, built.read(at, 4096))]) for at in pages]
        for at in pages:
            built.patch(at, b"\xdd" * 4096)
        entries[-1].last = built.path.stat().st_size + MIB
        built.write_log(entries)
    else:
        built.move_into_log(*pages)
    return Scene(built.path, built.sha256, built.path.read_bytes(), REPLAY)


VHD = ["end", "missing", "front"]
VHDX_DAMAGE = {
    "header": ["header1"],
    "region": ["region2"],
    "both": ["header2", "region1"],
}
LOGS = ["log", "growing log"]
KINDS = [*VHD, *VHDX_DAMAGE, *LOGS]


@pytest.fixture(params=KINDS)
def scene(request: pytest.FixtureRequest, place: Path) -> Scene:
    return make(place / "disks", request.param)


def refusal(scene: Scene) -> str | None:
    try:
        scene.plan()
    except ImageError as error:
        return error.code
    return None


def as_it_was(scene: Scene) -> tuple[bytes, bytes]:
    """The damaged disk; and with zeros up to the end of a page that it shares with nothing of ours.

    Cutting those off would be to write the rest of that page once more.
    """
    return scene.damaged, scene.damaged.ljust(round_up(len(scene.damaged), PAGE_BYTES), b"\0")


def assert_old_or_mended(scene: Scene, *, torn: bool = False) -> str:
    """The content as ever; mended, or to be mended by the same plan; nothing lying about.

    torn: the very last header of a VHDX may be so, while its log is empty already.
    """
    assert scene.content() == scene.sha256
    assert [entry.name for entry in scene.path.parent.glob(".*") if entry.is_file()] == []
    assert journal.pending(scene.roots, [str(scene.path)]) == []
    refused = refusal(scene)
    if refused is None:
        # A header is renewed before a VHDX is changed at all, so its bytes are not the old ones.
        assert scene.path.suffix == ".vhdx" or scene.path.read_bytes() in as_it_was(scene)
        return "old"
    assert refused == scene.mend.nothing
    with scene.roots.open(str(scene.path)) as file:
        found = [one.code for one in check_image(file, deep=True) if one.level is not Level.NOTE]
        # of the small VHDs here; and what the next repair is for
        assert set(found) <= {"W_BLOCK_SIZE", *(["W_HEADER_COPY"] if torn else [])}
        assert open_image(file).write_refusal is None
    return "mended"


def test_mending_leaves_the_content_and_makes_the_disk_writable(scene: Scene) -> None:
    """bad-input A4, A6, C39, C41: the content hash and the identity stay."""
    before, identity = scene.content(), scene.identity()
    plan = scene.plan()
    assert scene.path.read_bytes() == scene.damaged  # a plan writes nothing
    done = mending.apply(scene.mend, plan, scene.roots, offline=False)
    assert done == plan.as_dict()
    assert scene.content() == before == scene.sha256
    assert scene.identity() == identity
    assert assert_old_or_mended(scene) == "mended"
    assert scene.path.stat().st_size == plan.size_after_bytes
    with pytest.raises(ImageError) as nothing:
        scene.plan()
    assert nothing.value.code == scene.mend.nothing


@pytest.mark.skipif(seven_zip() is None and not os.environ.get("CI"), reason="no 7-Zip here")
def test_seven_zip_reads_the_mended_disk(scene: Scene) -> None:
    """bad-input A4, A6, C39, C41: a tool of others accepts it."""
    scene.do()
    assert seven_zip_sha256(scene.path) == scene.sha256


@pytest.mark.parametrize(
    ("breaking", "expected", "every"),
    [
        (faulty("kill"), DIED, 1),
        (faulty("torn"), DIED, SAMPLE),
        (faulty("enospc"), REFUSED, SAMPLE),
        (faulty("eio"), REFUSED, SAMPLE),
        (failing_from, REFUSED, SAMPLE),
    ],
    ids=["kill", "torn", "enospc", "eio", "fails for good"],
)
def test_broken_at_any_point_it_is_finished_or_undone(
    scene: Scene, breaking: Breaking, expected: int, every: int
) -> None:
    """bad-input F81, F84, F85, A4, A6."""

    def damaged() -> Work:
        scene.reset()
        return scene.do

    states = mended_at_every_point(
        damaged,
        breaking,
        expected=expected,
        recover=scene.recover,
        judge=lambda: assert_old_or_mended(scene),
        every=every,
        folder=scene.folder,
    )
    assert "old" in states
    assert "mended" in states or every > 1
    assert assert_old_or_mended(scene) == "mended"


def test_short_writes_are_continued(scene: Scene) -> None:
    """bad-input F84."""
    for code in failing_at_every_point(scene.fresh, "short"):
        assert code == DONE
        assert assert_old_or_mended(scene) == "mended"


@pytest.mark.power_cuts
def test_power_cuts_leave_the_old_disk_or_the_mended_one(
    request: pytest.FixtureRequest, scene: Scene, place: Path
) -> None:
    """bad-input F86: the page around a footer may be garbled; the journal or the log heals it."""
    kind = request.node.callspec.params["scene"]
    of_this_operation = next(kinds for kinds in (VHD, VHDX_DAMAGE, LOGS) if kind in kinds)
    survive_power_cuts(
        scene,
        operation="replay a log" if kind in LOGS else "repair headers",
        format_name="vhd" if kind in VHD else "vhdx",
        cuts=cuts_of(len(of_this_operation), 30),
        seed=request.node.name,
        aside=place / "aside",
    )


@pytest.mark.parametrize("garbled", [True, False])
def test_what_stands_before_a_footer_that_was_missing_is_not_touched_by_recovery(
    tmp_path: Path, garbled: bool
) -> None:
    """bad-input F86, F88: the footer has a page of its own, whoever writes before it."""
    scene = make(tmp_path / "disks", "missing")
    assert len(scene.damaged) % PAGE_BYTES
    assert in_fork(with_fault("repair.header.fsync:1:kill", scene.do)) == DIED
    theirs = bytearray(scene.damaged)
    theirs[-300:-290] = b"?" * 10
    with scene.path.open("r+b") as file:
        file.write(theirs)
        if garbled:
            file.seek(scene.path.stat().st_size // PAGE_BYTES * PAGE_BYTES)
            file.write(b"?" * 512)
    rows = scene.recover()
    assert [row["action"] for row in rows] == ["undone" if garbled else "finished"]
    after = scene.path.read_bytes()
    assert after[: len(theirs)] == theirs
    assert (after == theirs.ljust(round_up(len(theirs), PAGE_BYTES), b"\0")) is garbled


@pytest.mark.parametrize("damage", [*VHD, "header", "region"])
def test_until_recovery_everything_else_is_refused(tmp_path: Path, damage: str) -> None:
    """R10; the sidecar says in words what was being done."""
    scene = make(tmp_path / "disks", damage)
    assert in_fork(with_fault("repair.header.fsync:1:kill", scene.do)) == DIED
    with pytest.raises(ImageError) as refused:
        scene.do()
    assert refused.value.code == "E_UNFINISHED"
    name = scene.path.name
    text = scene.undo_record.read_text()
    assert f"The headers of the disk {name} were being repaired" in text
    assert "repair of its headers" in str(scene.recover()[0]["sentence"])


def test_a_disk_that_changed_since_the_plan_is_not_written(scene: Scene) -> None:
    plan = scene.plan()
    data = scene.path.read_bytes()
    scene.path.write_bytes(data)
    with pytest.raises(ImageError) as refused:
        mending.apply(scene.mend, plan, scene.roots, offline=True)
    assert refused.value.code == "E_CHANGED"
    assert scene.path.read_bytes() == scene.damaged


def test_a_read_only_root_and_a_second_name_are_refused(scene: Scene) -> None:
    """bad-input D64: written in place, a hard link would change, too."""
    with pytest.raises(ImageError) as refused:
        mending.plan(
            scene.mend, str(scene.path), Roots([Root(str(scene.path.parent), read_only=True)])
        )
    assert refused.value.code == "E_READ_ONLY"
    os.link(scene.path, scene.path.parent / "other.vhd")
    with pytest.raises(ImageError) as refused:
        scene.plan()
    assert refused.value.code == "E_HARD_LINKS"


@pytest.mark.parametrize("damage", ["end", "region", "log"])
def test_a_managed_disk_needs_the_declaration(tmp_path: Path, damage: str) -> None:
    """The same guard as every other verb that writes."""
    scene = make(tmp_path / "disks", damage)
    (tmp_path / "disks" / f"{scene.path.name}.mrt").write_bytes(b"")
    plan = scene.plan()
    assert plan.managers
    with pytest.raises(ImageError) as refused:
        mending.apply(scene.mend, plan, scene.roots, offline=False)
    assert refused.value.code == "E_MANAGED"
    mending.apply(scene.mend, plan, scene.roots, offline=True)
    with scene.roots.open(str(scene.path)) as file:
        assert open_image(file).write_refusal is None
    assert scene.content() == scene.sha256


def test_what_waits_is_told_in_figures_and_by_structure(tmp_path: Path) -> None:
    plan = make(tmp_path / "disks", "growing log").plan()
    assert plan.figures == {"log_entries": 3, "log_updates": 3, "bytes_written": 3 * 4096}
    assert plan.size_after_bytes == plan.size_before_bytes + MIB
    assert [(row.field, row.now, row.after) for row in plan.changes] == [
        ("log", "3 entries with 3 updates, 12,288 bytes", "empty"),
        ("block allocation table", "2 updates not in place", "as the log says"),
        ("blocks and sector bitmaps", "1 update not in place", "as the log says"),
        (
            "file size",
            f"{plan.size_before_bytes:,} bytes",
            f"{plan.size_after_bytes:,} bytes",
        ),
    ]


def test_an_interrupted_replay_is_the_same_plan_and_another_log_is_not(tmp_path: Path) -> None:
    """So its job may be repeated, and what somebody else wrote since is noticed."""
    scene = make(tmp_path / "disks", "log")
    before = scene.plan()
    assert in_fork(with_fault("replay.fsync:2:kill", scene.do)) == DIED
    assert scene.path.read_bytes() != scene.damaged
    assert scene.plan().fingerprint == before.fingerprint
    scene.reset()
    other = bytearray(scene.damaged)
    at = other.index(b"\xa5" * 1024)
    other[at : at + 512] = b"\x77" * 512  # content, which the log is not about
    scene.path.write_bytes(other)
    assert scene.plan().fingerprint == before.fingerprint
    with scene.path.open("r+b") as file:
        file.seek(scene.damaged.rindex(b"loge"))
        file.write(b"\0" * 4096)  # the last entry is torn now
    assert scene.plan().fingerprint != before.fingerprint


def test_what_does_not_read_back_leaves_the_log_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A storage that loses writes without a word."""
    scene = make(tmp_path / "disks", "log")
    write_at = ImageFile.write_at

    def forgetful(file: ImageFile, offset: int, data: bytes) -> None:
        if offset < 3 * MIB:
            write_at(file, offset, data)

    monkeypatch.setattr(ImageFile, "write_at", forgetful)
    with pytest.raises(ImageError) as lost:
        scene.do()
    assert lost.value.code == "E_REPLAY"
    monkeypatch.undo()
    assert assert_old_or_mended(scene) == "old"
    scene.do()
    assert assert_old_or_mended(scene) == "mended"


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
    mending.apply(REPAIR, mending.plan(REPAIR, child, roots), roots, offline=True)
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
    plan = scene.plan()
    mending.apply(scene.mend, plan, scene.roots, offline=True, known_children=[stored])
    assert scene.path.stat().st_mtime == stored.timestamp()
