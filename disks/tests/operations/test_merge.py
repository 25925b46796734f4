"""Merging by copy: what comes out, what is refused, what stays as it was."""

from __future__ import annotations

import contextlib
import contextvars
import errno
import os
import shutil
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from disks.engine import codes
from disks.engine.chain import open_chain
from disks.engine.errors import ImageError
from disks.engine.formats import open_image
from disks.operations import concerned, locks, merge, merge_plan, relink, steps, trash
from disks.operations.paths import Roots
from disks.operations.progress import Cancelled, Progress
from disks.operations.recover import recover_disk
from disks.operations.storage_roots import Root
from disks.operations.trash import restoring
from disks.tests.builders import MIB, SECTOR, build_differencing, build_dynamic, seven_zip_sha256
from disks.tests.operations import worlds
from disks.tests.operations.crashing import in_fork, with_fault
from disks.tests.operations.worlds import BLOCK, KIB, chain, content_of, errors_in, noise, roots_of

needs_7z = pytest.mark.skipif(
    not (shutil.which("7zz") or shutil.which("7z")), reason="7-Zip is not installed"
)
needs_qemu = pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed")


def merged(world: worlds.World, **options: Any) -> dict[str, Any]:
    progress = options.pop("progress", None)
    plan = merge.plan(str(world.leaf.path), world.roots, **options)
    assert plan.refused is None, plan.refused
    return merge.apply(plan, world.roots, offline=True, job="7", token=3, progress=progress)


def identity_of(path: Path | str) -> str:
    with roots_of(Path(path).parent).open(str(path)) as file:
        return open_image(file).identity


def refusal(world: worlds.World, **options: Any) -> ImageError:
    plan = merge.plan(str(world.leaf.path), world.roots, **options)
    assert plan.refused is not None
    with pytest.raises(ImageError) as caught:
        merge.apply(plan, world.roots, offline=True)
    assert caught.value.code == plan.refused.code
    return plan.refused


# ---------------------------------------------------------------------- to a new disk


@needs_7z
@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
def test_whole_chain_becomes_a_new_disk_with_the_same_content(tmp_path: Path, kind: str) -> None:
    world = chain(tmp_path)
    before = worlds.snapshot(tmp_path)
    done = merged(world, to=world.path("new.vhd"), disk_type=kind)
    assert content_of(world.path("new.vhd")) == world.leaf.sha256
    assert seven_zip_sha256(world.path("new.vhd")) == world.leaf.sha256
    assert errors_in(world.path("new.vhd")) == []
    assert identity_of(world.path("new.vhd")) != world.leaf.identity
    after = worlds.snapshot(tmp_path)
    assert after.pop("new.vhd")
    assert after == before
    assert done["output"] == world.path("new.vhd")
    assert done["content_sha256"] is None
    assert done["proof"].startswith("xxh3-128:")


@needs_qemu
def test_qemu_reads_a_merged_disk_as_the_model_says(tmp_path: Path) -> None:
    world = chain(tmp_path, size=1024 * KIB)
    merged(world, to=world.path("new.vhd"))
    raw = tmp_path / "model.raw"
    raw.write_bytes(world.leaf.model)
    command = ["qemu-img", "compare", "--image-opts"]
    vpc = f"driver=vpc,force_size_calc=current_size,file.filename={world.path('new.vhd')}"
    subprocess.run(
        [*command, vpc, f"driver=raw,file.filename={raw}"], check=True, capture_output=True
    )


@needs_7z
def test_part_of_a_chain_becomes_a_differencing_disk_on_what_survives(tmp_path: Path) -> None:
    world = chain(tmp_path)
    merged(world, to=world.path("new.vhd"), base=world.path("middle.vhd"))
    with roots_of(tmp_path).open(world.path("new.vhd")) as file:
        image = open_image(file)
        assert image.parent is not None
        assert image.parent.identity == world.base.identity
        assert [locator.path for locator in image.parent.locators] == [
            ".\\base.vhd",
            "C:\\VMs\\base.vhd",
        ]
    assert content_of(world.path("new.vhd")) == world.leaf.sha256
    assert seven_zip_sha256(world.path("new.vhd")) == world.leaf.sha256


def test_a_single_level_can_be_copied_alone(tmp_path: Path) -> None:
    world = chain(tmp_path)
    merged(world, to=world.path("new.vhd"), base=world.path("leaf.vhd"))
    with open_chain(world.path("new.vhd"), world.roots) as opened:
        assert opened.paths[1:] == [world.path("middle.vhd"), world.path("base.vhd")]
        assert opened.sha256() == world.leaf.sha256


def test_zero_blocks_are_left_out_of_dynamic_disks_only(tmp_path: Path) -> None:
    world = chain(tmp_path)
    dynamic = merged(world, to=world.path("new.vhd"))
    partial = merged(world, to=world.path("part.vhd"), base=world.path("middle.vhd"))
    assert dynamic["blocks_left_out"] > 0
    assert partial["blocks_left_out"] == 0


def test_set_zero_sectors_hide_the_survivor(tmp_path: Path) -> None:
    """A held sector of zeros is data in a differencing result."""
    base = build_dynamic(tmp_path, "base.vhd", block_size=BLOCK, content=[(0, noise(1, 64))],
                         size=64 * KIB)  # fmt: skip
    middle = build_differencing(tmp_path, "middle.vhd", base, content=[(10, bytes(SECTOR * 4))])
    leaf = build_differencing(tmp_path, "leaf.vhd", middle, content=[(40, noise(2, 2))])
    world = worlds.World(tmp_path, base, middle, leaf)
    merged(world, to=world.path("new.vhd"), base=world.path("middle.vhd"))
    assert content_of(world.path("new.vhd")) == leaf.sha256


@pytest.mark.parametrize(("middle", "leaf"), [(512, 64 * KIB), (64 * KIB, 4 * KIB), (2048, 2048)])
def test_levels_may_have_different_block_sizes(tmp_path: Path, middle: int, leaf: int) -> None:
    """bad-input D57."""
    world = chain(tmp_path, middle_block=middle, leaf_block=leaf)
    merged(world, to=world.path("new.vhd"))
    merged(world, to=world.path("part.vhd"), base=world.path("middle.vhd"))
    assert content_of(world.path("new.vhd")) == world.leaf.sha256
    assert content_of(world.path("part.vhd")) == world.leaf.sha256


@pytest.mark.parametrize("base_type", ["dynamic", "fixed"])
@pytest.mark.parametrize("name", ["parent", "child"])
def test_a_larger_child_makes_the_merged_disk_grow(
    tmp_path: Path, base_type: str, name: str
) -> None:
    """bad-input D57: beyond the parent's end there are zeros."""
    world = chain(tmp_path, base_type=base_type, leaf_size=200 * KIB)
    done = merged(world, into_parent=True, base=world.path("base.vhd"), keep_name=name)
    assert done["virtual_size_bytes"] == 200 * KIB
    assert content_of(done["output"]) == world.leaf.sha256


def test_a_smaller_child_is_refused(tmp_path: Path) -> None:
    """bad-input D57."""
    world = chain(tmp_path, leaf_size=100 * KIB)
    before = worlds.snapshot(tmp_path)
    assert refusal(world, into_parent=True).code == "E_PARENT_SIZE"
    assert refusal(world, to=world.path("new.vhd")).code == "E_PARENT_SIZE"
    assert worlds.snapshot(tmp_path) == before


_runs = st.lists(st.tuples(st.integers(0, 255), st.integers(1, 40), st.booleans()), max_size=6)


@needs_7z
@given(levels=st.lists(_runs, min_size=2, max_size=5), blocks=st.data())
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_chain_merges_to_the_same_content(
    tmp_path: Path, levels: list[list[tuple[int, int, bool]]], blocks: st.DataObject
) -> None:
    folder = tmp_path / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    size, built = 256 * SECTOR, []
    for number, runs in enumerate(levels):
        content = [
            (first, bytes(count * SECTOR) if empty else noise(number * 1000 + first, count))
            for first, length, empty in runs
            if (count := min(length, 256 - first)) > 0
        ]
        block = blocks.draw(st.sampled_from([512, 4096, 16384, 65536]))
        name = f"{number}.vhd"
        if not built:
            built.append(build_dynamic(folder, name, size=size, block_size=block, content=content))
        else:
            built.append(
                build_differencing(folder, name, built[-1], block_size=block, content=content)
            )
    leaf = built[-1]
    roots = roots_of(folder)
    base = str(blocks.draw(st.sampled_from(built)).path)
    plan = merge.plan(str(leaf.path), roots, to=str(folder / "new.vhd"), base=base)
    merge.apply(plan, roots)
    assert content_of(folder / "new.vhd") == leaf.sha256
    assert seven_zip_sha256(folder / "new.vhd") == leaf.sha256
    assert errors_in(folder / "new.vhd") == []


# ---------------------------------------------------------------------- into the parent


@needs_7z
@pytest.mark.parametrize("base", ["middle.vhd", "base.vhd"])
@pytest.mark.parametrize("name", ["parent", "child"])
def test_levels_merge_into_the_lowest_of_them(tmp_path: Path, base: str, name: str) -> None:
    world = chain(tmp_path)
    done = merged(world, into_parent=True, base=world.path(base), keep_name=name)
    output = world.path(base if name == "parent" else "leaf.vhd")
    assert done["output"] == output
    assert content_of(output) == world.leaf.sha256
    assert seven_zip_sha256(output) == world.leaf.sha256
    assert identity_of(output) == world.leaf.identity
    assert errors_in(output) == []
    left = {"base.vhd", os.path.basename(output)}
    if base == "base.vhd":
        left = {os.path.basename(output)}
    assert {entry.name for entry in tmp_path.iterdir() if entry.suffix == ".vhd"} == left
    assert worlds.strays(tmp_path) == []


def test_a_fixed_parent_stays_fixed(tmp_path: Path) -> None:
    world = chain(tmp_path, base_type="fixed")
    merged(world, into_parent=True, base=world.path("base.vhd"))
    with world.roots.open(world.path("base.vhd")) as file:
        image = open_image(file)
        assert (str(image.disk_type), file.size_bytes) == ("fixed", 160 * KIB + 512)
    assert content_of(world.path("base.vhd")) == world.leaf.sha256


def test_creator_geometry_and_creation_time_are_the_childs(tmp_path: Path) -> None:
    world = chain(tmp_path)
    with world.roots.open(world.path("leaf.vhd")) as file:
        before = open_image(file).copy_traits()
    merged(world, into_parent=True)
    with world.roots.open(world.path("middle.vhd")) as file:
        assert open_image(file).copy_traits() == before


@pytest.mark.parametrize("name", ["parent", "child"])
def test_grandchildren_follow(tmp_path: Path, name: str) -> None:
    world = chain(tmp_path, grandchild=True)
    assert world.grandchild is not None
    plan = merge.plan(world.path("leaf.vhd"), world.roots, into_parent=True, keep_name=name)
    assert plan.as_dict()["affected_children"] == [world.path("below.vhd")]
    done = merge.apply(plan, world.roots, offline=True)
    assert done["warnings"] == []
    assert done["relinked"] == ([world.path("below.vhd")] if name == "parent" else [])
    assert content_of(world.path("below.vhd")) == world.grandchild.sha256
    assert errors_in(world.path("below.vhd")) == []


@pytest.mark.parametrize("died", [False, True])
def test_a_grandchild_that_refuses_its_new_link_is_named_for_repair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, died: bool
) -> None:
    """After the commit nothing is undone for one child; but nobody may overlook it either."""
    world = chain(tmp_path, grandchild=True)
    below = world.path("below.vhd")
    plan = merge.plan(world.path("leaf.vhd"), world.roots, into_parent=True)

    def carry_out() -> dict[str, Any]:
        return merge.apply(plan, world.roots, offline=True, job="42")

    if died:
        in_fork(with_fault("forward.link:1:kill", carry_out))

    def refuses(*args: object, **options: object) -> relink.LinkPlan:
        raise ImageError("E_HARD_LINKS", "It has another name too.", file=below)

    monkeypatch.setattr(relink, "plan", refuses)
    if died:
        (row,) = recover_disk(world.path("middle.vhd"), world.roots)
        done, sentence = row["result"], row["sentence"]
    else:
        done = carry_out()
        sentence = f"Merged{steps.and_to_repair(done)}"
    assert "1 disk below must be repaired" in sentence
    assert below in sentence
    assert [(row["path"], row["code"]) for row in done["to_repair"]] == [(below, "E_HARD_LINKS")]
    assert done["relinked"] == []
    assert any(below in warning for warning in done["warnings"])
    monkeypatch.undo()
    # its old link is right again
    back = restoring.restore(done["trash"], world.roots, offline=True)
    assert back["warnings"] == []
    assert world.grandchild is not None
    assert content_of(below) == world.grandchild.sha256


def test_disks_in_different_folders_merge_and_links_are_computed_for_the_new_place(
    tmp_path: Path,
) -> None:
    """The merged disk takes the child's name in another folder than the parent's."""
    root = tmp_path / "root"
    (root / "b" / "c").mkdir(parents=True)
    base = build_dynamic(root, "base.vhd", size=64 * KIB, block_size=4096,
                         content=[(0, noise(1, 50))])  # fmt: skip
    middle = build_differencing(
        root / "b", "middle.vhd", base, content=[(9, noise(2, 3))],
        locators={"W2ru": "..\\base.vhd"},
    )  # fmt: skip
    leaf = build_differencing(
        root / "b" / "c", "leaf.vhd", middle, content=[(30, noise(3, 9))],
        locators={"W2ru": "..\\middle.vhd"},
    )  # fmt: skip
    roots = roots_of(root)
    plan = merge.plan(str(leaf.path), roots, into_parent=True, keep_name="child")
    assert plan.refused is None
    merge.apply(plan, roots, offline=True)
    assert content_of(leaf.path, roots) == leaf.sha256
    with roots.open(str(leaf.path)) as file:
        parent = open_image(file).parent
        assert parent is not None
        assert [locator.path for locator in parent.locators] == [
            "..\\..\\base.vhd",
            "C:\\VMs\\base.vhd",
        ]
    assert not middle.path.exists()
    assert worlds.strays(root) == []


def test_other_children_are_refused_with_the_way_out(tmp_path: Path) -> None:
    """bad-input D66."""
    world = chain(tmp_path)
    build_differencing(tmp_path, "other.vhd", world.middle, content=[(1, noise(1, 1))])
    before = worlds.snapshot(tmp_path)
    error = refusal(world, into_parent=True)
    assert error.code == "E_SIBLINGS"
    assert "other.vhd" in error.message
    assert "new disk" in codes.advice(error.code)
    plan = merge.plan(world.path("leaf.vhd"), world.roots, into_parent=True)
    assert plan.as_dict()["affected_children"] == [world.path("other.vhd")]
    assert worlds.snapshot(tmp_path) == before
    assert merged(world, to=world.path("new.vhd"))["output"] == world.path("new.vhd")


def test_a_sibling_that_appears_after_the_plan_is_found_under_lock(tmp_path: Path) -> None:
    """bad-input D66: in another folder of the root, made after the scan."""
    world = chain(tmp_path)
    plan = merge.plan(world.path("leaf.vhd"), world.roots, into_parent=True)
    (tmp_path / "far").mkdir()
    build_differencing(
        tmp_path / "far", "late.vhd", world.middle, locators={"W2ru": "..\\middle.vhd"}
    )
    before = worlds.snapshot(tmp_path)
    with pytest.raises(ImageError) as caught:
        merge.apply(plan, world.roots, offline=True)
    assert caught.value.code == "E_SIBLINGS"
    assert worlds.snapshot(tmp_path) == before


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "by copy"])
def test_what_cannot_be_read_may_be_a_sibling_and_is_refused_until_somebody_declares(
    tmp_path: Path, in_place: bool
) -> None:
    """bad-input D66: the trash would be emptied one day, and with it what a sibling needs."""
    world = chain(tmp_path)
    torn = build_differencing(tmp_path, "torn.vhd", world.middle)
    torn.patch(torn.header_offset + 40, b"?")
    plan = merge.plan(world.path("leaf.vhd"), world.roots, into_parent=True, in_place=in_place)
    assert plan.refused is None
    assert [row["path"] for row in plan.as_dict()["unread"]] == [str(torn.path)]
    before = worlds.snapshot(tmp_path)
    for declared in ([], [world.path("torn.vh")], [world.path("leaf.vhd")]):
        with pytest.raises(ImageError) as caught:
            merge.apply(plan, world.roots, offline=True, unrelated=declared)
        assert caught.value.code == "E_UNREAD_DISKS"
        assert str(torn.path) in caught.value.message
        assert "checksum" in caught.value.message
        assert worlds.snapshot(tmp_path) == before
    merge.apply(plan, world.roots, offline=True, unrelated=[str(torn.path)])
    assert content_of(world.path("middle.vhd")) == world.leaf.sha256


def test_what_became_unreadable_after_the_plan_is_found_under_lock(tmp_path: Path) -> None:
    """bad-input D66: a declaration speaks of the files it names, and of no other."""
    world = chain(tmp_path)
    (tmp_path / "far").mkdir()
    known = tmp_path / "known.vhd"
    known.write_bytes(b"conectix" + bytes(2048))
    plan = merge.plan(world.path("leaf.vhd"), world.roots, into_parent=True)
    (tmp_path / "far" / "late.vhd").write_bytes(b"conectix" + bytes(2048))
    with pytest.raises(concerned.UnreadDisks) as caught:
        merge.apply(plan, world.roots, offline=True, unrelated=[str(known)])
    assert caught.value.paths == [f"{tmp_path}/far/late.vhd"]
    merge.apply(plan, world.roots, offline=True, unrelated=[str(known), f"{tmp_path}/far"])


def test_a_merge_to_a_new_disk_asks_nobody_about_what_cannot_be_read(tmp_path: Path) -> None:
    world = chain(tmp_path)
    (tmp_path / "torn.vhd").write_bytes(b"conectix" + bytes(2048))
    assert merged(world, to=world.path("new.vhd"))["output"] == world.path("new.vhd")


def test_a_damaged_child_of_the_leaf_is_left_as_it_is(tmp_path: Path) -> None:
    """Identity and content of its parent stay; only a new path could not be written into it."""
    world = chain(tmp_path, grandchild=True)
    assert world.grandchild is not None
    below = world.grandchild
    below.path.write_bytes(below.path.read_bytes()[:-512])
    below.patch(0, bytes(512))
    refused = merge.plan(world.path("leaf.vhd"), world.roots, into_parent=True).refused
    assert refused is not None
    assert refused.file == str(below.path)
    before = below.path.read_bytes()
    merged(world, into_parent=True, keep_name=merge_plan.CHILD)
    assert below.path.read_bytes() == before
    assert content_of(world.path("leaf.vhd")) == world.leaf.sha256


def test_a_backup_of_the_whole_chain_is_no_sibling(tmp_path: Path) -> None:
    """bad-input D56: the copy of the child leads to its own copy of the parent."""
    world = chain(tmp_path)
    backup = tmp_path / "backup"
    backup.mkdir()
    for built in (world.base, world.middle, world.leaf):
        shutil.copy(built.path, backup)
    roots = Roots([Root(str(tmp_path))])
    plan = merge.plan(world.path("leaf.vhd"), roots, into_parent=True)
    assert plan.refused is None
    assert plan.siblings == []


def test_a_sibling_that_spells_its_parent_in_another_way_counts_too(tmp_path: Path) -> None:
    """bad-input D65, D66: the second name stands for a share that does not tell cases apart."""
    world = chain(tmp_path)
    os.link(world.middle.path, tmp_path / "Middle.VHD")
    build_differencing(tmp_path, "other.vhd", world.middle, locators={"W2ru": ".\\Middle.VHD"})
    plan = merge.plan(world.path("leaf.vhd"), world.roots, into_parent=True)
    assert plan.siblings == [world.path("other.vhd")]
    assert plan.refused is not None
    assert plan.refused.code == "E_SIBLINGS"


def test_a_backup_made_of_hard_links_is_no_sibling(tmp_path: Path) -> None:
    """Replacing a name leaves the other names of the old file as they are."""
    world = chain(tmp_path / "disks")
    (tmp_path / "backup").mkdir()
    for name in ("base.vhd", "middle.vhd", "leaf.vhd"):
        os.link(world.path(name), tmp_path / "backup" / name)
    plan = merge.plan(world.path("leaf.vhd"), roots_of(tmp_path), into_parent=True)
    assert plan.refused is None


def test_what_the_catalog_knows_counts_too(tmp_path: Path) -> None:
    world = chain(tmp_path)
    other = build_differencing(tmp_path, "other.vhd", world.middle)
    known = {world.path("middle.vhd"): [str(other.path), world.path("leaf.vhd")]}
    plan = merge.plan(
        world.path("leaf.vhd"),
        world.roots,
        into_parent=True,
        scan=False,
        children_of=lambda path: known.get(path, []),
    )
    assert plan.siblings == [str(other.path)]


@pytest.mark.parametrize("to", [None, "new.vhd"])
def test_blocks_that_share_one_place_are_refused_not_told_apart(
    tmp_path: Path, to: str | None
) -> None:
    """bad-input A22: one of them has lost its content, which a copy would hide for ever."""
    world = chain(tmp_path)
    worlds.let_two_blocks_share_a_place(world.leaf.path)
    if to is None:
        plan = merge.plan(world.path("leaf.vhd"), world.roots, into_parent=True)
    else:
        plan = merge.plan(world.path("leaf.vhd"), world.roots, to=world.path(to))
    assert plan.refused is not None
    assert plan.refused.code == "E_BAT_OVERLAP"


def test_a_saved_state_is_refused(tmp_path: Path) -> None:
    """bad-input A15."""
    world = chain(tmp_path)
    leaf = build_differencing(
        tmp_path, "leaf.vhd", world.middle, footer={"saved_state": 1}, front={"saved_state": 1}
    )
    world.leaf = leaf
    assert refusal(world, into_parent=True).code == "E_SAVED_STATE"
    assert refusal(world, to=world.path("new.vhd")).code == "E_SAVED_STATE"


def test_a_missing_parent_is_refused_never_read_as_zeros(tmp_path: Path) -> None:
    """bad-input D54."""
    world = chain(tmp_path)
    world.base.path.unlink()
    assert refusal(world, to=world.path("new.vhd")).code == "E_PARENT_MISSING"
    assert not (tmp_path / "new.vhd").exists()


def test_a_read_only_root_is_refused(tmp_path: Path) -> None:
    """bad-input F94."""
    world = chain(tmp_path)
    roots = roots_of(tmp_path, read_only=True)
    plan = merge.plan(world.path("leaf.vhd"), roots, into_parent=True)
    assert plan.refused is not None
    assert plan.refused.code == "E_READ_ONLY"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("base.vhd", "E_EXISTS"),
        ("new.img", "E_NAME"),
        (".vdtrash/new.vhd", "E_NAME"),
        ("con.vhd", "E_NAME"),
        ("ne|w.vhd", "E_NAME"),
        ("n" * 260 + ".vhd", "E_NAME"),
        ("gone/new.vhd", "E_NOT_FOUND"),
        ("../new.vhd", "E_OUTSIDE_ROOTS"),
    ],
)
def test_new_names_are_checked(tmp_path: Path, name: str, code: str) -> None:
    """bad-input F82, D62: also names that are too long, and those that Windows cannot open."""
    world = chain(tmp_path / "root")
    assert refusal(world, to=os.path.join(tmp_path, "root", name)).code == code


def test_a_disk_that_no_chain_holds_is_refused_as_base(tmp_path: Path) -> None:
    world = chain(tmp_path)
    build_dynamic(tmp_path, "stranger.vhd")
    assert refusal(world, into_parent=True, base=world.path("stranger.vhd")).code == (
        "E_NOT_IN_CHAIN"
    )
    with pytest.raises(ValueError, match="either"):
        merge.plan(world.path("leaf.vhd"), world.roots)


def test_a_managed_disk_needs_the_declaration(tmp_path: Path) -> None:
    world = chain(tmp_path)
    (tmp_path / "middle.vhd.rct").write_bytes(b"")
    plan = merge.plan(world.path("leaf.vhd"), world.roots, into_parent=True)
    assert plan.refused is None
    assert plan.managers[0]["code"] == "change-tracking"
    with pytest.raises(ImageError) as caught:
        merge.apply(plan, world.roots, offline=False)
    assert caught.value.code == "E_MANAGED"
    merge.apply(plan, world.roots, offline=True)


# ---------------------------------------------------------------------- owner and rights


def test_the_replaced_files_rights_are_carried_over(tmp_path: Path) -> None:
    world = chain(tmp_path)
    middle = tmp_path / "middle.vhd"
    middle.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(middle, 1234, 4321)
    with contextlib.suppress(OSError):  # not every file system has extended attributes
        os.setxattr(middle, "user.note", b"kept")
    attributes = {name: os.getxattr(middle, name) for name in os.listxattr(middle)}
    merged(world, into_parent=True)
    found = middle.stat()
    assert stat.S_IMODE(found.st_mode) == 0o640
    if os.geteuid() == 0:
        assert (found.st_uid, found.st_gid) == (1234, 4321)
    assert {name: os.getxattr(middle, name) for name in os.listxattr(middle)} == attributes


@pytest.mark.parametrize("code", [errno.EPERM, errno.EACCES])
def test_an_owner_that_this_service_may_not_give_leads_to_the_other_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """However often it is tried; servers say it in two ways."""
    world = chain(tmp_path)
    before = worlds.snapshot(tmp_path)

    def refused(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.fchown", refused)
    with pytest.raises(ImageError) as caught:
        merged(world, into_parent=True)
    assert caught.value.code == "E_OWNER"
    assert worlds.snapshot(tmp_path) == before


def test_replacing_is_refused_where_rights_would_be_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = chain(tmp_path)
    before = worlds.snapshot(tmp_path)
    monkeypatch.setattr("os.fchmod", lambda fd, mode: None)
    (tmp_path / "middle.vhd").chmod(0o604)
    with pytest.raises(ImageError) as caught:
        merged(world, into_parent=True)
    assert caught.value.code == "E_OWNER"
    assert worlds.snapshot(tmp_path) == before


def test_a_new_disk_is_readable_for_nobody_who_could_not_read_the_leaf(tmp_path: Path) -> None:
    world = chain(tmp_path)
    world.leaf.path.chmod(0o600)
    merged(world, to=world.path("new.vhd"))
    assert stat.S_IMODE((tmp_path / "new.vhd").stat().st_mode) == 0o600


# ---------------------------------------------------------------------- meanwhile


class Meddler(Progress):
    """Does something to the files at a certain moment of the job."""

    def __init__(self, step: str, action: Any) -> None:
        self.wanted, self.action = step, action
        self.steps: list[str] = []
        self.reports: list[str] = []
        self.committed = False

    def step(self, step: str, sentence: str) -> None:
        self.steps.append(step)

    def report(self, done: int, total: int, sentence: str | None = None) -> None:
        if sentence:
            self.reports.append(sentence)
        if self.action and self.steps and self.steps[-1] == self.wanted:
            action, self.action = self.action, None
            action()

    def commit_starts(self) -> None:
        self.committed = True


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(512))


def _swap(path: Path) -> None:
    copy = path.with_suffix(".copy")
    shutil.copy2(path, copy)
    copy.rename(path)


def _rewrite(path: Path) -> None:
    data = path.read_bytes()
    time.sleep(0.02)
    path.write_bytes(data)


def _link_swap(path: Path) -> None:
    moved = path.with_suffix(".moved")
    path.rename(moved)
    path.symlink_to(moved)


MEDDLING = {
    "appended to": _append,
    "swapped by rename": _swap,
    "written": _rewrite,
    "rights changed": lambda path: path.chmod(0o611),
    "deleted": lambda path: path.unlink(),
    "truncated": lambda path: os.truncate(path, 4096),
    "symlinked": _link_swap,
}


@pytest.mark.parametrize("victim", ["leaf.vhd", "middle.vhd", "base.vhd"])
@pytest.mark.parametrize("how", list(MEDDLING))
@pytest.mark.parametrize("target", ["parent", "new"])
def test_a_file_changed_during_the_copy_stops_it(
    tmp_path: Path, victim: str, how: str, target: str
) -> None:
    """bad-input E73, E74, E76: identity is checked again before the commit."""
    world = chain(tmp_path)
    progress = Meddler("proof", lambda: MEDDLING[how](tmp_path / victim))
    options: dict[str, Any] = (
        {"into_parent": True} if target == "parent" else {"to": world.path("new.vhd")}
    )
    with pytest.raises(ImageError) as caught:
        merged(world, progress=progress, **options)
    assert caught.value.code == "E_CHANGED"
    assert not progress.committed
    assert not (tmp_path / "new.vhd").exists()
    assert worlds.strays(tmp_path) == []
    assert not (tmp_path / ".vdtrash").exists()


@pytest.mark.parametrize("victim", ["leaf.vhd", "middle.vhd", "base.vhd"])
def test_a_file_changed_after_the_plan_is_noticed_before_anything_is_written(
    tmp_path: Path, victim: str
) -> None:
    """bad-input E76, E77."""
    world = chain(tmp_path)
    plan = merge.plan(world.path("leaf.vhd"), world.roots, into_parent=True)
    _rewrite(tmp_path / victim)
    before = worlds.snapshot(tmp_path)
    with pytest.raises(ImageError) as caught:
        merge.apply(plan, world.roots, offline=True)
    assert caught.value.code == "E_CHANGED"
    assert worlds.snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("target", "step"),
    [
        ("parent", "check"),
        ("parent", "copy"),
        ("parent", "proof"),
        ("new", "copy"),
        ("new", "proof"),
    ],
)
def test_cancel_before_the_commit_leaves_everything_as_it_was(
    tmp_path: Path, step: str, target: str
) -> None:
    """bad-input E79."""
    world = chain(tmp_path, size=8 * 1024 * KIB, block=64 * KIB)
    for number in range(60):
        build_dynamic(tmp_path, f"z{number:02}.vhd", size=4 * KIB, block_size=512)
    before = worlds.snapshot(tmp_path)

    def cancel() -> None:
        raise Cancelled

    options: dict[str, Any] = (
        {"into_parent": True} if target == "parent" else {"to": world.path("new.vhd")}
    )
    with pytest.raises(Cancelled):
        merged(world, progress=Meddler(step, cancel), **options)
    assert worlds.snapshot(tmp_path) == before


def test_after_the_commit_nothing_asks_for_a_cancel(tmp_path: Path) -> None:
    world = chain(tmp_path, grandchild=True)
    seen: list[str] = []

    class Watch(Progress):
        def commit_starts(self) -> None:
            seen.append("commit")

        def report(self, done: int, total: int, sentence: str | None = None) -> None:
            seen.append("report")

    merged(world, into_parent=True, progress=Watch())
    assert "report" not in seen[seen.index("commit") :]


def test_progress_counts_blocks_in_words(tmp_path: Path) -> None:
    world = chain(tmp_path)
    watch = Meddler("", None)
    merged(world, to=world.path("new.vhd"), progress=watch)
    assert watch.steps == ["check", "copy", "proof", "commit"]
    assert any(text.startswith("copying block ") and " of " in text for text in watch.reports)


def test_the_new_disk_passes_through_memory_and_its_sources_stay_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other disks' pages are not pushed out by a long copy, nor the sources' by us."""
    told: list[tuple[str, int]] = []

    def hint(fd: int, offset: int, length: int, advice: int) -> None:
        if advice == os.POSIX_FADV_DONTNEED and length:
            told.append((os.path.basename(os.readlink(f"/proc/self/fd/{fd}")), length // MIB))

    monkeypatch.setattr(os, "posix_fadvise", hint)
    size = 18 * MIB
    base = build_dynamic(tmp_path, "base.vhd", size=size, content=[(0, noise(1, size // SECTOR))])
    leaf = build_differencing(tmp_path, "leaf.vhd", base, content=[(7, noise(2, 90))])
    merged(worlds.World(tmp_path, base, base, leaf), to=str(tmp_path / "new.vhd"))
    names = [name for name, _ in told]
    assert len(set(names)) == 1
    assert names[0].startswith(".new.vhd.")
    # Twice every 8 MiB: when it was written, when it was read for the proof.
    assert [place for _, place in told] == [8, 16, 8, 16]
    assert content_of(str(tmp_path / "new.vhd")) == leaf.sha256


def test_a_second_job_on_the_chain_is_told_who_holds_it(tmp_path: Path) -> None:
    """bad-input E68."""
    world = chain(tmp_path)
    plan = merge.plan(world.path("leaf.vhd"), world.roots, into_parent=True)
    with (
        locks.hold(world.roots, [world.path("middle.vhd")], job="99"),
        pytest.raises(ImageError) as caught,
    ):
        contextvars.Context().run(merge.apply, plan, world.roots, offline=True, job="7")
    assert caught.value.code == "E_LOCKED"
    assert "99" in caught.value.message


# ---------------------------------------------------------------------- the dry run


def test_the_dry_run_tells_sizes_space_trash_and_commands(tmp_path: Path) -> None:
    world = chain(tmp_path)
    plan = merge.plan(world.path("leaf.vhd"), world.roots, into_parent=True)
    document = plan.as_dict()
    assert document["output"] == world.path("middle.vhd")
    assert document["trash"] == [world.path("middle.vhd"), world.path("leaf.vhd")]
    assert document["refused"] is None
    assert document["file_size_before_bytes"] == sum(
        built.path.stat().st_size for built in (world.middle, world.leaf)
    )
    assert document["commands"] == [
        "Get-VM | Get-VMHardDiskDrive | Where-Object Path -eq 'C:\\VMs\\leaf.vhd' "
        "| Set-VMHardDiskDrive -Path 'C:\\VMs\\middle.vhd'",
        "Test-VHD -Path 'C:\\VMs\\middle.vhd'",
    ]
    done = merge.apply(plan, world.roots, offline=True)
    assert done["file_size_after_bytes"] <= document["file_size_after_bytes"]
    assert done["file_size_before_bytes"] == document["file_size_before_bytes"]
    folder = Path(done["trash"])
    assert {entry.name for entry in folder.iterdir()} == {
        "README.txt",
        "manifest.json",
        "middle.vhd",
        "leaf.vhd",
    }


def test_too_little_space_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input F81: the pre-check, with needed and free bytes."""
    from disks.operations import space

    world = chain(tmp_path)
    before = worlds.snapshot(tmp_path)
    monkeypatch.setattr(space, "space_of", lambda fd: space.Space(20_000, 1_000_000))
    error = refusal(world, to=world.path("new.vhd"))
    assert error.code == "E_NOSPC"
    assert "20,000 are free" in error.message
    assert worlds.snapshot(tmp_path) == before


def test_a_digest_that_differs_throws_the_copy_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """crash-safety §4: what is read again must be what was written."""
    from disks.engine.vhd.writer import BlockWriter

    world = chain(tmp_path)
    before = worlds.snapshot(tmp_path)
    finish = BlockWriter.finish

    def spoil(self: BlockWriter) -> None:
        finish(self)
        self.file.write_at(self.layout.block_offset(0) + 6 * 512, b"spoiled!")

    monkeypatch.setattr(BlockWriter, "finish", spoil)
    for options in ({"to": world.path("new.vhd")}, {"into_parent": True}):
        with pytest.raises(ImageError) as caught:
            merged(world, **options)  # type: ignore[arg-type]
        assert caught.value.code == "E_PROOF"
        assert worlds.snapshot(tmp_path) == before


def test_an_unreadable_sector_names_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input F83: EIO on read at LBA x stops the job; zeros are never made up."""
    from disks.engine.files import ImageFile, storage_error

    world = chain(tmp_path)
    before = worlds.snapshot(tmp_path)
    read = ImageFile.read_into

    def broken(self: ImageFile, offset: int, buffer: memoryview) -> None:
        if self.path.endswith("base.vhd"):
            raise storage_error(OSError(5, "I/O error"), self.path, offset=offset, verb="read")
        read(self, offset, buffer)

    monkeypatch.setattr(ImageFile, "read_into", broken)
    with pytest.raises(ImageError) as caught:
        merged(world, to=world.path("new.vhd"))
    assert caught.value.code == "E_IO"
    assert caught.value.field == "LBA"
    assert caught.value.value == 0
    assert worlds.snapshot(tmp_path) == before


def test_the_trash_of_a_merge_is_kept_out_of_the_next_scan(tmp_path: Path) -> None:
    world = chain(tmp_path)
    merged(world, into_parent=True)
    again = merge.plan(world.path("middle.vhd"), world.roots, into_parent=True)
    assert again.refused is None
    assert again.siblings == []
    merge.apply(again, world.roots, offline=True)
    assert content_of(world.path("base.vhd")) == world.leaf.sha256
    assert len(trash.list_trash(str(tmp_path), world.roots)) == 2
