"""The repair of a damaged footer: which copy, where to, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from disks.engine.changes import HeaderRewrite
from disks.engine.check import check_image
from disks.engine.errors import ImageError
from disks.engine.findings import Level
from disks.engine.formats import open_image
from disks.engine.units import round_up
from disks.operations.pages import PAGE_BYTES
from disks.operations.paths import Roots
from disks.operations.storage_roots import Root
from disks.tests.builders import (
    Built,
    build_differencing,
    build_dynamic,
    build_fixed,
    seven_zip,
    seven_zip_sha256,
)

SIZE = 256 * 1024
BLOCK = 64 * 1024
CONTENT = [(3, b"\xa5" * 1024), (300, b"\x5a" * 512)]


def build(folder: Path, **damage: Any) -> Built:
    return build_dynamic(folder, "disk.vhd", size=SIZE, block_size=BLOCK, content=CONTENT, **damage)


def planned(path: Path) -> HeaderRewrite:
    with Roots([Root(str(path.parent))]).open(str(path)) as file:
        return open_image(file).plan_repair()


def refused(path: Path) -> ImageError:
    before = path.read_bytes()
    with pytest.raises(ImageError) as error:
        planned(path)
    assert path.read_bytes() == before
    return error.value


def carry_out(path: Path) -> HeaderRewrite:
    """Do what the plan says, the plain way."""
    rewrite = planned(path)
    data = bytearray(path.read_bytes())
    old = bytes(data)
    data.extend(bytes(rewrite.size_after_bytes - len(data)))
    for step in rewrite.steps:
        for write in step:
            data[write.offset : write.offset + len(write.data)] = write.data
    assert len(data) == rewrite.size_after_bytes >= len(old)
    path.write_bytes(data)
    return rewrite


def assert_sound(built: Built) -> None:
    with Roots([Root(str(built.path.parent))]).open(str(built.path)) as file:
        assert [one for one in check_image(file, deep=True) if one.level is Level.ERROR] == []
        image = open_image(file)
        assert image.write_refusal is None
        assert image.identity == built.identity
    if seven_zip() is not None:
        assert seven_zip_sha256(built.path) == built.sha256


def wrong_checksum(built: Built) -> None:
    built.patch(built.footer_offset + 64, b"\0\0\0\0")


def lost_cookie(built: Built) -> None:
    built.patch(built.footer_offset, b"\xde\xad\xbe\xef" * 16)


def zeroed(built: Built) -> None:
    built.patch(built.footer_offset, bytes(512))


def wrong_size(built: Built) -> None:
    built.patch(built.footer_offset + 48, b"\x7f")


@pytest.mark.parametrize("damage", [wrong_checksum, lost_cookie, zeroed, wrong_size])
def test_a_damaged_end_footer_is_written_anew_in_its_place(
    tmp_path: Path, damage: Callable[[Built], None]
) -> None:
    """bad-input A4: footer checksum wrong, leading copy right."""
    built = build(tmp_path)
    original = built.path.read_bytes()
    damage(built)
    rewrite = carry_out(built.path)
    assert built.path.read_bytes() == original
    assert rewrite.changes[0].offset == built.footer_offset
    assert_sound(built)


def test_the_plan_names_each_field_that_changes(tmp_path: Path) -> None:
    """bad-input A4."""
    built = build(tmp_path)
    built.patch(built.footer_offset + 48, (SIZE * 2).to_bytes(8))
    rows = {row.field: row for row in planned(built.path).changes}
    assert rows["current_size"].now == f"{SIZE * 2:,}"
    assert rows["current_size"].after == f"{SIZE:,}"
    assert rows["current_size"].offset == built.footer_offset + 48
    assert set(rows) == {"footer at the end", "current_size"}


@pytest.mark.parametrize("front", [{"front_checksum": "wrong"}, {"front_footer": "missing"}])
def test_a_damaged_copy_at_the_beginning_is_taken_from_the_end(
    tmp_path: Path, front: dict[str, str]
) -> None:
    """bad-input A4, the other way round."""
    built = build(tmp_path, **front)
    carry_out(built.path)
    data = built.path.read_bytes()
    assert data[:512] == data[built.footer_offset : built.footer_offset + 512]
    assert_sound(built)


def test_a_missing_end_footer_goes_behind_the_last_byte(tmp_path: Path) -> None:
    """bad-input A6: end footer missing."""
    built = build(tmp_path, end_footer="missing")
    before = built.path.read_bytes()
    rewrite = carry_out(built.path)
    assert rewrite.size_after_bytes == round_up(len(before), PAGE_BYTES) + 512
    assert built.path.read_bytes()[: len(before)] == before
    assert_sound(built)


@pytest.mark.parametrize("count", [512, 700, 3 * 512, 5000])
def test_bytes_that_could_be_data_stay_and_the_footer_goes_behind_them(
    tmp_path: Path, count: int
) -> None:
    """bad-input A6: a block that was appended, but not entered in the table, say."""
    built = build(tmp_path, end_footer="missing", append=b"precious" * (count // 8 + 1))
    with built.path.open("r+b") as file:
        file.truncate(built.footer_offset + count)
    before = built.path.read_bytes()
    carry_out(built.path)
    after = built.path.read_bytes()
    assert after[: len(before)] == before
    assert len(after) == round_up(len(before), PAGE_BYTES) + 512
    assert_sound(built)


def test_a_footer_cut_in_half_gets_a_whole_one_behind_it(tmp_path: Path) -> None:
    """bad-input A6, with a size that is no multiple of 512."""
    built = build(tmp_path)
    with built.path.open("r+b") as file:
        file.truncate(built.footer_offset + 200)
    before = built.path.read_bytes()
    carry_out(built.path)
    assert built.path.read_bytes()[: len(before)] == before
    assert_sound(built)


def test_trailing_bytes_behind_the_footer_stay(tmp_path: Path) -> None:
    """bad-input A28: nothing is cut off; the footer is found again behind them."""
    built = build(tmp_path, append=b"x" * 4096)
    rewrite = carry_out(built.path)
    assert f"at byte {built.footer_offset:,}" in (rewrite.changes[0].now or "")
    assert_sound(built)


def test_a_block_that_looks_like_a_footer_is_not_written_over(tmp_path: Path) -> None:
    """bad-input A6: the last sector of the last block holds a disk's footer, as data."""
    fake = b"conectix" + bytes(504)
    built = build_dynamic(
        tmp_path, "disk.vhd", size=BLOCK, block_size=BLOCK,
        content=[(BLOCK // 512 - 1, fake)], end_footer="missing",
    )  # fmt: skip
    before = built.path.read_bytes()
    assert before[-512:] == fake
    carry_out(built.path)
    assert built.path.read_bytes()[: len(before)] == before
    assert_sound(built)


def test_zeros_at_the_end_of_a_block_are_not_taken_for_a_lost_footer(tmp_path: Path) -> None:
    """bad-input A6: also where the block reaches past the virtual size."""
    for size in (SIZE, SIZE - BLOCK // 2):
        built = build_dynamic(
            tmp_path, "disk.vhd", size=size, block_size=BLOCK,
            allocate=[SIZE // BLOCK - 1], end_footer="missing",
        )  # fmt: skip
        before = built.path.read_bytes()
        carry_out(built.path)
        assert built.path.read_bytes()[: len(before)] == before
        assert_sound(built)


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    """bad-input A27: a new footer would hide that data is lost."""
    built = build(tmp_path)
    with built.path.open("r+b") as file:
        file.truncate(built.footer_offset - 512)
    assert refused(built.path).code == "E_TRUNCATED"


def test_a_lost_parent_locator_is_a_cut_off_file_too(tmp_path: Path) -> None:
    """bad-input A27, for metadata."""
    parent = build_fixed(tmp_path, "base.vhd", size=SIZE)
    child = build_differencing(tmp_path, "disk.vhd", parent, block_size=BLOCK)
    last = max(offset for offset, _ in child.locators.values())
    with child.path.open("r+b") as file:
        file.truncate(last + 4)
    assert refused(child.path).code == "E_TRUNCATED"


def test_two_sound_footers_that_differ_are_left_to_people(tmp_path: Path) -> None:
    """bad-input A5."""
    built = build(tmp_path, front={"unique_id": bytes(range(16))})
    assert refused(built.path).code == "E_FOOTERS_DIFFER"


def test_a_sound_but_different_footer_before_trailing_bytes_is_left_to_people(
    tmp_path: Path,
) -> None:
    """bad-input A5, A28."""
    built = build(tmp_path, front={"unique_id": bytes(range(16))}, append=b"x" * 1024)
    error = refused(built.path)
    assert error.code == "E_FOOTERS_DIFFER"
    assert error.offset == built.footer_offset


def test_a_disk_in_another_tools_journal_is_left_alone(tmp_path: Path) -> None:
    """bad-input A7."""
    built = build(tmp_path)
    built.patch(built.footer_offset, b"v_poison")
    assert refused(built.path).code == "E_FOREIGN_JOURNAL"


def test_sound_disks_and_fixed_disks_have_nothing_to_repair(tmp_path: Path) -> None:
    assert refused(build(tmp_path).path).code == "E_NOTHING_TO_REPAIR"
    fixed = build_fixed(tmp_path, "fixed.vhd", size=SIZE)
    error = refused(fixed.path)
    assert error.code == "E_NOTHING_TO_REPAIR"
    assert "no copy" in error.message
    wrong = build_fixed(tmp_path, "wrong.vhd", size=SIZE, footer_checksum="wrong")
    assert refused(wrong.path).code == "E_FOOTER_CHECKSUM"


def test_a_saved_state_is_no_obstacle_the_content_stays(tmp_path: Path) -> None:
    """bad-input A15 forbids merge and compact; a footer does not change what was saved."""
    built = build(tmp_path, footer={"saved_state": 1}, front={"saved_state": 1})
    zeroed(built)
    carry_out(built.path)
    data = built.path.read_bytes()
    assert data[:512] == data[-512:]


def test_a_damaged_old_footer_of_511_bytes_becomes_a_whole_one(tmp_path: Path) -> None:
    """bad-input A3, A4."""
    built = build(tmp_path, footer_length=511)
    wrong_checksum(built)
    carry_out(built.path)
    assert built.path.stat().st_size == built.footer_offset + 512
    assert_sound(built)
