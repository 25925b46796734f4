"""Merge, compact, create and relink on VHDX: states, sectors, identities, and logs that wait."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disks.engine.chain import open_chain
from disks.engine.errors import ImageError
from disks.engine.formats import open_image
from disks.engine.images import DiskType, Image
from disks.engine.vhdx.bat import FULLY_PRESENT, NOT_PRESENT, PARTIALLY_PRESENT, ZERO, state_of
from disks.engine.vhdx.image import VhdxImage
from disks.operations import compact, convert, create, delete, merge, relink
from disks.tests.builders import (
    MIB,
    SECTOR,
    VHDX,
    BuiltVhdx,
    build_differencing_vhdx,
    build_dynamic_vhdx,
    build_fixed_vhdx,
    seven_zip_sha256,
)
from disks.tests.builders.vhdx import windows_locator
from disks.tests.engine.test_properties import DETERMINISTIC, Plan, build
from disks.tests.engine.test_properties import plans as chains_of
from disks.tests.operations import worlds
from disks.tests.operations.worlds import chain, content_of, errors_in, noise, roots_of, zeros

PER_BLOCK = MIB // SECTOR


def facts(path: Path) -> dict[str, object]:
    with roots_of(path.parent).open(str(path)) as file:
        image = open_image(file)
        return {
            "identity": image.identity,
            "disk id": image.virtual_disk_id,
            "type": image.disk_type,
            "sector": image.logical_sector_bytes,
            "parent": image.parent.identity if image.parent else None,
        }


def merged(leaf: Path, **options: object) -> None:
    roots = roots_of(leaf.parent)
    plan = merge.plan(str(leaf), roots, **options)  # type: ignore[arg-type]
    merge.apply(plan, roots, offline=True, job="7", token=1)
    assert worlds.strays(leaf.parent) == []


def compacted(path: Path) -> dict[str, object]:
    roots = roots_of(path.parent)
    plan = compact.plan(str(path), roots, in_place=False)
    assert plan.refused is None, plan.refused
    done = compact.apply(plan, roots, offline=True, job="9", token=1)
    assert done["file_size_after_bytes"] == min(plan.predicted_size_bytes, plan.file_size_bytes)
    assert plan.size_bounds_bytes == (plan.predicted_size_bytes,) * 2
    assert worlds.strays(path.parent) == []
    return done


def states_of(path: Path) -> list[int]:
    """Of the payload blocks of a disk of one chunk."""
    with roots_of(path.parent).open(str(path)) as file:
        image = open_image(file)
        assert isinstance(image, VhdxImage)
        return [state_of(image.bat.entry(block)) for block in range(image.geometry.blocks)]


def empty(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


# Merge


@DETERMINISTIC
@given(data=st.data())
def test_any_chain_merges_to_the_same_content(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """To a new disk, into the parent, into any ancestor; 7-Zip reads the result alike."""
    folder = tmp_path_factory.mktemp("merge")
    plan: Plan = data.draw(chains_of(VHDX))
    leaf = build(folder, plan)
    traits = facts(leaf.path)
    count = len(plan.levels)
    target = data.draw(st.sampled_from(["new", "parent", "base"] if count > 1 else ["new"]))
    if target == "new":
        result = folder / "new.vhdx"
        merged(leaf.path, to=str(result))
    else:
        into = count - 2 if target == "parent" else 0
        result = folder / f"level{into}.vhdx"
        merged(leaf.path, into_parent=True, base=str(result))
    assert content_of(result) == leaf.sha256
    assert errors_in(result) == []
    found = facts(result)
    assert (found["sector"], found["disk id"]) == (plan.logical_sector, traits["disk id"])
    if target == "new":
        assert content_of(leaf.path) == leaf.sha256
    elif target == "base":
        # What the leaf's children know the disk by is now the base's identity.
        assert found["identity"] == traits["identity"]
    if plan.seven_zip_reads:
        assert seven_zip_sha256(result) == leaf.sha256
    empty(folder)


@pytest.mark.parametrize("name", ["parent", "child"])
def test_a_grandchild_still_knows_its_parent_by_identity(tmp_path: Path, name: str) -> None:
    """The merged disk's content is the child's, so it takes the child's DataWriteGuid."""
    world = chain(tmp_path / "vms", family=VHDX, grandchild=True)
    assert world.grandchild is not None
    before = facts(world.leaf.path)
    merged(world.leaf.path, into_parent=True, keep_name=name)
    result = world.leaf.path if name == "child" else world.middle.path
    assert facts(result)["identity"] == before["identity"]
    assert content_of(result) == world.leaf.sha256
    assert content_of(world.grandchild.path) == world.grandchild.sha256
    assert seven_zip_sha256(world.grandchild.path) == world.grandchild.sha256


def test_part_of_a_chain_keeps_stated_zeros_over_what_survives(tmp_path: Path) -> None:
    """Neither may they vanish, which would show the base, nor cost room where blocks are whole."""
    base = build_fixed_vhdx(
        tmp_path, "base.vhdx", size=4 * MIB, block_size=MIB, content=[(0, b"\7" * 4 * MIB)]
    )
    middle = build_differencing_vhdx(
        tmp_path, "middle.vhdx", base, content=[(0, noise(1, 9))], states={1: 2, 2: 1}
    )
    leaf = build_differencing_vhdx(
        tmp_path, "leaf.vhdx", middle, content=[(2 * PER_BLOCK + 5, noise(2, 3))], states={3: 3}
    )
    merged(leaf.path, into_parent=True)
    assert content_of(middle.path) == leaf.sha256
    assert seven_zip_sha256(middle.path) == leaf.sha256
    with roots_of(tmp_path).open(str(middle.path)) as file:
        image = open_image(file)
        assert image.disk_type is DiskType.DIFFERENCING
        assert image.blocks_allocated() == 2


def test_a_new_disk_of_a_chain_stands_alone(tmp_path: Path) -> None:
    world = chain(tmp_path / "vms", family=VHDX)
    result = tmp_path / "vms" / "new.vhdx"
    merged(world.leaf.path, to=str(result))
    found, leaf = facts(result), facts(world.leaf.path)
    assert (found["type"], found["parent"]) == (DiskType.DYNAMIC, None)
    assert found["identity"] != leaf["identity"]
    assert found["disk id"] == leaf["disk id"]


def test_levels_with_other_sectors_are_refused(tmp_path: Path) -> None:
    base = build_dynamic_vhdx(tmp_path, "base.vhdx", logical_sector=4096)
    child = build_differencing_vhdx(tmp_path, "child.vhdx", base, logical_sector=512)
    before = worlds.snapshot(tmp_path)
    plan = merge.plan(str(child.path), roots_of(tmp_path), into_parent=True)
    assert plan.refused is not None
    assert plan.refused.code == "E_PARENT_SECTOR_SIZE"
    assert worlds.snapshot(tmp_path) == before


# Compact


KINDS = ["noise", "zero", "same"]


@DETERMINISTIC
@given(data=st.data())
def test_compacting_never_changes_content(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Blocks of zeros, equal to the parent's, in every state; identity and chain stay."""
    folder = tmp_path_factory.mktemp("compact")
    logical = data.draw(st.sampled_from([512, 4096]))
    step = logical // SECTOR
    blocks = data.draw(st.integers(1, 5))
    sectors = blocks * PER_BLOCK - data.draw(st.sampled_from([0, 2, 100])) * step
    pieces = st.lists(
        st.tuples(
            st.integers(0, sectors // step - 1),
            st.sampled_from([1, 7, PER_BLOCK // step, 2 * PER_BLOCK // step]),
            st.sampled_from(KINDS),
            st.booleans(),
        ),
        max_size=6,
    )
    states = st.dictionaries(st.integers(0, blocks - 1), st.integers(0, 3), max_size=2)

    def content(under: bytes) -> list[tuple[int, bytes]]:
        made = []
        for first, wanted, kind, at_border in data.draw(pieces):
            first = first * step // PER_BLOCK * PER_BLOCK if at_border else first * step
            count = min(wanted * step, sectors - first)
            same = under[first * SECTOR : (first + count) * SECTOR]
            piece = {"noise": noise(first, count), "zero": zeros(count), "same": same}[kind]
            made.append((first, bytes(piece)))
        return made

    size = sectors * SECTOR
    options = {"size": size, "block_size": MIB, "logical_sector": logical}
    base = build_dynamic_vhdx(
        folder, "base.vhdx", content=content(bytes(size)), states=data.draw(states), **options
    )
    child = build_differencing_vhdx(
        folder, "child.vhdx", base, content=content(bytes(base.model)),
        bitmaps=data.draw(st.sampled_from(["exact", "full", "none"])), states=data.draw(states),
    )  # fmt: skip
    even = size // logical % 2 == 0  # else 7-Zip 26 refuses: it tests the wrong bit
    before = [facts(one.path) for one in (base, child)]
    for path in (child.path, base.path):
        compacted(path)
        assert content_of(base.path) == base.sha256
        assert content_of(child.path) == child.sha256
        assert errors_in(path) == []
        if even:
            assert seven_zip_sha256(child.path) == child.sha256
    assert [facts(one.path) for one in (base, child)] == before
    empty(folder)


def test_what_a_compaction_gives_back(tmp_path: Path) -> None:
    base = build_dynamic_vhdx(
        tmp_path, "base.vhdx", size=8 * MIB, block_size=MIB, content=[(0, b"\7" * 4 * MIB)]
    )
    child = build_differencing_vhdx(
        tmp_path, "child.vhdx", base,
        content=[
            (0, b"\7" * 512 * 9),  # as the parent has it: goes
            (2 * PER_BLOCK, zeros(3)),  # a few zeros over data: stay
            (3 * PER_BLOCK, zeros(PER_BLOCK)),  # a block of zeros over data: a state from now on
            (5 * PER_BLOCK, zeros(PER_BLOCK)),  # zeros over zeros: go
            (6 * PER_BLOCK, noise(2, 1)),
        ],
        states={1: 2, 7: 7},  # stated zeros over data: stay; room for nothing: goes
    )  # fmt: skip
    size = child.path.stat().st_size
    done = compacted(child.path)
    assert child.path.stat().st_size == size - 4 * MIB
    assert (done["blocks_written"], done["bytes_written"]) == (2, 4 * SECTOR)
    assert content_of(child.path) == seven_zip_sha256(child.path) == child.sha256
    assert states_of(child.path) == [NOT_PRESENT, ZERO, PARTIALLY_PRESENT, ZERO, NOT_PRESENT,
                                     NOT_PRESENT, PARTIALLY_PRESENT, NOT_PRESENT]  # fmt: skip


@pytest.mark.parametrize(("block_mib", "told"), [(8, True), (2, False)])
def test_a_plan_tells_that_a_copy_has_smaller_blocks(
    tmp_path: Path, block_mib: int, told: bool
) -> None:
    base = build_dynamic_vhdx(
        tmp_path, "base.vhdx", size=16 * MIB, block_size=block_mib * MIB, content=[(0, noise(1, 9))]
    )
    leaf = build_differencing_vhdx(
        tmp_path, "leaf.vhdx", base, block_size=block_mib * MIB, content=[(9, noise(2, 9))]
    )
    roots, new = roots_of(tmp_path), str(tmp_path / "new.vhdx")
    plans = [
        compact.plan(str(leaf.path), roots, in_place=False),
        merge.plan(str(leaf.path), roots, into_parent=True),
        merge.plan(str(leaf.path), roots, to=new),
        convert.plan(str(leaf.path), new, roots, disk_type="dynamic"),
    ]
    same = [
        merge.plan(str(leaf.path), roots, into_parent=True, in_place=True),
        convert.plan(str(leaf.path), new, roots, disk_type="fixed"),
    ]
    assert [one.refused for one in (*plans, *same)] == [None] * 6
    sentence = f"has blocks of {block_mib} MiB; its copy gets blocks of 2 MiB"
    for plan in plans:
        assert any(sentence in warning for warning in plan.warnings) is told
    for plan in same:
        assert not any("blocks of" in warning for warning in plan.warnings)


@pytest.mark.parametrize("bitmaps", ["full", "none"])
def test_a_block_of_zeros_becomes_a_state_only_where_all_of_it_is_held(
    tmp_path: Path, bitmaps: str
) -> None:
    """State 7 with every bit set, and state 6; one sector less, and the parent's would vanish."""
    sectors = 3 * PER_BLOCK + 100  # the last block is cut short
    base = build_dynamic_vhdx(
        tmp_path, "base.vhdx", size=sectors * SECTOR, block_size=MIB,
        content=[(0, b"\7" * sectors * SECTOR)],
    )  # fmt: skip
    whole = build_differencing_vhdx(
        tmp_path, "whole.vhdx", base, content=[(0, zeros(sectors))], bitmaps=bitmaps
    )
    part = build_differencing_vhdx(tmp_path, "part.vhdx", base, content=[(0, zeros(sectors - 1))])
    for child, left in ((whole, [ZERO] * 4), (part, [ZERO] * 3 + [PARTIALLY_PRESENT])):
        compacted(child.path)
        assert states_of(child.path) == left
        assert content_of(child.path) == seven_zip_sha256(child.path) == child.sha256
        assert errors_in(child.path) == []


def test_an_estimate_of_a_compaction_counts_zeros_as_the_exact_plan_does(tmp_path: Path) -> None:
    base = build_dynamic_vhdx(
        tmp_path, "base.vhdx", size=8 * MIB, block_size=MIB, content=[(0, b"\7" * 8 * MIB)]
    )
    child = build_differencing_vhdx(
        tmp_path, "child.vhdx", base,
        content=[(0, zeros(5 * PER_BLOCK)), (5 * PER_BLOCK, zeros(9)), (12_288, noise(1, 9))],
    )  # fmt: skip
    exact = compact.plan(str(child.path), roots_of(tmp_path), in_place=False)
    quick = compact.plan(
        str(child.path), roots_of(tmp_path), in_place=False, time_budget_seconds=60
    )
    assert (exact.blocks, exact.blocks_kept) == (quick.blocks, quick.blocks_kept) == (7, 2)
    assert exact.predicted_size_bytes == quick.predicted_size_bytes
    assert exact.why == (
        "5 of 7 blocks hold nothing but zeros, or nothing that differs from the parent; "
        "the other 2 hold data of this disk."
    )


def test_a_merge_states_the_zeros_that_its_levels_hold_together(tmp_path: Path) -> None:
    base = build_dynamic_vhdx(
        tmp_path, "base.vhdx", size=4 * MIB, block_size=MIB, content=[(0, b"\7" * 4 * MIB)]
    )
    half = PER_BLOCK // 2
    middle = build_differencing_vhdx(
        tmp_path, "middle.vhdx", base,
        content=[(0, zeros(half)), (PER_BLOCK, zeros(half)), (3 * PER_BLOCK, noise(1, PER_BLOCK))],
    )  # fmt: skip
    leaf = build_differencing_vhdx(
        tmp_path, "leaf.vhdx", middle,
        content=[(half, zeros(half)), (PER_BLOCK + half, noise(2, half)),
                 (2 * PER_BLOCK, zeros(half)), (3 * PER_BLOCK, zeros(PER_BLOCK - 1))],
    )  # fmt: skip
    merged(leaf.path, into_parent=True)
    assert states_of(middle.path) == [ZERO, FULLY_PRESENT, PARTIALLY_PRESENT, FULLY_PRESENT]
    assert content_of(middle.path) == seven_zip_sha256(middle.path) == leaf.sha256
    assert errors_in(middle.path) == []


def test_a_fixed_disk_is_not_compacted(tmp_path: Path) -> None:
    fixed = build_fixed_vhdx(tmp_path, "fixed.vhdx")
    plan = compact.plan(str(fixed.path), roots_of(tmp_path), in_place=False)
    assert plan.refused is not None
    assert plan.refused.code == "E_FIXED"


# A log that waits


def dirty_chain(folder: Path, which: str) -> tuple[BuiltVhdx, BuiltVhdx]:
    folder.mkdir()
    base = build_dynamic_vhdx(
        folder, "base.vhdx", block_size=MIB, content=[(0, noise(1, 4 * PER_BLOCK))]
    )
    child = build_differencing_vhdx(
        folder, "child.vhdx", base, content=[(9, noise(2, 30)), (PER_BLOCK, zeros(PER_BLOCK))]
    )
    dirty = child if which == "child" else base
    dirty.move_into_log(dirty.table_offset, dirty.blocks[0] + 4096)
    return base, child


@pytest.mark.parametrize("which", ["child", "base"])
def test_nothing_is_written_to_a_disk_whose_log_waits(tmp_path: Path, which: str) -> None:
    """bad-input C40: refused with the way out, and the files stay as they are."""
    folder = tmp_path / "vms"
    base, child = dirty_chain(folder, which)
    roots = roots_of(folder)
    before = worlds.snapshot(folder)
    dirty = child if which == "child" else base
    plans = [
        merge.plan(str(child.path), roots, into_parent=True),
        compact.plan(str(dirty.path), roots, in_place=False),
    ]
    refusals = [None if one.refused is None else one.refused.code for one in plans]
    if which == "child":
        other = folder / "sub"
        other.mkdir()
        (other / "base.vhdx").write_bytes(base.path.read_bytes())
        with pytest.raises(ImageError) as caught:
            relink.plan(str(child.path), str(other / "base.vhdx"), roots)
        refusals.append(caught.value.code)
        (other / "base.vhdx").unlink()
    assert set(refusals) == {"E_LOG"}
    assert worlds.snapshot(folder) == before
    assert content_of(child.path) == child.sha256


@pytest.mark.parametrize("which", ["child", "base"])
def test_a_copy_through_a_log_that_waits_is_right_or_refused(tmp_path: Path, which: str) -> None:
    """bad-input C40: what is in the log is never left out of a new disk."""
    folder = tmp_path / "vms"
    _, child = dirty_chain(folder, which)
    result = folder / "new.vhdx"
    try:
        merged(child.path, to=str(result))
    except ImageError as error:
        refusal = error.code
    else:
        refusal = ""
        assert content_of(result) == child.sha256
        assert seven_zip_sha256(result) == child.sha256
    assert refusal in ("", "E_LOG")
    assert result.exists() == (not refusal)


def test_no_child_is_made_of_a_disk_whose_log_waits(tmp_path: Path) -> None:
    """vhdx.md §12: its DataWriteGuid may be another one once somebody has replayed it."""
    folder = tmp_path / "vms"
    base, _ = dirty_chain(folder, "base")
    before = worlds.snapshot(folder)
    plan = create.plan(str(folder / "new.vhdx"), roots_of(folder), parent=str(base.path))
    assert plan.refused is not None
    assert plan.refused.code == "E_LOG"
    assert worlds.snapshot(folder) == before


# Create


@pytest.mark.parametrize("logical", [512, 4096])
def test_a_child_has_what_its_chain_has_in_common(tmp_path: Path, logical: int) -> None:
    base = build_dynamic_vhdx(
        tmp_path, "base.vhdx", logical_sector=logical, content=[(0, noise(1, 4096))]
    )
    roots = roots_of(tmp_path)
    path = tmp_path / "child.vhdx"
    plan = create.plan(str(path), roots, parent=str(base.path))
    create.apply(plan, roots, job="7", token=1)
    parent, child = facts(base.path), facts(path)
    assert child["parent"] == parent["identity"]
    assert (child["disk id"], child["sector"]) == (parent["disk id"], logical)
    assert child["identity"] != parent["identity"]
    with open_chain(str(path), roots) as opened:
        images: list[Image] = opened.images
        assert opened.sha256() == base.sha256
        assert images[0].block_size_bytes in (2 * MIB, images[1].block_size_bytes)
    assert seven_zip_sha256(path) == base.sha256


def test_a_compacted_disk_keeps_items_that_nobody_here_knows(tmp_path: Path) -> None:
    """Of users and of the virtual disk; opening says that they are kept."""
    mine, theirs = bytes(range(16)), bytes(range(16, 32))
    items = [(mine, 1, b"label of a user"), (theirs, 2, b"of the virtual disk")]
    disk = build_dynamic_vhdx(
        tmp_path, "a.vhdx", size=8 * MIB, content=[(0, zeros(PER_BLOCK))], extra_items=items
    )
    compacted(disk.path)
    with roots_of(tmp_path).open(str(disk.path)) as file:
        kept = open_image(file).copy_traits()["metadata_items"]
    assert list(kept) == items


def test_the_plan_of_a_compaction_counts_no_room_for_stated_zeros(tmp_path: Path) -> None:
    base = build_dynamic_vhdx(
        tmp_path, "base.vhdx", size=24 * MIB, block_size=MIB, content=[(0, noise(1, 8))]
    )
    child = build_differencing_vhdx(
        tmp_path, "child.vhdx", base, block_size=MIB, states=dict.fromkeys(range(20), 2)
    )
    plan = compact.plan(str(child.path), roots_of(tmp_path), in_place=False)
    assert plan.refused is None
    assert (plan.blocks, plan.blocks_kept) == (0, 0)
    assert plan.predicted_size_bytes == child.path.stat().st_size == 4 * MIB


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ("{00000000-1111-2222-3333-444444444444}", "base", "E_SIBLINGS"),
        ("no identity", "base", "E_SIBLINGS"),
        ("no identity", "", "E_UNREAD_DISKS"),
    ],
)
def test_a_child_whose_link_says_little_keeps_its_parent_from_being_merged_into(
    tmp_path: Path, first: str, second: str, code: str
) -> None:
    """bad-input C48: Windows opens it by its second linkage; what says nothing may be a child."""
    base = build_dynamic_vhdx(tmp_path, "base.vhdx", size=2 * MIB, block_size=MIB)
    leaf = build_differencing_vhdx(tmp_path, "leaf.vhdx", base, content=[(0, noise(1, 8))])
    said = dict(windows_locator(base)) | {"parent_linkage": first}
    said["parent_linkage2"] = f"{{{base.identity}}}" if second else said["parent_linkage2"]
    build_differencing_vhdx(tmp_path, "other.vhdx", base, locator=list(said.items()))
    with pytest.raises(ImageError) as told:
        merged(leaf.path, into_parent=True)
    assert told.value.code == code


def test_who_builds_on_a_disk_by_its_second_linkage_is_named_in_the_trash_and_out_of_it(
    tmp_path: Path,
) -> None:
    """bad-input C48: before the disk is deleted, and before it is merged into."""
    base = build_dynamic_vhdx(tmp_path, "base.vhdx", size=2 * MIB, block_size=MIB)
    leaf = build_differencing_vhdx(tmp_path, "leaf.vhdx", base)
    said = dict(windows_locator(base)) | {
        "parent_linkage": "{00000000-1111-2222-3333-444444444444}",
        "parent_linkage2": f"{{{base.identity}}}",
    }
    other = build_differencing_vhdx(tmp_path, "other.vhdx", base, locator=list(said.items()))
    roots = roots_of(tmp_path)
    children = delete.plan(str(base.path), roots).children
    assert children == [str(leaf.path), str(other.path)]
    delete.apply(delete.plan(str(other.path), roots), roots, offline=True)
    (warning,) = merge.plan(str(leaf.path), roots, into_parent=True).warnings
    assert f"cannot be read any more afterwards, restored or not: {other.path}." in warning
