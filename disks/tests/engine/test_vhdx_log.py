"""Logs that lie (bad-input C40, C41): replayed as far as they are sound, or refused."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import pytest

from disks.engine import chain, formats
from disks.engine.errors import ImageError
from disks.engine.parent_link import NewParent
from disks.tests.builders import (
    MIB,
    SECTOR,
    BuiltVhdx,
    build_differencing_vhdx,
    build_dynamic_vhdx,
    build_fixed_vhdx,
)
from disks.tests.builders.vhdx_log import PAGE, Entry, Page, Zeros
from disks.tests.builders.vhdx_parts import HEADER_AT
from disks.tests.engine.test_vhdx_bad_fields import opened_error, reads
from disks.tests.engine.world import World, examine, open_file

LENGTH = 2 * PAGE  # of an entry with one page


@pytest.fixture
def built(tmp_path: Path) -> BuiltVhdx:
    """A block of ones, into which entries write pages of other numbers."""
    return build_dynamic_vhdx(tmp_path, "a.vhdx", content=[(0, b"\1" * MIB)])


def page(built: BuiltVhdx, number: int, **row: Any) -> Page:
    """Page `number` of the first block, filled with number + 1."""
    return Page(built.blocks[0] + number * PAGE, bytes([number + 1]) * PAGE, row)


def replayed(built: BuiltVhdx, *numbers: int) -> bool:
    """Whether exactly these pages count."""
    for number in range(1, 16):
        value = number + 1 if number in numbers else 1
        built.model[number * PAGE : (number + 1) * PAGE] = bytes([value]) * PAGE
    return reads(built)


def entries(built: BuiltVhdx, count: int) -> list[Entry]:
    return [Entry([page(built, number)]) for number in range(1, count + 1)]


# C40


def test_c40_nothing_is_written_before_the_log_is_replayed(tmp_path: Path) -> None:
    base = build_fixed_vhdx(tmp_path, "base.vhdx")
    child = build_differencing_vhdx(tmp_path, "child.vhdx", base, content=[(0, b"\1" * SECTOR)])
    child.move_into_log(child.table_offset)
    result = examine(child.path)
    assert [(str(one.level), one.code) for one in result.findings] == [("warning", "W_LOG")]
    finding = result.finding("W_LOG")
    assert (finding.field, finding.offset) == ("log_guid", HEADER_AT[child.current] + 48)
    assert result.image is not None
    refusal = result.image.write_refusal
    assert refusal is not None
    assert refusal.code == "E_LOG"
    with pytest.raises(ImageError) as caught:
        result.image.plan_parent_link(NewParent(base.identity, "b.vhdx", ".\\b.vhdx", None))
    assert caught.value.code == "E_LOG"
    with pytest.raises(ImageError) as caught:
        result.image.plan_repair()
    assert caught.value.code == "E_LOG"


def test_c40_a_missing_log_guid_in_the_current_header_means_no_log(built: BuiltVhdx) -> None:
    """Entries that lie in the log's place are over and done."""
    built.write_log(entries(built, 3))
    built.patch_header(built.current, log_guid=bytes(16))
    assert examine(built.path).errors == set()
    assert replayed(built)


# C41: the log's place


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("log_length", 0, "log_length"),
        ("log_length", 4096, "log_length"),
        ("log_length", MIB + 4096, "log_length"),
        ("log_length", 2**32 - 1, "log_length"),
        ("log_length", 0xFFF00000, "log_offset"),  # past the end of the file
        ("log_length", 512 * MIB, "log_offset"),
        ("log_offset", 0, "log_offset"),
        ("log_offset", 64 * 1024, "log_offset"),
        ("log_offset", MIB + 4096, "log_offset"),
        ("log_offset", 2**40, "log_offset"),
        ("log_offset", 2**63, "log_offset"),
        ("log_offset", 2**64 - MIB, "log_offset"),
        ("log_version", 1, "log_version"),
    ],
)
def test_c41_a_log_at_an_impossible_place(
    built: BuiltVhdx, field: str, value: int, told: str
) -> None:
    built.write_log(entries(built, 1))
    for which in (1, 2):
        built.patch_header(which, **{field: value})
    error = opened_error(built)
    places = {"log_version": 64, "log_length": 68, "log_offset": 72}
    assert (error.code, error.field) == ("E_VHDX_LOG", told)
    assert error.offset == HEADER_AT[built.current] + places[told]
    assert error.value == (value if field == told else built.log_offset)


@pytest.mark.parametrize(("field", "value"), [("log_offset", 0), ("log_length", MIB + 512)])
def test_c41_a_log_that_is_empty_but_misplaced_forbids_writing(
    built: BuiltVhdx, field: str, value: int
) -> None:
    for which in (1, 2):
        built.patch_header(which, **{field: value})
    result = examine(built.path)
    assert result.errors == {"E_VHDX_LOG"}
    finding = result.finding("E_VHDX_LOG")
    assert (finding.field, finding.value) == (field, value)
    assert result.image is not None
    refusal = result.image.write_refusal
    assert refusal is not None
    assert refusal.code == "E_VHDX_LOG"
    assert reads(built)


def test_c41_no_log_at_all_is_legal_as_long_as_it_is_empty(built: BuiltVhdx) -> None:
    """Its length may be 0 where the LogGuid is."""
    for offset in (0, built.table_offset + 4096):
        for which in (1, 2):
            built.patch_header(which, log_length=0, log_offset=offset)
        result = examine(built.path)
        assert result.errors == set()
        assert reads(built)


def test_c41_a_log_of_no_length_hides_nothing_that_blocks_lie_over(tmp_path: Path) -> None:
    nowhere = {"log_length": 0, "log_offset": 3 * MIB + 4096}  # inside of the table's region
    built = build_dynamic_vhdx(
        tmp_path, "a.vhdx", content=[(0, b"\1" * 512)], bat_bytes=4 * MIB,
        headers={1: nowhere, 2: nowhere},
    )  # fmt: skip
    built.patch_entry(1, 6, built.table_offset + 2 * MIB)
    assert examine(built.path).errors == {"E_VHDX_BAT"}


def test_c41_the_version_of_an_empty_log_does_not_matter(built: BuiltVhdx) -> None:
    for which in (1, 2):
        built.patch_header(which, log_version=7)
    assert examine(built.path).errors == set()


def test_c41_a_log_over_a_region_is_refused(tmp_path: Path) -> None:
    for wrong in ({"log_offset": 2 * MIB}, {"log_offset": 3 * MIB}, {"log_length": 2 * MIB}):
        built = build_dynamic_vhdx(tmp_path, "a.vhdx", headers={1: wrong, 2: wrong})
        error = opened_error(built)
        assert (error.code, error.field) == ("E_VHDX_REGION", "file_offset")
        assert error.value in (2 * MIB, 3 * MIB)
        assert "the log" in error.message


# C41: entries


def test_c41_a_torn_last_entry_is_dropped(built: BuiltVhdx) -> None:
    torn = Entry([page(built, number) for number in (3, 4, 5)], damage="torn")
    built.write_log([*entries(built, 2), torn])
    assert examine(built.path).codes == {"W_LOG"}
    assert replayed(built, 1, 2)


@pytest.mark.parametrize(
    "damage",
    [
        {"damage": "crc"},
        {"damage": "data"},
        {"sequence": 9},
        {"guid": b"\7" * 16},
        {"fields": {"signature": b"logE"}},
        {"fields": {"entry_length": 0}},
        {"fields": {"entry_length": PAGE}},
        {"fields": {"entry_length": 3 * PAGE}},
        {"fields": {"entry_length": LENGTH + 512}},
        {"fields": {"entry_length": 2 * MIB}},
        {"fields": {"entry_length": 2**32 - 1}},
        {"fields": {"entry_length": 2**32 - PAGE}},
        {"fields": {"descriptor_count": 2}},
        {"fields": {"descriptor_count": 127}},
        {"fields": {"descriptor_count": 2**32 - 1}},
        {"tail": 100},
        {"tail": MIB},
        {"tail": 2**32 - PAGE},
        {"flushed": 512},
        {"last": MIB + 512},
    ],
    ids=str,
)
def test_c41_a_bad_entry_ends_the_replay(built: BuiltVhdx, damage: dict[str, Any]) -> None:
    """QEMU 3860 among them: a descriptor count of 2^32 - 1."""
    bad = Entry([page(built, 3)], **damage)
    built.write_log([*entries(built, 2), bad, Entry([page(built, 5)])], first_sequence=4)
    assert examine(built.path).codes == {"W_LOG"}
    assert replayed(built, 1, 2)


@pytest.mark.parametrize(
    "change",
    [
        Page(0, b"\7" * PAGE),
        Page(64 * 1024, b"\7" * PAGE),
        Page(128 * 1024, b"\7" * PAGE),
        Page(192 * 1024 - PAGE, b"\7" * PAGE),
        Page(MIB, b"\7" * PAGE),
        Page(2 * MIB - PAGE, b"\7" * PAGE),
        Page(4 * MIB + 512, b"\7" * PAGE),
        Page(2**63, b"\7" * PAGE),
        Page(2**64 - PAGE, b"\7" * PAGE),
        Zeros(0, PAGE),
        Zeros(MIB - PAGE, 2 * PAGE),
        Zeros(4 * MIB, 512),
        Zeros(4 * MIB, 0),
        Zeros(4 * MIB, 2**64 - PAGE),
        Zeros(4 * MIB, 2**63),
        Page(4 * MIB, b"\7" * PAGE, {"sequence_number": 1}),
        Page(4 * MIB, b"\7" * PAGE, {"signature": b"dEsc"}),
        Page(4 * MIB, b"\7" * PAGE, {}, {"signature": b"Data"}),
        Page(4 * MIB, b"\7" * PAGE, {}, {"high": 1}),
        Zeros(4 * MIB, PAGE, {"sequence_number": 99}),
    ],
    ids=str,
)
def test_c41_no_entry_writes_where_it_must_not(built: BuiltVhdx, change: Page | Zeros) -> None:
    """Never over the headers or the log itself, never in pieces of a page."""
    built.write_log([*entries(built, 2), Entry([page(built, 3), change])], first_sequence=4)
    assert examine(built.path).codes == {"W_LOG"}
    assert replayed(built, 1, 2)


def test_c41_a_gap_in_the_sequence_ends_it(built: BuiltVhdx) -> None:
    log = entries(built, 4)
    log[2].sequence = 8
    built.write_log(log, first_sequence=5)
    # The entries behind the gap have a tail before it: they are no sequence of their own.
    assert replayed(built, 1, 2)


@pytest.mark.parametrize("damage", ["crc", "torn", "data"])
def test_c41_a_log_without_a_sound_entry_is_refused(built: BuiltVhdx, damage: str) -> None:
    """QEMU reads on as if there were no log: what it held would be lost unseen."""
    built.write_log([Entry([page(built, 1), page(built, 2)], damage=damage)])
    error = opened_error(built)
    assert error.code == "E_VHDX_LOG"
    assert error.offset == built.log_offset
    assert error.value is not None


def test_c41_an_empty_ring_with_a_log_guid_is_refused(built: BuiltVhdx) -> None:
    built.write_log([])
    assert opened_error(built).code == "E_VHDX_LOG"


def test_c41_a_damaged_oldest_entry_leaves_no_sequence(built: BuiltVhdx) -> None:
    """The others' tail is not among them: what it held is missing, so none is applied."""
    log = entries(built, 3)
    log[0].damage = "crc"
    built.write_log(log)
    assert opened_error(built).code == "E_VHDX_LOG"


def test_c41_sequence_numbers_start_at_one(built: BuiltVhdx) -> None:
    built.write_log(entries(built, 1), first_sequence=0)
    assert opened_error(built).code == "E_VHDX_LOG"


def test_c41_the_highest_sequence_numbers(built: BuiltVhdx) -> None:
    built.write_log(entries(built, 2), first_sequence=2**64 - 2)
    assert replayed(built, 1, 2)


def test_c41_a_file_that_was_cut_off_since(built: BuiltVhdx) -> None:
    """The head's FlushedFileOffset says how long the file was."""
    size = built.path.stat().st_size
    log = entries(built, 2)
    log[1].flushed = size + MIB
    built.write_log(log)
    error = opened_error(built)
    assert (error.code, error.field, error.value) == (
        "E_TRUNCATED",
        "flushed_file_offset",
        size + MIB,
    )
    assert error.offset == built.log_offset + LENGTH + 48


@pytest.mark.parametrize("last", [2**40, 2**63, 2**64 - MIB])
def test_c41_a_log_that_wants_an_enormous_file(built: BuiltVhdx, last: int) -> None:
    log = entries(built, 1)
    log[0].last = last
    built.write_log(log)
    error = opened_error(built)
    assert error.code == "E_VHDX_LOG"


def test_c41_a_log_of_nothing_but_heads_costs_little(tmp_path: Path) -> None:
    """Every page looks like the head of an entry as long as the whole log."""
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", log_bytes=16 * MIB, content=[(0, b"\1" * MIB)])
    guid = built.write_log(entries(built, 1))
    head = bytearray(built.read(built.log_offset, 64))
    struct.pack_into("<I", head, 8, 16 * MIB)
    struct.pack_into("<I", head, 24, 0)
    log = (bytes(head) + bytes(PAGE - 64)) * (16 * MIB // PAGE)
    built.patch(built.log_offset, log)
    assert guid in log
    started = time.process_time()
    with pytest.raises(ImageError) as caught:
        formats.open_image(open_file(built.path))
    assert caught.value.code == "E_VHDX_LOG"
    assert time.process_time() - started < 2


def test_c41_a_ring_that_is_full_of_entries(tmp_path: Path) -> None:
    """The longest log of the kind that Windows makes: 128 entries, twice round by numbers."""
    built = build_dynamic_vhdx(tmp_path, "a.vhdx", content=[(0, b"\1" * MIB)])
    log = [Entry([page(built, 1 + number % 15)]) for number in range(128)]
    built.write_log(log, at=64 * PAGE)
    assert replayed(built, *range(1, 16))


def test_c41_a_dirty_log_under_damaged_structures(built: BuiltVhdx) -> None:
    """Broken region tables that the log mends are sound."""
    at = 192 * 1024
    pages = [
        Page(at + offset, built.read(at + offset, PAGE)) for offset in range(0, 128 * 1024, PAGE)
    ]
    built.patch(at, b"\xaa" * 128 * 1024)
    assert opened_error(built).code == "E_VHDX_REGION"
    built.write_log([Entry(pages)])
    assert examine(built.path).codes == {"W_LOG"}
    assert replayed(built)


def test_a_log_of_a_chain_is_never_read_around(tmp_path: Path) -> None:
    """A parent whose log is lost makes its children unreadable, not wrong."""
    base = build_dynamic_vhdx(tmp_path, "base.vhdx", content=[(0, b"\1" * MIB)])
    child = build_differencing_vhdx(tmp_path, "child.vhdx", base)
    base.write_log([Entry([page(base, 1)], damage="crc")])
    with pytest.raises(ImageError) as caught:
        chain.open_chain(str(child.path), World(tmp_path))
    assert caught.value.code == "E_PARENT_UNREADABLE"
    assert "log" in caught.value.message


def test_c41_more_updates_than_any_writer_makes_are_refused_at_once(built: BuiltVhdx) -> None:
    """Each look at the disk, so each scan, would have to go through them."""
    many = [Zeros(built.blocks[0] + 8 * PAGE * number, PAGE) for number in range(20_000, 0, -1)]
    built.write_log([Entry(many)])
    started = time.process_time()
    error = opened_error(built)
    assert error.code == "E_VHDX_LOG"
    assert time.process_time() - started < 2


def test_c41_an_older_update_behind_the_last_size_can_be_replayed(built: BuiltVhdx) -> None:
    """What opens as readable must not fail when it is written into the file."""
    end = built.path.stat().st_size
    far = Entry([Page(end + 4 * MIB, b"\7" * PAGE)], last=end + 8 * MIB)
    near = Entry([page(built, 1)], last=end)
    built.write_log([far, near])
    with open_file(built.path, writable=True) as file:
        formats.open_image(file).replay_log()
    with open_file(built.path) as file:
        assert not formats.open_image(file).log_waits
        assert file.read_at(end + 4 * MIB, PAGE) == b"\7" * PAGE
