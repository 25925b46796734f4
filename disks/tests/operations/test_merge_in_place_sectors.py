"""Merges in place, sector by sector: what only a format's corners and other tools' disks have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from disks.engine.chain import open_chain
from disks.engine.formats import open_image
from disks.engine.images import Source
from disks.engine.vhd.batmap import find_batmap, map_of
from disks.operations import merge
from disks.tests.builders import FAMILIES, MIB, SECTOR, VHD, VHDX, Built, Family
from disks.tests.operations import shrinking, worlds
from disks.tests.operations.worlds import BLOCK, noise, zeros

both = pytest.mark.parametrize("family", FAMILIES, ids=[one.name for one in FAMILIES])
Content = list[tuple[int, bytes]]


def block_of(family: Family) -> int:
    return BLOCK if family is VHD else MIB


def merge_into(base: Built, leaf: Built) -> dict[str, Any]:
    """Merge and look at the structure; the caller compares what it reads as."""
    roots = worlds.roots_of(base.path.parent)
    plan = merge.plan(str(leaf.path), roots, base=str(base.path), into_parent=True, in_place=True)
    assert plan.refused is None
    done = merge.apply(plan, roots, offline=True)
    assert worlds.errors_in(base.path) == []
    assert not leaf.path.exists()
    return done


def assert_reads(base: Built, leaf: Built, places: Sequence[tuple[int, int]]) -> None:
    """places: first sector and number of sectors of what is compared."""
    with open_chain(str(base.path), worlds.roots_of(base.path.parent)) as chain:
        for first, count in places:
            wanted = bytes(leaf.model[first * SECTOR : (first + count) * SECTOR])
            assert chain.read(first, count) == wanted, first


def held(built: Built) -> set[int]:
    """The sectors that a disk holds itself, zeros that it states included."""
    found: set[int] = set()
    with worlds.roots_of(built.path.parent).open(str(built.path)) as file:
        image = open_image(file)
        for one in image.extents(0, image.virtual_size_bytes // SECTOR):
            if one.source is not Source.PARENT:
                found.update(range(one.first_sector, one.first_sector + one.count_sectors))
    return found


@both
@pytest.mark.parametrize("whole", [False, True])
def test_a_block_that_the_differencing_parent_lacks_gets_only_what_the_child_holds(
    tmp_path: Path, family: Family, whole: bool
) -> None:
    """The rest of it is still read from the grandparent."""
    block = block_of(family)
    per_block = block // SECTOR
    below = family.dynamic(
        tmp_path, family.file("below"), size=4 * block, block_size=block,
        content=[(0, noise(1, 3 * per_block))],
    )  # fmt: skip
    base = family.differencing(
        tmp_path, family.file("base"), below, content=[(per_block * 3 + 5, noise(2, 2))]
    )
    content: Content = [(per_block + 3, noise(3, 4)), (2 * per_block - 1, zeros(2))]
    if whole:
        content.append((0, noise(4, per_block)))
    leaf = family.differencing(tmp_path, family.file("leaf"), base, content=content)
    wanted = held(leaf) | held(base)
    merge_into(base, leaf)
    assert_reads(base, leaf, [(0, 4 * per_block)])
    assert held(base) == wanted


@pytest.mark.parametrize("leaf_state", [1, 2, 3])
@pytest.mark.parametrize("base_state", ["partial", "full", "absent", 2, 3])
def test_states_of_a_vhdx_that_hide_what_lies_below(
    tmp_path: Path, leaf_state: int, base_state: str | int
) -> None:
    """UNDEFINED, ZERO and UNMAPPED over every state of the block below, with data beneath; and a
    partial block over one that states zeros."""
    per_block = MIB // SECTOR
    below = VHDX.dynamic(
        tmp_path, "below.vhdx", size=3 * MIB, block_size=MIB,
        content=[(0, noise(1, 3 * per_block))],
    )  # fmt: skip
    options: dict[str, Any] = {"content": [(2 * per_block, noise(2, 9))]}
    if base_state == "partial":
        options["content"] += [(5, noise(3, 7))]
    elif base_state == "full":
        options["content"] += [(0, noise(4, per_block))]
    elif base_state != "absent":
        options["states"] = {0: base_state, 1: base_state}
    base = VHDX.differencing(tmp_path, "base.vhdx", below, **options)
    leaf = VHDX.differencing(
        tmp_path, "leaf.vhdx", base, states={0: leaf_state}, content=[(per_block + 6, noise(5, 3))]
    )
    with open_chain(str(leaf.path), worlds.roots_of(tmp_path)) as chain:
        assert chain.read(0, 3 * per_block) == bytes(leaf.model)
    merge_into(base, leaf)
    assert_reads(base, leaf, [(0, 3 * per_block)])


@pytest.mark.parametrize("differencing", [True, False])
@pytest.mark.parametrize("sector", [512, 4096])
def test_blocks_at_the_border_of_two_chunks(
    tmp_path: Path, differencing: bool, sector: int
) -> None:
    """Their bits lie in two sector bitmaps; the table has an entry of another kind between."""
    block = 32 * MIB
    chunk = 2**23 * sector // SECTOR  # sectors of 512 bytes
    options: dict[str, Any] = {"block_size": block, "logical_sector": sector}
    size = chunk * SECTOR + 2 * block
    share = sector // SECTOR
    below = VHDX.dynamic(
        tmp_path, "below.vhdx", size=size, content=[(chunk - 80, noise(1, 160))], **options
    )
    base = below
    if differencing:
        base = VHDX.differencing(
            tmp_path, "base.vhdx", below, content=[(chunk - 40, noise(2, 8))], **options
        )
    leaf = VHDX.differencing(
        tmp_path, "leaf.vhdx", base, **options,
        content=[(chunk - 2 * share, noise(3, 4 * share)), (chunk + 64, zeros(share))],
    )  # fmt: skip
    merge_into(base, leaf)
    last = size // SECTOR
    assert_reads(base, leaf, [(0, 64), (chunk - 160, 320), (last - 64, 64)])


@pytest.mark.parametrize("block", [1, 4])
def test_sectors_of_4_kib(tmp_path: Path, block: int) -> None:
    """A bit of a sector bitmap stands for eight sectors of 512 bytes."""
    options: dict[str, Any] = {"block_size": block * MIB, "logical_sector": 4096}
    size = 8 * MIB
    below = VHDX.dynamic(
        tmp_path, "below.vhdx", size=size, content=[(0, noise(1, 4096))], **options
    )
    base = VHDX.differencing(
        tmp_path, "base.vhdx", below, content=[(8, noise(2, 8)), (2040, noise(3, 16))], **options
    )
    leaf = VHDX.differencing(
        tmp_path, "leaf.vhdx", base, **options,
        content=[(16, noise(4, 24)), (2048, zeros(8)), (8192, noise(5, 80)), (16376, noise(6, 8))],
    )  # fmt: skip
    wanted = held(leaf) | held(base)
    merge_into(base, leaf)
    assert_reads(base, leaf, [(0, size // SECTOR)])
    assert held(base) == wanted


def test_blktaps_map_claims_no_block_that_is_not_full(tmp_path: Path) -> None:
    """A bit too many would make blktap ignore the sector bitmap, and read stale sectors."""
    base = shrinking.SCENES["blktap"].make(tmp_path)
    per_block = base.block_size // SECTOR
    absent = [block for block in range(base.sectors // per_block) if block not in base.blocks]
    assert absent
    leaf = VHD.differencing(
        tmp_path, "leaf.vhd", base,
        footer={"creator": b"tap\0", "creator_version": 0x00010003},
        content=[(absent[0] * per_block + 3, noise(40, 2)), (2, noise(41, 5))],
    )  # fmt: skip
    roots = worlds.roots_of(tmp_path)
    with roots.open(str(base.path)) as file:
        before = _trusted_map(open_image(file))
    merge_into(base, leaf)
    assert_reads(base, leaf, [(0, base.sectors)])
    with roots.open(str(base.path)) as file:
        image = open_image(file)
        assert image.disk_type == "dynamic"
        after = _trusted_map(image)
    assert not after[absent[0] // 8] & 0x80 >> absent[0] % 8
    assert all(now & ~then == 0 for now, then in zip(after, before, strict=True))


def _trusted_map(image: Any) -> bytes:
    batmap = find_batmap(image)
    assert batmap is not None
    data, problem = map_of(image, batmap)
    assert problem is None
    assert data is not None
    return data
