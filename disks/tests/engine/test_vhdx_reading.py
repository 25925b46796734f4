"""What only a VHDX has: block states, bitmaps by chunk, 4 KiB sectors, a log in the way."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disks.engine import chain, formats
from disks.engine.check import check_image, check_link
from disks.engine.errors import ImageError
from disks.engine.images import DiskType, Extent, Source
from disks.tests.builders import (
    MIB,
    SECTOR,
    Built,
    BuiltVhdx,
    SparseModel,
    build_differencing_vhdx,
    build_dynamic_vhdx,
    build_fixed_vhdx,
    seven_zip_pieces,
    seven_zip_sha256,
)
from disks.tests.builders.vhdx_log import PAGE, Entry, Page, Zeros
from disks.tests.engine.test_properties import DETERMINISTIC
from disks.tests.engine.world import World, examine, open_file

GIB = 1024 * MIB
CHUNK_SECTORS = 2**23  # of logical size: 4 GiB of 512, 32 GiB of 4,096 bytes


def extents(built: Built, first: int, count: int) -> list[Extent]:
    with open_file(built.path) as file:
        return list(formats.open_image(file).extents(first, count))


def reads_as_its_model(built: Built) -> bool:
    with chain.open_chain(str(built.path), World(built.path.parent)) as opened:
        return opened.sha256() == built.sha256


# Types and states


def test_the_type_is_what_the_file_parameters_say(tmp_path: Path) -> None:
    fixed = build_fixed_vhdx(tmp_path, "fixed.vhdx")
    child = build_differencing_vhdx(tmp_path, "child.vhdx", fixed)
    dynamic = build_dynamic_vhdx(tmp_path, "dynamic.vhdx")
    kinds = [examine(built.path).image.disk_type for built in (fixed, dynamic, child)]
    assert kinds == [DiskType.FIXED, DiskType.DYNAMIC, DiskType.DIFFERENCING]


def test_leave_block_allocated_says_nothing_where_there_is_a_parent(tmp_path: Path) -> None:
    base = build_fixed_vhdx(tmp_path, "base.vhdx")
    child = build_differencing_vhdx(
        tmp_path, "child.vhdx", base, items={"file_parameters": bytes.fromhex("0000200003000000")}
    )
    result = examine(child.path)
    assert result.errors == set()
    assert result.image is not None
    assert result.image.disk_type is DiskType.DIFFERENCING


def test_a_fixed_disk_need_not_have_its_blocks_in_order(tmp_path: Path) -> None:
    content = [(sector, bytes([sector % 251]) * SECTOR) for sector in range(0, 8192, 5)]
    built = build_fixed_vhdx(
        tmp_path, "a.vhdx", block_size=MIB, order="descending", content=content
    )
    assert built.blocks[0] > built.blocks[3]
    assert reads_as_its_model(built)
    data = [one for one in extents(built, 0, 8192) if one.source is Source.DATA]
    assert [one.file_offset for one in data] == [built.blocks[block] for block in range(4)]


def test_neighbouring_blocks_of_a_fixed_disk_are_one_extent(tmp_path: Path) -> None:
    built = build_fixed_vhdx(tmp_path, "a.vhdx", size=8 * MIB)
    assert extents(built, 3, 16000) == [Extent(3, 16000, Source.DATA, built.blocks[0] + 3 * SECTOR)]


def test_a_dynamic_disk_holds_whole_blocks(tmp_path: Path) -> None:
    built = build_dynamic_vhdx(
        tmp_path, "a.vhdx", size=8 * MIB, content=[(4096 + 7, b"\1" * SECTOR)]
    )
    assert extents(built, 0, 16384) == [
        Extent(0, 4096, Source.ZERO),
        Extent(4096, 4096, Source.DATA, built.blocks[1]),
        Extent(8192, 8192, Source.ZERO),
    ]


@pytest.mark.parametrize("state", [0, 1, 2, 3])
def test_absent_blocks_without_a_parent_are_zeros(tmp_path: Path, state: int) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=[(0, b"\1" * SECTOR)], states={1: state})
    assert reads_as_its_model(built)
    assert extents(built, 4096, 4096) == [Extent(4096, 4096, Source.ZERO)]


@pytest.mark.parametrize(
    ("state", "source"), [(0, Source.PARENT)] + [(n, Source.ZERO) for n in (1, 2, 3)]
)
def test_undefined_zero_and_unmapped_hide_the_parent(
    tmp_path: Path, state: int, source: Source
) -> None:
    base = build_fixed_vhdx(tmp_path, "base.vhdx", content=[(0, b"\1" * 4 * MIB)])
    child = build_differencing_vhdx(
        tmp_path, "child.vhdx", base, content=[(5, b"\2" * SECTOR)], states={1: state}
    )
    assert extents(child, 4096, 4096) == [Extent(4096, 4096, source)]
    assert child.model[2 * MIB] == (1 if state == 0 else 0)
    assert reads_as_its_model(child)
    grandchild = build_differencing_vhdx(
        tmp_path, "leaf.vhdx", child, content=[(8000, b"\3" * 512)]
    )
    assert reads_as_its_model(grandchild)


def test_states_and_their_places_are_told_apart(tmp_path: Path) -> None:
    """A zero block that kept a place (Hyper-V cannot read it) is still zeros."""
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=[(0, b"\1" * 4 * MIB)])
    built.patch_entry(0, 2, built.blocks[0])
    built.model[: 2 * MIB] = bytes(2 * MIB)
    result = examine(built.path)
    assert result.codes == {"W_BAT_OFFSET"}
    assert (result.finding("W_BAT_OFFSET").level, result.finding("W_BAT_OFFSET").offset) == (
        "warning",
        built.entry_at(0),
    )
    assert reads_as_its_model(built)


def test_bits_of_a_fully_present_block_are_ignored(tmp_path: Path) -> None:
    """State 6 in a differencing disk: the block counts, whatever its bitmap says."""
    base = build_fixed_vhdx(tmp_path, "base.vhdx", content=[(0, b"\1" * 4 * MIB)])
    child = build_differencing_vhdx(
        tmp_path, "child.vhdx", base, content=[(5, b"\2" * SECTOR), (5000, b"\3" * SECTOR)],
        states={1: 6},
    )  # fmt: skip
    assert set(child.bitmaps) == {0}
    assert set(child.read(child.bitmaps[0] + 512, 512)) == {0}
    assert extents(child, 4096, 4096) == [Extent(4096, 4096, Source.DATA, child.blocks[1])]
    assert reads_as_its_model(child)


# Sector bitmaps


def test_the_lowest_bit_is_the_first_sector(tmp_path: Path) -> None:
    """The opposite of VHD. Bytes 03 02: the sectors 0, 1 and 9."""
    base = build_dynamic_vhdx(tmp_path, "base.vhdx")
    child = build_differencing_vhdx(
        tmp_path, "child.vhdx", base, states={0: 7}, bitmap_of={0: b"\x03\x02"}
    )
    held = [one for one in extents(child, 0, 4096) if one.source is Source.DATA]
    assert held == [
        Extent(0, 2, Source.DATA, child.blocks[0]),
        Extent(9, 1, Source.DATA, child.blocks[0] + 9 * SECTOR),
    ]


def test_bits_of_a_large_sector_count_4096_bytes(tmp_path: Path) -> None:
    base = build_dynamic_vhdx(tmp_path, "base.vhdx", logical_sector=4096)
    child = build_differencing_vhdx(
        tmp_path, "child.vhdx", base, states={0: 7, 1: 7}, bitmap_of={0: b"\x03\x02" + bytes(64)}
    )
    held = [one for one in extents(child, 0, 8192) if one.source is Source.DATA]
    assert [(one.first_sector, one.count_sectors) for one in held] == [(0, 16), (72, 8)]
    # A block has 512 sectors of 4,096 bytes: its bits take 64 bytes, the next block's follow.
    child.patch(child.bitmaps[0] + 64, b"\x80")
    held = [one for one in extents(child, 4096, 4096) if one.source is Source.DATA]
    assert held == [Extent(4096 + 56, 8, Source.DATA, child.blocks[1] + 7 * 4096)]


def test_parts_of_a_large_sector_can_be_read(tmp_path: Path) -> None:
    """The virtual disk is read in 512-byte sectors, whatever its own are."""
    base = build_fixed_vhdx(
        tmp_path, "base.vhdx", logical_sector=4096, content=[(0, b"\1" * 2 * MIB)]
    )
    child = build_differencing_vhdx(tmp_path, "child.vhdx", base, content=[(9, b"\2" * SECTOR)])
    with chain.open_chain(str(child.path), World(tmp_path)) as opened:
        assert opened.images[0].logical_sector_bytes == 4096
        for first, count in ((7, 2), (8, 1), (9, 1), (10, 1), (15, 2), (3, 30)):
            expected = bytes(child.model[first * SECTOR : (first + count) * SECTOR])
            assert opened.read(first, count) == expected


def test_a_parent_with_other_sectors_is_refused(tmp_path: Path) -> None:
    base = build_fixed_vhdx(tmp_path, "base.vhdx", logical_sector=4096)
    child = build_differencing_vhdx(tmp_path, "child.vhdx", base, logical_sector=512)
    with open_file(child.path) as low, open_file(base.path) as high:
        findings = check_link(formats.open_image(low), formats.open_image(high))
    assert [(str(one.level), one.code, one.value) for one in findings] == [
        ("error", "E_PARENT_SECTOR_SIZE", 4096)
    ]
    with pytest.raises(ImageError) as caught:
        chain.open_chain(str(child.path), World(tmp_path))
    assert caught.value.code == "E_PARENT_SECTOR_SIZE"


@pytest.mark.parametrize("tail", [512, 1024, 4096, MIB, MIB + 512])
def test_the_last_block_ends_with_the_disk(tmp_path: Path, tail: int) -> None:
    size = 4 * MIB + tail
    last = size // SECTOR - 1
    base = build_dynamic_vhdx(tmp_path, "base.vhdx", size=size, content=[(last, b"\1" * SECTOR)])
    child = build_differencing_vhdx(
        tmp_path, "child.vhdx", base, content=[(8192, b"\2" * SECTOR), (last, b"\3" * SECTOR)]
    )
    for built in (base, child):
        assert reads_as_its_model(built)
        assert examine(built.path).errors == set()
    assert sum(one.count_sectors for one in extents(child, 0, child.sectors)) == child.sectors


def test_a_short_last_block_of_old_qemu_is_a_warning(tmp_path: Path) -> None:
    size = 5 * MIB
    built = build_dynamic_vhdx(
        tmp_path, "a.vhdx", size=size, content=[(8192, b"\1" * SECTOR), (10239, b"\2" * SECTOR)]
    )
    whole = built.path.stat().st_size
    with built.path.open("r+b") as file:
        file.truncate(whole - MIB)
    result = examine(built.path)
    assert result.codes == {"W_SHORT_BLOCK"}
    assert reads_as_its_model(built)
    with built.path.open("r+b") as file:
        file.truncate(whole - MIB - SECTOR)
    assert examine(built.path).errors == {"E_VHDX_BAT"}


# Chunks


class Chunks:
    """A disk of some chunks; whoever needs bytes asks for windows of it."""

    def __init__(self, built: BuiltVhdx) -> None:
        self.built = built
        assert isinstance(built.model, SparseModel)
        self.model = built.model

    def agrees(self, windows: list[tuple[int, int]]) -> bool:
        folder = self.built.path.parent
        with chain.open_chain(str(self.built.path), World(folder)) as opened:
            for first, count in windows:
                count = min(count, self.built.sectors - first)
                if opened.read(first, count) != self.model[first * 512 : (first + count) * 512]:
                    return False
            held = opened.extents(0, opened.sectors)
            return sum(one.count_sectors for one in held) == self.built.sectors


@pytest.mark.parametrize("logical", [512, 4096])
@DETERMINISTIC
@given(data=st.data())
def test_partial_blocks_across_chunk_borders(
    tmp_path_factory: pytest.TempPathFactory, logical: int, data: st.DataObject
) -> None:
    """One to five levels of up to three chunks, with extents around the chunks' borders."""
    folder = tmp_path_factory.mktemp("chunks")
    step = logical // SECTOR
    border = CHUNK_SECTORS * step
    sectors = data.draw(st.integers(1, 5)) * border // 2 + data.draw(st.integers(-2, 2)) * step
    firsts = st.builds(
        lambda chunk, shift: min(max(chunk * border // 2 + shift, 0), sectors - 1),
        st.integers(0, sectors * 2 // border + 1),
        st.integers(-70, 70),
    )
    numbers = random.Random(data.draw(st.integers(0, 2**32)))
    disk: BuiltVhdx | None = None
    windows = [(0, 64), (sectors - 1, 1)]
    for level in range(data.draw(st.integers(1, 5))):
        content = []
        for first, count in data.draw(st.lists(st.tuples(firsts, st.integers(1, 140)), max_size=6)):
            count = min(count, sectors - first)
            content.append((first, numbers.randbytes(count * SECTOR)))
            windows.append((max(0, first - 8), count + 16))
        block_size = data.draw(st.sampled_from([1, 2, 8, 32])) * MIB
        options = {"content": content, "block_size": block_size}
        name = f"level{level}.vhdx"
        if disk is None:
            disk = build_dynamic_vhdx(
                folder, name, size=sectors * SECTOR, logical_sector=logical, **options
            )
        else:
            order = data.draw(st.sampled_from(["ascending", "descending"]))
            disk = build_differencing_vhdx(folder, name, disk, order=order, **options)
        with open_file(disk.path) as file:
            assert [f for f in check_image(file, deep=True) if f.level == "error"] == []
    assert disk is not None
    assert Chunks(disk).agrees(windows)
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.slow
def test_seven_zip_agrees_across_a_chunk_border(tmp_path: Path) -> None:
    size = 4 * GIB + 6 * MIB
    border = CHUNK_SECTORS
    base = build_dynamic_vhdx(
        tmp_path, "base.vhdx", size=size, content=[(border - 3, b"\1" * SECTOR * 7)]
    )
    child = build_differencing_vhdx(
        tmp_path, "child.vhdx", base,
        content=[(border - 1, b"\2" * SECTOR * 2), (border + 4099, b"\3" * SECTOR)],
    )  # fmt: skip
    assert set(child.bitmaps) == {0, 1}
    at = 0
    with chain.open_chain(str(child.path), World(tmp_path)) as opened:
        for piece in seven_zip_pieces(child):
            if piece.count(0) != len(piece):
                assert child.model[at : at + len(piece)] == piece
                assert opened.read(at // SECTOR, len(piece) // SECTOR) == piece
            at += len(piece)
        assert at == size
        held = [one for one in opened.extents(0, opened.sectors) if one.source is Source.DATA]
    assert [(one.first_sector, one.level) for one in held if one.level == 0] == [
        (border - 1, 0),
        (border, 0),
        (border + 4099, 0),
    ]


def test_a_table_of_sixty_four_tebibytes_is_read_in_pieces(tmp_path: Path) -> None:
    """The largest disk, with one block at each end: the absent 2 million cost little."""
    size = 64 * 1024 * GIB
    last = size // SECTOR - 1
    built = build_dynamic_vhdx(
        tmp_path, "a.vhdx", size=size, block_size=32 * MIB,
        content=[(5, b"\1" * SECTOR), (last, b"\2" * SECTOR)],
    )  # fmt: skip
    result = examine(built.path)
    assert result.errors == set()
    assert result.image is not None
    assert result.image.blocks_allocated() == 2
    per_block = 32 * MIB // SECTOR
    assert extents(built, 0, last + 1) == [
        Extent(0, per_block, Source.DATA, built.blocks[0]),
        Extent(per_block, last + 1 - 2 * per_block, Source.ZERO),
        Extent(last + 1 - per_block, per_block, Source.DATA, built.blocks[last // per_block]),
    ]
    with chain.open_chain(str(built.path), World(tmp_path)) as opened:
        assert opened.read(last, 1) == b"\2" * SECTOR


# The log


def test_what_is_in_the_log_is_read_as_if_it_were_in_its_place(tmp_path: Path) -> None:
    """bad-input C40: BAT, metadata and blocks; the file itself stays as it is."""
    base = build_fixed_vhdx(tmp_path, "base.vhdx", content=[(0, b"\1" * 4 * MIB)])
    child = build_differencing_vhdx(
        tmp_path, "child.vhdx", base, content=[(0, b"\2" * SECTOR), (4097, b"\3" * SECTOR * 20)]
    )
    pages = [
        child.table_offset,
        child.metadata_offset,
        child.metadata_offset + 64 * 1024,
        child.bitmaps[0],
        child.blocks[0],
        child.blocks[1] + 2 * PAGE,
    ]
    child.move_into_log(*pages)
    before = child.path.read_bytes()
    result = examine(child.path)
    assert result.codes == {"W_LOG"}
    assert result.image is not None
    assert result.image.write_refusal is not None
    assert result.image.write_refusal.code == "E_LOG"
    assert reads_as_its_model(child)
    assert child.path.read_bytes() == before


def test_a_log_of_a_parent_is_replayed_for_its_child_too(tmp_path: Path) -> None:
    base = build_dynamic_vhdx(tmp_path, "base.vhdx", content=[(0, b"\1" * 4 * MIB)])
    child = build_differencing_vhdx(tmp_path, "child.vhdx", base, content=[(9, b"\2" * SECTOR)])
    base.move_into_log(base.table_offset, base.blocks[0] + PAGE)
    assert reads_as_its_model(child)


@pytest.mark.parametrize("at", [0, 4096 * 3, MIB - 4096, MIB - 8192])
@pytest.mark.parametrize("sequence", [1, 2, 2**32 - 1, 2**40])
def test_the_log_is_a_ring(tmp_path: Path, at: int, sequence: int) -> None:
    """Entries that wrap, and sequences that do; numbers across 32 bits."""
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=[(0, b"\1" * 4096), (8000, b"\2" * 512)])
    built.move_into_log(
        built.table_offset, built.metadata_offset, built.blocks[0], built.blocks[0] + PAGE,
        at=at, first_sequence=sequence,
    )  # fmt: skip
    assert reads_as_its_model(built)


def test_later_entries_win(tmp_path: Path) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=[(0, b"\1" * MIB)])
    block = built.blocks[0]
    built.write_log(
        [
            Entry([Page(block, b"\5" * PAGE), Page(block + PAGE, b"\6" * PAGE)]),
            Entry([Zeros(block, 4 * PAGE), Page(block + 2 * PAGE, b"\7" * PAGE)]),
            Entry([Page(block + PAGE, b"\x08" * PAGE), Page(block + PAGE, b"\x09" * PAGE)]),
        ]
    )
    built.model[: 4 * PAGE] = bytes(PAGE) + b"\x09" * PAGE + b"\7" * PAGE + bytes(PAGE)
    assert reads_as_its_model(built)


def test_many_descriptors_take_several_sectors(tmp_path: Path) -> None:
    """126 in an entry's first sector, 128 in each one after it."""
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=[(0, b"\1" * 2 * MIB)])
    block = built.blocks[0]
    for count in (125, 126, 127, 253, 254):
        pages = [Page(block + one * PAGE, bytes([one % 251 + 1]) * PAGE) for one in range(count)]
        pages[-1:] = [Zeros(pages[-1].offset, PAGE)]
        built.write_log([Entry(pages)])
        for one in range(count - 1):
            built.model[one * PAGE : (one + 1) * PAGE] = bytes([one % 251 + 1]) * PAGE
        built.model[(count - 1) * PAGE : count * PAGE] = bytes(PAGE)
        assert reads_as_its_model(built)


def test_the_newest_of_several_sequences_counts(tmp_path: Path) -> None:
    """Old entries stay in the ring; the sequence with the highest number is the log."""
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=[(0, b"\1" * MIB)])
    block = built.blocks[0]
    guid = built.write_log([Entry([Page(block, b"\5" * PAGE)])], at=0, first_sequence=3)
    built.write_log(
        [Entry([Page(block, b"\6" * PAGE)])], at=64 * 1024, first_sequence=9, guid=guid, append=True
    )
    built.write_log(
        [Entry([Page(block, b"\7" * PAGE)])],
        at=128 * 1024,
        first_sequence=5,
        guid=guid,
        append=True,
    )
    built.model[:PAGE] = b"\6" * PAGE
    assert reads_as_its_model(built)


def test_entries_before_the_tail_are_done_already(tmp_path: Path) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=[(0, b"\1" * MIB)])
    block = built.blocks[0]
    length = 2 * PAGE
    built.write_log(
        [
            Entry([Page(block, b"\5" * PAGE)]),
            Entry([Page(block + PAGE, b"\6" * PAGE)], tail=length),
            Entry([Page(block + 2 * PAGE, b"\7" * PAGE)], tail=length),
        ]
    )
    built.model[PAGE : 3 * PAGE] = b"\6" * PAGE + b"\7" * PAGE
    assert reads_as_its_model(built)


def test_a_replay_may_make_the_file_longer(tmp_path: Path) -> None:
    """The new block lies behind the file's end; the BAT entry for it is in the log."""
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=[(0, b"\1" * 512), (4096, b"\2" * 512)])
    size = built.path.stat().st_size
    table = built.read(built.table_offset, PAGE)
    built.patch_entry(1, 0)
    data = built.read(built.blocks[1], PAGE)
    with built.path.open("r+b") as file:
        file.truncate(size - 2 * MIB)
    entry = Entry(
        [Page(built.table_offset, table), Page(built.blocks[1], data)],
        flushed=size - 2 * MIB, last=size,
    )  # fmt: skip
    built.write_log([entry])
    result = examine(built.path)
    assert result.codes == {"W_LOG"}
    assert reads_as_its_model(built)
    assert built.path.stat().st_size == size - 2 * MIB


def test_seven_zip_reads_what_the_engine_read_through_the_log(tmp_path: Path) -> None:
    """7-Zip does not replay: it sees the content once the pages are back in their places."""
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=[(0, b"\1" * MIB)])
    built.move_into_log(built.blocks[0] + PAGE)
    with chain.open_chain(str(built.path), World(tmp_path)) as opened:
        ours = opened.sha256()
    for which in (1, 2):
        built.patch_header(which, log_guid=bytes(16))
    assert seven_zip_sha256(built) != ours
    built.patch(built.blocks[0] + PAGE, b"\1" * PAGE)
    assert seven_zip_sha256(built) == ours
