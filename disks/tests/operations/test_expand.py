"""Expanding in place: what the disk reads as afterwards, what is refused, what stays."""

from __future__ import annotations

import hashlib
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from disks.engine.chain import open_chain
from disks.engine.check import check_image
from disks.engine.errors import ImageError
from disks.engine.findings import Finding, Level
from disks.engine.formats import open_image
from disks.engine.units import GIB, MIB
from disks.operations import expand, journal, relink
from disks.operations.paths import Roots
from disks.operations.recover import recover
from disks.operations.storage_roots import Root
from disks.tests.builders import build_differencing, build_dynamic, build_dynamic_vhdx, build_fixed
from disks.tests.operations import worlds
from disks.tests.operations.enlarging import BLOCK, CONTENT, EVERY, HUGE, IDS, SCENES, SIZE, noise
from disks.tests.operations.kinds import KIND_OF, needs_7z, needs_qemu, readers
from disks.tests.operations.worlds import content_of, roots_of


def larger(path: Path, size: int, **options: Any) -> dict[str, Any]:
    roots = roots_of(path.parent)
    plan = expand.plan(str(path), size, roots, **options)
    assert plan.refused is None, plan.refused
    return expand.apply(plan, roots, offline=True, job="7", token=3)


def findings(path: Path) -> list[str]:
    """Errors and warnings, every bitmap and clear sector looked at."""
    with roots_of(path.parent).open(str(path)) as file:
        found = check_image(file, deep=True)
        return [one.code for one in found if one.level is not Level.NOTE]


@pytest.mark.parametrize(
    ("name", "said", "size_after"),
    [
        ("fixed", "The change was taken back.", SIZE),
        ("vhdx, dynamic", "recovery completes it and does not take it back", 5 * MIB),
    ],
)
def test_a_disk_that_does_not_read_back_is_told_what_became_of_the_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str, size_after: int
) -> None:
    """Of a change that went through the disk's own log, somebody may have made use."""
    path = SCENES[name].make(tmp_path).path
    plan = expand.plan(str(path), 5 * MIB, roots_of(tmp_path))
    wrong = Finding(Level.ERROR, "E_BAT_OVERLAP", "two blocks share one place")
    with monkeypatch.context() as patched:
        patched.setattr(expand, "check_image", lambda file: [wrong])
        with pytest.raises(ImageError) as caught:
            expand.apply(plan, roots_of(tmp_path), offline=True)
    assert caught.value.code == "E_VERIFY"
    assert "its structure is damaged: two blocks share one place" in caught.value.message
    assert said in caught.value.message
    rows = recover(str(tmp_path), roots_of(tmp_path))
    assert [row["action"] for row in rows] == ([] if size_after == SIZE else ["finished"])
    with roots_of(tmp_path).open(str(path)) as file:
        assert open_image(file).virtual_size_bytes == size_after
    assert journal.pending(roots_of(tmp_path), [str(path)]) == []


@needs_7z
@needs_qemu
@pytest.mark.parametrize(("name", "size"), EVERY, ids=IDS)
def test_the_old_content_is_followed_by_zeros_whoever_reads_it(
    tmp_path: Path, name: str, size: int
) -> None:
    scene = SCENES[name]
    built = scene.make(tmp_path)
    before = worlds.snapshot(tmp_path)
    known = set(findings(built.path))
    kind, has_parent = KIND_OF[scene.format_name], scene.differencing
    others = readers(kind, built.path, bytes(built.model), has_parent=has_parent)
    assert others >= scene.readers
    with roots_of(tmp_path).open(str(built.path)) as file:
        before_identity = open_image(file).identity
    blocks = built.path.stat().st_blocks
    done = larger(built.path, size)
    model = bytes(built.model).ljust(size, b"\0")
    assert content_of(built.path) == hashlib.sha256(model).hexdigest()
    with roots_of(tmp_path).open(str(built.path)) as file:
        image = open_image(file)
        assert image.virtual_size_bytes == size
        # A VHDX's DataWriteGuid stands for its content, size included.
        assert (image.identity == before_identity) is (scene.format_name == "vhd")
        assert image.write_refusal is None
    assert set(findings(built.path)) <= known
    assert done["file_size_after_bytes"] == built.path.stat().st_size
    assert done["virtual_size_bytes"] == size
    if not scene.differencing:  # a child larger than its parent is read by nobody else
        assert readers(kind, built.path, model) >= others
    after = worlds.snapshot(tmp_path)
    assert after.pop(built.path.name) != before.pop(built.path.name)
    assert after == before
    status = built.path.stat()
    if scene.format_name == "vhd":  # a VHDX is built with holes; its growth has none
        assert status.st_blocks * 512 >= status.st_size
    assert (status.st_blocks - blocks) * 512 > done["bytes_written"] - 2 * 4096


@pytest.mark.parametrize(("name", "size"), EVERY, ids=IDS)
def test_the_plan_foresees_size_and_fields_and_writes_nothing(
    tmp_path: Path, name: str, size: int
) -> None:
    built = SCENES[name].make(tmp_path)
    before = worlds.snapshot(tmp_path)
    roots = roots_of(tmp_path)
    plan = expand.plan(str(built.path), size, roots)
    assert worlds.snapshot(tmp_path) == before
    fields = {change.field: (change.now, change.after) for change in plan.changes}
    now, then = fields["current_size" if "current_size" in fields else "virtual_disk_size"]
    assert str(now).startswith(f"{len(built.model):,}")
    assert str(then).startswith(f"{size:,}")
    expand.apply(plan, roots, offline=True)
    assert built.path.stat().st_size == plan.size_after_bytes
    for change in plan.changes:
        if change.field in ("current_size", "max_table_entries", "table_offset"):
            assert change.offset is not None
            assert change.length is not None
            stored = built.path.read_bytes()[change.offset : change.offset + change.length]
            assert f"{int.from_bytes(stored):,}" == change.after


@pytest.mark.parametrize("name", list(SCENES))
def test_a_disk_can_be_expanded_again_and_again(tmp_path: Path, name: str) -> None:
    built = SCENES[name].make(tmp_path)
    size = len(built.model)
    for sectors in (1, 5, 32, 200, 6 * 1024, 40 * 1024 + 1):
        size += sectors * SCENES[name].sector
        larger(built.path, size)
        model = bytes(built.model).ljust(size, b"\0")
        assert content_of(built.path) == hashlib.sha256(model).hexdigest()
    assert worlds.errors_in(built.path) == []


# ---------------------------------------------------------------------- refusals


def refusal(path: Path, size: int, **options: Any) -> ImageError:
    """The plan's refusal; applying it all the same raises the same and changes nothing."""
    before = worlds.snapshot(path.parent)
    roots = options.pop("roots", roots_of(path.parent))
    plan = expand.plan(str(path), size, roots, **options)
    assert plan.refused is not None
    with pytest.raises(ImageError) as caught:
        expand.apply(plan, roots, offline=True)
    assert caught.value.code == plan.refused.code
    assert worlds.snapshot(path.parent) == before
    return plan.refused


@pytest.mark.parametrize(
    ("size", "code", "words"),
    [
        (SIZE, "E_SHRINK", "has 102,400 bytes already"),
        (SIZE - 512, "E_SHRINK", "only made larger"),
        (0, "E_SHRINK", "only made larger"),
        (SIZE + 100, "E_SECTORS", "no whole sectors of 512"),
        (2040 * GIB + 512, "E_TOO_LARGE", "at most 2,040 GiB"),
        (1 << 70, "E_TOO_LARGE", "at most 2,040 GiB"),
    ],
)
@pytest.mark.parametrize("name", ["fixed", "dynamic", "differencing"])
def test_sizes_that_are_no_larger_ones_are_refused(
    tmp_path: Path, name: str, size: int, code: str, words: str
) -> None:
    built = SCENES[name].make(tmp_path)
    refused = refusal(built.path, size)
    assert refused.code == code
    assert words in refused.message


def test_blocks_that_would_be_too_many_are_refused(tmp_path: Path) -> None:
    """bad-input A18: a table that nobody would read any more."""
    built = build_dynamic(tmp_path, "disk.vhd", size=SIZE, block_size=512)
    refused = refusal(built.path, 8 * GIB)
    assert refused.code == "E_BLOCK_SIZE"
    assert "larger blocks" in refused.advice


def test_a_fixed_disk_grows_only_into_room_that_is_there(tmp_path: Path) -> None:
    """bad-input F96: the size is shown, the reserve stays."""
    built = SCENES["fixed"].make(tmp_path)
    plan = expand.plan(str(built.path), 2040 * GIB, roots_of(tmp_path))
    assert plan.as_dict()["free_space_needed_bytes"] == 2040 * GIB - SIZE
    assert refusal(built.path, 2040 * GIB).code == "E_NOSPC"


def test_a_dynamic_disk_takes_no_room_for_what_nobody_has_written(tmp_path: Path) -> None:
    built = SCENES["dynamic"].make(tmp_path)
    done = larger(built.path, 400 * 1024 * 1024)
    assert done["bytes_written"] < 200 * 1024


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        ({"footer": {"saved_state": 1}}, "E_SAVED_STATE"),
        ({"end_footer": "zeroed"}, "E_FOOTER_END"),
        ({"front_footer": "missing"}, "E_FOOTER_FRONT"),
        ({"front": {"unique_id": bytes(15) + b"x"}}, "E_FOOTERS_DIFFER"),
        ({"bat": {0: 1}}, "E_BAT_IN_HEADER"),
        ({"bat": {0: 1 << 20}}, "E_BAT_PAST_EOF"),
        ({"front": {"cookie": b"v_poison"}}, "E_FOREIGN_JOURNAL"),
    ],
)
def test_disks_that_are_not_settled_or_damaged_are_refused(
    tmp_path: Path, damage: dict[str, Any], code: str
) -> None:
    """bad-input A4, A5, A7, A15, A20, A21."""
    built = build_dynamic(
        tmp_path, "disk.vhd", size=SIZE, block_size=BLOCK, content=CONTENT, **damage
    )
    assert refusal(built.path, 2 * SIZE).code == code


def test_blocks_that_share_a_place_are_not_moved(tmp_path: Path) -> None:
    """bad-input A22."""
    built = SCENES["dynamic"].make(tmp_path)
    worlds.let_two_blocks_share_a_place(built.path)
    assert refusal(built.path, HUGE).code == "E_BAT_OVERLAP"


def test_a_saved_machine_also_keeps_a_fixed_disk_from_growing(tmp_path: Path) -> None:
    """bad-input A15."""
    built = build_fixed(tmp_path, "disk.vhd", size=SIZE, footer={"saved_state": 1})
    assert refusal(built.path, 2 * SIZE).code == "E_SAVED_STATE"


def test_a_parent_is_refused_with_its_children_and_the_leaf_is_not(tmp_path: Path) -> None:
    """A child must have its parent's size; the way out is the leaf."""
    world = worlds.chain(tmp_path, grandchild=True)
    size = 1024 * 1024
    refused = refusal(world.base.path, size)
    assert refused.code == "E_CHILDREN"
    assert "breaks 1 child" in refused.message
    assert world.path("middle.vhd") in refused.message
    plan = expand.plan(world.path("leaf.vhd"), size, world.roots)
    assert plan.as_dict()["affected_children"] == [world.path("below.vhd")]
    assert plan.size_after_bytes > 0  # the figures are there all the same
    larger(tmp_path / "below.vhd", size)
    assert world.grandchild is not None
    model = bytes(world.grandchild.model).ljust(size, b"\0")
    assert content_of(world.path("below.vhd")) == hashlib.sha256(model).hexdigest()
    assert content_of(world.path("leaf.vhd")) == world.leaf.sha256


def test_children_are_broken_only_when_every_one_of_them_was_named(tmp_path: Path) -> None:
    base = build_dynamic(tmp_path, "base.vhd", size=SIZE, block_size=BLOCK, content=CONTENT)
    paths = [str(build_differencing(tmp_path, f"{name}.vhd", base).path) for name in ("one", "two")]
    size = 2 * SIZE
    assert "breaks 2 children" in refusal(base.path, size).message
    assert refusal(base.path, size, breaks=paths[:1]).code == "E_CHILDREN"
    larger(base.path, size, breaks=paths)
    # What they hold is not lost: it can still be read.
    assert content_of(paths[0]) == base.sha256


def test_a_child_that_came_after_the_plan_stops_it(tmp_path: Path) -> None:
    """bad-input D66: looked for again under lock."""
    base = build_dynamic(tmp_path, "base.vhd", size=SIZE, block_size=BLOCK, content=CONTENT)
    roots = roots_of(tmp_path)
    plan = expand.plan(str(base.path), 2 * SIZE, roots)
    assert plan.refused is None
    build_differencing(tmp_path, "late.vhd", base)
    with pytest.raises(ImageError) as caught:
        expand.apply(plan, roots, offline=True)
    assert caught.value.code == "E_CHILDREN"
    assert content_of(base.path) == base.sha256


def test_what_a_larger_ancestor_holds_never_becomes_visible(tmp_path: Path) -> None:
    """bad-input D57: the grown area is zeros, or there is none."""
    parent = build_dynamic(
        tmp_path, "parent.vhd", size=2 * SIZE, block_size=BLOCK, content=[(0, noise(1, 399))]
    )
    child = build_differencing(tmp_path, "child.vhd", parent, size=SIZE, block_size=BLOCK)
    refused = refusal(child.path, 2 * SIZE)
    assert refused.code == "E_PARENT_SIZE"
    assert "would become visible" in refused.message


def test_a_disk_without_its_parent_is_refused(tmp_path: Path) -> None:
    """bad-input D54."""
    world = worlds.chain(tmp_path)
    world.base.path.unlink()
    assert refusal(world.leaf.path, 1024 * 1024).code == "E_PARENT_MISSING"


def test_read_only_roots_and_second_names_are_refused(tmp_path: Path) -> None:
    """bad-input D63, F94: written in place, a hard link would change, too."""
    built = SCENES["fixed"].make(tmp_path)
    read_only = Roots([Root(str(tmp_path), read_only=True)])
    assert refusal(built.path, 2 * SIZE, roots=read_only).code == "E_READ_ONLY"
    os.link(built.path, tmp_path / "other.vhd")
    assert refusal(built.path, 2 * SIZE).code == "E_HARD_LINKS"


def test_a_managed_disk_needs_the_declaration(tmp_path: Path) -> None:
    built = SCENES["fixed"].make(tmp_path)
    (tmp_path / "disk.vhd.mrt").write_bytes(b"")
    roots = roots_of(tmp_path)
    plan = expand.plan(str(built.path), 2 * SIZE, roots)
    assert plan.managers
    with pytest.raises(ImageError) as caught:
        expand.apply(plan, roots)
    assert caught.value.code == "E_MANAGED"
    expand.apply(plan, roots, offline=True)


@pytest.mark.parametrize("name", ["fixed", "differencing"])
def test_a_disk_or_parent_that_changed_since_the_plan_is_not_written(
    tmp_path: Path, name: str
) -> None:
    """bad-input E73."""
    built = SCENES[name].make(tmp_path)
    roots = roots_of(tmp_path)
    written = tmp_path / "parent.vhd" if name == "differencing" else built.path
    plan = expand.plan(str(built.path), 2 * SIZE, roots)
    os.utime(written)
    with pytest.raises(ImageError) as caught:
        expand.apply(plan, roots, offline=True)
    assert caught.value.code == "E_CHANGED"
    assert content_of(built.path) == built.sha256


# ---------------------------------------------------------------------- what stays, what is said


def test_the_last_parent_update_can_still_be_taken_back(tmp_path: Path) -> None:
    """The link's record beside the disk comes back as it was, through both rewrites."""
    built = SCENES["differencing, packed"].make(tmp_path)
    (tmp_path / "moved").mkdir()
    os.rename(tmp_path / "parent.vhd", tmp_path / "moved" / "parent.vhd")
    roots = roots_of(tmp_path)
    parent = str(tmp_path / "moved" / "parent.vhd")
    relink.apply(relink.plan(str(built.path), parent, roots), roots, offline=True)
    before = journal.of(roots, str(built.path), journal.UNDO)
    larger(built.path, HUGE)
    after = journal.of(roots, str(built.path), journal.UNDO)
    assert before is not None
    assert after is not None
    assert after.record == before.record | {"pages": []}
    model = bytes(built.model).ljust(HUGE, b"\0")
    assert content_of(built.path) == hashlib.sha256(model).hexdigest()
    relink.undo(str(built.path), roots, offline=True)
    assert refusal(built.path, 2 * HUGE).code == "E_PARENT_MISSING"


def test_a_blktap_map_that_could_lie_is_not_looked_for_any_more(tmp_path: Path) -> None:
    """bad-input A26: a stale bit would make blktap ignore a sector bitmap."""
    for number, size in enumerate(SCENES["blktap"].sizes):
        folder = tmp_path / str(number)
        folder.mkdir()
        built = SCENES["blktap"].make(folder)
        larger(built.path, size)
        data = built.path.read_bytes()
        assert b"tdbatmap" not in data
        assert data[28:36] == b"tap\0\0\0\0\1"
        assert "W_BATMAP" not in findings(built.path)


def test_only_the_sectors_of_the_last_block_that_were_outside_are_cleared(tmp_path: Path) -> None:
    built = SCENES["dynamic, stale end"].make(tmp_path)
    before = built.path.read_bytes()
    larger(built.path, SCENES["dynamic, stale end"].sizes[0])
    after = built.path.read_bytes()
    offset = built.blocks[SIZE // BLOCK] + 512 + SIZE % BLOCK
    rest = BLOCK - SIZE % BLOCK
    assert any(before[offset : offset + rest])
    assert not any(after[offset : offset + rest])
    changed = {at // 512 for at in range(len(before)) if before[at] != after[at]}
    bitmap = built.blocks[SIZE // BLOCK] // 512
    footer = len(before) // 512 - 1
    assert changed == {0, footer, bitmap, *range(offset // 512, (offset + rest) // 512)}


def test_a_table_that_moves_leaves_the_room_that_locators_keep_for_longer_paths(
    tmp_path: Path,
) -> None:
    """Windows keeps 64 KiB behind its second string, and writes there without looking."""
    built = SCENES["differencing"].make(tmp_path)
    size = 32 * MIB
    larger(built.path, size)
    data = built.path.read_bytes()
    table, entries = struct.unpack(">Q4xI", data[528:544])
    table_end = table + entries * 4
    for slot in range(2):
        space, offset = struct.unpack_from(">4xI8xQ", data, 512 + 576 + slot * 24)
        assert not (offset < table_end and table < offset + space), (table, offset, space)


def test_who_would_read_another_size_is_told(tmp_path: Path) -> None:
    qemu = build_fixed(tmp_path, "qemu.vhd", size=SIZE, footer={"creator": b"qemu"})
    plan = expand.plan(str(qemu.path), 10 * 1024 * 1024, roots_of(tmp_path))
    assert any("force_size_calc=current_size" in warning for warning in plan.warnings)
    leaf = SCENES["differencing"].make(tmp_path)
    plan = expand.plan(str(leaf.path), 10 * 1024 * 1024, roots_of(tmp_path))
    assert any("0xC03A0017" in warning for warning in plan.warnings)
    windows = build_fixed(tmp_path, "windows.vhd", size=SIZE)
    os.utime(windows.path, (1, 1))
    assert expand.plan(str(windows.path), 2 * SIZE, roots_of(tmp_path)).warnings == []


def test_the_modification_time_shows_that_the_disk_was_changed(tmp_path: Path) -> None:
    """Otherwise incremental backups would miss it."""
    built = SCENES["fixed"].make(tmp_path)
    os.utime(built.path, (1, 1))
    larger(built.path, 2 * SIZE)
    assert built.path.stat().st_mtime > 1


def test_a_vhdx_table_that_is_full_moves_to_the_end(tmp_path: Path) -> None:
    """131,072 entries fill its MiB; a larger one is pointed to by both region tables."""
    built = build_dynamic_vhdx(
        tmp_path, "disk.vhdx", size=100 * GIB, block_size=MIB, content=[(0, noise(1, 3000))]
    )
    size = 1000 * GIB + 512
    plan = expand.plan(str(built.path), size, roots_of(tmp_path))
    assert "block_allocation_table" in {change.field for change in plan.changes}
    done = larger(built.path, size)
    assert done["bytes_written"] < 16 * MIB
    with open_chain(str(built.path), roots_of(tmp_path)) as chain:
        assert chain.virtual_size_bytes == size
        assert chain.read(0, 3000) == noise(1, 3000)
    assert worlds.errors_in(built.path) == []
    again = 64 * 1024 * GIB
    assert refusal(built.path, again).code == "E_BLOCK_SIZE"
    assert refusal(built.path, again + 512).code == "E_TOO_LARGE"


@pytest.mark.slow
def test_the_largest_table_takes_little_memory_and_time(tmp_path: Path) -> None:
    """bad-input A18, G3: 4 MiB of table; the blocks in its way are copied in pieces."""
    small = tmp_path / "disk.vhd"
    content = [(0, noise(1, 4096)), (4096, noise(2, 4096)), (20000, noise(3, 9000))]
    built = build_dynamic(tmp_path, "disk.vhd", size=16 * 1024 * 1024, content=content)
    tracemalloc.start()
    larger(small, 2040 * GIB)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 1024 * 1024
    with open_chain(str(small), roots_of(tmp_path)) as chain:
        assert chain.virtual_size_bytes == 2040 * GIB
        assert chain.read(0, len(built.model) // 512) == bytes(built.model)
    assert worlds.errors_in(small) == []
