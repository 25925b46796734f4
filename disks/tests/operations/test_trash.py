"""What jobs put away comes back as a whole, or not at all."""

from __future__ import annotations

import contextvars
import json
import os
from pathlib import Path

import pytest

from disks.engine import codes, faults
from disks.engine.errors import ImageError
from disks.engine.files import FileIdentity
from disks.operations import compact, create, merge, relink, trash
from disks.operations.inspection import inspect
from disks.operations.paths import Roots
from disks.operations.trash import emptying, manifests, restoring
from disks.tests.builders import build_dynamic
from disks.tests.operations import worlds
from disks.tests.operations.crashing import in_fork, with_fault
from disks.tests.operations.worlds import BLOCK, chain, content_of, noise, roots_of, zeros


def merged(tmp_path: Path, *, name: str = "parent") -> worlds.World:
    world = chain(tmp_path, grandchild=True)
    world.before = worlds.snapshot(tmp_path)
    plan = merge.plan(world.path("leaf.vhd"), world.roots, into_parent=True, keep_name=name)
    merge.apply(plan, world.roots, offline=True, job="42", token=1)
    return world


def only(world: worlds.World) -> manifests.Manifest:
    (manifest,) = trash.list_trash(str(world.folder), world.roots)
    return manifest


@pytest.mark.parametrize("name", ["parent", "child"])
def test_a_whole_job_is_restored(tmp_path: Path, name: str) -> None:
    world = merged(tmp_path, name=name)
    assert world.grandchild is not None
    manifest = only(world)
    assert manifest.job == "job-42"
    assert restoring.restore_refusal(world.roots, manifest) is None
    done = restoring.restore(manifest.folder, world.roots, offline=True)
    assert done["warnings"] == []
    found = worlds.snapshot(tmp_path)
    wanted = {name: digest for name, digest in world.before.items() if name != "below.vhd"}
    assert {name: found[name] for name in wanted} == wanted
    assert not (tmp_path / ".vdtrash").exists()
    assert content_of(world.leaf.path) == world.leaf.sha256
    assert content_of(world.path("below.vhd")) == world.grandchild.sha256


def test_a_compaction_is_restored(tmp_path: Path) -> None:
    disk = build_dynamic(
        tmp_path,
        "d.vhd",
        size=4 * BLOCK,
        block_size=BLOCK,
        content=[(0, noise(1, 3)), (32, zeros(32))],
    )
    before = disk.path.read_bytes()
    roots = roots_of(tmp_path)
    done = compact.apply(compact.plan(str(disk.path), roots, in_place=False), roots, offline=True)
    assert disk.path.read_bytes() != before
    restoring.restore(done["trash"], roots, offline=True)
    assert disk.path.read_bytes() == before
    assert not (tmp_path / ".vdtrash").exists()


def test_restoring_is_refused_once_the_replacement_was_written(tmp_path: Path) -> None:
    world = merged(tmp_path)
    with (tmp_path / "middle.vhd").open("r+b") as file:
        file.seek(-600, 2)
        file.write(b"guest data")
    before = worlds.snapshot(tmp_path)
    with pytest.raises(ImageError) as caught:
        restoring.restore(only(world).folder, world.roots, offline=True)
    assert caught.value.code == "E_CHANGED"
    assert worlds.snapshot(tmp_path) == before


def test_restoring_is_refused_while_a_name_is_taken(tmp_path: Path) -> None:
    """bad-input H118."""
    world = merged(tmp_path)
    (tmp_path / "leaf.vhd").write_bytes(b"somebody else's")
    before = worlds.snapshot(tmp_path)
    with pytest.raises(ImageError) as caught:
        restoring.restore(only(world).folder, world.roots, offline=True)
    assert caught.value.code == "E_EXISTS"
    assert "leaf.vhd" in caught.value.message
    assert worlds.snapshot(tmp_path) == before


def test_what_changed_in_the_trash_is_not_restored(tmp_path: Path) -> None:
    world = merged(tmp_path)
    os.utime(Path(only(world).folder) / "leaf.vhd", ns=(1, 1))
    refusal = restoring.restore_refusal(world.roots, only(world))
    assert refusal is not None
    assert refusal.code == "E_CHANGED"


def test_a_link_that_somebody_changed_since_stays(tmp_path: Path) -> None:
    world = merged(tmp_path)
    undone = relink.undo(world.path("below.vhd"), world.roots, offline=True)
    assert undone["undo"]
    done = restoring.restore(only(world).folder, world.roots, offline=True)
    assert len(done["warnings"]) == 1
    assert world.grandchild is not None
    assert content_of(world.path("below.vhd")) == world.grandchild.sha256


def test_emptying_frees_what_it_said(tmp_path: Path) -> None:
    world = merged(tmp_path)
    manifest = only(world)
    expected = sum(emptying.given_back_bytes(world.roots, entry) for entry in manifest.entries)
    assert expected == sum(
        (Path(manifest.folder) / name).stat().st_blocks * 512 for name in ("middle.vhd", "leaf.vhd")
    )
    assert emptying.empty(manifest.folder, world.roots) == expected
    assert not (tmp_path / ".vdtrash").exists()
    assert trash.list_trash(str(tmp_path), world.roots) == []
    assert content_of(tmp_path / "middle.vhd") == world.leaf.sha256


def test_the_help_inside_says_how_to_go_back_by_hand(tmp_path: Path) -> None:
    """bad-input H122."""
    world = merged(tmp_path)
    text = (Path(only(world).folder) / "README.txt").read_text()
    assert f"move  {only(world).folder}/leaf.vhd" in text
    assert f"to  {tmp_path}/leaf.vhd" in text
    assert "below.vhd" in text


def test_the_trash_moves_along_with_its_root(tmp_path: Path) -> None:
    world = merged(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    moved = roots_of(tmp_path / "new")
    (manifest,) = trash.list_trash(str(tmp_path / "new"), moved)
    restoring.restore(manifest.folder, moved, offline=True)
    assert content_of(tmp_path / "new" / "leaf.vhd") == world.leaf.sha256


def test_disks_of_two_roots_go_to_the_trash_of_each(tmp_path: Path) -> None:
    from disks.operations.paths import Roots
    from disks.operations.storage_roots import Root
    from disks.tests.builders import build_differencing

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    base = build_dynamic(tmp_path / "one", "base.vhd", size=64 * 1024, block_size=4096,
                         content=[(0, noise(1, 9))])  # fmt: skip
    leaf = build_differencing(
        tmp_path / "two", "leaf.vhd", base, content=[(4, noise(2, 3))],
        locators={"W2ku": "C:\\one\\base.vhd"}, parent_name="C:\\one\\base.vhd",
    )  # fmt: skip
    roots = Roots(
        [
            Root(str(tmp_path / "one"), windows_views=("C:\\one",)),
            Root(str(tmp_path / "two"), windows_views=("C:\\two",)),
        ]
    )
    plan = merge.plan(str(leaf.path), roots, into_parent=True)
    assert plan.refused is None
    done = merge.apply(plan, roots, offline=True)
    assert done["trash"].startswith(str(tmp_path / "one"))
    assert not leaf.path.exists()
    (second,) = trash.list_trash(str(tmp_path / "two"), roots)
    assert second.primary == done["trash"]
    assert [entry.original for entry in second.entries] == [str(leaf.path)]
    restoring.restore(second.folder, roots, offline=True)
    assert content_of(leaf.path, roots) == leaf.sha256
    assert worlds.strays(tmp_path) == []


@pytest.mark.parametrize(
    "change",
    [
        {"magic": "else"},
        {"version": 99},
        {"entries": [{"original": "x"}]},
        {"folders": ["../.."]},
        {"primary": "../../base.vhd"},
    ],
)
def test_a_manifest_that_leads_elsewhere_is_not_believed(
    tmp_path: Path, change: dict[str, object]
) -> None:
    world = merged(tmp_path)
    folder = only(world).folder
    path = Path(folder) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert trash.list_trash(str(tmp_path), world.roots) == []
    for act in (
        lambda: restoring.restore(folder, world.roots, offline=True),
        lambda: emptying.empty(folder, world.roots),
    ):
        with pytest.raises(ImageError) as caught:
            act()
        assert caught.value.code == "E_TRASH"


def test_an_entry_outside_the_trash_is_not_deleted(tmp_path: Path) -> None:
    world = merged(tmp_path)
    folder = only(world).folder
    path = Path(folder) / "manifest.json"
    row = json.loads(path.read_text())
    row["entries"][0]["trash"] = "../../base.vhd"
    path.write_text(json.dumps(row))
    with pytest.raises(ImageError):
        emptying.empty(folder, world.roots)
    assert (tmp_path / "base.vhd").exists()


def test_restoring_is_refused_while_a_disk_made_since_would_lose_its_parent(tmp_path: Path) -> None:
    """bad-input D66: nobody had told the catalog; its header is read under the locks."""
    world = merged(tmp_path)
    new = create.plan(
        world.path("new.vhd"),
        world.roots,
        disk_type="differencing",
        parent=world.path("middle.vhd"),
    )
    create.apply(new, world.roots)
    before = worlds.snapshot(tmp_path)
    with pytest.raises(ImageError) as caught:
        restoring.restore(only(world).folder, world.roots, offline=True)
    assert caught.value.code == "E_RESTORE_CHILDREN"
    assert world.path("new.vhd") in caught.value.message
    assert "Merge them to new disks" in codes.advice(caught.value.code)
    assert "below.vhd" not in caught.value.message  # its link is put back
    assert worlds.snapshot(tmp_path) == before

    out = merge.plan(world.path("new.vhd"), world.roots, to=world.path("whole.vhd"))
    merge.apply(out, world.roots)
    (tmp_path / "new.vhd").unlink()
    restoring.restore(only(world).folder, world.roots, offline=True)
    assert content_of(world.path("leaf.vhd")) == world.leaf.sha256


def test_disks_made_since_on_a_name_with_the_same_identity_do_not_keep_it_from_coming_back(
    tmp_path: Path,
) -> None:
    world = merged(tmp_path, name="child")
    path = world.path("new.vhd")
    new = create.plan(path, world.roots, disk_type="differencing", parent=world.path("leaf.vhd"))
    create.apply(new, world.roots)
    restoring.restore(only(world).folder, world.roots, offline=True)
    assert content_of(path) == world.leaf.sha256


def test_a_copy_of_an_old_child_does_not_keep_its_parent_from_coming_back(tmp_path: Path) -> None:
    """It names the leaf, which lies in the trash: it gains by the restore."""
    world = chain(tmp_path, grandchild=True)
    kept = Path(world.path("below.vhd")).read_bytes()
    plan = merge.plan(world.path("leaf.vhd"), world.roots, into_parent=True)
    merge.apply(plan, world.roots, offline=True, job="42", token=1)
    (tmp_path / "copy.vhd").write_bytes(kept)
    restoring.restore(only(world).folder, world.roots, offline=True)
    assert world.grandchild is not None
    assert content_of(world.path("copy.vhd")) == world.grandchild.sha256


def test_files_that_cannot_be_read_are_named_when_a_job_is_restored(tmp_path: Path) -> None:
    world = merged(tmp_path)
    whole = Path(world.path("below.vhd")).read_bytes()
    (tmp_path / "torn.vhd").write_bytes(whole[:512] + b"?" * 1024 + whole[1536:])
    done = restoring.restore(only(world).folder, world.roots, offline=True)
    assert len(done["warnings"]) == 1
    assert world.path("torn.vhd") in done["warnings"][0]


def test_storage_that_fails_for_a_moment_makes_no_restore_leave_a_file_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input F83: what cannot be looked at is not taken for what is back already."""
    world = merged(tmp_path)
    folder = only(world).folder
    look, decide = Roots.stat, restoring.restore_refusal
    failing: list[str] = []

    def stat(self: Roots, path: str) -> os.stat_result:
        if path in failing:
            raise ImageError("E_IO", "The storage failed.", file=path)
        return look(self, path)

    def decided(roots: Roots, manifest: manifests.Manifest) -> ImageError | None:
        refusal = decide(roots, manifest)
        failing.append(f"{folder}/leaf.vhd")
        return refusal

    monkeypatch.setattr(Roots, "stat", stat)
    monkeypatch.setattr(restoring, "restore_refusal", decided)
    with pytest.raises(ImageError, match="E_IO"):
        restoring.restore(folder, world.roots, offline=True)
    monkeypatch.undo()
    restoring.restore(folder, world.roots, offline=True)
    assert content_of(world.leaf.path) == world.leaf.sha256


def test_an_update_that_somebody_made_since_is_not_taken_back_by_a_restore(tmp_path: Path) -> None:
    world = merged(tmp_path)
    below = world.path("below.vhd")
    plan = relink.plan(
        below, world.path("middle.vhd"), world.roots, windows_path="D:\\else\\middle.vhd"
    )
    relink.apply(plan, world.roots, offline=True, job="43")
    header = Path(below).read_bytes()
    done = restoring.restore(only(world).folder, world.roots, offline=True)
    assert len(done["warnings"]) == 1
    assert Path(below).read_bytes() == header


def test_a_second_restore_takes_no_earlier_update_back(tmp_path: Path) -> None:
    """bad-input F87: the first one died after it had put the parent link back."""
    world = chain(tmp_path, grandchild=True)
    below = world.path("below.vhd")
    plan = relink.plan(
        below, world.path("leaf.vhd"), world.roots, windows_path="D:\\else\\leaf.vhd"
    )
    relink.apply(plan, world.roots, offline=True, job="41")
    link = inspect(below, world.roots)["parent"]["locators"]
    merging = merge.plan(world.path("leaf.vhd"), world.roots, into_parent=True)
    merge.apply(merging, world.roots, offline=True, job="42", token=1)
    folder = only(world).folder

    def restore() -> None:
        restoring.restore(folder, world.roots, offline=True)

    in_fork(with_fault("unlink:4:kill", restore))
    assert (Path(folder) / "manifest.json").exists()
    restore()
    assert inspect(below, world.roots)["parent"]["locators"] == link


def test_what_is_being_restored_cannot_be_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input E68: two people at one trash."""
    world = merged(tmp_path)
    folder = only(world).folder
    decide = restoring.restore_refusal
    codes: list[str] = []

    def decided(roots: Roots, manifest: manifests.Manifest) -> ImageError | None:
        refusal = decide(roots, manifest)
        with pytest.raises(ImageError) as caught:
            contextvars.Context().run(emptying.empty, folder, roots_of(tmp_path))
        codes.append(caught.value.code)
        return refusal

    monkeypatch.setattr(restoring, "restore_refusal", decided)
    restoring.restore(folder, world.roots, offline=True)
    assert codes == ["E_LOCKED"]
    assert content_of(world.leaf.path) == world.leaf.sha256
    assert not (tmp_path / ".vdtrash").exists()


def test_a_trash_that_is_a_link_is_refused_at_once(tmp_path: Path) -> None:
    """bad-input D63: somebody moved the trash to another volume and left a link."""
    (tmp_path / "elsewhere").mkdir()
    world = chain(tmp_path / "disks")
    (world.folder / ".vdtrash").symlink_to(tmp_path / "elsewhere")
    before = worlds.snapshot(world.folder)
    plan = merge.plan(world.path("leaf.vhd"), world.roots, into_parent=True)
    with pytest.raises(ImageError) as caught:
        merge.apply(plan, world.roots, offline=True)
    assert caught.value.code == "E_OUTSIDE_ROOTS"
    assert worlds.snapshot(world.folder) == before
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_trash_folder_that_is_swept_while_a_job_makes_it_is_made_once_more(
    tmp_path: Path,
) -> None:
    """Recovery takes empty trash folders away, and cannot know whose they are."""
    swept = []

    def sweep(event: faults.Event) -> None:
        if event.path.endswith(f"{manifests.README}.vdtmp") and not swept:
            swept.append(event.path)
            trash.sweep(roots_of(tmp_path), str(tmp_path))
            assert not (tmp_path / trash.TRASH_FOLDER).exists()

    faults.watch(sweep)
    try:
        world = merged(tmp_path)
    finally:
        faults.watch(None)
    assert swept
    assert restoring.restore_refusal(world.roots, only(world)) is None


@pytest.mark.parametrize(
    "names",
    [
        ("ä" * 125 + ".vhd", "ä" * 125 + ".vhd"),  # of 254 bytes, which a number makes too long
        ("disk.vhd", "DISK.VHD"),  # one name, where a share minds no case
    ],
)
def test_files_of_one_job_that_are_called_alike_all_fit_into_its_trash(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    """What finds no place there would keep a job from its end that is past its commit."""
    paths = [tmp_path / folder / name for folder, name in zip("ab", names, strict=True)]
    rows = []
    for path in paths:
        path.parent.mkdir()
        path.touch()
        rows.append((str(path), FileIdentity.of(path.stat()), "", "merged"))
    manifest = trash.planned(
        roots_of(tmp_path), job="j", kind="merge", summary="", replacement="", put_away=rows
    )
    found = [os.path.basename(entry.trash) for entry in manifest.entries]
    assert len({name.casefold() for name in found}) == 2
    assert all(len(os.fsencode(name)) <= 255 for name in found)
