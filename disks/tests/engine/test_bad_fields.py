"""Fields of footer, header and BAT that lie: typed errors, findings, flat memory."""

from __future__ import annotations

import os
import resource
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from disks.engine import chain, formats
from disks.engine.check import check_image
from disks.engine.errors import ImageError, NotAnImage
from disks.tests.builders import (
    MIB,
    SECTOR,
    Built,
    BuiltVhd,
    build_differencing,
    build_dynamic,
    build_fixed,
    footer_fields,
    pack_footer,
)
from disks.tests.engine.world import Examination, World, examine, open_file

DATA = [(0, b"\1" * 1024), (4095, b"\2" * 1024)]


def opened_error(path: Path | Built) -> ImageError:
    result = examine(Path(path))
    assert result.error is not None
    assert result.image is None
    return result.error


def refused(result: Examination) -> str | None:
    assert result.image is not None
    refusal = result.image.write_refusal
    return None if refusal is None else refusal.code


@pytest.mark.parametrize("size", [0, 1, 511])
def test_a01_tiny_files_are_too_small(tmp_path: Path, size: int) -> None:
    """bad-input A1."""
    path = tmp_path / "a.vhd"
    path.write_bytes(b"x" * size)
    error = opened_error(path)
    assert isinstance(error, NotAnImage)
    assert error.code == "E_TOO_SMALL"
    assert error.value == size
    assert examine(path).codes == {"E_TOO_SMALL"}


@pytest.mark.parametrize("data", [bytes(512), bytes(range(256)) * 40, b"conectiX" * 100])
def test_a02_zeros_and_noise_are_no_disk(tmp_path: Path, data: bytes) -> None:
    """bad-input A2."""
    path = tmp_path / "a.vhd"
    path.write_bytes(data)
    error = opened_error(path)
    assert isinstance(error, NotAnImage)
    assert error.code == "E_NO_FOOTER"


@pytest.mark.parametrize("kind", ["fixed", "dynamic"])
def test_a03_a_511_byte_footer_is_read_with_a_warning(tmp_path: Path, kind: str) -> None:
    """bad-input A3."""
    build = build_fixed if kind == "fixed" else build_dynamic
    built = build(tmp_path, "a.vhd", size=4 * MIB, content=DATA, footer_length=511)
    assert built.path.stat().st_size % 512 == 511
    result = examine(built.path)
    assert result.error is None
    assert result.codes == {"W_OLD_FOOTER"}
    with chain.open_chain(str(built.path), World(tmp_path)) as opened:
        assert opened.sha256() == built.sha256


def test_a04_a_damaged_footer_falls_back_to_the_copy(tmp_path: Path) -> None:
    """bad-input A4."""
    built = build_dynamic(
        tmp_path, "a.vhd", content=DATA, footer_checksum="wrong", front_checksum="right"
    )
    result = examine(built.path)
    assert result.errors == {"E_FOOTER_END"}
    assert refused(result) == "E_FOOTER_END"
    with chain.open_chain(str(built.path), World(tmp_path)) as opened:
        assert opened.sha256() == built.sha256


def test_a04_two_damaged_footers_are_refused(tmp_path: Path) -> None:
    """bad-input A4."""
    built = build_dynamic(tmp_path, "a.vhd", content=DATA, footer_checksum="wrong")
    error = opened_error(built)
    assert (error.code, error.field, error.offset) == (
        "E_FOOTER_CHECKSUM",
        "checksum",
        built.footer_offset + 64,
    )
    assert formats.FORMATS[0].raw_regions(open_file(built.path))[0].name == "Footer"


def test_a04_a_damaged_front_copy_is_reported(tmp_path: Path) -> None:
    """bad-input A4, the other way round: what the end says counts."""
    built = build_dynamic(tmp_path, "a.vhd", content=DATA, front_checksum="wrong")
    result = examine(built.path)
    assert result.errors == {"E_FOOTER_FRONT"}
    assert refused(result) == "E_FOOTER_FRONT"


@pytest.mark.parametrize(("field", "value"), [("unique_id", b"\5" * 16), ("current_size", 2 * MIB)])
def test_a05_differing_footers_are_shown_and_not_written(
    tmp_path: Path, field: str, value: Any
) -> None:
    """bad-input A5."""
    built = build_dynamic(tmp_path, "a.vhd", content=DATA, front={field: value})
    result = examine(built.path)
    assert result.errors == {"E_FOOTERS_DIFFER"}
    assert result.finding("E_FOOTERS_DIFFER").value == field
    assert refused(result) == "E_FOOTERS_DIFFER"
    assert result.image is not None
    assert result.image.identity == built.identity


def test_a06_a_missing_end_footer_degrades(tmp_path: Path) -> None:
    """bad-input A6."""
    built = build_dynamic(tmp_path, "a.vhd", content=DATA, end_footer="missing")
    result = examine(built.path)
    assert result.errors == {"E_FOOTER_END"}
    assert refused(result) == "E_FOOTER_END"
    with chain.open_chain(str(built.path), World(tmp_path)) as opened:
        assert opened.sha256() == built.sha256


def test_a07_blktaps_poisoned_footer_is_refused(tmp_path: Path) -> None:
    """bad-input A7."""
    built = build_dynamic(tmp_path, "a.vhd", content=DATA, footer={"cookie": b"v_poison"})
    result = examine(built.path)
    assert result.errors == {"E_FOREIGN_JOURNAL"}
    assert refused(result) == "E_FOREIGN_JOURNAL"
    from disks.engine.codes import advice

    assert "vhd-util revert" in advice("E_FOREIGN_JOURNAL")
    with (
        chain.open_chain(str(built.path), World(tmp_path)) as opened,
        pytest.raises(ImageError, match="E_FOREIGN_JOURNAL"),
    ):
        opened.read(0, 1)


@pytest.mark.parametrize("disk_type", [0, 1, 5, 6, 0xFFFFFFFF])
def test_a08_unknown_types_are_refused(tmp_path: Path, disk_type: int) -> None:
    """bad-input A8."""
    built = build_dynamic(tmp_path, "a.vhd", content=DATA, footer={"disk_type": disk_type})
    error = opened_error(built)
    assert (error.code, error.field, error.value) == ("E_DISK_TYPE", "disk_type", disk_type)


def test_a08_a_fixed_footer_on_a_dynamic_disk_is_a_conflict(tmp_path: Path) -> None:
    """bad-input A8."""
    built = build_dynamic(tmp_path, "a.vhd", content=DATA, footer={"disk_type": 2})
    assert opened_error(built).code == "E_TYPE_CONFLICT"
    assert "E_TYPE_CONFLICT" in examine(built.path).errors


def test_a08_a_raw_parent_is_shown_and_never_written(tmp_path: Path) -> None:
    """bad-input A8 and D59: blktap's raw parent has no identity that could be compared."""
    base = build_fixed(tmp_path, "base.vhd", size=4 * MIB)
    built = build_differencing(
        tmp_path, "a.vhd", base, content=DATA, header={"parent_unique_id": bytes(16)}
    )
    result = examine(built.path)
    assert result.errors == {"E_RAW_PARENT"}
    assert refused(result) == "E_RAW_PARENT"
    with pytest.raises(ImageError, match="E_RAW_PARENT"):
        chain.open_chain(str(built.path), World(tmp_path))


@pytest.mark.parametrize("offset", [0, 256, 1000, 2**63, 2**64 - 1, -1])
def test_a09_impossible_header_offsets(tmp_path: Path, offset: int) -> None:
    """bad-input A9. -1 stands for the file's last byte."""
    built = build_dynamic(tmp_path, "a.vhd", content=DATA)
    if offset == -1:
        offset = built.path.stat().st_size - 1
    built = build_dynamic(tmp_path, "a.vhd", content=DATA, footer={"data_offset": offset})
    error = opened_error(built)
    assert (error.code, error.field, error.value) == ("E_DATA_OFFSET", "data_offset", offset)
    assert "E_DATA_OFFSET" in examine(built.path).errors


def test_a10_versions_and_features(tmp_path: Path) -> None:
    """bad-input A10."""
    built = build_dynamic(tmp_path, "v.vhd", footer={"version": 0x00020000})
    assert opened_error(built).code == "E_VERSION"
    built = build_dynamic(tmp_path, "h.vhd", header={"version": 0x00020000})
    assert opened_error(built).code == "E_VERSION"
    for features in (0, 0x80000002, 7):
        built = build_dynamic(tmp_path, "f.vhd", content=DATA, footer={"features": features})
        result = examine(built.path)
        assert result.codes == {"W_FEATURES"}
        assert refused(result) is None
    built = build_dynamic(tmp_path, "t.vhd", content=DATA, footer={"features": 3})
    assert examine(built.path).codes == set()


@pytest.mark.parametrize("size", [0, 513, 2**63, 2040 * 1024 * MIB + 512, 2**64 - 512])
def test_a11_impossible_sizes(tmp_path: Path, size: int) -> None:
    """bad-input A11."""
    for build in (build_fixed, build_dynamic):
        built = build(tmp_path, "a.vhd", footer={"current_size": size})
        error = opened_error(built)
        assert (error.code, error.value) == ("E_SIZE", size)
    built = build_dynamic(tmp_path, "b.vhd", content=DATA, footer={"original_size": 2**64 - 1})
    assert examine(built.path).codes == set()


@pytest.mark.parametrize("geometry", [(0, 0, 0), (65535, 255, 255), (1, 1, 1), (0, 16, 63)])
def test_a12_the_size_wins_over_the_geometry(
    tmp_path: Path, geometry: tuple[int, int, int]
) -> None:
    """bad-input A12."""
    names = ("cylinders", "heads", "sectors_per_track")
    built = build_dynamic(
        tmp_path,
        "a.vhd",
        size=200 * MIB,
        content=DATA,
        footer=dict(zip(names, geometry, strict=True)),
    )
    result = examine(built.path)
    assert result.codes == {"W_GEOMETRY"}
    assert result.image is not None
    assert result.image.virtual_size_bytes == 200 * MIB


@pytest.mark.parametrize("timestamp", [0, 0xFFFFFFFF])
def test_a13_odd_creation_times_are_a_note(tmp_path: Path, timestamp: int) -> None:
    """bad-input A13."""
    built = build_dynamic(tmp_path, "a.vhd", content=DATA, footer={"timestamp": timestamp})
    result = examine(built.path)
    assert [(f.level, f.code) for f in result.findings] == [("note", "N_CREATION_TIME")]
    assert result.image is not None
    assert result.image.created is not None


@pytest.mark.parametrize("unique_id", [bytes(16), b"\xff" * 16])
def test_a14_a_disk_without_identity_is_no_parent(tmp_path: Path, unique_id: bytes) -> None:
    """bad-input A14."""
    base = build_dynamic(tmp_path, "base.vhd", content=DATA, unique_id=unique_id)
    result = examine(base.path)
    assert result.errors == {"E_IDENTITY"}
    with chain.open_chain(str(base.path), World(tmp_path)) as opened:
        assert opened.sha256() == base.sha256
    child = build_differencing(tmp_path, "child.vhd", base)
    with pytest.raises(ImageError, match="E_RAW_PARENT"):
        chain.open_chain(str(child.path), World(tmp_path))


def test_a15_a_saved_state_forbids_writing(tmp_path: Path) -> None:
    """bad-input A15."""
    built = build_dynamic(tmp_path, "a.vhd", content=DATA, footer={"saved_state": 1})
    result = examine(built.path)
    assert result.codes == {"W_SAVED_STATE"}
    assert refused(result) == "E_SAVED_STATE"


def test_a16_a_header_without_right_checksum_is_refused(tmp_path: Path) -> None:
    """bad-input A16: qemu and libvhdi accept it."""
    built = build_dynamic(tmp_path, "a.vhd", content=DATA, header_checksum="wrong")
    error = opened_error(built)
    assert (error.code, error.offset) == ("E_HEADER_CHECKSUM", 512 + 36)
    built = build_dynamic(tmp_path, "b.vhd", content=DATA, header={"cookie": b"cxsparsE"})
    error = opened_error(built)
    assert (error.code, error.field) == ("E_HEADER_CHECKSUM", "cookie")


@pytest.mark.parametrize("table", [0, 100, 512, 1024, 1537, 2**63, 2**64 - 512, 64 * MIB])
def test_a17_impossible_table_offsets(tmp_path: Path, table: int) -> None:
    """bad-input A17."""
    built = build_dynamic(tmp_path, "a.vhd", content=DATA, header={"table_offset": table})
    error = opened_error(built)
    assert (error.code, error.value) == ("E_TABLE_OFFSET", table)
    assert "E_TABLE_OFFSET" in examine(built.path).errors


@pytest.mark.parametrize("entries", [0, 1, 0x1FFFFFFF, 0xFFFFFFFF])
def test_a18_impossible_table_sizes_cost_no_memory(tmp_path: Path, entries: int) -> None:
    """bad-input A18."""
    built = build_dynamic(tmp_path, "a.vhd", header={"max_table_entries": entries})
    assert built.path.stat().st_size <= 4096
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = opened_error(built)
    assert (error.code, error.field, error.value) == ("E_BAT_SIZE", "max_table_entries", entries)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024  # KiB


def test_a18_a_huge_disk_on_a_small_file_costs_no_memory(tmp_path: Path) -> None:
    """bad-input A18: the size itself asks for more table than the file has."""
    built = build_dynamic(tmp_path, "a.vhd", footer={"current_size": 2040 * 1024 * MIB})
    built.patch_header(max_table_entries=2040 * 512)
    assert opened_error(built).code == "E_BAT_SIZE"


@pytest.mark.parametrize("block", [0, 1, 511, 3 * MIB, 2**31, 0xFFFFFFFF, 256, 512 * MIB])
def test_a19_impossible_block_sizes(tmp_path: Path, block: int) -> None:
    """bad-input A19."""
    built = build_dynamic(tmp_path, "a.vhd", content=DATA, header={"block_size": block})
    error = opened_error(built)
    assert (error.code, error.value) == ("E_BLOCK_SIZE", block)


@pytest.mark.parametrize(
    ("block", "codes"),
    [(512 * 1024, set()), (2 * MIB, set()), (4096, {"W_BLOCK_SIZE"}), (4 * MIB, {"W_BLOCK_SIZE"})],
)
def test_a19_unusual_block_sizes_are_a_warning(tmp_path: Path, block: int, codes: set[str]) -> None:
    """bad-input A19."""
    built = build_dynamic(tmp_path, "a.vhd", content=DATA, block_size=block)
    assert examine(built.path).codes == codes


@pytest.mark.parametrize("sector", [0, 1, 2, 3])
def test_a20_headers_are_never_served_as_data(tmp_path: Path, sector: int) -> None:
    """bad-input A20: qemu does."""
    built = build_dynamic(tmp_path, "a.vhd", content=DATA, bat={1: sector})
    result = examine(built.path)
    assert result.errors == {"E_BAT_IN_HEADER"}
    finding = result.finding("E_BAT_IN_HEADER")
    assert (finding.offset, finding.value) == (built.table_offset + 4, sector)
    with chain.open_chain(str(built.path), World(tmp_path)) as opened:
        assert opened.read(0, 4096) == bytes(built.model[: 4096 * SECTOR])
        with pytest.raises(ImageError, match="E_BAT_IN_HEADER"):
            opened.read(4096, 1)


@pytest.mark.parametrize("place", ["past", "crossing", "footer", "overflow"])
def test_a21_blocks_outside_the_file(tmp_path: Path, place: str) -> None:
    """bad-input A21."""
    built = build_dynamic(tmp_path, "a.vhd", content=DATA)
    sector = {
        "past": built.footer_offset // 512 + 100,
        "crossing": built.footer_offset // 512 - 100,
        "footer": built.footer_offset // 512,
        "overflow": 0xFFFFFFFE,
    }[place]
    built = build_dynamic(tmp_path, "a.vhd", content=DATA, bat={1: sector})
    result = examine(built.path)
    assert result.errors == {"E_BAT_PAST_EOF"}
    with (
        chain.open_chain(str(built.path), World(tmp_path)) as opened,
        pytest.raises(ImageError, match="E_BAT_PAST_EOF"),
    ):
        opened.read(4096, 1)


@pytest.mark.parametrize("shift", [0, 1, 2000])
def test_a22_overlapping_blocks_are_found(tmp_path: Path, shift: int) -> None:
    """bad-input A22."""
    content = [(0, b"\1" * 512), (4096, b"\2" * 512), (8192, b"\3" * 512)]
    built = build_dynamic(tmp_path, "a.vhd", size=6 * MIB, content=content)
    sector = built.blocks[0] // 512 + shift
    built = build_dynamic(tmp_path, "a.vhd", size=6 * MIB, content=content, bat={2: sector})
    result = examine(built.path)
    # A shifted copy overlaps both of its neighbours.
    assert result.errors == {"E_BAT_OVERLAP"}
    assert sum(f.code == "E_BAT_OVERLAP" for f in result.findings) == (2 if shift else 1)


def test_a22_a_million_entries_are_sorted_in_time(tmp_path: Path) -> None:
    """bad-input A22: a file of 2 TiB apparent size, every block allocated, two of them twice."""
    blocks = 1_000_000
    path = tmp_path / "a.vhd"
    size = blocks * 2 * MIB
    template = build_dynamic(tmp_path, "t.vhd", size=2 * MIB)
    packed = pack_footer(footer_fields(size, 3, template.unique_id, 512))
    table, first = 1536, 8192
    entries = [first + block * 4097 for block in range(blocks)]
    entries[777_777] = entries[5]
    entries[999_999] = entries[3] + 4096
    with path.open("wb") as file:
        file.write(template.path.read_bytes())
        file.seek(0)
        file.write(packed)
        file.seek(table)
        file.write(struct.pack(f">{blocks}I", *entries))
        file.seek((first + blocks * 4097) * 512)
        file.write(packed)
    built = BuiltVhd(path, template.unique_id, bytearray())
    built.patch_header(max_table_entries=blocks)
    with open_file(path) as file_:
        started = time.process_time()
        findings = check_image(file_)
        assert time.process_time() - started < 2
    overlaps = [f for f in findings if f.code == "E_BAT_OVERLAP"]
    assert len(overlaps) == 3
    assert "Blocks 5 and 777,777" in overlaps[-1].message


def test_a23_entries_beyond_the_size_are_a_warning(tmp_path: Path) -> None:
    """bad-input A23."""
    built = build_dynamic(
        tmp_path, "a.vhd", content=DATA, extra_entries=3, allocate=[3], order="ascending"
    )
    result = examine(built.path)
    assert result.codes == {"W_BAT_SIZE", "W_BAT_BEYOND_SIZE"}
    assert result.image is not None
    assert (result.image.blocks_total, result.image.blocks_allocated()) == (2, 2)
    with chain.open_chain(str(built.path), World(tmp_path)) as opened:
        assert opened.sha256() == built.sha256


def test_a24_bitmaps_of_nothing_and_of_too_much(tmp_path: Path) -> None:
    """bad-input A24."""
    base = build_fixed(tmp_path, "base.vhd", size=3 * MIB, content=[(0, b"\7" * 3 * MIB)])
    size_block_1 = 2048  # sectors of the last block inside the disk
    bitmap = bytearray(512)
    bitmap[0] = 0x80
    bitmap[size_block_1 // 8 : size_block_1 // 8 + 4] = b"\xff" * 4
    child = build_differencing(
        tmp_path, "child.vhd", base, allocate=[0, 1], bitmap_of={1: bytes(bitmap)}
    )
    result = examine(child.path)
    assert result.codes == {"N_EMPTY_BLOCK", "W_BITMAP_BEYOND_SIZE"}
    with chain.open_chain(str(child.path), World(tmp_path)) as opened:
        held = [(e.first_sector, e.count_sectors) for e in opened.extents(0, 6144) if e.level == 0]
        assert held == [(4096, 1)]


def test_a25_structures_may_not_overlap(tmp_path: Path) -> None:
    """bad-input A25."""
    base = build_fixed(tmp_path, "base.vhd", size=4 * MIB)
    over_table = build_differencing(
        tmp_path, "a.vhd", base, content=DATA, locator_fields={"W2ru": {"offset": 8192}}
    )
    assert "E_OVERLAP" in examine(over_table.path).errors
    block = build_differencing(tmp_path, "b.vhd", base, content=DATA).blocks[0]
    in_block = build_differencing(
        tmp_path, "b.vhd", base, content=DATA, locator_fields={"W2ru": {"offset": block + 512}}
    )
    assert "E_OVERLAP" in examine(in_block.path).errors
    table_on_locator = build_differencing(
        tmp_path, "c.vhd", base, content=DATA, header={"table_offset": 4096}
    )
    assert "E_OVERLAP" in examine(table_on_locator.path).errors
    block_on_table = build_dynamic(tmp_path, "d.vhd", content=DATA, bat={0: 3})
    assert "E_BAT_IN_HEADER" in examine(block_on_table.path).errors


@pytest.mark.parametrize("damage", ["none", "checksum", "size", "cookie", "stale"])
def test_a26_a_bad_tdbatmap_is_ignored_with_a_warning(tmp_path: Path, damage: str) -> None:
    """bad-input A26: nothing is read by it, so content stays right."""
    built = build_dynamic(
        tmp_path,
        "a.vhd",
        content=[(0, b"\1" * 1024)],
        footer={"creator": b"tap\0", "creator_version": 0x00010003, "creator_os": bytes(4)},
        layout="windows",
    )
    # Behind the BAT: header sector and one sector of map, up to the first block at 3,584.
    header_at, map_at = 2048, 2560
    assert built.blocks[0] >= 3072
    bits = bytes([0x80 if damage == "stale" else 0]) + bytes(511)
    total = ~sum(bits) & 0xFFFFFFFF
    if damage == "checksum":
        total ^= 1
    cookie = b"tdbatmaP" if damage == "cookie" else b"tdbatmap"
    sectors = 2**31 if damage == "size" else 1
    built.patch(header_at, struct.pack(">8sQIII", cookie, map_at, sectors, 0x00010002, total))
    built.patch(map_at, bits)
    result = examine(built.path)
    assert result.codes == (set() if damage == "none" else {"W_BATMAP"})
    with chain.open_chain(str(built.path), World(tmp_path)) as opened:
        assert opened.sha256() == built.sha256
        # A copy has no map, so its creator version must be one that promises none.
        assert opened.images[0].copy_traits()["creator"] == (b"tap\0", 1, bytes(4))


def test_a27_truncation_names_the_first_lost_sector(tmp_path: Path) -> None:
    """bad-input A27: in the BAT, in a bitmap, in a block."""
    whole = build_dynamic(tmp_path, "a.vhd", content=DATA, bitmaps="full")
    second = whole.blocks[1]
    for cut, lost in (
        (second + 512 + 10 * 512 + 100, 4096 + 10),
        (second + 100, 4096),
        (second, 4096),
        (whole.blocks[0] + 512 + 512, 1),
    ):
        built = build_dynamic(tmp_path, "a.vhd", content=DATA, bitmaps="full", cut_to=cut)
        result = examine(built.path)
        assert result.errors >= {"E_TRUNCATED", "E_FOOTER_END"}
        assert result.finding("E_TRUNCATED").value == lost
        assert refused(result) == "E_TRUNCATED"
        with chain.open_chain(str(built.path), World(tmp_path)) as opened:
            with pytest.raises(ImageError, match=f"E_TRUNCATED.*{lost:,} is lost"):
                opened.read(lost, 1)
            with pytest.raises(ImageError, match=f"E_TRUNCATED.*{lost:,} is lost"):
                opened.sha256()
            assert opened.read(0, 1) == bytes(whole.model[:512])
    big = build_dynamic(tmp_path, "b.vhd", size=600 * MIB, content=[(0, b"\1" * 512)], cut_to=2000)
    error = opened_error(big)
    assert (error.code, error.value) == ("E_TRUNCATED", (2000 - 1536) // 4 * 4096)


def test_a27_a_cut_fixed_disk_is_no_disk(tmp_path: Path) -> None:
    """bad-input A27: without a footer nothing is guessed."""
    built = build_fixed(tmp_path, "a.vhd", content=[(0, b"\1" * 512)], cut_to=MIB - 4096)
    assert opened_error(built).code == "E_NO_FOOTER"
    short = build_fixed(tmp_path, "b.vhd", footer={"current_size": 2 * MIB})
    result = examine(short.path)
    assert result.finding("E_TRUNCATED").value == MIB // 512
    with chain.open_chain(str(short.path), World(tmp_path)) as opened:
        assert opened.read(0, 4) == bytes(2048)
        with pytest.raises(ImageError, match="E_TRUNCATED"):
            opened.read(2047, 2)


@pytest.mark.parametrize("garbage", [512, 100_000, 3 * 1024**3])
def test_a28_trailing_garbage(tmp_path: Path, garbage: int) -> None:
    """bad-input A28: the disk is found by its verified BAT; gigabytes are not read."""
    built = build_dynamic(tmp_path, "a.vhd", content=DATA)
    with built.path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(b"garbage" * 10)
        file.truncate(built.footer_offset + 512 + garbage)
    result = examine(built.path)
    assert result.errors >= {"E_TRAILING", "E_FOOTER_END"}
    finding = result.finding("E_TRAILING")
    assert (finding.offset, finding.value) == (built.footer_offset, garbage)
    with chain.open_chain(str(built.path), World(tmp_path)) as opened:
        assert opened.sha256() == built.sha256
    built.path.unlink()


def test_a28_trailing_garbage_behind_a_fixed_disk(tmp_path: Path) -> None:
    """bad-input A28."""
    built = build_fixed(tmp_path, "a.vhd", append=b"garbage!" * 200)
    result = examine(built.path)
    assert result.code == "E_NO_FOOTER"
    assert result.errors == {"E_NO_FOOTER", "E_TRAILING"}


def test_a29_sixteen_exbibytes_cost_nothing(tmp_path: Path) -> None:
    """bad-input A29: as far as this file system goes."""
    built = build_dynamic(tmp_path, "a.vhd", content=DATA)
    packed = built.path.read_bytes()[:512]
    for power in range(63, 40, -1):
        try:
            os.truncate(built.path, 2**power - 1024)
            break
        except OSError:
            continue
    result = examine(built.path)
    assert "E_FOOTER_END" in result.errors
    with built.path.open("r+b") as file:
        file.seek(-512, os.SEEK_END)
        file.write(packed)
    assert examine(built.path).errors == set()
    built.path.unlink()


def test_a18_a_table_of_nonsense_costs_little(tmp_path: Path) -> None:
    """bad-input A18: a million entries that all point at the header, from a sparse file."""
    built = build_dynamic(tmp_path, "a.vhd", size=2 * MIB)
    size = 1024 * 1024 * 2 * MIB
    packed = pack_footer(footer_fields(size - 16 * 1024 * MIB, 3, built.unique_id, 512))
    built.patch(0, packed)
    with built.path.open("r+b") as file:
        file.seek(70 * MIB)
        file.write(packed)
    built.patch_header(max_table_entries=1024 * 1024 - 8192, table_offset=MIB)
    result = examine(built.path)
    assert result.errors == {"E_BAT_IN_HEADER"}
    assert len(result.findings) == 22  # and a note about the room behind the table


def test_a18_a_table_of_gigabytes_is_refused(tmp_path: Path) -> None:
    """bad-input A18: its room is there, as a hole; reading it would take minutes."""
    built = build_dynamic(tmp_path, "a.vhd", size=MIB)
    size = 2040 * 1024 * MIB
    packed = pack_footer(footer_fields(size, 3, built.unique_id, 512))
    built.patch(0, packed)
    with built.path.open("r+b") as file:
        file.seek(17 * 1024 * MIB)
        file.write(packed)
    built.patch_header(max_table_entries=size // 512, block_size=512, table_offset=MIB)
    assert opened_error(built).code == "E_BAT_SIZE"
    built.path.unlink()
