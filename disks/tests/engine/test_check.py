"""Findings beyond the lying fields: quirks of writers, and going on after the first."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from disks.engine import chain, formats
from disks.engine.check import check_image
from disks.engine.sector_bitmap import held_runs, set_range
from disks.engine.vhd.geometry import geometry_of
from disks.tests.builders import MIB, build_differencing, build_dynamic, build_fixed, chs
from disks.tests.engine.world import World, examine, open_file

DATA = [(0, b"\1" * 1024), (4095, b"\2" * 1024)]


def test_it_goes_on_after_the_first_finding(tmp_path: Path) -> None:
    built = build_dynamic(
        tmp_path,
        "a.vhd",
        size=6 * MIB,
        content=[*DATA, (8192, b"\3" * 512)],
        footer={"unique_id": bytes(16), "features": 0, "timestamp": 0, "reserved": b"x" * 426},
        front={"hidden": 1},
        header={"reserved1": 5},
        bat={0: 1, 2: 0xFFFFFF},
    )
    result = examine(built.path)
    assert result.errors == {
        "E_FOOTERS_DIFFER",
        "E_IDENTITY",
        "E_BAT_IN_HEADER",
        "E_BAT_PAST_EOF",
    }
    assert result.codes - result.errors == {
        "W_FEATURES",
        "W_RESERVED",
        "N_CREATION_TIME",
        "N_HIDDEN",
    }


def test_header_findings_come_even_where_it_cannot_be_opened(tmp_path: Path) -> None:
    built = build_dynamic(
        tmp_path, "a.vhd", header={"block_size": 3 * MIB, "table_offset": 7, "version": 9}
    )
    assert examine(built.path).errors == {"E_BLOCK_SIZE", "E_TABLE_OFFSET", "E_VERSION"}


def test_many_alike_findings_are_cut_short(tmp_path: Path) -> None:
    built = build_dynamic(
        tmp_path, "a.vhd", size=MIB, block_size=4096, bat=dict.fromkeys(range(200), 1)
    )
    findings = [f for f in examine(built.path).findings if f.code == "E_BAT_IN_HEADER"]
    assert len(findings) == 21
    assert "not listed" in findings[-1].message


def test_blktaps_hidden_byte_is_a_note(tmp_path: Path) -> None:
    built = build_dynamic(tmp_path, "a.vhd", content=DATA, footer={"hidden": 1})
    result = examine(built.path)
    assert [(f.level, f.code) for f in result.findings] == [("note", "N_HIDDEN")]
    assert result.image is not None
    assert result.image.hidden


@pytest.mark.parametrize("version", [0x00000001, 0x00010001])
def test_old_blktap_forgot_the_checksum_when_hiding(tmp_path: Path, version: int) -> None:
    fields = {"creator": b"tap\0", "creator_version": version, "hidden": 0}
    built = build_dynamic(tmp_path, "a.vhd", content=DATA, footer=fields)
    for offset in (0, built.footer_offset):
        built.patch(offset + 85, b"\1")
    assert examine(built.path).codes == {"N_HIDDEN"}


@pytest.mark.parametrize(
    "creator", [b"vpc ", b"vs  ", b"win ", b"qemu", b"qem2", b"vbox", b"dutl", b"CTXS", b"tap\0"]
)
def test_known_creators_are_no_finding(tmp_path: Path, creator: bytes) -> None:
    fields = {"creator": creator, "creator_os": b"Mac ", "creator_version": 0x00010001}
    built = build_dynamic(tmp_path, "a.vhd", content=DATA, footer=fields)
    assert examine(built.path).codes == set()


def test_unknown_creators_are_a_note(tmp_path: Path) -> None:
    built = build_dynamic(tmp_path, "a.vhd", footer={"creator": b"\x1b[2J"})
    result = examine(built.path)
    assert [(f.level, f.code) for f in result.findings] == [("note", "N_CREATOR")]
    assert result.image is not None
    assert result.image.creator == "\\x1b[2J 10.0"


def test_clear_sectors_that_are_not_zero(tmp_path: Path) -> None:
    """Readers that ignore bitmaps show them; 7-Zip refuses."""
    built = build_dynamic(tmp_path, "a.vhd", content=DATA)
    built.patch(built.blocks[0] + 512 + 100 * 512 + 3, b"x")
    assert examine(built.path, deep=False).codes == set()
    result = examine(built.path)
    assert result.codes == {"W_CLEAR_SECTOR"}
    assert "(LBA) 100 " in result.finding("W_CLEAR_SECTOR").message
    with chain.open_chain(str(built.path), World(tmp_path)) as opened:
        assert opened.sha256() == built.sha256


def test_leftovers_in_the_parent_fields_of_a_dynamic_disk(tmp_path: Path) -> None:
    built = build_dynamic(tmp_path, "a.vhd", header={"parent_unique_id": b"\1" * 16})
    assert examine(built.path).codes == {"W_PARENT_FIELDS"}


def test_a_bat_entry_more_is_a_note(tmp_path: Path) -> None:
    built = build_dynamic(tmp_path, "a.vhd", content=DATA, extra_entries=1)
    result = examine(built.path)
    assert [(f.level, f.code) for f in result.findings] == [("note", "N_BAT_SIZE")]


def test_padding_of_the_bat_is_never_read_as_entries(tmp_path: Path) -> None:
    """blktap pads with zeros, others with ones."""
    built = build_dynamic(tmp_path, "a.vhd", content=DATA)
    built.patch(built.table_offset + 8, bytes(504))
    assert examine(built.path).codes == set()


def test_a_fixed_disk_in_a_longer_file(tmp_path: Path) -> None:
    built = build_fixed(tmp_path, "a.vhd", footer={"current_size": MIB - 512})
    assert examine(built.path).codes == {"W_FILE_SIZE"}


def test_a_fixed_disk_with_the_texts_data_offset(tmp_path: Path) -> None:
    built = build_fixed(tmp_path, "a.vhd", footer={"data_offset": 0xFFFFFFFF})
    assert examine(built.path).codes == {"W_DATA_OFFSET"}


def test_room_behind_the_last_block(tmp_path: Path) -> None:
    built = build_dynamic(tmp_path, "a.vhd", content=DATA, before_footer=bytes(3 * MIB))
    assert examine(built.path).codes == {"N_UNUSED_SPACE"}


def test_odd_file_sizes(tmp_path: Path) -> None:
    built = build_dynamic(tmp_path, "a.vhd", content=DATA, before_footer=b"abc")
    assert examine(built.path).errors == {"E_FILE_SIZE"}


def test_a_split_disk_of_virtual_pc_is_refused(tmp_path: Path) -> None:
    """Its pieces are raw, with a footer only in the last one: no piece is a disk."""
    first, last = tmp_path / "a.vhd", tmp_path / "a.v01"
    whole = build_fixed(tmp_path, "whole.vhd", size=2 * MIB).path.read_bytes()
    first.write_bytes(whole[:MIB])
    last.write_bytes(whole[MIB:])
    assert examine(first).code == "E_NO_FOOTER"
    assert examine(last).errors == {"E_TRUNCATED"}


def test_all_bitmaps_of_two_gib_in_time(tmp_path: Path) -> None:
    """The goal is 20 ms; this allows for a busy machine."""
    path = tmp_path / "a.vhd"
    from disks.engine.images import DiskType
    from disks.engine.new_image import NewImage
    from disks.tests.engine.world import create_file

    with create_file(path) as file:
        file.allocate = file.truncate  # type: ignore[method-assign] # sparse: no 2 GiB here
        new = NewImage(DiskType.DYNAMIC, 2048 * MIB)
        writer = formats.by_name("vhd").writer(file, new, blocks=1024)
        for block in range(1024):
            writer.place(block * 4096, 4096)
        writer.finish()
        started = time.process_time()
        assert check_image(file, deep=True) == []
        assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    ("size", "geometry"),
    [
        (8 * MIB, (240, 4, 17)),
        (100 * MIB, (1003, 12, 17)),
        (1024 * MIB, (2080, 16, 63)),
        (128 * 1024 * MIB, (65535, 16, 255)),
    ],
)
def test_geometry_check_values(size: int, geometry: tuple[int, int, int]) -> None:
    if size >= 128 * 1024 * MIB:
        assert geometry_of(65535 * 16 * 255 * 512) == geometry
    else:
        assert geometry_of(size) == geometry
    assert geometry_of(size) == chs(size)


def test_the_size_counts_whatever_the_geometry_says(tmp_path: Path) -> None:
    """QEMU's rounding leaves a geometry of the size, others do not."""
    base = build_fixed(tmp_path, "base.vhd", size=100 * MIB)
    assert examine(base.path).codes == set()
    child = build_differencing(tmp_path, "child.vhd", base, footer={"cylinders": 1004})
    assert examine(child.path).codes == {"W_GEOMETRY"}


def test_runs_of_a_bitmap() -> None:
    assert held_runs(b"\xff" * 512, 4096) == [(0, 4096)]
    assert held_runs(bytes(512), 4096) == []
    assert held_runs(b"\xe0\x40" + bytes(510), 4096) == [(0, 3), (9, 10)]
    assert held_runs(b"\x01\x80", 16) == [(7, 9)]
    assert held_runs(b"\x7f", 3) == [(1, 3)]
    for first, count in ((0, 1), (7, 2), (3, 4), (0, 4096), (4095, 1), (9, 300), (8, 8)):
        bitmap = bytearray(512)
        set_range(bitmap, first, count)
        assert held_runs(bytes(bitmap), 4096) == [(first, first + count)]


def test_raw_regions_label_every_structure(tmp_path: Path) -> None:
    base = build_fixed(tmp_path, "base.vhd")
    child = build_differencing(tmp_path, "child.vhd", base, content=DATA[:1])
    with open_file(child.path) as file:
        regions = formats.open_image(file).raw_regions()
        whole = child.path.read_bytes()
    assert [region.name for region in regions] == [
        "Footer",
        "Footer copy",
        "Dynamic disk header",
        "Block allocation table",
        "Parent locator 1 (W2ku)",
        "Parent locator 2 (W2ru)",
    ]
    for region in regions:
        assert region.data == whole[region.offset : region.offset + len(region.data)]
        for one in region.fields:
            assert region.offset <= one.offset
            assert one.offset + one.length <= region.offset + len(region.data)
