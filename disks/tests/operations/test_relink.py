"""Plan, apply and undo of a parent link: what is written, what is refused, what is told."""

from __future__ import annotations

import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from disks.engine import codes
from disks.engine.chain import open_chain
from disks.engine.errors import ImageError
from disks.engine.formats import open_image
from disks.operations import expand, journal, locks, relink
from disks.operations.inspection import inspect
from disks.operations.paths import Roots
from disks.operations.storage_roots import Root
from disks.tests.builders import Built, build_differencing, build_dynamic, build_fixed

SIZE = 256 * 1024
BLOCK = 64 * 1024
OLD = 1_600_000_000  # long ago, so that nothing counts as written just now


@pytest.fixture
def vms(tmp_path: Path) -> Path:
    """vms/a with a child, vms/b with the parent that was moved there."""
    for name in ("a", "b"):
        (tmp_path / "vms" / name).mkdir(parents=True)
    return tmp_path / "vms"


@pytest.fixture
def parent(vms: Path) -> Built:
    built = build_fixed(vms / "b", "base.vhd", size=SIZE, content=[(3, b"\x11" * 1024)])
    os.utime(built.path, (OLD, OLD))
    return built


@pytest.fixture
def child(vms: Path, parent: Built) -> Built:
    return make_child(vms / "a", "child.vhd", parent)


def make_child(folder: Path, name: str, parent: Built, **options: object) -> Built:
    options.setdefault("content", [(4, b"\x22" * 512), (300, b"\x33" * 512)])
    built = build_differencing(folder, name, parent, block_size=BLOCK, **options)
    os.utime(built.path, (OLD, OLD))
    return built


def roots_of(vms: Path, *views: str, **options: object) -> Roots:
    return Roots([Root(str(vms), windows_views=views)], **options)  # type: ignore[arg-type]


def code_of(call: object, *arguments: object, **options: object) -> str:
    with pytest.raises(ImageError) as refused:
        call(*arguments, **options)  # type: ignore[operator]
    return refused.value.code


def locators(path: Path | str, roots: Roots) -> dict[str, str | None]:
    with roots.open(str(path)) as file:
        link = open_image(file).parent
        assert link is not None
        return {locator.code: locator.path for locator in link.locators} | {"name": link.name}


def warnings(plan: relink.LinkPlan) -> list[str]:
    return [warning.code for warning in plan.warnings]


def test_update_writes_what_the_plan_said_and_undo_takes_it_back(
    vms: Path, parent: Built, child: Built
) -> None:
    roots = roots_of(vms, "D:\\VMs", "\\\\nas\\vms")
    plan = relink.plan(str(child.path), str(parent.path), roots)
    assert warnings(plan) == []
    assert {(change.field, change.now, change.after) for change in plan.changes} == {
        ("parent_unicode_name", "C:\\VMs\\base.vhd", "base.vhd"),
        ("parent_locator W2ru", ".\\base.vhd", "..\\b\\base.vhd"),
        ("parent_locator W2ku", "C:\\VMs\\base.vhd", "D:\\VMs\\b\\base.vhd"),
    }
    assert all(change.offset is not None for change in plan.changes)
    assert plan.windows_will_look_at == ("D:\\VMs\\b\\base.vhd", "\\\\nas\\vms\\b\\base.vhd")
    done = relink.apply(plan, roots, offline=True, job="9", token=4)
    assert (done["child"], done["parent"]) == (str(child.path), str(parent.path))
    assert done["before"]["name"] == "C:\\VMs\\base.vhd"
    assert done["after"]["name"] == "base.vhd"
    assert locators(child.path, roots) == {
        "W2ru": "..\\b\\base.vhd",
        "W2ku": "D:\\VMs\\b\\base.vhd",
        "name": "base.vhd",
    }
    with open_chain(str(child.path), roots) as chain:
        assert chain.sha256() == child.sha256
        assert chain.paths == [str(child.path), str(parent.path)]
    sidecar = journal.of(roots, str(child.path), journal.UNDO)
    assert sidecar is not None
    assert (sidecar.state, sidecar.job, sidecar.token) == ("done", "9", 4)
    back = relink.undo(str(child.path), roots, offline=True)
    assert back["after"] == done["before"]
    assert back["before"] == done["after"]
    assert journal.of(roots, str(child.path), journal.UNDO) is None
    assert code_of(relink.plan_undo, str(child.path), roots) == "E_NOTHING_TO_UNDO"


def test_only_the_header_and_unused_space_change(vms: Path, parent: Built, child: Built) -> None:
    before = child.path.read_bytes()
    roots = roots_of(vms)
    relink.apply(relink.plan(str(child.path), str(parent.path), roots), roots, offline=True)
    after = child.path.read_bytes()
    assert len(after) == len(before)
    first_block = min(child.blocks.values())
    assert after[first_block:] == before[first_block:]
    assert after[:512] == before[:512]
    assert (
        after[child.table_offset : child.table_offset + 512]
        == (before[child.table_offset : child.table_offset + 512])
    )


def test_without_a_windows_view_only_the_relative_path_is_written(
    vms: Path, parent: Built, child: Built
) -> None:
    """A POSIX path is never written, and a stale absolute one is never left."""
    roots = roots_of(vms)
    plan = relink.plan(str(child.path), str(parent.path), roots)
    assert warnings(plan) == ["N_NO_WINDOWS_VIEW"]
    relink.apply(plan, roots, offline=True)
    assert locators(child.path, roots) == {"W2ru": "..\\b\\base.vhd", "name": "base.vhd"}


def test_two_updates_are_taken_back_one_after_the_other(
    vms: Path, parent: Built, child: Built
) -> None:
    twin = vms / "twin.vhd"
    shutil.copy2(parent.path, twin)
    roots = roots_of(vms)
    for target in (parent.path, twin):
        relink.apply(relink.plan(str(child.path), str(target), roots), roots, offline=True)
    assert locators(child.path, roots)["W2ru"] == "..\\twin.vhd"
    relink.undo(str(child.path), roots, offline=True)
    assert locators(child.path, roots)["W2ru"] == "..\\b\\base.vhd"
    relink.undo(str(child.path), roots, offline=True)
    assert locators(child.path, roots)["W2ru"] == ".\\base.vhd"
    assert code_of(relink.plan_undo, str(child.path), roots) == "E_NOTHING_TO_UNDO"


def test_undo_is_refused_when_something_else_changed_the_link(
    vms: Path, parent: Built, child: Built
) -> None:
    roots = roots_of(vms)
    relink.apply(relink.plan(str(child.path), str(parent.path), roots), roots, offline=True)
    child.patch_header(parent_timestamp=77)
    assert code_of(relink.plan_undo, str(child.path), roots) == "E_LINK_CHANGED"


def test_undo_works_after_the_guest_has_written(vms: Path, parent: Built, child: Built) -> None:
    """No raw bytes come back: data written since stays."""
    roots = roots_of(vms)
    relink.apply(relink.plan(str(child.path), str(parent.path), roots), roots, offline=True)
    data = child.blocks[0] + 512 + 4 * 512
    child.patch(data, b"\x99" * 512)
    relink.undo(str(child.path), roots, offline=True)
    assert child.path.read_bytes()[data : data + 512] == b"\x99" * 512


def test_another_disk_is_refused_as_parent_unless_it_is_insisted_on(
    vms: Path, parent: Built, child: Built
) -> None:
    """bad-input D55: E_PARENT_IDENTITY; taken only when ignore_identity says so, with a warning."""
    other = build_dynamic(vms, "other.vhd", size=SIZE, block_size=BLOCK)
    roots = roots_of(vms)
    assert code_of(relink.plan, str(child.path), str(other.path), roots) == "E_PARENT_IDENTITY"
    plan = relink.plan(str(child.path), str(other.path), roots, ignore_identity=True)
    assert "W_PARENT_IDENTITY" in warnings(plan)
    assert "parent_unique_id" in {change.field for change in plan.changes}
    relink.apply(plan, roots, offline=True)
    with roots.open(str(child.path)) as file:
        link = open_image(file).parent
    assert link is not None
    assert link.identity == other.identity
    relink.undo(str(child.path), roots, offline=True)


def test_a_smaller_parent_is_a_warning_and_a_larger_one_is_refused(
    vms: Path, child: Built, parent: Built
) -> None:
    """bad-input D57."""
    small = build_fixed(vms, "small.vhd", size=SIZE // 2, unique_id=parent.unique_id)
    large = build_fixed(vms, "large.vhd", size=SIZE * 2, unique_id=parent.unique_id)
    roots = roots_of(vms)
    assert "W_PARENT_SIZE" in warnings(relink.plan(str(child.path), str(small.path), roots))
    assert code_of(relink.plan, str(child.path), str(large.path), roots) == "E_PARENT_SIZE"


def test_only_a_disk_of_the_same_format_can_be_a_parent(vms: Path, child: Built) -> None:
    """bad-input D59: a raw file, a qcow2, a text named .vhd."""
    for name, content in (
        ("raw.vhd", bytes(SIZE)),
        ("other.vhd", b"QFI\xfb" + bytes(SIZE)),
        ("text.vhd", b"hello\n" * 1000),
    ):
        (vms / name).write_bytes(content)
        plan = (str(child.path), str(vms / name), roots_of(vms))
        assert code_of(relink.plan, *plan, ignore_identity=True) == "E_NO_FOOTER"


def test_a_disk_without_identity_cannot_be_a_parent(vms: Path, child: Built) -> None:
    """bad-input A14."""
    for number in (0, 0xFF):
        nobody = build_fixed(vms, f"{number}.vhd", size=SIZE, unique_id=bytes([number]) * 16)
        plan = (str(child.path), str(nobody.path), roots_of(vms))
        assert code_of(relink.plan, *plan, ignore_identity=True) == "E_IDENTITY"


def test_no_ring_can_be_made(vms: Path, parent: Built, child: Built) -> None:
    """bad-input D51, D52, D60: itself, a copy of it, a child, a grandchild."""
    roots = roots_of(vms)
    relink.apply(relink.plan(str(child.path), str(parent.path), roots), roots, offline=True)
    grandchild = make_child(vms / "a", "grandchild.vhd", child)
    great = make_child(vms / "a", "great.vhd", grandchild)
    copy = vms / "copy.vhd"
    shutil.copy2(child.path, copy)
    for target in (child.path, copy, grandchild.path, great.path):
        plan = (str(child.path), str(target), roots)
        assert code_of(relink.plan, *plan, ignore_identity=True) == "E_CYCLE"
    # Its chain does not lead there any more, but it names the child all the same.
    lost = make_child(vms / "b", "lost.vhd", child, locators={"W2ru": ".\\gone.vhd"})
    target = (str(child.path), str(lost.path), roots)
    assert code_of(relink.plan, *target, ignore_identity=True) == "E_CYCLE"


def test_a_ring_made_after_the_plan_is_refused_under_the_lock(
    vms: Path, parent: Built, child: Built
) -> None:
    """bad-input D60: again under the lock."""
    roots = roots_of(vms)
    plan = relink.plan(str(child.path), str(parent.path), roots)
    ring = build_differencing(
        vms / "b", "base.vhd", child, block_size=BLOCK, unique_id=parent.unique_id
    )
    assert ring.path == parent.path
    before = child.path.read_bytes()
    assert code_of(relink.apply, plan, roots, offline=True) == "E_CYCLE"
    assert child.path.read_bytes() == before


@pytest.mark.parametrize("change", ["written", "replaced", "relinked", "touched", "cut", "deleted"])
def test_a_disk_that_changed_since_the_plan_is_not_written(
    vms: Path, parent: Built, child: Built, change: str
) -> None:
    """bad-input E73, E74, E76: the file is not the one that was planned for."""
    roots = roots_of(vms)
    plan = relink.plan(str(child.path), str(parent.path), roots)
    if change == "written":
        child.patch(child.blocks[0] + 512, b"\x99" * 512)
    elif change == "replaced":
        shutil.copy2(child.path, vms / "new.vhd")
        os.replace(vms / "new.vhd", child.path)
    elif change == "relinked":
        child.patch_header(parent_timestamp=1)
        os.utime(child.path, (OLD, OLD))
    elif change == "touched":
        os.utime(child.path)
    elif change == "cut":
        os.truncate(child.path, 5000)
    else:
        child.path.unlink()
    before = [(path.name, path.read_bytes()) for path in child.path.parent.iterdir()]
    assert code_of(relink.apply, plan, roots, offline=True) == "E_CHANGED"
    assert [(path.name, path.read_bytes()) for path in child.path.parent.iterdir()] == before


def test_a_locked_disk_is_refused_with_the_holder(vms: Path, parent: Built, child: Built) -> None:
    """bad-input E68: update-parent against a merge of the same chain."""
    import contextvars

    roots = roots_of(vms)
    plan = relink.plan(str(child.path), str(parent.path), roots)

    def attempt() -> str:
        return code_of(relink.apply, plan, roots, offline=True)

    with locks.hold(roots, [str(child.path)], job="17"):
        assert contextvars.Context().run(attempt) == "E_LOCKED"
    with locks.hold(roots, [str(parent.path)], job="18"):
        assert contextvars.Context().run(attempt) == "E_LOCKED"
    relink.apply(plan, roots, offline=True)


def test_read_only_roots_hard_links_and_wrong_types_are_refused(
    vms: Path, parent: Built, child: Built
) -> None:
    """bad-input D63 (hard links), F94 (read-only root)."""
    closed = Roots([Root(str(vms), read_only=True)])
    assert code_of(relink.plan, str(child.path), str(parent.path), closed) == "E_READ_ONLY"
    roots = roots_of(vms)
    swapped = (str(parent.path), str(child.path), roots)
    assert code_of(relink.plan, *swapped) == "E_NOT_DIFFERENCING"
    os.link(child.path, vms / "second.vhd")
    assert code_of(relink.plan, str(child.path), str(parent.path), roots) == "E_HARD_LINKS"


def test_what_should_be_known_before_is_told(vms: Path, parent: Built, child: Built) -> None:
    """Twins with their dates, hard links of the parent, a write a moment ago."""
    twin = vms / "twin.vhd"
    shutil.copy2(parent.path, twin)
    os.link(parent.path, vms / "second-name.vhd")
    os.utime(child.path)
    roots = roots_of(vms, "C:\\VMs", find_identity=lambda identity: [str(twin), str(parent.path)])
    plan = relink.plan(str(child.path), str(parent.path), roots)
    assert warnings(plan) == ["W_RECENT_WRITE", "W_HARD_LINKS", "W_PARENT_TWIN"]
    assert "2020-09-13 12:26 UTC" in plan.warnings[2].message
    earlier = time.time() - 265
    os.utime(child.path, (earlier, earlier))
    plan = relink.plan(str(child.path), str(parent.path), roots)
    assert plan.warnings[0].message.startswith("The disk was written 4 minutes ago; ")
    assert str(twin) in plan.warnings[2].message


def test_a_managed_disk_needs_the_declaration(vms: Path, parent: Built) -> None:
    checkpoint = make_child(vms / "a", "vm.avhd", parent)
    roots = roots_of(vms)
    plan = relink.plan(str(checkpoint.path), str(parent.path), roots)
    assert plan.manager is not None
    assert plan.manager.code == "hyper-v-checkpoint"
    before = checkpoint.path.read_bytes()
    assert code_of(relink.apply, plan, roots, offline=False) == "E_MANAGED"
    assert checkpoint.path.read_bytes() == before
    relink.apply(plan, roots, offline=True)


def test_a_twin_of_the_parent_beside_the_child_does_not_come_before_it(tmp_path: Path) -> None:
    for name in ("c", "d"):
        (tmp_path / name).mkdir()
    twin = build_fixed(tmp_path / "c", "base.vhd", size=SIZE)
    parent = shutil.copy(twin.path, tmp_path / "d")
    child = make_child(tmp_path / "c", "child.vhd", twin)
    roots = Roots(
        [
            Root(f"{tmp_path}/c", windows_views=("C:\\VMs",)),
            Root(f"{tmp_path}/d", windows_views=("D:\\Bases",)),
        ]
    )
    relink.apply(relink.plan(str(child.path), parent, roots), roots, offline=True)
    assert inspect(str(child.path), roots)["parent"]["path"] == parent


def test_different_drives_need_an_absolute_path(tmp_path: Path) -> None:
    for name in ("c", "d"):
        (tmp_path / name).mkdir()
    parent = build_fixed(tmp_path / "d", "base.vhd", size=SIZE)
    child = make_child(tmp_path / "c", "child.vhd", parent)
    roots = Roots(
        [
            Root(f"{tmp_path}/c", windows_views=("C:\\VMs",)),
            Root(f"{tmp_path}/d", windows_views=("D:\\Bases",)),
        ]
    )
    plan = relink.plan(str(child.path), str(parent.path), roots)
    assert plan.windows_will_look_at == ("D:\\Bases\\base.vhd",)
    assert "N_NO_RELATIVE_PATH" in warnings(plan)
    relink.apply(plan, roots, offline=True)
    path = "D:\\Bases\\base.vhd"
    assert locators(child.path, roots) == {"W2ku": path, "name": path}
    assert inspect(str(child.path), roots)["parent"]["status"] == "found"


def test_no_way_for_windows_is_refused_with_the_way_out(
    vms: Path, parent: Built, child: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = roots_of(vms)
    monkeypatch.setattr(roots, "relative_windows_path", lambda *_: None)
    with pytest.raises(ImageError) as refused:
        relink.plan(str(child.path), str(parent.path), roots)
    assert refused.value.code == "E_NO_WINDOWS_PATH"
    assert "--map" in codes.command(refused.value.code, refused.value.file)
    told = relink.plan(
        str(child.path), str(parent.path), roots, windows_path="\\\\nas\\bases\\base.vhd"
    )
    relink.apply(told, roots, offline=True)
    assert locators(child.path, roots)["W2ku"] == "\\\\nas\\bases\\base.vhd"


@pytest.mark.parametrize("text", ["/srv/base.vhd", "base.vhd", "C:\\", "C:base.vhd", "\\\\nas"])
def test_a_given_windows_path_must_be_one(
    vms: Path, parent: Built, child: Built, text: str
) -> None:
    plan = (str(child.path), str(parent.path), roots_of(vms))
    assert code_of(relink.plan, *plan, windows_path=text) == "E_NAME"


def test_names_that_windows_cannot_have_are_refused(vms: Path, child: Built, parent: Built) -> None:
    """bad-input D65: not UTF-8, a trailing dot, a backslash."""
    for name in (b"b\xff.vhd", b"dot.", b"back\\slash.vhd"):
        odd = os.fsdecode(os.path.join(os.fsencode(vms), name))
        shutil.copy2(parent.path, odd)
        assert code_of(relink.plan, str(child.path), odd, roots_of(vms)) == "E_NAME"


def test_names_of_255_bytes_are_updated_and_undone(vms: Path, parent: Built) -> None:
    """bad-input D65: the sidecar's name is a hash then; umlauts count two bytes each."""
    for name in ("n" * 251 + ".vhd", "ä" * 125 + "x.vhd"):
        child = make_child(vms / "a", name, parent)
        long_parent = vms / "b" / ("p" * 251 + ".vhd")
        shutil.copy2(parent.path, long_parent)
        roots = roots_of(vms, "C:\\VMs")
        relink.apply(relink.plan(str(child.path), str(long_parent), roots), roots, offline=True)
        with open_chain(str(child.path), roots) as chain:
            assert chain.paths[1] == str(long_parent)
        relink.undo(str(child.path), roots, offline=True)
        assert os.listdir(vms / "a") == [name]
        child.path.unlink()
        long_parent.unlink()


def test_the_modification_time_comes_back_only_for_a_child_that_stores_it(
    vms: Path, parent: Built, child: Built
) -> None:
    """Otherwise incremental backups would miss the change."""
    roots = roots_of(vms)

    def update(*known: datetime | None) -> int:
        os.utime(child.path, (OLD, OLD))
        target = (str(child.path), str(parent.path), roots)
        relink.apply(relink.plan(*target), roots, offline=True, known_children=known)
        mtime = int(child.path.stat().st_mtime)
        relink.undo(str(child.path), roots, offline=True)
        return mtime

    now = int(time.time())
    assert update(None, datetime.fromtimestamp(OLD + 1, UTC)) >= now
    assert update(datetime.fromtimestamp(OLD, UTC)) == OLD


def test_a_stored_parent_time_is_renewed_and_zero_stays_zero(vms: Path, parent: Built) -> None:
    """Windows stores 0; only who stored a time keeps one."""
    roots = roots_of(vms)
    for stored, expected in ((0, None), (5, datetime.fromtimestamp(OLD, UTC))):
        child = make_child(vms / "a", f"c{stored}.vhd", parent, parent_timestamp=stored)
        plan = relink.plan(str(child.path), str(parent.path), roots)
        relink.apply(plan, roots, offline=True)
        with roots.open(str(child.path)) as file:
            link = open_image(file).parent
        assert link is not None
        assert link.timestamp == expected


def test_a_chain_broken_further_up_is_told_and_mended_from_below(vms: Path, parent: Built) -> None:
    middle = make_child(vms / "b", "middle.vhd", parent, locators={"W2ru": ".\\gone\\base.vhd"})
    leaf = make_child(vms / "a", "leaf.vhd", middle)
    roots = roots_of(vms)
    os.rename(parent.path, vms / "base.vhd")
    plan = relink.plan(str(leaf.path), str(middle.path), roots)
    assert "W_CHAIN_BROKEN_ABOVE" in warnings(plan)
    relink.apply(plan, roots, offline=True)
    target = (str(middle.path), str(vms / "base.vhd"), roots)
    relink.apply(relink.plan(*target), roots, offline=True)
    with open_chain(str(leaf.path), roots) as chain:
        assert chain.sha256() == leaf.sha256


def test_an_update_to_the_same_link_writes_nothing(vms: Path, parent: Built, child: Built) -> None:
    roots = roots_of(vms)
    target = (str(child.path), str(parent.path), roots)
    relink.apply(relink.plan(*target), roots, offline=True)
    before, when = child.path.read_bytes(), child.path.stat().st_mtime_ns
    relink.apply(relink.plan(*target), roots, offline=True)
    assert (child.path.read_bytes(), child.path.stat().st_mtime_ns) == (before, when)
    relink.undo(str(child.path), roots, offline=True)
    assert locators(child.path, roots)["W2ru"] == ".\\base.vhd"


def test_a_folder_that_takes_no_sidecar_stops_the_update(
    vms: Path, parent: Built, child: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input H121: the undo record is a precondition."""
    from disks.operations import durable

    def refuse(*_: object, **__: object) -> None:
        raise ImageError("E_ACCESS", "no")

    roots = roots_of(vms)
    plan = relink.plan(str(child.path), str(parent.path), roots)
    before = child.path.read_bytes()
    monkeypatch.setattr(durable, "create", refuse)
    assert code_of(relink.apply, plan, roots, offline=True) == "E_ACCESS"
    assert child.path.read_bytes() == before


def test_the_windows_child_keeps_its_content_through_update_and_undo(
    corpus: Path, tmp_path: Path
) -> None:
    """A real disk made by Windows 10."""
    content = "b7922a46a6b08fa4f4fc0c51a25d5587d1d49f15cfade45ca740dd07110ae144"
    for name, file in (("a", "ntfs-differential.vhd"), ("b", "ntfs-parent.vhd")):
        (tmp_path / name).mkdir()
        shutil.copyfile(corpus / "windows-ntfs" / file, tmp_path / name / file)
    child = f"{tmp_path}/a/ntfs-differential.vhd"
    header = Path(child).read_bytes()[512:1536]
    roots = roots_of(tmp_path, "C:\\VMs")
    target = (child, f"{tmp_path}/b/ntfs-parent.vhd", roots)
    relink.apply(relink.plan(*target), roots, offline=True)
    with open_chain(child, roots) as chain:
        assert chain.sha256() == content
    relink.undo(child, roots, offline=True)
    assert Path(child).read_bytes()[512:1536] == header


def test_new_strings_leave_out_what_a_last_block_lacks_that_was_written_short(vms: Path) -> None:
    """There they would lie inside of the block: unusable, and cleared by an expansion."""
    size = SIZE - 8 * 1024
    parent = build_fixed(vms / "b", "base.vhd", size=size, content=[(3, b"\x11" * 1024)])
    content = [(480, b"\x22" * 1024)]
    child = make_child(vms / "a", "child.vhd", parent, content=content, layout="packed")
    data = child.path.read_bytes()
    child.path.write_bytes(data[: -512 - 8 * 1024] + data[-512:])
    roots = roots_of(vms, "D:\\VMs\\" + "m" * 400)
    relink.apply(relink.plan(str(child.path), str(parent.path), roots), roots, offline=True)
    with open_chain(str(child.path), roots) as chain:
        assert chain.sha256() == child.sha256
    planned = expand.plan(str(child.path), SIZE, roots)
    expand.apply(planned, roots, offline=True)
    with open_chain(str(child.path), roots) as chain:
        assert chain.paths == [str(child.path), str(parent.path)]
        assert chain.read(0, size // 512) == child.model
