"""Findings of a VHDX that can be read: one test for each rule that is not in test_vhdx_bad_*."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from disks.engine import chain, formats
from disks.engine.check import check_image, check_link
from disks.engine.vhdx import checksum
from disks.engine.vhdx.guid import guid_bytes, guid_text, new_guid
from disks.tests.builders import (
    MIB,
    SECTOR,
    build_differencing_vhdx,
    build_dynamic_vhdx,
    build_fixed_vhdx,
)
from disks.tests.builders.vhdx_parts import HEADER_AT, sealed
from disks.tests.engine.world import World, examine, open_file

DATA = [(0, b"\1" * 1024), (4095, b"\2" * 1024)]


def test_sound_disks_are_without_findings(tmp_path: Path) -> None:
    for logical in (512, 4096):
        fixed = build_fixed_vhdx(tmp_path, "fixed.vhdx", content=DATA, logical_sector=logical)
        dynamic = build_dynamic_vhdx(tmp_path, "dynamic.vhdx", content=DATA, logical_sector=logical)
        child = build_differencing_vhdx(tmp_path, "child.vhdx", fixed, content=DATA)
        for built in (fixed, dynamic, child):
            assert examine(built.path).findings == []


def test_an_opened_image_is_checked_as_its_file_is(tmp_path: Path) -> None:
    built = build_dynamic_vhdx(
        tmp_path, "a.vhdx", content=DATA, damaged=["header1", "region2"], append=MIB
    )
    built.patch_entry(0, 4)
    with open_file(built.path) as file:
        image = formats.open_image(file)
        opened = formats.by_name("vhdx").check_opened(image)
        assert opened == check_image(file)
        assert {one.code for one in opened} == {
            "W_HEADER_COPY",
            "W_REGION_COPY",
            "E_VHDX_BAT",
            "N_UNUSED_SPACE",
        }


@pytest.mark.parametrize("field", ["data_write_guid", "file_write_guid"])
def test_two_headers_in_a_row_that_name_different_guids(tmp_path: Path, field: str) -> None:
    """Normal for QEMU: each of its two updates makes a new DataWriteGuid."""
    other = {field: uuid.uuid4().bytes_le}
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA, headers={1: other})
    result = examine(built.path)
    if field == "file_write_guid":
        assert result.findings == []  # new on every opening: says nothing
        return
    assert [str(one.level) for one in result.findings] == ["note"]
    finding = result.findings[0]
    assert (finding.field, finding.offset) == ("data_write_guid", HEADER_AT[1] + 32)
    # Further apart they are updates of different times.
    built = build_dynamic_vhdx(
        tmp_path, "b.vhdx", content=DATA, sequences=(5, 11), headers={1: other}
    )
    assert examine(built.path).findings == []


def test_a_chain_has_one_virtual_disk_id(tmp_path: Path) -> None:
    base = build_fixed_vhdx(tmp_path, "base.vhdx")
    for disk_id, codes in ((base.disk_id, []), (uuid.uuid4().bytes_le, ["W_VIRTUAL_DISK_ID"])):
        child = build_differencing_vhdx(tmp_path, "child.vhdx", base, disk_id=disk_id)
        with chain.open_chain(str(child.path), World(tmp_path)) as opened:
            assert opened.images[0].virtual_disk_id == guid_text(disk_id)
            findings = check_link(opened.images[0], opened.images[1])
        assert [one.code for one in findings] == codes
        assert {str(one.level) for one in findings} <= {"warning"}


def test_a_disk_without_a_virtual_disk_id(tmp_path: Path) -> None:
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=DATA, disk_id=bytes(16), items={
        "virtual_disk_id": bytes(16)})  # fmt: skip
    result = examine(built.path)
    assert [(str(one.level), one.field) for one in result.findings] == [
        ("warning", "virtual_disk_id")
    ]


def test_an_empty_partial_block_is_a_note(tmp_path: Path) -> None:
    base = build_fixed_vhdx(tmp_path, "base.vhdx", content=[(0, b"\1" * 4 * MIB)])
    child = build_differencing_vhdx(
        tmp_path, "child.vhdx", base, content=[(0, b"\2" * SECTOR)], states={1: 7}
    )
    assert examine(child.path, deep=False).codes == set()
    result = examine(child.path)
    assert result.codes == {"N_EMPTY_BLOCK"}
    assert result.finding("N_EMPTY_BLOCK").value == 1


def test_bits_beyond_the_size_are_a_warning(tmp_path: Path) -> None:
    """bad-input A24, for VHDX."""
    base = build_fixed_vhdx(tmp_path, "base.vhdx", size=3 * MIB)
    child = build_differencing_vhdx(tmp_path, "child.vhdx", base, content=[(4096, b"\2" * SECTOR)])
    child.patch(child.bitmaps[0] + 512 + 256, b"\xff")
    result = examine(child.path)
    assert result.codes == {"W_BITMAP_BEYOND_SIZE"}
    with chain.open_chain(str(child.path), World(tmp_path)) as opened:
        assert opened.sha256() == child.sha256


def test_properties_say_what_a_person_looks_for(tmp_path: Path) -> None:
    built = build_dynamic_vhdx(
        tmp_path, "a.vhdx", content=DATA, logical_sector=4096, sequences=(2_000_001, 2_000_000)
    )
    result = examine(built.path)
    assert result.image is not None
    shown = dict(result.image.properties())
    assert shown["DataWriteGuid"] == built.identity
    assert shown["Virtual disk id"] == guid_text(built.disk_id)
    assert shown["Logical sector size"] == "4,096 bytes"
    assert shown["Physical sector size"] == "4,096 bytes"
    assert "2,000,001" in shown["Header in use"]
    built.move_into_log(built.table_offset)
    result = examine(built.path)
    assert result.image is not None
    assert "1 " in dict(result.image.properties())["Log"]


def test_raw_regions_label_every_structure(tmp_path: Path) -> None:
    base = build_fixed_vhdx(tmp_path, "base.vhdx")
    child = build_differencing_vhdx(tmp_path, "child.vhdx", base, content=DATA[:1])
    with open_file(child.path) as file:
        regions = formats.open_image(file).raw_regions()
        whole = child.path.read_bytes()
        assert formats.by_name("vhdx").raw_regions(file) == regions
    assert [region.name for region in regions] == [
        "File type identifier",
        "Header 1",
        "Header 2",
        "Region table 1",
        "Region table 2",
        "Block allocation table",
        "Metadata table",
        "File parameters",
        "Virtual disk size",
        "Logical sector size",
        "Physical sector size",
        "Virtual disk id",
        "Parent locator",
    ]
    for region in regions:
        assert len(region.data) <= 4096
        assert region.data == whole[region.offset : region.offset + len(region.data)]
        for one in region.fields:
            assert region.offset <= one.offset
            assert one.offset + one.length <= region.offset + len(region.data)
    values = {one.name: one.value for region in regions for one in region.fields}
    assert values["relative_path"] == ".\\base.vhdx"
    assert values["data_write_guid"] == child.identity


def test_stored_headers_change_with_the_metadata_and_not_with_the_blocks(tmp_path: Path) -> None:
    base = build_fixed_vhdx(tmp_path, "base.vhdx")
    child = build_differencing_vhdx(tmp_path, "child.vhdx", base, content=DATA)
    vhdx = formats.by_name("vhdx")

    def stored() -> tuple[bytes, bytes]:
        with open_file(child.path) as file:
            return formats.open_image(file).stored_headers(), vhdx.header_bytes(file)

    before = stored()
    child.patch(child.blocks[0], b"other data")
    assert stored() == before
    places = [
        (child.strings["relative_path"][0], b"\x2e\0\x2f\0"),
        (HEADER_AT[2] + 16, None),
    ]
    for offset, data in places:
        if data is None:
            child.patch_header(2, file_write_guid=uuid.uuid4().bytes_le)
        else:
            child.patch(offset, data)
        after = stored()
        assert after[0] != before[0]
        assert after[1] != before[1]
        before = after


def test_checksums_agree_with_another_implementation() -> None:
    for data in (b"\0" * 4096, b"x" * 65536, bytes(range(256)) * 3):
        ours = checksum.sealed(data)
        assert ours == sealed(data)
        assert checksum.is_right(ours)
        assert not checksum.is_right(ours[:-1] + b"\7")


def test_guids_are_written_as_windows_writes_them() -> None:
    text = "7584f8fb-36d3-4091-afb5-b1afe587bfa8"
    assert guid_text(guid_bytes(text)) == text
    assert guid_bytes(text).hex() == "fbf88475d3369140afb5b1afe587bfa8"
    for _ in range(100):
        fresh = new_guid()
        known = uuid.UUID(bytes_le=fresh)
        assert (str(known), known.version, known.variant) == (guid_text(fresh), 4, uuid.RFC_4122)
        assert guid_bytes(str(known)) == fresh
    for wrong in ("", "7584f8fb", text + "00", text.replace("a", "g")):
        with pytest.raises(ValueError, match=r"GUID|hexadecimal"):
            guid_bytes(wrong)


def test_what_a_file_that_does_not_open_still_says_of_its_parent(tmp_path: Path) -> None:
    """None where it cannot be told: a merge must not ruin a child that nobody can read."""
    base = build_fixed_vhdx(tmp_path, "base.vhdx")

    def told(path: Path) -> str | None:
        with open_file(path) as file:
            return formats.by_name("vhdx").named_parent(file)

    for content in (b"", b"vhdx", b"x" * 5000):
        (tmp_path / "other").write_bytes(content)
        assert told(tmp_path / "other") == ""
    broken = {"virtual_disk_size": bytes(8)}
    child = build_differencing_vhdx(tmp_path, "child.vhdx", base, items=broken)
    assert examine(child.path).code == "E_SIZE"
    assert told(child.path) == base.identity
    alone = build_dynamic_vhdx(tmp_path, "alone.vhdx", items=broken)
    assert told(alone.path) == ""
    child = build_differencing_vhdx(tmp_path, "child.vhdx", base, items={"parent_locator": None})
    assert told(child.path) is None
    child = build_differencing_vhdx(tmp_path, "child.vhdx", base, damaged=["region1", "region2"])
    assert told(child.path) is None
    child = build_differencing_vhdx(tmp_path, "child.vhdx", base)
    child.move_into_log(child.table_offset)
    assert told(child.path) is None
