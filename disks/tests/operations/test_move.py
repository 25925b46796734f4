"""Moving and renaming a disk: every link leads to it afterwards, or nothing was done."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from disks.engine.errors import ImageError
from disks.engine.formats import open_image
from disks.engine.resolution import resolve
from disks.engine.resolution.outcome import Status, Verdict
from disks.operations import journal, move, relink, trash
from disks.operations.paths import Roots
from disks.operations.progress import Cancelled, Progress
from disks.operations.storage_roots import Root
from disks.operations.trash import manifests, restoring
from disks.tests.builders import Family, build_differencing_vhdx, build_dynamic_vhdx
from disks.tests.operations import worlds
from disks.tests.operations.worlds import chain, content_of, errors_in, noise, roots_of, snapshot


def to(folder: Path, source: str, target: str, **options: object) -> dict[str, object]:
    """Move it with all links, planned and carried out."""
    roots = roots_of(folder)
    plan = move.plan(str(folder / source), str(folder / target), roots, relink=True)
    assert plan.refused is None, plan.refused
    return move.apply(plan, roots, offline=True, **options)  # type: ignore[arg-type]


def leads_to(path: Path, roots: Roots) -> tuple[str | None, list[str]]:
    """Where a disk's link leads, and which of its locators say so."""
    with roots.open(str(path)) as file:
        found = resolve(open_image(file), str(path), roots)
    assert found.status is Status.FOUND, found.reason
    return found.path, [step.source for step in found.trace if step.verdict is Verdict.MATCH]


def refusal(folder: Path, source: str, target: str, **options: object) -> ImageError:
    before = snapshot(folder)
    plan = move.plan(
        str(folder / source),
        str(folder / target),
        roots_of(folder),
        **options,  # type: ignore[arg-type]
    )
    assert plan.refused is not None
    with pytest.raises(ImageError) as caught:
        move.apply(plan, roots_of(folder), offline=True)
    assert caught.value is plan.refused
    assert snapshot(folder) == before
    return plan.refused


def test_a_renamed_parent_is_found_by_its_children_at_once(tmp_path: Path, family: Family) -> None:
    world = chain(tmp_path, family=family)
    was = content_of(world.leaf.path)
    done = to(tmp_path, family.file("middle"), family.file("renamed"))
    assert not world.middle.path.exists()
    path, sources = leads_to(world.leaf.path, roots_of(tmp_path))
    assert path == str(tmp_path / family.file("renamed"))
    assert family.relative in sources
    assert content_of(world.leaf.path) == was
    assert done["relinked"] == [str(world.leaf.path)]
    assert sorted(snapshot(tmp_path)) == sorted(
        [family.file("base"), family.file("leaf"), family.file("renamed")]
    )


def test_a_disk_moved_into_another_folder_keeps_its_parent_and_its_children(
    tmp_path: Path, family: Family
) -> None:
    world = chain(tmp_path, family=family)
    (tmp_path / "a" / "b").mkdir(parents=True)
    was = content_of(world.leaf.path)
    done = to(tmp_path, family.file("middle"), f"a/b/{family.file('middle')}")
    moved = tmp_path / "a" / "b" / family.file("middle")
    roots = roots_of(tmp_path)
    assert leads_to(moved, roots)[0] == str(world.base.path)
    assert leads_to(world.leaf.path, roots)[0] == str(moved)
    assert done["relinked"] == [str(moved), str(world.leaf.path)]
    assert content_of(world.leaf.path, roots) == was
    assert errors_in(moved) == errors_in(world.leaf.path) == []


def test_the_plan_names_every_link_that_changes(tmp_path: Path, family: Family) -> None:
    world = chain(tmp_path, family=family)
    (tmp_path / "a").mkdir()
    roots = roots_of(tmp_path)
    target = str(tmp_path / "a" / family.file("middle"))
    document = move.plan(str(world.middle.path), target, roots, relink=True).as_dict()
    assert [row["disk"] for row in document["links"]] == [target, str(world.leaf.path)]
    assert [row["parent"] for row in document["links"]] == [str(world.base.path), target]
    extension = family.name
    assert document["links"][0]["windows_will_look_at"] == [f"C:\\VMs\\base.{extension}"]
    assert document["links"][1]["windows_will_look_at"] == [f"C:\\VMs\\a\\middle.{extension}"]
    afters = {change["after"] for change in document["links"][1]["changes"]}
    assert f".\\a\\middle.{extension}" in afters
    assert document["free_space_needed_bytes"] == 0
    assert document["across_file_systems"] is False


def test_without_leave_to_relink_what_would_break_is_refused(
    tmp_path: Path, family: Family
) -> None:
    chain(tmp_path, family=family)
    (tmp_path / "a").mkdir()
    error = refusal(tmp_path, family.file("base"), family.file("other"))
    assert error.code == "E_RELINK"
    assert family.file("middle") in error.message
    assert refusal(tmp_path, family.file("leaf"), f"a/{family.file('leaf')}").code == "E_RELINK"


def test_a_leaf_renamed_in_its_folder_needs_no_link(tmp_path: Path, family: Family) -> None:
    world = chain(tmp_path, family=family)
    was, data = content_of(world.leaf.path), world.leaf.path.read_bytes()
    roots = roots_of(tmp_path)
    target = tmp_path / family.file("new name")
    move.apply(move.plan(str(world.leaf.path), str(target), roots), roots)
    assert target.read_bytes() == data
    assert content_of(target) == was


def test_a_child_that_is_given_up_keeps_its_link_and_breaks(tmp_path: Path, family: Family) -> None:
    world = chain(tmp_path, family=family)
    before = world.middle.path.read_bytes()
    roots = roots_of(tmp_path)
    plan = move.plan(
        str(world.base.path),
        str(tmp_path / family.file("other")),
        roots,
        breaks=[str(world.middle.path)],
    )
    assert plan.broken == [str(world.middle.path)]
    move.apply(plan, roots, offline=True)
    assert world.middle.path.read_bytes() == before
    with pytest.raises(ImageError, match="E_PARENT_MISSING"):
        content_of(world.leaf.path)


@pytest.mark.parametrize("name", ["taken", "folder/name", "bad", "none/name"])
def test_names_that_cannot_be_are_refused(tmp_path: Path, family: Family, name: str) -> None:
    chain(tmp_path, family=family)
    (tmp_path / family.file("taken")).write_bytes(b"somebody else's")
    targets = {
        "taken": (family.file("taken"), "E_EXISTS"),
        "folder/name": (f".vdtrash/{family.file('x')}", "E_NAME"),
        "bad": ("x.iso", "E_NAME"),
        "none/name": (f"none/{family.file('x')}", "E_NOT_FOUND"),
    }
    target, code = targets[name]
    assert refusal(tmp_path, family.file("base"), target, relink=True).code == code
    assert (tmp_path / family.file("taken")).read_bytes() == b"somebody else's"


@pytest.mark.parametrize("stem", ["line\nfeed", "a:b", "\u202eright", "n" * 260])
def test_hostile_names_are_refused_or_kept_to_the_byte(
    tmp_path: Path, family: Family, stem: str
) -> None:
    world = chain(tmp_path, family=family)
    target = family.file(stem)
    if stem == "\u202eright":
        to(tmp_path, family.file("middle"), target)
        assert content_of(world.leaf.path)
        assert (tmp_path / target).exists()
        return
    assert refusal(tmp_path, family.file("middle"), target, relink=True).code == "E_NAME"


def test_a_name_of_255_bytes_is_moved_to(tmp_path: Path, family: Family) -> None:
    world = chain(tmp_path, family=family)
    target = "n" * (254 - len(family.name)) + f".{family.name}"
    assert len(target) == 255
    to(tmp_path, family.file("middle"), target)
    assert leads_to(world.leaf.path, roots_of(tmp_path))[0] == str(tmp_path / target)
    assert worlds.strays(tmp_path) == []


def test_between_roots_the_links_follow_the_windows_views(tmp_path: Path, family: Family) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    two.mkdir()
    world = chain(one, family=family)
    roots = Roots(
        [
            Root(str(one), windows_views=("D:\\VMs",)),
            Root(str(two), windows_views=("\\\\nas\\bases",)),
        ]
    )
    target = str(two / family.file("base"))
    plan = move.plan(str(world.base.path), target, roots, relink=True)
    assert plan.links[0].windows_will_look_at == (f"\\\\nas\\bases\\base.{family.name}",)
    move.apply(plan, roots, offline=True)
    path, sources = leads_to(world.middle.path, roots)
    assert path == target
    assert family.absolute in sources
    assert family.relative not in sources


def test_a_root_that_windows_does_not_know_is_refused(tmp_path: Path, family: Family) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    two.mkdir()
    world = chain(one, family=family)
    roots = Roots([Root(str(one), windows_views=("D:\\VMs",)), Root(str(two), windows_views=())])
    plan = move.plan(str(world.base.path), str(two / family.file("base")), roots, relink=True)
    assert plan.refused is None  # the folders lie on one file system: assumed, and said
    assert any("only if Windows sees both folders" in text for text in plan.warnings)


def test_a_read_only_root_is_not_written(tmp_path: Path, family: Family) -> None:
    world = chain(tmp_path, family=family)
    roots = roots_of(tmp_path, read_only=True)
    plan = move.plan(str(world.leaf.path), str(tmp_path / family.file("x")), roots, relink=True)
    assert plan.refused is not None
    assert plan.refused.code == "E_READ_ONLY"


def test_a_disk_whose_parent_is_missing_stays_in_its_folder(tmp_path: Path, family: Family) -> None:
    world = chain(tmp_path, family=family)
    world.base.path.unlink()
    (tmp_path / "a").mkdir()
    error = refusal(tmp_path, family.file("middle"), f"a/{family.file('middle')}", relink=True)
    assert error.code == "E_PARENT_MISSING"
    to(tmp_path, family.file("middle"), family.file("renamed"))
    assert leads_to(world.leaf.path, roots_of(tmp_path))[0] == str(
        tmp_path / family.file("renamed")
    )


def test_a_child_made_meanwhile_is_noticed(tmp_path: Path, family: Family) -> None:
    world = chain(tmp_path, family=family)
    roots = roots_of(tmp_path)
    plan = move.plan(str(world.base.path), str(tmp_path / family.file("other")), roots, relink=True)
    family.differencing(tmp_path, family.file("sibling"), world.base, **family.cheapest)
    before = snapshot(tmp_path)
    with pytest.raises(ImageError, match="got a child") as caught:
        move.apply(plan, roots, offline=True)
    assert caught.value.code == "E_CHANGED"
    assert snapshot(tmp_path) == before


def test_a_disk_written_since_the_plan_is_not_moved(tmp_path: Path, family: Family) -> None:
    world = chain(tmp_path, family=family)
    roots = roots_of(tmp_path)
    plan = move.plan(str(world.base.path), str(tmp_path / family.file("other")), roots, relink=True)
    os.utime(world.base.path, ns=(1, 1))
    with pytest.raises(ImageError) as caught:
        move.apply(plan, roots, offline=True)
    assert caught.value.code == "E_CHANGED"
    assert worlds.strays(tmp_path) == []


def test_the_record_of_a_link_update_moves_along_with_a_rename(
    tmp_path: Path, family: Family
) -> None:
    world = chain(tmp_path, family=family)
    (tmp_path / "other").mkdir()
    roots = roots_of(tmp_path)
    os.rename(world.base.path, tmp_path / "other" / world.base.path.name)
    moved_base = str(tmp_path / "other" / world.base.path.name)
    relink.apply(relink.plan(str(world.middle.path), moved_base, roots), roots, offline=True)
    to(tmp_path, family.file("middle"), family.file("renamed"))
    renamed = str(tmp_path / family.file("renamed"))
    assert journal.of(roots, str(world.middle.path), journal.UNDO) is None
    assert relink.plan_undo(renamed, roots).child == renamed


def test_a_link_that_a_move_wrote_is_not_offered_for_undo(tmp_path: Path, family: Family) -> None:
    """Taken back alone, it would lead to the old name."""
    world = chain(tmp_path, family=family)
    to(tmp_path, family.file("middle"), family.file("renamed"))
    with pytest.raises(ImageError) as caught:
        relink.plan_undo(str(world.leaf.path), roots_of(tmp_path))
    assert caught.value.code == "E_NOTHING_TO_UNDO"


@pytest.fixture
def two_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename could not do it: as between two file systems."""
    monkeypatch.setattr(move, "_is_one_mount", lambda *_: False)


@pytest.mark.usefixtures("two_mounts")
def test_to_another_file_system_a_proven_copy_moves_and_the_original_goes_to_the_trash(
    tmp_path: Path, family: Family
) -> None:
    world = chain(tmp_path, family=family)
    (tmp_path / "far").mkdir()
    was, data = content_of(world.leaf.path), world.middle.path.read_bytes()
    done = to(tmp_path, family.file("middle"), f"far/{family.file('middle')}", job="7", token=1)
    moved = tmp_path / "far" / family.file("middle")
    roots = roots_of(tmp_path)
    assert leads_to(world.leaf.path, roots)[0] == str(moved)
    assert leads_to(moved, roots)[0] == str(world.base.path)
    assert content_of(world.leaf.path, roots) == was
    assert str(done["proof"]).startswith("xxh3-128:")
    (kept,) = trash.list_trash(str(tmp_path), roots)
    assert kept.state == manifests.COMPLETE
    assert Path(kept.entries[0].trash).read_bytes() == data
    restoring.restore(kept.folder, roots, offline=True)
    assert world.middle.path.read_bytes() == data  # a twin by now; the chain stays with the copy
    assert leads_to(world.leaf.path, roots)[0] == str(moved)


@pytest.mark.usefixtures("two_mounts")
def test_too_little_room_is_said_before_anything_is_done(
    tmp_path: Path, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = chain(tmp_path, family=family)
    from disks.operations import space

    monkeypatch.setattr(space, "space_of", lambda _: space.Space(10, 1000))
    error = refusal(tmp_path, world.leaf.path.name, family.file("x"), relink=True)
    assert error.code == "E_NOSPC"


class _Stops(Progress):
    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        if total_bytes:
            raise Cancelled


@pytest.mark.usefixtures("two_mounts")
def test_a_cancelled_copy_leaves_everything_as_it_was(tmp_path: Path, family: Family) -> None:
    chain(tmp_path, family=family)
    before = snapshot(tmp_path)
    with pytest.raises(Cancelled):
        to(tmp_path, family.file("middle"), family.file("x"), progress=_Stops())
    assert snapshot(tmp_path) == before


def test_a_name_taken_at_the_last_moment_is_not_overwritten(
    tmp_path: Path, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain(tmp_path, family=family)
    target = tmp_path / family.file("renamed")
    before = snapshot(tmp_path)
    _when_committed(monkeypatch, lambda: target.write_bytes(b"theirs"))
    with pytest.raises(ImageError) as caught:
        to(tmp_path, family.file("middle"), target.name)
    assert caught.value.code == "E_EXISTS"
    assert target.read_bytes() == b"theirs"
    target.unlink()
    assert snapshot(tmp_path) == before


def _when_committed(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    from disks.operations import relocating

    real = relocating.commit

    def commit(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        happens()

    monkeypatch.setattr(relocating, "commit", commit)


def test_a_vhdx_whose_log_waits_is_renamed_but_gets_no_other_link(tmp_path: Path) -> None:
    base = build_dynamic_vhdx(tmp_path, "base.vhdx", content=[(0, noise(1, 40))])
    leaf = build_differencing_vhdx(tmp_path, "leaf.vhdx", base, content=[(9, noise(2, 30))])
    leaf.move_into_log(leaf.table_offset, leaf.blocks[0] + 4096)
    (tmp_path / "a").mkdir()
    assert refusal(tmp_path, "leaf.vhdx", "a/leaf.vhdx", relink=True).code == "E_LOG"
    assert refusal(tmp_path, "base.vhdx", "x.vhdx", relink=True).code == "E_LOG"
    data = leaf.path.read_bytes()
    to(tmp_path, "leaf.vhdx", "renamed.vhdx")
    assert (tmp_path / "renamed.vhdx").read_bytes() == data
    assert content_of(tmp_path / "renamed.vhdx") == leaf.sha256
