"""Every range of a disk reads as the model says, across every border."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from disks.engine import chain, formats
from disks.engine.errors import OutOfRange
from disks.engine.images import Extent, Source
from disks.tests.builders import (
    MIB,
    SECTOR,
    VHD,
    VHDX,
    Built,
    Family,
    build_differencing,
    build_dynamic,
)
from disks.tests.engine.world import World, open_file


def pattern(seed: int, sectors: int) -> bytes:
    return random.Random(seed).randbytes(sectors * SECTOR)


@pytest.fixture
def three_levels(tmp_path: Path, family: Family) -> Built:
    """Small blocks over large ones over a fixed disk; odd extents over block borders."""
    size = 5 * MIB + 7 * SECTOR
    border = family.small // SECTOR  # the end of the first small block, inside of a large one
    base = family.fixed(tmp_path, family.file("base"), size=size, content=[(0, pattern(1, 9000))])
    middle = family.differencing(
        tmp_path,
        family.file("middle"),
        base,
        block_size=family.large,
        content=[(4090, pattern(2, 13)), (8190, pattern(3, 2)), (size // SECTOR - 1, b"z" * 512)],
    )
    return family.differencing(
        tmp_path,
        family.file("leaf"),
        middle,
        block_size=family.small,
        order="descending",
        content=[(0, bytes(SECTOR)), (border - 1, pattern(4, 3)), (4094, pattern(5, 4))],
    )


def test_every_border_reads_as_the_model(
    three_levels: Built, tmp_path: Path, family: Family
) -> None:
    model, last = three_levels.model, three_levels.sectors
    border = family.small // SECTOR
    edges = [0, 1, *range(border - 2, border + 3), 4089, 4095, 4096, 4103, 8190, 8192, 8999]
    with chain.open_chain(str(three_levels.path), World(tmp_path)) as opened:
        assert opened.sha256() == three_levels.sha256
        for first in [*edges, last - 1]:
            for count in (0, 1, 2, 3, 1024, 4097):
                count = min(count, last - first)
                expected = bytes(model[first * SECTOR : (first + count) * SECTOR])
                assert opened.read(first, count) == expected


def test_reading_past_the_end_is_refused(three_levels: Built, tmp_path: Path) -> None:
    with chain.open_chain(str(three_levels.path), World(tmp_path)) as opened:
        for first, count in ((opened.sectors, 1), (opened.sectors - 1, 2), (-1, 1), (0, -1)):
            with pytest.raises(OutOfRange) as caught:
                opened.read(first, count)
            assert caught.value.code == "E_RANGE"
            with pytest.raises(OutOfRange):
                list(opened.images[0].extents(first, count))


def test_extents_have_no_gaps_and_are_joined(tmp_path: Path) -> None:
    built = build_dynamic(
        tmp_path,
        "a.vhd",
        size=8 * MIB,
        content=[(4096, b"\1" * SECTOR * 5), (4100, b"\2" * SECTOR), (12288 + 7, b"\3" * SECTOR)],
    )
    with open_file(built) as file:
        extents = list(formats.open_image(file).extents(0, 16384))
    data = built.blocks[1] + 512
    assert extents == [
        Extent(0, 4096, Source.ZERO),
        Extent(4096, 5, Source.DATA, data),
        Extent(4101, 12295 - 4101, Source.ZERO),
        Extent(12295, 1, Source.DATA, built.blocks[3] + 512 + 7 * 512),
        Extent(12296, 4088, Source.ZERO),
    ]


def test_absent_sectors_of_a_differencing_disk_are_the_parents(
    tmp_path: Path, family: Family
) -> None:
    base = family.dynamic(tmp_path, family.file("base"))
    child = family.differencing(tmp_path, family.file("child"), base, content=[(3, b"\1" * SECTOR)])
    with open_file(child) as file:
        extents = list(formats.open_image(file).extents(2, 4096))
    assert [(one.first_sector, one.count_sectors, one.source) for one in extents] == [
        (2, 1, Source.PARENT),
        (3, 1, Source.DATA),
        (4, 4094, Source.PARENT),
    ]


def test_zeros_written_by_the_child_hide_the_parents_data(tmp_path: Path, family: Family) -> None:
    base = family.fixed(tmp_path, family.file("base"), size=2 * MIB, content=[(0, b"\1" * 2 * MIB)])
    child = family.differencing(
        tmp_path, family.file("child"), base, content=[(10, bytes(SECTOR * 3))]
    )
    with chain.open_chain(str(child.path), World(tmp_path)) as opened:
        assert opened.read(9, 5) == b"\1" * 512 + bytes(1536) + b"\1" * 512


BLOCKS = [
    *((VHD, size) for size in (512, 1024, 4096, 64 * 1024, 512 * 1024, 16 * MIB)),
    *((VHDX, size * MIB) for size in (1, 2, 4, 8, 16, 32, 64, 128, 256)),
]


@pytest.mark.parametrize(
    ("family", "block_size"), BLOCKS, ids=[f"{family.name}-{size}" for family, size in BLOCKS]
)
def test_any_legal_block_size_reads(tmp_path: Path, family: Family, block_size: int) -> None:
    size = 1 * MIB + 3 * SECTOR
    content = [(sector, pattern(sector, 1 + sector % 3)) for sector in range(1, 2040, 97)]
    base = family.dynamic(
        tmp_path, family.file("base"), size=size, block_size=block_size, content=content[::2]
    )
    child = family.differencing(
        tmp_path, family.file("child"), base, block_size=block_size, content=content[1::2]
    )
    with chain.open_chain(str(child.path), World(tmp_path)) as opened:
        assert opened.sha256() == child.sha256
        assert opened.read(7, 90) == bytes(child.model[7 * 512 : 97 * 512])


def test_a_smaller_ancestor_reads_as_zeros_past_its_end(tmp_path: Path, family: Family) -> None:
    """bad-input D57: even where the grandparent has data there."""
    base = family.fixed(tmp_path, family.file("base"), size=4 * MIB, content=[(0, b"\1" * 4 * MIB)])
    middle = family.differencing(tmp_path, family.file("middle"), base, size=1 * MIB)
    leaf = family.differencing(
        tmp_path, family.file("leaf"), middle, size=3 * MIB, content=[(2047, b"\2" * 1024)]
    )
    assert leaf.model[: MIB - 512] == b"\1" * (MIB - 512)
    with chain.open_chain(str(leaf.path), World(tmp_path)) as opened:
        assert opened.sha256() == leaf.sha256
        assert [(e.first_sector, e.count_sectors, e.level) for e in opened.extents(0, 6144)] == [
            (0, 2047, 2),
            (2047, 2, 0),
            (2049, 4095, None),
        ]


def test_partial_views_tell_what_lies_below_them(
    three_levels: Built, tmp_path: Path, family: Family
) -> None:
    border = family.small // SECTOR
    with chain.open_chain(str(three_levels.path), World(tmp_path)) as opened:
        upper = opened.levels(0, 1)
        sources = {extent.source for extent in upper.extents(0, upper.sectors)}
        assert sources == {Source.DATA, Source.PARENT}
        held = [e for e in upper.extents(0, upper.sectors) if e.source is Source.DATA]
        assert [(e.first_sector, e.count_sectors, e.level) for e in held] == [
            (0, 1, 0),
            (border - 1, 1, 0),
            (border, 2, 0),
            (4090, 4, 1),
            (4094, 2, 0),
            (4096, 2, 0),
            (4098, 5, 1),
            (8190, 2, 1),
            (10246, 1, 1),
        ]
        with pytest.raises(Exception, match="E_PARENT_MISSING"):
            upper.read(1, 1)
        with pytest.raises(ValueError, match="levels"):
            opened.levels(1, 3)


def test_the_bit_order_of_sector_bitmaps(tmp_path: Path) -> None:
    base = build_dynamic(tmp_path, "base.vhd")
    child = build_differencing(
        tmp_path, "child.vhd", base, allocate=[0], bitmap_of={0: b"\xe0\x40"}
    )
    with open_file(child) as file:
        extents = formats.open_image(file).extents(0, 4096)
        held = [e for e in extents if e.source is Source.DATA]
    assert [(e.first_sector, e.count_sectors) for e in held] == [(0, 3), (9, 1)]


def test_a_large_bat_is_read_in_pieces(tmp_path: Path) -> None:
    """A disk of 2,040 GiB with two blocks: the absent million costs little."""
    size = 2040 * 1024 * MIB
    built = build_dynamic(tmp_path, "a.vhd", size=2 * MIB, content=[(5, b"\1" * 512)])
    entries = size // (2 * MIB)
    table = 16 * MIB
    with built.path.open("r+b") as file:
        file.seek(table)
        row = bytearray(b"\xff" * entries * 4)
        row[:4] = (built.blocks[0] // 512).to_bytes(4)
        row[-4:] = ((table + 4 * MIB + 4 * MIB) // 512).to_bytes(4)
        file.write(row)
        file.seek(table + 8 * MIB)
        file.write(b"\xff" * 512 + b"\2" * 2 * MIB)
    built.patch_header(table_offset=table, max_table_entries=entries)
    import struct

    from disks.tests.builders import footer_fields, pack_footer

    packed = pack_footer(footer_fields(size, 3, built.unique_id, 512))
    built.patch(0, packed)
    with built.path.open("ab") as file:
        file.write(packed)
    assert struct.unpack(">Q", packed[48:56])[0] == size
    with open_file(built) as file:
        image = formats.open_image(file)
        assert image.blocks_allocated() == 2
        extents = list(image.extents(0, size // 512))
        assert [(e.first_sector, e.count_sectors, e.source) for e in extents] == [
            (0, 5, Source.ZERO),
            (5, 1, Source.DATA),
            (6, size // 512 - 4096 - 6, Source.ZERO),
            (size // 512 - 4096, 4096, Source.DATA),
        ]
        assert len(image.bat._cache) <= 64
